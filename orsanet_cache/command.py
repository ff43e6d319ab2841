"""What both command lines share: mistakes become one message and exit code 1, Ctrl-C becomes 130; bugs keep their traceback."""

import sys
from pathlib import Path
from typing import Any

import click

from orsanet_cache.errors import OrsanetError

ManifestOptions = dict[str, Any]


class CommandGroup(click.Group):
    """A click group whose commands may raise OrsanetError."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OrsanetError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            click.echo("\nInterrupted; what was finished is kept. Run the same command again to go on.", err=True)
            sys.exit(130)


def manifest_options(command: Any) -> Any:
    """--root and --classes, for a manifest that is a CSV alone (or whose images lie elsewhere)."""
    command = click.option(
        "--classes",
        callback=lambda _ctx, _param, value: None if value is None else [name.strip() for name in value.split(",")],
        help="Class names in label order, separated by commas; for a CSV manifest.",
    )(command)
    return click.option(
        "--root", type=click.Path(path_type=Path), help="Folder that the manifest's image paths start from."
    )(command)
