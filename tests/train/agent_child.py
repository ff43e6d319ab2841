"""One of the two agents of `torchrun --nnodes 2`, whose process of `orsanet-train` is a fork of it: torchrun's own would load torch for
longer than it trains.

Not a test: run_child.py calls `main`.
"""

import os
from collections.abc import Sequence

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from orsanet_train.cli import main as command


def main(port: int, arguments: Sequence[str]) -> None:
    os.setpgid(0, 0)  # so that the agent is killed with its process
    config = LaunchConfig(
        min_nodes=2, max_nodes=2, nproc_per_node=1, run_id="runs", rdzv_backend="c10d", rdzv_endpoint=f"127.0.0.1:{port}",
        local_addr="127.0.0.1", start_method="fork", max_restarts=0, monitor_interval=0.05,
    )  # fmt: skip
    elastic_launch(config, train)(*arguments)


def train(*arguments: str) -> None:
    command(arguments, standalone_mode=False)
