"""A folder has one holder, only what is ours is replaced, and a kill or a full disk leaves the earlier output or the new one, whole."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import orsanet_cache.outputs
from orsanet_cache import OrsanetError
from orsanet_cache.durable import own_temporary, write_all, write_whole
from orsanet_cache.outputs import (
    IN_USE,
    Kind,
    check_file,
    check_not_held,
    entries,
    held,
    lock_file,
    output_folder,
    read_steadily,
    temporary_folder,
)

NOTES = Kind("a notebook", {"notes.txt": b"notes of", "more.bin": b""}, marks=("notes.txt",))
IN_THE_WAY = "another command is writing this folder"


def child(code: str, *arguments: object) -> "subprocess.Popen[str]":
    """A process of its own that runs this code, with its arguments in `arguments`."""
    head = (
        "import os, signal, sys, time\nfrom pathlib import Path\nfrom orsanet_cache.errors import OrsanetError\n"
        "from orsanet_cache.durable import *\nfrom orsanet_cache.outputs import *\narguments = sys.argv[1:]\n"
        'NOTES = Kind("a notebook", {"notes.txt": b"notes of", "more.bin": b""}, marks=("notes.txt",))\n'
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def told(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: "subprocess.Popen[str]", kill: bool = False) -> int:
    if kill:
        process.kill()
    process.communicate("\n" * 1000, timeout=60)
    return process.returncode


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(folder: Path, author: str, number: int = 0) -> None:
    with output_folder(folder, NOTES) as staged:
        (staged / "notes.txt").write_text(f"notes of {author} {number}")
        (staged / "more.bin").write_bytes(f"{author} {number}".encode() * 1000)


def author(folder: Path) -> str:
    """Who wrote the folder; all its files must be of one."""
    whole = (folder / "notes.txt").read_text().removeprefix("notes of ")
    assert (folder / "more.bin").read_bytes() == whole.encode() * 1000
    assert names(folder) == ["more.bin", "notes.txt"]
    return whole


# --- one holder ---

HOLDING = """
with {held}:
    print("held", flush=True)
    sys.stdin.readline()
"""
WAYS: dict[str, Callable[[Path], object]] = {
    "held(Path(arguments[0]))": held,
    "output_folder(Path(arguments[0]), NOTES)": lambda folder: output_folder(folder, NOTES),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_held_folder_is_refused_by_name_until_its_holder_ends_or_is_killed(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "above" / "out"
    for kill in (False, True):
        holder = child(HOLDING.format(held=way), folder)
        assert told(holder) == "held"
        with pytest.raises(OrsanetError, match=f"^{folder}: {IN_THE_WAY}"), WAYS[way](folder):  # type: ignore[attr-defined]
            pass
        end(holder, kill)
        with WAYS[way](folder):  # type: ignore[attr-defined]
            pass
    assert [path.name for path in tmp_path.rglob(".*")] == []  # nothing of the killed one is left


def test_who_shares_a_folder_keeps_others_out_and_the_last_one_takes_the_lock_away(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with held(folder, shared=True):
        with held(folder, shared=True), pytest.raises(OrsanetError, match=IN_THE_WAY), held(folder):
            pass
        assert names(folder) == [IN_USE]
        assert entries(folder) == []
        with pytest.raises(OrsanetError, match=IN_THE_WAY):
            check_not_held(folder)
        (folder / "table").touch()
    assert names(folder) == ["table"]
    check_not_held(folder)


COUNTING = """
lock, count, mine = map(Path, arguments)
sys.stdin.readline()
for _ in range(60):
    with lock_file(lock, wait=True):
        value = int(count.read_text())
        count.write_text(str(value + 1))
"""


def test_a_lock_file_that_comes_and_goes_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    processes = [child(COUNTING, tmp_path / "lock", count, number) for number in range(4)]
    assert {end(process) for process in processes} == {0}
    assert count.read_text() == "240"
    assert names(tmp_path) == ["count"]


RACING = """
folder = Path(arguments[0])
print("ready", flush=True)
for number in range(20):
    sys.stdin.readline()
    try:
        with output_folder(folder, NOTES) as staged:
            (staged / "notes.txt").write_text(f"notes of {os.getpid()} {number}")
            (staged / "more.bin").write_bytes(f"{os.getpid()} {number}".encode() * 1000)
            time.sleep(0.01)
        print("won", flush=True)
    except OrsanetError as error:
        print(error, flush=True)
