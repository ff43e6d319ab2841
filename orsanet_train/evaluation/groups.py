"""Groups of images that are evaluated together, written SPLIT[:TAG][@VIEW]."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orsanet_cache.data.manifest import Manifest
from orsanet_cache.data.views import CLEAN, HFLIP
from orsanet_cache.store.reader import PriorStore
from orsanet_train.model.checkpoint import Identity

NOT_A_TEST = (CLEAN, HFLIP)  # views without an occlusion


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

    def __str__(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        return f"{self.split}{tag}{'' if self.view == CLEAN else f'@{self.view}'}"

    def of(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """bool [rows]: the rows of a predictions table that belong to the group."""
        chosen = (table["split"] == self.split) & (table["view"] == self.view)
        if self.tag is not None:
            chosen &= table["tags"].str.split(";").map(lambda tags: self.tag in tags)
        return chosen.to_numpy(bool)


def all_groups(manifest: Manifest, store: PriorStore, identity: Identity) -> list[Group]:
    """Every split except the training split, each with its tags and its occluded views."""
    groups = []
    for split in manifest.splits:
        if split == identity.train_split and manifest.name == identity.data_set:
            continue
        tags = sorted(set().union(*(sample.tags for sample in manifest.split(split))))
        views = [view for view in store.views(split) if view not in NOT_A_TEST] if split in store.splits else []
        groups += [Group(split, None, CLEAN), *(Group(split, tag, CLEAN) for tag in tags)]
        groups += [Group(split, None, view) for view in views]
    return groups
