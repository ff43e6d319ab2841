"""Evaluated runs -> report.html, report.md and report.json, in one call."""

from collections.abc import Sequence

import torch

from orsanet_cache.device import as_device
from orsanet_cache.durable import prepare_folder
from orsanet_cache.paths import StrPath, as_names, as_path, as_paths
from orsanet_train.report.album import album
from orsanet_train.report.contents import Report
from orsanet_train.report.page import write_report
from orsanet_train.report.report import make_report


def save_report(
    runs: Sequence[StrPath],
    out: StrPath,
    *,
    checkpoint: str = "best",
    split: str | None = None,
    images: Sequence[str] | None = None,
    store: StrPath | None = None,
    device: torch.device | str = "auto",
) -> Report:
    """Write the report of evaluated runs into the folder `out`, as `orsanet-train report` does, and return what it says.

    `runs` are run folders, or folders of seeds; several are compared with the first. `checkpoint` is "best" or "last". `split` is shown
    in detail (None: test, else the first evaluated), and `images` are those whose attention is shown (None: the surest mistakes). `store`
    is where the store is now, if it was moved.
    Raises OrsanetError for a run without an evaluation, where the store does not hold what was evaluated, or without matplotlib.
    """
    folders, folder, chosen = as_paths(runs, "runs"), as_path(out, "out"), as_device(device)
    wanted = None if images is None else as_names(images, "images")
    report, sources = make_report(folders, checkpoint, split, store)
    prepare_folder(folder)
    write_report(report, [album(source, wanted, chosen) for source in sources], folder)
    return report
