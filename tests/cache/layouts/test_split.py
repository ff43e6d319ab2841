"""Class folders without splits are divided class by class, whole persons stay together, and the same call gives the same table."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from data_set_trees import draw, made, make, refused, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from orsanet_cache.cli import main
from orsanet_cache.data.manifest import Sample
from orsanet_cache.errors import OrsanetError
from orsanet_cache.layouts.found import DataSet
from orsanet_cache.layouts.split import divided, split_names

CLASSES = ("anger", "happiness", "neutral")
OPTION = ("--classes", ",".join(CLASSES))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Ten pictures of anger, twenty of happiness and seven of neutral, each class of persons p0 to p6."""
    root = tmp_path / "plain"
    for name, count in zip(CLASSES, (10, 20, 7), strict=True):
        for number in range(count):
            draw(root / name / f"p{number % 7}_{name}{number}.png")
    return root


def data_set(counts: Sequence[int], persons: int = 0) -> DataSet:
    """A data set with so many samples of each class; of persons 0, 1, 2, … in turn."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    samples = tuple(Sample(f"{number}.png", label, "", frozenset()) for number, label in enumerate(labels))
    who = {sample.image: str(number % persons) for number, sample in enumerate(samples)} if persons else {}
    return DataSet("some", tuple("abcdefgh"[: len(counts)]), (), samples, {}, persons=who)


def test_every_class_is_divided_in_the_same_shares(plain: Path, tmp_path: Path) -> None:
    manifest, printed = made("folders", plain, *OPTION, "--split", "80/10/10", "--out", tmp_path / "own.toml")
    found = Counter((sample.split, CLASSES[sample.label]) for sample in manifest.samples)
    assert [[found[split, name] for split in ("train", "valid", "test")] for name in CLASSES] == [
        [8, 1, 1],
        [16, 2, 2],
        [5, 1, 1],
    ]
    assert manifest.splits == ("train", "valid", "test")
    assert "note: divided 80/10/10 among train, valid, test, class by class, seed 0" in printed
    two, _ = made("folders", plain, *OPTION, "--split", "80/20", "--out", tmp_path / "two.toml")
    assert Counter(sample.split for sample in two.samples) == {"train": 30, "test": 7}


def test_the_division_depends_on_seed_and_names_only(plain: Path, tmp_path: Path) -> None:
    def split_of(name: str, *options: object) -> dict[str, str]:
        manifest, _ = made(
            "folders", plain, *OPTION, "--split", "80/10/10", *options, "--out", tmp_path / f"{name}.toml"
        )
        return {sample.image: sample.split for sample in manifest.samples}

    first = split_of("first")
    assert split_of("zero", "--seed", 0) == first
    assert split_of("one", "--seed", 1) != first
    assert (
        "nothing to do"
        in make("folders", plain, *OPTION, "--split", "80/10/10", "--out", tmp_path / "first.toml").output
    )


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(3, 60), min_size=2, max_size=5),
    shares=st.sampled_from([(80, 20), (50, 50), (80, 10, 10), (98, 1, 1), (34, 33, 33), (12.5, 37.5, 50)]),
    seed=st.integers(0, 9),
)
def test_every_split_has_its_share_of_every_class(counts: list[int], shares: tuple[float, ...], seed: int) -> None:
    data = data_set(counts)
    result = divided(data, shares, seed)
    assert sorted(sample.image for sample in result.samples) == sorted(sample.image for sample in data.samples)
    found = Counter((sample.split, sample.label) for sample in result.samples)
    for label, count in enumerate(counts):
        for split, share in zip(split_names(shares), shares, strict=True):
            exact = count * share / 100
            assert found[split, label] >= 1
            if count * min(shares) >= 100:  # no split needed a picture of another's share
                assert abs(found[split, label] - exact) < 1


@settings(max_examples=40, deadline=None)
@given(
    persons=st.integers(3, 30), counts=st.lists(st.integers(30, 90), min_size=2, max_size=4), seed=st.integers(0, 9),
    shares=st.sampled_from([(80, 20), (80, 10, 10), (60, 20, 20)]),
)  # fmt: skip
def test_whole_persons_stay_in_one_split_which_has_every_class(
    persons: int, counts: list[int], seed: int, shares: tuple[float, ...]
) -> None:
    result = divided(data_set(counts, persons), shares, seed)
    splits_of = defaultdict(set)
    for sample in result.samples:
        splits_of[result.persons[sample.image]].add(sample.split)
    assert {len(splits) for splits in splits_of.values()} == {1}
    found = {(sample.split, sample.label) for sample in result.samples}
    assert found == {(split, label) for split in split_names(shares) for label in range(len(counts))}
    if persons >= 20:  # each person is 5 % at most
        sizes = Counter(sample.split for sample in result.samples)
        for split, share in zip(split_names(shares), shares, strict=True):
            assert abs(sizes[split] / len(result.samples) - share / 100) < 0.06


def test_a_rare_class_reaches_every_split() -> None:
    common = data_set((60,), 20)
    rare = [Sample(f"rare{number}.png", 1, "", frozenset()) for number in range(3)]
    data = DataSet(
        "some", ("a", "b"), (), (*common.samples, *rare), {},
        persons={**common.persons, **{sample.image: str(number) for number, sample in enumerate(rare)}},
    )  # fmt: skip
    result = divided(data, (80, 10, 10), 0)
    assert {sample.split for sample in result.samples if sample.label == 1} == {"train", "valid", "test"}


def test_persons_are_read_from_names_or_a_table_and_written_for_the_doctor(plain: Path, tmp_path: Path) -> None:
    call = ("folders", plain, *OPTION, "--split", "60/20/20")
    by_name, printed = made(*call, "--person", "(p[0-9])_", "--out", tmp_path / "name.toml")
    assert "seed 0, 7 persons, each in one split" in printed
    rows = [f"{path.relative_to(plain).as_posix()},{path.name[:2]}" for path in plain.rglob("*.png")]
    write_lines(tmp_path / "who.csv", ["image,identity,,", *(f"{row},," for row in rows), ",,,"])
    by_table, _ = made(*call, "--person-table", tmp_path / "who.csv", "--out", tmp_path / "table.toml")
    assert by_table.samples == by_name.samples
    assert (tmp_path / "name.csv").read_text() == (tmp_path / "table.csv").read_text()
    assert (tmp_path / "name.csv").read_text().startswith("image,label,split,tags,person\n")
    doctor = CliRunner().invoke(main, ["doctor", str(tmp_path / "name.toml")]).output
    assert "persons are in several splits" not in doctor
    text = (tmp_path / "name.csv").read_text()
    (tmp_path / "name.csv").write_text(text.replace(",train,,p1", ",test,,p1", 1).replace(",test,,p2", ",train,,p2", 1))
    assert "persons are in several splits" in CliRunner().invoke(main, ["doctor", str(tmp_path / "name.toml")]).output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "class folders (anger, happiness, neutral) where split folders should be; --split 80/10/10 divides the pictures"),
        (("--split", "80/10/10", "--person", "p[0-4]"), "matches 28 of 37 pictures, but not anger/p5_anger5.png"),
        (("--split", "80/10/10", "--person", "(a|h)"), "fewer of anger (1), happiness (1), neutral (1); add pictures, divide into two"),
        (("--seed", "1"), "--seed chooses a division of --split"),
    ],
)  # fmt: skip
def test_a_division_that_is_not_possible_is_refused(
    plain: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    assert said in refused("folders", plain, *OPTION, *options, "--out", tmp_path / "own.toml")


def test_a_class_with_fewer_pictures_than_splits_is_named(plain: Path, tmp_path: Path) -> None:
    for number in range(2, 7):
        (plain / f"neutral/p{number}_neutral{number}.png").unlink()
    said = refused("folders", plain, *OPTION, "--split", "80/10/10", "--out", tmp_path / "own.toml")
    assert (
        "3 splits need at least 3 pictures of every class, but there are fewer of neutral (2); add pictures, divide into two parts"
        in said
    )
    manifest, _ = made("folders", plain, *OPTION, "--split", "80/20", "--out", tmp_path / "own.toml")
    assert Counter(s.split for s in manifest.samples if s.label == 2) == {"train": 1, "test": 1}


def test_persons_that_no_division_fits_are_refused() -> None:
    # Two of three persons are together, and the third has only two of their three classes.
    samples = [
        Sample(f"{who}{label}.png", label, "", frozenset())
        for who, labels in enumerate(((0, 1), (1, 2), (0, 2)))
        for label in labels
    ]
    data = DataSet("some", tuple("abc"), (), tuple(samples), {}, persons={s.image: s.image[0] for s in samples})
    with pytest.raises(OrsanetError, match="3 persons cannot be divided so that every split has every class"):
        divided(data, (50, 50), 0)


@pytest.mark.parametrize("value", ["80", "80/10", "80/10/10/0", "100/0", "a/b", "nan/50", "80/10/20", "-20/120"])
def test_shares_that_are_none_are_refused(plain: Path, tmp_path: Path, value: str) -> None:
    result = make("folders", plain, *OPTION, "--split", value, "--out", tmp_path / "own.toml")
    assert result.exit_code == 2
    assert "as in 80/20 or 80/10/10" in " ".join(result.output.split())


@pytest.mark.parametrize("value", ["(", "(a)(b)"])
def test_a_pattern_that_names_no_person_is_refused(plain: Path, tmp_path: Path, value: str) -> None:
    result = make("folders", plain, *OPTION, "--split", "80/20", "--person", value, "--out", tmp_path / "own.toml")
    assert result.exit_code == 2
    assert "'--person'" in result.output


def test_a_tree_that_has_splits_is_not_divided_again(class_folders: Path, tmp_path: Path) -> None:
    said = refused("folders", class_folders, *OPTION, "--split", "80/20", "--out", tmp_path / "own.toml")
    assert "has split folders already (test, train, valid); leave out --split" in said


def test_the_form_of_accents_on_the_disk_changes_nothing(tmp_path: Path) -> None:
    divisions = []
    for form in ("NFC", "NFD"):
        for name in ("colère", "joie"):
            for number in range(8):
                draw(tmp_path / form / unicodedata.normalize(form, f"{name}/é{number}.png"))
        manifest, _ = made(
            "folders",
            tmp_path / form,
            "--classes",
            "colère,joie",
            "--split",
            "50/50",
            "--out",
            tmp_path / f"{form}.toml",
        )
        assert manifest.classes == ("colère", "joie")
        divisions.append({unicodedata.normalize("NFC", sample.image): sample.split for sample in manifest.samples})
    assert divisions[0] == divisions[1]
