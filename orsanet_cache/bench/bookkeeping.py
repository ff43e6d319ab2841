"""`orsanet-cache bench bookkeeping`: what a store costs besides networks and data, for ever more rows.

Pictures are files of a kilobyte that nobody decodes, and a row has a few bytes. So what is measured is
the manifest, markers, records, seals and checks: all of it must grow with the number of rows.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orsanet_cache.builder.hashes import Hashes
from orsanet_cache.builder.plan import plan_build
from orsanet_cache.data.manifest import Manifest, load_manifest
from orsanet_cache.data.views import CLEAN, HFLIP
from orsanet_cache.outputs import temporary_folder
from orsanet_cache.progress import tracked
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.schema import Field
from orsanet_cache.store.units import UnitRecord
from orsanet_cache.store.verify import verify
from orsanet_cache.writing.writer import StoreWriter

FIELDS = (
    Field("image", (2, 2, 3), "uint8", ("y", "x", "rgb")),
    Field("landmarks", (2, 2), "float32", ("landmark", "xy")),
)
VIEWS = (CLEAN, HFLIP)
PICTURE_BYTES = 1000
IN_A_FOLDER = 10_000
SPLIT = "train"
MEASURED = (
    "manifest alone", "manifest with file check", "write and commit, all views", "seal of one view",
    "nothing to do, pictures hashed", "nothing to do", "one picture in a hundred added: plan", "open and read records",
    "verify", "verify --deep",
)  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Seconds of one step: of all cores, and on the clock."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Bookkeeping:
    """The costs of a store with so many rows, by the names of MEASURED."""

    rows: int
    files: int  # while the store was built
    costs: dict[str, Cost]


def bench_bookkeeping(rows: int, folder: Path | None = None) -> Bookkeeping:
    """Build, check and grow a store of so many rows in a temporary folder below `folder`, the system's by default."""
    costs: dict[str, Cost] = {}

    def measured(name: str, step: Callable[[], object]) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        step()
        costs[name] = Cost(time.process_time() - cpu, time.perf_counter() - wall)

    with temporary_folder("orsanet-bench-", folder) as place:
        images = _write_pictures(place, rows + rows // 100)
        table, longer = (_write_table(place, name, images[:count]) for name, count in (("now", rows), ("later", None)))
        out = place / "store.zarr"
        manifest = load_manifest(table)
        measured("manifest alone", lambda: load_manifest(table, check_files=False))
        measured("manifest with file check", lambda: load_manifest(table))
        with StoreWriter.open(out, {"benchmark": True}, FIELDS) as writer:
            measured("write and commit, all views", lambda: _commit(writer, manifest))
            files = sum(len(names) for _, _, names in os.walk(out))
            measured("seal of one view", lambda: writer.seal(SPLIT, VIEWS[0], {}))
            for view in VIEWS[1:]:
                writer.seal(SPLIT, view, {})
        measured("nothing to do, pictures hashed", lambda: _plan(out, load_manifest(table)))
        measured("nothing to do", lambda: _plan(out, load_manifest(table)))
        measured("open and read records", lambda: PriorStore.open(out).sealed(SPLIT, VIEWS[0]))
        measured("verify", lambda: verify(out))
        measured("verify --deep", lambda: verify(out, deep=True))
        grown = load_manifest(longer)
        measured("one picture in a hundred added: plan", lambda: _plan(out, grown))
        shutil.rmtree(out)
    return Bookkeeping(rows, files, costs)


def _write_pictures(place: Path, count: int) -> list[str]:
    """Write files of random bytes, below folders of at most IN_A_FOLDER -> their names."""
    names = [f"pictures/{number // IN_A_FOLDER}/{number}.jpg" for number in range(count)]
    for folder in dict.fromkeys(os.path.dirname(name) for name in names):
        (place / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)

    def write(name: str, content: bytes) -> None:
        (place / name).write_bytes(content)
        os.utime(place / name, (0, 0))  # long settled, as pictures are

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, count, IN_A_FOLDER):
            part = names[start : start + IN_A_FOLDER]
            contents = rng.integers(0, 256, (len(part), PICTURE_BYTES), np.uint8)
            list(pool.map(write, part, [one.tobytes() for one in contents]))
    return names


def _write_table(place: Path, name: str, images: Sequence[str]) -> Path:
    lines = [f"{image},{'ab'[number % 2]},{SPLIT}" for number, image in enumerate(images)]
    (place / f"{name}.csv").write_text("\n".join(["image,label,split", *lines]) + "\n", encoding="utf-8")
    descriptor = place / f"{name}.toml"
    descriptor.write_text(f'name = "{name}"\nclasses = ["a", "b"]\nsamples = "{name}.csv"\n', encoding="utf-8")
    return descriptor


def _commit(writer: StoreWriter, manifest: Manifest) -> None:
    """Write every unit of every view, as a build does that has networks which take no time."""
    samples = manifest.split(SPLIT)
    writer.add_split(SPLIT, [sample.image for sample in samples])
    for view in VIEWS:
        writer.add_view(SPLIT, view)
    units = writer.units(SPLIT)
    for unit in tracked(units, len(units), "write store", "unit"):
        of_unit = samples[unit.rows]
        digests = [hashlib.sha256(manifest.path(sample).read_bytes()).hexdigest() for sample in of_unit]
        values = np.arange(unit.start, unit.stop)
        arrays = {
            field.name: np.broadcast_to(
                values.reshape(-1, *(1 for _ in field.shape)), (len(values), *field.shape)
            ).astype(field.dtype)
            for field in FIELDS
        }
        for view in VIEWS:
            writer.commit(unit, view, arrays, UnitRecord(digests, {}))


def _plan(out: Path, manifest: Manifest) -> None:
    """What a build does before it computes."""
    hashes = Hashes(manifest.root, out)
    with StoreWriter.open(out, {"benchmark": True}, FIELDS) as writer:
        plan_build(writer, manifest, manifest.splits, VIEWS, (), False, hashes)
        hashes.save()
