"""The wheel has all that a user needs: built from the sdist, installed into an empty environment, it goes from pictures to a report.

The environment gets nothing but the wheel. The dependencies are those of this environment, read from where they lie: its own package is
not seen from there, because an installed clone is a path of its own.
"""

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
IMAGES = 32  # every class in the training split, as in tests/test_demo.py
# All commands in one process, which loads torch once; nothing of the clone is on its path.
WAY = """
import sys
from pathlib import Path
import orsanet_cache.cli, orsanet_train.cli

mains = {"orsanet-cache": orsanet_cache.cli.main, "orsanet-train": orsanet_train.cli.main}
for package in (orsanet_cache, orsanet_train):
    assert Path(package.__file__).is_relative_to(sys.prefix), package.__file__
for line in Path("commands").read_text().splitlines():
    program, *arguments = line.split()
    try:
        mains[program](arguments, prog_name=program)
    except SystemExit as ended:
        assert not ended.code, line
"""
COMMANDS = f"""\
orsanet-cache manifest descriptor rafdb --out rafdb.toml
orsanet-cache demo-faces --out faces --images {IMAGES}
orsanet-cache build faces/faces.toml --out store.zarr --segmenter demo --landmarks demo
orsanet-train run --store store.zarr --manifest faces/faces.toml --preset demo --set epochs=1 --ir50 demo --out run
orsanet-train evaluate run --store store.zarr --manifest faces/faces.toml
orsanet-train report run
orsanet-train predict run faces/images/00000.jpg --out predicted
"""


def packed(kind: str, source: Path, out: Path) -> Path:
    """A distribution, as `pip` and `python -m build` have it made."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", out], cwd=source, check=True)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    with tarfile.open(sdist) as content:
        content.extractall(source, filter="data")
    (folder,) = source.iterdir()
    return packed("wheel", folder, tmp_path_factory.mktemp("wheel"))


def tracked(folder: str) -> set[str]:
    """The files of a folder that belong to the project."""
    listed = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode or not listed.stdout:
        pytest.skip("needs a clone, in which git lists the files")
    return set(listed.stdout.splitlines())


def test_the_wheel_has_every_file_of_the_packages_and_the_descriptors(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        names = {name for name in content.namelist() if ".dist-info/" not in name}
    descriptors = {f"orsanet_cache/{name}" for name in tracked("manifests")}
    assert names == tracked("orsanet_cache") | tracked("orsanet_train") | descriptors
    assert {"orsanet_cache/py.typed", "orsanet_train/py.typed", "orsanet_cache/manifests/rafdb.toml"} <= names


def test_the_sdist_has_what_the_wheel_is_made_of_and_nothing_that_lies_beside_it(sdist: Path) -> None:
    with tarfile.open(sdist) as content:
        top = {name.split("/")[1] for name in content.getnames()}
    assert top == {
        "orsanet_cache", "orsanet_train", "manifests", "CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "pyproject.toml",
        "PKG-INFO", ".gitignore",
    }  # fmt: skip


def test_the_metadata_agrees_with_the_citation(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        (name,) = [name for name in content.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_bytes(content.read(name))
        licences = {name.rpartition("/licenses/")[2] for name in content.namelist() if "/licenses/" in name}
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    for key, field in (("version", "Version"), ("license", "License-Expression")):
        assert f"\n{key}: {metadata[field]}\n" in citation
    assert f"authors:\n  - name: {metadata['Author']}\n" in citation
    for line in metadata.get_all("Project-URL", []):
        assert line.partition(", ")[2] in citation
    assert metadata["Keywords"]
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert licences == {"LICENSE", "orsanet_cache/data/face_detector/LICENSE"}
    assert (
        metadata["Requires-Python"]
        == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    )


def test_an_installed_wheel_goes_from_pictures_to_a_report_in_another_folder(wheel: Path, tmp_path: Path) -> None:
    empty = tmp_path / "environment"
    venv.create(empty, with_pip=False)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", empty, "install", "--quiet", "--no-deps", "--no-index", wheel],
        env={**environment, "PYTHONWARNINGS": ""}, check=True,  # pip's own are not ours
    )  # fmt: skip
    (packages,) = empty.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    desk = tmp_path / "desk"
    desk.mkdir()
    (desk / "commands").write_text(COMMANDS)
    ended = subprocess.run(
        [empty / "bin" / "python", "-c", WAY], cwd=desk, env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (desk / "rafdb.toml").read_bytes() == (ROOT / "manifests" / "rafdb.toml").read_bytes()
    assert "<html" in (desk / "run" / "report-best" / "report.html").read_text(encoding="utf-8")
    assert (desk / "predicted" / "predictions.csv").is_file()
    shown = subprocess.run(
        [empty / "bin" / "orsanet-train", "--version"], env=environment, capture_output=True, text=True, check=True
    )
    assert wheel.name.split("-")[1] in shown.stdout
