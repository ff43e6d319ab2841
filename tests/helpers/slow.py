"""Which tests are slow: those that start a process, train, or open a browser, themselves or through their fixtures.

Read off the code, so that nobody has to keep a list. Tests that take their time otherwise have the marker in their file.
"""

import dis
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

# Files that take a quarter of a minute or more. They come first, so that no process is left with one of them at the end.
LONGEST = (
    "test_crash.py", "test_golden.py", "test_resume.py", "test_demo.py", "test_faces.py", "test_parts.py", "test_readme.py",
    "test_export.py", "test_failing_disk.py", "test_torchrun.py", "test_training.py", "test_step.py", "test_ablate.py",
    "test_pipeline.py", "test_docs.py", "test_misfits.py", "test_train.py", "test_cli.py", "test_data_sets.py", "test_page.py",
    "test_report.py", "test_imported.py", "test_fetch.py", "test_stop.py", "test_predict.py", "test_reuse.py",
)  # fmt: skip
PROCESSES = {"Popen", "fork", "multiprocessing", "sync_playwright"}
TRAINING = {"train", "train_seeds", "train_networks", "ablate"}
TESTS = str(Path(__file__).parents[1])

_known: dict[FunctionType, bool] = {}


def is_slow(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function):
        return False
    definitions = item._fixtureinfo.name2fixturedefs
    fixtures = [definition.func for used in item.fixturenames for definition in definitions.get(used, ())[-1:]]
    return any(_starts(function) for function in (item.function, *fixtures))


def order(item: pytest.Item) -> int:
    return LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST)


def _starts(function: Any) -> bool:
    """A process, a training or a browser: this function, or what it names of the tests' own functions and classes."""
    function = inspect.unwrap(getattr(function, "__func__", function))  # of a method; of what a decorator made
    if not isinstance(function, FunctionType) or not function.__code__.co_filename.startswith(TESTS):
        return False
    if function not in _known:
        _known[function] = False  # while it is looked at: it may name itself
        codes = [*_codes(function.__code__)]
        named = {name for code in codes for name in code.co_names}
        found = [function.__globals__.get(name) for code in codes for name in _globals(code)]
        _known[function] = (
            bool(named & PROCESSES)
            or {"subprocess", "run"} <= named
            or any(isinstance(each, FunctionType) and each.__name__ in TRAINING for each in found)
            or any(_starts(inner) for each in found for inner in _functions(each))
        )
    return _known[function]


def _codes(code: CodeType) -> Iterator[CodeType]:
    """And those of the functions inside."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _globals(code: CodeType) -> set[str]:
    """Without the names of attributes."""
    return {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}


def _functions(named: Any) -> Iterator[Any]:
    if isinstance(named, type):
        yield from vars(named).values()
    else:
        yield named
