"""What goes in: the manifest of a data set, its pictures decoded, the views of a picture, faces found and cropped. No torch."""
