"""Trains the small frozen networks of the embedded default on synthetic faces only.

    faces of a seed with their truth → batches in a seeded order → AdamW, one learning-rate cycle
                                     → fp16 safetensors

Every SAVE_STEPS steps the whole state is written. An interrupted training continues from there with
the same batches as without the interruption. The segmenter learns the map of the visible parts, the
landmark network all 68 points, including hidden ones. Inputs of both are ImageNet-normalised, as in
the published pipeline. The networks compute in bfloat16 if the processor has it, otherwise in
float32: the same recipe gives other weights there.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, l1_loss, one_hot
from torch.optim.lr_scheduler import OneCycleLR

from orsanet_cache.data.images import read_image, view_pixels
from orsanet_cache.data.views import CLEAN
from orsanet_cache.device import has_bfloat16
from orsanet_cache.errors import OrsanetError
from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.frozen.pixels import imagenet_normalised, unit_range
from orsanet_cache.frozen.priors import ARCHITECTURE_KEY
from orsanet_cache.frozen.segface import SegFace, SegFaceConfig
from orsanet_cache.frozen.shipped import WEIGHTS, NetworkName
from orsanet_cache.frozen.trained import Part, check_weights, restore_state, save_state, write_weights
from orsanet_cache.outputs import lock_file
from orsanet_cache.progress import Progress
from orsanet_cache.store.schema import LAPA_CLASSES
from orsanet_cache.synthetic.dataset import GENERATOR_VERSION, TRUTH, image_name, write_dataset

SEGMENTER = SegFaceConfig(
    embed_dim=24, depths=(1, 2, 2, 1), num_heads=(1, 2, 4, 8), decoder_width=64, decoder_heads=2, decoder_mlp_width=256
)
SAVE_STEPS = 100
COMMAND = "orsanet-cache demo-train"


@dataclass(frozen=True)
class Recipe:
    """Training settings. `images` faces of `seed` are drawn once and used in every pass."""

    seed: int = 1
    images: int = 8000
    segmenter_steps: int = 2000
    landmarks_steps: int = 1300
    segmenter_batch: int = 16
    landmarks_batch: int = 32
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.01


def train_networks(out: Path, names: tuple[NetworkName, ...], recipe: Recipe) -> list[Path]:
    """Train the named networks, or continue an interrupted call. Returns the weights files.

    Raises OrsanetError if `out` contains a training of another recipe, or weights of another origin,
    and if another process trains one of the networks there.
    """
    for name in names:
        check_weights(out / WEIGHTS[name], COMMAND)
    write_dataset(out / "faces", recipe.seed, recipe.images, truth=True)
    return [_train_alone(out, name, recipe) for name in names]


def segmentation_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice over the classes, which gives small parts weight.

    Logits are [B, K, H, W]; truth is int64 [B, H, W].
    """
    probability = logits.softmax(dim=1)
    target = one_hot(truth, len(LAPA_CLASSES)).movedim(-1, 1).to(probability.dtype)
    overlap, total = (probability * target).sum(dim=(0, 2, 3)), (probability + target).sum(dim=(0, 2, 3))
    return cross_entropy(logits, truth) + 1 - ((2 * overlap + 1) / (total + 1)).mean()


class _Faces:
    """The drawn faces: images normalised as in the published pipeline, and their truth."""

    def __init__(self, folder: Path, images: int, name: NetworkName) -> None:
        self.folder, self.images, self.name = folder, images, name
        with np.load(folder / TRUTH) as truth:
            self.truth = truth["segmentation_map" if name == "segmenter" else "landmarks"]

    def batch(self, index: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        pixels = np.stack([view_pixels(read_image(self.folder / image_name(i)).rgb, CLEAN) for i in index.tolist()])
        images = imagenet_normalised(unit_range(torch.from_numpy(pixels)))
        truth = torch.from_numpy(self.truth[index])
        return (images, truth.long()) if self.name == "segmenter" else (images[..., ::2, ::2].contiguous(), truth)


def _train_alone(out: Path, name: NetworkName, recipe: Recipe) -> Path:
    with ExitStack() as held:  # the other network may be trained by another process in the same folder
        try:
            held.enter_context(lock_file(out / f".{name}.orsanet-lock"))
        except BlockingIOError:
            raise OrsanetError(f"{out}: another command is training the {name} network in this folder") from None
        return _train(out, name, recipe)


def _train(out: Path, name: NetworkName, recipe: Recipe) -> Path:
    weights = out / WEIGHTS[name]
    steps = recipe.segmenter_steps if name == "segmenter" else recipe.landmarks_steps
    batch_size = recipe.segmenter_batch if name == "segmenter" else recipe.landmarks_batch
    torch.manual_seed(recipe.seed)
    faces = _Faces(out / "faces", recipe.images, name)
    network: nn.Module = (
        SegFace(SEGMENTER) if name == "segmenter" else _centred(MobileFaceNet(), torch.from_numpy(faces.truth))
    )
    loss_of: Callable[[Tensor, Tensor], Tensor] = segmentation_loss if name == "segmenter" else _landmark_loss
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    # The rate rises for a tenth of the steps, then falls. In a trial of a few steps it only rises.
    schedule = OneCycleLR(optimizer, recipe.learning_rate, total_steps=max(steps, 19) + 1, pct_start=0.1)
    described = {"network": name, "generator": GENERATOR_VERSION, **vars(recipe)}
    state = out / f"{name}.state.pt"
    parts: dict[str, Part] = {"network": network, "optimizer": optimizer, "schedule": schedule}
    done = restore_state(state, described, parts)
    network.train()
    in_half = has_bfloat16()
    with Progress(steps, name, "step", initial=done) as progress:
        for step in range(done, steps):
            images, truth = faces.batch(_order(recipe, step, batch_size))
            with torch.autocast("cpu", torch.bfloat16, enabled=in_half):
                output = network(images)[1]
            loss = loss_of(output.float(), truth)
            if not math.isfinite(value := loss.item()):
                raise OrsanetError(
                    f"{name}: the loss was not finite at step {step}; train again with a lower Recipe.learning_rate"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            progress.set_postfix(loss=f"{value:.4f}")
            progress.update()
            if (step + 1) % SAVE_STEPS == 0 or step + 1 == steps:
                save_state(state, described, parts, step + 1)
    header = {ARCHITECTURE_KEY: network.config.model_dump_json()} if isinstance(network, SegFace) else {}
    write_weights(weights, network.state_dict(), described, header, COMMAND)
    return weights


def _centred(network: MobileFaceNet, landmarks: Tensor) -> MobileFaceNet:
    """Initialise the last BatchNorm with mean and deviation of the landmarks [N, 68, 2].

    Learning this scale and shift would take hundreds of steps.
    """
    last = network.output_layer.bn
    with torch.no_grad():
        last.bias.copy_(landmarks.mean(dim=0).flatten())
        last.weight.copy_(landmarks.std(dim=0).flatten())
    return network


def _landmark_loss(landmarks: Tensor, truth: Tensor) -> Tensor:
    return 100 * l1_loss(landmarks, truth)  # in per cent of the crop


def _order(recipe: Recipe, step: int, batch_size: int) -> NDArray[np.int64]:
    """Return the faces of a step.

    Each pass has its own order and uses each face at most once. A rest smaller than a batch is not
    used in that pass.
    """
    passed, place = divmod(step, recipe.images // batch_size)
    return np.random.default_rng([recipe.seed, passed]).permutation(recipe.images)[
        place * batch_size : (place + 1) * batch_size
    ]
