"""A manifest is read as it was written, and every mistake in it ends in one message naming line and thing."""

import csv
import io
import os
import re
import tempfile
import time
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orsanet_cache import Manifest, OrsanetError, Sample, load_manifest
from orsanet_cache.data.cells import marked
from orsanet_cache.data.manifest import with_tags

CLASSES = ("anger", "happiness", "neutral")
HEADER = "image,label,split,tags\n"
TOML = 'name = "faces"\nclasses = ["anger", "happiness", "neutral"]\nsamples = "samples.csv"\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with three image files and a sub-folder."""
    folder = tmp_path / "faces"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "sub/c.jpg"):
        (folder / name).write_bytes(b"the manifest never opens it")
    return folder


def load_table(root: Path, table: str | bytes, check_files: bool = True) -> Manifest:
    """A CSV alone, with the folder and the classes given by the caller."""
    path = root.parent / "samples.csv"
    path.write_bytes(table.encode() if isinstance(table, str) else table)
    return load_manifest(path, root=root, classes=CLASSES, check_files=check_files)


def load_toml(root: Path, toml: str | bytes, table: str = HEADER + "a.jpg,anger,train,\n") -> Manifest:
    """A descriptor beside the images, and its CSV `samples.csv`."""
    (root / "samples.csv").write_text(table, encoding="utf-8", newline="")
    (root / "dataset.toml").write_bytes(toml.encode() if isinstance(toml, str) else toml)
    return load_manifest(root / "dataset.toml")


def table_refusal(root: Path, table: str | bytes, check_files: bool = True) -> str:
    with pytest.raises(OrsanetError) as refused:
        load_table(root, table, check_files)
    return str(refused.value)


def toml_refusal(root: Path, toml: str | bytes) -> str:
    with pytest.raises(OrsanetError) as refused:
        load_toml(root, toml)
    return str(refused.value)


def lines_named(message: str) -> list[int]:
    return [int(number) for number in re.findall(r"^ *(?:\S+\.csv: )?line (\d+)\b", message, flags=re.MULTILINE)]


def written(rows: Iterable[Iterable[str]]) -> str:
    table = io.StringIO()
    csv.writer(table).writerows(rows)
    return table.getvalue()


# --- what is read ---


def test_a_descriptor_and_its_table_are_read(root: Path) -> None:
    table = HEADER + "a.jpg,neutral,train,\nb.jpg,anger,test,occluded;pose>45\nsub/c.jpg,happiness,train, x ; ;x\n"
    manifest = load_toml(root, TOML, table)
    assert manifest == Manifest(
        name="faces",
        classes=CLASSES,
        root=root,
        samples=(
            Sample("a.jpg", 2, "train", frozenset()),
            Sample("b.jpg", 0, "test", frozenset({"occluded", "pose>45"})),
            Sample("sub/c.jpg", 1, "train", frozenset({"x"})),
        ),
    )


def test_a_table_alone_is_read_with_the_callers_root_and_classes(root: Path) -> None:
    manifest = load_table(root, "image,label,split\na.jpg,neutral,train\nb.jpg,anger,valid\n")
    assert manifest == Manifest(
        name="samples",
        classes=CLASSES,
        root=root,
        samples=(Sample("a.jpg", 2, "train", frozenset()), Sample("b.jpg", 0, "valid", frozenset())),
    )


def test_labels_index_the_classes_in_the_given_order_not_the_sorted_one(root: Path) -> None:
    toml = TOML.replace('"anger", "happiness", "neutral"', '"neutral", "anger", "happiness"')
    table = HEADER + "a.jpg,anger,train,\nb.jpg,happiness,train,\nsub/c.jpg,neutral,train,\n"
    assert [sample.label for sample in load_toml(root, toml, table).samples] == [1, 2, 0]


def test_relative_paths_start_from_the_descriptor_not_from_the_working_folder(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "sub" / "samples.csv").write_text("image,label,split\na.jpg,anger,train\n")
    (root / "sub" / "dataset.toml").write_text(TOML + 'root = ".."\n')
    monkeypatch.chdir(root.parent)
    manifest = load_manifest(Path("faces/sub/dataset.toml"))
    assert (manifest.root / manifest.samples[0].image).samefile(root / "a.jpg")


