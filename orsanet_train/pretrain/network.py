"""IR50 with an embedding, and the loss that pulls the pictures of a person together.

    image ─ IR50 ─ [B, C, 14, 14] ─ BatchNorm, linear layer, BatchNorm ─ embedding ─ cosine to each person ─ loss

Only IR50's weights are kept after the training. Shapes: B batch, E width of the embedding, P people.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize, one_hot

from orsanet_train.model.ir50 import IR50

EMBEDDING = 128  # a published network has 512, for 100 times as many people
SCALE, MARGIN = 24.0, 0.2  # of CosFace (Wang et al. 2018); a smaller scale than theirs for fewer people
GRID = 14


class Recogniser(nn.Module):
    """Image [B, 3, 112, 112] -> embedding [B, E]. `people` has a direction for each person."""

    def __init__(self, channels: Sequence[int], units: Sequence[int], people: int) -> None:
        super().__init__()
        self.backbone = IR50(channels, units)
        self.embedding = nn.Sequential(
            nn.BatchNorm2d(channels[-1]),
            nn.Flatten(),
            nn.Linear(channels[-1] * GRID**2, EMBEDDING, bias=False),
            nn.BatchNorm1d(EMBEDDING),
        )
        self.people = nn.Parameter(torch.randn(people, EMBEDDING))

    def forward(self, image: Tensor) -> Tensor:
        return self.embedding(self.backbone(image))

    def cosines(self, embedding: Tensor) -> Tensor:
        """[B, E] -> the cosine to each person's direction, [B, P]."""
        return linear(normalize(embedding), normalize(self.people))


def margin_loss(cosines: Tensor, person: Tensor) -> Tensor:
    """Cross-entropy after the true person's cosine was lowered by MARGIN (CosFace).

    cosines [B, P]; person int64 [B].
    """
    return cross_entropy(SCALE * (cosines - MARGIN * one_hot(person, cosines.shape[1])), person)


def rank_one(embeddings: Tensor, person: Tensor) -> float:
    """Share of pictures whose nearest other picture, by cosine, shows the same person.

    embeddings [N, E]; person int64 [N].
    """
    unit = normalize(embeddings)
    right = 0
    for rows in torch.arange(len(unit)).split(1024):
        cosines = unit[rows] @ unit.T
        cosines[torch.arange(len(rows)), rows] = -2  # a picture is not its own neighbour
        right += int((person[cosines.argmax(dim=1)] == person[rows]).sum())
    return right / len(unit)
