"""From a store and a manifest to batches on the device.

    epoch order ─▶ store ─ one thread ─▶ ring of host buffers ─▶ batch          stream
                   host memory ─ one thread ─▶ ring of host buffers ─▶ batch    host: loaded once
                   device memory ─▶ batch                                       device: loaded once

The bits of a batch do not depend on where the data is kept.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orsanet_cache.data.views import CLEAN
from orsanet_cache.frozen.pixels import displayable
from orsanet_cache.places.ahead import Ahead
from orsanet_cache.progress import Progress, as_bytes
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.schema import SCALE
from orsanet_train.config import RunConfig
from orsanet_train.engine.distributed import ONE, Ranks
from orsanet_train.feed.plan import Drawn, Draws, ordered_draws, training_draws
from orsanet_train.feed.residence import Resident, choose_residence
from orsanet_train.feed.ring import RING, Slot, ahead_in_ring
from orsanet_train.feed.split import LabelledSplit, check_fields
from orsanet_train.model.inputs import model_inputs
from orsanet_train.model_config import ModelConfig

LOAD_ROWS = 256  # read at a time when everything is loaded
COPIED_BATCHES = 256  # whose draws are copied to the device at a time


class PriorBatch(tuple[Tensor, ...]):
    """One batch on the model's device: the model's inputs, then label and drop_path.

    The inputs are the arguments of the model's forward, in the order of `ModelConfig.reads`. For
    ORSANet they are the image float32 [B, 3, 112, 112], ImageNet-normalised and erased; the
    segmentation, float32 features [B, C, 7, 7] or a uint8 map [B, 224, 224], as configured; and
    landmark features float32 [B, 512, 7, 7].
    """

    def __new__(cls, *tensors: Tensor) -> Self:
        return super().__new__(cls, tensors)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The arguments of the model's forward."""
        return self[:-2]

    @property
    def label(self) -> Tensor:
        """int64 [B]."""
        return self[-2]

    @property
    def drop_path(self) -> Tensor:
        """In training float32 [B, 2, *ModelConfig.drop_path_shape], uniform in 0 … 1, of both passes; else [B, 0]."""
        return self[-1]

    @property
    def pictures(self) -> Tensor:
        """uint8 [B, 112, 112, 3]: the images of a model that reads them, for display."""
        return displayable(self[0])


