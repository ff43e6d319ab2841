"""orsanet-train as a user meets it: exit codes, one sentence for every mistake; a real process where that is what a user meets."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_lines import Ended, in_process
from forks import ForkServer

from orsanet_train.cli import main

SMALL = [
    "--preset", "small", "--set", "batch_size=6", "--set", "model.depth=1", "--set", "model.width=32",
    "--set", "model.backbone_channels=[8,8,16]", "--set", "model.backbone_units=[1,1,1]",
]  # fmt: skip


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # two wait for each other where other tests run beside


def line(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "orsanet_train", *map(str, arguments)]


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line(*arguments), capture_output=True, text=True, timeout=240, check=False, env=ONE_THREAD)


def command(*arguments: object) -> Ended:
    return in_process(main, *arguments)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """For what runs in this process, as ONE_THREAD is for others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def refused(result: Ended | subprocess.CompletedProcess[str]) -> str:
    """The message of a command that ended in a user's mistake."""
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.count("Error: ") == 1
    return result.stderr


def data(world) -> list[object]:
    return ["--store", world.store, "--manifest", world.manifest]


def test_run_evaluate_report_compare(world, programs: ForkServer, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ran = programs.run("orsanet-train", "run", *data(world), *SMALL, "--set", "epochs=2", "--out", out)
    assert ran.returncode == 0, ran.stderr
    assert "best weights chosen on 'valid'; 2 epochs" in ran.stdout
    assert "IR50 starts from random weights" in ran.stderr
    assert "img/s" in ran.stderr
    assert "'train': " in ran.stderr
    assert "streamed from the store; on a CPU the page cache" in ran.stderr
    evaluated = command(
        "evaluate", out, *data(world), "--splits", "test,test:occluded", "--checkpoint", "last", "--resident", "host"
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert "last checkpoint (epoch 2), not chosen by any result" in evaluated.stdout
    assert "test:occluded" in evaluated.stdout
    assert (out / "evaluation-last" / "predictions.csv").exists()
    assert f"next: orsanet-train report {out} --checkpoint last" in evaluated.stdout

    missing = refused(command("report", out))
    assert f"its best checkpoint has not been evaluated; run `orsanet-train evaluate {out} --checkpoint best" in missing
    told = command("report", out, "--checkpoint", "last", "--split", "test")
    assert told.returncode == 0, told.stderr
    assert "last of 2 epochs" in told.stdout
    assert {path.name for path in (out / "report-last").iterdir()} == {"report.html", "report.md", "report.json"}

    (tmp_path / "list.csv").write_text("image,tags\nimages/test_0.png,pose\nimages/test_4.png,pose\n")
    second = tmp_path / "second"
    shutil.copytree(out, second)
    listed = command(
        "evaluate",
        second,
        *data(world),
        "--checkpoint",
        "last",
        "--tags",
        tmp_path / "list.csv",
        "--splits",
        "test,test:pose",
    )
    assert listed.returncode == 0, listed.stderr
    (said,) = [row.split() for row in listed.stdout.splitlines() if row.strip().startswith("test:pose")]
    assert said[1] == "2"
    compared = command("compare", out, second, "--checkpoint", "last", "--out", tmp_path / "compared.json")
    assert compared.returncode == 0, compared.stderr
    assert "run was not evaluated on test:pose: left out" in compared.stdout
    (difference,) = json.loads((tmp_path / "compared.json").read_text())["differences"]
    assert (difference["pairs"][0]["p_value"], difference["pairs"][0]["only_first"]) == (1.0, 0)

    measured = command("bench", "evaluate", out, *data(world), "--checkpoint", "last")
    assert measured.returncode == 0, measured.stderr
    assert "6 images; an image takes" in measured.stdout


def test_an_interrupted_run_says_how_to_go_on_and_does(runner, world, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--set", "epochs=2000", "--save-minutes", 0]
    running = subprocess.Popen(
        line(*runner.arguments(out, *options)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ONE_THREAD
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list((out / "checkpoints").glob("*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "Error" not in errors.splitlines()[-1]
    assert "--resume" in errors
    done = len(pd.read_csv(out / "metrics.csv")) if (out / "metrics.csv").exists() else 0

    resumed = runner.start(out, *options, "--resume")
    deadline = time.monotonic() + 120
    while (
        not (out / "metrics.csv").exists() or len(pd.read_csv(out / "metrics.csv")) <= done
    ) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(resumed, signal.SIGKILL)  # and a kill leaves whole files too
    assert runner.wait(resumed).code == -signal.SIGKILL
    assert pd.read_csv(out / "metrics.csv")["epoch"].tolist() == list(
        range(1, len(pd.read_csv(out / "metrics.csv")) + 1)
    )
    assert command("evaluate", out, *data(world)).returncode == 0


ONLINE = ["--set", "priors=online", "--set", "online=published"]


@pytest.mark.parametrize("priors", ["cached", "online"])
def test_a_fast_dev_run_tries_everything_and_leaves_nothing_behind(runner, world, tmp_path: Path, priors: str) -> None:
    frozen = [*ONLINE, "--segmenter", world.segmenter, "--landmarks", world.landmarks] if priors == "online" else []
    ran = runner.finish(tmp_path / "run", "--set", "epochs=400", *frozen, "--fast-dev-run")
    assert "the whole run works; no files were kept" in ran.out
    assert "epoch 2/2" in ran.err
    assert not (tmp_path / "run").exists()
    assert ran.left == []


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (["--set", "selection_split=other"], "selection_split"),
        (["--set", "learning_rate=1e30"], "learning_rate"),
        (ONLINE, "pass --segmenter and --landmarks"),
        (["--set", "epoch=3"], "epoch: unknown key"),
    ],
)
def test_a_fast_dev_run_fails_where_the_run_would_and_leaves_nothing_behind_either(
    runner, tmp_path: Path, setting: list[str], said: str
) -> None:
    ended = runner.run(tmp_path / "run", *setting, "--fast-dev-run")
    assert ended.code == 1, ended.err
    assert "Traceback" not in ended.err
    assert said in ended.err.split("Error: ")[1]
    assert not (tmp_path / "run").exists()
    assert ended.left == []


def test_a_fast_dev_run_of_several_processes_ends_well_on_each(runner, tmp_path: Path) -> None:
    """With what torchrun tells its processes; test_torchrun.py has torchrun itself start the command."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    job = {
        "TORCHELASTIC_RUN_ID": "dev", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    ranks = [{**job, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    started = [runner.start(tmp_path / "run", "--fast-dev-run", environment=rank) for rank in ranks]
    first, second = map(runner.wait, started)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert (first.out + second.out).count("the whole run works; no files were kept") == 1
    assert not (tmp_path / "run").exists()
    assert first.left == second.left == []


def test_complexity_prints_both_totals() -> None:
    result = command("complexity")
    assert result.returncode == 0, result.stderr
    assert "60,289,575" in result.stdout
    assert "47,441,447" in result.stdout


@pytest.mark.parametrize(
    "subcommand", [[], ["pretrain"], ["run"], ["evaluate"], ["report"], ["compare"], ["complexity"]]
)
def test_help_is_instant(subcommand: list[str]) -> None:
    best = 9.0
    for _ in range(5):  # the machine may be busy: the fastest of five is what the command needs
        began = time.perf_counter()
        result = process(*subcommand, "--help")
        best = min(best, time.perf_counter() - began)
        assert result.returncode == 0
        assert "Usage:" in result.stdout
        if best < 0.5:
            break
    assert best < 0.5


def test_every_mistake_in_the_configuration_is_reported_at_once(world, tmp_path: Path) -> None:
    mistakes = ["epoch=3", "batch_size=many", "model.depht=4", "loss.dare=maybe"]
    settings = [part for mistake in mistakes for part in ("--set", mistake)]
    said = refused(command("run", *data(world), *SMALL, "--out", tmp_path / "run", *settings))
    for finding in ("epoch: unknown key", "batch_size", "model.depht: unknown key", "loss.dare"):
        assert finding in said
    assert not (tmp_path / "run").exists()


def test_mistakes_end_in_one_sentence(world, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "run"]
    assert "neither a preset" in refused(process("run", *data(world), "--preset", "rafdb2", *out))
    missing = ["--store", tmp_path / "none", "--manifest", world.manifest]
    assert "no such store" in refused(command("run", *missing, *SMALL, *out))
    assert "cannot be read" in refused(
        command("run", "--store", world.store, "--manifest", tmp_path / "none.toml", *SMALL, *out)
    )
    assert "not available here" in refused(command("run", *data(world), *SMALL, *out, "--device", "cuda:99"))
    assert "weights of this IR50" in refused(command("run", *data(world), *SMALL, *out, "--ir50", world.landmarks))
    assert "none is not a run folder: it has no best" in refused(command("evaluate", tmp_path / "none", *data(world)))
    assert "not written by `orsanet-train run`" in refused(evaluate_foreign(world, tmp_path))


def evaluate_foreign(world, tmp_path: Path) -> Ended:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "best.safetensors").write_bytes(world.landmarks.read_bytes())
    return command("evaluate", tmp_path / "foreign", *data(world))
