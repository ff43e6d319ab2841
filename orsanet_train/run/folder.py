"""The files of a run folder, and the checks before a run is resumed.

config.toml, run.json      the run's identity: settings; data, recipe and initial weights by digest
versions.json              the versions of packages that trained it, and from which epoch on
checkpoints/               the training state (state.py)
best, last .safetensors    weights (checkpoint.py)
metrics.csv, curves.png, tensorboard/, train_batch*          to inspect the run
"""

import json
import math
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch

from orsanet_cache.durable import is_temporary, read_json, write_whole
from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.outputs import entries, held
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.recipe import recipe_differences
from orsanet_train.config import RunConfig, config_toml, load_config
from orsanet_train.drawing import plots
from orsanet_train.engine.distributed import Ranks, from_main
from orsanet_train.engine.engine import Engine
from orsanet_train.evaluation.history import CLASS_COUNTS, HISTORY, VERSIONS, best_epoch, read_history, read_versions
from orsanet_train.model.checkpoint import Identity, save_weights
from orsanet_train.run.watch import tensorboard_installed, write_events

SETTINGS, RUN = "config.toml", "run.json"
STATES = "checkpoints"
PACKAGES = ("orsanet", "torch", "numpy")  # whose versions may change what training computes
SEALS = "seals"  # of run.json: the seals of the views that the run reads, by "split/view": the store's state
IMAGE_FILES = "image_files_sha256"  # of run.json: identifies the contents of the images of training and choice


@contextmanager
def held_by_main(out: Path, ranks: Ranks) -> Iterator[None]:
    """Hold a folder of runs, on the main rank for all.

    Raises OrsanetError on every rank if another command holds it.
    """
    with ExitStack() as stack:
        from_main(lambda: stack.enter_context(held(out)), ranks)
        yield


def check_folder(out: Path, config: RunConfig, data: dict[str, Any], resume: bool) -> None:
    """Raises OrsanetError unless `out` can be the folder of this run.

    Without `resume` it must not contain a run. With `resume` it must contain a run with the same
    settings and data; only the number of epochs may change.
    """
    if resume:
        if not (out / RUN).exists():
            raise OrsanetError(f"{out}: no run to resume (no run.json there); start it without --resume")
        before = load_config(str(out / SETTINGS)).model_dump(mode="json")
        if changed := list(recipe_differences({**before, "epochs": config.epochs}, config.model_dump(mode="json"))):
            raise OrsanetError(f"{out}: resumed with another configuration; pass the same:\n{listed(changed)}")
        added = {name: data.get(name) for name in (IMAGE_FILES, CLASS_COUNTS, SEALS)}  # older runs do not have them
        begun = {**added, **read_json(out / RUN)}
        if changed := list(recipe_differences(begun, data)):
            raise OrsanetError(
                f"{out}: resumed with other data, weights or options; pass the same, or start a new run:\n{listed(changed)}"
            )
        history = read_history(out)
        finished = 0 if history is None else len(history)
        if finished > config.epochs:  # even if the saved state is older: the best weights may be of a later epoch
            raise OrsanetError(
                f"{out}: already trained for {finished} epochs, not {config.epochs}; set epochs to at least {finished}, or start a new run"
            )
    elif out.exists() and any(name != SETTINGS and not is_temporary(name) for name in entries(out)):
        # These names are all that a kill before run.json can leave.
        raise OrsanetError(f"{out}: already exists; continue with --resume, or choose another --out")


def begun_data(out: Path) -> dict[str, Any]:
    """run.json of the run in `out`; empty if there is no run, which `check_folder` refuses."""
    return read_json(out / RUN) if (out / RUN).exists() else {}


def begun_store(begun: dict[str, Any], store: PriorStore) -> PriorStore:
    """The store in the state in which a run began, also if it has grown since; `begun` is its run.json.

    Raises OrsanetError if the store has no such state. A run of a version that recorded none takes
    the store as it is, and so does a store of another recipe, which `check_folder` refuses.
    """
    seals = begun.get(SEALS)
    if not isinstance(seals, dict) or list(recipe_differences(begun.get("store"), store.recipe)):
        return store
    return store.at(seals)


def begin_folder(out: Path, config: RunConfig, data: dict[str, Any]) -> None:
    """Create the run folder, with the run's settings and data."""
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / SETTINGS, lambda path: path.write_text(config_toml(config), encoding="utf-8"))
    write_whole(out / RUN, lambda path: path.write_text(json.dumps(data, indent=2), encoding="utf-8"))


def record_versions(out: Path, epoch: int) -> str | None:
    """Record in versions.json the versions that train from `epoch` on.

    Epochs are counted from 1, as in metrics.csv. Returns a note for the user if other versions
    trained the epochs before: the resumed run then no longer has the bits of an uninterrupted run.
    """
    path = out / VERSIONS
    now = {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
    known = read_versions(out)
    if known and known[-1]["versions"] == now:
        return None
    content = json.dumps([*known, {"from_epoch": epoch, "versions": now}], indent=2)
    write_whole(path, lambda temporary: temporary.write_text(content, encoding="utf-8"))
    if not known:
        return None
    before = known[-1]["versions"]
    changed = [f"{name} {before.get(name)} before, {now[name]} now" for name in now if before.get(name) != now[name]]
    return (
        f"other versions trained this run so far ({'; '.join(changed)}): "
        f"the results do not equal, to the last bit, those of a run with one set of versions"
    )


def write_epoch(
    out: Path, engine: Engine, identity: Identity, history: list[dict[str, float]], *, restart: bool
) -> None:
    """Write the files of a finished epoch, and the best weights if it is the best so far.

    Args:
        out: the run folder.
        engine: has the weights.
        identity: of the weights.
        history: the rows of metrics.csv; the newest is this epoch's.
        restart: hide events for TensorBoard that were logged beyond the state from which the run
            resumed.
    """
    *before, row = history
    if row["selection_accuracy"] > max((earlier["selection_accuracy"] for earlier in before), default=-math.inf):
        _write_weights(out, engine, identity.model_copy(update={"selection": "best"}))
    table = pd.DataFrame(history).astype({"epoch": int})
    write_whole(out / HISTORY, lambda path: table.to_csv(path, index=False))
    if tensorboard_installed():
        write_events(out / "tensorboard", history, restart=restart)


def write_last(out: Path, engine: Engine, identity: Identity, history: list[dict[str, float]]) -> None:
    """Write the weights after the newest epoch, and the curves."""
    _write_weights(out, engine, identity)
    if plots.matplotlib_installed():
        table = pd.DataFrame(history).astype({"epoch": int})
        best, warmup = best_epoch(table), engine.step.config.loss.warmup_epochs
        plots.write_picture(plots.curves(table, identity.selection_split, best, warmup), out / "curves.png")


def _write_weights(out: Path, engine: Engine, identity: Identity) -> None:
    """Write weights, and the landmark network if training changed it.

    Evaluation then needs a store that was built with this landmark network.
    """
    companion = engine.companion
    if companion is not None and (landmarks := companion.frozen_state()):
        content = safetensors.torch.save(landmarks)
        write_whole(out / f"{identity.selection}-landmarks.safetensors", lambda path: path.write_bytes(content))
        recipe = {**identity.store_recipe, **companion.drifted_recipe()}
        identity = identity.model_copy(update={"store_recipe": recipe})
    save_weights(out / f"{identity.selection}.safetensors", engine.step.model, identity)
