"""Whatever breaks — disk, file, store, picture — a build goes on to the same store, and a reader gets the stored values or an error.

Injected faults hit the operating system's calls only. Stores are small: two units of one or a few pictures in one view.
"""

import builtins
import errno
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numcodecs import zstd
from PIL import Image
from torch import Tensor

from orsanet_cache import FrozenPriors, Manifest, OrsanetError, PriorStore, Sample
from orsanet_cache.builder.build import build
from orsanet_cache.cli import main
from orsanet_cache.frozen.priors import Priors
from orsanet_cache.store.seal import view_seal
from orsanet_cache.store.units import Share
from orsanet_cache.store.zarr_folder import ZarrFolder
from orsanet_cache.store.zarr_writer import small_content

CPU = torch.device("cpu")
Content = dict[str, bytes]


class Remembering(FrozenPriors):
    """The same networks, which need not think twice about a batch: hundreds of builds of the same pictures take seconds."""

    def __init__(self, priors: FrozenPriors) -> None:
        super().__init__(priors.segmenter, priors.landmark_network, priors.landmark_input)
        self.said: dict[bytes, Priors] = {}
        self.same = priors.recipe()

    def recipe(self) -> dict[str, object]:
        return self.same

    @torch.no_grad()
    def forward(self, images: Tensor) -> Priors:
        seen = images.numpy().tobytes()
        if seen not in self.said:
            self.said[seen] = super().forward(images)
        return self.said[seen]


