"""Find the frozen networks that a run's model was trained with, and refuse others.

    --segmenter, --landmarks, or else: the run folder, the shipped demo networks, the weights folder ─▶ FrozenPriors

The recipe in the model's weights file identifies the networks by their digests, so their files may
have any name and lie in any folder.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from orsanet_cache.data.images import image_reading, preprocessing
from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.frozen.loading import tensors_digest
from orsanet_cache.frozen.priors import FrozenPriors, load_landmark_network, load_segmenter
from orsanet_cache.frozen.shipped import DEMO, NetworkName, weights_path
from orsanet_cache.paths import StrPath, as_path
from orsanet_cache.store.recipe import recipe_differences
from orsanet_cache.weights.networks import NAMES, in_weights_folder, network_with_digest
from orsanet_train.model.checkpoint import LANDMARKS_FILE, SEGMENTER_FILE, Identity
from orsanet_train.model.model import backbone_weights, read_backbone


def frozen_priors(
    run_folder: Path, identity: Identity, segmenter: StrPath | None, landmarks: StrPath | None
) -> FrozenPriors:
    """The frozen networks of the model in `run_folder` that `identity` describes, on the CPU.

    `segmenter` and `landmarks` are weights files or the word demo. None searches the run folder,
    the shipped demo networks and the weights folder (`orsanet-cache weights list`) for the run's
    network.

    Raises OrsanetError if a file cannot be read, if no network is the run's, and if the run's
    preprocessing is not this version's. The message names the differences and the options to pass.
    """
    recipe = identity.store_recipe
    if segmenter is not None:
        segface = load_segmenter(weights_path(as_path(segmenter, "segmenter"), "segmenter"))
    else:
        segface = _found("segmenter", run_folder, identity)
    if landmarks is not None:
        mobilefacenet = load_landmark_network(weights_path(as_path(landmarks, "landmarks"), "landmarks"))
    else:
        mobilefacenet = _found("landmarks", run_folder, identity)
    frozen = FrozenPriors(segface, mobilefacenet, recipe["landmarks"]["input"])
    check_recipe(
        {**frozen.recipe(), "preprocessing": preprocessing(image_reading(recipe))}, recipe,
        f"{run_folder} was trained on priors of other frozen networks; pass --segmenter and --landmarks with its store's weights files",
    )  # fmt: skip
    return frozen


def check_recipe(ours: Mapping[str, object], theirs: Mapping[str, Any], refusal: str) -> None:
    """Check that `theirs` has every value of `ours`.

    Raises OrsanetError with the refusal and the differences otherwise.
    """
    if differences := list(recipe_differences({part: theirs.get(part) for part in ours}, ours)):
        raise OrsanetError(f"{refusal}:\n{listed(differences)}")


def is_demo(part: NetworkName, identity: Identity) -> bool:
    """Whether the run's network is the shipped one."""
    return _demo_digest(part) == identity.store_recipe[part]["weights_sha256"]


def _found(part: NetworkName, run_folder: Path, identity: Identity) -> Any:
    needs = f"{run_folder}: needs the {NAMES[part]} that its store was built with"
    digest = identity.store_recipe[part]["weights_sha256"]
    return network_with_digest(part, digest, _places(part, run_folder, identity), needs)[1]


def _places(part: NetworkName, run_folder: Path, identity: Identity) -> Iterator[Path]:
    """Files that may contain the network, and demo; the large ones last."""
    own = [SEGMENTER_FILE] if part == "segmenter" else [f"{identity.selection}-{LANDMARKS_FILE}", LANDMARKS_FILE]
    yield from (run_folder / name for name in own)
    yield DEMO
    yield in_weights_folder(part)


@cache  # called often, and the shipped networks do not change
def _demo_digest(part: NetworkName) -> str:
    load = load_segmenter if part == "segmenter" else load_landmark_network
    return tensors_digest(load(weights_path(DEMO, part)).state_dict())


@cache
def demo_backbone_digest() -> str:
    """The digest that a run from the shipped backbone has in its weights' header."""
    return tensors_digest(backbone_weights(read_backbone(DEMO)).tensors)
