"""The command `orsanet-cache doctor`."""

import sys
from pathlib import Path

import click

from orsanet_cache.console import FILE, classes_option, next_command, quiet_option


@click.command()
@click.argument("manifest", type=FILE)
@classes_option
@click.option("--root", type=FILE, help="Folder that the manifest's image paths start from.")
@click.option("--out", type=FILE, help="Also write all findings, with every name, to this new JSON file.")
@quiet_option
def doctor(manifest: Path, root: Path | None, classes: list[str] | None, out: Path | None) -> None:
    """Check a data set before a build, and print what is wrong, where, and what to do.

    MANIFEST is a .toml descriptor, or a .csv with --root and --classes. Every picture is read. A
    picture that may be a copy is read again for each picture that it is compared with. Nothing is
    changed.

    The exit code is 1 if there is an error, and 0 if there are at most warnings and notes.
    """
    import os

    from orsanet_cache.data.manifest import lacking_options
    from orsanet_cache.doctor.examine import examine
    from orsanet_cache.doctor.report import as_json, as_text
    from orsanet_cache.durable import write_new
    from orsanet_cache.errors import OrsanetError

    if manifest.suffix.lower() == ".csv" and root is None:
        raise lacking_options(manifest, classes)
    if out is not None and not out.absolute().parent.is_dir():
        raise OrsanetError(f"--out {out}: the folder {out.absolute().parent} does not exist; create it")
    if out is not None and out.is_dir():
        raise OrsanetError(f"--out {out}: is a folder; name a new file, such as {out / 'findings.json'}")
    if out is not None and os.path.lexists(out):
        raise OrsanetError(_taken(out))
    data, findings = examine(manifest, root, classes)
    click.echo(as_text(data, findings))
    if out is not None:
        if not write_new(out.absolute(), [as_json(data, findings).encode()]):
            raise OrsanetError(_taken(out))
        click.echo(f"wrote {out}")
    if any(finding.severity == "error" for finding in findings):
        sys.exit(1)
    options = [] if root is None else ["--root", str(root)]
    options += [] if classes is None else ["--classes", ",".join(classes)]
    click.echo(next_command("orsanet-cache", "build", manifest, *options, "--out", manifest.with_suffix(".zarr").name))


def _taken(out: Path) -> str:
    return f"--out {out}: already exists and is not overwritten; name another file, or delete this one first"
