"""The whole training step as CUDA graphs: replayed, a step costs one launch instead of thousands.

A graph is recorded for every batch size (the last batch of an epoch is short), for the warm-up loss
and for the loss after it. Recording needs trial steps; their changes are undone. The losses of the
first replay must equal those of the first trial.
"""

import traceback
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from orsanet_cache.progress import warn
from orsanet_train.engine.step import Batch, TrainingStep

TRIALS = 3  # torch's advice: kernels are chosen and memory is laid out before recording
AGREEMENT = 1e-3  # relative, of the losses: kernels may differ from the trial's; a faulty graph is far off


class Recorded(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: Batch  # the tensors that the graph reads


class GraphedStep:
    """Called like the TrainingStep that it replays; batches are named tuples of tensors."""

    def __init__(self, step: TrainingStep) -> None:
        self.step = step
        self.recorded: dict[tuple[int, bool], Recorded] = {}
        self.refused = ""  # the traceback, if this device or driver cannot record the step

    def __call__(self, batch: Batch, total: int) -> None:
        if self.refused:
            self.step(batch, total)
            return
        key = (total, self.step.epoch < self.step.config.loss.warmup_epochs)
        if key not in self.recorded:
            try:
                self.recorded[key] = self._record(batch, total)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                warn(f"CUDA graphs are not used, steps are launched one by one: {error}")
                self.refused = traceback.format_exc()
                self.step(batch, total)
                return
        graph, inputs = self.recorded[key]
        for static, value in zip(_tensors(inputs), _tensors(batch), strict=True):
            static.copy_(value)
        graph.replay()

    def _record(self, batch: Batch, total: int) -> Recorded:
        step = self.step
        inputs = type(batch)(*(tensor.clone() for tensor in _tensors(batch)))
        before = {name: tensor.clone() for name, tensor in self._everything().items()}
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(aside):
                for trial in range(TRIALS):
                    step(inputs, total)
                    if trial == 0:
                        expected = step.sums - before["sums"]
            here.wait_stream(aside)
            self._put_back(before)
            # The feed's thread may wait for a copy during the recording. Only a recording limited
            # to its own thread allows this.
            with torch.cuda.graph(graph, pool=_pool(), capture_error_mode="thread_local"):
                step(inputs, total)
            if not torch.equal(step.sums, before["sums"]):
                raise RuntimeError("the step ran instead of being recorded")
            graph.replay()
            found = step.sums - before["sums"]
        except RuntimeError:
            torch.cuda.set_stream(here)  # where a recording cannot be ended, torch stays on its stream
            self._forget_half_a_step()
            raise
        finally:
            self._put_back(before)
        losses = slice(1, 3)  # not the number of correct predictions: a tie may be broken differently
        if not torch.allclose(found[losses], expected[losses], rtol=AGREEMENT, equal_nan=True):
            raise RuntimeError(f"a recorded step gave {found.tolist()}, the step itself {expected.tolist()}")
        return Recorded(graph, inputs)

    def _forget_half_a_step(self) -> None:
        """Remove what an unfinished step leaves outside the tensors of its state."""
        for name in ("grad_scale", "found_inf"):
            vars(self.step.optimizer).pop(name, None)
        self.step.scaler._per_optimizer_states.clear()

    def _everything(self) -> dict[str, Tensor]:
        return {**self.step.state(), "sums": self.step.sums, "stopped": self.step.stopped}

    def _put_back(self, before: dict[str, Tensor]) -> None:
        """Restore all tensors in place, because the graph refers to them.

        Optimiser state that did not exist in `before` is set to zero.
        """
        for name, tensor in self._everything().items():
            if name in before:
                tensor.copy_(before[name])
            else:
                tensor.zero_()
        self.step.load_scaler(before)


@cache
def _pool() -> Any:
    """The memory that all graphs share: no graph reads what another left there."""
    return torch.cuda.graph_pool_handle()


def _tensors(batch: Batch) -> tuple[Tensor, ...]:
    return cast(tuple[Tensor, ...], batch)
