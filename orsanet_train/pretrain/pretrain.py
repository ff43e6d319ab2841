"""Trains a backbone to tell people apart, for `orsanet-train run --ir50`.

    pictures of people ─▶ batches in a seeded order ─▶ AdamW, one learning-rate cycle ─▶ backbone.safetensors
                                                         └─ every SAVE_STEPS: backbone.state.pt
    people outside the training ─▶ rank-1 identification ─▶ backbone.toml, the card

The published backbone's weights come from face recognition too. An interrupted training continues
with the same batches as without the interruption, and so does one with more steps.
"""

import math
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from orsanet_cache.data.manifest import Manifest, as_manifest
from orsanet_cache.durable import prepare_folder
from orsanet_cache.errors import OrsanetError
from orsanet_cache.frozen.shipped import BACKBONE, check_backbone_card, write_backbone_card
from orsanet_cache.frozen.trained import Part, check_weights, restore_state, save_state, write_weights
from orsanet_cache.outputs import lock_file
from orsanet_cache.paths import StrPath, as_path
from orsanet_cache.progress import Progress
from orsanet_train.model_config import ModelConfig, Sizes
from orsanet_train.pretrain.network import Recogniser, margin_loss, rank_one
from orsanet_train.pretrain.people import People

SAVE_STEPS = 50
COMMAND = "orsanet-train pretrain"
STATE = "backbone.state.pt"
_EVALUATED = 64  # pictures at a time


@dataclass(frozen=True)
class Recipe:
    """Training settings. A training of fewer steps than its learning-rate cycle can be lengthened later."""

    seed: int = 0
    steps: int = 1000
    cycle: int = 2000  # steps
    batch: int = 48
    learning_rate: float = 2e-3
    weight_decay: float = 0.01


@dataclass(frozen=True)
class Quality:
    """How well the embedding tells people apart who were not trained on."""

    split: str
    people: int
    pictures: int
    rank_one: float  # share of pictures whose nearest other picture shows the same person
    by_chance: float  # the same for a random other picture


def pretrain(manifest: Manifest | StrPath, out: StrPath, model: ModelConfig, recipe: Recipe) -> tuple[Path, Quality]:
    """Train the backbone of `model` on the people of `manifest`, or continue an interrupted call.

    The manifest's classes are people. Those of the split `train` are trained on; those of `valid`,
    who must be others, measure the result. Returns the weights file and its quality; the card
    backbone.toml has both. Raises OrsanetError for a manifest without these splits or with a person
    in both, if `out` has a training of another recipe or files of another origin, and if another
    process trains there.
    """
    if model.backbone is None:
        raise OrsanetError(f'model.kind = "{model.kind}" has no backbone to train; choose another preset or kind')
    manifest, out = as_manifest(manifest, check_files=True), as_path(out, "out")
    trained, unseen = People(manifest, "train"), People(manifest, "valid")
    both = {sample.label for sample in manifest.split("train")} & {sample.label for sample in manifest.split("valid")}
    if both:
        raise OrsanetError(
            f"manifest '{manifest.name}': {len(both):,} people are in train and in valid, {manifest.classes[min(both)]} for example; "
            "put each person into one split"
        )
    if recipe.steps > recipe.cycle:
        raise OrsanetError(
            f"--steps {recipe.steps} is beyond the learning rate's cycle; pass --cycle {recipe.steps} too"
        )
    if len(trained.paths) < recipe.batch:
        raise OrsanetError(
            f"manifest '{manifest.name}' has {len(trained.paths):,} pictures to train on, a batch {recipe.batch:,}; lower --batch"
        )
    prepare_folder(out)
    check_weights(out / BACKBONE, COMMAND)
    check_backbone_card(out)
    with ExitStack() as held:
        try:
            held.enter_context(lock_file(out / ".backbone.orsanet-lock"))
        except BlockingIOError:
            raise OrsanetError(f"{out}: another command is training a backbone in this folder") from None
        return _train(manifest, trained, unseen, out, model.backbone, recipe)


def _train(
    manifest: Manifest, trained: People, unseen: People, out: Path, backbone: tuple[Sizes, Sizes], recipe: Recipe
) -> tuple[Path, Quality]:
    channels, units = backbone
    described: dict[str, Any] = {
        "network": "backbone",
        "channels": list(channels),
        "units": list(units),
        "data_set": manifest.name,
        "people": trained.count,
        "pictures": len(trained.paths),
        **{key: value for key, value in asdict(recipe).items() if key != "steps"},
    }
    torch.manual_seed(recipe.seed)
    network = Recogniser(channels, units, trained.count)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    # The rate rises for a tenth of the steps, then falls. In a trial of a few steps it only rises.
    schedule = OneCycleLR(optimizer, recipe.learning_rate, total_steps=max(recipe.cycle, 19) + 1, pct_start=0.1)
    clock = _Clock()
    parts: dict[str, Part] = {"network": network, "optimizer": optimizer, "schedule": schedule, "clock": clock}
    done = restore_state(out / STATE, described, parts)
    if done > recipe.steps:
        raise OrsanetError(f"{out}: {done:,} steps are done; pass --steps {done} or more, or choose another --out")
    network.train()
    with Progress(recipe.steps, "backbone", "step", initial=done) as progress:
        for step in range(done, recipe.steps):
            image, person = trained.training_batch(recipe.seed, step, recipe.batch)
            loss = margin_loss(network.cosines(network(image)), person)
            if not math.isfinite(value := loss.item()):
                raise OrsanetError(f"the loss was not finite at step {step}; train again with a lower --learning-rate")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            progress.set_postfix(loss=f"{value:.3f}")
            progress.update()
            if (step + 1) % SAVE_STEPS == 0 or step + 1 == recipe.steps:
                save_state(out / STATE, described, parts, step + 1)
    quality = _measure(network, unseen)
    weights = out / BACKBONE
    write_weights(weights, network.backbone.state_dict(), {**described, "steps": recipe.steps}, {}, COMMAND)
    write_backbone_card(out, {**asdict(quality), "hours": round(clock.seconds / 3600, 2)})
    return weights, quality


class _Clock:
    """Processor time of the training, over all calls that continued it."""

    def __init__(self) -> None:
        self.before = 0.0

    @property
    def seconds(self) -> float:
        return self.before + time.process_time()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = float(state_dict["seconds"])


def _measure(network: Recogniser, unseen: People) -> Quality:
    network.eval()
    with torch.inference_mode():
        embeddings = torch.cat([network(image) for image, _ in unseen.in_order(_EVALUATED)])
    person = torch.from_numpy(unseen.persons)
    pictures, each = len(person), torch.bincount(person)
    same = int((each * (each - 1)).sum())
    return Quality(
        split="valid",
        people=unseen.count,
        pictures=pictures,
        rank_one=round(rank_one(embeddings, person), 4),
        by_chance=round(same / (pictures * (pictures - 1)), 4),
    )
