"""requirements.lock: it answers pyproject.toml on every supported Python, and this environment has exactly what it names."""

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BEFORE_THE_LOCK = {"pip"}  # comes with the environment; pip freeze leaves it out
PYTHONS = ("3.11.0", "3.11.14", "3.12.0", "3.13.0")
MACHINES = (("linux", "Linux", "x86_64"), ("linux", "Linux", "aarch64"), ("darwin", "Darwin", "arm64"))
ENVIRONMENTS = [
    {
        **{name: str(value) for name, value in default_environment().items()},
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": platform,
        "platform_system": system,
        "platform_machine": machine,
    }
    for python in PYTHONS
    for platform, system, machine in MACHINES
]  # fmt: skip
HERE = {name: str(value) for name, value in default_environment().items()}
OF_CUDA = re.compile("triton$|nvidia-|cuda-")  # what only torch's CUDA build needs
MEND = "requirements.lock and pyproject.toml disagree: run `make lock UPGRADE=` and review what changes"


class Pin(NamedTuple):
    name: str
    version: str
    marker: Marker | None
    hashes: list[str]

    def applies(self, environment: dict[str, str]) -> bool:
        return self.marker is None or self.marker.evaluate(environment)


def pins(text: str) -> list[Pin]:
    found = []
    for entry in re.split(r"\n(?=\w)", re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE).strip()):
        first, *hashes = entry.split(" \\\n    --hash=")
        requirement = Requirement(first)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", first
        found.append(Pin(canonicalize_name(requirement.name), specifier.version, requirement.marker, hashes))
    return found


PINS = pins(LOCK)


def required() -> Iterator[Requirement]:
    """All that pyproject.toml asks for: at run time, for each extra, to build the package, and in the group of the lock."""
    project = PROJECT["project"]
    extras = [text for texts in project["optional-dependencies"].values() for text in texts]
    for text in [
        *project["dependencies"], *extras, *PROJECT["build-system"]["requires"], *PROJECT["dependency-groups"]["lock"],
    ]:  # fmt: skip
        if (requirement := Requirement(text)).name != project["name"]:  # one extra asks for others
            yield requirement


def locked(environment: dict[str, str]) -> dict[str, str]:
    """Name -> version of the pins that apply; no name has two."""
    applying = [pin for pin in PINS if pin.applies(environment)]
    versions = {pin.name: pin.version for pin in applying}
    assert len(versions) == len(applying), environment
    return versions


def installed() -> dict[str, str]:
    found = {canonicalize_name(each.metadata["Name"]): each.version for each in importlib.metadata.distributions()}
    return {
        name: version.removesuffix("+cpu")
        for name, version in found.items()
        if name not in {"orsanet", *BEFORE_THE_LOCK}
    }


def expected() -> dict[str, str]:
    """What this environment should have: PyTorch without CUDA needs less (docs/install.md)."""
    versions = locked(HERE)
    if importlib.metadata.version("torch").endswith("+cpu"):
        return {name: version for name, version in versions.items() if not OF_CUDA.match(name)}
    return versions


@pytest.mark.parametrize(
    "environment",
    ENVIRONMENTS,
    ids=lambda each: f"{each['python_full_version']}-{each['sys_platform']}-{each['platform_machine']}",
)
def test_the_lock_answers_every_requirement_on_every_python_and_machine(environment: dict[str, str]) -> None:
    versions = locked(environment)
    for requirement in required():
        if requirement.marker is None or requirement.marker.evaluate(environment):
            version = versions.get(canonicalize_name(requirement.name))
            assert version is not None, f"{MEND} ({requirement} is not locked)"
            assert requirement.specifier.contains(version), f"{MEND} ({requirement}, but {version} is locked)"


def test_every_pin_has_its_hashes_and_no_index_is_named() -> None:
    assert len(PINS) >= 100
    for pin in PINS:
        assert pin.hashes, pin.name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in pin.hashes), pin.name
    assert not re.search(r"://|--(extra-)?index-url|--find-links|@ file", LOCK)


def test_torch_and_torchvision_are_chosen_together() -> None:
    """One line of pyproject.toml each, in the group that `make lock` reads; ranges alone would take the newest of either."""
    chosen = {Requirement(text).name: text for text in PROJECT["dependency-groups"]["lock"]}
    versions = locked(HERE)
    assert chosen["torch"] == f"torch=={versions['torch']}"
    assert chosen["torchvision"] == f"torchvision=={versions['torchvision']}"


def test_the_checks_before_a_commit_run_in_locked_versions() -> None:
    named = re.findall(r'"([a-z-]+)==([0-9.]+)"', (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    versions = locked(HERE)
    assert len(named) >= 4
    assert [f"{name}=={version}" for name, version in named if versions[name] != version] == []


@pytest.mark.locked
def test_this_environment_is_the_locked_one() -> None:
    """As `pip freeze` lists it, but for the package itself."""
    assert installed() == expected(), "`make clean` and the same command again install the locked versions"


@pytest.mark.locked
def test_nothing_is_locked_that_nothing_asks_for() -> None:
    found: set[tuple[str, str]] = set()  # packages, each with the extras that are asked for
    waiting = [(requirement, "") for requirement in required()]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({**HERE, "extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in {"", *requirement.extras}:
            if (name, wanted) not in found:
                found.add((name, wanted))
                waiting += [(Requirement(text), wanted) for text in importlib.metadata.requires(name) or []]
    assert {name for name, _ in found} == set(expected()), MEND


@pytest.mark.locked
def test_what_is_left_out_without_cuda_is_what_only_torch_needs() -> None:
    """And nothing else: these packages are asked for by torch and by each other alone."""
    left_out = {name for name in locked(HERE) if OF_CUDA.match(name)}
    asking = {
        canonicalize_name(distribution.metadata["Name"])
        for distribution in importlib.metadata.distributions()
        for text in distribution.requires or ()
        if canonicalize_name(Requirement(text).name) in left_out
        and ((marker := Requirement(text).marker) is None or marker.evaluate({**HERE, "extra": ""}))
    }
    assert asking <= {*left_out, "torch"}
