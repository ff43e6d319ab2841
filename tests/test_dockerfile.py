"""The Dockerfile copies what is there and let through, leaves out what the Makefile leaves out, and runs without rights.

No test builds it: that needs Docker (.github/workflows has it).
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
LINES = [line for line in TEXT.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
OF_CUDA = re.compile(r"skip = (/[^/]+/)")  # in awk: torch, and what only its CUDA build needs


def values(instruction: str) -> list[str]:
    return [line.removeprefix(instruction).strip() for line in LINES if line.startswith(f"{instruction} ")]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    copied = {name for line in values("COPY") if not line.startswith("--from") for name in line.split()[:-1]}
    assert copied == let_through
    assert all((ROOT / name).exists() for name in copied)
    assert "*" in ignored
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {project["readme"], "LICENSE"} <= copied  # the build of the package asks for them


def test_without_cuda_the_same_packages_are_left_out_as_by_make() -> None:
    (ours,), (makes,) = OF_CUDA.findall(TEXT), OF_CUDA.findall((ROOT / "Makefile").read_text(encoding="utf-8"))
    assert ours == makes
    assert "ARG TORCH=cpu" in LINES


def test_the_image_runs_without_rights_in_a_folder_of_its_own() -> None:
    last = LINES[max(number for number, line in enumerate(LINES) if line.startswith("FROM ")) :]
    assert [line for line in last if line.startswith("USER ")] == ["USER 1000:1000"]
    assert "WORKDIR /data" in last
    assert 'CMD ["orsanet-cache", "--help"]' in last
