"""A published weights file arrives whole and right or not at all, a download goes on where it stopped, a converted file means the same.

The hub is a real server on 127.0.0.1 that answers as huggingface.co does, well or badly; every fetch is a process of its own.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from torch import Tensor

from orsanet_cache import FrozenPriors, OrsanetError
from orsanet_cache.commands.weights import weights
from orsanet_cache.frozen.loading import load_strictly, read_weights, tensors_digest
from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.frozen.priors import ARCHITECTURE_KEY
from orsanet_cache.frozen.segface import SegFace, SegFaceConfig
from orsanet_cache.weights.convert import ORIGIN_KEY, IR50Layout, convert_weights, identify
from orsanet_cache.weights.fetch import fetch
from orsanet_cache.weights.sources import SOURCES, HubFile, Source, default_folder, fingerprint
from orsanet_train.model.ir50 import IR50, published_output_layer
from orsanet_train.model.orsanet import backbone_weights

CHUNK = 10 * 1024 * 1024  # huggingface_hub writes a download to the disk in pieces of this size
STEP = 1 << 18  # the server's
BODY = np.random.default_rng(0).bytes(CHUNK + CHUNK // 4)
SIZE = len(BODY)
OTHER = bytes(1000) + BODY[1000:]  # as long as the published file
FILE_NAME = "network.pt"
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


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
    url: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)  # method, Range
    paths: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def ranges(self) -> list[str]:
        """What was asked for of the content, in order; "" for all of it."""
        return [asked for method, asked in self.requests if method == "GET"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        time.sleep(self.hub.head_delay)
        self.answer(self.hub.head_status, 0)

    def do_GET(self) -> None:
        hub = self.hub
        begin = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        status = hub.get_status if hub.get_status != 200 else 206 if self.headers["Range"] else 200
        self.answer(status, begin)
        if status >= 400:
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


@pytest.fixture
def hub() -> Iterator[Hub]:
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


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def whole(folder: Path) -> bool:
    """Whether the folder holds the published file and nothing else."""
    return files(folder) == {FILE_NAME: SIZE} and (folder / FILE_NAME).read_bytes() == BODY


# --- fetching: what goes well ---


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
    setattr(hub, fault, CHUNK + CHUNK // 8)
    assert fetched(hub, tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="1") == ""
    assert hub.ranges() == ["", f"bytes={CHUNK}-"]
    assert whole(tmp_path)


def test_a_killed_download_is_gone_on_with_by_the_next_process(hub: Hub, tmp_path: Path) -> None:
    hub.stall_at = CHUNK + CHUNK // 8
    first = start(hub, tmp_path)
    assert hub.stalled.wait(30)
    deadline = time.monotonic() + 30
    while CHUNK not in files(tmp_path).values():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.kill()
    first.communicate()
    assert FILE_NAME not in files(tmp_path)  # nothing has the name of a weights file
    assert fetched(hub, tmp_path) == ""
    assert hub.ranges() == ["", f"bytes={CHUNK}-"]
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
    assert "another process is fetching it" in fetched(hub, tmp_path)
    hub.go_on.set()
    assert ended(first) == ""
    assert whole(tmp_path)


# --- fetching: what is refused ---


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


# --- converting ---


def seeded(network: torch.nn.Module) -> dict[str, Tensor]:
    """The network's state dict with values that differ everywhere, statistics too."""
    torch.manual_seed(0)
    return {
        name: torch.rand(tensor.shape) + 0.5 if tensor.is_floating_point() else torch.full(tensor.shape, 7)
        for name, tensor in network.state_dict().items()
    }


def published_landmarks(path: Path) -> Path:
    """A MobileFaceNet as its authors keep it: a pickle, DataParallel's names, an optimiser's state beside."""
    tensors = {f"module.{name}": tensor for name, tensor in seeded(MobileFaceNet()).items()}
    torch.save({"epoch": 3, "state_dict": tensors, "optimizer": {"state": {0: torch.ones(1000)}}}, path)
    return path


