"""Ablations: trainings with one thing changed at a time, over several seeds, and a table of them.

    OUT/<variant>/seed-<n>/   a run folder with its evaluation
    OUT/ablation.csv, .md     the tables (table.py)

What the variants change is in variants.py. All but one use the same store; `native-landmarks` has a
second one. The variant `online-published` changes its landmark network in training, so it is
evaluated on a store of its own, RUN/store.zarr, which is built here. Finished epochs are kept:
another call, with the same or with further variants and seeds, trains only what is missing. Several
processes may share OUT, each with its own variants or seeds; the last to end writes the table of
all.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from orsanet_cache.builder.build import build
from orsanet_cache.data.manifest import Manifest, as_manifest
from orsanet_cache.data.views import CLEAN
from orsanet_cache.device import as_device
from orsanet_cache.durable import read_json
from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.frozen.loading import Weights
from orsanet_cache.outputs import held
from orsanet_cache.paths import StrPath, StrPlace, as_names, as_path
from orsanet_cache.store.reader import PriorStore, as_store
from orsanet_cache.store.recipe import recipe_differences
from orsanet_train.config import RunConfig, load_config
from orsanet_train.engine.distributed import ONE
from orsanet_train.evaluation.evaluate import evaluate, is_evaluated
from orsanet_train.evaluation.groups import Group
from orsanet_train.experiments.table import LAST, check_tables, run_folders
from orsanet_train.experiments.variants import (
    SETS,
    chosen_variants,
    landmark_variant,
    recipe_of,
    set_of,
    settings_of,
    varied_keys,
)
from orsanet_train.feed.residence import Resident
from orsanet_train.feed.split import join, meant_splits, selection_split, training_split
from orsanet_train.run.train import train


def ablate(
    manifest: Manifest | StrPath,
    store: PriorStore | StrPlace,
    out: StrPath,
    *,
    preset: str,
    overrides: Sequence[str] = (),
    variants: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    groups: Sequence[str] = ("test", "test:occluded"),
    device: torch.device | str = "auto",
    landmark_store: PriorStore | StrPlace | None = None,
    frozen_weights: tuple[StrPath | None, StrPath | None] = (None, None),
    ir50: Weights | StrPath | None = None,
    resident: Resident = "auto",
) -> Iterator[str]:
    """Train and evaluate every variant with every seed; yields each run's name before it starts.

    Args:
        manifest: a loaded manifest or its path.
        store: an opened store or its path.
        out: the folder of the runs.
        preset: a preset's name or a TOML file.
        overrides: `key=value` settings of every run.
        variants: names of variants of one set, or the set's name; None: all parts that the stores
            allow.
        seeds: every variant is trained once with each.
        groups: splits, tags and views to evaluate, as for `evaluate`.
        device: "auto", "cpu", "cuda", "cuda:N" or a torch.device.
        landmark_store: a store of the same images whose recipe differs from the store's only in
            landmarks.input. It adds the variant of that input.
        frozen_weights: the segmenter's and the landmark network's files, for the online variants.
        ir50: initial weights of every run's backbone, their file, or demo; None: random weights.
        resident: where the data is kept: "auto", "device", "host" or "stream".

    Raises OrsanetError for a variant that does not exist or lacks its store, its views or its
    networks, for runs or tables in `out` that do not belong there, and for the errors of `train` and
    `evaluate`.
    """
    manifest, store, out = as_manifest(manifest), as_store(store), as_path(out, "out")
    landmark_store = None if landmark_store is None else as_store(landmark_store)
    segmenter, landmarks = (None if path is None else as_path(path, "frozen_weights") for path in frozen_weights)
    overrides, groups = as_names(overrides, "overrides"), as_names(groups, "groups")
    names = None if variants is None else as_names(variants, "variants")
    variants = chosen_variants(names, load_config(preset, overrides).model, store, landmark_store)
    stores = dict.fromkeys(variants, store)
    if landmark_store is not None and landmark_variant(store) in variants:
        stores[landmark_variant(store)] = landmark_store
    check_tables(out)
    _check_settings(out, preset, overrides, manifest, store, set_of(variants[0]))
    chosen = [Group.parse(group).among(manifest.splits) for group in groups]
    for used in {id(one): one for one in stores.values()}.values():
        for group in chosen:  # a typo is reported before the first training
            join(manifest, used, group.split, [group.view], group.tag)
    for variant in variants:
        config = meant_splits(config_of(variant, preset, overrides, 0), manifest)
        _check_possible(config, manifest, stores[variant], (segmenter, landmarks))
    if landmark_store is not None:
        config = meant_splits(load_config(preset, overrides), manifest)
        parts = [training_split(config, manifest, store), selection_split(config, manifest, store)]
        views = [(part.name, view) for part in parts for view in part.views]
        _check_landmark_store(store, landmark_store, [*views, *((group.split, group.view) for group in chosen)])
    with held(out, shared=True):
        for seed in seeds:  # the outer loop: after an interruption every variant has the same seeds
            for variant in variants:
                run = out / variant / f"seed-{seed}"
                config = config_of(variant, preset, overrides, seed)
                yield f"{variant}, seed {seed}"
                begun = (run / "run.json").is_file()
                train(
                    config, manifest, stores[variant], run,
                    device=device, ir50=ir50, resume=begun, resident=resident, frozen_weights=(segmenter, landmarks),
                )  # fmt: skip
                used = stores[variant]
                if (config.priors, config.online) == ("online", "published"):
                    used = _store_of_run(run, manifest, store, chosen, segmenter, device)
                weights = run / "last.safetensors"
                if not is_evaluated(weights, manifest, used, run / LAST, groups):
                    evaluate(weights, manifest, used, run / LAST, groups=groups, device=device, resident=resident)
                # Of another process too, which may have begun at the same moment as this one.
                _check_settings(out, preset, overrides, manifest, store, set_of(variant))


def config_of(variant: str, preset: str, overrides: Sequence[str], seed: int) -> RunConfig:
    """The configuration of a run of the variant."""
    return load_config(preset, [*overrides, *settings_of(variant), f"seed={seed}"])


def _check_possible(
    config: RunConfig, manifest: Manifest, store: PriorStore, frozen_weights: tuple[Path | None, Path | None]
) -> None:
    """Raises OrsanetError, before the first training, for what a variant's own training would be refused for."""
    training = training_split(config, manifest, store)
    if config.priors == "online":
        # Imported only here: the frozen networks need torchvision, which takes seconds to import.
        from orsanet_train.reference.network import check_batches, frozen_networks

        check_batches(config, training, ONE)
        frozen_networks(frozen_weights, store, config.online)


