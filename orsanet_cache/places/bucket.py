"""The requests to an object store: S3 and what imitates it, Google Cloud Storage, Azure, and memory for tests.

Every request of this package is made here, repeated where that may help (connection.py), and fails
with an OSError of one sentence.
"""

import errno
import math
import os
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from orsanet_cache.errors import OrsanetError, UnreachableError
from orsanet_cache.paths import Url
from orsanet_cache.places.connection import check_process, connected, failure, patience, sending, settings
from orsanet_cache.places.files import Entry

THREADS = 16  # requests at the same time
CUT_SECONDS = 0.1  # before a request whose answer was cut off is repeated
# Of a large file: so many parts of so many bytes are under way at once.
PART_BYTES, PARTS = 8 * 1024**2, 4
MOST_BYTES = 5 * 10**9  # of an object that S3 takes in one request
LIST_CHUNK = 1000  # as many as a server answers at once

_CUT = re.compile("body error")

Answer = TypeVar("Answer")


class Bucket:
    """The objects below one URL. Used from any number of threads; a fork needs a new process (see `check_process`)."""

    def __init__(self, url: Url) -> None:
        """As `open`."""
        self.url = url
        self._connected = partial(connected, url.text, patience(), settings())
        self.handle = self._connected()  # obstore's own object

    @classmethod
    def open(cls, url: Url) -> Self:
        """Make no request yet. Raises OrsanetError where obstore is missing or the environment's settings are wrong."""
        return cls(url)

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

        in_parts: Any = {"use_multipart": True, "chunk_size": PART_BYTES, "max_concurrency": PARTS}
        with sending(PARTS * PART_BYTES) as times:
            store = self._connected(times)
            answer = self._ask(name, lambda: obstore.put(store, name, path, **in_parts))
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

        with sending(len(content)) as times:
            store = self._connected(times)
            # In one request: an interrupted multipart upload would leave parts that no listing shows.
            answer = self._ask(name, lambda: obstore.put(store, name, content, mode=mode, use_multipart=False))
        return Entry(len(content), _tag(answer["e_tag"]))

    def _ask(self, name: str, request: Callable[[], Answer]) -> Answer:
        """The answer to a request. obstore's exceptions become OSErrors with one sentence."""
        import obstore.exceptions

        check_process()
        until = time.monotonic() + patience()
        while True:
            try:
                return request()
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise failure(self.url, error) from None
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.url / name)) from None
            except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.url / name)) from None
            except obstore.exceptions.BaseError as error:
                # obstore repeats all but a listing, or a refusal, whose body was cut off.
                if _CUT.search(str(error)) and time.monotonic() < until:
                    time.sleep(CUT_SECONDS)
                    continue
                raise failure(self.url, error) from None  # its text may have a signed URL, so it is not even chained

    def __reduce__(self) -> tuple[Any, ...]:
        return Bucket.open, (self.url,)


def _entry(meta: Any) -> Entry:
    return Entry(meta["size"], _tag(meta["e_tag"]))


def _tag(e_tag: str | None) -> str | None:
    """Listings and answers quote it differently."""
    return None if e_tag is None else e_tag.removeprefix("W/").strip('"')
