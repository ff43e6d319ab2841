"""Several kinds of model on one store with the same rows, seeds, selection and test images, and a table of them.

    OUT/<kind>/seed-<n>/   a run folder with the evaluation of its last checkpoint
    OUT/benchmark.md       size, arithmetic and time; accuracy, difference from the first kind seed by seed, and the
                           smallest difference that the seeds could have shown
    OUT/benchmark.csv      one row per run and group

Every kind is trained with the same preset and settings, less the sizes that it does not have.
Finished epochs are kept: another call, with the same or with further kinds and seeds, trains only
what is missing. A table needs every begun run to be finished.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from orsanet_cache.data.manifest import Manifest, as_manifest
from orsanet_cache.device import as_device
from orsanet_cache.durable import write_all
from orsanet_cache.errors import OrsanetError, did_you_mean, listed
from orsanet_cache.frozen.loading import Weights
from orsanet_cache.outputs import check_file, held, read_steadily
from orsanet_cache.paths import StrPath, as_names, as_path
from orsanet_cache.store.reader import PriorStore, as_store
from orsanet_cache.store.recipe import recipe_differences
from orsanet_cache.streams import printable
from orsanet_train.config import RunConfig, load_config
from orsanet_train.evaluation.compare import Comparison, compare, seed_folders
from orsanet_train.evaluation.evaluate import evaluate, is_evaluated
from orsanet_train.evaluation.groups import Group
from orsanet_train.evaluation.history import class_counts, read_history
from orsanet_train.evaluation.predictions import EVALUATION, Evaluation
from orsanet_train.evaluation.tables import LEAST_SEEDS, difference_text, markdown_table, seen_text, spread_text
from orsanet_train.feed.residence import Resident
from orsanet_train.feed.split import check_fields, join, meant_splits, training_split
from orsanet_train.model.complexity import complexity
from orsanet_train.model.inputs import random_inputs
from orsanet_train.model.model import build_model
from orsanet_train.model_config import ModelConfig, kinds
from orsanet_train.report.paper import CAPTION, HEADING, published, published_table
from orsanet_train.run.train import train

CHECKPOINT = "last"  # not chosen by any result
LAST = f"evaluation-{CHECKPOINT}"
RUNS, TABLE = "benchmark.csv", "benchmark.md"
_BEGINS = {RUNS: rb"model,seed,group,images,", TABLE: rb"\| model \| parameters"}
NONE = pd.Series(dtype=float)  # no seeds
TIMED_IMAGES, TIMED_SECONDS = 64, 1.0  # of the measurement of a forward pass


def benchmark(
    store: PriorStore | StrPath,
    manifest: Manifest | StrPath,
    out: StrPath,
    *,
    preset: str,
    overrides: Sequence[str] = (),
    models: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    groups: Sequence[str] | None = None,
    device: torch.device | str = "auto",
    ir50: Weights | StrPath | None = None,
    resident: Resident = "auto",
) -> Iterator[str]:
    """Train and evaluate every kind with every seed; yields each run's name before it starts.

    Args:
        store: an opened store or its path.
        manifest: a loaded manifest or its path.
        out: the folder of the runs.
        preset: a preset's name or a TOML file.
        overrides: `key=value` settings of every run.
        models: kinds of model; the others are compared with the first. None: all.
        seeds: every kind is trained once with each.
        groups: splits, tags and views to evaluate, as for `evaluate`; None: as there.
        device: "auto", "cpu", "cuda", "cuda:N" or a torch.device.
        ir50: initial weights of the backbone of every kind that has one, their file, or demo; None:
            random weights.
        resident: where the data is kept: "auto", "device", "host" or "stream".

    Raises OrsanetError for a kind that does not exist, for a store that lacks a field which one of
    them reads, for runs of other settings or tables of another origin in `out`, and for the errors
    of `train` and `evaluate`.
    """
    store, manifest, out, device = as_store(store), as_manifest(manifest), as_path(out, "out"), as_device(device)
    models = list(kinds()) if models is None else as_names(models, "models")
    groups = None if groups is None else as_names(groups, "groups")
    overrides = as_names(overrides, "overrides")
    _check_names(models)
    for name, begins in _BEGINS.items():
        check_file(out / name, begins, "a table of `orsanet-train benchmark`")
    configs = {kind: meant_splits(load_config(preset, _of_kind(overrides, kind)), manifest) for kind in models}
    for config in configs.values():  # before the first training
        part = training_split(config, manifest, store)
        check_fields(store, part.name, part.views, config.model.fields, config.model.named)
        _check_runs(out, config)
    for group in [Group.parse(name).among(manifest.splits) for name in groups or ()]:
        join(manifest, store, group.split, [group.view], group.tag)
    with held(out):
        for seed in seeds:  # the outer loop: after an interruption every kind has the same seeds
            for kind, config in configs.items():
                run = out / kind / f"seed-{seed}"
                yield f"{kind}, seed {seed}"
                train(
                    config.model_copy(update={"seed": seed}), manifest, store, run,
                    device=device, ir50=ir50 if config.model.backbone else None,
                    resume=(run / "run.json").is_file(), resident=resident,
                )  # fmt: skip
                weights = run / f"{CHECKPOINT}.safetensors"
                if not is_evaluated(weights, manifest, store, run / LAST, groups):
                    evaluate(weights, manifest, store, run / LAST, groups=groups, device=device, resident=resident)


def _of_kind(overrides: Sequence[str], kind: str) -> list[str]:
    """The settings of a kind: those of the model that it does not have are left out, as a preset's are."""
    if taken := [each for each in overrides if each.split("=")[0].strip() in ("model.kind", "seed")]:
        raise OrsanetError(f"--set {', '.join(taken)}: --models and --seeds set this; leave it out")
    keys = {f"model.{key}" for key in kinds()[kind].model_fields}
    every = {f"model.{key}" for each in kinds().values() for key in each.model_fields}
    return [f"model.kind={kind}", *(each for each in overrides if each.split("=")[0].strip() not in every - keys)]


