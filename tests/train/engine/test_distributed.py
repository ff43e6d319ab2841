"""Several processes under torchrun train as one does: batch statistics, gradients, losses and weights are those of the global batch.

Started by torchrun, this file is what the processes do; each leaves what it found in a file, which the tests compare with one process.
All of it is float64, so that only rounding separates the two.
"""

import copy
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from orsanet_cache import OrsanetError
from orsanet_train.engine.distributed import (
    ONE,
    GlobalBatchNorm2d,
    Ranks,
    any_rank,
    data_parallel,
    local_loss_scale,
    process_group,
    summed,
    synchronised,
)

if TYPE_CHECKING:  # where torchrun starts this file, the helpers are not found
    from command_lines import Ended
    from forks import ForkServer

WORLD = 2
NORM_ROUNDING = 1e-13  # sums of 75 values of size 1, in another order
STEP_ROUNDING = (
    1e-10  # the same through two passes, and Adam, which divides by a gradient's size, however small that is
)
RHO = 0.05
CLASSES = 3
FAR = 1e6  # a mean so large that E[x^2] - E[x]^2 is right to four digits only: 1e12 * 2.2e-16
FAR_ROUNDING = (
    2e-8  # FAR * 2.2e-16 is how well a mean is known, and the parameters' gradients sum 75 values that contain it
)
NORM_CASES = {
    "uneven": ((3, 2), 0.0), "one without rows": ((2, 0), 0.0), "the first without rows": ((0, 4), 0.0),
    "far from zero": ((3, 2), FAR),
}  # fmt: skip
BATCHES = (5, 4, 5, 1)  # global sizes; of the last one the second rank has no row
FLAGS = ((False, False), (True, False), (False, True), (True, True))

Said = dict[str, Any]


# What both one process and several do.


def norm_passes(norm: nn.BatchNorm2d, name: str, part: slice) -> Said:
    """Two training passes, each with a gradient of its own, on rows `part` of a case's global batch."""
    rows, offset = NORM_CASES[name]
    generator = torch.Generator().manual_seed(1)
    passes = []
    for _ in range(2):
        x, dy = torch.randn(2, sum(rows), 4, 3, 5, generator=generator, dtype=torch.float64)
        x = (2 * x + offset)[part].requires_grad_()
        y = norm(x)
        gradients = torch.autograd.grad(y, (x, norm.weight, norm.bias), dy[part])
        passes.append({"y": y.detach(), "dx": gradients[0], "parameters": torch.stack(gradients[1:])})
    return {"passes": passes, "state": norm.state_dict()}


def fresh_norm(dtype: torch.dtype = torch.float64) -> nn.BatchNorm2d:
    generator = torch.Generator().manual_seed(2)
    norm = nn.BatchNorm2d(4).to(dtype)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.data.uniform_(0.5, 2.0, generator=generator)
    return norm


