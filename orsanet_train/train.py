"""Stage two: train the trainable part on cached priors.

Reads top to bottom: join labels to the store, build the model, then epoch by epoch train, evaluate, write. All randomness is addressed
by seed, epoch and position, so a run that goes on from any step of any epoch ends exactly as if it had not been interrupted.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn
from tqdm import tqdm

from orsanet_cache import Manifest, OrsanetError, PriorStore, Weights, listed, load_strictly, tensors_digest
from orsanet_train import plots
from orsanet_train.checkpoint import Identity, load_weights
from orsanet_train.config import RunConfig
from orsanet_train.distributed import ONE, Ranks, summed
from orsanet_train.engine import Engine, build_engine
from orsanet_train.epoch import batch_spans, epoch_plan
from orsanet_train.evaluate import predict
from orsanet_train.feed import Feed, LabelledSplit, PriorBatch, join
from orsanet_train.model import backbone_weights
from orsanet_train.online import OnlineBatch, OnlineFeed, OnlineORSANet, frozen_networks
from orsanet_train.residence import Resident
from orsanet_train.run_folder import begin_folder, check_folder, write_epoch, write_last
from orsanet_train.state import TrainingState, load_state, save_state
from orsanet_train.step import Sums, below
from orsanet_train.stop import StopSignals
from orsanet_train.watch import Waited, Watch

MOSAICS = 3  # labelled pictures of the first training batches
SAVE_MINUTES = 5.0


@dataclass(frozen=True)
class RunSummary:
    """How a run ended."""

    epochs: int
    best_epoch: int
    best_accuracy: float
    last_accuracy: float


def train(
    config: RunConfig,
    manifest: Manifest,
    store: PriorStore,
    out: Path,
    *,
    device: torch.device,
    ir50: Weights | None = None,
    resume: bool = False,
    resident: Resident = "auto",
    compiled: bool = False,
    frozen_weights: tuple[Path | None, Path | None] = (None, None),
    save_minutes: float = SAVE_MINUTES,
    images: int | None = None,
    ranks: Ranks = ONE,
) -> RunSummary:
    """Train into the run folder `out`.

    `resident` says where the data is kept meanwhile and `ranks` among how many processes a batch is shared, which changes no result
    (but for rounding). `frozen_weights` are the segmenter's and the landmark network's, for priors = "online". The state is saved at least every `save_minutes`, and on Ctrl-C or SIGTERM before they are passed on. With `images`, no more
    than the first of both splits take part.
    Raises OrsanetError for anything that does not fit, before the first step.
    """
    training = training_split(config, manifest, store)
    selection = _selection_split(config, manifest, store)
    _check_classes(training, manifest)
    if images is not None:
        training, selection = training.first(images), selection.first(images)
    fields = store.fields(config.train_split, "clean")
    identity = Identity(
        classes=manifest.classes,
        model=config.model,
        segmentation_channels=fields["segmentation_features"].shape[1],
        landmark_channels=fields["landmark_features"].shape[1],
        store_recipe=store.recipe,
        ir50_sha256=None if ir50 is None else tensors_digest(ir50.tensors),
        epoch=0,
        train_split=config.train_split,
        selection="last",
        selection_split=config.selection_split,
        selection_accuracy=0.0,
    )
    torch.manual_seed(config.seed)
    model = identity.build()
    if ir50 is not None:
        load_strictly(model.ir_back, backbone_weights(ir50))
    data = {
        "classes": list(manifest.classes),
        "store": store.recipe,
        "training_images_sha256": training.sha256(),
        "selection_images_sha256": selection.sha256(),
        "ir50_sha256": identity.ir50_sha256,
        "compiled": compiled,
    }
    # Without a state no step is finished yet, and resuming is starting.
    state = load_state(out / "checkpoints") if resume else None
    if state is not None and len(state.history) > config.epochs:
        raise OrsanetError(
            f"{out}: already trained for {len(state.history)} epochs, not {config.epochs}; ask for at least as many, or start a new run"
        )
    check_folder(out, config, data, resume)
    model = model.to(device)
    feeds: list[Feed | OnlineFeed]
    if config.priors == "online":
        network: nn.Module = OnlineORSANet(model, frozen_networks(frozen_weights, store), config.online).to(device)
        feeds = [OnlineFeed(manifest.root, store, split, device, ranks) for split in (training, selection)]
    else:
        network = model
        feeds = [Feed(store, split, config.model, device, resident, ranks) for split in (training, selection)]
    training_feed, selection_feed = feeds
    engine = build_engine(network, model, config, device, ranks, compiled=compiled)
    if ranks.main:
        tqdm.write(f"training: {engine.reason}", file=sys.stderr)
        for feed in feeds:
            tqdm.write(f"'{feed.split.name}': {feed.reason}", file=sys.stderr)
        begin_folder(out, config, data)
    if state is not None:
        engine.step.load(state.tensors)
        if isinstance(network, OnlineORSANet):
            network.load_frozen_state(below("frozen/", state.tensors))
    elif ranks.main and isinstance(training_feed, Feed):
        for number, batch in enumerate(islice(training_feed.epoch(config, 0), MOSAICS)):
            plots.batch_mosaic(batch, manifest.classes, out / f"train_batch{number}.png")

    with StopSignals(ranks) as signals:
        run = _Run(config, engine, network, out, signals, save_minutes, ranks)
        history = run.train(training_feed, selection_feed, identity, state)
    best = max(history, key=lambda row: row["selection_accuracy"])
    return RunSummary(len(history), int(best["epoch"]), best["selection_accuracy"], history[-1]["selection_accuracy"])


def dev_run(config: RunConfig, train: Callable[..., RunSummary], *, main: bool = True) -> None:
    """Everything that `train` does, two epochs on a few images, in a folder that does not stay; the `main` process writes there."""
    short = config.model_copy(update={"epochs": 2})
    with TemporaryDirectory(prefix="orsanet-dev-run-") as folder:
        out = Path(folder) / "run"
        train(short, out=out, save_minutes=0, images=2 * config.batch_size + 2)
        if main:
            load_weights(out / "last.safetensors")


def training_split(config: RunConfig, manifest: Manifest, store: PriorStore) -> LabelledSplit:
    """The images that a run of this configuration trains on."""
    views = ["clean", "hflip"] if config.augmentation.hflip > 0 else ["clean"]
    return join(manifest, store, config.train_split, views)


class _Run:
    """The loop over epochs and steps."""

    def __init__(
        self,
        config: RunConfig,
        engine: Engine,
        network: nn.Module,
        out: Path,
        signals: StopSignals,
        save_minutes: float,
        ranks: Ranks,
    ) -> None:
        self.config = config
        self.network = network
        self.engine = engine
        self.out = out
        self.signals = signals
        self.save_seconds = 60 * save_minutes
        self.ranks = ranks
        self.saved = self.finished = time.monotonic()  # when a state was saved last, and one at an epoch's end

    def train(
        self, training: Feed | OnlineFeed, selection: Feed | OnlineFeed, identity: Identity, state: TrainingState | None
    ) -> list[dict[str, float]]:
        """From `state`, or from the beginning, to the last epoch. Returns the rows of metrics.csv."""
        if state is None:
            state = TrainingState(epoch=0, step=0, history=[], metrics=[], tensors={})
        history, restart = list(state.history), True  # events that a run logged beyond its last state
        while len(history) < self.config.epochs:
            epoch = len(history)
            row, at_end = self._train_epoch(training, state)
            try:
                right = predict(self.network, selection, between=self.signals.stop_here).argmax(axis=1)
            except KeyboardInterrupt:
                self._save(at_end)
                raise
            correct = summed(torch.tensor(float((right == selection.own_labels).sum())), self.ranks)
            row["selection_accuracy"] = float(correct) / len(selection.split.rows)
            history.append(row)
            state = TrainingState(epoch=epoch + 1, step=0, history=history, metrics=[], tensors={})
            if self.ranks.main:
                now = identity.model_copy(update={"epoch": epoch + 1, "selection_accuracy": row["selection_accuracy"]})
                write_epoch(self.out, self.network, now, history, restart=restart)
                last = len(history) == self.config.epochs
                if last or time.monotonic() - self.finished >= self.save_seconds:
                    write_last(self.out, self.network, now, history)
                    self._save(state)
                    self.finished = time.monotonic()
            restart = False
        return history

    def _train_epoch(self, feed: Feed | OnlineFeed, state: TrainingState) -> tuple[dict[str, float], TrainingState]:
        """Train what is left of the epoch. Returns its row of metrics.csv, and the state at its end."""
        config, epoch, step = self.config, state.epoch, self.engine.step
        *sums, seconds, waited = state.metrics or [*Sums(), 0.0, 0.0]
        step.begin_epoch(epoch, Sums(*sums))
        self.network.train()
        spans = batch_spans(len(feed.split.rows), config.batch_size)
        began = time.monotonic()
        batches: Waited[PriorBatch | OnlineBatch] = Waited(feed.epoch(config, epoch, state.step))

        def reached(done: int) -> TrainingState:
            now = watch.last()
            self._check_finite(now, feed, epoch)
            metrics = [*now, seconds + time.monotonic() - began, waited + batches.seconds]
            return TrainingState(epoch, done, state.history, metrics, {})

        title = f"epoch {epoch + 1}/{config.epochs}"
        with Watch(step.sums, len(feed.split.rows), int(sums[0]), title, shown=self.ranks.main) as watch:
            for done, (span, batch) in enumerate(zip(spans[state.step :], batches, strict=True), state.step + 1):
                self.engine.take(batch, span[1] - span[0])
                if (glanced := watch.glance()) is not None and self.ranks.world == 1:
                    self._check_finite(glanced, feed, epoch)
                asked = self.signals.asked()
                if asked or time.monotonic() - self.saved >= self.save_seconds:
                    self._save(reached(done))
                if asked:
                    raise self.signals.interrupt()
            at_end = reached(len(spans))
        *sums, seconds, waited = at_end.metrics
        whole = Sums(*sums)
        row = {
            "epoch": epoch + 1,
            "learning_rate": float(step.optimizer.param_groups[0]["lr"]),
            "loss": whole.loss / whole.images,
            "perturbed_loss": whole.perturbed_loss / whole.images,
            "train_accuracy": whole.correct / whole.images,
            "images_per_second": whole.images / seconds,
            "waiting_share": waited / seconds,
        }
        return row, at_end

    def _save(self, state: TrainingState) -> None:
        if self.ranks.main:
            tensors = self.engine.step.state()
            if isinstance(self.network, OnlineORSANet):
                tensors |= {f"frozen/{name}": tensor for name, tensor in self.network.frozen_state().items()}
            save_state(self.out / "checkpoints", replace(state, tensors=tensors))
        self.saved = time.monotonic()

    def _check_finite(self, sums: Sums, feed: Feed | OnlineFeed, epoch: int) -> None:
        """Raises OrsanetError after a loss that was not finite, with the images of its batch."""
        if not sums.stopped:
            return
        number = int(sums.steps)
        first, end = batch_spans(len(feed.split.rows), self.config.batch_size)[number]
        order = epoch_plan(feed.split.labels, self.config, epoch).order[first:end]
        images = [feed.split.samples[index].image for index in order]
        raise OrsanetError(
            f"the loss was not finite in epoch {epoch + 1}, step {number + 1}, which changed no weight; what was saved before is kept. "
            f"Lower learning_rate, or look at the priors of the batch's images with `orsanet-cache show`:\n{listed(images)}"
        )


def _selection_split(config: RunConfig, manifest: Manifest, store: PriorStore) -> LabelledSplit:
    if config.selection_split not in manifest.splits:
        others = [split for split in manifest.splits if split != config.train_split]
        raise OrsanetError(
            f"selection_split = \"{config.selection_split}\", but manifest '{manifest.name}' has no such split; "
            f"choose one with --set selection_split=NAME (it has {', '.join(others) or 'none besides training'})"
        )
    if config.selection_split == config.train_split:
        raise OrsanetError(
            f"selection_split is the training split '{config.train_split}': choose images not trained on"
        )
    selection = join(manifest, store, config.selection_split, ["clean"])
    if not selection.samples:
        raise OrsanetError(
            f"split '{selection.name}' has no usable image to choose the best epoch by; see `orsanet-cache info`"
        )
    return selection


def _check_classes(training: LabelledSplit, manifest: Manifest) -> None:
    present = set(training.labels.tolist())
    absent = [name for label, name in enumerate(manifest.classes) if label not in present]
    if absent:
        raise OrsanetError(
            f"split '{training.name}' has no usable image of class {', '.join(absent)}; "
            f"remove the class from the manifest or add images"
        )
