"""IR50, the trainable backbone: three stages of an improved-residual network, with the published parameter names."""

from collections.abc import Iterator, Sequence

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
        self.input_layer = _stem(channels[0])
        self.body = nn.Sequential(*(unit for stage in _stages(channels, units) for unit in stage))

    def own_name(self, name: str) -> str:
        """The name here of a tensor of IR50's weights file."""
        return name

    def units(self) -> Iterator[nn.Module]:
        """The stem and the residual units."""
        yield self.input_layer
        yield from self.body

    def forward(self, image: Tensor) -> Tensor:
        return self.body(self.input_layer(image))


class StagedIR50(nn.Module):
    """The same network with the maps of all three stages: [B, 3, 112, 112] -> grids of 56, 28 and 14 pixels.

    Its units are named by stage (`body1.0` …), as POSTER V2's are.
    """

    def __init__(self, channels: Sequence[int], units: Sequence[int]) -> None:
        super().__init__()
        self.input_layer = _stem(channels[0])
        self.body1, self.body2, self.body3 = (nn.Sequential(*stage) for stage in _stages(channels, units))

    def own_name(self, name: str) -> str:
        """The name here of a tensor of IR50's weights file."""
        part, _, rest = name.partition(".")
        number, _, leaf = rest.partition(".")
        if part != "body" or not number.isdecimal():
            return name
        index = int(number)
        for stage, body in enumerate((self.body1, self.body2, self.body3), start=1):
            if index < len(body):
                return f"body{stage}.{index}.{leaf}"
            index -= len(body)
        return name  # of no unit: reported as an extra tensor

    def units(self) -> Iterator[nn.Module]:
        """The stem and the residual units."""
        yield self.input_layer
        for body in (self.body1, self.body2, self.body3):
            yield from body

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = self.body1(self.input_layer(image))
        second = self.body2(first)
        return first, second, self.body3(second)


def _stem(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels), nn.PReLU(channels))


def _stages(channels: Sequence[int], units: Sequence[int]) -> Iterator[list[Unit]]:
    inputs = channels[0]
    for outputs, count in zip(channels, units, strict=True):
        yield [Unit(outputs if index else inputs, outputs, stride=1 if index else 2) for index in range(count)]
        inputs = outputs


def published_output_layer() -> nn.Module:
    """The published IR50's face-recognition output layer: in its weights, unused by every model here."""
    return nn.Sequential(
        nn.BatchNorm2d(512), nn.Dropout(), nn.Flatten(), nn.Linear(512 * 7 * 7, 512), nn.BatchNorm1d(512)
    )
