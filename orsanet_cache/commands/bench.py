"""The commands `orsanet-cache bench read`, `orsanet-cache bench build` and `orsanet-cache bench bookkeeping`."""

from pathlib import Path

import click

from orsanet_cache.console import FILE, MOST_BATCH, MOST_IMAGES, MOST_ROUNDS, STORE, Commands, Number, quiet_option
from orsanet_cache.paths import Place, Url


@click.group(cls=Commands)
def bench() -> None:
    """Measure the speed of a store and of a build on this machine, as ratios within one run."""


@bench.command()
@click.argument("store", type=FILE, required=False)
@click.option("--gigabytes", type=Number(min=0.01, max=1000), default=1.0, show_default=True, help="Size of each copy.")
@click.option(
    "--rounds", type=click.IntRange(min=1, max=MOST_ROUNDS), default=9, show_default=True, help="Number of rounds."
)
@click.option("--folder", type=FILE, help="Folder for the temporary copies.  [default: the system's]")
@click.option(
    "--url", type=STORE, metavar="URL",
    help="Read a store at this URL instead: whole shards against zarr-python's own ObjectStore.",
)  # fmt: skip
@click.option(
    "--shards", type=click.IntRange(min=1, max=MOST_ROUNDS), default=8, show_default=True,
    help="With --url: the number of shards of each field to read.",
)  # fmt: skip
@quiet_option
def read(
    store: Path | None, gigabytes: float, rounds: int, folder: Path | None, url: Place | None, shards: int
) -> None:
    """Read shuffled batches from warm copies of STORE (or random data), every format in turn."""
    from orsanet_cache.errors import OrsanetError

    if url is not None:
        if not isinstance(url, Url) or store is not None:
            raise OrsanetError("--url needs the URL of a store, such as s3://BUCKET/NAME.zarr, and no STORE")
        _read_url(url, shards, rounds)
        return

    from orsanet_cache.bench.read import BATCH, TRAINING_FIELDS, bench_read

    rows, row_bytes, speeds = bench_read(store, gigabytes, rounds, folder)
    click.echo(
        f"{rows:,} rows of {row_bytes / 1e3:.1f} kB ({', '.join(TRAINING_FIELDS)}), {rows * row_bytes / 1e9:.2f} GB; "
        f"shuffled batches of {BATCH}; medians of {rounds} round(s)"
    )
    click.echo(f"{'':<36} {'rows/s':>10} {'GB/s':>8} {'of the limit':>13}")
    for speed in speeds:
        rate = speed.rows_per_second
        click.echo(f"{speed.name:<36} {rate:>10,.0f} {rate * row_bytes / 1e9:>8.2f} {speed.ratio:>13.3f}")


def _read_url(url: Url, shards: int, rounds: int) -> None:
    from orsanet_cache.bench.read_url import TRAINING_FIELDS, bench_read_url

    rows, row_bytes, speeds = bench_read_url(url, shards, rounds)
    click.echo(
        f"{rows:,} rows of {row_bytes / 1e3:.1f} kB ({', '.join(TRAINING_FIELDS)}), {rows * row_bytes / 1e9:.3f} GB; "
        f"medians of {rounds} round(s)"
    )
    click.echo(f"{'':<36} {'rows/s':>10} {'MB/s':>8} {'whole shards are':>20}")
    for speed in speeds:
        rate = speed.rows_per_second
        click.echo(f"{speed.name:<36} {rate:>10,.1f} {rate * row_bytes / 1e6:>8.1f} {speed.ratio:>13.1f}x as fast")


