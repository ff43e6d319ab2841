"""The commands that follow an evaluation: `orsanet-train report` and `compare`."""

from pathlib import Path

import click

from orsanet_cache.console import FILE, RUN, STORE, next_command, quiet_option
from orsanet_cache.paths import Place, Url
from orsanet_train.commands.options import checkpoint_option


@click.command()
@click.argument("runs", metavar="RUN...", type=RUN, nargs=-1, required=True)
@checkpoint_option
@click.option(
    "--split", help="The split to show class by class and in pictures.  [default: test, else the first evaluated]"
)
@click.option(
    "--images", help="Images whose attention to show, separated by commas.  [default: the most confident mistakes]"
)
@click.option("--store", type=STORE, help="The store, if it was moved since the evaluation.")
@click.option(
    "--out",
    type=FILE,
    help="Folder for the report.  [default: RUN/report-CHECKPOINT; of several RUNs: in the first, with the names of the others]",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@quiet_option
def report(
    runs: tuple[Place, ...],
    checkpoint: str,
    split: str | None,
    images: str | None,
    store: Place | None,
    out: Path | None,
    device: str,
) -> None:
    """Write a report on evaluated RUNs: report.html (a single file that needs no network),
    report.md and report.json.

    A RUN is a run folder, or a folder of seeds as `run --seeds` writes it. Several RUNs are
    compared with the first. After the first, a RUN may be a .csv file of another program's
    predictions (docs/evaluation.md).
    """
    from orsanet_cache.places.files import has_file
    from orsanet_train.report.save import save_report

    wanted = None if images is None else [name.strip() for name in images.split(",")]
    others = "".join(f"-{run.name if isinstance(run, Url) else run.resolve().name}" for run in runs[1:])
    folder = out or runs[0] / f"report-{checkpoint}{others and f'-with{others}'}"
    made = save_report(runs, folder, checkpoint=checkpoint, split=split, images=wanted, store=store, device=device)
    for run in made.runs:
        click.echo(f"{run.name}: {run.stamp}")
        for warning in run.warnings:
            click.echo(warning, err=True)
    click.echo(f"wrote {folder}/report.html, report.md and report.json")
    if len(runs) == 1 and has_file(runs[0], f"{checkpoint}.safetensors"):
        chosen = [] if checkpoint == "best" else ["--checkpoint", checkpoint]
        click.echo(next_command("orsanet-train", "predict", runs[0], "PICTURES", *chosen, "--out", "PREDICTIONS"))


@click.command()
@click.argument("runs", metavar="RUN_A RUN_B...", type=RUN, nargs=-1, required=True)
@checkpoint_option
@click.option("--out", type=FILE, help="A .json file for the numbers.")
def compare(runs: tuple[Place, ...], checkpoint: str, out: Path | None) -> None:
    """Compare evaluated runs with the first, image by image: exact McNemar test, difference and its
    95 % interval.

    A RUN is a run folder, or a folder of seeds as `run --seeds` writes it. For folders of seeds the
    comparison has mean and spread over their common seeds too. After the first, a RUN may be a .csv
    file of another program's predictions: image, and the predicted class or p_CLASS for every
    class.
    """
    import json

    from orsanet_cache.durable import write_whole
    from orsanet_cache.outputs import check_file
    from orsanet_train.evaluation.compare import FILE_BEGINS
    from orsanet_train.evaluation.compare import compare as compare_runs
    from orsanet_train.evaluation.tables import comparison_text

    if out is not None:
        check_file(out, FILE_BEGINS, "a comparison of `orsanet-train compare`")
    comparison = compare_runs(runs, checkpoint)
    click.echo(comparison_text(comparison))
    if out is not None:
        text = json.dumps(comparison.as_json(), indent=2)
        write_whole(out.resolve(), lambda path: path.write_text(text, encoding="utf-8"))
        click.echo(f"wrote {out}")
