"""Every kind of model: its configuration, names, sizes, initial values and inputs; POSTER and POSTER V2 as published."""

import ast
import json
import math
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from orsanet_cache import OrsanetError
from orsanet_cache.frozen.loading import Weights, load_strictly
from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_train.config import PRESETS, config_toml, load_config
from orsanet_train.model.complexity import complexity, complexity_table
from orsanet_train.model.inputs import model_image, model_inputs, random_inputs
from orsanet_train.model.ir50 import IR50
from orsanet_train.model.model import ExpressionModel, backbone_weights, build_model, load_backbone, trainable_weights
from orsanet_train.model.poster_v2 import GAMMA, WindowAttention, relative_position_index
from orsanet_train.model_config import (
    LandmarksConfig,
    ModelConfig,
    ORSANetConfig,
    PosterConfig,
    PosterV2Config,
    kinds,
)

SMALL = ("model.backbone_channels=[8,16,32]", "model.backbone_units=[1,1,1]")
PUBLISHED = {"poster": "poster_state_dict.json", "poster-v2": "poster_v2_state_dict.json"}
FROZEN = "face_landback."


def small(kind: str, *more: str) -> ModelConfig:
    """Of the preset `small`, whose sizes every kind takes as far as it has them."""
    return load_config("small", [f"model.kind={kind}", *more]).model


@cache
def on_meta(config: ModelConfig, classes: int = 7) -> ExpressionModel:
    with torch.device("meta"):
        return build_model(config, classes)


def published(shared: Path, kind: str) -> dict[str, tuple[list[int], str]]:
    return json.loads((shared / "reference" / PUBLISHED[kind]).read_text(encoding="utf-8"))


def parameters(model: ExpressionModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def unread(model: ExpressionModel) -> int:
    return sum(parameter.numel() for parameter in model.published_unread().values())


# Configuration


def test_the_default_kind_is_orsanet_with_and_without_its_name() -> None:
    assert load_config("rafdb").model == ORSANetConfig() == load_config("rafdb", ["model.kind=orsanet"]).model


def test_a_configuration_of_before_there_were_kinds_loads_as_before(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    config = load_config("paper")
    before = re.sub(r"^kind = .*\n", "", config_toml(config), flags=re.MULTILINE)
    assert "kind" not in before
    file.write_text(before, encoding="utf-8")
    assert load_config(file) == config


@pytest.mark.parametrize("kind", kinds())
def test_every_preset_takes_every_kind_and_reads_back(kind: str, tmp_path: Path) -> None:
    for preset in PRESETS:
        config = load_config(preset, [f"model.kind={kind}"])
        assert config.model.kind == kind
        file = tmp_path / f"{preset}.toml"
        file.write_text(config_toml(config), encoding="utf-8")
        assert load_config(file) == config


def test_another_kind_keeps_the_sizes_of_the_preset_and_leaves_what_it_does_not_have() -> None:
    assert small("poster-v2") == PosterV2Config(
        depth=2, width=64, backbone_channels=(8, 16, 32), backbone_units=(1, 1, 2)
    )
    assert small("landmarks") == LandmarksConfig()
    assert load_config("paper", ["model.kind=poster"]).model == PosterConfig(tokens="spatial")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.kind=poster", "model.spade=paper"], r"\n  model\.spade: unknown key$"),
        (["model.kind=landmarks", "model.depth=4"], r"\n  model\.depth: unknown key"),
        (["model.mixing=true"], r"\n  model\.mixing: unknown key"),
        (["model.kind=postr"], r"\n  model\.kind: 'postr' is none of orsanet, .*landmarks; did you mean 'poster'\?"),
        (["model.kind=poster", "model.mixin=true"], r"model\.mixin: unknown key; did you mean 'model\.mixing'\?"),
        (["model.kind=poster-v2", "model.backbone_channels=[8,18,32]"], r"\n  model\.backbone_channels: .*2, 4 and 8"),
        (["model.kind=poster-v2", "model.width=20"], r"\n  model\.width: .*multiple of 8"),
    ],
)
def test_a_key_of_another_kind_is_an_unknown_key(overrides: list[str], said: str) -> None:
    with pytest.raises(OrsanetError, match=said):
        load_config("rafdb", overrides)


