"""Networks whose fields are added to the views of a store: one's own, and the landmark network's earlier grids.

    images ─ network ─▶ fields by name ─ checked, in the store's types ─▶ the group VIEW.NAME beside each view

A network of one's own is any object with the attributes of PriorNetwork.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from orsanet_cache.data.images import IMAGE_SIZE
from orsanet_cache.errors import OrsanetError, did_you_mean
from orsanet_cache.frozen.features import kept
from orsanet_cache.frozen.priors import FrozenPriors
from orsanet_cache.store.recipe import as_json
from orsanet_cache.store.rows import TYPES
from orsanet_cache.store.schema import IMAGE_SHAPE, MAX_ROW_BYTES, OPTIONAL, SCALE, Addition, Field, schema

ENTRY_POINTS = "orsanet_cache.networks"  # each a class, or a function without arguments, that returns a network
STORED_SIZE = IMAGE_SHAPE[0]
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_FIELD = re.compile(r"[a-z][a-z0-9_]{0,63}")
# Names that batches and views have besides.
_TAKEN = {field.name for field in schema(1, 1, "int8", OPTIONAL)} | {
    "image_sha256", "unit_sha256", "crc32c", "sample_id", "label", "erased", "drop_path",
}  # fmt: skip


@runtime_checkable
class PriorNetwork(Protocol):
    """A network of one's own, whose outputs a store keeps as fields.

    A network that is a torch module is moved to the build's device, and put into evaluation mode.
    It may also have `size = 112`: then it is given every second pixel of each view, uint8 [B, 112,
    112, 3], which the store has. So its fields can be added without the pictures.
    """

    name: str
    """Names the group of its fields. Letters, digits, - and _."""
    fields: Sequence[Field]
    """Name, shape (of one picture) and type of every field."""

    def recipe(self) -> Mapping[str, Any]:
        """What determines the values, as JSON: architecture, digest of the weights, preprocessing."""
        ...

    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        """RGB pictures of a view, uint8 [B, 224, 224, 3] -> every field by its name, [B, *shape]."""
        ...


class AddingNetwork(Protocol):
    """What a build calls: the fields of a batch, in the store's types."""

    size: int  # side of the pictures that it is given; STORED_SIZE: every second pixel, as stored

    def values(self, images: Tensor, erased: Tensor | None) -> dict[str, Tensor]:
        """uint8 [B, size, size, 3], and the rectangles [B, 4] of an augmented view -> fields by name."""
        ...


@dataclass(frozen=True)
class Added:
    """Fields to add, and the network that computes them. One network may compute those of several additions."""

    addition: Addition
    network: AddingNetwork


class LandmarkGrids:
    """The optional fields: the landmark network's earlier grids, in the type of the store's features."""

    def __init__(self, priors: FrozenPriors, feature_dtype: str) -> None:
        self.size = STORED_SIZE if priors.landmark_input == "published" else IMAGE_SIZE
        self.priors = priors
        self._dtype = feature_dtype

    def values(self, images: Tensor, erased: Tensor | None) -> dict[str, Tensor]:
        grids = self.priors.landmark_grids(images, erased)
        return {part: values for name in grids for part, values in kept(name, grids[name], self._dtype).items()}


class OwnNetwork:
    """A network of one's own, checked."""

    def __init__(self, network: PriorNetwork, device: torch.device) -> None:
        self.size = int(getattr(network, "size", IMAGE_SIZE))
        self._network = network.to(device).eval() if isinstance(network, nn.Module) else network

    @torch.no_grad()
    def values(self, images: Tensor, erased: Tensor | None) -> dict[str, Tensor]:
        """The rectangles have the colour of the view's pictures, so `erased` is not used."""
        network = self._network
        given = network(images)
        values = {}
        for field in network.fields:
            if field.name not in given:
                raise OrsanetError(f"network '{network.name}' returned no '{field.name}', which is one of its fields")
            tensor, expected = given[field.name], (len(images), *field.shape)
            if tuple(tensor.shape) != expected:
                raise OrsanetError(
                    f"network '{network.name}' returned '{field.name}' of the shape {tuple(tensor.shape)}; "
                    f"its fields say {expected}"
                )
            values[field.name] = tensor.to(getattr(torch, field.dtype))
        return values


def landmark_grids(priors: FrozenPriors, feature_dtype: str, names: Sequence[str]) -> list[Added]:
    """The additions of these optional fields. Each is an addition of its own, so that each can be added alone."""
    network = LandmarkGrids(priors, feature_dtype)
    fields = schema(1, 1, feature_dtype, OPTIONAL)
    return [
        Added(Addition(name, tuple(field for field in fields if field.name in (name, f"{name}{SCALE}"))), network)
        for name in names
    ]


