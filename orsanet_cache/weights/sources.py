"""The published weights: purpose, origin, licence and digest of each file.

Files are identified by their SHA-256, not by their place. So a mirror, a colleague's copy and a
renamed file are recognised too.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orsanet_cache.errors import OrsanetError
from orsanet_cache.reading import open_regular

Name = Literal["segface", "mobilefacenet", "ir50"]


@dataclass(frozen=True)
class HubFile:
    """A file of the Hugging Face hub. `revision` may be a branch: the digest fixes the content."""

    repository: str
    path: str
    revision: str = "main"


@dataclass(frozen=True)
class Source:
    """One published weights file."""

    network: str
    file_name: str  # the authors' name, also used in the weights folder
    title: str
    purpose: str
    licence: str
    origin: str  # a page for people
    about: str  # its size, for people
    sha256: str
    size: int | None = None  # bytes, if known exactly
    at_most: int | None = None  # bytes, if the size is not known exactly
    hub: HubFile | None = None
    instructions: str = ""  # for a download by hand, if the file is not on the hub
    digest_is_the_authors: bool = True  # False: of a copy, so another digest need not be wrong


@dataclass(frozen=True)
class Fingerprint:
    """Distinguishes files: size in bytes, SHA-256 in hexadecimal digits."""

    size: int
    sha256: str


SOURCES: dict[Name, Source] = {
    "segface": Source(
        network="SegFace",
        file_name="model_299.pt",
        title="SegFace Swin-B, LaPa, 224 pixels",
        purpose="segmentation prior: orsanet-cache build --segmenter",
        licence="MIT",
        origin="https://huggingface.co/kartiknarayan/SegFace",
        about="1.09 GB",
        at_most=1_200_000_000,
        sha256="b9fb677ad3d7438d66a4c5811762b66838ccab5d468f3993a64ffd2c2fc5e0f6",
        hub=HubFile("kartiknarayan/SegFace", "swinb_lapa_224/model_299.pt"),
    ),
    "mobilefacenet": Source(
        network="MobileFaceNet",
        file_name="mobilefacenet_model_best.pth.tar",
        title="MobileFaceNet, 68 landmarks",
        purpose="landmark prior: orsanet-cache build --landmarks",
        licence="none stated by its author (github.com/cunjian/pytorch_face_landmark), who asks to be acknowledged",
        origin="https://huggingface.co/py-feat/mobilefacenet",
        about="12.3 MB",
        size=12_281_146,
        sha256="b994af026bfddbafc507a6f1c8737a9896bab20ed2b0cfb6ae90b81736970313",
        hub=HubFile("py-feat/mobilefacenet", "mobilefacenet_model_best.pth.tar"),
    ),
    "ir50": Source(
        network="IR50",
        file_name="ir50.pth",
        title="IR50, face recognition",
        purpose="initial weights of the backbone: orsanet-train run --ir50",
        licence="none stated for the weights (POSTER's code: LICENSE is Apache-2.0, its README says MIT)",
        origin="https://github.com/zczcwh/FER_POSTER",
        about="122 MB",
        size=122_022_895,
        sha256="62fcfa833776648f818b15fac4f5b760d76847316097e8e046f77ac445defb75",
        instructions="POSTER's authors share it in a folder that a browser must open, linked in their README under pretrained "
        "weights: https://drive.google.com/drive/folders/1X9pE-NmyRwvBGpVzJOEvLqRPRfk_Siwq, pretrain/ir50.pth",
        digest_is_the_authors=False,
    ),
}


def default_folder() -> Path:
    """Return the default folder: orsanet/weights in $XDG_CACHE_HOME, or else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orsanet" / "weights"


def fingerprint(path: Path) -> Fingerprint:
    """Return size and SHA-256 of a file. Raises OrsanetError if it cannot be read."""
    try:
        with open(open_regular(path), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return Fingerprint(file.tell(), digest)
    except OSError as error:
        raise OrsanetError(f"{path}: cannot be read ({error.strerror or error})") from error


def difference(found: Fingerprint, source: Source) -> str | None:
    """Return the difference from the published file, in words, or None if it is the same file."""
    if found.sha256 == source.sha256:
        return None
    parts = [f"its SHA-256 is {found.sha256}, not {source.sha256}"]
    if source.size is not None and found.size != source.size:
        parts.insert(0, f"it has {found.size:,} bytes, not {source.size:,}")
    return " and ".join(parts)
