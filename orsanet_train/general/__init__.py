"""DARELoss beyond faces: the networks and data of the paper's Tables 7 and 8, with and without the loss."""
