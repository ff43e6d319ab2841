"""SpectralFormer (Hong et al., 2022): a transformer over the bands of a spectrum.

    tokens [B, N, F] ─▶ Linear to 64, class token in front, + position ─▶ 5 layers ─▶ LayerNorm, Linear of the class token ─▶ logits [B, K]

A layer is x + attention(LN x), then x + MLP(LN x). With cross-layer adaptive fusion (CAF), the
input x of the layers 2, 3 and 4 (counted from 0) is first replaced by

    conv(x, y)     y = what layer i - 2 was given, before its own fusion

where the convolution has the N + 1 tokens as channels: every new token is a sum over all tokens of
both. Without fusion ("ViT") the convolutions are not used.

Shapes: B samples, N bands, F features of a token (bands of a group x pixels of a patch), K classes.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

WIDTH, HEADS, HIDDEN, LAYERS = 64, 4, 8, 5
FUSED = 2  # layers between the two inputs of a fusion

Fusion = Literal["caf", "vit"]


class SpectralFormer(nn.Module):
    """The published network.

    Args:
        bands: N.
        features: F.
        classes: K.
        fusion: caf as the paper proposes it; vit holds the convolutions and does not use them.
        dropout: after the position, the attention and both layers of the MLP.
    """

    def __init__(self, bands: int, features: int, classes: int, fusion: Fusion = "caf", dropout: float = 0.1) -> None:
        super().__init__()
        self.fusion = fusion
        self.position = nn.Parameter(torch.randn(1, bands + 1, WIDTH))
        self.class_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.embed = nn.Linear(features, WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(dropout) for _ in range(LAYERS))
        self.fusions = nn.ModuleList(Fused(bands + 1) for _ in range(LAYERS - FUSED))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, F] -> logits [B, K]."""
        x = torch.cat([self.class_token.expand(len(tokens), -1, -1), self.embed(tokens)], dim=1)
        x = self.dropout(x + self.position)
        given: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            given.append(x)
            if self.fusion == "caf" and index >= FUSED:
                x = self.fusions[index - FUSED](x, given[index - FUSED])
            x = layer(x)
        return self.head(self.norm(x[:, 0]))


class Fused(nn.Conv2d):
    """The convolution of two inputs side by side, a kernel of 1 x 2, as two products of its halves.

    On a CPU these take two fifths of the convolution's time.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens, tokens, kernel_size=(1, 2))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        """[B, N + 1, 64] each -> the same shape."""
        assert self.bias is not None
        first, second = self.weight[:, :, 0].unbind(2)
        return first @ x + second @ y + self.bias[:, None]


class Layer(nn.Module):
    """Attention of four heads and an MLP that is narrower than its input, each with a residual."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.project = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.widen = nn.Linear(WIDTH, HIDDEN)
        self.narrow = nn.Linear(HIDDEN, WIDTH)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N + 1, 64] -> the same shape."""
        query, key, value = self.qkv(self.norm1(x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.project(attended))
        hidden = self.dropout(self.activation(self.widen(self.norm2(x))))
        return x + self.dropout(self.narrow(hidden))
