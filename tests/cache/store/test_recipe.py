"""Where two recipes differ is named, with both values."""

from orsanet_cache.store.recipe import recipe_differences


def test_recipe_differences_name_the_path_and_both_values() -> None:
    stored = {"a": {"b": 1, "c": [1, 2]}, "d": "x"}
    assert list(recipe_differences(stored, {"a": {"b": 1, "c": [1, 2]}, "d": "x"})) == []
    found = list(recipe_differences(stored, {"a": {"b": 2, "c": [1, 2]}, "e": None}))
    assert found == ["a.b: 1 before, 2 now", 'd: "x" before, null now']
