"""PriorStore of a store that has grown: every split as its state describes it, over the rows of its segments.

Callers see what they see of any store: row n is sample n of the manifest that was built last, or of
an earlier one (`at`). A batch is read segment by segment, each row against the checksum that its
segment's seal covers.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.errors import OrsanetError, refuse_shortage
from orsanet_cache.places.copies import CacheSettings
from orsanet_cache.store.container import DAMAGE, Container, open_container, sealed_mark
from orsanet_cache.store.reader import PriorStore, WrongStateError
from orsanet_cache.store.rows import Rows
from orsanet_cache.store.seal import SealedView
from orsanet_cache.store.states import FIRST, State, States, split_of
from orsanet_cache.store.zarr_folder import Layout


class GrownStore(PriorStore):
    """Read-only access to a store whose splits may be indices over rows.

    Args:
        container: the store.
        cache: what the container was opened with.
        states: split -> the number of the state to read; the current one for other splits.
    """

    def __init__(
        self, container: Container, cache: CacheSettings | None = None, states: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(container, cache)
        self._segments = PriorStore(container, cache)
        self._numbers = dict(states or {})
        self._known = States.of(container)
        self._states: dict[str, State | None] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(name for name in super().splits if split_of(name)[1] == FIRST)

    def segments(self, split: str) -> tuple[str, ...]:
        state = self._state(split)
        return (split,) if state is None else state.segments

    def all_groups(self, split: str) -> dict[str, bool]:
        state = self._state(split)
        if state is None:
            return self._segments.all_groups(split)
        found = [self._segments.all_groups(segment) for segment in state.segments]
        return {view: all(one.get(view, False) for one in found) for view in sorted(set().union(*found))}

    def sample_ids(self, split: str) -> tuple[str, ...]:
        state = self._state(split)
        return self._segments.sample_ids(split) if state is None else state.ids

    def sealed(self, split: str, view: str) -> SealedView:
        state = self._state(split)
        if state is None:
            return self._segments.sealed(split, view)
        if (split, view) not in self._sealed:
            self._check_view(split, view)
            self._sealed[split, view] = self._gathered(split, view, state)
        return self._sealed[split, view]

    def check_unchanged(self, split: str | None = None) -> None:
        for segment in [None] if split is None else self.segments(split):
            self._segments.check_unchanged(segment)

    def at(self, seals: Mapping[str, str]) -> PriorStore:
        numbers = {}
        for split in dict.fromkeys(place.partition("/")[0] for place in seals):
            views = {place.partition("/")[2]: seal for place, seal in seals.items() if place.startswith(f"{split}/")}
            numbers[split] = self._number_with(split, views)
        return GrownStore(self._container, self.cache, numbers)

    def _number_with(self, split: str, seals: Mapping[str, str]) -> int:
        """The newest state of the split with these seals, by view."""
        self._check_split(split)
        for number in self._newest_first(split):
            store = GrownStore(self._container, self.cache, {split: number})
            try:
                sealed = store.groups(split)
                if all(view in sealed and store.sealed(split, view).seal == seal for view, seal in seals.items()):
                    return number
            except OrsanetError as error:  # a damaged state is none of those that are asked for
                refuse_shortage(error, self.path)
        raise WrongStateError(self.path, [f"{split}/{view}" for view in seals])

    def _newest_first(self, split: str) -> list[int]:
        try:
            numbers = self._known.numbers(split)
            current = self._numbers.get(split) or self._known.current(split)
        except DAMAGE as error:
            raise self._damaged(split, error) from error
        return list(dict.fromkeys([current, *reversed(numbers), FIRST]))

    def _read_rows(
        self,
        split: str,
        view: str,
        field: str,
        rows: NDArray[np.integer],
        out: NDArray[Any],
        positions: NDArray[np.integer],
    ) -> None:
        state = self._state(split)
        if state is None:
            self._segments._read_rows(split, view, field, rows, out, positions)
            return
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(state.ids):
            raise IndexError(f"row {rows.min()} or {rows.max()} of {len(state.ids)}")
        places = state.places[rows]
        for number in np.unique(places[:, 0]).tolist():
            here = places[:, 0] == number
            self._segments._read_rows(state.segments[number], view, field, places[here, 1], out, positions[here])

    def _rows_of(self, split: str, view: str, field: str) -> Rows:
        """As in PriorStore, of a segment."""
        return self._segments._rows_of(split, view, field)

    def _shards(
        self, split: str, rows: NDArray[np.int64]
    ) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.int64]]:
        state = self._state(split)
        if state is None:
            return super()._shards(split, rows)
        places = state.places[rows]
        return state.segments, places[:, 0], places[:, 1] // self.rows_per_unit

    def _state(self, split: str) -> State | None:
        """The state of a split to read; None if it is the first one, which is no index."""
        if split not in self._states:
            self._check_split(split)
            try:
                number = self._numbers.get(split) or self._known.current(split)
                self._states[split] = None if number == FIRST else self._known.read(self._container, split, number)
            except DAMAGE as error:
                refuse_shortage(error, self.path)
                raise OrsanetError(
                    f"{self.path}: the index of split '{split}' is damaged ({error}); run `orsanet-cache build` with its manifest again, "
                    f"which computes no row that the store has"
                ) from error
        return self._states[split]

    def _gathered(self, split: str, view: str, state: State) -> SealedView:
        """The records of a view in a state, gathered from its segments."""
        parts = [self._segments.sealed(segment, view) for segment in state.segments]
        by_name = dict(zip(state.segments, parts, strict=True))
        names = [self._segments.sample_ids(segment) for segment in state.segments]
        begins = np.cumsum([0, *(len(ids) for ids in names)])
        counts = np.diff(begins)
        number, row = state.places[:, 0], state.places[:, 1]
        if not (((number >= 0) & (number < len(parts))).all() and ((row >= 0) & (row < counts[number])).all()):
            raise self._damaged(split, ValueError("its index leads outside its segments"))
        rows = begins[number] + row
        reasons = [part.rejected.get(name, "") for part, ids in zip(parts, names, strict=True) for name in ids]
        layouts = [{field: (shape[1:], dtype) for field, (shape, dtype) in part.fields.items()} for part in parts]
        if any(layout != layouts[0] for layout in layouts) or any(part.network != parts[0].network for part in parts):
            raise self._damaged(f"{split}/{view}", ValueError("its segments have different fields"))
        crc32c = {field: np.concatenate([part.crc32c[field] for part in parts])[rows] for field in parts[0].fields}
        return SealedView(
            state.seal(sealed_mark(self._root), f"{split}/{view}", {name: part.seal for name, part in by_name.items()}),
            {**parts[-1].provenance, "segments": {name: part.provenance for name, part in by_name.items()}},
            {image: reasons[place] for image, place in zip(state.ids, rows.tolist(), strict=True) if reasons[place]},
            np.concatenate([part.image_sha256 for part in parts])[rows],
            np.concatenate([part.unit_sha256 for part in parts]),
            crc32c,
            {field: Layout((len(rows), *layout.shape[1:]), layout.dtype) for field, layout in parts[0].fields.items()},
            parts[0].network,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "states": self._numbers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        container = open_container(state["path"], state["cache"])
        self.__init__(container, state["cache"], state["states"])  # type: ignore[misc]
