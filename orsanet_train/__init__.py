"""Stage two: train and evaluate ORSANet on cached priors, and use the trained model.

These names are loaded on first use, so that `import orsanet_train` and `--help` need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers and readers
    from orsanet_train.config import RunConfig as RunConfig
    from orsanet_train.config import load_config as load_config
    from orsanet_train.engine.dare import dare_loss as dare_loss
    from orsanet_train.engine.sam import sam_gradient as sam_gradient
    from orsanet_train.evaluation.compare import compare as compare
    from orsanet_train.evaluation.evaluate import evaluate as evaluate
    from orsanet_train.evaluation.metrics import GroupReport as GroupReport
    from orsanet_train.evaluation.metrics import group_report as group_report
    from orsanet_train.evaluation.predictions import Evaluation as Evaluation
    from orsanet_train.evaluation.predictions import read_evaluation as read_evaluation
    from orsanet_train.evaluation.statistics import paired as paired
    from orsanet_train.evaluation.tables import comparison_text as comparison_text
    from orsanet_train.experiments.ablate import ablate as ablate
    from orsanet_train.export.export import export_onnx as export_onnx
    from orsanet_train.feed.dataset import PriorDataset as PriorDataset
    from orsanet_train.feed.dataset import prior_feed as prior_feed
    from orsanet_train.model.checkpoint import load_weights as load_weights
    from orsanet_train.model.complexity import complexity as complexity
    from orsanet_train.model.orsanet import ORSANet as ORSANet
    from orsanet_train.predict.load import Predictor as Predictor
    from orsanet_train.predict.load import load as load
    from orsanet_train.predict.predict import predict_files as predict_files
    from orsanet_train.predict.results import FaceResult as FaceResult
    from orsanet_train.predict.results import PictureResult as PictureResult
    from orsanet_train.report.report import make_report as make_report
    from orsanet_train.report.save import save_report as save_report
    from orsanet_train.run.imported import import_checkpoint as import_checkpoint
    from orsanet_train.run.train import train as train

_HOMES = {
    "orsanet_train.config": (
        "RunConfig",
        "load_config",
    ),
    "orsanet_train.engine.dare": ("dare_loss",),
    "orsanet_train.engine.sam": ("sam_gradient",),
    "orsanet_train.evaluation.compare": ("compare",),
    "orsanet_train.evaluation.evaluate": ("evaluate",),
    "orsanet_train.evaluation.metrics": (
        "GroupReport",
        "group_report",
    ),
    "orsanet_train.evaluation.predictions": (
        "Evaluation",
        "read_evaluation",
    ),
    "orsanet_train.evaluation.statistics": ("paired",),
    "orsanet_train.evaluation.tables": ("comparison_text",),
    "orsanet_train.export.export": ("export_onnx",),
    "orsanet_train.feed.dataset": (
        "PriorDataset",
        "prior_feed",
    ),
    "orsanet_train.model.checkpoint": ("load_weights",),
    "orsanet_train.model.complexity": ("complexity",),
    "orsanet_train.model.orsanet": ("ORSANet",),
    "orsanet_train.predict.load": (
        "Predictor",
        "load",
    ),
    "orsanet_train.predict.predict": ("predict_files",),
    "orsanet_train.predict.results": (
        "FaceResult",
        "PictureResult",
    ),
    "orsanet_train.report.report": ("make_report",),
    "orsanet_train.report.save": ("save_report",),
    "orsanet_train.experiments.ablate": ("ablate",),
    "orsanet_train.run.imported": ("import_checkpoint",),
    "orsanet_train.run.train": ("train",),
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
