"""The command `orsanet-train pretrain`: a backbone that tells people apart, for `run --ir50`."""

from pathlib import Path

import click

from orsanet_cache.console import FILE, MOST_BATCH, MOST_ROUNDS, MOST_SEED, Number, classes_option, quiet_option
from orsanet_train.commands.options import PRESET_HELP


@click.command()
@click.argument("manifest", type=FILE)
@classes_option
@click.option("--preset", required=True, help=f"Whose backbone to train, by its sizes: {PRESET_HELP}")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. model.backbone_units=[1,2,3]."
)
@click.option("--out", required=True, type=FILE, help="Folder for the training state, the weights and their card.")
@click.option(
    "--seed", type=click.IntRange(min=0, max=MOST_SEED), default=0, show_default=True, help="Seed of the training."
)
@click.option(
    "--steps",
    type=click.IntRange(min=1, max=MOST_ROUNDS),
    default=1000,
    show_default=True,
    help="Steps of the training. A later call with more continues.",
)
@click.option(
    "--cycle",
    type=click.IntRange(min=1, max=MOST_ROUNDS),
    default=2000,
    show_default=True,
    help="Steps in which the learning rate rises and falls to 0; at least --steps.",
)
@click.option(
    "--batch", type=click.IntRange(min=2, max=MOST_BATCH), default=48, show_default=True, help="Pictures in a step."
)
@click.option(
    "--learning-rate", type=Number(min=0, min_open=True, max=100), default=2e-3, show_default=True,
    help="The highest rate of the cycle.",
)  # fmt: skip
@quiet_option
def pretrain(
    manifest: Path, classes: list[str] | None, preset: str, overrides: tuple[str, ...], out: Path, seed: int,
    steps: int, cycle: int, batch: int, learning_rate: float,
) -> None:  # fmt: skip
    """Train a backbone to tell people apart, as a start for `run --ir50`.

    The classes of MANIFEST are people, as `orsanet-cache demo-people` draws them. Those of the
    split `train` are trained on; other people, in `valid`, measure the result: for how many of
    their pictures the nearest other picture shows the same person. OUT gets backbone.safetensors
    and its card, backbone.toml. After an interruption the same command continues.
    """
    from orsanet_train.config import load_config

    model = load_config(preset, overrides).model

    from orsanet_cache.data.manifest import load_manifest
    from orsanet_train.pretrain.pretrain import Recipe, pretrain

    recipe = Recipe(seed=seed, steps=steps, cycle=cycle, batch=batch, learning_rate=learning_rate)
    weights, quality = pretrain(load_manifest(manifest, classes=classes), out, model, recipe)
    click.echo(
        f"'{quality.split}', {quality.pictures:,} pictures of {quality.people:,} people outside the training: for {quality.rank_one:.1%} "
        f"the nearest other picture shows the same person (by chance {quality.by_chance:.1%})"
    )
    click.echo(f"wrote {weights} and {weights.with_suffix('.toml').name}")
    click.echo(f"next: orsanet-train run … --preset {preset} --ir50 {weights}")
