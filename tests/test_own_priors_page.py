"""docs/own-priors.md: its blocks run from top to bottom as they stand, on a store of the small world's pictures."""

import contextlib
import io
import shutil
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from orsanet_cache import FrozenPriors, PriorStore, build, verify

PAGE = Path(__file__).resolve().parents[1] / "docs" / "own-priors.md"


@pytest.fixture(scope="module")
def blocks() -> list[str]:
    tokens = MarkdownIt("commonmark").parse(PAGE.read_text(encoding="utf-8"))
    return [token.content for token in tokens if token.type == "fence" and token.info.strip() == "python"]


def test_a_network_and_its_store_take_forty_lines(blocks: list[str]) -> None:
    assert sum(bool(line.strip()) for line in blocks[0].splitlines()) <= 40


def test_every_block_runs_and_trains_on_the_fields(world, blocks: list[str], tmp_path: Path) -> None:
    faces = tmp_path / "demo" / "faces"
    faces.mkdir(parents=True)
    (faces / "images").symlink_to(world.folder / "images")
    header, *rows = (world.folder / "samples.csv").read_text(encoding="utf-8").splitlines()
    (faces / "samples.csv").write_text("\n".join([header, *[row for row in rows if ",train" in row][:9]]) + "\n")
    shutil.copy(world.manifest, faces / "faces.toml")
    printed = io.StringIO()
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(printed):
        build(
            faces / "faces.toml", "demo/store.zarr", FrozenPriors.load(world.segmenter, world.landmarks), device="cpu"
        )
        exec("\n".join(blocks), {"__name__": "__main__"})
    assert "18 views have mobilenet_features" in printed.getvalue()
    assert "torch.float32 (576, 7, 7) (68, 2)" in printed.getvalue()
    store = PriorStore.open(tmp_path / "demo" / "store.zarr")
    assert store.read("train", "hflip", "mobilenet_features", [3]).any()
    assert verify(store.path)[1] == []
