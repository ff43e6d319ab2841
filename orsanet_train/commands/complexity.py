"""The command `orsanet-train complexity`: the model's size and arithmetic."""

import click

from orsanet_train.commands.options import PRESET_HELP


@click.command()
@click.option("--preset", default="rafdb", show_default=True, help=PRESET_HELP)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. model.depth=4.")
@click.option(
    "--classes",
    type=click.IntRange(min=2, max=100_000),
    default=7,
    show_default=True,
    help="Number of expression classes.",
)
def complexity(preset: str, overrides: tuple[str, ...], classes: int) -> None:
    """Count parameters and multiply-adds of every part of the model, for one image."""
    from orsanet_train.config import load_config

    config = load_config(preset, overrides)

    from orsanet_train.model.complexity import complexity_table

    click.echo(complexity_table(config.model, classes))
