"""docs/python.md: its blocks run from top to bottom as they stand, with the demo's networks on the small world's pictures."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from PIL import Image
from tqdm import auto, std

from orsanet_cache.synthetic.picture import draw

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"
README = PAGE.parents[1] / "README.md"


def blocks(page: Path = PAGE) -> list[str]:
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    return [token.content for token in tokens if token.type == "fence" and token.info.strip() == "python"]


@pytest.fixture(scope="module")
def ran(world, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which all blocks were run, and what they printed."""
    folder = tmp_path_factory.mktemp("python-page")
    faces = folder / "demo" / "faces"
    shutil.copytree(world.folder / "images", faces / "images")
    shutil.copy(world.folder / "samples.csv", faces / "samples.csv")
    shutil.copy(world.manifest, faces / "faces.toml")
    Image.fromarray(draw(5, 0, ()).image).save(faces / "images" / "00000.jpg")
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        exec("\n".join(blocks()), {"__name__": "__main__"})
    return folder, printed.getvalue()


def test_every_block_runs_and_prints_what_the_page_is_about(ran: tuple[Path, str]) -> None:
    _, printed = ran
    for said in (
        "Against with, image by image (exact McNemar test)",
        "demo/faces/images/00000.jpg: face 1: ",
        "part_plausibility",
        "(14, 14)",
        "Estimate(value=",
        "Paired(name='test', images=6",
    ):
        assert said in printed


def test_the_readmes_lines_say_what_a_picture_shows(ran: tuple[Path, str]) -> None:
    folder, _ = ran
    (folder / "demo" / "run").symlink_to("with")  # trained on the demo's networks, as make demo's run
    (block,) = blocks(README)
    assert sum(bool(line.strip()) for line in block.splitlines()) <= 10
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", block], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    label = result.stdout.split()[0]
    assert label in result.stdout.splitlines()[1]
    assert "%" in result.stdout.splitlines()[0]
    assert (folder / "overlay.jpg").is_file()


def test_the_picture_is_drawn(ran: tuple[Path, str]) -> None:
    with Image.open(ran[0] / "demo" / "overlay.jpg") as picture:
        assert picture.width >= 900


def test_progress_bars_are_a_notebooks_own_there() -> None:
    """tqdm.auto's are tqdm's own in a terminal."""
    for path in PAGE.parents[1].glob("orsanet_*/**/*.py"):
        assert not re.search(r"^(from tqdm import|import tqdm)", path.read_text(encoding="utf-8"), re.MULTILINE), path
    assert issubclass(auto.tqdm, std.tqdm)


def test_ones_own_model_takes_about_twenty_lines() -> None:
    (block,) = [block for block in blocks() if "class Small" in block]
    assert sum(bool(line.strip()) for line in block.splitlines()) <= 25
