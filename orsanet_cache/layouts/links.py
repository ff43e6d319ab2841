"""The files behind a data set's pictures, where some are links.

Downloads are often made of links: a cache keeps every content once, and the pictures of its
snapshots are links to it. A build refuses two rows of one file and rows without a file. So these
are left out here, counted as the lines of a list are: rows that agree count once.
"""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from orsanet_cache.data.files import ImageFiles
from orsanet_cache.data.manifest import Sample
from orsanet_cache.errors import OrsanetError
from orsanet_cache.layouts.found import DataSet

SAME_FILE = "the same file as another picture of its class and split, by a link"
CONTRADICTORY = "one file in several classes or splits, by links"


def without_link_trouble(data: DataSet, root: Path) -> DataSet:
    """Return the samples that have a regular file of their own, and a note on links that lead out of `root`.

    Raises OrsanetError if a split has no such sample, as one that is a link to another split.
    """
    files = ImageFiles(root)
    left_out = defaultdict(list, {reason: list(images) for reason, images in data.left_out.items()})
    of_file: dict[str, list[Sample]] = defaultdict(list)
    for sample in data.samples:
        try:
            of_file[files.target(sample.image)].append(sample)
        except ValueError as reason:
            left_out[str(reason)].append(sample.image)
    kept = set()
    for first, *others in of_file.values():
        if any((other.label, other.split) != (first.label, first.split) for other in others):
            left_out[CONTRADICTORY] += [first.image, *(other.image for other in others)]
            continue
        left_out[SAME_FILE] += [other.image for other in others]
        kept.add(first.image)
    samples = tuple(sample for sample in data.samples if sample.image in kept)
    before, after = ({sample.split for sample in some} for some in (data.samples, samples))
    if lost := sorted(before - after):
        where = f" in {', '.join(lost)}" if any(lost) else ""
        raise OrsanetError(
            f"{root}: no picture{where} has a file of its own: all are links to files of other splits or classes, "
            f"or to files that do not exist; replace these links"
        )
    stated = {reason: images for reason, images in left_out.items() if images}
    return replace(data, samples=samples, left_out=stated, notes=(*data.notes, *files.notes()))
