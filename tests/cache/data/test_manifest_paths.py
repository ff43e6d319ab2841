"""What a descriptor names is read only in its own folder, and no line of a file that is no table is printed."""

import os
from pathlib import Path

import pytest

from orsanet_cache import OrsanetError, load_manifest
from orsanet_cache.data.manifest import with_tags
from orsanet_cache.doctor.people import read_persons

SECRET = "user:hash:of:somebody"
TABLE = "image,label,split\na.jpg,anger,train\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inner = tmp_path / "folder"
    inner.mkdir()
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (tmp_path / "table.csv").write_text(TABLE)
    (inner / "table.csv").write_text(TABLE)
    (inner / "secret").write_text(f"{SECRET}\n")
    os.mkfifo(inner / "pipe")
    (inner / "zero").symlink_to("/dev/zero")
    (inner / "linked").symlink_to("../table.csv")
    (inner / "linked secret").symlink_to("../secret")
    return inner


def descriptor(folder: Path, samples: str) -> Path:
    path = folder / "data.toml"
    path.write_text(f'name = "x"\nclasses = ["anger", "fear"]\nsamples = "{samples}"\n')
    return path


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ("../secret", "leads out of the folder"),
        ("../table.csv", "leads out of the folder"),
        ("/dev/zero", "leads out of the folder"),
        ("/etc/hostname", "leads out of the folder"),
        ("far/table.csv", "No such file"),
        ("zero", "not a regular file"),
        ("linked secret", "missing column.* image, label, split; this is no such table"),
        ("pipe", "not a regular file"),
        ("secret", "missing column.* image, label, split; this is no such table"),
        (".", "Is a directory"),
    ],
)
def test_samples_is_a_table_in_the_descriptors_folder(folder: Path, samples: str, said: str) -> None:
    path = descriptor(folder, samples)
    with pytest.raises(OrsanetError, match=said) as refused:
        load_manifest(path, check_files=False)
    assert SECRET not in str(refused.value)
    if "leads" in said:
        with pytest.raises(OrsanetError, match=said):
            read_persons(path)


def test_a_table_may_be_a_link_as_a_picture_may_and_that_is_said(folder: Path) -> None:
    (folder / "a.jpg").write_bytes(b"")
    loaded = load_manifest(descriptor(folder, "linked"))
    assert [sample.image for sample in loaded.samples] == ["a.jpg"]
    assert [note for note in loaded.notes if f"is a link, which is followed, to {folder.parent / 'table.csv'}" in note]
    assert load_manifest(descriptor(folder, "table.csv")).notes == ()
    assert read_persons(descriptor(folder, "linked")) == {}


def test_a_table_given_on_the_command_line_may_be_a_link_but_no_pipe(folder: Path) -> None:
    (folder / "linked.csv").symlink_to("../table.csv")
    assert len(load_manifest(folder / "linked.csv", classes=["anger", "fear"], check_files=False).samples) == 1
    for name in ("pipe.csv", "zero.csv", "pipe.toml"):
        (folder / name).symlink_to("pipe" if "pipe" in name else "/dev/zero")
        with pytest.raises(OrsanetError, match="not a regular file"):
            load_manifest(
                folder / name, classes=None if name.endswith("toml") else ["anger", "fear"], check_files=False
            )


def test_a_list_of_tags_is_no_pipe_and_no_other_file(folder: Path) -> None:
    manifest = load_manifest(descriptor(folder, "table.csv"), check_files=False)
    for name in ("pipe", "zero", "secret"):
        with pytest.raises(OrsanetError, match=r"not a regular file|no such table") as refused:
            with_tags(manifest, folder / name)
        assert SECRET not in str(refused.value)


def test_a_header_with_a_typing_error_is_printed(folder: Path) -> None:
    (folder / "table.csv").write_text(TABLE.replace("label", "lable"))
    with pytest.raises(OrsanetError, match=r"missing column\(s\) label; the header has .*lable"):
        load_manifest(descriptor(folder, "table.csv"), check_files=False)


def test_a_huge_table_is_refused_before_it_is_read(folder: Path) -> None:
    with (folder / "table.csv").open("wb") as file:
        file.truncate(2**41)
    with pytest.raises(OrsanetError, match="2,199,023,255,552 bytes, more than"):
        load_manifest(descriptor(folder, "table.csv"), check_files=False)
