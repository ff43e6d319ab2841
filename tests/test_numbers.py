"""No number that is none, and none beyond all reason, is taken by an option or a key of the configuration."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import pytest
from click.testing import CliRunner
from command_lines import in_process
from pydantic import BaseModel

from orsanet_cache import OrsanetError
from orsanet_cache.cli import main as cache
from orsanet_cache.console import Number
from orsanet_train.cli import main as train
from orsanet_train.config import RunConfig, load_config
from orsanet_train.model_config import ORSANetConfig
from orsanet_train.run.seeds import parse_seeds
from orsanet_train.run.train import train as train_run

NO_NUMBERS = ("nan", "-nan", "inf", "-inf", "infinity", "1e999", "-1", "-1e-300", "1e30", "9" * 5000, "", "one", "0x10")


def options(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Parameter]]:
    """Every parameter of every command, with the command's names."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from options(inner, (*path, name))
    for parameter in command.params:
        yield path, parameter


NUMERIC = [
    pytest.param(main, path, parameter, id=" ".join((*path, parameter.opts[0])))
    for main in (cache, train)
    for path, parameter in options(main)
    if isinstance(parameter.type, click.types.FloatParamType | click.types.IntParamType)
]


def test_the_options_are_found() -> None:
    assert len(NUMERIC) >= 20


@pytest.mark.parametrize(("main", "path", "parameter"), NUMERIC)
def test_a_number_has_a_range_and_is_one(
    main: click.Command, path: tuple[str, ...], parameter: click.Parameter
) -> None:
    kind = parameter.type
    assert isinstance(kind, Number | click.IntRange)
    assert None not in (kind.min, kind.max)
    for text in NO_NUMBERS:
        with pytest.raises(click.BadParameter):
            kind.convert(text, parameter, None)


@pytest.mark.parametrize("minutes", ["nan", "inf", "-1", "1e9"])
def test_a_wrong_number_is_a_wrong_option_and_makes_no_folder(tmp_path: Path, minutes: str) -> None:
    out = tmp_path / "run"
    ended = in_process(
        train,
        "run",
        "--store",
        "s",
        "--manifest",
        "m.toml",
        "--preset",
        "small",
        "--save-minutes",
        minutes,
        "--out",
        out,
    )
    assert ended.returncode == 2
    assert "--save-minutes" in ended.stderr
    assert not out.exists()


@pytest.mark.parametrize("part", ["9" * 5000 + "/" + "9" * 5000, "nan/2", "1/inf", "0/1", "1/1000000000"])
def test_a_part_is_two_small_numbers(part: str) -> None:
    ended = CliRunner().invoke(cache, ["build", "m.toml", "--out", "s", "--part", part])
    assert ended.exit_code == 2


def test_seeds_of_thousands_of_digits_are_refused() -> None:
    for text in ("9" * 5000, str(2**63), "nan", "1e3", "-1"):
        with pytest.raises(OrsanetError, match="--seeds"):
            parse_seeds(text)


def numeric_keys(model: type[BaseModel], path: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from numeric_keys(kind, f"{path}{name}.")
        elif kind in (int, float) or any(part in (int, float) for part in get_args(kind)):
            yield f"{path}{name}"


KEYS = [*numeric_keys(RunConfig), *numeric_keys(ORSANetConfig, "model.")]


def test_the_keys_are_found() -> None:
    assert {"learning_rate", "rho", "epochs", "loss.smoothing", "augmentation.hflip", "model.depth"} <= {*KEYS}


@pytest.mark.parametrize("key", KEYS)
def test_a_key_takes_no_number_that_is_none(key: str) -> None:
    for text in ("nan", "inf", "-inf", "-1", "1e30", "1" + "0" * 400, '"1"', "true"):
        with pytest.raises(OrsanetError, match=f"{key}"):
            load_config("small", [f"{key}={text}"])


@pytest.mark.parametrize("minutes", [float("nan"), float("inf"), -1.0])
def test_python_is_refused_the_same(tmp_path: Path, minutes: float) -> None:
    with pytest.raises(OrsanetError, match="save_minutes"):
        train_run(RunConfig(), "m.toml", "s", tmp_path / "run", save_minutes=minutes)
    assert not (tmp_path / "run").exists()
