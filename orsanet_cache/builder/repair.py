"""Compute a store's damaged units again, and no others."""

from collections.abc import Sequence
from pathlib import Path

import torch

from orsanet_cache.builder.build import build
from orsanet_cache.data.manifest import Manifest
from orsanet_cache.errors import OrsanetError
from orsanet_cache.frozen.added import PriorNetwork
from orsanet_cache.paths import StrPath, StrPlace, as_place
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.schema import view_and_addition
from orsanet_cache.store.units import Unit, units_of
from orsanet_cache.store.verify import Damage
from orsanet_cache.weights.networks import find_networks


def repair(
    path: StrPlace,
    damage: Sequence[Damage],
    manifest: Manifest | StrPath,
    segmenter: StrPath | None = None,
    landmarks: StrPath | None = None,
    device: torch.device | str = "auto",
    networks: Sequence[PriorNetwork] = (),
) -> int:
    """Build damaged units again from the manifest's images -> number of views computed.

    The store's own recipe is used.

    Raises OrsanetError if images or weights differ from those that the store was built from.

    Args:
        path: the store, a Zarr folder or its URL.
        damage: the units, as `verify` returns them.
        manifest: the manifest or its path.
        segmenter: SegFace weights file or the word demo; None searches for the file as a build
            does.
        landmarks: MobileFaceNet weights file or the word demo; None as for `segmenter`.
        device: 'auto', 'cpu', 'cuda', 'cuda:N' or a torch.device.
        networks: networks of one's own whose fields are damaged, unless an installed package offers
            them.
    """
    path = as_place(path, "store")
    if isinstance(path, Path) and path.is_file():
        raise OrsanetError(
            f"{path}: an HDF5 file cannot be repaired in place; repair the Zarr store and convert it again"
        )
    store, segments = PriorStore.open(path), PriorStore.open_segments(path)
    recipe = store.recipe
    priors = find_networks(path, segmenter, landmarks)
    for split, view in dict.fromkeys((one.split, one.view) for one in damage):
        if not segments.all_groups(split).get(view, False):
            raise OrsanetError(
                f"{path}: view '{view}' of split '{split}' is not finished; run the same `orsanet-cache build` again, which reads "
                f"every unit back before it seals the view, and computes damaged units again"
            )
    computed = 0
    for split in dict.fromkeys(one.split for one in damage):
        units = units_of(split, len(segments.sample_ids(split)), store.rows_per_unit)
        recompute: list[tuple[Unit, str]] = []
        for one in damage:
            if one.split == split:
                recompute += [(unit, one.view) for unit in (units if one.unit is None else [one.unit])]
        views = list(dict.fromkeys(view_and_addition(view)[0] for _, view in recompute))
        summary = build(
            manifest, path, priors, views,
            device=device, splits=_splits_of(store, split), precision=recipe["precision"], feature_dtype=recipe["feature_dtype"],
            recompute=recompute, networks=networks,
        )  # fmt: skip
        computed += summary.computed + summary.added
    return computed


def _splits_of(store: PriorStore, segment: str) -> list[str]:
    """The splits that have rows in a segment. Raises OrsanetError if none has: nothing is missing there."""
    splits = [split for split in store.splits if segment in store.segments(split)]
    if not splits:
        raise OrsanetError(
            f"{store.path}: no split of the manifest that was built last has rows in '{segment}'; "
            f"`orsanet-cache compact` copies what the manifest has"
        )
    return splits
