"""The loss and the measure are their definitions."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from orsanet_train.pretrain.network import MARGIN, SCALE, Recogniser, margin_loss, rank_one


def test_the_loss_is_cross_entropy_with_the_true_persons_cosine_lowered() -> None:
    torch.manual_seed(0)
    cosines, person = torch.rand(5, 3) * 2 - 1, torch.tensor([0, 2, 1, 1, 0])
    expected = 0.0
    for row, true in zip(cosines.double(), person.tolist(), strict=True):
        logits = [SCALE * (float(value) - (MARGIN if k == true else 0)) for k, value in enumerate(row)]
        expected += float(torch.logsumexp(torch.tensor(logits, dtype=torch.float64), 0)) - logits[true]
    assert float(margin_loss(cosines, person)) == pytest.approx(expected / 5, rel=1e-5)


@pytest.mark.parametrize("pictures", [7, 1030])  # more than are compared at once
def test_rank_one_counts_pictures_whose_nearest_other_shows_the_same_person(pictures: int) -> None:
    torch.manual_seed(pictures)
    person = torch.arange(pictures) % 3
    embeddings = torch.randn(pictures, 4) + 2 * torch.eye(4)[person]
    right = 0
    for one in range(pictures):
        cosines = cosine_similarity(embeddings[one][None], embeddings)
        cosines[one] = -2
        right += int(person[int(cosines.argmax())] == person[one])
    assert 0 < right < pictures
    assert rank_one(embeddings, person) == right / pictures


def test_cosines_are_those_between_embedding_and_direction() -> None:
    torch.manual_seed(1)
    network = Recogniser((8, 8, 16), (1, 1, 1), people=3).eval()
    embedding = network(torch.rand(2, 3, 112, 112))
    cosines = network.cosines(embedding)
    assert cosines.shape == (2, 3)
    for row, one in zip(cosines, embedding, strict=True):
        torch.testing.assert_close(row, cosine_similarity(one[None], network.people))
