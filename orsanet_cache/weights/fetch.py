"""Downloads published weights from the Hugging Face hub, checked and resumable.

    existing file? → size and digest from the hub → partial file, continued where it ends
                   → size, SHA-256 → final name

A file gets its final name only when it is complete. huggingface_hub's own `hf_hub_download` starts a
download again after its process has ended. This module uses its lower-level functions: one for the
file's metadata, one for the rest of a partial file. Its environment variables apply: HF_ENDPOINT
(another server), HF_HUB_OFFLINE, HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT (seconds).
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from orsanet_cache.durable import leave_to_disk, locked, make_folder, sync_folder
from orsanet_cache.errors import OrsanetError
from orsanet_cache.weights.sources import HubFile, Source, difference, fingerprint

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
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get

    url = hf_hub_url(file.repository, file.path, revision=file.revision)
    with _hub_errors(url, partial):
        hosted = get_hf_file_metadata(url, token=False)
    if source.size is not None and hosted.size is not None and hosted.size != source.size:
        raise OrsanetError(_moved_on(url, source, f"has {hosted.size:,} bytes, not {source.size:,}"))
    if hosted.etag is not None and _SHA256.fullmatch(hosted.etag) and hosted.etag != source.sha256:
        raise OrsanetError(_moved_on(url, source, f"has the SHA-256 {hosted.etag}, not {source.sha256}"))

    with partial.open("r+b") as content:
        begun = content.seek(0, os.SEEK_END)
        if hosted.size is None or begun > hosted.size:  # not certainly a part of this file
            begun = content.truncate(0)
            content.seek(0)
        with _hub_errors(url, partial):
            http_get(
                hosted.location, content, resume_size=begun, expected_size=hosted.size, displayed_filename=file.path
            )
        content.flush()
        leave_to_disk(content.fileno())

    wrong = difference(fingerprint(partial), source)
    if wrong is not None:
        partial.unlink()
        raise OrsanetError(
            f"{url}: the downloaded file is not the published {source.title}: {wrong}; it was deleted; try again"
        )


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
    except OfflineModeIsEnabled as error:
        raise OrsanetError(
            f"{url}: not downloaded, because HF_HUB_OFFLINE is set; unset it, or copy the file from another machine to the weights folder"
        ) from error
    except HfHubHTTPError as error:
        raise OrsanetError(
            f"{url}: the server answered {error.response.status_code}; try again later{kept()}"
        ) from error
    except httpx2.HTTPError as error:
        what = str(error) or type(error).__name__
        raise OrsanetError(f"{url}: cannot be reached ({what}); check the network connection{kept()}") from error
    except OSError as error:
        if error.errno is not None:  # the disk's
            raise
        raise OrsanetError(f"{url}: the download ended early{kept() or '; try again'}") from error
