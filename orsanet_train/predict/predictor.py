"""Crops to probabilities: the run's frozen networks, and its model on priors as in a store.

pixels ─ frozen networks ─▶ priors ─ rounded as in the run's store ─ model ─▶ probabilities
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orsanet_cache.data.images import every_second_pixel, image_reading
from orsanet_cache.errors import OrsanetError
from orsanet_cache.frozen.features import as_stored
from orsanet_cache.frozen.priors import FrozenPriors, in_half_precision
from orsanet_cache.inspection.quality import landmark_agreement, part_plausibility
from orsanet_cache.paths import StrPath
from orsanet_train.drawing.attention import attention
from orsanet_train.model.checkpoint import Identity, load_weights
from orsanet_train.model.frozen import frozen_priors
from orsanet_train.model.inputs import IMAGE, seen_by_the_model
from orsanet_train.model.model import ExpressionModel

QUALITY = ("part_plausibility", "landmark_agreement", "segmentation_entropy")  # as in docs/prior-quality.md


class Prediction(NamedTuple):
    """The outputs for one face."""

    probabilities: NDArray[np.float32]  # [K]
    quality: dict[str, float]  # QUALITY
    pixels: NDArray[np.uint8]  # [112, 112, 3], the picture at the backbone's input
    segmentation_map: NDArray[np.uint8]  # [224, 224]
    landmarks: NDArray[np.float32]  # [68, 2], in units of the crop
    reason: str  # why the probabilities are not valid; empty: they are
    inputs: tuple[Tensor, ...]  # arguments of the model's forward, without the batch axis


class CropPredictor:
    """A trained model with the frozen networks of its training."""

    def __init__(self, model: ExpressionModel, identity: Identity, frozen: FrozenPriors, device: torch.device) -> None:
        self.identity = identity
        self.device = device
        self.reading = image_reading(identity.store_recipe)  # of image files, as in the run's store
        # The precision of the store's build. On a CPU float32: it has no fast half precision.
        self.half_precision = identity.store_recipe["precision"] == "fp16" and device.type == "cuda"
        self._frozen = (in_half_precision(frozen) if self.half_precision else frozen).to(device)
        self._model = model.eval().to(device)

    @classmethod
    def load(
        cls,
        run_folder: Path,
        checkpoint: str,
        segmenter: StrPath | None,
        landmarks: StrPath | None,
        device: torch.device,
    ) -> Self:
        """Load the weights of a run and its frozen networks.

        Raises OrsanetError if `run_folder` is not a run folder, if the weights cannot be read, and
        if the frozen networks are not found or are not the run's.

        Args:
            run_folder: The run folder.
            checkpoint: "best" or "last".
            segmenter: File of the SegFace weights, or the word demo. None: see model/frozen.py.
            landmarks: The same for the MobileFaceNet weights.
            device: The device on which the networks run.
        """
        model, identity = load_weights(run_folder / f"{checkpoint}.safetensors")
        return cls(model, identity, frozen_priors(run_folder, identity, segmenter, landmarks), device)

    @property
    def note(self) -> str:
        """How the computation differs from that in training; empty: not at all."""
        if self.identity.store_recipe["precision"] == "fp16" and not self.half_precision:
            return "the run's priors were computed in float16; on this device they are computed in float32, and the features differ by rounding"
        return ""

    @torch.no_grad()
    def predict(self, pixels: NDArray[np.uint8]) -> list[Prediction]:
        """A prediction for each of B clean views, uint8 [B, 224, 224, 3].

        Raises OrsanetError if they do not fit in memory together.
        """
        with self._enough_memory(f"{len(pixels)} faces do not fit", "lower --batch-size"):
            inputs, priors = self._inputs(pixels)
            probabilities = self._model(*inputs).logits.float().softmax(dim=1).cpu().numpy()
        segmentation_map, landmarks, entropy, finite = (values.cpu().numpy() for values in priors)
        seen = every_second_pixel(pixels)
        predictions = []
        for n, probability in enumerate(probabilities):
            usable = bool(finite[n]) and bool(np.isfinite(probability).all())
            quality = {
                "part_plausibility": part_plausibility(segmentation_map[n]),
                "landmark_agreement": landmark_agreement(segmentation_map[n], landmarks[n]),
                "segmentation_entropy": float(entropy[n]),
            } if usable else {}  # fmt: skip
            reason = "" if usable else "the networks' outputs for this face are not finite"
            predictions.append(
                Prediction(
                    probability,
                    quality,
                    seen[n],
                    segmentation_map[n],
                    landmarks[n],
                    reason,
                    tuple(values[n] for values in inputs),
                )
            )
        return predictions

    def attention(self, predictions: list[Prediction]) -> NDArray[np.float32] | None:
        """Grad-CAM of each predicted class (attention.py), with the prior: [B, 14, 14], 0 … 1.

        None: the model reads no image, so it has no attention. Raises OrsanetError if the computation does not fit in memory.
        """
        if IMAGE not in self.identity.model.fields:
            return None
        with self._enough_memory(f"the attention of {len(predictions)} faces does not fit", "pass --overlays none"):
            inputs = [torch.stack(values) for values in zip(*(one.inputs for one in predictions), strict=True)]
            return attention(self._model, *inputs).with_prior.numpy()

    @contextmanager
    def _enough_memory(self, finding: str, advice: str) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise OrsanetError(f"{finding} in the memory of {self.device}; {advice}") from error

    def _inputs(self, pixels: NDArray[np.uint8]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The model's inputs; map, landmarks, entropy, and bool [B]: stored values are finite."""
        views = torch.from_numpy(pixels).to(self.device)
        priors, dtype = self._frozen(views), self.identity.store_recipe["feature_dtype"]
        inputs = seen_by_the_model(self.identity.model, views, priors, dtype)
        finite = priors.segmentation_entropy.isfinite()
        features = (as_stored(values, dtype) for values in (priors.segmentation_features, priors.landmark_features))
        for values in (*features, priors.landmarks):
            finite = finite & values.isfinite().flatten(1).all(dim=1)
        return inputs, (
            priors.segmentation_map, priors.landmarks, priors.segmentation_entropy, finite,
        )  # fmt: skip
