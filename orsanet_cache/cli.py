"""orsanet-cache: build, verify, convert, info, show; manifest, doctor, weights, bench and the embedded default's commands are in modules of their own.

Commands translate and never decide; heavy imports wait for the command's body.
"""

import sys
from pathlib import Path

import click

from orsanet_cache.commands.bench import bench
from orsanet_cache.commands.demo import demo_faces, demo_quality, demo_train
from orsanet_cache.commands.doctor import doctor
from orsanet_cache.commands.manifest import manifest as manifest_group
from orsanet_cache.commands.weights import weights
from orsanet_cache.console import CommandGroup, classes_option
from orsanet_cache.data.views import POSSIBLE_VIEWS

FILE = click.Path(path_type=Path)


def _part(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """I/N as two numbers, both counted from 1."""
    if value is None:
        return None
    index, slash, count = value.partition("/")
    if not slash or not index.isdecimal() or not count.isdecimal() or not 1 <= int(index) <= int(count):
        raise click.BadParameter(f"{value} is not I/N with I from 1 to N, as in 2/4")
    return int(index), int(count)


@click.group(
    cls=CommandGroup,
    interrupted="Run the same command again: build, weights fetch and demo-train go on, the others begin anew.",
)
@click.version_option(package_name="orsanet")
def main() -> None:
    """Stage one of ORSANet: run the frozen networks once and keep what they say in a store."""


@main.command()
@click.argument("manifest", type=FILE)
@classes_option
@click.option("--root", type=FILE, help="Folder that the manifest's image paths start from.")
@click.option("--out", required=True, type=FILE, help="The store to write or continue.")
@click.option(
    "--segmenter",
    type=FILE,
    help="SegFace weights (published .pt, safetensors), or the word demo.  [default: the store's, else the published ones in the weights folder]",
)
@click.option(
    "--landmarks",
    type=FILE,
    help="MobileFaceNet weights (published .pth.tar, safetensors), or the word demo.  [default: as --segmenter]",
)
@click.option(
    "--landmark-input",
    type=click.Choice(["published", "native"]),
    default="published",
    show_default=True,
    help="What MobileFaceNet sees: as ORSANet feeds it, or as it was trained (better landmarks).",
)
@click.option(
    "--views",
    default="clean,hflip",
    show_default=True,
    help=f"Views to compute, separated by commas: {POSSIBLE_VIEWS}.",
)
@click.option("--splits", help="Compute only these splits, separated by commas.  [default: all of the manifest]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "fp16"]),
    default="auto",
    show_default=True,
    help="The networks' arithmetic. auto: fp16 on a GPU where it moves the features by at most 0.2 %, else fp32.",
)
@click.option(
    "--features",
    type=click.Choice(["float16", "float32", "int8"]),
    default="float16",
    show_default=True,
    help="How the store keeps features; int8 with one scale per image and channel.",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Images at a time.  [default: 8 on a CPU, 64 on a GPU]")
@click.option(
    "--part",
    callback=_part,
    metavar="I/N",
    help="Build only part I of N, counted from 1; start the others beside it, or later.  [default: torchrun's rank, else all]",
)
@click.option(
    "--accept-changed", is_flag=True, help="Compute again what was computed from images that have changed since."
)
def build(
    manifest: Path, root: Path | None, classes: list[str] | None, out: Path, segmenter: Path | None, landmarks: Path | None,
    landmark_input: str, views: str, splits: str | None, device: str, precision: str, features: str,
    batch_size: int | None, part: tuple[int, int] | None, accept_changed: bool,
) -> None:  # fmt: skip
    """Compute the priors of every image of MANIFEST and write them to a store.

    MANIFEST is a .toml descriptor, or a .csv with --root and --classes. Interrupted at any moment, the same command goes on
    where it stopped.

    Several processes may build one store, on one machine or on many that share a file system: `torchrun --nproc-per-node 4 -m
    orsanet_cache build …`, or each with its own --part.

    The word demo stands for the small networks that come with the package: made for the faces of `demo-faces`, not for real ones.
    """
    from orsanet_cache.builder.build import build as build_store
    from orsanet_cache.builder.build import bytes_needed
    from orsanet_cache.data.manifest import load_manifest
    from orsanet_cache.data.views import View
    from orsanet_cache.device import choose_device, torchrun_part
    from orsanet_cache.errors import OrsanetError
    from orsanet_cache.frozen.shipped import DEMO
    from orsanet_cache.store.schema import schema
    from orsanet_cache.store.units import Part
    from orsanet_cache.weights.networks import find_networks

    chosen_views = [str(View.parse(view.strip())) for view in views.split(",")]
    if len(set(chosen_views)) < len(chosen_views):
        raise OrsanetError(f"--views {views}: name each view once")
    loaded = load_manifest(manifest, root, classes)
    chosen_splits = loaded.splits if splits is None else tuple(dict.fromkeys(s.strip() for s in splits.split(",")))
    images = sum(len(loaded.split(split)) for split in chosen_splits)
    if part is None:
        part = torchrun_part()
    chosen_device = choose_device(device)
    if DEMO in (segmenter, landmarks):
        click.echo("demo networks have seen synthetic faces only; for real ones take the published weights", err=True)
    if landmarks == DEMO and landmark_input == "native":
        raise OrsanetError(
            "--landmarks demo was trained on --landmark-input published; native is for the published weights"
        )
    priors = find_networks(out, segmenter, landmarks, landmark_input)  # type: ignore[arg-type]
    if segmenter is None or landmarks is None:
        click.echo(f"networks: {', '.join(priors.files.values())}", err=True)
    fields = schema(priors.segmenter.feature_channels, priors.landmark_network.feature_channels, features)
    click.echo(
        f"{loaded.name}: {images:,} images in {', '.join(chosen_splits)}; views {', '.join(chosen_views)}; "
        f"{chosen_device}; about {bytes_needed(images * len(chosen_views), fields) / 1e9:.2f} GB on disk"
    )
    summary = build_store(
        loaded, out, priors, chosen_views,
        device=chosen_device, splits=chosen_splits, part=Part(*part), precision=precision, feature_dtype=features,  # type: ignore[arg-type]
        batch_size=batch_size, accept_changed=accept_changed,
    )  # fmt: skip
    if summary.computed:
        rate, share = (value / max(summary.seconds, 1e-9) for value in (summary.computed, summary.networks_seconds))
        click.echo(
            f"computed {summary.computed:,} views in {summary.seconds:.0f} s ({rate:.1f} views/s); "
            f"the networks ran {share:.0%} of the time"
        )
    else:
        click.echo("nothing to do: every view is already there")
    for split, rejected in summary.rejected.items():
        for image, reason in rejected.items():
            click.echo(f"rejected, will not be used: {split}: {image!r}: {reason}", err=True)
    if any(summary.rejected.values()):
        click.echo("mended any of them? run the same command with --accept-changed", err=True)
    if summary.waiting:
        click.echo(
            f"{out}: {summary.waiting} unit(s) of other parts are still to be computed; the last part to end seals the store"
        )
        return
    count = sum(len(rejected) for rejected in summary.rejected.values())
    click.echo(f"{out}: {summary.images - count:,} of {summary.images:,} images usable")
    click.echo(f"look at it: orsanet-cache show {out} --split {chosen_splits[0]} -n 16 --out sheet.png")


@main.command()
@click.argument("store", type=FILE)
def info(store: Path) -> None:
    """What STORE holds: splits, views, fields, sizes, recipe, rejected images; of a view that is not finished, how far it is."""
    import json

    from orsanet_cache.store.reader import PriorStore
    from orsanet_cache.store.verify import progress

    opened = PriorStore.open(store)
    click.echo(f"{store}: {opened.nbytes() / 1e9:.3f} GB on disk")
    for split in opened.splits:
        click.echo(f"\nsplit {split}: {len(opened.sample_ids(split)):,} images")
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
            for name, layout in opened.fields(split, view).items():
                click.echo(f"    {name:<28} {layout.dtype!s:<8} {list(layout.shape[1:])}")
            for image, reason in opened.rejected(split, view).items():
                click.echo(f"    rejected: {image!r}: {reason}")
            click.echo(f"    built with {json.dumps(opened.provenance(split, view))}")
    click.echo("\nrecipe " + json.dumps(opened.recipe, indent=2))


@main.command()
@click.argument("store", type=FILE)
@click.option("--deep", is_flag=True, help="Read everything, not only each unit's first and last row.")
@click.option(
    "--sample",
    callback=_part,
    metavar="I/N",
    help="Every N-th unit from the I-th: 1/20 today, 2/20 tomorrow.  [default: all]",
)
@click.option("--repair", is_flag=True, help="Compute the damaged units again; give what the store was built from:")
@click.option("--manifest", type=FILE, help="the manifest,")
@classes_option
@click.option("--root", type=FILE, help="its image folder,")
@click.option("--segmenter", type=FILE, help="SegFace weights, or demo,")
@click.option("--landmarks", type=FILE, help="MobileFaceNet weights, or demo.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
def verify(
    store: Path, deep: bool, sample: tuple[int, int] | None, repair: bool, manifest: Path | None, classes: list[str] | None,
    root: Path | None, segmenter: Path | None, landmarks: Path | None, device: str,
) -> None:  # fmt: skip
    """Check that STORE is what was built, and name each unit that is not."""
    from orsanet_cache.errors import OrsanetError, listed
    from orsanet_cache.store.units import Part
    from orsanet_cache.store.verify import verify as verify_store

    units, damage = verify_store(store, deep, Part(*(sample or (1, 1))))
    extent = "all their rows" if deep else "their first and last rows; --deep reads all"
    click.echo(f"{store}: read {units:,} units, {extent}")
    if not damage:
        click.echo("no damage found")
        return
    found = f"{store}: {len(damage)} unit(s) are not what was built:\n{listed([str(one) for one in damage])}"
    if not repair:
        raise OrsanetError(f"{found}\nmend them with --repair --manifest … --segmenter … --landmarks …")
    if manifest is None or segmenter is None or landmarks is None:
        raise OrsanetError(f"{found}\n--repair computes them again: give --manifest, --segmenter and --landmarks too")
    click.echo(found, err=True)

    from orsanet_cache.builder.repair import repair as repair_store
    from orsanet_cache.data.manifest import load_manifest
    from orsanet_cache.device import choose_device
    from orsanet_cache.frozen.shipped import weights_path

    computed = repair_store(
        store, damage, load_manifest(manifest, root, classes),
        weights_path(segmenter, "segmenter"), weights_path(landmarks, "landmarks"), choose_device(device),
    )  # fmt: skip
    click.echo(f"computed {computed:,} views again; {store} is sealed")


@main.command()
@click.argument("store", type=FILE)
@click.option("--split", required=True, help="Which split to show.")
@click.option("-n", "count", type=click.IntRange(min=1), default=16, show_default=True, help="How many samples.")
@click.option("--out", required=True, type=FILE, help="The picture to write, a .png.")
def show(store: Path, split: str, count: int, out: Path) -> None:
    """A contact sheet of STORE: image with landmarks, and segmentation map, in every view."""
    from orsanet_cache.errors import OrsanetError
    from orsanet_cache.inspection.sheet import prior_sheet
    from orsanet_cache.store.reader import PriorStore

    sheet = prior_sheet(PriorStore.open(store), split, count)
    try:
        sheet.save(out, format="PNG")
    except OSError as error:
        raise OrsanetError(f"{out}: cannot be written ({error.strerror})") from error
    click.echo(f"wrote {out}")


@main.command()
@click.argument("source", type=FILE)
@click.argument("target", type=FILE)
def convert(source: Path, target: Path) -> None:
    """Copy a finished store from its Zarr folder SOURCE to the HDF5 file TARGET, or back; every value is read back and checked."""
    from orsanet_cache.store.convert import convert as convert_store

    convert_store(source, target)
    click.echo(f"wrote {target}")


for _command in (manifest_group, doctor, weights, bench, demo_faces, demo_train, demo_quality):
    main.add_command(_command)


if __name__ == "__main__":
    sys.exit(main())
