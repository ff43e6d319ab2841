"""Expressions: movements similar to facial action units, and their patterns for each class.

An expression is its class's pattern times an intensity. It is shifted towards a neighbouring
class's pattern, jittered per movement, and added to the person's resting face. Weak expressions are
close to neutral, and strong ones are close to the borders between classes. As in real data, a
perfect score is not possible.
"""

from dataclasses import astuple, dataclass, fields

import numpy as np

from orsanet_cache.synthetic.identity import Identity

CLASSES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # RAF-DB's label order


@dataclass(frozen=True)
class Movements:
    """Strength of each movement, 0 … 1. The comment is the number of its action unit."""

    brow_inner_raise: float = 0.0  # 1
    brow_outer_raise: float = 0.0  # 2
    brow_lower: float = 0.0  # 4
    lid_raise: float = 0.0  # 5
    cheek_raise: float = 0.0  # 6
    lid_tighten: float = 0.0  # 7
    nose_wrinkle: float = 0.0  # 9
    upper_lip_raise: float = 0.0  # 10
    corner_raise: float = 0.0  # 12
    corner_lower: float = 0.0  # 15
    chin_raise: float = 0.0  # 17
    lip_pucker: float = 0.0  # 18
    lip_stretch: float = 0.0  # 20
    lip_tighten: float = 0.0  # 23
    lip_part: float = 0.0  # 25
    jaw_drop: float = 0.0  # 26
    lid_droop: float = 0.0  # 43
    gaze_down: float = 0.0  # 64


NAMES = tuple(field.name for field in fields(Movements))

# Each class has variants that differ mostly in the mouth.
PATTERNS: dict[str, tuple[Movements, ...]] = {
    "neutral": (Movements(),),
    "happiness": (
        Movements(cheek_raise=0.9, lid_tighten=0.35, corner_raise=1, upper_lip_raise=0.25, lip_part=0.75, lip_stretch=0.2),
        Movements(cheek_raise=1, lid_tighten=0.5, corner_raise=1, upper_lip_raise=0.3, lip_part=0.9, jaw_drop=0.4, brow_outer_raise=0.2),
        Movements(cheek_raise=0.7, lid_tighten=0.25, corner_raise=0.9, lip_stretch=0.1),
    ),
    "sadness": (
        Movements(brow_inner_raise=0.95, brow_lower=0.25, lid_droop=0.45, corner_lower=0.95, chin_raise=0.45, gaze_down=0.45),
        Movements(brow_inner_raise=0.8, brow_lower=0.45, lid_droop=0.3, corner_lower=0.8, lip_part=0.25, lip_stretch=0.2, lid_tighten=0.3),
    ),
    "surprise": (
        Movements(brow_inner_raise=1, brow_outer_raise=1, lid_raise=0.9, lip_part=0.7, jaw_drop=0.95, lip_pucker=0.35),
        Movements(brow_inner_raise=0.9, brow_outer_raise=1, lid_raise=0.75, lip_part=0.6, jaw_drop=0.55, lip_pucker=0.2),
    ),
    "fear": (
        Movements(brow_inner_raise=1, brow_outer_raise=0.35, brow_lower=0.5, lid_raise=1, lip_stretch=1, lip_part=0.9, jaw_drop=0.3, corner_lower=0.35),
        Movements(brow_inner_raise=0.9, brow_outer_raise=0.45, brow_lower=0.4, lid_raise=0.95, lip_stretch=0.6, lip_part=0.7, jaw_drop=0.6, corner_lower=0.2),
    ),
    "anger": (
        Movements(brow_lower=1, lid_raise=0.4, lid_tighten=0.55, lip_tighten=0.9, chin_raise=0.45, corner_lower=0.25),
        Movements(brow_lower=1, lid_raise=0.55, lid_tighten=0.4, lip_part=0.9, jaw_drop=0.4, upper_lip_raise=0.45, nose_wrinkle=0.35, lip_stretch=0.35, corner_lower=0.3),
    ),
    "disgust": (
        Movements(nose_wrinkle=1, upper_lip_raise=0.9, brow_lower=0.55, cheek_raise=0.5, lid_tighten=0.7, corner_lower=0.35, chin_raise=0.35),
        Movements(nose_wrinkle=0.9, upper_lip_raise=1, brow_lower=0.5, cheek_raise=0.4, lid_tighten=0.6, lip_part=0.6, jaw_drop=0.2, corner_lower=0.45),
    ),
}  # fmt: skip

NEIGHBOURS = {
    "neutral": ("sadness", "happiness", "anger"),
    "happiness": ("neutral", "surprise"),
    "sadness": ("neutral", "disgust"),
    "surprise": ("fear", "happiness"),
    "fear": ("surprise", "sadness"),
    "anger": ("disgust", "neutral"),
    "disgust": ("anger", "sadness"),
}  # fmt: skip
_NEIGHBOUR_ODDS = {2: (0.75, 0.25), 3: (0.6, 0.2, 0.2)}
MAX_DRIFT = 0.6  # largest shift of an expression towards its neighbour
JITTER = 0.08


@dataclass(frozen=True)
class Expression:
    """The movements of one picture.

    `lopsided` in -1 … 1 makes the picture's left (-) or right (+) side move more.
    """

    label: str
    intensity: float
    movements: Movements
    lopsided: float
    gaze: float  # eyes to the picture's left (-) or right (+)


def pattern(label: str, intensity: float, variant: int = 0) -> Movements:
    """Return the pure pattern of a class at an intensity."""
    return Movements(*(intensity * value for value in astuple(PATTERNS[label][variant])))


def draw_expression(rng: np.random.Generator, label: str, identity: Identity) -> Expression:
    """Return a random expression of a class for this person."""
    variants, neighbours = PATTERNS[label], NEIGHBOURS[label]
    intensity = float(rng.uniform(0.3, 1.0))
    variant = int(rng.integers(len(variants)))
    neighbour = neighbours[int(rng.choice(len(neighbours), p=_NEIGHBOUR_ODDS[len(neighbours)]))]
    drift = MAX_DRIFT * float(rng.beta(1.0, 1.6))
    towards = PATTERNS[neighbour][int(rng.integers(len(PATTERNS[neighbour])))]
    own = np.array(astuple(variants[variant]))
    strength = intensity if label != "neutral" else 0.0
    # A neutral face is shifted towards weak expressions: half strength.
    other = np.array(astuple(towards)) * (intensity if label != "neutral" else 0.5 * intensity)
    amounts = (1 - drift) * strength * own + drift * other
    amounts += JITTER * rng.normal(size=len(NAMES)) * (0.35 + (amounts > 0.05))
    resting = dict(zip(("brow_lower", "corner_raise", "lid_droop"), identity.resting, strict=True))
    for name, value in resting.items():
        amounts[NAMES.index(name)] += value
    if identity.resting[1] < 0:  # hanging corners are the opposite movement
        amounts[NAMES.index("corner_lower")] -= identity.resting[1]
    return Expression(
        label=label,
        intensity=strength,
        movements=Movements(*(float(value) for value in np.clip(amounts, 0, 1.15))),
        lopsided=float(np.clip(rng.normal(0, 0.4), -1, 1)),
        gaze=float(np.clip(rng.normal(0, 0.35), -1, 1)),
    )
