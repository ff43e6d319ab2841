"""Features as a store keeps them and gives them back: by the build, and wherever a model must see what a store would have given it.

float32 ─ kept ─▶ int8 with a scale, float16 or float32 ─ given_back ─▶ float32, rounded            as_stored: both
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from orsanet_cache.store.schema import SCALE, Field

if TYPE_CHECKING:  # torchvision, which priors.py needs, takes seconds to import
    from orsanet_cache.frozen.priors import Priors


def stored_values(priors: "Priors", fields: Sequence[Field]) -> dict[str, Tensor]:
    """What the networks said as the store keeps it: features as float16 or float32, or as int8 with their scale."""
    dtypes = {field.name: field.dtype for field in fields}
    values: dict[str, Tensor] = {}
    for name, tensor in priors._asdict().items():
        values |= kept(name, tensor, dtypes[name])
    return values


def as_stored(features: Tensor, feature_dtype: str) -> Tensor:
    """Features [B, C, 7, 7] as a store of this type gives them back, float32: rounded to float16, to int8 with a scale, or as they are.

    A model is trained and evaluated on these.
    """
    return given_back(kept("features", features, feature_dtype), "features")


def kept(name: str, values: Tensor, dtype: str) -> dict[str, Tensor]:
    """A field as the store keeps it: as int8 with `NAME_scale` beside it, or cast to another type."""
    if dtype == "int8":
        return dict(zip((name, f"{name}{SCALE}"), quantised(values), strict=True))
    return {name: values.to(getattr(torch, dtype))}


def given_back(stored: Mapping[str, Tensor], name: str) -> Tensor:
    """Features of a store's rows as float32, whatever they are kept as; float32 ones are not copied."""
    values = stored[name].float()
    scale = stored.get(f"{name}{SCALE}")
    return values if scale is None else values * scale[..., None, None]


def quantised(features: Tensor) -> tuple[Tensor, Tensor]:
    """[B, C, 7, 7] -> int8 of that shape, and float32 scale [B, C] to multiply it by; the largest value of a channel becomes 127."""
    features = features.float()
    scale = features.abs().amax(dim=(2, 3)) / 127
    steps = features / scale.where(scale > 0, 1)[:, :, None, None]
    return steps.round().nan_to_num(0, 0, 0).to(torch.int8), scale
