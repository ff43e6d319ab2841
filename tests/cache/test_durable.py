"""A name is given only to a file that is whole and on the disk; of many who create it one does; a lock ends with its holder."""

import builtins
import errno
import io
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orsanet_cache import OrsanetError
from orsanet_cache.durable import (
    locked,
    make_folder,
    prepare_folder,
    publish,
    publish_new,
    read_json,
    write_temporary,
    write_whole,
)

OLD, NEW = b"old " * 5_000, b"new " * 50_000
PIECES: list[bytes | bytearray | memoryview] = [NEW[:7], b"", bytearray(NEW[7:100_000]), memoryview(NEW[100_000:])]


def child(code: str, *arguments: object) -> "subprocess.Popen[str]":
    """A process of its own that runs this code, with its arguments in `arguments`."""
    head = "import os, sys, time\nfrom pathlib import Path\nfrom orsanet_cache.durable import *\narguments = sys.argv[1:]\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def told(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def finish(process: "subprocess.Popen[str]", kill: bool = False) -> int:
    if kill:
        process.kill()
    process.communicate(timeout=30)
    return process.returncode


RACING = """
print("ready", flush=True)
for line in range(20):
    sys.stdin.readline()
    mine = Path(arguments[0]) / f"temporary-{os.getpid()}"
    won = publish_new(Path(arguments[0]) / f"name-{line}", [f"{os.getpid()} ".encode() * 20_000], mine)
    print(won, mine.exists(), flush=True)
"""


def test_of_eight_processes_that_create_one_name_exactly_one_does(tmp_path: Path) -> None:
    processes = [child(RACING, tmp_path) for _ in range(8)]
    assert {told(process) for process in processes} == {"ready"}
    for line in range(20):
        for process in processes:
            tell(process)
        answers = {process.pid: told(process) for process in processes}
        assert set(answers.values()) == {"True False", "False False"}  # no temporary is left
        (winner,) = (pid for pid, answer in answers.items() if answer == "True False")
        assert (tmp_path / f"name-{line}").read_bytes() == f"{winner} ".encode() * 20_000
    assert {finish(process) for process in processes} == {0}


HOLDING = """
with locked(Path(arguments[0])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_keeps_others_out_and_ends_with_a_kill_of_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    holder = child(HOLDING, path)
    assert told(holder) == "held"
    with pytest.raises(BlockingIOError), locked(path, wait=False):
        pass
    assert finish(holder, kill=True) == -9
    with locked(path, wait=False), pytest.raises(BlockingIOError), locked(path, wait=False):
        pass


def test_who_waits_for_a_lock_gets_it_when_its_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    holder = child(HOLDING, path)
    assert told(holder) == "held"
    waiting = child(HOLDING, path)
    time.sleep(0.3)
    assert waiting.poll() is None
    finish(holder, kill=True)
    assert told(waiting) == "held"
    finish(waiting, kill=True)


COUNTING = """
count = Path(arguments[1])
for _ in range(50):
    with locked(Path(arguments[0])):
        value = int(count.read_text())
        count.write_text(str(value + 1))
