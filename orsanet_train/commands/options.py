"""Options that several commands share."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from orsanet_cache.console import FILE, STORE

Command = TypeVar("Command", bound=Callable[..., Any])

PRESET_HELP = (
    "rafdb, affectnet7, affectnet8, occlu-fer (the published logs), paper, small, demo, or a .toml file; "
    "see `orsanet-train config`."
)

checkpoint_option = click.option(
    "--checkpoint",
    type=click.Choice(["best", "last"]),
    default="best",
    show_default=True,
    help="The run's weights to use.",
)
_LOOKED_FOR = "[default: found in RUN, the demo's networks or the weights folder]"
segmenter_option = click.option("--segmenter", type=FILE, help=f"The run's SegFace weights, or demo.  {_LOOKED_FOR}")
landmarks_option = click.option(
    "--landmarks", type=FILE, help=f"The run's MobileFaceNet weights, or demo.  {_LOOKED_FOR}"
)
resident_option = click.option(
    "--resident",
    type=click.Choice(["auto", "device", "host", "stream"]),
    default="auto",
    show_default=True,
    help="Where the priors are kept: in the device's memory, in the host's, or streamed from the store. auto: in training, in a GPU's "
    "memory if they take at most half of what is free; otherwise streamed. The results are the same.",
)


def store_options(help: str) -> Callable[[Command], Command]:
    """The option of a store, which may have a URL, and those of its cache on this machine."""
    options = (
        click.option("--store", required=True, type=STORE, help=f"{help} A path, or a URL: s3://BUCKET/NAME.zarr."),
        click.option(
            "--cache", type=FILE,
            help="For the URL of a store: the folder of this machine that keeps its shards, for all processes and for "
            "later commands.  [default: the last few, until the command ends]",
        ),
        click.option(
            "--cache-size", callback=_size, metavar="SIZE",
            help="The most that the cache may have, such as 200GB.  [default: most of what is free there]",
        ),
    )  # fmt: skip

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _size(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """200GB, 500 MB, 1.5TB or a plain number -> bytes."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]?)B?", value, re.IGNORECASE | re.ASCII)
    size = 0 if match is None else int(float(match[1]) * 1000 ** ("kmgt".find(match[2].lower() or "-") + 1))
    if not 0 < size < 10**18:
        raise click.BadParameter(f"{value!r} is not a size such as 200GB")
    return size
