"""Folders that are not ours, and what else lies in a store."""

import shutil
from pathlib import Path

import pytest
from small_store import CPU, Content, Small, answer, content, everything

from orsanet_cache import OrsanetError
from orsanet_cache.builder.build import build
from orsanet_cache.store.units import Share


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
