"""The benchmark commands run, and name every contender once."""

import re
from pathlib import Path

import pytest
from command_lines import in_process

from orsanet_cache import OrsanetError
from orsanet_cache.bench.bookkeeping import MEASURED
from orsanet_cache.bench.read import bench_read
from orsanet_cache.cli import main
from orsanet_cache.writing.convert import convert


def bench(*arguments: object) -> str:
    result = in_process(main, "bench", *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_reading_a_store_is_measured_in_every_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orsanet_cache.bench.read.ROUND_SECONDS", 0.05)  # a second of every contender says no more
    said = bench("read", "--gigabytes", 0.05, "--rounds", 1, "--folder", tmp_path)
    assert said.startswith("265 rows of 188.2 kB (image, segmentation_features, landmark_features), 0.05 GB; ")
    assert re.findall(r"^(.+?)  +[\d,]+ +\d", said, flags=re.MULTILINE) == [
        "memmap (the limit)", "ours, Zarr", "ours, Zarr, first read (checksums)", "ours, HDF5",
        "ours, HDF5, first read (checksums)", "zarr-python", "TensorStore", "h5py", ".pt file per sample",
    ]  # fmt: skip
    assert re.search(r"memmap.* 1\.000\n", said)
    assert not list(tmp_path.iterdir())  # the copies are gone


def test_reading_from_a_url_is_measured_against_zarr_python(
    in_units, bucket, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orsanet_cache.bench.read_url.ZARR_SECONDS", 0.05)
    convert(in_units.store, url)
    said = bench("read", "--url", url, "--rounds", 1, "--shards", 2)
    assert said.startswith("8 rows of ")
    rates = [float(rate.replace(",", "")) for rate in re.findall(r"^.+?  +([\d,.]+) +\d", said, flags=re.MULTILINE)]
    assert rates[0] > max(rates[1:])
    for words in (("--url", "folder.zarr"), ("--url", url, "folder.zarr")):
        assert "needs the URL of a store" in in_process(main, "bench", "read", *words).stderr


def test_too_few_images_for_a_batch_are_said_to_be(world, tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match=r"14 images, fewer than one batch of 256"):
        bench_read(world.store, 1, 1, tmp_path)


def test_building_is_measured_with_the_users_networks(world, tmp_path: Path) -> None:
    said = bench(
        "build", world.manifest, "--images", 4, "--views", "clean", "--segmenter", world.segmenter,
        "--landmarks", world.landmarks, "--device", "cpu", "--folder", tmp_path,
    )  # fmt: skip
    assert re.search(
        r"CPU, \d+ threads, fp32, 4 views\nbuild .* views/s; the networks ran .*%.*\nnetworks alone ", said
    )
    assert not list(tmp_path.iterdir())


def test_bookkeeping_is_measured_for_every_number_of_rows(tmp_path: Path) -> None:
    said = bench("bookkeeping", "--rows", "300,1k", "--folder", tmp_path)
    lines = said.splitlines()
    assert lines[1].split() == ["rows", "300", "1,000"]
    assert [line[:38].strip() for line in lines[2:]] == [*MEASURED, "files while building"]
    # A unit has a marker and a shard of two fields in each of two views; the rest does not depend on the rows.
    few, more = (int(number.replace(",", "")) for number in lines[-1].split()[-2:])
    assert more - few == (4 - 2) * 2 * 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rows", ["", "k", "0", "10x", "1,,2"])
def test_no_number_of_rows_is_refused(rows: str) -> None:
    result = in_process(main, "bench", "bookkeeping", "--rows", rows)
    assert result.returncode == 2
    assert "is not a number of rows" in result.stderr
