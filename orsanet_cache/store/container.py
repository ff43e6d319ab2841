"""A store's container: a Zarr folder, on this machine or in an object store, or an HDF5 file.

It is opened only if its root has this package's mark.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from orsanet_cache.errors import OrsanetError, refuse_shortage
from orsanet_cache.paths import Place, Url
from orsanet_cache.places.copies import Cache, CacheSettings, Passing
from orsanet_cache.store.recipe import as_json
from orsanet_cache.store.rows import MAX_ROWS_PER_SHARD, Checksums, Rows
from orsanet_cache.store.schema import GROWN_SCHEMA, MARK, SCHEMA_VERSION, Field
from orsanet_cache.store.zarr_folder import METADATA, Layout, ZarrFolder


class Container(Protocol):
    """Read access to groups, attributes and arrays.

    Methods raise ValueError, KeyError or OSError for anything damaged or missing.
    """

    @property
    def path(self) -> Place: ...
    def attributes(self, group: str) -> dict[str, Any]: ...
    def groups(self, group: str) -> tuple[str, ...]: ...
    def arrays(self, group: str) -> dict[str, Layout]: ...
    def small(self, array: str) -> NDArray[Any]: ...
    def rows(self, array: str, checksums: Checksums | None) -> Rows: ...


class ContainerWriter(Protocol):
    """Write access to a container. Every method raises OSError if the disk is full."""

    def group(self, group: str, attributes: Mapping[str, Any]) -> None: ...
    def small(self, array: str, values: NDArray[Any], axes: Sequence[str]) -> None: ...
    def rows(self, group: str, field: Field, count: int, units: Iterable[NDArray[Any]]) -> None: ...


# Raised when damaged bytes are read; also for a lack of open files, memory or threads (`refuse_shortage`).
DAMAGE = (ValueError, KeyError, TypeError, OSError, RuntimeError)


def open_container(path: Place, cache: CacheSettings | None = None) -> Container:
    """Open a folder, a file or a URL with this package's mark and schema.

    `cache` is where shards of a URL are kept on this machine.

    Raises OrsanetError for any other, and for an object store that cannot be read.
    """
    if isinstance(path, Path) and not path.exists():
        raise _no_such_store(path)
    try:
        if isinstance(path, Url):
            container: Container = _of_url(path, cache)
        elif path.is_dir():
            container = ZarrFolder(path)
        else:
            from orsanet_cache.store.hdf5_file import Hdf5File

            container = Hdf5File(path)
        attributes = container.attributes("")
    except DAMAGE as error:
        refuse_shortage(error, path)
        raise OrsanetError(f"{path}: not a store (no readable Zarr v3 group or HDF5 file: {error})") from error
    root = attributes.get(MARK)
    if not isinstance(root, Mapping):
        raise OrsanetError(f"{path}: readable, but not written by orsanet-cache")
    written = root.get("schema")
    if written not in (SCHEMA_VERSION, GROWN_SCHEMA):
        raise OrsanetError(
            f"{path}: written with store schema {written}, this version reads {SCHEMA_VERSION} and {GROWN_SCHEMA}; "
            f"build it again with `orsanet-cache build`, into another folder"
        )
    recipe, rows_per_unit = root.get("recipe"), root.get("rows_per_unit")
    sane = isinstance(recipe, Mapping) and type(rows_per_unit) is int and 1 <= rows_per_unit <= MAX_ROWS_PER_SHARD
    if not sane or root != root_mark(recipe, rows_per_unit, written):
        raise OrsanetError(
            f"{path}: the store's root attributes are damaged; restore them from a copy, or build into another folder"
        )
    return container


def _of_url(url: Url, cache: CacheSettings | None) -> ZarrFolder:
    from orsanet_cache.places.bucket import Bucket
    from orsanet_cache.places.bucket_files import BucketFiles

    files = BucketFiles(Bucket.open(url))
    if METADATA not in files.entries():
        raise _no_such_store(url)
    return ZarrFolder(files, Passing(files) if cache is None else Cache(files, cache))


def _no_such_store(path: Place) -> OrsanetError:
    return OrsanetError(f"{path}: no such store; make one with `orsanet-cache build MANIFEST --out {path}`")


def root_mark(recipe: Any, rows_per_unit: Any, schema: int = SCHEMA_VERSION) -> dict[str, Any]:
    """The content of the root attribute, with its own digest.

    Everything else is read according to it. Seals cover the mark of the default schema, so a view
    keeps its seal when the store grows.
    """
    content = {"schema": schema, "recipe": recipe, "rows_per_unit": rows_per_unit}
    return content | {"sha256": hashlib.sha256(as_json(content).encode()).hexdigest()}


def sealed_mark(root: Mapping[str, Any]) -> dict[str, Any]:
    """The root mark that seals cover, of a store with the root mark `root`."""
    return root_mark(root["recipe"], root["rows_per_unit"])
