"""The command `orsanet-train import`: a checkpoint of the published code as a run."""

from pathlib import Path

import click

from orsanet_cache.console import FILE
from orsanet_train.commands.options import PRESET_HELP


@click.command("import")
@click.argument("checkpoint", metavar="CKPT", type=FILE)
@click.option("--out", required=True, type=FILE, help="The run folder to write.")
@click.option(
    "--classes", required=True,
    help="The classes of its head, in label order: a,b,c. The file does not contain their names.",
)  # fmt: skip
@click.option("--preset", required=True, help=f"The preset of its training data set: {PRESET_HELP}")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. model.depth=4 (small model) or =6 (base model)."
)  # fmt: skip
@click.option(
    "--segmenter", type=FILE,
    help="For a checkpoint without a segmenter (POSTER): the segmenter of the store, a weights file or the word demo.  "
    "[default: the published one in the weights folder]",
)  # fmt: skip
@click.option(
    "--manifest-name",
    help="Name of its training manifest. It marks results on the split that chose the checkpoint.  [default: the preset's name]",
)
def import_checkpoint(
    checkpoint: Path, out: Path, classes: str, preset: str, overrides: tuple[str, ...], segmenter: Path | None,
    manifest_name: str | None,
) -> None:  # fmt: skip
    """Convert a checkpoint of the published code into a run folder for `evaluate`, and its frozen
    networks into weights files for `orsanet-cache build`.

    These networks differ from the original files: MobileFaceNet's statistics drifted in training.
    `evaluate` refuses a store that was built with other networks, with rounded features, or without
    `--image-reading published`.

    ORSANet's authors link no checkpoint. Their script saves one only above 0.90 validation accuracy,
    so for RAF-DB, but not for AffectNet or Occlu-FER. Checkpoints of POSTER (--preset poster-rafdb)
    and POSTER V2 (--preset poster-v2-rafdb) are taken too. They contain no segmenter.
    """
    from orsanet_train.config import load_config

    config = load_config(preset, overrides)

    from orsanet_cache.store.schema import OPTIONAL
    from orsanet_train.model.checkpoint import LANDMARKS_FILE, SEGMENTER_FILE
    from orsanet_train.run.imported import import_checkpoint as import_published

    name = Path(preset).stem if manifest_name is None else manifest_name
    named = [part.strip() for part in classes.split(",")]
    identity = import_published(checkpoint, out, config, named, name, segmenter_file=segmenter)
    click.echo(f"{out}: {len(named)} classes in label order: {', '.join(named)}")
    click.echo(f"{identity.published_choice}; a manifest of the same images must have this name")
    optional = ",".join(field for field in OPTIONAL if field in identity.model.fields)
    fields = f" --fields {optional}" if optional else ""
    click.echo(
        f"next: orsanet-cache build MANIFEST --out STORE --segmenter {out / SEGMENTER_FILE} --landmarks {out / LANDMARKS_FILE} "
        f"--splits {identity.selection_split} --views clean{fields} --precision fp32 --features float32 --image-reading published"
    )
    click.echo(
        f"then: orsanet-train evaluate {out} --store STORE --manifest MANIFEST --splits {identity.selection_split}"
    )
