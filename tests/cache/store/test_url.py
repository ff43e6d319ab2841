"""A store at a URL is the store on a disk: the same rows, seals and sentences; copied there and back it has the same bytes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from command_lines import in_process
from object_server import SECRET, Proxy
from small_store import content, everything

from orsanet_cache import OrsanetError, PriorStore, prior_quality, verify
from orsanet_cache.cli import main
from orsanet_cache.errors import UnreachableError
from orsanet_cache.paths import Url
from orsanet_cache.places.bucket import Bucket
from orsanet_cache.store.schema import schema
from orsanet_cache.store.verify import unfinished
from orsanet_cache.writing.convert import convert
from orsanet_cache.writing.writer import StoreWriter

VIEWS = {split: ["clean", "hflip"] for split in ("train", "valid", "test")}
FIELDS = ("image", "segmentation_map", "landmark_features")


@pytest.fixture
def uploaded(in_units, bucket: Proxy, url: str) -> str:
    convert(in_units.store, url)
    bucket.log.clear()
    return url


def path_content(copies: list[Path]) -> bytes:
    """Another shard's."""
    return sorted(copies)[3].read_bytes()


def shards(bucket: Proxy) -> list[str]:
    """The requests for shards: files of arrays with more than one dimension that are not records."""
    return [
        line
        for line in bucket.requests("GET")
        if "/c." in line and "sha256" not in line and "crc32c" not in line and "sample_id" not in line
    ]


@pytest.mark.parametrize("kept", [False, True])
def test_everything_reads_the_same(in_units, uploaded: str, tmp_path: Path, kept: bool) -> None:
    there = PriorStore.open(uploaded, tmp_path / "cache" if kept else None)
    here = PriorStore.open(in_units.store)
    assert str(there.path) == uploaded
    assert there.nbytes() == here.nbytes()
    assert there.recipe == here.recipe
    for split, views in VIEWS.items():
        assert there.sample_ids(split) == here.sample_ids(split)
        for view in views:
            assert there.sealed(split, view).seal == here.sealed(split, view).seal
            for field in here.fields(split, view):
                rows = np.array([3, 0, len(here.sample_ids(split)) - 1, 3])
                assert np.array_equal(there.read(split, view, field, rows), here.read(split, view, field, rows))
                assert np.array_equal(
                    there.read(split, view, field, slice(None)), here.read(split, view, field, slice(None))
                )
    there.check_unchanged()
    assert prior_quality(there, "test", "clean", [0, 1]).equals(prior_quality(here, "test", "clean", [0, 1]))


def test_the_commands_answer_as_for_a_folder(in_units, uploaded: str, tmp_path: Path) -> None:
    for words in (["info"], ["verify"], ["verify", "--deep"], ["verify", "--sample", "2/3"]):
        there = in_process(main, *words, uploaded)
        here = in_process(main, *words, in_units.store)
        assert there.returncode == 0, there.stderr
        assert (
            there.stdout.replace(uploaded, str(in_units.store)).replace("in the object store", "on disk") == here.stdout
        )
    for store, sheet in ((uploaded, "there.png"), (in_units.store, "here.png")):
        ended = in_process(main, "show", store, "--split", "test", "-n", 2, "--out", tmp_path / sheet)
        assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "there.png").read_bytes() == (tmp_path / "here.png").read_bytes()


def test_up_across_and_down_again(in_units, uploaded: str, tmp_path: Path) -> None:
    across = uploaded.replace("store.zarr", "copy.zarr")
    for source, target in ((uploaded, across), (across, tmp_path / "down.zarr"), (across, tmp_path / "down.h5")):
        ended = in_process(main, "convert", source, target)
        assert ended.returncode == 0, ended.stderr
    assert content(tmp_path / "down.zarr") == content(in_units.store)
    assert everything(tmp_path / "down.h5", VIEWS) == everything(in_units.store, VIEWS)
    assert (tmp_path / "down.h5").is_file()
    with pytest.raises(OrsanetError, match="already exists; choose another name"):
        convert(in_units.store, across)
    with pytest.raises(OrsanetError, match="convert it to a Zarr folder first"):
        convert(tmp_path / "down.h5", across.replace("copy", "other"))


def test_an_interrupted_upload_is_no_store_and_goes_on(in_units, bucket: Proxy, url: str) -> None:
    down = bucket.rule("PUT .*train/hflip/landmarks/c[.]1", "503")
    with pytest.raises(OrsanetError, match="does not answer, or fails"):
        convert(in_units.store, url)
    with pytest.raises(OrsanetError, match="no such store"):
        PriorStore.open(url)
    down.times = 0
    sent = len(bucket.requests("PUT"))
    convert(in_units.store, url)
    files = len(content(in_units.store))
    assert len(bucket.requests("PUT")) - sent < files
    assert in_process(main, "verify", "--deep", url).returncode == 0


