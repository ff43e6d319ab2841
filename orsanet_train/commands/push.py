"""The command `orsanet-train push`: a run to the Hugging Face hub."""

import click

from orsanet_cache.console import RUN
from orsanet_cache.paths import Place
from orsanet_train.commands.options import checkpoint_option


@click.command()
@click.argument("run_folder", metavar="RUN", type=RUN)
@click.argument("repository", metavar="OWNER/NAME")
@checkpoint_option
@click.option(
    "--licence",
    help="Licence of the trained weights, by the hub's name for it, such as cc-by-nc-4.0.  [default: none is stated]",
)
@click.option("--public", is_flag=True, help="Let everybody see a repository that is created; otherwise it is private.")
@click.option(
    "--yes",
    is_flag=True,
    help="State that the terms of data and weights allow you to publish what was trained from them.",
)
def push(run_folder: Place, repository: str, checkpoint: str, licence: str | None, public: bool, yes: bool) -> None:
    """Push RUN to the Hugging Face hub: weights, settings, model card, and the frozen networks' digests
    and sources.

    `load("OWNER/NAME")` and `orsanet-train predict OWNER/NAME …` read it from there. The frozen
    networks themselves are not pushed. Where the weights come from data or weights with terms of
    others, nothing is sent without --yes.
    """
    from orsanet_train.export.push import push as push_run

    pushed = push_run(run_folder, repository, checkpoint, licence=licence, public=public, yes=yes)
    click.echo(f"pushed {', '.join(pushed.files)}: {pushed.url}")
