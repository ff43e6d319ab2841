"""Comparisons: the test is McNemar's, exchanging the runs mirrors everything, and only the same images with the same labels are compared."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_lines import Ended, in_process
from failing_disk import full_disk
from numpy.typing import NDArray
from scipy.stats import ttest_rel

from orsanet_cache import OrsanetError
from orsanet_train.cli import main
from orsanet_train.evaluation.compare import compare, seed_folders
from orsanet_train.evaluation.groups import Group
from orsanet_train.evaluation.metrics import group_report
from orsanet_train.evaluation.predictions import Evaluation, labels_of, probability_columns
from orsanet_train.evaluation.statistics import Estimate, paired
from orsanet_train.model.checkpoint import Identity, save_weights
from orsanet_train.model_config import ORSANetConfig

CLASSES = ("surprise", "fear", "anger")
SMALL_MODEL = ORSANetConfig(depth=1, width=32, backbone_channels=(4, 8, 16), backbone_units=(1, 1, 1))
IMAGES = 60


def identity(classes: Sequence[str] = CLASSES, selection: str = "last", epoch: int = 20) -> Identity:
    return Identity.model_validate(
        {
            "classes": tuple(classes), "model": ORSANetConfig(), "segmentation_channels": 8, "landmark_channels": 8,
            "store_recipe": {}, "ir50_sha256": None, "epoch": epoch, "data_set": "small", "train_split": "train", "selection": selection,
            "selection_split": "test", "selection_accuracy": 0.5,
        }
    )  # fmt: skip


def evaluation(
    right: NDArray[np.bool_], groups: Sequence[str] = ("test", "test:occluded"), checkpoint: Identity | None = None
) -> Evaluation:
    """What a model left that is right on some of the images of split `test`, every third of which is occluded."""
    chosen = checkpoint or identity()
    labels = np.arange(len(right)) % len(chosen.classes)
    probabilities = np.full((len(right), len(chosen.classes)), 0.1, np.float32)
    probabilities[np.arange(len(right)), np.where(right, labels, (labels + 1) % len(chosen.classes))] = 0.8
    names = np.array(chosen.classes, dtype=object)
    said = {
        "split": "test",
        "view": "clean",
        "image": [f"images/{index}.png" for index in range(len(right))],
        "tags": ["" if index % 3 else "occluded" for index in range(len(right))],
        "label": names[labels],
        "predicted": names[probabilities.argmax(axis=1)],
    }
    table = pd.concat(
        [pd.DataFrame(said), pd.DataFrame(probabilities, columns=probability_columns(chosen.classes))], axis=1
    )
    reports = []
    for name in groups:
        rows = Group.parse(name).of(table)
        best = chosen.selection == "best"
        reports.append(group_report(name, labels[rows], probabilities[rows], chosen.classes, chose_checkpoint=best))
    features = np.zeros((len(right), 2), np.float32)
    return Evaluation(chosen, "last.safetensors", "small", "/a/store", {}, (), tuple(reports), table, features)


def write(folder: Path, content: Evaluation, checkpoint: str = "last") -> Path:
    content.write(folder / f"evaluation-{checkpoint}")
    return folder


def outcomes(seed: int, accuracy: float = 0.7) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(IMAGES) < accuracy


def test_runs_are_paired_image_by_image_whatever_the_order_of_their_rows(tmp_path: Path) -> None:
    a, b = outcomes(0), outcomes(1)
    first = write(tmp_path / "a", evaluation(a))
    shuffled = evaluation(b)
    order = np.random.default_rng(0).permutation(IMAGES)
    second = write(tmp_path / "b", replace(shuffled, table=shuffled.table.iloc[order].reset_index(drop=True)))
    comparison = compare([first, second], "last")
    occluded = np.arange(IMAGES) % 3 == 0
    expected = {"test": paired("test", a, b), "test:occluded": paired("test:occluded", a[occluded], b[occluded])}
    assert {difference.group: difference.pairs for difference in comparison.differences} == {
        name: (pair,) for name, pair in expected.items()
    }
    assert [(one.run, one.group, one.mean, one.deviation) for one in comparison.accuracies] == [
        ("a", "test", a.mean(), None),
        ("b", "test", b.mean(), None),
        ("a", "test:occluded", a[occluded].mean(), None),
        ("b", "test:occluded", b[occluded].mean(), None),
    ]
    assert all(difference.over_seeds is None and difference.p_value is None for difference in comparison.differences)
    assert comparison.notes == ()


def test_every_further_run_is_compared_with_the_first_and_with_no_other(tmp_path: Path) -> None:
    runs = [write(tmp_path / name, evaluation(outcomes(seed), ["test"])) for seed, name in enumerate("abc")]
    comparison = compare(runs, "last")
    assert comparison.runs == ("a", "b", "c")
    assert [difference.run for difference in comparison.differences] == ["b", "c"]
    assert comparison.differences[1].pairs[0] == paired("test", outcomes(0), outcomes(2))


def test_a_run_compared_with_itself_differs_by_nothing(tmp_path: Path) -> None:
    run = write(tmp_path / "a", evaluation(outcomes(0)))
    for difference in compare([run, run], "last").differences:
        assert difference.pairs[0].difference.value == 0
        assert difference.pairs[0].p_value == 1


def test_seeds_have_mean_and_spread_and_a_paired_t_interval(tmp_path: Path) -> None:
    right = {
        run: [outcomes(10 * index + seed, 0.6 + 0.2 * index) for seed in range(4)] for index, run in enumerate("ab")
    }
    for run, each in right.items():
        for seed, content in enumerate(each):
            write(tmp_path / run / f"seed-{seed}", evaluation(content, ["test"]))
    comparison = compare([tmp_path / "a", tmp_path / "b"], "last")
    accuracy = {run: np.array([content.mean() for content in each]) for run, each in right.items()}
    for one in comparison.accuracies:
        assert one.seeds == (0, 1, 2, 3)
        assert one.mean == pytest.approx(accuracy[one.run].mean(), rel=1e-14)  # rounding, here and below
        assert one.deviation == pytest.approx(np.std(accuracy[one.run], ddof=1), rel=1e-12)
    (difference,) = comparison.differences
    test = ttest_rel(accuracy["b"], accuracy["a"])
    expected = test.confidence_interval(0.95)
    assert difference.over_seeds is not None
    assert difference.over_seeds.value == pytest.approx((accuracy["b"] - accuracy["a"]).mean(), rel=1e-12)
    assert [difference.over_seeds.low, difference.over_seeds.high] == pytest.approx(
        [expected.low, expected.high], rel=1e-10
    )
    assert difference.p_value == pytest.approx(test.pvalue, rel=1e-10)
    assert difference.pairs == tuple(paired("test", a, b) for a, b in zip(right["a"], right["b"], strict=True))


def test_only_common_seeds_are_paired_and_the_others_named(tmp_path: Path) -> None:
    for run, seeds in (("a", (1, 2, 10)), ("b", (2, 10, 30))):
        for seed in seeds:
            write(tmp_path / run / f"seed-{seed}", evaluation(outcomes(seed), ["test"]))
    comparison = compare([tmp_path / "a", tmp_path / "b"], "last")
    assert [one.seeds for one in comparison.accuracies] == [(1, 2, 10), (2, 10, 30)]
    (difference,) = comparison.differences
    assert difference.seeds == (2, 10)
    assert difference.over_seeds == Estimate(0.0, None, None)  # the same predictions: seeds that cannot tell
    assert difference.p_value is None
    assert comparison.notes == (
        "b has no seed 1: left out of the differences",
        "a has no seed 30: left out of the differences",
    )


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    for index, run in enumerate("ab"):
        write(tmp_path / run / "seed-7", evaluation(outcomes(index), ["test"]))
    comparison = compare([tmp_path / "a", tmp_path / "b"], "last")
    assert [one.deviation for one in comparison.accuracies] == [None, None]
    assert comparison.differences[0].over_seeds == Estimate(
        comparison.differences[0].pairs[0].difference.value, None, None
    )


def test_a_folder_of_seeds_alone_shows_their_spread(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path / "a" / f"seed-{seed}", evaluation(outcomes(seed), ["test"]))
    comparison = compare([tmp_path / "a"], "last")
    assert comparison.accuracies[0].deviation == pytest.approx(
        np.std([outcomes(seed).mean() for seed in range(3)], ddof=1)
    )
    assert comparison.differences == ()


def test_seed_folders_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("seed-10", "seed-9", "seed-x", "seed-1.old", "evaluation-last"):
        (tmp_path / name).mkdir()
    assert list(seed_folders(tmp_path).items()) == [(9, tmp_path / "seed-9"), (10, tmp_path / "seed-10")]
    assert seed_folders(tmp_path / "absent") == {}


def test_groups_that_one_run_lacks_are_left_out_and_named(tmp_path: Path) -> None:
    first = write(tmp_path / "a", evaluation(outcomes(0), ["test", "test:occluded"]))
    second = write(tmp_path / "b", evaluation(outcomes(1), ["test"]))
    third = write(tmp_path / "c", evaluation(outcomes(1), ["test:occluded", "test"]))
    comparison = compare([first, second, third], "last")
    assert [(difference.run, difference.group) for difference in comparison.differences] == [
        ("b", "test"), ("c", "test"), ("c", "test:occluded")
    ]  # fmt: skip
    assert comparison.notes == ("b was not evaluated on test:occluded: left out",)


def test_a_group_that_a_seed_lacks_is_left_out_and_named(tmp_path: Path) -> None:
    write(tmp_path / "a" / "seed-0", evaluation(outcomes(0), ["test", "test:occluded"]))
    write(tmp_path / "a" / "seed-1", evaluation(outcomes(1), ["test"]))
    comparison = compare([tmp_path / "a"], "last")
    assert [one.group for one in comparison.accuracies] == ["test"]
    assert comparison.notes == ("a: not every seed was evaluated on test:occluded: left out",)


def test_the_protocol_is_stated_and_what_it_flatters_is_marked(tmp_path: Path) -> None:
    best = write(tmp_path / "a", evaluation(outcomes(0), ["test"], identity(selection="best", epoch=7)), "best")
    other = write(tmp_path / "b", evaluation(outcomes(1), ["test"], identity(selection="best", epoch=9)), "best")
    comparison = compare([best, other], "best")
    assert comparison.protocols[0] == "best checkpoint (epoch 7), chosen by its accuracy on split 'test'"
    assert all(one.chose_checkpoint for one in comparison.accuracies)
    assert comparison.notes == ("* the checkpoint was chosen on these images, so the number is optimistic",)
    last = compare(
        [write(tmp_path / "a", evaluation(outcomes(0))), write(tmp_path / "b", evaluation(outcomes(1)))], "last"
    )
    assert last.protocols == ("last checkpoint (epoch 20), not chosen by any result",) * 2
    assert last.notes == ()


def test_a_run_on_images_it_was_trained_on_is_named(tmp_path: Path) -> None:
    trained = evaluation(outcomes(0), ["test"])
    trained = replace(trained, groups=(replace(trained.groups[0], trained_on=True),))
    runs = [write(tmp_path / "a", trained), write(tmp_path / "b", evaluation(outcomes(1), ["test"]))]
    assert compare(runs, "last").notes == ("a was trained on the images of test",)
    some = replace(trained, groups=(replace(trained.groups[0], trained_images=7),))
    runs[0] = write(tmp_path / "a", some)
    assert compare(runs, "last").notes == (f"a was trained on 7 of the {IMAGES} images of test",)


def test_other_images_are_refused_with_examples(tmp_path: Path) -> None:
    first = write(tmp_path / "a", evaluation(outcomes(0)))
    whole = evaluation(outcomes(1))
    table = whole.table.drop(index=[0, 5])
    reports = []
    for name in ("test", "test:occluded"):
        rows = table[Group.parse(name).of(table)]
        shares = rows[probability_columns(CLASSES)].to_numpy()
        reports.append(group_report(name, labels_of(rows, CLASSES), shares, CLASSES))
    fewer = replace(whole, table=table, features=whole.features[2:], groups=tuple(reports))
    second = write(tmp_path / "b", fewer)
    with pytest.raises(
        OrsanetError, match=r"(?s)b: 'test' has other images than in .*a; .*images/0.png\n  images/5.png"
    ):
        compare([first, second], "last")
    many = write(tmp_path / "c", evaluation(np.concatenate([outcomes(1), outcomes(2)])))
    with pytest.raises(OrsanetError, match=r"and 55 more"):
        compare([first, many], "last")


def test_other_labels_are_refused_with_examples(tmp_path: Path) -> None:
    first = write(tmp_path / "a", evaluation(outcomes(0)))
    other = evaluation(outcomes(1))
    other.table.loc[4, "label"] = "anger"
    with pytest.raises(
        OrsanetError, match=r"(?s)b: images of 'test' have other labels .*images/4.png: anger, in .*a fear"
    ):
        compare([first, write(tmp_path / "b", other)], "last")


def test_another_class_order_is_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a", evaluation(outcomes(0)))
    second = write(tmp_path / "b", evaluation(outcomes(1), checkpoint=identity(CLASSES[::-1])))
    with pytest.raises(
        OrsanetError, match=r"anger, fear, surprise \(in this order\), those of .* are surprise, fear, anger"
    ):
        compare([first, second], "last")


def test_what_has_nothing_in_common_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "a", evaluation(outcomes(0), ["test"]))
    occluded = write(tmp_path / "b", evaluation(outcomes(1), ["test:occluded"]))
    with pytest.raises(
        OrsanetError, match=r"b was evaluated on test:occluded, .*a on test: no group in common; .*--splits"
    ):
        compare([whole, occluded], "last")
    write(tmp_path / "c" / "seed-1", evaluation(outcomes(0)))
    write(tmp_path / "d" / "seed-2", evaluation(outcomes(0)))
    with pytest.raises(OrsanetError, match=r"d has the seeds 2, .*c has 1: no seed in common; .*--seeds"):
        compare([tmp_path / "c", tmp_path / "d"], "last")
    with pytest.raises(OrsanetError, match=r"c is a folder of seeds and .*a is not; name one of its runs"):
        compare([whole, tmp_path / "c"], "last")
    with pytest.raises(OrsanetError, match=r"a: name another run to compare it with"):
        compare([whole], "last")
    with pytest.raises(OrsanetError, match=r"e: its last checkpoint has not been evaluated"):
        compare([whole, tmp_path / "e"], "last")


def test_runs_of_the_same_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    runs = [write(tmp_path / parent / "run", evaluation(outcomes(seed), ["test"])) for seed, parent in enumerate("ab")]
    assert compare(runs, "last").runs == tuple(str(run) for run in runs)


def test_the_json_has_every_number(tmp_path: Path) -> None:
    for index, run in enumerate("ab"):
        for seed in range(2):
            write(tmp_path / run / f"seed-{seed}", evaluation(outcomes(10 * index + seed, 0.5 + 0.3 * index), ["test"]))
    comparison = compare([tmp_path / "a", tmp_path / "b"], "last")
    content = json.loads(json.dumps(comparison.as_json(), allow_nan=False))
    (difference,) = comparison.differences
    assert content["differences"][0]["pairs"][1]["p_value"] == difference.pairs[1].p_value
    assert [one["mean"] for one in content["accuracies"]] == [one.mean for one in comparison.accuracies]
    assert content["runs"] == ["a", "b"]


def test_weights_trained_anew_since_they_were_evaluated_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / name, evaluation(outcomes(0)))
    (tmp_path / "b" / "last.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(OrsanetError, match=r"b/last\.safetensors: cannot be read as weights"):
        compare([tmp_path / "a", tmp_path / "b"], "last")
    small = identity().model_copy(update={"model": SMALL_MODEL})
    save_weights(tmp_path / "b" / "last.safetensors", small.build(), small)
    with pytest.raises(
        OrsanetError, match=r"has changed since it was evaluated; run `orsanet-train evaluate .*/b --checkpoint last"
    ):
        compare([tmp_path / "a", tmp_path / "b"], "last")


def test_the_file_of_a_comparison_replaces_an_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    runs = [write(tmp_path / name, evaluation(outcomes(seed))) for seed, name in enumerate("ab")]
    out = tmp_path / "compared.json"

    def compared() -> Ended:
        return in_process(main, "compare", *runs, "--checkpoint", "last", "--out", out)

    assert compared().returncode == 0
    before = out.read_bytes()
    assert compared().returncode == 0
    with full_disk(100):
        assert f"Error: {out}: cannot be written (File too large)" in compared().stderr
    assert out.read_bytes() == before
    for mine in ('{"runs": ["mine"]}', '{"mine": 1}', ""):
        out.write_text(mine)
        refused = compared()
        assert (refused.returncode, refused.stdout) == (1, "")
        assert f"{out}: is not a comparison of `orsanet-train compare`, so it was not replaced" in refused.stderr
        assert out.read_text() == mine
