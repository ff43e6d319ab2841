"""The committed rows of a view, whether the view is finished or not.

    finished: the records under its seal · otherwise: its units' markers ─▶ image digests, rejected samples and checksums of the rows

Nothing is written and nothing is locked, so the store may be on a read-only disk. Rows of units
without a marker, or with a damaged one, count as not committed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.errors import OrsanetError, refuse_shortage
from orsanet_cache.store.container import DAMAGE, Container
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.rows import MAX_METADATA_BYTES, Checksums
from orsanet_cache.store.seal import byte_digests
from orsanet_cache.store.units import Marker, Unit, marker_folder, marker_name, units_of
from orsanet_cache.store.zarr_folder import Layout, ZarrFolder


@dataclass(frozen=True)
class CommittedRows:
    """The rows of one view that are committed. N = samples of the split."""

    is_committed: NDArray[np.bool_]  # [N]
    image_sha256: NDArray[np.uint8]  # [N, 32], zeros for a file that could not be read, and where not committed
    rejected: dict[str, str]  # sample id -> the reason why its image cannot be used
    crc32c: dict[str, Checksums]  # field -> uint32 [N], zeros where not committed
    fields: dict[str, Layout]  # by name
    provenance: dict[str, Any] | None  # None for a view that is not finished


def committed_rows(store: PriorStore, container: Container, split: str, view: str) -> CommittedRows:
    """The committed rows of a view that the store has. `container` is the store's.

    Raises OrsanetError if a finished view is damaged, or the metadata of an unfinished one is.
    """
    units = units_of(split, len(store.sample_ids(split)), store.rows_per_unit)
    if not store.all_groups(split)[view]:
        marked = _marked_rows(store, container, view, units)
        if not store.all_groups(split)[view]:  # sealing deletes the markers, which may have happened meanwhile
            return marked
    sealed = store.sealed(split, view)
    return CommittedRows(
        np.ones(len(sealed.image_sha256), np.bool_),
        sealed.image_sha256,
        sealed.rejected,
        sealed.crc32c,
        sealed.fields,
        sealed.provenance,
    )


def read_markers(container: Container, view: str, units: Sequence[Unit]) -> dict[Unit, Marker]:
    """The markers of the committed units among `units`; a damaged marker counts as none, and an HDF5 file has none."""
    if not isinstance(container, ZarrFolder):
        return {}
    names = {unit: marker_name(unit, view) for unit in units}
    container.files.expect(names.values())
    markers = {}
    for unit, name in names.items():
        try:
            marker = Marker.decode(container.files.read(name, MAX_METADATA_BYTES), unit, view)
            per_row = [marker.record.image_sha256, *(shard["crc32c"] for shard in marker.shards.values())]
            if any(len(values) != unit.stop - unit.start for values in per_row):
                raise ValueError("a marker has another number of rows than its unit")
            markers[unit] = marker
        except DAMAGE as error:
            refuse_shortage(error, container.path)
    return markers


def read_note(container: Container, split: str, view: str, name: str) -> bytes:
    """A note that a build left with the markers of an unfinished view. Raises OSError if there is none."""
    if not isinstance(container, ZarrFolder):
        raise FileNotFoundError(f"{container.path} is an HDF5 file, which has none")
    return container.files.read(f"{marker_folder(split, view)}/{name}", MAX_METADATA_BYTES)


def marked_checksums(markers: Mapping[Unit, Marker], count: int) -> dict[str, Checksums]:
    """Field -> CRC-32C of every committed row, uint32 [count], zeros for the other rows."""
    checksums: dict[str, Checksums] = {}
    for unit, marker in markers.items():
        for field, shard in marker.shards.items():
            checksums.setdefault(field, np.zeros(count, np.uint32))[unit.rows] = shard["crc32c"]
    return checksums


def _marked_rows(store: PriorStore, container: Container, view: str, units: Sequence[Unit]) -> CommittedRows:
    split, count = units[0].split, units[-1].stop
    markers = read_markers(container, view, units)
    is_committed, image_sha256 = np.zeros(count, np.bool_), np.zeros((count, 32), np.uint8)
    rejected: dict[str, str] = {}
    try:
        for unit, marker in markers.items():
            is_committed[unit.rows] = True
            image_sha256[unit.rows] = byte_digests(marker.record.image_sha256)
            rejected |= marker.record.rejected
        crc32c = marked_checksums(markers, count)
        layouts = container.arrays(f"{split}/{view}")
        fields = {field: layouts[field] for field in crc32c}
    except DAMAGE as error:
        refuse_shortage(error, store.path)
        raise OrsanetError(
            f"{store.path}: {split}/{view}, which is not finished, is damaged ({error}); run the `orsanet-cache build` that began it again"
        ) from error
    return CommittedRows(is_committed, image_sha256, rejected, crc32c, fields, None)
