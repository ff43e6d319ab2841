"""Downloads published weights from the Hugging Face hub, checked and resumable.

    existing file? → size and digest from the hub → partial file, continued where it ends
                   → size, SHA-256 → final name

A file gets its final name only when it is complete. huggingface_hub's own `hf_hub_download` starts a
download again after its process has ended. This module uses its function for the file's metadata,
and its HTTP session for the rest of a partial file. The library's environment variables apply:
HF_ENDPOINT (another server), HF_HUB_OFFLINE, HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT
(seconds).

A server is not trusted. The size is known before the first byte, and a download ends with the first
byte too many. A server that sends nothing, or next to nothing, is left after PATIENCE timeouts
(watched.py).
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from orsanet_cache.durable import leave_to_disk, locked, make_folder, sync_folder
from orsanet_cache.errors import OrsanetError, refuse_shortage
from orsanet_cache.progress import Progress
from orsanet_cache.weights.sources import HubFile, Source, difference, fingerprint
from orsanet_cache.weights.watched import Arrivals, Silent, watched

PATIENCE = 6  # timeouts of the library, 60 s by default, in which enough must arrive
TRIES = 5  # at a connection that breaks, each after the last one that brought anything
_SHA256 = re.compile("[0-9a-f]{64}")  # the ETag of large files; small files have another digest


class Fetched(NamedTuple):
    path: Path
    difference: str | None  # from the known copy, if only a copy's digest is known


def fetch(source: Source, folder: Path) -> Fetched:
    """Download the published file to the folder; an existing file is only checked.

    Raises OrsanetError if the existing, the hosted or the downloaded file is not the published one,
    and if the hub cannot be reached. If the file is not on the hub, the error has the instructions
    for a download by hand.
    """
    path = folder / source.file_name
    if path.exists():
        wrong = difference(fingerprint(path), source)
        if wrong is not None and source.digest_is_the_authors:
            raise OrsanetError(f"{path}: is not the published {source.title}: {wrong}; move it away and fetch again")
        return Fetched(path, wrong)
    if source.hub is None:
        raise OrsanetError(
            f"{source.file_name} cannot be downloaded automatically: {source.instructions}. Save it as {path}, then run "
            f"`orsanet-cache weights verify {path}`"
        )
    make_folder(folder)
    partial = folder / f".{source.file_name}.{source.sha256[:16]}.partial"
    partial.touch()
    try:
        with locked(partial, wait=False):
            if path.exists():  # another process has just finished it
                partial.unlink()
                return fetch(source, folder)
            try:
                _download(source, source.hub, partial)
                os.replace(partial, path)
                sync_folder(folder)
            finally:
                if partial.exists() and not partial.stat().st_size:
                    partial.unlink()
    except BlockingIOError as error:
        raise OrsanetError(f"{path}: another process is downloading it; wait for that process") from error
    return Fetched(path, None)


def _download(source: Source, file: HubFile, partial: Path) -> None:
    """Complete the partial file, and delete it if the result is not the published file."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(file.repository, file.path, revision=file.revision)
    patience = PATIENCE * constants.HF_HUB_DOWNLOAD_TIMEOUT
    with _hub_errors(url, partial):
        hosted = watched(lambda _: get_hf_file_metadata(url, token=False), patience)
    if source.size is not None and hosted.size is not None and hosted.size != source.size:
        raise OrsanetError(_moved_on(url, source, f"has {hosted.size:,} bytes, not {source.size:,}"))
    if hosted.etag is not None and _SHA256.fullmatch(hosted.etag) and hosted.etag != source.sha256:
        raise OrsanetError(_moved_on(url, source, f"has the SHA-256 {hosted.etag}, not {source.sha256}"))

    size = source.size if hosted.size is None else hosted.size
    if size is None:
        raise OrsanetError(
            f"{url}: the server does not state the file's size, so nothing was downloaded; try again later"
        )
    if source.at_most is not None and size > source.at_most:
        raise OrsanetError(_moved_on(url, source, f"has {size:,} bytes, more than {source.at_most:,}"))

    with partial.open("r+b", buffering=0) as content:
        if content.seek(0, os.SEEK_END) > size:  # not a part of this file
            content.truncate(0)
            content.seek(0)
        try:
            with _hub_errors(url, partial):
                watched(
                    lambda arrivals: _complete(hosted.location, content, size, arrivals, source.file_name), patience
                )
        except _TooMuch as error:
            content.close()
            partial.unlink()
            raise OrsanetError(
                f"{url}: the server sends more than the {size:,} bytes that it announced; what had arrived was deleted; try again "
                f"later, or get a copy elsewhere and check it with `orsanet-cache weights verify`"
            ) from error
        leave_to_disk(content.fileno())

    wrong = difference(fingerprint(partial), source)
    if wrong is not None:
        partial.unlink()
        raise OrsanetError(
            f"{url}: the downloaded file is not the published {source.title}: {wrong}; it was deleted; try again"
        )


