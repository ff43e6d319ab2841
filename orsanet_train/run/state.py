"""The state from which a run resumes, as folders that are whole or absent.

    RUN/checkpoints/00000003-000120/     epoch being trained (from 0) and steps of it that are done
        tensors.safetensors              weights, optimiser, loss scale, …; named by the caller
        state.json                       the numbers, and the checksums of both files

    temporary folder → fsync of its files and of it → rename → fsync of the parent
                     → removal of older states

A state has everything that determines the next steps. The newest two are kept. When a state is
saved again, the old folder is called 00000003-000120.replaced until the new one has its name. A
process killed at any point leaves whole states, and temporaries, which the next save removes.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from torch import Tensor

from orsanet_cache.durable import make_folder, sync_folder, write_temporary
from orsanet_cache.errors import OrsanetError, listed, refuse_shortage
from orsanet_cache.progress import warn
from orsanet_cache.reading import MAX_JSON_BYTES, open_regular, read_limited
from orsanet_train.engine.distributed import Ranks, from_main, tensors_from_main

TENSORS = "tensors.safetensors"
NUMBERS = "state.json"
KEPT = 2

_STATE = re.compile(r"(\d{8,})-(\d{6,})(\.replaced)?")
_TEMPORARY = re.compile(rf"\.{_STATE.pattern}\.tmp")

# Names of the safetensors format; all types that its oldest supported release reads.
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class TrainingState:
    """The position and content of a run: `step` steps of epoch `epoch` (from 0) are done."""

    epoch: int
    step: int
    history: list[dict[str, float]]  # metrics.csv: a row per finished epoch
    metrics: list[float]  # running sums of the unfinished epoch
    tensors: dict[str, Tensor]  # by name, "model/…", "optimizer/…"; any shapes, floating, integer or bool

    @property
    def name(self) -> str:
        """Name of the state's folder."""
        return f"{self.epoch:08d}-{self.step:06d}"


