"""CIFAR-10's folder: the published files by their MD5s through torchvision, the demo's without running anything of theirs."""

import hashlib
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from orsanet_cache.errors import OrsanetError
from orsanet_train.general.cifar import BATCHES, CARD, FOLDER, META, TEST, read_pictures
from orsanet_train.general.demo_data import SHAPES


@pytest.fixture
def folder(demo: Path, tmp_path: Path) -> Path:
    """A copy of the demo's pictures that a test may change."""
    return Path(shutil.copytree(demo / FOLDER, tmp_path / FOLDER))


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def change(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = pickle.loads(path.read_bytes())
    change(content)
    path.write_bytes(pickle.dumps(content, protocol=2))


def test_the_demos_pictures_are_read_from_their_folder_and_from_the_one_around_it(demo: Path) -> None:
    pictures = read_pictures(demo)
    assert pictures.sha256() == read_pictures(demo / FOLDER).sha256()
    assert (pictures.train.shape, pictures.test.shape) == ((100, 32, 32, 3), (20, 32, 32, 3))
    assert pictures.classes == SHAPES
    assert not pictures.published
    assert np.bincount(pictures.test_labels).tolist() == [2] * 10
    first = pickle.loads((demo / FOLDER / "data_batch_2").read_bytes())
    assert pictures.train[20, 3, 5].tolist() == first["data"][0].reshape(3, 32, 32)[:, 3, 5].tolist()


def test_files_with_the_published_digests_are_read_by_torchvision(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published files are not here: torchvision is told the digests of ours instead."""
    expected = read_pictures(folder)
    (folder / CARD).unlink()
    with pytest.raises(OrsanetError, match=r"differ from the published files \(MD5\)"):
        read_pictures(folder)
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5(folder / name)] for name in BATCHES])
    monkeypatch.setattr(CIFAR10, "test_list", [[TEST, md5(folder / TEST)]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(folder / META)})
    for place in (folder, folder.rename(folder.with_name("moved"))):
        if place.exists():
            pictures = read_pictures(place)
            assert pictures.published
            assert pictures.sha256() == expected.sha256()
            assert pictures.classes == SHAPES


def test_what_is_missing_is_answered_with_where_to_get_it(folder: Path) -> None:
    with pytest.raises(
        OrsanetError, match=r"no folder with CIFAR-10; download .* https://www.cs.toronto.edu/~kriz/cifar.html"
    ):
        read_pictures(folder / "absent")
    (folder / "data_batch_3").unlink()
    with pytest.raises(OrsanetError, match="lacks data_batch_3 of CIFAR-10's files; download"):
        read_pictures(folder)
    (folder.parent / "cifar-10-python.tar.gz").touch()
    for given in (folder.parent / "absent", folder.parent / "cifar-10-python.tar.gz"):
        with pytest.raises(OrsanetError, match=r"cifar-10-python.tar.gz: still packed; unpack it"):
            read_pictures(given)


def fewer_labels(content: dict[str, Any]) -> None:
    del content["labels"][-1]


def other_label(content: dict[str, Any]) -> None:
    content["labels"][0] = 10


def narrow(content: dict[str, Any]) -> None:
    content["data"] = content["data"][:, :-1]


def floating(content: dict[str, Any]) -> None:
    content["data"] = content["data"].astype(np.float32)


def fine_labels(content: dict[str, Any]) -> None:
    content["fine_labels"] = content.pop("labels")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (fewer_labels, "20 pictures and 19 labels"), (other_label, "'labels' must be whole numbers from 0 to 9"),
        (narrow, "'data' must be uint8 [n, 3072]: red, green and blue planes of 32 x 32 pixels, rows first, not uint8 [20, 3071]"),
        (floating, "not float32 [20, 3072]"), (fine_labels, "has no readable 'labels'"),
    ],
)  # fmt: skip
def test_other_layouts_are_answered_in_a_sentence(damage: Callable[..., None], named: str, folder: Path) -> None:
    change(folder / TEST, damage)
    with pytest.raises(OrsanetError) as caught:
        read_pictures(folder)
    assert named in str(caught.value)


class Acting:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["ACTED"],)


def test_a_pickle_that_would_act_is_refused_and_does_not_act(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTED", str(tmp_path / "acted"))
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": Acting()}, protocol=2))
    with pytest.raises(OrsanetError, match=r"data_batch_1: has no readable 'data' \(it names posix.mkdir"):
        read_pictures(folder)
    assert not (tmp_path / "acted").exists()
