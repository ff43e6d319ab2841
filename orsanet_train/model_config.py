"""The configuration of the trainable network: one class for each kind of model.

`[model]` of a run configuration is one of the classes in `AnyModelConfig`, chosen by its key `kind`.
A key of another kind is an unknown key. Without `kind` it is ORSANet, the only kind of
earlier versions. Each class names its network as text, so that a configuration is read without
torch.
"""

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

Size = Annotated[int, Field(ge=1, le=8192)]  # of a network: a larger one is a typing error
Sizes = tuple[Size, Size, Size]
SIZES = ("depth", "width", "hidden", "backbone_channels", "backbone_units")  # of a model; its other keys are forms
POSTER_V2_HEADS = (2, 4, 8)  # of the window attention of POSTER V2's three levels


class Strict(BaseModel):
    """Base of all tables of a configuration: unknown keys and values of another type are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ModelConfig(Strict):
    """What every kind of model states. Each kind is a subclass."""

    network: ClassVar[str]  # module:class of the network in orsanet_train.model
    title: ClassVar[str]  # for pages and cards
    # The published depths and what their size is called, with a space after it; none: no size was published.
    published_sizes: ClassVar[dict[int, str]] = {}
    published_choices: ClassVar[tuple[str, ...]] = ()  # keys besides sizes in which published checkpoints differ

    kind: str = ""  # each kind has its own default, and no other value

    @property
    def reads(self) -> dict[str, str]:
        """Arguments of the network's forward, in order, and the store's field that each is given.

        An argument that the settings leave without a prior is given the image, and ignores it.
        """
        raise NotImplementedError

    @property
    def described(self) -> str:
        """What the model is made of, for a model card."""
        raise NotImplementedError

    @property
    def named(self) -> str:
        """The model in a sentence on its configuration."""
        return f'model.kind = "{self.kind}"'

    @property
    def fields(self) -> tuple[str, ...]:
        """The store's fields that the model reads: all that feeds move."""
        return tuple(dict.fromkeys(self.reads.values()))

    @property
    def drop_path_shape(self) -> tuple[int, ...]:
        """The shape of one image's drop-path draws in one pass."""
        return ()

    @property
    def image_channels(self) -> Literal["rgb", "bgr"]:
        """Order of the colours in the image that the model gets."""
        return "rgb"

    @property
    def backbone(self) -> tuple[Sizes, Sizes] | None:
        """Channels and residual units of IR50's three stages; None: the model has no backbone."""
        return None


