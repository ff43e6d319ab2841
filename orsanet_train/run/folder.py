"""What a run leaves in its folder, and what must be in one to go on from it.

config.toml, run.json      what the run is: settings; data, recipe and start weights by digest
versions.json              which versions of packages trained it, from which epoch on
checkpoints/               the training state (state.py)
best, last .safetensors    weights (checkpoint.py)
metrics.csv, curves.png, tensorboard/, train_batch*.png      to look at
"""

import json
import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch

from orsanet_cache.durable import read_json, write_whole
from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.store.recipe import recipe_differences
from orsanet_train.config import RunConfig, config_toml, load_config
from orsanet_train.drawing import plots
from orsanet_train.engine.engine import Engine
from orsanet_train.model.checkpoint import Identity, save_weights
from orsanet_train.run.watch import tensorboard_installed, write_events

PACKAGES = ("orsanet", "torch", "numpy")  # whose versions may change what training computes
_BEGUN = {"config.toml", ".config.toml.tmp", ".run.json.tmp"}  # all that a kill before run.json can leave


def check_folder(out: Path, config: RunConfig, data: dict[str, Any], resume: bool) -> None:
    """There is no run folder yet, or one to resume that says the same; only the number of epochs may change."""
    if resume:
        if not (out / "run.json").exists():
            raise OrsanetError(f"{out}: no run to resume (no run.json there); start it without --resume")
        before = load_config(str(out / "config.toml")).model_dump(mode="json")
        if changed := list(recipe_differences({**before, "epochs": config.epochs}, config.model_dump(mode="json"))):
            raise OrsanetError(f"{out}: resumed with another configuration; pass the same:\n{listed(changed)}")
        if changed := list(recipe_differences(read_json(out / "run.json"), data)):
            raise OrsanetError(
                f"{out}: resumed with other data, weights or options; pass the same, or start a new run:\n{listed(changed)}"
            )
        finished = len(pd.read_csv(out / "metrics.csv")) if (out / "metrics.csv").exists() else 0
        if finished > config.epochs:  # also where the saved state is older: the best weights may be of a later epoch
            raise OrsanetError(
                f"{out}: already trained for {finished} epochs, not {config.epochs}; ask for at least as many, or start a new run"
            )
    elif out.exists() and (not out.is_dir() or {entry.name for entry in out.iterdir()} - _BEGUN):
        raise OrsanetError(f"{out}: already exists; go on with --resume, or choose another --out")


def begin_folder(out: Path, config: RunConfig, data: dict[str, Any]) -> None:
    """The run folder says what it is."""
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "config.toml", lambda path: path.write_text(config_toml(config), encoding="utf-8"))
    write_whole(out / "run.json", lambda path: path.write_text(json.dumps(data, indent=2), encoding="utf-8"))


def record_versions(out: Path, epoch: int) -> str | None:
    """Keep in versions.json which versions compute from `epoch` on (counted from 1, as in metrics.csv).

    Returns a note for the user where other versions trained the epochs before: resuming then gives no longer the uninterrupted run's bits.
    """
    path = out / "versions.json"
    now = {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
    known = read_json(path) if path.exists() else []
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
        f"the results are not to the last bit those of a run with one of them"
    )


def write_epoch(
    out: Path, engine: Engine, identity: Identity, history: list[dict[str, float]], *, restart: bool
) -> None:
    """What every finished epoch leaves, the newest row of `history` being its; the best weights if it is the best so far.

    With `restart`, events for TensorBoard that were logged beyond where the run went on from are hidden.
    """
    *before, row = history
    if row["selection_accuracy"] > max((earlier["selection_accuracy"] for earlier in before), default=-math.inf):
        _write_weights(out, engine, identity.model_copy(update={"selection": "best"}))
    table = pd.DataFrame(history).astype({"epoch": int})
    write_whole(out / "metrics.csv", lambda path: table.to_csv(path, index=False))
    if tensorboard_installed():
        write_events(out / "tensorboard", history, restart=restart)


def write_last(out: Path, engine: Engine, identity: Identity, history: list[dict[str, float]]) -> None:
    """The weights after the newest epoch, and its curves."""
    _write_weights(out, engine, identity)
    if plots.matplotlib_installed():
        table = pd.DataFrame(history).astype({"epoch": int})
        plots.write_picture(plots.curves(table, identity.selection_split), out / "curves.png")


def _write_weights(out: Path, engine: Engine, identity: Identity) -> None:
    """With the landmark network, if that moved in training: evaluation then needs a store that is built with it."""
    companion = engine.companion
    if companion is not None and (landmarks := companion.frozen_state()):
        content = safetensors.torch.save(landmarks)
        write_whole(out / f"{identity.selection}-landmarks.safetensors", lambda path: path.write_bytes(content))
        recipe = {**identity.store_recipe, **companion.drifted_recipe()}
        identity = identity.model_copy(update={"store_recipe": recipe})
    save_weights(out / f"{identity.selection}.safetensors", engine.step.model, identity)