@pytest.mark.parametrize(
    ("preset", "rate", "batch", "epochs", "sampling", "model"),
    [
        ("poster-rafdb", 4e-5, 200, 300, "shuffled", PosterConfig(channels="bgr")),
        ("poster-affectnet", 2e-6, 200, 300, "balanced", PosterConfig(mixing=False)),
        ("poster-v2-rafdb", 3.5e-5, 144, 200, "shuffled", PosterV2Config()),
        ("poster-v2-affectnet", 1e-6, 144, 200, "balanced", PosterV2Config()),
        ("poster-v2-caer-s", 4e-5, 144, 200, "shuffled", PosterV2Config()),
    ],
)
def test_presets_are_the_published_recipes(
    preset: str, rate: float, batch: int, epochs: int, sampling: str, model: ModelConfig
) -> None:
    config = load_config(preset)
    assert (config.learning_rate, config.batch_size, config.epochs) == (rate, batch, epochs)
    assert (config.sampling, config.model, config.rho, config.learning_rate_decay) == (sampling, model, 0.05, 0.98)
    assert config.loss.dare == "none"
    first = config.loss.warmup_epochs > epochs  # POSTER: the smoothed loss, always; V2: never
    assert first == (model.kind == "poster") == (config.loss.warmup_epochs > 0)
    assert (config.loss.smoothed_weight, config.loss.smoothing) == (2.0, 0.2)
    assert config.augmentation.noise == (0.25 if model.kind == "poster" else 0)


# Names, sizes, arithmetic


@pytest.mark.parametrize("kind", PUBLISHED)
def test_names_shapes_and_types_are_the_published_checkpoints(shared: Path, kind: str) -> None:
    model, reference = on_meta(kinds()[kind]()), published(shared, kind)
    ours = {name: (list(tensor.shape), str(tensor.dtype)) for name, tensor in model.state_dict().items()}
    theirs = {name: (shape, f"torch.{dtype}") for name, (shape, dtype) in reference.items()}
    read = {name: law for name, law in theirs.items() if not name.startswith((FROZEN, *model.unread_prefixes))}
    assert ours == read
    unread = {name: (list(tensor.shape), str(tensor.dtype)) for name, tensor in model.published_unread().items()}
    assert unread == {name: theirs[name] for name in unread}
    buffers = re.compile(r"running_|num_batches|relative_position_index")
    assert unread.keys() == {
        name for name in theirs.keys() - read.keys() if not name.startswith(FROZEN) and not buffers.search(name)
    }


@pytest.mark.parametrize("kind", PUBLISHED)
def test_another_number_of_classes_changes_the_head_alone(kind: str) -> None:
    seven, eight = (
        {name: tuple(tensor.shape) for name, tensor in on_meta(small(kind), classes).state_dict().items()}
        for classes in (7, 8)
    )
    changed = {name for name in seven if seven[name] != eight[name]}
    prefix = "VIT." if kind == "poster-v2" else ""
    assert changed == {f"{prefix}head.linear.weight", f"{prefix}head.linear.bias"}


def test_parameters_count_as_published() -> None:
    frozen = sum(parameter.numel() for parameter in MobileFaceNet().parameters())
    poster, affect, v2 = on_meta(PosterConfig()), on_meta(PosterConfig(mixing=False)), on_meta(PosterV2Config())
    assert frozen == 1_007_248
    assert (parameters(poster), parameters(poster) + unread(poster)) == (57_995_023, 70_843_151)
    assert parameters(affect) + unread(affect) == 70_600_751
    assert len(poster.state_dict()) - len(affect.state_dict()) == 48
    assert (parameters(v2), parameters(v2) + unread(v2)) == (42_842_709, 57_309_346)
    assert parameters(poster) + unread(poster) + frozen == 71_850_399
    assert parameters(v2) + unread(v2) + frozen == 58_316_594
    in_all = [parameters(on_meta(PosterConfig(depth=depth))) + unread(poster) + frozen for depth in (4, 6, 8)]
    assert [round(count / 1e6, 1) for count in in_all] == [52.2, 62.0, 71.9]


