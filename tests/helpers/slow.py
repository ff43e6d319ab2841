"""Which tests are slow: those of the files that take long, and those that start a process, train, or open a browser.

The latter, whether they do it themselves or through their fixtures, are read off the code, so that nobody has to keep a list.
"""

import dis
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

# Files that take six seconds or more (`--durations=0`). They are slow as a whole, and they come first in this order, so that no
# process is left with one of them at the end.
LONGEST = (
    "cache/test_crash.py", "test_golden.py", "train/test_resume.py", "cache/builder/test_growth.py",
    "cache/test_parts.py", "train/test_torchrun.py", "train/report/test_page.py", "cache/builder/test_additions.py",
    "train/export/test_faces.py", "test_demo.py", "cache/faults/test_misfits.py", "train/export/test_export.py",
    "train/general/test_experiment.py", "cache/demo/test_training.py", "test_docs.py", "train/run/test_train.py",
    "cache/faults/test_failing_disk.py", "train/experiments/test_ablate.py", "test_data_sets.py", "test_readme.py",
    "test_pipeline.py", "train/engine/test_distributed.py", "train/test_cli.py", "cache/writing/test_convert.py",
    "train/run/test_imported.py", "train/reference/test_network.py", "train/engine/test_step.py",
    "train/report/test_report.py", "cache/weights/test_fetch.py", "train/predict/test_predict.py",
    "train/reference/test_training.py", "cache/builder/test_reuse.py", "cache/builder/test_placing.py",
    "cache/store/test_verify.py", "train/run/test_url.py", "train/run/test_out_url.py", "cache/store/test_url.py",
    "cache/places/test_bucket.py", "train/run/test_stop.py", "train/export/test_onnx_graph.py",
    "cache/faults/test_unfinished.py", "train/evaluation/test_evaluate.py", "test_python_page.py",
    "cache/test_cli.py", "cache/synthetic/test_picture.py", "train/evaluation/test_statistics.py",
    "train/pretrain/test_pretrain.py", "cache/store/hdf5/test_deceiving.py", "cache/builder/test_build.py",
    "cache/builder/test_own_networks.py", "test_golden_posters.py", "cache/builder/test_occluders.py",
    "train/model/test_complexity.py", "train/general/test_image_networks.py",
    "train/general/test_spectralformer.py", "train/general/test_layouts.py", "train/run/test_watch.py",
    "cache/builder/test_pipeline.py", "train/drawing/test_plots.py", "cache/commands/test_bench.py",
    "cache/synthetic/test_dataset.py", "cache/demo/test_quality.py", "cache/data/test_view_pixels.py",
    "train/feed/test_feed.py", "train/run/state/test_kills.py", "train/export/test_model_card.py",
    "cache/doctor/test_examine.py", "cache/store/hdf5/test_damage.py", "cache/weights/test_networks.py",
    "cache/frozen/test_priors.py", "cache/commands/test_demo.py", "train/feed/test_dataset.py",
    "train/evaluation/test_metrics.py", "cache/inspection/test_quality.py", "cache/faults/test_damaged_files.py",
    "cache/data/test_faces.py", "train/model/test_frozen.py", "test_forms.py", "train/test_on_a_gpu.py",
    "train/bench/test_gpu_check.py", "test_first_hour.py", "test_wheel.py", "train/export/test_push.py",
    "test_makefile.py", "train/experiments/test_caching.py", "train/feed/test_augmented.py",
    "cache/builder/test_augmented.py", "cache/writing/test_written_url.py", "cache/builder/test_url.py",
    "cache/synthetic/test_expression.py", "cache/doctor/test_similarity.py",
)  # fmt: skip
PROCESSES = {"Popen", "fork", "multiprocessing", "sync_playwright"}
TRAINING = {"train", "train_seeds", "train_networks", "ablate"}
TESTS = Path(__file__).parents[1]

_known: dict[FunctionType, bool] = {}


def is_slow(item: pytest.Item) -> bool:
    if order(item) < len(LONGEST):
        return True
    if not isinstance(item, pytest.Function):
        return False
    definitions = item._fixtureinfo.name2fixturedefs
    fixtures = [definition.func for used in item.fixturenames for definition in definitions.get(used, ())[-1:]]
    return any(_starts(function) for function in (item.function, *fixtures))


def order(item: pytest.Item) -> int:
    name = item.path.relative_to(TESTS).as_posix()
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def _starts(function: Any) -> bool:
    """A process, a training or a browser: this function, or what it names of the tests' own functions and classes."""
    function = inspect.unwrap(getattr(function, "__func__", function))  # of a method; of what a decorator made
    if not isinstance(function, FunctionType) or not function.__code__.co_filename.startswith(str(TESTS)):
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