"""


def test_of_two_that_begin_together_one_writes_and_the_other_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    both = [child(RACING, folder) for _ in range(2)]
    assert [told(process) for process in both] == ["ready", "ready"]
    for number in range(20):
        for process in both:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        answers = {str(process.pid): told(process) for process in both}
        won = [pid for pid, answer in answers.items() if answer == "won"]
        assert won, answers
        assert {answer for answer in answers.values() if answer != "won"} <= {
            f"{folder}: {IN_THE_WAY}; let it finish, or choose another folder with --out"
        }
        assert author(folder) in [f"{pid} {number}" for pid in won]
    assert {end(process) for process in both} == {0}
    assert names(tmp_path) == ["out"]


# --- ours, or refused ---


def test_only_a_folder_of_the_same_kind_is_replaced_and_the_first_foreign_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    write(folder, "first")  # an empty one is no one's
    write(folder, "second")
    assert author(folder) == "second 0"
    (folder / "letter.txt").write_text("dear")
    foreign = {"letter.txt": "dear", "notes.txt": "shopping", "more.bin": None}
    for name, text in foreign.items():
        folder.joinpath("letter.txt").unlink(missing_ok=True)
        if text is not None:
            (folder / name).write_text(text)
        else:
            (folder / "notes.txt").unlink()  # what is left could be anyone's
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(OrsanetError, match=f"^{folder}/{name}: is not a file of a notebook, so nothing"):
            write(folder, "third")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        if text is not None:
            (folder / name).unlink()
            write(folder, "second") if names(folder) != ["more.bin"] else (folder / "notes.txt").write_text("notes of")
    assert names(tmp_path) == ["out"]


def test_a_link_in_a_folder_is_foreign_and_a_link_to_a_folder_leads_there(tmp_path: Path) -> None:
    write(tmp_path / "out", "first")
    (tmp_path / "link").symlink_to("out")
    write(tmp_path / "link", "second")
    assert author(tmp_path / "out") == "second 0"
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "out" / "more.bin").rename(tmp_path / "elsewhere")
    (tmp_path / "out" / "more.bin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OrsanetError, match=r"out/more\.bin: is not a file of a notebook"):
        write(tmp_path / "out", "third")


def test_what_comes_while_the_new_folder_is_written_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "out"

    def come(staged: Path) -> None:
        (staged / "notes.txt").write_text("notes of me")
        folder.mkdir()
        (folder / "letter.txt").touch()

    with pytest.raises(OrsanetError, match=r"out/letter\.txt: is not"), output_folder(folder, NOTES) as staged:
        come(staged)
    assert names(folder) == ["letter.txt"]
    with pytest.raises(OrsanetError, match="out: already exists; remove it"), output_folder(folder, None):
        pass
    assert names(tmp_path) == ["out"]


def test_a_file_is_ours_by_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    check_file(path, b'{"ours"', "ours")
    path.write_text('{"ours": 1}')
    check_file(path, b'{"ours"', "ours")
    (tmp_path / "link").symlink_to(path)
    check_file(tmp_path / "link", b'{"ours"', "ours")
    path.write_text('{"mine": 1}')
    with pytest.raises(OrsanetError, match=f"^{path}: is not ours, so it was not replaced"):
        check_file(path, b'{"ours"', "ours")
    for other in (tmp_path, Path("/dev/null")):
        with pytest.raises(OrsanetError, match="is not ours"):
            check_file(other, b"", "ours")


# --- whole ---


def test_an_error_a_full_disk_and_an_interruption_leave_the_earlier_folder_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write(folder, "first")

    def fail(staged: Path, raised: BaseException) -> None:
        (staged / "notes.txt").write_text("notes of no one")
        raise raised

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for raised, expected in (
        (full, OrsanetError),
        (ValueError(), ValueError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ):
        with pytest.raises(expected), output_folder(folder, NOTES) as staged:
            fail(staged, raised)
        assert author(folder) == "first 0"
        assert names(tmp_path) == ["out"]
    with (
        pytest.raises(OrsanetError, match=f"^{folder}: cannot be written .No space left"),
        output_folder(folder, NOTES),
    ):
        raise full


KILLED = """
folder = Path(arguments[0])
import orsanet_cache.outputs as outputs
if arguments[1] == "renames":
    outputs.exchange_names = lambda one, other: False
def killing(event, _):
    global calls
    if event.startswith("os.") or event in ("open", "ctypes.dlopen", "ctypes.dlsym"):
        calls -= 1
        if calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)
for line in sys.stdin:
    if not os.fork():
        calls = int(line)
        sys.addaudithook(killing)
        with output_folder(folder, NOTES) as staged:
            (staged / "notes.txt").write_text("notes of child 0")
            (staged / "more.bin").write_bytes(b"child 0" * 1000)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_a_kill_between_any_two_calls_leaves_one_whole_folder_and_the_next_command_takes_the_rest_away(
    tmp_path: Path, way: str
) -> None:
    """With two renames the folder may be away after a kill; the next command, even one that fails, brings it back."""
    folder, found = tmp_path / "out", []
    process = child(KILLED, folder, way)
    assert process.stdin is not None
    for calls in range(1, 200):
        write(folder, "parent")
        process.stdin.write(f"{calls}\n")
        process.stdin.flush()
        code = int(told(process))
        if way == "renames":
            with pytest.raises(ZeroDivisionError), output_folder(folder, NOTES):
                raise ZeroDivisionError
        found.append(author(folder))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        write(folder, "next")
        assert names(tmp_path) == ["out"]
    process.communicate()
    changed = found.index("child 0")
    assert 5 < changed < len(found)
    assert found == ["parent 0"] * changed + ["child 0"] * (len(found) - changed)


