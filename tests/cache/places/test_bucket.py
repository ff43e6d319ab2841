"""An object store through the server of other hands: what is put is there whole, once, or the reason is one sentence in time."""

import hashlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from object_server import SECRET, Proxy

from orsanet_cache import OrsanetError
from orsanet_cache.errors import UnreachableError, refuse_shortage
from orsanet_cache.paths import Url
from orsanet_cache.places.bucket import Bucket
from orsanet_cache.places.bucket_files import BucketFiles
from orsanet_cache.places.files import Entry

SOON = 5.0  # seconds, with a patience of half a second


@pytest.fixture(params=["s3", "bucket"])
def bucket(request: pytest.FixtureRequest) -> Proxy:
    found: Proxy = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little patience."""
    monkeypatch.setenv("ORSANET_PATIENCE", "0.5")


def failing(call: Callable[[], Any]) -> str:
    """What a call fails with, in time, and without the secret."""
    begun = time.monotonic()
    with pytest.raises(UnreachableError) as raised:
        call()
    assert time.monotonic() - begun < SOON
    text = str(raised.value)
    assert SECRET not in text
    assert "\n" not in text
    return text


def test_what_is_put_is_read_listed_and_deleted(bucket: Proxy, url: str) -> None:
    objects = Bucket.open(Url(url))
    put = {name: objects.write(name, name.encode()) for name in ("a/x", "a/y", "b/a/z", "zarr.json")}
    assert objects.entries() == put
    assert objects.entries("a") == {name: put[name] for name in ("a/x", "a/y")}
    assert objects.read("a/x") == (b"a/x", put["a/x"])
    assert objects.entry("b/a/z") == put["b/a/z"] != Entry(5, None)
    assert objects.entry("b") is None
    files = BucketFiles(objects)
    assert files.subfolders("", having="x") == ["a"]
    assert files.folders(having="z") == {"b/a"}
    assert files.nbytes() == sum(entry.size for entry in put.values())
    with pytest.raises(ValueError, match="more than 2 bytes"):
        files.read("a/x", 2)
    objects.delete(["a/x", "a/x"])
    with pytest.raises(FileNotFoundError):
        objects.read("a/x")
    objects.write("a/y", b"other")
    with pytest.raises(UnreachableError, match="was replaced since the store was opened"):
        files.read("a/y", 100)


def test_one_of_many_creates_an_object(bucket: Proxy, url: str) -> None:
    objects = Bucket.open(Url(url))
    won: list[int] = []

    def create(number: int) -> None:
        if objects.create("marker", f"attempt {number}".encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [objects.read("marker")[0]] == [f"attempt {number}".encode() for number in won]
    objects.check_conditions("marker")


def test_a_create_whose_answer_is_lost_is_known_by_its_content(bucket: Proxy, url: str, hurried: None) -> None:
    objects = Bucket.open(Url(url))
    lost = bucket.rule("PUT .*mine", "lose answer", times=1)
    assert objects.create("mine", b"attempt 1")
    assert lost.met == 1
    assert not objects.create("mine", b"attempt 2")
    lost = bucket.rule("PUT .*never", "lose answer")  # every answer, until patience ends: applied all the same
    assert objects.create("never", b"attempt 1")
    assert lost.met > 1
    dropped = bucket.rule("PUT .*dropped", "drop")
    assert "does not answer" in failing(lambda: objects.create("dropped", b"attempt 1"))
    assert dropped.met > 1


@pytest.mark.parametrize("what", ["503", "cut", "drop"])
def test_a_passing_failure_is_passed_over(bucket: Proxy, url: str, what: Any) -> None:
    objects = Bucket.open(Url(url))
    content = os.urandom(100_000)
    entry = objects.write("a", content)
    for call, answer in ((lambda: objects.read("a")[0], content), (objects.entries, {"a": entry})):
        rule = bucket.rule("GET", what, times=2)
        assert call() == answer
        assert rule.met == 2


def test_a_stall_is_passed_over(bucket: Proxy, url: str) -> None:
    objects = Bucket.open(Url(url))
    objects.write("a", b"content")
    bucket.rule("GET", "stall", times=1, seconds=5)
    begun = time.monotonic()
    assert objects.read("a")[0] == b"content"
    assert time.monotonic() - begun < 5


def test_what_takes_long_to_send_is_sent(s3: Proxy, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The time limit of a request covers its body: a third of the patience, and as much again for every 5 MB."""
    third, content = 0.5, bytes(12_000_000)
    monkeypatch.setenv("ORSANET_PATIENCE", str(3 * third))
    objects = Bucket.open(Url(url))
    s3.rate = len(content) / (2 * third)
    begun = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        entries = list(pool.map(lambda name: objects.create(name, content), ("one", "two")))
    assert time.monotonic() - begun > 2 * third
    (tmp_path / "file").write_bytes(content)
    objects.write_file("in parts", tmp_path / "file")
    assert entries == [Entry(len(content), hashlib.md5(content).hexdigest())] * 2
    assert objects.entries().keys() == {"one", "two", "in parts"}
    monkeypatch.setenv("ORSANET_PATIENCE", "0.6")
    s3.rate = float("inf")
    s3.rule("PUT", "stall", seconds=2)
    assert "does not answer, or fails, for 0.6 seconds" in failing(
        lambda: Bucket.open(Url(url)).write("a", bytes(10**6))
    )


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("503", "does not answer, or fails, for 0.5 seconds"),
        ("drop", "does not answer, or fails, for 0.5 seconds"),
        ("expired", "credentials in the environment are missing, wrong or expired"),
        ("denied", "access denied"),
    ],
)
def test_a_lasting_failure_is_one_sentence_in_time(
    bucket: Proxy, url: str, hurried: None, what: Any, sentence: str
) -> None:
    objects = Bucket.open(Url(url))
    bucket.rule("", what)
    for call in (
        lambda: objects.read("a"),
        lambda: objects.write("a", b""),
        lambda: objects.create("a", b""),
        objects.entries,
    ):
        text = failing(call)
        assert sentence in text
        assert url in text


