"""Options that several commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from orsanet_cache.console import FILE, STORE, cache_options

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
    store = click.option("--store", required=True, type=STORE, help=f"{help} A path, or a URL: s3://BUCKET/NAME.zarr.")
    return lambda command: store(cache_options(command))
