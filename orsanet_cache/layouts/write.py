"""The output of `orsanet-cache manifest`: two files, and what is printed about them.

A manifest, NAME.csv and then NAME.toml, is written completely or not at all.

Existing files with other content are never overwritten. If one of ROOT and the folder of NAME.toml
contains the other, `root` is written relative to NAME.toml, so that both can be moved together.
Otherwise it is absolute.
"""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import tomli_w

from orsanet_cache.data.cells import marked
from orsanet_cache.durable import make_folder, write_new
from orsanet_cache.errors import OrsanetError, few
from orsanet_cache.layouts.found import DataSet
from orsanet_cache.layouts.published import Published
from orsanet_cache.streams import padded, terminal_width


def summary(data: DataSet, published: Mapping[str, Published], tag_sentences: Sequence[str] = ()) -> str:
    """Return a table of split and class, then omissions, notes and tags, one line each."""
    counts = data.counts()
    width = max(map(terminal_width, (*data.classes, "total")))
    lines = [f"{data.name}: {len(data.samples):,} images"]
    for split in data.splits:
        known = published.get(split)
        rows = [(name, counts[split, name], known.classes.get(name) if known else None) for name in data.classes]
        rows.append(("total", sum(count for _, count, _ in rows), known.total if known else None))
        for name, count, expected in rows:
            compared = "" if expected is None else f"   published {expected:>7,}"
            differs = "" if expected is None or expected == count else f"   {count - expected:+,}"
            lines.append(f"  {split:<6} {padded(name, width)} {count:>9,}{compared}{differs}")
    for reason, names in sorted(data.left_out.items()):
        lines.append(f"left out, {reason}: {len(names):,} ({few(names)})")
    if not data.left_out:
        lines.append("left out: nothing")
    lines += [f"note: {note}" for note in data.notes]
    lines += [f"tag {sentence}" for sentence in tag_sentences]
    return "\n".join(lines)


def write_manifest(data: DataSet, root: Path, out: Path) -> bool:
    """Write `out` (.toml) and the table beside it.

    Returns False if both exist already with the same content. Raises OrsanetError if a file with
    other content has one of the names, and for a file name that is not UTF-8.
    """
    if out.suffix != ".toml":
        raise OrsanetError(
            f"--out {out}: name the descriptor, a file that ends in .toml; the table is written beside it"
        )
    table = out.with_suffix(".csv")
    contents = {
        table: _table(data),
        out: _descriptor(data, root, out),
    }  # the descriptor last: it completes the manifest
    for path, content in contents.items():
        if path.exists() and (not path.is_file() or path.read_bytes() != content):
            raise _taken(path)
    make_folder(out.absolute().parent)
    written = False
    for path, content in contents.items():
        if not path.exists():
            if not write_new(path, [content]):
                raise _taken(path)
            written = True
    return written


def _taken(path: Path) -> OrsanetError:
    return OrsanetError(
        f"{path}: exists with other content; choose another --out, or delete {path.stem}.toml and {path.stem}.csv"
    )


def _table(data: DataSet) -> bytes:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("image", "label", "split", "tags", *(["person"] if data.persons else [])))
    for sample in data.samples:
        cells = [sample.image, data.classes[sample.label], sample.split, ";".join(sorted(sample.tags))]
        if data.persons:
            cells.append(data.persons[sample.image])
        table.writerow(map(marked, cells))
    try:
        return text.getvalue().encode()
    except UnicodeEncodeError as error:
        line = error.object[: error.start].count("\n")
        raise OrsanetError(
            f"{data.samples[line - 1].image!r}: a file name that is not UTF-8; rename the file"
        ) from error


def _descriptor(data: DataSet, root: Path, out: Path) -> bytes:
    here, images = out.absolute().parent.resolve(), root.resolve()
    together = images.is_relative_to(here) or here.is_relative_to(images)
    descriptor = {
        "name": data.name,
        "classes": list(data.classes),
        "samples": out.with_suffix(".csv").name,
        "root": Path(os.path.relpath(images, here)).as_posix() if together else images.as_posix(),
        "splits": list(data.splits),
    }
    return tomli_w.dumps(descriptor).encode()
