"""MobileFaceNet: the frozen landmark detector (112 pixels, 68 points, GDC head).

Parameter names are the published ones. Depthwise-separable bottlenecks reduce the image to a 7x7
grid of 512 channels, which is ORSANet's landmark prior. A 7x7 depthwise convolution and a linear
layer then give 68 (x, y) pairs in units of the crop (0 … 1, iBUG order).
"""

from torch import Tensor, nn

LANDMARKS = 68


class ConvBlock(nn.Module):
    """Convolution, BatchNorm and PReLU.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        kernel: Side of the square kernel.
        stride: Stride of the convolution.
        padding: Zeros added at each border.
        groups: Groups of the convolution; `inputs` makes it depthwise.
        linear: Omit the PReLU.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, padding: int = 0,
        groups: int = 1, linear: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.prelu = nn.Identity() if linear else nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 linear projection.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        expansion: Channels of the depthwise convolution.
        stride: Stride of the depthwise convolution.
        residual: Add the input to the output.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int = 1, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.conv = ConvBlock(inputs, expansion)
        self.conv_dw = ConvBlock(expansion, expansion, 3, stride, 1, groups=expansion)
        self.project = ConvBlock(expansion, outputs, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.conv_dw(self.conv(x)))
        return x + y if self.residual else y


class ResidualStage(nn.Module):
    def __init__(self, channels: int, blocks: int, expansion: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*(Bottleneck(channels, channels, expansion, residual=True) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class LandmarkHead(nn.Module):
    """Global depthwise convolution: [B, 512, 7, 7] -> [B, 136]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_6_dw = ConvBlock(channels, channels, 7, groups=channels, linear=True)
        self.linear = nn.Linear(channels, 2 * LANDMARKS, bias=False)
        self.bn = nn.BatchNorm1d(2 * LANDMARKS)

    def forward(self, features: Tensor) -> Tensor:
        return self.bn(self.linear(self.conv_6_dw(features).flatten(1)))


class MobileFaceNet(nn.Module):
    """Image [B, 3, 112, 112] -> (features [B, 512, 7, 7], landmarks [B, 68, 2] in units of the crop)."""

    feature_channels = 512

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvBlock(3, 64, 3, 2, 1)
        self.conv2_dw = ConvBlock(64, 64, 3, 1, 1, groups=64)
        self.conv_23 = Bottleneck(64, 64, 128, stride=2)
        self.conv_3 = ResidualStage(64, 4, 128)
        self.conv_34 = Bottleneck(64, 128, 256, stride=2)
        self.conv_4 = ResidualStage(128, 6, 256)
        self.conv_45 = Bottleneck(128, 128, 512, stride=2)
        self.conv_5 = ResidualStage(128, 2, 256)
        self.conv_6_sep = ConvBlock(128, self.feature_channels)
        self.output_layer = LandmarkHead(self.feature_channels)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features, landmarks, *_ = self.with_grids(image)
        return features, landmarks

    def with_grids(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `forward`, then the features of the grids before: [B, 64, 28, 28] and [B, 128, 14, 14]."""
        grid_28 = self.conv_3(self.conv_23(self.conv2_dw(self.conv1(image))))
        grid_14 = self.conv_4(self.conv_34(grid_28))
        features: Tensor = self.conv_6_sep(self.conv_5(self.conv_45(grid_14)))
        return features, self.output_layer(features).unflatten(1, (LANDMARKS, 2)), grid_28, grid_14
