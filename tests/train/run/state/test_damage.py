"""A damaged state is noticed, and the one before is loaded."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_states import everything, names, refused, small

from orsanet_train.run.state import TrainingState, load_state, save_state


def falls_back(folder: Path, capsys: pytest.CaptureFixture[str], expected: TrainingState, *damaged: str) -> None:
    """The expected state is loaded, with one line of warning for each damaged one, newest first."""
    capsys.readouterr()
    assert everything(load_state(folder)) == everything(expected)
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == len(damaged)
    for line, name in zip(lines, damaged, strict=True):
        assert line.startswith(f"warning: {folder / name}: damaged (")
        assert line.endswith(f"); resuming from the state before, {expected.epoch:08d}-{expected.step:06d}")


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
def test_any_byte_that_changed_is_noticed(two: Path, capsys: pytest.CaptureFixture[str], file: str) -> None:
    path = two / "00000001-000010" / file
    original = path.read_bytes()
    rng = random.Random(0)
    for place in range(len(original)):
        damaged = bytearray(original)
        damaged[place] ^= rng.randrange(1, 256)
        path.write_bytes(damaged)
        falls_back(two, capsys, small(1, 5), "00000001-000010")
    path.write_bytes(original)
    falls_back(two, capsys, small(1, 10))


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
def test_any_byte_that_is_missing_or_too_many_is_noticed(
    two: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    path = two / "00000001-000010" / file
    original = path.read_bytes()
    for length in range(len(original)):
        path.write_bytes(original[:length])
        falls_back(two, capsys, small(1, 5), "00000001-000010")
    for other in (original + b"\0", original + b"\n", original[1:], original + original, bytes(len(original))):
        path.write_bytes(other)
        falls_back(two, capsys, small(1, 5), "00000001-000010")


@pytest.mark.parametrize(
    "text",
    [
        b"null", b"[]", b"{}", b"3", b'"state"', b"\xff\xfe", b"[" * 200_000, b"1" * 10_000, b"NaN", b'{"crc32c": 1}',
        b'{"crc32c": {"tensors.safetensors": 1}}', b'{"crc32c": {"tensors.safetensors": null}, "epoch": []}',
        b'{"epoch": 1, "step": 10, "history": [], "metrics": [NaN], "crc32c": {"tensors.safetensors": 1}}',
        b'{"epoch": 1, "step": 10, "history": [], "metrics": [], "more": 1, "crc32c": {"tensors.safetensors": 1}}',
    ],
)  # fmt: skip
def test_garbage_for_a_document_is_damage(two: Path, capsys: pytest.CaptureFixture[str], text: bytes) -> None:
    (two / "00000001-000010" / "state.json").write_bytes(text)
    falls_back(two, capsys, small(1, 5), "00000001-000010")


def lose(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def empty(path: Path) -> None:
    lose(path)
    path.mkdir()


def become_a_file(path: Path) -> None:
    lose(path)
    path.write_bytes(b"file")


def become_the_older_one(path: Path) -> None:
    older = path.parent.parent / "00000001-000005" if path.suffix else path.with_name("00000001-000005")
    lose(path)
    if path.suffix:
        shutil.copy(older / path.name, path)
    else:
        shutil.copytree(older, path)


@pytest.mark.parametrize("what", ["", "tensors.safetensors", "state.json"])
@pytest.mark.parametrize("happen", [lose, empty, become_a_file, become_the_older_one])
def test_a_part_that_is_lost_or_something_else_is_damage(
    two: Path, capsys: pytest.CaptureFixture[str], what: str, happen: Callable[[Path], None]
) -> None:
    happen(two / "00000001-000010" / what)
    is_gone = happen is lose and not what  # then nobody can tell that there was one
    falls_back(two, capsys, small(1, 5), *([] if is_gone else ["00000001-000010"]))


def test_a_damaged_state_that_is_trained_again_is_replaced(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for happen in (empty, become_a_file):
        happen(two / "00000001-000010")
        save_state(two, small(1, 10))
        assert names(two) == ["00000001-000005", "00000001-000010"]
        falls_back(two, capsys, small(1, 10))


def test_every_damaged_state_on_the_way_is_named(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("00000001-000020", "00000002-000000"):
        shutil.copytree(two / "00000001-000010", two / name)
    falls_back(two, capsys, small(1, 10), "00000002-000000", "00000001-000020")


def test_where_all_are_damaged_the_error_names_them_all(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (two / "00000001-000005" / "tensors.safetensors").unlink()
    (two / "00000001-000010" / "state.json").write_bytes(b"{}")
    said = refused(lambda: load_state(two))
    assert said.startswith(f"{two}: all training states are damaged; start again in another folder:\n")
    assert said.index(f"{two / '00000001-000010'}: damaged (") < said.index(f"{two / '00000001-000005'}: damaged (")
    assert capsys.readouterr().err == ""


def test_a_file_where_the_folder_should_be_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    for action in (
        lambda: load_state(tmp_path / "checkpoints"),
        lambda: save_state(tmp_path / "checkpoints", small()),
    ):
        assert str(tmp_path / "checkpoints") in refused(action)
    assert (tmp_path / "checkpoints").read_text() == "a file"