def small_network() -> nn.Module:
    """No bias before a normalisation: its gradient is rounding noise, which Adam would blow up."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.PReLU(6), nn.Conv2d(6, 4, 3, stride=2, bias=False),
        nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, CLASSES),
    ).double()  # fmt: skip


def orsanet() -> nn.Module:
    from orsanet_train.model.model import build_model
    from orsanet_train.model_config import ORSANetConfig

    torch.manual_seed(0)
    config = ORSANetConfig(depth=2, width=64, backbone_channels=(8, 16, 32), backbone_units=(1, 1, 1))
    return build_model(config, CLASSES, segmentation_channels=16, landmark_channels=24).double()


def pictures(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(size, 3, 9, 9, generator=generator, dtype=torch.float64),)


def priors(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    shapes = (3, 112, 112), (16, 7, 7), (24, 7, 7)
    return tuple(torch.randn(size, *shape, generator=generator, dtype=torch.float64) for shape in shapes)


def small_logits(network: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    return network(*inputs)


def orsanet_logits(network: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    return network(*inputs).logits


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Any], Callable[..., Tensor], tuple[int, ...]]] = {
    "small": (small_network, pictures, small_logits, BATCHES),
    "orsanet": (orsanet, priors, orsanet_logits, (3, 1)),
}


def train(name: str, network: nn.Module, model: nn.Module, ranks: Ranks, sizes: tuple[int, ...]) -> Said:
    """SAM around Adam, both passes written out: the losses over the global batch, the gradients of each pass, the last weights."""
    _, inputs_of, logits_of, _ = NETWORKS[name]
    optimizer = Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(3)
    losses, gradients = [], []

    def backward(inputs: tuple[Tensor, ...], target: Tensor, total: int) -> list[Tensor]:
        optimizer.zero_grad()
        logits = logits_of(network, inputs)
        loss = cross_entropy(logits, target) if len(target) else logits.sum()
        (loss * local_loss_scale(len(target), total, ranks.world)).backward()
        losses.append(summed(loss.detach() * len(target), ranks) / total)
        found = [p.grad for p in model.parameters() if p.grad is not None]
        assert len(found) == len(list(model.parameters()))
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))
        return found

    for total in sizes:
        part = ranks.rows(0, total)
        inputs = tuple(values[part] for values in inputs_of(total, generator))
        target = torch.randint(CLASSES, (total,), generator=generator)[part]
        found = backward(inputs, target, total)
        weights = [p.detach().clone() for p in model.parameters()]
        with torch.no_grad():
            for p, gradient in zip(model.parameters(), found, strict=True):
                p.add_(RHO * gradient / gradients[-1].norm())
        backward(inputs, target, total)
        with torch.no_grad():
            for p, weight in zip(model.parameters(), weights, strict=True):
                p.copy_(weight)
        optimizer.step()
    return {"losses": torch.stack(losses), "gradients": torch.stack(gradients), "state": model.state_dict()}


# What several do.


def take_part(out: Path) -> None:
    torch.set_num_threads(1)
    said: Said = {}
    with process_group(torch.device("cpu")) as ranks:
        said["ranks"] = tuple(ranks)
        for name, (rows, _) in NORM_CASES.items():
            first = sum(rows[: ranks.rank])
            norm = synchronised(fresh_norm())
            assert isinstance(norm, GlobalBatchNorm2d)
            said[name] = norm_passes(norm, name, slice(first, first + rows[ranks.rank]))
        for name, (build, _, _, sizes) in NETWORKS.items():
            model = build()
            if ranks.rank:  # what rank 0 starts from counts
                for tensor in model.state_dict().values():
                    tensor.add_(1)
            said[name] = train(name, data_parallel(synchronised(model)), model, ranks, sizes)
        apart = small_network()
        network = data_parallel(apart)
        said["batch norm of each rank alone"] = train("small", network, apart, ranks, BATCHES[:1])
        frozen = synchronised(fresh_norm())
        assert isinstance(frozen, GlobalBatchNorm2d)
        frozen.track_running_stats = False
        said["frozen"] = norm_passes(frozen, "uneven", ranks.rows(0, 5))
        for half in (torch.float16, torch.bfloat16):
            short = synchronised(fresh_norm(torch.float32))
            x = half_rows(half)[ranks.rows(0, 5)].requires_grad_()
            y = short(x)
            y.backward(torch.ones_like(y) * y.detach())
            said[str(half)] = {"y": y.detach(), "dx": x.grad, "dtypes": [p.grad.dtype for p in short.parameters()]}
        said["any"] = [any_rank(flags[ranks.rank], ranks) for flags in FLAGS]
        mine = torch.tensor([0.1, 1e16]) * (ranks.rank + 1)
        said["summed"] = summed(mine, ranks)
        said["left alone"] = torch.equal(mine, torch.tensor([0.1, 1e16]) * (ranks.rank + 1))
        torch.save(said, out / f"{ranks.rank}.pt")
        if ranks.rank == 1:
            raise OrsanetError("rank 1 cannot go on")
        summed(torch.zeros(1), ranks)  # waits for it


def half_rows(dtype: torch.dtype) -> Tensor:
    return (3 + torch.randn(5, 4, 3, 5, generator=torch.Generator().manual_seed(4))).to(dtype)


# The tests.


@pytest.fixture(scope="module")
def run(programs: "ForkServer", tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Said], "Ended"]:
    """What each rank found, and how the run ended."""
    out = tmp_path_factory.mktemp("ranks")
    ended = programs.run(
        "torchrun", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", WORLD, __file__, out
    )
    found = [out / f"{rank}.pt" for rank in range(WORLD)]
    assert all(path.exists() for path in found), ended.stdout + ended.stderr
    return [torch.load(path) for path in found], ended


@pytest.fixture(scope="module")
def several(run: tuple[list[Said], Any]) -> list[Said]:
    return run[0]


def assert_close(found: Tensor, expected: Tensor, rounding: float) -> None:
    torch.testing.assert_close(found, expected, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("case", NORM_CASES)
def test_batch_norm_of_the_ranks_is_batch_norm_of_all_their_rows(several: list[Said], case: str) -> None:
    rounding = FAR_ROUNDING if case == "far from zero" else NORM_ROUNDING
    alone = norm_passes(fresh_norm(), case, slice(None))
    for number, expected in enumerate(alone["passes"]):
        found = [said[case]["passes"][number] for said in several]
        assert_close(torch.cat([rank["y"] for rank in found]), expected["y"], rounding)
        assert_close(torch.cat([rank["dx"] for rank in found]), expected["dx"], rounding)
        parameters = torch.stack([rank["parameters"] for rank in found])
        assert_close(parameters.sum(dim=0), expected["parameters"], rounding)


@pytest.mark.parametrize("case", NORM_CASES)
def test_running_statistics_are_those_of_all_rows_and_bitwise_equal_on_the_ranks(
    several: list[Said], case: str
) -> None:
    alone = norm_passes(fresh_norm(), case, slice(None))["state"]
    states = [said[case]["state"] for said in several]
    assert states[0].keys() == alone.keys()
    assert alone["num_batches_tracked"] == 2
    rounding = FAR_ROUNDING if case == "far from zero" else NORM_ROUNDING
    for name, expected in alone.items():
        assert_close(states[0][name], expected, rounding)
        assert torch.equal(states[0][name], states[1][name]), name


def test_unsetting_the_tracking_leaves_the_buffers_and_not_the_result(several: list[Said]) -> None:
    """As nn.BatchNorm2d has it in training."""
    for said in several:
        for name, before in fresh_norm().state_dict().items():
            assert torch.equal(said["frozen"]["state"][name], before), name
        for frozen, moved in zip(said["frozen"]["passes"], said["uneven"]["passes"], strict=True):
            assert torch.equal(frozen["y"], moved["y"])
            assert torch.equal(frozen["dx"], moved["dx"])


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_normalised_in_single_precision_and_stays_half(
    several: list[Said], half: torch.dtype
) -> None:
    norm = fresh_norm(torch.float32)
    x = half_rows(half).requires_grad_()
    y = norm(x)
    y.backward(torch.ones_like(y) * y.detach())
    found = torch.cat([said[str(half)]["y"] for said in several])
    gradient = torch.cat([said[str(half)]["dx"] for said in several])
    assert found.dtype == gradient.dtype == half
    assert all(said[str(half)]["dtypes"] == [torch.float32, torch.float32] for said in several)
    unit = torch.finfo(half).eps  # a rounding to half precision that falls on the other side
    torch.testing.assert_close(found, y.detach(), rtol=unit, atol=unit)
    assert x.grad is not None
    torch.testing.assert_close(gradient, x.grad, rtol=unit, atol=4 * unit)  # dy, of size 4, is rounded y


def test_in_evaluation_nothing_is_asked_of_other_ranks() -> None:
    """There are none here, and the result is nn.BatchNorm2d's to the bit."""
    x = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    norm = synchronised(fresh_norm()).eval()
    assert torch.equal(norm(x), fresh_norm().eval()(x))


