"""The command `orsanet-train benchmark`: several kinds of model on one store."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orsanet_cache.console import FILE, classes_option, quiet_option
from orsanet_train.commands.options import PRESET_HELP, resident_option
from orsanet_train.commands.run import RANDOM_START

if TYPE_CHECKING:
    from orsanet_train.feed.residence import Resident


@click.command()
@click.argument("store", type=FILE)
@click.option("--manifest", required=True, type=FILE, help="The manifest with the labels.")
@classes_option
@click.option("--preset", required=True, help=f"The recipe of every kind: {PRESET_HELP}")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Override a key in every run, e.g. epochs=20. A key of the model counts for the kinds that have it.",
)  # fmt: skip
@click.option(
    "--models", help="Kinds of model, separated by commas; the others are compared with the first.  [default: all]"
)
@click.option(
    "--seeds", default="0,1,2", show_default=True, help="Seeds, separated by commas; each trains every kind once."
)
@click.option("--splits", help="Splits to report, as for `evaluate`.  [default: as there]")
@click.option("--ir50", type=FILE, help="IR50 face-recognition weights for every kind with a backbone, or demo.")
@click.option("--out", required=True, type=FILE, help="Folder for the runs and the table.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@resident_option
@quiet_option
def benchmark(
    store: Path, manifest: Path, classes: list[str] | None, preset: str, overrides: tuple[str, ...], models: str | None,
    seeds: str, splits: str | None, ir50: Path | None, out: Path, device: str, resident: "Resident",
) -> None:  # fmt: skip
    """Train and evaluate several kinds of model on the same STORE, rows, seeds and test images.

    The table has the accuracy of the last checkpoint, which is not chosen by any result, the paired
    difference from the first kind over the seeds, parameters, arithmetic, time of an image and
    hours of training. A repeated call continues after the finished epochs.
    """
    from orsanet_cache.data.manifest import load_manifest
    from orsanet_cache.device import choose_device
    from orsanet_cache.progress import say
    from orsanet_cache.store.reader import PriorStore
    from orsanet_train.experiments.benchmark import benchmark as benchmark_store
    from orsanet_train.experiments.benchmark import write_benchmark
    from orsanet_train.model.model import read_backbone
    from orsanet_train.run.seeds import parse_seeds

    if ir50 is None:
        click.echo(RANDOM_START, err=True)
    chosen = None if models is None else [name.strip() for name in models.split(",")]
    for name in benchmark_store(
        PriorStore.open(store), load_manifest(manifest, classes=classes, check_files=False), out,
        preset=preset, overrides=overrides, models=chosen, seeds=parse_seeds(seeds),
        groups=None if splits is None else [name.strip() for name in splits.split(",")],
        ir50=None if ir50 is None else read_backbone(ir50), device=choose_device(device), resident=resident,
    ):  # fmt: skip
        say(name)
    click.echo(write_benchmark(out, None if chosen is None else chosen[0], choose_device(device)))
    click.echo(f"wrote {out}/benchmark.md and benchmark.csv")
