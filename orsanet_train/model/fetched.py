"""A run's files in a folder of this machine: its own folder, or a temporary one for a run at a URL."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from orsanet_cache.errors import OrsanetError
from orsanet_cache.outputs import temporary_folder
from orsanet_cache.paths import Place, Url
from orsanet_cache.places.bucket import Bucket

PREFIX = "orsanet-run-"  # of temporary folders


@contextmanager
def local_files(run: Place, weights: str, others: Sequence[str] = ()) -> Iterator[Path]:
    """The folder of a run; for a URL a temporary folder with the weights file, and those of the others that are there.

    Raises OrsanetError if there is no such weights file at the URL. In the message of an OrsanetError
    that names the temporary folder, the URL takes its place.
    """
    if not isinstance(run, Url):
        yield run
        return
    bucket = Bucket.open(run)
    with temporary_folder(PREFIX) as folder, named(folder, run):
        try:
            (folder / weights).write_bytes(bucket.read(weights)[0])
        except FileNotFoundError:
            raise OrsanetError(
                f"{run / weights}: no such file; there is no run at this URL, or it has no weights yet"
            ) from None
        for name in others:
            with suppress(FileNotFoundError):
                (folder / name).write_bytes(bucket.read(name)[0])
        yield folder


@contextmanager
def local_runs(runs: Sequence[Place], checkpoint: str) -> Iterator[list[Path]]:
    """The folders of evaluated runs, or of folders of seeds; for each URL a temporary folder of its name.

    It has what is read of a run and one of its checkpoints, with the checkpoint's evaluation. Raises
    OrsanetError if there is no run at a URL. In the message of an OrsanetError that names a temporary
    folder, the URL takes its place.
    """
    if not runs:
        yield []
        return
    first, *others = runs
    if not isinstance(first, Url):
        with local_runs(others, checkpoint) as folders:
            yield [first, *folders]
        return
    with temporary_folder(PREFIX) as temporary:
        folder = temporary / _folder_name(first, others)
        with named(folder, first), local_runs(others, checkpoint) as folders:
            _fetch(first, folder, checkpoint)
            yield [folder, *folders]


@contextmanager
def named(folder: Path, url: Url) -> Iterator[None]:
    """Name the URL in the message of an OrsanetError, instead of the folder that stands for it."""
    try:
        yield
    except OrsanetError as error:
        if str(folder) not in str(error):
            raise
        raise OrsanetError(str(error).replace(str(folder), str(url))) from error


def _folder_name(run: Url, others: Sequence[Place]) -> str:
    """The last name of a URL; all of it if another run has the same."""
    if all(other.name != run.name for other in others):
        return run.name
    return run.text.partition("://")[2].replace("/", "-")


def _fetch(run: Url, folder: Path, checkpoint: str) -> None:
    wanted = re.compile(
        rf"(seed-\d+/)?((config\.toml|run\.json|versions\.json|metrics\.csv|{checkpoint}(-landmarks)?\.safetensors)"
        rf"|evaluation-{checkpoint}/[^/]+)"
    )
    bucket = Bucket.open(run)
    names = [name for name in bucket.entries() if wanted.fullmatch(name)]
    if not names:
        raise OrsanetError(f"{run}: there is no run at this URL")
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bucket.read(name)[0])
