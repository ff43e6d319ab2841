"""Weights files are read whole and exactly, or refused with a reason; what they hold is never executed."""

import argparse
import functools
import json
import os
import pickle
import re
import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from orsanet_cache import FrozenPriors, OrsanetError
from orsanet_cache.frozen.loading import Weights, build_frozen, load_strictly, read_weights, tensors_digest
from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.frozen.priors import ARCHITECTURE_KEY, load_landmark_network, load_segmenter
from orsanet_cache.frozen.segface import SegFace, SegFaceConfig

SMALL = SegFaceConfig(
    embed_dim=16, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8), decoder_width=32, decoder_heads=4, decoder_mlp_width=64
)
CONTAINERS = ["state_dict", "state_dict_backbone", "model_state_dict"]


def network(seed: int = 0) -> nn.Sequential:
    """A small network with parameters, float buffers and an integer buffer."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def tensors() -> dict[str, Tensor]:
    return dict(network().state_dict())


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


def saved(content: object, path: Path, archive: bool = True) -> Path:
    """As torch.save writes it, as a zip archive or in the format before that."""
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    return path


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(OrsanetError) as refused:
        action()
    return str(refused.value)


# --- what is read ---


@pytest.mark.parametrize("archive", [True, False])
def test_safetensors_and_pickle_give_equal_tensors_and_one_digest(tmp_path: Path, archive: bool) -> None:
    safetensors.torch.save_file(tensors(), tmp_path / "a.safetensors", metadata={"made by": "me"})
    plain = read_weights(tmp_path / "a.safetensors")
    pickled = read_weights(saved(tensors(), tmp_path / "a.pth", archive))
    assert same(plain.tensors, tensors())
    assert same(pickled.tensors, tensors())
    assert tensors_digest(plain.tensors) == tensors_digest(pickled.tensors) == tensors_digest(tensors())
    assert plain.metadata == {"made by": "me"}
    assert pickled.metadata == {}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pth.tar", ""])
def test_the_content_decides_how_a_file_is_read_not_its_suffix(tmp_path: Path, suffix: str) -> None:
    safetensors.torch.save_file(tensors(), tmp_path / f"plain{suffix}")
    assert same(read_weights(tmp_path / f"plain{suffix}").tensors, tensors())
    assert same(read_weights(saved(tensors(), tmp_path / f"pickled{suffix}")).tensors, tensors())


def test_a_safetensors_header_of_any_length_is_read_with_its_metadata(tmp_path: Path) -> None:
    """The file begins with the header's length, and some lengths begin like a pickle (0x80)."""
    path = tmp_path / "a.weights"
    unread = []
    for length in range(0, 1024, 8):
        safetensors.torch.save_file({"w": torch.ones(2)}, path, metadata={"note": "x" * length})
        try:
            if read_weights(path).metadata != {"note": "x" * length}:
                unread.append((path.read_bytes()[:2], "metadata lost"))
        except OrsanetError as error:
            unread.append((path.read_bytes()[:2], str(error)))
    assert unread == []


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_containers_are_opened_and_the_dataparallel_prefix_is_removed(
    tmp_path: Path, container: str, prefix: str
) -> None:
    content = {container: OrderedDict((prefix + name, tensor) for name, tensor in tensors().items())}
    assert same(read_weights(saved(content, tmp_path / "a.pth")).tensors, tensors())


def test_a_prefix_that_only_some_names_have_is_theirs(tmp_path: Path) -> None:
    content = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert list(read_weights(saved(content, tmp_path / "a.pth")).tensors) == ["module.a", "b"]


