"""A run's files in a folder of this machine: its own folder, or a temporary one for a run at a URL."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from orsanet_cache.errors import OrsanetError
from orsanet_cache.outputs import temporary_folder
from orsanet_cache.paths import Place, Url
from orsanet_cache.places.bucket import Bucket


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
    with temporary_folder("orsanet-run-") as folder:
        try:
            (folder / weights).write_bytes(bucket.read(weights)[0])
        except FileNotFoundError:
            raise OrsanetError(
                f"{run / weights}: no such file; there is no run at this URL, or it has no weights yet"
            ) from None
        for name in others:
            with suppress(FileNotFoundError):
                (folder / name).write_bytes(bucket.read(name)[0])
        try:
            yield folder
        except OrsanetError as error:
            if str(folder) not in str(error):
                raise
            raise OrsanetError(str(error).replace(str(folder), str(run))) from error
