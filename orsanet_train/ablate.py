"""Ablations: the same training with one thing changed at a time, over several seeds, and a table that shows the spread.

    OUT/<variant>/seed-<n>/   a run folder with its evaluation      OUT/ablation.csv   one row per run and group
    OUT/ablation.md           mean and standard deviation over the seeds, and the difference from `full`, seed by seed

Finished epochs are kept: called again, or with further variants or seeds, only what is missing is trained.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch

from orsanet_cache import Manifest, OrsanetError, PriorStore, listed, recipe_differences
from orsanet_train.checkpoint import write_whole
from orsanet_train.config import load_config
from orsanet_train.evaluate import Group, evaluate
from orsanet_train.feed import join
from orsanet_train.residence import Resident
from orsanet_train.run_folder import read_json
from orsanet_train.train import train, training_split

# The rows of the paper's Table 6, then the forms in which paper and published code differ.
VARIANTS: dict[str, tuple[str, ...]] = {
    "full": (),
    "no-segmentation": ("model.segmentation_prior=none",),
    "no-cross-interaction": ("model.cross_interaction=false",),
    "single-scale": ("model.multi_scale=false",),
    "no-reintegration": ("model.landmark_reintegration=false",),
    "no-dare": ("loss.dare=none",),
    "map": ("model.segmentation_prior=map",),
    "spatial": ("model.tokens=spatial",),
    "spatial-map": ("model.tokens=spatial", "model.segmentation_prior=map"),
    "spatial-no-segmentation": ("model.tokens=spatial", "model.segmentation_prior=none"),
    "paper-dare": ("loss.dare=paper",),
}
EVALUATION = "evaluation"  # of the last checkpoint: no result chooses it


def ablate(
    manifest: Manifest,
    store: PriorStore,
    out: Path,
    *,
    preset: str,
    overrides: Sequence[str],
    variants: Sequence[str],
    seeds: Sequence[int],
    groups: Sequence[str],
    device: torch.device,
    resident: Resident = "auto",
) -> Iterator[str]:
    """Train and evaluate every variant with every seed, yielding the name of each run before it starts.

    Raises OrsanetError for a variant that is not in VARIANTS, and for whatever `train` and `evaluate` do.
    """
    if unknown := [variant for variant in variants if variant not in VARIANTS]:
        raise OrsanetError(f"no variant {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    for group in map(Group.parse, groups):  # a slip should not wait for the first training
        join(manifest, store, group.split, [group.view], group.tag)
    _check_settings(out, preset, overrides, manifest, store)
    for seed in seeds:  # seeds outside: interrupted, every variant has the seeds of the others
        for variant in variants:
            run = out / variant / f"seed-{seed}"
            config = load_config(preset, [*overrides, *VARIANTS[variant], f"seed={seed}"])
            yield f"{variant}, seed {seed}"
            begun = (run / "run.json").is_file()
            train(config, manifest, store, run, device=device, resume=begun, resident=resident)
            weights = run / "last.safetensors"
            evaluate(weights, manifest, store, run / EVALUATION, groups=groups, device=device, resident=resident)


def _check_settings(out: Path, preset: str, overrides: Sequence[str], manifest: Manifest, store: PriorStore) -> None:
    """Nobody sets what the variants change; runs that are there differ in that alone, and have the same data. (Epochs may grow: the
    table says where they differ.)
    """
    varied = {"seed", *(override.split("=")[0] for changes in VARIANTS.values() for override in changes)}
    if taken := sorted(varied & {override.split("=")[0].strip() for override in overrides}):
        raise OrsanetError(f"--set {', '.join(taken)}: the variants and --seeds decide this")
    training = training_split(load_config(preset, overrides), manifest, store)
    data = {"classes": list(manifest.classes), "store": store.recipe, "training_images_sha256": training.sha256()}
    for path in sorted(out.glob("*/seed-*/run.json")):
        run, variant, seed = path.parent, path.parents[1].name, path.parent.name.removeprefix("seed-")
        if variant not in VARIANTS:
            raise OrsanetError(f"{run}: no variant has this name; use another --out")
        wanted = load_config(preset, [*overrides, *VARIANTS[variant], f"seed={seed}"])
        before = load_config(str(run / "config.toml")).model_copy(update={"epochs": wanted.epochs})
        here = {name: read_json(path).get(name) for name in data}
        found = [
            *recipe_differences(before.model_dump(mode="json"), wanted.model_dump(mode="json")),
            *recipe_differences(here, data),
        ]
        if found:
            raise OrsanetError(
                f"{run}: trained with other settings or data; pass the same, or use another --out:\n{listed(found)}"
            )


def collect(out: Path) -> pd.DataFrame:
    """Every finished run below `out`: variant, seed, epochs, group, images, accuracy and balanced accuracy (shares)."""
    rows = []
    for path in sorted(out.glob(f"*/seed-*/{EVALUATION}/report.json")):
        variant, seed = path.parents[2].name, int(path.parents[1].name.removeprefix("seed-"))
        report = json.loads(path.read_bytes())
        for split in report["splits"]:
            rows.append(
                {
                    "variant": variant,
                    "seed": seed,
                    "epochs": report["checkpoint"]["epoch"],
                    "group": split["name"],
                    "images": split["images"],
                    "accuracy": split["accuracy"],
                    "balanced_accuracy": split["balanced_accuracy"],
                }
            )
    return pd.DataFrame(rows)


def summary(runs: pd.DataFrame) -> str:
    """Markdown: per variant and group, accuracy as mean ± standard deviation over the seeds, in per cent; with the mean difference
    from `full`, taken seed by seed, in points. Below it a warning if the runs were not trained for the same number of epochs.
    """
    order = [name for name in VARIANTS if name in set(runs["variant"])]
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
            cells += [_spread(accuracy), "" if variant == "full" else _spread(difference, sign=True)]
        lines.append(cells)
    rows = [header, ["---"] * len(header), *lines]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
    table += (
        "\nAccuracy in per cent of the last checkpoint, mean ± sample standard deviation over the seeds. "
        "− full: points, seed by seed.\n"
    )
    if runs["epochs"].nunique() > 1:
        counts = ", ".join(map(str, sorted(set(runs["epochs"]))))
        table += f"\nNot comparable yet: these runs have {counts} epochs. Call again with every variant and seed.\n"
    return table


def write_summary(out: Path) -> str:
    """Write ablation.csv and ablation.md of every finished run, and return the table."""
    runs = collect(out)
    table = summary(runs)
    write_whole(out / "ablation.csv", lambda path: runs.to_csv(path, index=False))
    write_whole(out / "ablation.md", lambda path: path.write_text(table, encoding="utf-8"))
    return table


def _spread(values: "pd.Series[float]", sign: bool = False) -> str:
    if values.empty:
        return ""
    mean = f"{values.mean():+.2f}" if sign else f"{values.mean():.2f}"
    return mean if len(values) < 2 else f"{mean} ± {values.std():.2f}"
