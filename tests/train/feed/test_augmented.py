"""Training draws among augmented and occluded views, each picture with its own flip and rectangle, and refuses a store without them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command_lines import in_process

from orsanet_cache import FrozenPriors, OrsanetError, PriorStore
from orsanet_cache.builder.build import build
from orsanet_cache.data.images import ERASED_COLOUR
from orsanet_cache.data.views import view_names
from orsanet_train.cli import main
from orsanet_train.config import RunConfig, load_config
from orsanet_train.engine.distributed import ONE
from orsanet_train.evaluation.groups import Group
from orsanet_train.feed.dataset import PriorDataset, prior_feed
from orsanet_train.feed.feed import Feed
from orsanet_train.feed.plan import drawn_views, epoch_plan, training_draws
from orsanet_train.feed.split import LabelledSplit, join, training_split
from orsanet_train.model.model import build_model
from orsanet_train.reference.feed import OnlineBatch, OnlineFeed
from orsanet_train.reference.network import OnlineORSANet

CPU = torch.device("cpu")
BATCH = (
    7  # two of the 14 training images: all of one size, so that the same kernels add up the same numbers in one order
)
AUGMENTED = view_names(["augmented-2"])
SIGMAS = 5
TINY = (
    "epochs=1", "batch_size=7", "loss.warmup_epochs=0", "model.depth=1", "model.width=32", "model.multi_scale=false",
    "model.backbone_channels=[8,8,16]", "model.backbone_units=[1,1,1]",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rich(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two draws and a mask of each training image. Treat it as read-only."""
    out = tmp_path_factory.mktemp("rich") / "store.zarr"
    options = {"device": CPU, "feature_dtype": "float32", "batch_size": BATCH}
    manifest, priors = world.load_manifest(), world.load_priors()
    build(manifest, out, priors, ["clean", "hflip", "augmented-2", "mask"], splits=["train"], **options)
    build(manifest, out, priors, ["clean"], splits=["valid"], **options)
    return out


def run_config(views: str, *changes: str) -> RunConfig:
    return load_config("small", (*TINY, f"augmentation.views={views}", *changes))


def training(world: Any, store: Path, config: RunConfig) -> LabelledSplit:
    return training_split(config, world.load_manifest(), PriorStore.open(store))


def assert_share(hits: int, draws: int, probability: float) -> None:
    assert abs(hits - draws * probability) <= SIGMAS * (draws * probability * (1 - probability)) ** 0.5


# --- what is drawn ---


def test_every_view_is_equally_likely_and_clean_is_mirrored_at_its_rate(world: Any, rich: Path) -> None:
    config = run_config("clean,mask,augmented-2", "augmentation.hflip=0.25")
    split = training(world, rich, config)
    assert split.views == ("clean", "hflip", "mask", *AUGMENTED)
    drawn = np.concatenate([training_draws(split, config, epoch, 0, ONE)[0].view for epoch in range(600)])
    shares = [0.25 * 0.75, 0.25 * 0.25, 0.25, 0.25, 0.25]
    for number, share in enumerate(shares):
        assert_share((drawn == number).sum(), len(drawn), share)


def test_views_are_drawn_by_seed_epoch_and_position() -> None:
    config = run_config("clean,mask,augmented-2")
    first = drawn_views(200, config, 3)
    assert np.array_equal(drawn_views(200, config, 3), first)
    others = [drawn_views(200, config, 4), drawn_views(200, config.model_copy(update={"seed": 1}), 3)]
    assert all(not np.array_equal(first, other) for other in others)
    assert np.array_equal(drawn_views(100, config, 3), first[:100])


def test_a_view_is_drawn_independently_of_order_flip_and_rectangle(world: Any, rich: Path) -> None:
    config = run_config("clean,mask")
    labels = np.zeros(500, np.int64)
    plans = [epoch_plan(labels, config, epoch) for epoch in range(20)]
    masked = np.concatenate([drawn_views(500, config, epoch) for epoch in range(20)]) == 1
    erased = np.concatenate([plan.erased[:, 2] > 0 for plan in plans])
    flipped = np.concatenate([plan.flipped for plan in plans])
    assert_share((masked & erased).sum(), len(masked), 0.25)
    assert_share((masked & flipped).sum(), len(masked), 0.25)


