"""The recipe of a store: all settings that determine its values.

It is written once and compared for compatibility.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any


def recipe_differences(stored: Any, wanted: Any, where: str = "") -> Iterator[str]:
    """Paths at which two recipes differ, with both values."""
    if isinstance(stored, Mapping) and isinstance(wanted, Mapping):
        for key in dict.fromkeys([*stored, *wanted]):
            yield from recipe_differences(stored.get(key), wanted.get(key), f"{where}.{key}" if where else key)
    elif as_json(stored) != as_json(wanted):
        yield f"{where}: {as_json(stored)} before, {as_json(wanted)} now"


def build_options(recipe: Mapping[str, Any]) -> list[str]:
    """The options of `orsanet-cache build` without which it would not have this recipe."""
    options = []
    if (landmark_input := recipe.get("landmarks", {}).get("input", "published")) != "published":
        options += ["--landmark-input", str(landmark_input)]
    if (feature_dtype := recipe.get("feature_dtype", "float16")) != "float16":
        options += ["--features", str(feature_dtype)]
    return options


def as_json(value: Any) -> str:
    """JSON text that is the same for equal values; digests are computed over it."""
    return json.dumps(value, sort_keys=True)
