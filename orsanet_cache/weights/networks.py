"""The frozen networks of a build: named files, or files found automatically.

    named files, or else: the places of the store's build, the shipped demo networks, the weights
    folder ─▶ FrozenPriors

For an existing store, networks are recognised by the digests in its recipe, so a file may have any
name and any place. A new store has no digests yet: it gets the published networks from the weights
folder. It gets the demo networks only if they are named.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.frozen.loading import tensors_digest
from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.frozen.priors import FrozenPriors, LandmarkInput, load_landmark_network, load_segmenter
from orsanet_cache.frozen.segface import SegFace
from orsanet_cache.frozen.shipped import DEMO, NetworkName, weights_path
from orsanet_cache.paths import StrPath, StrPlace, as_path, as_place
from orsanet_cache.places.files import has_file
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.zarr_folder import METADATA
from orsanet_cache.weights.sources import SOURCES, Name, default_folder

NAMES: dict[NetworkName, str] = {"segmenter": "SegFace", "landmarks": "MobileFaceNet"}
SOURCE: dict[NetworkName, Name] = {"segmenter": "segface", "landmarks": "mobilefacenet"}


def find_networks(
    out: StrPlace,
    segmenter: StrPath | None = None,
    landmarks: StrPath | None = None,
    landmark_input: LandmarkInput | None = None,
    like: StrPlace | None = None,
) -> FrozenPriors:
    """Return the frozen networks for a build of the store `out`.

    A network that is None is searched for. The word demo means the shipped network. None for
    `landmark_input` means the store's input, or "published" for a new store. A new store that is to
    be `like` another one gets the networks and the input of that store.

    Raises OrsanetError if a network is not found or a file cannot be read. The message names the
    places that were checked and the option to pass.
    """
    path = as_place(out, "out")
    looking, begun = None in (segmenter, landmarks, landmark_input), has_file(path, METADATA)
    model = path if begun else like
    store = None if model is None or not looking else PriorStore.open(model)
    if landmark_input is None:
        landmark_input = "published" if store is None else store.recipe["landmarks"]["input"]
    named = {"segmenter": segmenter, "landmarks": landmarks}
    found: dict[NetworkName, tuple[Path, SegFace | MobileFaceNet]] = {}
    for part in SOURCE:
        given = named[part]
        if given is not None:
            found[part] = as_path(given, part), _load(part, as_path(given, part))
        else:
            found[part] = _published(part) if store is None else _of_store(part, store)
    (first, segface), (second, mobilefacenet) = found["segmenter"], found["landmarks"]
    assert isinstance(segface, SegFace)
    assert isinstance(mobilefacenet, MobileFaceNet)
    priors = FrozenPriors(segface, mobilefacenet, landmark_input)
    priors.remember(first, second)
    return priors


def _published(part: NetworkName) -> tuple[Path, SegFace | MobileFaceNet]:
    """Return the published network, for a new store."""
    path = in_weights_folder(part)
    if not path.exists():
        raise OrsanetError(
            f"{path.parent} has no {path.name}: download it with `orsanet-cache weights fetch {SOURCE[part]}`, or pass its file with --{part}"
        )
    return path, _load(part, path)


def network_with_digest(
    part: NetworkName, digest: str, places: Iterable[Path], needs: str
) -> tuple[Path, SegFace | MobileFaceNet]:
    """Return the first network among the places whose weights have this digest, and its place.

    A place is a file, or the word demo. Raises OrsanetError if no network has the digest. The
    message begins with `needs` (who needs which network) and names the places that were checked and
    the option to pass.
    """
    looked = []
    for path in places:
        if path != DEMO and not path.exists():
            looked.append(f"{path.parent}: no {path.name}")
            continue
        try:
            network = _load(part, path)
        except OrsanetError as error:
            looked.append(str(error).partition("\n")[0])
            continue
        found = tensors_digest(network.state_dict())
        if found == digest:
            return path, network
        looked.append(f"{path}: another network, with the digest {found}")
    raise OrsanetError(f"{needs}, digest {digest}; pass its weights file with --{part}. Checked:\n{listed(looked)}")


def in_weights_folder(part: NetworkName) -> Path:
    """Return the path to which `orsanet-cache weights fetch` writes the published network."""
    return default_folder() / SOURCES[SOURCE[part]].file_name


def _of_store(part: NetworkName, store: PriorStore) -> tuple[Path, SegFace | MobileFaceNet]:
    needs = f"{store.path}: needs the {NAMES[part]} that it was built with"
    return network_with_digest(part, store.recipe[part]["weights_sha256"], _places(part, store), needs)


def _places(part: NetworkName, store: PriorStore) -> Iterator[Path]:
    """Yield the files that may contain the network, and demo, each once."""
    hints = (store.provenance(split, view).get(f"{part}_file") for split in store.splits for view in store.views(split))
    places = [*(Path(hint) for hint in hints if isinstance(hint, str)), DEMO, in_weights_folder(part)]
    yield from dict.fromkeys(places)


def _load(part: NetworkName, path: Path) -> SegFace | MobileFaceNet:
    path = weights_path(path, part)
    return load_segmenter(path) if part == "segmenter" else load_landmark_network(path)
