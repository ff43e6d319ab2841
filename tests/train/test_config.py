"""Configurations: the presets say what was published, every value survives TOML, and all mistakes are reported at once."""

import re
from pathlib import Path

import pytest
import torch
from command_lines import in_process
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from orsanet_cache import OrsanetError
from orsanet_train.cli import main
from orsanet_train.config import (
    PRESETS,
    AugmentationConfig,
    LossConfig,
    RunConfig,
    config_toml,
    load_config,
    parse_config,
)
from orsanet_train.config_text import config_text
from orsanet_train.model_config import ORSANetConfig

COUNT = st.integers(1, 8192)
WEIGHT = st.floats(0, 1000)
SHARE = st.floats(0, 1)
SPLIT_NAME = st.text(st.characters(exclude_categories=["Cs"]))  # surrogates cannot be written as UTF-8
SCALE = st.tuples(*[st.floats(0, 0.3, exclude_min=True)] * 2).map(lambda pair: (min(pair), max(pair)))
CONFIGS = st.builds(
    RunConfig,
    epochs=COUNT,
    batch_size=COUNT,
    learning_rate=st.floats(0, 100, exclude_min=True),
    learning_rate_decay=st.floats(0, 1, exclude_min=True),
    rho=st.floats(0, 100),
    sampling=st.sampled_from(["balanced", "shuffled"]),
    train_split=SPLIT_NAME,
    selection_split=SPLIT_NAME,
    seed=st.integers(0, 2**63 - 1),
    model=st.builds(
        ORSANetConfig,
        tokens=st.sampled_from(["published", "spatial"]),
        segmentation_prior=st.sampled_from(["features", "map", "none"]),
        depth=COUNT,
        width=st.integers(1, 256).map(lambda n: 32 * n),
        backbone_channels=st.tuples(COUNT, COUNT, COUNT),
        backbone_units=st.tuples(COUNT, COUNT, COUNT),
        multi_scale=st.booleans(),
        cross_interaction=st.booleans(),
        landmark_reintegration=st.booleans(),
        spade=st.sampled_from(["published", "paper"]),
        landmark_prior=st.sampled_from(["features", "none"]),
        mcm=st.booleans(),
        query=st.sampled_from(["published", "projected"]),
    ),
    loss=st.builds(
        LossConfig,
        warmup_epochs=st.integers(0, 10**6),
        smoothed_weight=WEIGHT,
        smoothing=SHARE,
        dare=st.sampled_from(["published", "paper", "none"]),
        dare_weight=WEIGHT,
    ),
    augmentation=st.builds(AugmentationConfig, hflip=SHARE, erasing=SHARE, erasing_scale=SCALE),
)


def refusal(preset: str, *overrides: str) -> str:
    """The message of the OrsanetError that these arguments must raise."""
    with pytest.raises(OrsanetError) as caught:
        load_config(preset, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("preset", "learning_rate", "epochs", "selection_split", "warmup_epochs", "dare_weight"),
    [
        ("rafdb", 4e-5, 400, "test", 7, 0.1),
        ("affectnet7", 2e-6, 76, "valid", 5, 1.0),
        ("affectnet8", 2e-6, 73, "valid", 5, 0.1),
        ("occlu-fer", 4e-6, 28, "valid", 5, 0.1),
    ],
)
def test_data_set_presets_are_the_published_logs(
    preset: str, learning_rate: float, epochs: int, selection_split: str, warmup_epochs: int, dare_weight: float
) -> None:
    """Whatever the logs do not name is the published code's, spelled out here so that a changed default shows."""
    assert load_config(preset) == RunConfig(
        epochs=epochs,
        batch_size=20,
        learning_rate=learning_rate,
        learning_rate_decay=0.98,
        rho=0.05,
        sampling="balanced",
        train_split="train",
        selection_split=selection_split,
        seed=0,
        model=ORSANetConfig(
            tokens="published",
            segmentation_prior="features",
            depth=8,
            width=512,
            backbone_channels=(64, 128, 256),
            backbone_units=(3, 4, 14),
            multi_scale=True,
            cross_interaction=True,
            landmark_reintegration=True,
            spade="published",
            landmark_prior="features",
            mcm=True,
            query="published",
        ),
        loss=LossConfig(
            warmup_epochs=warmup_epochs, smoothed_weight=2.0, smoothing=0.2, dare="published", dare_weight=dare_weight
        ),
        augmentation=AugmentationConfig(hflip=0.5, erasing=0.5, erasing_scale=(0.02, 0.1)),
    )