class _WithBackbone(ModelConfig):
    backbone_channels: Sizes = (64, 128, 256)
    """Channels of IR50's three stages."""
    backbone_units: Sizes = (3, 4, 14)
    """Residual units of IR50's three stages."""

    @property
    def backbone(self) -> tuple[Sizes, Sizes] | None:
        return self.backbone_channels, self.backbone_units

    @field_validator("backbone_channels", "backbone_units", mode="before")
    @classmethod
    def _array(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value  # TOML has arrays only


class _WithPyramid(_WithBackbone):
    """Shared by ORSANet and POSTER: 49 tokens of the backbone's map, in three scales."""

    published_sizes = {4: "small ", 6: "base ", 8: "large "}  # a ClassVar of the base

    tokens: Literal["published", "spatial"] = "published"
    """How the backbone's 14x14 map becomes 49 tokens: the published re-view of memory, or a 2x2 pixel-unshuffle."""
    depth: Size = 8
    """Levels of the fusion: 4, 6, 8 are the published small, base and large."""
    width: Size = 512
    """Token width D, a multiple of 32."""

    @field_validator("width")
    @classmethod
    def _divisible(cls, width: int) -> int:
        if width % 32:
            raise ValueError("must be a multiple of 32: 8 heads at a quarter of the width")
        return width


class ORSANetConfig(_WithPyramid):
    """ORSANet's trainable part. The defaults are the published large model."""

    network = "orsanet:ORSANet"
    title = "ORSANet"

    kind: Literal["orsanet"] = "orsanet"
    """The network: ORSANet."""
    segmentation_prior: Literal["features", "map", "none"] = "features"
    """Swin features as published in code, the one-hot map as in the paper, or no semantic guidance (ablation)."""
    spade: Literal["published", "paper"] = "published"
    """Semantic guidance: norm(x) (1 + gamma) + beta as published in code, or norm(x) gamma + beta (paper, Eq. 5)."""
    landmark_prior: Literal["features", "none"] = "features"
    """Landmark features as published, or the image tokens in their place, so that every layer stays and no landmark
    is known (ablation)."""
    mcm: bool = True
    """Whether the MCM fuses image and landmark tokens, or the gate gets the mean of the image tokens, without any
    landmarks (ablation)."""
    multi_scale: bool = True
    """Whether the MCM has three scales (D, D/2, D/4) or only D (ablation)."""
    cross_interaction: bool = True
    """Whether landmark tokens attend to image tokens, or there is no attention (ablation)."""
    query: Literal["published", "projected"] = "published"
    """Query of this attention: the normed landmark tokens as published in code, or these times a learned matrix
    (paper, Eq. 6)."""
    landmark_reintegration: bool = True
    """Whether each block mixes the landmark tokens in again, or passes them on unchanged (ablation)."""

    @property
    def described(self) -> str:
        segmentation = "" if self.segmentation_prior == "none" else "a face segmentation and by "
        return f"An ORSANet (a backbone of IR50's form, guided by {segmentation}facial landmarks of frozen networks)"

    @property
    def reads(self) -> dict[str, str]:
        segmentation = {"features": "segmentation_features", "map": "segmentation_map", "none": "image"}
        return {
            "image": "image",
            "segmentation": segmentation[self.segmentation_prior],
            "landmark_features": "landmark_features" if self.reads_landmarks else "image",
        }

    @property
    def drop_path_shape(self) -> tuple[int, int, int]:
        """Levels, scales, branches."""
        return self.depth, 3 if self.multi_scale else 1, 2

    @property
    def reads_landmarks(self) -> bool:
        """Whether the logits depend on the landmark features."""
        return self.mcm and self.landmark_prior == "features"


class PosterConfig(_WithPyramid):
    """POSTER: image and landmark tokens attend to each other. The defaults are the published large model."""

    network = "poster:Poster"
    title = "POSTER"
    published_choices = ("mixing", "channels")

    kind: Literal["poster"] = "poster"
    """The network: POSTER."""
    mixing: bool = True
    """Whether a convolution over all tokens ends each block: the variant published for RAF-DB. Without it: the one
    published for AffectNet."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Order of the colours in the backbone's image. The published code reads RAF-DB as bgr and normalises it with
    the numbers of rgb; the priors of a store are always those of rgb."""

    @property
    def described(self) -> str:
        return "A POSTER (a backbone of IR50's form, fused with facial landmarks of a frozen network)"

    @property
    def reads(self) -> dict[str, str]:
        return {name: name for name in ("image", "landmark_features")}

    @property
    def drop_path_shape(self) -> tuple[int, int, int]:
        """Levels, scales, branches."""
        return self.depth, 3, 4

    @property
    def image_channels(self) -> Literal["rgb", "bgr"]:
        return self.channels


class PosterV2Config(_WithBackbone):
    """POSTER V2: attention from the landmark network's grids to the backbone's, at three sizes, then a ViT.

    The defaults are the published model.
    """

    network = "poster_v2:PosterV2"
    title = "POSTER V2"
    published_sizes = {2: ""}

    kind: Literal["poster-v2"] = "poster-v2"
    """The network: POSTER V2."""
    depth: Size = 2
    """Blocks of the ViT."""
    width: Size = 768
    """Width of the ViT's tokens, a multiple of 8."""
    residual: Literal["published", "plain"] = "published"
    """What the attention of a level is added to: the normed image grid as published, or the grid before its norm."""

    @property
    def described(self) -> str:
        return "A POSTER V2 (a backbone of IR50's form, asked at three sizes by facial landmarks of a frozen network)"

    @property
    def reads(self) -> dict[str, str]:
        return {name: name for name in ("image", "landmark_features_28", "landmark_features_14", "landmark_features")}

    @property
    def drop_path_shape(self) -> tuple[int, int]:
        """Levels, branches."""
        return len(POSTER_V2_HEADS), 2

    @field_validator("width")
    @classmethod
    def _divisible(cls, width: int) -> int:
        if width % 8:
            raise ValueError("must be a multiple of 8, the number of heads")
        return width

    @field_validator("backbone_channels")
    @classmethod
    def _headed(cls, channels: Sizes) -> Sizes:
        if any(width % heads for width, heads in zip(channels, POSTER_V2_HEADS, strict=True)):
            raise ValueError("must be multiples of 2, 4 and 8, the numbers of heads")
        return channels


class BackboneConfig(_WithBackbone):
    """IR50 and a linear head, without any prior: what the priors must be worth."""

    network = "backbone:Backbone"
    title = "IR50"

    kind: Literal["backbone"] = "backbone"
    """The network: the backbone and a head."""

    @property
    def described(self) -> str:
        return "A backbone of IR50's form with a linear head"

    @property
    def reads(self) -> dict[str, str]:
        return {"image": "image"}


class LandmarksConfig(ModelConfig):
    """A model of the 68 landmarks alone, without any picture: what every other model must beat."""

    network = "landmarks:Landmarks"
    title = "Landmarks"

    kind: Literal["landmarks"] = "landmarks"
    """The network: a model of the landmarks."""
    form: Literal["linear", "mlp"] = "mlp"
    """A linear model, or one with a hidden layer."""
    hidden: Size = 128
    """Width of the hidden layer."""

    @property
    def described(self) -> str:
        return "A model of the 68 facial landmarks of a frozen network, without the picture"

    @property
    def reads(self) -> dict[str, str]:
        return {"landmarks": "landmarks"}


def _of_some_kind(value: object) -> object:
    return {"kind": "orsanet", **value} if isinstance(value, dict) else value


# The one place where a kind is entered.
AnyModelConfig = Annotated[
    Annotated[
        ORSANetConfig | PosterConfig | PosterV2Config | BackboneConfig | LandmarksConfig,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_of_some_kind),
]


def kinds() -> dict[str, type[ModelConfig]]:
    """The kinds of model and their configurations."""
    union: Any = get_args(get_args(AnyModelConfig)[0])
    return {each.model_fields["kind"].default: each for each in union}
