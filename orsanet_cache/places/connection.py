"""The connection to an object store through obstore: credentials, time limits, and what a failure means.

Credentials, region and endpoint are those of the environment, as obstore takes them
(AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME …).
Neither a message nor a file of this package has them.

A request that failed for a reason that may pass (no connection, 5xx, a body that was cut or that
stalls) is repeated until PATIENCE seconds are over; ORSANET_PATIENCE changes them. Then, and at once
for a refusal, the exception is an UnreachableError with one sentence.

The time limit of a request ends with the beginning of its answer, so it covers what is sent. A PUT
gets more time for more bytes (`sending`): no library tells how much of it has been sent.
"""

import errno
import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

from orsanet_cache.errors import OrsanetError, UnreachableError
from orsanet_cache.paths import Url

PATIENCE = 60.0  # seconds
PATIENCE_VARIABLE = "ORSANET_PATIENCE"
MOST_PATIENCE = 240.0  # a request is signed once, and a signature is valid for five minutes
SENT_BYTES = 5_000_000  # for which a PUT gets a further third of the patience: 2 Mbit/s by default

_CREDENTIALS = re.compile(
    "ExpiredToken|InvalidAccessKeyId|InvalidToken|SignatureDoesNotMatch|TokenRefreshRequired|expired|"
    "missing.{0,20}credential|credential.{0,40}(fail|error|not found|missing)",
    re.IGNORECASE,
)
_OFFLINE = re.compile(
    "error sending request|connect|dns|timed? ?out|timeout|retries|body error|code: 5[0-9]{2}", re.IGNORECASE
)
_FULL = re.compile("code: 507|StorageFull|QuotaExceeded|InsufficientStorage")
_UNKNOWN = re.compile("code: 501|NotImplemented")


def patience() -> float:
    """Seconds after which a request that fails for a passing reason is given up."""
    text = os.environ.get(PATIENCE_VARIABLE, "")
    try:
        seconds = float(text) if text else PATIENCE
    except ValueError:
        seconds = math.nan
    if not 0.1 <= seconds <= MOST_PATIENCE:
        raise OrsanetError(f"{PATIENCE_VARIABLE}={text}: give a number of seconds from 0.1 to {MOST_PATIENCE:g}")
    return seconds


def settings() -> tuple[tuple[str, str], ...]:
    """The environment's settings that obstore reads."""
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith(("AWS_", "AZURE_", "GOOGLE_"))))


@cache
def connected(url: str, seconds: float, _settings: tuple[tuple[str, str], ...], times: int = 1) -> Any:
    """obstore's own object for a URL; one for all users in a process, who then share its connections.

    `times` the usual time limit for a request, see `sending`.
    """
    try:
        import obstore.store
    except ImportError as error:
        raise OrsanetError(f"{url}: URLs need the package obstore; install it with `pip install obstore`") from error
    if url.startswith("memory:"):
        return _memory(url)
    endpoints = [os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")]
    insecure = any(endpoint.lower().startswith("http://") for endpoint in endpoints)
    client: Any = {
        "connect_timeout": timedelta(seconds=min(5, seconds / 3)),
        "read_timeout": timedelta(seconds=times * seconds / 3),
        "timeout": timedelta(seconds=600 + times * seconds / 3),  # for a whole shard on a slow line
        **({"allow_http": True} if insecure else {}),  # the user has named such an endpoint
    }
    retries: Any = {
        "max_retries": 1000,
        "retry_timeout": timedelta(seconds=min(MOST_PATIENCE, seconds + (times - 1) * seconds / 3)),
        "backoff": {
            "init_backoff": timedelta(seconds=min(0.1, seconds / 20)),
            "max_backoff": timedelta(seconds=seconds / 8),
        },
    }
    try:
        return obstore.store.from_url(url, client_options=client, retry_config=retries)
    except Exception as error:  # obstore raises several types for settings that it cannot read, and prints them
        raise OrsanetError(
            f"{url}: the settings of the object store in the environment cannot be used ({type(error).__name__})"
        ) from None


@cache
def _memory(url: str) -> Any:
    """A store in this process's memory; one for each URL."""
    from obstore.store import MemoryStore

    return MemoryStore()


_sending = 0  # bytes of all PUTs of this process that are under way
_sending_lock = threading.Lock()


@contextmanager
def sending(size: int) -> Iterator[int]:
    """Send an object of `size` bytes: how many times the usual time limit that may take.

    All PUTs of a process share its line, so the bytes of all that are under way count.
    """
    global _sending
    with _sending_lock:
        _sending += size
        total = _sending
    try:
        # A power of two, so that there are few clients; each has its own connections.
        yield 1 if total <= SENT_BYTES / 8 else 2 ** math.ceil(math.log2(1 + total / SENT_BYTES))
    finally:
        with _sending_lock:
            _sending -= size


_used_by: int | None = None


def check_process() -> None:
    """obstore's threads do not survive a fork: a request in a forked process would never end."""
    global _used_by
    if _used_by is None:
        _used_by = os.getpid()
    if _used_by != os.getpid():
        raise OrsanetError(
            "a forked process cannot read from an object store; start a DataLoader's workers with multiprocessing_context='spawn'"
        )


def failure(url: Url, error: Exception) -> UnreachableError:
    """What an exception of obstore means, in one sentence. The exception's own text may have a signed URL."""
    text, kind = str(error).partition("\n\nDebug source")[0], type(error).__name__
    if "NoSuchBucket" in text:
        return UnreachableError(errno.ENODEV, f"{url}: there is no such bucket")
    if _CREDENTIALS.search(text) or kind == "UnauthenticatedError":
        return UnreachableError(
            errno.EACCES,
            f"{url}: the credentials in the environment are missing, wrong or expired; set new ones and run the same command again",
        )
    if kind == "PermissionDeniedError" or "403 Forbidden" in text:
        return UnreachableError(
            errno.EACCES,
            f"{url}: access denied; check the credentials in the environment and the bucket's policy",
        )
    if _FULL.search(text):
        return UnreachableError(
            errno.ENOSPC,
            f"{url}: the object store is full, or its quota is used up; make room and run the same command again",
        )
    if _UNKNOWN.search(text):
        return UnreachableError(
            errno.ENOTSUP,
            f"{url}: the object store does not know a request that writing needs, such as a PUT on the condition that there is no such "
            f"object (If-None-Match); build into a folder and upload it with `orsanet-cache convert FOLDER {url}`",
        )
    if _OFFLINE.search(text):
        return UnreachableError(
            errno.EHOSTUNREACH,
            f"{url}: the object store does not answer, or fails, for {patience():g} seconds; check the network and "
            f"AWS_ENDPOINT_URL or the like, and run the same command again ({PATIENCE_VARIABLE}=SECONDS waits longer)",
        )
    status = re.search("status code: ([0-9]{3}[A-Za-z ]*)", text)
    return UnreachableError(
        errno.EIO,
        f"{url}: a request failed ({kind if status is None else status[1].strip()}); run the same command again",
    )
