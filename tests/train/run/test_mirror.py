"""The copy of a run folder at a URL: what a reader finds there is whole, the newest command alone writes it, and nothing else is brought."""

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from object_server import BUCKET, SECRET, Objects, Proxy

from orsanet_cache import OrsanetError
from orsanet_cache.paths import Url
from orsanet_cache.places.bucket import Bucket
from orsanet_train.config import load_config
from orsanet_train.engine.distributed import ONE
from orsanet_train.run import mirror as module
from orsanet_train.run.folder import begin_folder
from orsanet_train.run.mirror import HOLDER, Mirror, copied
from orsanet_train.run.state import TrainingState, load_state, save_state

CONFIG = load_config("small")
DATA: dict[str, Any] = {"classes": ["a", "b"], "store": {"precision": "fp32"}, "ir50_sha256": None}


class Run:
    """A run folder whose files a test writes, and its copy."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.mirror = Mirror(Bucket.open(Url(url)), folder)

    def begin(self, resume: bool = False) -> "Run":
        if not self.mirror.begin(resume):
            begin_folder(self.folder, CONFIG, DATA)
        return self

    def train_to(self, epoch: int) -> "Run":
        """What a run writes at the end of an epoch."""
        (self.folder / "metrics.csv").write_text(f"epochs so far: {epoch}\n")
        (self.folder / "best.safetensors").write_bytes(bytes([epoch]) * 1000)
        tensors = {"model/weight": torch.full((30,), float(epoch)), "step": torch.tensor(epoch)}
        save_state(self.folder / "checkpoints", TrainingState(epoch, 0, [], [], tensors))
        return self

    def epoch(self) -> int | None:
        state = load_state(self.folder / "checkpoints")
        return None if state is None else state.epoch

    def files(self) -> dict[str, bytes]:
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in found}


@pytest.fixture
def run_url(url: str) -> str:
    return url.removesuffix("store.zarr") + "run"


@pytest.fixture
def there(objects: Objects, run_url: str) -> Any:
    """Called: the objects at the URL by name, without the claim."""
    start = run_url.removeprefix(f"s3://{BUCKET}/") + "/"

    def found() -> dict[str, bytes]:
        return {
            key.removeprefix(start): content
            for key, (content, _, _) in objects.found.items()
            if key.startswith(start) and not key.endswith(HOLDER)
        }

    return found


def test_the_copy_has_the_names_of_the_folder_and_is_brought_to_another_one(
    bucket: Proxy, run_url: str, there: Any, tmp_path: Path
) -> None:
    one = Run(run_url, tmp_path / "one").begin()
    for unsent in ("evaluation-best", "tensorboard"):
        (one.folder / unsent).mkdir()
        (one.folder / unsent / "events.1").write_bytes(b"1")
    for epoch in (1, 2, 3):
        one.train_to(epoch).mirror.update()
    expected = one.files()
    del expected["evaluation-best/events.1"]
    assert there() == expected
    order = [line.partition(f"/{BUCKET}/")[2] for line in bucket.requests("PUT .*/checkpoints/|DELETE|POST")]
    numbers = [name for name in order if name.endswith("state.json")]
    assert len(numbers) == 3
    assert all(
        order.index(name) == 1 + order.index(name.replace("state.json", "tensors.safetensors")) for name in numbers
    )
    bucket.log.clear()
    one.mirror.update()
    assert not bucket.requests("PUT")
    one.mirror.finish()
    one.mirror.release()
    two = Run(run_url, tmp_path / "two").begin(resume=True)
    assert two.epoch() == 3
    (older,) = {name for name in expected if "checkpoints/00000002" in name and name.endswith("state.json")}
    for name in (older, older.replace("state.json", "tensors.safetensors")):
        del expected[name]
    assert two.files() == expected
    bucket.log.clear()
    two.mirror.update()
    assert not bucket.requests("PUT .*(safetensors|csv|toml)")
    assert SECRET.encode() not in b"".join([*there().values(), *two.files().values()])


def test_training_goes_on_while_files_are_sent_and_waits_before_the_next(
    bucket: Proxy, run_url: str, there: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_pass, later = threading.Event(), threading.Event()
    with copied(Url(run_url), tmp_path / "run", False, ONE) as copy:
        run = Run(run_url, tmp_path / "run")
        begin_folder(run.folder, CONFIG, DATA)
        run.train_to(1)
        bucket.before = lambda line: may_pass.wait(10) if "PUT" in line and "tensors" in line else None
        copy.keep(False)
        run.train_to(2).train_to(3)  # while the first state, which is deleted here, is sent
        next_one = threading.Thread(target=lambda: (copy.keep(False), later.set()))
        next_one.start()
        assert not later.wait(0.05)
        may_pass.set()
        assert later.wait(10)
        next_one.join()
        copy.keep(True)
        assert there() == run.files()
        bucket.rule("PUT .*best", "denied")
        run.train_to(4)
        copy.keep(False)
        with pytest.raises(OrsanetError, match="access denied"):
            copy.keep(False)
        bucket.rules.clear()
    assert there() == run.files()


def test_half_a_state_is_not_taken_and_the_folder_that_is_ahead_goes_on(
    bucket: Proxy, run_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Run(run_url, tmp_path / "one").begin().train_to(1)
    one.mirror.update()
    one.train_to(2)
    rule = bucket.rule("PUT .*00000002-000000/state.json", "503")
    monkeypatch.setenv("ORSANET_PATIENCE", "0.3")
    with pytest.raises(OrsanetError, match=r"does not answer, or fails, for 0.3 seconds"):
        Run(run_url, one.folder).begin(resume=True).mirror.update()
    monkeypatch.setenv("ORSANET_PATIENCE", "6")
    rule.times = 0
    other = Run(run_url, tmp_path / "other").begin(resume=True)
    assert (other.epoch(), one.epoch()) == (1, 2)
    again = Run(run_url, one.folder).begin(resume=True)
    again.mirror.finish()
    assert Run(run_url, tmp_path / "third").begin(resume=True).epoch() == 2


def test_the_newer_command_goes_on_and_the_older_one_ends(
    bucket: Proxy, run_url: str, there: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older = Run(run_url, tmp_path / "older").begin().train_to(1)
    older.mirror.update()
    newer = Run(run_url, tmp_path / "newer").begin(resume=True).train_to(2)
    newer.mirror.update()
    before = there()
    older.train_to(3)
    with pytest.raises(
        OrsanetError, match=rf"{run_url}: \S+, process \d+, since \S+, has taken over this run"
    ) as raised:
        older.mirror.update()
    assert str(older.folder) in str(raised.value)
    assert not older.mirror.is_held
    assert there() == before
    newer.mirror.finish()
    newer.mirror.release()


def test_what_the_older_command_is_sending_replaces_nothing_of_the_newer_one(
    bucket: Proxy, run_url: str, there: Any, tmp_path: Path
) -> None:
    older = Run(run_url, tmp_path / "older").begin().train_to(1)
    older.mirror.update()
    older.train_to(3)
    newer: list[Run] = []

    def take_over(line: str) -> None:
        """Between the older command's look at the claim and its first PUT."""
        if re.search(r"PUT .*best", line) and not newer:
            newer.append(Run(run_url, tmp_path / "newer"))
            newer[0].begin(resume=True).train_to(2).mirror.update()

    bucket.before = take_over
    with pytest.raises(OrsanetError, match="has taken over this run"):
        older.mirror.update()
    assert there() == newer[0].files()


