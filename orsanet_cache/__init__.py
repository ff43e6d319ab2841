"""Stage one: the frozen networks' priors, computed once and kept in a store.

The names below are all that stage two may use. They are imported on first use, so that `--help` needs neither torch nor zarr.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orsanet_cache.command import CommandGroup, manifest_options
    from orsanet_cache.errors import OrsanetError, listed
    from orsanet_cache.manifest import Manifest, Sample, load_manifest, validation_findings
    from orsanet_cache.mobilefacenet import MobileFaceNet
    from orsanet_cache.pixels import imagenet_normalised, unit_range
    from orsanet_cache.priors import FrozenPriors
    from orsanet_cache.segface import LAPA_CLASSES, SegFace, SegFaceConfig
    from orsanet_cache.sheet import contact_sheet
    from orsanet_cache.store import PriorStore
    from orsanet_cache.weights import Weights, load_strictly, read_weights

_HOME = {
    "CommandGroup": "command",
    "manifest_options": "command",
    "OrsanetError": "errors",
    "listed": "errors",
    "Manifest": "manifest",
    "Sample": "manifest",
    "load_manifest": "manifest",
    "validation_findings": "manifest",
    "MobileFaceNet": "mobilefacenet",
    "imagenet_normalised": "pixels",
    "unit_range": "pixels",
    "FrozenPriors": "priors",
    "LAPA_CLASSES": "segface",
    "SegFace": "segface",
    "SegFaceConfig": "segface",
    "contact_sheet": "sheet",
    "PriorStore": "store",
    "Weights": "weights",
    "load_strictly": "weights",
    "read_weights": "weights",
}
__all__ = [
    "LAPA_CLASSES", "CommandGroup", "FrozenPriors", "Manifest", "MobileFaceNet", "OrsanetError", "PriorStore", "Sample",
    "SegFace", "SegFaceConfig", "Weights", "contact_sheet", "imagenet_normalised", "listed", "load_manifest",
    "load_strictly", "manifest_options", "read_weights", "unit_range", "validation_findings",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
