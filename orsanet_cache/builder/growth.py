"""What a manifest needs of a store: the rows that it has, and the segments that it grows by.

    every picture's SHA-256 ─▶ rows of finished segments · rows of unfinished ones by name · the rest: a new segment
    ─ built as any split ─▶ all sealed ─▶ the split's state: its samples, each with its row

A split that is the same list of images as its segment, as it is or mixed, is left as it is, and
nothing is hashed for it here. Otherwise a picture is known by its content, whatever its name, order, label and split were.
Its row counts if the row's segment has the views that the split has; else a new row is made, whose
values are copied where the store has them (reuse.py). Rows that the manifest no longer names stay.

With `mix_rows` new rows are in the order of their names' SHA-256, so that a shard has pictures of all
classes even if the manifest is sorted by class. The split is then a state over them.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.builder.changes import difference
from orsanet_cache.builder.hashes import Hashes
from orsanet_cache.builder.layout import GONE, Layout, Meaning, Segment
from orsanet_cache.data.manifest import Manifest, Sample
from orsanet_cache.errors import OrsanetError, UnreachableError, listed, refuse_shortage
from orsanet_cache.store.container import DAMAGE, Container, open_container
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.schema import decode_ids, view_and_addition
from orsanet_cache.store.seal import byte_digests, hex_digests
from orsanet_cache.store.states import FIRST, State, States, segment_of, split_of
from orsanet_cache.writing.writer import StoreWriter


def lay_out(
    writer: StoreWriter,
    manifest: Manifest,
    splits: Sequence[str],
    views: Sequence[str],
    hashes: Hashes,
    accept_changed: bool,
    mix_rows: bool = False,
) -> Layout:
    """Find the manifest's pictures in the store, and name the segments that lack.

    Nothing is written.

    Raises OrsanetError for changed pictures without `accept_changed`, for an unfinished split of
    which the manifest has no picture, and with `mix_rows` for one that has rows in the manifest's order.

    Args:
        writer: the store's writer.
        manifest: the pictures.
        splits: splits to build.
        views: views to build.
        hashes: the digests of the manifest's pictures.
        accept_changed: a picture that changed is a new one.
        mix_rows: whether new rows are mixed.
    """
    stored = _Stored.of(writer)
    found = [_Split(stored, split, manifest.split(split), views, mix_rows) for split in splits]
    rows: dict[str, list[str | None]] = {}
    meanings = []
    elsewhere = {sample.image for sample in manifest.samples if sample.split not in splits}
    for one in found:
        as_it_is = one.as_it_is()
        meaning, places = as_it_is or one.grown(hashes, accept_changed)
        meanings.append(meaning)
        if as_it_is and meaning.state is None and one.split not in rows:  # nearly always; row by row is slow
            rows[one.split] = [*one.images]
            continue
        for name in meaning.segments:
            if name not in rows:
                rows[name] = [image if image in elsewhere else None for image in stored.ids[name]]
        for sample, (name, row) in zip(one.samples, places, strict=True):
            rows[name][row] = sample.image
    as_they_are = {
        one.split: one.samples for one, meaning in zip(found, meanings, strict=True) if meaning.state is None
    }
    segments = {
        name: Segment(name, as_they_are.get(name) or samples_of(name, stored.ids[name]), tuple(files))
        for name, files in rows.items()
    }
    return Layout(segments, tuple(meanings), hashes)


def samples_of(segment: str, ids: Sequence[str]) -> tuple[Sample, ...]:
    """Samples by the names of their rows. A segment knows no labels."""
    return tuple(Sample(image, 0, segment, frozenset()) for image in ids)


@dataclass
class _Stored:
    """What is in a store before a build."""

    folders: frozenset[str]  # their names, those of damaged splits among them
    container: Container
    segments: PriorStore  # every segment as a split
    states: States
    ids: dict[str, tuple[str, ...]]  # of every segment whose list can be read; also of those that are planned
    views: dict[str, dict[str, bool]]  # of these segments: view -> whether it is sealed
    planned: dict[bytes, tuple[str, int]]  # digest -> row of a segment that this build writes
    to_have: dict[str, frozenset[str]]  # such a segment -> the views that it will have
    added: dict[str, list[str]]  # segment -> its groups of added fields, finished or not

    @classmethod
    def of(cls, writer: StoreWriter) -> "_Stored":
        """What is damaged is left out: the writer tells what to do about it."""
        container = open_container(writer.path)
        folders = writer.folders()
        stored = cls(frozenset(folders), container, PriorStore(container), States.of(container), {}, {}, {}, {}, {})
        for name in folders:
            try:
                stored.ids[name] = decode_ids(container.small(f"{name}/sample_id"))
            except DAMAGE as error:
                refuse_shortage(error, writer.path)
                continue
            stored.views[name] = {}
            try:
                for group in writer.views(name):
                    view, addition = view_and_addition(group)
                    if addition:
                        stored.added.setdefault(name, []).append(group)
                    else:
                        stored.views[name][view] = writer.is_sealed(name, view)
            except UnreachableError:
                raise
            except OrsanetError:
                continue
        return stored

    def has(self, segment: str, views: Sequence[str]) -> bool:
        """Whether a segment has these views, finished."""
        return bool(views) and all(self.views[segment].get(view, False) for view in views)

    def records(self, segment: str, views: Sequence[str]) -> tuple[NDArray[np.uint8], frozenset[str]]:
        """The image digests of a finished segment [n, 32], and the samples that lack values in one of the views.

        Those that lack added values are among them.
        """
        digests, gone = None, set[str]()
        for view in (*views, *self.added.get(segment, ())):
            try:
                sealed = self.segments.sealed(segment, view)
            except UnreachableError:
                raise
            except OrsanetError:  # damaged or not finished; the other views have the same digests
                continue
            digests = sealed.image_sha256
            gone |= {image for image, reason in sealed.rejected.items() if reason == GONE}
        if digests is None:  # raises for the damage
            digests = self.segments.sealed(segment, views[0]).image_sha256
        return digests, frozenset(gone)


def _first(split: str, ids: tuple[str, ...]) -> State:
    """The state of a split that is the segment of its name."""
    places = np.stack([np.zeros(len(ids), np.int64), np.arange(len(ids))], axis=1)
    return State(ids, (split,), places)


class _Rows:
    """Rows of finished segments, found by their picture's digest. The first of several is found."""

    def __init__(self, stored: _Stored, segments: Sequence[str], views: Sequence[str]) -> None:
        self.segments = segments
        digests, number, row = [np.zeros((0, 32), np.uint8)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for position, name in enumerate(segments):
            of_segment, gone = stored.records(name, views)
            usable = of_segment.any(axis=1)
            if gone:
                usable &= np.array([image not in gone for image in stored.ids[name]])
            digests.append(of_segment[usable])
            row.append(np.flatnonzero(usable))
            number.append(np.full(len(row[-1]), position))
        self._digests, self._number, self._row = np.concatenate(digests), np.concatenate(number), np.concatenate(row)
        keys = _keys(self._digests)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def find(self, digests: NDArray[np.uint8]) -> Iterator[tuple[str, int] | None]:
        """For every digest [n, 32] the segment and the row, None for a picture that is not there."""
        if not len(self._keys):
            yield from [None] * len(digests)
            return
        at = np.minimum(np.searchsorted(self._keys, _keys(digests)), len(self._keys) - 1)
        positions = self._order[at]
        same = (self._digests[positions] == digests).all(axis=1)
        for position, is_same in zip(positions.tolist(), same.tolist(), strict=True):
            yield (self.segments[self._number[position]], int(self._row[position])) if is_same else None


def _keys(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The first eight bytes of digests [n, 32], to sort and search by."""
    return np.ascontiguousarray(digests[:, :8]).view(np.uint64).reshape(-1)


Places = list[tuple[str, int]]  # of every sample: segment, row


def _mixed(images: Iterable[str]) -> list[str]:
    """Names in an order that is independent of the manifest's, and the same for the same names."""
    return sorted(images, key=lambda image: (hashlib.sha256(image.encode()).digest(), image))


class _Split:
    """A split of the manifest, and what the store has of it."""

    def __init__(
        self, stored: _Stored, split: str, samples: tuple[Sample, ...], views: Sequence[str], mix_rows: bool
    ) -> None:
        self.stored = stored
        self.mix_rows = mix_rows
        self.split = split
        self.samples = samples
        self.images = [sample.image for sample in samples]
        self.number = self._number()
        self.current = self._current()
        in_all = set(views) if self.current is None else self._sealed_in_all(self.current)
        self.known_by = tuple(sorted(in_all))  # views that a row must have to count
        self.views = tuple(views)

    def as_it_is(self) -> tuple[Meaning, Places] | None:
        """The meaning of a split that is the segment of its name, perhaps mixed, or becomes it; None otherwise."""
        ids = self.stored.ids.get(self.split)
        is_new = ids is None and self.split not in self.stored.folders  # else its list is damaged
        if is_new and any(self.stored.has(name, self.known_by) for name in self.stored.ids):
            return None
        rows, state = list(range(len(self.images))), None
        if (ids is None and is_new and self.mix_rows) or (ids is not None and list(ids) != self.images):
            order = _mixed(self.images)
            if ids is not None and list(ids) != order:
                return None
            row_of = {image: row for row, image in enumerate(order)}
            rows = [row_of[image] for image in self.images]
            state = State(tuple(self.images), (self.split,), np.array([(0, row) for row in rows], np.int64))
            ids = ids or tuple(order)
        elif ids is not None and self.mix_rows and _mixed(self.images) != self.images:
            path = self.stored.container.path
            raise OrsanetError(
                f"{path}: the rows of '{self.split}' have the manifest's order, and rows are never moved; leave out --mix-rows, or "
                f"build another store with --mix-rows --reuse {path}, which copies them"
            )
        if self.number != FIRST and not (state and self.current and state.sha256 == self.current.sha256):
            return None
        kept = 0 if is_new else len(ids or ())
        self.stored.ids.setdefault(self.split, ids or tuple(self.images))
        self.stored.views.setdefault(self.split, {})
        return Meaning(self.split, self.views, (self.split,), state, kept), [(self.split, row) for row in rows]

    def grown(self, hashes: Hashes, accept_changed: bool) -> tuple[Meaning, Places]:
        """The meaning of a split whose list of images is another one than that of its segment."""
        hashes.read(self.images, "look for known")
        digests = byte_digests([hashes.of(image) for image in self.images])
        own = [name for name in self._own() if self.stored.has(name, self.known_by)]
        others = [
            name for name in self.stored.ids if split_of(name)[0] != self.split and self.stored.has(name, self.known_by)
        ]
        begun = self._begun(set(own))
        in_begun = {image: (name, row) for name in begun for row, image in enumerate(self.stored.ids[name])}
        before = self._before(digests, hashes, accept_changed)
        in_own, in_others = (_Rows(self.stored, names, self.known_by).find(digests) for names in (own, others))
        added: dict[str, int] = {}  # image -> row of the new segment
        twice: dict[bytes, int] = {}  # digest -> that row
        name = self._new_name()
        self.stored.to_have |= dict.fromkeys((name, *begun), frozenset((*self.views, *self.known_by)))
        places: Places = []
        kept = 0
        for image, digest, *known in zip(self.images, digests, before, in_own, in_others, strict=True):
            there = known[0] or known[1] or in_begun.get(image) or known[2] or self._planned(digest)
            kept += there is not None
            if there is None:
                key = digest.tobytes() if digest.any() else image.encode()
                if key not in twice:
                    twice[key] = added[image] = len(added)
                there = name, twice[key]
            if digest.any() and (there[0] == name or there[0] in begun):
                self.stored.planned.setdefault(digest.tobytes(), there)
            places.append(there)
        if added and self.mix_rows:
            order = {image: row for row, image in enumerate(_mixed(added))}
            moved = {(name, row): (name, order[image]) for image, row in added.items()}
            places = [moved.get(place, place) for place in places]
            planned = self.stored.planned
            planned |= {digest: moved[place] for digest, place in planned.items() if place in moved}
            added = order
        if added:
            self.stored.ids[name] = tuple(added)
            self.stored.views.setdefault(name, {})
        segments = tuple(
            sorted({segment for segment, _ in places}, key=lambda one: (split_of(one)[0] != self.split, *split_of(one)))
        )
        number = {segment: position for position, segment in enumerate(segments)}
        state = State(tuple(self.images), segments, np.array([(number[one], row) for one, row in places], np.int64))
        is_first = (
            self.number == FIRST
            and segments == (self.split,)
            and self.stored.ids[self.split] == state.ids
            and np.array_equal(state.places[:, 1], np.arange(len(places)))
        )
        of_build = tuple(dict.fromkeys((*segments, *begun)))
        grows = bool(added or begun)
        views = (
            tuple(dict.fromkeys((*self.views, *self.known_by))) if grows else self.views
        )  # of old rows they are there
        return Meaning(self.split, views, of_build, None if is_first else state, kept, grows), places

    def _number(self) -> int:
        """The number of the split's state; FIRST if that cannot be read."""
        try:
            return self.stored.states.current(self.split)
        except DAMAGE as error:
            refuse_shortage(error, self.stored.container.path)
            return FIRST

    def _current(self) -> State | None:
        """What the split means in the store now; None if nothing of it is finished, or its index is damaged."""
        if self.number != FIRST:
            try:
                state = self.stored.states.read(self.stored.container, self.split, self.number)
            except DAMAGE as error:
                refuse_shortage(error, self.stored.container.path)
                return None
            return state if set(state.segments) <= self.stored.ids.keys() else None
        if not any(self.stored.views.get(self.split, {}).values()):
            return None
        return _first(self.split, self.stored.ids[self.split])

    def _sealed_in_all(self, state: State) -> set[str]:
        of_segments = [{view for view, sealed in self.stored.views[name].items() if sealed} for name in state.segments]
        return set.intersection(*of_segments)

    def _own(self) -> list[str]:
        """The segments that this split's growth made, in their order."""
        own = [name for name in self.stored.ids if split_of(name)[0] == self.split]
        return sorted(own, key=lambda name: split_of(name)[1])

    def _begun(self, finished: set[str]) -> list[str]:
        """Segments of this split that a build began and did not finish.

        Raises OrsanetError if the manifest has none of the pictures of one.
        """
        counted = set() if self.current is None else set(self.current.segments)
        begun = [name for name in self._own() if name not in finished and name not in counted]
        images = set(self.images)
        for name in begun:
            if images.isdisjoint(self.stored.ids[name]):
                path = self.stored.container.path
                raise OrsanetError(
                    f"{path}: '{name}' is not finished and was begun from another list of images, of which this manifest has none; "
                    f"finish it with that manifest first, build into another folder with `--reuse {path}`, or delete {path / name} to drop "
                    f"what is done of it:\n{listed([f'only in the store: {image}' for image in self.stored.ids[name]])}"
                )
        return begun

    def _new_name(self) -> str:
        """The name of the segment that this split grows by."""
        numbers = [split_of(name)[1] for name in self._own()]
        return segment_of(self.split, max(numbers, default=0) + 1)

    def _planned(self, digest: NDArray[np.uint8]) -> tuple[str, int] | None:
        """The row of a picture that this build computes anyway, in all views that are needed here."""
        there = self.stored.planned.get(digest.tobytes())
        return there if there is not None and self.stored.to_have[there[0]] >= set(self.known_by) else None

    def _before(self, digests: NDArray[np.uint8], hashes: Hashes, accept_changed: bool) -> list[tuple[str, int] | None]:
        """The current row of every sample that has one under its name, and is of the same picture.

        Raises OrsanetError for changed pictures without `accept_changed`.
        """
        before: list[tuple[str, int] | None] = [None] * len(self.images)
        if self.current is None:
            return before
        # A segment that is open for repair has no records; its units are compared one by one.
        records = {
            name: self.stored.records(name, self.known_by) if self.stored.has(name, self.known_by) else None
            for name in self.current.segments
        }
        place_of = dict(zip(self.current.ids, self.current.places.tolist(), strict=True))
        changed = []
        for position, image in enumerate(self.images):
            if image not in place_of:
                continue
            number, row = place_of[image]
            name = self.current.segments[number]
            of_name = records[name]
            if of_name is None:
                before[position] = name, row
                continue
            of_segment, gone = of_name
            if not np.array_equal(of_segment[row], digests[position]):
                changed.append(difference(image, set(hex_digests(of_segment[row : row + 1])), hashes))
            elif self.stored.ids[name][row] not in gone:
                before[position] = name, row
        if changed and not accept_changed:
            raise OrsanetError(
                f"{self.stored.container.path}: {len(changed)} image(s) of '{self.split}' differ from those that the store was built from; "
                f"restore them, or run `orsanet-cache build … --accept-changed`, which computes them as new ones:\n{listed(changed)}"
            )
        return before
