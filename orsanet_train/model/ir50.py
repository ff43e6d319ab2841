"""IR50, the trainable backbone: three stages of an improved-residual network, with the published parameter names."""

from collections.abc import Sequence

from torch import Tensor, nn


class Unit(nn.Module):
    """BatchNorm, 3x3 convolution, PReLU, 3x3 convolution with stride, BatchNorm; plus a shortcut of the same shape."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.shortcut_layer = (
            None
            if inputs == outputs  # then every `stride`-th pixel: a 1x1 max-pool, written as a slice
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        skipped = x[..., :: self.stride, :: self.stride] if self.shortcut_layer is None else self.shortcut_layer(x)
        return self.res_layer(x) + skipped


class IR50(nn.Module):
    """Image [B, 3, 112, 112] -> [B, channels[2], 14, 14].

    `channels` and `units` are those of the three stages: (64, 128, 256) and (3, 4, 14) as published. Each stage halves the grid.
    """

    def __init__(self, channels: Sequence[int], units: Sequence[int]) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, channels[0], 3, 1, 1, bias=False), nn.BatchNorm2d(channels[0]), nn.PReLU(channels[0])
        )
        body: list[Unit] = []
        inputs = channels[0]
        for outputs, count in zip(channels, units, strict=True):
            for index in range(count):
                body.append(Unit(inputs, outputs, stride=2 if index == 0 else 1))
                inputs = outputs
        self.body = nn.Sequential(*body)

    def forward(self, image: Tensor) -> Tensor:
        return self.body(self.input_layer(image))


def published_output_layer() -> nn.Module:
    """The published IR50's face-recognition output layer: in its weights, unused by ORSANet."""
    return nn.Sequential(
        nn.BatchNorm2d(512), nn.Dropout(), nn.Flatten(), nn.Linear(512 * 7 * 7, 512), nn.BatchNorm1d(512)
    )
