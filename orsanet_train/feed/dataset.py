"""A store in your own training loop: its rows as a torch Dataset, or a run's batches.

PriorDataset   map-style, for a DataLoader: every row is a dict of tensors, as in a feed's batch
prior_feed     the feed of `orsanet-train run`, which reads ahead: its batches have the model's
               inputs in order
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from orsanet_cache.data.manifest import Manifest, Sample, as_manifest
from orsanet_cache.data.views import CLEAN
from orsanet_cache.device import as_device
from orsanet_cache.errors import OrsanetError, did_you_mean
from orsanet_cache.frozen.features import given_back
from orsanet_cache.paths import StrPath, StrPlace, as_names
from orsanet_cache.store.reader import PriorStore, as_store
from orsanet_cache.store.schema import OPTIONAL, SCALE
from orsanet_train.config import RunConfig
from orsanet_train.feed.feed import Feed
from orsanet_train.feed.residence import Resident
from orsanet_train.feed.split import check_fields, join
from orsanet_train.model.inputs import model_image
from orsanet_train.model_config import ModelConfig


class PriorDataset(Dataset[dict[str, Tensor]]):
    """The usable images of a split with their priors and labels, in the manifest's order.

    An item is a dict of tensors, named as the store's fields:

    - `image` float32 [3, 112, 112], ImageNet-normalised: the model's input
    - `segmentation_map` uint8 [224, 224]: class of every pixel
    - `segmentation_entropy` float32 []
    - `segmentation_features` float32 [1024, 7, 7] and `landmark_features` float32 [512, 7, 7],
      converted from the store's type
    - `landmarks` float32 [68, 2], x and y in units of the crop
    - fields that were added to the views, such as those of a network of one's own; those of floating
      point as float32
    - `label` int64 [], an index into `classes`

    Images that the build rejected in any of the views are left out; `rejected` names them. With
    several views the rows of the second follow those of the first: item n is
    `samples[n % len(samples)]` in `views[n // len(samples)]`. Items are not augmented.

    Forked and spawned workers of a DataLoader can use the dataset. Every row's checksum is verified
    when a process first reads the row. Each process also notices, whenever it has read as many items
    as the dataset has, that a file of the store has changed since, and raises OrsanetError.

    Example: `DataLoader(PriorDataset("store.zarr", "faces.toml", "train"), batch_size=32, shuffle=True, num_workers=2)`
    """

    def __init__(
        self,
        store: PriorStore | StrPlace,
        manifest: Manifest | StrPath,
        split: str,
        views: Sequence[str] = (CLEAN,),
        *,
        fields: Sequence[str] | None = None,
    ) -> None:
        """Join the manifest's labels to the store's rows.

        Args:
            store: an opened store or its path.
            manifest: a loaded manifest or its path.
            split: the name of the split.
            views: the names of the views.
            fields: the fields to read, of the names above except `label`; None: all.

        Raises OrsanetError if the store lacks an image of the split, a view or a field.
        """
        self.store = as_store(store)
        views = as_names(views, "views")
        if not views:
            raise OrsanetError("views: name at least one, such as clean")
        loaded = as_manifest(manifest)
        self.classes = loaded.classes
        self._joined = join(loaded, self.store, split, views)
        self.fields = _chosen_fields(self.store, self.split, views, fields)
        if any(len(self.store.groups_of(self.split, view, self.fields)) > 1 for view in views):
            self._joined = join(loaded, self.store, split, views, fields=self.fields)
        self._unchecked = 0  # items read since the files were last checked

    @property
    def split(self) -> str:
        """Name of the split."""
        return self._joined.name

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views, in the order of their rows."""
        return self._joined.views

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The manifest's samples of the usable images of the split."""
        return self._joined.samples

    @property
    def rejected(self) -> dict[str, str]:
        """Image -> the reason why the build could not use it."""
        return dict(self._joined.rejected)

    def __len__(self) -> int:
        return len(self.views) * len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Several items at once, for a DataLoader's batch: each field is read once per view."""
        places = np.array([self._place(index) for index in indices], np.int64).reshape(-1)
        view, sample = np.divmod(places, max(1, len(self.samples)))
        columns = {name: self._read(name, view, sample) for name in self.fields}
        self._unchecked += len(places)
        if self._unchecked >= len(self):
            self.store.check_unchanged(self.split)
            self._unchecked = 0
        columns["label"] = torch.from_numpy(self._joined.labels[sample])
        return [{name: values[n] for name, values in columns.items()} for n in range(len(places))]

    def _place(self, index: int) -> int:
        """A position from 0 on, for an index that may count from the end."""
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"item {index} of {count}")
        return index % count

    def _read(self, name: str, view: NDArray[np.int64], sample: NDArray[np.int64]) -> Tensor:
        """A field of several items, with the values of a feed's batch."""
        fields = self.store.fields(self.split, self.views[0])
        stored = {
            part: self._rows(part, fields[part].shape[1:], fields[part].dtype, view, sample)
            for part in (name, f"{name}{SCALE}")
            if part in fields
        }
        if name == "image":
            erased = self._joined.erased(sample, view, np.zeros((len(sample), 4), np.int64))
            return model_image(stored[name], torch.from_numpy(erased))
        return given_back(stored, name) if stored[name].is_floating_point() or len(stored) == 2 else stored[name]

    def _rows(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        view: NDArray[np.int64],
        sample: NDArray[np.int64],
    ) -> Tensor:
        out = np.empty((len(sample), *shape), dtype)
        for number in np.unique(view).tolist():
            positions = np.flatnonzero(view == number)
            rows = self._joined.rows[sample[positions]]
            self.store.read(self.split, self.views[number], name, rows, out, positions)
        return torch.from_numpy(out)


