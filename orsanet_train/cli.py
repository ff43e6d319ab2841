"""orsanet-train: the group of its commands, which the modules of commands/ define."""

import sys

import click

from orsanet_cache.console import CommandGroup
from orsanet_train.commands.ablate import ablate
from orsanet_train.commands.bench import bench
from orsanet_train.commands.benchmark import benchmark
from orsanet_train.commands.complexity import complexity
from orsanet_train.commands.config import config
from orsanet_train.commands.dare import dare
from orsanet_train.commands.evaluate import evaluate
from orsanet_train.commands.export import export
from orsanet_train.commands.imported import import_checkpoint
from orsanet_train.commands.predict import predict
from orsanet_train.commands.pretrain import pretrain
from orsanet_train.commands.push import push
from orsanet_train.commands.report import compare, report
from orsanet_train.commands.run import run


@click.group(
    cls=CommandGroup,
    interrupted="Saved results are kept: run the same command again to continue (`pretrain`, `ablate` and `dare` as they are, `run` with --resume, `predict` with another --out).",
)
@click.version_option(package_name="orsanet")
def main() -> None:
    """Stage two of ORSANet: train and evaluate on the cached priors of a store.

    The way, with a store of `orsanet-cache build`: `run` trains, `evaluate` and `report` show what
    the model is worth, `predict` applies it to your own pictures. COMMAND --help explains a
    command.
    """


# In the order of work, which --help keeps.
main.add_command(config)
main.add_command(pretrain)
main.add_command(run)
main.add_command(evaluate)
main.add_command(report)
main.add_command(compare)
main.add_command(predict)
main.add_command(export)
main.add_command(push)
main.add_command(ablate)
main.add_command(benchmark)
main.add_command(dare)
main.add_command(import_checkpoint)
main.add_command(complexity)
main.add_command(bench)

if __name__ == "__main__":
    sys.exit(main())
