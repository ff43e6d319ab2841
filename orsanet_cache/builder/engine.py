"""What computes the units of a build: this process (local_engine.py), or the workers of a Ray cluster (ray_engine.py).

    build ─ plans, seals, writes states ─▶ Engine ─ computes and commits units

The values of a unit do not depend on the engine, so neither do the seals.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from orsanet_cache.builder.plan import Work
from orsanet_cache.builder.reuse import Reuse
from orsanet_cache.data.images import ImageReading
from orsanet_cache.data.manifest import Manifest, Sample
from orsanet_cache.frozen.priors import FrozenPriors, Precision
from orsanet_cache.paths import Place
from orsanet_cache.store.schema import Field
from orsanet_cache.store.units import Unit
from orsanet_cache.writing.writer import StoreWriter

if TYPE_CHECKING:
    from orsanet_cache.builder.additions import AddedWork, Additions
    from orsanet_cache.frozen.added import PriorNetwork

EngineName = Literal["local", "ray"]


class Pictures(Protocol):
    """The pictures of units. A Layout has those of all units."""

    def samples(self, unit: Unit) -> Sequence[Sample]: ...
    def files(self, unit: Unit) -> Sequence[str | None]: ...


@dataclass(frozen=True)
class Setup:
    """What determines the values of units, and what is needed to compute them."""

    out: Place
    recipe: dict[str, Any]
    root: Path  # the folder that image paths start from
    priors: FrozenPriors  # on the CPU, in fp32
    fields: tuple[Field, ...]  # of every view
    precision: Precision
    feature_dtype: str
    reading: ImageReading
    batch_size: int | None
    views: tuple[str, ...]
    optional: tuple[str, ...]  # names of the optional fields that are added
    networks: "tuple[PriorNetwork, ...]"  # of one's own
    reuse: Place | None


class Engine(ABC):
    """Computes units and commits them."""

    @abstractmethod
    def compute(self, work: Sequence[Work], pictures: Pictures) -> int:
        """Compute the views that the units lack, or copy known rows -> the number of rows copied."""

    @abstractmethod
    def add(self, work: "Sequence[AddedWork]", pictures: Pictures) -> int:
        """Compute the added fields that the units lack, where their views are committed -> the number of rows computed."""

    @abstractmethod
    def networks_seconds(self) -> float:
        """Seconds during which the networks ran; of several workers the mean."""

    @abstractmethod
    def device_name(self) -> str:
        """The name of the device that computes."""


class Machines(ABC):
    """Where the engine of a build runs. A context manager that gives the machines back.

    `device` is that of the networks; `own_device` is this process's.
    """

    device: torch.device
    own_device: torch.device

    @abstractmethod
    def __str__(self) -> str:
        """For the line that a build begins with."""

    @abstractmethod
    def __enter__(self) -> "Machines": ...

    @abstractmethod
    def __exit__(self, *_exception: object) -> None: ...

    @abstractmethod
    def chosen_precision(
        self, priors: FrozenPriors, manifest: Manifest, split: str, reading: ImageReading
    ) -> Precision:
        """As `chosen_precision` of precision.py, on the device of the networks."""

    @abstractmethod
    def engine(
        self, writer: StoreWriter, setup: Setup, source: Reuse | None, additions: "Additions", grows: bool, idle: bool
    ) -> AbstractContextManager[Engine]:
        """The engine of a build.

        Args:
            writer: the store's writer.
            setup: what determines the values.
            source: the stores whose rows are copied, if any.
            additions: what the build adds to views.
            grows: whether rows of the store itself are among those of `source`.
            idle: whether nothing is to be computed.
        """
