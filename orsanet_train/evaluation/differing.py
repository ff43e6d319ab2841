"""What differs between runs besides their numbers: settings, training data, frozen networks, evaluated views.

    RUN/config.toml, RUN/run.json ─┐
    evaluation: recipe, seals ─────┴─▶ setting by setting ─▶ those in which the runs differ

What is not recorded is named, not guessed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orsanet_cache.durable import read_json
from orsanet_cache.store.recipe import as_json
from orsanet_cache.store.schema import view_and_addition
from orsanet_train.config import load_config
from orsanet_train.evaluation.predictions import Evaluation

NOT_RECORDED = "not recorded"
CONFIG_FILE, DATA_FILE = "config.toml", "run.json"
CONFIGURATION, TRAINING, STORE = "configuration", "training", "store"
DIGITS = 12  # of a digest, which tell two of them apart
# Of run.json: what a run was trained with, besides its configuration and the recipe.
TRAINED_WITH = {
    "training_images_sha256": "list of training images",
    "selection_images_sha256": "list of images that choose the epoch",
    "image_files_sha256": "contents of these images",
    "ir50_sha256": "initial weights of the backbone",
    "compiled": "compiled",
}


@dataclass(frozen=True)
class Differing:
    """A setting in which runs differ."""

    what: str  # configuration, training or store
    key: str
    values: dict[str, str]  # by run; with seeds that differ: all their values


@dataclass(frozen=True)
class Compared:
    """A run, or a folder of seeds."""

    name: str
    seeds: bool
    by_folder: Mapping[Path, Evaluation]  # the evaluations by run folder, one for each seed


def differing(runs: Sequence[Compared]) -> Iterator[Differing]:
    """The settings in which runs differ: configuration, training, store, in this order.

    The seed of runs in folders of seeds is left out. A file that a run folder lacks (it has the
    evaluation alone) is named as not recorded, and its settings are not compared. Raises
    OrsanetError for a damaged config.toml or run.json.
    """
    left_out = ("seed",) if any(run.seeds for run in runs) else ()  # the seeds are compared one by one
    for what, file, read in ((CONFIGURATION, CONFIG_FILE, _configuration), (TRAINING, DATA_FILE, _trained_with)):
        there = {run.name: all((folder / file).is_file() for folder in run.by_folder) for run in runs}
        if all(there.values()):
            settings = {run.name: [read(folder / file) for folder in run.by_folder] for run in runs}
            yield from _compared(what, settings, left_out)
        else:
            yield Differing(what, file, {run: "recorded" if whole else NOT_RECORDED for run, whole in there.items()})
    checkpoints = {run.name: [evaluation.checkpoint for evaluation in run.by_folder.values()] for run in runs}
    yield from _compared(TRAINING, {run: [{"data set": one.data_set} for one in of] for run, of in checkpoints.items()})
    yield from _compared(
        STORE, {run: [dict(_flat(one.store_recipe)) for one in of_run] for run, of_run in checkpoints.items()}
    )
    yield from _views(runs)


def _compared(
    what: str, settings: Mapping[str, Sequence[Mapping[str, str]]], left_out: Sequence[str] = ()
) -> Iterator[Differing]:
    """Compare the settings of runs, each with those of one seed or more."""
    every = dict.fromkeys(key for of_run in settings.values() for of_seed in of_run for key in of_seed)
    for key in every:
        if key in left_out:
            continue
        values = {
            run: " or ".join(dict.fromkeys(of_seed.get(key, NOT_RECORDED) for of_seed in of_run))
            for run, of_run in settings.items()
        }
        if len(set(values.values())) > 1:
            yield Differing(what, key, values)


def _configuration(path: Path) -> dict[str, str]:
    return dict(_flat(load_config(str(path)).model_dump(mode="json")))


def _trained_with(path: Path) -> dict[str, str]:
    data = read_json(path)
    return {title: _short(data[name]) for name, title in TRAINED_WITH.items() if name in data}


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Nested tables as pairs of a dotted key and a value."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, _short(value)


def _short(value: Any) -> str:
    """A value as text; a digest by its first digits."""
    if isinstance(value, str):
        digest = len(value) == 64 and set(value) <= set("0123456789abcdef")
        return f"{value[:DIGITS]}…" if digest else value
    return "none" if value is None else as_json(value)


def _views(runs: Sequence[Compared]) -> Iterator[Differing]:
    """The evaluated views that not all runs have, and common views and added fields whose priors differ.

    Added fields ("split/view.NAME") are read by some kinds of model only, so that a run lacks none of them.
    """
    seals = {run.name: [evaluation.seals for evaluation in run.by_folder.values()] for run in runs}
    every = list(dict.fromkeys(view for found in seals.values() for seal in found for view in seal))
    lacking = {
        run: ", ".join(view for view in every if not _is_added(view) and any(view not in seal for seal in found))
        for run, found in seals.items()
    }
    if any(lacking.values()):
        yield Differing(
            STORE, "views that were not evaluated", {run: views or "none" for run, views in lacking.items()}
        )
    recipes = {as_json(evaluation.checkpoint.store_recipe) for run in runs for evaluation in run.by_folder.values()}
    for view in every if len(recipes) == 1 else ():  # of another recipe all priors are others
        values = {
            run: " or ".join(dict.fromkeys(_short(seal[view]) if view in seal else "none" for seal in found))
            for run, found in seals.items()
        }
        if len(set(values.values()) - {"none"}) > 1:
            yield Differing(STORE, f"seal of {view}", values)


def _is_added(place: str) -> bool:
    """Whether a seal is that of added fields, "split/view.NAME"."""
    return bool(view_and_addition(place.rpartition("/")[2])[1])
