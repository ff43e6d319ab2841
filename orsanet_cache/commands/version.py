"""The command `orsanet-cache version`."""

from pathlib import Path

import click

from orsanet_cache.console import FILE


@click.command()
@click.option(
    "--verbose", is_flag=True, help="Also print packages, processor, devices, and what the file system offers."
)
@click.option(
    "--folder",
    type=FILE,
    default=Path(),
    help="With --verbose: whose file system to look at.  [default: the working folder]",
)
def version(verbose: bool, folder: Path) -> None:
    """Print the version; with --verbose all that a report of an error needs."""
    from importlib.metadata import version as installed

    if not verbose:
        click.echo(f"orsanet {installed('orsanet')}")
        return
    from orsanet_cache.bench.machine import described

    click.echo("\n".join(described(folder)))
