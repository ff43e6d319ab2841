"""Ablations: trainings with one thing changed at a time, over several seeds, and a table of them.

    OUT/<variant>/seed-<n>/   a run folder with its evaluation      OUT/ablation.csv   one row per run and group
    OUT/ablation.md           mean and standard deviation over the seeds, and the difference from `full`, seed by seed

All variants but one use the same store. A store is built with one input of the landmark network, so
the variant with the other input has a second store. Finished epochs are kept: another call, with
the same or with further variants and seeds, trains only what is missing. Several processes may share
OUT, each with its own variants or seeds; the last to end writes the table of all.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from orsanet_cache.data.manifest import Manifest, as_manifest
from orsanet_cache.durable import read_json, write_all
from orsanet_cache.errors import OrsanetError, did_you_mean, listed
from orsanet_cache.frozen.loading import Weights
from orsanet_cache.outputs import check_file, held, lock_file, read_steadily
from orsanet_cache.paths import StrPath, as_names, as_path
from orsanet_cache.store.reader import PriorStore, as_store
from orsanet_cache.store.recipe import recipe_differences
from orsanet_cache.streams import printable
from orsanet_train.config import load_config
from orsanet_train.evaluation.compare import seed_folders
from orsanet_train.evaluation.evaluate import evaluate
from orsanet_train.evaluation.groups import Group
from orsanet_train.evaluation.predictions import EVALUATION, Evaluation
from orsanet_train.evaluation.statistics import t_interval
from orsanet_train.feed.residence import Resident
from orsanet_train.feed.split import join, meant_splits, selection_split, training_split
from orsanet_train.model_config import ModelConfig
from orsanet_train.run.train import train

# The rows of the paper's Table 6 ("cross-interaction" in both of its readings), less than these, then the forms in which paper and
# published code differ, and POSTER's. A model has the variants whose keys its kind has.
VARIANTS: dict[str, tuple[str, ...]] = {
    "full": (),
    "no-segmentation": ("model.segmentation_prior=none",),
    "no-cross-interaction": ("model.cross_interaction=false",),
    "no-mcm": ("model.mcm=false",),
    "single-scale": ("model.multi_scale=false",),
    "no-reintegration": ("model.landmark_reintegration=false",),
    "no-dare": ("loss.dare=none",),
    "no-landmarks": ("model.landmark_prior=none",),
    "backbone-only": ("model.segmentation_prior=none", "model.mcm=false"),
    "map": ("model.segmentation_prior=map",),
    "spatial": ("model.tokens=spatial",),
    "spatial-map": ("model.tokens=spatial", "model.segmentation_prior=map"),
    "spatial-no-segmentation": ("model.tokens=spatial", "model.segmentation_prior=none"),
    "paper-spade": ("model.spade=paper",),
    "projected-query": ("model.query=projected",),
    "paper-dare": ("loss.dare=paper",),
    "no-mixing": ("model.mixing=false",),
    "plain-residual": ("model.residual=plain",),
}
# `full`, trained on the second store, by the input of the landmark network there.
LANDMARK_VARIANTS = {"native": "native-landmarks", "published": "published-landmarks"}
LAST = "evaluation-last"  # of the last checkpoint, which is not chosen by any result
RUNS, TABLE = "ablation.csv", "ablation.md"
_BEGINS = {RUNS: rb"variant,seed,epochs,group,", TABLE: rb"\| variant \| seeds \|"}
LEAST_SEEDS = 3  # for an interval: that of two seeds is about ten times as wide as their spread


def ablate(
    manifest: Manifest | StrPath,
    store: PriorStore | StrPath,
    out: StrPath,
    *,
    preset: str,
    overrides: Sequence[str] = (),
    variants: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    groups: Sequence[str] = ("test", "test:occluded"),
    device: torch.device | str = "auto",
    landmark_store: PriorStore | StrPath | None = None,
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
        variants: names from VARIANTS and LANDMARK_VARIANTS; None: all that the stores allow and the
            preset's kind of model has.
        seeds: every variant is trained once with each.
        groups: splits, tags and views to evaluate, as for `evaluate`.
        device: "auto", "cpu", "cuda", "cuda:N" or a torch.device.
        landmark_store: a store of the same images whose recipe differs from the store's only in
            landmarks.input. It adds the variant of that input.
        ir50: initial weights of every run's backbone, their file, or demo; None: random weights.
        resident: where the data is kept: "auto", "device", "host" or "stream".

    Raises OrsanetError for a variant that does not exist or has no store, for runs or tables in
    `out` that do not belong there, and for the errors of `train` and `evaluate`.
    """
    manifest, store, out = as_manifest(manifest), as_store(store), as_path(out, "out")
    landmark_store = None if landmark_store is None else as_store(landmark_store)
    overrides, groups = as_names(overrides, "overrides"), as_names(groups, "groups")
    variants = None if variants is None else as_names(variants, "variants")
    model = load_config(preset, overrides).model
    stores = {name: each for name, each in stores_of_variants(store, landmark_store).items() if _fits(name, model)}
    variants = list(stores) if variants is None else variants
    _check_variants(variants, model, store, landmark_store)
    _check_tables(out)
    _check_settings(out, preset, overrides, manifest, store)
    config = meant_splits(load_config(preset, overrides), manifest)
    chosen = [Group.parse(group).among(manifest.splits) for group in groups]
    for used in {id(stores[variant]): stores[variant] for variant in variants}.values():
        for group in chosen:  # a typo is reported before the first training
            join(manifest, used, group.split, [group.view], group.tag)
    if landmark_store is not None:
        parts = [training_split(config, manifest, store), selection_split(config, manifest, store)]
        views = [(part.name, view) for part in parts for view in part.views]
        _check_landmark_store(store, landmark_store, [*views, *((group.split, group.view) for group in chosen)])
    with held(out, shared=True):
        for seed in seeds:  # the outer loop: after an interruption every variant has the same seeds
            for variant in variants:
                run = out / variant / f"seed-{seed}"
                config = load_config(preset, [*overrides, *_changes(variant), f"seed={seed}"])
                yield f"{variant}, seed {seed}"
                begun = (run / "run.json").is_file()
                train(config, manifest, stores[variant], run, device=device, ir50=ir50, resume=begun, resident=resident)
                weights = run / "last.safetensors"
                evaluate(
                    weights, manifest, stores[variant], run / LAST, groups=groups, device=device, resident=resident
                )
                # Of another process too, which may have begun at the same moment as this one.
                _check_settings(out, preset, overrides, manifest, store)