def published_checkpoint() -> dict[str, object]:
    """What a published training script keeps: states, a Counter, numpy scalars."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[3, 5])
    return {
        "iter": 1000,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "class_counts": Counter({"anger": 3, "neutral": 5}),
        "best": np.float64(0.91),
        "loss": np.float32(0.5),
        "epoch": np.int64(7),
    }


@pytest.mark.parametrize("archive", [True, False])
def test_a_published_checkpoint_with_counters_and_numpy_scalars_is_read(tmp_path: Path, archive: bool) -> None:
    content = published_checkpoint()
    expected = content["model_state_dict"]
    assert isinstance(expected, dict)
    assert same(read_weights(saved(content, tmp_path / "a.pth", archive)).tensors, expected)


@pytest.mark.parametrize("scalar", [np.float64(0.5), np.float32(0.5), np.int64(3), np.int32(3), np.bool_(True)])
@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_a_numpy_scalar_is_read_under_both_names_of_its_rebuilding_function(
    tmp_path: Path, scalar: np.generic, module: bytes
) -> None:
    path = saved({"state_dict": tensors(), "best": scalar}, tmp_path / "a.pth", archive=False)
    written, count = re.subn(rb"numpy\.(_core|core)\.multiarray", module, path.read_bytes())
    assert count == 1
    path.write_bytes(written)
    assert same(read_weights(path).tensors, tensors())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_tensors_are_loaded_in_the_networks_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    stored = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors().items()}
    safetensors.torch.save_file(stored, tmp_path / "a.safetensors")
    target = network(seed=1)
    load_strictly(target, read_weights(tmp_path / "a.safetensors"))
    assert same(target.state_dict(), {name: t.to(tensors()[name].dtype) for name, t in stored.items()})


def test_the_real_landmark_weights_are_the_same_in_both_formats(shared: Path) -> None:
    folder = shared / "landmark_weights"
    paths = [folder / "mobilefacenet_68pt.safetensors", folder / "mobilefacenet_model_best.pth.tar"]
    digests = {tensors_digest(read_weights(path).tensors) for path in paths}
    digests |= {tensors_digest(load_landmark_network(path).state_dict()) for path in paths}
    assert len(digests) == 1


# --- the digest ---


def test_the_digest_does_not_depend_on_order_or_memory_layout() -> None:
    table = torch.arange(6.0).reshape(2, 3)
    expected = tensors_digest({"a": table, "b": torch.tensor(1)})
    assert tensors_digest({"b": torch.tensor(1), "a": table}) == expected
    assert tensors_digest({"a": table.T.contiguous().T, "b": torch.tensor(1)}) == expected
    assert tensors_digest({"a": nn.Parameter(table), "b": torch.tensor(1)}) == expected


@pytest.mark.parametrize(
    "other",
    [
        {"b": torch.tensor([[1.0, 2.0]])},
        {"a": torch.tensor([1.0, 2.0])},
        {"a": torch.tensor([[1.0], [2.0]])},
        {"a": torch.tensor([[1.0, 2.0]], dtype=torch.float64)},
        {"a": torch.tensor([[1.0, 2.0]]).view(torch.int32)},
        {"a": torch.tensor([[1.0, 2.0000002]])},
        {"a": torch.tensor([[1.0, 2.0]]), "b": torch.zeros(0)},
        {},
    ],
    ids=["name", "rank", "shape", "precision", "type", "one bit", "an empty tensor more", "nothing"],
)
def test_the_digest_tells_names_shapes_types_and_values_apart(other: dict[str, Tensor]) -> None:
    assert tensors_digest(other) != tensors_digest({"a": torch.tensor([[1.0, 2.0]])})


def test_the_digest_tells_negative_zero_and_nans_apart() -> None:
    bits = torch.tensor([0, 1 << 31, 0x7FC00000, 0x7FC00001], dtype=torch.int64).to(torch.int32)
    assert len({tensors_digest({"a": value.reshape(1).view(torch.float32)}) for value in bits}) == 4


# --- what is refused ---


class RunsACommand:
    """A pickle that runs a shell command when it is opened without restrictions."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("beside_tensors", [True, False])
def test_a_hostile_pickle_is_refused_and_not_executed(tmp_path: Path, archive: bool, beside_tensors: bool) -> None:
    marker = tmp_path / "executed"
    payload = RunsACommand(f"touch '{marker}'")
    path = saved({"state_dict": tensors(), "args": payload} if beside_tensors else payload, tmp_path / "a.pth", archive)
    assert "refused" in refusal(lambda: read_weights(path))
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the payload is live: opened carelessly, it would have run
    assert marker.exists()