def small_segmenter(path: Path) -> Path:
    config = SegFaceConfig(
        embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), decoder_width=32, decoder_heads=4,
        decoder_mlp_width=64,
    )  # fmt: skip
    header = {ARCHITECTURE_KEY: config.model_dump_json(), "note": "not needed"}
    safetensors.torch.save_file(seeded(SegFace(config)), path, metadata=header)
    return path


@pytest.fixture(scope="module")
def ir50_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """IR50 at its published sizes, as a pickle and converted; the unused layer is one value, to be quick to write."""
    path = tmp_path_factory.mktemp("ir50") / "ir50.pth"
    tensors = {
        name: tensor if tensor.numel() < 5_000_000 else torch.full((1,), 0.5).expand(tensor.shape)
        for name, tensor in seeded(IR50Layout()).items()
    }
    torch.save(tensors, path)
    convert_weights(path, path.with_suffix(".safetensors"))
    return path, path.with_suffix(".safetensors")


def refusal(path: Path, out: Path) -> str:
    before = sorted(out.parent.iterdir())
    with pytest.raises(OrsanetError) as refused:
        convert_weights(path, out)
    assert sorted(out.parent.iterdir()) == before
    return str(refused.value)


def test_a_store_built_from_converted_weights_has_the_recipe_of_one_built_from_the_originals(tmp_path: Path) -> None:
    segmenter = small_segmenter(tmp_path / "segmenter.safetensors")
    landmarks = published_landmarks(tmp_path / "landmarks.pth.tar")
    assert convert_weights(segmenter, tmp_path / "a.safetensors").network == "segface"
    assert convert_weights(landmarks, tmp_path / "b.safetensors").network == "mobilefacenet"
    converted = FrozenPriors.load(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert converted.recipe() == FrozenPriors.load(segmenter, landmarks).recipe()


def test_a_converted_file_holds_the_networks_tensors_and_its_origins_digest_and_nothing_else(tmp_path: Path) -> None:
    landmarks = published_landmarks(tmp_path / "landmarks.pth.tar")
    convert_weights(landmarks, tmp_path / "b.safetensors")
    converted = read_weights(tmp_path / "b.safetensors")
    assert converted.metadata == {ORIGIN_KEY: sha256(landmarks.read_bytes())}
    assert tensors_digest(converted.tensors) == tensors_digest(seeded(MobileFaceNet()))
    assert sorted(files(tmp_path)) == ["b.safetensors", "landmarks.pth.tar"]


def test_half_precision_and_strided_tensors_are_written_as_the_network_reads_them(tmp_path: Path) -> None:
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).mT.contiguous().mT
        if tensor.ndim > 1
        else tensor
        for name, tensor in seeded(MobileFaceNet()).items()
    }
    torch.save({"state_dict": tensors}, tmp_path / "half.pth")
    segmenter = small_segmenter(tmp_path / "segmenter.safetensors")
    convert_weights(tmp_path / "half.pth", tmp_path / "b.safetensors")
    recipes = [FrozenPriors.load(segmenter, tmp_path / name).recipe() for name in ("half.pth", "b.safetensors")]
    assert recipes[0] == recipes[1]


def test_ir50_is_converted_without_its_output_layer_and_is_the_same_start_of_a_training(
    ir50_files: tuple[Path, Path],
) -> None:
    original, out = ir50_files
    converted = read_weights(out)
    assert tensors_digest(converted.tensors) == tensors_digest(backbone_weights(read_weights(original)).tensors)
    with torch.device("meta"):
        backbone = IR50((64, 128, 256), (3, 4, 14))
    load_strictly(backbone, backbone_weights(converted))
    assert tensors_digest(backbone.state_dict()) == tensors_digest(converted.tensors)


