"""A report is plain data: its JSON has all of it, and no number that JSON does not know."""

import json
from dataclasses import replace

import numpy as np

from orsanet_train.config import RunConfig
from orsanet_train.evaluation.metrics import FEW_IMAGES, GroupReport, group_report
from orsanet_train.report.contents import FrozenNetwork, Report, RunReport


def run_report(flip_disagreement: float = 0.25) -> RunReport:
    """One image evaluated, right."""
    detailed = group_report("test", np.array([1]), np.array([[0.25, 0.75]]), ("anger", "neutral"))
    return RunReport(
        name="run", stamp="last of 2 epochs", protocol="last checkpoint (epoch 2), not chosen by any result", warnings=(),
        weights="last.safetensors", weights_sha256="00ff", manifest="small", trained_on="small", store="store.zarr",
        seals={"test/clean": "ff00"}, networks=(FrozenNetwork("segmenter", "SegFace", True, None, "0" * 64),), trained_with=("orsanet 0.1.0",),
        evaluated=None, evaluated_with=None, training_classes={"anger": 7, "neutral": 8}, groups=(detailed,), detailed=detailed, choices=(), robustness=(), quartiles=(),
        worst=({"image": "a.png", "flip_disagreement": flip_disagreement},), beside=(), config=RunConfig(), recipe={}, data={},
    )  # fmt: skip


def test_json_has_every_field_and_the_detailed_group_by_its_name() -> None:
    report = run_report()
    content = report.as_json()
    assert content.keys() == vars(report).keys()
    assert content["detailed"] == content["groups"][0]["name"] == "test"
    assert RunConfig.model_validate_json(json.dumps(content["config"])) == report.config
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_a_measure_beyond_measure_is_null_in_json() -> None:
    for value in (float("inf"), float("nan")):
        content = Report((run_report(value),), None, "2026-01-31", "0.1.0").as_json()
        read = json.loads(json.dumps(content, allow_nan=False))
        assert read["runs"][0]["worst"][0]["flip_disagreement"] is None
        assert read["comparison"] is None


def test_tags_with_few_images_are_folded_away_and_no_split_and_no_view_is() -> None:
    def group(name: str, images: int) -> GroupReport:
        return group_report(name, np.arange(images) % 2, np.eye(2)[np.arange(images) % 2], ("anger", "neutral"))

    groups = (group("test", 2), group("test:hat", FEW_IMAGES - 1), group("test:old", FEW_IMAGES), group("test@mask", 2))
    report = replace(run_report(), groups=groups)
    assert [one.name for one in report.shown] == ["test", "test:old", "test@mask"]
    assert [one.name for one in report.folded] == ["test:hat"]
