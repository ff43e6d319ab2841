"""Evaluated runs -> report.html, report.md and report.json, in one call."""

from collections.abc import Sequence

import torch

from orsanet_cache.device import as_device
from orsanet_cache.outputs import output_folder
from orsanet_cache.paths import StrPlace, as_names, as_place, as_places
from orsanet_train.model.beside import written
from orsanet_train.model.fetched import local_runs
from orsanet_train.report.album import albums
from orsanet_train.report.contents import Report
from orsanet_train.report.page import FOLDER, check_same_runs, write_report
from orsanet_train.report.report import make_report


def save_report(
    runs: Sequence[StrPlace],
    out: StrPlace,
    *,
    checkpoint: str = "best",
    split: str | None = None,
    images: Sequence[str] | None = None,
    store: StrPlace | None = None,
    device: torch.device | str = "auto",
) -> Report:
    """Write the report of evaluated runs, as `orsanet-train report` does, and return its contents.

    An earlier report of the same runs is replaced when the new one is whole. Raises OrsanetError for
    a run without an evaluation, if the store is not the evaluated one, if matplotlib is not
    installed, and if `out` has anything else or another command writes it.

    Args:
        runs: Run folders, or folders of seeds, or their URLs. Several are compared with the first.
        out: The folder to write into, or its URL.
        checkpoint: "best" or "last".
        split: The split to show in detail. None: test if it was evaluated, otherwise the first
            evaluated split.
        images: The images whose attention is shown. None: the most confident mistakes.
        store: The store's present path. None: its path at evaluation.
        device: "auto", "cpu", "cuda", "cuda:N" or a torch.device; computes the attention.
    """
    places, target, chosen = as_places(runs, "runs", "run"), as_place(out, "out", "run"), as_device(device)
    wanted = None if images is None else as_names(images, "images")
    with (
        local_runs(places, checkpoint) as folders,
        written(target, FOLDER) as folder,
        output_folder(folder, FOLDER) as staged,
    ):
        report, sources = make_report(folders, checkpoint, split, store)
        check_same_runs(report, folder)
        write_report(report, albums(sources, wanted, chosen), staged)
    return report