def test_what_the_older_command_has_sent_late_is_replaced(
    bucket: Proxy, run_url: str, there: Any, tmp_path: Path
) -> None:
    Run(run_url, tmp_path / "older").begin().train_to(1).mirror.update()
    newer = Run(run_url, tmp_path / "newer").begin(resume=True).train_to(2)
    late = Bucket.open(Url(run_url))
    late.write("metrics.csv", b"late")
    newer.mirror.update()
    assert there() == newer.files()
    late.write("best.safetensors", b"late")
    late.delete(["metrics.csv"])
    newer.mirror.finish()
    assert there() == newer.files()


def test_a_place_is_new_or_it_is_resumed(bucket: Proxy, run_url: str, tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match=r"no run to resume \(no run.json there\); start it without --resume"):
        Run(run_url, tmp_path / "none").begin(resume=True)
    assert Bucket.open(Url(run_url)).entries() == {}
    first = Run(run_url, tmp_path / "first")
    assert not first.mirror.begin(False)  # and is killed before it has a run
    with pytest.raises(OrsanetError, match=r"process \d+, since \S+, has begun a run there; .* go on with --resume"):
        Run(run_url, tmp_path / "second").begin()
    second = Run(run_url, tmp_path / "second").begin(resume=True)
    second.mirror.update()
    assert (second.folder / "run.json").exists()
    with pytest.raises(OrsanetError, match="already exists; continue with --resume"):
        Run(run_url, tmp_path / "third").begin()


