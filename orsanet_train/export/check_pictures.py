"""The pictures on which an exported file is compared with PyTorch."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images

from orsanet_cache.data.files import walk
from orsanet_cache.data.formats import SUFFIXES, is_picture
from orsanet_cache.data.images import ImageReading, RejectedImage, read_image, view_pixels
from orsanet_cache.data.manifest import load_manifest
from orsanet_cache.data.views import CLEAN
from orsanet_cache.errors import OrsanetError

SIDE = 224
BATCHES = (1, 7)  # batch sizes of the comparison; files are traced with another size
AT_MOST = 100  # pictures of a folder or manifest
CROPS = 8  # of each photograph
NOISE = 4


def check_pictures(source: Path | None, reading: ImageReading = "upright") -> tuple[NDArray[np.uint8], str]:
    """Pictures uint8 [N, 224, 224, 3] and their description; N is at least the largest of BATCHES.

    `source` is a folder or a manifest (.toml). Of a folder, the first AT_MOST files whose suffix is a
    picture's, in the order of their paths, are read; of a manifest, the first AT_MOST rows. Each
    picture is used whole, as in a build, and read as `reading` states. None: crops of the photographs that come with
    scikit-learn, and seeded noise. Raises OrsanetError if the source does not exist, if a picture
    cannot be read, and if there are too few pictures.
    """
    if source is None:
        return (
            _photographs(),
            f"{2 * CROPS} crops of two photographs and {NOISE} pictures of noise, none of them a face",
        )
    if source.is_dir():
        places = walk(source, _unreadable, [])
        files = (place / name for place, _, names in places for name in names if is_picture(name))
        paths = sorted(path for path in files if path.is_file())
    elif not source.exists():
        raise OrsanetError(f"{source}: does not exist; --check names a folder of pictures or a manifest")
    elif source.suffix.lower() != ".toml":
        raise OrsanetError(
            f"{source}: --check needs a folder of pictures or a manifest's .toml, which has the folder of its pictures"
        )
    else:
        manifest = load_manifest(source, check_files=False)
        paths = [manifest.path(sample) for sample in manifest.samples]
    if len(paths) < max(BATCHES):
        raise OrsanetError(
            f"{source}: has {len(paths)} pictures ({', '.join(SUFFIXES)}), but the comparison needs {max(BATCHES)}; name a folder or "
            f"manifest with as many, or leave out --check"
        )
    chosen = paths[:AT_MOST]
    return np.stack(
        [_read(path, reading) for path in chosen]
    ), f"{len(chosen)} of the {len(paths)} pictures of {source.resolve().name}"


def _unreadable(error: OSError) -> None:
    raise OrsanetError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _read(path: Path, reading: ImageReading) -> NDArray[np.uint8]:
    try:
        return view_pixels(read_image(path, reading).rgb, CLEAN)
    except RejectedImage as reason:
        raise OrsanetError(f"{path}: {reason}; remove it from the folder or manifest of --check") from reason


def _photographs() -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(NOISE)]
    for photograph in load_sample_images().images:
        for _ in range(CROPS):
            side = int(rng.integers(64, min(photograph.shape[:2]) + 1))
            top, left = (int(rng.integers(0, length - side + 1)) for length in photograph.shape[:2])
            pictures.append(view_pixels(photograph[top : top + side, left : left + side], CLEAN))
    return np.stack(pictures)
