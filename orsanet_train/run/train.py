"""Stage two: train the trainable part on cached priors.

The order is: check that all arguments fit (prepare.py), create the run folder, loop over the epochs
(loop.py). All randomness is addressed by seed, epoch and position, so a run that is resumed at any
step of any epoch ends exactly like an uninterrupted run.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from orsanet_cache.data.manifest import Manifest, as_manifest
from orsanet_cache.device import as_device
from orsanet_cache.durable import write_whole
from orsanet_cache.errors import OrsanetError
from orsanet_cache.frozen.loading import Weights
from orsanet_cache.inspection.fonts import legend, notice
from orsanet_cache.outputs import temporary_folder
from orsanet_cache.paths import Place, StrPath, StrPlace, Url, as_path, as_place
from orsanet_cache.progress import say, warn
from orsanet_cache.store.reader import PriorStore, as_store
from orsanet_train.config import RunConfig
from orsanet_train.drawing.gallery import batch_mosaic
from orsanet_train.drawing.plots import write_picture
from orsanet_train.engine.distributed import ONE, Ranks
from orsanet_train.evaluation.baselines import COMMONEST, commonest_class
from orsanet_train.evaluation.statistics import share_interval
from orsanet_train.feed.residence import Resident
from orsanet_train.feed.split import meant_splits
from orsanet_train.model.checkpoint import load_weights
from orsanet_train.model.inputs import IMAGE
from orsanet_train.model.model import read_backbone
from orsanet_train.run.folder import begin_folder, held_by_main, record_versions
from orsanet_train.run.loop import Loop
from orsanet_train.run.mirror import Copied, copied
from orsanet_train.run.prepare import prepare
from orsanet_train.run.stop import StopSignals

MOSAICS = 3  # labelled pictures of the first training batches
MOSAIC_NAMES = "train_batch.txt"  # the names of classes that stand in them as numbers
SAVE_MINUTES = 5.0


@dataclass(frozen=True)
class RunSummary:
    """How a run ended."""

    epochs: int
    best_epoch: int
    best_accuracy: float
    last_accuracy: float
    images: int  # that the accuracies are of: those of the selection split
    commonest: str  # what the commonest-class baseline predicts for these images
    commonest_accuracy: float

    @property
    def beside(self) -> str:
        """The baseline, to stand beside the accuracies."""
        return f"{self.commonest}: {self.commonest_accuracy:.2%}"

    @property
    def warning(self) -> str | None:
        """A warning if even the best epoch is not shown to be better than the commonest class.

        This is the case if the 95 % interval of its accuracy (Wilson's) reaches the baseline's
        accuracy. The evaluation's paired interval is sharper, but needs every prediction.
        """
        best = share_interval(round(self.best_accuracy * self.images), self.images)
        if best.low is None or best.low > self.commonest_accuracy or self.commonest_accuracy == 1:
            return None
        return (
            f"the model is not shown to be better than the baseline '{COMMONEST}': 95 % interval of its best accuracy "
            f"{best.low:.2%} … {best.high:.2%}; {self.beside}"
        )


def train(
    config: RunConfig,
    manifest: Manifest | StrPath,
    store: PriorStore | StrPlace,
    out: StrPlace,
    *,
    work: StrPath | None = None,
    device: torch.device | str = "auto",
    ir50: Weights | StrPath | None = None,
    resume: bool = False,
    resident: Resident = "auto",
    compiled: bool = False,
    frozen_weights: tuple[StrPath | None, StrPath | None] = (None, None),
    save_minutes: float = SAVE_MINUTES,
    images: int | None = None,
    ranks: Ranks = ONE,
) -> RunSummary:
    """Train into the run folder `out`.

    On Ctrl-C, SIGTERM or SIGHUP the state is saved before the signal is passed on.

    Args:
        config: the settings of the run.
        manifest: a loaded manifest or its path.
        store: an opened store or its path.
        out: the run folder, or its URL in an object store.
        work: for a URL: the folder of this machine in which the run works, and which the URL follows.
            None: the folder with the last name of the URL, in the current one.
        device: "auto", "cpu", "cuda", "cuda:N" or a torch.device.
        ir50: initial weights of the backbone, their file, or demo; None: random weights.
        resume: whether to resume the run in `out`.
        resident: where the data is kept: "auto", "device", "host" or "stream". The results are the
            same.
        compiled: whether to compile the model with torch.compile.
        frozen_weights: the segmenter's and the landmark network's files, for priors = "online".
        save_minutes: the longest time between saved states.
        images: use only the first images of both splits, at most this many; None: all images.
        ranks: the processes that share every batch. The results are the same except for rounding.

    Raises OrsanetError for arguments that do not fit, and if another command writes `out`, before the
    first step.
    """
    if not 0 <= save_minutes < math.inf:
        raise OrsanetError(f"save_minutes {save_minutes!r}: give a finite number of minutes, 0 or more")
    if images is not None and images < 1:
        raise OrsanetError(f"images {images!r}: give 1 or more, or None for all images")
    manifest, store, device = as_manifest(manifest), as_store(store), as_device(device)
    place = as_place(out, "out", "run")
    folder = work_folder(place, None if work is None else as_path(work, "work"))
    if ir50 is not None and not isinstance(ir50, Weights):
        ir50 = read_backbone(ir50)
    config = meant_splits(config, manifest)
    segmenter, landmarks = (None if path is None else as_path(path, "frozen_weights") for path in frozen_weights)
    with held_by_main(folder, ranks), copied(place, folder, resume, ranks) as copy:
        return _train(
            config, manifest, store, folder, copy,
            device=device, ir50=ir50, resident=resident, compiled=compiled,
            frozen_weights=(segmenter, landmarks), save_minutes=save_minutes, images=images, ranks=ranks,
        )  # fmt: skip


def work_folder(place: Place, work: Path | None) -> Path:
    """The folder of this machine in which the run at a place works.

    Raises OrsanetError if `work` is given for a run that is a folder itself.
    """
    if isinstance(place, Url):
        return Path(place.name) if work is None else work
    if work is not None:
        raise OrsanetError(f"{place}: a working folder is for the URL of a run; this run works in its own folder")
    return place


def _train(
    config: RunConfig, manifest: Manifest, store: PriorStore, out: Path, copy: Copied, *, device: torch.device, ir50: Weights | None,
    resident: Resident, compiled: bool, frozen_weights: tuple[Path | None, Path | None], save_minutes: float, images: int | None,
    ranks: Ranks,
) -> RunSummary:  # fmt: skip
    run = prepare(
        config, manifest, store, out,
        device=device, ir50=ir50, resume=copy.resume, resident=resident, compiled=compiled,
        frozen_weights=frozen_weights, images=images, ranks=ranks,
    )  # fmt: skip
    if ranks.main:
        say(f"training: {run.engine.reason}")
        for feed in (run.training, run.selection):
            say(f"'{feed.split.name}': {feed.reason}")
        begin_folder(out, config, run.data)
        if note := record_versions(out, 1 if run.state is None else run.state.epoch + 1):
            warn(f"note: {note}")
        copy.keep(False)
    if run.state is not None:
        run.engine.load(run.state.tensors)
    elif ranks.main:
        if numbers := legend(manifest.classes):
            write_whole(out / MOSAIC_NAMES, lambda path: path.write_text(f"{numbers}\n", encoding="utf-8"))
        if note := notice([numbers, legend([config.selection_split])]):
            warn(note)
        mosaics = MOSAICS if IMAGE in config.model.fields else 0
        for number, batch in enumerate(islice(run.training.epoch(config, 0), mosaics)):
            write_picture(batch_mosaic(batch, manifest.classes), out / f"train_batch{number}.png")
    selected = run.selection.split
    baseline = commonest_class(selected.labels, manifest.classes)
    commonest = float((baseline.predicted == selected.labels).mean())
    if ranks.main:
        say(f"'{selected.name}': {len(selected.labels)} images; {baseline.meaning}: {commonest:.2%}")
    with StopSignals(ranks) as signals:
        loop = Loop(config, run.engine, run.network, out, signals, save_minutes, ranks, copy.keep)
        history = loop.run(run.training, run.selection, run.identity, run.state)
    best = max(history, key=lambda row: row["selection_accuracy"])
    return RunSummary(
        epochs=len(history),
        best_epoch=int(best["epoch"]),
        best_accuracy=best["selection_accuracy"],
        last_accuracy=history[-1]["selection_accuracy"],
        images=len(selected.labels),
        commonest=baseline.meaning,
        commonest_accuracy=commonest,
    )


def dev_run(config: RunConfig, train: Callable[..., RunSummary], ranks: Ranks) -> None:
    """Do everything that `train` does, in two epochs on a few images, in a temporary folder.

    The second epoch is resumed from the state after the first.
    """
    with temporary_folder("orsanet-dev-run-") as folder:
        out = folder / "run"
        for epochs in (1, 2):
            short = config.model_copy(update={"epochs": epochs})
            train(short, out=out, save_minutes=0, images=2 * config.batch_size + 2, resume=epochs > 1)
        if ranks.main:
            load_weights(out / "last.safetensors")
