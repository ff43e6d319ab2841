"""Groups of images that are evaluated together, written SPLIT[:TAG][@VIEW]."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orsanet_cache.data.manifest import Manifest, meant_split
from orsanet_cache.data.views import AUGMENTED, CLEAN, HFLIP
from orsanet_cache.store.reader import PriorStore
from orsanet_train.model.checkpoint import Identity

_NO_OCCLUSION = (CLEAN, HFLIP, AUGMENTED)  # kinds of views that are no occlusion to be tested with


@dataclass(frozen=True)
class Group:
    """Images to evaluate together, written SPLIT[:TAG][@VIEW]: `test`, `test:occluded`, `test@erase-20`."""

    split: str
    tag: str | None
    view: str

    @classmethod
    def parse(cls, text: str) -> Self:
        rest, at, view = text.partition("@")
        split, colon, tag = rest.partition(":")
        return cls(split, tag if colon else None, view if at else CLEAN)

    def among(self, splits: Sequence[str]) -> Self:
        """The group, with the split that its split's name means."""
        return replace(self, split=meant_split(self.split, splits))

    def __str__(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        return f"{self.split}{tag}{'' if self.view == CLEAN else f'@{self.view}'}"

    @property
    def is_occluded(self) -> bool:
        """Whether the view covers a part of every picture, to test the model with it."""
        return self.view.partition("-seed")[0] not in _NO_OCCLUSION

    def of(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """bool [rows]: the rows of a predictions table that belong to the group."""
        chosen = (table["split"] == self.split) & (table["view"] == self.view)
        if self.tag is not None:
            chosen &= table["tags"].str.split(";").map(lambda tags: self.tag in tags)
        return chosen.to_numpy(bool)


def all_groups(manifest: Manifest, store: PriorStore, identity: Identity) -> list[Group]:
    """Every split except the training split, each with its tags and its occluded views.

    The training split is known by its images, whatever the names of split and manifest: it is a
    split with more than half of its images from training.
    """
    groups = []
    for split in manifest.splits:
        if _is_training_split(manifest, store, split, identity):
            continue
        tags = sorted(set().union(*(sample.tags for sample in manifest.split(split))))
        stored = store.views(split) if split in store.splits else ()
        groups += [Group(split, None, CLEAN), *(Group(split, tag, CLEAN) for tag in tags)]
        groups += [group for view in stored if (group := Group(split, None, view)).is_occluded]
    return groups


def _is_training_split(manifest: Manifest, store: PriorStore, split: str, identity: Identity) -> bool:
    if identity.images is not None and split in store.splits and CLEAN in store.views(split):
        wanted = {sample.image for sample in manifest.split(split)}
        rows = [row for row, image in enumerate(store.sample_ids(split)) if image in wanted]
        if rows:  # a split that the store lacks is refused when it is read
            digests = store.sealed(split, CLEAN).image_sha256[rows]
            return 2 * int(identity.images.trained(digests).sum()) > len(rows)
    return split == identity.train_split and manifest.name == identity.data_set
