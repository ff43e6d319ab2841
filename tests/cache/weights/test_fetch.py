"""A published weights file arrives whole and right or not at all, a download goes on where it stopped, a converted file means the same.

The hub is a real server on 127.0.0.1 that answers as huggingface.co does, well or badly; every fetch is a process of its own.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from weights_files import FILE_NAME, files, sha256

from orsanet_cache import OrsanetError
from orsanet_cache.weights.fetch import fetch
from orsanet_cache.weights.sources import SOURCES, HubFile, Source

CHUNK = 10 * 1024 * 1024
STEP = 1 << 18  # bytes that the server sends at a time
BROKEN = CHUNK + CHUNK // 8  # where a connection breaks: everything before has been sent
BODY = np.random.default_rng(0).bytes(CHUNK + CHUNK // 4)
SIZE = len(BODY)
OTHER = bytes(1000) + BODY[1000:]  # as long as the published file


REPOSITORY = "someone/something"
PATH = f"/{REPOSITORY}/resolve/main/folder/{FILE_NAME}"

FETCH = """
import json, sys
from pathlib import Path
from orsanet_cache import OrsanetError
from orsanet_cache.weights.fetch import fetch
from orsanet_cache.weights.sources import HubFile, Source

given = json.loads(sys.argv[1])
try:
    path, difference = fetch(Source(**{**given, "hub": HubFile(**given["hub"])}), Path(sys.argv[2]))
except OrsanetError as error:
    sys.exit(f"refused: {error}")
