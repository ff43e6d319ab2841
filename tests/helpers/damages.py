"""What may become of a file of a store: deleted, emptied, cut, longer, one bit other."""

import random
from collections.abc import Iterator
from pathlib import Path

KINDS = {
    "root metadata": "zarr.json",
    "split metadata": "train/zarr.json",
    "sample id metadata": "train/sample_id/zarr.json",
    "sample ids": "train/sample_id/c.0.0",
    "view metadata": "train/clean/zarr.json",
    "field metadata": "train/clean/image/zarr.json",
    "compressed field metadata": "train/clean/segmentation_map/zarr.json",
    "feature metadata": "train/clean/landmark_features/zarr.json",
    "shard": "train/clean/landmark_features/c.1.0.0.0",
    "compressed shard": "train/clean/segmentation_map/c.0.0.0",
    "image digest metadata": "train/clean/image_sha256/zarr.json",
    "image digests": "train/clean/image_sha256/c.0.0",
    "unit digest metadata": "train/clean/unit_sha256/zarr.json",
    "unit digests": "train/clean/unit_sha256/c.0.0.0",
}


def flipped(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def damages(data: bytes, chance: random.Random, flips: int = 24) -> Iterator[tuple[str, bytes | None]]:
    """A name and what becomes of a file: nothing at all, empty, cut off, longer, one bit other."""
    yield "deleted", None
    yield "emptied", b""
    yield "zeroed", bytes(len(data))
    yield "grown", data + b"\0" * 4
    if not data:
        return
    for length in [1, len(data) - 1, *(chance.randrange(len(data)) for _ in range(4))]:
        yield f"cut to {length}", data[:length]
    for number in range(flips):
        yield f"bit flip {number}", flipped(data, chance)


def put(path: Path, data: bytes | None) -> None:
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
