"""Pictures in CIFAR-10's layout: the published files through torchvision, the demo's with a reader of our own.

    cifar-10-batches-py/data_batch_1 … 5, test_batch    pickles of data uint8 [n, 3072] and labels
    cifar-10-batches-py/batches.meta                    a pickle of the class names

A pickle can run any code when it is read. torchvision reads those whose MD5 is the published one,
and no others. The demo's pictures have other digests, so their files are read by an unpickler that
knows arrays and plain values alone; a card in the folder tells them from a damaged download.
"""

import hashlib
import io
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import CIFAR10

from orsanet_cache.errors import OrsanetError, few, refuse_shortage
from orsanet_cache.reading import read_limited

FOLDER = "cifar-10-batches-py"
CARD = "demo-pictures.json"  # written by `orsanet-train dare demo-data`
BATCHES, TEST, META = tuple(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"
SIDE = 32
MAX_BYTES = 256 * 1024**2  # of a file: the published ones have 31 MB
WHERE = (
    "download cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html, unpack it, and pass the folder "
    f"{FOLDER} with data_batch_1 … data_batch_5, test_batch and batches.meta"
)
# What pickled arrays of NumPy are made of, under its names before and since 2.0.
_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"),
    ("numpy", "dtype"), ("_codecs", "encode"),
}  # fmt: skip


@dataclass(frozen=True)
class Pictures:
    """Training and test pictures, uint8 [n, 32, 32, 3] RGB, and their labels int64 [n]."""

    train: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    classes: tuple[str, ...]
    published: bool  # whether they are CIFAR-10, by the digests of its files

    def sha256(self) -> str:
        """Of everything that a training sees."""
        digest = hashlib.sha256()
        for array in (self.train, self.train_labels, self.test, self.test_labels):
            digest.update(f"{array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def read_pictures(folder: Path) -> Pictures:
    """Read CIFAR-10, or the demo's pictures, from `cifar-10-batches-py` or the folder around it.

    Raises OrsanetError where files are absent, where they are neither the published ones nor the
    demo's, and for demo files of another layout.
    """
    if (folder / FOLDER).is_dir():
        folder = folder / FOLDER
    if not folder.is_dir():
        packed = folder if folder.name.endswith((".tar.gz", ".tgz")) else folder.parent / "cifar-10-python.tar.gz"
        if packed.is_file():
            raise OrsanetError(f"{packed}: still packed; unpack it (tar xzf) and pass the folder {FOLDER}")
        raise OrsanetError(f"{folder}: no folder with CIFAR-10; {WHERE}")
    names = (*BATCHES, TEST, META)
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise OrsanetError(f"{folder}: lacks {few(absent, 7)} of CIFAR-10's files; {WHERE}")
    if (folder / CARD).is_file():
        return _demo(folder)
    published = dict([*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])])
    if other := [name for name in names if _md5(folder / name) != published[name]]:
        raise OrsanetError(
            f"{folder}: {few(other, 7)} differ from the published files (MD5), so the download is damaged or they are other "
            f"pictures; {WHERE}"
        )
    return _cifar10(folder)


def _md5(path: Path) -> str:
    return hashlib.md5(_content(path), usedforsecurity=False).hexdigest()


def _content(path: Path) -> bytes:
    try:
        return read_limited(path, MAX_BYTES)
    except OSError as error:
        refuse_shortage(error, path)
        raise OrsanetError(f"{path}: cannot be read ({error.strerror or error}); {WHERE}") from error


def _cifar10(folder: Path) -> Pictures:
    """The published files, which torchvision checks again before it reads them."""

    class Here(CIFAR10):  # type: ignore[misc]  # torchvision has no types
        base_folder = folder.name  # torchvision asks for the folder above, and for this name of it

    root = folder.resolve().parent
    with warnings.catch_warnings():
        # The files are of NumPy's first years, whose types are written in a way that NumPy 2.4 warns of.
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        train, test = Here(root, train=True), Here(root, train=False)
    return Pictures(
        train.data, np.array(train.targets, np.int64), test.data, np.array(test.targets, np.int64), tuple(train.classes), True
    )  # fmt: skip


def _demo(folder: Path) -> Pictures:
    classes = _value(
        folder / META, "label_names", lambda names: isinstance(names, list) and len(names) >= 2, "class names"
    )
    parts = [_batch(folder / name, len(classes)) for name in BATCHES]
    test, test_labels = _batch(folder / TEST, len(classes))
    train, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Pictures(train, labels, test, test_labels, tuple(map(str, classes)), False)


def _batch(path: Path, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures [n, 32, 32, 3] and labels [n] of a file."""
    planes = _value(
        path, "data",
        lambda data: isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2 and data.shape[1] == 3 * SIDE**2,
        f"uint8 [n, {3 * SIDE**2}]: red, green and blue planes of {SIDE} x {SIDE} pixels, rows first",
    )  # fmt: skip
    labels = _value(
        path, "labels",
        lambda labels: isinstance(labels, list) and all(type(one) is int and 0 <= one < classes for one in labels),
        f"whole numbers from 0 to {classes - 1}",
    )  # fmt: skip
    if len(labels) != len(planes):
        raise OrsanetError(f"{path}: {len(planes):,} pictures and {len(labels):,} labels; draw the pictures again")
    pictures = planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pictures), np.array(labels, np.int64)


def _value(path: Path, key: str, fits: Callable[[Any], bool], what: str) -> Any:
    """A value of a pickled dictionary. Raises OrsanetError unless it is there and fits."""
    try:
        content = _Plain(io.BytesIO(_content(path)), encoding="latin1").load()
        value = content[key]
    except (pickle.UnpicklingError, ValueError, TypeError, KeyError, IndexError, EOFError, AttributeError) as error:
        raise OrsanetError(
            f"{path}: has no readable '{key}' ({' '.join(str(error).split()) or type(error).__name__}); draw the pictures again"
        ) from error
    if not fits(value):
        found = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
        raise OrsanetError(f"{path}: '{key}' must be {what}, not {found}; draw the pictures again")
    return value


class _Plain(pickle.Unpickler):
    """Reads arrays and plain values, and refuses whatever could act."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no picture needs")
        return super().find_class(module, name)
