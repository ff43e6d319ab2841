"""A picture is hashed once, and again only if its inode, size or times are others."""

import hashlib
import os
from pathlib import Path

import pytest

from orsanet_cache.builder import hashes
from orsanet_cache.builder.hashes import FILE, Hashes

NAMES = [f"{number}.png" for number in range(4)]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few fresh files count: the tests do not change one twice within a tick of the clock."""
    monkeypatch.setattr(hashes, "WORTH_IT", 1)
    monkeypatch.setattr(hashes, "SETTLED_NS", 0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    for name in NAMES:
        (tmp_path / name).write_bytes(f"content of {name}".encode())
    hashed(tmp_path)
    return tmp_path


def hashed(root: Path, afresh: bool = False) -> dict[str, str]:
    found = Hashes(root, root / "store", afresh)
    found.read(NAMES, "hash")
    found.save()
    return {name: found.of(name) for name in NAMES}


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read from now on."""
    names: list[str] = []
    real = hashes.read_file
    monkeypatch.setattr(hashes, "read_file", lambda path: (names.append(path.name), real(path))[1])
    return names


def test_a_known_picture_is_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = reads(monkeypatch)
    assert hashed(root) == {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in NAMES}
    assert names == []


def test_a_renamed_picture_is_known(root: Path) -> None:
    (root / "0.png").rename(root / "moved")
    (root / "1.png").rename(root / "0.png")
    (root / "moved").rename(root / "1.png")
    assert hashed(root)["0.png"] == hashlib.sha256(b"content of 1.png").hexdigest()


def test_a_picture_that_was_written_in_place_with_its_time_set_back_is_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = (root / "2.png").stat()
    (root / "2.png").write_bytes(b"CONTENT OF 2.png")
    os.utime(root / "2.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    names = reads(monkeypatch)
    assert hashed(root)["2.png"] == hashlib.sha256(b"CONTENT OF 2.png").hexdigest()
    assert names == ["2.png"]
    assert hashed(root)["2.png"] == hashlib.sha256(b"CONTENT OF 2.png").hexdigest()
    assert names == ["2.png"]


def test_all_are_read_on_request_and_where_the_record_is_damaged(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = reads(monkeypatch)
    hashed(root, afresh=True)
    assert sorted(names) == NAMES
    record = root / "store" / FILE
    record.write_bytes(record.read_bytes()[:-1] + b"x")
    hashed(root)
    assert sorted(names) == sorted(2 * NAMES)
    hashed(root)
    assert len(names) == 2 * len(NAMES)


def test_what_the_clock_cannot_tell_apart_is_not_recorded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "SETTLED_NS", 3600 * 10**9)
    (root / "store" / FILE).unlink()
    hashed(root)
    assert not (root / "store" / FILE).exists()


def test_a_picture_that_cannot_be_read_has_no_digest_and_is_tried_again(root: Path) -> None:
    (root / "3.png").unlink()
    assert hashed(root)["3.png"] == ""
    (root / "3.png").write_bytes(b"back")
    assert hashed(root)["3.png"] == hashlib.sha256(b"back").hexdigest()
