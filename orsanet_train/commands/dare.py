"""The commands `orsanet-train dare`: DARELoss beyond faces, as in the paper's Tables 7 and 8."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orsanet_cache.console import FILE, MOST_SEED, Commands, next_command, quiet_option

if TYPE_CHECKING:
    from orsanet_train.general.recipes import Input, Network, Scene
    from orsanet_train.general.table import Epoch
    from orsanet_train.general.training import Task

MOST_PICTURES, MOST_WORKERS = 10_000, 256
_OPTIONS = (
    click.option("--weights", default="0,0.1", show_default=True, help="Weights of DARELoss, separated by commas; 0: cross-entropy alone."),
    click.option("--forms", default="published,paper", show_default=True, help="Forms of DARELoss, separated by commas."),
    click.option("--seeds", default="0,1,2", show_default=True, help="Seeds, separated by commas; each trains every loss once."),
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting of the recipe, e.g. epochs=20."),
    click.option("--epoch", type=click.Choice(["last", "best"]), default="last", show_default=True,
                 help="The epoch whose numbers the table has. best: by the test samples, so optimistic."),
    click.option("--out", required=True, type=FILE, help="Folder for the runs and the table."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    quiet_option,
)  # fmt: skip


def experiment_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that both experiments share."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group(cls=Commands)
def dare() -> None:
    """Train with and without DARELoss beyond faces: hyperspectral pixels, as in the paper's Table 7,
    and CIFAR-10, as in Table 8.

    docs/dareloss.md has the commands of both tables. Nothing is downloaded.
    """


@dare.command()
@click.option("--cube", required=True, type=FILE, help="The .mat file with the cube [rows, columns, bands].")
@click.option("--labels", type=FILE, help="The .mat file with the map of labels, or with the maps TR and TE.")
@click.option("--train-map", type=FILE, help="The .mat file with the map of training pixels.")
@click.option("--test-map", type=FILE, help="The .mat file with the map of test pixels.")
@click.option(
    "--training-pixels", metavar="N[,N…]",
    help="Draw so many training pixels of each class of --labels: one number, or one for each class.",
)  # fmt: skip
@click.option(
    "--split-seed", type=click.IntRange(min=0, max=MOST_SEED), default=0, show_default=True,
    help="Seed of the training pixels that are drawn; the same for all runs.",
)  # fmt: skip
@click.option(
    "--key", "keys", multiple=True, help="Variable to take where a .mat file has several that fit. Can be repeated."
)
@click.option("--network", type=click.Choice(["spectralformer"]), default="spectralformer", show_default=True)
@click.option(
    "--input",
    "taken",
    type=click.Choice(["pixel", "patch"]),
    default="pixel",
    show_default=True,
    help="One pixel, or the 7 x 7 around it.",
)
@click.option(
    "--scene", type=click.Choice(["indian-pines", "pavia-university"]), default="indian-pines", show_default=True,
    help="Whose published recipe to take.",
)  # fmt: skip
@experiment_options
def hyperspectral(
    cube: Path, labels: Path | None, train_map: Path | None, test_map: Path | None, training_pixels: str | None,
    split_seed: int, keys: tuple[str, ...], network: str, taken: "Input", scene: "Scene", weights: str, forms: str,
    seeds: str, overrides: tuple[str, ...], epoch: "Epoch", out: Path, device: str,
) -> None:  # fmt: skip
    """Train SpectralFormer on a scene's pixels with every loss and seed: overall accuracy, average
    accuracy and kappa.

    The pixels that train and test come from the cube's file (TR and TE), from --labels with
    --train-map or --training-pixels, or from --train-map and --test-map. A repeated call goes on
    where the last one stopped. The table reports the last epoch.
    """
    from orsanet_cache.device import choose_device
    from orsanet_train.general.hyperspectral import SpectralTask
    from orsanet_train.general.recipes import SPECTRAL, changed
    from orsanet_train.general.scenes import parse_counts, read_scene

    recipe = changed(SPECTRAL[scene, taken], overrides)
    read = read_scene(
        cube, labels, train_map, test_map, None if training_pixels is None else parse_counts(training_pixels), split_seed, keys
    )  # fmt: skip
    click.echo(
        f"{read.cube.shape[0]} x {read.cube.shape[1]} pixels, {read.cube.shape[2]} bands, {read.classes} classes:"
    )
    click.echo(f"  training pixels {_counts(read.counts(read.train))}")
    click.echo(f"  test pixels     {_counts(read.counts(read.test))}")
    _experiment(SpectralTask(read, recipe, choose_device(device)), weights, forms, seeds, epoch, out)


@dare.command()
@click.option("--data", required=True, type=FILE, help="The folder cifar-10-batches-py.")
@click.option("--network", required=True, type=click.Choice(["gfnet", "crossvit"]))
@click.option(
    "--workers", type=click.IntRange(min=0, max=MOST_WORKERS),
    help="Processes that augment pictures as published.  [default: one a core for a GPU, none for a CPU]",
)  # fmt: skip
@experiment_options
def images(
    data: Path, network: "Network", workers: int | None, weights: str, forms: str, seeds: str, overrides: tuple[str, ...],
    epoch: "Epoch", out: Path, device: str,
) -> None:  # fmt: skip
    """Train GFNet or CrossViT on CIFAR-10 with every loss and seed: top-1 and top-5 accuracy.

    CrossViT and the published augmentation need timm (`pip install '.[general]'`). A repeated call
    goes on where the last one stopped. The table reports the last epoch.
    """
    from orsanet_cache.device import choose_device
    from orsanet_train.general.cifar import read_pictures
    from orsanet_train.general.images import ImageTask
    from orsanet_train.general.recipes import IMAGES, changed

    recipe = changed(IMAGES[network], overrides)
    task = ImageTask(read_pictures(data), network, recipe, choose_device(device), workers)
    click.echo(f"{task.identity['data'][0]}: {len(task.labels):,} training and {len(task.test):,} test pictures")
    _experiment(task, weights, forms, seeds, epoch, out)


@dare.command()
@click.option("--out", required=True, type=FILE, help="Folder to write; it must not exist.")
@click.option(
    "--seed",
    type=click.IntRange(min=0, max=MOST_SEED),
    default=0,
    show_default=True,
    help="Seed of scene and pictures.",
)
@click.option(
    "--pictures", type=click.IntRange(min=10, max=MOST_PICTURES), default=200, show_default=True,
    help="Pictures in each of the six files.",
)  # fmt: skip
@click.option(
    "--scene", type=click.Choice(["small", "indian-pines", "pavia-university"]), default="small", show_default=True,
    help="Size of the scene: small, or that of a public scene, to measure how long a training takes.",
)  # fmt: skip
def demo_data(out: Path, seed: int, pictures: int, scene: str) -> None:
    """Draw data for trying out: a scene of mixed materials in the forms of the public .mat files, and
    pictures of ten shapes in CIFAR-10's layout.
    """
    from orsanet_train.general.demo_data import write_demo

    drawn, training = write_demo(out, seed, pictures, scene)
    rows, columns, bands = drawn.cube.shape
    click.echo(
        f"{out}/scene: {rows} x {columns} pixels, {bands} bands, {drawn.labels.max()} materials, {(drawn.train > 0).sum():,} training pixels"
    )
    click.echo(
        f"{out}/cifar-10-batches-py: {training:,} training and {pictures:,} test pictures of ten shapes; not CIFAR-10"
    )
    folder = out / "scene"
    click.echo(
        next_command(
            "orsanet-train", "dare", "hyperspectral", "--cube", folder / "cube.mat", "--labels", folder / "labels.mat", "--train-map",
            folder / "train.mat", "--set", "epochs=20", "--out", "RUNS",
        )
    )  # fmt: skip


def _counts(counts: list[int]) -> str:
    return f"{sum(counts):,}: {', '.join(map(str, counts))}"


def _experiment(task: "Task", weights: str, forms: str, seeds: str, epoch: "Epoch", out: Path) -> None:
    from orsanet_cache.progress import say
    from orsanet_train.general.arms import parse_arms
    from orsanet_train.general.experiment import experiment, table
    from orsanet_train.run.seeds import parse_seeds

    for name in experiment(task, parse_arms(weights, forms), parse_seeds(seeds), out):
        say(name)
    click.echo(table(task, out, epoch), nl=False)
    click.echo(f"wrote {out}/dare.md and dare.csv")
