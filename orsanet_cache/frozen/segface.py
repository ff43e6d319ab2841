"""SegFace: the frozen face segmenter, with the published parameter names.

A Swin encoder gives four stages. Each is projected to one width, upsampled to the finest grid and
fused. Eleven learned class tokens and that grid then attend to each other (a two-way transformer).
The grid is upsampled to the input's size, and each class token becomes the weights of its own mask:

    logits[b, k, y, x] = MLP(token_k)[b] · upscaled[b, :, y, x]

ORSANet uses the last Swin stage before the final LayerNorm. The argmax of the logits is the
segmentation map.

Shapes: B batch, C stage width (128, 256, 512, 1024 as published), W decoder width (256), K = 11 LaPa classes.
"""

import math
from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention
from torchvision.models.swin_transformer import SwinTransformer

_TOKEN_NAMES = (
    "background", "face", "leftbro", "rightbro", "lefteye", "righteye",
    "nose", "upperlip", "innermouth", "lowerlip", "hair",
)  # fmt: skip


Size = Annotated[int, Field(ge=1, le=65536)]


class SegFaceConfig(BaseModel):
    """Sizes of a SegFace. The defaults are the published Swin-B.

    The weights file of another network has its sizes in the header.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    architecture: Literal["segface"] = "segface"
    embed_dim: Size = 128
    depths: tuple[Size, Size, Size, Size] = (2, 2, 18, 2)
    num_heads: tuple[Size, Size, Size, Size] = (4, 8, 16, 32)
    decoder_width: Size = 256
    decoder_heads: Size = 8
    decoder_mlp_width: Size = 2048

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.decoder_width // 2 % self.decoder_heads:
            raise ValueError("decoder_heads must divide half the decoder_width")
        if any(self.embed_dim * 2**stage % heads for stage, heads in enumerate(self.num_heads)):
            raise ValueError("num_heads must divide the width of each stage: embed_dim, doubled at each stage")
        return self


class SegFace(nn.Module):
    """Image [B, 3, 224, 224], ImageNet-normalised -> (last stage [B, 8*embed_dim, 7, 7], logits [B, 11, 224, 224])."""

    def __init__(self, config: SegFaceConfig) -> None:
        super().__init__()
        swin = SwinTransformer(
            patch_size=[4, 4],
            embed_dim=config.embed_dim,
            depths=list(config.depths),
            num_heads=list(config.num_heads),
            window_size=[7, 7],
            stochastic_depth_prob=0.0,  # the network is frozen and never trained here
        )
        # As published: swin_b without its head. The weights have the final norm; `encode` omits it.
        self.backbone = nn.Sequential(swin.features, swin.norm)
        width = config.decoder_width
        self.linear_c = nn.ModuleList(StageProjection(config.embed_dim * 2**stage, width) for stage in range(4))
        self.linear_fuse = nn.Conv2d(4 * width, width, kernel_size=1, bias=False)
        self.pe_layer = RandomFourierPositions(width // 2)
        self.face_decoder = FaceDecoder(width, config.decoder_heads, config.decoder_mlp_width)
        self.config = config

    @property
    def feature_channels(self) -> int:
        return self.config.embed_dim * 8

    def encode(self, image: Tensor) -> list[Tensor]:
        """Four stages, channels last: [B, 56, 56, C], [B, 28, 28, 2C], [B, 14, 14, 4C], [B, 7, 7, 8C]."""
        stages: list[Tensor] = []
        x = image
        for index, layer in enumerate(self.backbone.get_submodule("0").children()):
            x = layer(x)
            if index % 2 == 1:  # odd: the blocks of a stage; even: patch embedding and merging
                stages.append(x)
        return stages

    def decode(self, stages: list[Tensor]) -> Tensor:
        """The four stages of `encode` -> logits [B, 11, 224, 224]."""
        grid = stages[0].shape[1:3]
        projected = [
            interpolate(project(stage).movedim(-1, 1), size=grid, mode="bilinear", align_corners=False)
            for project, stage in zip(self.linear_c, stages, strict=True)
        ]
        fused = self.linear_fuse(torch.cat(projected[::-1], dim=1))
        return self.face_decoder(fused, self.pe_layer(grid))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        stages = self.encode(image)
        return stages[-1].movedim(-1, 1), self.decode(stages)


class StageProjection(nn.Module):
    """[B, H, W, C] -> [B, H, W, W_decoder]; a separate module, as published names have `.proj`."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, width)

    def forward(self, stage: Tensor) -> Tensor:
        return self.proj(stage)


