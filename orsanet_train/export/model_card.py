"""The card beside exported files: what the model is, what it was measured at, how it is used and what it must not be used for.

It says what the run's own files say, and nothing that was not measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from orsanet_cache import SOURCES
from orsanet_train.checkpoint import Identity
from orsanet_train.evaluate import NOT_A_TEST
from orsanet_train.export.onnx_graph import IR_VERSION, MEANINGS, OPSET
from orsanet_train.frozen import NAMES, is_demo
from orsanet_train.metrics import Estimate
from orsanet_train.page import between, markdown_text, percent
from orsanet_train.predictions import Evaluation, Group, read_evaluation

CARD = "MODEL_CARD.md"


@dataclass(frozen=True)
class Port:
    """An input or output of a graph."""

    name: str
    dtype: str  # as ONNX calls it
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


def model_card(
    checkpoint: str, identity: Identity, evaluation: Evaluation | None, graphs: Sequence[WrittenGraph], pictures: str
) -> str:
    """The card as Markdown. `pictures` says on what the graphs were compared with PyTorch."""
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"percent": percent, "between": between, "md": markdown_text}
    template = environment.from_string((files("orsanet_train.export") / "model_card.md").read_text(encoding="utf-8"))
    return template.render(
        checkpoint=checkpoint,
        identity=identity,
        recipe=identity.store_recipe,
        evaluation=evaluation,
        drops=[] if evaluation is None else _drops(evaluation),
        graphs={graph.name: graph for graph in graphs},
        pictures=pictures,
        licences=licences(identity),
        demo=[NAMES[part] for part in ("segmenter", "landmarks") if is_demo(part, identity)],
        opset=OPSET,
        ir_version=IR_VERSION,
        versions={package: version(package) for package in ("orsanet", "torch", "onnx", "onnxruntime")},
    )


def licences(identity: Identity) -> list[str]:
    """A sentence for every part of the model whose weights have a licence of their own."""
    said = []
    for part, source in (("segmenter", SOURCES["segface"]), ("landmarks", SOURCES["mobilefacenet"])):
        if is_demo(part, identity):  # type: ignore[arg-type]
            said.append(f"{source.network}: the demo weights shipped with orsanet, which anyone may use for anything")
        else:
            said.append(f"{source.network}: that of the weights used; of the published ones: {source.licence}")
    start = SOURCES["ir50"]
    if identity.selection == "published":
        said.append(
            f"{start.network}: trained by the checkpoint's authors from face-recognition weights; of those: {start.licence}"
        )
    elif identity.ir50_sha256 is not None:
        said.append(f"{start.network}: trained from weights given with --ir50; of the published ones: {start.licence}")
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
