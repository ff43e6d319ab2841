"""The command `orsanet-cache build`: from a manifest to a store."""

import shlex
from pathlib import Path

import click

from orsanet_cache.console import FILE, MOST_BATCH, STORE, classes_option, next_command, parse_part, quiet_option
from orsanet_cache.data.views import CLEAN, HFLIP, POSSIBLE_VIEWS
from orsanet_cache.paths import Place


@click.command()
@click.argument("manifest", type=FILE)
@classes_option
@click.option("--root", type=FILE, help="Folder that the manifest's image paths start from.")
@click.option(
    "--out",
    required=True,
    type=STORE,
    help="The store to write or continue: a folder, or a URL such as s3://BUCKET/NAME.zarr.",
)
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
    help="Input of MobileFaceNet: as ORSANet feeds it, or as it was trained (better landmarks).",
)
@click.option(
    "--image-reading",
    type=click.Choice(["upright", "published"]),
    help="How image files are read: upright, or as the published loader does, without EXIF orientation and alpha, and with 16 bits clipped.  "
    "[default: the store's, else upright]",
)
@click.option(
    "--views",
    default="clean,hflip",
    show_default=True,
    help=f"Views to compute, separated by commas: {POSSIBLE_VIEWS}.",
)
@click.option(
    "--fields",
    help="Optional fields that the store is to have, separated by commas: landmark_features_28 and landmark_features_14, which POSTER V2 "
    "reads. In a finished store they alone are computed.  [default: the store's, for a new store none]",
)
@click.option(
    "--networks",
    help="Installed networks whose fields the store is to have, separated by commas (docs/own-priors.md).  [default: the store's]",
)
@click.option("--splits", help="Compute only these splits, separated by commas.  [default: all of the manifest]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "fp16"]),
    default="auto",
    show_default=True,
    help="The networks' arithmetic. auto: fp16 on a GPU if it changes the features by at most 0.2 %, else fp32.",
)
@click.option(
    "--features",
    type=click.Choice(["float16", "float32", "int8"]),
    default="float16",
    show_default=True,
    help="Type of the stored features; int8 has one scale per image and channel.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1, max=MOST_BATCH),
    help="Images at a time.  [default: 8 on a CPU, 64 on a GPU]",
)
@click.option(
    "--part",
    callback=parse_part,
    metavar="I/N",
    help="Build only part I of N, counted from 1; start the others at the same time or later.  [default: torchrun's rank, else all]",
)
@click.option("--accept-changed", is_flag=True, help="Compute the units of changed images again, in every view.")
@click.option(
    "--rehash",
    is_flag=True,
    help="Hash all known pictures again, also those with the inode, size and times of an earlier build.",
)
@click.option(
    "--mix-rows",
    is_flag=True,
    help="Mix the rows of new splits over the shards, for training in windows of a store at a URL (order = windowed) from a sorted manifest.",
)
@quiet_option
@click.option(
    "--reuse",
    type=STORE,
    metavar="STORE",
    help="Copy the rows of pictures that this store of the same recipe has, whatever their names, order and splits; compute the others.",
)
def build(
    manifest: Path, root: Path | None, classes: list[str] | None, out: Place, segmenter: Path | None, landmarks: Path | None,
    landmark_input: str, image_reading: str | None, views: str, fields: str | None, networks: str | None, splits: str | None, device: str,
    precision: str, features: str,
    batch_size: int | None, part: tuple[int, int] | None, accept_changed: bool, rehash: bool, mix_rows: bool,
    reuse: Place | None,
) -> None:  # fmt: skip
    """Compute the priors of every image of MANIFEST and write them to a store.

    MANIFEST is a .toml descriptor, or a .csv with --root and --classes. After an interruption the
    same command continues where the build stopped.

    Several processes may build one store, on one machine or on several that share a file system or a
    bucket: `torchrun --nproc-per-node 4 -m orsanet_cache build …`, or each with its own --part. For a
    URL, credentials and endpoint are those of the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL …).

    When the manifest has changed, the same command makes the store grow: pictures are recognised by
    the SHA-256 of their files, whatever their names, order and splits, and only new ones are
    computed. Rows of pictures that the manifest no longer has stay until `compact`. With --reuse
    OLD, rows are also copied from another store: a Zarr folder, an HDF5 file or a URL, finished or
    not, which is only read.

    The word demo selects the small networks that come with the package. They are trained for the
    faces of `demo-faces`, not for real faces.
    """
    from orsanet_cache.builder.additions import find_additions, is_finished
    from orsanet_cache.builder.build import build as build_store
    from orsanet_cache.builder.disk import bytes_needed
    from orsanet_cache.builder.fields import optional_fields
    from orsanet_cache.builder.reuse import PlannedRows
    from orsanet_cache.data.manifest import load_manifest
    from orsanet_cache.data.views import view_names
    from orsanet_cache.device import choose_device, torchrun_part
    from orsanet_cache.errors import OrsanetError
    from orsanet_cache.frozen.added import installed_network
    from orsanet_cache.frozen.shipped import DEMO
    from orsanet_cache.progress import say
    from orsanet_cache.store.schema import schema
    from orsanet_cache.store.units import Share
    from orsanet_cache.weights.networks import find_networks

    chosen_views = view_names([view.strip() for view in views.split(",")])
    asked = None if fields is None else [name.strip() for name in fields.split(",")]
    own = [] if networks is None else [installed_network(name.strip()) for name in networks.split(",")]
    loaded = load_manifest(manifest, root, classes, check_files=not (asked or own))
    chosen_splits = loaded.splits if splits is None else loaded.meant(name.strip() for name in splits.split(","))
    for note in loaded.notes:
        click.echo(f"note: {note}", err=True)
    images = sum(len(loaded.split(split)) for split in chosen_splits)
    if part is None:
        part = torchrun_part()
    chosen_device = choose_device(device)
    if DEMO in (segmenter, landmarks):
        click.echo(
            "the demo networks were trained on synthetic faces only; for real faces use the published weights", err=True
        )
    if landmarks == DEMO and landmark_input == "native":
        raise OrsanetError(
            "--landmarks demo was trained on --landmark-input published; native is for the published weights"
        )
    priors = find_networks(out, segmenter, landmarks, landmark_input, reuse)  # type: ignore[arg-type]
    if segmenter is None or landmarks is None:
        say(f"networks: {', '.join(priors.files.values())}")
    channels = priors.segmenter.feature_channels, priors.landmark_network.feature_channels
    in_views, lacking = optional_fields(out, asked, reuse)
    written = schema(*channels, features, in_views)
    additions = find_additions(out, priors, features, lacking, own, chosen_device)
    if asked or own:
        if additions.need_no_picture() and is_finished(out, loaded, chosen_splits, chosen_views):
            click.echo(
                f"{out} is finished; {', '.join(sorted(additions.asked))} are computed from its images, and no picture is read"
            )
        else:
            loaded = load_manifest(manifest, root, classes)
            for note in loaded.notes:
                click.echo(f"note: {note}", err=True)
    of_additions = [field for one in additions.given for field in one.addition.fields]
    click.echo(
        f"{loaded.name}: {images:,} images in {', '.join(chosen_splits)}; views {', '.join(chosen_views)}; "
        f"{chosen_device}; about {bytes_needed(images * len(chosen_views), [*written, *of_additions]) / 1e9:.2f} GB "
        f"{'on disk' if isinstance(out, Path) else 'in the object store'}"
    )

    sources = str(out if reuse is None else reuse)

    def print_plan(plan: PlannedRows) -> None:
        for reason in plan.skipped:
            click.echo(reason, err=True)
        if plan.images:
            click.echo(f"{plan.kept:,} of {plan.images:,} images have their rows in {out}, which stay as they are")
        if reuse is not None or plan.copied:
            total = plan.copied + plan.computed
            click.echo(
                f"{plan.copied:,} of {total:,} views are known in {sources} and copied; {plan.computed:,} are computed"
            )

    summary = build_store(
        loaded, out, priors, chosen_views, fields=asked, networks=own,
        device=chosen_device, splits=chosen_splits, part=Share(*part), precision=precision, feature_dtype=features,  # type: ignore[arg-type]
        image_reading=image_reading,  # type: ignore[arg-type]
        batch_size=batch_size, accept_changed=accept_changed, rehash=rehash, mix_rows=mix_rows, reuse=reuse, on_plan=print_plan,
    )  # fmt: skip
    for row, damage in summary.damaged.items():
        click.echo(f"{reuse}: damaged, so it was computed: {row} ({damage})", err=True)
    if summary.damaged:
        click.echo(f"`orsanet-cache verify {reuse} --deep` prints all damage there.", err=True)
    if summary.reused:
        click.echo(f"copied {summary.reused:,} views from {sources}, each row against its checksum")
    if summary.grown:
        click.echo(
            f"{out}: split {', '.join(summary.grown)} has the manifest's images now; earlier runs can still be resumed"
        )
    if summary.computed:
        rate, share = (value / max(summary.seconds, 1e-9) for value in (summary.computed, summary.networks_seconds))
        click.echo(
            f"computed {summary.computed:,} views in {summary.seconds:.0f} s ({rate:.1f} views/s); "
            f"the networks ran {share:.0%} of the time"
        )
    if summary.added:
        click.echo(f"added {', '.join(additions.known)}: {summary.added:,} views, in {summary.seconds:.0f} s")
    if not (summary.computed or summary.added or summary.reused or summary.grown):
        click.echo("nothing to do: every view already exists")
    for split, rejected in summary.rejected.items():
        for image, reason in rejected.items():
            click.echo(f"rejected, will not be used: {split}: {image!r}: {reason}", err=True)
    if any(summary.rejected.values()):
        click.echo("If you fix any of these images, run the same command again with --accept-changed.", err=True)
    if summary.waiting:
        click.echo(
            f"{out}: {summary.waiting} unit(s) of other parts are not computed yet; the last part to finish seals the store"
        )
        return
    count = sum(len(rejected) for rejected in summary.rejected.values())
    click.echo(f"{out}: {summary.images - count:,} of {summary.images:,} images usable")
    shown = ["orsanet-cache", "show", str(out), "--split", chosen_splits[0], "-n", "16", "--out", "sheet.png"]
    click.echo(f"view it with: {shlex.join(shown)}")
    if "train" in chosen_splits and {CLEAN, HFLIP} <= set(chosen_views):
        options = [] if classes is None else ["--classes", ",".join(classes)]
        options += ["--preset", "small"]
        options += [] if "valid" in chosen_splits else ["--set", "selection_split=held-out"]
        data = ["--store", str(out), "--manifest", str(manifest)]
        click.echo(next_command("orsanet-train", "run", *data, *options, "--out", "RUN"))
        click.echo("other presets than small: orsanet-train config")
