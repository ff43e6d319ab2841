"""The command `orsanet-train run`: train on a store."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orsanet_cache.console import FILE, RUN, Number, classes_option, next_command, quiet_option
from orsanet_cache.paths import Place, Url
from orsanet_train.commands.options import PRESET_HELP, resident_option, store_options

if TYPE_CHECKING:
    from orsanet_train.feed.residence import Resident

RANDOM_START = "IR50 starts from random weights (no --ir50); the published runs start from face-recognition weights"
MOST_MINUTES = 60 * 24 * 366  # a year
CHOSEN_ON_TEST = (
    "the best epoch is chosen on 'test', as in the published runs, so its accuracy there is optimistic; "
    "pass --set selection_split=valid or held-out to choose it on other images"
)


@click.command()
@store_options("A store written by `orsanet-cache build`.")
@click.option(
    "--manifest", required=True, type=FILE, help="The manifest with the labels (.toml, or .csv with --classes)."
)
@classes_option
@click.option("--preset", required=True, help=PRESET_HELP)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key, e.g. epochs=3 or precision=fast; `orsanet-train config PRESET` lists them all.",
)
@click.option(
    "--out", required=True, type=RUN, help="The run folder to write, or the URL of a copy that follows it: s3://BUCKET/NAME."
)  # fmt: skip
@click.option(
    "--work", type=FILE,
    help="For the URL of a run: the folder of this machine in which it works.  [default: NAME in the current folder]",
)  # fmt: skip
@click.option(
    "--ir50", type=FILE, help="IR50 face-recognition weights to start from, as the published runs do, or demo."
)
@click.option("--resume", is_flag=True, help="Continue the run in --out, to the same result as without interruption.")
@click.option("--seeds", help="Seeds, separated by commas: one run per seed in --out/seed-N; prints mean and spread.")
@click.option("--fast-dev-run", is_flag=True, help="Test the whole run on a few batches, and leave no files behind.")
@click.option(
    "--compile", "compiled", is_flag=True, help="Compile the model with torch.compile: slow to start, then faster."
)
@click.option(
    "--save-minutes", type=Number(min=0, max=MOST_MINUTES), default=5.0, show_default=True,
    help="Minutes between saved states: the most work that a kill or a power cut can lose.",
)  # fmt: skip
@click.option("--segmenter", type=FILE, help="For priors = online: the store's SegFace weights, or demo.")
@click.option("--landmarks", type=FILE, help="For priors = online: the store's MobileFaceNet weights, or demo.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@resident_option
@quiet_option
def run(
    store: Place, cache: Path | None, cache_size: int | None, manifest: Path, classes: list[str] | None, preset: str,
    overrides: tuple[str, ...],
    out: Place, work: Path | None, ir50: Path | None, resume: bool, seeds: str | None, fast_dev_run: bool, compiled: bool, save_minutes: float,
    segmenter: Path | None, landmarks: Path | None, device: str, resident: "Resident",
) -> None:  # fmt: skip
    """Train on a store. The run folder gets config.toml, metrics.csv, curves, labelled batches, and
    the best and last weights.

    PRESET is a configuration: `orsanet-train config` lists the presets, and
    `orsanet-train config PRESET` all keys with their meaning, for --set or a file of your own.

    `torchrun --nproc-per-node N -m orsanet_train run …` shares every batch among N processes.
    """
    from orsanet_train.config import load_config

    config = load_config(preset, overrides)  # first: a typo is reported before torch is imported

    from orsanet_cache.data.manifest import load_manifest
    from orsanet_cache.device import choose_device
    from orsanet_cache.errors import OrsanetError
    from orsanet_cache.store.reader import PriorStore
    from orsanet_train.drawing import plots
    from orsanet_train.engine.distributed import from_main, process_group
    from orsanet_train.evaluation.statistics import spread
    from orsanet_train.feed.residence import memory_advice
    from orsanet_train.feed.split import meant_splits
    from orsanet_train.model.model import read_backbone
    from orsanet_train.run import watch
    from orsanet_train.run.folder import held_by_main
    from orsanet_train.run.seeds import has_begun, parse_seeds, train_seeds
    from orsanet_train.run.train import RunSummary, dev_run, train, work_folder

    loaded = load_manifest(manifest, classes=classes, check_files=False)
    config = meant_splits(config, loaded)
    opened = PriorStore.open(store, cache, cache_size)
    chosen_device = choose_device(device)
    numbers = None if seeds is None else parse_seeds(seeds)
    folder = work_folder(out, work)
    if fast_dev_run and (resume or seeds is not None):
        raise OrsanetError("--fast-dev-run leaves no run behind: leave out --resume and --seeds")
    if seeds is not None and any(override.partition("=")[0].strip() == "seed" for override in overrides):
        raise OrsanetError("--set seed and --seeds: pass only one of them")
    with process_group(chosen_device) as ranks, memory_advice():
        echo = click.echo if ranks.main else lambda *_args, **_options: None
        if ir50 is None and not resume:
            echo(RANDOM_START, err=True)
        for missing, note in (
            (not plots.matplotlib_installed(), plots.NO_MATPLOTLIB),
            (not watch.tensorboard_installed(), watch.NO_TENSORBOARD),
        ):
            if missing:
                echo(note, err=True)
        echo(
            f"{loaded.name}: train on '{config.train_split}', best weights chosen on '{config.selection_split}'; "
            f"{config.epochs} epochs, batch {config.batch_size}, {chosen_device}"
        )
        if config.selection_split == "test":
            echo(CHOSEN_ON_TEST, err=True)
        start = partial(
            train, manifest=loaded, store=opened, device=chosen_device, ir50=None if ir50 is None else read_backbone(ir50),
            resident=resident, compiled=compiled, frozen_weights=(segmenter, landmarks), ranks=ranks,
        )  # fmt: skip
        if fast_dev_run:
            dev_run(config, start, ranks)
            echo("the whole run works; no files were kept")
            return

        ended: dict[int, RunSummary] = {}  # by seed

        def train_into(seed: int, place: Place, here: Path) -> RunSummary:
            begun = resume and from_main(lambda: has_begun(place, here), ranks)
            seeded = config.model_copy(update={"seed": seed})
            there = here if isinstance(place, Url) else None
            ended[seed] = start(seeded, out=place, work=there, resume=begun, save_minutes=save_minutes)
            return ended[seed]

        if numbers is not None:
            with held_by_main(folder, ranks):
                table = train_seeds(numbers, out, folder, train_into, ranks)
            echo(table.to_string(index=False))
            echo(
                f"{out}: {len(table)} seeds; accuracy on '{config.selection_split}': last {spread(table['last_accuracy'])}, "
                f"best {spread(table['best_accuracy'])} (mean ± standard deviation); {ended[numbers[0]].beside}"
            )
            for seed, summary in ended.items():
                if summary.warning is not None:
                    echo(f"seed {seed}: {summary.warning}", err=True)
            return
        summary = start(config, out=out, work=work, resume=resume, save_minutes=save_minutes)
    echo(
        f"{out}: {summary.epochs} epochs; accuracy on '{config.selection_split}': last {summary.last_accuracy:.2%}, "
        f"best {summary.best_accuracy:.2%} (epoch {summary.best_epoch}); {summary.beside}"
    )
    if summary.warning is not None:
        echo(summary.warning, err=True)
    names = [] if classes is None else ["--classes", ",".join(classes)]
    kept = [] if cache is None else ["--cache", cache]
    echo(next_command("orsanet-train", "evaluate", folder, "--store", store, *kept, "--manifest", manifest, *names))
