"""What is written: a table and its descriptor, whole or not at all, and never over other content."""

import tomllib
from pathlib import Path

from data_set_trees import RAF_TEST, RAF_TRAIN, made, make, raf_list, refused


def test_the_same_command_again_changes_nothing_and_other_content_is_kept(raf: Path, tmp_path: Path) -> None:
    out = tmp_path / "rafdb.toml"
    made("rafdb", raf, "--out", out)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (out, out.with_suffix(".csv"))}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "basic",
        "rafdb.csv",
        "rafdb.toml",
    ]  # and no temporaries
    assert "nothing to do" in made("rafdb", raf, "--out", out)[1]
    raf_list(raf).write_text(raf_list(raf).read_text().replace("train_00002.jpg 2", "train_00002.jpg 3"))
    result = make("rafdb", raf, "--out", out)
    assert "exists with other content" in str(result.exception)
    assert {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (out, out.with_suffix(".csv"))
    } == before


def test_a_table_of_another_origin_is_not_overwritten_and_no_descriptor_joins_it(raf: Path, tmp_path: Path) -> None:
    (tmp_path / "rafdb.csv").write_text("image,label,split\n")
    result = make("rafdb", raf, "--out", tmp_path / "rafdb.toml")
    assert "rafdb.csv: exists with other content" in str(result.exception)
    assert (tmp_path / "rafdb.csv").read_text() == "image,label,split\n"
    assert not (tmp_path / "rafdb.toml").exists()


def test_what_an_interrupted_call_left_is_completed(raf: Path, tmp_path: Path) -> None:
    out = tmp_path / "rafdb.toml"
    made("rafdb", raf, "--out", out)
    out.unlink()  # the descriptor is written last
    manifest, printed = made("rafdb", raf, "--out", out)
    assert len(manifest.samples) == RAF_TRAIN + RAF_TEST
    assert "wrote" in printed


def test_the_root_moves_with_the_manifest_where_they_lie_together_and_is_absolute_elsewhere(
    raf: Path, tmp_path: Path
) -> None:
    def root(out: Path) -> str:
        made("rafdb", raf, "--out", out)
        return str(tomllib.loads(out.read_text())["root"])

    assert root(tmp_path / "rafdb.toml") == "basic"
    assert root(raf / "rafdb.toml") == "."
    assert root(raf / "manifests/rafdb.toml") == ".."
    assert root(tmp_path / "elsewhere/rafdb.toml") == str(raf.resolve())


def test_an_out_that_is_no_descriptor_is_refused(raf: Path, tmp_path: Path) -> None:
    assert ".toml" in refused("rafdb", raf, "--out", tmp_path / "rafdb")


def test_names_that_a_spreadsheet_would_compute_are_marked_and_read_back(class_folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.toml"
    manifest, _ = made("folders", class_folders, "--classes", "anger==1+1,happiness=@home,neutral=-'", "--out", out)
    assert list(manifest.classes) == ["=1+1", "@home", "-'"]
    for sample in manifest.samples:
        assert Path(sample.image).parent.name == ("anger", "happiness", "neutral")[sample.label]
    cells = [cell for line in out.with_suffix(".csv").read_text().splitlines() for cell in line.split(",")]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert {"'=1+1", "'@home", "'-'"} <= set(cells)
