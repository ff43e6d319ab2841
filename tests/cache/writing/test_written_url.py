"""Stores written to an object store: whatever interrupts or disturbs a writer, the same command ends in the store of a folder.

Objects in memory have e_tags that count writes, so two PUTs of the same bytes have different ones; those of the server are MD5.
"""

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from object_server import SECRET, Objects, Proxy
from small_store import answer

from orsanet_cache import OrsanetError, PriorStore, verify
from orsanet_cache.bench.random_store import Arrays, RandomSplit, random_arrays
from orsanet_cache.paths import Url
from orsanet_cache.places.bucket import Bucket
from orsanet_cache.store.schema import Addition, Field
from orsanet_cache.store.units import WHOLE, Share, Unit, UnitRecord
from orsanet_cache.store.verify import unfinished
from orsanet_cache.writing.writer import StoreWriter

FIELDS = (Field("narrow", (3,), "float16", ("c",)), Field("map", (4, 4), "uint8", ("y", "x"), compressed=True))
SPLITS = {"train": RandomSplit(["a.png", "b.png", "c.png"], ["clean"]), "test": RandomSplit(["d.png"], ["clean"])}
ROWS_PER_UNIT = 2
SEED = int(os.environ.get("ORSANET_SEED", random.SystemRandom().randrange(10**6)))
SOON = 20.0  # seconds, with a patience of half a second, on a busy machine


def values(unit: Unit, seed: int = 0) -> Arrays:
    return random_arrays(np.random.default_rng([seed, unit.index, len(unit.split)]), unit.stop - unit.start, FIELDS)


def write(place: str | Path, seed: int = 0, part: Share = WHOLE) -> None:
    """What a build does: commit what is missing, seal, compute again what differs."""
    with StoreWriter.open(place, {"benchmark": True}, FIELDS, part, ROWS_PER_UNIT) as writer:
        for split, of_split in SPLITS.items():
            writer.add_split(split, of_split.ids)
            for view in of_split.views:
                writer.add_view(split, view)
        own = [unit for split in SPLITS for unit in writer.units(split)]
        own = [unit for position, unit in enumerate(own) if part.has(position)]
        for _ in range(2):
            for split, of_split in SPLITS.items():
                for view in of_split.views:
                    missing = writer.missing(split, view)
                    for unit in [unit for unit in own if unit in missing]:
                        writer.commit(
                            unit, view, values(unit, seed), UnitRecord(["01" * 32] * len(values(unit)["map"]), {})
                        )
            damaged = [
                (units, split, view)
                for split, of_split in SPLITS.items()
                for view in of_split.views
                if (units := writer.seal(split, view, {}))
            ]
            for units, _, view in damaged:
                writer.uncommit(units, view)


def seals(place: str | Path) -> dict[str, str]:
    store = PriorStore.open(place)
    return {f"{split}/{view}": store.sealed(split, view).seal for split in store.splits for view in store.views(split)}


def objects_at(url: str) -> dict[str, bytes]:
    objects = Bucket.open(Url(url))
    return {name: objects.read(name)[0] for name in objects.entries()}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here") / "store.zarr"
    write(folder)
    return folder


@pytest.fixture
def files(here: Path) -> dict[str, bytes]:
    """The files of the store of a folder."""
    return {path.relative_to(here).as_posix(): path.read_bytes() for path in here.rglob("*") if path.is_file()}


class Killed(BaseException):
    """The process is dead."""


class Changes:
    """The requests of this process that change the object store; something may happen at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.at: dict[int, Callable[[], None]] = {}  # before the request of this number
        self.dead = False
        for method in ("_put", "delete"):
            self._watch(monkeypatch, method)

    def _watch(self, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        original = getattr(Bucket, method)

        def watched(bucket: Bucket, name: Any, *arguments: Any) -> Any:
            self.pass_by(f"{method} {name}")
            return original(bucket, name, *arguments)

        monkeypatch.setattr(Bucket, method, watched)

    def pass_by(self, name: str) -> None:
        if self.dead:
            raise Killed
        self.names.append(name)
        happens = self.at.pop(len(self.names) - 1, None)
        if happens is not None:
            happens()

    def kill(self) -> None:
        self.dead = True
        raise Killed


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> Changes:
    # One after the other, so that points have the same numbers.
    monkeypatch.setattr("orsanet_cache.places.objects.THREADS", 1)
    return Changes(monkeypatch)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> str:
    """A place of this process's memory."""
    return f"memory://written/{os.getpid()}/{request.node.name}.zarr"