def test_the_callers_root_replaces_the_descriptors(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "samples.csv").write_text("image,label,split\na.jpg,anger,train\n")
    (tmp_path / "elsewhere" / "dataset.toml").write_text(TOML + 'root = "no such folder"\n')
    assert load_manifest(tmp_path / "elsewhere" / "dataset.toml", root=root).root == root


def test_columns_are_found_by_name_and_further_ones_are_unused(root: Path) -> None:
    table = "split, note ,label,image,tags\ntest,any thing,anger,a.jpg,t\n"
    assert load_table(root, table).samples == (Sample("a.jpg", 0, "test", frozenset({"t"})),)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_every_line_ending_is_read(root: Path, newline: str) -> None:
    table = (HEADER + "a.jpg,anger,train,\nb.jpg,anger,train,\n").replace("\n", newline)
    assert [sample.image for sample in load_table(root, table).samples] == ["a.jpg", "b.jpg"]


def test_a_byte_order_mark_is_accepted(root: Path) -> None:
    table = HEADER + "a.jpg,anger,train,\n"
    assert load_table(root, table.encode("utf-8-sig")) == load_table(root, table)
    assert load_toml(root, TOML.encode("utf-8-sig")) == load_toml(root, TOML)


def test_splits_are_listed_in_order_of_appearance_and_keep_the_files_order(root: Path) -> None:
    manifest = load_table(root, HEADER + "b.jpg,anger,test,\na.jpg,anger,train,\nsub/c.jpg,anger,test,\n")
    assert manifest.splits == ("test", "train")
    assert [sample.image for sample in manifest.split("test")] == ["b.jpg", "sub/c.jpg"]
    with pytest.raises(OrsanetError, match=r"'samples' has no split 'valid'; it has test, train"):
        manifest.split("valid")


def test_the_descriptor_may_name_its_own_splits(root: Path) -> None:
    toml = TOML + 'splits = ["fold1", "fold2"]\n'
    assert load_toml(root, toml, HEADER + "a.jpg,anger,fold2,\n").splits == ("fold2",)
    with pytest.raises(OrsanetError, match="unknown split 'train'; the splits are fold1, fold2"):
        load_toml(root, toml, HEADER + "a.jpg,anger,train,\n")


def test_a_link_inside_the_root_is_followed(root: Path) -> None:
    (root / "link.jpg").symlink_to("sub/c.jpg")
    (root / "folder").symlink_to("sub")
    table = HEADER + "link.jpg,anger,train,\n"
    assert load_table(root, table).samples[0].image == "link.jpg"
    assert load_table(root, HEADER + "folder/c.jpg,anger,train,\n").samples[0].image == "folder/c.jpg"


def test_a_link_out_of_the_root_is_followed_and_counted_once(root: Path) -> None:
    blobs = root.parent / "blobs"
    blobs.mkdir()
    (root / "folder").symlink_to("../blobs")
    for name in ("d1", "d2"):
        (blobs / name).write_bytes(b"")
    (root / "link.jpg").symlink_to("../blobs/d1")
    manifest = load_table(root, HEADER + "link.jpg,anger,train,\nfolder/d2,anger,train,\na.jpg,anger,train,\n")
    assert [sample.image for sample in manifest.samples] == ["link.jpg", "folder/d2", "a.jpg"]
    (note,) = manifest.notes
    assert note.startswith(f"2 image(s) lie outside {root}, behind links that are followed, such as 'link.jpg' in ")
    assert load_table(root, HEADER + "a.jpg,anger,train,\n").notes == ()
    said = table_refusal(root, HEADER + "link.jpg,anger,train,\nfolder/d1,anger,train,\n")
    assert "image 'folder/d1' is the same file as 'link.jpg'" in said


