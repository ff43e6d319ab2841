"""The schema of a store: a view's fields, those added to it later, shapes and types, and the encoding of sample ids."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION = 4  # of a store that has not grown, and of every seal
GROWN_SCHEMA = 5  # of a store with a split that is an index over rows (states.py); older versions refuse it
MARK = "orsanet_store"  # the root attribute that marks a folder or file as a store of this package
ROWS_PER_UNIT = 256

IMAGE_SHAPE = (112, 112, 3)
MAP_SHAPE = (224, 224)
GRID = (7, 7)
SAMPLE_ID_AXES = ("sample", "byte")
# Classes of a segmentation map's values, in LaPa's label order. "left" is the subject's left, as
# LaPa labels it. A horizontal flip swaps left and right.
LAPA_CLASSES = (
    "background", "face", "left brow", "right brow", "left eye", "right eye",
    "nose", "upper lip", "inner mouth", "lower lip", "hair",
)  # fmt: skip
# Fields that a store has on request: MobileFaceNet's earlier grids, channels and side.
OPTIONAL = {"landmark_features_28": (64, 28), "landmark_features_14": (128, 14)}
NETWORK = "network"  # the attribute of a group of added fields: what computed them, and the fields
ADDED_TO = "added_to"  # the provenance entry of such a group: the seal of the view that it was computed from
SCALE = "_scale"  # suffix of an int8 field's name: the field of its scales
MAX_ROW_BYTES = 16 * 1024**2  # larger rows are refused: this package writes none


@dataclass(frozen=True)
class Field:
    """One array of a view.

    `shape` is a row's, without the sample axis; `axes` names the dimensions of a row. Without names
    they are numbered.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    axes: tuple[str, ...] = ()
    compressed: bool = False

    def __post_init__(self) -> None:
        numbered = tuple(f"{self.name}_{number}" for number in range(len(self.shape)))
        object.__setattr__(self, "axes", self.axes or numbered)

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def schema(
    segmentation_channels: int, landmark_channels: int, feature_dtype: str, optional: Collection[str] = ()
) -> tuple[Field, ...]:
    """The fields of every view, in the order in which they are written; `optional` are names from OPTIONAL.

    int8 features must be multiplied by their scale, one number per sample and channel.
    """
    fields = [
        Field("image", IMAGE_SHAPE, "uint8", ("image_y", "image_x", "rgb")),
        # Piecewise constant: zstd gains 40x. It gains nothing on images and features.
        Field("segmentation_map", MAP_SHAPE, "uint8", ("map_y", "map_x"), compressed=True),
        Field("segmentation_entropy", (), "float32", ()),
    ]
    for source, channels in (("segmentation", segmentation_channels), ("landmark", landmark_channels)):
        channel = f"{source}_channel"
        fields.append(Field(f"{source}_features", (channels, *GRID), feature_dtype, (channel, "grid_y", "grid_x")))
        if feature_dtype == "int8":
            fields.append(Field(f"{source}_features{SCALE}", (channels,), "float32", (channel,)))
    fields.append(Field("landmarks", (68, 2), "float32", ("landmark", "xy")))
    for name, (channels, side) in OPTIONAL.items():
        if name in optional:
            channel, axes = f"{name}_channel", (f"{name}_y", f"{name}_x")
            fields.append(Field(name, (channels, side, side), feature_dtype, (channel, *axes)))
            if feature_dtype == "int8":
                fields.append(Field(f"{name}{SCALE}", (channels,), "float32", (channel,)))
    return tuple(fields)


@dataclass(frozen=True)
class Addition:
    """Fields that are added to finished views, in the group VIEW.NAME beside each view.

    `recipe` has what determines their values besides the recipe of the store.
    """

    name: str
    fields: tuple[Field, ...]
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """The attribute NETWORK of such a group."""
        fields = [[one.name, list(one.shape), one.dtype, list(one.axes), one.compressed] for one in self.fields]
        return {"name": self.name, "recipe": dict(self.recipe), "fields": fields}

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Self:
        """The inverse of `described`. Raises ValueError, KeyError or TypeError for anything else."""
        fields = tuple(
            Field(str(name), tuple(map(int, shape)), str(dtype), tuple(map(str, axes)), bool(compressed))
            for name, shape, dtype, axes, compressed in described["fields"]
        )
        return cls(str(described["name"]), fields, dict(described["recipe"]))


def added_group(view: str, name: str) -> str:
    """The group of a view's fields that the addition `name` has. No view has a dot in its name."""
    return f"{view}.{name}"


def view_and_addition(group: str) -> tuple[str, str]:
    """The view that a group of a split belongs to, and the name of the addition; "" for the view itself."""
    view, _, name = group.partition(".")
    return view, name


def encode_ids(ids: Sequence[str]) -> NDArray[np.uint8]:
    """Sample ids -> uint8 [N, L], UTF-8, zero-padded."""
    encoded = list(map(str.encode, ids))
    return np.array(encoded, dtype=f"S{max(map(len, encoded))}").view(np.uint8).reshape(len(ids), -1)


def decode_ids(array: NDArray[np.uint8]) -> tuple[str, ...]:
    """The inverse of encode_ids."""
    texts = np.ascontiguousarray(array).view(f"S{array.shape[1]}")  # NumPy leaves out the zeros at the end
    return tuple(map(bytes.decode, texts.reshape(-1).tolist()))