def _check_names(models: Sequence[str]) -> None:
    if unknown := [name for name in models if name not in kinds()]:
        raise OrsanetError(
            f"no kind of model '{unknown[0]}'; choose from {', '.join(kinds())}{did_you_mean(unknown[0], kinds())}"
        )
    if len(set(models)) < len(models) or not models:
        raise OrsanetError(f"--models {','.join(models)}: name each kind once")


def _check_runs(out: Path, config: RunConfig) -> None:
    """Raises OrsanetError if a run in `out` has other settings. Its number of epochs and its seed may differ."""
    for run in seed_folders(out / config.model.kind).values():
        if not (run / "run.json").is_file():
            continue
        before = load_config(str(run / "config.toml"))
        same = before.model_copy(update={"epochs": config.epochs, "seed": config.seed})
        if found := list(recipe_differences(same.model_dump(mode="json"), config.model_dump(mode="json"))):
            raise OrsanetError(
                f"{run}: trained with other settings; pass the run's own, or use another --out:\n{listed(found)}"
            )


@dataclass(frozen=True)
class Cost:
    """What a kind of model costs."""

    parameters: int  # trained
    frozen: int  # of the frozen networks that it reads
    multiply_adds: int  # of the trained part, for an image
    frozen_multiply_adds: int
    seconds: float  # of the trained part's forward, for an image of a batch
    hours: float | None  # of training, mean over the seeds; None: not recorded


def cost(config: ModelConfig, runs: Sequence[Path], classes: Sequence[str], device: torch.device) -> Cost:
    """Count a model's parameters and arithmetic, time its forward, and read its runs' hours."""
    parts = [part for part in complexity(config, len(classes)) if part.name != "SegFace decoder"]
    model = build_model(config, len(classes)).eval().to(device)
    inputs = random_inputs(config, TIMED_IMAGES, device=device)
    with torch.no_grad():
        model(*inputs)
        rounds, began = 0, time.perf_counter()
        while time.perf_counter() - began < TIMED_SECONDS:
            model(*inputs).logits.cpu()
            rounds += 1
        seconds = (time.perf_counter() - began) / (rounds * TIMED_IMAGES)
    hours = [spent for run in runs if (spent := _hours(run, classes)) is not None]
    return Cost(
        sum(part.trainable for part in parts),
        sum(part.frozen for part in parts),
        sum(part.multiply_adds for part in parts if not part.frozen),
        sum(part.multiply_adds for part in parts if part.frozen),
        seconds,
        sum(hours) / len(hours) if hours else None,
    )


def _hours(run: Path, classes: Sequence[str]) -> float | None:
    history, counts = read_history(run), class_counts(run, classes)
    if history is None or counts is None or "images_per_second" not in history:
        return None
    return float((sum(counts.values()) / history["images_per_second"]).sum()) / 3600


def finished(out: Path) -> dict[str, list[Path]]:
    """The kinds in `out` with their evaluated runs, in the order of `kinds`."""
    found = {
        kind: [run for run in seed_folders(out / kind).values() if (run / LAST / EVALUATION).is_file()]
        for kind in kinds()
    }
    return {kind: runs for kind, runs in found.items() if runs}


def write_benchmark(out: StrPath, first: str | None = None, device: torch.device | str = "auto") -> str:
    """Write benchmark.md and benchmark.csv of every finished run, and return the table.

    `first` is the kind that the others are compared with; None: the first in the order of `kinds`.
    Raises OrsanetError if one of them is another file, or if no run is finished.
    """
    out, device = as_path(out, "out"), as_device(device)
    runs = finished(out)
    if not runs:
        raise OrsanetError(f"{out}: no run of a benchmark is finished there")
    order = sorted(runs, key=lambda kind: kind != first)
    comparison = compare([out / kind for kind in order], CHECKPOINT)
    rows = _rows(runs)
    table = _markdown(runs, order, rows, comparison, device)
    for name, begins in _BEGINS.items():
        check_file(out / name, begins, "a table of `orsanet-train benchmark`")
    write_all(
        {
            out / RUNS: lambda path: rows.to_csv(path, index=False),
            out / TABLE: lambda path: path.write_text(printable(table), encoding="utf-8"),
        }
    )
    return table


