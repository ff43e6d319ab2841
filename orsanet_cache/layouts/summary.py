"""The output of `orsanet-cache manifest`: counts beside published ones, and omissions by reason."""

from collections.abc import Mapping, Sequence

from orsanet_cache.errors import few
from orsanet_cache.layouts.found import DataSet
from orsanet_cache.layouts.published import Published


def summary(data: DataSet, published: Mapping[str, Published], tag_sentences: Sequence[str] = ()) -> str:
    """Return a table of split and class, then omissions, notes and tags, one line each."""
    counts = data.counts()
    width = max(map(len, (*data.classes, "total")))
    lines = [f"{data.name}: {len(data.samples):,} images"]
    for split in data.splits:
        known = published.get(split)
        rows = [(name, counts[split, name], known.classes.get(name) if known else None) for name in data.classes]
        rows.append(("total", sum(count for _, count, _ in rows), known.total if known else None))
        for name, count, expected in rows:
            compared = "" if expected is None else f"   published {expected:>7,}"
            differs = "" if expected is None or expected == count else f"   {count - expected:+,}"
            lines.append(f"  {split:<6} {name:<{width}} {count:>9,}{compared}{differs}")
    for reason, names in sorted(data.left_out.items()):
        lines.append(f"left out, {reason}: {len(names):,} ({few(names)})")
    if not data.left_out:
        lines.append("left out: nothing")
    lines += [f"note: {note}" for note in data.notes]
    lines += [f"tag {sentence}" for sentence in tag_sentences]
    return "\n".join(lines)
