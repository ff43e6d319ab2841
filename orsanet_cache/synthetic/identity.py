"""A person: proportions, colours, hair and age. These do not change with the expression."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]  # RGB in 0 … 1

HAIR_STYLES = ("short", "parted", "fringe", "long", "bob", "curly", "buzzed", "bald")
_SKIN = np.array(
    [
        (0.98, 0.84, 0.75), (0.95, 0.78, 0.66), (0.90, 0.71, 0.57), (0.84, 0.64, 0.48),
        (0.74, 0.53, 0.38), (0.60, 0.41, 0.29), (0.46, 0.31, 0.22), (0.36, 0.24, 0.18),
    ]
)  # fmt: skip
_HAIR = np.array(
    [(0.07, 0.06, 0.06), (0.17, 0.11, 0.08), (0.32, 0.20, 0.12), (0.50, 0.30, 0.16), (0.74, 0.56, 0.32), (0.52, 0.22, 0.10)]
)  # fmt: skip
_IRIS = np.array([(0.28, 0.17, 0.09), (0.42, 0.27, 0.12), (0.33, 0.42, 0.25), (0.30, 0.48, 0.62), (0.42, 0.48, 0.52)])
_GREY = np.array([0.70, 0.69, 0.68])


@dataclass(frozen=True)
class Identity:
    """Lengths are units of the crop, measured on the frontal face before pose."""

    face_width: float  # half the width at the cheekbones
    chin: float  # height (y) of the chin
    jaw_taper: float  # narrowing of the jaw, relative to the cheekbones
    jaw_square: float  # below 1: square; above: pointed
    eye_height: float  # y of the eye line
    eye_spacing: float  # from the face's middle to an eye's centre
    eye_width: float  # half
    eye_opening: float  # from the eye line to the upper lid, at rest
    eye_tilt: float
    brow_distance: float  # from the eye line up
    brow_thickness: float
    brow_arch: float
    nose_tip: float  # y
    nose_width: float  # half the width of the wings
    nose_bridge: float  # half the width of the bridge
    mouth_height: float  # y
    mouth_width: float  # half
    upper_lip: float
    lower_lip: float
    hairline: float  # y
    age: float  # 0 young … 1 old
    feminine: float  # 0 … 1: lips, lashes, brows
    stubble: float
    freckles: float
    skin: Colour
    hair: Colour
    brow: Colour
    iris: Colour
    lips: Colour
    clothes: Colour
    hair_style: str
    texture: int  # seeds hair strands and freckles
    resting: tuple[float, float, float]  # relaxed face: brows down, corners up, lids low


def draw_identity(rng: np.random.Generator) -> Identity:
    """Return a random person."""

    def around(mean: float, deviation: float) -> float:
        return float(mean + deviation * np.clip(rng.normal(), -2, 2))

    feminine = float(rng.beta(0.6, 0.6))
    age = float(rng.beta(1.3, 2.2))
    tone = rng.uniform(0, len(_SKIN) - 1)
    skin = _mixed(_SKIN, tone) * rng.normal(1, 0.02, 3)
    dark = tone > 4
    hair = _HAIR[rng.choice(len(_HAIR), p=[0.7, 0.3, 0, 0, 0, 0] if dark else [0.16, 0.22, 0.22, 0.16, 0.16, 0.08])]
    grey = float(np.clip((age - 0.55) * 2.2 + rng.normal(0, 0.2), 0, 0.95)) if age > 0.5 else 0.0
    strands = hair * rng.uniform(0.85, 1.2) * (1 - grey) + _GREY * grey
    iris = _IRIS[rng.choice(2)] if dark else _IRIS[rng.choice(len(_IRIS))]
    lips = skin * (0.86, 0.62, 0.62) + np.array([0.10, 0.02, 0.03]) * feminine * rng.uniform(0, 1.6)
    if feminine > 0.5:
        style = rng.choice(HAIR_STYLES, p=[0.06, 0.10, 0.17, 0.33, 0.20, 0.12, 0.02, 0.0])
    else:
        style = rng.choice(HAIR_STYLES, p=[0.28, 0.24, 0.07, 0.06, 0.02, 0.10, 0.12, 0.11])
    return Identity(
        face_width=around(0.288, 0.014),
        chin=around(0.885, 0.016) - 0.012 * feminine,
        jaw_taper=around(0.20 + 0.08 * feminine, 0.045),
        jaw_square=around(0.80 + 0.10 * feminine, 0.06),
        eye_height=around(0.435, 0.008),
        eye_spacing=around(0.132, 0.006),
        eye_width=around(0.061, 0.0045) + 0.003 * feminine,
        eye_opening=around(0.0245, 0.0035) + 0.003 * feminine,
        eye_tilt=around(0.004, 0.004),
        brow_distance=around(0.083, 0.006) + 0.004 * feminine,
        brow_thickness=around(0.030 - 0.009 * feminine, 0.004),
        brow_arch=around(0.013, 0.005),
        nose_tip=around(0.615, 0.011),
        nose_width=around(0.058 - 0.006 * feminine, 0.006),
        nose_bridge=around(0.022, 0.003),
        mouth_height=around(0.722, 0.009),
        mouth_width=around(0.098, 0.008),
        upper_lip=around(0.018 + 0.006 * feminine, 0.004),
        lower_lip=around(0.026 + 0.006 * feminine, 0.005),
        hairline=around(0.235, 0.018),
        age=age,
        feminine=feminine,
        stubble=float(max(0.0, rng.normal(0.25, 0.35)) * (feminine < 0.4)),
        freckles=float(max(0.0, rng.normal(-0.3, 0.5)) * (tone < 3)),
        skin=_colour(skin),
        hair=_colour(strands),
        brow=_colour(strands * 0.75),
        iris=_colour(iris * rng.uniform(0.85, 1.2)),
        lips=_colour(lips),
        clothes=_colour(rng.uniform(0.08, 0.85, 3)),
        hair_style=str(style),
        texture=int(rng.integers(2**31)),
        resting=(around(0.0, 0.16), around(-0.02, 0.14), around(0.08, 0.10)),
    )


def _mixed(colours: NDArray[np.float64], position: float) -> NDArray[np.float64]:
    low = min(int(position), len(colours) - 2)
    return colours[low] + (position - low) * (colours[low + 1] - colours[low])


def _colour(values: NDArray[np.float64]) -> Colour:
    red, green, blue = (float(value) for value in np.clip(values, 0.03, 1))
    return red, green, blue
