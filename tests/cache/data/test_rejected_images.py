"""What is no picture, or one of which nobody knows the pixels, is rejected with its reason, at once and without its memory."""

import csv
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from encoded_pictures import (
    IMAGE,
    WHOLE_FILES,
    encoded,
    picture,
    pixels_or_none,
    png,
    reason,
    within,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from orsanet_cache import OrsanetError, load_manifest
from orsanet_cache.data.images import (
    MAX_BYTES,
    MAX_PIXELS,
    MIN_SIDE,
    Pixels,
    RejectedImage,
    decode,
    read_image,
)


@pytest.fixture(scope="module")
def bad_inputs(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad") / "inputs"
    generator = shared / "bad_inputs" / "make_bad_inputs.py"
    subprocess.run([sys.executable, generator, folder, "--fifo"], check=True, timeout=120, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def expectations(bad_inputs: Path) -> dict[str, str]:
    """File name (as the file system has it) -> accept, reject or accept_or_reject."""
    with (bad_inputs / "expectations.csv").open(encoding="utf-8", newline="") as file:
        expected = {row["file"]: row["expect"] for row in csv.DictReader(file)}
    assert len(expected) >= 60
    raw_byte = next(name for name in expected if "raw byte 0xE9" in name)
    expected["latin1_\udce9.jpg"] = expected.pop(raw_byte)
    return expected


def answer(root: Path, name: str, folder: Path) -> Pixels | str:
    """Pixels, or the reason why the manifest or the decoder refuses the file `name` below `root`."""
    table = io.StringIO()
    csv.writer(table).writerows([("image", "label", "split"), (name, "anger", "train")])
    (folder / "one.csv").write_bytes(table.getvalue().encode("utf-8", "surrogateescape"))
    try:
        sample = load_manifest(folder / "one.csv", root=root, classes=["anger", "happiness"]).samples[0]
        return read_image(root / sample.image).rgb
    except OrsanetError as refusal:
        return str(refusal)


def test_each_bad_input_gets_the_expected_answer_and_the_same_one_twice(
    bad_inputs: Path, expectations: dict[str, str], tmp_path: Path
) -> None:
    root_reads_all = os.geteuid() == 0  # also files of mode 000: the row is tested below, for other users
    wrong = []
    for name, expected in expectations.items():
        if name == "unreadable.jpg" and root_reads_all:
            continue
        with within(30):
            first, second = (answer(bad_inputs / "files", name, tmp_path) for _ in range(2))
        if isinstance(first, str):
            if expected == "accept" or first != second:
                wrong.append(f"{name!r} should be {expected}: {first!r}, then {second!r}")
        elif expected == "reject" or not np.array_equal(first, second):
            wrong.append(f"{name!r} should be {expected}: pixels")
        else:
            assert first.dtype == np.uint8
            assert first.ndim == 3
            assert first.shape[2] == 3
    assert wrong == []


def test_a_file_name_that_is_not_utf8_is_refused_by_its_line(bad_inputs: Path, tmp_path: Path) -> None:
    assert os.fsencode("latin1_\udce9.jpg") in os.listdir(os.fsencode(bad_inputs / "files"))
    assert "line 2 is not UTF-8" in str(answer(bad_inputs / "files", "latin1_\udce9.jpg", tmp_path))


def test_a_named_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with within(10), pytest.raises(RejectedImage, match="not a regular file"):
        read_image(tmp_path / "pipe.jpg")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read a file of mode 000")
def test_a_file_that_may_not_be_read_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(IMAGE, "PNG"))
    path.chmod(0)
    with pytest.raises(RejectedImage, match="cannot be read"):
        read_image(path)


@pytest.mark.parametrize("name", ["missing.jpg", "folder.jpg", "x" * 300 + ".jpg", "file.jpg/below.jpg"])
def test_what_is_no_readable_file_is_rejected(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "file.jpg").write_bytes(b"")
    with pytest.raises(RejectedImage, match="cannot be read"):
        read_image(tmp_path / name)


def test_the_reason_helps_with_empty_files_and_lfs_pointers() -> None:
    assert "empty" in reason(b"")
    assert "git lfs pull" in reason(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_an_animation_or_a_file_of_several_pages_is_rejected(file_format: str) -> None:
    frames = [Image.fromarray(picture(seed)) for seed in range(3)]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert "animation" in reason(data)


def test_a_format_outside_the_list_is_rejected_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "image.jpg").write_bytes(encoded(IMAGE, "PPM"))
    with pytest.raises(RejectedImage, match="JPEG, PNG, WEBP, BMP, TIFF"):
        read_image(tmp_path / "image.jpg")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (encoded(IMAGE, "GIF"), "a GIF, .*: save the frame that you mean as PNG"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(99), "the format AVIF, which is not read: save it as PNG or JPEG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "the format HEIC, which is not read"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99), "the format JPEG XL, which is not read"),
    ],
)  # fmt: skip
def test_a_known_format_that_is_not_read_is_named_with_what_to_do(content: bytes, said: str) -> None:
    assert re.search(said, reason(content))


def test_a_jfif_is_a_jpeg(tmp_path: Path) -> None:
    (tmp_path / "image.jfif").write_bytes(encoded(IMAGE, "JPEG"))
    assert read_image(tmp_path / "image.jfif").rgb.shape == (*IMAGE.size[::-1], 3)


@pytest.mark.parametrize(("width", "height"), [(MIN_SIDE - 1, 64), (64, MIN_SIDE - 1), (1, 1), (1, 5000)])
def test_too_small_is_rejected_naming_the_limit(width: int, height: int) -> None:
    message = reason(encoded(Image.new("RGB", (width, height)), "PNG"))
    assert f"{width}x{height}" in message
    assert str(MIN_SIDE) in message


def test_the_smallest_side_is_accepted() -> None:
    assert decode(encoded(Image.new("RGB", (MIN_SIDE, MIN_SIDE)), "PNG")).shape == (MIN_SIDE, MIN_SIDE, 3)


@pytest.mark.parametrize(("width", "height"), [(8193, 8192), (12_000, 12_000), (20_000, 20_000), (50_000, 50_000)])
def test_too_many_pixels_is_rejected_naming_the_limit(width: int, height: int) -> None:
    message = reason(png(width, height, 8, 2, b""))
    assert f"more than the {MAX_PIXELS:,}" in message


def test_the_largest_size_passes_the_header_check() -> None:
    assert "damaged" in reason(png(8192, MAX_PIXELS // 8192, 1, 0, b""))


def test_too_many_bytes_is_rejected_unread_naming_the_limit(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.write(encoded(IMAGE, "PNG"))
        file.truncate(MAX_BYTES + 1)  # sparse: takes no room on the disk
    with within(5), pytest.raises(RejectedImage, match=f"{MAX_BYTES + 1:,} bytes, more than the {MAX_BYTES:,}"):
        read_image(tmp_path / "huge.png")


PEAK_GROWTH = """
import resource, sys
from pathlib import Path
from orsanet_cache.data.images import RejectedImage, read_image

def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

for path in sys.argv[1:]:
    before = peak_kib()
    try:
        read_image(Path(path))
    except RejectedImage as reason:
        print(peak_kib() - before, reason)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_a_bomb_is_rejected_by_its_header_without_its_memory(tmp_path: Path) -> None:
    side = 12_000  # 144 MB when decoded at one byte per pixel, 432 MB as RGB
    rows = (b"\0" + b"\xff" * (side // 8)) * side
    (tmp_path / "warm.png").write_bytes(encoded(Image.new("RGB", (8, 8)), "PNG"))  # so that the plug-ins are loaded
    (tmp_path / "bomb.png").write_bytes(png(side, side, 1, 0, rows))
    paths = [tmp_path / "warm.png", tmp_path / "bomb.png"]
    child = subprocess.run(
        [sys.executable, "-c", PEAK_GROWTH, *paths], check=True, timeout=60, capture_output=True, text=True
    )
    growth, message = child.stdout.splitlines()[1].split(" ", 1)
    assert f"more than the {MAX_PIXELS:,}" in message
    assert int(growth) < 16 * 1024  # KiB; a ninth of the smallest way to decode it


@pytest.mark.parametrize("kind", WHOLE_FILES)
def test_a_cut_file_is_rejected_or_complete_never_half_read(kind: str) -> None:
    data = WHOLE_FILES[kind]
    whole = decode(data)
    step = 1 + len(data) // 400
    lengths = [*range(0, len(data), step), *range(max(0, len(data) - 40), len(data))]
    answers = {length: pixels_or_none(data[:length]) for length in lengths}
    assert [n for n, rgb in answers.items() if rgb is not None and not np.array_equal(rgb, whole)] == []
    assert answers[lengths[len(lengths) // 4]] is None


def assert_definite(data: bytes) -> None:
    """RGB or RejectedImage, within seconds."""
    with within(20):
        rgb = pixels_or_none(data)
    if rgb is not None:
        assert rgb.dtype == np.uint8
        assert rgb.ndim == 3
        assert rgb.shape[2] == 3


SIGNATURES = [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBPVP8 ", b"BM", b"II*\0\x08\0\0\0"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SIGNATURES), st.binary(max_size=200))
@example(b"\x89PNG\r\n\x1a\n", b"\0\0\0\x0dIHDR\xff\xff\xff\xff\xff\xff\xff\xff\x08\x02\0\0\0\0\0\0\0")
def test_random_bytes_get_a_definite_answer(signature: bytes, rest: bytes) -> None:
    assert_definite(signature + rest)


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(sorted(WHOLE_FILES)),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    kept=st.floats(0, 1) | st.just(1.0),
)
def test_damaged_images_get_a_definite_answer(kind: str, changes: list[tuple[float, int]], kept: float) -> None:
    data = bytearray(WHOLE_FILES[kind])
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    assert_definite(bytes(data[: int(kept * len(data))]))