def test_synchronised_changes_no_name_parameter_buffer_or_mode() -> None:
    model = small_network()
    model[1].eval()
    before = dict(model.state_dict(keep_vars=True))
    modules = dict(model.named_modules())
    assert synchronised(model) is model
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is tensor for name, tensor in before.items())
    assert all(module is modules[name] for name, module in model.named_modules())
    assert [type(module) for module in (model[1], model[4])] == [GlobalBatchNorm2d, GlobalBatchNorm2d]
    assert (model[1].training, model[4].training) == (False, True)


def test_synchronised_twice_is_once_and_a_copy_keeps_it() -> None:
    model = copy.deepcopy(synchronised(synchronised(small_network())))
    assert type(model[1]) is GlobalBatchNorm2d


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(2), nn.BatchNorm2d(2, affine=False), nn.BatchNorm2d(2, momentum=None)], ids=str
)
def test_a_batch_norm_without_a_global_form_is_refused_by_name(norm: nn.Module) -> None:
    with pytest.raises(TypeError, match=r"'0\.1' is BatchNorm"):
        synchronised(nn.Sequential(nn.Sequential(nn.ReLU(), norm)))


@pytest.mark.parametrize("name", NETWORKS)
def test_two_pass_steps_under_ddp_are_those_of_one_process(several: list[Said], name: str) -> None:
    """Uneven parts, and a last batch of which one rank has no row."""
    build, _, _, sizes = NETWORKS[name]
    model = build()
    alone = train(name, model, model, ONE, sizes)
    for said in several:
        assert_close(said[name]["losses"], alone["losses"], STEP_ROUNDING)
        assert_close(said[name]["gradients"], alone["gradients"], STEP_ROUNDING)
        for key, expected in alone["state"].items():
            assert_close(said[name]["state"][key], expected, STEP_ROUNDING)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_losses_and_weights_are_bitwise_equal_on_the_ranks(several: list[Said], name: str) -> None:
    first, second = (said[name] for said in several)
    assert torch.equal(first["gradients"], second["gradients"])
    assert torch.equal(first["losses"], second["losses"])
    for key, expected in first["state"].items():
        assert torch.equal(second["state"][key], expected), key