def test_a_reader_gets_one_folder_or_the_other(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write(folder, "first")
    reads = []

    def read(path: Path) -> str:
        reads.append(path)
        head = (path / "notes.txt").read_text()
        if len(reads) == 1:
            write(folder, "second")
        if (path / "more.bin").read_bytes() != head.removeprefix("notes of ").encode() * 1000:
            raise OrsanetError("mixed")
        return head

    assert read_steadily(folder, read) == "notes of second 0"
    (folder / "more.bin").write_bytes(b"")
    with pytest.raises(OrsanetError, match="mixed"):
        read_steadily(folder, read)


# --- temporary files and folders ---


def test_temporary_files_are_a_processs_own_and_those_of_a_killed_one_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    holding = """
with own_temporary(Path(arguments[0])) as temporary:
    print(temporary.name, flush=True)
    sys.stdin.readline()
"""
    killed, alive = child(holding, path), child(holding, path)
    left, used = told(killed), told(alive)
    end(killed, kill=True)
    (tmp_path / ".table.csv.orsanet-mine").touch()
    write_whole(path, lambda temporary: temporary.write_text(temporary.name))
    assert path.read_text() not in (left, used)
    assert names(tmp_path) == sorted([".table.csv.orsanet-mine", used, "table.csv"])
    assert end(alive) == 0
    assert names(tmp_path) == [".table.csv.orsanet-mine", "table.csv"]


def test_of_several_files_none_is_replaced_before_all_are_written(tmp_path: Path) -> None:
    def fail(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    paths = [tmp_path / "a", tmp_path / "b"]
    write_all({path: lambda temporary: temporary.write_text("old") for path in paths})
    with pytest.raises(OrsanetError, match=f"^{paths[1]}: cannot be written .No space left"):
        write_all({paths[0]: lambda temporary: temporary.write_text("new"), paths[1]: fail})
    assert [path.read_text() for path in paths] == ["old", "old"]
    assert names(tmp_path) == ["a", "b"]


def test_writers_of_one_name_do_not_disturb_each_other(tmp_path: Path) -> None:
    code = """
for number in range(40):
    write_whole(Path(arguments[0]), lambda path: path.write_text(f"{os.getpid()} " * 20_000))
"""
    processes = [child(code, tmp_path / "file") for _ in range(3)]
    assert {end(process) for process in processes} == {0}
    assert (tmp_path / "file").read_text() in {f"{process.pid} " * 20_000 for process in processes}
    assert names(tmp_path) == ["file"]


def test_a_temporary_folder_of_a_killed_process_is_removed_by_the_next_and_no_other_is(tmp_path: Path) -> None:
    holding = """
with temporary_folder("ours-", Path(arguments[0])) as folder:
    (folder / "content").touch()
    print(folder.name, flush=True)
    sys.stdin.readline()
"""
    killed, alive = child(holding, tmp_path), child(holding, tmp_path)
    left, used = told(killed), told(alive)
    end(killed, kill=True)
    (tmp_path / "ours-truly").mkdir()
    (tmp_path / "ours-truly" / "letter.txt").touch()
    with temporary_folder("ours-", tmp_path) as folder:
        assert names(tmp_path) == sorted([folder.name, used, "ours-truly"])
    assert left not in names(tmp_path)
    assert end(alive) == 0
    assert names(tmp_path) == ["ours-truly"]


@contextmanager
def without_exchange() -> Iterator[None]:
    """As on a file system that cannot exchange names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orsanet_cache.outputs, "exchange_names", lambda one, other: False)
        yield


def test_where_names_cannot_be_exchanged_the_folder_is_replaced_by_two_renames(tmp_path: Path) -> None:
    write(tmp_path / "out", "first")
    (tmp_path / "out").chmod(0o750)
    with without_exchange():
        write(tmp_path / "out", "second")
    assert author(tmp_path / "out") == "second 0"
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert names(tmp_path) == ["out"]


def test_a_lock_does_not_wait_unless_told_to(tmp_path: Path) -> None:
    began = time.monotonic()
    with lock_file(tmp_path / "lock"), pytest.raises(BlockingIOError), lock_file(tmp_path / "lock"):
        pass
    assert time.monotonic() - began < 0.5
    with own_temporary(tmp_path / "file"):
        pass
    assert names(tmp_path) == []
