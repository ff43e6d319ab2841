"""One finding: severity, problem, places, and advice."""

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
    """A problem of a data set.

    `what` and `advice` have one or two sentences. `where` has every affected picture; it is empty
    if the finding concerns the whole data set.
    """

    severity: Severity
    topic: str
    what: str
    advice: str
    where: tuple[Place, ...] = ()


def places(images: "list[str]") -> tuple[Place, ...]:
    """Return one place per picture."""
    return tuple(Place((image,)) for image in images)
