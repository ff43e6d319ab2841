"""Which states are kept, which one is loaded."""

import builtins
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_states import content, everything, names, small

from orsanet_train.run.state import load_state, save_state


def test_the_newest_two_are_kept_and_the_newest_is_loaded(tmp_path: Path) -> None:
    """Newest by position: names do not sort that way beyond six digits."""
    positions = [(0, 0), (0, 7), (0, 999_999), (0, 1_000_000), (1, 0), (12, 3)]
    for done, (epoch, step) in enumerate(positions, 1):
        save_state(tmp_path, small(epoch, step))
        assert everything(load_state(tmp_path)) == everything(small(epoch, step))
        assert names(tmp_path) == sorted(f"{e:08d}-{s:06d}" for e, s in positions[max(0, done - 2) : done])


def test_what_a_kill_left_goes_with_the_next_save_and_nothing_else_does(two: Path) -> None:
    for name in (".00000001-000011.tmp", ".00000001-000005.replaced.tmp"):
        (two / name).mkdir()
        (two / name / "tensors.safetensors").write_bytes(b"half of it")
    elsewhere = two.parent / "elsewhere"
    shutil.copytree(two / "00000001-000005", elsewhere)
    (two / ".00000001-000012.tmp").symlink_to(elsewhere, target_is_directory=True)
    mine = ["notes.txt", ".mine.tmp", "00000001-000005 (copy)", "1-2", ".00000001-000005"]
    for name in mine:
        (two / name).mkdir()
        (two / name / "thesis").write_text("years of work")
    save_state(two, small(1, 15))
    assert names(two) == sorted([*mine, "00000001-000010", "00000001-000015"])
    assert all((two / name / "thesis").read_text() == "years of work" for name in mine)
    assert len(content(elsewhere)) == 2


def test_what_a_kill_left_is_gone_before_anything_is_written(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it could be what fills the disk, for ever."""
    stale = two / ".00000001-000011.tmp"
    stale.mkdir()
    ordinary, there = builtins.open, []

    def watching(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if mode == "wb":
            there.append(stale.exists())
        return ordinary(file, mode, *rest, **named)

    monkeypatch.setattr(builtins, "open", watching)
    save_state(two, small(1, 15))
    assert there == [False, False]


def test_the_same_position_saved_again_replaces_it_and_keeps_the_one_before(two: Path) -> None:
    for values in (7, 8, 9):
        save_state(two, small(1, 10, values))
        assert names(two) == ["00000001-000005", "00000001-000010"]
        assert everything(load_state(two)) == everything(small(1, 10, values))


def test_a_state_that_stepped_aside_and_was_never_replaced_is_loaded_and_then_goes(two: Path) -> None:
    os.rename(two / "00000001-000010", two / "00000001-000010.replaced")
    assert everything(load_state(two)) == everything(small(1, 10))
    shutil.copytree(two / "00000001-000010.replaced", two / "00000001-000010")
    save_state(two, small(1, 10, 9))
    assert names(two) == ["00000001-000005", "00000001-000010"]
    assert everything(load_state(two)) == everything(small(1, 10, 9))
    os.rename(two / "00000001-000010", two / "00000001-000010.replaced")
    save_state(two, small(1, 15))
    assert names(two) == ["00000001-000010.replaced", "00000001-000015"]


def test_a_run_that_went_back_keeps_what_it_went_back_to_and_not_the_damaged(
    two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (two / "00000001-000010" / "state.json").write_bytes(b"")
    assert everything(load_state(two)) == everything(small(1, 5))
    save_state(two, small(1, 8))
    assert names(two) == ["00000001-000005", "00000001-000008"]
    capsys.readouterr()
    assert everything(load_state(two)) == everything(small(1, 8))
    assert capsys.readouterr().err == ""


def test_positions_are_names_that_sort_as_they_follow_each_other() -> None:
    assert small(3, 120).name == "00000003-000120"
    assert re.fullmatch(r"\d{8}-\d{6}", small(99_999_999, 999_999).name)
