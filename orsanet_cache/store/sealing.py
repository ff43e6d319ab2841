"""A view's markers and its sealed records: two ways to say the same, of which this module makes either from the other.

    every unit's marker ─ read back from the disk ─ fold ─▶ records, seal
    records ─ unfold, unit by unit ─▶ its marker

Nothing is written here; writer.py writes, and holds the locks. Shapes: N = samples, U = units, F = fields, in alphabetical order.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from orsanet_cache.store.container import DAMAGE, Container
from orsanet_cache.store.schema import MARK
from orsanet_cache.store.seal import SealedView, unit_digest, view_seal
from orsanet_cache.store.units import Marker, Unit, UnitRecord


def damaged_units(container: Container, view: str, markers: Mapping[Unit, Marker]) -> set[Unit]:
    """Which of these units' values, all of one split, are not those that were committed? Reads all of them."""
    name = f"{next(iter(markers)).split}/{view}"
    try:
        layouts = container.arrays(name)
    except DAMAGE:
        return set(markers)

    def is_damaged(unit: Unit, field: str, sha256: str) -> bool:
        try:
            rows = container.rows(f"{name}/{field}", None)  # its own, or its lock would let one thread read at a time
            return unit_digest(rows, layouts[field], unit.start, unit.stop).hex() != sha256
        except DAMAGE:
            return True

    jobs = [
        (unit, field, shard["sha256"]) for unit, marker in markers.items() for field, shard in marker.shards.items()
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda job: is_damaged(*job), jobs)
        watched = tqdm(results, total=len(jobs), unit="shard", desc=f"read back {name}", delay=2, leave=False)
        return {unit for (unit, _, _), damaged in zip(jobs, watched, strict=True) if damaged}


def fold(
    container: Container, split: str, view: str, markers: Sequence[Marker], provenance: Mapping[str, Any]
) -> SealedView:
    """The records of a view from the markers of all its units, in their order.

    Raises ValueError, KeyError, TypeError or OSError where the store's recipe, the split's sample ids or the view's layouts are damaged.
    """
    root = container.attributes("")[MARK]
    sample_id = container.small(f"{split}/sample_id")
    written = markers[0].shards
    fields = {name: layout for name, layout in container.arrays(f"{split}/{view}").items() if name in written}
    rejected = {image: reason for marker in markers for image, reason in marker.record.rejected.items()}
    image_sha256 = _bytes([digest for marker in markers for digest in marker.record.image_sha256])
    unit_sha256 = np.stack([_bytes([marker.shards[name]["sha256"] for name in sorted(fields)]) for marker in markers])
    crc32c = {
        name: np.concatenate([np.array(marker.shards[name]["crc32c"], np.uint32) for marker in markers])
        for name in fields
    }
    seal = view_seal(root, sample_id, fields, rejected, image_sha256, unit_sha256, crc32c)
    return SealedView(seal, dict(provenance), rejected, image_sha256, unit_sha256, crc32c, fields)


def unfold(sealed: SealedView, unit: Unit, ids: Sequence[str], file_bytes: Mapping[str, int]) -> Marker:
    """A unit's marker as it was before `fold`.

    `ids` are the unit's samples, `file_bytes` the sizes of its shards by field. A field without a size, whose shard is lost, is left
    out, and so the marker is not a committed unit's.
    """
    digests = dict(zip(sorted(sealed.fields), sealed.unit_sha256[unit.index], strict=True))
    shards = {
        name: {
            "bytes": size,
            "sha256": digests[name].tobytes().hex(),
            "crc32c": sealed.crc32c[name][unit.rows].tolist(),
        }
        for name, size in file_bytes.items()
    }
    rejected = {image: sealed.rejected[image] for image in ids if image in sealed.rejected}
    return Marker(UnitRecord(hex_digests(sealed.image_sha256[unit.rows]), rejected), shards)


def hex_digests(digests: NDArray[np.uint8]) -> list[str]:
    """Image digests of the records, uint8 [n, 32] -> in hex as markers have them, empty for zeros."""
    return [row.tobytes().hex() if row.any() else "" for row in digests]


def _bytes(digests: Sequence[str]) -> NDArray[np.uint8]:
    """The inverse."""
    return np.frombuffer(bytes.fromhex("".join(digest or "00" * 32 for digest in digests)), np.uint8).reshape(-1, 32)
