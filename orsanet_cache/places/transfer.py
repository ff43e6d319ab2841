"""The files of a store put into an object store: all of them, then the one without which it is no store.

    names ─ THREADS threads: read, checked ─▶ PUT ─▶ LIST against the answers ─ what differs is read back ─▶ the last file, created exclusively

A transfer that was interrupted has no last file. The same transfer goes on: an object whose e_tag is
the MD5 of the content, as S3 gives it, is not sent again.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from orsanet_cache.durable import Content
from orsanet_cache.errors import OrsanetError
from orsanet_cache.places.bucket import Bucket
from orsanet_cache.places.bucket_files import BucketFiles
from orsanet_cache.places.files import Entry, Files

THREADS = 8


class Upload:
    """Files for a place that has no store yet. A context manager; its threads end with it."""

    def __init__(self, bucket: Bucket, last: str, is_expected: Callable[[str], bool]) -> None:
        """`last` is the name of the file that is written last; `is_expected` tells the names of the others.

        Raises OrsanetError if the place has a store or other objects than expected ones.
        """
        self.bucket = bucket
        self.files: Files = BucketFiles(bucket, ())  # none: every file is written
        self._last = last
        self._there = bucket.entries()
        self._sent: dict[str, tuple[Entry, str]] = {}
        self._threads = ThreadPoolExecutor(THREADS, "upload")
        self._under_way: deque[Future[None]] = deque()
        if last in self._there:
            raise OrsanetError(f"{bucket.url}: already exists; choose another name, or delete it")
        self._refuse([name for name in self._there if not is_expected(name)])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

    def put(self, name: str, content: bytes) -> None:
        """Put a file, unless it is there already. Called in any thread."""
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        known = self._there.get(name)
        answer = known if known == Entry(len(content), md5) else self.bucket.write(name, content)
        self._sent[name] = answer, hashlib.sha256(content).hexdigest()

    def publish(self, name: str, content: Content) -> None:
        """As `put`, in a thread. An exception of an earlier file is raised."""
        if len(self._under_way) == THREADS:
            self._under_way.popleft().result()
        self._under_way.append(self._threads.submit(self.put, name, b"".join(content)))

    def create(self, name: str, content: Content) -> Entry | None:
        """As `publish`: there is no other writer."""
        self.publish(name, content)
        return Entry(sum(map(len, content)))

    def finish(self, content: bytes) -> None:
        """Compare what is there with what was sent, and put the last file.

        Raises OrsanetError if the place has other objects in the end.
        """
        while self._under_way:
            self._under_way.popleft().result()
        found = self.bucket.entries()
        for name, (answer, sha256) in self._sent.items():
            if found.get(name) != answer and hashlib.sha256(self.bucket.read(name)[0]).hexdigest() != sha256:
                raise OrsanetError(
                    f"{self.bucket.url / name}: differs from what was sent, so another process writes there too; choose another name"
                )
        self._refuse([name for name in found if name not in self._sent])
        if not self.bucket.create(self._last, content):
            raise OrsanetError(
                f"{self.bucket.url}: another process has just written a store there; choose another name"
            )

    def _refuse(self, foreign: Sequence[str]) -> None:
        if foreign:
            raise OrsanetError(
                f"{self.bucket.url / min(foreign)}: there are other objects at this place; choose another name, or delete them"
            )


def upload(
    bucket: Bucket, names: Sequence[str], last: str, read: Callable[[str], bytes], copied: Callable[[int], object]
) -> None:
    """Put files into a place of an object store that has no store yet.

    Raises OrsanetError if the place has a store or foreign objects, or if what it has in the end
    differs from what was sent.

    Args:
        bucket: the place.
        names: the files' names, without the last one.
        last: the name of the file that is written last.
        read: returns a file's content, or raises an exception; called in several threads.
        copied: called with the bytes of each file that is there.
    """

    def put(name: str) -> None:
        content = read(name)
        to.put(name, content)
        copied(len(content))

    with Upload(bucket, last, {*names}.__contains__) as to, ThreadPoolExecutor(THREADS, "read") as pool:
        for _ in pool.map(put, names):
            pass
        content = read(last)
        to.finish(content)
        copied(len(content))
