"""Conversion of features to a store's types and back.

    float32 ─ kept ─▶ int8 with a scale, float16 or float32 ─ given_back ─▶ float32, rounded

`as_stored` does both. The build uses the first step. Code without a store uses both to give a model
the rounded features that a store would give.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from orsanet_cache.store.schema import SCALE, Field

if TYPE_CHECKING:  # torchvision, which priors.py needs, takes seconds to import
    from orsanet_cache.frozen.priors import Priors


def stored_values(priors: "Priors", fields: Sequence[Field]) -> dict[str, Tensor]:
    """Return the networks' outputs in the store's types.

    Features are float16, float32, or int8 with their scale.
    """
    dtypes = {field.name: field.dtype for field in fields}
    values: dict[str, Tensor] = {}
    for name, tensor in priors._asdict().items():
        if name in dtypes:  # optional ones are in some stores only
            values |= kept(name, tensor, dtypes[name])
    return values


def as_stored(features: Tensor, feature_dtype: str) -> Tensor:
    """Features [B, C, 7, 7] -> float32, rounded as a store of this type rounds them.

    The rounding is to float16, to int8 with a scale, or none for float32. Models are trained and
    evaluated on these values.
    """
    return given_back(kept("features", features, feature_dtype), "features")


def kept(name: str, values: Tensor, dtype: str) -> dict[str, Tensor]:
    """Convert a field to the store's type: int8 with `NAME_scale` beside it, or a cast."""
    if dtype == "int8":
        return dict(zip((name, f"{name}{SCALE}"), quantised(values), strict=True))
    return {name: values.to(getattr(torch, dtype))}


def given_back(stored: Mapping[str, Tensor], name: str) -> Tensor:
    """Return features of a store's rows, of any stored type, as float32. float32 is not copied."""
    values = stored[name].float()
    scale = stored.get(f"{name}{SCALE}")
    return values if scale is None else values * scale[..., None, None]


def quantised(features: Tensor) -> tuple[Tensor, Tensor]:
    """[B, C, 7, 7] -> int8 of the same shape, and its float32 scale [B, C], a factor.

    The largest absolute value of a channel becomes 127.
    """
    features = features.float()
    scale = features.abs().amax(dim=(2, 3)) / 127
    steps = features / scale.where(scale > 0, 1)[:, :, None, None]
    return steps.round().nan_to_num(0, 0, 0).to(torch.int8), scale