def test_statistics_of_each_rank_alone_would_be_seen(several: list[Said]) -> None:
    """Guards the comparisons above, in which they are the only difference."""
    model = small_network()
    alone = train("small", model, model, ONE, BATCHES[:1])
    for said in several:
        apart = said["batch norm of each rank alone"]
        assert (apart["losses"] - alone["losses"]).abs().min() > 1e-3
        assert (apart["gradients"] - alone["gradients"]).norm(dim=1).min() > 1e-3


def test_any_rank_is_the_same_answer_everywhere(several: list[Said]) -> None:
    assert [said["any"] for said in several] == [[False, True, True, True]] * WORLD


def test_summed_is_the_sum_on_every_rank_and_leaves_its_argument(several: list[Said]) -> None:
    expected = torch.tensor([0.1, 1e16]) + torch.tensor([0.1, 1e16]) * 2
    assert all(torch.equal(said["summed"], expected) for said in several)
    assert all(said["left alone"] for said in several)


def test_torchrun_makes_the_ranks(several: list[Said]) -> None:
    assert [said["ranks"] for said in several] == [(0, WORLD), (1, WORLD)]


def test_a_rank_that_fails_ends_the_run_with_its_message(
    run: tuple[list[Said], "Ended"],
) -> None:
    """Rather than all of them waiting for one another."""
    _, ended = run
    assert ended.returncode == 1
    assert "OrsanetError: rank 1 cannot go on" in ended.stderr


