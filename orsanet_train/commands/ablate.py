"""The command `orsanet-train ablate`: trainings with one thing changed at a time."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orsanet_cache.console import FILE, STORE, classes_option, quiet_option
from orsanet_cache.paths import Place
from orsanet_train.commands.options import PRESET_HELP, resident_option, store_options
from orsanet_train.commands.run import RANDOM_START
from orsanet_train.experiments.variants import CACHING, PARTS

if TYPE_CHECKING:
    from orsanet_train.feed.residence import Resident


@click.command()
@store_options("A store written by `orsanet-cache build`.")
@click.option("--manifest", required=True, type=FILE, help="The manifest with the labels.")
@classes_option
@click.option("--preset", required=True, help=PRESET_HELP)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key in every run, e.g. epochs=20."
)
@click.option(
    "--variants",
    help=f"Of one set, separated by commas, or the set's name. parts: {', '.join(PARTS)}. caching: {', '.join(CACHING)}.  "
    "[default: all parts that the stores allow]",
)
@click.option(
    "--landmark-store", type=STORE, help="A second store of the same images that differs only in --landmark-input. "
    "Adds the variant native-landmarks (published-landmarks if --store is native).",
)  # fmt: skip
@click.option(
    "--seeds", default="0,1,2", show_default=True, help="Seeds, separated by commas; each trains every variant once."
)
@click.option("--splits", default="test,test:occluded", show_default=True, help="Splits to report, as for `evaluate`.")
@click.option(
    "--ir50", type=FILE, help="IR50 face-recognition weights to start from, as the published runs do, or demo."
)
@click.option("--segmenter", type=FILE, help="For the online variants: the store's SegFace weights, or demo.")
@click.option("--landmarks", type=FILE, help="For the online variants: the store's MobileFaceNet weights, or demo.")
@click.option("--out", required=True, type=FILE, help="Folder for the runs and the table.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@resident_option
@quiet_option
def ablate(
    store: Place, cache: Path | None, cache_size: int | None, manifest: Path, classes: list[str] | None, preset: str,
    overrides: tuple[str, ...], variants: str | None, landmark_store: Place | None, seeds: str, splits: str, ir50: Path | None,
    segmenter: Path | None, landmarks: Path | None, out: Path, device: str, resident: "Resident",
) -> None:  # fmt: skip
    """Train with one thing changed at a time: the rows of the paper's Table 6, and the forms in
    which paper and code differ; or, with --variants caching, what the frozen networks are shown and
    how often.

    The table reports the last checkpoint, which is not chosen by any result. A repeated call
    continues after the finished epochs. To use several processes, pass the same --out to each, and
    different --variants.
    """
    from orsanet_cache.data.manifest import load_manifest
    from orsanet_cache.device import choose_device
    from orsanet_cache.progress import say
    from orsanet_cache.store.reader import PriorStore
    from orsanet_train.experiments.ablate import ablate as ablate_store
    from orsanet_train.experiments.table import write_summary
    from orsanet_train.model.model import read_backbone
    from orsanet_train.run.seeds import parse_seeds

    if ir50 is None:
        click.echo(RANDOM_START, err=True)
    for name in ablate_store(
        load_manifest(manifest, classes=classes, check_files=False), PriorStore.open(store, cache, cache_size), out,
        preset=preset, overrides=overrides,
        variants=None if variants is None else [name.strip() for name in variants.split(",")],
        landmark_store=None if landmark_store is None else PriorStore.open(landmark_store),
        frozen_weights=(segmenter, landmarks), seeds=parse_seeds(seeds), groups=[name.strip() for name in splits.split(",")],
        ir50=None if ir50 is None else read_backbone(ir50), device=choose_device(device), resident=resident,
    ):  # fmt: skip
        say(name)
    click.echo(write_summary(out))
    click.echo(f"wrote {out}/ablation.md and ablation.csv")