GFLOP = {
    "poster": {"ir_back": 10.94, "MobileFaceNet": 0.44, "pyramid_fuse": 4.28, "ir_layer": 0.05},
    "poster-v2": {
        "ir_back": 10.94, "MobileFaceNet": 0.44, "VIT": 4.33, "embed_": 0.80, "attn": 0.24, "conv": 0.17, "ffn": 0.15,
        "last_face_conv": 0.12,
    },
}  # fmt: skip


@pytest.mark.parametrize(("kind", "total"), [("poster", 15.71), ("poster-v2", 17.18)])
def test_the_arithmetic_is_the_published_one(kind: str, total: float) -> None:
    parts = complexity(kinds()[kind](), 7)
    for name, gflop in GFLOP[kind].items():
        found = sum(part.multiply_adds for part in parts if part.name.startswith(name))
        assert 2 * found / 1e9 == pytest.approx(gflop, abs=0.005), name
    assert 2 * sum(part.multiply_adds for part in parts) / 1e9 == pytest.approx(total, abs=0.01)


def test_a_table_has_the_frozen_networks_that_the_model_reads() -> None:
    assert "MobileFaceNet" not in complexity_table(small("backbone"), 7)
    table = complexity_table(LandmarksConfig(), 7)
    assert "with MobileFaceNet in every pass" in table
    assert "SegFace" not in table
    assert "never used" not in table


# Initial values


def uniform_within(tensor: Tensor, bound: float) -> bool:
    """Whether the tensor can be a sample of the uniform law from -bound to bound."""
    return bool(tensor.abs().max() <= bound) and bool(tensor.abs().max() > 0.9 * bound or tensor.numel() < 50)


def normal_of(tensor: Tensor, deviation: float) -> bool:
    return math.isclose(float(tensor.double().std()), deviation, rel_tol=4 / math.sqrt(tensor.numel()) + 1e-3)


@pytest.mark.parametrize("kind", kinds())
def test_initial_values_have_the_published_laws(kind: str) -> None:
    """Small sizes: a law does not depend on them but for the fan-in. Everything that is not named here is torch's default."""
    torch.manual_seed(0)
    model = build_model(small(kind), 7)
    tensors = {name: tensor.detach() for name, tensor in model.named_parameters()}

    def weight_of(name: str) -> Tensor:
        """The tensor itself, or the weight beside a bias."""
        beside = (re.sub("bias$", end, name) for end in ("weight", "weight_orig"))
        return next((tensors[each] for each in beside if each in tensors), tensors[name])

    for name, tensor in tensors.items():
        if re.search(r"VIT\.(cls_token|pos_embed)|bias_table", name):
            assert normal_of(tensor, 0.02), name
        elif name == "pyramid_fuse.pos_embed":
            assert not tensor.any(), name
        elif ".gamma" in name:
            assert torch.equal(tensor, torch.full_like(tensor, GAMMA)), name
        elif name.startswith("VIT.") and "norm" not in name:
            assert normal_of(tensor, 0.01) if name.endswith("weight") else not tensor.any(), name
        elif (weight := weight_of(name)).dim() > 1:
            fan = weight[0].numel() if "upsample" not in name else weight.shape[1] * weight.shape[2]
            assert uniform_within(tensor, 1 / math.sqrt(fan)), name
        elif name.endswith("bias"):
            assert not tensor.any(), name
        else:  # norms' gains and PReLUs' slopes
            assert set(tensor.tolist()) <= {1.0, 0.25}, name


