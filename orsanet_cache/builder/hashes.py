"""The SHA-256 of image files, computed for those that are not known by their inode, size and times.

    STORE/.pictures    one record a file that was hashed: inode, size, both times, SHA-256 · SHA-256 of all records

A further build then costs one `stat` a picture. What the file system cannot tell apart is not
recorded: a file that was changed less than SETTLED_NS before it was hashed could change again
within the same tick of the clock. The file is no part of the store's data and may be deleted.
"""

import hashlib
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.data.files import on_disk
from orsanet_cache.data.images import RejectedImage, read_file
from orsanet_cache.durable import write_whole
from orsanet_cache.errors import refuse_shortage
from orsanet_cache.paths import Place, Url
from orsanet_cache.places.bucket import Bucket
from orsanet_cache.progress import tracked
from orsanet_cache.reading import read_limited

FILE = ".pictures"
MOST_BYTES = 64 * 10**8
SETTLED_NS = 2 * 10**9
AT_A_TIME = 64  # pictures that a thread is given: one by one, small files take twice as long
WORTH_IT = 256  # pictures hashed; fewer take no time
RECORD = np.dtype([("stamp", "<i8", 4), ("sha256", "u1", 32)])  # inode, size, modified and changed (ns)
Stamp = tuple[int, int, int, int]


class Hashes:
    """Digests of the files of images, in hex; empty for a file that cannot be read.

    Args:
        root: the folder that image paths start from.
        store: the store that remembers digests; None remembers nothing.
        afresh: hash every file, also those that are known.
    """

    def __init__(self, root: Path, store: Place | None = None, afresh: bool = False) -> None:
        self._root = root
        self._below = f"{root}/"
        self._store = store
        self._known: dict[str, str] = {}
        self._hashed: dict[Stamp, str] = {}  # by this process
        records = np.zeros(0, RECORD) if store is None or afresh else _read(store)
        self._records = records[np.argsort(records["stamp"][:, 0], kind="stable")]

    def of(self, image: str) -> str:
        """The digest of an image, which is computed unless it is known."""
        if image not in self._known:
            self.read([image], "hash")
        return self._known[image]

    def read(self, images: Iterable[str], name: str) -> None:
        """Find the digests of these images. `name` is the progress bar's, while some must be computed."""
        lacking = [image for image in dict.fromkeys(images) if image not in self._known]
        if len(self._records) and lacking:
            remembered = self._remembered([self._stamp(image) for image in lacking])
            self._known |= {image: digest for image, digest in zip(lacking, remembered, strict=True) if digest}
            lacking = [image for image in lacking if image not in self._known]
        if lacking:
            parts = [lacking[start : start + AT_A_TIME] for start in range(0, len(lacking), AT_A_TIME)]
            with ThreadPoolExecutor(os.cpu_count(), "hash") as pool:
                of_parts = pool.map(lambda part: [self._sha256(image) for image in part], parts)
                found = tracked(chain.from_iterable(of_parts), len(lacking), name, "img", delay=2, leave=False)
                self._known |= dict(zip(lacking, found, strict=True))

    def save(self) -> None:
        """Record what was computed, for the next build."""
        if self._store is None or len(self._hashed) < WORTH_IT:
            return
        added = np.zeros(len(self._hashed), RECORD)
        added["stamp"] = list(self._hashed)
        digests = np.frombuffer(bytes.fromhex("".join(self._hashed.values())), np.uint8)
        added["sha256"] = digests.reshape(-1, 32)
        before = _read(self._store)  # another part may have written it meanwhile
        before = before[~np.isin(before["stamp"][:, 0], added["stamp"][:, 0])]
        content = np.concatenate([before, added]).tobytes()
        content += hashlib.sha256(content).digest()
        if isinstance(self._store, Url):
            Bucket.open(self._store).write(FILE, content)
        else:
            write_whole(self._store / FILE, lambda path: path.write_bytes(content))
        self._hashed.clear()

    def _remembered(self, stamps: list[Stamp | None]) -> list[str]:
        """The recorded digest of every stamp, empty for unknown ones."""
        numbers = chain.from_iterable(stamp or (0, 0, 0, 0) for stamp in stamps)
        wanted = np.fromiter(numbers, np.int64, 4 * len(stamps)).reshape(-1, 4)
        at = np.minimum(np.searchsorted(self._records["stamp"][:, 0], wanted[:, 0]), len(self._records) - 1)
        same = (self._records["stamp"][at] == wanted).all(axis=1).tolist()
        digests = self._records["sha256"][at].tobytes().hex()
        return [digests[64 * row : 64 * row + 64] if is_same else "" for row, is_same in enumerate(same)]

    def _stamp(self, image: str) -> Stamp | None:
        path = self._below + image if image.isascii() else on_disk(self._root, image)
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:  # a NUL in the name
            refuse_shortage(error, self._root)
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def _sha256(self, image: str) -> str:
        begun, stamp = time.time_ns(), self._stamp(image)
        try:
            digest = hashlib.sha256(read_file(on_disk(self._root, image))).hexdigest()
        except RejectedImage:
            return ""
        if stamp is not None and max(stamp[2:]) < begun - SETTLED_NS:
            self._hashed[stamp] = digest
        return digest


def _read(store: Place) -> NDArray[np.void]:
    """The records of a store's file; none if it is damaged or does not exist: it saves time and decides nothing."""
    try:
        if isinstance(store, Url):
            content, _ = Bucket.open(store).read(FILE, MOST_BYTES)
        else:
            content = read_limited(store / FILE, MOST_BYTES)
    except (OSError, ValueError) as error:
        refuse_shortage(error, store)
        return np.zeros(0, RECORD)
    records, digest = content[:-32], content[-32:]
    if hashlib.sha256(records).digest() != digest or len(records) % RECORD.itemsize:
        return np.zeros(0, RECORD)
    return np.frombuffer(records, RECORD)
