"""A store of two units of a few pictures in one view, built by networks that remember, and all that can be asked of it."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from orsanet_cache import FrozenPriors, Manifest, OrsanetError, PriorStore
from orsanet_cache.builder.build import build
from orsanet_cache.frozen.priors import Priors

CPU = torch.device("cpu")
Content = dict[str, bytes]


class Remembering(FrozenPriors):
    """The same networks, which need not think twice about a batch: hundreds of builds of the same pictures take seconds."""

    def __init__(self, priors: FrozenPriors) -> None:
        super().__init__(priors.segmenter, priors.landmark_network, priors.landmark_input)
        self.files = dict(priors.files)
        self.said: dict[bytes, Priors] = {}
        self.same = priors.recipe()

    def recipe(self) -> dict[str, object]:
        return self.same

    @torch.no_grad()
    def forward(self, images: Tensor) -> Priors:
        seen = images.numpy().tobytes()
        if seen not in self.said:
            self.said[seen] = super().forward(images)
        return self.said[seen]


def save_picture(path: Path, seed: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((100, 120), Image.Resampling.BICUBIC).save(path)


def content(folder: Path) -> Content:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def everything(path: Path | str, splits: dict[str, list[str]]) -> dict[str, Any]:
    """All that a reader asks a store for by the names it knows."""
    store = PriorStore.open(path)
    found: dict[str, Any] = {}
    for split, views in splits.items():
        found[f"{split}/ids"] = store.sample_ids(split)
        for view in views:
            name = f"{split}/{view}"
            found[f"{name}/accepted"] = store.accepted(split, view).tolist()
            found[f"{name}/rejected"] = store.rejected(split, view)
            found[f"{name}/layouts"] = {
                field: (shape, str(dtype)) for field, (shape, dtype) in store.fields(split, view).items()
            }
            found[f"{name}/seal"] = store.sealed(split, view).seal
            for field in store.fields(split, view):
                found[f"{name}/{field}"] = store.read(split, view, field, slice(None)).tobytes()
            store.provenance(split, view)  # which is recorded, never compared
    found["recipe"], found["rows_per_unit"] = store.recipe, store.rows_per_unit
    return found


def answer(ask: Callable[[], Any], mistakes: tuple[type[Exception], ...] = (OrsanetError,)) -> tuple[Any, str]:
    """What is returned, or None and what the error says, which must be one of the user's mistakes."""
    try:
        return ask(), ""
    except mistakes as error:
        return None, str(error)


@dataclass(frozen=True)
class Small:
    """Six pictures in one split, the networks, and the sealed store of one view in units of 4 and 2 rows."""

    folder: Path
    priors: Remembering
    manifest: Manifest
    store: Path

    def build(self, out: Path, **options: Any) -> None:
        build(self.manifest, out, self.priors, ["clean"], device=CPU, **{"rows_per_unit": 4, **options})

    def pictures(self, count: int) -> Manifest:
        return Manifest("small", self.manifest.classes, self.manifest.root, self.manifest.samples[:count])

    def copy(self, folder: Path) -> Path:
        shutil.copytree(self.store, folder / "store.zarr")
        return folder / "store.zarr"