def test_a_picture_of_an_augmented_view_has_its_own_rectangle_and_others_are_erased_anew(
    world: Any, rich: Path
) -> None:
    config = run_config("clean,augmented-2,mask")
    split = training(world, rich, config)
    for epoch in range(4):
        draws, _ = training_draws(split, config, epoch, 0, ONE)
        planned, erased = epoch_plan(split.labels, config, epoch).erased, draws.part(slice(None)).along["erased"]
        for position, (sample, view) in enumerate(zip(draws.sample, draws.view, strict=True)):
            name = split.views[view]
            own = split.rectangles[name][sample] if name in AUGMENTED else planned[position]
            assert erased[position].tolist() == own.tolist()
    assert [*split.rectangles] == [*AUGMENTED]


def test_the_rectangle_that_training_knows_is_the_one_that_was_stored(world: Any, rich: Path) -> None:
    store, config = PriorStore.open(rich), run_config("augmented-2")
    split = training(world, rich, config)
    for view in AUGMENTED:
        stored = store.read("train", view, "image", split.rows)
        for picture, (top, left, height, width) in zip(stored, split.rectangles[view].tolist(), strict=True):
            rows, columns = np.arange(224)[::2], np.arange(224)[::2]
            inside = ((rows >= top) & (rows < top + height))[:, None] & ((columns >= left) & (columns < left + width))
            assert (picture[inside] == ERASED_COLOUR).all()
            assert not (picture[~inside] == ERASED_COLOUR).all(axis=1).all()


