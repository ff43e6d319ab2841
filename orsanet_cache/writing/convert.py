"""Conversion of a sealed store from a Zarr folder to an HDF5 file, or back, and its copy to and from a URL.

    source ─ every unit against its seal ─▶ TARGET.converting/store ─ fsync, every unit read back against the seal ─▶ rename to TARGET
    source ─ every unit against its seal ─▶ a URL: transfer.py

The copy has the same seals; of a store that has grown it has all segments and states. A kill leaves
TARGET.converting, which the next try replaces, and never an incomplete target; at a URL it leaves
objects without the root's zarr.json, where the next try goes on.

With a URL on either side the files of a Zarr store are copied as they are: upload, download, copy.
"""

import hashlib
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.durable import locked, make_folder, sync_folder
from orsanet_cache.errors import OrsanetError, UnreachableError, listed, refuse_shortage
from orsanet_cache.paths import StrPlace, Url, as_place
from orsanet_cache.places.bucket import MOST_BYTES, Bucket
from orsanet_cache.places.folder import FolderOutput
from orsanet_cache.places.transfer import upload
from orsanet_cache.progress import Progress
from orsanet_cache.store.container import DAMAGE, Container, ContainerWriter, open_container
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.schema import OPTIONAL, SAMPLE_ID_AXES, Addition, Field, encode_ids, schema
from orsanet_cache.store.seal import unit_digest, write_records
from orsanet_cache.store.states import State, States, has_rows, write_state
from orsanet_cache.store.units import COMMITS
from orsanet_cache.store.zarr_folder import METADATA, FetchedRows, ZarrFolder
from orsanet_cache.writing.hdf5_writer import new_hdf5_file
from orsanet_cache.writing.zarr_writer import ZarrWriter, check_sizes

SUFFIX = ".converting"
HDF5_SUFFIXES = (".h5", ".hdf5")
THREADS = 8
MAX_FILE_BYTES = 2**40
LOCK = "orsanet-cache-convert.lock"  # marks such a folder as one of this package
FREE_SPACE_MARGIN = 1.05

_States = dict[tuple[str, int], State]  # by split and number


def convert(source: StrPlace, target: StrPlace) -> PriorStore:
    """Write a copy of a store and open it: in the other format, Zarr or HDF5, or as it is if one of the two is a URL.

    From a URL to a path that ends with .h5 or .hdf5 the copy is an HDF5 file.

    Raises OrsanetError if the source is not finished or is damaged, the target exists, or the disk
    has too little space.
    """
    source, target = as_place(source, "source"), as_place(target, "target")
    container = open_container(source)
    store = PriorStore(container)
    check_is_finished(store)
    states = _states(store, container)
    if isinstance(target, Url):
        _upload(store, container, target)
        return PriorStore.open(target)
    try:
        with workplace(target) as folder:
            check_disk(store, folder, target)
            staged = folder / "store"
            with Progress(2 * _size(store), "convert", "B", unit_scale=True) as progress:
                if isinstance(source, Url) and target.suffix not in HDF5_SUFFIXES:
                    _download(store, container, staged, progress)
                else:
                    _write(store, container, states, staged, progress)
                _check_copy(store, states, staged, target, progress)
            check_is_free(target)
            staged.rename(target)
            sync_folder(target.absolute().parent)
    except UnreachableError:
        raise
    except OSError as error:
        refuse_shortage(error, target)
        raise OrsanetError(
            f"{target}: cannot be written ({error.strerror or error}), and the incomplete copy was deleted; "
            f"free some space or choose another place, and run the same command again"
        ) from error
    return PriorStore.open(target)


def _upload(store: PriorStore, container: Container, target: Url) -> None:
    if not isinstance(container, ZarrFolder):
        raise OrsanetError(
            f"{store.path}: an HDF5 file cannot be copied to a URL; convert it to a Zarr folder first, and copy that"
        )
    names = _files(container)
    check_sizes(target, _sizes(container, names), MOST_BYTES)
    bucket = Bucket.open(target)
    with Progress(sum(_sizes(container, names).values()), "upload", "B", unit_scale=True) as progress:
        upload(bucket, names, METADATA, _reader(store, container), progress.update)


def _download(store: PriorStore, container: Container, staged: Path, progress: Progress) -> None:
    """Write the files of a store at a URL into a folder."""
    assert isinstance(container, ZarrFolder)
    read, folder = _reader(store, container), FolderOutput(staged, staged.with_name("temporary"))
    names = [METADATA, *_files(container)]
    share = _size(store) / max(1, sum(_sizes(container, names).values()))  # progress counts values
    with ThreadPoolExecutor(THREADS, "download") as pool:
        for window in range(0, len(names), 4 * THREADS):  # what is fetched waits in memory
            part = names[window : window + 4 * THREADS]
            for name, content in zip(part, pool.map(read, part), strict=True):
                folder.publish(name, [content])
                progress.update(int(len(content) * share))


