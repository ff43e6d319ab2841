"""A device is resolved in one way, whether it is given by name or as torch's object."""

import pytest
import torch

from orsanet_cache import OrsanetError
from orsanet_cache.device import allow_tf32, as_device


@pytest.mark.parametrize("given", ["cpu", torch.device("cpu")])
def test_name_and_device_are_the_same_and_both_forbid_tf32(given: str | torch.device) -> None:
    """Otherwise the priors of build(device=torch.device("cuda")) would not be those of device="cuda"."""
    before = torch.backends.cudnn.allow_tf32
    allow_tf32(True)
    try:
        assert as_device(given) == torch.device("cpu")
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        allow_tf32(before)


@pytest.mark.parametrize("given", ["meta", torch.device("meta")])
def test_other_kinds_of_device_are_refused(given: str | torch.device) -> None:
    with pytest.raises(OrsanetError, match="--device meta: not available here"):
        as_device(given)


@pytest.mark.cuda
def test_a_gpu_without_a_number_is_the_current_one() -> None:
    assert as_device(torch.device("cuda")) == torch.device("cuda", torch.cuda.current_device())
