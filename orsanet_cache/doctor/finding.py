"""One finding: how grave, what, where, and what to do."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Place:
    """One picture, or several that belong together."""

    images: tuple[str, ...]  # paths as in the manifest
    remark: str = ""
    similarity: float | None = None  # of near copies, that of the least similar pair: similarity.py


@dataclass(frozen=True)
class Finding:
    """`what` and `advice` are a sentence or two; `where` names every picture concerned, and none where it is the whole data set."""

    severity: Severity
    topic: str
    what: str
    advice: str
    where: tuple[Place, ...] = ()


def places(images: "list[str]") -> tuple[Place, ...]:
    """Pictures, each by itself."""
    return tuple(Place((image,)) for image in images)
