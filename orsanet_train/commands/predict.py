"""The command `orsanet-train predict`: a run on one's own pictures, videos and webcam."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orsanet_cache.console import FILE, MOST_BATCH, RUN, Number, quiet_option
from orsanet_cache.paths import Place
from orsanet_train.commands.options import checkpoint_option, landmarks_option, segmenter_option
from orsanet_train.predict.names import ANNOTATED, MARGIN

if TYPE_CHECKING:
    from orsanet_train.predict.seen import Crop


@click.command()
@click.argument("run_folder", metavar="RUN", type=RUN)
@click.argument("given", metavar="IMAGE|FOLDER|PATTERN|VIDEO|WEBCAM...", type=FILE, nargs=-1, required=True)
@click.option(
    "--out",
    required=True,
    type=FILE,
    help="A new folder for predictions.csv, predictions.json, overlays and annotated videos.",
)
@checkpoint_option
@click.option(
    "--crop", type=click.Choice(["auto", "none"]), default="auto", show_default=True,
    help="auto: every face is found, cropped and turned upright. none: every picture is a face's crop already.",
)  # fmt: skip
@click.option(
    "--margin", type=Number(min=0.5, max=4),
    help="Side of a crop relative to the longest side of the face's box; larger for a run that was trained on wider crops.  "
    f"[default: {MARGIN}]",
)  # fmt: skip
@click.option(
    "--fps", type=Number(min=0, max=1000, min_open=True), default=1.0, show_default=True,
    help="Frames to take from every second of a video or webcam.",
)  # fmt: skip
@click.option(
    "--seconds", type=Number(min=0, max=1e6, min_open=True), help="End a webcam after this time.  [default: with Ctrl-C]"
)  # fmt: skip
@click.option(
    "--annotate", is_flag=True,
    help="Write an annotated copy of every video and webcam, an .mp4 of the predicted frames with boxes, classes and probabilities; "
    "with a higher --fps it is smoother.",
)  # fmt: skip
@click.option(
    "--overlays", default="100", show_default=True, help="Pictures with faces to draw an overlay of: none, all or the first N."
)  # fmt: skip
@segmenter_option
@landmarks_option
@click.option(
    "--batch-size",
    type=click.IntRange(min=1, max=MOST_BATCH),
    help="Faces per batch.  [default: 8 on a CPU, 64 on a GPU]",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@quiet_option
def predict(
    run_folder: Place, given: tuple[Path, ...], out: Path, checkpoint: str, crop: "Crop", margin: float | None, fps: float, seconds: float | None,
    annotate: bool, overlays: str, segmenter: Path | None, landmarks: Path | None, batch_size: int | None, device: str,
) -> None:  # fmt: skip
    """Predict the expression of every face in your own pictures and videos, or before a webcam:
    rows with box, probabilities and the quality of the priors, and overlay pictures.

    A PATTERN is quoted, as in `'*.jpg'` or `'photos/**/*.png'`. A WEBCAM is a number, 0 for the first;
    Ctrl-C ends it, and what was predicted until then is kept. Every file has a row. If it has no
    face, or cannot be read, the row has the reason.
    """
    from orsanet_cache.errors import OrsanetError, listed
    from orsanet_train.predict.inputs import find_inputs
    from orsanet_train.predict.pictures import is_video

    # First: a mistake is reported before torch is imported.
    if crop == "none" and margin is not None:
        raise OrsanetError("--crop none does not crop pictures, so --margin has no effect; leave out one of the two")
    files, left_out, outside = find_inputs(given, seconds)
    if left_out:
        click.echo(
            f"left out, because an earlier predict wrote them:\n{listed([str(path) for path in left_out])}", err=True
        )
    if outside:
        click.echo(
            f"note: {len(outside):,} of {len(files):,} files lie outside the given folders, behind links that are followed, "
            f"such as {outside[0]}",
            err=True,
        )

    if annotate and not any(map(is_video, files)):
        click.echo("--annotate is for videos and webcams; annotated pictures are the overlays", err=True)

    from orsanet_cache.inspection.fonts import legend, notice
    from orsanet_cache.outputs import check_not_held
    from orsanet_train.predict.folder import check_new_folder
    from orsanet_train.predict.load import load
    from orsanet_train.predict.predict import parse_overlays, predict_files

    drawn = parse_overlays(overlays)
    check_not_held(out)
    check_new_folder(out)  # made once everything is loaded: an error before leaves no folder
    predictor = load(
        run_folder, checkpoint=checkpoint, crop=crop, margin=margin or MARGIN,
        device=device, segmenter=segmenter, landmarks=landmarks,
    )  # fmt: skip
    if predictor.note:
        click.echo(predictor.note, err=True)
    if numbers := notice([legend(predictor.classes)]):
        click.echo(numbers, err=True)
    try:
        summary = predict_files(
            predictor,
            files,
            out,
            per_second=fps,
            overlays=drawn,
            annotate=annotate,
            batch_size=batch_size,
        )
    except KeyboardInterrupt:
        click.echo(f"\n{out} has the rows that were finished", err=True)
        raise
    click.echo(summary.found())
    click.echo(summary.text())
    if summary.annotated:
        click.echo(f"annotated videos: {summary.annotated}, with the frames of --fps {fps:g}, in {out / ANNOTATED}")
    click.echo(f"wrote {out}")
