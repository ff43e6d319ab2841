"""The commands of the demo: draw faces, train the small frozen networks, measure them."""

from pathlib import Path

import click

from orsanet_cache.console import FILE, MOST_IMAGES, MOST_ROUNDS, MOST_SEED, next_command, quiet_option

PEOPLE, PICTURES = 320, 18  # of the shipped backbone's training


@click.command()
@click.option("--out", required=True, type=FILE, help="Folder to write the data set to.")
@click.option(
    "--seed",
    type=click.IntRange(min=0, max=MOST_SEED),
    default=0,
    show_default=True,
    help="Seed of people and pictures.",
)
@click.option(
    "--images", type=click.IntRange(min=1, max=MOST_IMAGES), default=2000, show_default=True, help="Number of pictures."
)
@click.option("--truth", is_flag=True, help="Also keep landmarks, part maps and covered pixels, as truth.npz.")
@quiet_option
def demo_faces(out: Path, seed: int, images: int, truth: bool) -> None:
    """Draw a data set of synthetic faces: seven expressions, three splits, occluders as tags.

    The same seed and number of pictures give the same bytes. A folder that is already complete is
    not changed.
    """
    from orsanet_cache.synthetic.dataset import write_dataset

    summary = write_dataset(out, seed, images, truth)
    if not summary.drawn:
        click.echo("nothing to do: these pictures already exist")
    counts = ", ".join(f"{split} {count:,}" for split, count in summary.images.items())
    click.echo(f"{out}: {images:,} pictures of {summary.people:,} people ({counts})")
    click.echo(
        next_command(
            "orsanet-cache", "build", summary.manifest, "--out", "STORE", "--segmenter", "demo", "--landmarks", "demo"
        )
    )


@click.command()
@click.option("--out", required=True, type=FILE, help="Folder to write the data set to.")
@click.option(
    "--seed",
    type=click.IntRange(min=0, max=MOST_SEED),
    default=3,
    show_default=True,
    help="Seed of people and pictures; one that no other data set has.",
)
@click.option(
    "--people", type=click.IntRange(min=1, max=MOST_ROUNDS), default=PEOPLE, show_default=True, help="Number of people."
)
@click.option(
    "--pictures",
    type=click.IntRange(min=1, max=MOST_ROUNDS),
    default=PICTURES,
    show_default=True,
    help="Pictures of each person, with another expression, pose and light.",
)
@quiet_option
def demo_people(out: Path, seed: int, people: int, pictures: int) -> None:
    """Draw a data set of synthetic faces whose label is the person, not the expression.

    `orsanet-train pretrain` trains a backbone on it. A tenth of the people are in the split
    `valid`, which measures the backbone. The same numbers give the same bytes.
    """
    from orsanet_cache.synthetic.dataset import write_people

    summary = write_people(out, seed, people, pictures)
    if not summary.drawn:
        click.echo("nothing to do: these pictures already exist")
    counts = ", ".join(f"{split} {count:,}" for split, count in summary.images.items())
    click.echo(f"{out}: {sum(summary.images.values()):,} pictures of {summary.people:,} people ({counts})")
    click.echo(next_command("orsanet-train", "pretrain", summary.manifest, "--preset", "small", "--out", "BACKBONE"))


@click.command()
@click.option("--out", required=True, type=FILE, help="Folder for the faces, the training state and the weights.")
@click.option("--only", type=click.Choice(["segmenter", "landmarks"]), help="Train one of the two.  [default: both]")
@click.option(
    "--seed",
    type=click.IntRange(min=0, max=MOST_SEED),
    default=1,
    show_default=True,
    help="Seed of faces and training.",
)
@click.option(
    "--images", type=click.IntRange(min=64, max=MOST_IMAGES), default=8000, show_default=True, help="Number of faces."
)
@click.option(
    "--segmenter-steps",
    type=click.IntRange(min=1, max=MOST_ROUNDS),
    default=2000,
    show_default=True,
    help="Steps of 16 faces each.",
)
@click.option(
    "--landmarks-steps",
    type=click.IntRange(min=1, max=MOST_ROUNDS),
    default=1300,
    show_default=True,
    help="Steps of 32 faces each.",
)
@quiet_option
def demo_train(out: Path, only: str | None, seed: int, images: int, segmenter_steps: int, landmarks_steps: int) -> None:
    """Train the small frozen networks that come with the package, on synthetic faces alone.

    Each network takes about an hour on one core. To train both at once, run the command in two
    terminals with --only and OMP_NUM_THREADS=1; start the second when the first has drawn the
    faces. After an interruption the same command continues.

    The networks are trained on all faces of the seed: evaluate nothing on that seed. Measure them
    with `demo-quality --weights OUT`.
    """
    from orsanet_cache.demo.training import Recipe, train_networks

    recipe = Recipe(seed=seed, images=images, segmenter_steps=segmenter_steps, landmarks_steps=landmarks_steps)
    names = ("segmenter", "landmarks") if only is None else (only,)
    for path in train_networks(out, names, recipe):  # type: ignore[arg-type]
        click.echo(f"wrote {path}")


@click.command()
@click.option("--weights", type=FILE, help="Folder of weights that `demo-train` wrote.  [default: the package's own]")
@click.option(
    "--seed", type=click.IntRange(min=0, max=MOST_SEED), default=2, show_default=True, help="Seed of the faces."
)
@click.option(
    "--images", type=click.IntRange(min=20, max=MOST_IMAGES), default=600, show_default=True, help="Number of faces."
)
@click.option("--card", is_flag=True, help="Write digests, training and these numbers to networks.toml in --weights.")
@quiet_option
def demo_quality(weights: Path | None, seed: int, images: int, card: bool) -> None:
    """Measure F1 of face parts, and landmark error, on synthetic faces outside the training set."""
    from orsanet_cache.demo.quality import measure
    from orsanet_cache.errors import OrsanetError
    from orsanet_cache.frozen.priors import FrozenPriors
    from orsanet_cache.frozen.shipped import DEMO, WEIGHTS, check_card, trained_how, weights_path, write_card

    if card and weights is None:
        raise OrsanetError("--card writes networks.toml into the folder of --weights; pass --weights too")
    if weights is None:
        segmenter, landmarks = weights_path(DEMO, "segmenter"), weights_path(DEMO, "landmarks")
    else:
        segmenter, landmarks = (weights / WEIGHTS[name] for name in ("segmenter", "landmarks"))
    for path in (segmenter, landmarks):
        if trained_how(path)["seed"] == seed:
            raise OrsanetError(f"{path}: was trained on the faces of seed {seed}; measure with another --seed")
    if card and weights is not None:
        check_card(weights)
    report = measure(FrozenPriors.load(segmenter, landmarks), seed, images)
    click.echo(report.table())
    if card and weights is not None:
        write_card(weights, report.as_toml())
        click.echo(f"wrote {weights}/networks.toml")