print(path)
"""


@dataclass
class Hub:
    """A server as the hub is, and what it does wrong."""

    content: bytes = BODY
    etag: str = ""  # the content's SHA-256 unless given
    head_status: int = 200
    get_status: int = 200
    elsewhere: bool = False  # a large file: the hub knows its size and digest and says where it lies
    head_delay: float = 0.0
    chunk_delay: float = 0.0  # before every STEP bytes
    cut_at: int | None = None  # the first connection ends at this byte
    stall_at: int | None = None  # the first connection says nothing more from this byte on
    endless: bool = False  # more and more comes behind the content
    drips: str = ""  # HEAD or GET: a byte now and then, of the headers or of the content
    url: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)  # method, Range
    paths: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    sent: int = 0  # bytes of endless content

    def ranges(self) -> list[str]:
        """What was asked for of the content, in order; "" for all of it."""
        return [asked for method, asked in self.requests if method == "GET"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def drip(self, what: bytes) -> None:
        try:
            while not self.hub.go_on.wait(0.2):
                self.wfile.write(what)
        except OSError:
            pass
        self.close_connection = True

    def send_endlessly(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while not self.hub.go_on.is_set():
                self.wfile.write(b"%x\r\n" % STEP + bytes(STEP) + b"\r\n")
                self.hub.sent += STEP
        except OSError:
            self.close_connection = True

    def do_HEAD(self) -> None:
        time.sleep(self.hub.head_delay)
        if self.hub.drips == "HEAD":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            self.drip(b"X-More: x\r\n")
            return
        self.answer(self.hub.head_status, 0)

    def do_GET(self) -> None:
        hub = self.hub
        begin = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if hub.endless:
            self.send_endlessly()
            return
        status = hub.get_status if hub.get_status != 200 else 206 if self.headers["Range"] else 200
        self.answer(status, begin)
        if status >= 400:
            return
        if hub.drips == "GET":
            self.drip(b"x")
            return
        first = len(hub.ranges()) == 1
        for start in range(begin, len(hub.content), STEP):
            if first and hub.cut_at is not None and start >= hub.cut_at:
                self.close_connection = True
                return
            if first and hub.stall_at is not None and start >= hub.stall_at:
                hub.stalled.set()
                hub.go_on.wait(60)
            time.sleep(hub.chunk_delay)
            try:
                self.wfile.write(hub.content[start : start + STEP])
            except OSError:  # the client has gone
                self.close_connection = True
                return

    def answer(self, status: int, begin: int) -> None:
        length = len(self.hub.content) - begin if status < 400 else 0
        etag = f'"{self.hub.etag or sha256(self.hub.content)}"'
        self.hub.requests.append((self.command, self.headers["Range"] or ""))
        self.hub.paths.append(self.path)
        self.hub.tokens += self.headers.get_all("Authorization", [])
        redirect = self.hub.elsewhere and self.path == PATH
        self.send_response(302 if redirect else status)
        self.send_header("X-Repo-Commit", "0" * 40)
        if redirect:
            self.send_header("Location", self.hub.url.replace("127.0.0.1", "localhost") + "/elsewhere")
            self.send_header("X-Linked-ETag", etag)
            self.send_header("X-Linked-Size", str(length))
            self.send_header("Content-Length", "0")
        else:
            self.send_header("ETag", etag)
            self.send_header("Content-Length", str(length))
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{begin + length - 1}/{begin + length}")
        self.end_headers()


@contextmanager
def serving() -> Iterator[Hub]:
    state = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": state}))
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    state.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as state:
        yield state


def source(content: bytes = BODY, size: int | None = SIZE) -> Source:
    """A published file with this content."""
    return Source(
        network="Stand-in", file_name=FILE_NAME, title="Stand-in", purpose="tests", licence="MIT", origin="https://127.0.0.1", about="13 MB",
        sha256=sha256(content), size=size, hub=HubFile(REPOSITORY, f"folder/{FILE_NAME}"),
    )  # fmt: skip


def start(hub: Hub, folder: Path, wanted: Source | None = None, **environment: str) -> subprocess.Popen[str]:
    """A process that fetches."""
    given = {**vars(wanted or source()), "hub": {"repository": REPOSITORY, "path": f"folder/{FILE_NAME}"}}
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, json.dumps(given), str(folder)],
        # Without telemetry: huggingface_hub would ask this server for its list of known agents, too.
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> str:
    """ "" for a process that fetched the file, else the one sentence it ended with."""
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    if process.returncode == 0:
        assert out.strip().endswith(FILE_NAME)
        return ""
    assert process.returncode == 1, err
    return err[err.index("refused: ") :].strip()


def fetched(hub: Hub, folder: Path, wanted: Source | None = None, **environment: str) -> str:
    return ended(start(hub, folder, wanted, **environment))


def whole(folder: Path) -> bool:
    """Whether the folder holds the published file and nothing else."""
    return files(folder) == {FILE_NAME: SIZE} and (folder / FILE_NAME).read_bytes() == BODY


def test_the_file_is_fetched_once_and_then_only_checked(hub: Hub, tmp_path: Path) -> None:
    assert fetched(hub, tmp_path / "new" / "folder") == ""
    assert whole(tmp_path / "new" / "folder")
    assert [method for method, _ in hub.requests] == ["HEAD", "GET"]
    assert fetched(hub, tmp_path / "new" / "folder") == ""
    assert len(hub.requests) == 2


def test_a_large_file_is_fetched_from_where_the_hub_says_it_lies_and_no_token_is_sent(hub: Hub, tmp_path: Path) -> None:
    hub.elsewhere = True
    assert fetched(hub, tmp_path, HF_TOKEN="hf_secret") == ""
    assert hub.paths == [PATH, "/elsewhere"]
    assert hub.tokens == []
    assert whole(tmp_path)


def test_a_slow_server_is_waited_for(hub: Hub, tmp_path: Path) -> None:
    hub.chunk_delay = 0.025
    assert hub.chunk_delay * SIZE / STEP > 1  # the timeout: it is one for silence, not for the whole
    assert fetched(hub, tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="1") == ""
    assert whole(tmp_path)
    assert hub.ranges() == [""]


@pytest.mark.parametrize("fault", ["cut_at", "stall_at"])
def test_a_connection_that_breaks_or_falls_silent_is_taken_up_where_it_stopped(
    hub: Hub, tmp_path: Path, fault: str
) -> None:
    setattr(hub, fault, BROKEN)
    assert fetched(hub, tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="1") == ""
    assert hub.ranges() == ["", f"bytes={BROKEN}-"]
    assert whole(tmp_path)


def test_a_killed_download_is_gone_on_with_by_the_next_process(hub: Hub, tmp_path: Path) -> None:
    hub.stall_at = BROKEN
    first = start(hub, tmp_path)
    assert hub.stalled.wait(30)
    deadline = time.monotonic() + 30
    while BROKEN not in files(tmp_path).values():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.kill()
    first.communicate()
    assert FILE_NAME not in files(tmp_path)  # nothing has the name of a weights file
    assert fetched(hub, tmp_path) == ""
    assert hub.ranges() == ["", f"bytes={BROKEN}-"]
    assert whole(tmp_path)


def test_a_partial_file_that_is_too_long_is_begun_anew(hub: Hub, tmp_path: Path) -> None:
    partial = tmp_path / f".{FILE_NAME}.{sha256(BODY)[:16]}.partial"
    partial.write_bytes(bytes(SIZE + 1))
    assert fetched(hub, tmp_path) == ""
    assert hub.ranges() == [""]
    assert whole(tmp_path)


def test_two_processes_do_not_write_one_file(hub: Hub, tmp_path: Path) -> None:
    hub.stall_at = CHUNK
    first = start(hub, tmp_path)
    assert hub.stalled.wait(30)
    assert "another process is downloading it" in fetched(hub, tmp_path)
    hub.go_on.set()
    assert ended(first) == ""
    assert whole(tmp_path)


@pytest.mark.parametrize("hosted", [BODY[:-1], BODY + b"1"], ids=["shorter", "longer"])
def test_a_file_of_another_size_on_the_hub_is_refused_before_it_is_downloaded(
    hub: Hub, tmp_path: Path, hosted: bytes
) -> None:
    hub.content = hosted
    said = fetched(hub, tmp_path)
    assert f"has {len(hosted):,} bytes, not {SIZE:,}" in said
    assert hub.ranges() == []
    assert files(tmp_path) == {}


def test_a_file_of_another_digest_on_the_hub_is_refused_before_it_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    hub.content = OTHER
    said = fetched(hub, tmp_path)
    assert sha256(OTHER) in said
    assert sha256(BODY) in said
    assert hub.ranges() == []
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    ("came", "etag"),
    # For a small file the hub gives Git's digest.
    [(OTHER, "1" * 40), (BODY[:-1], sha256(BODY))],
    ids=["digest not known before", "hub mistaken"],
)
def test_what_came_with_a_wrong_digest_is_deleted_and_the_next_try_succeeds(
    hub: Hub, tmp_path: Path, came: bytes, etag: str
) -> None:
    hub.content, hub.etag = came, etag
    said = fetched(hub, tmp_path, source(size=None))
    assert sha256(came) in said
    assert sha256(BODY) in said
    assert files(tmp_path) == {}
    hub.content, hub.etag = BODY, ""
    assert fetched(hub, tmp_path) == ""
    assert whole(tmp_path)


def test_a_failing_server_is_named_with_its_answer_and_what_came_is_kept(hub: Hub, tmp_path: Path) -> None:
    partial = tmp_path / f".{FILE_NAME}.{sha256(BODY)[:16]}.partial"
    partial.write_bytes(BODY[:CHUNK])
    for status in ("head_status", "get_status"):
        setattr(hub, status, 500)
        said = fetched(hub, tmp_path)
        assert hub.url in said
        assert "answered 500" in said
        assert f"{CHUNK:,} bytes are kept" in said
        setattr(hub, status, 200)
    hub.requests.clear()
    assert fetched(hub, tmp_path) == ""
    assert hub.ranges() == [f"bytes={CHUNK}-"]
    assert whole(tmp_path)


@pytest.mark.parametrize("begun", [0, CHUNK])
def test_a_server_that_does_not_stop_is_left_at_the_first_byte_too_many_and_nothing_is_kept(
    hub: Hub, tmp_path: Path, begun: int
) -> None:
    if begun:
        (tmp_path / f".{FILE_NAME}.{sha256(BODY)[:16]}.partial").write_bytes(BODY[:begun])
    hub.endless = True
    said = fetched(hub, tmp_path)
    assert f"the server sends more than the {SIZE:,} bytes that it announced; what had arrived was deleted" in said
    assert files(tmp_path) == {}
    assert hub.sent < SIZE + 16 * 1024 * 1024  # what the system's buffers hold
    hub.endless = False
    assert fetched(hub, tmp_path) == ""
    assert whole(tmp_path)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Servers that hardly send, by what they do -> their address, and how a fetch ends. All at once: each is waited for 6 s."""
    began = time.monotonic()
    with ExitStack() as servers:
        hubs = {kind: servers.enter_context(serving()) for kind in ("HEAD", "GET", "silent")}
        hubs["HEAD"].drips, hubs["GET"].drips, hubs["silent"].stall_at = "HEAD", "GET", 0
        fetches = {
            kind: start(hub, tmp_path_factory.mktemp("left"), HF_HUB_DOWNLOAD_TIMEOUT="1") for kind, hub in hubs.items()
        }
        assert hubs["silent"].stalled.wait(30)
        hubs["silent"].drips = "GET"  # the next connections, too, bring nothing to speak of
        found = {kind: (hubs[kind].url, ended(fetch)) for kind, fetch in fetches.items()}
    assert time.monotonic() - began < 30
    return found


