"""What a user names is found or refused in a sentence: files, folders, patterns and webcams, several at once."""

import math
import os
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_lines import in_process

from orsanet_cache import OrsanetError
from orsanet_train.cli import main
from orsanet_train.predict.inputs import find_inputs
from orsanet_train.predict.pictures import Webcam, is_video, pictures

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not list their cameras in /dev")
FIRST_FREE = next(n for n in range(100) if not Path(f"/dev/video{n}").exists())


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with pictures (empty files) and the output of an earlier predict."""
    for name in ("a.jpg", "b.png", "0", "x[1].jpg", "deep/er/c.jpg", "said/overlays/1.jpg", "said/predictions.json"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    monkeypatch.chdir(tmp_path / "photos")
    return tmp_path / "photos"


def found(*given: str, seconds: float | None = None) -> list[str]:
    return [str(one) for one in find_inputs([Path(one) for one in given], seconds).files]


def refusal(*given: str, seconds: float | None = None) -> str:
    with pytest.raises(OrsanetError) as error:
        find_inputs([Path(one) for one in given], seconds)
    return str(error.value)


def test_a_pattern_stands_for_the_files_and_folders_that_it_matches_sorted(photos: Path) -> None:
    assert found("*.jpg") == ["a.jpg", "x[1].jpg"]
    assert found("[ab].*", "*.jpg") == ["a.jpg", "b.png", "a.jpg", "x[1].jpg"]  # as of two folders with one file
    assert found("**/*.jpg") == ["a.jpg", "deep/er/c.jpg", "x[1].jpg"]
    assert found("de*") == ["deep/er/c.jpg"]
    assert found("**") == ["0", "a.jpg", "b.png", "deep/er/c.jpg", "x[1].jpg"]  # each once, although folders match too


def test_an_earlier_output_is_left_out_of_a_pattern_and_named(photos: Path) -> None:
    files, left_out, _ = find_inputs([Path("**/*.jpg")])
    assert left_out == [Path("said")]
    assert Path("said/overlays/1.jpg") not in files
    assert "no file in said/overlays/* except the output of an earlier predict" in refusal("said/overlays/*")


def test_names_that_exist_are_files_whatever_they_look_like(photos: Path) -> None:
    assert found("x[1].jpg", "0") == ["x[1].jpg", "0"]


def test_what_is_not_there_is_named(photos: Path) -> None:
    said = refusal("a.jpg", "none.jpg", "*.tif", "1e3", "12345")
    assert "nothing was predicted:\n  none.jpg\n  *.tif (a pattern that matches no file)\n  1e3\n  12345" in said


@linux
def test_a_webcam_that_is_not_there_is_a_sentence_before_anything_is_written(photos: Path) -> None:
    for name in (str(FIRST_FREE), f"/dev/video{FIRST_FREE}"):
        if name == "0":
            (photos / "0").unlink()
        result = in_process(main, "predict", "run", name, "--out", "out")
        assert result.returncode == 1
        assert (
            f"webcam {FIRST_FREE}: there is no camera /dev/video{FIRST_FREE}, and no file or folder named"
            in result.stderr
        )
        assert "cameras of this machine: " in result.stderr
    assert not (photos / "out").exists()


def test_seconds_are_those_of_a_webcam(photos: Path) -> None:
    assert "--seconds limits a webcam, and none was given" in refusal("a.jpg", seconds=3)


def test_a_camera_that_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match="webcam 99 cannot be opened: it does not exist, another program uses it"):
        list(pictures([Webcam(99)], 1.0))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames, each of one grey."""
    path = tmp_path_factory.mktemp("film") / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 64))
    for number in range(10):
        writer.write(np.full((64, 64, 3), 20 * number, np.uint8))
    writer.release()
    return path


def test_a_camera_is_read_picture_by_picture_at_the_times_of_reading(film: Path) -> None:
    """A file in the place of the camera: it sends as fast as it is read."""
    camera = Webcam(film)
    assert is_video(camera)
    seen = list(pictures([camera], 1e6))
    *taken, last = seen
    assert {str(picture.path) for picture in seen} == {f"webcam {film}"}
    assert [picture.frame for picture in taken] == list(range(10))
    for number, picture in enumerate(taken):
        assert picture.rgb is not None
        np.testing.assert_allclose(picture.rgb, 20 * number, atol=4)
    times = [picture.time for picture in taken]
    assert times == sorted(times)
    assert (last.reason, last.rgb) == ("the camera stopped sending pictures", None)
    assert len(list(pictures([camera], 0.01))) == 2  # the first, and that it stopped


def test_a_webcam_ends_after_its_seconds(film: Path) -> None:
    assert list(pictures([Webcam(film, 0.0)], 1.0)) == []
    assert not any(picture.reason for picture in pictures([Webcam(film, 1e-9)], 1e6))


def test_the_first_ctrl_c_ends_a_webcam_and_the_next_interrupts(film: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    reading = pictures([Webcam(film)], 1e6)
    next(reading)
    os.kill(os.getpid(), signal.SIGINT)
    assert list(reading) == []  # not "stopped": the user ended it
    assert signal.getsignal(signal.SIGINT) == before
    reading = pictures([Webcam(film)], 1e6)
    next(reading)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    reading.close()
    assert signal.getsignal(signal.SIGINT) == before


def test_a_webcam_without_an_end_is_the_last(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "other")  # where cameras are not listed
    assert found("a.jpg", "7") == ["a.jpg", "webcam 7"]
    assert "webcam 7 does not end by itself: pass it last, or limit it with --seconds" in refusal("7", "a.jpg")
    files = find_inputs([Path("7"), Path("/dev/video8"), Path("a.jpg")], 2.5).files
    assert files == [Webcam(7, 2.5), Webcam(8, 2.5), Path("a.jpg")]
    assert find_inputs([Path("7")]).files == [Webcam(7, math.inf)]