def test_a_server_that_is_down_is_one_sentence_in_time(
    bucket: Proxy, url: str, hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "does not answer" in failing(lambda: Bucket.open(Url(url)).entries())


def test_a_bucket_that_does_not_exist(bucket: Proxy) -> None:
    assert "there is no such bucket" in failing(lambda: Bucket.open(Url("s3://another/a.zarr")).entries())


def test_a_server_that_ignores_conditions_is_refused(bucket: Proxy, url: str) -> None:
    objects = Bucket.open(Url(url))
    objects.write("a", b"")
    bucket.without_conditions = True
    with pytest.raises(OrsanetError, match="ignores conditions of a PUT"):
        objects.check_conditions("a")


def test_patience_is_a_number(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("soon", "0", "-1", "inf", "nan", "1000"):
        monkeypatch.setenv("ORSANET_PATIENCE", wrong)
        with pytest.raises(OrsanetError, match=f"ORSANET_PATIENCE={wrong}: give a number of seconds"):
            Bucket.open(Url(url))


def test_an_object_store_that_fails_is_not_taken_for_damage() -> None:
    error = UnreachableError(5, "the store does not answer")
    wrapped = ValueError("damaged")
    wrapped.__cause__ = error
    for one in (error, wrapped):
        with pytest.raises(UnreachableError, match="the store does not answer"):
            refuse_shortage(one)


def _read_in_fork(url: str, answers: "multiprocessing.Queue[str]") -> None:
    try:
        Bucket.open(Url(url)).entries()
    except OrsanetError as error:
        answers.put(str(error))


def test_a_forked_process_is_told_to_be_spawned(bucket: Proxy, url: str) -> None:
    Bucket.open(Url(url)).entries()
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=_read_in_fork, args=(url, answers))
    process.start()
    assert "multiprocessing_context='spawn'" in answers.get(timeout=30)
    process.join()
