"""Ctrl-C, SIGTERM and SIGHUP end a run after the step under way, with its state saved; a second one ends it at once.

run_child.py says what a point is: the process sends itself the signal there.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orsanet_cache.console import Terminated
from orsanet_train.engine.distributed import ONE
from orsanet_train.run.stop import StopSignals

EVERY_STEP = ("--save-minutes", 0)
SLEEP = 60.0  # seconds that a step hangs
AT_ONCE = 15.0  # seconds in which a signal ends it all the same, on a busy machine too
HOW_TO_GO_ON = "Interrupted. Saved results are kept: run the same command again to continue (`pretrain`, `ablate` and `dare` as they are, `run` with --resume, `predict` with another --out)."


def states(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def check_ended(ended, code: int) -> None:
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    assert ended.err.splitlines()[-1] == HOW_TO_GO_ON


@pytest.mark.parametrize(
    ("sent", "code", "at", "number", "saved"),
    [
        ("SIGTERM", 143, "pass one", 5, "00000001-000002"),
        ("SIGINT", 130, "pass two", 2, "00000000-000002"),
        ("SIGTERM", 143, "evaluating", 1, "00000000-000003"),
        ("SIGHUP", 129, "pass one", 5, "00000001-000002"),
        # The epoch is written whole, and the next one's first step is the step under way.
        ("SIGTERM", 143, "rename metrics.csv", 1, "00000001-000001"),
    ],
)
def test_the_first_signal_saves_the_step_under_way(
    runner, whole, tmp_path: Path, sent: str, code: int, at: str, number: int, saved: str
) -> None:
    out = tmp_path / "run"
    check_ended(runner.run(out, at=at, number=number, sent=sent), code)
    assert states(out) == [saved]
    runner.finish(out, "--resume")
    assert runner.differences(out, whole.out) == []


@pytest.mark.parametrize("at", ["rename checkpoints/STATE", "evaluating"])
def test_a_signal_while_states_are_saved_anyway_leaves_whole_ones(runner, whole, tmp_path: Path, at: str) -> None:
    """The end of an epoch's last step is saved a second time when its evaluation is interrupted."""
    out = tmp_path / "run"
    check_ended(runner.run(out, *EVERY_STEP, at=at, sent="SIGTERM"), 143)
    assert (
        states(out) == ["00000000-000001", "00000000-000002"]
        if "STATE" in at
        else ["00000000-000002", "00000000-000003"]
    )
    runner.finish(out, "--resume")
    assert runner.differences(out, whole.out) == []


def test_a_second_signal_does_not_wait_and_what_was_saved_before_is_whole(runner, whole, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pid = runner.start(out, *EVERY_STEP, at="pass two", number=2, sent=None, linger=SLEEP)
    runner.wait_until_still(out)
    began = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    time.sleep(1)
    assert (out / "checkpoints" / "00000000-000001").is_dir()
    os.kill(pid, 0)  # still there: the first one waits for the step
    os.kill(pid, signal.SIGTERM)
    check_ended(runner.wait(pid), 143)
    assert time.monotonic() - began < AT_ONCE
    assert states(out) == ["00000000-000001"]
    runner.finish(out, "--resume")
    assert runner.differences(out, whole.out) == []


def test_a_signal_before_training_ends_the_command_and_it_can_be_started_again(runner, whole, tmp_path: Path) -> None:
    out = tmp_path / "run"
    check_ended(runner.run(out, at="rename config.toml", sent="SIGTERM"), 143)
    assert not (out / "checkpoints").exists()
    runner.finish(out)
    assert runner.differences(out, whole.out) == []


def test_a_signal_while_the_finished_run_is_written_is_passed_on_afterwards(runner, whole, tmp_path: Path) -> None:
    out = tmp_path / "run"
    check_ended(runner.run(out, at="rename last.safetensors", sent="SIGTERM"), 143)
    assert runner.differences(out, whole.out) == []


def test_a_signal_between_two_seeds_does_not_start_the_second(runner, tmp_path: Path) -> None:
    out = tmp_path / "seeds"
    check_ended(runner.run(out, "--seeds", "1,2", at="rename seed-1/last.safetensors", sent="SIGTERM"), 143)
    assert not (out / "seed-2").exists()


# --- StopSignals by itself ---


def ending(body: Callable[[StopSignals], None]) -> type[BaseException] | None:
    """What comes out of a block under StopSignals that does `body`."""
    try:
        with StopSignals(ONE) as signals:
            body(signals)
    except BaseException as error:
        return type(error)
    return None


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_is_noted_and_raised_where_it_is_asked_for(
    number: signal.Signals, kind: type[KeyboardInterrupt]
) -> None:
    reached = []

    def body(signals: StopSignals) -> None:
        signals.stop_here()
        reached.append(signals.asked())
        signal.raise_signal(number)
        reached.append(signals.asked())
        signals.stop_here()
        reached.append(True)

    assert ending(body) is kind
    assert reached == [False, True]


def test_the_second_signal_is_raised_where_it_comes() -> None:
    reached = []

    def body(_: StopSignals) -> None:
        signal.raise_signal(signal.SIGINT)
        reached.append(1)
        signal.raise_signal(signal.SIGTERM)
        reached.append(2)

    assert ending(body) is Terminated
    assert reached == [1]


def test_a_signal_that_nobody_asks_for_is_raised_at_the_end() -> None:
    assert ending(lambda _: signal.raise_signal(signal.SIGTERM)) is Terminated


def test_without_a_signal_nothing_is_raised() -> None:
    assert ending(lambda signals: signals.stop_here()) is None


def test_an_error_is_not_hidden_by_a_signal_noted_before_it() -> None:
    def body(_: StopSignals) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise ZeroDivisionError

    assert ending(body) is ZeroDivisionError


def test_afterwards_signals_do_what_they_did_before() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with StopSignals(ONE):
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in numbers] == before


def test_outside_the_main_thread_nothing_changes() -> None:
    found = []

    def inside() -> None:
        with StopSignals(ONE) as signals:
            found.append((signal.getsignal(signal.SIGTERM), signals.asked()))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [(signal.getsignal(signal.SIGTERM), False)]
