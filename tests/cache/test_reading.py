"""A file from other hands is opened only if it is a regular one of its folder, and parsed without surprises."""

import io
import json
import os
import shutil
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from orsanet_cache import OrsanetError
from orsanet_cache.durable import read_json
from orsanet_cache.frozen.loading import read_weights
from orsanet_cache.frozen.shipped import trained_how
from orsanet_cache.reading import (
    MAX_NESTING,
    NotRegularError,
    array_of,
    below,
    check_regular,
    json_of,
    matching,
    open_regular,
    read_limited,
)
from orsanet_cache.weights.sources import fingerprint


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.mark.parametrize("name", ["a.csv", "sub/a.csv", "./a.csv", "a..b", "absent"])
def test_a_name_in_the_folder_is_a_path_there(tmp_path: Path, name: str) -> None:
    assert below(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("name", ["../a", "sub/../../a", "sub/../a", "/etc/hostname", "out/a", "link", "a\0b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "a").write_text("outside")
    (folder / "out").symlink_to(tmp_path)
    (folder / "link").symlink_to("../a")
    with pytest.raises(ValueError, match=r"leads out of the folder|null"):
        below(folder, name)


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("inside")
    (tmp_path / "link").symlink_to("a")
    assert read_limited(below(tmp_path, "link"), 10) == b"inside"


def test_pipes_devices_and_sockets_are_refused_at_once(pipe: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for path in (pipe, Path("/dev/zero"), Path("/dev/stdin"), tmp_path / "link", tmp_path / "socket"):
            if path == Path("/dev/stdin") and path.is_file():
                continue
            with pytest.raises(NotRegularError, match="not a regular file"):
                open_regular(path)
    with pytest.raises(IsADirectoryError):
        check_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_limited(tmp_path / "absent", 1)


def test_what_reads_weights_refuses_a_pipe(pipe: Path) -> None:
    for read in (read_weights, fingerprint, trained_how, read_json):
        with pytest.raises(OrsanetError, match=f"{pipe}: .*not a regular file"):
            read(pipe)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**40)  # without a block on the disk
    with pytest.raises(OSError, match=r"1,099,511,627,776 bytes, more than the 1,000"):
        read_limited(path, 1000)


@pytest.mark.parametrize(
    "text",
    ["", "[", "[" * 100_000, "[" * 200 + "]" * 200, '{"a":' * 900 + "1" + "}" * 900, "NaN", "[-Infinity]", "1e999", "1" * 5000, "\ud800"],
)  # fmt: skip
def test_json_that_no_file_of_ours_has_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_of(text.encode(errors="surrogatepass"))


def test_json_of_ours_is_read_whole(tmp_path: Path) -> None:
    nested: object = 1.5
    for _ in range(MAX_NESTING):
        nested = [nested]
    assert json_of(json.dumps(nested).encode()) == nested
    (tmp_path / "list.json").write_text("[1]")
    assert read_json(tmp_path / "list.json", list) == [1]
    with pytest.raises(OrsanetError, match=r"list\.json: damaged \(a list, not a dict\)"):
        read_json(tmp_path / "list.json")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", "<i8", "<U3"])
def test_an_array_is_read_as_numpy_reads_it(dtype: str, order: str) -> None:
    array = np.asarray(np.arange(6).reshape(2, 3).astype(dtype), order=order)  # type: ignore[call-overload]
    content = io.BytesIO()
    np.save(content, array)
    read = array_of(content.getvalue())
    np.testing.assert_array_equal(read, array, strict=True)
    assert read.flags.writeable


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04",
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }\n"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n") + b"\0" * 4,
        header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n") + b"\0" * 8,
        header("{'descr': 'no type', 'fortran_order': False, 'shape': (1,), }\n"),
        header("(" * 9000),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n") + b"\0" * 5,
    ],
)
def test_an_array_whose_header_lies_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        array_of(content)


def test_what_another_deletes_meanwhile_disturbs_no_search(tmp_path: Path) -> None:
    """A search goes on while its folders come and go, and finds what stays."""
    (tmp_path / "stays" / "here").mkdir(parents=True)
    (tmp_path / "stays" / "here" / "a.json").touch()
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            (tmp_path / "goes" / "away").mkdir(parents=True)
            shutil.rmtree(tmp_path / "goes")

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(500):
            assert matching(tmp_path, "*/*/*.json") == [tmp_path / "stays" / "here" / "a.json"]
    finally:
        ended.set()
        other.join()
