"""The commands on an existing store: `orsanet-cache info`, `verify`, `show`, `convert` and `compact`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orsanet_cache.console import FILE, MOST_IMAGES, STORE, cache_options, classes_option, parse_part, quiet_option
from orsanet_cache.paths import Place

if TYPE_CHECKING:
    from orsanet_cache.store.reader import PriorStore


@click.command()
@click.argument("store", type=STORE)
def info(store: Place) -> None:
    """Print the content of STORE: splits, views, fields, sizes, recipe and rejected images.

    For an unfinished view the number of finished units is printed.
    """
    import json

    from orsanet_cache.store.reader import PriorStore
    from orsanet_cache.store.schema import added_group
    from orsanet_cache.store.verify import progress

    opened = PriorStore.open(store)
    home = "on disk" if isinstance(store, Path) else "in the object store"
    click.echo(f"{store}: {opened.nbytes() / 1e9:.3f} GB {home}")
    tables: dict[str, list[str]] = {}  # fields of an image -> the views that have them
    for split in opened.splits:
        click.echo(f"\nsplit {split}: {len(opened.sample_ids(split)):,} images{_lying_in(opened, split)}")
        for view, sealed in opened.all_views(split).items():
            if not sealed:
                done, units = progress(store, split, view)
                click.echo(
                    f"  view {view}: not finished, {done:,} of {units:,} units of {opened.rows_per_unit} images; "
                    f"run the same `orsanet-cache build` again"
                )
                continue
            click.echo(
                f"  view {view}: {int(opened.accepted(split, view).sum()):,} usable; seal {opened.sealed(split, view).seal[:16]}"
            )
            for name in opened.additions(split, view):
                group = added_group(view, name)
                click.echo(
                    f"    added {name}: {int(opened.accepted(split, group).sum()):,} usable; seal {opened.sealed(split, group).seal[:16]}"
                )
            table = "\n".join(
                f"  {name:<28} {layout.dtype!s:<8} {list(layout.shape[1:])}"
                for name, layout in opened.fields(split, view).items()
            )
            tables.setdefault(table, []).append(f"{split}/{view}")
            for image, reason in opened.rejected(split, view).items():
                click.echo(f"    rejected: {image!r}: {reason}")
            click.echo(f"    built with {json.dumps(opened.provenance(split, view))}")
    for table, where in tables.items():
        click.echo(
            f"\nfields of an image in {'every finished view' if len(tables) == 1 else ', '.join(where)}\n{table}"
        )
    click.echo("\nrecipe " + json.dumps(opened.recipe, indent=2))


def _lying_in(store: "PriorStore", split: str) -> str:
    """Where the rows of a split lie, if it has grown."""
    segments = store.segments(split)
    if segments == (split,):
        return ""
    return f", rows of {', '.join(segments)}"


@click.command()
@click.argument("store", type=STORE)
@click.option("--deep", is_flag=True, help="Read all rows, not only the first and last row of each unit.")
@click.option(
    "--sample",
    callback=parse_part,
    metavar="I/N",
    help="Every N-th unit from the I-th: 1/20 today, 2/20 tomorrow.  [default: all]",
)
@click.option("--repair", is_flag=True, help="Compute the damaged units again from --manifest.")
@click.option("--manifest", type=FILE, help="The manifest that the store was built from.")
@classes_option
@click.option("--root", type=FILE, help="The manifest's image folder, if it was moved.")
@click.option("--segmenter", type=FILE, help="SegFace weights, or demo.  [default: the store's]")
@click.option("--landmarks", type=FILE, help="MobileFaceNet weights, or demo.  [default: the store's]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@quiet_option
def verify(
    store: Place, deep: bool, sample: tuple[int, int] | None, repair: bool, manifest: Path | None, classes: list[str] | None,
    root: Path | None, segmenter: Path | None, landmarks: Path | None, device: str,
) -> None:  # fmt: skip
    """Check that STORE is finished and unchanged since it was built.

    Each damaged unit and each view that is not finished is printed, and the command then ends with
    exit code 1.
    """
    from orsanet_cache.errors import OrsanetError, listed
    from orsanet_cache.store.units import Share
    from orsanet_cache.store.verify import unfinished
    from orsanet_cache.store.verify import verify as verify_store

    units, damage = verify_store(store, deep, Share(*(sample or (1, 1))))
    extent = "all their rows" if deep else "their first and last rows; --deep reads all"
    click.echo(f"{store}: read {units:,} units, {extent}")
    remedy = (
        "an HDF5 file cannot be finished; convert the finished Zarr store again"
        if isinstance(store, Path) and store.is_file()
        else "run the same `orsanet-cache build` again, which goes on where it stopped"
    )
    begun = unfinished(store)
    not_finished = f"{store}: not finished; {remedy}:\n{listed(begun)}" if begun else ""
    if not damage:
        if begun:
            raise OrsanetError(not_finished)
        click.echo("no damage found")
        return
    found = f"{store}: {len(damage)} unit(s) are damaged:\n{listed([str(one) for one in damage])}"
    if not repair:
        raise OrsanetError(f"{found}\nrepair them with --repair --manifest …\n{not_finished}".rstrip())
    if manifest is None:
        raise OrsanetError(f"{found}\n--repair computes them again from the images: pass --manifest too")
    click.echo(found, err=True)

    from orsanet_cache.builder.repair import repair as repair_store
    from orsanet_cache.data.manifest import load_manifest
    from orsanet_cache.device import choose_device

    described = load_manifest(manifest, root, classes)
    for note in described.notes:
        click.echo(f"note: {note}", err=True)
    computed = repair_store(store, damage, described, segmenter, landmarks, choose_device(device))
    click.echo(f"computed {computed:,} views again")
    if begun:
        raise OrsanetError(not_finished)
    click.echo(f"{store} is sealed")


@click.command()
@click.argument("store", type=STORE)
@click.option("--split", required=True, help="The split to show.")
@click.option(
    "-n", "count", type=click.IntRange(min=1, max=MOST_IMAGES), default=16, show_default=True, help="Number of samples."
)
@click.option(
    "--out", required=True, type=FILE, help="The picture to write, a .png; an earlier one of this command is replaced."
)
@click.option(
    "--width", type=click.IntRange(min=400, max=20_000), default=2000, show_default=True,
    help="Largest width of the sheet in pixels; tiles are reduced to fit.",
)  # fmt: skip
def show(store: Place, split: str, count: int, out: Path, width: int) -> None:
    """Draw a contact sheet of STORE: a row for each image, and in every view the image with its
    landmarks, and its segmentation map.
    """
    from orsanet_cache.data.manifest import meant_split
    from orsanet_cache.inspection.fonts import notice
    from orsanet_cache.inspection.sheet import check_sheet, prior_sheet, sheet_legend, write_sheet
    from orsanet_cache.store.reader import PriorStore

    check_sheet(out)
    opened = PriorStore.open(store)
    split = meant_split(split, opened.splits)
    write_sheet(prior_sheet(opened, split, count, width), out)
    if note := notice([sheet_legend(opened, split, count)]):
        click.echo(note, err=True)
    click.echo(f"wrote {out}")


@click.command()
@click.argument("source", type=STORE)
@click.argument("target", type=STORE)
@quiet_option
def convert(source: Place, target: Place) -> None:
    """Copy a finished store from a Zarr folder SOURCE to an HDF5 file TARGET, or back, or to and from a URL.

    If SOURCE or TARGET is a URL (s3://BUCKET/NAME.zarr), the copy is a Zarr store too; from a URL to a
    TARGET that ends with .h5 it is an HDF5 file. Every value is read back and checked.
    """
    from orsanet_cache.writing.convert import convert as convert_store

    convert_store(source, target)
    click.echo(f"wrote {target}")


@click.command()
@click.argument("source", type=STORE)
@click.argument("target", type=STORE)
@cache_options
@quiet_option
def compact(source: Place, target: Place, cache: Path | None, cache_size: int | None) -> None:
    """Copy a store SOURCE that has grown to a Zarr store TARGET, as a build of its last manifest makes it.

    Each may be a folder or a URL (s3://BUCKET/NAME.zarr). Rows that the manifest no longer has and
    earlier states are left behind. Nothing is computed, and every value is checked.
    """
    from orsanet_cache.writing.compact import compact as compact_store

    compact_store(source, target, cache, cache_size)
    click.echo(f"wrote {target}")
