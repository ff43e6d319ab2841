"""The records of a finished view and its seal, both computed from the markers of its units.

    a unit's values ─ SHA-256 ─▶ unit digests, with place, recipe, sample ids, fields, rejected images, image digests, row checksums
    ─ SHA-256 ─▶ seal
    every unit's marker ─ read back from the disk ─ fold ─▶ records, seal ─ unfold, unit by unit ─▶ its marker

Only `write_records` writes to a store; sealing.py holds the locks. Shapes: N = samples, U = units,
F = fields, in alphabetical order.
"""

import hashlib
import math
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.errors import refuse_shortage
from orsanet_cache.progress import tracked
from orsanet_cache.store.container import DAMAGE, Container, ContainerWriter, sealed_mark
from orsanet_cache.store.recipe import as_json
from orsanet_cache.store.rows import Checksums, Rows, part_of
from orsanet_cache.store.schema import MARK, MAX_ROW_BYTES, NETWORK
from orsanet_cache.store.units import Marker, Unit, UnitRecord
from orsanet_cache.store.zarr_folder import Layout

DIGEST_ROWS = 32  # rows read at a time for a digest
CHECKSUMS = "crc32c"  # the group of a view's row checksums
RECORDS = ("image_sha256", "unit_sha256")  # arrays of a view besides its fields


@dataclass(frozen=True)
class SealedView:
    """The records of a finished view, checked against its seal."""

    seal: str
    provenance: dict[str, Any]  # not covered by the seal
    rejected: dict[str, str]  # sample id -> the reason why its image cannot be used
    image_sha256: NDArray[np.uint8]  # [N, 32], zeros for a file that could not be read
    unit_sha256: NDArray[np.uint8]  # [U, F, 32]
    crc32c: dict[str, Checksums]  # field -> uint32 [N]
    fields: dict[str, Layout]  # by name
    network: dict[str, Any] | None = None  # of added fields: what computed them (Addition)


class MisplacedViewError(ValueError):
    """A sealed view lies at the place of another one."""


