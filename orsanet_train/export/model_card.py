"""The card beside exported files: what the model is, what it was measured at, how it is used and what it must not be used for.

It says what the run's own files say, and nothing that was not measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import torch
from jinja2 import Environment, StrictUndefined

from orsanet_cache.data.views import CLEAN, HFLIP
from orsanet_cache.durable import read_json
from orsanet_cache.weights.networks import NAMES
from orsanet_cache.weights.sources import SOURCES
from orsanet_train.config import ModelConfig, RunConfig, load_config
from orsanet_train.evaluation.groups import NOT_A_TEST, Group
from orsanet_train.evaluation.metrics import GroupReport
from orsanet_train.evaluation.predictions import Evaluation, read_evaluation
from orsanet_train.evaluation.statistics import Estimate
from orsanet_train.export.check_pictures import BATCHES
from orsanet_train.export.onnx_graph import IR_VERSION, MEANINGS, OPSET
from orsanet_train.model.checkpoint import Identity, how_chosen
from orsanet_train.model.frozen import is_demo
from orsanet_train.report.text import between, markdown_text, percent

CARD = "MODEL_CARD.md"
PUBLISHED_CHANNELS = (1024, 512)  # of SegFace's and MobileFaceNet's features
PUBLISHED_DEPTHS = {4: "small", 6: "base", 8: "large"}
SIZES = ("depth", "width", "backbone_channels", "backbone_units")  # of ModelConfig; its other fields are forms
VIEWS = {
    HFLIP: "the picture mirrored",
    "erase-10": "a square of 10 % of the picture erased, in one colour and at a random place",
    "erase-20": "a square of 20 % of the picture erased, in one colour and at a random place",
    "erase-30": "a square of 30 % of the picture erased, in one colour and at a random place",
    "sunglasses": "sunglasses drawn over both eyes",
    "mask": "a surgical mask drawn over the tip of the nose, mouth and chin",
    "hand": "a hand drawn over the mouth, most of the nose and the chin",
    "half-face": "a wall drawn over one side of the face and of the picture",
    "cap": "a cap drawn over forehead and hair",
    "second-face": "another, drawn head over the edge of the face",
}


@dataclass(frozen=True)
class Port:
    """An input or output of a graph."""

    name: str
    dtype: str  # as numpy calls it
    shape: tuple[int | str, ...]

    @property
    def meaning(self) -> str:
        return MEANINGS[self.name]


@dataclass(frozen=True)
class WrittenGraph:
    """An ONNX file, and how far its probabilities are from PyTorch's."""

    name: str
    sha256: str
    size: int  # bytes
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    difference: float
    pictures: int


@dataclass(frozen=True)
class Drop:
    """A split in an occluded view, beside the clean view of the same images."""

    name: str
    accuracy: Estimate
    clean: Estimate


def evaluation_of(run: Path, checkpoint: str) -> Evaluation | None:
    """The evaluation of a run's checkpoint; None where there is none. Raises OrsanetError for one that is damaged or of other weights."""
    return read_evaluation(run, checkpoint) if (run / f"evaluation-{checkpoint}").exists() else None


@dataclass(frozen=True)
class Training:
    """What a run's folder says of its training."""

    config: RunConfig
    images_sha256: str


def training_of(run: Path, identity: Identity) -> Training | None:
    """None where it is not known: the folder has only weights, or those of a published checkpoint, whose folder does not tell."""
    if identity.selection == "published" or not (run / "run.json").exists():
        return None
    return Training(load_config(str(run / "config.toml")), read_json(run / "run.json")["training_images_sha256"])


def model_card(
    checkpoint: str,
    identity: Identity,
    evaluation: Evaluation | None,
    graphs: Sequence[WrittenGraph],
    pictures: str,
    training: Training | None,
) -> str:
    """The card as Markdown. `pictures` says on what the graphs were compared with PyTorch."""
    reports = () if evaluation is None else evaluation.groups
    whole = [report for report in reports if _is_whole(report)]
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "percent": percent, "between": between, "md": markdown_text, "commonest": _commonest, "chance": _chance,
        "never_predicted": _never_predicted,
    }  # fmt: skip
    template = environment.from_string((files("orsanet_train.export") / "model_card.md").read_text(encoding="utf-8"))
    return template.render(
        checkpoint=checkpoint,
        identity=identity,
        chosen=how_chosen(identity),
        recipe=identity.store_recipe,
        size=size_said(identity),
        parameters=parameters(identity),
        forms=_forms(identity.model),
        training=training,
        evaluation=evaluation,
        whole=whole,
        optimistic=evaluation is not None and evaluation.optimistic,
        views=_views(reports),
        example_split=_example_split(identity, whole),
        drops=[] if evaluation is None else _drops(evaluation),
        graphs={graph.name: graph for graph in graphs},
        pictures=pictures,
        batches=" and of ".join(map(str, BATCHES)),
        licences=licences(identity),
        demo=[NAMES[part] for part in ("segmenter", "landmarks") if is_demo(part, identity)],
        opset=OPSET,
        ir_version=IR_VERSION,
        versions={package: version(package) for package in ("orsanet", "torch", "onnx", "onnxruntime")},
    )