def fresh(number: int) -> str:
    return f"memory://written/{os.getpid()}/{number}.zarr"


def test_a_store_is_written_to_the_server_as_to_a_folder(bucket: Proxy, url: str, files: dict[str, bytes]) -> None:
    write(url)
    writes = [line for line in bucket.log if line.startswith("PUT") and "/c." in line]
    assert len(writes) == len({*writes})  # each file once
    # With the e_tags of their markers no shard is read back.
    assert bucket.requests("GET .*/clean/(narrow|map)/c[.]") == []
    bucket.log.clear()
    write(url)
    assert [line for line in bucket.requests("PUT") if not line.endswith("store.zarr/zarr.json")] == []
    assert objects_at(url) == files
    assert not any(SECRET.encode() in content for content in objects_at(url).values())


def test_a_writer_killed_at_any_request_goes_on(changes: Changes, files: dict[str, bytes]) -> None:
    write(fresh(0))
    points = len(changes.names)
    assert points > 40
    for at in range(points):
        url = fresh(1 + at)
        changes.names.clear()
        changes.at = {at: changes.kill}
        with pytest.raises(Killed):
            write(url)
        changes.dead = False
        for part in (Share(2, 2), Share(1, 2)):
            write(url, part=part)
        assert objects_at(url) == files, (at, changes.names[at])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_part_twice_is_one_result_or_names_the_units(
    changes: Changes, files: dict[str, bytes], here: Path, seed: int
) -> None:
    """Another process writes the same part, with the same values or others, between any two requests of this one."""
    write(fresh(1000 * (1 + seed)))
    points = len(changes.names)
    named = 0
    for at in range(1 + seed, points, 2):
        url = fresh(1000 * (1 + seed) + at)
        changes.names.clear()
        changes.at = {at: lambda url=url: write(url, seed)}
        _, error = answer(lambda url=url: write(url))
        if error:
            assert "another process has committed" in error, (at, error)
            assert "with other values, which are kept (map, narrow differ)" in error
            assert seed
            named += 1
        write(url)
        assert verify(url, deep=True)[1] == [], (at, changes.names[at])
        assert seals(url).keys() == seals(here).keys()
        if seed == 0:
            assert objects_at(url) == files, (at, changes.names[at])
    assert (named > 0) == bool(seed)