def view_seal(
    root: Mapping[str, Any],
    place: str,
    sample_id: NDArray[np.uint8],
    fields: Mapping[str, Layout],
    rejected: Mapping[str, str],
    image_sha256: NDArray[np.uint8],
    unit_sha256: NDArray[np.uint8],
    crc32c: Mapping[str, Checksums],
    network: Mapping[str, Any] | None = None,
) -> str:
    """The seal: SHA-256 in hex over everything that identifies a view's rows.

    It does not depend on the number of parts or on the order in which they were built.

    Args:
        root: the root mark of a store that has not grown.
        place: the view's group, split/view.
        sample_id: encoded sample ids, [N, L].
        fields: the view's fields.
        rejected: sample id -> reason.
        image_sha256: [N, 32].
        unit_sha256: [U, F, 32].
        crc32c: field -> [N].
        network: of added fields, what computed them.
    """
    header = {
        **root,
        **({} if network is None else {NETWORK: network}),
        "place": place,
        "fields": [[name, layout.shape, str(layout.dtype)] for name, layout in sorted(fields.items())],
        "rejected": rejected,
    }
    digest = hashlib.sha256(as_json(header).encode())
    arrays: list[NDArray[Any]] = [sample_id, image_sha256, unit_sha256, *(crc32c[name] for name in sorted(fields))]
    for array in arrays:
        digest.update(as_json(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def read_sealed(container: Container, root: Mapping[str, Any], split: str, view: str) -> SealedView:
    """A finished view's records. `root` is the root mark of the store.

    Raises one of DAMAGE if they are damaged or do not match the seal: MisplacedViewError, if they
    say that they are those of another view.
    """
    name = f"{split}/{view}"
    attributes = container.attributes(name)
    if (place := attributes["place"]) != name:
        raise MisplacedViewError(
            f"it is recorded as {place}, so it is not at its place; put every view back to its place, or let "
            f"`orsanet-cache verify … --repair` compute {name} again"
        )
    fields = {field: layout for field, layout in container.arrays(name).items() if field not in RECORDS}
    sample_id = container.small(f"{split}/sample_id")
    for field, (shape, dtype) in fields.items():
        if shape[0] != len(sample_id) or math.prod(shape[1:]) * dtype.itemsize > MAX_ROW_BYTES:
            raise ValueError(f"{field} has the shape {list(shape)}, but the split has {len(sample_id)} samples")
    image_sha256, unit_sha256 = (container.small(f"{name}/{record}") for record in RECORDS)
    crc32c = {field: container.small(f"{name}/{CHECKSUMS}/{field}") for field in fields}
    rejected, network = attributes["rejected"], attributes.get(NETWORK)
    seal = view_seal(sealed_mark(root), name, sample_id, fields, rejected, image_sha256, unit_sha256, crc32c, network)
    if seal != attributes["seal"] or any(len(checksums) != len(sample_id) for checksums in crc32c.values()):
        raise ValueError("its records do not match its seal")
    provenance = dict(attributes["provenance"])
    return SealedView(seal, provenance, rejected, image_sha256, unit_sha256, crc32c, fields, network)


def sealed_attributes(split: str, view: str, sealed: SealedView) -> dict[str, Any]:
    """The attributes of a finished view, which `read_sealed` reads."""
    return {
        **({} if sealed.network is None else {NETWORK: sealed.network}),
        "place": f"{split}/{view}",
        "provenance": sealed.provenance,
        "rejected": sealed.rejected,
        "seal": sealed.seal,
    }


def write_records(writer: ContainerWriter, split: str, view: str, sealed: SealedView) -> None:
    """Write the records that `read_sealed` reads, except the view's attributes.

    The attributes contain the seal; a build writes them last.
    """
    name = f"{split}/{view}"
    writer.small(f"{name}/image_sha256", sealed.image_sha256, ("sample", "sha256"))
    writer.small(f"{name}/unit_sha256", sealed.unit_sha256, ("unit", "field", "sha256"))
    writer.group(f"{name}/{CHECKSUMS}", {})
    for field, checksums in sealed.crc32c.items():
        writer.small(f"{name}/{CHECKSUMS}/{field}", checksums, ("sample",))


class Readers:
    """The readers of a view's fields, each opened once for all units. `checksums` are those of every row, by field."""

    def __init__(self, container: Container, name: str, checksums: Mapping[str, Checksums] | None = None) -> None:
        self._container = container
        self._name = name
        self._checksums = checksums or {}
        self._rows: dict[str, Rows] = {}
        self._lock = threading.Lock()

    def of(self, field: str) -> Rows:
        """The reader of a field. Raises one of DAMAGE."""
        with self._lock:
            if field not in self._rows:
                self._rows[field] = self._container.rows(f"{self._name}/{field}", self._checksums.get(field))
            return self._rows[field]


def unit_digest(rows: Rows, layout: Layout, start: int, stop: int) -> bytes:
    """SHA-256 over the values of rows start to stop - 1, little-endian.

    It is the same for every storage format.
    """
    digest = hashlib.sha256()
    part, begin = part_of(rows, start, stop)
    for first in range(begin, begin + stop - start, DIGEST_ROWS):
        chosen = np.arange(first, min(first + DIGEST_ROWS, begin + stop - start))
        values = np.empty((len(chosen), *layout.shape[1:]), layout.dtype)
        part.read(chosen, values, np.arange(len(chosen)))
        digest.update(values.data)
    return digest.digest()


def damaged_units(container: Container, view: str, markers: Mapping[Unit, Marker]) -> set[Unit]:
    """The units whose values differ from the committed ones.

    All units are of one split, and all values are read.
    """
    name = f"{next(iter(markers)).split}/{view}"
    try:
        layouts = container.arrays(name)
    except DAMAGE as error:
        refuse_shortage(error, container.path)
        return set(markers)

    readers = Readers(container, name)

    def is_damaged(unit: Unit, field: str, sha256: str) -> bool:
        try:
            return unit_digest(readers.of(field), layouts[field], unit.start, unit.stop).hex() != sha256
        except DAMAGE as error:
            refuse_shortage(error, container.path)
            return True

    jobs = [
        (unit, field, shard["sha256"]) for unit, marker in markers.items() for field, shard in marker.shards.items()
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda job: is_damaged(*job), jobs)
        watched = tracked(results, len(jobs), f"read back {name}", "shard", delay=2, leave=False)
        return {unit for (unit, _, _), damaged in zip(jobs, watched, strict=True) if damaged}


def fold(
    container: Container, split: str, view: str, markers: Sequence[Marker], provenance: Mapping[str, Any]
) -> SealedView:
    """The records of a view, computed from the markers of all its units.

    Raises ValueError, KeyError, TypeError or OSError if the store's recipe, the split's sample ids
    or the view's layouts are damaged.

    Args:
        container: the store.
        split: name of the split.
        view: name of the view.
        markers: the markers of all units, in the units' order.
        provenance: recorded with the seal, not covered by it.
    """
    root, network = sealed_mark(container.attributes("")[MARK]), container.attributes(f"{split}/{view}").get(NETWORK)
    sample_id = container.small(f"{split}/sample_id")
    written = markers[0].shards
    fields = {name: layout for name, layout in container.arrays(f"{split}/{view}").items() if name in written}
    rejected = {image: reason for marker in markers for image, reason in marker.record.rejected.items()}
    image_sha256 = byte_digests([digest for marker in markers for digest in marker.record.image_sha256])
    unit_sha256 = np.stack(
        [byte_digests([marker.shards[name]["sha256"] for name in sorted(fields)]) for marker in markers]
    )
    crc32c = {
        name: np.concatenate([np.array(marker.shards[name]["crc32c"], np.uint32) for marker in markers])
        for name in fields
    }
    seal = view_seal(root, f"{split}/{view}", sample_id, fields, rejected, image_sha256, unit_sha256, crc32c, network)
    return SealedView(seal, dict(provenance), rejected, image_sha256, unit_sha256, crc32c, fields, network)


def unfold(sealed: SealedView, unit: Unit, ids: Sequence[str], file_bytes: Mapping[str, int]) -> Marker:
    """A unit's marker as it was before `fold`.

    `ids` are the unit's samples, `file_bytes` the sizes of its shards by field. A field whose shard
    is lost has no size and is left out; the marker then does not count as that of a committed unit.
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
    """Image digests of the records, uint8 [n, 32] -> hex as in markers, empty for zeros."""
    text = digests.tobytes().hex()
    return [text[64 * row : 64 * row + 64] if known else "" for row, known in enumerate(np.any(digests, axis=1))]


def byte_digests(digests: Sequence[str]) -> NDArray[np.uint8]:
    """The inverse of `hex_digests`."""
    return np.frombuffer(bytes.fromhex("".join(digest or "00" * 32 for digest in digests)), np.uint8).reshape(-1, 32)
