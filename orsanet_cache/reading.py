"""Files that somebody else may have made: only regular ones, of a limited size, below their folder.

    name read from a file ─ below ─▶ path ─ open_regular ─▶ descriptor ─ read_limited ─▶ bytes ─ json_of, array_of ─▶ values

A pipe or a device is refused without being opened. The functions raise OSError or ValueError with a
reason; their callers add the file, where the reason lacks it, and what to do.
"""

import io
import json
import math
import os
import stat
from contextlib import suppress
from errno import EFBIG, EINVAL, EISDIR
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_TABLE_BYTES = 512 * 1024**2  # of a CSV table: millions of rows
MAX_SETTINGS_BYTES = 16 * 1024**2  # of a TOML file
MAX_JSON_BYTES = 64 * 1024**2
MAX_NESTING = 64  # of JSON: more than any file of this package has, and few enough for every recursive function


class NotRegularError(OSError):
    """A pipe, a device or a socket."""


def below(folder: Path, name: str) -> Path:
    """The path of `name` in `folder`, for a name that was read from a file.

    Nothing is opened. Raises ValueError if the name leads out of the folder: if it is absolute, has
    "..", or is a link to something outside.
    """
    path = folder / name
    root, target = os.path.realpath(folder), os.path.realpath(path)  # ValueError for a NUL
    if Path(name).is_absolute() or ".." in Path(name).parts or os.path.commonpath([root, target]) != root:
        raise ValueError(f"{name!r} leads out of the folder {folder}")
    return path


def matching(folder: Path, pattern: str) -> list[Path]:
    """What matches a pattern in a folder from which another process may be deleting, in order."""
    while True:
        with suppress(FileNotFoundError):  # a folder that was deleted during the search
            return sorted(folder.glob(pattern))


def open_regular(path: str | os.PathLike[str]) -> int:
    """Open a regular file for reading -> descriptor.

    Raises OSError for anything else. A pipe would wait for its writer, and a device may act when it
    is opened, so neither is opened.
    """
    status = os.stat(path)
    if stat.S_ISREG(status.st_mode):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):  # the file may have been exchanged meanwhile
            return descriptor
        os.close(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR), os.fspath(path))
    raise NotRegularError(EINVAL, "not a regular file", os.fspath(path))


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raises OSError unless `path` is a readable regular file; before a library opens it by name."""
    os.close(open_regular(path))


def read_limited(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a regular file.

    Raises OSError if it cannot be read, is not a regular file, or has more than `limit` bytes.
    """
    with open(open_regular(path), "rb", buffering=0) as file:
        if (size := os.fstat(file.fileno()).st_size) > limit:
            raise OSError(EFBIG, f"{size:,} bytes, more than the {limit:,} that such a file may have", os.fspath(path))
        return file.readall()


def json_of(content: bytes) -> Any:
    """The value of JSON text.

    Raises ValueError for any other text, for values nested deeper than MAX_NESTING, and for numbers
    that are not finite.
    """
    try:
        value = json.loads(content, parse_constant=_not_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("not JSON that this program writes: nested too deeply") from error
    level, depth = [value], 0
    while level := [inner for outer in level for inner in _inner(outer)]:
        depth += 1
        if depth > MAX_NESTING:
            raise ValueError("not JSON that this program writes: nested too deeply")
    return value


def _inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _not_finite(text: str) -> float:
    raise ValueError(f"not JSON that this program writes: the number {text}")


def _finite(text: str) -> float:
    return number if math.isfinite(number := float(text)) else _not_finite(text)


def array_of(content: bytes) -> "NDArray[Any]":
    """The array of an .npy file's content.

    Raises ValueError for any other content, for an array of Python objects, and for a header that
    announces another size than the content has: NumPy would allocate what the header announces.
    """
    import numpy as np  # here, so that reading a configuration does not load it
    from numpy.lib import format as npy

    file = io.BytesIO(content)
    try:
        version = npy.read_magic(file)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = read_header(file)
    except Exception as error:  # NumPy's parser of the header raises nearly every type for hostile text
        raise ValueError("not a plain NumPy array") from error
    if dtype.hasobject or any(size < 0 for size in shape):
        raise ValueError("not a plain NumPy array")
    announced, there = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
    if announced != there:
        raise ValueError(f"its header announces {announced:,} bytes of values, but it has {there:,}")
    values = np.frombuffer(content, dtype, offset=file.tell())
    return values.reshape(shape, order="F" if fortran else "C").copy()  # writable
