"""Converts a published weights file to a small safe one.

The new file is a safetensors file with only the tensors that are used, and its origin in the
header. Published files are pickles and contain optimiser states or unused layers. The networks'
values do not change, so both files give a store the same recipe.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from orsanet_cache.durable import make_folder, write_new
from orsanet_cache.errors import OrsanetError
from orsanet_cache.frozen.loading import Weights, load_strictly, read_weights
from orsanet_cache.frozen.priors import ARCHITECTURE_KEY, load_landmark_network, load_segmenter
from orsanet_cache.weights.sources import SOURCES, Fingerprint, Name, Source, difference, fingerprint

ORIGIN_KEY = "origin_sha256"  # of a safetensors header: SHA-256 of the file it was converted from

# A tensor that only this network has.
_MARKS: dict[Name, str] = {
    "segface": "linear_fuse.weight",
    "mobilefacenet": "conv_6_sep.conv.weight",
    "ir50": "input_layer.0.weight",
}


class Converted(NamedTuple):
    network: Name
    origin: Fingerprint


class Identified(NamedTuple):
    what: str
    doubt: str | None


def network_of(weights: Weights) -> Name:
    """Return the network of the tensors, recognised by one tensor name that only it has.

    Raises OrsanetError if it is none of the known networks.
    """
    for name, mark in _MARKS.items():
        if mark in weights.tensors:
            return name
    first = ", ".join(list(weights.tensors)[:3])
    raise OrsanetError(f"{weights.path}: is neither SegFace, MobileFaceNet nor IR50; its tensors begin with {first}")


def used_tensors(weights: Weights) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors that the network uses, and the entries that their header needs.

    Raises OrsanetError if the tensors are not exactly those of one of the known networks.
    """
    name = network_of(weights)
    if name == "segface":
        segmenter = load_segmenter(weights.path)
        return segmenter.state_dict(), {ARCHITECTURE_KEY: segmenter.config.model_dump_json()}
    if name == "mobilefacenet":
        return load_landmark_network(weights.path).state_dict(), {}
    with torch.device("meta"):
        layout = IR50Layout()
    if ORIGIN_KEY in weights.metadata:  # a converted file has no output layer
        del layout.output_layer
    load_strictly(layout, weights)
    return {key: tensor for key, tensor in layout.state_dict().items() if not key.startswith("output_layer.")}, {}


def convert_weights(path: Path, out: Path) -> Converted:
    """Write the tensors that are used to a new safetensors file, completely or not at all.

    Raises OrsanetError if `path` cannot be read safely, is not exactly one of the known networks or
    is already converted, and if `out` exists.
    """
    taken = OrsanetError(f"{out}: exists already; remove it or choose another --out")
    if out.exists():
        raise taken
    weights = read_weights(path)
    if ORIGIN_KEY in weights.metadata:
        raise OrsanetError(f"{path}: is already converted; use it as it is")
    tensors, header = used_tensors(weights)
    converted = Converted(network_of(weights), fingerprint(path))
    make_folder(out.absolute().parent)
    content = safetensors.torch.save(
        {key: tensor.contiguous() for key, tensor in tensors.items()},
        metadata={**header, ORIGIN_KEY: converted.origin.sha256},
    )
    if not write_new(out.absolute(), [content]):
        raise taken
    return converted


def identify(path: Path, sources: Mapping[Name, Source] = SOURCES) -> Identified:
    """Identify a file as one of the known files, or as converted from one, with remaining doubts.

    Raises OrsanetError, with the difference from the known file, if it is none of them.
    """
    found = fingerprint(path)
    for name, source in sources.items():
        if found.sha256 == source.sha256:
            copied = None if source.digest_is_the_authors else "this SHA-256 is that of a copy; the authors give none"
            return Identified(f"{name}: exactly the published {source.title}, {source.file_name}", copied)
    try:
        weights = read_weights(path)
        used_tensors(weights)
    except OrsanetError as error:
        named = [
            f"; it differs from the published {s.file_name}: {difference(found, s)}"
            for s in sources.values()
            if s.file_name == path.name
        ]
        raise OrsanetError(f"{path}: is none of the known files{''.join(named)}; it cannot be used: {error}") from error
    name = network_of(weights)
    source = sources[name]
    origin = weights.metadata.get(ORIGIN_KEY)
    if origin is None:
        wrong = f"is not the published {source.file_name}: {difference(found, source)}"
    elif origin == source.sha256:
        return Identified(
            f"{name}: converted from the published {source.title} (according to its header); its tensors fit", None
        )
    else:
        wrong = f"was not converted from the published {source.file_name}: its origin's SHA-256 is {origin}"
    if source.digest_is_the_authors:
        raise OrsanetError(f"{path}: fits {source.network} tensor by tensor, but {wrong}")
    return Identified(
        f"{name}: fits {source.network} tensor by tensor", f"it {wrong}; only the digest of a copy is known"
    )


class IR50Layout(nn.Module):
    """Names and shapes of the published IR50 file, for checks. The network itself is in stage 2."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        stages = [(64, 64, 3), (64, 128, 4), (128, 256, 14)]  # channels in, out, units
        self.body = nn.Sequential(
            *(
                _UnitLayout(inputs if index == 0 else outputs, outputs)
                for inputs, outputs, units in stages
                for index in range(units)
            )
        )
        # For face recognition; ORSANet does not use it.
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512), nn.Dropout(), nn.Flatten(), nn.Linear(512 * 7 * 7, 512), nn.BatchNorm1d(512)
        )


class _UnitLayout(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        if inputs != outputs:
            self.shortcut_layer = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, bias=False),
            nn.BatchNorm2d(outputs),
        )
