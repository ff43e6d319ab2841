"""A run at a URL is the run in a folder to the bit, wherever it goes on, and its copy serves the other commands."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_lines import in_process
from object_server import BUCKET, SECRET, Objects, Proxy

from orsanet_cache import OrsanetError
from orsanet_cache.outputs import IN_USE
from orsanet_train.cli import main
from orsanet_train.config import RunConfig, load_config
from orsanet_train.drawing import plots
from orsanet_train.run.train import RunSummary, train

CPU = torch.device("cpu")
SMALL = (
    "batch_size=14", "model.depth=1", "model.width=32", "model.backbone_channels=[8,8,16]", "model.backbone_units=[1,1,1]",
    "model.multi_scale=false",
)  # fmt: skip


def config(epochs: int) -> RunConfig:
    return load_config("small", (*SMALL, f"epochs={epochs}"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before, dpi = torch.get_num_threads(), plots.DPI
    torch.set_num_threads(1)
    plots.DPI = 20  # of curves, which nobody looks at
    yield
    torch.set_num_threads(before)
    plots.DPI = dpi


@pytest.fixture
def run_url(url: str) -> str:
    return url.removesuffix("store.zarr") + "run"


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != IN_USE)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def objects_at(objects: Objects, url: str) -> dict[str, bytes]:
    start = url.removeprefix(f"s3://{BUCKET}/") + "/"
    return {key.removeprefix(start): content for key, (content, _, _) in objects.found.items() if key.startswith(start)}


def test_the_weights_are_the_local_runs_also_in_another_folder(
    in_units, bucket: Proxy, objects: Objects, run_url: str, tmp_path: Path
) -> None:
    def trained(epochs: int, out: Path | str, work: Path | None = None, resume: bool = False) -> RunSummary:
        return train(
            config(epochs), in_units.manifest, in_units.store, out, work=work, device=CPU, save_minutes=0, resume=resume
        )

    here = trained(2, tmp_path / "here")
    trained(1, run_url, tmp_path / "one")
    assert objects_at(objects, run_url) == files(tmp_path / "one")
    there = trained(2, run_url, tmp_path / "two", resume=True)
    assert there == here
    for name in ("last.safetensors", "best.safetensors", "run.json", "config.toml"):
        assert objects_at(objects, run_url)[name] == (tmp_path / "here" / name).read_bytes(), name
    assert objects_at(objects, run_url).keys() <= files(tmp_path / "two").keys()
    whole = b"".join([*objects_at(objects, run_url).values(), *files(tmp_path / "two").values()])
    assert SECRET.encode() not in whole
    with pytest.raises(OrsanetError, match=r"already trained for 2 epochs, not 1"):
        trained(1, run_url, tmp_path / "three", resume=True)
    assert "holder.json" not in objects_at(objects, run_url)


def test_a_lost_connection_is_one_sentence_and_the_same_command_goes_on(
    in_units, bucket: Proxy, objects: Objects, run_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [
        "run", "--store", in_units.store, "--manifest", in_units.manifest, "--preset", "small", "--device", "cpu",
        *(word for key in (*SMALL, "epochs=1") for word in ("--set", key)), "--out",
    ]  # fmt: skip
    tried = in_process(main, *command, run_url, "--fast-dev-run")
    assert tried.returncode == 0, tried.stderr
    assert objects_at(objects, run_url) == {}
    rule = bucket.rule("PUT .*/run/checkpoints/.*tensors", "drop")
    monkeypatch.setenv("ORSANET_PATIENCE", "0.3")
    ended = in_process(main, *command, run_url)
    assert ended.returncode == 1
    assert f"Error: {run_url}: the object store does not answer, or fails, for 0.3 seconds" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (tmp_path / "run" / "last.safetensors").exists()
    assert not any("checkpoints" in name for name in objects_at(objects, run_url))
    rule.times = 0
    monkeypatch.setenv("ORSANET_PATIENCE", "6")
    ended = in_process(main, *command, run_url, "--resume")
    assert ended.returncode == 0, ended.stderr
    assert "wrote there last and has not ended in order; taken over" in ended.stderr
    assert "next: orsanet-train evaluate run --store" in ended.stdout
    assert objects_at(objects, run_url) == files(tmp_path / "run")
    data = ["--store", in_units.store, "--manifest", in_units.manifest, "--splits", "test", "--device", "cpu"]
    for run in ("run", run_url):
        ended = in_process(main, "evaluate", run, *data)
        assert ended.returncode == 0, ended.stderr
        assert f"wrote {run}/evaluation-best\nnext: orsanet-train report {run}" in ended.stdout
    there, here = objects_at(objects, run_url), files(tmp_path / "run")
    assert there.keys() == here.keys()
    assert {name for name in there if there[name] != here[name]} <= {"evaluation-best/evaluation.json"}  # has the time
    for wrong, sentence in (
        (["run", "--work", "elsewhere"], "a working folder is for the URL of a run"),
        (["ftp://host/run"], "a run is a folder, or has a URL such as s3://BUCKET/NAME"),
        (["s3://bucket"], "not the place of a run; write s3://BUCKET/NAME"),
    ):
        ended = in_process(main, *command, *wrong)
        assert ended.returncode != 0
        assert sentence in ended.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert SECRET not in json.dumps([tried, ended])