def test_of_two_that_begin_at_once_one_is_refused(bucket: Proxy, run_url: str, tmp_path: Path) -> None:
    bucket.before = lambda line: None if "PUT" not in line or others else others.append(begin())
    others: list[Run] = []

    def begin() -> Run:
        bucket.before = lambda _: None
        return Run(run_url, tmp_path / "other").begin()

    with pytest.raises(OrsanetError, match="has just begun to write there"):
        Run(run_url, tmp_path / "one").begin()
    others[0].mirror.update()


def test_a_server_that_ignores_conditions_is_refused(bucket: Proxy, run_url: str, tmp_path: Path) -> None:
    bucket.without_conditions = True
    with pytest.raises(OrsanetError, match="ignores conditions of a PUT"):
        Run(run_url, tmp_path / "one").begin()
    assert Bucket.open(Url(run_url)).entries() == {}


def test_a_damaged_state_is_passed_over(
    bucket: Proxy, run_url: str, there: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = Run(run_url, tmp_path / "one").begin().train_to(1)
    one.mirror.update()
    one.train_to(2).mirror.update()
    name = "checkpoints/00000002-000000/tensors.safetensors"
    content = bytearray(there()[name])
    content[-1] ^= 1
    Bucket.open(Url(run_url)).write(name, bytes(content))
    two = Run(run_url, tmp_path / "two").begin(resume=True)
    assert two.epoch() == 1
    assert sorted(path.name for path in (two.folder / "checkpoints").iterdir()) == ["00000001-000000"]
    two.train_to(2).mirror.update()
    assert Run(run_url, tmp_path / "three").begin(resume=True).epoch() == 2


def test_only_files_of_a_run_are_brought(bucket: Proxy, run_url: str, objects: Objects, tmp_path: Path) -> None:
    Run(run_url, tmp_path / "one").begin().train_to(1).mirror.update()
    start = run_url.removeprefix(f"s3://{BUCKET}/")
    foreign = (".hidden", "sub/folder", "tensorboard/sub/folder", "checkpoints/1-1/state.json", "checkpoints/x")
    for name in foreign:
        objects.found[f"{start}/{name}"] = b"foreign", '"0"', ""
    two = Run(run_url, tmp_path / "two").begin(resume=True).train_to(2)
    two.mirror.finish()
    assert b"foreign" not in two.files().values()
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}
    assert all(f"{start}/{name}" in objects.found for name in foreign)


def test_a_folder_with_something_else_is_refused(bucket: Proxy, run_url: str, tmp_path: Path) -> None:
    Run(run_url, tmp_path / "one").begin().train_to(1).mirror.update()
    other = tmp_path / "other"
    begin_folder(other, CONFIG.model_copy(update={"seed": 7}), DATA)
    with pytest.raises(OrsanetError, match=f"{other}: has another run than {run_url}; choose another --work"):
        Run(run_url, other).begin(resume=True)
    begin_folder(other, CONFIG, {**DATA, "ir50_sha256": "00ff"})
    with pytest.raises(OrsanetError, match="has another run than"):
        Run(run_url, other).begin(resume=True)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").touch()
    with pytest.raises(OrsanetError, match=r"a.png: this folder, in which the run .* is to go on, has other files"):
        Run(run_url, tmp_path / "pictures").begin(resume=True)


def test_a_folder_that_was_half_brought_is_brought_again(bucket: Proxy, run_url: str, tmp_path: Path) -> None:
    Run(run_url, tmp_path / "one").begin().train_to(1).mirror.update()
    rule = bucket.rule("GET .*metrics.csv", "denied")
    with pytest.raises(OrsanetError, match="access denied"):
        Run(run_url, tmp_path / "two").begin(resume=True)
    rule.times = 0
    two = Run(run_url, tmp_path / "two").begin(resume=True)
    assert two.epoch() == 1
    assert (two.folder / "metrics.csv").exists()


def test_large_files_are_sent_in_parts(
    bucket: Proxy, run_url: str, there: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WHOLE_BYTES", 500)
    one = Run(run_url, tmp_path / "one").begin().train_to(1)
    one.mirror.update()
    one.train_to(2).mirror.finish()
    assert bucket.requests("POST .*best.safetensors.*uploadId")
    assert there() == one.files()
    assert json.loads(there()["run.json"]) == DATA
