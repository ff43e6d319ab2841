"""Single pictures: unusable, tiny, blank, far from square, or possibly more than a face."""

from pathlib import PurePosixPath

import numpy as np

from orsanet_cache.doctor.finding import Finding, Place, places
from orsanet_cache.doctor.known import Known
from orsanet_cache.doctor.look import DataSet

SEEN = 112  # pixels a side: the input of two of the networks
BLANK = 4.0  # contrast; 959 real faces have at least 22
STRETCHED = 4 / 3  # sides of a picture; face crops are square or nearly so
LARGE = 1_024  # pixels: crops this large are rare, photographs are not


def judge_pictures(data: DataSet, known: Known | None) -> list[Finding]:
    """Judge each picture. `known`: the public data set, with the size of its pictures."""
    usable = data.usable
    unusable = data.pictures[data.pictures.problem != ""]
    shorter = np.minimum(usable.width, usable.height)
    longer = np.maximum(usable.width, usable.height)
    findings = []
    if len(unusable):
        findings.append(
            Finding(
                "error",
                "unusable",
                f"{len(unusable):,} picture(s) cannot be used: a build refuses missing files and leaves out unreadable ones",
                "unpack or download these files again, or delete their rows.",
                tuple(
                    Place((image,), problem) for image, problem in zip(unusable.image, unusable.problem, strict=True)
                ),
            )
        )
    if len(blank := usable[usable.contrast <= BLANK]):
        findings.append(
            Finding(
                "warning",
                "blank",
                f"{len(blank):,} picture(s) show one even colour and no face",
                "look at them and delete their rows.",
                places(blank.image.tolist()),
            )
        )
    tiny = shorter < SEEN
    as_published = tiny & (usable.width == usable.height) & (usable.width == (known.side if known else None))
    if len(small := usable[tiny & ~as_published]):
        findings.append(
            Finding(
                "warning",
                "tiny",
                f"{len(small):,} picture(s) ({len(small) / len(usable):.0%}) are smaller than the {SEEN} pixels of the networks' input, "
                f"the smallest {int(shorter.min())}: they are enlarged and blurred",
                "take larger crops of the original photographs, if available.",
                places(small.image.tolist()),
            )
        )
    if known is not None and as_published.any():
        findings.append(
            Finding(
                "note",
                "small-as-published",
                f"{int(as_published.sum()):,} picture(s) have {known.side}x{known.side} pixels, as {known.title} is distributed, and are enlarged to {SEEN}",
                "nothing: the published runs used the same.",
                places(usable[as_published].image.tolist()),
            )
        )
    if len(stretched := usable[longer > STRETCHED * shorter]):
        findings.append(
            Finding(
                "warning",
                "far-from-square",
                f"{len(stretched):,} picture(s) are far from square, up to {(longer / shorter).max():.1f} to 1: they are stretched "
                f"to a square for the networks, and face crops seldom have such sides",
                "crop the faces out as squares.",
                places(stretched.image.tolist()),
            )
        )
    if len(large := usable[longer >= LARGE]):
        findings.append(
            Finding(
                "warning",
                "large",
                f"{len(large):,} picture(s) have a side of {LARGE:,} pixels or more: they may be photographs with a small face",
                "look at some; if they are photographs, crop the faces out. AffectNet's first release needs `manifest affectnet --crops`.",
                places(large.image.tolist()),
            )
        )
    findings += [Finding("note", "links-and-names", note, "nothing, if this is as you expect.") for note in data.notes]
    if len(hidden := [image for image in usable.image if PurePosixPath(image).name.startswith(".")]):
        findings.append(
            Finding(
                "note",
                "hidden-files",
                f"{len(hidden):,} picture(s) have a name that begins with a dot: such files are often previews or left-overs",
                "look at them, and delete their rows if they are previews or left-overs.",
                places(hidden),
            )
        )
    return findings