def test_a_bare_hostile_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(RunsACommand(f"touch '{marker}'"), protocol=2))
    refusal(lambda: read_weights(tmp_path / "a.pkl"))
    assert not marker.exists()


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        nn.Linear(2, 2),
        argparse.Namespace(lr=0.1),
        functools.partial(print, "hello"),
        print,
        Path("somewhere"),
        np.random.default_rng(0),
    ],
    ids=["module", "Namespace", "partial", "function", "Path", "generator"],
)
def test_anything_but_tensors_and_plain_values_is_refused_by_name(
    tmp_path: Path, content: object, archive: bool
) -> None:
    path = saved({"state_dict": tensors(), "extra": content}, tmp_path / "a.pth", archive)
    message = refusal(lambda: read_weights(path))
    assert "refused" in message
    assert str(path) in message
    assert re.search(r"GLOBAL \S+", message), "the type is named"


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = saved(tensors(), tmp_path / "a.pt")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(archive.namelist()[0].split("/")[0] + "/constants.pkl", b"")  # what makes it TorchScript
    assert str(path) in refusal(lambda: read_weights(path))


@pytest.mark.parametrize(
    "content", [3, None, "text", [1, 2], torch.ones(2), {}, {"a": 1}, {1: torch.ones(1)}], ids=repr
)
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    assert str(tmp_path) in refusal(lambda: read_weights(saved(content, tmp_path / "a.pth")))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("content", [{}, {"a": 1}, {"a": torch.ones(1), "epoch": 3}], ids=["empty", "number", "mixed"])
def test_a_container_without_tensors_alone_is_refused(tmp_path: Path, container: str, content: object) -> None:
    path = saved({container: content}, tmp_path / "a.pth")
    assert "no weights found" in refusal(lambda: read_weights(path))


def test_a_safetensors_file_without_tensors_is_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({}, tmp_path / "a.safetensors")
    refusal(lambda: read_weights(tmp_path / "a.safetensors"))


def test_a_container_that_holds_itself_is_refused(tmp_path: Path) -> None:
    endless: dict[str, object] = {}
    endless["state_dict"] = endless
    refusal(lambda: read_weights(saved(endless, tmp_path / "a.pth")))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_what_is_no_weights_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert str(path) in refusal(lambda: read_weights(path))
    contents = [
        b"", b"\0", b"\x80", b"PK\x03\x04", b"<html><body>404 Not Found</body></html>", b"<!DOCTYPE html>\n{",
        b"version https://git-lfs.github.com/spec/v1\n", b'{"a": 1}', b"12345678{not a header",
    ]  # fmt: skip
    for content in contents:
        path.write_bytes(content)
        assert str(path) in refusal(lambda: read_weights(path))
    path.unlink()
    path.mkdir()
    assert str(path) in refusal(lambda: read_weights(path))