def stores_of_variants(store: PriorStore, landmark_store: PriorStore | None) -> dict[str, PriorStore]:
    """The variants that can be trained with these stores, each with its own."""
    stores = dict.fromkeys(VARIANTS, store)
    return stores if landmark_store is None else {**stores, _landmark_variant(store): landmark_store}


def _changes(variant: str) -> tuple[str, ...]:
    """Overrides of the configuration; the landmark variants change the store instead."""
    return VARIANTS.get(variant, ())


def _fits(variant: str, model: ModelConfig) -> bool:
    """Whether the kind of model has the keys that the variant changes."""
    keys = (change.partition("=")[0] for change in _changes(variant))
    tables = (key.rpartition(".") for key in keys)
    return all(table != "model" or leaf in type(model).model_fields for table, _, leaf in tables)


def _landmark_variant(store: PriorStore) -> str:
    """The variant that a second store with the other landmark input makes possible."""
    fed = store.recipe["landmarks"]["input"]
    return next(variant for other, variant in LANDMARK_VARIANTS.items() if other != fed)


def _check_variants(
    variants: Sequence[str], model: ModelConfig, store: PriorStore, landmark_store: PriorStore | None
) -> None:
    possible = _landmark_variant(store)
    names = (*(variant for variant in VARIANTS if _fits(variant, model)), possible)
    if unknown := [variant for variant in variants if variant not in names]:
        raise OrsanetError(
            f'no variant {", ".join(unknown)} with {store.path} and model.kind = "{model.kind}"; choose from {", ".join(names)}{did_you_mean(unknown[0], names)}'
        )
    if possible in variants and landmark_store is None:
        fed = next(fed for fed, variant in LANDMARK_VARIANTS.items() if variant == possible)
        raise OrsanetError(
            f"variant {possible} needs a second store, otherwise like {store.path}; build it with `orsanet-cache build MANIFEST --out NEW "
            f"--segmenter … --landmarks … --landmark-input {fed}`, then pass --landmark-store NEW"
        )


