"""Writing what splits mean in a store that has grown: states, as states.py describes them."""

import json
from collections.abc import Mapping

import numpy as np

from orsanet_cache.errors import refuse_shortage
from orsanet_cache.store.container import DAMAGE, root_mark
from orsanet_cache.store.rows import MAX_METADATA_BYTES
from orsanet_cache.store.schema import GROWN_SCHEMA, MARK, decode_ids, encode_ids
from orsanet_cache.store.states import FIRST, SPLITS, State, States, write_state
from orsanet_cache.store.zarr_folder import METADATA
from orsanet_cache.writing.written import WrittenStore
from orsanet_cache.writing.zarr_writer import group_document, small_content, small_file


def write_states(store: WrittenStore, states: Mapping[str, State]) -> tuple[str, ...]:
    """Make `states` those that count for their splits -> the splits that had others.

    All their segments are sealed. Their arrays are written first, and then the root's attributes,
    in one file. So a kill leaves the states before, of all splits.
    """
    with store.to.locked():
        while True:
            document = store.to.files.read(METADATA, MAX_METADATA_BYTES)
            root = json.loads(document)["attributes"]
            known = before = States(dict(root.get(SPLITS, {})))
            changed = []
            for split, state in states.items():
                number = _number(store, before, split, state)
                if number == before.current(split) and _is_whole(store, before, split, number):
                    continue
                if number != FIRST:
                    store.files.group(split, {})
                    number = number if number in before.numbers(split) else _free(store, split, number, state)
                    write_state(store.files, split, number, state)
                known = known.with_state(split, number, None if number == FIRST else state)
                changed.append(split)
            if not changed:
                return ()
            mark = root_mark(root[MARK]["recipe"], root[MARK]["rows_per_unit"], GROWN_SCHEMA)
            grown = group_document({**root, MARK: mark, SPLITS: known.by_split})
            if store.to.exchange(METADATA, document, [grown]):
                return tuple(changed)


def _free(store: WrittenStore, split: str, number: int, state: State) -> int:
    """A number for a new state, which no other process has taken for another one."""
    ids = encode_ids(state.ids)
    while not all(
        store.to.claim(small_file(array, values), small_content(values))
        for array, values in ((f"{split}/sample_id.{number}", ids), (f"{split}/row.{number}", state.places))
    ):
        number += 1
    return number


def _number(store: WrittenStore, known: States, split: str, state: State) -> int:
    """The number that a state of a split has, or gets."""
    if state.segments == (split,):
        ids = decode_ids(store.container.small(f"{split}/sample_id"))
        if state.ids == ids and np.array_equal(state.places[:, 1], np.arange(len(ids))):
            return FIRST
    numbers = known.numbers(split)
    same = [number for number in numbers if known.by_split[split]["states"][str(number)]["sha256"] == state.sha256]
    return same[0] if same else max(numbers, default=FIRST) + 1


def _is_whole(store: WrittenStore, known: States, split: str, number: int) -> bool:
    """Whether a state can be read."""
    try:
        return number == FIRST or bool(known.read(store.container, split, number).ids)
    except DAMAGE as error:
        refuse_shortage(error, store.path)
        return False
