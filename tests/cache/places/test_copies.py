"""Copies of an object store's files: fetched once, checked, shared, kept while they fit, never those of another file."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from object_server import Proxy

from orsanet_cache import OrsanetError
from orsanet_cache.paths import Url
from orsanet_cache.places.ahead import Ahead, Wanted
from orsanet_cache.places.bucket import Bucket
from orsanet_cache.places.bucket_files import BucketFiles
from orsanet_cache.places.copies import Cache, CacheSettings, Copies, Passing


def content_of(copies: Copies, name: str, check: object = lambda _: None) -> bytes:
    descriptor = copies.open(name, check)  # type: ignore[arg-type]
    try:
        return os.pread(descriptor, 10**6, 0)
    finally:
        os.close(descriptor)


@pytest.fixture
def files(bucket: Proxy, url: str) -> BucketFiles:
    objects = Bucket.open(Url(url))
    for number in range(6):
        objects.write(f"c.{number}", bytes([number]) * 1000)
    return BucketFiles(objects)


def kept(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "orsanet-shards").iterdir() if path.is_file())


def gets(bucket: Proxy) -> int:
    return len(bucket.requests("GET .*/c[.]"))


@pytest.mark.parametrize("kind", ["cache", "passing"])
def test_a_file_is_fetched_once(files: BucketFiles, bucket: Proxy, tmp_path: Path, kind: str) -> None:
    copies = Cache(files, CacheSettings(tmp_path)) if kind == "cache" else Passing(files)
    threads = [threading.Thread(target=content_of, args=(copies, "c.1")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content_of(copies, "c.1") == bytes([1]) * 1000
    if kind == "cache":
        assert gets(bucket) == 1
        assert content_of(Cache(files, CacheSettings(tmp_path)), "c.1") == bytes([1]) * 1000
        assert gets(bucket) == 1
        assert os.listdir(tmp_path / "orsanet-shards" / "incoming") == []


def test_processes_share_a_cache(files: BucketFiles, bucket: Proxy, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from orsanet_cache.paths import Url\n"
        "from orsanet_cache.places.bucket import Bucket\n"
        "from orsanet_cache.places.bucket_files import BucketFiles\n"
        "from orsanet_cache.places.copies import Cache, CacheSettings\n"
        "cache = Cache(BucketFiles(Bucket.open(Url(sys.argv[1]))), CacheSettings(Path(sys.argv[2])))\n"
        "for number in range(6): cache.open(f'c.{number}', lambda _: None)\n"
    )
    bucket.delay = 0.02
    processes = [subprocess.Popen([sys.executable, "-c", program, str(files.place), str(tmp_path)]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert gets(bucket) == 6


def test_a_kill_leaves_a_cache_that_goes_on(files: BucketFiles, bucket: Proxy, tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path\n"
        "from orsanet_cache.paths import Url\n"
        "from orsanet_cache.places.bucket import Bucket\n"
        "from orsanet_cache.places.bucket_files import BucketFiles\n"
        "from orsanet_cache.places.copies import Cache, CacheSettings\n"
        "cache = Cache(BucketFiles(Bucket.open(Url(sys.argv[1]))), CacheSettings(Path(sys.argv[2])))\n"
        f"cache.open('c.0', lambda _: os.kill(os.getpid(), {signal.SIGKILL.value}))\n"
    )
    assert (
        subprocess.run([sys.executable, "-c", program, str(files.place), str(tmp_path)]).returncode == -signal.SIGKILL
    )
    assert kept(tmp_path) == []
    assert len(os.listdir(tmp_path / "orsanet-shards" / "incoming")) > 0
    cache = Cache(files, CacheSettings(tmp_path))
    assert content_of(cache, "c.0") == bytes(1000)
    assert os.listdir(tmp_path / "orsanet-shards" / "incoming") == []


@pytest.mark.parametrize("kind", ["cache", "passing"])
def test_a_damaged_file_is_fetched_once_more_and_then_refused(
    files: BucketFiles, bucket: Proxy, tmp_path: Path, kind: str
) -> None:
    copies = Cache(files, CacheSettings(tmp_path)) if kind == "cache" else Passing(files)
    checked = []

    def check(_descriptor: int) -> None:
        checked.append(1)
        if len(checked) % 3:
            raise ValueError("wrong checksum")

    with pytest.raises(ValueError, match="wrong checksum"):
        content_of(copies, "c.1", check)
    assert not copies.has("c.1")
    assert content_of(copies, "c.1", check) == bytes([1]) * 1000
    assert gets(bucket) == 3
    copies.drop("c.1")
    copies.drop("c.1")
    assert not copies.has("c.1")


def test_a_replaced_object_has_another_copy(files: BucketFiles, tmp_path: Path) -> None:
    cache = Cache(files, CacheSettings(tmp_path))
    old = content_of(cache, "c.1")
    files.bucket.write("c.1", bytes(1000))
    assert content_of(cache, "c.1") == old  # of the listing that this reader knows
    assert content_of(Cache(BucketFiles(files.bucket), CacheSettings(tmp_path)), "c.1") == bytes(1000)
    assert content_of(cache, "c.1") == old


def test_the_oldest_copies_make_room(files: BucketFiles, bucket: Proxy, tmp_path: Path) -> None:
    (tmp_path / "orsanet-shards").mkdir()
    (tmp_path / "orsanet-shards" / "of-somebody").write_bytes(bytes(10_000))
    cache = Cache(files, CacheSettings(tmp_path, 3500))
    first = cache.open("c.0", lambda _: None)
    for number in range(1, 6):
        content_of(cache, f"c.{number}")
        assert sum(path.stat().st_size for path in kept(tmp_path)) <= 3500 + 10_000
    assert [cache.has(f"c.{number}") for number in range(6)] == [False, False, False, True, True, True]
    assert os.pread(first, 1000, 0) == bytes(1000)  # who has it open reads on
    os.close(first)
    assert (tmp_path / "orsanet-shards" / "of-somebody").exists()
    with pytest.raises(OrsanetError, match="raise --cache-size"):
        content_of(Cache(files, CacheSettings(tmp_path, 500)), "c.0")


def test_passing_copies_make_room(files: BucketFiles, bucket: Proxy) -> None:
    copies = Passing(files)
    copies.limit = 2500
    for number in (0, 1, 0, 2, 0, 1):
        assert content_of(copies, f"c.{number}") == bytes([number]) * 1000
    assert gets(bucket) == 4


def test_a_cache_that_cannot_be_written_is_refused(files: BucketFiles, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OrsanetError, match="the cache cannot be written"):
        Cache(files, CacheSettings(tmp_path / "file"))


def test_files_are_fetched_in_order_and_not_too_far_ahead() -> None:
    fetched: list[int] = []
    arrived = threading.Condition()

    def fetch(number: int) -> None:
        with arrived:
            fetched.append(number)
            arrived.notify_all()
        if number == 3:
            raise ValueError("for the reader to meet")

    def wait_for(count: int) -> list[int]:
        with arrived:
            assert arrived.wait_for(lambda: len(fetched) >= count, 5)
            return sorted(fetched)

    with Ahead([Wanted(10 * number, 100, lambda number=number: fetch(number)) for number in range(12)], 400) as ahead:
        assert wait_for(4) == [0, 1, 2, 3]
        ahead.reached(1)  # the first file is used
        assert wait_for(5) == [0, 1, 2, 3, 4]
        ahead.reached(71)
        assert wait_for(12) == [*range(12)]
    with Ahead([Wanted(0, 100, lambda: fetch(99))], 10):  # larger than all that may be ahead
        assert 99 in wait_for(13)
    with Ahead([], 10) as nothing:
        nothing.reached(5)