class RandomFourierPositions(nn.Module):
    """Position codes sin, cos of 2π G·(x, y).

    x and y are in -1 … 1 at the cell centres. G is a fixed random matrix.
    """

    def __init__(self, frequencies: int) -> None:
        super().__init__()
        self.positional_encoding_gaussian_matrix: Tensor
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, frequencies))

    def forward(self, grid: torch.Size) -> Tensor:
        """Grid (H, W) -> [1, 2 * frequencies, H, W]."""
        matrix = self.positional_encoding_gaussian_matrix
        y, x = (((torch.arange(n, device=matrix.device, dtype=matrix.dtype) + 0.5) / n) * 2 - 1 for n in grid)
        position = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # [H, W, 2]
        angle = 2 * math.pi * (position @ matrix)
        return torch.cat([angle.sin(), angle.cos()], dim=-1).movedim(-1, 0)[None]


class Attention(nn.Module):
    """Multi-head attention between two token sets; its inner width is width / reduction."""

    def __init__(self, width: int, heads: int, reduction: int = 1) -> None:
        super().__init__()
        inner = width // reduction
        self.heads = heads
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.out_proj = nn.Linear(inner, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        return self.out_proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TokenMLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden)
        self.lin2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.lin1(x).relu())


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves, then to the grid; an MLP; then the grid attends to the tokens."""

    def __init__(self, width: int, heads: int, mlp_width: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = Attention(width, heads, reduction=2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = TokenMLP(width, mlp_width)
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, heads, reduction=2)

    def forward(self, tokens: Tensor, grid: Tensor, token_code: Tensor, grid_code: Tensor) -> tuple[Tensor, Tensor]:
        if self.first:  # the tokens are still their own position codes: neither code nor residual is added
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            coded = tokens + token_code
            tokens = tokens + self.self_attn(coded, coded, tokens)
        tokens = self.norm1(tokens)
        tokens = tokens + self.cross_attn_token_to_image(tokens + token_code, grid + grid_code, grid)
        tokens = self.norm2(tokens)
        tokens = self.norm3(tokens + self.mlp(tokens))
        grid = self.norm4(grid + self.cross_attn_image_to_token(grid + grid_code, tokens + token_code, tokens))
        return tokens, grid


class TwoWayTransformer(nn.Module):
    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(width, heads, mlp_width, first=index == 0) for index in range(2))
        self.final_attn_token_to_image = Attention(width, heads, reduction=2)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, grid: Tensor, grid_code: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, K, W], grid and its code [B, H*W, W] -> the same two, attended."""
        token_code = tokens
        for layer in self.layers:
            tokens, grid = layer(tokens, grid, token_code, grid_code)
        attended = self.final_attn_token_to_image(tokens + token_code, grid + grid_code, grid)
        return self.norm_final_attn(tokens + attended), grid


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class MaskWeights(nn.Module):
    """Three-layer MLP from a class token to the weights of its mask."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, out)])

    def forward(self, token: Tensor) -> Tensor:
        first, second, third = self.layers
        return third(second(first(token).relu()).relu())


class FaceDecoder(nn.Module):
    """Fused grid [B, W, 56, 56] and its position code -> logits [B, 11, 224, 224]."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(width, heads, mlp_width)
        for name in _TOKEN_NAMES:
            self.add_module(f"{name}_token", nn.Embedding(1, width))
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, kernel_size=2, stride=2),
            LayerNorm2d(width // 4, eps=1e-6),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetwork_mlps = MaskWeights(width, width // 8)

    def forward(self, grid: Tensor, grid_code: Tensor) -> Tensor:
        tokens = torch.cat([self.get_parameter(f"{name}_token.weight") for name in _TOKEN_NAMES])
        tokens, attended = self.transformer(
            tokens.expand(grid.shape[0], -1, -1),  # torch.export treats `len` as a constant
            grid.flatten(2).transpose(1, 2),
            grid_code.flatten(2).transpose(1, 2),
        )
        upscaled = self.output_upscaling(attended.transpose(1, 2).unflatten(2, grid.shape[2:]))
        return (self.output_hypernetwork_mlps(tokens) @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])