class Feed:
    """Batches of one split for one model configuration.

    Resident data is loaded here, with a progress bar, and every row's checksum is verified.
    `residence` states where the data is kept, and why.

    Args:
        store: the opened store.
        split: the samples and their rows in the store.
        model: names the fields that are read.
        device: the batches' device.
        resident: where the data is kept; "auto": in a GPU's memory if the data takes at most half
            of the free memory, otherwise streamed.
        ranks: the processes that share every batch.

    Raises OrsanetError for a damaged store, for one that lacks a field, and for data that does not
    fit into the requested memory.
    """

    def __init__(
        self,
        store: PriorStore,
        split: LabelledSplit,
        model: ModelConfig,
        device: torch.device,
        resident: Resident = "auto",
        ranks: Ranks = ONE,
    ) -> None:
        self.ranks = ranks
        self.store = store
        self.split = split
        self.device = device
        self.model = model
        check_fields(store, split.name, split.views, model.fields, model.named)
        stored = store.fields(split.name, split.views[0])
        self._fields = {
            name: (stored[name].shape[1:], stored[name].dtype)
            for field in model.fields
            for name in (field, f"{field}{SCALE}")
            if name in stored
        }
        row_bytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in self._fields.values())
        rows = len(split.views) * len(split.rows)
        self.residence = choose_residence(resident, rows * row_bytes, device)
        self._loaded: dict[str, Tensor] = {}  # [views * N, …] per field, view by view
        if self.residence.mode != "stream":
            self._load(device if self.residence.mode == "device" else torch.device("cpu"), rows * row_bytes)

    def epoch(self, config: RunConfig, epoch: int, start: int = 0) -> Iterator[PriorBatch]:
        """The augmented training batches of an epoch, from number `start` on.

        Each contains this rank's rows. The last one may be short. Leaving the iterator at any point
        ends its thread. After the last batch the files are checked (`check_unchanged`).
        """
        return self._batches(*training_draws(self.split, config, epoch, start, self.ranks))

    def in_order(self, batch_size: int, view: str = CLEAN) -> Iterator[PriorBatch]:
        """Every sample (of this rank's part) once, in the manifest's order, unaugmented.

        After the last batch the files are checked (`check_unchanged`).
        """
        return self._batches(*ordered_draws(self.split, batch_size, view, self.ranks))

    def check_unchanged(self) -> None:
        """Check the files of the split that were read: one `stat` for each shard, or for the HDF5 file.

        Rows are verified when they are first read, and read again in every epoch. Loaded data needs
        no check: every row was verified when it was loaded. Raises OrsanetError if a file has
        changed since.
        """
        if not self._loaded:
            self.store.check_unchanged(self.split.name)

    @property
    def reason(self) -> str:
        """A sentence on where the data is."""
        if not self.shard_bytes or self._loaded:
            return self.residence.reason
        return f"{as_bytes(self.shard_bytes)} of shards from {self.store.path}, with {as_bytes(self.store.cache_bytes)} for their copies"

    @property
    def shard_bytes(self) -> int:
        """Bytes of the shards that this feed reads from a store at a URL; 0 for a store on this machine."""
        return self.store.shard_bytes(self.split.name, self.split.views, [*self._fields])

    @property
    def own_labels(self) -> NDArray[np.int64]:
        """Labels of the samples that `in_order` yields."""
        return self.split.labels[self.ranks.rows(0, len(self.split.rows))]

    def _batches(self, draws: Draws, batches: Sequence[slice]) -> Iterator[PriorBatch]:
        if self.residence.mode == "device":
            # For many batches at once: a copy from ordinary memory makes the host wait for the device.
            for number in range(0, len(batches), COPIED_BATCHES):
                some = batches[number : number + COPIED_BATCHES]
                first = some[0].start
                drawn = draws.part(slice(first, some[-1].stop))
                places = torch.from_numpy(self._places(drawn)).to(self.device)
                along = {name: torch.from_numpy(values).to(self.device) for name, values in drawn.along.items()}
                for batch in some:
                    own = slice(batch.start - first, batch.stop - first)
                    chosen = places[own]
                    fields = {name: values.index_select(0, chosen) for name, values in self._loaded.items()}
                    yield self._batch({**fields, **{name: values[own].clone() for name, values in along.items()}})
        else:
            carried = {name: (values.shape[1:], values.dtype) for name, values in draws.along.items()}
            largest = max((batch.stop - batch.start for batch in batches), default=0)
            slots = [Slot({**self._fields, **carried}, largest, self.device) for _ in range(RING)]
            with self._ahead(draws, batches) as ahead:

                def fill(number: int, slot: Slot) -> None:
                    ahead.reached(ends[number])
                    self._fill(draws.part(batches[number]), slot)

                sizes = [batch.stop - batch.start for batch in batches]
                ends = np.cumsum([0, *sizes]).tolist()
                yield from ahead_in_ring(
                    range(len(batches)), slots, fill, lambda number, slot: self._batch(slot.on_device(sizes[number]))
                )
            self.check_unchanged()

    def _ahead(self, draws: Draws, batches: Sequence[slice]) -> Ahead:
        """The fetching of a store's shards from a URL, in the order in which these batches read them."""
        mine = np.concatenate([np.arange(batch.start, batch.stop) for batch in batches]) if batches else np.arange(0)
        view, rows = draws.view[mine], self.split.rows[draws.sample[mine]]
        if self._loaded:
            view, rows = view[:0], rows[:0]
        return self.store.ahead(self.split.name, self.split.views, [*self._fields], view, rows)

    def _fill(self, draws: Drawn, slot: "Slot") -> None:
        """Fill a slot; runs in the background thread."""
        buffers = slot.to_fill(len(draws.sample))
        for name, carried in draws.along.items():
            buffers[name][:] = carried
        if self._loaded:
            places = self._places(draws)
            for name, values in self._loaded.items():
                np.take(values.numpy(), places, axis=0, out=buffers[name], mode="clip")  # "raise" buffers the output
            return
        rows = self.split.rows[draws.sample]
        for number in np.unique(draws.view).tolist():
            view, positions = self.split.views[number], np.flatnonzero(draws.view == number)
            for name in self._fields:
                self.store.read(self.split.name, view, name, rows[positions], buffers[name], positions)

    def _batch(self, stored: Mapping[str, Tensor]) -> PriorBatch:
        """A batch from the fields of a store on the device.

        Float32 features and maps are not copied.
        """
        inputs = model_inputs(self.model, stored, stored["erased"])
        return PriorBatch(*inputs, stored["label"], stored["drop_path"])

    def _places(self, draws: Drawn) -> NDArray[np.int64]:
        """The rows of the draws in the loaded fields."""
        return draws.view * len(self.split.rows) + draws.sample

    def _load(self, home: torch.device, total: int) -> None:
        rows = self.split.rows
        with Progress(total, f"load {self.split.name}", "B", unit_scale=True, leave=False) as progress:
            for name, (shape, dtype) in self._fields.items():
                buffer = np.empty((LOAD_ROWS, *shape), dtype)
                views = len(self.split.views)
                values = torch.empty((views * len(rows), *shape), dtype=torch.from_numpy(buffer).dtype, device=home)
                view_of, row_of = np.repeat(np.arange(views), len(rows)), np.tile(rows, views)
                with self.store.ahead(self.split.name, self.split.views, [name], view_of, row_of) as ahead:
                    for number, view in enumerate(self.split.views):
                        for start in range(0, len(rows), LOAD_ROWS):
                            part = rows[start : start + LOAD_ROWS]
                            first = number * len(rows) + start
                            ahead.reached(first)
                            read = self.store.read(self.split.name, view, name, part, out=buffer[: len(part)])
                            values[first : first + len(part)].copy_(torch.from_numpy(read))
                            progress.update(read.nbytes)
                self._loaded[name] = values
