"""The command `orsanet-train export`: a run as ONNX files."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orsanet_cache.console import FILE, RUN
from orsanet_cache.paths import Place
from orsanet_train.commands.options import checkpoint_option, landmarks_option, segmenter_option

if TYPE_CHECKING:
    from orsanet_train.export.export import ExportedPart


@click.command()
@click.argument("run_folder", metavar="RUN", type=RUN)
@click.option("--format", "_format", type=click.Choice(["onnx"]), default="onnx", show_default=True)
@click.option(
    "--part", type=click.Choice(["both", "pipeline", "trainable"]), default="both", show_default=True,
    help="pipeline: from pixels to probabilities. trainable: from a store's rows, without the frozen networks.",
)  # fmt: skip
@checkpoint_option
@segmenter_option
@landmarks_option
@click.option(
    "--check", type=FILE,
    help="A folder or manifest of pictures on which to compare the files with PyTorch.  [default: photographs without faces, and noise]",
)  # fmt: skip
@click.option("--out", type=FILE, help="A new folder for the files.  [default: RUN/onnx-CHECKPOINT]")
def export(
    run_folder: Place, _format: str, part: "ExportedPart", checkpoint: str, segmenter: Path | None, landmarks: Path | None, check: Path | None,
    out: Path | None,
) -> None:  # fmt: skip
    """Export RUN as ONNX files, with MODEL_CARD.md, which describes the model.

    The command writes the files only if onnxruntime's results agree with PyTorch's.
    """
    from orsanet_train.export.check_pictures import BATCHES
    from orsanet_train.export.export import export_onnx
    from orsanet_train.export.model_card import CARD

    folder = out or run_folder / f"onnx-{checkpoint}"
    exported = export_onnx(
        run_folder, checkpoint, folder, part=part, segmenter=segmenter, landmarks=landmarks, check=check
    )
    for graph in exported.graphs:
        click.echo(
            f"{graph.name}: {graph.size / 1e6:.1f} MB; largest difference of a probability from PyTorch's {graph.difference:.1e}, "
            f"on {graph.pictures} pictures, in batches of {' and '.join(map(str, BATCHES))}"
        )
    if part == "trainable":
        click.echo(
            "only the trainable part: its inputs are a store's rows, and it was compared on random priors", err=True
        )
    click.echo(f"wrote {folder}, with {CARD}")