def _store_of_run(
    run: Path,
    manifest: Manifest,
    store: PriorStore,
    groups: Sequence[Group],
    segmenter: Path | None,
    device: torch.device | str,
) -> PriorStore:
    """The groups' views, built with the landmark network that the run's training changed, otherwise like `store`."""
    from orsanet_cache.data.images import image_reading
    from orsanet_cache.frozen.priors import FrozenPriors
    from orsanet_cache.frozen.shipped import weights_path

    assert segmenter is not None  # the training had it
    out, recipe = run / "store.zarr", store.recipe
    networks = FrozenPriors.load(
        weights_path(segmenter, "segmenter"), run / "last-landmarks.safetensors", recipe["landmarks"]["input"]
    )
    for split in dict.fromkeys(group.split for group in groups):
        views = dict.fromkeys([CLEAN, *(group.view for group in groups if group.split == split)])
        build(
            manifest, out, networks, list(views),
            device=as_device(device), splits=[split], precision=recipe["precision"], feature_dtype=recipe["feature_dtype"],
            image_reading=image_reading(recipe),
        )  # fmt: skip
    return PriorStore.open(out)


def _check_landmark_store(store: PriorStore, other: PriorStore, views: Sequence[tuple[str, str]]) -> None:
    """Raises OrsanetError unless the stores differ only in the landmark network's input.

    The rest of the recipe must be equal, and the pictures of every (split, view) too.
    """
    wanted = recipe_of(landmark_variant(store), store)
    if found := list(recipe_differences(wanted, other.recipe)):
        raise OrsanetError(
            f"--landmark-store {other.path}: must differ from {store.path} in landmarks.input alone; build it with the same weights and "
            f"options (before: required, now: found):\n{listed(found)}"
        )
    for split, view in dict.fromkeys(views):
        ours, others = (_pictures(one, split, view) for one in (store, other))
        if changed := [image for image in ours | others if ours.get(image) != others.get(image)]:
            raise OrsanetError(
                f"--landmark-store {other.path}: other pictures than in {store.path}, split '{split}', view {view}; build it from the same "
                f"images, and leave views with occluders out of --splits, because each store places them by its own landmarks:\n{listed(changed)}"
            )


def _pictures(store: PriorStore, split: str, view: str) -> dict[str, int]:
    """Checksum of every usable picture of a split in a view."""
    sealed = store.sealed(split, view)
    checksums = zip(store.sample_ids(split), sealed.crc32c["image"].tolist(), strict=True)
    return {image: checksum for image, checksum in checksums if image not in sealed.rejected}


def _check_settings(
    out: Path, preset: str, overrides: Sequence[str], manifest: Manifest, store: PriorStore, name: str
) -> None:
    """Raises OrsanetError if `overrides` set a key of the set `name` of variants, or if existing runs do not match.

    Existing runs in `out` must have the same settings and data, except for what their variant
    changes. Their number of epochs may differ; the table then has a warning.
    """
    if taken := sorted(varied_keys(name) & {override.split("=")[0].strip() for override in overrides}):
        raise OrsanetError(f"--set {', '.join(taken)}: the variants and --seeds set these keys; leave them out")
    trained: dict[tuple[str, ...], str] = {}  # digest of the training images, by the views that are read
    for variant, seed, run in run_folders(out):
        if variant not in (*SETS[name], *((landmark_variant(store),) if name == "parts" else ())):
            raise OrsanetError(f"{run}: with {store.path} no variant has this name (set '{name}'); use another --out")
        wanted = meant_splits(config_of(variant, preset, overrides, seed), manifest)
        views = wanted.augmentation.read_views
        if views not in trained:
            trained[views] = training_split(wanted, manifest, store).sha256()
        data = {
            "classes": list(manifest.classes),
            "store": recipe_of(variant, store),
            "training_images_sha256": trained[views],
        }
        before = load_config(str(run / "config.toml")).model_copy(update={"epochs": wanted.epochs})
        here = {key: read_json(run / "run.json").get(key) for key in data}
        found = [
            *recipe_differences(before.model_dump(mode="json"), wanted.model_dump(mode="json")),
            *recipe_differences(here, data),
        ]
        if found:
            raise OrsanetError(
                f"{run}: trained with other settings or data; pass the run's own, or use another --out:\n{listed(found)}"
            )
