"""A configuration as TOML that explains itself, and the list of presets.

RunConfig → every key with its value, what is allowed, and its meaning as comments → load_config → the same RunConfig
"""

import json
import textwrap
from collections.abc import Iterator
from typing import Literal, get_args, get_origin

import tomli_w
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orsanet_train.config import PRESETS, RunConfig, preset_text
from orsanet_train.model_config import kinds

WIDTH = 100  # columns
TYPING_ERROR = 1000  # limits from there on only catch typing errors, and are not shown
LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def config_text(config: RunConfig, name: str) -> str:
    """Every key of the configuration `name`, with comments. load_config reads it back to the same configuration."""
    head = _comment(
        f"Every key of {name}. Saved as a .toml file, this is a configuration for --preset. A key that is left out has its "
        f"default, which is the value here unless a comment gives another."
    )
    return "\n\n".join([head, *_entries(config)]) + "\n"


def preset_list() -> str:
    """The presets and the kinds of model with a line each, and how to see their keys."""
    width = max(map(len, (*PRESETS, *kinds()))) + 2
    lines = [f"  {name:<{width}}{_title(name)}" for name in PRESETS]
    models = [
        f"  {name:<{width}}{_first_sentence(' '.join((kind.__doc__ or '').split()))}" for name, kind in kinds().items()
    ]
    return "\n".join(
        [
            "Presets, for --preset:",
            "",
            *lines,
            "",
            "Kinds of model, for --set model.kind=KIND with any preset:",
            "",
            *models,
            "",
            f"orsanet-train config {PRESETS[0]} prints every key with its value and meaning.",
            f"For a configuration of your own: orsanet-train config {PRESETS[0]} > my.toml, change it, and pass --preset my.toml.",
            "For a single key: --set KEY=VALUE, as in --set learning_rate=1e-4.",
        ]
    )


def _entries(table: BaseModel, path: str = "") -> Iterator[str]:
    """The keys of a table, then its tables: in TOML a key after a table's head would belong to it."""
    values = {name: getattr(table, name) for name in type(table).model_fields}
    tables = {name: value for name, value in values.items() if isinstance(value, BaseModel)}
    for name, field in type(table).model_fields.items():
        if name not in tables:
            yield f"{_comment(_meaning(field, values[name]))}\n{name} = {_toml(values[name])}"
    for name, inner in tables.items():
        yield f"{_comment(' '.join((inner.__doc__ or '').split()))}\n[{path}{name}]"
        yield from _entries(inner, f"{path}{name}.")


def _meaning(field: FieldInfo, value: object) -> str:
    """What the key means; in brackets what is allowed, and the default if the value is another."""
    if get_origin(field.annotation) is Literal:
        choices = get_args(field.annotation)
        notes = [" or ".join(_toml(choice) for choice in choices)] if len(choices) > 1 else []
    else:
        limits = {name: getattr(rule, name) for rule in field.metadata for name in LIMITS if hasattr(rule, name)}
        notes = [f"{LIMITS[name]} {limit}" for name, limit in sorted(limits.items()) if limit < TYPING_ERROR]
    if value != field.default:
        notes.append(f"default {_toml(field.default)}")
    meaning = " ".join((field.description or "").split())
    return f"{meaning} [{', '.join(notes)}]" if notes else meaning


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return json.dumps(value)  # a list of numbers; tomli_w would take a line for each
    return tomli_w.dumps({"value": value}).partition("=")[2].strip()


def _comment(text: str) -> str:
    return "\n".join(f"# {line}" for line in textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False))


def _title(preset: str) -> str:
    """The first sentence of the preset's first comment."""
    lines = preset_text(preset).splitlines()
    comment = " ".join(
        line.lstrip("# ") for line in lines[: next(i for i, line in enumerate(lines) if line[:1] != "#")]
    )
    return _first_sentence(comment)


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".")
