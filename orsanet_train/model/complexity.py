"""Parameters and multiply-adds per part.

They are counted by running the networks once on the meta device under torch's counter.
"""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.frozen.segface import SegFace, SegFaceConfig
from orsanet_train.model.inputs import random_inputs
from orsanet_train.model.model import build_model
from orsanet_train.model_config import ModelConfig

DECODER, LANDMARK_NETWORK = "SegFace decoder", "MobileFaceNet"


class PartCost(NamedTuple):
    """The cost of one part for one image."""

    name: str
    trainable: int  # parameters
    frozen: int
    multiply_adds: int


def complexity(config: ModelConfig, classes: int) -> list[PartCost]:
    """The parts in the order of the data flow, the frozen networks that the model reads first, at published sizes."""
    with torch.device("meta"):
        segmenter, landmark_network = SegFace(SegFaceConfig()).eval(), MobileFaceNet().eval()
        model = build_model(config, classes).eval()
        image, crop = torch.empty(1, 3, 224, 224), torch.empty(1, 3, 112, 112)

    parts = []
    if any(name.startswith("segmentation") for name in config.fields):
        encoder = _multiply_adds(lambda: segmenter.encode(image))
        whole = _multiply_adds(lambda: segmenter(image))
        parts += [
            PartCost("SegFace encoder", 0, _parameters(segmenter.backbone), encoder),
            PartCost(DECODER, 0, _parameters(segmenter) - _parameters(segmenter.backbone), whole - encoder),
        ]
    if any(name.startswith("landmark") for name in config.fields):
        arithmetic = _multiply_adds(lambda: landmark_network(crop))
        parts.append(PartCost(LANDMARK_NETWORK, 0, _parameters(landmark_network), arithmetic))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*random_inputs(config, 1, device="meta"))
    flops, network = counter.get_flop_counts(), type(model).__name__
    for name, module in model.named_children():
        parts.append(PartCost(name, _parameters(module), 0, sum(flops.get(f"{network}.{name}", {}).values()) // 2))
    return parts


def complexity_table(config: ModelConfig, classes: int) -> str:
    """The table that `orsanet-train complexity` prints, with the cost of an image's forward pass.

    Multiply-adds are in GMAC (1e9); GFLOP counts each as two operations. "As published" is the cost
    of the published code, which runs the frozen networks in every pass, because the model uses
    their outputs, but not the segmenter's decoder, whose maps the model does not use.
    """
    parts = complexity(config, classes)
    rows = [
        (
            p.name,
            f"{p.trainable:,}",
            f"{p.frozen:,}",
            f"{p.multiply_adds / 1e9:.2f}",
            f"{2 * p.multiply_adds / 1e9:.2f}",
        )
        for p in parts
    ]
    table = pd.DataFrame(rows, columns=["part", "trainable", "frozen", "GMAC", "GFLOP"]).to_string(index=False)
    used = sum(part.trainable for part in parts)
    with torch.device("meta"):
        unused = sum(tensor.numel() for tensor in build_model(config, classes).published_unread().values())
    lines = [table, "", f"trainable, used by the forward pass: {used:,}"]
    if config == type(config)() and unused:
        lines += [
            f"in the published checkpoint, never used: {unused:,}",
            f"trainable in the published checkpoint:  {used + unused:,}",
        ]
    trained = sum(part.multiply_adds for part in parts if part.trainable)
    frozen = {part.name: part.multiply_adds for part in parts if part.frozen}
    lines += [
        "one forward pass of an image (GFLOP = 2 x GMAC):",
        f"  from the store, trained part alone: {trained / 1e9:.1f} GMAC",
    ]
    if frozen:
        decoder = frozen.get(DECODER, 0)
        encoder, without = ("encoder and ", ", without the decoder") if decoder else ("", "")
        lines += [
            f"  as published, with {encoder}{LANDMARK_NETWORK} in every pass{without}: "
            f"{(trained + sum(frozen.values()) - decoder) / 1e9:.1f} GMAC",
            f"  for the store, computed once per view{', with the decoder' if decoder else ''}: "
            f"{sum(frozen.values()) / 1e9:.1f} GMAC",
        ]
    return "\n".join(lines)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _multiply_adds(forward: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    return counter.get_total_flops() // 2
