"""An object store through obstore: S3 and what imitates it, Google Cloud Storage, Azure, and memory for tests.

Credentials, region and endpoint are those of the environment, as obstore takes them
(AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME …).
Neither a message nor a file of this package has them.

A request that failed for a reason that may pass (no connection, 5xx, a body that was cut or that
stalls) is repeated until PATIENCE seconds are over; ORSANET_PATIENCE changes them. Then, and at once
for a refusal, the exception is an UnreachableError with one sentence.
"""

import errno
import math
import os
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

from orsanet_cache.errors import OrsanetError, UnreachableError
from orsanet_cache.paths import Url
from orsanet_cache.places.files import Entry, Files

PATIENCE = 60.0  # seconds
PATIENCE_VARIABLE = "ORSANET_PATIENCE"
THREADS = 16  # requests at the same time
CUT_SECONDS = 0.1  # before a request whose answer was cut off is repeated
KEPT = "zarr.json"  # files of this name are read again and again, so they are kept
# Of a large file: so many parts of so many bytes are under way at once, and a line of 14 Mbit/s sends them within a third of PATIENCE.
PART_BYTES, PARTS = 8 * 1024**2, 4
LIST_CHUNK = 1000  # as many as a server answers at once

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
_CUT = re.compile("body error")

Answer = TypeVar("Answer")


