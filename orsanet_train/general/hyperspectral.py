"""SpectralFormer's task: a scene's pixels as tokens, and which of them train and test.

    cube [H, W, N] ─ scaled per band to 0 … 1 over the whole image ─ padded by its mirrored edge ─▶ on the device
    pixels [B] ─ window P x P around each ─ groups of G neighbouring bands ─▶ tokens [B, N, G P²]

Groups are cyclic: the token of band b has the bands b + o modulo N. As published, the offsets o are

    -h … -1, 0, 1 … h          for P = 1, h = G // 2
    -1, -2 … -h, 0, 1 … h      for patches: another order of the same bands, from G = 5 on

A feature's index is g P² + row P + column. Test pixels take part in the scaling, as published.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from orsanet_cache.errors import OrsanetError
from orsanet_train.general.arms import Labels, whole
from orsanet_train.general.recipes import SpectralRecipe
from orsanet_train.general.scenes import Scene
from orsanet_train.general.spectralformer import SpectralFormer
from orsanet_train.general.training import order_of

TESTED = 512  # pixels at a time; published: 64, which gives the same logits


class Tokens:
    """Tokens of a cube's pixels, made on a device when they are needed.

    All patches of an image would take G P² times the cube's memory.

    Args:
        cube: [H, W, N], any numbers.
        patch: P, odd.
        group: G, odd, at most N.
        device: where the cube is kept and the tokens are made.
    """

    def __init__(self, cube: NDArray[Any], patch: int, group: int, device: torch.device) -> None:
        bands, half, edge = cube.shape[2], group // 2, patch // 2
        if patch % 2 == 0 or group % 2 == 0:
            raise OrsanetError(
                f"patch = {patch}, group = {group}: both must be odd, so that pixel and band are in the middle"
            )
        if group > bands:
            raise OrsanetError(f"group = {group}: the cube has {bands} bands; use a smaller group")
        if edge > min(cube.shape[:2]):
            raise OrsanetError(
                f"patch = {patch}: the scene has {cube.shape[0]} x {cube.shape[1]} pixels; use a smaller patch"
            )
        values = cube.astype(np.float64)
        least, most = values.min(axis=(0, 1)), values.max(axis=(0, 1))
        padded = np.pad((values - least) / (most - least), ((edge, edge), (edge, edge), (0, 0)), mode="symmetric")
        self.cube = torch.from_numpy(padded.astype(np.float32)).to(device)
        before = range(-half, 0) if patch == 1 else range(-1, -half - 1, -1)
        offsets = torch.tensor([*before, *range(half + 1)])
        self.bands = ((torch.arange(bands)[:, None] + offsets) % bands).to(device)  # [N, G]
        self.window = torch.arange(patch, device=device)

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Tokens float32 [B, N, G P²] of pixels, int64 [B] each."""
        down = (rows[:, None] + self.window)[:, :, None]
        across = (columns[:, None] + self.window)[:, None, :]
        spectra = self.cube[down, across].flatten(1, 2)  # [B, P², N]
        return spectra[:, :, self.bands].permute(0, 2, 3, 1).flatten(2)


class SpectralTask:
    """A scene and a recipe, for training.py."""

    measures = ("overall", "average", "kappa")
    unit = "pixel"

    def __init__(self, scene: Scene, recipe: SpectralRecipe, device: torch.device) -> None:
        self.recipe = recipe
        self.device = device
        self.tokens = Tokens(scene.cube, recipe.patch, recipe.group, device)
        self.classes = tuple(f"class {1 + label}" for label in range(scene.classes))
        self.bands = scene.cube.shape[2]
        self.train_pixels, self.train_labels = self._pixels(scene.train)
        self.test_pixels, labels = self._pixels(scene.test)
        self.test_labels: NDArray[np.int64] = labels.cpu().numpy()
        self.identity: dict[str, Any] = {
            "network": "spectralformer",
            "data": list(scene.origin),
            "data_sha256": scene.sha256(),
            "training_class_counts": dict(zip(self.classes, scene.counts(scene.train), strict=True)),
        }

    def _pixels(self, pixels: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Rows and columns [2, n] of a map's pixels, and their labels [n] from 0."""
        where = np.nonzero(pixels)
        places = torch.from_numpy(np.stack(where)).to(self.device)
        return places, torch.from_numpy(pixels[where] - 1).to(self.device)

    def network(self) -> nn.Module:
        recipe = self.recipe
        features = recipe.group * recipe.patch**2
        return SpectralFormer(self.bands, features, len(self.classes), recipe.fusion, recipe.dropout)

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            network.parameters(), lr=self.recipe.learning_rate, weight_decay=self.recipe.weight_decay
        )

    def epoch(self, seed: int, epoch: int) -> list[NDArray[np.int64]]:
        order = order_of(len(self.train_labels), seed, epoch)
        return [order[start : start + self.recipe.batch_size] for start in range(0, len(order), self.recipe.batch_size)]

    def batches(
        self, seed: int, epoch: int, steps: list[NDArray[np.int64]], done: int
    ) -> Iterator[tuple[Tensor, Labels]]:
        for positions in steps[done:]:
            chosen = torch.from_numpy(positions).to(self.device)
            yield self.tokens.at(*self.train_pixels[:, chosen]), whole(self.train_labels[chosen])

    def test_batches(self) -> Iterator[Tensor]:
        for start in range(0, self.test_pixels.shape[1], TESTED):
            yield self.tokens.at(*self.test_pixels[:, start : start + TESTED])
