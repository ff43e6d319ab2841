"""Both packages' public names: few, documented where the reference lists them, and loaded when they are used."""

import importlib
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("orsanet_cache", "orsanet_train")
HEAVY = ("torch", "numpy", "zarr", "pandas", "cv2", "PIL", "pydantic")


def reference_names(package: str) -> set[str]:
    """The names without a module that the reference's pages describe as this package's."""
    found = set()
    for page in sorted((ROOT / "docs").glob("api-*.md")):
        current = ""
        for line in page.read_text(encoding="utf-8").splitlines():
            if directive := re.match(r"\.\. (?:py:)?(\w+):: ([\w.]+)", line):
                kind, name = directive.groups()
                if kind == "currentmodule":
                    current = name
                elif kind in ("autofunction", "autoclass", "autoexception"):
                    home, _, last = name.rpartition(".")
                    found |= {last} if (home or current) == package else set()
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_the_reference_lists_the_public_names(package: str) -> None:
    names = importlib.import_module(package).__all__
    assert len(names) < 30
    assert reference_names(package) == set(names)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_resolves_and_is_documented(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name).__doc__, name
        assert getattr(module, name).__module__.startswith(f"{package}."), name
    assert set(module.__all__) <= set(dir(module))
    assert module.__version__ == version("orsanet")
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'biuld'"):
        module.biuld  # noqa: B018
    assert (Path(str(module.__file__)).parent / "py.typed").is_file()


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_read_the_same_names(package: str) -> None:
    module = importlib.import_module(package)
    text = Path(str(module.__file__)).read_text(encoding="utf-8")
    written = re.findall(r"^    from ([\w.]+) import (\w+) as (\w+)$", text, flags=re.MULTILINE)
    assert {(home, name) for home, name, _ in written} == {(home, name) for name, home in module._HOME.items()}
    assert all(name == alias for _, name, alias in written)


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    code = f"import sys, {package}; {package}.__all__, dir({package}); print(*(set(sys.modules) & {set(HEAVY)}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
