"""The loop over epochs and steps: train, evaluate, write results, and save states to resume from.

state ─▶ epoch: step, step, … ─▶ evaluation ─▶ row of metrics.csv ─▶ best, last weights ─▶ state
                  └─ every few minutes, and when asked to stop ─▶ state
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.progress import say
from orsanet_train.config import RunConfig
from orsanet_train.engine.distributed import Ranks, summed
from orsanet_train.engine.engine import Engine
from orsanet_train.engine.step import Batch, Sums
from orsanet_train.evaluation.forward import model_outputs
from orsanet_train.feed.batches import Batches
from orsanet_train.feed.plan import batch_spans, epoch_plan
from orsanet_train.model.checkpoint import Identity
from orsanet_train.run.folder import STATES, write_epoch, write_last
from orsanet_train.run.state import TrainingState, save_state
from orsanet_train.run.stop import StopSignals
from orsanet_train.run.watch import Waited, Watch


class Loop:
    """Trains from a state to the last epoch; a run that ends before leaves a state to resume from.

    Args:
        config: the settings of the run.
        engine: takes the steps.
        network: the module to evaluate, called with a batch's inputs.
        out: the run folder.
        signals: report whether the run must stop.
        save_minutes: the longest time between saved states.
        ranks: the processes that share every batch.
        keep: called on the main rank after each saved state and each epoch, with whether to wait until
            their files are at the run's URL, too.
    """

    def __init__(
        self,
        config: RunConfig,
        engine: Engine,
        network: nn.Module,
        out: Path,
        signals: StopSignals,
        save_minutes: float,
        ranks: Ranks,
        keep: Callable[[bool], object],
    ) -> None:
        self.config = config
        self.network = network
        self.engine = engine
        self.out = out
        self.signals = signals
        self.save_seconds = 60 * save_minutes
        self.ranks = ranks
        self.keep = keep
        self.last_save = self.last_epoch_save = time.monotonic()  # of any state; of one at an epoch's end

    def run(
        self, training: Batches, selection: Batches, identity: Identity, state: TrainingState | None
    ) -> list[dict[str, float]]:
        """Train from `state`, or from the beginning, to the last epoch.

        Returns the rows of metrics.csv.
        """
        if state is None:
            state = TrainingState(epoch=0, step=0, history=[], metrics=[], tensors={})
        history, restart = list(state.history), True  # hides events that a run logged beyond its last state
        while len(history) < self.config.epochs:
            epoch = len(history)
            row, at_end = self._train_epoch(training, state)
            try:
                right = model_outputs(self.network, selection, after_batch=self._stop_here).probabilities.argmax(axis=1)
                if self.signals.asked():
                    raise self.signals.interrupt()
            except KeyboardInterrupt:
                self._save(at_end, wait=True)
                raise
            correct = summed(torch.tensor(float((right == selection.own_labels).sum())), self.ranks)
            row["selection_accuracy"] = float(correct) / len(selection.split.rows)
            history.append(row)
            if self.ranks.main:
                say(_line(row, self.config))
            state = TrainingState(epoch=epoch + 1, step=0, history=history, metrics=[], tensors={})
            if self.ranks.main:
                now = identity.model_copy(update={"epoch": epoch + 1, "selection_accuracy": row["selection_accuracy"]})
                write_epoch(self.out, self.engine, now, history, restart=restart)
                last = len(history) == self.config.epochs
                if last or time.monotonic() - self.last_epoch_save >= self.save_seconds:
                    write_last(self.out, self.engine, now, history)
                    self._save(state)
                    self.last_epoch_save = time.monotonic()
                else:
                    self.keep(False)
            restart = False
        return history

    def _train_epoch(self, feed: Batches, state: TrainingState) -> tuple[dict[str, float], TrainingState]:
        """Train the rest of the epoch.

        Returns the epoch's row of metrics.csv, and the state at its end.
        """
        config, epoch, step = self.config, state.epoch, self.engine.step
        *sums, seconds, waited = state.metrics or [*Sums(), 0.0, 0.0]
        kept = len(sums)  # a state of a version that did not count the second pass's correct predictions has fewer
        step.begin_epoch(epoch, Sums(*sums))
        self.network.train()
        spans = batch_spans(len(feed.split.rows), config.batch_size)
        began = time.monotonic()
        batches: Waited[Batch] = Waited(feed.epoch(config, epoch, state.step))

        def reached(done: int) -> TrainingState:
            now = watch.last()
            self._check_finite(now, feed, epoch)
            metrics = [*now[:kept], seconds + time.monotonic() - began, waited + batches.seconds]
            return TrainingState(epoch, done, state.history, metrics, {})

        title = f"epoch {epoch + 1}/{config.epochs}"
        with Watch(step.sums, len(feed.split.rows), int(sums[0]), title) as watch:
            for done, (span, batch) in enumerate(zip(spans[state.step :], batches, strict=True), state.step + 1):
                self.engine.take(batch, span[1] - span[0])
                if (glanced := watch.glance()) is not None and self.ranks.world == 1:
                    self._check_finite(glanced, feed, epoch)
                asked = self.signals.asked()
                if asked or time.monotonic() - self.last_save >= self.save_seconds:
                    feed.check_unchanged()  # what other data has trained must not become a state
                    self._save(reached(done), wait=asked)
                if asked:
                    raise self.signals.interrupt()
            at_end = reached(len(spans))
        *sums, seconds, waited = at_end.metrics
        whole = Sums(*sums)
        row = {
            "epoch": epoch + 1,
            "learning_rate": step.learning_rate,
            "loss": whole.loss / whole.images,
            "perturbed_loss": whole.perturbed_loss / whole.images,
            "train_accuracy": whole.correct / whole.images,
            **({"perturbed_accuracy": whole.perturbed_correct / whole.images} if kept == len(Sums._fields) else {}),
            "images_per_second": whole.images / seconds,
            "waiting_share": waited / seconds,
        }
        return row, at_end

    def _stop_here(self, _images: int) -> None:
        if self.ranks.world == 1:  # several processes must stop together: they exchange their flags afterwards
            self.signals.stop_here()

    def _save(self, state: TrainingState, wait: bool = False) -> None:
        if self.ranks.main:
            save_state(self.out / STATES, replace(state, tensors=self.engine.state()))
            self.keep(wait)
        self.last_save = time.monotonic()

    def _check_finite(self, sums: Sums, feed: Batches, epoch: int) -> None:
        """Raises OrsanetError, with the batch's images, after a loss that was not finite."""
        if not sums.stopped:
            return
        number = int(sums.steps)
        first, end = batch_spans(len(feed.split.rows), self.config.batch_size)[number]
        order = epoch_plan(feed.split.labels, self.config, epoch, feed.split.units).order[first:end]
        images = [feed.split.samples[index].image for index in order]
        raise OrsanetError(
            f"the loss was not finite in epoch {epoch + 1}, step {number + 1}; this step changed no weight, and earlier states are kept. "
            f"Lower learning_rate, or check the priors of the batch's images with `orsanet-cache show`:\n{listed(images)}"
        )


def _line(row: dict[str, float], config: RunConfig) -> str:
    return (
        f"epoch {row['epoch']:.0f}/{config.epochs}: loss {row['loss']:.4f}, accuracy {row['train_accuracy']:.2%} in training, "
        f"{row['selection_accuracy']:.2%} on '{config.selection_split}'; {row['images_per_second']:.1f} img/s"
    )
