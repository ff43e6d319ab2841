"""The run configuration: a preset, overridden key by key, validated whole.

    preset TOML → --set key=value … → RunConfig → config.toml in the run folder, which reads back to the same RunConfig

The classes below define every key and its meaning, which `orsanet-train config` prints. An unknown key or a value of the wrong type is
an error; all errors are reported at once.
"""

import os
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import Field, ValidationError, field_validator, model_validator

from orsanet_cache.data.augmentation import ERASING_PROBABILITY, ERASING_SCALE, FLIP_PROBABILITY
from orsanet_cache.data.views import AUGMENTED, CLEAN, HFLIP, View, view_names
from orsanet_cache.errors import OrsanetError, did_you_mean, listed, refuse_shortage, validation_findings
from orsanet_cache.paths import StrPath, as_names, as_path
from orsanet_cache.reading import MAX_SETTINGS_BYTES, read_limited
from orsanet_train.model_config import AnyModelConfig, ORSANetConfig, Strict, kinds

HELD_OUT = "held-out"  # as selection_split: a part of the training split
PRESETS = (
    "rafdb", "affectnet7", "affectnet8", "occlu-fer", "paper", "poster-rafdb", "poster-affectnet", "poster-v2-rafdb",
    "poster-v2-affectnet", "poster-v2-caer-s", "small", "demo",
)  # fmt: skip

Epochs = Annotated[int, Field(ge=0, le=1_000_000)]  # more is a typing error, as are larger values of those below
BatchSize = Annotated[int, Field(ge=1, le=65_536)]
Weight = Annotated[float, Field(ge=0, le=1000)]
Probability = Annotated[float, Field(ge=0, le=1)]


class LossConfig(Strict):
    """Warm-up: CE + smoothed_weight x label-smoothed CE. Afterwards: CE + dare_weight x DARELoss."""

    warmup_epochs: Epochs = 5
    """Epochs with the first of the two losses."""
    smoothed_weight: Weight = 2.0
    """Weight of the label-smoothed cross-entropy in the warm-up."""
    smoothing: Probability = 0.2
    """Share of a label that is spread over the classes."""
    dare: Literal["published", "paper", "none"] = "published"
    """The rival's logit z becomes z + a (published in code) or z + a z (paper, Eq. 11); none is the ablation."""
    dare_weight: Weight = 0.1
    """Weight of DARELoss after the warm-up."""


