"""What results and reports of errors depend on: versions, processor, device, and what a folder's file system offers.

Nothing is measured here; `orsanet-cache version --verbose` prints it.
"""

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import torch

from orsanet_cache.device import processor_name
from orsanet_cache.durable import check_excludes, locked
from orsanet_cache.errors import OrsanetError
from orsanet_cache.outputs import exchange_names

_REQUIREMENT = re.compile(r"([\w.-]+).*?(; *extra == ['\"](\w+)['\"])?$")


def described(folder: Path) -> list[str]:
    """Lines about versions, processor, devices, and the file system of an existing folder.

    Raises OrsanetError if the folder does not exist.
    """
    if not folder.is_dir():
        raise OrsanetError(f"{folder}: is not a folder; name one that exists, such as that of the store")
    return [
        f"orsanet {version('orsanet')} in {Path(__file__).parents[2]}",
        f"Python {platform.python_version()}, {platform.platform()}",
        *packages(),
        processor(),
        *devices(),
        *file_system(folder),
    ]


def packages() -> Iterator[str]:
    """The versions of what orsanet requires: a line for run time, and one for each extra that users have."""
    found: dict[str, list[str]] = {}
    for text in requires("orsanet") or ():
        if (match := _REQUIREMENT.match(text)) is not None and match[1] != "orsanet":
            found.setdefault(match[3] or "", []).append(f"{match[1]} {installed_version(match[1])}")
    for extra in ("", "plots", "export"):
        yield f"{f'for {extra}: ' if extra else ''}{', '.join(found.get(extra, ['unknown']))}"


def processor() -> str:
    """Its name, the cores that this process may use, and the threads that a computation takes."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    set_by_user = [
        f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY") if name in os.environ
    ]
    threads = f"{torch.get_num_threads()} threads"
    return f"processor: {processor_name()}; {usable} of {os.cpu_count()} cores usable; {', '.join([threads, *set_by_user])}"


def devices() -> Iterator[str]:
    """The GPUs that PyTorch finds, or why it finds none."""
    if not torch.cuda.is_available():
        built = torch.version.cuda
        yield f"device: cpu ({'PyTorch was built without CUDA' if built is None else f'PyTorch for CUDA {built} finds no GPU'})"
        return
    yield f"device: cuda; CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, NCCL {nccl_version()}"
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        yield f"  cuda:{index}: {found.name}, {found.total_memory / 2**30:.0f} GiB, capability {found.major}.{found.minor}"


def file_system(folder: Path) -> Iterator[str]:
    """The kind of file system, the free space, and whether it offers what builds and runs use.

    The folder gets a folder of its own for a moment. Locks are tested within this machine
    (docs/clusters.md has a test between two).
    """
    free = shutil.disk_usage(folder).free / 1e9
    yield f"file system of {folder.resolve()}: {_kind(folder)}; {free:,.1f} GB free"
    try:
        with tempfile.TemporaryDirectory(prefix=".orsanet-version-", dir=folder) as made:
            for name, test in (("locks", _locks), ("hard links", _links), ("exchange of names", _exchange)):
                yield f"  {name}: {test(Path(made))}"
    except OSError as error:
        yield f"  not tested: nothing can be written there ({error.strerror or error})"


def _locks(folder: Path) -> str:
    path = folder / "lock"
    path.touch()
    try:
        with locked(path):
            check_excludes(path)
    except OrsanetError as error:
        return f"NO ({str(error).partition(': ')[2].partition(';')[0]})"
    return "yes, within this machine"


def _links(folder: Path) -> str:
    one, other = folder / "one", folder / "other"
    one.touch()
    try:
        os.link(one, other)
    except OSError as error:
        return f"NO ({error.strerror})"
    try:
        os.link(one, other)
    except FileExistsError:
        return "yes"
    return "NO (an existing name is replaced)"


def _exchange(folder: Path) -> str:
    one, other = folder / "this", folder / "that"
    one.mkdir()
    other.mkdir()
    return "yes" if exchange_names(one, other) else "no; a folder is replaced by two renames"


def _kind(folder: Path) -> str:
    """The type of the mount that the folder is in, "ext4" or "nfs4"."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:  # not Linux
        return "unknown"
    path = folder.resolve()
    # Of several mounts at one place the last is seen; blanks in a name are \040.
    places = [(mount[1].replace("\\040", " "), mount[2]) for mount in mounts]
    inside = [(len(place), number, kind) for number, (place, kind) in enumerate(places) if path.is_relative_to(place)]
    return max(inside)[2] if inside else "unknown"


def installed_version(package: str) -> str:
    """The version of a package, or "absent"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def nccl_version() -> str:
    """The version of NCCL that torch was built with, or "absent"."""
    try:
        return ".".join(map(str, torch.cuda.nccl.version()))
    except (AttributeError, RuntimeError):
        return "absent"
