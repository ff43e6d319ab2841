"""The files of a store copied into an object store: all of them, then the one without which it is no store.

    names ─ THREADS threads: read, checked ─▶ PUT ─▶ LIST against the answers ─ what differs is read back ─▶ the last file, created exclusively

A copy that was interrupted has no last file. The same copy goes on: an object whose e_tag is the MD5 of
the content, as S3 gives it, is not sent again.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from orsanet_cache.errors import OrsanetError
from orsanet_cache.places.bucket import Bucket
from orsanet_cache.places.files import Entry

THREADS = 8


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
    there = bucket.entries()
    if last in there:
        raise OrsanetError(f"{bucket.url}: already exists; choose another name, or delete it")
    if foreign := sorted(there.keys() - {*names}):
        raise OrsanetError(f"{bucket.url / foreign[0]}: there are other objects at this place; choose another name")

    def put(name: str) -> tuple[Entry, str]:
        content = read(name)
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        known = there.get(name)
        answer = known if known == Entry(len(content), md5) else bucket.write(name, content)
        copied(len(content))
        return answer, hashlib.sha256(content).hexdigest()

    with ThreadPoolExecutor(THREADS, "upload") as pool:
        sent = dict(zip(names, pool.map(put, names), strict=True))
    found = bucket.entries()
    for name, (answer, sha256) in sent.items():
        if found.get(name) != answer and hashlib.sha256(bucket.read(name)[0]).hexdigest() != sha256:
            raise OrsanetError(
                f"{bucket.url / name}: differs from what was sent, so another process writes there too; choose another name"
            )
    content = read(last)
    if not bucket.create(last, content):
        raise OrsanetError(f"{bucket.url}: another process has just written a store there; choose another name")
    copied(len(content))