# Forward


def batch(config: ModelConfig, count: int) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    return random_inputs(config, count)


@pytest.mark.parametrize("kind", kinds())
def test_a_row_depends_on_its_own_inputs_and_on_each_of_them(kind: str) -> None:
    config = small(kind)
    torch.manual_seed(0)
    model, inputs = build_model(config, 7).eval(), batch(config, 2)
    with torch.no_grad():
        whole, alone = model(*inputs), model(*(values[1:] for values in inputs))
        assert whole.logits.shape == (2, 7)
        assert (
            whole.features.shape[1]
            == model.get_submodule("VIT.head" if kind == "poster-v2" else "head").linear.in_features
        )
        torch.testing.assert_close(whole.logits[1:], alone.logits, rtol=1e-4, atol=1e-5)
        for index, field in enumerate(config.fields):
            other = [*inputs]
            other[index] = other[index].flip(-1)
            # The landmarks of POSTER V2 count for 1e-5 at first.
            assert (model(*other).logits != whole.logits).any(), field


@pytest.mark.parametrize("kind", ["poster", "poster-v2"])
def test_draws_drop_branches_level_by_level(kind: str) -> None:
    """Draws of 1 keep every branch, enlarged; draws of 0 drop all but those of the first level, whose rate is 0."""
    config = small(kind)
    torch.manual_seed(0)
    model, inputs = build_model(config, 7).train(), batch(config, 3)
    for parameter in (parameter for name, parameter in model.named_parameters() if ".gamma" in name):
        parameter.data.fill_(1.0)
    shape = (3, *config.drop_path_shape)
    assert shape == {"poster": (3, 2, 3, 4), "poster-v2": (3, 3, 2)}[kind]
    with torch.no_grad():
        none, kept, dropped = (model(*inputs, draws).logits for draws in (None, torch.ones(shape), torch.zeros(shape)))
        first = torch.ones(shape)
        first[:, 0] = 0
        same = model(*inputs, first).logits
    assert torch.equal(same, kept)
    assert not torch.equal(none, kept)
    assert not torch.equal(dropped, kept)


def test_the_residual_of_poster_v2_is_the_normed_grid_unless_it_is_to_be_plain() -> None:
    torch.manual_seed(0)
    model, inputs = build_model(small("poster-v2"), 7).eval(), batch(small("poster-v2"), 1)
    plain = build_model(small("poster-v2", "model.residual=plain"), 7).eval()
    plain.load_state_dict(model.state_dict())
    seen: dict[str, list[Tensor]] = {"published": [], "plain": []}
    for name, each in (("published", model), ("plain", plain)):
        each.ffn1.register_forward_pre_hook(lambda _, given, name=name: seen[name].append(given[0]))
        with torch.no_grad():
            each(*inputs)
    norm = model.window1.norm
    torch.testing.assert_close(seen["published"][0], norm(seen["plain"][0]))


def test_the_bias_of_a_window_is_the_tables_row_of_the_offset() -> None:
    torch.manual_seed(0)
    attention = WindowAttention(8, 2, 3)
    bias = attention.bias()
    for query in range(9):
        for key in range(9):
            dy, dx = query // 3 - key // 3, query % 3 - key % 3
            row = (dy + 2) * 5 + dx + 2
            assert int(relative_position_index(3)[query, key]) == row
            assert torch.equal(bias[:, query, key], attention.relative_position_bias_table[row])


def test_bgr_exchanges_the_colours_before_they_are_normalised() -> None:
    pixels = torch.randint(256, (1, 112, 112, 3), dtype=torch.uint8)
    erased = torch.tensor([[10, 20, 30, 40]])
    config = PosterConfig(channels="bgr")
    stored = {"image": pixels, "landmark_features": torch.zeros(1, 512, 7, 7)}
    image, _ = model_inputs(config, stored, erased)
    assert torch.equal(image, model_image(pixels.flip(-1), erased))
    assert not torch.equal(image, model_image(pixels, erased))
    assert not image[0, :, 8, 12].any()  # erased


