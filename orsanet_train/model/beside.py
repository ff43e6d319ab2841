"""A folder that a command writes beside a run, which may have a URL.

    URL ─ an earlier folder of this kind ─▶ temporary folder ─ the command ─▶ its files, the mark last ─▶ URL

A reader finds the earlier folder or the new one, or a mixture while it is sent, which it refuses
where files name each other's digests (an evaluation).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orsanet_cache.errors import OrsanetError
from orsanet_cache.outputs import Kind, entries, temporary_folder
from orsanet_cache.paths import Place, Url
from orsanet_cache.places.bucket import PART_BYTES, PARTS, Bucket
from orsanet_cache.places.files import Entry
from orsanet_train.model.fetched import PREFIX, named


@contextmanager
def written(out: Place, kind: Kind | None) -> Iterator[Path]:
    """The folder of this machine in which a command writes `out`; for a URL a temporary one, which is sent if the context ends well.

    `kind` is what may be replaced at the URL. None: nothing may be there.

    Raises OrsanetError if there is anything else at the URL, or if another command writes there too.
    """
    if not isinstance(out, Url):
        yield out
        return
    bucket = Bucket.open(out)
    before = bucket.entries()
    files = {} if kind is None else kind.files
    if foreign := [name for name in before if name not in files]:
        raise OrsanetError(f"{out / foreign[0]}: is in the way, so nothing was replaced; choose a folder with --out")
    with temporary_folder(PREFIX) as temporary, named(temporary / out.name, out):
        folder = temporary / out.name
        for name in before:
            folder.mkdir(exist_ok=True)
            (folder / name).write_bytes(bucket.read(name)[0])
        yield folder
        names = sorted(entries(folder), key=lambda name: kind is not None and name == kind.marks[0])
        sent = dict[str, Entry]()
        if is_same := bucket.entries() == before:
            sent = {name: _sent(bucket, name, folder / name) for name in names}
            bucket.delete(before.keys() - sent.keys())
        if not is_same or bucket.entries() != sent:
            raise OrsanetError(
                f"{out}: another command writes there too; let it finish, and run the same command again"
            )


def _sent(bucket: Bucket, name: str, path: Path) -> Entry:
    large = path.stat().st_size > PARTS * PART_BYTES
    return bucket.write_file(name, path) if large else bucket.write(name, path.read_bytes())
