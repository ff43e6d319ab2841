"""Disk space of a build: a check before it starts, and the errors when a write fails."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from orsanet_cache.errors import OrsanetError, UnreachableError
from orsanet_cache.paths import Place, Url
from orsanet_cache.store.schema import Field

# Disk space of a compressed field as a share of its raw bytes: zstd reaches 40x on real
# segmentation maps, 2x on noise.
COMPRESSED_SHARE = 0.25
FREE_SPACE_MARGIN = 1.05


def bytes_needed(rows: int, fields: Sequence[Field]) -> int:
    """Estimated bytes on disk of `rows` rows. A row is one image in one view."""
    return rows * int(sum(field.row_bytes * (COMPRESSED_SHARE if field.compressed else 1) for field in fields))


def check_disk(out: Place, needed: int) -> None:
    """Raises OrsanetError if the disk has less free space than needed. An object store does not tell how much it has."""
    if isinstance(out, Url):
        return
    folder = next(parent for parent in (out.absolute(), *out.absolute().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if needed * FREE_SPACE_MARGIN > free:
        raise OrsanetError(
            f"{out}: the store needs about {needed / 1e9:.2f} GB more, {free / 1e9:.2f} GB are free there; "
            f"free some space or choose another --out"
        )


@contextmanager
def explained(out: Place) -> Iterator[None]:
    """Turn an OSError inside the block into an OrsanetError: the store cannot be written."""
    try:
        yield
    except UnreachableError:  # has a sentence
        raise
    except OSError as error:
        raise OrsanetError(
            f"{out}: cannot be written ({error.strerror or error}); finished units are safe: fix the cause and run the same command again"
        ) from error


@contextmanager
def what_is_safe(out: Place, safe: int, total: int, fields: Sequence[Field]) -> Iterator[None]:
    """Turn an OSError inside the block into an OrsanetError.

    The error states how many views are safe and how much space the others need.
    """
    try:
        yield
    except UnreachableError as error:
        raise OrsanetError(f"{error}; {safe:,} of {total:,} views are safe") from error
    except OSError as error:
        raise OrsanetError(
            f"{out}: cannot be written ({error.strerror or error}); {safe:,} of {total:,} views are safe, the others need about "
            f"{bytes_needed(total - safe, fields) / 1e9:.2f} GB more; free some space and run the same command again"
        ) from error
