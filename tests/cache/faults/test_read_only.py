"""A store that must not be written."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from small_store import Small, content, everything

from orsanet_cache.cli import main


@pytest.fixture
def without_privileges() -> Iterator[None]:
    """Permission bits hold for this thread and those it starts, also where tests run as root."""
    import ctypes

    class Header(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = Header(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if not sys.platform.startswith("linux") or libc.capget(ctypes.byref(header), sets):
        pytest.skip("capabilities are Linux's")
    before = sets[0]
    sets[0] = before & ~0b111  # CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(ctypes.byref(header), sets) == 0
    yield
    sets[0] = before
    assert libc.capset(ctypes.byref(header), sets) == 0


@pytest.fixture
def read_only(small: Small, tmp_path: Path, without_privileges: None) -> Iterator[Path]:
    store = small.copy(tmp_path)
    paths = [store, *store.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with pytest.raises(PermissionError):
        (store / "probe").touch()
    yield store
    for path in paths:
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_read_only_store_is_read_as_any_other(small: Small, read_only: Path) -> None:
    names = {"train": ["clean"]}
    assert everything(read_only, names) == everything(small.store, names)


@pytest.mark.parametrize("views", ["clean", "clean,hflip"])
def test_building_into_a_read_only_store_fails_in_one_sentence(
    small: Small, world: Any, read_only: Path, tmp_path: Path, views: str
) -> None:
    rows = "\n".join(f"{sample.image},a,train" for sample in small.manifest.samples)
    (tmp_path / "faces.csv").write_text(f"image,label,split\n{rows}\n")
    command = ["build", tmp_path / "faces.csv", "--root", small.folder, "--classes", "a,b", "--out", read_only,
               "--segmenter", world.segmenter, "--landmarks", world.landmarks, "--views", views]  # fmt: skip
    result = CliRunner().invoke(main, list(map(str, command)))
    assert result.exit_code == 1
    (said,) = result.stderr.splitlines()
    assert said.startswith("Error: ")
    assert str(read_only) in said
    assert "Permission denied" in said
    assert content(read_only) == content(small.store)