@pytest.mark.parametrize("drips", ["HEAD", "GET"])
def test_a_server_that_sends_a_byte_now_and_then_is_left_with_a_sentence(
    left: dict[str, tuple[str, str]], drips: str
) -> None:
    url, said = left[drips]
    assert url in said
    assert "in 6 s, too little to go on; try again later" in said


def test_a_server_that_never_answers_is_left_with_a_sentence(left: dict[str, tuple[str, str]]) -> None:
    _, said = left["silent"]
    assert "too little to go on" in said


def test_a_file_that_is_larger_than_it_can_be_is_not_downloaded(hub: Hub, tmp_path: Path) -> None:
    wanted = Source(**{**vars(source(size=None)), "at_most": SIZE - 1})
    said = fetched(hub, tmp_path, wanted)
    assert f"has {SIZE:,} bytes, more than {SIZE - 1:,}" in said
    assert hub.ranges() == []
    assert files(tmp_path) == {}


def test_a_file_that_is_not_on_the_hub_any_more_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    hub.head_status = 404
    assert "answered 404" in fetched(hub, tmp_path)


def test_a_server_that_does_not_answer_in_time_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    hub.head_delay = 3
    assert "cannot be reached" in fetched(hub, tmp_path, HF_HUB_ETAG_TIMEOUT="1")