def _check_landmark_store(store: PriorStore, other: PriorStore, views: Sequence[tuple[str, str]]) -> None:
    """Raises OrsanetError unless the stores differ only in the landmark network's input.

    The rest of the recipe must be equal, and the pictures of every (split, view) too.
    """
    wanted = _recipe_of(_landmark_variant(store), store)
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


def _recipe_of(variant: str, store: PriorStore) -> dict[str, Any]:
    """The recipe that a variant's store must have, given the store of the other variants."""
    recipe = store.recipe
    for fed, landmark_variant in LANDMARK_VARIANTS.items():
        if variant == landmark_variant:
            recipe["landmarks"] = {**recipe["landmarks"], "input": fed}
    return recipe


def _pictures(store: PriorStore, split: str, view: str) -> dict[str, int]:
    """Checksum of every usable picture of a split in a view."""
    sealed = store.sealed(split, view)
    checksums = zip(store.sample_ids(split), sealed.crc32c["image"].tolist(), strict=True)
    return {image: checksum for image, checksum in checksums if image not in sealed.rejected}


def _check_settings(out: Path, preset: str, overrides: Sequence[str], manifest: Manifest, store: PriorStore) -> None:
    """Raises OrsanetError if `overrides` set a variant's key, or if existing runs do not match.

    Existing runs in `out` must have the same settings and data, except for what their variant
    changes. Their number of epochs may differ; the table then has a warning.
    """
    varied = {"seed", *(override.split("=")[0] for changes in VARIANTS.values() for override in changes)}
    if taken := sorted(varied & {override.split("=")[0].strip() for override in overrides}):
        raise OrsanetError(f"--set {', '.join(taken)}: the variants and --seeds set these keys; leave them out")
    training = training_split(meant_splits(load_config(preset, overrides), manifest), manifest, store)
    for variant, seed, run in _runs(out):
        if variant not in (*VARIANTS, _landmark_variant(store)):
            raise OrsanetError(f"{run}: with {store.path} no variant has this name; use another --out")
        data = {
            "classes": list(manifest.classes),
            "store": _recipe_of(variant, store),
            "training_images_sha256": training.sha256(),
        }
        wanted = meant_splits(load_config(preset, [*overrides, *_changes(variant), f"seed={seed}"]), manifest)
        before = load_config(str(run / "config.toml")).model_copy(update={"epochs": wanted.epochs})
        here = {name: read_json(run / "run.json").get(name) for name in data}
        found = [
            *recipe_differences(before.model_dump(mode="json"), wanted.model_dump(mode="json")),
            *recipe_differences(here, data),
        ]
        if found:
            raise OrsanetError(
                f"{run}: trained with other settings or data; pass the run's own, or use another --out:\n{listed(found)}"
            )


def collect(out: Path) -> pd.DataFrame:
    """A table of every finished run below `out`.

    Columns: variant, seed, epochs, group, images, then shares: accuracy, balanced accuracy, and the
    accuracy of always predicting the commonest class.
    """
    rows = []
    for variant, seed, run in _runs(out):
        if not (run / LAST / EVALUATION).is_file():
            continue
        evaluation = read_steadily(run / LAST, Evaluation.read)
        rows += [
            {
                "variant": variant,
                "seed": seed,
                "epochs": evaluation.checkpoint.epoch,
                "group": group.name,
                "images": group.images,
                "accuracy": group.accuracy.value,
                "balanced_accuracy": group.balanced_accuracy.value,
                "commonest_class": group.commonest_share,
            }
            for group in evaluation.groups
        ]
    return pd.DataFrame(rows)


