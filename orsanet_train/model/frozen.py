"""The frozen networks that a run's model was trained with: found where they are kept, refused unless they are those.

    --segmenter, --landmarks, or else: the run folder, the shipped demo networks, the weights folder ─▶ FrozenPriors

What decides is the recipe in the model's weights file: it has the networks' digests, so a file may have any name and lie anywhere.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from orsanet_cache.data.images import PREPROCESSING
from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.frozen.loading import tensors_digest
from orsanet_cache.frozen.priors import FrozenPriors, load_landmark_network, load_segmenter
from orsanet_cache.frozen.shipped import DEMO, NetworkName, weights_path
from orsanet_cache.paths import StrPath, as_path
from orsanet_cache.store.recipe import recipe_differences
from orsanet_cache.weights.networks import NAMES, in_weights_folder, network_with_digest
from orsanet_train.model.checkpoint import LANDMARKS_FILE, SEGMENTER_FILE, Identity


def frozen_priors(
    run_folder: Path, identity: Identity, segmenter: StrPath | None, landmarks: StrPath | None
) -> FrozenPriors:
    """The frozen networks of the model in `run_folder` that `identity` describes, on the CPU.

    `segmenter` and `landmarks` are weights files or the word demo; None takes the first that is the run's: in the run folder, the shipped
    demo networks, in the weights folder (`orsanet-cache weights list`). Raises OrsanetError, naming what differs and what to pass, where
    a file cannot be read, where none is the run's, and where the run's preprocessing is not this version's.
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
        {**frozen.recipe(), "preprocessing": PREPROCESSING}, recipe,
        f"{run_folder} was trained on priors of other frozen networks; pass with --segmenter and --landmarks what its store was built with",
    )  # fmt: skip
    return frozen


def check_recipe(ours: Mapping[str, object], theirs: Mapping[str, Any], refusal: str) -> None:
    """Raises OrsanetError, the refusal and what differs, unless `theirs` has all that `ours` says."""
    if differences := list(recipe_differences({part: theirs.get(part) for part in ours}, ours)):
        raise OrsanetError(f"{refusal}:\n{listed(differences)}")


def is_demo(part: NetworkName, identity: Identity) -> bool:
    """The run's network is the shipped one."""
    return _demo_digest(part) == identity.store_recipe[part]["weights_sha256"]


def _found(part: NetworkName, run_folder: Path, identity: Identity) -> Any:
    needs = f"{run_folder}: needs the {NAMES[part]} that its store was built with"
    digest = identity.store_recipe[part]["weights_sha256"]
    return network_with_digest(part, digest, _places(part, run_folder, identity), needs)[1]


def _places(part: NetworkName, run_folder: Path, identity: Identity) -> Iterator[Path]:
    """Files that may be it, and demo; the large ones last."""
    own = [SEGMENTER_FILE] if part == "segmenter" else [f"{identity.selection}-{LANDMARKS_FILE}", LANDMARKS_FILE]
    yield from (run_folder / name for name in own)
    yield DEMO
    yield in_weights_folder(part)


@cache  # asked for again and again, and shipped with the program: it does not change
def _demo_digest(part: NetworkName) -> str:
    load = load_segmenter if part == "segmenter" else load_landmark_network
    return tensors_digest(load(weights_path(DEMO, part)).state_dict())
