"""Two processes under torchrun train as one does: the same losses and weights, each reading its own rows, and one run folder."""

import runpy
from pathlib import Path

import pandas as pd
import pytest
import torch
from forks import ForkServer, as_torchrun_tells
from safetensors.torch import load_file

CHILD = str(Path(__file__).with_name("ranks_child.py"))
PATIENCE = 240
BATCH_SIZES = ("6", "13")


@pytest.fixture(scope="module")
def epochs(world, programs: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ranks_child.py writes alone, and as one of two processes, with both batch sizes.

    The two are forks: torchrun's own would load torch for longer than they train. It starts the command's, below.
    """
    out = tmp_path_factory.mktemp("epochs")
    runpy.run_path(CHILD)["main"]([str(world.store), str(world.manifest), str(out / "one"), *BATCH_SIZES])
    two = [
        programs.start(CHILD, world.store, world.manifest, out / "two", *BATCH_SIZES, environment=environment)
        for environment in as_torchrun_tells(2)
    ]
    for process in two:
        said, _ = process.communicate(PATIENCE)
        assert process.returncode == 0, said
    return out


@pytest.mark.parametrize(("batch_size", "rows"), [("6", [[3, 3, 1], [3, 3, 1]]), ("13", [[7, 1], [6, 0]])])
def test_an_epoch_on_two_processes_is_that_of_one(epochs: Path, batch_size: str, rows: list[list[int]]) -> None:
    """In float64, where rounding (which Adam enlarges: a gradient that ought to be zero becomes a whole step) stays below 1e-6."""
    one = load_file(epochs / f"one-{batch_size}-0.safetensors")
    two = [load_file(epochs / f"two-{batch_size}-{rank}.safetensors") for rank in range(2)]
    assert [part.pop("rows").tolist() for part in two] == rows
    assert one.pop("rows").tolist() == [sum(parts) for parts in zip(*rows, strict=True)]
    for name, tensor in one.items():
        assert torch.equal(two[0][name], two[1][name]), name
        torch.testing.assert_close(two[0][name], tensor, rtol=1e-6, atol=1e-6, msg=name)
    assert one["sums"][-1][0] == 14


def test_what_the_first_process_knows_all_know(epochs: Path) -> None:
    sent = load_file(epochs / "two-received-0.safetensors")
    received = load_file(epochs / "two-received-1.safetensors")
    assert sent.keys() == received.keys() == load_file(epochs / "one-received-0.safetensors").keys()
    for name, tensor in sent.items():
        assert received[name].dtype == tensor.dtype, name
        assert torch.equal(received[name], tensor), name
    assert [(epochs / f"two-refused-{rank}").read_text() for rank in range(2)] == ["refused by process 0"] * 2


def test_the_command_shares_a_run_between_two_processes(world, programs: ForkServer, tmp_path: Path) -> None:
    """In float32 the losses of an epoch agree to rounding as Adam enlarges it: less than 1e-4 in three steps."""
    arguments = (
        "run", "--store", str(world.store), "--manifest", str(world.manifest), "--preset", "small",
        "--set", "epochs=1", "--set", "batch_size=6", "--set", "model.depth=1", "--set", "model.width=32",
        "--set", "model.backbone_channels=[8,8,16]", "--set", "model.backbone_units=[1,1,1]", "--device", "cpu",
    )  # fmt: skip
    alone = programs.run("orsanet-train", *arguments, "--out", tmp_path / "one")
    shared = programs.run(
        "torchrun", "--standalone", "--nproc-per-node", 2, "-m", "orsanet_train", *arguments, "--out", tmp_path / "two"
    )
    for done in (alone, shared):
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("next: orsanet-train evaluate") == 1
    assert "2 processes" in shared.stderr
    one, two = (pd.read_csv(tmp_path / name / "metrics.csv") for name in ("one", "two"))
    for column in ("loss", "perturbed_loss"):
        assert one[column].iloc[0] == pytest.approx(two[column].iloc[0], rel=1e-4)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}