def _runs(out: Path) -> Iterator[tuple[str, int, Path]]:
    """Variant, seed and folder of every run that has begun."""
    for variant in sorted(out.glob("*/")):
        for seed, run in seed_folders(variant).items():
            if (run / "run.json").is_file():
                yield variant.name, seed, run


def summary(runs: pd.DataFrame) -> str:
    """The table as Markdown.

    Per variant and group it has the accuracy as mean ± standard deviation over the seeds, in per
    cent; the mean difference from `full`, seed by seed, in points; and its 95 % t interval if there
    are three seeds. Below it are the accuracies of always predicting the commonest class, and a
    warning if the runs were not trained for the same number of epochs.
    """
    order = [name for name in (*VARIANTS, *LANDMARK_VARIANTS.values()) if name in set(runs["variant"])]
    groups = list(dict.fromkeys(runs["group"]))
    header = ["variant", "seeds", *(column for group in groups for column in (group, "− full"))]
    per_cent = runs.pivot(index="seed", columns=["variant", "group"], values="accuracy").mul(100)
    lines = []
    for variant in order:
        cells = [variant, str(runs.loc[runs["variant"] == variant, "seed"].nunique())]
        for group in groups:
            accuracy, full = (
                per_cent.get((name, group), pd.Series(dtype=float)).dropna() for name in (variant, "full")
            )
            difference = (accuracy - full).dropna()
            cells += [_spread(accuracy), "" if variant == "full" else _difference(difference)]
        lines.append(cells)
    rows = [header, ["---"] * len(header), *lines]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
    table += (
        "\nAccuracy in per cent of the last checkpoint, mean ± sample standard deviation over the seeds. "
        "− full: difference in points, seed by seed.\n"
    )
    commonest = runs.groupby("group", sort=False)["commonest_class"].first()
    beside = "; ".join(f"{group} {_spread(100 * commonest[[group]])}" for group in groups)
    table += f"Always the commonest class of these images: {beside}.\n"
    if any(cell.endswith(")") for cells in lines for cell in cells):
        table += (
            "In brackets: 95 % t interval of the mean difference over training seeds, for the same images. The intervals are not corrected "
            "for their number: one in twenty excludes 0 by chance.\n"
        )
    if runs["epochs"].nunique() > 1:
        counts = ", ".join(map(str, sorted(set(runs["epochs"]))))
        table += f"\nNot comparable yet: these runs have {counts} epochs. Run again with every variant and seed.\n"
    return table


def write_summary(out: Path) -> str:
    """Write ablation.csv and ablation.md of every finished run, and return the table.

    Raises OrsanetError if one of them is another file.
    """
    with lock_file(out / ".orsanet-table", wait=True):  # of processes that end together, the last has all runs
        _check_tables(out)
        runs = collect(out)
        table = summary(runs)
        write_all(
            {
                out / RUNS: lambda path: runs.to_csv(path, index=False),
                out / TABLE: lambda path: path.write_text(printable(table), encoding="utf-8"),
            }
        )
    return table


def _check_tables(out: Path) -> None:
    for name, pattern in _BEGINS.items():
        check_file(out / name, pattern, "a table of `orsanet-train ablate`")


def _spread(values: "pd.Series[float]", form: str = ".2f") -> str:
    if values.empty:
        return ""
    mean = f"{values.mean():{form}}"
    return mean if len(values) < 2 else f"{mean} ± {values.std():.2f}"


def _difference(values: "pd.Series[float]") -> str:
    text = _spread(values, "+.2f")
    if len(values) < LEAST_SEEDS:
        return text
    low, high = t_interval(values)
    return f"{text} ({low:+.2f} … {high:+.2f})"