def own_networks(networks: Sequence[PriorNetwork], device: torch.device) -> list[Added]:
    """The additions of networks of one's own.

    Raises OrsanetError for an object that is no such network, and for names, shapes and types that
    a store cannot have.
    """
    added: list[Added] = []
    for network in networks:
        fields, recipe = _checked(network)
        if twice := [one.addition.name for one in added if one.addition.name == network.name]:
            raise OrsanetError(f"two networks are named '{twice[0]}'; give each its own name")
        taken = {field.name: one.addition.name for one in added for field in one.addition.fields}
        if both := [field.name for field in fields if field.name in taken]:
            raise OrsanetError(
                f"'{both[0]}' is a field of the networks '{taken[both[0]]}' and '{network.name}'; rename one"
            )
        added.append(Added(Addition(network.name, fields, recipe), OwnNetwork(network, device)))
    return added


def is_installed(name: str) -> bool:
    """Whether an installed package offers a network under this name."""
    return name in entry_points(group=ENTRY_POINTS).names


def installed_network(name: str) -> PriorNetwork:
    """The network that an installed package offers under this name.

    Raises OrsanetError if none does, or if it cannot be loaded.
    """
    offered = entry_points(group=ENTRY_POINTS)
    if name not in offered.names:
        raise OrsanetError(
            f"no installed package offers the network '{name}' (entry points {ENTRY_POINTS}: "
            f"{', '.join(sorted(offered.names)) or 'none'}){did_you_mean(name, offered.names)}"
        )
    try:
        make = offered[name].load()
    except (ImportError, AttributeError) as error:
        raise OrsanetError(
            f"network '{name}' ({offered[name].value}) cannot be loaded: {error}; install its package again"
        ) from error
    network = make()  # an error in the package's own code keeps its traceback
    if getattr(network, "name", None) != name:
        raise OrsanetError(f"network '{name}' ({offered[name].value}) has the name {getattr(network, 'name', None)!r}")
    return network


def _checked(network: PriorNetwork) -> tuple[tuple[Field, ...], dict[str, Any]]:
    """The fields and the recipe of a network, as a store keeps them."""
    if not isinstance(network, PriorNetwork) or isinstance(network, type):
        raise OrsanetError(
            f"{network!r} is no network: it needs the attributes name, fields and recipe, and is called with pictures"
        )
    name = network.name
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in OPTIONAL:
        raise OrsanetError(f"a network cannot be named {name!r}; use letters, digits, - and _, such as resnet18")
    if (size := getattr(network, "size", IMAGE_SIZE)) not in (STORED_SIZE, IMAGE_SIZE):
        raise OrsanetError(
            f"network '{name}': size is {size!r}; pictures have {STORED_SIZE} or {IMAGE_SIZE} pixels a side"
        )
    if not network.fields or not all(isinstance(field, Field) for field in network.fields):
        raise OrsanetError(f"network '{name}': fields must be a list of orsanet_cache.Field, at least one")
    for field in network.fields:
        if not _FIELD.fullmatch(field.name) or field.name in _TAKEN or field.name.endswith(SCALE):
            raise OrsanetError(
                f"network '{name}': a field cannot be named '{field.name}'; use small letters, digits and _, and none of the "
                f"names that a view has already, such as {name.replace('-', '_')}_features"
            )
        if field.dtype not in TYPES:
            raise OrsanetError(
                f"network '{name}': {field.name} has the type {field.dtype}; choose from {', '.join(TYPES)}"
            )
        if not all(type(size) is int and size > 0 for size in field.shape) or field.row_bytes > MAX_ROW_BYTES:
            raise OrsanetError(
                f"network '{name}': {field.name} has the shape {field.shape}; sizes are whole numbers above 0, and a picture has at "
                f"most {MAX_ROW_BYTES // 1024**2} MB"
            )
    names = [field.name for field in network.fields]
    if twice := [one for one in names if names.count(one) > 1]:
        raise OrsanetError(f"network '{name}': two fields are named '{twice[0]}'")
    try:
        recipe = json.loads(as_json(dict(network.recipe())))
    except (TypeError, ValueError) as error:
        raise OrsanetError(f"network '{name}': its recipe must be a dictionary of plain JSON ({error})") from error
    return tuple(network.fields), recipe


def numpy_values(
    network: AddingNetwork, images: np.ndarray[Any, Any], erased: np.ndarray[Any, Any] | None, device: torch.device
) -> dict[str, np.ndarray[Any, Any]]:
    """The fields of a batch of pictures uint8 [B, size, size, 3], computed on `device`."""
    inputs = [None if given is None else torch.from_numpy(given).to(device) for given in (images, erased)]
    assert inputs[0] is not None
    return {name: values.cpu().numpy() for name, values in network.values(inputs[0], inputs[1]).items()}