def _files(container: ZarrFolder) -> list[str]:
    """The names of a finished store's files, without that of its root."""
    names = (name for name in container.files.entries() if not name.startswith(f"{COMMITS}/"))
    return [
        name
        for name in names
        if name != METADATA and (last := name.rpartition("/")[2]) and (last == METADATA or last.startswith("c."))
    ]


def _sizes(container: ZarrFolder, names: Sequence[str]) -> dict[str, int]:
    entries = container.files.entries()
    return {name: entries[name].size for name in names}


def _reader(store: PriorStore, container: ZarrFolder) -> Callable[[str], bytes]:
    """A function that returns the content of a file of a store, after a comparison with its seal."""
    arrays = {
        f"{split}/{view}/{field}": (split, view, field)
        for split in store.splits
        for view in store.groups(split)
        for field in store.sealed(split, view).fields
    }
    digests = {array: _digests(store, *of_array) for array, of_array in arrays.items()}
    layouts = {array: store.sealed(*of_array[:2]).fields[of_array[2]] for array, of_array in arrays.items()}
    ranges = {split: _ranges(store, split) for split in {split for split, _, _ in arrays.values()}}

    def read(name: str) -> bytes:
        array, _, file = name.rpartition("/")
        if array in arrays and file != METADATA:
            unit = int(file.split(".")[1])
            rows = container.rows(array, None)
            part = ranges[arrays[array][0]][unit]
            try:
                same = unit_digest(rows, layouts[array], part.start, part.stop) == digests[array][unit]
            except DAMAGE as error:
                refuse_shortage(error, store.path)
                same = False
            if not same:
                raise _differs(store, array, part)
            if isinstance(rows, FetchedRows):
                return rows.content(unit)
        return container.files.read(name, MAX_FILE_BYTES)

    return read


def _differs(store: PriorStore, array: str, rows: slice) -> OrsanetError:
    return OrsanetError(
        f"{store.path}: {array}, rows {rows.start} to {rows.stop - 1}, does not match the seal; "
        f"`orsanet-cache verify {store.path} --deep` prints all damage"
    )


def _states(store: PriorStore, container: Container) -> _States:
    """The states that are indices, by split and number. Raises OrsanetError for one that is damaged."""
    try:
        known = States.of(container)
        return {
            (split, number): known.read(container, split, number)
            for split in known.by_split
            for number in known.numbers(split)
        }
    except DAMAGE as error:
        refuse_shortage(error, store.path)
        raise OrsanetError(
            f"{store.path}: the index of a split is damaged ({error}); run `orsanet-cache build` with its manifest again, "
            f"which computes no row that the store has"
        ) from error


def _write(store: PriorStore, container: Container, states: _States, staged: Path, progress: Progress) -> None:
    """Write the copy in a thread, because Ctrl-C inside HDF5 would crash the process."""
    stopped = Event()

    def write() -> None:
        if isinstance(container, ZarrFolder):
            with new_hdf5_file(staged) as file:
                _write_all(store, container, states, file, progress, stopped)
        else:
            folder = FolderOutput(staged, staged.with_name("temporary"))
            _write_all(store, container, states, ZarrWriter(folder, store.rows_per_unit), progress, stopped)

    with ThreadPoolExecutor(1, "write") as thread:
        try:
            thread.submit(write).result()
        finally:
            stopped.set()


def _write_all(
    store: PriorStore,
    container: Container,
    states: _States,
    writer: ContainerWriter,
    progress: Progress,
    stopped: Event,
) -> None:
    writer.group("", container.attributes(""))
    for split in store.splits:
        writer.group(split, container.attributes(split))
        for (of_split, number), state in states.items():
            if of_split == split:
                write_state(writer, split, number, state)
        if has_rows(container, split):
            writer.small(f"{split}/sample_id", encode_ids(store.sample_ids(split)), SAMPLE_ID_AXES)
        for view in store.groups(split):
            name = f"{split}/{view}"
            writer.group(name, container.attributes(name))
            write_records(writer, split, view, store.sealed(split, view))
            for field in fields_of(store, split, view):
                units = _counted(_units(store, split, view, field.name), progress, stopped)
                writer.rows(name, field, len(store.sample_ids(split)), units)


def _units(store: PriorStore, split: str, view: str, field: str) -> Iterator[NDArray[Any]]:
    """A field's values, unit by unit. Raises OrsanetError for values that do not match the seal."""
    for rows, digest in zip(_ranges(store, split), _digests(store, split, view, field), strict=True):
        values = store.read(split, view, field, rows)
        if hashlib.sha256(values.data).digest() != digest:
            raise _differs(store, f"{split}/{view}/{field}", rows)
        yield values


def _counted(units: Iterable[NDArray[Any]], progress: Progress, stopped: Event) -> Iterator[NDArray[Any]]:
    for values in units:
        if stopped.is_set():
            raise KeyboardInterrupt
        yield values
        progress.update(values.nbytes)