def test_the_ir50_that_files_are_checked_against_is_stage_twos(shared: Path) -> None:
    with torch.device("meta"):
        network, output, layout = IR50((64, 128, 256), (3, 4, 14)), published_output_layer(), IR50Layout()
    expected = {**network.state_dict(), **{f"output_layer.{name}": t for name, t in output.state_dict().items()}}
    shapes = {name: list(tensor.shape) for name, tensor in layout.state_dict().items()}
    assert shapes == {name: list(tensor.shape) for name, tensor in expected.items()}
    assert len(shapes) == 304
    published = json.loads((shared / "reference" / "orsanet_state_dict.json").read_text())
    in_checkpoint = {name.removeprefix("ir_back."): entry for name, entry in published.items() if "ir_back." in name}
    assert shapes == {name: shape for name, (shape, _) in in_checkpoint.items()}


@pytest.mark.parametrize("damage", ["missing", "extra", "misshapen"])
def test_tensors_that_are_not_exactly_the_networks_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    tensors = seeded(MobileFaceNet())
    if damage == "missing":
        del tensors["output_layer.linear.weight"]
    elif damage == "extra":
        tensors["fc.weight"] = torch.ones(2)
    else:
        tensors["output_layer.linear.weight"] = torch.ones(10, 512)
    torch.save({"state_dict": tensors}, tmp_path / "a.pth")
    said = refusal(tmp_path / "a.pth", tmp_path / "b.safetensors")
    assert f"{damage}: {'fc.weight' if damage == 'extra' else 'output_layer.linear.weight'}" in said


def test_what_cannot_be_converted_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    landmarks, out = published_landmarks(tmp_path / "landmarks.pth.tar"), tmp_path / "b.safetensors"
    torch.save({"state_dict": {"fc.weight": torch.ones(1)}}, tmp_path / "unknown.pth")
    assert "neither SegFace, MobileFaceNet nor IR50; its tensors begin with fc.weight" in refusal(
        tmp_path / "unknown.pth", out
    )
    (tmp_path / "cut.pth").write_bytes(landmarks.read_bytes()[:100_000])
    assert "cut.pth" in refusal(tmp_path / "cut.pth", out)
    assert "absent.pth" in refusal(tmp_path / "absent.pth", out)
    convert_weights(landmarks, out)
    assert "converted before" in refusal(out, tmp_path / "c.safetensors")
    written = out.read_bytes()
    assert "is there already" in refusal(landmarks, out)
    assert out.read_bytes() == written


# --- verifying ---


def test_a_known_file_is_named_by_its_content_whatever_it_is_called(tmp_path: Path) -> None:
    path = published_landmarks(tmp_path / "renamed.bin")
    known = {**SOURCES, "mobilefacenet": replace(SOURCES["mobilefacenet"], sha256=fingerprint(path).sha256)}
    assert identify(path, known) == ("mobilefacenet: exactly the published MobileFaceNet, 68 landmarks, " + known["mobilefacenet"].file_name, None)  # fmt: skip
    convert_weights(path, tmp_path / "b.safetensors")
    assert (
        "converted, its header says, from the published MobileFaceNet"
        in identify(tmp_path / "b.safetensors", known).what
    )
    with pytest.raises(OrsanetError, match="its origin's SHA-256 is"):  # converted, but not from the file in SOURCES
        identify(tmp_path / "b.safetensors")


def test_a_damaged_download_is_named_by_its_name_with_size_and_digest(tmp_path: Path) -> None:
    name = SOURCES["mobilefacenet"].file_name
    whole_file = published_landmarks(tmp_path / "whole.pth").read_bytes()
    (tmp_path / name).write_bytes(whole_file[:-1000])
    with pytest.raises(OrsanetError) as refused:
        identify(tmp_path / name)
    assert f"it has {len(whole_file) - 1000:,} bytes, not 12,281,146" in str(refused.value)
    assert sha256(whole_file[:-1000]) in str(refused.value)