class Bucket:
    """The objects below one URL. Used from any number of threads; a fork needs a new process (see `_check_process`)."""

    def __init__(self, url: Url, store: Any) -> None:
        self.url = url
        self.handle = store  # obstore's own object

    @classmethod
    def open(cls, url: Url) -> Self:
        """Make no request yet. Raises OrsanetError where obstore is missing or the environment's settings are wrong."""
        return cls(url, _connected(url.text, patience(), _settings()))

    def read(self, name: str, limit: float = math.inf) -> tuple[bytes, Entry]:
        """An object's content, and its entry. Raises FileNotFoundError, ValueError or UnreachableError."""

        def get() -> tuple[bytes, Entry]:
            result = obstore.get(self.handle, name)
            entry = _entry(result.meta)
            if entry.size > limit:
                raise ValueError(f"{self.url / name} has more than {limit:,} bytes")
            return bytes(result.bytes()), entry

        import obstore

        content, entry = self._ask(name, get)
        if len(content) != entry.size:
            raise UnreachableError(
                errno.EIO, f"{self.url / name}: the object store sent {len(content):,} of {entry.size:,} bytes"
            )
        return content, entry

    def entries(self, below: str = "") -> dict[str, Entry]:
        """Every object below a folder, sorted by name: one request for every 1,000."""
        import obstore

        def ask() -> dict[str, Entry]:
            chunks = obstore.list(self.handle, below or None, chunk_size=LIST_CHUNK)
            return {meta["path"]: _entry(meta) for chunk in chunks for meta in chunk}

        return dict(sorted(self._ask(below, ask).items()))

    def entry(self, name: str) -> Entry | None:
        """What a HEAD request tells of an object; None if there is none."""
        import obstore

        try:
            return _entry(self._ask(name, lambda: obstore.head(self.handle, name)))
        except FileNotFoundError:
            return None
        except UnreachableError as error:
            if error.errno == errno.EIO:  # the answer to a HEAD has no text, that to a GET has
                self.read(name)
            raise

    def write(self, name: str, content: bytes) -> Entry:
        """Put a whole object, in place of an earlier one. It is there completely, or not at all."""
        return self._put(name, content, "overwrite")

    def create(self, name: str, content: bytes) -> Entry | None:
        """Put an object only if there is none of this name -> its entry; None if there is one with another content.

        If the answer was lost, and the request is repeated or fails, the object that is there
        decides. So where it matters who has created it, the content must differ from that of every
        other writer, as with an attempt id.
        """
        while True:
            try:
                return self._put(name, content, "create")
            except FileExistsError:
                with suppress(FileNotFoundError):  # deleted meanwhile
                    return self._same(name, content)
            except UnreachableError as error:
                if error.errno != errno.EHOSTUNREACH:
                    raise
                try:  # the outcome is unknown: applied and its answer lost, or never received
                    return self._same(name, content)
                except FileNotFoundError:
                    raise error from None

    def exchange(self, name: str, before: bytes, content: bytes) -> bool:
        """Put an object in place of one with the content `before` -> False if it has another one now.

        A server that knows no such condition (If-Match) replaces the object in any case.
        """
        import obstore

        def get() -> tuple[bytes, Any]:
            result = obstore.get(self.handle, name)
            return bytes(result.bytes()), result.meta

        while True:
            there, meta = self._ask(name, get)
            if there != before:
                return there == content
            version = {key: meta[key] for key in ("e_tag", "version") if meta[key] is not None}
            try:
                self._put(name, content, version)
                return True
            except FileExistsError:  # replaced meanwhile; or by this request, whose answer was lost
                continue

    def folders(self, below: str) -> list[str]:
        """Names of the folders in a folder, sorted."""
        import obstore

        found = self._ask(below, lambda: obstore.list_with_delimiter(self.handle, below or None))
        return sorted(prefix.rpartition("/")[2] for prefix in found["common_prefixes"])

    def replace(self, name: str, content: bytes, known: Entry | None) -> Entry | None:
        """Put an object in place of the version `known`, None: of no object -> its entry; None if another one is there.

        So no writer replaces what it does not know. If the answer was lost, the content of the
        object that is there decides. A server that has no such condition (If-Match) puts the object
        if the version was the known one just before.
        """
        import obstore

        mode: Any = "create"
        if known is not None:
            try:
                meta = self._ask(name, lambda: obstore.head(self.handle, name))
            except FileNotFoundError:
                return None
            if _entry(meta) != known:
                return self._same(name, content)
            mode = {key: meta[key] for key in ("e_tag", "version") if meta[key] is not None}
        try:
            return self._put(name, content, mode)
        except FileExistsError:
            return self._same(name, content)

    def write_file(self, name: str, path: Path) -> Entry:
        """Put a large file in parts, in place of an earlier object. It is there completely, or not at all.

        A kill leaves parts that no listing shows; buckets have rules that remove them.
        """
        import obstore

        sending: Any = {"use_multipart": True, "chunk_size": PART_BYTES, "max_concurrency": PARTS}
        answer = self._ask(name, lambda: obstore.put(self.handle, name, path, **sending))
        return Entry(path.stat().st_size, _tag(answer["e_tag"]))

    def _same(self, name: str, content: bytes) -> Entry | None:
        """The entry of an object if it has this content."""
        there, entry = self.read(name)
        return entry if there == content else None

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that do not exist are passed over."""
        import obstore

        def delete(name: str) -> None:
            with suppress(FileNotFoundError):
                self._ask(name, lambda: obstore.delete(self.handle, name))

        with ThreadPoolExecutor(THREADS, "delete") as pool:
            list(pool.map(delete, names))

    def check_conditions(self, name: str) -> None:
        """Check that a conditional create is refused where an object exists.

        Writers rely on it: without it two of them would overwrite each other. The object `name`,
        which exists, is put again on that condition.

        Raises OrsanetError if the server puts it in spite of the condition.
        """
        content, _ = self.read(name)
        try:
            self._put(name, content, "create")
        except FileExistsError:
            return
        raise OrsanetError(
            f"{self.url}: the object store ignores conditions of a PUT (If-None-Match), so that two processes could write "
            f"the same unit; build into a folder and upload it with `orsanet-cache convert FOLDER {self.url}`"
        )

    def _put(self, name: str, content: bytes, mode: Any) -> Entry:
        """`mode` as obstore's: "overwrite", "create", or what it tells of the version to replace."""
        import obstore

        # In one request: an interrupted multipart upload would leave parts that no listing shows.
        answer = self._ask(name, lambda: obstore.put(self.handle, name, content, mode=mode, use_multipart=False))
        return Entry(len(content), _tag(answer["e_tag"]))

    def _ask(self, name: str, request: Callable[[], Answer]) -> Answer:
        """The answer to a request. obstore's exceptions become OSErrors with one sentence."""
        import obstore.exceptions

        _check_process()
        until = time.monotonic() + patience()
        while True:
            try:
                return request()
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise self._failed(error) from None
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.url / name)) from None
            except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.url / name)) from None
            except obstore.exceptions.BaseError as error:
                # obstore repeats all but a listing, or a refusal, whose body was cut off.
                if _CUT.search(str(error)) and time.monotonic() < until:
                    time.sleep(CUT_SECONDS)
                    continue
                raise self._failed(error) from None  # its text may have a signed URL, so it is not even chained

    def _failed(self, error: Exception) -> UnreachableError:
        text, kind = str(error).partition("\n\nDebug source")[0], type(error).__name__
        if "NoSuchBucket" in text:
            return UnreachableError(errno.ENODEV, f"{self.url}: there is no such bucket")
        if _CREDENTIALS.search(text) or kind == "UnauthenticatedError":
            return UnreachableError(
                errno.EACCES,
                f"{self.url}: the credentials in the environment are missing, wrong or expired; set new ones and run the same command again",
            )
        if kind == "PermissionDeniedError" or "403 Forbidden" in text:
            return UnreachableError(
                errno.EACCES,
                f"{self.url}: access denied; check the credentials in the environment and the bucket's policy",
            )
        if _FULL.search(text):
            return UnreachableError(
                errno.ENOSPC,
                f"{self.url}: the object store is full, or its quota is used up; make room and run the same command again",
            )
        if _UNKNOWN.search(text):
            return UnreachableError(
                errno.ENOTSUP,
                f"{self.url}: the object store does not know a request that writing needs, such as a PUT on the condition that there is no such "
                f"object (If-None-Match); build into a folder and upload it with `orsanet-cache convert FOLDER {self.url}`",
            )
        if _OFFLINE.search(text):
            return UnreachableError(
                errno.EHOSTUNREACH,
                f"{self.url}: the object store does not answer, or fails, for {patience():g} seconds; check the network and "
                f"AWS_ENDPOINT_URL or the like, and run the same command again ({PATIENCE_VARIABLE}=SECONDS waits longer)",
            )
        status = re.search("status code: ([0-9]{3}[A-Za-z ]*)", text)
        return UnreachableError(
            errno.EIO,
            f"{self.url}: a request failed ({kind if status is None else status[1].strip()}); run the same command again",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Bucket.open, (self.url,)


class BucketFiles(Files):
    """The files that one listing of a bucket found: a store as it was when it was opened.

    A file that was replaced since is refused, so that no reader mixes two states of a store.
    """

    def __init__(self, bucket: Bucket, below: Iterable[str] = ("",)) -> None:
        """`below` are the folders to list: all."""
        self.bucket = bucket
        self.place = bucket.url
        self._entries = {name: entry for folder in below for name, entry in bucket.entries(folder).items()}
        self._held: dict[str, bytes] = {}

    def read(self, name: str, limit: int) -> bytes:
        entry = self._entries.get(name)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.place / name))
        if entry.size > limit:
            raise ValueError(f"{self.place}/{name} has more than {limit:,} bytes")
        is_kept = name.rpartition("/")[2] == KEPT
        content = self._held.get(name) if is_kept else self._held.pop(name, None)
        if content is None:
            content = self.fetch(name)
            if is_kept:
                self._held[name] = content
        return content

    def fetch(self, name: str) -> bytes:
        """A file's content from the object store. Raises OSError if it was replaced since the listing."""
        content, entry = self.bucket.read(name)
        if entry != self._entries[name]:
            raise UnreachableError(
                errno.ESTALE,
                f"{self.bucket.url / name}: was replaced since the store was opened; run the same command again",
            )
        return content

    def entries(self, below: str = "") -> dict[str, Entry]:
        if not below:
            return dict(self._entries)
        return {name: entry for name, entry in self._entries.items() if name.startswith(f"{below}/")}

    def entry(self, name: str) -> Entry:
        """Raises FileNotFoundError for a file that the listing did not find."""
        if name not in self._entries:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.bucket.url / name))
        return self._entries[name]

    def subfolders(self, folder: str, having: str) -> list[str]:
        start = f"{folder}/" if folder else ""
        inner = (name[len(start) :].split("/") for name in self._entries if name.startswith(start))
        return sorted(parts[0] for parts in inner if parts[1:] == [having])

    def folders(self, having: str, depth: int = 3) -> set[str]:
        found = (name.rpartition("/") for name in self._entries)
        return {folder for folder, _, name in found if name == having and folder and folder.count("/") < depth}

    def expect(self, names: Iterable[str]) -> None:
        wanted = [name for name in names if name in self._entries and name not in self._held]
        if len(wanted) > 1:
            with ThreadPoolExecutor(THREADS, "fetch") as pool:
                found = zip(wanted, pool.map(self._fetched, wanted), strict=True)
                self._held.update((name, content) for name, content in found if content is not None)

    def _fetched(self, name: str) -> bytes | None:
        """As `fetch`; None for a file that is not there any more, of which its reader is told."""
        try:
            return self.fetch(name)
        except FileNotFoundError:
            return None
        except UnreachableError as error:
            if error.errno != errno.ESTALE:
                raise
            return None


