"""The commands `orsanet-train bench step`, `bench evaluate` and `bench dare`."""

from pathlib import Path

import click

from orsanet_cache.console import FILE, MOST_BATCH, MOST_ROUNDS, Commands, classes_option, quiet_option
from orsanet_cache.paths import Place
from orsanet_train.commands.options import store_options


@click.group(cls=Commands)
def bench() -> None:
    """Measure the speed of a training step and of an evaluation, and the effect of DARELoss on data
    other than faces, each beside a reference.
    """


@bench.command()
@click.option("--preset", default="rafdb", show_default=True, help="Model and settings: a preset or a .toml file.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. model.depth=4.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=2, max=MOST_BATCH),
    help="Images per step.  [default: 4 on a CPU, 20 on a GPU]",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1, max=MOST_ROUNDS),
    default=5,
    show_default=True,
    help="Turns of every kind of step.",
)
@click.option("--compiled/--not-compiled", default=True, show_default=True, help="Compiling takes minutes on a CPU.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@quiet_option
def step(
    preset: str, overrides: tuple[str, ...], batch_size: int | None, rounds: int, compiled: bool, device: str
) -> None:
    """Measure the published step, which runs the frozen networks, and the cached step in every
    precision, in turns.

    The weights and pictures are random and have the published sizes. The command reads and writes
    no files.
    """
    from orsanet_train.config import load_config

    config = load_config(preset, overrides)

    import torch

    from orsanet_cache.device import choose_device, processor_name
    from orsanet_train.bench.step import bench_step
    from orsanet_train.engine.precision import NO_BFLOAT16, possible_precisions

    chosen = choose_device(device)
    size = batch_size or (20 if chosen.type == "cuda" else 4)
    speeds, parts = bench_step(config, chosen, size, rounds, compiled)
    here = f"{processor_name()}, {torch.get_num_threads()} threads"
    where = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else here
    click.echo(f"{where}; batch {size}; medians of {rounds} turn(s)")
    click.echo(f"{'':<28} {'img/s':>9} {'ratio':>7} {'of a product':>13} {'RAF-DB steps':>13}")
    for speed in speeds:
        click.echo(
            f"{speed.name:<28} {speed.images_per_second:>9.2f} {speed.ratio:>6.2f}x {speed.utilisation:>13.0%} "
            f"{speed.epoch_seconds:>11,.0f} s"
        )
    if "fast" not in possible_precisions(chosen):
        click.echo(f"{'cached, fast':<28} not measured: {NO_BFLOAT16}")
    shares = ", ".join(f"{part.name} {part.share:.0%}" for part in parts)
    click.echo(f"parts of the exact cached step: {shares}")


@bench.command()
@click.argument("run_folder", metavar="RUN", type=FILE)
@store_options("A store with the same recipe as the run's.")
@click.option("--manifest", required=True, type=FILE, help="The manifest with the labels.")
@classes_option
@click.option("--split", default="test", show_default=True, help="The split to evaluate.")
@click.option("--checkpoint", type=click.Choice(["best", "last"]), default="best", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@quiet_option
def evaluate(
    run_folder: Path,
    store: Place,
    cache: Path | None,
    cache_size: int | None,
    manifest: Path,
    classes: list[str] | None,
    split: str,
    checkpoint: str,
    device: str,
) -> None:
    """Measure a whole evaluation of RUN beside the model's bare forward over as many images. The
    result is discarded.
    """
    from orsanet_cache.data.manifest import load_manifest
    from orsanet_cache.device import choose_device
    from orsanet_cache.store.reader import PriorStore
    from orsanet_train.bench.evaluate import bench_evaluate

    loaded = load_manifest(manifest, classes=classes, check_files=False)
    weights = run_folder / f"{checkpoint}.safetensors"
    speed = bench_evaluate(weights, loaded, PriorStore.open(store, cache, cache_size), split, choose_device(device))
    for name, seconds in (("bare forward", speed.forward), ("evaluation", speed.evaluation)):
        click.echo(f"{name:<14} {speed.images / seconds:>9.2f} img/s")
    click.echo(f"{speed.images:,} images; an image takes {speed.evaluation / speed.forward:.3f}x the bare forward")


@bench.command()
@click.option(
    "--seeds",
    type=click.IntRange(min=2, max=MOST_ROUNDS),
    default=20,
    show_default=True,
    help="How often every training is repeated.",
)
@quiet_option
def dare(seeds: int) -> None:
    """Train a small network with and without DARELoss, on data sets other than faces that come with
    scikit-learn.

    The table has both forms of the loss, at the paper's weight and at two larger ones: accuracy on
    held-out samples (mean and standard deviation over the seeds), and the difference from
    cross-entropy alone, seed by seed, with its 95 % t interval. The command downloads and writes no
    files.
    """
    from orsanet_train.bench.dare import bench_dare, table

    for result in bench_dare(range(seeds)):
        click.echo(table(result))