class AugmentationConfig(Strict):
    """Random choice of a view, and random noise and erasing in the backbone's image."""

    views: tuple[str, ...] = (CLEAN,)
    """Views that are drawn among, each equally likely, with their own priors. clean stands for clean and hflip.
    augmented-4 stands for four stored draws of flip and erased rectangle, and clean,mask,sunglasses adds occluded
    pictures. The store must have them (orsanet-cache build --views)."""
    hflip: Probability = FLIP_PROBABILITY
    """Probability that clean's mirrored view is taken, with its own priors."""
    erasing: Probability = ERASING_PROBABILITY
    """Probability that a rectangle of the backbone's image is erased; augmented views have their own instead."""
    erasing_scale: tuple[Probability, Probability] = ERASING_SCALE
    """Smallest and largest share of the image erased; aspect ratio 0.3 … 3.3."""

    noise: Probability = 0.0
    """Probability that Gaussian noise is added to the backbone's image, before it is erased. POSTER's published code
    adds it to one picture of four. Its variance is 30, of levels 0 … 255."""

    @property
    def read_views(self) -> tuple[str, ...]:
        """The views of the store that training reads: `views`, and clean's mirror if it can be drawn."""
        mirror = (HFLIP,) if self.hflip > 0 else ()
        return tuple(name for view in self.views for name in ((CLEAN, *mirror) if view == CLEAN else (view,)))

    @field_validator("views", "erasing_scale", mode="before")
    @classmethod
    def _array(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("views", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value

    @field_validator("views")
    @classmethod
    def _known(cls, views: tuple[str, ...]) -> tuple[str, ...]:
        if not views:
            raise ValueError("names no view; name at least one, such as clean")
        if HFLIP in views:
            raise ValueError("clean stands for clean and hflip; how often it is mirrored is augmentation.hflip")
        try:
            return view_names(views)
        except OrsanetError as error:
            raise ValueError(str(error)) from error

    @field_validator("erasing_scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1] <= 0.3:
            raise ValueError("needs 0 < smallest <= largest <= 0.3, so that every aspect ratio fits the image")
        return scale


class RunConfig(Strict):
    """Everything that determines a run's numbers, besides the data."""

    epochs: Annotated[Epochs, Field(ge=1)] = 400
    """Passes over the training split."""
    batch_size: BatchSize = 20
    """Images per step, over all processes."""
    learning_rate: Annotated[float, Field(gt=0, le=100)] = 4e-5
    """Learning rate of Adam in the first epoch."""
    learning_rate_decay: Annotated[float, Field(gt=0, le=1)] = 0.98
    """Factor of the learning rate per epoch."""
    rho: Annotated[float, Field(ge=0, le=100)] = 0.05
    """Radius of the sharpness-aware perturbation; 0 is plain Adam, at half the cost."""
    second_pass_buffers: Literal["moved", "kept"] = "moved"
    """Batch statistics and spectral vectors. moved: the pass at the perturbed weights changes them,
    as published. kept: these changes are undone."""
    precision: Literal["exact", "parity", "fast"] = "parity"
    """exact: float32, deterministic. parity: TF32 where the device has it, as the published code
    ran; on a CPU the same as exact. fast: half precision where it is safe (float16 with loss
    scaling on a GPU, bfloat16 on a CPU)."""
    priors: Literal["cached", "online"] = "cached"
    """cached: from the store. online: the frozen networks run in every pass, for comparison."""
    online: Literal["clean", "erased", "published"] = "published"
    """Input of the frozen networks online. clean: the same as for the cache. erased: the erased
    image. published: the erased image, with the networks in training mode, as published in
    code."""
    sampling: Literal["balanced", "shuffled"] = "balanced"
    """balanced: N draws with replacement, each class equally likely. shuffled: every image once."""
    order: Literal["global", "windowed"] = "global"
    """Order of an epoch's draws. global: over the whole split. windowed: the same draws, sorted into
    windows of the store's units, which are drawn anew in every epoch. For a store at a URL that is
    larger than the cache: each shard is then fetched once an epoch."""
    window_units: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Units (shards of rows) of a window, with order = "windowed". More are nearer to the global order."""
    train_split: str = "train"
    """The split to train on."""
    selection_split: str = "valid"
    """The split whose accuracy chooses best.safetensors. "held-out": a stratified part of the
    training split, which is then not trained on. The published code uses the test split; reports
    mark this choice."""
    held_out_share: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """Share of every class that is held out with selection_split = "held-out"."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of initial weights, order, views and all other random choices."""
    model: AnyModelConfig = ORSANetConfig()
    loss: LossConfig = LossConfig()
    augmentation: AugmentationConfig = AugmentationConfig()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.second_pass_buffers == "kept" and (self.priors, self.online) == ("online", "published"):
            raise ValueError(
                'second_pass_buffers = "kept" cannot be combined with online = "published", '
                "whose landmark network changes in both passes"
            )
        views = [View.parse(name) for name in self.augmentation.views]
        if self.priors == "online" and any(view.is_placed for view in views):
            raise ValueError(
                'priors = "online" cannot draw views that landmarks place; leave them out of augmentation.views'
            )
        if (self.priors, self.online) == ("online", "clean") and any(view.kind == AUGMENTED for view in views):
            raise ValueError(
                'online = "clean" cannot be combined with augmented views, which are erased; take online = "erased"'
            )
        if (self.priors, self.online) == ("online", "clean") and self.augmentation.noise > 0:
            raise ValueError(
                'online = "clean" cannot be combined with augmentation.noise, which all networks then see; take online = "erased"'
            )
        return self


def load_config(preset: StrPath, overrides: Sequence[str] = ()) -> RunConfig:
    """Load a preset, by name, or a TOML file, with `key=value` overrides.

    Examples of overrides: `epochs=3`, `model.depth=4`. Values are as in TOML; words need no quotes.
    `model.kind=…` keeps those of the preset's [model] keys that the other kind has, such as sizes.
    Raises OrsanetError that lists every unknown key and wrong value.
    """
    as_path(preset, "preset")
    preset, overrides = os.fspath(preset), as_names(overrides, "overrides")
    if preset in PRESETS:
        text = preset_text(preset)
    elif preset.endswith(".toml"):
        try:
            text = read_limited(preset, MAX_SETTINGS_BYTES).decode("utf-8-sig")
        except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
            refuse_shortage(error, preset)
            raise OrsanetError(f"{preset}: cannot be read as a configuration ({error})") from error
    else:
        near = did_you_mean(preset, PRESETS)
        raise OrsanetError(f"--preset {preset}: neither a preset ({', '.join(PRESETS)}) nor a .toml file{near}")
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # besides TOMLDecodeError: too many digits, too deep nesting
        raise OrsanetError(f"{preset}: not valid TOML: {error}") from error
    malformed = []
    _leave_other_kinds_keys(values, overrides)
    for override in overrides:
        try:
            set_key(values, override)
        except OrsanetError as error:
            malformed.append(str(error))
    return parse_config(values, preset, malformed)


def preset_text(preset: str) -> str:
    """The TOML file of one of the PRESETS."""
    return (files("orsanet_train") / "presets" / f"{preset}.toml").read_text(encoding="utf-8")


def parse_config(values: dict[str, Any], source: str, findings: Sequence[str] = ()) -> RunConfig:
    """Validate a configuration.

    Raises OrsanetError that lists all findings, including those passed as `findings`.
    """
    found, config = list(findings), None
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        found += validation_findings(error, RunConfig)
    if config is None or found:
        raise OrsanetError(f"configuration from {source}:\n{listed(found)}")
    return config


def config_toml(config: RunConfig) -> str:
    """The resolved configuration as TOML; load_config reads it back to the same configuration."""
    return tomli_w.dumps(config.model_dump(mode="json"))


def _leave_other_kinds_keys(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Remove from [model] the keys that the kind of an override `model.kind=…` does not have."""
    chosen: dict[str, Any] = {}
    for override in overrides:
        with suppress(OrsanetError):  # reported when it is applied
            set_key(chosen, override)
    table, model = values.get("model"), chosen.get("model")
    kind = model.get("kind") if isinstance(model, dict) else None
    if not isinstance(table, dict) or kind not in kinds() or kind == table.get("kind", ORSANetConfig().kind):
        return
    values["model"] = {key: value for key, value in table.items() if key in kinds()[kind].model_fields}


def set_key(values: dict[str, Any], override: str) -> None:
    """Put `a.b=value` into nested tables. Types are validated later, with everything else.

    Raises OrsanetError for an override of another form.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise OrsanetError(f"--set {override}: write it as key=value, for example epochs=3 or model.depth=4")
    *tables, leaf = key.strip().split(".")
    target = values
    for table in tables:
        inner = target.setdefault(table, {})
        if not isinstance(inner, dict):
            raise OrsanetError(f"--set {override}: '{table}' is a value, not a table")
        target = inner
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        parsed = {"value": text.strip()}  # a bare word
    if len(parsed) > 1:
        raise OrsanetError(f"--set {override!r}: pass one --set for each key")
    target[leaf] = parsed["value"]