def test_landmarks_are_read_without_place_and_size() -> None:
    torch.manual_seed(0)
    for form in ("linear", "mlp"):
        model = build_model(LandmarksConfig(form=form), 7)
        (points,) = batch(LandmarksConfig(), 3)
        torch.testing.assert_close(model(3 * points + 7).logits, model(points).logits, rtol=1e-4, atol=1e-4)
        assert model(torch.zeros(1, 68, 2)).logits.isfinite().all()


# Weights


@pytest.fixture(scope="module")
def ir50() -> Weights:
    """IR50's own file at a small size: names of `body.N`, and the output layer."""
    torch.manual_seed(0)
    tensors = {name: tensor.clone() for name, tensor in IR50((8, 16, 32), (1, 2, 2)).state_dict().items()}
    return Weights(Path("ir50.pth"), {**tensors, "output_layer.3.bias": torch.zeros(512)})


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind != "landmarks"])
def test_the_backbones_file_goes_whole_into_every_backbone(kind: str, ir50: Weights) -> None:
    """In the published POSTER V2 19 of its 304 names match, and the body stays random without a word."""
    config = small(kind, "model.backbone_units=[1,2,2]")
    model = build_model(config, 7)
    load_backbone(model, ir50, config)
    image = torch.randn(1, 3, 112, 112)
    plain = IR50((8, 16, 32), (1, 2, 2)).eval()
    load_strictly(plain, backbone_weights(ir50))
    with torch.no_grad():
        assert torch.equal(model.eval().maps(image)[-1], plain(image))


def test_a_backbone_of_other_units_and_a_model_without_one_are_refused(ir50: Weights) -> None:
    config = small("poster-v2", "model.backbone_units=[1,2,1]")
    with pytest.raises(OrsanetError, match=r"extra: body\.4\.res_layer"):
        load_backbone(build_model(config, 7), ir50, config)
    with pytest.raises(OrsanetError, match=r'model\.kind = "landmarks" has no backbone; leave --ir50 out'):
        load_backbone(build_model(LandmarksConfig(), 7), ir50, LandmarksConfig())


@pytest.mark.parametrize("kind", PUBLISHED)
def test_a_published_checkpoint_loads_strictly(shared: Path, filler: ModuleType, kind: str) -> None:
    """What is dropped by its name alone is one number long."""
    model = on_meta(kinds()[kind]())
    mine = model.state_dict()
    tensors = {
        name: filler.tensor_for(name, tuple(shape)) if name in mine and math.prod(shape) < 10_000 else torch.zeros(shape if name in mine else [1])
        for name, (shape, _) in published(shared, kind).items()
    }  # fmt: skip
    load_strictly(model, trainable_weights(Weights(Path("checkpoint.pth"), tensors), model))
    assert [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, tensors[name])] == []
    assert not any(tensor.is_meta for tensor in model.state_dict().values())


def test_only_the_configuration_and_its_own_module_know_a_kind() -> None:
    """A further kind is a module, a class and the line that enters it: nothing else names a kind or tells kinds apart."""
    package = Path(str(sys.modules["orsanet_train"].__file__)).parent
    classes = {each.__name__: package / "model" / f"{each.network.partition(':')[0]}.py" for each in kinds().values()}
    assert all(module.is_file() for module in classes.values())
    found = []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Name) and node.id in classes and path != classes[node.id]:
                found.append((path.relative_to(package).as_posix(), node.id))
            if isinstance(node, ast.Compare):
                compared = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
                asks = any(isinstance(each, ast.Attribute) and each.attr == "kind" for each in ast.walk(node))
                found += [(path.relative_to(package).as_posix(), kind) for kind in kinds() if asks and kind in compared]
    entered = {("model_config.py", name) for name in classes}
    default = {("config.py", "ORSANetConfig")}  # of a configuration without a kind
    assert set(found) == entered | default
