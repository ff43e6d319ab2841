"""A run on a store at a URL is the run on a disk to the bit; a shard is fetched once, or twice an epoch where they do not fit."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_lines import in_process
from object_server import Proxy

from orsanet_cache import OrsanetError, PriorStore
from orsanet_cache.writing.convert import convert
from orsanet_train.cli import main
from orsanet_train.config import load_config
from orsanet_train.run.train import train

pytestmark = pytest.mark.usefixtures("without_matplotlib")
CPU = torch.device("cpu")
SMALL = (
    "epochs=2", "batch_size=6", "learning_rate=1e-3", "model.depth=1", "model.width=32", "model.backbone_channels=[8,8,16]",
    "model.backbone_units=[1,1,1]", "loss.warmup_epochs=1",
)  # fmt: skip
RECORDS = ("sha256", "crc32c", "sample_id")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def uploaded(in_units, bucket: Proxy, url: str) -> str:
    convert(in_units.store, url)
    bucket.log.clear()
    return url


def shards(bucket: Proxy) -> Counter[str]:
    lines = (line for line in bucket.requests("GET") if "/c." in line and not any(record in line for record in RECORDS))
    return Counter(lines)


def run(in_units, store: PriorStore | Path, out: Path, *overrides: str) -> bytes:
    train(load_config("small", (*SMALL, *overrides)), in_units.manifest, store, out, device=CPU)
    return (out / "last.safetensors").read_bytes()


def test_the_weights_are_the_local_runs_and_a_shard_is_fetched_once(
    in_units, uploaded: str, bucket: Proxy, tmp_path: Path
) -> None:
    here = run(in_units, in_units.store, tmp_path / "here")
    there = run(in_units, PriorStore.open(uploaded, tmp_path / "cache"), tmp_path / "there")
    assert there == here
    fetched = shards(bucket)
    assert {*fetched.values()} == {1}
    assert len(fetched) == (2 * 4 + 2) * 3  # four shards of two views, two of the selection's; three fields
    bucket.log.clear()
    assert run(in_units, PriorStore.open(uploaded, tmp_path / "cache"), tmp_path / "again") == here
    assert not shards(bucket)


def test_windows_where_the_shards_do_not_fit(in_units, uploaded: str, bucket: Proxy, tmp_path: Path) -> None:
    windowed = ("order=windowed", "window_units=1", "selection_split=held-out")
    here = run(in_units, in_units.store, tmp_path / "here", *windowed)
    whole = PriorStore.open(uploaded).shard_bytes(
        "train", ["clean", "hflip"], ["image", "segmentation_features", "landmark_features"]
    )
    with pytest.raises(OrsanetError, match="--set order=windowed"):
        run(
            in_units,
            PriorStore.open(uploaded, tmp_path / "cache", whole // 3),
            tmp_path / "global",
            "selection_split=held-out",
        )
    bucket.log.clear()
    store = PriorStore.open(uploaded, tmp_path / "cache", whole * 5 // 6)
    assert run(in_units, store, tmp_path / "there", *windowed) == here
    epochs = 2
    assert sum(shards(bucket).values()) <= 2 * epochs * len(shards(bucket)) + 6 * len(shards(bucket))
    assert json.loads((tmp_path / "there" / "run.json").read_text())
    assert 'order = "windowed"' in (tmp_path / "there" / "config.toml").read_text()


def test_the_command_takes_a_cache(in_units, uploaded: str, bucket: Proxy, tmp_path: Path) -> None:
    sets = [word for override in (*SMALL, "epochs=1") for word in ("--set", override)]
    cache = ["--cache", tmp_path / "cache", "--cache-size", "1GB"]
    data = ["--store", uploaded, "--manifest", in_units.manifest]
    ended = in_process(
        main, "run", *data, *cache, "--preset", "small", *sets, "--out", tmp_path / "run", "--device", "cpu"
    )
    assert ended.returncode == 0, ended.stderr
    assert "1.00GB for their copies" in ended.stderr
    assert f"--store {uploaded} --cache {tmp_path}/cache" in ended.stdout
    ended = in_process(main, "evaluate", tmp_path / "run", *data, *cache, "--device", "cpu", "--splits", "test")
    assert ended.returncode == 0, ended.stderr
    assert json.loads((tmp_path / "run" / "evaluation-best" / "evaluation.json").read_text())["store"] == uploaded
    for wrong, sentence in (
        (["--cache-size", "much"], "'much' is not a size such as 200GB"),
        (["--cache-size", "0GB"], "is not a size"),
        (["--cache-size", "1GB"], "without its folder"),
    ):
        ended = in_process(main, "run", *data, *wrong, "--preset", "small", "--out", tmp_path / "other")
        assert ended.returncode != 0
        assert sentence in ended.stderr
    ended = in_process(
        main,
        "run",
        "--store",
        in_units.store,
        "--cache",
        tmp_path,
        "--manifest",
        in_units.manifest,
        "--preset",
        "small",
        "--out",
        tmp_path / "other",
    )
    assert "a cache is for the URL of a store" in ended.stderr


def test_a_failing_object_store_ends_a_run_in_one_sentence_and_it_goes_on(
    in_units, uploaded: str, bucket: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = run(in_units, in_units.store, tmp_path / "here")
    rule = bucket.rule("GET .*train/hflip/image/c[.]2", "503")
    monkeypatch.setenv("ORSANET_PATIENCE", "0.5")
    with pytest.raises(OrsanetError, match=r"does not answer, or fails, for 0.5 seconds"):
        run(in_units, PriorStore.open(uploaded, tmp_path / "cache"), tmp_path / "there")
    rule.times = 0
    monkeypatch.setenv("ORSANET_PATIENCE", "6")
    config = load_config("small", SMALL)
    train(
        config,
        in_units.manifest,
        PriorStore.open(uploaded, tmp_path / "cache"),
        tmp_path / "there",
        device=CPU,
        resume=True,
    )
    assert (tmp_path / "there" / "last.safetensors").read_bytes() == here
    assert {*shards(bucket).values()} - {1} <= {
        count for name, count in shards(bucket).items() if "hflip/image/c.2" in name
    }


def test_the_first_epoch_alone_waits(in_units, uploaded: str, bucket: Proxy, tmp_path: Path) -> None:
    bucket.delay = 0.02
    store = PriorStore.open(uploaded, tmp_path / "cache")
    run(in_units, store, tmp_path / "run", "epochs=3")
    waiting = pd.read_csv(tmp_path / "run" / "metrics.csv")["waiting_share"]
    assert waiting[1:].max() < 0.3  # steps of milliseconds; docs/benchmarks.md has a real one
    assert math.isfinite(waiting[0])
