"""Builds stores with Ray, on a cluster of its own with two workers, and notes every batch that a worker begins.

A fork of the tests' server (helpers/forks.py) runs it with one argument, a JSON file: the manifest, the weights, where the notes go, and
the builds. The networks take a while, so that a test has the time to kill a worker in its midst.
"""

import hashlib
import json
import os
import time
from pathlib import Path

import ray
import torch

from orsanet_cache import FrozenPriors
from orsanet_cache.builder.build import build
from orsanet_cache.frozen.priors import Priors


class Noting(FrozenPriors):
    """The same networks. A line with process and batch goes where a kill cannot take it back, before they compute it."""

    notes: str
    seconds: float

    def forward(self, images: torch.Tensor, erased: torch.Tensor | None = None) -> Priors:
        line = f"{os.getpid()} {hashlib.sha256(images.numpy().data).hexdigest()}\n"
        descriptor = os.open(self.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, line.encode())
        os.close(descriptor)
        time.sleep(self.seconds)
        return super().forward(images, erased)


def main(arguments: list[str]) -> None:
    order = json.loads(Path(arguments[0]).read_text())
    loaded = FrozenPriors.load(order["segmenter"], order["landmarks"])
    priors = Noting(loaded.segmenter, loaded.landmark_network, loaded.landmark_input)
    priors.files = loaded.files
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    for each in order["builds"]:
        priors.notes, priors.seconds = each["notes"], order["seconds"]
        summary = build(each["manifest"], each["out"], priors, device="cpu", engine="ray", **order["options"])
        print(json.dumps([summary.computed, summary.reused, summary.added, summary.waiting]), flush=True)
    ray.shutdown()
