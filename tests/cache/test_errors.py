"""A name that is near a known one is answered with it, wherever names are refused."""

import time
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from orsanet_cache.data.manifest import load_manifest
from orsanet_cache.data.views import View
from orsanet_cache.errors import OrsanetError, did_you_mean, nearest, validation_findings
from orsanet_cache.store.reader import PriorStore


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("tset", "test"),
        ("val", "valid"),
        ("TRAIN", "train"),
        ("validation", "valid"),
        ("tra", "train"),
        ("trian ", "train"),
        ("train", None),  # it is known: something else is wrong
        ("photographs", None),
        ("", None),
        ("t" * 10**6, None),
    ],
)
def test_the_nearest_name_is_found(name: str, near: str | None) -> None:
    assert nearest(name, ["train", "valid", "test"]) == near
    assert did_you_mean(name, ["train", "valid", "test"]) == ("" if near is None else f"; did you mean '{near}'?")


def test_looking_for_a_near_name_takes_no_longer_for_a_million_names() -> None:
    names = [f"class number {number}" for number in range(10**6)]
    began = time.process_time()
    for _ in range(20):  # as many findings as a message shows
        nearest("class numbr 7", names)
    assert time.process_time() - began < 3


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    depth: int = 8
    size: int = 1


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    batch_size: int = 20
    size: int = 2
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        ({"batchsize": 1}, "batchsize: unknown key; did you mean 'batch_size'?"),
        ({"deph": 1}, "deph: unknown key; did you mean 'inner.depth'?"),
        ({"depth": 1}, "depth: unknown key; did you mean 'inner.depth'?"),
        ({"inner": {"batch_size": 1}}, "inner.batch_size: unknown key; did you mean 'batch_size'?"),
        ({"inner": {"sise": 1}}, "inner.sise: unknown key; did you mean 'inner.size'?"),
        ({"sise": 1}, "sise: unknown key; did you mean 'size'?"),
        ({"colour": 1}, "colour: unknown key"),
    ],
)
def test_an_unknown_key_is_looked_for_in_its_own_table_and_in_the_others(values: object, answer: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(values)
    assert validation_findings(caught.value, Outer) == [answer]


def test_a_view_a_split_and_a_field_are_suggested(world) -> None:
    store, manifest = PriorStore.open(world.store), load_manifest(world.manifest)
    for ask, answer in (
        (lambda: View.parse("sunglases"), "; did you mean 'sunglasses'?"),
        (lambda: View.parse("erase-25"), "; did you mean 'erase-20'?"),
        (lambda: store.accepted("test", "hfilp"), "; did you mean 'hflip'? Otherwise add it with"),
        (lambda: store.accepted("test", "mask"), ". Add it with `orsanet-cache build … --views mask`"),
        (lambda: store.accepted("tset", "clean"), "it has test, train, valid; did you mean 'test'?"),
        (lambda: store.read("test", "clean", "landmark", [0]), "; did you mean 'landmarks'?"),
        (lambda: manifest.split("vaild"), "; did you mean 'valid'?"),
    ):
        with pytest.raises(OrsanetError) as caught:
            ask()
        assert answer in str(caught.value)


def test_a_class_a_split_and_a_key_of_a_manifest_are_suggested(tmp_path: Path) -> None:
    table, descriptor = tmp_path / "m.csv", tmp_path / "m.toml"
    rows = ["a.jpg,hapiness,train", "b.jpg,anger,trian", "c.jpg,anger,test"]
    table.write_text("image,label,split\n" + "\n".join(rows) + "\n")
    described = 'name = "m"\nclasses = ["anger", "happiness"]\nsamples = "m.csv"\n'
    descriptor.write_text(described)
    with pytest.raises(OrsanetError) as caught:
        load_manifest(descriptor, check_files=False)
    assert "unknown class 'hapiness'; the classes are anger, happiness; did you mean 'happiness'?" in str(caught.value)
    assert "unknown split 'trian'; the splits are train, valid, test; did you mean 'train'?" in str(caught.value)
    descriptor.write_text(described + 'clases = ["a", "b"]\n')
    with pytest.raises(OrsanetError, match="clases: unknown key; did you mean 'classes'\\?"):
        load_manifest(descriptor, check_files=False)


def test_the_beginning_of_a_name_goes_before_names_that_resemble_it() -> None:
    assert nearest("segmentation", ["augmentation", "segmentation_prior"]) == "segmentation_prior"
    assert nearest("second", ["hand", "second-face", "sunglasses"]) == "second-face"
