"""The model card of exported or pushed files: the model, its results, its usage and its limits.

All facts come from the run's own files; the card has no number that was not measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import torch
from jinja2 import Environment, StrictUndefined

from orsanet_cache.data.views import AUGMENTED, CLEAN, HFLIP
from orsanet_cache.durable import read_json
from orsanet_cache.errors import OrsanetError
from orsanet_cache.weights.networks import NAMES, SOURCE
from orsanet_cache.weights.sources import SOURCES
from orsanet_train.config import RunConfig, load_config
from orsanet_train.evaluation.groups import Group
from orsanet_train.evaluation.metrics import GroupReport
from orsanet_train.evaluation.predictions import Evaluation, read_evaluation
from orsanet_train.evaluation.statistics import Estimate
from orsanet_train.export.check_pictures import BATCHES
from orsanet_train.export.onnx_graph import IR_VERSION, MEANINGS, OPSET
from orsanet_train.model.checkpoint import Identity, how_chosen
from orsanet_train.model.frozen import demo_backbone_digest, is_demo
from orsanet_train.model_config import SIZES, ModelConfig
from orsanet_train.report.text import between, markdown_text, percent

CARD = "MODEL_CARD.md"
ONNX_PACKAGES = ("onnx", "onnxruntime")
PUBLISHED_CHANNELS = (1024, 512)  # of SegFace's and MobileFaceNet's features
VIEWS = {
    HFLIP: "the picture mirrored",
    AUGMENTED: "the picture as in training: perhaps mirrored, perhaps with a rectangle erased",
    "erase-10": "a square of 10 % of the picture erased, in one colour and at a random place",
    "erase-20": "a square of 20 % of the picture erased, in one colour and at a random place",
    "erase-30": "a square of 30 % of the picture erased, in one colour and at a random place",
    "sunglasses": "sunglasses drawn over both eyes",
    "mask": "a surgical mask drawn over the tip of the nose, mouth and chin",
    "hand": "a hand drawn over the mouth, most of the nose and the chin",
    "half-face": "a wall drawn over one side of the face and of the picture",
    "cap": "a cap drawn over forehead and hair",
    "second-face": "a second head drawn over the edge of the face",
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
    """An ONNX file, and the largest difference of its probabilities from PyTorch's."""

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
    """The evaluation of a run's checkpoint; None if it does not exist.

    Raises OrsanetError if the evaluation is damaged or of other weights.
    """
    return read_evaluation(run, checkpoint) if (run / f"evaluation-{checkpoint}").exists() else None


@dataclass(frozen=True)
class Training:
    """The settings and data of a run's training."""

    config: RunConfig
    images_sha256: str


def training_of(run: Path, identity: Identity) -> Training | None:
    """The training of a run, from its folder.

    None if it is unknown: the folder has only weights, or the weights are a published checkpoint.
    """
    if identity.selection == "published" or not (run / "run.json").exists():
        return None
    digest = read_json(run / "run.json").get("training_images_sha256")
    if not isinstance(digest, str):
        raise OrsanetError(f"{run / 'run.json'}: damaged (no training_images_sha256); restore it from a copy")
    return Training(load_config(str(run / "config.toml")), digest)


def model_card(
    checkpoint: str,
    identity: Identity,
    evaluation: Evaluation | None,
    graphs: Sequence[WrittenGraph],
    pictures: str,
    training: Training | None,
    repository: str | None = None,
) -> str:
    """The card as Markdown.

    Args:
        checkpoint: "best" or "last".
        identity: The checkpoint's identity.
        evaluation: The checkpoint's evaluation. None: it was not evaluated.
        graphs: The exported files; none for the hub.
        pictures: Description of the pictures on which the graphs were compared with PyTorch.
        training: The run's training. None: unknown.
        repository: OWNER/NAME on the hub, for the card of a pushed run.
    """
    reports = () if evaluation is None else evaluation.groups
    whole = [report for report in reports if _is_whole(report)]
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "percent": percent, "between": between, "md": markdown_text, "chance": _chance,
        "never_predicted": _never_predicted,
    }  # fmt: skip
    template = environment.from_string((files("orsanet_train.export") / "model_card.md").read_text(encoding="utf-8"))
    return template.render(
        checkpoint=checkpoint,
        identity=identity,
        chosen=how_chosen(identity),
        recipe=identity.store_recipe,
        size=size_said(identity),
        sizes=sizes_said(identity.model),
        parameters=parameters(identity),
        forms=_forms(identity.model),
        training=training,
        evaluation=evaluation,
        whole=whole,
        optimistic=evaluation is not None and evaluation.optimistic,
        flattered=[report.name for report in reports if report.chose_checkpoint and _is_split(report)],
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
        versions={package: version(package) for package in ("orsanet", "torch", *(ONNX_PACKAGES if graphs else ()))},
        repository=repository,
        sources={part: SOURCES[SOURCE[part]] for part in SOURCE},
    )