def test_where_only_a_copys_digest_is_known_another_one_is_doubted_and_not_refused(
    ir50_files: tuple[Path, Path],
) -> None:
    digest = fingerprint(ir50_files[0]).sha256
    for file in ir50_files:
        what, doubt = identify(file)
        assert what == "ir50: fits IR50 tensor by tensor"
        assert doubt is not None
        assert digest in doubt
    exactly = identify(ir50_files[0], {**SOURCES, "ir50": replace(SOURCES["ir50"], sha256=digest)})
    assert exactly.what.startswith("ir50: exactly")
    assert exactly.doubt is not None  # the authors give no digest


def test_real_landmark_weights_are_told_apart_from_the_published_file_and_convert_to_the_same_recipe(
    shared: Path, tmp_path: Path
) -> None:
    real = shared / "landmark_weights" / "mobilefacenet_model_best.pth.tar"
    with pytest.raises(OrsanetError) as refused:
        identify(real)
    assert "fits MobileFaceNet tensor by tensor" in str(refused.value)
    assert f"it has {real.stat().st_size:,} bytes, not 12,281,146" in str(refused.value)

    out = tmp_path / "landmarks.safetensors"
    convert_weights(real, out)
    segmenter = small_segmenter(tmp_path / "segmenter.safetensors")
    assert FrozenPriors.load(segmenter, out).recipe() == FrozenPriors.load(segmenter, real).recipe()
    plain = read_weights(shared / "landmark_weights" / "mobilefacenet_68pt.safetensors")
    assert tensors_digest(read_weights(out).tensors) == tensors_digest(plain.tensors)
    known = {**SOURCES, "mobilefacenet": replace(SOURCES["mobilefacenet"], sha256=fingerprint(real).sha256)}
    assert identify(real, known).what.startswith("mobilefacenet: exactly")


# --- the commands ---


def test_list_says_of_every_file_what_it_is_for_and_whether_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "mobilefacenet_model_best.pth.tar").write_bytes(b"another")
    result = CliRunner().invoke(weights, ["list", str(tmp_path)])
    assert result.exit_code == 0
    for name, published in SOURCES.items():
        for said in (name, published.purpose, published.about, published.licence, published.origin, published.sha256):
            assert said in result.output
    states = [line.split("state    ")[1] for line in result.output.splitlines() if "state    " in line]
    assert states[0] == "not there"
    assert states[1].startswith("ANOTHER FILE is there: it has 7 bytes, not 12,281,146")
    assert SOURCES["ir50"].instructions in states[2]


def test_the_weights_folder_is_the_users_cache_unless_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "orsanet" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "orsanet" / "weights"


def test_convert_warns_of_weights_that_fit_and_are_not_the_published_ones(tmp_path: Path) -> None:
    landmarks, out = published_landmarks(tmp_path / "landmarks.pth.tar"), tmp_path / "b.safetensors"
    result = CliRunner().invoke(weights, ["convert", str(landmarks), "--out", str(out)])
    assert result.exit_code == 0
    assert f"warning: {landmarks} fits MobileFaceNet" in result.stderr
    assert f"wrote {out}: mobilefacenet, {out.stat().st_size:,} bytes" in result.stdout


def test_verify_of_an_unproven_copy_succeeds_with_a_warning(ir50_files: tuple[Path, Path]) -> None:
    result = CliRunner().invoke(weights, ["verify", str(ir50_files[1])])
    assert result.exit_code == 0
    assert "ir50: fits IR50" in result.stdout
    assert "warning: " in result.stderr


def test_help_and_list_need_neither_torch_nor_the_hub(tmp_path: Path) -> None:
    script = (
        "import sys; from orsanet_cache.commands.weights import weights; "
        f"weights(['list', {str(tmp_path)!r}], standalone_mode=False); "
        "print({'torch', 'huggingface_hub', 'httpx2'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "set()"
