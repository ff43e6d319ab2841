"""A store that has grown, copied without its history: the rows of the current manifest, in its order.

    current state ─ row by row against its checksum ─▶ TARGET.converting/store ─ every unit read back ─▶ rename to TARGET
                                                    ─▶ a URL: transfer.py

The copy is the store that a build of this manifest makes from nothing: with the same values it has
the same seals. Rows that the manifest no longer names, earlier states and the many small units of a
store that grew often are left behind. The source is only read. A kill leaves what a conversion
leaves (convert.py).
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from orsanet_cache.data.views import CLEAN
from orsanet_cache.durable import sync_folder
from orsanet_cache.errors import OrsanetError, UnreachableError, refuse_shortage
from orsanet_cache.paths import StrPath, StrPlace, Url, as_place
from orsanet_cache.places.bucket import MOST_BYTES, Bucket
from orsanet_cache.places.folder import FolderOutput
from orsanet_cache.places.transfer import Upload
from orsanet_cache.progress import Progress
from orsanet_cache.store.container import DAMAGE, open_container, root_mark
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.schema import ADDED_TO, MARK, SAMPLE_ID_AXES, encode_ids, view_and_addition
from orsanet_cache.store.seal import SealedView, sealed_attributes, unit_digest, view_seal, write_records
from orsanet_cache.store.units import units_of
from orsanet_cache.store.zarr_folder import METADATA
from orsanet_cache.writing.convert import check_disk, check_is_finished, check_is_free, fields_of, workplace
from orsanet_cache.writing.zarr_writer import ZarrWriter, check_sizes, group_document, shard_of, shard_sizes

HDF5_SUFFIXES = (".h5", ".hdf5")


def compact(
    source: StrPlace, target: StrPlace, cache: StrPath | None = None, cache_bytes: int | None = None
) -> PriorStore:
    """Write a compact copy of a store as a Zarr store, into a folder or to a URL, and open it.

    Raises OrsanetError if the source is not finished or is damaged, the target exists or has the
    suffix of an HDF5 file, or the disk has too little space.

    Args:
        source: a store.
        target: the folder or URL to write.
        cache: for the URL of a source: a folder of this machine that keeps its shards. None: the
            last few of them are kept until the end, so a shard whose rows were reordered is fetched
            again.
        cache_bytes: the most that the cache may have. None: most of what is free there.
    """
    source, target = as_place(source, "source"), as_place(target, "target")
    stem, dot, suffix = target.name.rpartition(".")
    if dot + suffix.lower() in HDF5_SUFFIXES:
        raise OrsanetError(
            f"{target}: a compact copy is a Zarr store; choose a name such as {target.parent / stem}.zarr, and make an HDF5 file "
            f"of it with `orsanet-cache convert`"
        )
    store = PriorStore.open(source, cache, cache_bytes)
    check_is_finished(store)
    if isinstance(target, Url):
        _upload(store, target)
        return PriorStore.open(target)
    try:
        with workplace(target) as folder:
            check_disk(store, folder, target)
            staged = folder / "store"
            writer = ZarrWriter(FolderOutput(staged, staged.with_name("temporary")), store.rows_per_unit)
            writer.group("", _root(store))
            for split, view, sealed in _written(store, writer):
                _check(staged, split, view, sealed, target)
            check_is_free(target)
            staged.rename(target)
            sync_folder(target.absolute().parent)
    except UnreachableError:
        raise
    except OSError as error:
        refuse_shortage(error, target)
        raise OrsanetError(
            f"{target}: cannot be written ({error.strerror or error}), and the incomplete copy was deleted; "
            f"free some space or choose another place, and run the same command again"
        ) from error
    return PriorStore.open(target)


def _upload(store: PriorStore, target: Url) -> None:
    for split, view in _groups(store):
        check_sizes(target, shard_sizes(fields_of(store, split, view), store.rows_per_unit), MOST_BYTES)
    splits = {*store.splits}
    with Upload(Bucket.open(target), METADATA, lambda name: name.partition("/")[0] in splits) as to:
        for _ in _written(store, ZarrWriter(to, store.rows_per_unit)):
            pass
        to.finish(group_document(_root(store)))


def _root(store: PriorStore) -> dict[str, Any]:
    """The attributes of the copy's root."""
    return {MARK: root_mark(store.recipe, store.rows_per_unit)}


