"""What a run shows is what it computed: bar or line, the table, and TensorBoard's events read back with TensorBoard's own reader."""

import contextlib
import io
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from orsanet_cache.progress import hidden
from orsanet_train.engine.step import Sums
from orsanet_train.run.state import load_state
from orsanet_train.run.watch import Waited, Watch, write_events

EVERY_STEP = ("--save-minutes", 0)


def check_events(out: Path) -> None:
    """Every column of metrics.csv is a series of the same numbers, in the float32 that events have, each epoch once."""
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    metrics = pd.read_csv(out / "metrics.csv", index_col="epoch")
    assert sorted(events.Tags()["scalars"]) == sorted(metrics.columns)
    for name, column in metrics.items():
        series = events.Scalars(str(name))
        assert [event.step for event in series] == metrics.index.tolist()
        assert [event.value for event in series] == column.astype(np.float32).tolist()


def test_the_events_are_the_table(whole) -> None:
    check_events(whole.out)


@pytest.mark.parametrize(
    ("options", "at", "number"),
    [
        (EVERY_STEP, "rename last.safetensors", 1),  # the first epoch is logged, the state is that of its last step
        (EVERY_STEP, "rename last.safetensors", 2),
        ((), "rename last.safetensors", 1),  # all epochs are logged, and there is no state: resuming starts anew
    ],
)
def test_after_a_kill_beyond_the_last_state_every_epoch_is_seen_once(
    runner, tmp_path: Path, options: tuple[object, ...], at: str, number: int
) -> None:
    out = tmp_path / "run"
    runner.kill(out, *options, at=at, number=number)
    runner.finish(out, *options, "--resume")
    check_events(out)


def test_events_of_epochs_beyond_the_restart_are_hidden(tmp_path: Path) -> None:
    def row(epoch: int, loss: float) -> dict[str, float]:
        return {"epoch": epoch, "loss": loss}

    history = [row(1, 0.5), row(2, 0.25), row(3, 0.125)]
    for end in (1, 2, 3):
        write_events(tmp_path, history[:end], restart=False)
    time.sleep(1.1)  # TensorBoard orders its files by the second that is in their names
    write_events(tmp_path, [row(1, 0.5), row(2, 4.0)], restart=True)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 4.0)]


def test_in_a_log_a_run_has_a_line_an_epoch_with_the_numbers_of_the_table(whole) -> None:
    metrics = pd.read_csv(whole.out / "metrics.csv")
    lines = re.findall(
        r"^epoch (\d)/2: loss ([\d.]+), accuracy (\S+) in training, .* img/s$", whole.ended.err, re.MULTILINE
    )
    wanted = [(str(row.epoch), f"{row.loss:.4f}", f"{row.train_accuracy:.2%}") for row in metrics.itertuples()]
    assert lines == wanted
    assert "\r" not in whole.ended.err


def test_metrics_are_shares_of_the_images_and_the_wait_is_a_share_of_the_time(whole) -> None:
    metrics = pd.read_csv(whole.out / "metrics.csv")
    for name, images in (("train_accuracy", 14), ("selection_accuracy", 6)):
        counts = metrics[name] * images
        np.testing.assert_allclose(counts, counts.round(), rtol=0, atol=1e-9)  # a ratio of whole numbers, rounded twice
    assert metrics["waiting_share"].between(0, 1).all()
    assert (metrics["images_per_second"] > 0).all()


def test_a_resumed_epoch_counts_the_time_and_the_images_of_its_first_part(runner, tmp_path: Path) -> None:
    out = tmp_path / "run"
    runner.kill(out, *EVERY_STEP, "--set", "epochs=1", at="pass one", number=3)
    before = load_state(out / "checkpoints")
    assert before is not None
    *sums, seconds, waited = before.metrics
    assert Sums(*sums).images == 12
    assert 0 <= waited <= seconds
    runner.finish(out, *EVERY_STEP, "--set", "epochs=1", "--resume")
    metrics = pd.read_csv(out / "metrics.csv")
    assert metrics["waiting_share"].between(0, 1).all()
    assert metrics["images_per_second"][0] < 14 / seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_counts_images_and_divides_sums_by_them() -> None:
    sums = torch.tensor(Sums(images=0), dtype=torch.float64)
    with contextlib.redirect_stderr(Terminal()) as err, Watch(sums, 40, 0, "epoch 1/1") as watch:
        assert watch.glance() == Sums()
        sums.copy_(torch.tensor(Sums(10, 25.0, 30.0, 4, 1, 0), dtype=torch.float64))
        assert watch.glance() is None  # not again so soon
        assert watch.last() == Sums(10, 25.0, 30.0, 4, 1, 0)
        assert (watch.progress.done, watch.progress.total) == (10, 40)
        assert watch.last().images == watch.progress.done == 10
    assert re.search(r"\repoch 1/1: .*10/40 .*loss=2.500, accuracy=40.0%", err.getvalue())


def test_a_bar_of_a_resumed_epoch_begins_with_what_is_done() -> None:
    sums = torch.tensor(Sums(12, 3.0, 3.0, 6, 1, 1), dtype=torch.float64)
    with contextlib.redirect_stderr(Terminal()) as err, Watch(sums, 14, 12, "epoch 1/1"):
        pass
    assert re.search(r"epoch 1/1:\s+86%\|.*\| 12/14 \[", err.getvalue())


def test_progress_that_is_hidden_says_nothing_and_knows_as_much(capfd: pytest.CaptureFixture[str]) -> None:
    sums = torch.tensor(Sums(6, 3.0, 3.0, 6, 1, 1), dtype=torch.float64)
    with hidden(), Watch(sums, 6, 0, "epoch") as watch:
        assert watch.last() == Sums(6, 3.0, 3.0, 6, 1, 1)
    assert capfd.readouterr().err == ""


def test_the_time_that_its_user_waited_is_counted_and_no_other() -> None:
    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.1)
            yield number

    began, waited, used = time.perf_counter(), Waited(slow()), []
    for number in waited:
        time.sleep(0.1)
        used.append(number)
    assert used == [0, 1, 2]
    assert 0.3 <= waited.seconds <= time.perf_counter() - began - 0.3