def test_leaving_the_group_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    alone_under_torchrun(monkeypatch)
    with process_group(torch.device("cpu")) as ranks:
        assert ranks == ONE
        assert torch.distributed.is_initialized()
    assert not torch.distributed.is_initialized()


@pytest.mark.cuda
def test_on_a_gpu_one_process_over_nccl_has_the_gradients_of_one_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch statistics, gradients and sums of a group of one; in float64, so that only rounding separates the two."""
    alone_under_torchrun(monkeypatch)
    cuda = torch.device("cuda", 0)
    inputs = [values.to(cuda) for values in priors(3, torch.Generator().manual_seed(0))]
    target = torch.arange(3, device=cuda)
    found = []
    with process_group(cuda):
        for wrapped in (False, True):
            model = orsanet().to(cuda)
            network = data_parallel(synchronised(model)) if wrapped else model
            cross_entropy(network(*inputs).logits, target).backward()
            gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
            found.append({**gradients, **dict(model.named_buffers())})
        assert torch.equal(summed(target, Ranks(0, 2)), target)
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=1e-8, atol=1e-10, msg=name)


def test_without_torchrun_there_is_one_process_and_no_group() -> None:
    with process_group(torch.device("cpu")) as ranks:
        assert ranks == ONE
        assert not torch.distributed.is_initialized()
        values = torch.ones(2)
        assert summed(values, ranks) is values
        assert [any_rank(flag, ranks) for flag in (False, True)] == [False, True]
        assert local_loss_scale(5, 5, ranks.world) == 1


def alone_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchrun tells its only process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    under_torchrun(monkeypatch, rank=0, processes=1)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", str(port))):
        monkeypatch.setenv(name, value)


def under_torchrun(monkeypatch: pytest.MonkeyPatch, rank: int, processes: int) -> None:
    """What torchrun tells a process."""
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("LOCAL_RANK", rank), ("LOCAL_WORLD_SIZE", processes)):
        monkeypatch.setenv(name, str(value))


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = torch.cuda.device_count()
    under_torchrun(monkeypatch, rank=gpus, processes=gpus + 1)
    with (
        pytest.raises(OrsanetError, match=rf"{gpus + 1} processes on a machine with {gpus} GPU\(s\)"),
        process_group(torch.device("cuda", gpus)),
    ):
        pass


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_of_another_process_is_refused(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    under_torchrun(monkeypatch, rank=1, processes=WORLD)
    with (
        pytest.raises(OrsanetError, match=f"--device {device}: .* cuda:1; leave --device at auto"),
        process_group(torch.device(device)),
    ):
        pass


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize(("start", "stop"), [(0, 7), (10, 15), (4, 5), (3, 3)])
def test_rows_of_the_ranks_are_array_splits(world: int, start: int, stop: int) -> None:
    positions = np.arange(20)
    parts = np.array_split(positions[start:stop], world)
    for rank, expected in enumerate(parts):
        np.testing.assert_array_equal(positions[Ranks(rank, world).rows(start, stop)], expected)


def test_only_the_first_rank_is_the_main_one() -> None:
    assert [Ranks(rank, 3).main for rank in range(3)] == [True, False, False]


@pytest.mark.parametrize(("total", "world"), [(5, 2), (1, 2), (7, 3), (2, 4)])
def test_scaled_mean_losses_average_to_the_global_mean(total: int, world: int) -> None:
    losses = np.random.default_rng(0).random(total)
    parts = [losses[Ranks(rank, world).rows(0, total)] for rank in range(world)]
    scaled = [local_loss_scale(len(part), total, world) * (part.mean() if len(part) else 0.0) for part in parts]
    assert np.mean(scaled) == pytest.approx(losses.mean(), rel=1e-14)  # a few roundings
    assert all((scale == 0) == (len(part) == 0) for scale, part in zip(scaled, parts, strict=True))


if __name__ == "__main__":
    take_part(Path(sys.argv[1]))