"""


def test_what_is_done_under_a_lock_is_done_by_one_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "count").write_text("0")
    processes = [child(COUNTING, tmp_path / "lock", tmp_path / "count") for _ in range(4)]
    assert {finish(process) for process in processes} == {0}
    assert (tmp_path / "count").read_text() == "200"


def test_a_lock_ends_where_its_block_does_however_it_is_left(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("content")
    descriptors = len(os.listdir("/dev/fd"))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), locked(path, wait=False):
            raise ZeroDivisionError
        with locked(path), pytest.raises(BlockingIOError), locked(path, wait=False):
            pass
    assert len(os.listdir("/dev/fd")) == descriptors
    assert path.read_text() == "content"
    with pytest.raises(FileNotFoundError), locked(tmp_path / "nothing"):
        pass


PUBLISHING = """
number = 0
while True:
    number += 1
    publish(Path(arguments[0]), [f"{number:09d} ".encode() * 40_000], Path(arguments[1]))
    print(number, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path, chance, seen = tmp_path / "file", random.Random(0), set()
    for _ in range(20):
        path.write_bytes(b"000000000 " * 40_000)
        process = child(PUBLISHING, path, tmp_path / "temporary")
        told(process)
        time.sleep(chance.random() / 50)
        assert finish(process, kill=True) == -9
        content = path.read_bytes()
        assert content == content[:10] * 40_000
        seen.add(content[:10])
    assert len(seen) > 1  # the kills came at different moments
    assert b"000000000 " not in seen


@contextmanager
def watched(fail_at: int = 0) -> Iterator[list[str]]:
    """Every call that changes the disk, in order, by the name of the file; the one at this place, counted from 1, fails."""
    calls: list[str] = []
    real_open = builtins.open

    def note(what: str, path: Any) -> None:
        calls.append(f"{what} {Path(path).name}")
        if len(calls) == fail_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class File(io.FileIO):
        def write(self, data: Any) -> int:
            note("write", self.name)
            return super().write(data)

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode != "wb":
            return real_open(file, mode, *arguments, **options)
        note("create", file)
        return File(os.fspath(file), "w")

    real_fsync, real_replace, real_link, real_mkdir = os.fsync, os.replace, os.link, os.mkdir

    def fsync(descriptor: int) -> None:
        note("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        real_fsync(descriptor)

    def replace(source: Any, target: Any) -> None:
        note("replace", target)
        real_replace(source, target)

    def link(source: Any, target: Any) -> None:
        note("link", target)
        real_link(source, target)

    def mkdir(path: Any, *arguments: Any) -> None:
        note("mkdir", path)
        real_mkdir(path, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "open", opened)
        for name, wrapped in (("fsync", fsync), ("replace", replace), ("link", link), ("mkdir", mkdir)):
            patch.setattr(os, name, wrapped)
        yield calls


linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of descriptors are looked up in /proc")


@linux
def test_a_name_is_given_after_the_content_is_on_the_disk_and_is_then_put_there_too(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with watched() as calls:
        make_folder(folder / "inner")
    assert calls == ["mkdir folder", f"fsync {tmp_path.name}", "mkdir inner", "fsync folder"]
    written = ["create temporary", "write temporary", "fsync temporary"]
    with watched() as calls:
        publish(folder / "file", PIECES, folder / "temporary")
    assert list(dict.fromkeys(calls)) == [*written, "replace file", "fsync folder"]
    with watched() as calls:
        assert publish_new(folder / "new", PIECES, folder / "temporary")
    assert list(dict.fromkeys(calls)) == [*written, "link new", "fsync folder"]
    assert (folder / "file").read_bytes() == (folder / "new").read_bytes() == NEW


@linux
@pytest.mark.parametrize("way", [publish, publish_new])
def test_a_failure_at_any_call_leaves_what_was_there_or_all_of_what_is_new(tmp_path: Path, way: Any) -> None:
    path, temporary = tmp_path / "file", tmp_path / "temporary"
    before = OLD if way is publish else None

    def begin() -> None:
        temporary.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_bytes(before)

    begin()
    with watched() as calls:
        way(path, PIECES, temporary)
    steps = list(calls)
    named = next(number for number, call in enumerate(steps, 1) if call in ("replace file", "link file"))
    for at in range(1, len(steps) + 1):
        begin()
        with watched(at), pytest.raises(OSError, match="No space left"):
            way(path, PIECES, temporary)
        found = path.read_bytes() if path.exists() else None
        assert found == (NEW if at > named else before), steps[at - 1]
        way(path, PIECES, temporary)  # what the failure left is in nobody's way
        assert path.read_bytes() == NEW


KILLED = """
import builtins, io, signal
calls = int(arguments[2])
def due():
    global calls
    calls -= 1
    if calls < 0:
        os.kill(os.getpid(), signal.SIGKILL)
def dying(real):
    def wrapped(*given, **options):
        due()
        result = real(*given, **options)
        due()
        return result
    return wrapped
class File(io.FileIO):
    def write(self, data):
        due()
        return super().write(memoryview(data)[:70_000])
opened = builtins.open
builtins.open = lambda file, mode="r", *given, **options: File(file, "w") if mode == "wb" else opened(file, mode, *given, **options)
for name in ("fsync", "replace", "link", "unlink"):
    setattr(os, name, dying(getattr(os, name)))
way = {"publish": publish, "publish_new": publish_new}[arguments[3]]
way(Path(arguments[0]), [b"new " * 50_000], Path(arguments[1]))
"""


@pytest.mark.parametrize("way", ["publish", "publish_new"])
def test_a_kill_between_any_two_calls_leaves_the_old_file_or_the_new_one(tmp_path: Path, way: str) -> None:
    path, found = tmp_path / "file", []
    for calls in range(30):
        path.unlink(missing_ok=True)
        if way == "publish":
            path.write_bytes(OLD)
        returned = finish(child(KILLED, path, tmp_path / "temporary", calls, way))
        found.append(path.read_bytes() if path.exists() else b"")
        if returned == 0:
            break
        assert returned == -9
    assert returned == 0
    before = OLD if way == "publish" else b""
    changed = found.index(NEW)
    assert changed > 4  # creation, three writes and an fsync come first
    assert found == [before] * changed + [NEW] * (len(found) - changed)


def test_what_exists_is_never_replaced_by_publish_new(tmp_path: Path) -> None:
    path, temporary = tmp_path / "file", tmp_path / "temporary"
    path.write_bytes(OLD)
    before = path.stat()
    assert not publish_new(path, PIECES, temporary)
    assert path.read_bytes() == OLD
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not temporary.exists()
    (tmp_path / "dangling").symlink_to("nothing")
    assert not publish_new(tmp_path / "dangling", PIECES, temporary)
    assert not (tmp_path / "nothing").exists()


def test_a_write_that_takes_only_a_part_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = builtins.open

    class Reluctant(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(memoryview(data)[:1009])

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        return Reluctant(file, "w") if mode == "wb" else real_open(file, mode, *arguments, **options)

    monkeypatch.setattr(builtins, "open", opened)
    write_temporary(tmp_path / "file", PIECES)
    assert (tmp_path / "file").read_bytes() == NEW


def test_a_leftover_temporary_is_overwritten_whole(tmp_path: Path) -> None:
    (tmp_path / "temporary").write_bytes(NEW + OLD)
    publish(tmp_path / "file", [OLD], tmp_path / "temporary")
    assert (tmp_path / "file").read_bytes() == OLD


# --- the files of results ---


class Interruption(BaseException):
    """Like KeyboardInterrupt: not an Exception, so nothing catches it in passing."""


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(OSError(28, "No space left"), OrsanetError), (ValueError("x"), ValueError), (Interruption(), Interruption)],
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    raised: BaseException, expected: type[BaseException], tmp_path: Path
) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text("half of the ne")
        raise raised

    path = tmp_path / "metrics.csv"
    path.write_text("the old file")
    with pytest.raises(expected):
        write_whole(path, write)
    assert path.read_text() == "the old file"
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_write_error_names_the_file_and_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "metrics.csv"
    with pytest.raises(OrsanetError, match="No such file") as caught:
        write_whole(path, lambda temporary: temporary.write_text("text"))
    assert str(path) in str(caught.value)


def test_a_folder_for_results_is_made_with_those_above_it_or_refused_by_name(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "above" / "results")
    prepare_folder(tmp_path / "above" / "results")
    assert (tmp_path / "above" / "results").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(OrsanetError, match=r"file/results: cannot be created \(Not a directory\); .* --out"):
        prepare_folder(tmp_path / "file" / "results")


def test_a_json_file_is_read_or_named_as_damaged(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"classes": ["Ärger"]}', encoding="utf-8")
    assert read_json(tmp_path / "run.json") == {"classes": ["Ärger"]}
    (tmp_path / "run.json").write_bytes(b'{"classes": ["\xc4')
    with pytest.raises(OrsanetError, match=r"run\.json: damaged"):
        read_json(tmp_path / "run.json")