def test_a_root_that_is_itself_a_link_is_followed(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    assert load_table(link, HEADER + "a.jpg,anger,train,\n").root == link


def test_without_the_file_check_no_file_needs_to_be_there(root: Path) -> None:
    table = HEADER + "not there.jpg,anger,train,\n"
    assert "not there.jpg" in table_refusal(root, table)
    assert load_table(root / "no such folder", table, check_files=False).samples[0].image == "not there.jpg"
    alone = load_manifest(root.parent / "samples.csv", classes=CLASSES, check_files=False)  # needs no root either
    assert alone.samples[0].image == "not there.jpg"


@pytest.mark.parametrize("image", ["/a.jpg", "../a.jpg", "sub/../../a.jpg", ""])
def test_without_the_file_check_a_path_out_of_the_root_is_still_refused(root: Path, image: str) -> None:
    assert lines_named(table_refusal(root, HEADER + f"{image},anger,train,\n", check_files=False)) == [2]


AWKWARD_NAMES = [
    "name with  spaces .jpg",
    " leading and trailing ",
    "new\nline.jpg",
    "carriage\rreturn.jpg",
    "carriage return and\r\nnew line.jpg",
    "quote\"and'comma,.jpg",
    '"quoted"',
    "naïve_表情_😀.jpg",
    "nai\u0308ve_nfd.jpg",
    "\ufeffbyte order mark.jpg",
    "-rf.jpg",
    "--root=.jpg",
    "x" * 200 + ".jpg",
    "<img src=x onerror=alert(1)>.jpg",
    "%s%n{0}.jpg",
    "$(touch pwned);`id`.jpg",
    "#comment.jpg",
    "back\\slash.jpg",
    "tab\t.jpg",
    "=1+1.jpg",
    "form feed\x0c.jpg",
    "vertical tab\x0b.jpg",
    "file separator\x1c.jpg",
    "next line\x85.jpg",
    "line separator\u2028.jpg",
    "paragraph separator\u2029.jpg",
    "...",
    "sub/...jpg",
]


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_an_awkward_file_name_round_trips(root: Path, name: str) -> None:
    (root / name).write_bytes(b"")
    rows = [("image", "label", "split", "tags"), (name, "anger", "train", "t"), ("a.jpg", "neutral", "test", "")]
    expected = (Sample(name, 0, "train", frozenset({"t"})), Sample("a.jpg", 2, "test", frozenset()))
    assert load_table(root, written(rows)).samples == expected


def test_composed_and_decomposed_names_are_two_samples(root: Path) -> None:
    composed, decomposed = "é.jpg", "e\u0301.jpg"
    (root / composed).write_bytes(b"")
    (root / decomposed).write_bytes(b"")
    table = HEADER + f"{composed},anger,train,\n{decomposed},anger,train,\n"
    assert [sample.image for sample in load_table(root, table).samples] == [composed, decomposed]


@pytest.mark.parametrize(("in_table", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_is_found_in_the_other_form_of_its_accents(root: Path, in_table: str, on_disk: str) -> None:
    names = ["Zoé.jpg", "화남/が.jpg", "ñandú/Ångström.jpg"]
    for name in names:
        path = root / unicodedata.normalize(on_disk, name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    ids = [unicodedata.normalize(in_table, name) for name in names]
    manifest = load_table(root, HEADER + "".join(f"{image},anger,train,\n" for image in ids))
    assert [sample.image for sample in manifest.samples] == ids  # an id stays the table's text
    assert [manifest.path(sample).read_text() for sample in manifest.samples] == names
    assert "3 image(s) have names whose accents are written in another form" in manifest.notes[0]
    (root.parent / "tags.csv").write_text(f"image,tags\n{unicodedata.normalize(on_disk, names[0])},mask\n")
    assert with_tags(manifest, root.parent / "tags.csv").samples[0].tags == {"mask"}


def test_a_name_that_several_files_could_mean_is_refused_with_their_names(root: Path) -> None:
    names = ("o\u0302\u0323.jpg", "o\u0323\u0302.jpg")  # two spellings of one letter, neither of them composed
    for name in names:
        (root / name).write_bytes(b"")
    said = table_refusal(root, HEADER + "\u1ed9.jpg,anger,train,\n")
    assert "does not exist" in said
    assert f"differs only in how accents are written: {names[0]!r}, {names[1]!r}" in said


def test_a_class_is_found_in_the_other_form_of_its_accents(root: Path) -> None:
    toml = TOML.replace('"anger"', '"colère"')
    table = HEADER + f"a.jpg,{unicodedata.normalize('NFD', 'colère')},train,\n"
    assert load_toml(root, toml, table).samples[0].label == 0


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("val", "valid"),
        ("Validation", "valid"),
        ("dev", "valid"),
        ("TRAIN", "train"),
        ("training", "train"),
        ("Test", "test"),
    ],
)
def test_usual_spellings_of_a_split_are_understood(root: Path, written: str, meant: str) -> None:
    assert load_table(root, HEADER + f"a.jpg,anger,{written},\n").samples[0].split == meant
    named = load_toml(root, TOML + f'splits = ["{written}"]\n', HEADER + f"a.jpg,anger,{written},\n")
    assert named.samples[0].split == written  # a name that the descriptor itself gives


# --- tables as spreadsheets save them ---


def test_rows_and_columns_without_name_and_content_are_passed_over(root: Path) -> None:
    plain = "image,label,split,tags\na.jpg,anger,train,x\nb.jpg,neutral,test,\n"
    padded = ",,,,,\nimage,,label,split,tags,,\na.jpg,,anger,train,x,,\n,,,,,,\nb.jpg, ,neutral,test,\n , ,,,,\n,,\n"
    assert load_table(root, padded) == load_table(root, plain)
    assert load_table(root, plain.replace("\nb", ",,\nb")) == load_table(root, plain)  # more cells than the header


def test_content_in_a_column_without_a_name_is_refused_once_by_the_columns_number(root: Path) -> None:
    said = table_refusal(root, "image,,label,split,tags,,\na.jpg,,anger,train,,,x\nb.jpg,y,anger,train,,,x\n")
    assert lines_named(said) == [2, 3]
    assert "line 2: column 7 has content but no name in line 1; name it, or delete it" in said
    assert "line 3: column 2 has content but no name" in said


def test_a_table_alone_without_classes_is_told_the_option_with_its_labels(root: Path) -> None:
    path = root.parent / "samples.csv"
    path.write_text(HEADER + "a.jpg,sad face,train,\nb.jpg,anger,train,\n")
    with pytest.raises(
        OrsanetError, match=r"needs --root .* and --classes .*its labels are --classes 'anger,sad face'"
    ):
        load_manifest(path)


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
names = text.filter(lambda name: name and not name.startswith("/") and ".." not in name.split("/"))
tags = text.filter(lambda tag: not set(";@") & set(tag) and tag and tag == tag.strip())
samples = st.builds(
    Sample,
    image=names,
    label=st.integers(0, len(CLASSES) - 1),
    split=st.sampled_from(["train", "valid", "test"]),
    tags=st.frozensets(tags, max_size=3),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(samples, text), min_size=1, max_size=6, unique_by=lambda row: row[0].image))
@example([(Sample("line\u2028separator", 0, "train", frozenset()), "")])
def test_any_samples_written_with_csv_are_read_back_equal(rows: list[tuple[Sample, str]]) -> None:
    table = written(
        [
            ("image", "label", "split", "tags", "note"),
            *((marked(s.image), CLASSES[s.label], s.split, marked(";".join(sorted(s.tags))), note) for s, note in rows),
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "samples.csv").write_bytes(table.encode())
        manifest = load_manifest(Path(folder) / "samples.csv", classes=CLASSES, check_files=False)
    assert manifest.samples == tuple(sample for sample, _ in rows)


# --- mistakes in the table ---


@pytest.mark.parametrize(
    ("row", "fragments"),
    [
        ("nowhere.jpg,anger,train,", ["nowhere.jpg", "does not exist"]),
        ("a.jpg,joy,train,", ["unknown class 'joy'", "anger, happiness, neutral"]),
        ("a.jpg, anger,train,", ["unknown class ' anger'"]),
        ("a.jpg,Anger,train,", ["unknown class 'Anger'"]),
        ("a.jpg,0,train,", ["unknown class '0'"]),
        ("a.jpg,anger,fold9,", ["unknown split 'fold9'", "train, valid, test"]),
        ("a.jpg,anger,,", ["unknown split ''"]),
        ("b.jpg,anger,train,", ["b.jpg", "already on line 2"]),
        ("inside.jpg,anger,train,", ["inside.jpg", "same file as 'b.jpg'"]),
        ("./b.jpg,anger,train,", ["./b.jpg", "same file as 'b.jpg'"]),
        ("/etc/hostname,anger,train,", ["/etc/hostname", "absolute"]),
        ("../faces/a.jpg,anger,train,", ["../faces/a.jpg", "'..'"]),
        ("sub/../a.jpg,anger,train,", ["sub/../a.jpg", "'..'"]),
        ("outside/../../outside/secret.jpg,anger,train,", ["outside/secret.jpg", "leaves the root with '..'"]),
        ("device.jpg,anger,train,", ["device.jpg", "not a regular file"]),
        ("far pipe.jpg,anger,train,", ["far pipe.jpg", "not a regular file"]),
        ("dangling.jpg,anger,train,", ["dangling.jpg", "does not exist"]),
        ("A.JPG,anger,train,", ["A.JPG", "differs only in upper and lower case: 'a.jpg'"]),
        ("loop.jpg,anger,train,", ["loop.jpg", "does not exist"]),
        ("sub,anger,train,", ["'sub'", "not a regular file"]),
        (".,anger,train,", ["'.'", "not a regular file"]),
        ("pipe.jpg,anger,train,", ["pipe.jpg", "not a regular file"]),
        ("a.jpg/b.jpg,anger,train,", ["a.jpg/b.jpg", "does not exist"]),
        (f"{'x' * 300},anger,train,", ["x" * 300, "does not exist"]),
        (",anger,train,", ["no image"]),
        ("a.jpg,anger,train", ["3 cells", "header has 4"]),
        ("a.jpg,anger,train,,x", ["5 cells", "header has 4"]),
        ('"a".jpg,anger,train,', ["not valid CSV"]),
        (f"{'x' * 200_000},anger,train,", ["not valid CSV", "131072"]),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_a_mistake_in_a_row_is_named_with_its_line(root: Path, row: str, fragments: list[str]) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(b"")
    (root / "inside.jpg").symlink_to("b.jpg")
    (root / "outside").symlink_to(outside)
    (root / "device.jpg").symlink_to("/dev/zero")
    os.mkfifo(outside / "pipe")
    (root / "far pipe.jpg").symlink_to(outside / "pipe")
    (root / "dangling.jpg").symlink_to("gone.jpg")
    (root / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(root / "pipe.jpg")
    message = table_refusal(root, HEADER + f"b.jpg,anger,train,\n{row}\nsub/c.jpg,anger,train,\n")
    assert "samples.csv" in message
    assert lines_named(message) == [3]
    assert [fragment for fragment in fragments if fragment not in message] == []


TABLE_MISTAKES: dict[str, tuple[str | bytes, list[str]]] = {
    "empty": ("", ["line 1", "missing column(s) image, label, split"]),
    "blank": ("\n\n", ["line 1", "missing column(s) image, label, split"]),
    "missing column": ("image,label\na.jpg,anger\n", ["line 1", "missing column(s) split", "'label'"]),
    "column in upper case": ("Image,label,split\na.jpg,anger,train\n", ["line 1", "missing column(s) image"]),
    "semicolons": ("image;label;split\na.jpg;anger;train\n", ["line 1", "missing column(s) image, label, split"]),
    "column twice": ("image,label,split,label\na.jpg,anger,train,anger\n", ["line 1", "named twice: label"]),
    "header only": (HEADER, ["no samples", "only a header"]),
    "header and blank lines": (HEADER + "\n\n", ["no samples", "only a header"]),
    "NUL": (HEADER + "a\0.jpg,anger,train,\n", ["NUL"]),
    "Latin-1": (HEADER.encode() + b"a.jpg,anger,train,\nlatin1_\xe9.jpg,anger,train,\n", ["line 3", "not UTF-8"]),
    "UTF-16": (HEADER.encode("utf-16"), ["line 1", "not UTF-8"]),
}


@pytest.mark.parametrize("mistake", TABLE_MISTAKES)
def test_a_table_that_is_none_is_refused_as_a_whole(root: Path, mistake: str) -> None:
    table, fragments = TABLE_MISTAKES[mistake]
    message = table_refusal(root, table)
    assert "samples.csv" in message
    assert [fragment for fragment in fragments if fragment not in message] == []


def test_all_findings_are_reported_at_once_with_their_lines(root: Path) -> None:
    rows = [
        ("image", "label", "split", "a quoted\ncolumn name"),  # lines 1 and 2
        ("a.jpg", "joy", "train", ""),
        ("new\nline.jpg", "anger", "train", ""),  # lines 4 and 5
        ("b.jpg", "anger", "fold9", ""),
        ("nowhere.jpg", "joy", "fold9", ""),
        ("a.jpg", "anger", "train", "two\nmore\nlines"),  # lines 8 to 10
        ("sub/c.jpg", "anger", "train", ""),
        ("/absolute.jpg", "anger", "train", ""),
    ]
    (root / "new\nline.jpg").write_bytes(b"")
    message = table_refusal(root, written(rows))
    assert "7 problem(s), nothing was done" in message
    assert lines_named(message) == [3, 6, 7, 7, 7, 8, 12]
    assert "image 'a.jpg' is already on line 3" in message


def test_blank_lines_are_skipped_and_counted(root: Path) -> None:
    message = table_refusal(root, HEADER + "\na.jpg,anger,train,\n\n\nb.jpg,joy,train,\n")
    assert lines_named(message) == [6]


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0c"])
def test_only_line_endings_count_as_lines(root: Path, separator: str) -> None:
    table = HEADER + f'a.jpg,anger,train,"some{separator}tag"\nb.jpg,joy,train,\n'
    assert lines_named(table_refusal(root, table)) == [3]


def test_a_wrong_cell_count_does_not_hide_the_other_findings(root: Path) -> None:
    table = HEADER + "a.jpg,joy,train,\nb.jpg,anger\nsub/c.jpg,anger,fold9,\n"
    assert lines_named(table_refusal(root, table)) == [2, 3, 4]


def test_an_unclosed_quote_is_named_by_the_line_where_it_opens(root: Path) -> None:
    table = HEADER + 'a.jpg,anger,train,\n"b.jpg,anger,train,\nsub/c.jpg,anger,train,\n'
    assert lines_named(table_refusal(root, table)) == [3]


def test_a_file_name_cannot_break_its_finding_into_lines_of_its_own(root: Path) -> None:
    forged = "gone.jpg\n  line 99: unknown class 'forged'\x1b[31m"
    message = table_refusal(root, written([("image", "label", "split"), (forged, "anger", "train")]))
    assert lines_named(message) == [2]
    assert "\x1b" not in message


def test_a_long_list_of_findings_is_cut_and_its_tail_counted(root: Path) -> None:
    message = table_refusal(root, HEADER + "".join(f"gone{index}.jpg,anger,train,\n" for index in range(25)))
    assert "25 problem(s)" in message
    assert lines_named(message) == list(range(2, 22))
    assert message.endswith("… and 5 more")


# --- mistakes in the descriptor and in the call ---


LIST = '["anger", "happiness", "neutral"]'
DESCRIPTOR_MISTAKES: dict[str, tuple[str | bytes, list[str]]] = {
    "unclosed string": ('name = "faces\n', ["not valid TOML", "line 1"]),
    "no value": (TOML + "color = \n", ["not valid TOML", "line 4"]),
    "key twice": (TOML + 'name = "again"\n', ["not valid TOML", "line 4"]),
    "number of 5000 digits": (TOML + "number = " + "1" * 5000, ["not valid TOML"]),
    "nested 5000 deep": (TOML + "deep = " + "[" * 5000, ["not valid TOML"]),
    "not UTF-8": (TOML.encode() + b"# \xff\n", ["line 4", "not UTF-8"]),
    "unknown key": (TOML + 'rot = "."\n', ["rot", "unknown key"]),
    "root of wrong type": (TOML + "root = 3\n", ["root", "string", "3"]),
    "no splits": (TOML + "splits = []\n", ["splits"]),
    "splits of wrong type": (TOML + 'splits = "train"\n', ["splits", "list", "'train'"]),
    "empty name": (TOML.replace('"faces"', '""'), ["name"]),
    "no name": (TOML.replace('name = "faces"\n', ""), ["name", "required"]),
    "classes of wrong type": (TOML.replace(LIST, '"anger"'), ["classes", "list", "'anger'"]),
    "one class": (TOML.replace(LIST, '["anger"]'), ["classes"]),
    "class of wrong type": (TOML.replace('"happiness"', "1"), ["classes.1", "string"]),
    "empty class": (TOML.replace('"happiness"', '""'), ["classes.1"]),
    "class twice": (TOML.replace('"happiness"', '"anger"'), ["class named twice: anger"]),
    "no such table": (TOML.replace("samples.csv", "missing.csv"), ["missing.csv", "cannot be read"]),
    "table is a folder": (TOML.replace("samples.csv", "."), ["cannot be read"]),
    "NUL in a path": (TOML.replace("samples.csv", r"samples\u0000.csv"), []),
    "no such root": (TOML + 'root = "nowhere"\n', ["nowhere", "not a folder", "--root"]),
    "root is a file": (TOML + 'root = "a.jpg"\n', ["a.jpg", "not a folder"]),
}


@pytest.mark.parametrize("mistake", DESCRIPTOR_MISTAKES)
def test_a_mistake_in_the_descriptor_is_named(root: Path, mistake: str) -> None:
    toml, fragments = DESCRIPTOR_MISTAKES[mistake]
    message = toml_refusal(root, toml)
    assert str(root) in message
    assert [fragment for fragment in fragments if fragment not in message] == []


def test_all_mistakes_in_the_descriptor_are_named_at_once(root: Path) -> None:
    message = toml_refusal(root, 'name = 1\nsamples = "samples.csv"\nrot = "."\n')
    assert [key for key in ("name", "classes", "rot") if f"  {key}: " not in message] == []


def test_a_mistake_in_the_call_says_which_option_mends_it(root: Path) -> None:
    table = root / "samples.csv"
    load_toml(root, TOML)
    with pytest.raises(OrsanetError, match=r"needs --root .* and --classes"):
        load_manifest(table)
    with pytest.raises(OrsanetError, match=r"needs --root"):
        load_manifest(table, classes=CLASSES)
    with pytest.raises(OrsanetError, match=r"needs .*--classes"):
        load_manifest(table, root=root)
    with pytest.raises(OrsanetError, match=r"needs --classes"):
        load_manifest(table, check_files=False)
    with pytest.raises(OrsanetError, match=r"--classes is for a CSV alone"):
        load_manifest(root / "dataset.toml", classes=CLASSES)
    with pytest.raises(OrsanetError, match="class named twice: anger"):
        load_manifest(table, root=root, classes=["anger", "neutral", "anger"])
    with pytest.raises(OrsanetError, match="--classes"):
        load_manifest(table, root=root, classes=["anger"])
    with pytest.raises(OrsanetError, match="--classes"):
        load_manifest(table, root=root, classes=["anger", ""])
    with pytest.raises(OrsanetError, match=r"not a folder.*--root"):
        load_manifest(table, root=table, classes=CLASSES)


@pytest.mark.parametrize("name", ["missing.toml", "missing.csv", "folder.toml", "folder.csv", "file.txt", "noext"])
def test_a_manifest_that_is_none_is_refused_by_name(root: Path, name: str) -> None:
    if name.startswith("folder"):
        (root / name).mkdir()
    elif not name.startswith("missing"):
        (root / name).write_text(TOML)
    with pytest.raises(OrsanetError, match=re.escape(name)):
        load_manifest(root / name, root=root, classes=CLASSES if name.endswith(".csv") else None)


def test_an_upper_case_suffix_is_a_suffix(root: Path) -> None:
    (root / "SAMPLES.CSV").write_text(HEADER + "a.jpg,anger,train,\n")
    (root / "DATASET.TOML").write_text(TOML.replace("samples.csv", "SAMPLES.CSV"))
    assert (
        load_manifest(root / "DATASET.TOML").samples
        == load_manifest(root / "SAMPLES.CSV", root=root, classes=CLASSES).samples
    )


@pytest.mark.parametrize("name", ["..", ".commits", "a/b", "a:b", "", "zarr.json", "x" * 65])
def test_a_split_name_is_a_plain_folder_name(root: Path, name: str) -> None:
    assert "splits.0" in toml_refusal(root, TOML + f'splits = ["{name}"]\n')


def test_further_tags_are_added_to_those_of_the_manifest(world, tmp_path: Path) -> None:
    manifest = world.load_manifest()
    first, second = manifest.split("test")[:2]
    (tmp_path / "lists.csv").write_text(
        f"image,degrees,tags\n{first.image},30,pose\n{second.image},45,pose; occluded\n{first.image},1,glasses\n"
    )
    tagged = {sample.image: sample for sample in with_tags(manifest, tmp_path / "lists.csv").samples}
    assert tagged[first.image].tags == first.tags | {"pose", "glasses"}
    assert tagged[second.image].tags == second.tags | {"pose", "occluded"}
    untouched = [sample for sample in manifest.samples if sample.image not in (first.image, second.image)]
    assert [tagged[sample.image] for sample in untouched] == untouched


def test_a_list_of_other_images_is_refused_with_every_finding(world, tmp_path: Path) -> None:
    (tmp_path / "lists.csv").write_text("image,tags\nelsewhere.png,pose\nimages/test_0.png, ;\nimages/test_1.png,a@b\n")
    with pytest.raises(OrsanetError) as error:
        with_tags(world.load_manifest(), tmp_path / "lists.csv")
    assert "line 2: manifest 'small' has no image 'elsewhere.png'" in str(error.value)
    assert "line 3: no tag" in str(error.value)
    assert "line 4: tag 'a@b' contains '@'" in str(error.value)
    (tmp_path / "lists.csv").write_text("name,tags\n")
    with pytest.raises(OrsanetError, match=r"missing column\(s\) image"):
        with_tags(world.load_manifest(), tmp_path / "lists.csv")


MANY = 40_000


def at_once(limit: float = 10.0) -> float:
    """The processor's time by which what begins now must end: linear work needs a tenth of it, quadratic work minutes."""
    return time.process_time() + limit


def test_the_time_of_a_wide_table_grows_with_its_size(root: Path) -> None:
    names = [f"c{number}" for number in range(MANY)]
    until = at_once()
    table = HEADER.strip() + "," + ",".join(names) + "\na.jpg,anger,train," + "," * MANY + "\n"
    assert len(load_table(root, table).samples) == 1
    said = table_refusal(root, table.replace("c39999", "c7", 1))
    assert "column named twice: c7" in said
    said = table_refusal(root, ",".join(["image", *names]) + "\n")
    assert "'image', 'c0', 'c1', " in said
    assert f"and {MANY + 1 - 20:,} more" in said
    assert time.process_time() < until


def test_the_time_of_many_classes_grows_with_their_number(root: Path) -> None:
    names = [f"k{number}" for number in range(MANY)]
    toml = f'name = "many"\nclasses = {names}\nsamples = "table.csv"\nroot = "."\n'
    until = at_once()
    right = HEADER + "".join(f"{number}.jpg,k{number},train,\n" for number in range(MANY))
    (root / "table.csv").write_text(right)
    (root / "many.toml").write_text(toml)
    loaded = load_manifest(root / "many.toml", check_files=False)
    assert [sample.label for sample in loaded.samples] == list(range(MANY))
    (root / "table.csv").write_text(right.replace(",k", ",no-k"))
    with pytest.raises(
        OrsanetError,
        match=rf"{MANY} problem.*[\s\S]*unknown class 'no-k0'; the classes are k0, k1, .* and {MANY - 20:,} more",
    ):
        load_manifest(root / "many.toml", check_files=False)
    (root / "many.toml").write_text(toml.replace("'k39999'", "'k5'"))
    with pytest.raises(OrsanetError, match=r"class named twice: k5$"):
        load_manifest(root / "many.toml", check_files=False)
    assert time.process_time() < until


def test_the_time_of_many_tags_grows_with_their_number(world, tmp_path: Path) -> None:
    manifest = world.load_manifest()
    image = manifest.samples[0].image
    until = at_once()
    (tmp_path / "tags.csv").write_text("image,tags\n" + "".join(f"{image},t{number}\n" for number in range(MANY)))
    assert len(with_tags(manifest, tmp_path / "tags.csv").samples[0].tags - manifest.samples[0].tags) == MANY
    assert time.process_time() < until


def test_the_check_of_many_files_lists_their_folder_and_asks_for_none_of_them(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"sub/{number}.jpg" for number in range(300)]
    for name in names:
        (root / name).touch()
    asked: list[str] = []
    for call in ("stat", "lstat"):
        real = getattr(os, call)
        monkeypatch.setattr(
            os, call, lambda path, *rest, real=real, **more: (asked.append(path), real(path, *rest, **more))[1]
        )
    assert len(load_table(root, HEADER + "".join(f"{name},anger,train,\n" for name in names)).samples) == len(names)
    assert [path for path in asked if os.fspath(path).endswith(".jpg")] == []