def parameters(identity: Identity) -> int:
    """Number of trained parameters of the model, without the frozen networks."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in identity.build().parameters())


def size_said(identity: Identity) -> str:
    """Which published size the model has, or that it has none.

    A published size includes the channels of the frozen networks' features.
    """
    config = identity.model
    published, ours = type(config)().model_dump(), config.model_dump()
    same = (identity.segmentation_channels, identity.landmark_channels) == PUBLISHED_CHANNELS
    others = [name for name in SIZES if name in ours and name != "depth" and ours[name] != published[name]]
    if same and not others and ours.get("depth") in config.published_sizes:
        return f"the published {config.published_sizes[ours['depth']]}size"
    return "not a published size"


def sizes_said(config: ModelConfig) -> str:
    """The sizes of a model, in brackets; nothing if it has none."""
    said = []
    if config.backbone is not None:
        channels, units = (", ".join(map(str, part)) for part in config.backbone)
        said.append(f"backbone {units} units of {channels} channels")
    values = config.model_dump()
    if rest := ", ".join(f"{name} {values[name]}" for name in SIZES if isinstance(values.get(name), int)):
        said.append(rest)
    return f" ({'; '.join(said)})" if said else ""


def licences(identity: Identity) -> list[str]:
    """A line for every part of the model whose weights have their own licence."""
    lines = []
    for part, source in (("segmenter", SOURCES["segface"]), ("landmarks", SOURCES["mobilefacenet"])):
        if is_demo(part, identity):  # type: ignore[arg-type]
            lines.append(f"{source.network}: the demo weights shipped with orsanet, free for any use")
        else:
            lines.append(
                f"{source.network}: the licence of the weights used, which may not be the published file; licence of the published file: "
                f"{source.licence}"
            )
    start = SOURCES["ir50"]
    if identity.selection == "published":
        lines.append(
            f"{start.network}: trained by the checkpoint's authors from face-recognition weights; licence of those weights: {start.licence}"
        )
    elif identity.ir50_sha256 == demo_backbone_digest():
        lines.append(f"{start.network}: trained from the demo weights shipped with orsanet, free for any use")
    elif identity.ir50_sha256 is not None:
        lines.append(
            f"{start.network}: trained from weights given with --ir50; licence of the published weights: {start.licence}"
        )
    owner = "the checkpoint's authors" if identity.selection == "published" else "the person who trained them"
    lines.append(f"trained weights ({identity.model.title}): no licence stated; it is decided by {owner}")
    lines.append(f"data set '{identity.data_set}': its terms apply to models trained on it")
    return lines


def _drops(evaluation: Evaluation) -> list[Drop]:
    drops = []
    for report in evaluation.groups:
        group = Group.parse(report.name)
        clean = evaluation.group(group.split)
        if clean is not None and group.tag is None and group.is_occluded:
            drops.append(Drop(report.name, report.accuracy, clean.accuracy))
    return drops


def _is_whole(report: GroupReport) -> bool:
    """Whether the group is a whole split in the clean view that the model was not trained on."""
    return _is_split(report) and not report.mostly_trained_on


def _is_split(report: GroupReport) -> bool:
    """Whether the group is a whole split in the clean view."""
    group = Group.parse(report.name)
    return group.tag is None and group.view == CLEAN


def _example_split(identity: Identity, whole: Sequence[GroupReport]) -> str:
    """An evaluated split used neither for training nor for choosing; else the training split."""
    unused = (report.name for report in whole if not report.chose_checkpoint and not report.trained_on)
    return next(unused, identity.train_split)


def _views(reports: Sequence[GroupReport]) -> dict[str, str]:
    """The evaluated views with their descriptions."""
    described = {}
    for report in reports:
        view = Group.parse(report.name).view
        kind, seeded, seed = view.partition("-seed")
        if view != CLEAN:
            described[view] = VIEWS[kind] + (f" (draw {seed})" if seeded else "")
    return described


def _forms(model: ModelConfig) -> list[str]:
    """The settings in which the model differs from the published one of its kind, except those of its size."""
    published = type(model)().model_dump()
    return [
        f"{name} = {value}"
        for name, value in model.model_dump().items()
        if name not in SIZES and value != published[name]
    ]


def _never_predicted(report: GroupReport) -> list[str]:
    return [name for name, part in report.classes.items() if part.predicted == 0]


def _chance(report: GroupReport) -> float:
    """Mean balanced accuracy of predictions that ignore the picture."""
    return 1 / sum(part.images > 0 for part in report.classes.values())
