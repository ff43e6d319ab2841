"""orsanet-train: run, evaluate, predict, import, report, compare, ablate, complexity. Commands translate and never decide; heavy imports wait for the command's body."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orsanet_cache.console import CommandGroup, classes_option
from orsanet_train.commands.bench import bench
from orsanet_train.commands.export import export
from orsanet_train.commands.options import FILE, checkpoint_option
from orsanet_train.commands.predict import predict

if TYPE_CHECKING:
    from orsanet_train.feed.residence import Resident

RANDOM_START = "IR50 starts from random weights (no --ir50); the published runs start from face-recognition weights"
CHOSEN_ON_TEST = (
    "the best epoch is chosen on 'test', as in the published runs, so that its accuracy there is optimistic; "
    "--set selection_split=valid or held-out keeps the test images unseen"
)
PRESET_HELP = "rafdb, affectnet7, affectnet8, occlu-fer (the published logs), paper, small, or a .toml file."
resident_option = click.option(
    "--resident",
    type=click.Choice(["auto", "device", "host", "stream"]),
    default="auto",
    show_default=True,
    help="Where the priors are kept meanwhile: in the device's memory, in the host's, or streamed from the store. auto: while training, on "
    "a GPU of which they take at most half the free memory; else streamed. The results are the same.",
)


@click.group(
    cls=CommandGroup,
    interrupted="What was saved is kept: run the same command again to go on (`run` with --resume, `predict` into another --out).",
)
@click.version_option(package_name="orsanet")
def main() -> None:
    """Stage two of ORSANet: train and evaluate on the cached priors of a store."""


@main.command()
@click.option("--store", required=True, type=FILE, help="A store written by `orsanet-cache build`.")
@click.option(
    "--manifest", required=True, type=FILE, help="The manifest with the labels (.toml, or .csv with --classes)."
)
@classes_option
@click.option("--preset", required=True, help=PRESET_HELP)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. epochs=3 or precision=fast."
)
@click.option("--out", required=True, type=FILE, help="The run folder to write.")
@click.option("--ir50", type=FILE, help="IR50 face-recognition weights to start from, as the published runs do.")
@click.option("--resume", is_flag=True, help="Go on where --out stopped, to the same result as without the stop.")
@click.option("--seeds", help="Separated by commas: a run for each in --out/seed-N, and their mean and spread.")
@click.option("--fast-dev-run", is_flag=True, help="Try everything on a few batches, and leave nothing behind.")
@click.option("--compile", "compiled", is_flag=True, help="torch.compile the model: minutes at first, then faster.")
@click.option(
    "--save-minutes", type=click.FloatRange(min=0), default=5.0, show_default=True,
    help="How much work a kill or a power cut may cost.",
)  # fmt: skip
@click.option("--segmenter", type=FILE, help="For priors = online: the store's SegFace weights, or demo.")
@click.option("--landmarks", type=FILE, help="For priors = online: the store's MobileFaceNet weights, or demo.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@resident_option
def run(
    store: Path, manifest: Path, classes: list[str] | None, preset: str, overrides: tuple[str, ...],
    out: Path, ir50: Path | None, resume: bool, seeds: str | None, fast_dev_run: bool, compiled: bool, save_minutes: float,
    segmenter: Path | None, landmarks: Path | None, device: str, resident: "Resident",
) -> None:  # fmt: skip
    """Train on a store; the run folder gets config.toml, metrics.csv, curves, labelled batches, best and last weights.

    Start it with `torchrun --nproc-per-node N -m orsanet_train run …` to share every batch among N processes.
    """
    from orsanet_train.config import load_config

    config = load_config(preset, overrides)  # first: a typo should not wait for torch

    from orsanet_cache.data.manifest import load_manifest
    from orsanet_cache.device import choose_device
    from orsanet_cache.errors import OrsanetError
    from orsanet_cache.frozen.loading import read_weights
    from orsanet_cache.store.reader import PriorStore
    from orsanet_train.drawing import plots
    from orsanet_train.engine.distributed import process_group
    from orsanet_train.feed.residence import memory_advice
    from orsanet_train.run import watch
    from orsanet_train.run.seeds import parse_seeds, spread, train_seeds
    from orsanet_train.run.train import RunSummary, dev_run, train

    loaded = load_manifest(manifest, classes=classes, check_files=False)
    opened = PriorStore.open(store)
    chosen_device = choose_device(device)
    numbers = None if seeds is None else parse_seeds(seeds)
    if fast_dev_run and (resume or seeds is not None):
        raise OrsanetError("--fast-dev-run keeps nothing: leave out --resume and --seeds")
    if seeds is not None and any(override.partition("=")[0].strip() == "seed" for override in overrides):
        raise OrsanetError("--set seed and --seeds: give one of them")
    with process_group(chosen_device) as ranks, memory_advice():
        say = click.echo if ranks.main else lambda *_args, **_options: None
        if ir50 is None and not resume:
            say(RANDOM_START, err=True)
        for missing, note in (
            (not plots.matplotlib_installed(), plots.NO_MATPLOTLIB),
            (not watch.tensorboard_installed(), watch.NO_TENSORBOARD),
        ):
            if missing:
                say(note, err=True)
        say(
            f"{loaded.name}: train on '{config.train_split}', best weights chosen on '{config.selection_split}'; "
            f"{config.epochs} epochs, batch {config.batch_size}, {chosen_device}"
        )
        if config.selection_split == "test":
            say(CHOSEN_ON_TEST, err=True)
        start = partial(
            train, manifest=loaded, store=opened, device=chosen_device, ir50=None if ir50 is None else read_weights(ir50),
            resident=resident, compiled=compiled, frozen_weights=(segmenter, landmarks), ranks=ranks,
        )  # fmt: skip
        if fast_dev_run:
            dev_run(config, start, ranks)
            say("everything ran, and nothing was kept")
            return

        def train_into(folder: Path, seed: int) -> RunSummary:
            begun = resume and (numbers is None or (folder / "run.json").is_file())
            seeded = config.model_copy(update={"seed": seed})
            return start(seeded, out=folder, resume=begun, save_minutes=save_minutes)

        if numbers is not None:
            table = train_seeds(numbers, out, lambda seed, folder: train_into(folder, seed), main=ranks.main)
            say(table.to_string(index=False))
            say(
                f"{out}: {len(table)} seeds; accuracy on '{config.selection_split}': last {spread(table['last_accuracy'])}, "
                f"best {spread(table['best_accuracy'])} (mean ± standard deviation)"
            )
            return
        summary = train_into(out, config.seed)
    say(
        f"{out}: {summary.epochs} epochs; accuracy on '{config.selection_split}': last {summary.last_accuracy:.2%}, "
        f"best {summary.best_accuracy:.2%} (epoch {summary.best_epoch})"
    )
    names = "" if classes is None else f" --classes {','.join(classes)}"
    say(f"next: orsanet-train evaluate {out} --store {store} --manifest {manifest}{names}")


@main.command()
@click.argument("run_folder", metavar="RUN", type=FILE)
@click.option("--store", required=True, type=FILE, help="A store with the same recipe as the run's.")
@click.option("--manifest", required=True, type=FILE, help="The manifest with the labels.")
@classes_option
@click.option(
    "--tags", "tag_tables", type=FILE, multiple=True,
    help="A CSV of image,tags that adds to the manifest's tags: lists of occluded or posed images. May be given again.",
)  # fmt: skip
@click.option(
    "--splits",
    help="Separated by commas: a split (test), its images with a tag (test:occluded), either in a view of the store "
    "(test@erase-20).  [default: all there are, but for the training split]",
)
@checkpoint_option
@click.option("--out", type=FILE, help="Folder for the evaluation.  [default: RUN/evaluation-CHECKPOINT]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@resident_option
def evaluate(
    run_folder: Path, store: Path, manifest: Path, classes: list[str] | None, tag_tables: tuple[Path, ...], splits: str | None,
    checkpoint: str, out: Path | None, device: str, resident: "Resident",
) -> None:  # fmt: skip
    """Accuracy of RUN per split, tag and view: a table, evaluation.json and predictions.csv. `report` and `compare` go on from them."""
    from orsanet_cache.data.manifest import load_manifest, with_tags
    from orsanet_cache.device import choose_device
    from orsanet_cache.store.reader import PriorStore
    from orsanet_train.evaluation.evaluate import evaluate as evaluate_run
    from orsanet_train.evaluation.metrics import text_table

    loaded = load_manifest(manifest, classes=classes, check_files=False)
    for table in tag_tables:
        loaded = with_tags(loaded, table)
    folder = out or run_folder / f"evaluation-{checkpoint}"
    evaluation = evaluate_run(
        run_folder / f"{checkpoint}.safetensors", loaded, PriorStore.open(store), folder,
        groups=None if splits is None else [name.strip() for name in splits.split(",")], device=choose_device(device),
        resident=resident,
    )  # fmt: skip
    click.echo(text_table(evaluation.groups))
    click.echo(evaluation.protocol)
    for note in evaluation.notes:
        click.echo(note, err=True)
    click.echo(f"wrote {folder}")
    if out is None:
        click.echo(
            f"next: orsanet-train report {run_folder}{'' if checkpoint == 'best' else f' --checkpoint {checkpoint}'}"
        )


@main.command("import")
@click.argument("checkpoint", metavar="CKPT", type=FILE)
@click.option("--out", required=True, type=FILE, help="The run folder to write.")
@click.option(
    "--classes", required=True,
    help="The classes that its head tells apart, in label order: a,b,c. The file does not name them.",
)  # fmt: skip
@click.option("--preset", required=True, help=f"Of the data set it was trained with. {PRESET_HELP}")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. model.depth=4 or =6: the small and the base model."
)  # fmt: skip
@click.option(
    "--manifest-name",
    help="Name of the manifest it was trained with, so that the split that chose it is marked.  [default: the preset's name]",
)
def import_checkpoint(
    checkpoint: Path, out: Path, classes: str, preset: str, overrides: tuple[str, ...], manifest_name: str | None
) -> None:
    """A checkpoint of the published code -> a run folder for `evaluate`, and the frozen networks in it for `orsanet-cache build`.

    They are not those of the original files: MobileFaceNet's statistics drifted in training. Evaluating on a store built from others, or
    with rounded features, is refused.
    """
    from orsanet_train.config import load_config

    config = load_config(preset, overrides)

    from orsanet_train.model.checkpoint import LANDMARKS_FILE, SEGMENTER_FILE
    from orsanet_train.run.imported import import_checkpoint as import_published

    name = Path(preset).stem if manifest_name is None else manifest_name
    named = [part.strip() for part in classes.split(",")]
    identity = import_published(checkpoint, out, config, named, name)
    click.echo(f"{out}: {len(named)} classes in label order: {', '.join(named)}")
    click.echo(f"{identity.published_choice}; a manifest of the same images must have that name")
    click.echo(
        f"next: orsanet-cache build MANIFEST --out STORE --segmenter {out / SEGMENTER_FILE} --landmarks {out / LANDMARKS_FILE} "
        f"--splits {identity.selection_split} --views clean --precision fp32 --features float32"
    )
    click.echo(
        f"then: orsanet-train evaluate {out} --store STORE --manifest MANIFEST --splits {identity.selection_split}"
    )


@main.command()
@click.argument("runs", metavar="RUN...", type=FILE, nargs=-1, required=True)
@checkpoint_option
@click.option(
    "--split", help="The split to show class by class and in pictures.  [default: test, else the first evaluated]"
)
@click.option("--images", help="Separated by commas: images whose attention to show.  [default: the surest mistakes]")
@click.option("--store", type=FILE, help="Where the store is, if it was moved since the evaluation.")
@click.option("--out", type=FILE, help="Folder for the report.  [default: RUN/report-CHECKPOINT, of the first RUN]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
def report(
    runs: tuple[Path, ...],
    checkpoint: str,
    split: str | None,
    images: str | None,
    store: Path | None,
    out: Path | None,
    device: str,
) -> None:
    """One page about evaluated RUNs: report.html (a single file that needs no network), report.md and report.json.

    A RUN is a run folder, or a folder of seeds as `run --seeds` writes it. Several are compared with the first.
    """
    from orsanet_cache.device import choose_device
    from orsanet_cache.durable import prepare_folder
    from orsanet_train.report.album import album
    from orsanet_train.report.page import write_report
    from orsanet_train.report.report import make_report

    wanted = None if images is None else [name.strip() for name in images.split(",")]
    chosen_device = choose_device(device)
    folder = out or runs[0] / f"report-{checkpoint}"
    made, sources = make_report(runs, checkpoint, split, store)
    prepare_folder(folder)
    write_report(made, [album(source, wanted, chosen_device) for source in sources], folder)
    for run in made.runs:
        click.echo(f"{run.name}: {run.stamp}")
        for warning in run.warnings:
            click.echo(warning, err=True)
    click.echo(f"wrote {folder}/report.html, report.md and report.json")


@main.command()
@click.argument("runs", metavar="RUN_A RUN_B...", type=FILE, nargs=-1, required=True)
@checkpoint_option
@click.option("--out", type=FILE, help="A .json file for the numbers.")
def compare(runs: tuple[Path, ...], checkpoint: str, out: Path | None) -> None:
    """Evaluated runs against the first, image by image: exact McNemar test, difference and its 95 % interval.

    A RUN is a run folder, or a folder of seeds as `run --seeds` writes it: then also mean and spread over the seeds that both have.
    """
    import json

    from orsanet_cache.durable import write_whole
    from orsanet_train.evaluation.compare import compare as compare_runs

    comparison = compare_runs(runs, checkpoint)
    click.echo(comparison.text())
    if out is not None:
        text = json.dumps(comparison.as_json(), indent=2)
        write_whole(out, lambda path: path.write_text(text, encoding="utf-8"))
        click.echo(f"wrote {out}")


@main.command()
@click.option("--store", required=True, type=FILE, help="A store written by `orsanet-cache build`.")
@click.option("--manifest", required=True, type=FILE, help="The manifest with the labels.")
@classes_option
@click.option("--preset", required=True, help=PRESET_HELP)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key in every run, e.g. epochs=20."
)
@click.option("--variants", help="Separated by commas.  [default: all there is a store for]")
@click.option(
    "--landmark-store", type=FILE, help="A second store, built of the same images with the other --landmark-input and nothing else changed: "
    "adds the variant native-landmarks (or published-landmarks, where --store is native).",
)  # fmt: skip
@click.option(
    "--seeds", default="0,1,2", show_default=True, help="Separated by commas; each trains every variant once."
)
@click.option("--splits", default="test,test:occluded", show_default=True, help="What to report, as for `evaluate`.")
@click.option("--ir50", type=FILE, help="IR50 face-recognition weights to start from, as the published runs do.")
@click.option("--out", required=True, type=FILE, help="Folder for the runs and the table.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@resident_option
def ablate(
    store: Path, manifest: Path, classes: list[str] | None, preset: str, overrides: tuple[str, ...],
    variants: str | None, landmark_store: Path | None, seeds: str, splits: str, ir50: Path | None, out: Path, device: str,
    resident: "Resident",
) -> None:  # fmt: skip
    """Train with one thing changed at a time: the rows of the paper's Table 6, and the forms in which paper and code differ.

    The table reports the last checkpoint, so that no result chooses it. Finished epochs are kept; to use several processes, give each
    its own --variants and the same --out.
    """
    from orsanet_cache.data.manifest import load_manifest
    from orsanet_cache.device import choose_device
    from orsanet_cache.frozen.loading import read_weights
    from orsanet_cache.store.reader import PriorStore
    from orsanet_train.run.ablate import ablate as ablate_store
    from orsanet_train.run.ablate import write_summary
    from orsanet_train.run.seeds import parse_seeds

    if ir50 is None:
        click.echo(RANDOM_START, err=True)
    for name in ablate_store(
        load_manifest(manifest, classes=classes, check_files=False), PriorStore.open(store), out,
        preset=preset, overrides=overrides,
        variants=None if variants is None else [name.strip() for name in variants.split(",")],
        landmark_store=None if landmark_store is None else PriorStore.open(landmark_store),
        seeds=parse_seeds(seeds), groups=[name.strip() for name in splits.split(",")],
        ir50=None if ir50 is None else read_weights(ir50), device=choose_device(device), resident=resident,
    ):  # fmt: skip
        click.echo(name, err=True)
    click.echo(write_summary(out))
    click.echo(f"wrote {out}/ablation.md and ablation.csv")


@main.command()
@click.option("--preset", default="rafdb", show_default=True, help=PRESET_HELP)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. model.depth=4.")
@click.option(
    "--classes", type=click.IntRange(min=2), default=7, show_default=True, help="How many expression classes."
)
def complexity(preset: str, overrides: tuple[str, ...], classes: int) -> None:
    """Parameters and multiply-adds of every part, for one image."""
    from orsanet_train.config import load_config

    config = load_config(preset, overrides)

    from orsanet_train.model.complexity import complexity_table

    click.echo(complexity_table(config.model, classes))


for _command in (predict, export, bench):
    main.add_command(_command)

if __name__ == "__main__":
    sys.exit(main())