@bench.command()
@click.argument("manifest", type=FILE, required=False)
@click.option(
    "--images",
    type=click.IntRange(min=1, max=MOST_IMAGES),
    help="Number of images.  [default: 64 on a CPU, 4096 on a GPU]",
)
@click.option("--views", default="clean,hflip", show_default=True, help="Views to compute, separated by commas.")
@click.option("--segmenter", type=FILE, help="SegFace weights, or demo.  [default: published sizes, random values]")
@click.option("--landmarks", type=FILE, help="MobileFaceNet weights, or demo.  [default: random values]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--precision", type=click.Choice(["fp32", "fp16"]), default="fp32", show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1, max=MOST_BATCH), help="Images at a time.  [default: as build]")
@click.option("--folder", type=FILE, help="Folder for the temporary store.  [default: the system's]")
@quiet_option
def build(
    manifest: Path | None, images: int | None, views: str, segmenter: Path | None, landmarks: Path | None, device: str,
    precision: str, batch_size: int | None, folder: Path | None,
) -> None:  # fmt: skip
    """Build a temporary store of MANIFEST's first images (or of random pictures).

    The output includes the share of time during which the networks ran.
    """
    import torch

    from orsanet_cache.bench.build import bench_build, published_sizes
    from orsanet_cache.data.manifest import load_manifest
    from orsanet_cache.device import choose_device
    from orsanet_cache.errors import OrsanetError
    from orsanet_cache.frozen.priors import FrozenPriors
    from orsanet_cache.frozen.shipped import weights_path

    if (segmenter is None) != (landmarks is None):
        raise OrsanetError("give both --segmenter and --landmarks, or neither")
    chosen = choose_device(device)
    images = images or (64 if chosen.type == "cpu" else 4096)
    priors = (
        published_sizes()
        if segmenter is None or landmarks is None
        else FrozenPriors.load(weights_path(segmenter, "segmenter"), weights_path(landmarks, "landmarks"))
    )
    loaded = None if manifest is None else load_manifest(manifest)
    speed = bench_build(
        loaded, priors, images, [view.strip() for view in views.split(",")], chosen, precision, batch_size, folder  # type: ignore[arg-type]
    )  # fmt: skip
    name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    click.echo(f"{name}, {precision}, {speed.views:,} views")
    click.echo(f"build           {speed.build:>8.2f} views/s; the networks ran {speed.networks_share:.1%} of the time")
    click.echo(
        f"networks alone  {speed.networks_alone:>8.2f} views/s; the build reaches {speed.build / speed.networks_alone:.3f} of it"
    )


@bench.command()
@click.option(
    "--rows",
    default="10k,100k",
    show_default=True,
    callback=lambda _context, _option, text: _counts(text),
    help="Numbers of rows, separated by commas: 10k,100k,300k,1M.",
)
@click.option("--folder", type=FILE, help="Folder for the temporary stores.  [default: the system's]")
@quiet_option
def bookkeeping(rows: list[int], folder: Path | None) -> None:
    """Measure what a store costs besides networks and data: manifest, markers, seals and checks.

    Rows have a few bytes and pictures a kilobyte, which is written as so many files. Every cost
    should grow as the number of rows does.
    """
    from orsanet_cache.bench.bookkeeping import MEASURED, bench_bookkeeping

    found = [bench_bookkeeping(count, folder) for count in rows]
    click.echo("CPU seconds (seconds on the clock)")
    click.echo(f"{'rows':<38}" + "".join(f"{one.rows:>18,}" for one in found))
    for name in MEASURED:
        costs = [one.costs[name] for one in found]
        click.echo(f"{name:<38}" + "".join(f"{f'{cost.cpu:.2f} ({cost.wall:.2f})':>18}" for cost in costs))
    click.echo(f"{'files while building':<38}" + "".join(f"{one.files:>18,}" for one in found))


def _counts(text: str) -> list[int]:
    """The numbers of a list such as 10k,1M. Raises click.BadParameter for any other text."""
    factors = {"k": 1_000, "M": 1_000_000}
    counts = []
    for part in text.split(","):
        number, factor = (part[:-1], factors[part[-1]]) if part[-1:] in factors else (part, 1)
        if not (number.strip().isascii() and number.strip().isdigit()) or not 0 < int(number) * factor <= MOST_IMAGES:
            raise click.BadParameter(f"{part!r} is not a number of rows from 1 to {MOST_IMAGES:,}, such as 10k")
        counts.append(int(number) * factor)
    return counts