def written_in_each_format(folder: Path) -> dict[str, bytes]:
    safetensors.torch.save_file(tensors(), folder / "plain", metadata={"note": "x"})
    content = {"state_dict": tensors(), "best": np.float64(3), "counts": Counter("abc")}
    saved(content, folder / "archive")
    saved(content, folder / "legacy", archive=False)
    return {name: (folder / name).read_bytes() for name in ("plain", "archive", "legacy")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return written_in_each_format(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "a.weights"


@pytest.mark.parametrize("file_format", ["plain", "archive", "legacy"])
def test_a_file_cut_anywhere_is_refused(whole: dict[str, bytes], scratch: Path, file_format: str) -> None:
    data = whole[file_format]
    for length in [*range(0, len(data), 1 + len(data) // 250), len(data) - 1]:
        scratch.write_bytes(data[:length])
        assert str(scratch) in refusal(lambda: read_weights(scratch))


@settings(max_examples=400, deadline=None)
@given(
    file_format=st.sampled_from(["plain", "archive", "legacy"]),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_a_damaged_file_is_read_or_refused_never_a_traceback(
    whole: dict[str, bytes], scratch: Path, file_format: str, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(whole[file_format])
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    scratch.write_bytes(data)
    with suppress(OrsanetError):
        assert all(isinstance(tensor, Tensor) for tensor in read_weights(scratch).tensors.values())


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"{}x",
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": [4]}}',
        b'{"a": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, '
        b'"b": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}',
        b'{"__metadata__": 3, "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}',
        b'{"\xff": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}',
    ],
)
def test_a_corrupt_safetensors_header_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    assert str(path) in refusal(lambda: read_weights(path))


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**40, 2**64 - 1])
def test_a_wrong_safetensors_header_length_is_refused(tmp_path: Path, length: int) -> None:
    safetensors.torch.save_file(tensors(), tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", length) + data[8:])
    refusal(lambda: read_weights(tmp_path / "a.safetensors"))


# --- strict loading ---


def test_everything_wrong_is_listed_at_once_and_the_network_is_left_alone() -> None:
    wrong = tensors()
    del wrong["0.bias"]
    wrong["0.weight"] = torch.zeros(4, 7)
    wrong["1.weight"] = torch.tensor([1.0, torch.nan, 1.0, 1.0])
    wrong["1.running_var"] = torch.tensor([1.0, 1.0, torch.inf, 1.0])
    wrong["2.weight"] = torch.zeros(5)
    target = network(seed=1)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    message = refusal(lambda: load_strictly(target, Weights(Path("some.pth"), wrong)))
    assert message.splitlines() == [
        "some.pth: these are not weights of this Sequential:",
        "  missing: 0.bias [4]",
        "  extra: 2.weight [5]",
        "  misshapen: 0.weight is [4, 7], the network has [4, 3]",
        "  not finite: 1.weight",
        "  not finite: 1.running_var",
    ]
    assert same(target.state_dict(), before)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file(tensors(), tmp_path / "a.safetensors")
    with torch.device("meta"):
        other = MobileFaceNet()
    message = refusal(lambda: build_frozen(other, read_weights(tmp_path / "a.safetensors")))
    assert "not weights of this MobileFaceNet" in message
    assert "missing: conv1.conv.weight [64, 3, 3, 3]" in message


@pytest.mark.parametrize("kind", [torch.Tensor.clone, nn.Parameter], ids=["tensors", "parameters"])
def test_loading_keeps_which_parameters_are_trained(kind: Callable[[Tensor], Tensor]) -> None:
    target = network(seed=1)
    target[0].requires_grad_(False)
    source = {name: kind(tensor) if tensor.is_floating_point() else tensor for name, tensor in tensors().items()}
    load_strictly(target, Weights(Path("a"), source))
    assert same(target.state_dict(), tensors())
    assert [name for name, p in target.named_parameters() if p.requires_grad] == ["1.weight", "1.bias"]


STRANGE: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": lambda t: t.to_sparse(),
    "without values": lambda t: t.to("meta"),
    "quantised": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "complex": lambda t: t.to(torch.complex64),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # torch's, on writing such files
@pytest.mark.parametrize("kind", STRANGE)
def test_a_tensor_that_is_not_a_plain_real_array_is_refused(tmp_path: Path, kind: str) -> None:
    content = {**tensors(), "0.weight": STRANGE[kind](tensors()["0.weight"])}
    path = saved(content, tmp_path / "a.pth")
    refusal(lambda: load_strictly(network(), read_weights(path)))


# --- the two frozen networks ---


def small_segmenter() -> SegFace:
    torch.manual_seed(0)
    return SegFace(SMALL)


def write_segmenter(path: Path, header: str | None = SMALL.model_dump_json(), drop: str = "nothing") -> Path:
    """The small segmenter's file, less the tensors whose names begin with `drop`."""
    kept = {name: tensor for name, tensor in small_segmenter().state_dict().items() if not name.startswith(drop)}
    safetensors.torch.save_file(kept, path, metadata=None if header is None else {ARCHITECTURE_KEY: header})
    return path


@pytest.fixture(scope="module")
def segmenter_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_segmenter(tmp_path_factory.mktemp("segmenter") / "small.safetensors")


def test_a_segmenter_is_read_with_its_sizes_and_no_tensor_is_left_unset(segmenter_file: Path) -> None:
    segmenter = load_segmenter(segmenter_file)
    assert segmenter.config == SMALL
    assert same(segmenter.state_dict(), small_segmenter().state_dict())
    assert not any(tensor.is_meta for tensor in [*segmenter.parameters(), *segmenter.buffers()])
    assert not any(tensor.requires_grad for tensor in segmenter.parameters())
    assert not any(module.training for module in segmenter.modules())


@pytest.mark.parametrize("stage_and_block", ["1.0.", "3.1.", "3.0.", "5.0.", "7.0."])
def test_a_missing_block_is_refused_not_read_as_a_shallower_network(tmp_path: Path, stage_and_block: str) -> None:
    path = write_segmenter(tmp_path / "a.safetensors", drop=f"backbone.0.{stage_and_block}")
    message = refusal(lambda: load_segmenter(path))
    assert f"missing: backbone.0.{stage_and_block}" in message
    assert "extra" not in message


def test_a_header_of_a_shallower_network_does_not_drop_blocks(tmp_path: Path) -> None:
    shallower = SMALL.model_copy(update={"depths": (1, 1, 1, 1)})
    path = write_segmenter(tmp_path / "a.safetensors", shallower.model_dump_json())
    assert "extra: backbone.0.3.1." in refusal(lambda: load_segmenter(path))


def test_without_a_header_the_published_sizes_are_expected(tmp_path: Path) -> None:
    path = write_segmenter(tmp_path / "a.safetensors", header=None)
    assert "missing: backbone.0.5.1.norm1.weight [512]" in refusal(lambda: load_segmenter(path))


HEADERS: dict[str, tuple[str, str]] = {
    "not JSON": ("{", "JSON"),
    "empty": ("", "JSON"),
    "null": ("null", "object"),
    "list": ("[]", "object"),
    "nested 5000 deep": ("[" * 5000, "JSON"),
    "unknown key": ('{"width": 3}', "width: unknown key"),
    "another architecture": ('{"architecture": "resnet"}', "architecture: "),
    "string for a number": ('{"embed_dim": "16"}', "embed_dim: "),
    "boolean for a number": ('{"embed_dim": true}', "embed_dim: "),
    "fraction": ('{"embed_dim": 16.5}', "embed_dim: "),
    "too few depths": ('{"depths": [1, 1]}', "depths"),
    "zero": ('{"embed_dim": 0}', "embed_dim"),
    "negative": ('{"embed_dim": -16}', "embed_dim"),
    "negative depth": ('{"depths": [1, 2, -1, 1]}', "depths"),
    "no decoder": ('{"decoder_width": 0}', "decoder_width"),
    "negative MLP": ('{"decoder_mlp_width": -1}', "decoder_mlp_width"),
    "beyond any memory": ('{"embed_dim": 4611686018427387904}', "embed_dim"),
}


@pytest.mark.parametrize("mistake", HEADERS)
def test_a_mistake_in_the_header_is_named(segmenter_file: Path, tmp_path: Path, mistake: str) -> None:
    header, fragment = HEADERS[mistake]
    stored = safetensors.torch.load_file(segmenter_file)
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(stored, path, metadata={ARCHITECTURE_KEY: header})
    message = refusal(lambda: load_segmenter(path))
    assert str(path) in message
    assert fragment in message
    assert len(message) < 2000


@pytest.mark.parametrize("heads", [0, -4, 5, 64])
def test_a_number_of_heads_that_does_not_divide_the_width_is_refused_on_loading(tmp_path: Path, heads: int) -> None:
    """No tensor's shape tells the decoder's heads: only the header does, so it has to be checked itself."""
    header = json.dumps({**SMALL.model_dump(mode="json"), "decoder_heads": heads})
    path = write_segmenter(tmp_path / "a.safetensors", header)
    assert "decoder_heads" in refusal(lambda: load_segmenter(path))


@pytest.fixture(scope="module")
def priors() -> FrozenPriors:
    return FrozenPriors(small_segmenter(), MobileFaceNet(), "published")


def test_the_priors_stay_in_evaluation_mode_and_have_nothing_to_train(priors: FrozenPriors) -> None:
    priors.train()
    nn.ModuleList([priors]).train()  # as part of a larger model
    assert [name for name, module in priors.named_modules() if module.training] == []
    assert [name for name, parameter in priors.named_parameters() if parameter.requires_grad] == []
    assert len(list(priors.parameters())) > 0


def test_a_forward_pass_in_training_leaves_the_weights_and_the_answer_alone(priors: FrozenPriors) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8))
    recipe, first = priors.recipe(), priors.eval()(images)
    second = priors.train()(images)
    assert priors.recipe() == recipe
    assert all(torch.equal(a, b) and not b.requires_grad for a, b in zip(first, second, strict=True))
