"""Stage one: the frozen networks' priors, computed once and kept in a store.

The names below are all that stage two may use. They are imported on first use, so that `--help` needs neither torch nor zarr.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orsanet_cache.command import CommandGroup, classes_option
    from orsanet_cache.device import choose_device
    from orsanet_cache.errors import OrsanetError, listed, validation_findings
    from orsanet_cache.manifest import Manifest, Sample, load_manifest
    from orsanet_cache.mobilefacenet import MobileFaceNet
    from orsanet_cache.pixels import displayable, imagenet_normalised, unit_range
    from orsanet_cache.priors import FrozenPriors
    from orsanet_cache.segface import LAPA_CLASSES, SegFace, SegFaceConfig
    from orsanet_cache.sheet import contact_sheet
    from orsanet_cache.store import PriorStore, recipe_differences
    from orsanet_cache.weights import Weights, load_strictly, read_weights

_HOME = {
    "CommandGroup": "command",
    "classes_option": "command",
    "choose_device": "device",
    "OrsanetError": "errors",
    "listed": "errors",
    "Manifest": "manifest",
    "Sample": "manifest",
    "load_manifest": "manifest",
    "validation_findings": "errors",
    "MobileFaceNet": "mobilefacenet",
    "displayable": "pixels",
    "imagenet_normalised": "pixels",
    "unit_range": "pixels",
    "FrozenPriors": "priors",
    "LAPA_CLASSES": "segface",
    "SegFace": "segface",
    "SegFaceConfig": "segface",
    "contact_sheet": "sheet",
    "PriorStore": "store",
    "recipe_differences": "store",
    "Weights": "weights",
    "load_strictly": "weights",
    "read_weights": "weights",
}
__all__ = [
    "LAPA_CLASSES", "CommandGroup", "FrozenPriors", "Manifest", "MobileFaceNet", "OrsanetError", "PriorStore", "Sample",
    "SegFace", "SegFaceConfig", "Weights", "choose_device", "classes_option", "contact_sheet", "displayable", "imagenet_normalised", "listed", "load_manifest",
    "load_strictly", "read_weights", "recipe_differences", "unit_range", "validation_findings",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