def _rows(runs: dict[str, list[Path]]) -> pd.DataFrame:
    """One row per run and group; shares in 0 … 1."""
    rows = []
    for kind, of_kind in runs.items():
        for run in of_kind:
            evaluation = read_steadily(run / LAST, Evaluation.read)
            rows += [
                {
                    "model": kind,
                    "seed": run.name.removeprefix("seed-"),
                    "group": group.name,
                    "images": group.images,
                    "accuracy": group.accuracy.value,
                    "low": group.accuracy.low,
                    "high": group.accuracy.high,
                    "balanced_accuracy": group.balanced_accuracy.value,
                    "macro_f1": group.macro_f1.value,
                    "epochs": evaluation.checkpoint.epoch,
                }
                for group in evaluation.groups
            ]
    return pd.DataFrame(rows)


def _markdown(
    runs: dict[str, list[Path]], order: Sequence[str], rows: pd.DataFrame, comparison: Comparison, device: torch.device
) -> str:
    """Three tables: what the kinds cost, their accuracy group by group, and what could have been seen.

    `rows` are those of benchmark.csv. `comparison` has refused runs of other images, and has the notes.
    """
    first, *others = order
    marks = {(one.run, one.group): " *" if one.chose_checkpoint else "" for one in comparison.accuracies}
    per_cent = rows.pivot(index="seed", columns=["model", "group"], values="accuracy").mul(100)
    lines, seen = [], []
    for group in dict.fromkeys(one.group for one in comparison.accuracies):
        of_kind = {kind: per_cent[kind, group].dropna() for kind in order if (kind, group) in marks}
        accuracy = {kind: spread_text(values) + marks[kind, group] for kind, values in of_kind.items()}
        differences = {kind: (of_kind[kind] - of_kind[first]).dropna() for kind in others if kind in of_kind}
        beside = (
            cell for kind in others for cell in (accuracy.get(kind, ""), difference_text(differences.get(kind, NONE)))
        )
        lines.append([group, accuracy.get(first, ""), *beside])
        seen.append([group, *(seen_text(differences.get(kind, NONE)) for kind in others)])
    parts = [_cost_table(runs, order, device)]
    parts.append(
        markdown_table(["group", first, *(column for kind in others for column in (kind, f"− {first}"))], lines)
    )
    if any(cell for _, *cells in seen for cell in cells):
        parts.append(markdown_table(["could have been seen", *others], seen))
    parts.append(
        "Parameters that a forward reads; GFLOP (2 x multiply-adds) of an image's forward, at the sizes of the frozen networks' published "
        "files. ms: of the trained part, from the store.\n"
        f"Accuracy in per cent of the last checkpoint, mean ± sample standard deviation over the seeds. − {first}: difference in points, "
        f"seed by seed; from {LEAST_SEEDS} seeds on, in brackets, the 95 % t interval of its mean over training seeds, for the same images and "
        "not corrected for the number of intervals.\n"
        f"Could have been seen: the smallest true difference from {first} in points that so many seeds with their spread would show in four "
        "of five repetitions.\n"
    )
    if comparison.notes:
        parts.append("".join(f"- {note}\n" for note in comparison.notes))
    parts += _published(runs, per_cent)
    return "\n".join(parts)


def _published(runs: dict[str, list[Path]], per_cent: pd.DataFrame) -> list[str]:
    """Published numbers beside those of the kinds here; empty for a data set without any."""
    evaluation = read_steadily(next(iter(runs.values()))[0] / LAST, Evaluation.read)
    rows = published(evaluation.manifest, evaluation.classes)
    kind_of = {kinds()[kind].title: kind for kind in runs}
    ours = [(kind_of.get(row.model), row.group) for row in rows]
    texts = [spread_text(per_cent[one].dropna()) if one in per_cent else "" for one in ours]
    return [f"## {HEADING}\n", f"{CAPTION} Ours is as above.\n", published_table(rows, texts)] if rows else []


def _cost_table(runs: dict[str, list[Path]], order: Sequence[str], device: torch.device) -> str:
    costs = {kind: _cost_of(runs[kind], device) for kind in order}
    header = (
        "model", "parameters", "with frozen", "GFLOP", "with frozen", f"ms an image ({device.type})", "training hours", "seeds",
    )  # fmt: skip
    rows = [
        (
            kind,
            f"{one.parameters:,}",
            f"{one.parameters + one.frozen:,}",
            f"{2 * one.multiply_adds / 1e9:.2f}",
            f"{2 * (one.multiply_adds + one.frozen_multiply_adds) / 1e9:.2f}",
            f"{1000 * one.seconds:.2f}",
            "-" if one.hours is None else f"{one.hours:.3g}",
            str(len(runs[kind])),
        )
        for kind, one in costs.items()
    ]
    return markdown_table(header, rows)


def _cost_of(runs: Sequence[Path], device: torch.device) -> Cost:
    identity = read_steadily(runs[0] / LAST, Evaluation.read).checkpoint
    return cost(identity.model, runs, identity.classes, device)
