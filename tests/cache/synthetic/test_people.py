"""Drawn people: many pictures of each, none of them in two splits, no expression in the table."""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from command_lines import in_process

from orsanet_cache import OrsanetError, load_manifest
from orsanet_cache.cli import main
from orsanet_cache.data.images import read_image
from orsanet_cache.synthetic.dataset import image_name, write_people
from orsanet_cache.synthetic.expression import CLASSES
from orsanet_cache.synthetic.picture import draw_planned
from orsanet_cache.synthetic.plan import person_plan, plan

PEOPLE, PICTURES = 20, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("people") / "people"
    summary = write_people(out, 5, PEOPLE, PICTURES, processes=1)
    assert (summary.people, summary.images, summary.drawn) == (20, {"train": 36, "valid": 4}, True)
    return out


def test_every_person_has_the_same_number_of_pictures_in_one_split(folder: Path) -> None:
    manifest = load_manifest(folder / "faces.toml")
    splits = defaultdict(set)
    for sample in manifest.samples:
        splits[sample.label].add(sample.split)
    assert Counter(sample.label for sample in manifest.samples) == dict.fromkeys(range(PEOPLE), PICTURES)
    assert all(len(found) == 1 for found in splits.values())
    assert manifest.splits == ("train", "valid")


def test_the_table_has_no_expression(folder: Path) -> None:
    with (folder / "samples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "label", "split", "tags"]
    assert not {cell for row in rows for cell in row.values()} & set(CLASSES)


def test_the_pictures_are_those_of_the_plan(folder: Path) -> None:
    for index in (0, 1, 9):
        planned = person_plan(5, index, PICTURES)
        assert planned.identity == index // PICTURES
        assert np.array_equal(read_image(folder / image_name(index)).rgb, draw_planned(5, planned).image)


def test_any_expression_is_equally_likely_and_differs_from_picture_to_picture() -> None:
    planned = [person_plan(3, index, 24) for index in range(2400)]
    counts = Counter(one.label for one in planned)
    assert set(counts) == set(CLASSES)
    assert all(270 < count < 420 for count in counts.values())  # 343 on average
    assert len({one.label for one in planned[:24]}) > 3
    assert plan(3, 0).label in CLASSES  # the other plan is another function of the same seed


def test_a_complete_folder_is_left_alone_and_another_refused(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = in_process(main, "demo-people", "--out", folder, "--seed", 5, "--people", PEOPLE, "--pictures", PICTURES)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines() == [
        "nothing to do: these pictures already exist",
        f"{folder}: 40 pictures of 20 people (train 36, valid 4)",
        f"next: orsanet-train pretrain {folder}/faces.toml --preset small --out BACKBONE",
    ]
    with pytest.raises(OrsanetError, match="holds another data set"):
        write_people(folder, 5, PEOPLE, PICTURES + 1)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(("people", "pictures"), [(19, 2), (20, 1)])
def test_too_few_people_or_pictures_are_refused(people: int, pictures: int, tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match="draw at least 20 people and 2 pictures of each"):
        write_people(tmp_path / "few", 5, people, pictures)
    assert not list(tmp_path.iterdir())
