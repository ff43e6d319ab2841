"""Where a store is written: files that are whole or not there, whatever the place.

    Path  ─▶ FolderDestination (folder.py)     locks, and renames of temporary files
    Url   ─▶ BucketDestination (objects.py)    no lock: whole PUTs, and creates that only one process wins

What the store's writer does is the same for both (writing/writer.py). Where nothing keeps other
processes out (`excludes` is false) it looks again after it has written.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from orsanet_cache.durable import Content
from orsanet_cache.paths import Place, Url
from orsanet_cache.places.copies import Copies
from orsanet_cache.places.files import Entry, Files


class Output(Protocol):
    """Files that can be read and written by their names."""

    @property
    def files(self) -> Files: ...
    def publish(self, name: str, content: Content) -> None: ...
    def create(self, name: str, content: Content) -> Entry | None: ...


class Staging(ABC):
    """Files that get their names together. A context manager's value."""

    @abstractmethod
    def add(self, name: str, content: Content) -> None:
        """Prepare a file."""

    @abstractmethod
    def publish(self, is_taken: Callable[[], bool]) -> dict[str, Entry] | None:
        """Give the files their names -> the entry of each in a listing.

        Where nothing excludes other processes and a name has another content, `is_taken` decides
        whether that is to stay. None: it stays, and not all files were written.
        """


class Destination(ABC):
    """The place of a store that is written.

    Args:
        place: a folder or a URL.
        root: the name of the file that makes it a store.
        commits: the name of the folder of markers.
    """

    place: Place
    files: Files  # as they are now
    excludes: bool  # whether `locked` keeps other processes out
    most_bytes: float  # that a file may have

    @abstractmethod
    def begin(self, root: bytes) -> None:
        """Make the place a store with this root, unless it is one.

        Raises OrsanetError for a place that has something else.
        """

    @abstractmethod
    def enter(self, part: str) -> None:
        """Begin to write a part, such as 2/4.

        Raises OrsanetError if another process writes it, where locks show that.
        """

    @abstractmethod
    def join(self, name: str, holder: str) -> None:
        """Begin to write beside the process that writes the part `holder`, under a name of one's own.

        Raises OrsanetError unless that process holds the place, where locks show that.
        """

    @abstractmethod
    def leave(self, is_finished: Callable[[], bool]) -> None:
        """End the part. If `is_finished`, what only a build needs is deleted."""

    @abstractmethod
    def locked(self) -> AbstractContextManager[object]:
        """The store's lock, under which files get their names or are deleted."""

    @abstractmethod
    def sealing(self) -> AbstractContextManager[object]:
        """The lock of the one process that seals."""

    @abstractmethod
    def publish(self, name: str, content: Content) -> None:
        """Write a whole file, in place of an earlier one."""

    @abstractmethod
    def claim(self, name: str, content: Content) -> bool:
        """Write a whole file of which no other process may write another version -> whether it has this content.

        Under the store's lock an earlier one is what a killed process left, and is replaced.
        """

    @abstractmethod
    def create(self, name: str, content: Content) -> Entry | None:
        """Write a whole file if there is none -> its entry in a listing; None if there is one with another content."""

    @abstractmethod
    def exchange(self, name: str, before: bytes, content: Content) -> bool:
        """Write a whole file in place of one with the content `before` -> False if it has another one now."""

    @abstractmethod
    def publish_all(self, files: Iterable[tuple[str, Content]]) -> None:
        """As `publish`, several."""

    @abstractmethod
    def staging(self) -> AbstractContextManager[Staging]:
        """Prepare files that get their names together."""

    @abstractmethod
    def delete(self, names: Iterable[str]) -> None:
        """Delete files; those that do not exist are passed over."""

    @abstractmethod
    def delete_folder(self, name: str) -> None:
        """Delete a folder with all that is in it, if it exists."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether there is a file or a folder of this name."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, which may be missing."""

    @abstractmethod
    def copies(self) -> Copies | None:
        """Copies of the shards as they are now, for a reader of an object store."""

    @abstractmethod
    def look(self, *folders: str) -> Files:
        """The files of these folders; of an object store as one listing finds them."""

    @abstractmethod
    def stamp(self, name: str) -> Hashable:
        """Tells a file from any other that was or will be at its place. None if there is none."""

    @abstractmethod
    def stamps(self, folder: str) -> Mapping[str, Hashable]:
        """The stamps of the files in a folder, by name."""

    @abstractmethod
    def folders(self) -> list[str]:
        """Names of the folders of the store, without that of the markers."""


def open_destination(place: Place, root: str, commits: str) -> Destination:
    """Arguments as for Destination."""
    if isinstance(place, Url):
        from orsanet_cache.places.bucket import Bucket
        from orsanet_cache.places.objects import BucketDestination

        return BucketDestination(Bucket.open(place), root, commits)
    from orsanet_cache.places.folder import FolderDestination

    return FolderDestination(place, root, commits)
