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
from orsanet_train.config import ModelConfig
from orsanet_train.model.orsanet import build_model, published_unused

DECODER = "SegFace decoder"


class PartCost(NamedTuple):
    """The cost of one part for one image."""

    name: str
    trainable: int  # parameters
    frozen: int
    multiply_adds: int


def complexity(config: ModelConfig, classes: int) -> list[PartCost]:
    """The parts in the order of the data flow, frozen networks first, at their published sizes."""
    with torch.device("meta"):
        segmenter, landmark_network = SegFace(SegFaceConfig()).eval(), MobileFaceNet().eval()
        model = build_model(config, classes).eval()
        image, crop = torch.empty(1, 3, 224, 224), torch.empty(1, 3, 112, 112)
        features = torch.empty(1, 1024, 7, 7)
        segmentation = torch.empty(1, 224, 224, dtype=torch.uint8) if config.segmentation_prior == "map" else features
        landmark_features = torch.empty(1, 512, 7, 7)

    encoder = _multiply_adds(lambda: segmenter.encode(image))
    whole = _multiply_adds(lambda: segmenter(image))
    parts = [
        PartCost("SegFace encoder", 0, _parameters(segmenter.backbone), encoder),
        PartCost(DECODER, 0, _parameters(segmenter) - _parameters(segmenter.backbone), whole - encoder),
        PartCost("MobileFaceNet", 0, _parameters(landmark_network), _multiply_adds(lambda: landmark_network(crop))),
    ]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(crop, segmentation, landmark_features)
    flops = counter.get_flop_counts()
    for name, module in model.named_children():
        parts.append(PartCost(name, _parameters(module), 0, sum(flops.get(f"ORSANet.{name}", {}).values()) // 2))
    return parts


def complexity_table(config: ModelConfig, classes: int) -> str:
    """The table that `orsanet-train complexity` prints, with the cost of an image's forward pass.

    Multiply-adds are in GMAC (1e9); GFLOP counts each as two operations. "As published" is the cost
    of the published code, which runs the frozen encoder and the landmark network in every pass,
    because the model uses their outputs, but not the segmenter's decoder, whose maps the model does
    not use.
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
    unused = sum(tensor.numel() for tensor in published_unused().values())
    lines = [table, "", f"trainable, used by the forward pass: {used:,}"]
    if config == ModelConfig():
        lines += [
            f"in the published checkpoint, never used: {unused:,}",
            f"trainable in the published checkpoint:  {used + unused:,}",
        ]
    trained = sum(part.multiply_adds for part in parts if part.trainable)
    frozen = {part.name: part.multiply_adds for part in parts if part.frozen}
    lines += [
        "one forward pass of an image (GFLOP = 2 x GMAC):",
        f"  from the store, trained part alone: {trained / 1e9:.1f} GMAC",
        f"  as published, with encoder and MobileFaceNet in every pass, without the decoder: "
        f"{(trained + sum(frozen.values()) - frozen[DECODER]) / 1e9:.1f} GMAC",
        f"  for the store, computed once per view, with the decoder: {sum(frozen.values()) / 1e9:.1f} GMAC",
    ]
    return "\n".join(lines)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _multiply_adds(forward: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    return counter.get_total_flops() // 2
