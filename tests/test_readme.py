"""The README's commands run as they stand, on real faces."""

import csv
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from command_lines import Ended
from forks import ForkServer
from PIL import Image

from orsanet_cache import load_manifest
from orsanet_train.config import PRESETS, load_config
from orsanet_train.model_config import kinds

ROOT = Path(__file__).resolve().parents[1]
DESCRIBING = [ROOT / "README.md", ROOT / "docs" / "fidelity.md", ROOT / "docs" / "models.md"]  # presets and keys
PER_CLASS_AND_SPLIT = 3
STARTED = ("info", "report")  # as a user does; the others are processes that find the libraries loaded


def block(language: str) -> str:
    """The README's code block in that language below "Your own data"."""
    own_data = (ROOT / "README.md").read_text(encoding="utf-8").split("## Your own data")[1]
    (content,) = re.findall(rf"```{language}\n(.*?)```", own_data, flags=re.DOTALL)
    return content


@pytest.fixture
def desk(world, shared: Path, tmp_path: Path) -> Path:
    """A folder with everything the README's commands name: some real faces, the real landmark weights, a small segmenter."""
    with (shared / "faces" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    # occluded first, so that the tag occurs in every split
    rows.sort(key=lambda row: "occluded" not in row["tags"])
    taken: Counter[tuple[str, str]] = Counter()
    with (tmp_path / "my-faces.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        for row in rows:
            taken[row["label"], row["split"]] += 1
            if taken[row["label"], row["split"]] <= PER_CLASS_AND_SPLIT:
                table.writerow(row)
    (tmp_path / "my-faces.toml").write_text(block("toml"), encoding="utf-8")
    (tmp_path / "faces").symlink_to(shared / "faces")
    weights = "mobilefacenet_model_best.pth.tar"
    (tmp_path / weights).symlink_to(shared / "landmark_weights" / weights)
    (tmp_path / "model_299.pt").symlink_to(world.segmenter)
    return tmp_path


def run(programs: ForkServer, line: str, folder: Path) -> Ended:
    program, *arguments = line.split()
    if arguments[0] not in STARTED:
        return programs.run(program, *arguments, folder=folder)
    path = Path(sys.executable).with_name(program)
    done = subprocess.run([path, *arguments], cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def test_the_commands_for_your_own_data(programs: ForkServer, desk: Path) -> None:
    commands = block("bash").strip().splitlines()
    assert [line.split()[:2] for line in commands] == [
        ["orsanet-cache", "build"], ["orsanet-cache", "info"], ["orsanet-cache", "show"],
        ["orsanet-train", "run"], ["orsanet-cache", "build"], ["orsanet-train", "evaluate"], ["orsanet-train", "report"],
    ]  # fmt: skip
    outputs = []
    for line in commands:
        result = run(programs, line, desk)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        outputs.append(result.stdout)
    for said in ("valid *", "test ", "test:occluded", "test@mask", "chosen by its accuracy on split 'valid'"):
        assert said in outputs[-2]
    assert "best of 8 epochs on 'valid'" in outputs[-1]
    with Image.open(desk / "sheet.png") as sheet:
        assert sheet.width <= 2000
        assert sheet.height > 16 * 224  # a row for each picture
    page = (desk / "run" / "report-best" / "report.html").read_text(encoding="utf-8")
    assert "best of 8 epochs on &#39;valid&#39;" in page


def test_every_shipped_descriptor_is_valid(tmp_path: Path) -> None:
    descriptors = sorted((ROOT / "manifests").glob("*.toml"))
    assert [path.stem for path in descriptors] == ["affectnet7", "affectnet8", "ferplus", "occlu-fer", "rafdb"]
    for path in descriptors:
        copy = tmp_path / path.name
        copy.write_bytes(path.read_bytes())
        copy.with_suffix(".csv").write_text("image,label,split\na.jpg,neutral,train\n")
        manifest = load_manifest(copy, check_files=False)
        assert len(manifest.classes) == (8 if path.stem in ("affectnet8", "ferplus", "occlu-fer") else 7)


def test_files_the_documents_point_to_exist() -> None:
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_presets_and_keys_named_in_the_documents_exist() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in DESCRIBING)
    assert all(f"`{preset}`" in text or f"--preset {preset}" in text for preset in PRESETS)
    config = load_config("rafdb").model_dump()
    config["model"] = {name for kind in kinds().values() for name in kind.model_fields}
    for key in re.findall(r"`((?:model|loss|augmentation)\.\w+)", text):
        table, name = key.split(".")
        assert name in config[table], key
