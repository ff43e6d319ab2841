"""Stage one: the frozen networks' priors, computed once and kept in a store.

These names are loaded on first use, so `import orsanet_cache` and `--help` need neither torch nor
zarr.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers and readers
    from orsanet_cache.builder.build import build as build
    from orsanet_cache.builder.repair import repair as repair
    from orsanet_cache.data.faces import FaceDetector as FaceDetector
    from orsanet_cache.data.faces import crop_face as crop_face
    from orsanet_cache.data.images import read_image as read_image
    from orsanet_cache.data.images import view_pixels as view_pixels
    from orsanet_cache.data.manifest import Manifest as Manifest
    from orsanet_cache.data.manifest import Sample as Sample
    from orsanet_cache.data.manifest import load_manifest as load_manifest
    from orsanet_cache.doctor.examine import examine as examine
    from orsanet_cache.errors import OrsanetError as OrsanetError
    from orsanet_cache.frozen.added import PriorNetwork as PriorNetwork
    from orsanet_cache.frozen.loading import tensors_digest as tensors_digest
    from orsanet_cache.frozen.priors import FrozenPriors as FrozenPriors
    from orsanet_cache.frozen.priors import Priors as Priors
    from orsanet_cache.inspection.quality import prior_quality as prior_quality
    from orsanet_cache.inspection.sheet import contact_sheet as contact_sheet
    from orsanet_cache.inspection.sheet import prior_sheet as prior_sheet
    from orsanet_cache.store.reader import PriorStore as PriorStore
    from orsanet_cache.store.schema import Field as Field
    from orsanet_cache.store.verify import verify as verify
    from orsanet_cache.writing.convert import convert as convert

_HOMES = {
    "orsanet_cache.errors": ("OrsanetError",),
    "orsanet_cache.builder.build": ("build",),
    "orsanet_cache.builder.repair": ("repair",),
    "orsanet_cache.data.faces": (
        "FaceDetector",
        "crop_face",
    ),
    "orsanet_cache.data.images": (
        "read_image",
        "view_pixels",
    ),
    "orsanet_cache.data.manifest": (
        "Manifest",
        "Sample",
        "load_manifest",
    ),
    "orsanet_cache.doctor.examine": ("examine",),
    "orsanet_cache.frozen.added": ("PriorNetwork",),
    "orsanet_cache.frozen.loading": ("tensors_digest",),
    "orsanet_cache.frozen.priors": (
        "FrozenPriors",
        "Priors",
    ),
    "orsanet_cache.inspection.quality": ("prior_quality",),
    "orsanet_cache.inspection.sheet": (
        "contact_sheet",
        "prior_sheet",
    ),
    "orsanet_cache.writing.convert": ("convert",),
    "orsanet_cache.store.reader": ("PriorStore",),
    "orsanet_cache.store.schema": ("Field",),
    "orsanet_cache.store.verify": ("verify",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("orsanet")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
