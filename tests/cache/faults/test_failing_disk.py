"""A disk that fails at any call costs no more than what was being written."""

import builtins
import errno
import io
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_lines import in_process
from failing_disk import FAULTS, faults, full_disk
from small_store import CPU, Small, answer, content, everything

from orsanet_cache import OrsanetError
from orsanet_cache.builder.build import build
from orsanet_cache.cli import main


@pytest.mark.parametrize("call", FAULTS)
def test_a_disk_that_fails_at_any_call_leaves_what_a_second_build_completes(
    small: Small, tmp_path: Path, call: str
) -> None:
    number, lasting, at_least = FAULTS[call]
    pictures, whole = small.pictures(2), tmp_path / "whole"

    def run(out: Path) -> None:
        build(pictures, out, small.priors, ["clean"], device=CPU, rows_per_unit=1)

    with faults(call) as counted:
        run(whole)
    assert counted.calls >= at_least
    wanted, read = content(whole), everything(whole, {"train": ["clean"]})
    for at in range(1, counted.calls + 1):
        out = tmp_path / "store.zarr"
        with faults(call, at, number, lasting) as met:
            _, said = answer(lambda: run(out), (OrsanetError, OSError))  # noqa: B023
        assert met.calls >= at
        if said:
            assert os.strerror(number) in said, (call, at)
            found, unfinished = answer(lambda: everything(out, {"train": ["clean"]}))  # noqa: B023
            assert unfinished or found == read, (call, at)
        else:
            assert content(out) == wanted, (call, at)
        run(out)
        assert content(out) == wanted, (call, at)
        shutil.rmtree(out)


def test_a_write_that_takes_only_a_part_is_continued(small: Small, tmp_path: Path) -> None:
    real_open = builtins.open

    class Reluctant(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(memoryview(data)[:4099])

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        return Reluctant(file, "w") if mode == "wb" else real_open(file, mode, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "open", opened)
        small.build(tmp_path / "store.zarr")
    assert content(tmp_path / "store.zarr") == content(small.store)


def test_a_disk_that_fills_up_stops_with_what_is_safe_and_how_much_is_missing(small: Small, tmp_path: Path) -> None:
    with faults("write") as counted:
        small.build(tmp_path / "whole", rows_per_unit=1)
    said = set()
    for at in range(1, counted.calls + 1):
        out = tmp_path / f"{at}.zarr"
        with faults("write", at, errno.ENOSPC, lasting=True), pytest.raises((OrsanetError, OSError)) as raised:
            small.build(out, rows_per_unit=1)
        markers = len(list((out / ".commits" / "train" / "clean").glob("*.json")))
        if 0 < markers < 6:
            assert f"{markers} of 6 views are safe, the others need about" in str(raised.value), at
            said.add(markers)
    assert said == {1, 2, 3, 4, 5}


def test_a_full_disk_is_named_with_the_store_and_what_to_do_wherever_it_strikes(small: Small, tmp_path: Path) -> None:
    with faults("write") as counted:
        small.build(tmp_path / "whole")
    for at in range(1, counted.calls + 1):
        out = tmp_path / f"{at}.zarr"
        with faults("write", at, errno.ENOSPC, lasting=True), pytest.raises(OrsanetError) as raised:
            small.build(out)
        assert f"{out}: cannot be written (No space left on device)" in str(raised.value), at
        assert "run the same command again" in str(raised.value), at
        shutil.rmtree(out)


def test_a_process_that_may_write_no_larger_files_stops_in_a_sentence_and_another_goes_on(
    world: Any, tmp_path: Path
) -> None:
    out = tmp_path / "store.zarr"
    command = [
        "build", world.manifest, "--out", out, "--device", "cpu", "--segmenter", world.segmenter, "--landmarks", world.landmarks,
    ]  # fmt: skip
    with full_disk(100_000):  # metadata fits, a shard of images does not
        ended = in_process(main, *command)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"Error: {out}: cannot be written ({os.strerror(errno.EFBIG)})")
    assert "0 of 52 views are safe, the others need about" in last
    build(world.load_manifest(), out, world.priors, ["clean", "hflip"], device=CPU)
    assert content(out) == content(world.store)
