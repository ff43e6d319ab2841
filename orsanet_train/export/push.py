"""A run -> a model repository on the Hugging Face hub, which `load("owner/name")` reads.

    RUN/best.safetensors, config.toml, run.json ─┐
    frozen.json: the frozen networks' digests and sources ─┼─ terms looked at ─ huggingface_hub ─▶ one commit
    README.md: the model card ───────────────────┘

Trained weights are pushed, the frozen networks are not. Nothing is sent before the terms of all
that the weights come from were looked at: only weights from drawn faces, with a backbone that began
at random or with the demo's, are known to be free of others' terms. For everything else the terms
are named, and the user must state with `yes` that they allow it: no program can read a licence.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.paths import StrPath, StrPlace, as_path, as_place
from orsanet_cache.weights.networks import NAMES, SOURCE
from orsanet_cache.weights.sources import SOURCES
from orsanet_train.export.model_card import evaluation_of, model_card, training_of
from orsanet_train.model.checkpoint import LANDMARKS_FILE, Identity, load_weights
from orsanet_train.model.fetched import local_runs
from orsanet_train.model.frozen import demo_backbone_digest, is_demo
from orsanet_train.predict.hub import CARD, FROZEN, hub_errors, repository_name

_DRAWN = re.compile(r"demo-faces-\d+")  # the names that `orsanet-cache demo-faces` gives
_TAGS = ("facial-expression-recognition", "emotion-recognition", "occlusion", "orsanet")


@dataclass(frozen=True)
class Pushed:
    """What `push` sent."""

    url: str  # of the commit
    files: tuple[str, ...]


def terms(run: StrPath, checkpoint: str, identity: Identity) -> list[str]:
    """The parts of a checkpoint's origin that have terms of others, or of which no terms are known; one line each."""
    found = []
    if _DRAWN.fullmatch(identity.data_set) is None:
        found.append(
            f"the data set '{identity.data_set}': research data sets often forbid publishing models, or ask for non-commercial use"
        )
    if identity.selection == "published":
        found.append("the weights of the published checkpoint: its authors state no licence")
    elif identity.ir50_sha256 not in (None, demo_backbone_digest()):
        found.append(
            f"the backbone began with the weights of --ir50; licence of the published ones: {SOURCES['ir50'].licence}"
        )
    if (as_path(run, "run") / f"{checkpoint}-{LANDMARKS_FILE}").exists() and not is_demo("landmarks", identity):
        found.append(
            f"the landmark network, which this run trained further; licence of the published one: {SOURCES['mobilefacenet'].licence}"
        )
    return found


def push(
    run: StrPlace,
    repository: str,
    checkpoint: str = "best",
    *,
    licence: str | None = None,
    public: bool = False,
    yes: bool = False,
) -> Pushed:
    """Push a run's weights, settings and model card to the hub, as one commit.

    The repository is created if it does not exist. Raises OrsanetError, and sends nothing, if `run` is
    not a run folder, and if its weights come from parts with others' terms and `yes` is not given.

    Args:
        run: The run folder, or its URL.
        repository: OWNER/NAME on the hub.
        checkpoint: "best" or "last".
        licence: The hub's name of the licence of the trained weights, such as "cc-by-nc-4.0". None:
            none is stated.
        public: Whether everybody may see a repository that is created. An existing one keeps its
            visibility.
        yes: The user's statement that the terms of every part allow publishing.
    """
    place, repository = as_place(run, "run", "run"), repository_name(repository)
    with local_runs([place], checkpoint) as (folder,):
        return _push(folder, repository, checkpoint, licence, public, yes)


def _push(folder: Path, repository: str, checkpoint: str, licence: str | None, public: bool, yes: bool) -> Pushed:
    _, identity = load_weights(folder / f"{checkpoint}.safetensors")  # all of it: a damaged file is not pushed
    if not yes and (found := terms(folder, checkpoint, identity)):
        raise OrsanetError(
            f"{folder}: these parts have terms of their own. If they allow you to publish the trained weights, pass --yes; "
            f"nothing was sent:\n{listed(found)}"
        )
    files = contents(folder, repository, checkpoint, identity, licence)
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(library_name="orsanet")
    additions = [
        CommitOperationAdd(name, content if isinstance(content, Path) else BytesIO(content))
        for name, content in files.items()
    ]
    with hub_errors(repository):
        api.create_repo(repository, private=not public, exist_ok=True)
        try:
            commit = api.create_commit(
                repository, additions,
                commit_message=f"Push the {checkpoint} checkpoint, tensors {identity.tensors_sha256[:16]}",
            )  # fmt: skip
        except ValueError as error:  # the hub has looked at the card's metadata; nothing was uploaded
            reason = " ".join(str(error).split())
            raise OrsanetError(
                f"{repository}: the hub refused the card ({reason}); is --licence one that it knows?"
            ) from error
    return Pushed(str(commit.commit_url), tuple(files))


def contents(
    run: Path, repository: str, checkpoint: str, identity: Identity, licence: str | None
) -> Mapping[str, Path | bytes]:
    """The files of the repository: paths of the run's own, and the content of those that are written for the hub.

    Raises OrsanetError if a file of the run is damaged.
    """
    card = model_card(
        checkpoint, identity, evaluation_of(run, checkpoint), (), "", training_of(run, identity), repository
    )
    own = [
        run / f"{checkpoint}.safetensors",
        run / f"{checkpoint}-{LANDMARKS_FILE}",
        run / "config.toml",
        run / "run.json",
    ]
    return {
        **{path.name: path for path in own if path.exists()},
        FROZEN: json.dumps(frozen_networks(identity), indent=2).encode(),
        CARD: f"{_front_matter(licence)}\n{card}".encode(),
    }


def frozen_networks(identity: Identity) -> dict[str, Any]:
    """Digest and source of each frozen network: the demo's, or where the published file is.

    The digest (over names and values of the tensors) decides whether a file is the network.
    """
    networks: dict[str, Any] = {}
    for part, name in SOURCE.items():
        source = SOURCES[name]
        shipped = {"source": "comes with orsanet", "option": f"--{part} demo"}
        published = {
            "source": source.origin, "file": source.file_name, "file_sha256": source.sha256, "licence": source.licence,
            "command": f"orsanet-cache weights fetch {name}",
            "note": "where the published weights are; those of this run are they if the digest is the same",
        }  # fmt: skip
        networks[part] = {
            "network": NAMES[part],
            "tensors_sha256": identity.store_recipe[part]["weights_sha256"],
            **(shipped if is_demo(part, identity) else published),
        }
    return networks


def _front_matter(licence: str | None) -> str:
    """The hub's metadata, in YAML; strings as JSON writes them."""
    lines = ["library_name: orsanet", "pipeline_tag: image-classification", f"tags: {json.dumps(list(_TAGS))}"]
    if licence is not None:
        lines.insert(0, f"license: {json.dumps(licence)}")
    return "\n".join(["---", *lines, "---", ""])
