"""Options that several commands share."""

import click

from orsanet_cache.console import FILE

PRESET_HELP = "rafdb, affectnet7, affectnet8, occlu-fer (the published logs), paper, small, or a .toml file."

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
resident_option = click.option(
    "--resident",
    type=click.Choice(["auto", "device", "host", "stream"]),
    default="auto",
    show_default=True,
    help="Where the priors are kept meanwhile: in the device's memory, in the host's, or streamed from the store. auto: while training, on "
    "a GPU of which they take at most half the free memory; else streamed. The results are the same.",
)