class _TooMuch(Exception):
    """More bytes arrive than the file has."""


def _complete(url: str, content: BinaryIO, size: int, arrivals: Arrivals, name: str) -> None:
    """Append to `content` what its `size` bytes lack; `name` is the title of the progress bar.

    Raises _TooMuch for more bytes, OSError without a number for fewer, and the session's exceptions
    if the connection breaks again and again.
    """
    import httpx2

    tries = TRIES
    with Progress(size, name, "B", initial=content.tell(), unit_scale=True) as progress:
        while content.tell() < size:
            before = content.tell()
            try:
                _append(url, content, size, arrivals, progress)
                if content.tell() < size:
                    raise OSError("the download ended early")
            except (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError):
                tries = tries - 1 if content.tell() <= before else TRIES
                if tries < 0 or arrivals.given_up:
                    raise
                time.sleep(1)


def _append(url: str, content: BinaryIO, size: int, arrivals: Arrivals, progress: Progress) -> None:
    """One connection: the bytes from the end of `content` on, or all if the server sends all."""
    from huggingface_hub import constants, get_session

    begun = content.tell()
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={begun}-"} if begun else {})}
    with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        response.raise_for_status()
        if begun and response.status_code == 200:  # the server ignores the range
            content.seek(0)
            content.truncate(0)
            progress.reset()
        for chunk in response.iter_bytes():
            if arrivals.given_up:
                return
            if content.tell() + len(chunk) > size:
                raise _TooMuch
            rest = memoryview(chunk)
            while rest:
                rest = rest[content.write(rest) :]
            arrivals.count += len(chunk)
            progress.update(len(chunk))


def _moved_on(url: str, source: Source, how: str) -> str:
    return (
        f"{url}: is no longer the published {source.title} (it {how}), so nothing was downloaded; get a copy of the published "
        f"file elsewhere and check it with `orsanet-cache weights verify`"
    )


@contextmanager
def _hub_errors(url: str, partial: Path) -> Iterator[None]:
    """Turn the hub's and the network's failures into one sentence each.

    The bytes that have arrived are kept for the next try.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    def kept() -> str:
        size = partial.stat().st_size
        return f"; the first {size:,} bytes are kept, and the same command continues from there" if size else ""

    try:
        yield
    except Silent as error:
        raise OrsanetError(f"{url}: {error}; try again later{kept()}") from error
    except OfflineModeIsEnabled as error:
        raise OrsanetError(
            f"{url}: not downloaded, because HF_HUB_OFFLINE is set; unset it, or copy the file from another machine to the weights folder"
        ) from error
    except (HfHubHTTPError, httpx2.HTTPStatusError) as error:
        raise OrsanetError(
            f"{url}: the server answered {error.response.status_code}; try again later{kept()}"
        ) from error
    except httpx2.HTTPError as error:
        refuse_shortage(error, url)
        what = str(error) or type(error).__name__
        raise OrsanetError(f"{url}: cannot be reached ({what}); check the network connection{kept()}") from error
    except OSError as error:
        if error.errno is not None:  # the disk's
            raise
        raise OrsanetError(f"{url}: the download ended early{kept() or '; try again'}") from error
