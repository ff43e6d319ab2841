"""Stage one: the frozen networks' priors, computed once and kept in a store.

The names below are all that stage two may use. They are imported on first use, so that `--help` needs neither torch nor zarr.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers and readers
    from orsanet_cache.command import CommandGroup as CommandGroup
    from orsanet_cache.command import Terminated as Terminated
    from orsanet_cache.command import classes_option as classes_option
    from orsanet_cache.demo.networks import weights_path as weights_path
    from orsanet_cache.device import allow_tf32 as allow_tf32
    from orsanet_cache.device import choose_device as choose_device
    from orsanet_cache.durable import make_folder as make_folder
    from orsanet_cache.durable import sync_folder as sync_folder
    from orsanet_cache.durable import write_temporary as write_temporary
    from orsanet_cache.errors import OrsanetError as OrsanetError
    from orsanet_cache.errors import listed as listed
    from orsanet_cache.errors import validation_findings as validation_findings
    from orsanet_cache.faces import Face as Face
    from orsanet_cache.faces import FaceDetector as FaceDetector
    from orsanet_cache.faces import crop_face as crop_face
    from orsanet_cache.faces import opencv_errors_only as opencv_errors_only
    from orsanet_cache.images import PREPROCESSING as PREPROCESSING
    from orsanet_cache.images import RejectedImage as RejectedImage
    from orsanet_cache.images import every_second_pixel as every_second_pixel
    from orsanet_cache.images import read_image as read_image
    from orsanet_cache.images import view_pixels as view_pixels
    from orsanet_cache.manifest import Manifest as Manifest
    from orsanet_cache.manifest import Sample as Sample
    from orsanet_cache.manifest import load_manifest as load_manifest
    from orsanet_cache.manifest import with_tags as with_tags
    from orsanet_cache.mobilefacenet import MobileFaceNet as MobileFaceNet
    from orsanet_cache.pixels import IMAGENET_MEAN as IMAGENET_MEAN
    from orsanet_cache.pixels import displayable as displayable
    from orsanet_cache.pixels import imagenet_normalised as imagenet_normalised
    from orsanet_cache.pixels import unit_range as unit_range
    from orsanet_cache.precision import in_half_precision as in_half_precision
    from orsanet_cache.priors import ARCHITECTURE_KEY as ARCHITECTURE_KEY
    from orsanet_cache.priors import FrozenPriors as FrozenPriors
    from orsanet_cache.priors import Priors as Priors
    from orsanet_cache.priors import load_landmark_network as load_landmark_network
    from orsanet_cache.priors import load_segmenter as load_segmenter
    from orsanet_cache.priors import map_of as map_of
    from orsanet_cache.quality import landmark_agreement as landmark_agreement
    from orsanet_cache.quality import part_plausibility as part_plausibility
    from orsanet_cache.quality import prior_quality as prior_quality
    from orsanet_cache.rounding import quantised as quantised
    from orsanet_cache.segface import LAPA_CLASSES as LAPA_CLASSES
    from orsanet_cache.segface import SegFace as SegFace
    from orsanet_cache.segface import SegFaceConfig as SegFaceConfig
    from orsanet_cache.sheet import printable as printable
    from orsanet_cache.sheet import shortened as shortened
    from orsanet_cache.sheet import with_landmarks as with_landmarks
    from orsanet_cache.sheet import with_map as with_map
    from orsanet_cache.sources import SOURCES as SOURCES
    from orsanet_cache.sources import default_folder as default_folder
    from orsanet_cache.store import PriorStore as PriorStore
    from orsanet_cache.store import recipe_differences as recipe_differences
    from orsanet_cache.weights import Weights as Weights
    from orsanet_cache.weights import load_strictly as load_strictly
    from orsanet_cache.weights import read_weights as read_weights
    from orsanet_cache.weights import tensors_digest as tensors_digest

_NAMES = {
    "command": ("CommandGroup", "Terminated", "classes_option"),
    "demo.networks": ("weights_path",),
    "device": ("allow_tf32", "choose_device"),
    "durable": ("make_folder", "sync_folder", "write_temporary"),
    "errors": ("OrsanetError", "listed", "validation_findings"),
    "faces": ("Face", "FaceDetector", "crop_face", "opencv_errors_only"),
    "images": ("PREPROCESSING", "RejectedImage", "every_second_pixel", "read_image", "view_pixels"),
    "manifest": ("Manifest", "Sample", "load_manifest", "with_tags"),
    "mobilefacenet": ("MobileFaceNet",),
    "pixels": ("IMAGENET_MEAN", "displayable", "imagenet_normalised", "unit_range"),
    "precision": ("in_half_precision",),
    "priors": ("ARCHITECTURE_KEY", "FrozenPriors", "Priors", "load_landmark_network", "load_segmenter", "map_of"),
    "quality": ("landmark_agreement", "part_plausibility", "prior_quality"),
    "rounding": ("quantised",),
    "segface": ("LAPA_CLASSES", "SegFace", "SegFaceConfig"),
    "sheet": ("printable", "shortened", "with_landmarks", "with_map"),
    "sources": ("SOURCES", "default_folder"),
    "store": ("PriorStore", "recipe_differences"),
    "weights": ("Weights", "load_strictly", "read_weights", "tensors_digest"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
