"""The command `orsanet-train bench step`."""

import click


@click.group()
def bench() -> None:
    """Measure what this machine makes of a training step: ratios within one run."""


@bench.command()
@click.option(
    "--preset", default="rafdb", show_default=True, help="Whose model and settings: a preset or a .toml file."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. model.depth=4.")
@click.option("--batch-size", type=click.IntRange(min=2), help="Images in a step.  [default: 4 on a CPU, 20 on a GPU]")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Turns of every contender.")
@click.option("--compiled/--not-compiled", default=True, show_default=True, help="Compiling takes minutes on a CPU.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
def step(
    preset: str, overrides: tuple[str, ...], batch_size: int | None, rounds: int, compiled: bool, device: str
) -> None:
    """The published step with the frozen networks in it, beside the cached step in every precision, taking turns.

    Random weights and pictures of the published sizes; nothing is read and nothing is written.
    """
    from orsanet_train.config import load_config

    config = load_config(preset, overrides)

    import torch

    from orsanet_cache import choose_device
    from orsanet_train.bench.step import bench_step

    chosen = choose_device(device)
    size = batch_size or (20 if chosen.type == "cuda" else 4)
    speeds, parts = bench_step(config, chosen, size, rounds, compiled)
    where = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    click.echo(f"{where}; batch {size}; medians of {rounds} turn(s)")
    click.echo(f"{'':<28} {'img/s':>9} {'ratio':>7} {'of a product':>13} {'RAF-DB steps':>13}")
    for speed in speeds:
        click.echo(
            f"{speed.name:<28} {speed.images_per_second:>9.2f} {speed.ratio:>6.2f}x {speed.utilisation:>13.0%} "
            f"{speed.epoch_seconds:>11,.0f} s"
        )
    shares = ", ".join(f"{part.name} {part.share:.0%}" for part in parts)
    click.echo(f"parts of the exact cached step: {shares}")
