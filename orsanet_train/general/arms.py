"""The losses that are compared: cross-entropy alone, and with DARELoss of some weight and form added.

A batch's labels may be mixed (mixup, cutmix): image i then counts for its own label with a share s
and for another image's label with 1 - s. The cross-entropy of mixed labels is

    s CE(z, first) + (1 - s) CE(z, second)

DARELoss is defined for one label. DareLabels names what it takes here; for whole labels, s = 1, all
choices are the same.

Shapes: B = batch, K = classes.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor
from torch.nn.functional import cross_entropy

from orsanet_cache.errors import OrsanetError, did_you_mean
from orsanet_train.engine.dare import dare_loss

Form = Literal["published", "paper"]
FORMS: tuple[Form, ...] = ("published", "paper")
MOST_WEIGHT = 1000.0
# mixed: s DARE(z, first) + (1 - s) DARE(z, second). strongest: DARE of the label with the larger share.
DareLabels = Literal["mixed", "strongest"]


class Arm(NamedTuple):
    """Cross-entropy + weight x DARELoss."""

    weight: float
    form: Form

    def __str__(self) -> str:
        return f"CE + {self.weight} DARE, {self.form}" if self.weight else "CE"

    @property
    def folder(self) -> str:
        """The name of the folder of its runs."""
        return f"{self.form}-{self.weight}" if self.weight else "ce"


CROSS_ENTROPY = Arm(0.0, "published")


class Labels(NamedTuple):
    """The labels of a batch, mixed or whole."""

    first: Tensor  # int64 [B]
    second: Tensor  # int64 [B]
    share: float  # of the first; 1: whole labels


def whole(labels: Tensor) -> Labels:
    """Labels [B] that are not mixed."""
    return Labels(labels, labels, 1.0)


def parse_arms(weights: str, forms: str) -> list[Arm]:
    """`0,0.1` and `published,paper` -> cross-entropy alone, then every other weight in every form.

    Raises OrsanetError for anything but finite weights from 0 to MOST_WEIGHT, for an unknown form,
    and for a weight or form that is named twice.
    """
    numbers = [_weight(part.strip(), weights) for part in weights.split(",")]
    names = [part.strip() for part in forms.split(",")]
    if unknown := [name for name in names if name not in FORMS]:
        raise OrsanetError(
            f"--forms {forms}: no form '{unknown[0]}'; choose from {', '.join(FORMS)}{did_you_mean(unknown[0], FORMS)}"
        )
    for option, text, given in (("--weights", weights, numbers), ("--forms", forms, names)):
        if len(set(given)) < len(given):
            raise OrsanetError(f"{option} {text}: name each once; the same loss gives the same run")
    raised = [Arm(number, form) for number in numbers if number for form in FORMS if form in names]
    return [CROSS_ENTROPY, *raised] if 0 in numbers else raised


def _weight(part: str, text: str) -> float:
    try:
        number = float(part)
    except ValueError:
        number = -1.0
    if not 0 <= number <= MOST_WEIGHT:  # NaN is neither
        raise OrsanetError(
            f"--weights {text}: write numbers from 0 to {MOST_WEIGHT:g} separated by commas, for example 0,0.1"
        )
    return number


def arm_loss(
    logits: Tensor, labels: Labels, arm: Arm, smoothing: float = 0.0, dare_labels: DareLabels = "mixed"
) -> Tensor:
    """The training loss of an arm: logits [B, K] -> scalar, the batch mean.

    Label smoothing concerns the cross-entropy alone: DARELoss compares two classes and has no place
    for a third one's share.
    """

    def of_both(loss: Callable[[Tensor], Tensor]) -> Tensor:
        return loss(first) if share == 1 else share * loss(first) + (1 - share) * loss(second)

    def dare(label: Tensor) -> Tensor:
        return dare_loss(logits, label, form=arm.form)

    first, second, share = labels
    plain = of_both(lambda label: cross_entropy(logits, label, label_smoothing=smoothing))
    if not arm.weight:
        return plain
    strongest = first if share >= 0.5 else second
    return plain + arm.weight * (of_both(dare) if dare_labels == "mixed" else dare(strongest))
