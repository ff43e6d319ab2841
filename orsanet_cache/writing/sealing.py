"""Sealing a view whose units are all committed, and opening a sealed one again.

    every unit's marker ─ shards still as committed ─ fold ─▶ records ─▶ seal ─▶ the markers are deleted
    seal ─ unfold ─▶ every unit's marker, but those of units that are taken back

In a folder every shard is read back before it is sealed. An object store's listing has an e_tag of
every object: shards with the e_tag in their marker are not read back. There another process may
take units back while a view is sealed, so the listing is compared once more after the seal.
"""

from collections.abc import Mapping
from typing import Any

from orsanet_cache.errors import OrsanetError, UnreachableError
from orsanet_cache.store.seal import fold, sealed_attributes, unfold, write_records
from orsanet_cache.store.units import Marker, Unit, marker_folder, marker_name
from orsanet_cache.writing.written import WrittenStore


def seal_view(store: WrittenStore, split: str, view: str, provenance: Mapping[str, Any]) -> list[Unit]:
    """Seal a complete view unless units are damaged -> the damaged units.

    Shards are read back, except objects that have the e_tag with which they were committed.
    `provenance` is recorded with the seal and not covered by it.
    """
    folder = marker_folder(split, view)
    with store.to.sealing():
        if store.is_sealed(split, view):
            return _end_sealing(store, split, view)
        stamps = store.to.stamps(folder)
        files = store.marked.look(split, view)
        markers: dict[Unit, Marker] = {}
        for unit, found in store.marked.markers(files, store.units(split), view):
            # An object that is not listed yet has a name all the same.
            marker = store.marker(unit, view) if found is None and not store.to.excludes else found
            if marker is None:
                return []
            markers[unit] = marker
        damaged = store.marked.differing(files, view, markers)
        if damaged:
            return sorted(damaged)
        with store.to.locked():
            # If another process uncommitted units meanwhile, that process seals the view. To read all
            # markers again would keep the others waiting: a marker's file is never changed, only replaced.
            if store.to.stamps(folder) != stamps:
                return []
            sealed = fold(store.container, split, view, list(markers.values()), provenance)
            write_records(store.files, split, view, sealed)
            store.files.group(f"{split}/{view}", sealed_attributes(split, view, sealed))
            if not store.to.excludes and (changed := store.marked.changed(files, stamps, view, markers)) is not None:
                store.files.group(f"{split}/{view}", store.unsealed(view))
                return changed
            store.to.delete_folder(folder)
        return []


def _end_sealing(store: WrittenStore, split: str, view: str) -> list[Unit]:
    """Delete what is left of a sealed view's markers, unless units are damaged -> the damaged units."""
    if not store.to.excludes:
        files = store.marked.look(split, view)
        # Those without an e_tag are of an interrupted `unseal_view`.
        found = {
            unit: marker
            for unit, marker in store.marked.markers(files, store.units(split), view)
            if marker is not None and all("e_tag" in shard for shard in marker.shards.values())
        }
        if damaged := store.marked.differing(files, view, found):
            return sorted(damaged)
    with store.to.locked():
        store.to.delete_folder(marker_folder(split, view))
    return []


def unseal_view(store: WrittenStore, split: str, view: str, but: set[int]) -> None:
    """Turn a seal back into markers of all units except `but`, or of none if it is damaged.

    The markers have no e_tags, so the shards are read back before they are sealed again.
    """
    try:
        sealed = store.segments().sealed(split, view)
    except UnreachableError:
        raise
    except OrsanetError:
        sealed = None
    if sealed is not None:
        sizes = store.marked.sizes(split, view, sealed.fields)
        store.to.publish_all(
            (
                marker_name(unit, view),
                [unfold(sealed, unit, store.ids[split][unit.rows], sizes(unit)).encode(unit, view)],
            )
            for unit in store.units(split)
            if unit.index not in but
        )
    store.files.group(f"{split}/{view}", store.unsealed(view))
