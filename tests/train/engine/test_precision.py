"""The names of precision mean what they say: which arithmetic a device gets, and torch's switches for it."""

from collections.abc import Iterator

import pytest
import torch

from orsanet_cache import OrsanetError
from orsanet_cache.device import allow_tf32
from orsanet_train.config import RunConfig
from orsanet_train.engine.precision import choose_arithmetic, possible_precisions

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def config(precision: str) -> RunConfig:
    return RunConfig.model_validate({"precision": precision})


def switches() -> dict[str, object]:
    return {
        "convolutions": torch.backends.cudnn.allow_tf32,
        "products": torch.backends.cuda.matmul.allow_tf32,
        "deterministic": torch.backends.cudnn.deterministic,
        "benchmark": torch.backends.cudnn.benchmark,
    }


@pytest.fixture
def _switches_restored() -> Iterator[None]:
    before = switches()
    yield
    allow_tf32(bool(before["convolutions"]))
    torch.backends.cudnn.deterministic = before["deterministic"]
    torch.backends.cudnn.benchmark = before["benchmark"]


@pytest.mark.parametrize("precision", ["exact", "parity"])
def test_on_a_cpu_exact_and_parity_are_the_same_float32(precision: str) -> None:
    assert choose_arithmetic(config(precision), CPU) == (None, False, "float32")


def test_on_a_cpu_fast_is_bfloat16_without_loss_scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)  # what an x86 processor is asked
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    chosen = choose_arithmetic(config("fast"), CPU)
    assert (chosen.half, chosen.loss_scaling) == (torch.bfloat16, False)
    assert "bfloat16" in chosen.reason


def test_fast_is_refused_on_a_processor_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """There it would be emulated, slower than what it is to speed up."""
    for asked in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, asked, lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(OrsanetError, match=r"this processor has no bfloat16.*--set precision=exact"):
        choose_arithmetic(config("fast"), CPU)
    for precision in ("exact", "parity"):
        choose_arithmetic(config(precision), CPU)
    assert possible_precisions(CPU) == ("exact",)  # what `bench step` measures there


def test_the_modes_of_a_device_are_those_that_differ_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert possible_precisions(CPU) == ("exact", "fast")
    assert possible_precisions(CUDA) == ("exact", "parity", "fast")


@pytest.mark.usefixtures("_switches_restored")
@pytest.mark.parametrize("precision", ["exact", "parity"])
def test_on_a_cpu_no_switch_of_a_gpu_is_touched(precision: str) -> None:
    before = switches()
    choose_arithmetic(config(precision), CPU)
    assert switches() == before


@pytest.mark.usefixtures("_switches_restored")
@pytest.mark.parametrize(
    ("precision", "half", "tf32"), [("exact", None, False), ("parity", None, True), ("fast", torch.float16, True)]
)
def test_on_a_gpu_each_mode_sets_every_switch_whatever_was_set_before(
    precision: str, half: torch.dtype | None, tf32: bool
) -> None:
    """The switches can be set without a GPU. Only exact has the same algorithms, and so the same bits, in every run."""
    expected = {"convolutions": tf32, "products": tf32, "deterministic": not tf32, "benchmark": tf32}
    for before in ("exact", "parity"):
        choose_arithmetic(config(before), CUDA)
        chosen = choose_arithmetic(config(precision), CUDA)
        assert switches() == expected
        assert (chosen.half, chosen.loss_scaling) == (half, half is not None)
    for word, is_said in (("TF32", tf32), ("float16", half is not None), ("loss scaling", half is not None)):
        assert (word in chosen.reason) == is_said


@pytest.mark.usefixtures("_switches_restored")
@pytest.mark.parametrize("allowed", [False, True])
def test_tracing_works_after_the_switches_are_set(allowed: bool) -> None:
    """torch.export asks for them in its own way, and refuses where they contradict each other."""
    allow_tf32(allowed)
    traced = torch.export.export(torch.nn.Conv2d(1, 1, 3).eval(), (torch.zeros(1, 1, 4, 4),))
    assert any(node.target == torch.ops.aten.conv2d.default for node in traced.graph.nodes)
    assert torch.backends.mkldnn.enabled


@pytest.mark.cuda
@pytest.mark.usefixtures("_switches_restored")
@pytest.mark.parametrize("operation", ["product", "convolution"])
def test_on_a_gpu_exact_rounds_to_float32_and_the_others_to_tf32(operation: str) -> None:
    """Relative error: float32 keeps 24 bits of an operand, TF32 11, a device before Ampere all in both."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(64, 512, 7, 7, generator=generator).to(CUDA)
    right = torch.randn(512, 512, 3, 3, generator=generator).to(CUDA)

    def result(dtype: torch.dtype) -> torch.Tensor:
        a, b = left.to(dtype), right.to(dtype)
        return torch.nn.functional.conv2d(a, b) if operation == "convolution" else b.flatten(1) @ b.flatten(1).T

    truth = result(torch.float64)
    errors = {}
    for precision in ("exact", "parity"):
        choose_arithmetic(config(precision), CUDA)
        errors[precision] = float((result(torch.float32) - truth).norm() / truth.norm())
    assert errors["exact"] < 1e-5
    if torch.cuda.get_device_capability() >= (8, 0):
        assert 1e-5 < errors["parity"] < 5e-3
