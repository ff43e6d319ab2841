"""A place in an object store, where a store is written without locks and renames.

    shards ─ PUT, if there is none ─▶ marker ─ created exclusively: e_tags, digests, an attempt id ─▶ done, as a LIST shows

A file of which processes may write different versions is created on the condition that there is none
(If-None-Match), so that one of them wins, and the others find out. Without an answer to such a
request the content of the object decides. Whether the server honours the condition is tested at the
start. A file is replaced only where it is not yet part of anything, or on the condition that it is
still the one that was read (If-Match).
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext

from orsanet_cache.durable import Content
from orsanet_cache.errors import OrsanetError
from orsanet_cache.places.bucket import MOST_BYTES, Bucket
from orsanet_cache.places.bucket_files import BucketFiles, CurrentFiles
from orsanet_cache.places.copies import Copies, Passing
from orsanet_cache.places.destination import Destination, Staging
from orsanet_cache.places.files import Entry, Files

THREADS = 8
WINDOW = 32  # files that wait in memory for a thread


class BucketDestination(Destination):
    """As Destination."""

    excludes = False
    most_bytes = MOST_BYTES

    def __init__(self, bucket: Bucket, root: str, commits: str) -> None:
        self.place = bucket.url
        self.bucket = bucket
        self.files: Files = CurrentFiles(bucket)
        self._root = root
        self._commits = commits

    def begin(self, root: bytes) -> None:
        if self.bucket.entry(self._root) is None:
            others = [*self.bucket.entries()]
            if others and self._root not in others:  # with it, another process was faster
                raise OrsanetError(
                    f"{self.place / others[0]}: there are objects at this place, and no store; choose another name, or delete them "
                    f"(a copy that was interrupted goes on with the same `orsanet-cache convert`)"
                )
            self.bucket.create(self._root, root)
        self.bucket.check_conditions(self._root)

    def enter(self, part: str) -> None:
        pass

    def join(self, name: str, holder: str) -> None:
        if self.bucket.entry(self._root) is None:
            raise OrsanetError(f"{self.place}: there is no store, as seen from this machine")

    def leave(self, is_finished: Callable[[], bool]) -> None:
        pass

    def locked(self) -> AbstractContextManager[object]:
        return nullcontext()

    def sealing(self) -> AbstractContextManager[object]:
        return nullcontext()

    def publish(self, name: str, content: Content) -> None:
        self.bucket.write(name, b"".join(content))

    def claim(self, name: str, content: Content) -> bool:
        return self.create(name, content) is not None

    def create(self, name: str, content: Content) -> Entry | None:
        return self.bucket.create(name, b"".join(content))

    def exchange(self, name: str, before: bytes, content: Content) -> bool:
        there, entry = self.bucket.read(name)
        now = b"".join(content)
        return there == now or (there == before and self.bucket.replace(name, now, entry) is not None)

    def publish_all(self, files: Iterable[tuple[str, Content]]) -> None:
        with ThreadPoolExecutor(THREADS, "put") as pool:
            for window in _windows(files):
                list(pool.map(lambda file: self.publish(*file), window))

    @contextmanager
    def staging(self) -> Iterator[Staging]:
        yield _Puts(self.bucket)

    def delete(self, names: Iterable[str]) -> None:
        self.bucket.delete(names)

    def delete_folder(self, name: str) -> None:
        self.bucket.delete(self.bucket.entries(name))

    def has(self, name: str) -> bool:
        return self.bucket.entry(name) is not None or bool(self.bucket.entries(name))

    def names(self, folder: str) -> list[str]:
        return [name.rpartition("/")[2] for name in self.bucket.entries(folder)]

    def copies(self) -> Copies | None:
        return Passing(CurrentFiles(self.bucket))

    def look(self, *folders: str) -> Files:
        return BucketFiles(self.bucket, folders)

    def stamp(self, name: str) -> Hashable:
        return self.bucket.entry(name)

    def stamps(self, folder: str) -> Mapping[str, Hashable]:
        return self.bucket.entries(folder)

    def folders(self) -> list[str]:
        return [name for name in self.bucket.folders("") if name != self._commits]


class _Puts(Staging):
    """Whole objects in memory, and their PUTs."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._contents: dict[str, bytes] = {}

    def add(self, name: str, content: Content) -> None:
        self._contents[name] = b"".join(content)

    def publish(self, is_taken: Callable[[], bool]) -> dict[str, Entry] | None:
        with ThreadPoolExecutor(THREADS, "put") as pool:
            found = dict(zip(self._contents, pool.map(self._create, self._contents), strict=True))
            others = [name for name, entry in found.items() if entry is None]
            if others and is_taken():
                return None
            written = pool.map(lambda name: self._bucket.write(name, self._contents[name]), others)
            known = {name: entry for name, entry in found.items() if entry is not None}
            return known | dict(zip(others, written, strict=True))

    def _create(self, name: str) -> Entry | None:
        """Put an object if there is none -> its entry; None if there is one with another content."""
        return self._bucket.create(name, self._contents[name])


def _windows(files: Iterable[tuple[str, Content]]) -> Iterator[list[tuple[str, Content]]]:
    window: list[tuple[str, Content]] = []
    for file in files:
        window.append(file)
        if len(window) == WINDOW:
            yield window
            window = []
    yield window