def test_a_server_that_is_not_there_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    hub.url = "http://127.0.0.1:1"  # a port that nothing listens on
    assert "cannot be reached" in fetched(hub, tmp_path)


def test_offline_nothing_is_asked_and_what_is_there_is_enough(hub: Hub, tmp_path: Path) -> None:
    assert "HF_HUB_OFFLINE is set" in fetched(hub, tmp_path, HF_HUB_OFFLINE="1")
    (tmp_path / FILE_NAME).write_bytes(BODY)
    assert fetched(hub, tmp_path, HF_HUB_OFFLINE="1") == ""
    assert hub.requests == []


def test_another_file_of_that_name_is_refused_and_left_alone(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(OTHER)
    said = fetched(hub, tmp_path)
    assert f"{tmp_path / FILE_NAME}: is not the published Stand-in" in said
    assert sha256(OTHER) in said
    assert (tmp_path / FILE_NAME).read_bytes() == OTHER
    assert hub.requests == []


def test_a_file_that_no_program_can_fetch_comes_with_instructions_and_is_then_checked(tmp_path: Path) -> None:
    ir50 = SOURCES["ir50"]
    with pytest.raises(OrsanetError) as refused:
        fetch(ir50, tmp_path)
    assert ir50.instructions in str(refused.value)
    assert str(tmp_path / "ir50.pth") in str(refused.value)
    (tmp_path / "ir50.pth").write_bytes(b"another copy")  # only a copy's digest is known: said, and not refused
    found = fetch(ir50, tmp_path)
    assert found.path == tmp_path / "ir50.pth"
    assert found.difference is not None
    assert sha256(b"another copy") in found.difference