def _check_copy(store: PriorStore, states: _States, staged: Path, target: Path, progress: Progress) -> None:
    """Read every value back from the disk, and compare it with the seal."""
    try:
        container = open_container(staged)
        copy = PriorStore(container)
        copied = _states(copy, container)
        if {place: state.sha256 for place, state in copied.items()} != {
            place: state.sha256 for place, state in states.items()
        }:
            raise ValueError("an index differs")
        for split in store.splits:
            for view in store.groups(split):
                fields = copy.sealed(split, view).fields
                same = copy.sealed(split, view).seal == store.sealed(split, view).seal
                for field, layout in fields.items():
                    rows = container.rows(f"{split}/{view}/{field}", None)
                    digests = _digests(store, split, view, field)
                    for part, digest in zip(_ranges(store, split), digests, strict=True):
                        same &= unit_digest(rows, layout, part.start, part.stop) == digest
                        progress.update((part.stop - part.start) * math.prod(layout.shape[1:]) * layout.dtype.itemsize)
                if not same:
                    raise ValueError(f"{split}/{view} differs")
    except (OrsanetError, *DAMAGE) as error:
        refuse_shortage(error, target)
        raise OrsanetError(
            f"{target}: data read back from disk differs from what was written ({error}); choose another place"
        ) from error


def fields_of(store: PriorStore, split: str, view: str) -> tuple[Field, ...]:
    """The fields of a view or of a group of added ones. Raises OrsanetError if they differ from those that this version writes."""
    found, network = store.sealed(split, view).fields, store.sealed(split, view).network
    expected: tuple[Field, ...] = ()
    with suppress(KeyError, IndexError, TypeError, ValueError):
        expected = () if network is None else Addition.of(network).fields
        segmentation, landmark = found["segmentation_features"], found["landmark_features"]
        optional = OPTIONAL.keys() & found.keys()
        expected = schema(segmentation.shape[1], landmark.shape[1], str(segmentation.dtype), optional)
    count = len(store.sample_ids(split))
    if found != {field.name: ((count, *field.shape), np.dtype(field.dtype)) for field in expected}:
        raise OrsanetError(f"{store.path}: {split}/{view} does not have the fields of this version; rebuild the store")
    return expected


def _ranges(store: PriorStore, split: str) -> list[slice]:
    """The rows of a split's units."""
    count, step = len(store.sample_ids(split)), store.rows_per_unit
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _digests(store: PriorStore, split: str, view: str, field: str) -> list[bytes]:
    """The sealed SHA-256 of each unit of a field."""
    sealed = store.sealed(split, view)
    return [digests.tobytes() for digests in sealed.unit_sha256[:, sorted(sealed.fields).index(field)]]


def _size(store: PriorStore) -> int:
    """Bytes of all values."""
    layouts = [
        layout
        for split in store.splits
        for view in store.groups(split)
        for layout in store.sealed(split, view).fields.values()
    ]
    return sum(math.prod(layout.shape) * layout.dtype.itemsize for layout in layouts)


@contextmanager
def workplace(target: Path) -> Iterator[Path]:
    """A folder beside the target, locked for this process and deleted on exit."""
    check_is_free(target)
    folder = target.with_name(target.name + SUFFIX)
    lock = folder / LOCK
    if folder.is_symlink() or (folder.exists() and not _is_ours(folder)):
        raise OrsanetError(f"{folder} exists and is not from an unfinished conversion; move it or choose another name")
    make_folder(folder.absolute().parent)
    folder.mkdir(exist_ok=True)
    lock.touch()
    with ExitStack() as held:
        try:
            held.enter_context(locked(lock, wait=False))
        except BlockingIOError:
            raise OrsanetError(f"another process is writing {target}; let it finish") from None
        check_is_free(target)  # another process may just have written it
        _empty(folder, but=lock)
        try:
            yield folder
        finally:
            _empty(folder, but=lock)
            lock.unlink()  # last, because it marks the folder as one of this package
            folder.rmdir()


def _empty(folder: Path, but: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry != but:
            entry.unlink()


def _is_ours(folder: Path) -> bool:
    return folder.is_dir() and ((folder / LOCK).exists() or not any(folder.iterdir()))


def check_is_free(target: Path) -> None:
    """Raises OrsanetError if the target exists."""
    if target.exists() or target.is_symlink():
        raise OrsanetError(f"{target}: already exists; choose another name, or move it away")


def check_is_finished(store: PriorStore) -> None:
    """Raises OrsanetError, naming the views, if some are not finished."""
    unfinished = [
        f"{split}/{view}"
        for split in store.splits
        for view, is_sealed in store.all_groups(split).items()
        if not is_sealed
    ]
    if unfinished:
        raise OrsanetError(
            f"{store.path}: not finished, so it cannot be converted; run the same `orsanet-cache build` again. "
            f"Unfinished views:\n{listed(unfinished)}"
        )


def check_disk(store: PriorStore, folder: Path, target: Path) -> None:
    """Raises OrsanetError if the disk of `folder` has too little space for a copy of the store."""
    needed, free = store.nbytes() * FREE_SPACE_MARGIN, shutil.disk_usage(folder).free
    if needed > free:
        raise OrsanetError(
            f"{target}: the copy needs about {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free there; "
            f"free some space or choose another place"
        )
