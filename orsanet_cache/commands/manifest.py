"""The commands `orsanet-cache manifest …`: from a downloaded data set's folder to a manifest."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orsanet_cache.console import FILE, MOST_IMAGES, Commands, quiet_option

if TYPE_CHECKING:
    from orsanet_cache.layouts.found import DataSet


def _tag_lists(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, Path]]:
    """Repeated TAG=FILE -> list of (tag, path)."""
    lists = []
    for value in values:
        tag, equals, path = value.partition("=")
        if not equals or not path or not re.fullmatch(r"[^\s@;,]+", tag):
            raise click.BadParameter(
                f"{value} is not TAG=FILE with a tag that has no blank, @, ; or comma, as in occluded=list.txt"
            )
        lists.append((tag, Path(path)))
    return lists


def _classes(_context: click.Context, _parameter: click.Parameter, value: str) -> dict[str, str]:
    """a,b,c or 1=a,2=b: folder -> class name, in label order."""
    classes: dict[str, str] = {}
    names: set[str] = set()
    for part in value.split(","):
        folder, _, name = (text.strip() for text in part.partition("="))
        if not folder or ("=" in part and not name):
            raise click.BadParameter(f"{value!r} is not a list of folders in label order, as in a,b,c or 1=a,2=b,3=c")
        if folder in classes or (name or folder) in names:
            raise click.BadParameter(f"{part.strip()!r} is named twice")
        classes[folder] = name or folder
        names.add(name or folder)
    if len(classes) < 2:
        raise click.BadParameter("at least two classes are needed")
    return classes


def _shared(command: Callable[..., None]) -> Callable[..., None]:
    """Add the argument and the options that every layout has."""
    options = (
        click.argument("root", type=click.Path(path_type=Path, exists=True, file_okay=False)),
        click.option(
            "--out", required=True, type=FILE, help="The descriptor to write, NAME.toml, with NAME.csv beside it."
        ),
        click.option(
            "--tag-list",
            "tag_lists",
            multiple=True,
            callback=_tag_lists,
            metavar="TAG=FILE",
            help="Give the pictures named in FILE a tag, as in occluded=rafdb_occlusion_list.txt. May be repeated.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _write(data: "DataSet", root: Path, out: Path, tag_lists: list[tuple[str, Path]], cap: int | None = None) -> None:
    from orsanet_cache.layouts.published import published_counts
    from orsanet_cache.layouts.summary import summary
    from orsanet_cache.layouts.tag_lists import TagList, with_tag_lists
    from orsanet_cache.layouts.write import write_manifest

    data, sentences = with_tag_lists(data, [TagList(tag, path) for tag, path in tag_lists])
    written = write_manifest(data, root, out)
    click.echo(summary(data, published_counts(data.name, cap), sentences))
    click.echo(f"wrote {out} and {out.with_suffix('.csv')}" if written else f"nothing to do: {out} already exists")


@click.group(cls=Commands)
def manifest() -> None:
    """Turn a downloaded data set into a manifest.

    ROOT is the folder as downloaded; nothing in it is changed. Every label, list and picture is
    checked: each omission is printed with its reason, and a folder tree that differs from the
    expected one is refused.
    """


@manifest.command()
@_shared
def rafdb(root: Path, out: Path, tag_lists: list[tuple[str, Path]]) -> None:
    """RAF-DB, basic expressions: EmoLabel/list_patition_label.txt and Image/aligned."""
    from orsanet_cache.layouts.rafdb import read_rafdb

    _write(read_rafdb(root), root, out, tag_lists)


@manifest.command()
@_shared
@click.option("--classes", type=click.Choice(["7", "8"]), required=True, help="Without contempt, or with it.")
@click.option(
    "--crops", type=FILE, help="First release: cut the faces out by the lists' boxes and write them to this folder."
)
@click.option(
    "--cap-per-class",
    type=click.IntRange(min=1, max=MOST_IMAGES),
    help="Maximum number of training images of a class; published: 5000.",
)
@quiet_option
def affectnet(
    root: Path,
    out: Path,
    tag_lists: list[tuple[str, Path]],
    classes: str,
    crops: Path | None,
    cap_per_class: int | None,
) -> None:
    """AffectNet: training.csv and validation.csv, or train_set and val_set."""
    from orsanet_cache.layouts.affectnet import read_affectnet
    from orsanet_cache.layouts.face_boxes import crop_faces

    data = read_affectnet(root, 7 if classes == "7" else 8, cap_per_class)
    if crops is not None:
        data, root = crop_faces(data, root, crops), crops
    _write(data, root, out, tag_lists, cap_per_class)


@manifest.command()
@_shared
def occlu_fer(root: Path, out: Path, tag_lists: list[tuple[str, Path]]) -> None:
    """Occlu-FER: class folders AN to SU below train and valid."""
    from orsanet_cache.layouts.occlu_fer import read_occlu_fer

    _write(read_occlu_fer(root), root, out, tag_lists)


@manifest.command()
@_shared
def ferplus(root: Path, out: Path, tag_lists: list[tuple[str, Path]]) -> None:
    """FERPlus: fer2013new.csv and FER2013Train, FER2013Valid, FER2013Test."""
    from orsanet_cache.layouts.ferplus import read_ferplus

    _write(read_ferplus(root), root, out, tag_lists)


@manifest.command()
@_shared
@click.option(
    "--classes",
    required=True,
    callback=_classes,
    help="The class folders in label order: a,b,c, or with class names 1=a,2=b,3=c.",
)
@click.option("--name", help="The data set's name.  [default: that of --out]")
def folders(
    root: Path, out: Path, tag_lists: list[tuple[str, Path]], classes: dict[str, str], name: str | None
) -> None:
    """Class folders below split folders: train/CLASS/…, valid/CLASS/…, test/CLASS/…"""
    from orsanet_cache.layouts.folders import read_folders

    _write(read_folders(root, name or out.stem, classes), root, out, tag_lists)
