"""The commands `orsanet-cache weights …`: list, fetch, verify and convert published weights."""

from pathlib import Path

import click

from orsanet_cache.console import FILE, Commands, quiet_option
from orsanet_cache.weights.sources import SOURCES, Name, default_folder, difference, fingerprint


@click.group(cls=Commands)
def weights() -> None:
    """The published weights of the frozen networks and of IR50: list, fetch, verify, convert."""


@weights.command("list")
@click.argument("folder", type=FILE, required=False)
def list_weights(folder: Path | None) -> None:
    """List the published weights: purpose, size, licence, origin, and whether FOLDER has them.

    FOLDER is orsanet/weights in $XDG_CACHE_HOME or ~/.cache by default. Files that exist are read
    and checked.
    """
    folder = folder or default_folder()
    click.echo(f"weights folder: {folder}")
    for name, source in SOURCES.items():
        path = folder / source.file_name
        if not path.exists():
            state = "absent" if source.hub else f"absent; {source.instructions}"
        else:
            wrong = difference(fingerprint(path), source)
            state = "present, checked" if wrong is None else f"DIFFERENT FILE: {wrong}"
        click.echo(
            f"\n{name}: {source.title}\n  for      {source.purpose}\n  file     {source.file_name}, {source.about}"
        )
        click.echo(
            f"  sha256   {source.sha256}\n  licence  {source.licence}\n  from     {source.origin}\n  state    {state}"
        )


@weights.command("fetch")
@click.argument("name", type=click.Choice(list(SOURCES)))
@click.option(
    "--out", type=FILE, help="The folder to write to.  [default: orsanet/weights in $XDG_CACHE_HOME or ~/.cache]"
)
@quiet_option
def fetch_weights(name: Name, out: Path | None) -> None:
    """Download the weights NAME, or print how to get them; a file that exists is checked instead.

    After an interruption the same command continues the download. By fetching you accept the
    licence that `list` shows.
    """
    from orsanet_cache.weights.fetch import fetch

    source = SOURCES[name]
    path, wrong = fetch(source, out or default_folder())
    if wrong is not None:
        click.echo(f"warning: {path} differs from the known copy: {wrong}", err=True)
    click.echo(f"{path}: {source.title}; {source.purpose} {path}")


@weights.command("verify")
@click.argument("file", type=FILE)
def verify_weights(file: Path) -> None:
    """Print which of the known files FILE is, or how it differs."""
    from orsanet_cache.weights.convert import identify

    what, doubt = identify(file)
    click.echo(f"{file}: {what}")
    if doubt is not None:
        click.echo(f"warning: {doubt}", err=True)


@weights.command("convert")
@click.argument("file", type=FILE)
@click.option("--out", type=FILE, required=True, help="The safetensors file to write.")
def convert_to_safetensors(file: Path, out: Path) -> None:
    """Write the used tensors of FILE as safetensors, with FILE's SHA-256 in the header.

    Stores built from FILE and from the converted file have the same recipe.
    """
    from orsanet_cache.weights.convert import convert_weights

    network, origin = convert_weights(file, out)
    wrong = difference(origin, SOURCES[network])
    if wrong is not None:
        click.echo(f"warning: {file} fits {SOURCES[network].network}, but is not the published file: {wrong}", err=True)
    click.echo(f"wrote {out}: {network}, {out.stat().st_size:,} bytes (from {origin.size:,})")