@pytest.mark.parametrize("seed", [0, 1])
def test_processes_that_write_and_take_back_at_once_end_in_one_whole_store(
    files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Threads stand for processes: they share nothing but the objects. Every request of each may come between any two of the others."""
    chance, original = random.Random(SEED), Bucket._ask
    print(f"ORSANET_SEED={SEED}")  # shown if this fails

    def late(bucket: Bucket, *arguments: Any) -> Any:
        time.sleep(chance.choice((0, 0, 0.0005, 0.003)))
        return original(bucket, *arguments)

    monkeypatch.setattr(Bucket, "_ask", late)
    for number in range(4):
        url = fresh(5000 + 100 * seed + number)
        if number % 2:
            write(url)
        first, second = [lambda url=url: write(url), lambda url=url: write(url, seed)], [lambda url=url: take_back(url)]
        with ThreadPoolExecutor(3) as pool:
            ends = list(pool.map(answer, first + (second if number % 2 else [])))
        errors = [error for _, error in ends if error]
        assert all("another process has committed" in error and seed for error in errors), errors
        write(url)
        write(url)
        assert verify(url, deep=True)[1] == []
        assert unfinished(url) == []
        if seed == 0:
            assert objects_at(url) == files


def take_back(url: str) -> None:
    """What accepting changed pictures or repairing begins with."""
    with StoreWriter.open(url, {"benchmark": True}, FIELDS) as writer:
        writer.add_split("train", SPLITS["train"].ids)
        writer.uncommit(writer.units("train")[:1], "clean")


def failing(url: str) -> str:
    """What writing fails with, in time, and without the secret."""
    begun = time.monotonic()
    with pytest.raises(OrsanetError) as raised:
        write(url)
    assert time.monotonic() - begun < SOON
    text = str(raised.value)
    assert SECRET not in text
    assert "\n" not in text
    assert url in text
    return text


def test_passing_failures_lose_nothing(
    bucket: Proxy, url: str, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.rule("PUT .*/c[.]", "lose answer", times=3)
    bucket.rule("PUT .*commits", "lose answer", times=2)
    bucket.rule("PUT", "503", times=2)
    bucket.rule("PUT", "drop", times=2)
    bucket.rule("GET", "cut", times=3)
    bucket.rule("list-type", "503", times=2)
    bucket.rule("PUT .*crc32c", "stall", times=1, seconds=3)
    monkeypatch.setenv("ORSANET_PATIENCE", "6")
    write(url)
    assert all(rule.met == rule.times for rule in bucket.rules)
    assert objects_at(url) == files


def test_lasting_failures_are_one_sentence_in_time_and_the_same_command_goes_on(
    bucket: Proxy, url: str, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for pattern, what, sentence in (
        ("", "expired", "credentials in the environment are missing, wrong or expired"),
        ("PUT .*zarr/zarr.json", "501", "does not know a request that writing needs"),
        ("PUT .*sample_id/c[.]", "denied", "access denied"),
        ("PUT .*narrow/c[.]1", "full", "is full, or its quota is used up"),
        ("PUT .*commits", "drop", "does not answer, or fails, for 0.5 seconds"),
        ("PUT .*crc32c/map", "503", "does not answer, or fails, for 0.5 seconds"),
        ("POST", "expired", "credentials in the environment are missing, wrong or expired"),
    ):  # fmt: skip
        monkeypatch.setenv("ORSANET_PATIENCE", "0.5")
        rule = bucket.rule(pattern, what)  # type: ignore[arg-type]
        assert sentence in failing(url), pattern
        rule.times = 0
    monkeypatch.setenv("ORSANET_PATIENCE", "6")
    write(url)
    assert objects_at(url) == files


def test_an_object_store_without_conditions_is_refused_before_anything_is_written(bucket: Proxy, url: str) -> None:
    bucket.without_conditions = True
    with pytest.raises(OrsanetError, match="ignores conditions of a PUT"):
        write(url)
    assert objects_at(url).keys() == {"zarr.json"}


def test_objects_that_are_not_listed_yet_are_found_by_their_names(
    bucket: Proxy, objects: Objects, url: str, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "unlisted", "commits|map/c")
    write(url)
    monkeypatch.undo()
    monkeypatch.setattr(objects, "unlisted", "(?!)")
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    assert {name: content for name, content in objects_at(url).items() if name in files} == files
    write(url)
    assert objects_at(url) == files


def test_a_place_with_other_objects_is_left_alone(place: str) -> None:
    Bucket.open(Url(place)).write("thesis.pdf", b"of somebody")
    with pytest.raises(OrsanetError, match=r"thesis.pdf: there are objects at this place, and no store"):
        write(place)
    assert objects_at(place) == {"thesis.pdf": b"of somebody"}


def test_a_shard_that_no_request_takes_is_refused_before_anything_is_written(place: str, tmp_path: Path) -> None:
    wide = Field("wide", (2_000_000,), "float32")
    for additions in ((), (Addition("own", (wide,)),)):
        fields = FIELDS if additions else (*FIELDS, wide)
        with pytest.raises(OrsanetError, match=r"a shard of wide has 8 GB, and an object store takes 5 GB"):
            StoreWriter.open(place, {}, fields, WHOLE, 1000, additions)
        StoreWriter.open(tmp_path / f"{len(additions)}.zarr", {}, fields, WHOLE, 1000, additions).__exit__()
    assert objects_at(place) == {}
    StoreWriter.open(place, {}, FIELDS, WHOLE, 1000).__exit__()
    with pytest.raises(OrsanetError, match=r"a shard of wide has 8 GB"):  # the store keeps its rows in a unit
        StoreWriter.open(place, {}, FIELDS, WHOLE, 2, (Addition("own", (wide,)),))


def test_shards_that_were_replaced_are_taken_back(changes: Changes, files: dict[str, bytes], place: str) -> None:
    """Between a unit's commit and its sealing; by the same bytes they are read and kept."""
    objects = Bucket.open(Url(place))
    write(place, part=Share(2, 3))
    name = "train/clean/map/c.1.0.0"
    whole = objects.read(name)[0]
    for content in (whole, whole[:-9] + bytes(9), objects.read("train/clean/narrow/c.1.0")[0]):
        objects.write(name, content)
        write(place)
        assert objects_at(place) == files
        take_back(place)
