"""Writes the files of a Zarr store that zarr_folder.py reads.

A build and a conversion write the same bytes.

Array metadata comes from zarr-python; tests compare all other files with zarr-python's. Every file
is whole or not there (places/destination.py). Callers decide when a file may be written, and hold
the locks.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from orsanet_cache.durable import Content
from orsanet_cache.errors import OrsanetError, refuse_shortage
from orsanet_cache.paths import Place
from orsanet_cache.places.destination import Output
from orsanet_cache.store.container import DAMAGE
from orsanet_cache.store.rows import CHECKSUM_BYTES, MAX_METADATA_BYTES, ZSTD_LEVEL, encode_shard, shard_name
from orsanet_cache.store.schema import Field
from orsanet_cache.store.zarr_folder import METADATA, metadata_name


class ZarrWriter:
    """A ContainerWriter for a store at any place.

    Metadata files that are already correct are not written again.
    """

    def __init__(self, to: Output, rows_per_unit: int) -> None:
        self.to = to
        self.rows_per_unit = rows_per_unit

    def group(self, group: str, attributes: Mapping[str, Any]) -> None:
        """Write a group's zarr.json."""
        name, document = metadata_name(group), group_document(attributes)
        if self._known(name) != document:
            self.to.publish(name, [document])

    def new_group(self, group: str, attributes: Mapping[str, Any]) -> None:
        """Write the zarr.json of a group, unless it has one that can be read."""
        name, document = metadata_name(group), group_document(attributes)
        known = self._known(name)
        if known is None and self.to.create(name, [document]) is not None:
            return
        if not _is_group(self._known(name) if known is None else known):
            self.to.publish(name, [document])

    def small(self, array: str, values: NDArray[Any], axes: Sequence[str]) -> None:
        """Write a small array, and then its zarr.json."""
        self.to.publish(small_file(array, values), small_content(values))
        self.describe(array, values, axes)

    def repair_small(self, array: str, values: NDArray[Any], axes: Sequence[str]) -> None:
        """If the stored array has these values, write its zarr.json unless that is correct."""
        if self._known(small_file(array, values)) == b"".join(small_content(values)):
            self.describe(array, values, axes)

    def describe(self, array: str, values: NDArray[Any], axes: Sequence[str]) -> None:
        """Write the zarr.json of a small array with these values."""
        self._document(array, values.shape, str(values.dtype), tuple(axes))

    def field(self, group: str, field: Field, count: int) -> None:
        """Write the zarr.json of a field of `count` rows."""
        shape, axes = (count, *field.shape), ("sample", *field.axes)
        self._document(f"{group}/{field.name}", shape, field.dtype, axes, self.rows_per_unit, field.compressed)

    def rows(self, group: str, field: Field, count: int, units: Iterable[NDArray[Any]]) -> None:
        """Write a field of `count` rows, unit by unit, and then its zarr.json."""
        for index, values in enumerate(units):
            self.to.publish(shard_of(group, field, index), self.shard_content(field, values))
        self.field(group, field, count)

    def shard_content(self, field: Field, values: NDArray[Any]) -> Content:
        """The content of a unit's shard, for values [n, *field.shape]."""
        return encode_shard(values, self.rows_per_unit, field.compressed)

    def _document(self, array: str, *layout: Any) -> None:
        name, document = metadata_name(array), array_document(*layout)
        with suppress(*DAMAGE):
            if json.loads(self._known(name) or b"") == json.loads(document):
                return
        self.to.publish(name, [document])

    def _known(self, name: str) -> bytes | None:
        """The content of a file; None if it is missing or cannot be read."""
        try:
            return self.to.files.read(name, MAX_METADATA_BYTES)
        except DAMAGE as error:
            refuse_shortage(error, self.to.files.place)
            return None


def check_sizes(place: Place, sizes: Mapping[str, int], most_bytes: float) -> None:
    """Raises OrsanetError if a file of a store, by its name or that of its field, has more than `most_bytes`."""
    for name, size in sizes.items():
        if size > most_bytes:
            raise OrsanetError(
                f"{place}: a shard of {name} has {size / 1e9:.3g} GB, and an object store takes {most_bytes / 1e9:g} GB in one request; "
                f"keep the store in a folder, or build it from Python with a smaller rows_per_unit"
            )


def shard_sizes(fields: Iterable[Field], rows_per_unit: int) -> dict[str, int]:
    """The most bytes of a shard of each field; a compressed one may have fewer."""
    return {field.name: rows_per_unit * field.row_bytes for field in fields}


def shard_of(group: str, field: Field, unit: int) -> str:
    """The name of a unit's shard of a field."""
    return f"{group}/{field.name}/{shard_name(unit, 1 + len(field.shape))}"


def small_file(array: str, values: NDArray[Any]) -> str:
    """The name of a small array's single file."""
    return f"{array}/{shard_name(0, values.ndim)}"


def _is_group(document: bytes | None) -> bool:
    with suppress(*DAMAGE):
        return bool(json.loads(document or b"")["node_type"] == "group")
    return False


def group_document(attributes: Mapping[str, Any]) -> bytes:
    """The zarr.json of a group."""
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False).encode()


@lru_cache(maxsize=256)  # the fields of all views of a split are laid out alike
def array_document(
    shape: tuple[int, ...],
    dtype: str,
    dimensions: tuple[str, ...],
    rows_per_shard: int | None = None,
    compressed: bool = False,
) -> bytes:
    """The zarr.json of an array.

    Args:
        shape: the array's shape.
        dtype: the values' type.
        dimensions: names of the dimensions.
        rows_per_shard: rows of a shard, with one row per chunk; None for a small array in a single
            file.
        compressed: whether rows are compressed with zstd.
    """
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec
    from zarr.storage import MemoryStore

    memory: dict[str, Any] = {}
    row = shape[1:]
    zarr.create_array(
        MemoryStore(memory),
        shape=shape,
        dtype=dtype,
        chunks=shape if rows_per_shard is None else (1, *row),
        shards=None if rows_per_shard is None else (rows_per_shard, *row),
        compressors=[*([ZstdCodec(level=ZSTD_LEVEL)] if compressed else []), Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=dimensions,
    )
    return bytes(memory[METADATA].to_bytes())


def small_content(values: NDArray[Any]) -> list[bytes]:
    """The content of a small array's single file."""
    content = np.ascontiguousarray(values).tobytes()
    return [content, google_crc32c.value(content).to_bytes(CHECKSUM_BYTES, "little")]