def test_the_backbones_image_is_exactly_zero_in_the_rectangle_and_erased_nowhere_else(world: Any, rich: Path) -> None:
    config = run_config("augmented-2", "augmentation.erasing=1.0", "sampling=shuffled")
    split = training(world, rich, config)
    feed = Feed(PriorStore.open(rich), split, config.model, CPU)
    draws, batches = training_draws(split, config, 0, 0, ONE)
    erased = 0
    for batch, part in zip(feed.epoch(config, 0), batches, strict=True):
        zeros = (batch.inputs[0] == 0).all(dim=1).sum(dim=(1, 2))
        sizes = [
            len(range(-(-top // 2), -(-(top + height) // 2))) * len(range(-(-left // 2), -(-(left + width) // 2)))
            for top, left, height, width in draws.along["erased"][part].tolist()
        ]
        assert zeros.tolist() == sizes
        erased += sum(size > 0 for size in sizes)
    assert 0 < erased < 14  # not all, although feeds erase every picture of other views with this configuration


def test_in_order_and_as_a_data_set_the_picture_is_the_same(world: Any, rich: Path) -> None:
    store, manifest = PriorStore.open(rich), world.load_manifest()
    split = join(manifest, store, "train", list(AUGMENTED))
    feed = Feed(store, split, run_config("clean").model, CPU)
    items = PriorDataset(store, manifest, "train", list(AUGMENTED))
    for number, view in enumerate(AUGMENTED):
        images = torch.cat([batch.inputs[0] for batch in feed.in_order(5, view)])
        mine = torch.stack([items[number * 14 + row]["image"] for row in range(14)])
        assert torch.equal(images, mine)
        rectangle = split.rectangles[view]
        assert ((images == 0).all(dim=1).any(dim=(1, 2)).numpy() == (rectangle[:, 2] > 0)).all()


def test_a_part_of_a_split_keeps_its_rectangles(world: Any, rich: Path) -> None:
    split = training(world, rich, run_config("augmented-2"))
    chosen = split.where([sample.image.endswith(("1.png", "5.png")) for sample in split.samples])
    assert 0 < len(chosen.samples) < 14
    for part, places in ((split.first(4), range(4)), (chosen, [split.samples.index(one) for one in chosen.samples])):
        for view in AUGMENTED:
            assert part.rectangles[view].tolist() == split.rectangles[view][[*places]].tolist()


# --- one stored draw is the online erased mode ---


def networks(world: Any, config: RunConfig) -> tuple[torch.nn.Module, OnlineORSANet]:
    frozen = FrozenPriors.load(world.segmenter, world.landmarks)
    torch.manual_seed(0)
    model = build_model(config.model, 3, frozen.segmenter.feature_channels)
    return model, OnlineORSANet(model, frozen, "erased")


def test_with_one_draw_the_logits_are_those_of_the_online_erased_mode(world: Any, rich: Path) -> None:
    """The whole way: feed, draws, erasing, frozen networks, model, in training mode with drop-path. Bit for bit."""
    config = run_config("augmented", "priors=online", "online=erased")
    split, store = training(world, rich, config), PriorStore.open(rich)
    cached, online = Feed(store, split, config.model, CPU), OnlineFeed(world.folder, store, split, CPU)
    model, assembled = networks(world, config)
    for ours, theirs in zip(cached.epoch(config, 1), online.epoch(config, 1), strict=True):
        for index in range(2):
            torch.manual_seed(1)  # spectral vectors move in both: the same weights see both in turn
            state = {name: value.clone() for name, value in model.state_dict().items()}
            expected = assembled(*theirs.inputs, theirs.drop_path[:, index]).logits
            model.load_state_dict(state)
            assert torch.equal(model(*ours.inputs, ours.drop_path[:, index]).logits, expected)


def test_the_same_draw_of_a_clean_or_mirrored_picture_online_gives_the_same_logits(world: Any, rich: Path) -> None:
    """The online feed of clean and hflip, given flip and rectangle of the stored draw."""
    config = run_config("augmented", "sampling=shuffled")
    split, store = training(world, rich, config), PriorStore.open(rich)
    plain = join(world.load_manifest(), store, "train", ["clean", "hflip"])
    source = OnlineFeed(world.folder, store, plain, CPU)
    pixels = {view: torch.cat([batch.pixels for batch in source.in_order(BATCH, view)]) for view in plain.views}
    model, assembled = networks(world, config)
    model.eval()
    assembled.eval()
    draws, batches = training_draws(split, config, 0, 0, ONE)
    flips = 0
    for batch, part in zip(Feed(store, split, config.model, CPU).epoch(config, 0), batches, strict=True):
        stored = store.read("train", "augmented", "image", split.rows[draws.sample[part]])
        rectangle = torch.from_numpy(draws.along["erased"][part])
        # The flip is read off the stored picture: outside of the rectangle it is one of the two views.
        views = []
        for row, sample in enumerate(draws.sample[part].tolist()):
            different = {view: (pixels[view][sample][::2, ::2].numpy() != stored[row]).sum() for view in plain.views}
            views.append(min(different, key=lambda view: different[view]))
        flips += views.count("hflip")
        shown = torch.stack([pixels[view][sample] for view, sample in zip(views, draws.sample[part], strict=True)])
        online = OnlineBatch(shown, rectangle, batch.label, batch.drop_path)
        assert torch.equal(model(*batch.inputs).logits, assembled(*online.inputs).logits)
    assert 0 < flips < 14


# --- refusals, and the whole way ---


def test_a_store_without_the_views_is_refused_with_the_command_that_adds_them(world: Any) -> None:
    with pytest.raises(
        OrsanetError,
        match=r"split 'train' lacks the views augmented, augmented-seed1, which augmentation\.views names; add them with "
        r"`orsanet-cache build … --views augmented,augmented-seed1 --splits train`",
    ):
        training(world, world.store, run_config("augmented-2"))
    with pytest.raises(
        OrsanetError, match=r"no view 'mask'; it has clean, hflip.*`orsanet-cache build … --views mask`"
    ):
        training(world, world.store, run_config("clean,mask"))


def test_a_store_of_augmented_views_alone_is_enough_to_train_on(world: Any, rich: Path, tmp_path: Path) -> None:
    """Its training split has no clean view; the selection split has one."""
    out, manifest = tmp_path / "store.zarr", world.load_manifest()
    build(manifest, out, world.load_priors(), ["augmented-2"], splits=["train"], device=CPU)
    build(manifest, out, world.load_priors(), ["clean"], splits=["valid"], device=CPU)
    settings = [part for key in (*TINY, "augmentation.views=augmented-2") for part in ("--set", key)]
    data = ["--store", out, "--manifest", world.manifest, "--preset", "small", "--device", "cpu"]
    ran = in_process(main, "run", *data, *settings, "--out", tmp_path / "run")
    assert ran.returncode == 0, ran.stderr
    assert load_config(str(tmp_path / "run" / "config.toml")).augmentation.views == AUGMENTED
    assert len(pd.read_csv(tmp_path / "run" / "metrics.csv")) == 1
    feed = prior_feed(out, manifest, "train", run_config("augmented-2"), device=CPU)
    assert feed.split.views == AUGMENTED


def test_augmented_views_are_no_occlusion_to_test_with() -> None:
    names = ["test", "test@hflip", "test@augmented", "test@augmented-seed3", "test@mask-seed1", "test@erase-20"]
    assert [Group.parse(name).is_occluded for name in names] == [False, False, False, False, True, True]
