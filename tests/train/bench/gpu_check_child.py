"""The tiny check on a CPU with two entries of its own, one that fails and one that dies. Not a test: test_gpu_check.py starts it with OUT."""

import os
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from orsanet_train.bench import gpu_check
from orsanet_train.bench.gpu_entries import ROOT, Entry, Report, Setting, planned, tests


def fails(setting: Setting, report: Report) -> None:
    report.figure("before the end", 1.5, "img/s")
    report.failed("a contender", "Traceback of the contender")
    raise ValueError("this contender is made to fail")


def dies(setting: Setting, report: Report) -> None:
    print("its last words", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(setting: Setting, report: Report) -> None:
    (setting.folder / "left over").mkdir()
    report.figure("before the hang", 2)
    time.sleep(600)


if __name__ == "__main__":
    # Of the files with tests for a GPU one is enough: to import them all takes long, and all are skipped.
    few = partial(tests, paths=[ROOT / "tests" / "cache" / "test_device.py"])
    entries = [replace(entry, work=few) if entry.name == "tests" else entry for entry in planned(tiny=True)]
    more = [Entry("fails", 60, fails), Entry("dies", 60, dies), Entry("hangs", 0.02, hangs)]
    minutes = 60.0  # so that a busy machine ends no entry but the one that hangs
    gpu_check.check([*entries[:1], *more, *entries[1:]], Path(sys.argv[1]), device="cpu", tiny=True, minutes=minutes)