class CurrentFiles(Files):
    """The files of a bucket as they are now: every question is a request."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.place = bucket.url
        self._found: dict[str, bytes] = {}  # by `subfolders`, to be read once

    def read(self, name: str, limit: int) -> bytes:
        content = self._found.pop(name, None)
        return self.bucket.read(name, limit)[0] if content is None else content

    def fetch(self, name: str) -> bytes:
        return self.bucket.read(name)[0]

    def entries(self, below: str = "") -> dict[str, Entry]:
        return self.bucket.entries(below)

    def entry(self, name: str) -> Entry:
        if (entry := self.bucket.entry(name)) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.place / name))
        return entry

    def subfolders(self, folder: str, having: str) -> list[str]:
        names = {name: f"{folder}/{name}/{having}".lstrip("/") for name in self.bucket.folders(folder)}

        def fetched(name: str) -> bytes | None:
            with suppress(FileNotFoundError):
                return self.bucket.read(name)[0]
            return None

        with ThreadPoolExecutor(THREADS, "look") as pool:
            found = zip(names.values(), pool.map(fetched, names.values()), strict=True)
            self._found = {name: content for name, content in found if content is not None}
        return [name for name, file in names.items() if file in self._found]

    def folders(self, having: str, depth: int = 3) -> set[str]:
        found = (name.rpartition("/") for name in self.entries())
        return {folder for folder, _, name in found if name == having and folder and folder.count("/") < depth}


def _entry(meta: Any) -> Entry:
    return Entry(meta["size"], _tag(meta["e_tag"]))


def _tag(e_tag: str | None) -> str | None:
    """Listings and answers quote it differently."""
    return None if e_tag is None else e_tag.removeprefix("W/").strip('"')


def patience() -> float:
    """Seconds after which a request that fails for a passing reason is given up."""
    text = os.environ.get(PATIENCE_VARIABLE, "")
    try:
        seconds = float(text) if text else PATIENCE
    except ValueError:
        seconds = math.nan
    if not 0.1 <= seconds <= 240:  # a request is signed once, and a signature is valid for five minutes
        raise OrsanetError(f"{PATIENCE_VARIABLE}={text}: give a number of seconds from 0.1 to 240")
    return seconds


def _settings() -> tuple[tuple[str, str], ...]:
    """The environment's settings that obstore reads."""
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith(("AWS_", "AZURE_", "GOOGLE_"))))


@cache
def _connected(url: str, seconds: float, _settings: tuple[tuple[str, str], ...]) -> Any:
    """obstore's own object for a URL; one for all users in a process, who then share its connections."""
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
        "read_timeout": timedelta(seconds=seconds / 3),
        "timeout": timedelta(minutes=10),  # for a whole shard on a slow line
        **({"allow_http": True} if insecure else {}),  # the user has named such an endpoint
    }
    retries: Any = {
        "max_retries": 1000,
        "retry_timeout": timedelta(seconds=seconds),
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


_used_by: int | None = None


def _check_process() -> None:
    """obstore's threads do not survive a fork: a request in a forked process would never end."""
    global _used_by
    if _used_by is None:
        _used_by = os.getpid()
    if _used_by != os.getpid():
        raise OrsanetError(
            "a forked process cannot read from an object store; start a DataLoader's workers with multiprocessing_context='spawn'"
        )