def save_state(folder: Path, state: TrainingState) -> None:
    """Write a state into `folder` (created if absent), and keep the newest state before it.

    All other states are removed, including those of a later position: a run that saves an earlier
    position has resumed from before them, because they were damaged. Tensors may lie on any device,
    share memory or have gaps; each is saved as its values only, copied to the CPU one at a time.

    Raises OrsanetError if the state cannot be written; the earlier states are then unchanged.
    Raises ValueError for a number that is not finite, and for a tensor of a type that safetensors
    has no name for.
    """
    final, temporary = folder / state.name, folder / f".{state.name}.tmp"
    with _told(f"{final}: the training state cannot be saved"):
        make_folder(folder)
        _remove_temporaries(folder)  # first: the remains of a kill may fill the disk
        try:
            temporary.mkdir()
            checksum = _write_tensors(temporary / TENSORS, state.tensors)
            write_temporary(
                temporary / NUMBERS, [_numbers(state.epoch, state.step, state.history, state.metrics, checksum)]
            )
            sync_folder(temporary)
            if os.path.lexists(final):
                aside = folder / f"{state.name}.replaced"
                _remove(aside)
                os.rename(final, aside)
            os.rename(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync_folder(folder)
    with _told(f"{folder}: older training states cannot be removed"):
        before = [path for path in _states(folder) if _position(path) < (state.epoch, state.step)]
        for path in _states(folder):
            if path not in (final, *before[: KEPT - 1]):
                os.rename(path, folder / f".{path.name}.tmp")  # so that a kill leaves no half of it under its name
        _remove_temporaries(folder)


def load_state(folder: Path) -> TrainingState | None:
    """Read the newest whole state; None if the folder has no states.

    Tensors are on the CPU, each in its own memory. Warnings on stderr name damaged newer states.
    Raises OrsanetError if all states are damaged.
    """
    findings: list[str] = []
    with _told(f"{folder}: the training states cannot be read"):
        paths = _states(folder) if folder.exists() else []
    for path in paths:
        try:
            state = _read(path)
        except OrsanetError as error:
            findings.append(str(error))
            continue
        for finding in findings:
            warn(f"warning: {finding}; resuming from the state before, {path.name}")
        return state
    if findings:
        raise OrsanetError(
            f"{folder}: all training states are damaged; start again in another folder:\n{listed(findings)}"
        )
    return None


def load_shared_state(folder: Path, ranks: Ranks) -> TrainingState | None:
    """As `load_state`, read by the main rank and sent to the others, who need not see the folder."""
    state: TrainingState | None = None

    def without_tensors() -> TrainingState | None:
        nonlocal state
        state = load_state(folder)
        return None if state is None else replace(state, tensors={})

    sent = from_main(without_tensors, ranks)
    if sent is None:
        return None
    own = {} if state is None else state.tensors
    return replace(sent, tensors=tensors_from_main(own, ranks))


def newest_position(folder: Path) -> tuple[int, int]:
    """Epoch and step of the newest whole state; (-1, -1) without one. No tensor is kept in memory."""
    with _told(f"{folder}: the training states cannot be read"):
        paths = _states(folder) if folder.exists() else []
    for path in paths:
        try:
            _check(path)
            return _position(path)
        except OrsanetError:
            continue
    return -1, -1


def receive_state(folder: Path, name: str, files: Mapping[str, bytes]) -> bool:
    """Write a state that comes from elsewhere. Returns False, and keeps nothing, if it is damaged."""
    final, temporary = folder / name, folder / f".{name}.tmp"
    with _told(f"{final}: the training state cannot be written"):
        make_folder(folder)
        _remove_temporaries(folder)
        try:
            temporary.mkdir()
            for file, content in files.items():
                write_temporary(temporary / file, [content])
            sync_folder(temporary)
            try:
                _check(temporary, name)
            except OrsanetError:
                return False
            _remove(final)
            os.rename(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync_folder(folder)
    return True


def _read(path: Path) -> TrainingState:
    """Read a state.

    Raises OrsanetError unless it is, to the last bit, the state that was saved under this name.
    """
    numbers = _check(path)
    try:
        # Copies, not views of the file: torch aligns its own memory, and kernels may round
        # differently with another alignment.
        with safetensors.safe_open(path / TENSORS, framework="pt") as file:
            return TrainingState(**numbers, tensors={name: file.get_tensor(name).clone() for name in file.keys()})  # noqa: SIM118
    except (OSError, RuntimeError, ValueError, TypeError, safetensors.SafetensorError) as error:
        # RuntimeError: torch maps the file itself
        refuse_shortage(error, path)
        raise OrsanetError(f"{path}: damaged ({error})") from error


def _check(path: Path, name: str | None = None) -> dict[str, Any]:
    """The numbers of a state whose checksums are right. `name` is the state's, if not the path's.

    Raises OrsanetError for a damaged state.
    """
    try:
        numbers, checksum = _checked_numbers(read_limited(path / NUMBERS, MAX_JSON_BYTES))
        if _file_crc32c(path / TENSORS) != checksum:
            raise ValueError(f"{TENSORS} does not match its checksum")
        found = TrainingState(**numbers, tensors={}).name
        if found != (name or path.name.removesuffix(".replaced")):
            raise ValueError(f"it contains the state {found}")
    except (OSError, ValueError, TypeError) as error:
        refuse_shortage(error, path)
        raise OrsanetError(f"{path}: damaged ({error})") from error
    return numbers


def _checked_numbers(content: bytes) -> tuple[dict[str, Any], int]:
    """state.json -> its numbers and the checksum of the tensors.

    Raises ValueError if any byte has changed since it was written.
    """
    try:
        numbers = json.loads(content)
        checksum = numbers.pop("crc32c")[TENSORS]
        if _numbers(**numbers, tensors_crc32c=checksum) == content:
            return numbers, checksum
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:  # from damaged bytes
        raise ValueError(f"{NUMBERS} cannot be read: {type(error).__name__}") from error
    raise ValueError(f"{NUMBERS} does not match its checksum")


def _numbers(
    epoch: int, step: int, history: list[dict[str, float]], metrics: list[float], tensors_crc32c: int
) -> bytes:
    """state.json, the same bytes for the same numbers.

    Its own checksum covers the content without this checksum.
    """
    checksums = {TENSORS: tensors_crc32c}
    content = {"epoch": epoch, "step": step, "history": history, "metrics": metrics, "crc32c": checksums}
    checksums[NUMBERS] = google_crc32c.value(json.dumps(content, allow_nan=False).encode())
    return json.dumps(content, allow_nan=False).encode()  # Python writes a float so that it reads back the same


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> int:
    """Write a safetensors file, fsync it, and return its CRC-32C.

    The safetensors library is not used. Its bytes need twice the tensors' memory. When it writes a
    file, it reports a full disk as a fault of the format, and only the owner can read the file.
    CRC-32C, as in the store, is seven times as fast as SHA-256 here; protection against attackers
    is not needed.
    """
    ordered = sorted(
        tensors.items(), key=lambda item: -item[1].itemsize
    )  # each then lies at a multiple of its items' size
    header: dict[str, object] = {}
    end = 0
    for name, tensor in ordered:
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"tensor '{name}' is {tensor.dtype}, which safetensors has no name for")
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    start = np.frombuffer(len(text).to_bytes(8, "little") + text, np.uint8)
    checksum = 0
    with open(path, "wb", buffering=0) as file:
        for values in (start, *map(_values, (tensor for _, tensor in ordered))):
            checksum = google_crc32c.extend(checksum, values)
            rest = values.data
            while rest:
                rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    return checksum


def _values(tensor: Tensor) -> NDArray[np.uint8]:
    """A tensor's values one after the other, as bytes [N]; read-only, as the checksum requires."""
    values: NDArray[np.uint8] = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    values.setflags(write=False)
    return values


def _file_crc32c(path: Path) -> int:
    piece = np.empty(1 << 20, np.uint8)  # stays in the processor's cache
    read_only = piece.view()
    read_only.setflags(write=False)
    checksum = 0
    with open(open_regular(path), "rb", buffering=0) as file:
        while count := file.readinto(piece.data):
            checksum = google_crc32c.extend(checksum, read_only[:count])
    return checksum


def _states(folder: Path) -> list[Path]:
    """All paths with the name of a state, the newest first.

    Of two at one position the replacement is first.
    """
    paths = [path for path in folder.iterdir() if _STATE.fullmatch(path.name)]
    return sorted(paths, key=lambda path: (_position(path), not path.suffix), reverse=True)


def _position(path: Path) -> tuple[int, int]:
    epoch, step = path.name.removesuffix(".replaced").split("-")
    return int(epoch), int(step)


def _remove_temporaries(folder: Path) -> None:
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a folder and its contents, or a link or file in its place.

    A path that does not exist is ignored.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn an error of the disk into an OrsanetError with advice."""
    try:
        yield
    except OSError as error:
        refuse_shortage(error, what)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "make room there" if full else "make this folder readable and writable"
        raise OrsanetError(f"{what} ({error.strerror or error}); {advice}, then continue with --resume") from error
