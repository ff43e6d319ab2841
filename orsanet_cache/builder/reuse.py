"""Rows of another store, or of other segments of the same store, copied instead of computed.

    pictures of the units to build ─ SHA-256 ─▶ committed rows of the other store with the same picture in the same view
    ─ read, every row against its checksum ─▶ the new unit's arrays · the rest, and what is damaged there, is computed

Both stores have one recipe, so a row's values are those that would be computed: they depend on the
picture, the recipe and the view, and not on the row, the split, the name or the label. A view placed
by landmarks depends on the landmarks and on the version of the drawings too; its rows are copied only
where both are the same. Rejected rows are never copied: to try such a picture again costs little.

A store that grows is a source of its own: a picture that moved to a split with more views is copied
in those that it has. The other store is only read. What was copied is noted in

    STORE/.commits/<split>/<view>/reused-<digest>

until the view is sealed, and then in its provenance.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from orsanet_cache.builder.placing import Placement, drawn_alike, is_placed
from orsanet_cache.builder.plan import Plan
from orsanet_cache.data.manifest import Sample
from orsanet_cache.data.views import CLEAN
from orsanet_cache.errors import OrsanetError, listed, refuse_shortage
from orsanet_cache.paths import Place, Url
from orsanet_cache.store.committed import committed_rows
from orsanet_cache.store.container import DAMAGE, Container, open_container
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.recipe import as_json, recipe_differences
from orsanet_cache.store.rows import Records, Rows
from orsanet_cache.store.schema import Field
from orsanet_cache.store.seal import byte_digests, hex_digests
from orsanet_cache.store.units import Unit
from orsanet_cache.writing.writer import StoreWriter

UNKNOWN = -1
NOTES = "reused-"


class Source:
    """A view of one split of the other store, and the rows of it that may be copied."""

    def __init__(self, container: Container, store: PriorStore, split: str, view: str) -> None:
        self.store = store
        self.split = split
        self.name = f"{split}/{view}"
        self.ids = store.sample_ids(split)
        self.committed = committed_rows(store, container, split, view)
        self._container = container
        self._readers: dict[str, Rows] = {}

    @cached_property
    def usable(self) -> NDArray[np.int64]:
        """Rows that are committed and not rejected."""
        rejected = np.array([image in self.committed.rejected for image in self.ids])
        return np.flatnonzero(self.committed.is_committed & self.committed.image_sha256.any(axis=1) & ~rejected)

    def read(
        self, field: str, rows: NDArray[np.int64], out: NDArray[Any], positions: NDArray[np.int64]
    ) -> dict[int, str]:
        """Read row rows[i] into out[positions[i]] -> position of each damaged row, and what is wrong with it.

        Every row is compared with its checksum after it is read.
        """
        damaged: dict[int, str] = {}
        try:
            self._reader(field).read(rows, out, positions)
        except DAMAGE as error:
            refuse_shortage(error, self._container.path)
            for row, position in zip(rows, positions.tolist(), strict=True):  # which of the rows is it?
                try:
                    self._reader(field).read(np.array([row]), out, np.array([position]))
                except DAMAGE as damage:
                    refuse_shortage(damage, self._container.path)
                    damaged[position] = str(damage)
        if isinstance(reader := self._readers.get(field), Records):
            reader.close_files()  # there are as many readers as views, splits and fields
        raw, expected = out.reshape(len(out), -1).view(np.uint8), self.committed.crc32c[field]
        for row, position in zip(rows.tolist(), positions.tolist(), strict=True):
            if position not in damaged and google_crc32c.value(raw[position]) != expected[row]:
                damaged[position] = f"row {row} of {field} has a wrong checksum"
        return damaged

    def _reader(self, field: str) -> Rows:
        """The field's reader. It verifies nothing, because `read` verifies what has arrived in memory."""
        if field not in self._readers:
            self._readers[field] = self._container.rows(f"{self.name}/{field}", None)
        return self._readers[field]


class ViewIndex:
    """The usable rows of one view in all splits of the other store, found by their picture's digest."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources
        none = np.zeros(0, np.int64)
        self.source = np.concatenate([none, *(np.full(len(one.usable), number) for number, one in enumerate(sources))])
        self.row = np.concatenate([none, *(one.usable for one in sources)])
        digests = (one.committed.image_sha256[one.usable] for one in sources)
        self._digests = np.concatenate([np.zeros((0, 32), np.uint8), *digests])
        keys = _keys(self._digests)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def find(self, digests: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Image digests [n, 32] -> positions in `source` and `row`, UNKNOWN for pictures that are not there."""
        found = np.full(len(digests), UNKNOWN)
        if len(self._keys):
            places = np.minimum(np.searchsorted(self._keys, _keys(digests)), len(self._keys) - 1)
            positions = self._order[places]
            same = (self._digests[positions] == digests).all(axis=1)
            found[same] = positions[same]
        return found


