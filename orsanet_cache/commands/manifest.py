"""The commands `orsanet-cache manifest …`: from a downloaded data set's folder to a manifest."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orsanet_cache.console import FILE, FOLDER, MOST_IMAGES, MOST_SEED, Commands, next_command, quiet_option
from orsanet_cache.paths import path_problem

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
        if (problem := path_problem(path)) is not None:
            raise click.BadParameter(problem)
        lists.append((tag, Path(path)))
    return lists


def _classes(_context: click.Context, _parameter: click.Parameter, value: str | None) -> dict[str, str] | None:
    """a,b,c or 1=a,2=b: folder -> class name, in label order."""
    if value is None:
        return None
    from orsanet_cache.data.files import composed

    classes: dict[str, str] = {}
    folders: set[str] = set()
    names: set[str] = set()
    for part in value.split(","):
        folder, _, name = (text.strip() for text in part.partition("="))
        if not folder or ("=" in part and not name):
            raise click.BadParameter(f"{value!r} is not a list of folders in label order, as in a,b,c or 1=a,2=b,3=c")
        if composed(folder) in folders or composed(name or folder) in names:
            raise click.BadParameter(f"{part.strip()!r} is named twice")
        classes[folder] = name or folder
        folders.add(composed(folder))
        names.add(composed(name or folder))
    if len(classes) < 2:
        raise click.BadParameter("at least two classes are needed")
    return classes


def _shares(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """80/10/10 or 80/20 -> per cent of each split."""
    if value is None:
        return None
    try:
        shares = tuple(float(part) for part in value.split("/"))
    except ValueError:
        shares = ()
    if len(shares) not in (2, 3) or not all(0 < share < 100 for share in shares) or not math.isclose(sum(shares), 100):
        raise click.BadParameter(
            f"{value} is not two shares (train/test) or three (train/valid/test) in per cent that add up to 100, "
            f"as in 80/20 or 80/10/10"
        )
    return shares


def _pattern(_context: click.Context, _parameter: click.Parameter, value: str | None) -> re.Pattern[str] | None:
    """A regular expression with at most one group."""
    if value is None:
        return None
    try:
        pattern = re.compile(value)
    except re.error as error:
        raise click.BadParameter(f"{value!r} is not a regular expression: {error}") from error
    if pattern.groups > 1:
        raise click.BadParameter(f"{value!r} has {pattern.groups} groups; put parentheses around the person only")
    return pattern


def _shared(command: Callable[..., None]) -> Callable[..., None]:
    """Add the argument and the options that every layout has."""
    options = (
        click.argument("root", type=FOLDER),
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


def _write(
    data: "DataSet", root: Path, out: Path, tag_lists: list[tuple[str, Path]], cap: int | None = None,
    change: "Callable[[DataSet], DataSet] | None" = None,
) -> None:  # fmt: skip
    """Write the manifest of the pictures that have a file, after a `change` that depends on which these are."""
    from orsanet_cache.layouts.links import without_link_trouble
    from orsanet_cache.layouts.published import published_counts
    from orsanet_cache.layouts.tag_lists import TagList, with_tag_lists
    from orsanet_cache.layouts.write import summary, write_manifest

    data = without_link_trouble(data, root)
    if change is not None:
        data = change(data)
    data, sentences = with_tag_lists(data, [TagList(tag, path) for tag, path in tag_lists])
    written = write_manifest(data, root, out)
    click.echo(summary(data, published_counts(data.name, cap), sentences))
    click.echo(f"wrote {out} and {out.with_suffix('.csv')}" if written else f"nothing to do: {out} already exists")
    click.echo(next_command("orsanet-cache", "doctor", out))


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
    callback=_classes,
    help="The class folders in label order: a,b,c, or with class names 1=a,2=b,3=c.  [required]",
)
@click.option("--name", help="The data set's name.  [default: that of --out]")
@click.option(
    "--split", "shares", callback=_shares, metavar="80/10/10",
    help="Divide class folders without splits: per cent of train, valid and test, or of train and test (80/20).",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0, max=MOST_SEED), help="For --split: another division.  [default: 0]")
@click.option(
    "--person", callback=_pattern, metavar="PATTERN",
    help="Who a picture shows, to keep persons in one split: a regular expression for its path below ROOT, as in '(s[0-9]+)_'.",
)  # fmt: skip
@click.option("--person-table", type=FILE, help="Who a picture shows: a CSV with the columns image and person.")
def folders(
    root: Path, out: Path, tag_lists: list[tuple[str, Path]], classes: dict[str, str] | None, name: str | None,
    shares: tuple[float, ...] | None, seed: int | None, person: re.Pattern[str] | None, person_table: Path | None,
) -> None:  # fmt: skip
    """Class folders below split folders: train/CLASS/…, valid/CLASS/…, test/CLASS/…, or CLASS/… with
    --split.

    A split folder may also be named val, validation or dev, in upper or lower case. Without train
    the data set is for evaluation only.
    """
    from orsanet_cache.data.persons import persons_by_name, persons_of_table
    from orsanet_cache.errors import OrsanetError
    from orsanet_cache.layouts.folders import classes_to_copy, read_folders, read_undivided
    from orsanet_cache.layouts.split import divided

    if classes is None:
        raise OrsanetError(classes_to_copy(root, divided=shares is not None))
    if seed is not None and shares is None:
        raise OrsanetError("--seed chooses a division of --split and has no effect alone; add --split or leave it out")
    if person is not None and person_table is not None:
        raise OrsanetError("--person and --person-table: pass only one of them")

    def change(data: "DataSet") -> "DataSet":
        images = [sample.image for sample in data.samples]
        if person is not None:
            data = replace(data, persons=persons_by_name(images, person))
        if person_table is not None:
            data = replace(data, persons=persons_of_table(images, person_table))
        return data if shares is None else divided(data, shares, seed or 0)

    read = read_folders if shares is None else read_undivided
    _write(read(root, name or out.stem, classes), root, out, tag_lists, change=change)


@manifest.command()
@click.argument("name", required=False)
@click.option("--out", type=FILE, help="The file to write, for example rafdb.toml.  [default: print it]")
def descriptor(name: str | None, out: Path | None) -> None:
    """Print or copy the descriptor of a public data set, for a table made by hand.

    Without NAME, the names are printed.
    """
    from orsanet_cache.data.descriptors import descriptor as text_of
    from orsanet_cache.data.descriptors import descriptor_names
    from orsanet_cache.durable import make_folder, write_new
    from orsanet_cache.errors import OrsanetError

    if name is None:
        if out is not None:
            raise OrsanetError(f"--out {out}: name the data set too: {', '.join(descriptor_names())}")
        click.echo("\n".join(descriptor_names()))
        return
    text = text_of(name)
    if out is None:
        click.echo(text, nl=False)
        return
    make_folder(out.absolute().parent)
    if not write_new(out.absolute(), [text.encode()]):
        raise OrsanetError(f"{out}: already exists and is not overwritten; name another file")
    click.echo(f"wrote {out}; set `samples` and `root` in it")