def _groups(store: PriorStore) -> list[tuple[str, str]]:
    """The splits' views and groups of added fields, those that others are made from first."""
    return [(split, view) for split in store.splits for view in _clean_first(store.groups(split))]


def _written(store: PriorStore, writer: ZarrWriter) -> Iterator[tuple[str, str, SealedView]]:
    """Write the copy, without its root -> each group when it is complete, and its records."""
    for split in store.splits:
        writer.group(split, {})
        writer.small(f"{split}/sample_id", encode_ids(store.sample_ids(split)), SAMPLE_ID_AXES)
    groups = _groups(store)
    with Progress(sum(len(store.sample_ids(split)) for split, _ in groups), "compact", "view") as progress:
        seals: dict[str, str] = {}  # of the copy, by SPLIT/VIEW
        for split, view in groups:
            sealed = _copied(store, split, view, writer, seals, progress)
            seals[f"{split}/{view}"] = sealed.seal
            yield split, view, sealed


def _clean_first(views: tuple[str, ...]) -> list[str]:
    """The groups of a split in an order in which those that others are made from come first."""
    return sorted(views, key=lambda view: (bool(view_and_addition(view)[1]), view != CLEAN, view))


def _copied(
    store: PriorStore,
    split: str,
    view: str,
    writer: ZarrWriter,
    seals: Mapping[str, str],
    progress: Progress,
) -> SealedView:
    """Copy a view as its state has it -> its records. `seals` are those of the copy's views that are complete."""
    before = store.sealed(split, view)
    ids = store.sample_ids(split)
    units = units_of(split, len(ids), store.rows_per_unit)
    group = f"{split}/{view}"
    fields = fields_of(store, split, view)
    digests = np.zeros((len(units), len(fields), 32), np.uint8)
    order = sorted(before.fields)
    rows = np.arange(len(ids))
    with store.ahead(split, [view], [field.name for field in fields], np.zeros_like(rows), rows) as ahead:
        for unit in units:
            for field in fields:
                values = store.read(split, view, field.name, unit.rows)
                writer.to.publish(shard_of(group, field, unit.index), writer.shard_content(field, values))
                sha256 = hashlib.sha256(values.data).digest()
                digests[unit.index, order.index(field.name)] = np.frombuffer(sha256, np.uint8)
            ahead.reached(unit.stop)
            progress.update(unit.stop - unit.start)
    for field in fields:
        writer.field(group, field, len(ids))
    made_from = {"placed_by": f"{split}/{CLEAN}", ADDED_TO: f"{split}/{view_and_addition(view)[0]}"}
    provenance = before.provenance | {key: seals[of] for key, of in made_from.items() if key in before.provenance}
    seal = view_seal(
        _root(store)[MARK], group, encode_ids(ids), before.fields, before.rejected, before.image_sha256, digests, before.crc32c,
        before.network,
    )  # fmt: skip
    sealed = replace(before, seal=seal, provenance=provenance, unit_sha256=digests)
    write_records(writer, split, view, sealed)
    writer.group(group, sealed_attributes(split, view, sealed))
    return sealed


def _check(staged: Path, split: str, view: str, sealed: SealedView, target: Path) -> None:
    """Read a view back from the disk. Raises OrsanetError if it differs from what was written."""
    try:
        container = open_container(staged)
        copy = PriorStore(container)
        same = copy.sealed(split, view).seal == sealed.seal
        units = units_of(split, len(sealed.image_sha256), copy.rows_per_unit)
        for position, field in enumerate(sorted(sealed.fields)):
            rows = container.rows(f"{split}/{view}/{field}", None)
            for unit in units:
                digest = unit_digest(rows, sealed.fields[field], unit.start, unit.stop)
                same &= digest == sealed.unit_sha256[unit.index, position].tobytes()
        if not same:
            raise ValueError(f"{split}/{view} differs")
    except (OrsanetError, *DAMAGE) as error:
        refuse_shortage(error, target)
        raise OrsanetError(
            f"{target}: data read back from disk differs from what was written ({error}); choose another place"
        ) from error
