"""Options that several commands share."""

import click

from orsanet_cache.console import FILE

checkpoint_option = click.option(
    "--checkpoint",
    type=click.Choice(["best", "last"]),
    default="best",
    show_default=True,
    help="Which weights of the run.",
)
_LOOKED_FOR = "[default: looked for in RUN, among the demo's, in the weights folder]"
segmenter_option = click.option("--segmenter", type=FILE, help=f"The run's SegFace weights, or demo.  {_LOOKED_FOR}")
landmarks_option = click.option(
    "--landmarks", type=FILE, help=f"The run's MobileFaceNet weights, or demo.  {_LOOKED_FOR}"
)