def parameters(identity: Identity) -> int:
    """Trained numbers of the model, without the frozen networks."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in identity.build().parameters())


def size_said(identity: Identity) -> str:
    """Whether the model has one of the published sizes, which includes that of the frozen networks' features."""
    published, ours = ModelConfig(), identity.model
    alike = all(getattr(ours, name) == getattr(published, name) for name in SIZES if name != "depth")
    channels = (identity.segmentation_channels, identity.landmark_channels)
    if alike and channels == PUBLISHED_CHANNELS and ours.depth in PUBLISHED_DEPTHS:
        return f"the published {PUBLISHED_DEPTHS[ours.depth]} size"
    return "not a published size"


def licences(identity: Identity) -> list[str]:
    """A sentence for every part of the model whose weights have a licence of their own."""
    said = []
    for part, source in (("segmenter", SOURCES["segface"]), ("landmarks", SOURCES["mobilefacenet"])):
        if is_demo(part, identity):  # type: ignore[arg-type]
            said.append(f"{source.network}: the demo weights shipped with orsanet, which anyone may use for anything")
        else:
            said.append(
                f"{source.network}: that of the weights used, which are not known to be the published file; the published file's: "
                f"{source.licence}"
            )
    start = SOURCES["ir50"]
    if identity.selection == "published":
        said.append(
            f"{start.network}: trained by the checkpoint's authors from face-recognition weights; of those: {start.licence}"
        )
    elif identity.ir50_sha256 is not None:
        said.append(f"{start.network}: trained from weights given with --ir50; of the published ones: {start.licence}")
    owner = "the checkpoint's authors" if identity.selection == "published" else "who trained it"
    said.append(f"what was trained (ORSANet): none stated; decided by {owner}")
    said.append(f"data set '{identity.data_set}': its own terms hold for what is trained on it")
    return said


def _drops(evaluation: Evaluation) -> list[Drop]:
    drops = []
    for report in evaluation.groups:
        group = Group.parse(report.name)
        clean = evaluation.group(group.split)
        if clean is not None and group.tag is None and group.view not in NOT_A_TEST:
            drops.append(Drop(report.name, report.accuracy, clean.accuracy))
    return drops


def _is_whole(report: GroupReport) -> bool:
    """A split with all of its images, as they are, of which none was trained on."""
    group = Group.parse(report.name)
    return group.tag is None and group.view == CLEAN and not report.trained_on


def _example_split(identity: Identity, whole: Sequence[GroupReport]) -> str:
    """A split that neither trained the model nor chose it, if one was evaluated."""
    return next((report.name for report in whole if not report.chose_checkpoint), identity.train_split)


def _views(reports: Sequence[GroupReport]) -> dict[str, str]:
    """The views that were evaluated, with what they show."""
    said = {}
    for report in reports:
        view = Group.parse(report.name).view
        kind, seeded, seed = view.partition("-seed")
        if view != CLEAN:
            said[view] = VIEWS[kind] + (f" (draw {seed})" if seeded else "")
    return said


def _forms(model: ModelConfig) -> list[str]:
    """In what the model is another one than the published, its size apart."""
    published = ModelConfig().model_dump()
    return [
        f"{name} = {value}"
        for name, value in model.model_dump().items()
        if name not in SIZES and value != published[name]
    ]


def _commonest(report: GroupReport) -> float:
    """Accuracy of saying the commonest class always."""
    return max(part.images for part in report.classes.values()) / report.images


def _never_predicted(report: GroupReport) -> list[str]:
    return [name for name, part in report.classes.items() if part.predicted == 0]


def _chance(report: GroupReport) -> float:
    """Balanced accuracy, on average, of saying classes regardless of the picture."""
    return 1 / sum(part.images > 0 for part in report.classes.values())