def _chosen_fields(
    store: PriorStore, split: str, views: Sequence[str], fields: Sequence[str] | None
) -> tuple[str, ...]:
    """The fields to read; None: all that the views have. Raises OrsanetError for one that a view lacks."""
    of_views = [[name for name in store.fields(split, view) if not name.endswith(SCALE)] for view in views]
    stored = [name for name in of_views[0] if all(name in of_view for of_view in of_views)]
    chosen = tuple(stored if fields is None else as_names(fields, "fields"))
    if optional := [name for name in chosen if name not in stored and name in OPTIONAL]:
        check_fields(store, split, views, optional, "the dataset")
    if unknown := [name for name in chosen if name not in stored]:
        raise OrsanetError(
            f"{store.path}: no field '{unknown[0]}'; it has {', '.join(stored)}{did_you_mean(unknown[0], stored)}"
        )
    return chosen


class _Fields(ModelConfig):
    """Fields in the place of a model: batches have them as they are, in this order."""

    names: tuple[str, ...]

    @property
    def named(self) -> str:
        return "the feed"

    @property
    def reads(self) -> dict[str, str]:
        return {name: name for name in self.names}


def prior_feed(
    store: PriorStore | StrPlace,
    manifest: Manifest | StrPath,
    split: str,
    config: RunConfig,
    *,
    fields: Sequence[str] | None = None,
    device: torch.device | str = "auto",
    resident: Resident = "auto",
) -> Feed:
    """The feed of a split that `orsanet-train run` uses, for your own loop.

    `feed.epoch(config, n)` yields the batches of the training split's n-th epoch. They are drawn
    and augmented with the settings of `config`, and the same on every machine.
    `feed.in_order(batch_size)` yields every image of any split once. A batch's tensors are on
    `device`: `batch.inputs` are the arguments of the model's forward (`config.model.reads`), then
    come `label` and `drop_path`. Only one loop at a
    time can read a feed; leaving the loop ends its thread.

    Args:
        store: an opened store or its path.
        manifest: a loaded manifest or its path.
        split: the name of the split.
        config: the settings of the model and of the augmentation.
        fields: fields of the store for a model of your own: `batch.inputs` are these, in this order. None: those that
            the model of `config` reads.
        device: the batches' device: "auto", "cpu", "cuda", "cuda:N" or a torch.device.
        resident: where the data is kept: "auto", "device", "host" or "stream".

    Example: `for batch in prior_feed("store.zarr", "faces.toml", "train", config).epoch(config, 0): model(*batch.inputs)`

    Raises OrsanetError if the store lacks an image of the split, or a view that `config` needs.
    """
    views = config.augmentation.read_views if split == config.train_split else (CLEAN,)
    opened = as_store(store)
    model = config.model if fields is None else _Fields(names=tuple(as_names(fields, "fields")))
    joined = join(as_manifest(manifest), opened, split, views, fields=model.fields)
    return Feed(opened, joined, model, as_device(device), resident)
