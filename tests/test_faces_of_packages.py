"""Both packages' public names: few, documented where the reference lists them, and loaded when they are used."""

import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args, get_type_hints

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


def public_functions(package: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The public functions, and the public methods and written constructors of the public classes."""
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            for method, function in inspect.getmembers(
                value, lambda one: inspect.isfunction(one) or inspect.ismethod(one)
            ):
                written = method == "__init__" and not is_dataclass(value)
                if function.__module__.startswith(f"{package}.") and (written or not method.startswith("_")):
                    yield f"{name}.{method}", function


def types_in(hint: Any) -> set[Any]:
    if isinstance(hint, list):  # of a Callable's arguments
        return set().union(*map(types_in, hint))
    return {hint}.union(*map(types_in, get_args(hint)))


@pytest.mark.parametrize("package", PACKAGES)
def test_text_is_taken_wherever_a_path_is(package: str) -> None:
    # mypy holds the bodies to these types.
    functions = list(public_functions(package))
    takes_path = []
    for name, function in functions:
        for parameter, hint in get_type_hints(function).items():
            if parameter != "return" and types_in(hint) & {Path, os.PathLike, os.PathLike[str]}:
                takes_path.append(f"{name}({parameter})")
                assert str in types_in(hint), takes_path[-1]
    assert len(takes_path) >= 10


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    code = f"import sys, {package}; {package}.__all__, dir({package}); print(*(set(sys.modules) & {set(HEAVY)}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
