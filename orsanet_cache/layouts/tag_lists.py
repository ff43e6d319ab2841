"""Published lists of occluded or posed pictures, as tags of the samples that they name.

A line has one picture, its name first. The occlusion lists of the Region Attention Networks have
`test_0003_aligned 3 4` (RAF-DB), `val/0/bc9ad4…/` (AffectNet) and `1_fer0034656.png 8 0` (FERPlus).
Their pose lists have `0/test_0004_aligned.jpg`. Names are compared without folder, suffix and the
label before `_`. The rest of the line (expression, kind of occlusion) is not used.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from orsanet_cache.data.formats import is_picture
from orsanet_cache.data.manifest import read_text
from orsanet_cache.errors import OrsanetError, few
from orsanet_cache.layouts.found import DataSet

_LABEL_PREFIX = re.compile(r"[0-9]+_(?=.)")


@dataclass(frozen=True)
class TagList:
    """A file of names, and the tag for the pictures it names."""

    tag: str
    path: Path


def with_tag_lists(data: DataSet, lists: Sequence[TagList]) -> tuple[DataSet, list[str]]:
    """Return the same samples with further tags, and a sentence per list about its pictures.

    Raises OrsanetError for a list that names no pictures, or pictures that the data set does not
    have.
    """
    sentences = []
    for tag_list in lists:
        named, sentence = _named(data, tag_list)
        samples = (
            replace(sample, tags=sample.tags | {tag_list.tag}) if sample.image in named else sample
            for sample in data.samples
        )
        data = replace(data, samples=tuple(samples))
        sentences.append(sentence)
    return data, sentences


def _named(data: DataSet, tag_list: TagList) -> tuple[set[str], str]:
    """Return the images that the list names, and a sentence about them."""
    images = [sample.image for sample in data.samples]
    # Without a picture that is kept, and of which only repeated lines are left out.
    left_out = {image for group in data.left_out.values() for image in group}.difference(images)
    by_path, by_stem = {*images, *left_out}, defaultdict(set)
    for image in by_path:
        by_stem[_stem(image)].add(image)

    lines = [line.strip() for line in read_text(tag_list.path).splitlines() if line.strip()]
    found = [_find(line, by_path, by_stem) for line in lines]
    headed = len(found) > 1 and not found[0] and any(found[1:])
    entries = list(zip(lines, found, strict=True))[1 if headed else 0 :]
    unknown = [line for line, pictures in entries if not pictures]
    if not entries or unknown:
        # A file of which no line fits is no such list, and may be any file: none of its lines is printed.
        examples = f": {few(unknown)}" if len(unknown) < len(entries) else ""
        what = (
            f"{len(unknown):,} of {len(entries):,} lines name no picture of {data.name}{examples}"
            if entries
            else "is empty"
        )
        raise OrsanetError(
            f"{tag_list.path}: {what}; a list fits only a release with the same file names: use the list of this data set, "
            f"or remove those lines"
        )
    ambiguous = [line for line, pictures in entries if len(pictures) > 1]
    if ambiguous:
        raise OrsanetError(
            f"{tag_list.path}: {len(ambiguous):,} lines name several pictures of {data.name}: {few(ambiguous)}; "
            f"write their paths below ROOT"
        )
    named = {picture for _, pictures in entries for picture in pictures}
    tagged = named - left_out
    parts = [f"{len(entries):,} lines, {len(tagged):,} images"]
    if len(named) < len(entries):
        parts.append(f"{len(entries) - len(named):,} named again")
    if named & left_out:
        parts.append(f"{len(named & left_out):,} of images that are left out")
    if headed:
        parts.append(f"first line {lines[0]!r} treated as a header")
    return tagged, f"{tag_list.tag}: {', '.join(parts)}"


def _find(line: str, by_path: set[str], by_stem: dict[str, set[str]]) -> set[str]:
    if line in by_path:  # a path may have spaces
        return {line}
    name = line.split()[0]
    if name in by_path:
        return {name}
    stem = _stem(name)
    return by_stem.get(stem) or by_stem.get(_LABEL_PREFIX.sub("", stem, count=1)) or set()


def _stem(name: str) -> str:
    path = PurePosixPath(name)  # without a slash at the end
    return path.stem if is_picture(path.name) else path.name
