"""Detect images that changed since a store was built, and mark units to compute again."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.builder.hashes import Hashes
from orsanet_cache.builder.layout import GONE, Layout
from orsanet_cache.builder.placing import begin, is_placed
from orsanet_cache.data.views import CLEAN
from orsanet_cache.errors import OrsanetError, UnreachableError, listed
from orsanet_cache.store.schema import view_and_addition
from orsanet_cache.store.seal import byte_digests, hex_digests
from orsanet_cache.store.units import Unit
from orsanet_cache.writing.writer import StoreWriter


def treat_changed(
    writer: StoreWriter,
    layout: Layout,
    own: Sequence[Unit],
    accept: bool,
    damaged: set[tuple[str, str]],
) -> None:
    """Refuse images that changed since the store was built, or uncommit their units in every view.

    Raises OrsanetError for changed images without `accept`.

    Args:
        writer: the store's writer.
        layout: the images as they are now.
        own: this part's units; other units are not checked.
        accept: uncommit the units of changed images instead of raising an error.
        damaged: (split, view) pairs whose image digests may be unreadable.
    """
    changed = _changed_images(writer, layout, own, damaged)
    if changed and not accept:
        found = [f"{unit.split}: {text}" for unit, texts in changed.items() for text in texts]
        rows = sum(unit.stop - unit.start for unit in changed)
        raise OrsanetError(
            f"{writer.path}: {len(found)} image(s) differ from those that the store was built from; restore them, or run "
            f"`orsanet-cache build … --accept-changed`, which computes their {len(changed)} unit(s) again ({rows:,} images):\n{listed(found)}"
        )
    take_back(writer, [(unit, view) for unit in changed for view in writer.views(unit.split)])


def take_back_returned(writer: StoreWriter, layout: Layout, own: Sequence[Unit]) -> None:
    """Uncommit units that were computed while the manifest lacked a picture that it has again.

    Only units of unfinished views: of a finished one, such a picture gets a row of its own.
    """
    for segment in layout.segments.values():
        for view in writer.views(segment.name):
            if writer.is_sealed(segment.name, view):
                continue
            mine = {unit for unit in own if unit.split == segment.name}
            if not mine:
                continue
            for unit, marker in writer.markers(segment.name, view):
                if unit not in mine:
                    continue
                gone = {} if marker is None else marker.record.rejected
                pictures = zip(layout.samples(unit), layout.files(unit), strict=True)
                if any(gone.get(sample.image) == GONE and file is not None for sample, file in pictures):
                    writer.uncommit([unit], view)


def take_back(writer: StoreWriter, units: Sequence[tuple[Unit, str]]) -> list[tuple[str, str]]:
    """Uncommit units of views -> the placed views (split, view) among them that were sealed.

    A unit of a clean view is uncommitted together with the units that its landmarks place.
    """
    follow = [(unit, view) for unit, of_view in units if of_view == CLEAN for view in writer.views(unit.split)]
    # Placed views first: if this is interrupted, no unit remains whose landmarks will be replaced.
    units = sorted(
        dict.fromkeys([*units, *(one for one in follow if is_placed(one[1]))]), key=lambda one: not is_placed(one[1])
    )
    sealed = []
    for split, view in dict.fromkeys((unit.split, view) for unit, view in units):
        if is_placed(view) and not view_and_addition(view)[1]:
            sealed += [(split, view)] if writer.is_sealed(split, view) else []
            begin(writer, split, view)
        writer.uncommit([unit for unit, of_view in units if (unit.split, of_view) == (split, view)], view)
    return sealed


def _changed_images(
    writer: StoreWriter, layout: Layout, own: Sequence[Unit], damaged: set[tuple[str, str]]
) -> dict[Unit, list[str]]:
    """Units whose image files have changed -> one description per changed image."""
    known: dict[Unit, list[NDArray[np.uint8]]] = {unit: [] for unit in own}
    for split in dict.fromkeys(unit.split for unit in own):
        for view in writer.views(split):
            try:
                of_view = writer.image_sha256(split, view)
            except UnreachableError:
                raise
            except OrsanetError:
                if (split, view) not in damaged:
                    raise
                continue
            for unit, digests in of_view.items():
                if unit in known:
                    known[unit].append(digests)

    finished = {unit: of_views for unit, of_views in known.items() if of_views}
    images = {unit: layout.files(unit) for unit in finished}
    layout.hashes.read([image for of_unit in images.values() for image in of_unit if image is not None], "check images")
    changed: dict[Unit, list[str]] = {}
    for unit, of_views in finished.items():
        now = ["" if image is None else layout.hashes.of(image) for image in images[unit]]
        if all(np.array_equal(digests, byte_digests(now)) for digests in of_views):
            continue
        before = [set(of_image) for of_image in zip(*map(hex_digests, of_views), strict=True)]
        texts = [
            difference(image, digests, layout.hashes)
            for image, digests in zip(images[unit], before, strict=True)
            if image is not None
        ]
        if found := [text for text in texts if text]:
            changed[unit] = found
    return changed


def difference(image: str, before: set[str], hashes: Hashes) -> str:
    """How an image differs from what it was: its digests before, in hex. Empty if it does not."""
    now = hashes.of(image)
    if before == {now}:
        return ""
    return f"{image!r}: " + ("cannot be read now" if not now else "changed" if "" not in before else "can be read now")
