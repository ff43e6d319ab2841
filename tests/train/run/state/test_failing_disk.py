"""Disks that fail or fill up leave the states before whole."""

import builtins
import errno
import io
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from failing_disk import full_disk
from small_states import PATIENCE, content, everything, names, refused, small

from orsanet_train.run.state import load_state, save_state

GROWING = ("open", "write", "fsync", "mkdir")  # what a full disk refuses; names can be taken away


class Disk:
    """Logs the calls of the operating system that change a disk, and makes call number `at` fail: once, or as a disk that stays full."""

    def __init__(self, at: int, error: BaseException | None, lasting: bool) -> None:
        self.log: list[tuple[str, str]] = []
        self.at, self.error, self.lasting = at, error, lasting

    def step(self, operation: str, path: str) -> None:
        self.log.append((operation, path))
        stays_full = self.lasting and len(self.log) > self.at and operation in GROWING
        if self.error is not None and (len(self.log) == self.at or stays_full):
            raise self.error


@contextmanager
def on_disk(
    at: int = 0, error: BaseException | None = None, lasting: bool = False, short: random.Random | None = None
) -> Iterator[Disk]:
    """Until the block ends. `short`: writes take as many bytes as they like."""
    disk = Disk(at, error, lasting)
    ordinary_open, ordinary_fsync = builtins.open, os.fsync

    class File(io.FileIO):
        def write(self, data: Any) -> int:
            disk.step("write", os.fspath(self.name))
            return super().write(data if short is None else data[: short.randint(1, len(data))])

    def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
        if mode == "wb" and buffering == 0:
            disk.step("open", os.fspath(file))
            return File(file, "wb")
        return ordinary_open(file, mode, buffering, *rest, **named)

    def fsync(descriptor: int) -> None:
        disk.step("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        ordinary_fsync(descriptor)

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(path: Any, *rest: Any, **named: Any) -> Any:
            disk.step(name, os.fspath(path))
            return call(path, *rest, **named)

        return counting

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "open", opened)
        patch.setattr(os, "fsync", fsync)
        for name in ("mkdir", "rename", "unlink", "rmdir"):
            patch.setattr(os, name, counted(name, getattr(os, name)))
        yield disk


def test_all_is_on_the_disk_before_the_name_and_the_older_go_after_it(two: Path) -> None:
    with on_disk() as disk:
        save_state(two, small(1, 15))
    temporary, final = two / ".00000001-000015.tmp", two / "00000001-000015"
    named = disk.log.index(("rename", str(temporary)))
    for path in (temporary / "tensors.safetensors", temporary / "state.json", temporary):
        synced = disk.log.index(("fsync", str(path)))
        assert synced < named
        assert ("write", str(path)) not in disk.log[synced:]
    after = disk.log[named + 1 :]
    assert after[0] == ("fsync", str(two))
    assert after[1] == ("rename", str(two / "00000001-000005"))
    assert not any(operation in ("unlink", "rmdir") for operation, path in disk.log[:named])
    assert final.is_dir()


def test_short_writes_make_the_same_files(two: Path, tmp_path: Path) -> None:
    state = small(1, 15, values=3000)
    save_state(two, state)
    with on_disk(short=random.Random(0)) as disk:
        save_state(tmp_path / "other", state)
    assert sum(operation == "write" for operation, _ in disk.log) > 10
    written = {name: data for name, data in content(two).items() if name.startswith("00000001-000015")}
    assert content(tmp_path / "other") == written


@pytest.mark.parametrize(
    ("number", "lasting"), [(errno.ENOSPC, True), (errno.ENOSPC, False), (errno.EIO, False), (errno.EDQUOT, True)]
)
@pytest.mark.parametrize("again", [False, True])
def test_whatever_call_fails_the_states_before_are_whole_and_the_user_is_told(
    two: Path, tmp_path: Path, number: int, lasting: bool, again: bool
) -> None:
    """At every call there is."""
    new = small(1, 10 if again else 15, 9)
    with on_disk() as disk:
        shutil.copytree(two, tmp_path / "count")
        disk.log.clear()
        save_state(tmp_path / "count", new)
    calls = disk.log
    assert len(calls) > 12
    failed = 0
    for at, (operation, _) in enumerate(calls, 1):
        if lasting and operation not in GROWING:
            continue
        folder = tmp_path / f"at-{at}"
        shutil.copytree(two, folder)
        error = OSError(number, os.strerror(number))
        with on_disk(at, error, lasting):
            said = refused(lambda: save_state(folder, new))  # noqa: B023
        failed += 1
        assert str(folder) in said
        assert os.strerror(number) in said
        assert ("make room there" in said) == (number != errno.EIO)
        assert said.endswith("then continue with --resume")
        if "cannot be saved" in said:
            assert not any(name.endswith(".tmp") for name in names(folder)), calls[at - 1]
        loaded = everything(load_state(folder))
        assert loaded in (everything(small(1, 10)), everything(new)), calls[at - 1]
        assert "cannot be saved" in said or loaded == everything(new)
        save_state(folder, new)  # and when the disk is well again, all is as if it had always been
        assert content(folder) == content(tmp_path / "count")
    assert failed >= 8


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143)])
def test_a_stop_while_saving_leaves_the_states_before_and_no_temporary(two: Path, stop: BaseException) -> None:
    before = content(two)
    for at in range(1, 9):
        with on_disk(at, stop), pytest.raises(type(stop)):
            save_state(two, small(1, 15))
        assert content(two) == before, at
        assert names(two) == ["00000001-000005", "00000001-000010"]


def test_a_file_that_may_not_grow_leaves_the_states_before_whole(two: Path) -> None:
    """The operating system's own refusal, of short writes and then of any."""
    state, before = small(1, 15, values=5000), content(two)
    for size in (0, 1, 100, 4096, 20_000):
        with full_disk(size):
            said = refused(lambda: save_state(two, state))
        assert said == (
            f"{two / '00000001-000015'}: the training state cannot be saved (File too large); make room there, then continue with --resume"
        )
        assert content(two) == before
        assert len(names(two)) == 2
    save_state(two, state)
    assert everything(load_state(two)) == everything(state)


FULL = """
import sys, torch
from pathlib import Path
from orsanet_cache import OrsanetError
from orsanet_train.run.state import TrainingState, load_state, save_state
folder = Path(sys.argv[1])
def state(step, megabytes):
    return TrainingState(0, step, [], [], {"model/weight": torch.full((megabytes * 250_000,), float(step))})
for step in (1, 2):
    save_state(folder, state(step, 1))
for step in (3, 4):
    try:
        save_state(folder, state(step, 5))
    except OrsanetError as error:
        print(error)
    print(*sorted(path.name for path in folder.iterdir()), load_state(folder).step)
save_state(folder, state(5, 1))
print(*sorted(path.name for path in folder.iterdir()), load_state(folder).step)
"""


def test_a_disk_that_is_really_full_leaves_the_last_state_intact(tmp_path: Path) -> None:
    """A small one in memory, mounted for one process alone."""
    mounting = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=6m none "$0" && exec "$@"', str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run([*mounting, "true"], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    program = [sys.executable, "-c", FULL, str(tmp_path / "run" / "checkpoints")]
    done = subprocess.run([*mounting, *program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stderr == ""
    first, kept, second, still, last = done.stdout.splitlines()
    for said, step in ((first, 3), (second, 4)):
        assert f"00000000-00000{step}: the training state cannot be saved (No space left on device); make room" in said
    assert kept == still == "00000000-000001 00000000-000002 2"
    assert last == "00000000-000002 00000000-000005 5"
