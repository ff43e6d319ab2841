"""The images that a run knows by their digests: those it trained on, and those that chose its epoch.

A weights file has them in its header, so an evaluation recognises these images under any name of
manifest, split and file. An image that was encoded again is another one.

    image digests of the store, [N, 32] ─ first 8 bytes, sorted ─ base64 ─▶ 11 characters an image
"""

import base64
import hashlib
from collections.abc import Iterable
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict

KEPT_BYTES = 8  # of a digest: two of a million images are alike by chance once in 40 million data sets


def _decoded(text: str) -> NDArray[np.uint64]:
    """The digests of a set. Raises ValueError (binascii.Error) for any other text."""
    return np.frombuffer(base64.b64decode(text, validate=True), ">u8")


def _encoded(digests: Iterable[NDArray[np.uint8]]) -> str:
    kept = [_kept(part) for part in digests]
    return base64.b64encode(np.unique(np.concatenate(kept)).astype(">u8").tobytes()).decode()


def _kept(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Digests [N, 32] -> their first bytes as numbers [N]."""
    return np.ascontiguousarray(digests[:, :KEPT_BYTES]).view(">u8").reshape(-1)


def _checked(text: str) -> str:
    _decoded(text)
    return text


ImageSet = Annotated[str, AfterValidator(_checked)]


class KnownImages(BaseModel):
    """The images that a run trained on, and those whose accuracy chose its best epoch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    training: ImageSet
    selection: ImageSet

    @classmethod
    def of(cls, training: Iterable[NDArray[np.uint8]], selection: Iterable[NDArray[np.uint8]]) -> Self:
        """From the SHA-256 of the image files, arrays of uint8 [N, 32]."""
        return cls(training=_encoded(training), selection=_encoded(selection))

    def trained(self, digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which of the images with these digests, [N, 32], the run trained on."""
        return np.isin(_kept(digests), _decoded(self.training))

    def chose(self, digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which of the images with these digests, [N, 32], chose the run's best epoch."""
        return np.isin(_kept(digests), _decoded(self.selection))

    @property
    def sha256(self) -> str:
        """Identifies both sets."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
