"""What differs between runs: settings, training data and stores, only differences, and what is not recorded is said."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orsanet_cache import OrsanetError, Sample
from orsanet_train.config import config_toml, load_config
from orsanet_train.evaluation.compare import compare
from orsanet_train.evaluation.metrics import group_report
from orsanet_train.evaluation.predictions import Evaluation, predictions_table
from orsanet_train.evaluation.tables import comparison_text
from orsanet_train.model.checkpoint import Identity

CLASSES = ("anger", "neutral")
RECIPE = {"segmenter": {"weights_sha256": "a" * 64}, "precision": "fp32"}
SEALS = {"test/clean": "1" * 64}


def evaluated(recipe: Mapping[str, Any] = RECIPE, seals: Mapping[str, str] = SEALS) -> Evaluation:
    """Four images of split `test`, all right."""
    identity = Identity.model_validate(
        {
            "classes": CLASSES, "model": {}, "segmentation_channels": 8, "landmark_channels": 8, "store_recipe": recipe,
            "ir50_sha256": None, "epoch": 2, "data_set": "small", "train_split": "train", "selection": "last",
            "selection_split": "valid", "selection_accuracy": 0.5,
        }
    )  # fmt: skip
    samples = tuple(Sample(f"{index}.png", index % 2, "test", frozenset()) for index in range(4))
    labels, probabilities = np.arange(4) % 2, np.eye(2, dtype=np.float32)[np.arange(4) % 2]
    table = predictions_table(samples, labels, probabilities, CLASSES, "test", "clean")
    group = group_report("test", labels, probabilities, CLASSES)
    features = np.zeros((4, 2), np.float32)
    return Evaluation(identity, "last.safetensors", "small", "/a/store", dict(seals), (), (group,), table, features)


def run(folder: Path, *settings: str, data: Mapping[str, Any] | None = None, **evaluation: Any) -> Path:
    """A run folder of the preset `small` with these settings, evaluated."""
    evaluated(**evaluation).write(folder / "evaluation-last")
    (folder / "config.toml").write_text(config_toml(load_config("small", settings)))
    (folder / "run.json").write_text(
        json.dumps({"training_images_sha256": "c" * 64, "compiled": False, **(data or {})})
    )
    return folder


def found(*runs: Path) -> list[tuple[str, str, dict[str, str]]]:
    return [(one.what, one.key, one.values) for one in compare(runs, "last").differing]


def test_runs_that_differ_in_nothing_have_no_differences(tmp_path: Path) -> None:
    assert found(run(tmp_path / "a"), run(tmp_path / "b")) == []


def test_only_the_settings_that_differ_are_named_with_the_values_of_all_runs(tmp_path: Path) -> None:
    runs = [run(tmp_path / "a"), run(tmp_path / "b", "loss.dare=none", "seed=7"), run(tmp_path / "c")]
    assert found(*runs) == [
        ("configuration", "seed", {"a": "0", "b": "7", "c": "0"}),
        ("configuration", "loss.dare", {"a": "published", "b": "none", "c": "published"}),
    ]
    assert comparison_text(compare(runs, "last")).startswith("What differs between the runs:\n")


def test_added_fields_that_were_built_again_differ_and_a_model_that_reads_none_lacks_no_view(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / name, seals={**SEALS, **added})
        for name, added in (
            ("a", {"test/clean.own": "3" * 64}), ("b", {}), ("c", {"test/clean.own": "4" * 64}),
        )
    ]  # fmt: skip
    assert found(*runs) == [
        ("store", "seal of test/clean.own", {"a": "333333333333…", "b": "none", "c": "444444444444…"})
    ]
    assert found(*runs[:2]) == []


def test_training_data_recipes_views_and_seals_are_compared(tmp_path: Path) -> None:
    first = run(tmp_path / "a", seals={**SEALS, "test/mask": "3" * 64})
    second = run(
        tmp_path / "b", data={"training_images_sha256": "d" * 64, "compiled": True}, seals={"test/clean": "2" * 64}
    )
    assert found(first, second) == [
        ("training", "list of training images", {"a": "cccccccccccc…", "b": "dddddddddddd…"}),
        ("training", "compiled", {"a": "false", "b": "true"}),
        ("store", "views that were not evaluated", {"a": "none", "b": "test/mask"}),
        ("store", "seal of test/clean", {"a": "111111111111…", "b": "222222222222…"}),
    ]
    third = run(tmp_path / "c", recipe={**RECIPE, "precision": "fp16"}, seals={"test/clean": "2" * 64})
    assert found(second, third)[2:] == [
        ("store", "precision", {"b": "fp32", "c": "fp16"})
    ]  # seals differ with the recipe


def test_the_seed_of_folders_of_seeds_is_no_difference(tmp_path: Path) -> None:
    for name in "ab":
        for seed in (0, 1):
            run(tmp_path / name / f"seed-{seed}", f"seed={seed}", f"epochs={3 if name == 'a' else 3 + seed}")
    assert found(tmp_path / "a", tmp_path / "b") == [("configuration", "epochs", {"a": "3", "b": "3 or 4"})]
    assert found(tmp_path / "a" / "seed-0", tmp_path / "a" / "seed-1") == [
        ("configuration", "seed", {"seed-0": "0", "seed-1": "1"})
    ]


def test_what_a_folder_does_not_have_is_not_recorded_and_not_guessed(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a"), run(tmp_path / "b", "loss.dare=none", data={"image_files_sha256": "e" * 64})
    assert found(first, second)[1:] == [
        ("training", "contents of these images", {"a": "not recorded", "b": "eeeeeeeeeeee…"})
    ]
    (first / "config.toml").unlink()
    assert found(first, second)[0] == ("configuration", "config.toml", {"a": "not recorded", "b": "recorded"})
    assert len(found(first, second)) == 2


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    runs = [run(tmp_path / "a"), run(tmp_path / "b")]
    (runs[1] / "config.toml").write_text("epochs = [")
    with pytest.raises(OrsanetError, match=r"b/config\.toml"):
        compare(runs, "last")


def test_the_numbers_of_compare_have_what_differs_before_them(tmp_path: Path) -> None:
    content = compare([run(tmp_path / "a"), run(tmp_path / "b", "rho=0.0")], "last").as_json()
    assert list(content).index("differing") < list(content).index("accuracies")
    assert content["differing"] == ({"what": "configuration", "key": "rho", "values": {"a": "0.05", "b": "0.0"}},)


def test_a_run_that_no_baseline_is_beaten_by_is_noted_with_every_seed(tmp_path: Path) -> None:
    """Of four images no model is shown to be better than half of them."""
    for seed in (0, 1):
        run(tmp_path / "a" / f"seed-{seed}")
    (note,) = compare([tmp_path / "a"], "last").notes
    assert note == "a: the model is not shown to be better than the baseline 'commonest class' on test (2 of 2 seeds)"
    single = compare([tmp_path / "a" / "seed-0", tmp_path / "a" / "seed-1"], "last")
    assert [note.partition(" on ")[0] for note in single.notes] == [
        f"seed-{seed}: the model is not shown to be better than the baseline 'commonest class'" for seed in (0, 1)
    ]
    assert [one.baselines for one in single.accuracies] == [{"commonest class": 0.5}] * 2


def test_baselines_of_evaluations_from_before_are_not_recorded(tmp_path: Path) -> None:
    old = evaluated()
    for name in "ab":
        replace(old, groups=(replace(old.groups[0], baselines=None),)).write(tmp_path / name / "evaluation-last")
    comparison = compare([tmp_path / "a", tmp_path / "b"], "last")
    assert [one.baselines for one in comparison.accuracies] == [None, None]
    assert comparison.notes == ()
    assert [(one.key, set(one.values.values())) for one in comparison.differing] == [
        ("config.toml", {"not recorded"}), ("run.json", {"not recorded"})
    ]  # fmt: skip