def test_an_upload_never_mixes_with_other_objects(in_units, bucket: Proxy, url: str) -> None:
    objects = Bucket.open(Url(url))
    objects.write("thesis.pdf", b"of somebody")
    with pytest.raises(OrsanetError, match=r"thesis.pdf: there are other objects at this place"):
        convert(in_units.store, url)
    objects.delete(["thesis.pdf"])

    def another(line: str) -> None:
        if line.startswith("GET") and "list-type" in line and len(bucket.requests("PUT")) > 50:
            bucket.before = lambda _: None
            objects.write("train/clean/landmarks/c.0.0.0", b"of another writer")

    bucket.before = another
    with pytest.raises(OrsanetError, match=r"landmarks/c.0.0.0: differs from what was sent"):
        convert(in_units.store, url)
    assert objects.entry("zarr.json") is None


def test_damage_in_the_bucket_is_found_named_and_not_copied(
    in_units, uploaded: str, bucket: Proxy, tmp_path: Path
) -> None:
    objects = Bucket.open(Url(uploaded))
    name = "train/clean/landmark_features/c.1.0.0.0"
    whole = objects.read(name)[0]
    flipped = bytearray(whole)
    flipped[100] ^= 4
    other = objects.read(name.replace("c.1", "c.2"))[0]  # whole, and of other rows
    for damaged in (bytes(flipped), whole[:-10], other):
        objects.write(name, damaged)
        store = PriorStore.open(uploaded, tmp_path / "cache")
        with pytest.raises(OrsanetError, match="train/clean/landmark_features is damaged"):
            store.read("train", "clean", "landmark_features", [4])
        assert store.read("train", "clean", "landmark_features", [0]) is not None
        ended = in_process(main, "verify", "--deep", uploaded)
        assert ended.returncode == 1
        assert "1 unit(s) are damaged" in ended.stderr
        assert "train/clean, rows 4 to 7: landmark_features" in ended.stderr
        with pytest.raises(OrsanetError, match="does not match the seal"):
            convert(uploaded, tmp_path / "down.zarr")
        assert not (tmp_path / "down.zarr").exists()
    objects.delete([name])
    with pytest.raises(OrsanetError, match="train/clean/landmark_features is damaged"):
        PriorStore.open(uploaded).read("train", "clean", "landmark_features", [4])
    objects.write(name, whole)
    assert in_process(main, "verify", "--deep", uploaded).returncode == 0


def test_a_copy_that_was_damaged_here_is_fetched_again(in_units, uploaded: str, bucket: Proxy, tmp_path: Path) -> None:
    here = PriorStore.open(in_units.store).read("train", "clean", "landmark_features", slice(None))
    PriorStore.open(uploaded, tmp_path).read("train", "clean", "landmark_features", slice(None))
    assert len(shards(bucket)) == 4
    copies = [path for path in (tmp_path / "orsanet-shards").iterdir() if path.is_file()]
    for path, damage in zip(sorted(copies), (b"", b"foreign", path_content(copies)), strict=False):
        path.write_bytes(damage)
    bucket.log.clear()
    for _ in range(2):
        store = PriorStore.open(uploaded, tmp_path)
        assert np.array_equal(store.read("train", "clean", "landmark_features", slice(None)), here)
    assert len(shards(bucket)) == 4  # a read of rows that fails fetches all of its shards again
    for path in (tmp_path / "orsanet-shards").iterdir():  # in use now
        if path.is_file():
            content_ = bytearray(path.read_bytes())
            content_[50] ^= 1
            with path.open("r+b") as file:
                file.write(content_)
    with pytest.raises(OrsanetError, match="was changed while it was in use"):
        store.check_unchanged()


def test_a_kept_store_is_read_without_a_request_for_shards(uploaded: str, bucket: Proxy, tmp_path: Path) -> None:
    for _ in range(2):
        store = PriorStore.open(uploaded, tmp_path)
        for field in FIELDS:
            store.read("train", "clean", field, slice(None))
    assert sorted(shards(bucket)) == sorted({*shards(bucket)})
    assert len(shards(bucket)) == 4 * len(FIELDS)


def test_few_requests_open_a_view(uploaded: str, bucket: Proxy) -> None:
    store = PriorStore.open(uploaded)
    bucket.log.clear()
    store.sealed("train", "clean")
    records, documents = 2 + 8 + 1, 3 + 3 * 2 + 3 + 20
    assert len(bucket.log) <= records + documents, len(bucket.log)
    assert len(bucket.requests("list-type")) == 0


