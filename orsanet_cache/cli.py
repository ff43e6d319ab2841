"""The command line orsanet-cache: a group of the commands that the modules of commands/ define."""

import sys

import click

from orsanet_cache.commands.bench import bench
from orsanet_cache.commands.build import build
from orsanet_cache.commands.demo import demo_faces, demo_people, demo_quality, demo_train
from orsanet_cache.commands.doctor import doctor
from orsanet_cache.commands.manifest import manifest
from orsanet_cache.commands.store import compact, convert, info, show, verify
from orsanet_cache.commands.version import version
from orsanet_cache.commands.weights import weights
from orsanet_cache.console import CommandGroup


@click.group(
    cls=CommandGroup,
    interrupted="Run the same command again: build, weights fetch and demo-train continue, the others start over.",
)
@click.version_option(package_name="orsanet")
def main() -> None:
    """Stage one of ORSANet: run the frozen networks once and keep their outputs in a store.

    The way: `manifest` describes a data set, `weights fetch` downloads the networks, `build` makes
    the store, `show` draws what is in it. Then `orsanet-train run`. To try it without data and
    weights: `demo-faces`. COMMAND --help explains a command.
    """


# In the order of work, which --help keeps.
main.add_command(manifest)
main.add_command(doctor)
main.add_command(weights)
main.add_command(build)
main.add_command(info)
main.add_command(show)
main.add_command(verify)
main.add_command(convert)
main.add_command(compact)
main.add_command(demo_faces)
main.add_command(demo_people)
main.add_command(demo_train)
main.add_command(demo_quality)
main.add_command(bench)
main.add_command(version)

if __name__ == "__main__":
    sys.exit(main())
