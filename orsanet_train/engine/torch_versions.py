"""Differences among the supported releases of torch, 2.10 to 2.15.

All other code is the same for all releases. These differences are avoided in other modules:

- `data_parallel` (distributed.py) sets an attribute, because the argument of that name was renamed.
- `allow_tf32` (orsanet_cache/device.py) uses the older switches, which all releases have.
- Batches are contiguous (`model_image` in model/inputs.py), because torch 2.15 corrupts memory with
  channels last on a CPU.
"""

import torch.distributed as dist
from torch import Tensor


def all_gather_single(every: Tensor, own: Tensor) -> None:
    """Concatenate the ranks' tensors, in the ranks' order.

    own [n, ...], of one shape on all ranks -> every [ranks * n, ...].
    """
    if hasattr(dist, "all_gather_single"):
        dist.all_gather_single(every, own)
    else:  # before torch 2.14, which renamed it
        dist.all_gather_into_tensor(every, own)