def test_an_unfinished_store_at_a_url(in_units, bucket: Proxy, url: str, tmp_path: Path) -> None:
    shutil.copytree(in_units.store, tmp_path / "begun.zarr")
    fields = schema(32, 16, "float16")
    with StoreWriter.open(tmp_path / "begun.zarr", {"benchmark": True}, fields) as writer:
        writer.add_split("train", PriorStore.open(in_units.store).sample_ids("train"))
        writer.uncommit(writer.units("train")[1:3], "clean")
    objects = Bucket.open(Url(url))
    for name, data in content(tmp_path / "begun.zarr").items():
        objects.write(name, data)
    assert unfinished(url) == unfinished(tmp_path / "begun.zarr") == ["train/clean: 2 of 4 units of 4 images"]
    assert "not finished, 2 of 4 units" in in_process(main, "info", url).stdout
    with pytest.raises(OrsanetError, match=r"not finished, so it cannot be converted"):
        convert(url, tmp_path / "down.zarr")
    name = "train/clean/landmarks/c.3.0.0"  # of a unit that is committed
    objects.write(name, objects.read(name)[0][:-1])
    assert [(one.view, one.unit.index) for one in verify(url)[1] if one.unit] == [("clean", 3)]
    objects.delete(["train/zarr.json", "train/hflip/zarr.json"])
    assert {damage.what.rpartition("/")[2] for damage in verify(url)[1]} == {"zarr.json is missing"}


def test_what_is_not_a_store(bucket: Proxy, url: str, tmp_path: Path) -> None:
    ended = in_process(main, "info", url)
    assert ended.returncode == 1
    assert f"{url}: no such store" in ended.stderr
    Bucket.open(Url(url)).write("zarr.json", b"{}")
    assert "not a store" in in_process(main, "info", url).stderr
    with pytest.raises(OrsanetError, match="a cache is for the URL of a store"):
        PriorStore.open(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("what", "sentence"), [("drop", "does not answer"), ("expired", "wrong or expired"), ("denied", "access denied")]
)
def test_a_failing_object_store_is_one_sentence_for_every_command(
    uploaded: str, bucket: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what, sentence: str
) -> None:
    monkeypatch.setenv("ORSANET_PATIENCE", "0.5" if what == "drop" else "6")
    for pattern in ("", "/c[.]"):  # at once, and in the middle
        rule = bucket.rule(pattern, what)
        for words in (["info"], ["verify"], ["convert"], ["show", "--split", "test", "--out", tmp_path / "x.png"]):
            line = [*words, uploaded, *([tmp_path / "down.zarr"] if words == ["convert"] else [])]
            ended = in_process(main, *line)
            assert ended.returncode == 1, (words, ended)
            assert sentence in ended.stderr, (words, ended.stderr)
            assert "damage" not in ended.stderr
            assert SECRET not in ended.stderr
            assert ended.stderr.count("\n") == 1
        rule.times = 0
    assert not (tmp_path / "down.zarr").exists()
    monkeypatch.setenv("ORSANET_PATIENCE", "6")
    assert in_process(main, "verify", uploaded).returncode == 0


def test_a_store_at_a_url_opens_in_plain_zarr(in_units, uploaded: str) -> None:
    import zarr
    from zarr.storage import ObjectStore

    group = zarr.open_group(ObjectStore(Bucket.open(Url(uploaded)).handle, read_only=True), mode="r")
    here = PriorStore.open(in_units.store).read("valid", "hflip", "landmarks", slice(None))
    assert np.array_equal(group["valid/hflip/landmarks"][:], here)


def test_memory_is_a_place_of_this_process(in_units) -> None:
    place = "memory://test/store.zarr"
    convert(in_units.store, place)
    assert verify(place, deep=True)[1] == []
    with pytest.raises(OrsanetError, match="no such store"):
        PriorStore.open("memory://test/other.zarr")


def test_a_reader_of_one_state_never_mixes_it_with_a_later_one(in_units, uploaded: str) -> None:
    store = PriorStore.open(uploaded)
    store.sealed("train", "clean")
    objects = Bucket.open(Url(uploaded))
    objects.write("train/clean/landmarks/c.0.0.0", objects.read("train/clean/landmarks/c.1.0.0")[0])
    with pytest.raises(OrsanetError, match="was replaced since the store was opened"):
        store.read("train", "clean", "landmarks", [0])


def test_a_store_that_is_refused_is_not_called_damaged(uploaded: str, bucket: Proxy) -> None:
    bucket.rule("GET .*train/hflip/image_sha256/c", "denied")
    with pytest.raises(UnreachableError):
        verify(uploaded)
