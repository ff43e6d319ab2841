"""Several seeds are several runs, each as it would be alone, and a table that says what they say."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from object_server import Proxy

from orsanet_cache import OrsanetError
from orsanet_cache.paths import Place, Url
from orsanet_cache.places.bucket import Bucket
from orsanet_train.config import load_config
from orsanet_train.run.seeds import has_begun, parse_seeds, train_seeds
from orsanet_train.run.train import RunSummary

pytestmark = pytest.mark.usefixtures("without_matplotlib")
EVERY_STEP = ("--save-minutes", 0)
PASSES = 12  # of a run: two epochs of three steps


def trained_files(run: Path) -> dict[str, tuple[bytes, int]]:
    """What training writes: its bytes and when they were written."""
    paths = [path for name in ("metrics.csv", "*.safetensors", "checkpoints/*/*") for path in run.glob(name)]
    return {str(path.relative_to(run)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def test_seeds_become_runs_and_a_table_and_an_interruption_costs_only_what_was_under_way(
    runner, tmp_path: Path
) -> None:
    out = tmp_path / "seeds"
    runner.kill(out, "--seeds", "1, 2", *EVERY_STEP, at="pass two", number=PASSES // 2 + 5)
    assert pd.read_csv(out / "seeds.csv")["seed"].tolist() == [1]
    before = trained_files(out / "seed-1")
    assert len(before) >= 7

    ended = runner.finish(out, "--seeds", "1,2", *EVERY_STEP, "--resume")
    assert trained_files(out / "seed-1") == before
    assert ended.points.count("pass one") == PASSES // 2 - 4  # the fifth step of the second run, and the sixth
    assert sorted(path.name for path in out.iterdir()) == ["seed-1", "seed-2", "seeds.csv"]

    table = pd.read_csv(out / "seeds.csv")
    assert table["seed"].tolist() == [1, 2]
    for row in table.itertuples():
        metrics = pd.read_csv(out / f"seed-{row.seed}" / "metrics.csv")["selection_accuracy"]
        assert (row.epochs, row.last_accuracy, row.best_accuracy) == (len(metrics), metrics.iloc[-1], metrics.max())
        assert row.best_epoch == 1 + int(metrics.argmax())
    for kind in ("last", "best"):
        values = 100 * table[f"{kind}_accuracy"]
        assert f"{kind} {np.mean(values):.2f} % ± {np.std(values, ddof=1):.2f} %".replace(" % ±", " ±") in ended.out

    alone = tmp_path / "alone"
    runner.finish(alone, "--set", "seed=2", *EVERY_STEP)
    assert load_config(str(alone / "config.toml")).seed == 2
    assert runner.differences(out / "seed-2", alone) == []
    assert runner.differences(out / "seed-1", alone) != []


@pytest.mark.parametrize("text", ["1,one", "1,-2", "1.5", "", "1,,2", "1 2", "²"])
def test_what_is_no_list_of_numbers_is_refused(text: str) -> None:
    with pytest.raises(OrsanetError, match="write numbers separated by commas"):
        parse_seeds(text)


@pytest.mark.parametrize("text", ["1,1", "1,2,01"])
def test_a_seed_named_twice_is_refused(text: str) -> None:
    with pytest.raises(OrsanetError, match="name each seed once"):
        parse_seeds(text)


def test_a_seed_too_large_for_a_run_is_refused() -> None:
    assert parse_seeds(f"0,{2**63 - 1}") == [0, 2**63 - 1]
    with pytest.raises(OrsanetError, match=r"--seeds 3,9223372036854775808: a seed must be less than 2\^63"):
        parse_seeds(f"3,{2**63}")


def test_numbers_may_have_spaces_around_them_and_keep_their_order() -> None:
    assert parse_seeds(" 7, 0 ,12") == [7, 0, 12]


def test_a_mistake_in_the_seeds_ends_in_one_sentence_before_anything_is_written(runner, tmp_path: Path) -> None:
    ended = runner.run(tmp_path / "out", "--seeds", "0,one")
    assert (ended.code, ended.err.splitlines()[-1][:17]) == (1, "Error: --seeds 0,")
    assert not (tmp_path / "out").exists()


def test_the_table_on_the_disk_has_every_finished_run_when_a_later_one_fails(tmp_path: Path) -> None:
    def train(seed: int, _place: Place, _folder: Path) -> RunSummary:
        if seed == 9:
            raise OrsanetError("no")
        return RunSummary(4, seed, 0.5 + seed / 10, 0.25, 20, "always 'fear', the commonest class of these images", 0.2)

    with pytest.raises(OrsanetError):
        train_seeds([1, 3, 9], tmp_path, tmp_path, train)
    table = pd.read_csv(tmp_path / "seeds.csv")
    assert table.to_dict("list") == {
        "seed": [1, 3], "epochs": [4, 4], "last_accuracy": [0.25, 0.25], "best_accuracy": [0.6, 0.8], "best_epoch": [1, 3],
    }  # fmt: skip


def test_a_table_that_is_not_ours_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "seeds.csv").write_text("seed,yield\n1,2\n")

    def train(seed: int, out: Place, _folder: Path) -> RunSummary:
        raise AssertionError(f"seed {seed} was trained into {out}")

    with pytest.raises(OrsanetError, match=r"seeds\.csv: is not a table of `orsanet-train run --seeds`, so it was not"):
        train_seeds([1], tmp_path, tmp_path, train)
    assert (tmp_path / "seeds.csv").read_text() == "seed,yield\n1,2\n"


def test_the_runs_of_seeds_at_a_url_have_their_copies_and_their_table_there(
    bucket: Proxy, url: str, tmp_path: Path
) -> None:
    places = []

    def train(seed: int, place: Place, folder: Path) -> RunSummary:
        places.append((str(place), folder))
        assert has_begun(place, folder) == (seed == 3)
        return RunSummary(4, seed, 0.5, 0.25, 20, "always 'fear', the commonest class of these images", 0.2)

    Bucket.open(Url(f"{url}/seed-3")).write("holder.json", b"{}")
    for _ in range(2):
        table = train_seeds([1, 3], Url(url), tmp_path, train)
    assert places[:2] == [(f"{url}/seed-{seed}", tmp_path / f"seed-{seed}") for seed in (1, 3)]
    content = Bucket.open(Url(url)).read("seeds.csv")[0]
    assert content == (tmp_path / "seeds.csv").read_bytes() == table.to_csv(index=False).encode()
    Bucket.open(Url(url)).write("seeds.csv", b"of somebody")
    with pytest.raises(OrsanetError, match=f"{url}/seeds.csv: is not a table of"):
        train_seeds([1], Url(url), tmp_path, train)