def save_picture(path: Path, seed: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((100, 120), Image.Resampling.BICUBIC).save(path)


def content(folder: Path) -> Content:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def everything(path: Path, splits: dict[str, list[str]]) -> dict[str, Any]:
    """All that a reader asks a store for by the names it knows."""
    store = PriorStore.open(path)
    found: dict[str, Any] = {}
    for split, views in splits.items():
        found[f"{split}/ids"] = store.sample_ids(split)
        for view in views:
            name = f"{split}/{view}"
            found[f"{name}/accepted"] = store.accepted(split, view).tolist()
            found[f"{name}/rejected"] = store.rejected(split, view)
            found[f"{name}/layouts"] = {
                field: (shape, str(dtype)) for field, (shape, dtype) in store.fields(split, view).items()
            }
            found[f"{name}/seal"] = store.sealed(split, view).seal
            for field in store.fields(split, view):
                found[f"{name}/{field}"] = store.read(split, view, field, slice(None)).tobytes()
            store.provenance(split, view)  # which is recorded, never compared
    found["recipe"], found["rows_per_unit"] = store.recipe, store.rows_per_unit
    return found


def answer(ask: Callable[[], Any], mistakes: tuple[type[Exception], ...] = (OrsanetError,)) -> tuple[Any, str]:
    """What is returned, or None and what the error says, which must be one of the user's mistakes."""
    try:
        return ask(), ""
    except mistakes as error:
        return None, str(error)


@dataclass(frozen=True)
class Small:
    """Six pictures in one split, the networks, and the sealed store of one view in units of 4 and 2 rows."""

    folder: Path
    priors: Remembering
    manifest: Manifest
    store: Path

    def build(self, out: Path, **options: Any) -> None:
        build(self.manifest, out, self.priors, ["clean"], device=CPU, **{"rows_per_unit": 4, **options})

    def pictures(self, count: int) -> Manifest:
        return Manifest("small", self.manifest.classes, self.manifest.root, self.manifest.samples[:count])

    def copy(self, folder: Path) -> Path:
        shutil.copytree(self.store, folder / "store.zarr")
        return folder / "store.zarr"


@pytest.fixture(scope="module")
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
    """Five seconds, for what takes milliseconds: a reader that waits or counts for ever fails its test."""

    class Hangs(BaseException):
        """No OSError, as TimeoutError would be."""

    def stop(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here cuts the power: thousands of waits for the disk would prove nothing. test_durable.py has their order."""
    monkeypatch.setattr(os, "fsync", os.fstat)


# Disks that fail


class Faults:
    """Counts the calls of a kind that change a disk, and makes some of them fail."""

    def __init__(self, at: int, number: int, lasting: bool) -> None:
        self.at, self.number, self.lasting = at, number, lasting
        self.calls = 0
        self._lock = threading.Lock()

    def due(self) -> bool:
        with self._lock:
            self.calls += 1
            return bool(self.at) and (self.calls >= self.at if self.lasting else self.calls == self.at)

    def raise_if_due(self) -> None:
        if self.due():
            raise self.error()

    def error(self) -> OSError:
        return OSError(self.number, os.strerror(self.number))


@contextmanager
def faults(call: str, at: int = 0, number: int = errno.EIO, lasting: bool = False) -> Iterator[Faults]:
    """The at-th call of this kind fails, counted from 1, and all after it where the fault is lasting; none where `at` is 0."""
    found = Faults(at, number, lasting)
    real_open = builtins.open

    class File(io.FileIO):
        def write(self, data: Any) -> int:
            if call == "write" and found.due():
                super().write(memoryview(data)[: len(data) // 2])  # as a disk does that fills up
                raise found.error()
            return super().write(data)

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode != "wb":
            return real_open(file, mode, *arguments, **options)
        if call == "create":
            found.raise_if_due()
        return File(file, "w")

    with pytest.MonkeyPatch.context() as patch:
        if call in ("write", "create"):
            patch.setattr(builtins, "open", opened)
        else:
            real = getattr(os, call)

            def wrapped(*arguments: Any, **options: Any) -> Any:
                found.raise_if_due()
                return real(*arguments, **options)

            patch.setattr(os, call, wrapped)
        yield found


FAULTS = {  # kind of call -> what goes wrong, does it last, how many calls a build has at least
    "write": (errno.ENOSPC, True, 25),
    "create": (errno.ENOSPC, True, 25),
    "mkdir": (errno.ENOSPC, True, 12),
    "link": (errno.EIO, False, 3),
    "fsync": (errno.EIO, False, 60),
    "replace": (errno.EIO, False, 20),
    "unlink": (errno.EIO, False, 5),
    "rmdir": (errno.EIO, False, 3),
}


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
    out, limit = tmp_path / "store.zarr", 100_000  # metadata fits, a shard of images does not
    command = [
        sys.executable, "-m", "orsanet_cache", "build", world.manifest, "--out", out, "--device", "cpu",
        "--segmenter", world.segmenter, "--landmarks", world.landmarks,
    ]  # fmt: skip
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"Error: {out}: cannot be written ({os.strerror(errno.EFBIG)})")
    assert "0 of 52 views are safe, the others need about" in last
    build(world.load_manifest(), out, world.load_priors(), ["clean", "hflip"], device=CPU)
    assert content(out) == content(world.store)


# Files of a sealed store that are damaged

KINDS = {
    "root metadata": "zarr.json",
    "split metadata": "train/zarr.json",
    "sample id metadata": "train/sample_id/zarr.json",
    "sample ids": "train/sample_id/c.0.0",
    "view metadata": "train/clean/zarr.json",
    "field metadata": "train/clean/image/zarr.json",
    "compressed field metadata": "train/clean/segmentation_map/zarr.json",
    "feature metadata": "train/clean/landmark_features/zarr.json",
    "shard": "train/clean/landmark_features/c.1.0.0.0",
    "compressed shard": "train/clean/segmentation_map/c.0.0.0",
    "image digest metadata": "train/clean/image_sha256/zarr.json",
    "image digests": "train/clean/image_sha256/c.0.0",
    "unit digest metadata": "train/clean/unit_sha256/zarr.json",
    "unit digests": "train/clean/unit_sha256/c.0.0.0",
}


def flipped(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def damages(data: bytes, chance: random.Random, flips: int = 24) -> Iterator[tuple[str, bytes | None]]:
    """A name and what becomes of a file: nothing at all, empty, cut off, longer, one bit other."""
    yield "deleted", None
    yield "emptied", b""
    yield "zeroed", bytes(len(data))
    yield "grown", data + b"\0" * 4
    if not data:
        return
    for length in [1, len(data) - 1, *(chance.randrange(len(data)) for _ in range(4))]:
        yield f"cut to {length}", data[:length]
    for number in range(flips):
        yield f"bit flip {number}", flipped(data, chance)


def put(path: Path, data: bytes | None) -> None:
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_an_error_or_makes_no_difference_never_other_data(
    small: Small, tmp_path: Path, in_time: None, kind: str
) -> None:
    store, names = small.copy(tmp_path), {"train": ["clean"]}
    wanted, path = everything(store, names), store / KINDS[kind]
    original = path.read_bytes()
    errors = 0
    for what, data in damages(original, random.Random(kind)):
        put(path, data)
        found, said = answer(lambda: everything(store, names))
        assert str(store) in said if said else found == wanted, what
        errors += bool(said)
        put(path, original)
    assert errors >= 10  # at least what is lost altogether
    assert everything(store, names) == wanted


@pytest.mark.parametrize("kind", ["shard", "compressed shard"])
def test_a_shard_damaged_anywhere_is_always_an_error(small: Small, tmp_path: Path, kind: str) -> None:
    store = small.copy(tmp_path)
    path = store / KINDS[kind]
    field, original = path.parent.name, path.read_bytes()
    for what, data in damages(original, random.Random(kind)):
        put(path, data)
        _, said = answer(lambda: PriorStore.open(store).read("train", "clean", field, slice(None)))
        assert f"train/clean/{field} is damaged" in said, what
        assert "orsanet-cache verify" in said, what
        put(path, original)


def test_each_question_alone_is_answered_or_refused_over_damaged_metadata(small: Small, tmp_path: Path) -> None:
    store = small.copy(tmp_path)
    questions: dict[str, Callable[[PriorStore], Any]] = {
        "recipe": lambda opened: opened.recipe,
        "rows_per_unit": lambda opened: opened.rows_per_unit,
        "splits": lambda opened: opened.splits,
        "all_views": lambda opened: opened.all_views("train"),
        "sample_ids": lambda opened: opened.sample_ids("train"),
        "accepted": lambda opened: opened.accepted("train", "clean"),
        "provenance": lambda opened: opened.provenance("train", "clean"),
        "nbytes": lambda opened: opened.nbytes(),
    }
    chance = random.Random(4)
    for name in ("zarr.json", "train/zarr.json", "train/sample_id/zarr.json", "train/clean/zarr.json"):
        path = store / name
        original = path.read_bytes()
        keys = [
            key.encode() for key in ("recipe", "schema", "rows_per_unit", "provenance", "seal", "rejected", "shape")
        ]
        other = [original.replace(b'"%s"' % key, b'"other"') for key in keys if b'"%s"' % key in original]
        for data in [*other, *(flipped(original, chance) for _ in range(60))]:
            path.write_bytes(data)
            for ask in questions.values():
                answer(lambda: ask(PriorStore.open(store)))  # noqa: B023
        path.write_bytes(original)


# Files of an unfinished store that are damaged


class Stop(Exception):
    """Raised in the middle of a build."""


@pytest.fixture(scope="module")
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


def test_what_a_kill_leaves_is_completed_to_the_same_store(small: Small, begun: Path, tmp_path: Path) -> None:
    names = {str(path.relative_to(begun)) for path in begun.rglob("*")}
    assert {
        ".commits/train/clean/000000.json", ".commits/parts/1of1.lock", ".commits/parts/1of1/landmarks.shard",
        "train/clean/image/c.1.0.0.0",
    } <= names  # fmt: skip
    shutil.copytree(begun, tmp_path / "store.zarr")
    small.build(tmp_path / "store.zarr")
    assert content(tmp_path / "store.zarr") == content(small.store)


BEGUN_KINDS = {
    "marker": ".commits/train/clean/000000.json",
    "lock": ".commits/parts/1of1.lock",
    "temporary": ".commits/parts/1of1/landmarks.shard",
    "temporary of a beginning": ".commits/begun-elsewhere-1",
    "shard": "train/clean/landmark_features/c.0.0.0.0",
    "shard without a marker": "train/clean/image/c.1.0.0.0",
    "compressed shard": "train/clean/segmentation_map/c.0.0.0",
    "sample ids": "train/sample_id/c.0.0",
    "sample id metadata": "train/sample_id/zarr.json",
    "field metadata": "train/clean/image/zarr.json",
    "split metadata": "train/zarr.json",
    "view metadata": "train/clean/zarr.json",
    "root metadata": "zarr.json",
}


@pytest.mark.parametrize("kind", BEGUN_KINDS)
def test_a_damaged_file_of_an_unfinished_store_is_mended_or_named(
    small: Small, begun: Path, tmp_path: Path, in_time: None, kind: str
) -> None:
    wanted = content(small.store)
    original = (begun / BEGUN_KINDS[kind]).read_bytes()
    for what, data in damages(original, random.Random(kind), flips=6):
        if data == original:
            continue  # an empty lock file, emptied
        out = tmp_path / "store.zarr"
        shutil.copytree(begun, out)
        put(out / BEGUN_KINDS[kind], data)
        _, said = answer(lambda: small.build(out))  # noqa: B023
        assert str(out) in said if said else content(out) == wanted, what
        shutil.rmtree(out)


METADATA_FLIPS = [  # text -> what one or two flipped bits make of it: still JSON, and still what an array or a group may say
    ("zarr.json", b'"rows_per_unit": 4', b'"rows_per_unit": 5'),
    ("zarr.json", b'"rows_per_unit": 4', b'"rows_per_unit": 0'),
    ("zarr.json", b'"rows_per_unit"', b'"rows_per_unat"'),
    ("zarr.json", b'"recipe"', b'"recipa"'),
    ("train/zarr.json", b'"group"', b'"groep"'),
    ("train/clean/zarr.json", b'"group"', b'"groep"'),
    ("train/clean/image/zarr.json", b'"image_y"', b'"image_q"'),
    ("train/clean/image/zarr.json", b'"fill_value": 0', b'"fill_value": 1'),
    ("train/sample_id/zarr.json", b'"byte"', b'"bite"'),
]


@pytest.mark.parametrize(("name", "text", "other"), METADATA_FLIPS)
def test_metadata_of_an_unfinished_store_that_says_something_else_is_mended_or_named(
    small: Small, begun: Path, tmp_path: Path, in_time: None, name: str, text: bytes, other: bytes
) -> None:
    out = tmp_path / "store.zarr"
    shutil.copytree(begun, out)
    before = (out / name).read_bytes()
    assert before.count(text) == 1
    (out / name).write_bytes(before.replace(text, other))
    _, said = answer(lambda: small.build(out))
    assert str(out) in said if said else content(out) == content(small.store)


# What does not fit the store


@dataclass
class Pictures:
    """Pictures that may change: three of training, in units of two, and two of testing, of which the first is no picture."""

    folder: Path
    priors: Remembering

    def __post_init__(self) -> None:
        (self.folder / "images").mkdir(parents=True)
        splits = {"train": 3, "test": 2}
        names = [(split, f"images/{split}_{index}.png") for split, count in splits.items() for index in range(count)]
        for seed, (_, name) in enumerate(names):
            save_picture(self.folder / name, seed)
        (self.folder / "images" / "test_0.png").write_text("no picture")
        samples = tuple(Sample(name, 0, split, frozenset()) for split, name in names)
        self.manifest = Manifest("small", ("a", "b"), self.folder, samples)

    def change(self) -> None:
        """One of training, in its first unit, and the one that was none."""
        save_picture(self.folder / "images" / "train_1.png", 101)
        save_picture(self.folder / "images" / "test_0.png", 102)

    def build(self, out: Path, views: tuple[str, ...] = ("clean",), **options: Any) -> Any:
        return build(self.manifest, out, self.priors, views, device=CPU, **{"rows_per_unit": 2, **options})

    def build_all(self, out: Path) -> Path:
        """Two views, and a third of the test split alone."""
        self.build(out, ("clean", "hflip"))
        self.build(out, ("erase-10",), splits=["test"])
        return out


@pytest.fixture
def pictures(small: Small, tmp_path: Path) -> Pictures:
    return Pictures(tmp_path / "pictures", small.priors)


def test_changed_images_are_refused_by_name_with_the_option_that_accepts_them(
    pictures: Pictures, tmp_path: Path
) -> None:
    out = pictures.build_all(tmp_path / "store.zarr")
    before = content(out)
    pictures.change()
    (pictures.folder / "images" / "train_2.png").unlink()
    with pytest.raises(OrsanetError) as raised:
        pictures.build(out)
    said = str(raised.value)
    for finding in (
        "train: 'images/train_1.png': changed",
        "train: 'images/train_2.png': cannot be read now",
        "test: 'images/test_0.png': changed",
        "3 image(s)",
        "--accept-changed",
    ):
        assert finding in said
    assert "train_0" not in said
    assert content(out) == before


def test_changed_images_of_an_unfinished_store_are_refused_too(small: Small, begun: Path, tmp_path: Path) -> None:
    out = tmp_path / "store.zarr"
    shutil.copytree(begun, out)
    shutil.copytree(small.folder / "images", tmp_path / "images")
    save_picture(tmp_path / "images" / "2.png", 99)  # in the unit that is committed
    save_picture(tmp_path / "images" / "5.png", 98)  # in the one that is not
    moved = Manifest("small", small.manifest.classes, tmp_path, small.manifest.samples)
    with pytest.raises(OrsanetError, match=r"1 image\(s\)[^$]*--accept-changed[^$]*'images/2.png': changed"):
        build(moved, out, small.priors, ["clean"], device=CPU)
    build(moved, out, small.priors, ["clean"], device=CPU, accept_changed=True)
    build(moved, tmp_path / "fresh", small.priors, ["clean"], device=CPU, rows_per_unit=4)
    assert content(out) == content(tmp_path / "fresh")


def test_accepting_changed_images_computes_exactly_their_units_in_every_view_as_a_fresh_build_does(
    pictures: Pictures, tmp_path: Path
) -> None:
    out = pictures.build_all(tmp_path / "store.zarr")

    def files() -> dict[str, int]:  # every rename brings another inode
        return {str(path.relative_to(out)): path.stat().st_ino for path in out.rglob("c.*.0.0*") if path.is_file()}

    before = files()
    pictures.change()
    summary = pictures.build(out, ("clean",), accept_changed=True)
    assert (
        summary.computed == 2 * 2 + 2 * 3
    )  # the first unit of training in two views, the only one of testing in three
    after = files()
    assert after.keys() == before.keys()
    shards = {name for name in before if not name.split("/")[2].endswith("_sha256")}
    same = {name for name in shards if after[name] == before[name]}
    assert same == {name for name in shards if name.startswith("train/") and "/c.1." in name}
    assert content(out) == content(pictures.build_all(tmp_path / "fresh"))
    assert summary.rejected == {"train": {}, "test": {}}
    assert pictures.build(out).computed == 0


@pytest.mark.parametrize("call", ["write", "replace"])
def test_accepting_changed_images_survives_a_fault_at_any_call(pictures: Pictures, tmp_path: Path, call: str) -> None:
    number, lasting, _ = FAULTS[call]
    first = pictures.build_all(tmp_path / "first")
    pictures.change()
    wanted = content(pictures.build_all(tmp_path / "fresh"))
    names = {"train": ["clean", "hflip"], "test": ["clean", "hflip", "erase-10"]}
    read = {"before": everything(first, names), "after": everything(tmp_path / "fresh", names)}
    shutil.copytree(first, tmp_path / "counted")
    with faults(call) as counted:
        pictures.build(tmp_path / "counted", accept_changed=True)
    assert content(tmp_path / "counted") == wanted
    for at in range(1, counted.calls + 1):
        out = tmp_path / "store.zarr"
        shutil.copytree(first, out)
        with faults(call, at, number, lasting), pytest.raises((OrsanetError, OSError)):
            pictures.build(out, accept_changed=True)
        for split, views in names.items():
            for view in views:
                found, said = answer(lambda: everything(out, {split: [view]}))  # noqa: B023
                assert said or any(found.items() <= known.items() for known in read.values()), (at, split, view)
        pictures.build(out, accept_changed=True)
        assert content(out) == wanted, at
        shutil.rmtree(out)


@pytest.mark.parametrize("finished", [True, False])
def test_another_recipe_is_refused_field_by_field_and_changes_nothing(
    small: Small, begun: Path, tmp_path: Path, finished: bool
) -> None:
    out = tmp_path / "store.zarr"
    shutil.copytree(small.store if finished else begun, out)
    before = {name: data for name, data in content(out).items() if not name.startswith(".commits/")}
    markers = content(out / ".commits" / "train") if not finished else {}
    other = Remembering(small.priors)
    other.same = {**small.priors.recipe(), "landmarks": {**small.priors.recipe()["landmarks"], "input": "native"}}  # type: ignore[dict-item]
    with pytest.raises(OrsanetError) as raised:
        build(small.manifest, out, other, ["clean"], device=CPU, feature_dtype="float32")
    first, *differences = str(raised.value).splitlines()
    assert str(out) in first
    assert "pass its options again, or build into another folder" in first
    assert {line.strip() for line in differences} == {
        'landmarks.input: "published" before, "native" now',
        'feature_dtype: "float16" before, "float32" now',
    }
    after = content(out)
    assert {name: data for name, data in after.items() if not name.startswith(".commits/")} == before
    assert finished or content(out / ".commits" / "train") == markers


@pytest.mark.parametrize(
    ("samples", "finding"),
    [
        (lambda samples: samples[:5], "only in the store: images/5.png"),
        (lambda samples: samples[::-1], "the same images in another order"),
        (lambda samples: (*samples, samples[0]), "images"),
    ],
)
def test_another_list_of_images_is_refused_and_changes_nothing(
    small: Small, tmp_path: Path, samples: Callable[[tuple[Sample, ...]], tuple[Sample, ...]], finding: str
) -> None:
    out = small.copy(tmp_path)
    other = Manifest("small", small.manifest.classes, small.manifest.root, samples(small.manifest.samples))
    with pytest.raises(OrsanetError, match=f"another list of images; build into another folder:[^$]*{finding}"):
        build(other, out, small.priors, ["clean"], device=CPU)
    assert content(out) == content(small.store)


@pytest.mark.parametrize("way", ["the same name", "another name of the same file"])
def test_an_image_that_is_listed_twice_is_refused_before_anything_is_written(
    small: Small, tmp_path: Path, way: str
) -> None:
    save_picture(tmp_path / "0.png", 0)
    save_picture(tmp_path / "1.png", 1)
    (tmp_path / "again.png").symlink_to("0.png")
    again = "0.png" if way == "the same name" else "again.png"
    (tmp_path / "faces.csv").write_text(f"image,label,split\n0.png,a,train\n1.png,b,train\n{again},b,train\n")
    command = ["build", tmp_path / "faces.csv", "--root", tmp_path, "--classes", "a,b", "--out", tmp_path / "out",
               "--segmenter", "demo", "--landmarks", "demo"]  # fmt: skip
    result = CliRunner().invoke(main, list(map(str, command)))
    assert result.exit_code == 1
    assert "line 4: image" in result.stderr
    assert "is already on line 2" in result.stderr or "is the same file as '0.png'" in result.stderr
    assert not (tmp_path / "out").exists()


class Poisoned(Remembering):
    """The same networks, which say something that is not a number of one picture."""

    def __init__(self, priors: FrozenPriors, field: str, value: float, picture: bytes) -> None:
        super().__init__(priors)
        self.field, self.value, self.picture = field, value, picture

    def forward(self, images: Tensor) -> Priors:
        said = super().forward(images)
        poisoned = getattr(said, self.field).clone()
        last = (-1,) * (poisoned.ndim - 1)
        for row, image in enumerate(images):
            if image[::2, ::2].numpy().tobytes() == self.picture:
                poisoned[row][last] = self.value
        return said._replace(**{self.field: poisoned})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e6])
@pytest.mark.parametrize("field", ["segmentation_entropy", "segmentation_features", "landmark_features", "landmarks"])
def test_a_picture_of_which_the_networks_say_no_number_is_rejected_alone(
    small: Small, tmp_path: Path, field: str, value: float
) -> None:
    out, healthy = tmp_path / "store.zarr", PriorStore.open(small.store)
    picture = healthy.read("train", "clean", "image", slice(4, 5)).tobytes()
    build(small.manifest, out, Poisoned(small.priors, field, value, picture), ["clean"], device=CPU, rows_per_unit=4)
    store = PriorStore.open(out)
    if value == 1e6 and field in ("segmentation_entropy", "landmarks"):  # kept as float32, which holds it
        assert store.accepted("train", "clean").all()
        return
    assert store.accepted("train", "clean").tolist() == [True, True, True, True, False, True]
    reason = store.rejected("train", "clean")["images/4.png"]
    assert f"{field} is not finite as float" in reason
    others = np.array([0, 1, 2, 3, 5])
    for name in store.fields("train", "clean"):
        rows = store.read("train", "clean", name, others)
        assert np.array_equal(rows, healthy.read("train", "clean", name, others))
        assert rows.dtype.kind != "f" or np.isfinite(rows).all()


# Folders that are not ours


def precious(folder: Path) -> Content:
    """Files at all the names that a build gives to what is its own."""
    names = [
        "thesis.txt", "parts/1of1/thesis.txt", "parts/2of3.lock", "parts/2of3/thesis.txt", "train/clean/thesis.txt",
        "train/hflip/000000.json", "1of1/thesis.txt", "2of3.lock", "2of3/thesis.txt", "clean/000000.json",
        "hflip/thesis.txt",
    ]  # fmt: skip
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"years of work: {name}")
    return content(folder)


@pytest.mark.parametrize("link", [".commits", ".commits/parts", ".commits/parts/1of1", ".commits/train"])
@pytest.mark.parametrize("store", ["sealed", "unfinished", "none"])
def test_nothing_is_deleted_behind_a_link_in_the_store(
    small: Small, begun: Path, tmp_path: Path, link: str, store: str
) -> None:
    out, kept = tmp_path / "store.zarr", tmp_path / "precious"
    before = precious(kept)
    if store == "none":
        out.mkdir()
    else:
        shutil.copytree(small.store if store == "sealed" else begun, out)
    path = out / link
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(path, ignore_errors=True)
    path.symlink_to(kept, target_is_directory=True)
    for part in (Share(1, 1), Share(2, 3)):
        _, said = answer(
            lambda: build(small.manifest, out, small.priors, ["clean", "hflip"], device=CPU, part=part)  # noqa: B023
        )
        assert not said or str(out) in said
        after = content(kept)
        assert {name: after.get(name) for name in before} == before


@pytest.mark.parametrize(
    "inside", ["thesis.txt", "train/image.npy", ".commits/thesis.txt", ".commits/train/clean/1", "zarr.json"]
)
def test_a_folder_that_is_not_ours_is_refused_and_left_as_it_was(small: Small, tmp_path: Path, inside: str) -> None:
    out = tmp_path / "work"
    (out / inside).parent.mkdir(parents=True)
    (out / inside).write_text('{"zarr_format": 3, "node_type": "group", "attributes": {"years": "of work"}}')
    before = {path: path.is_file() and path.read_bytes() for path in out.rglob("*")}
    with pytest.raises(OrsanetError, match=str(out)):
        small.build(out)
    assert {path: path.is_file() and path.read_bytes() for path in out.rglob("*")} == before


def test_what_else_lies_in_a_store_stays_there(small: Small, tmp_path: Path) -> None:
    out = small.copy(tmp_path)
    for name in ("notes.txt", "train/notes.txt", "train/clean/notes.txt", "mine/zarr.txt"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("years of work")
    before = content(out)
    build(small.manifest, out, small.priors, ["clean", "hflip"], device=CPU)
    after = content(out)
    assert {name: after.get(name) for name in before} == before
    assert everything(out, {"train": ["clean"]}) == everything(small.store, {"train": ["clean"]})


# Stores that somebody made to harm, or by mistake


MANY = 10**18
SHAPES = [
    f"[{MANY}, %s]", f"[{MANY}, 0]", f"[{10**30}, %s]", f"[-{MANY}, %s]", "[-1, %s]", "[0, %s]", "[0]", "[]", "[6.5, %s]",
    '["6", %s]', '"6"', "6", "null", "{}", "[null, %s]", "[[6], %s]", "[[[[]]]]", "[1e999, %s]", "[NaN, %s]", "[true, %s]",
    "[" + "[" * 100_000, "[6, 1" + ", 1" * 100 + "]", f"[6, {MANY}]", f"[6, {2**62}, 4]",
]  # fmt: skip


def replaced(document: bytes, where: str, text: str) -> bytes:
    """A zarr.json in which the lists at a key are another text; %s stands for all but their first number."""
    metadata = json.loads(document)
    place = metadata
    *path, key = where.split("/")
    for step in path:
        place = place[int(step) if step.isdecimal() else step]
    rest = ", ".join(str(size) for size in place[key][1:])
    place[key] = "HERE"
    return json.dumps(metadata).replace('"HERE"', text.replace("%s", rest)).encode()


@contextmanager
def little_memory() -> Iterator[None]:
    """Sixteen times what the whole store has: nothing may be allocated because a file says so."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 16 * 700_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("array", "where"),
    [
        ("train/sample_id", "shape"),
        ("train/clean/image_sha256", "shape"),
        ("train/clean/unit_sha256", "shape"),
        ("train/clean/image", "shape"),
        ("train/clean/landmarks", "shape"),
        ("train/clean/image", "chunk_grid/configuration/chunk_shape"),
        ("train/clean/segmentation_map", "chunk_grid/configuration/chunk_shape"),
        ("train/clean/image", "codecs/0/configuration/chunk_shape"),
        ("train/sample_id", "chunk_grid/configuration/chunk_shape"),
    ],
)
def test_an_absurd_shape_is_an_error_that_costs_nothing(
    small: Small, tmp_path: Path, in_time: None, array: str, where: str
) -> None:
    store, names = small.copy(tmp_path), {"train": ["clean"]}
    wanted, path = everything(store, names), store / array / "zarr.json"
    original = path.read_bytes()
    for text in SHAPES:
        path.write_bytes(replaced(original, where, text))
        with little_memory():
            found, said = answer(lambda: everything(store, names))
        assert said or found == wanted, text


def reseal(store: Path) -> None:
    """As somebody would who knows how."""
    container = ZarrFolder(store)
    arrays = container.arrays("train/clean")
    records = {name: container.small(f"train/clean/{name}") for name in ("image_sha256", "unit_sha256")}
    fields = {name: layout for name, layout in arrays.items() if name not in records}
    path = store / "train" / "clean" / "zarr.json"
    document = json.loads(path.read_bytes())
    root = container.attributes("")["orsanet_store"]
    rejected = document["attributes"]["rejected"]
    document["attributes"]["seal"] = view_seal(root, container.small("train/sample_id"), fields, rejected, **records)
    path.write_text(json.dumps(document))


def test_a_seal_does_not_make_an_absurd_number_of_samples_cost_anything(
    small: Small, tmp_path: Path, in_time: None
) -> None:
    store = small.copy(tmp_path)
    (store / "train" / "sample_id" / "c.0.0").write_bytes(b"".join(small_content(np.empty((0,), np.uint8))))
    for path in (store / "train").rglob("zarr.json"):
        document = json.loads(path.read_bytes())
        if "shape" in document and not path.parent.name.endswith("sha256"):
            document["shape"] = [MANY, *document["shape"][1:]] if path.parent.name != "sample_id" else [MANY, 0]
            path.write_text(json.dumps(document))
    with suppress(ValueError):  # it cannot even be sealed
        reseal(store)
    opened = PriorStore.open(store)
    for ask in (
        lambda: opened.sample_ids("train"),
        lambda: opened.accepted("train", "clean"),
        lambda: opened.read("train", "clean", "image", np.array([0])),
    ):
        with little_memory(), pytest.raises(OrsanetError):
            ask()


CODECS = [
    ("codecs/0/name", '"no_such_codec"'), ("codecs/0/name", '"numcodecs.pickle"'), ("codecs/0", "7"), ("codecs", "[]"),
    ("codecs/0/configuration/codecs/0/name", '"no_such_codec"'), ("codecs/0/configuration/codecs/1/name", '"no_such_codec"'),
    ("codecs/0/configuration/codecs/1", '"crc32c"'), ("codecs/0/configuration/codecs", "null"),
    ("codecs/0/configuration/index_codecs/0/name", '"no_such_codec"'), ("codecs/0/configuration/index_codecs", "[]"),
    ("codecs/0/configuration/index_location", '"start"'), ("codecs/0/configuration/index_location", "[]"),
    ("codecs/0/configuration", "{}"), ("chunk_key_encoding/name", '"no_such_encoding"'), ("chunk_grid/name", '"no_such_grid"'),
    ("chunk_key_encoding", '"default"'), ("storage_transformers", '[{"name": "no_such_transformer"}]'),
    ("data_type", '"no_such_type"'), ("data_type", '"object"'), ("data_type", '"(2,3f4"'), ("data_type", '"S1000000000"'),
    ("data_type", "null"), ("data_type", '{"name": "numpy.datetime64"}'), ("data_type", '[["a", "<f4"]]'),
    ("data_type", '"uint8, uint8"'), ("data_type", '"U"'), ("zarr_format", "2"), ("zarr_format", "99"), ("node_type", "[]"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "text"), CODECS)
@pytest.mark.parametrize("field", ["image", "segmentation_map", "landmark_features"])
def test_an_unknown_codec_or_type_is_an_error(
    small: Small, tmp_path: Path, in_time: None, field: str, where: str, text: str
) -> None:
    store, names = small.copy(tmp_path), {"train": ["clean"]}
    path = store / "train" / "clean" / field / "zarr.json"
    metadata = json.loads(path.read_bytes())
    place = metadata
    *steps, key = (int(step) if step.isdecimal() else step for step in where.split("/"))
    for step in steps:
        place = place[step]
    place[key] = json.loads(text)
    path.write_text(json.dumps(metadata))
    wanted = everything(small.store, names)
    with little_memory():
        found, said = answer(lambda: everything(store, names))
    assert "train/clean" in said if said else found == wanted


def test_a_record_that_unpacks_to_gigabytes_is_an_error_that_costs_nothing(
    small: Small, tmp_path: Path, in_time: None
) -> None:
    store = small.copy(tmp_path)
    path = store / KINDS["compressed shard"]
    bomb = bytes(zstd.compress(bytes(256 * 1024**2), 3))
    record = bomb + google_crc32c.value(bomb).to_bytes(4, "little")
    assert len(record) < 2 * 224 * 224
    index = np.frombuffer(path.read_bytes()[-4 * 16 - 4 : -4], "<u8").reshape(4, 2).copy()
    index[0] = 0, len(record)
    encoded = index.tobytes()
    path.write_bytes(record + encoded + google_crc32c.value(encoded).to_bytes(4, "little"))
    with little_memory(), pytest.raises(OrsanetError, match=r"segmentation_map.*damaged"):
        PriorStore.open(store).read("train", "clean", "segmentation_map", np.array([0]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_an_error(
    small: Small, tmp_path: Path, in_time: None, kind: str
) -> None:
    store, names = small.copy(tmp_path), {"train": ["clean"]}
    path = store / KINDS[kind]
    path.unlink()
    path.mkdir()
    with pytest.raises(OrsanetError, match=str(store)):
        everything(store, names)
    path.rmdir()
    path.symlink_to(path.name)
    with pytest.raises(OrsanetError, match=str(store)):
        everything(store, names)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OrsanetError, match=str(store)):
        everything(store, names)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_a_terabyte_is_an_error_that_costs_nothing(
    small: Small, tmp_path: Path, in_time: None, kind: str
) -> None:
    store = small.copy(tmp_path)
    os.truncate(store / KINDS[kind], 2**40)  # all but its beginning is a hole
    with little_memory(), pytest.raises(OrsanetError, match=str(store)):
        everything(store, {"train": ["clean"]})


# A store that must not be written


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
