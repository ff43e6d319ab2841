"""The losses: what --weights and --forms name, and what mixed labels are."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from orsanet_cache.errors import OrsanetError
from orsanet_train.engine.dare import dare_loss
from orsanet_train.general.arms import CROSS_ENTROPY, FORMS, Arm, Labels, arm_loss, parse_arms, whole

LOGITS = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
FIRST, SECOND = torch.tensor([0, 4, 2, 2, 1, 3]), torch.tensor([3, 1, 2, 2, 4, 0])


def test_cross_entropy_comes_once_and_every_other_weight_in_every_form() -> None:
    assert parse_arms("0.1, 0,0.5", "paper,published") == [
        CROSS_ENTROPY, Arm(0.1, "published"), Arm(0.1, "paper"), Arm(0.5, "published"), Arm(0.5, "paper"),
    ]  # fmt: skip
    assert parse_arms("0", "paper") == [CROSS_ENTROPY]
    assert len({arm.folder for arm in parse_arms("0,0.1,1", "published,paper")}) == 5


@pytest.mark.parametrize(
    ("weights", "forms", "named"),
    [
        ("0,x", "paper", "--weights 0,x: write numbers from 0 to 1000"),
        ("nan", "paper", "--weights nan"),
        ("-1", "paper", "--weights -1"),
        ("1e9", "paper", "--weights 1e9"),
        ("0.1,0.10", "paper", "--weights 0.1,0.10: name each once"),
        ("0.1", "paper,paper", "--forms paper,paper: name each once"),
        ("0.1", "papr", "no form 'papr'; choose from published, paper; did you mean 'paper'?"),
    ],
)
def test_a_mistake_is_answered_in_a_sentence(weights: str, forms: str, named: str) -> None:
    with pytest.raises(OrsanetError, match=r"^--(weights|forms)") as caught:
        parse_arms(weights, forms)
    assert named in str(caught.value)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("choice", ["mixed", "strongest"])
def test_whole_labels_are_the_projects_own_losses_whatever_mixed_ones_would_take(form, choice) -> None:
    expected = cross_entropy(LOGITS, FIRST) + 0.3 * dare_loss(LOGITS, FIRST, form=form)
    assert torch.equal(arm_loss(LOGITS, whole(FIRST), Arm(0.3, form), dare_labels=choice), expected)
    assert torch.equal(arm_loss(LOGITS, whole(FIRST), CROSS_ENTROPY), cross_entropy(LOGITS, FIRST))


@pytest.mark.parametrize("share", [0.7, 0.2])
def test_mixed_labels_share_the_cross_entropy_and_dareloss_takes_what_its_choice_names(share: float) -> None:
    labels, arm = Labels(FIRST, SECOND, share), Arm(0.3, "published")
    target = share * torch.eye(5).double()[FIRST] + (1 - share) * torch.eye(5).double()[SECOND]
    plain = cross_entropy(LOGITS, target, label_smoothing=0.1)
    torch.testing.assert_close(arm_loss(LOGITS, labels, CROSS_ENTROPY, smoothing=0.1), plain)
    first, second = dare_loss(LOGITS, FIRST), dare_loss(LOGITS, SECOND)
    mixed = plain + 0.3 * (share * first + (1 - share) * second)
    torch.testing.assert_close(arm_loss(LOGITS, labels, arm, 0.1, "mixed"), mixed)
    strongest = plain + 0.3 * (first if share > 0.5 else second)
    torch.testing.assert_close(arm_loss(LOGITS, labels, arm, 0.1, "strongest"), strongest)
