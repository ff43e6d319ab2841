"""Formats of picture files: which are read, and what to do with the others.

A file is judged by its suffix while folders are listed, and by its first bytes when it is read.
"""

from pathlib import PurePosixPath

# JPEG also under the names that browsers and old programs give it.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".png", ".webp", ".bmp", ".tif", ".tiff")
_UNREAD = frozenset(
    {
        ".apng", ".arw", ".avif", ".cr2", ".cr3", ".dng", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jp2", ".jxl", ".nef",
        ".orf", ".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".raf", ".rw2", ".svg", ".tga",
    }
)  # fmt: skip
_ANIMATIONS = {".gif", ".apng"}
_SIGNATURES = (
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
)
# Of ISO media files, the more precise names first: a file states several.
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIF"}


def is_picture(name: str) -> bool:
    """Return whether the suffix is that of a format that is read."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def unread_by_suffix(name: str) -> str:
    """Return why a picture of that name is not read, and what to do; empty for every other name."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in _UNREAD:
        return ""
    if suffix in _ANIMATIONS:
        return f"{suffix} is not read, as it may be an animation; save the frame that you mean as PNG"
    return f"{suffix} is not read; save these pictures as PNG or JPEG"


def unread_by_content(data: bytes) -> str:
    """Return why a picture with these bytes is not read, and what to do; empty for other content."""
    kind = next((kind for signature, kind in _SIGNATURES if data.startswith(signature)), "")
    if data[4:8] == b"ftyp":
        kind = next((kind for brand, kind in _BRANDS.items() if brand in data[8:40]), "")
    if kind == "GIF":
        return "a GIF, which is not read as it may be an animation: save the frame that you mean as PNG"
    return f"a picture in the format {kind}, which is not read: save it as PNG or JPEG" if kind else ""