def test_paper_preset_is_what_the_paper_states() -> None:
    paper = load_config("paper")
    assert (paper.learning_rate, paper.epochs, paper.batch_size, paper.rho) == (1e-4, 400, 20, 0.0)
    assert (paper.model.tokens, paper.model.segmentation_prior) == ("spatial", "map")
    assert (paper.model.spade, paper.model.query) == ("paper", "projected")
    assert (paper.loss.dare, paper.loss.dare_weight, paper.loss.warmup_epochs) == ("paper", 0.1, 0)
    assert paper.selection_split == "valid"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_reads_back_from_the_file_it_was_written_to(preset: str, tmp_path: Path) -> None:
    config = load_config(preset)
    file = tmp_path / "config.toml"
    file.write_text(config_toml(config), encoding="utf-8")
    assert load_config(str(file)) == config


@given(config=CONFIGS)
@settings(max_examples=60, deadline=None)
def test_config_to_toml_to_config_is_identity(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "identity.toml"
    file.write_text(config_toml(config), encoding="utf-8")
    assert load_config(str(file)) == config


@given(config=CONFIGS)
@settings(max_examples=60, deadline=None)
def test_the_explained_configuration_is_the_configuration(
    config: RunConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "explained.toml"
    file.write_text(config_text(config, "this one"), encoding="utf-8")
    assert load_config(str(file)) == config


def test_every_key_has_a_meaning_and_what_is_allowed_and_another_value_its_default() -> None:
    def check(model: type[BaseModel]) -> int:
        chosen = {"model": ORSANetConfig}  # of a table of several kinds
        annotations = {name: chosen.get(name, field.annotation) for name, field in model.model_fields.items()}
        inner = [annotation for annotation in annotations.values() if hasattr(annotation, "model_fields")]
        for name, field in model.model_fields.items():
            assert annotations[name] in inner or len(str(field.description)) > 10, name
        return len(model.model_fields) - len(inner) + sum(check(each) for each in inner if isinstance(each, type))

    text = config_text(load_config("paper"), "paper")
    blocks = text.split("\n\n")
    entries = [block for block in blocks if not block.splitlines()[-1].startswith(("#", "["))]
    assert len(entries) == check(RunConfig) >= 30
    assert all(block.startswith("# ") for block in blocks)
    assert max(map(len, text.splitlines())) <= 100
    for said in (
        "Learning rate of Adam in the first epoch. [> 0, ≤ 100, default 4e-05]\nlearning_rate = 0.0001",
        'pixel-unshuffle. ["published" or "spatial", default "published"]\ntokens = "spatial"',
        "# Passes over the training split. [≥ 1]\nepochs = 400",
        "backbone_units = [3, 4, 14]",
    ):
        assert said in text


@pytest.mark.parametrize("preset", PRESETS)
def test_what_config_prints_is_a_configuration_file(preset: str, tmp_path: Path) -> None:
    printed = in_process(main, "config", preset)
    assert printed.returncode == 0
    file = tmp_path / "my.toml"
    file.write_text(printed.stdout, encoding="utf-8")
    assert load_config(file) == load_config(preset)
    file.write_text("rho = 0.25\n", encoding="utf-8")  # of a file it prints the keys that are missing too
    whole = in_process(main, "config", file).stdout
    assert "\nrho = 0.25\n" in whole
    assert "\nepochs = 400\n" in whole


def test_without_a_preset_config_lists_them_and_leads_to_the_keys() -> None:
    printed = in_process(main, "config").stdout
    for preset in PRESETS:
        assert re.search(rf"^  {preset} +\S.{{20,}}", printed, re.MULTILINE)
    assert "orsanet-train config rafdb" in printed
    assert "orsanet-train config" in in_process(main, "run", "--help").stdout


def test_a_preset_and_keys_of_files_and_of_overrides_are_suggested(tmp_path: Path) -> None:
    assert refusal("rafbd").endswith("nor a .toml file; did you mean 'rafdb'?")
    assert "did you mean" not in refusal("photographs")
    file = tmp_path / "mine.toml"
    file.write_text("batchsize = 8\n[model]\nsegmentation = 'map'\n", encoding="utf-8")
    message = refusal(str(file), "learning-rate=1", "depth=4", "colour=1")
    for said in (
        "batchsize: unknown key; did you mean 'batch_size'?",
        "model.segmentation: unknown key; did you mean 'model.segmentation_prior'?",
        "learning-rate: unknown key; did you mean 'learning_rate'?",
        "depth: unknown key; did you mean 'model.depth'?",
        "colour: unknown key",
    ):
        assert f"\n  {said}\n" in f"{message}\n"


def test_all_mistakes_are_reported_at_once_each_with_its_key_and_value() -> None:
    values = {
        "epochs": "many",
        "batch_size": True,
        "seed": 1.5,
        "colour": 1,
        "sampling": "random",
        "model": {"depth": 0, "multi_scale": 1, "heads": 8},
        "loss": {"smoothing": 1.5, "margin": {"x": 1}},
        "augmentation": {"hflip": "0.5"},
    }
    with pytest.raises(OrsanetError) as caught:
        parse_config(values, "here.toml")
    first, *findings = str(caught.value).splitlines()
    assert "here.toml" in first
    expected = {
        "epochs": "'many'",
        "batch_size": "True",
        "seed": "1.5",
        "colour": "unknown key",
        "sampling": "'random'",
        "model.depth": "0",
        "model.multi_scale": "1",
        "model.heads": "unknown key",
        "loss.smoothing": "1.5",
        "loss.margin": "unknown key",
        "augmentation.hflip": "'0.5'",
    }
    found = dict(line.strip().split(": ", 1) for line in findings)
    assert found.keys() == expected.keys()
    assert [key for key, what in expected.items() if what not in found[key]] == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", "3.0"),
        ("epochs", "true"),
        ("epochs", '"3"'),
        ("epochs", "0"),
        ("epochs", ""),
        ("batch_size", "[20]"),
        ("rho", "-0.1"),
        ("rho", "false"),
        ("rho", "nan"),
        ("rho", "inf"),
        ("learning_rate", "0"),
        ("learning_rate", "nan"),
        ("learning_rate", "inf"),
        ("loss.dare_weight", "inf"),
        ("loss.smoothed_weight", "inf"),
        ("learning_rate_decay", "1.1"),
        ("train_split", "7"),
        ("sampling", "Balanced"),
        ("model", "large"),
        ("model.width", "48"),
        ("model.width", "0"),
        ("model.cross_interaction", "0"),
        ("model.cross_interaction", "no"),
        ("model.backbone_channels", "[8, 16]"),
        ("model.backbone_channels", "[8, 16, 32, 64]"),
        ("model.backbone_channels", "[8, 16, 32.0]"),
        ("loss.warmup_epochs", "-1"),
        ("augmentation.views", "[]"),
        ("augmentation.views", "3"),
        ("augmentation.views", "masc"),
        ("augmentation.views", "hflip"),
        ("augmentation.views", "clean,clean"),
        ("augmentation.views", "augmented-0"),
        ("augmentation.erasing", "1.01"),
        ("augmentation.erasing_scale", "[0.2, 0.1]"),
        ("augmentation.erasing_scale", "[0, 0.1]"),
        ("augmentation.erasing_scale", "[0.1, 0.4]"),
        ("augmentation.erasing_scale", "0.1"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused_by_its_key(key: str, value: str) -> None:
    """Numbers must also be finite: an infinite rate or radius makes every loss nan."""
    _, *findings = refusal("rafdb", f"{key}={value}").splitlines()
    assert findings
    assert all(finding.strip().startswith(key) for finding in findings)


def test_views_are_a_list_or_words_with_commas_and_a_number_of_draws_stands_for_their_names() -> None:
    for views_text in ("clean, augmented-2", '["clean", "augmented-2"]', '["clean", "augmented", "augmented-seed1"]'):
        views = load_config("rafdb", [f"augmentation.views={views_text}"]).augmentation
        assert views.views == ("clean", "augmented", "augmented-seed1")
        assert views.read_views == ("clean", "hflip", "augmented", "augmented-seed1")
    assert load_config("rafdb", ["augmentation.hflip=0.0"]).augmentation.read_views == ("clean",)
    assert load_config("rafdb", ["augmentation.views=mask"]).augmentation.read_views == ("mask",)


@pytest.mark.parametrize(
    ("views", "online", "said"),
    [
        ("clean,mask", "erased", "cannot draw views that landmarks place"),
        ("augmented-2", "clean", 'online = "clean" cannot be combined with augmented views'),
    ],
)
def test_views_that_the_online_modes_cannot_draw_are_refused(views: str, online: str, said: str) -> None:
    assert said in refusal("rafdb", f"augmentation.views={views}", "priors=online", f"online={online}")
    load_config("rafdb", [f"augmentation.views={views}", f"online={online}"])  # from a store


def test_noise_that_only_the_backbone_could_see_online_is_refused() -> None:
    said = refusal("poster-rafdb", "priors=online", "online=clean")
    assert 'online = "clean" cannot be combined with augmentation.noise' in said
    load_config("poster-rafdb", ["priors=online", "online=published"])


def test_a_seed_is_one_that_torch_takes() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(load_config("rafdb", [f"seed={2**63 - 1}"]).seed)  # TOML's largest integer
    assert "seed" in refusal("rafdb", f"seed={2**64}")


def test_overrides_take_toml_values_and_bare_words_in_order() -> None:
    config = load_config(
        "rafdb",
        [
            "epochs=3",
            "batch_size = 1_000",
            "learning_rate=1e-3",
            "rho=0",
            "model.multi_scale=false",
            "model.backbone_channels=[8,16,32]",
            'train_split="train"',
            "selection_split=a=b",
            "loss.dare=none",
            "augmentation.erasing_scale=[0.1, 0.2]",
            "epochs=4",
        ],
    )
    assert (config.epochs, config.batch_size, config.learning_rate, config.rho) == (4, 1000, 1e-3, 0.0)
    assert (config.train_split, config.selection_split) == ("train", "a=b")
    assert config.model == ORSANetConfig(multi_scale=False, backbone_channels=(8, 16, 32))
    assert config.loss == LossConfig(warmup_epochs=7, dare="none")
    assert config.augmentation == AugmentationConfig(erasing_scale=(0.1, 0.2))


def test_an_override_leaves_its_neighbours_in_the_preset_alone() -> None:
    paper = load_config("paper")
    changed = load_config("paper", ["model.depth=4"])
    assert changed.model == paper.model.model_copy(update={"depth": 4})
    assert changed.model_copy(update={"model": paper.model}) == paper


@pytest.mark.parametrize("override", ["epochs", "", "=3", " =3"])
def test_an_override_without_key_and_equals_sign_is_refused_with_an_example(override: str) -> None:
    message = refusal("rafdb", override)
    assert f"--set {override}" in message
    assert "epochs=3" in message


def test_an_override_below_a_plain_value_is_refused() -> None:
    message = refusal("rafdb", "epochs.x=1")
    assert "--set epochs.x=1" in message
    assert "'epochs'" in message


def test_nothing_of_an_override_is_dropped() -> None:
    """Were only the first line read, `rho` would silently stay what it was."""
    assert "epochs" in refusal("rafdb", "epochs=3\nrho=0")


def test_unknown_keys_and_wrong_values_of_overrides_and_file_come_together(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("batch_size = 0\n[model]\ncolour = 1\n", encoding="utf-8")
    message = refusal(str(file), "epoch=3", "model.width=40")
    assert str(file) in message
    for key in ("batch_size", "model.colour", "epoch", "model.width"):
        assert f"\n  {key}: " in message


def test_a_file_may_be_partial_and_means_the_defaults_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("", encoding="utf-8")
    assert load_config(str(file)) == RunConfig()
    file.write_text("rho = 0.1\n", encoding="utf-8")
    assert load_config(str(file)) == RunConfig(rho=0.1)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "none.toml") in refusal(str(tmp_path / "none.toml"))


@pytest.mark.parametrize("content", [b"epochs = \n", b"epochs = 3\nepochs = 4\n", b"epochs = '\xff'\n"])
def test_a_file_that_is_not_toml_is_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_bytes(content)
    assert str(file) in refusal(str(file))


def test_a_folder_is_not_a_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    assert str(folder) in refusal(str(folder))


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    message = refusal("raf-db")
    assert "raf-db" in message
    assert [name for name in PRESETS if name not in message] == []


def test_a_configuration_cannot_be_changed_afterwards() -> None:
    config = load_config("rafdb")
    with pytest.raises(ValueError, match="frozen"):
        config.epochs = 1  # type: ignore[misc]
