"""Whatever breaks — disk, file, store, picture — a build goes on to the same store, and a reader gets the stored values or an error.

Injected faults hit the operating system's calls only. Stores are small: two units of one or a few pictures in one view.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_store import Remembering, Small, save_picture

from orsanet_cache import Manifest, Sample


@pytest.fixture(scope="session")
def small(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "images").mkdir()
    names = [f"images/{index}.png" for index in range(6)]
    for index, name in enumerate(names):
        save_picture(folder / name, index)
    samples = tuple(Sample(name, index % 2, "train", frozenset()) for index, name in enumerate(names))
    made = Small(
        folder, Remembering(world.load_priors()), Manifest("small", ("a", "b"), folder, samples), folder / "store.zarr"
    )
    made.build(made.store)
    return made


@pytest.fixture
def in_time() -> Iterator[None]:
    """A minute, for what takes a second: a reader that waits or counts for ever fails its test."""

    class Hangs(BaseException):
        """No OSError, as TimeoutError would be."""

    def stop(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here cuts the power: thousands of waits for the disk would prove nothing. test_durable.py has their order."""
    monkeypatch.setattr(os, "fsync", os.fstat)


class Stop(Exception):
    """Raised in the middle of a build."""


@pytest.fixture(scope="session")
def begun(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store as a kill leaves it: one of two units committed, the next one's shards half renamed, temporaries, locks."""
    out = tmp_path_factory.mktemp("begun") / "store.zarr"
    snapshot = out.with_name("snapshot.zarr")
    renamed = 0

    real = os.replace

    def replace(source: Any, target: Any) -> None:
        nonlocal renamed
        if Path(target).name.startswith("c.1"):
            renamed += 1
            if renamed == 3:
                shutil.copytree(out, snapshot)
                raise Stop
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Stop):
            small.build(out)
    (snapshot / ".commits" / "begun-elsewhere-1").write_bytes(b"half a")
    return snapshot
