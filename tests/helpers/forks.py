"""Processes of a command line or a program of the tests that need not load torch: forks of one that has.

A fork is a process like any other: it has its own memory, exit code and output, and every signal does to it what it does to the command.
What it has not done is start: that `python -m` finds the command at all needs a process that starts.

Started as a program with lines to execute before the first fork. It computes nothing itself: no thread exists to be lost by a fork.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from command_lines import Ended
from tqdm.auto import tqdm

# Libraries that the commands use; nothing of ours, so each fork of a server that knows no more finds out whether a command imports
# all that it uses.
LIBRARIES = """
import cv2, h5py, jinja2, matplotlib.backends.backend_agg, matplotlib.figure, pandas, pydantic, safetensors.torch, scipy.fft, scipy.optimize
import scipy.stats, sklearn.metrics, torch._dynamo, torch.utils.tensorboard, torchvision, zarr.storage
"""
MODULES = {
    "orsanet-cache": "orsanet_cache.cli", "orsanet-train": "orsanet_train.cli",
    "torchrun": "torch.distributed.run",  # whose processes are no forks: they start as a user's do
}  # fmt: skip
PATIENCE = 600.0  # seconds that no command needs


def as_torchrun_tells(processes: int) -> list[dict[str, str]]:
    """The environment of each of the processes that torchrun would start on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    same = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_PORT": port}
    ranks = [{**same, "RANK": rank, "LOCAL_RANK": rank} for rank in range(processes)]
    words = {"TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "127.0.0.1"}
    return [{**words, **{name: str(value) for name, value in numbers.items()}} for numbers in ranks]


class Fork:
    """What subprocess.Popen has of a process, as far as tests need it. Its errors are in its output, unless they have their own file."""

    def __init__(self, server: "ForkServer", pid: int, log: Path, errors: Path | None) -> None:
        self.pid, self.returncode = pid, None
        self._server, self._log, self._errors = server, log, errors

    def send_signal(self, number: int) -> None:
        if self.poll() is None:  # after which the id may be another's
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        self._look()
        return self.returncode

    def wait_until_stopped(self, timeout: float) -> None:
        until = time.monotonic() + timeout
        while not self._look():
            assert self.returncode is None, self._log.read_text()
            assert time.monotonic() < until, "does not stop"
            time.sleep(0.002)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for its end -> what it said, and its errors unless they are part of it."""
        until = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < until, f"does not end: {self._log.read_text()}"
            time.sleep(0.01)
        return self._log.read_text(), "" if self._errors is None else self._errors.read_text()

    def _look(self) -> bool:
        """Is it stopped, which is seen once?"""
        if self.returncode is None:
            found, status = self._server.ask({"look at": self.pid})
            if found and os.WIFSTOPPED(status):
                return True
            if found:
                self.returncode = os.waitstatus_to_exitcode(status)
        return False


class ForkServer:
    """Starts forks of a process that has executed `before`."""

    def __init__(self, before: str = LIBRARIES) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._forks: list[Fork] = []
        self._process = subprocess.Popen(
            [sys.executable, __file__, before], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def start(
        self, program: str, *arguments: object, folder: Path | None = None, apart: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> Fork:  # fmt: skip
        """The process of a command line, or of a Python file with a `main`, in that working folder.

        `apart`: its errors are no part of its output. `environment`: variables besides the server's.
        """
        log = Path(self._folder.name, f"{len(self._forks)}.log")
        errors = log.with_suffix(".err") if apart else None
        pid = self.ask({
            "module": MODULES.get(program, program), "start": [*map(str, arguments)], "folder": str(folder or Path.cwd()),
            "log": str(log), "errors": str(errors or log), "environment": dict(environment or {}),
        })  # fmt: skip
        self._forks.append(Fork(self, pid, log, errors))
        return self._forks[-1]

    def run(self, program: str, *arguments: object, folder: Path | None = None) -> Ended:
        """Start a command and wait for its end."""
        process = self.start(program, *arguments, folder=folder, apart=True)
        out, errors = process.communicate(PATIENCE)
        assert process.returncode is not None
        return Ended(process.returncode, out, errors)

    def ask(self, order: dict[str, Any]) -> Any:
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """Also what a test that failed has left."""
        for fork in self._forks:
            fork.kill()
        self._process.communicate(timeout=60)
        self._folder.cleanup()


def become(order: dict[str, Any]) -> None:
    """A fork's whole life."""
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, file in ((1, order["log"]), (2, order["errors"])):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    code, module = 1, order["module"]
    try:
        main = runpy.run_path(module)["main"] if module.endswith(".py") else importlib.import_module(module).main
        main(order["start"])
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve(before: str) -> None:
    """Fork commands, and say what became of them, until stdin ends."""
    # tqdm's lock is shared with forks: one killed with it would keep it from all others. A process that starts has its own.
    tqdm.set_lock(threading.RLock())
    exec(before, {})
    gc.freeze()  # else a fork's collector copies every page
    for line in sys.stdin:
        order = json.loads(line)
        if "look at" in order:
            print(json.dumps(os.waitpid(order["look at"], os.WNOHANG | os.WUNTRACED)), flush=True)
            continue
        pid = os.fork()
        if not pid:
            become(order)
        print(json.dumps(pid), flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
