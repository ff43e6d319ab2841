"""`make demo`: the README's commands, from nothing to a report; and again, using what is there."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_lines import in_process
from forks import ForkServer
from PIL import Image

import orsanet_cache.cli
import orsanet_train.cli
from orsanet_cache import PriorStore

ROOT = Path(__file__).resolve().parents[1]
IMAGES = 32  # enough for every class in the training split, and for test pictures with and without occlusion
MAINS = {"orsanet-cache": orsanet_cache.cli.main, "orsanet-train": orsanet_train.cli.main}
STARTED = ("demo-faces", "ablate", "compare")  # as processes; tests/test_readme.py starts those of the other commands


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def planned(*variables: str) -> list[str]:
    """What `make demo` would do, line by line."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    result = subprocess.run(
        ["make", "-n", "demo", *variables], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return result.stdout.splitlines()


def commands(lines: list[str]) -> list[str]:
    return [line.removeprefix(".venv/bin/").strip() for line in lines if line.startswith(".venv/bin/orsanet-")]


def run(programs: ForkServer, lines: list[str]) -> str:
    """Run the commands of a plan. Returns what the last one printed."""
    output = ""
    for line in commands(lines):
        program, *arguments = line.split()
        if arguments[0] in STARTED:
            result = programs.run(program, *arguments)
        else:
            result = in_process(MAINS[program], *arguments)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        output = result.stdout
    return output


def contents(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every file -> size and time of its last change."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_the_readme_shows_exactly_these_steps(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## Try it")[1].split("\n## ")[0]
    block, _ = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    # A folder that is not there: after a `make demo` in this clone the plan would say --resume.
    steps = commands(planned(f"DEMO={tmp_path}/demo"))
    assert block.splitlines() == [step.replace(f"{tmp_path}/demo", "demo") for step in steps]


def test_from_nothing_to_a_report_and_again_with_what_is_there(programs: ForkServer, tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    variables = (f"DEMO={demo}", f"DEMO_IMAGES={IMAGES}")
    lines = planned(*variables)
    told = run(programs, lines)
    said = json.loads((demo / "run" / "evaluation-best" / "evaluation.json").read_text(encoding="utf-8"))
    groups = {group["name"]: group["images"] for group in said["groups"]}
    assert {"valid", "test", "test:unoccluded", "test:occluded"} <= groups.keys()
    occluded = ("erase-30", "sunglasses", "mask")
    assert {f"test@{view}": groups["test"] for view in occluded}.items() <= groups.items()
    assert "best of 8 epochs on 'valid'" in told

    named = [
        pattern
        for line in lines
        for pattern in re.findall(rf"{re.escape(str(demo))}/\S+\.(?:png|json|html)(?=  )", line)
    ]
    assert len(named) == 5
    for pattern in named:  # the files that it says to look at
        files = list(demo.glob(str(Path(pattern).relative_to(demo))))
        assert files, pattern
        for file in files:
            if file.suffix == ".png":
                with Image.open(file) as picture:
                    picture.load()
            elif file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
            else:
                assert "data:image/png;base64," in file.read_text(encoding="utf-8")

    store = PriorStore.open(demo / "store.zarr")
    assert store.views("train") == ("clean", "hflip")
    assert store.views("test") == tuple(sorted(("clean", *occluded)))
    assert len(pd.read_csv(demo / "run" / "metrics.csv")) == 8

    _, comparing = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)[
        :2
    ]
    compared = run(programs, [f".venv/bin/{line}" for line in comparing.replace(" demo/", f" {demo}/").splitlines()])
    assert "Against full, over the seeds (paired t test):" in compared
    assert (
        compared.count("test@mask no-segmentation") == 2 + 3
    )  # its accuracy, its difference over the seeds and for each of them

    before = contents(demo)
    again = planned(*variables)
    assert [line for line in commands(again) if line not in commands(lines)] == [f"{commands(lines)[4]} --resume"]
    assert run(programs, again) == told
    expensive = {path for path in before if path.is_relative_to(demo / "faces") or path.is_relative_to(store.path)}
    trained = {demo / "run" / name for name in ("metrics.csv", "best.safetensors", "last.safetensors")}
    states = {path for path in before if path.is_relative_to(demo / "run" / "checkpoints")}
    assert {path.name for path in states} >= {"state.json", "tensors.safetensors"}
    trained |= states
    assert len(expensive) > IMAGES
    after = contents(demo)
    assert {path: after[path] for path in expensive | trained} == {path: before[path] for path in expensive | trained}
