"""The command `orsanet-train evaluate`: a run on a store's splits, tags and views."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orsanet_cache.console import FILE, RUN, classes_option, next_command, quiet_option
from orsanet_cache.paths import Place
from orsanet_train.commands.options import checkpoint_option, resident_option, store_options

if TYPE_CHECKING:
    from orsanet_train.feed.residence import Resident


@click.command()
@click.argument("run_folder", metavar="RUN", type=RUN)
@store_options("A store with the same recipe as the run's.")
@click.option("--manifest", required=True, type=FILE, help="The manifest with the labels.")
@classes_option
@click.option(
    "--tags", "tag_tables", type=FILE, multiple=True,
    help="A CSV of image,tags that adds to the manifest's tags: lists of occluded or posed images. Can be repeated.",
)  # fmt: skip
@click.option(
    "--splits",
    help="Separated by commas: a split (test), its images with a tag (test:occluded), either in a view of the store "
    "(test@erase-20).  [default: all except the training split]",
)
@checkpoint_option
@click.option("--out", type=FILE, help="Folder for the evaluation.  [default: RUN/evaluation-CHECKPOINT]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@resident_option
@quiet_option
def evaluate(
    run_folder: Place, store: Place, cache: Path | None, cache_size: int | None, manifest: Path, classes: list[str] | None,
    tag_tables: tuple[Path, ...], splits: str | None,
    checkpoint: str, out: Path | None, device: str, resident: "Resident",
) -> None:  # fmt: skip
    """Evaluate RUN per split, tag and view.

    The command prints the accuracy as a table, and writes evaluation.json and predictions.csv, which
    `report` and `compare` use.
    """
    from orsanet_cache.data.manifest import load_manifest, with_tags
    from orsanet_cache.device import choose_device
    from orsanet_cache.store.reader import PriorStore
    from orsanet_train.evaluation.evaluate import evaluate as evaluate_run
    from orsanet_train.evaluation.metrics import baseline_meanings, not_beaten
    from orsanet_train.evaluation.tables import known_text, text_table

    loaded = load_manifest(manifest, classes=classes, check_files=False)
    for table in tag_tables:
        loaded = with_tags(loaded, table)
    folder = run_folder / f"evaluation-{checkpoint}" if out is None else out
    evaluation = evaluate_run(
        run_folder / f"{checkpoint}.safetensors", loaded, PriorStore.open(store, cache, cache_size), folder,
        groups=None if splits is None else [name.strip() for name in splits.split(",")], device=choose_device(device),
        resident=resident,
    )  # fmt: skip
    click.echo(text_table(evaluation.groups))
    for line in baseline_meanings(evaluation.groups):
        click.echo(line)
    click.echo(evaluation.protocol)
    click.echo(known_text(evaluation.groups), err=True)
    for note in (*evaluation.notes, *not_beaten(evaluation.groups)):
        click.echo(note, err=True)
    click.echo(f"wrote {folder}")
    if out is None:
        chosen = [] if checkpoint == "best" else ["--checkpoint", checkpoint]
        click.echo(next_command("orsanet-train", "report", run_folder, *chosen))