@dataclass(frozen=True)
class KnownRows:
    """The rows of a unit that one view of the other store has. n = rows of the unit."""

    index: ViewIndex
    places: NDArray[np.int64]  # [n], positions in the index, or UNKNOWN
    sha256: list[str]  # [n], of the image files
    noted: dict[str, str]  # where `copy` notes what is damaged: the row -> what is wrong with it

    @property
    def is_known(self) -> NDArray[np.bool_]:
        return self.places != UNKNOWN

    def without(self, rows: NDArray[np.int64]) -> Self:
        """The same with these rows of the unit unknown."""
        places = self.places.copy()
        places[rows] = UNKNOWN
        return replace(self, places=places)

    def copy(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
        """Fill the known rows of a unit's arrays -> the rows that are damaged in the other store, which are zeros then."""
        damaged: set[int] = set()
        for number, source in enumerate(self.index.sources):
            rows = np.flatnonzero(self.is_known)
            rows = rows[self.index.source[self.places[rows]] == number]
            rows = rows[np.argsort(self.index.row[self.places[rows]], kind="stable")]  # in the order of the files
            if not len(rows):
                continue
            there = self.index.row[self.places[rows]]
            for field, array in arrays.items():
                for row, what in source.read(field, there, array, rows).items():
                    image = source.ids[self.index.row[self.places[row]]]
                    self.noted.setdefault(f"{source.name}: {image!r}", what)
                    damaged.add(row)
        lost = np.array(sorted(damaged), np.int64)
        for array in arrays.values():
            array[lost] = 0
        return lost


class Reuse:
    """Stores with the same recipe, as sources of rows."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self.skipped: list[str] = []  # views of the other stores that cannot be used, with reasons
        self.damaged: dict[str, str] = {}  # rows that could not be copied -> what is wrong with them
        self._stores: list[tuple[Place, Container, PriorStore]] = []
        self._fields = fields
        self._indices: dict[str, ViewIndex] = {}
        self._sources: dict[tuple[Place, str, str], Source] = {}
        self._digests: dict[Unit, NDArray[np.uint8]] = {}

    def add(self, path: Place) -> None:
        """Also take rows from the store `path`, after those of the stores before."""
        container = open_container(path)
        self._stores.append((path, container, PriorStore(container)))
        self._indices.clear()

    @classmethod
    def open(
        cls, path: Place, out: Place, recipe: Mapping[str, Any], fields: Sequence[Field], views: Sequence[str]
    ) -> Self:
        """Open the other store, for a build of `out` in these views.

        Raises OrsanetError if it is no store of this schema, has another recipe, or is damaged in
        one of the views; and if one of the two stores is or contains the other.
        """
        reuse = cls(fields)
        reuse.add(path)
        if _overlap(path, out):
            raise OrsanetError(
                f"--reuse {path} and --out {out} overlap; rows are copied from one store to another, so choose an --out outside {path}"
            )
        differences = list(recipe_differences(reuse._stores[0][2].recipe, dict(recipe)))
        if differences:
            raise OrsanetError(
                f"{path} was built with another recipe, so none of its rows can be reused; pass its options again, or build without --reuse:\n"
                f"{listed(differences)}"
            )
        for view in views:
            reuse._index(view)
        return reuse

    def look(self, plan: Plan) -> "PlannedRows":
        """Hash the pictures of the plan's units, and count the rows that can be copied.

        Raises OrsanetError if a view of another store is damaged.
        """
        images = [image for work in plan.work for image in plan.layout.files(work.unit)]
        hashes = plan.layout.hashes
        hashes.read([image for image in images if image is not None], "look for known")
        digests = byte_digests(["" if image is None else hashes.of(image) for image in images])
        known = begin = 0
        for work in plan.work:
            end = begin + work.unit.stop - work.unit.start
            self._digests[work.unit] = digests[begin:end]
            begin = end
        for work in plan.work:
            for view in work.views:
                known += int((self._index(view).find(self._digests[work.unit]) != UNKNOWN).sum())
        return PlannedRows(known, plan.rows - known, tuple(self.skipped), *kept_rows(plan))

    def known(
        self, unit: Unit, samples: Sequence[Sample], views: Sequence[str], placement: Placement | None = None
    ) -> dict[str, KnownRows]:
        """The rows of a unit that the other store has, for each of the views in which it has some.

        With `placement`, only rows placed by these landmarks. A unit that `look` was not called with
        has none: it is another part's, damaged when it was read back.
        """
        known: dict[str, KnownRows] = {}
        if unit not in self._digests:
            return known
        digests = self._digests[unit]
        for view in views:
            index = self._index(view)
            places = index.find(digests)
            if placement is not None:
                places[[sample.image in placement.rejected for sample in samples]] = UNKNOWN
                places = self._placed_alike(index, places, placement)
            if (places != UNKNOWN).any():
                known[view] = KnownRows(index, places, hex_digests(digests), self.damaged)
        return known

    def _placed_alike(self, index: ViewIndex, places: NDArray[np.int64], placement: Placement) -> NDArray[np.int64]:
        """The places whose row was placed by the same landmarks; UNKNOWN for the others."""
        landmarks = np.zeros_like(placement.landmarks)
        is_same = np.zeros(len(places), np.bool_)
        for number, source in enumerate(index.sources):
            rows = np.flatnonzero(places != UNKNOWN)
            rows = rows[index.source[places[rows]] == number]
            clean = self._source(source.store, source.split, CLEAN)
            damaged = clean.read("landmarks", index.row[places[rows]], landmarks, rows)
            self.damaged |= {
                f"{clean.name}: {clean.ids[index.row[places[row]]]!r}": what for row, what in damaged.items()
            }
            is_same[[row for row in rows.tolist() if row not in damaged]] = True
        is_same &= (landmarks == placement.landmarks).all(axis=(1, 2))
        return np.where(is_same, places, UNKNOWN)

    def _index(self, view: str) -> ViewIndex:
        if view not in self._indices:
            self._indices[view] = ViewIndex(
                [
                    self._source(store, split, view)
                    for _, _, store in self._stores
                    for split in store.splits
                    if view in store.all_views(split) and self._fits(store, split, view)
                ]
            )
        return self._indices[view]

    def _fits(self, store: PriorStore, split: str, view: str) -> bool:
        """Whether a view of a store was drawn as it would be drawn now."""
        why = drawn_alike(store, self._container_of(store), split, view) if is_placed(view) else ""
        if why:
            self.skipped.append(f"{store.path}: {split}/{view} {why}, so it is computed")
        return not why

    def _source(self, store: PriorStore, split: str, view: str) -> Source:
        key = store.path, split, view
        if key in self._sources:
            return self._sources[key]
        source = Source(self._container_of(store), store, split, view)
        found = {name: (shape[1:], dtype) for name, (shape, dtype) in source.committed.fields.items()}
        expected = {field.name: (field.shape, np.dtype(field.dtype)) for field in self._fields}
        fits = found == expected and source.committed.image_sha256.shape == (len(source.ids), 32)
        if source.committed.is_committed.any() and not fits:
            raise OrsanetError(
                f"{store.path}: {source.name} does not have the fields of this version; build without --reuse"
            )
        self._sources[key] = source
        return source

    def _container_of(self, store: PriorStore) -> Container:
        (container,) = (container for _, container, of in self._stores if of is store)
        return container

    def note(self, writer: StoreWriter, unit: Unit, view: str) -> None:
        """Note in the store that is built, before a unit with copied rows is committed, where they are from."""
        entries: list[dict[str, Any]] = []
        for path, _, store in self._stores:
            sources = [source for source in self._index(view).sources if source.store is store]
            found = {source.name: dict(source.committed.provenance or {}) for source in sources}
            earlier = [entry for provenance in found.values() for entry in provenance.pop("reused", [])]
            entries += [{"store": str(path if isinstance(path, Url) else path.absolute()), "views": found}, *earlier]
        content = as_json(entries).encode()
        writer.note(unit.split, view, NOTES + hashlib.sha256(content).hexdigest()[:16], content)


@dataclass(frozen=True)
class PlannedRows:
    """What a build is going to do, in images times views."""

    copied: int
    computed: int
    skipped: tuple[str, ...] = ()  # views of the other store that cannot be used, with reasons
    kept: int = 0  # images whose rows are in the store and stay there, of splits that grow, shrink or are reordered
    images: int = 0  # all images of those splits


def kept_rows(plan: Plan) -> tuple[int, int]:
    """Of splits whose list of images is another one than before: the images that keep their rows, and all."""
    changed = [meaning for meaning in plan.layout.splits if meaning.state is not None]
    return sum(meaning.kept for meaning in changed), sum(len(meaning.state.ids) for meaning in changed if meaning.state)


def reused_rows(writer: StoreWriter, split: str, view: str) -> dict[str, Any]:
    """The provenance entry of a view with copied rows: where they are from. Empty if it has none."""
    entries = {as_json(entry): entry for note in writer.notes(split, view, NOTES) for entry in json.loads(note)}
    return {"reused": list(entries.values())} if entries else {}


def _overlap(path: Place, out: Place) -> bool:
    """Whether one of two places is or contains the other."""
    if isinstance(path, Url) or isinstance(out, Url):
        return f"{path}/".startswith(f"{out}/") or f"{out}/".startswith(f"{path}/")
    there, here = path.resolve(), out.resolve()
    return there == here or there in here.parents or here in there.parents


def _keys(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The first eight bytes of digests [n, 32], to sort and search by."""
    return np.ascontiguousarray(digests[:, :8]).view(np.uint64).reshape(-1)
