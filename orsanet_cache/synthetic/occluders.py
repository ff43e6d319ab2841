"""Occluders: objects that hide parts of a face.

Worn occluders (glasses, sunglasses, mask, cap) are painted on the frontal head, so they turn with
the pose. Held occluders (hand, microphone) are painted in front of the finished picture. Another
face at the border is a second head: see picture.py.

Each function paints with `covers=True`: those pixels become background in the map and are marked as
covered. Shadows and the clear lenses of glasses do not count as covering.
"""

from collections.abc import Callable

import numpy as np

from orsanet_cache.synthetic.canvas import Canvas, Points, capsule, ellipse, lit, patch, shifted, spline, stroke
from orsanet_cache.synthetic.identity import Colour
from orsanet_cache.synthetic.render import Head

# Tag -> hidden region. Two occluders in one picture hide different regions, so both are visible.
REGIONS = {
    "mask": "mouth", "glasses": "eyes", "sunglasses": "eyes", "cap": "top", "face": "border", "hand": "mouth", "microphone": "mouth",
}  # fmt: skip
TAGS = tuple(REGIONS)  # in the order they are painted


def glasses(head: Head, rng: np.random.Generator) -> None:
    _spectacles(head, rng, dark=False)


def sunglasses(head: Head, rng: np.random.Generator) -> None:
    _spectacles(head, rng, dark=True)


def _spectacles(head: Head, rng: np.random.Generator, dark: bool) -> None:
    canvas, identity = head.canvas, head.identity
    radius_x, radius_y = rng.uniform(0.088, 0.104), rng.uniform(0.066, 0.084) + 0.008 * dark
    power = rng.choice([2.1, 2.8, 4.0])
    y = identity.eye_height + 0.010
    frame = np.array(
        [(0.05, 0.05, 0.06), (0.35, 0.20, 0.10), (0.55, 0.45, 0.25), (0.50, 0.06, 0.08), (0.12, 0.16, 0.32)][
            rng.integers(5)
        ]
    )
    width = rng.uniform(0.011, 0.019)
    middle = max(identity.eye_spacing + 0.004, radius_x + 0.016)
    lenses = [ellipse(side * middle, y, radius_x, radius_y, power) for side in (-1, 1)]
    rings = [np.concatenate([lens, lens[:1]]) for lens in lenses]
    temples = [
        stroke(
            np.array([(side * (middle + radius_x), y - 0.018), (side * identity.face_width * 1.03, y - 0.010)]),
            width * 1.2,
        )
        for side in (-1, 1)
    ]
    bridge = stroke(spline([(-(middle - radius_x), y - 0.012), (0, y - 0.026), (middle - radius_x, y - 0.012)]), width)
    shadow = [stroke(shifted(ring, 0, 0.014), width) for ring in rings]
    canvas.darken(patch(shadow, blur=0.006, opacity=0.45), (0.55, 0.48, 0.46))
    tint = np.array([(0.05, 0.05, 0.06), (0.16, 0.09, 0.05), (0.05, 0.10, 0.14)][rng.integers(3)])
    for lens in lenses:
        if dark:
            canvas.paint(lens, tint, opacity=0.97, covers=True)
            lower = lens * (1, 0.5) + (0, 0.5 * y + 0.018)
            canvas.paint(lower, np.clip(tint * 2.2 + 0.05, 0, 1), opacity=0.6, blur=0.018, within=lens)
        else:
            canvas.paint(lens, (0.92, 0.96, 1.0), opacity=0.07)
        x = float(lens[:, 0].mean())
        glint = shifted(np.array([(-0.055, -0.07), (-0.020, -0.07), (-0.060, 0.05), (-0.085, 0.05)]), x + 0.03, y)
        canvas.paint(glint, (1, 1, 1), opacity=0.26 if dark else 0.20, blur=0.006, within=lens)
    frames = [stroke(ring, width) for ring in rings]
    canvas.paint([*temples, bridge, *frames], frame * head.bright.mean(), covers=True)
    shine = [stroke(shifted(ring[22:36], 0, -width * 0.2), width * 0.3, taper=1) for ring in rings]
    canvas.paint(shine, np.clip(frame + 0.45, 0, 1), opacity=0.6, blur=0.0015)


def mask(head: Head, rng: np.random.Generator) -> None:
    """Paint a surgical mask from the nose bridge to below the chin."""
    canvas, face, width = head.canvas, head.face, head.identity.face_width
    cloth = np.array(
        [(0.62, 0.80, 0.90), (0.93, 0.94, 0.94), (0.13, 0.13, 0.15), (0.55, 0.78, 0.68), (0.92, 0.72, 0.76)][
            rng.integers(5)
        ]
    )
    top = float(face.nose_tip[1]) - rng.uniform(0.055, 0.095)
    chin = face.chin + 0.018
    right = np.array(
        [(0.0, top - 0.012), (0.20, top + 0.002), (0.55, top + 0.030), (0.93, top + 0.045), (0.965, top + 0.10), (0.86, (top + chin) / 2 + 0.07),
         (0.66, chin - 0.045), (0.36, chin - 0.005), (0.0, chin + 0.006)]
    ) * (width, 1)  # fmt: skip
    shape = spline(np.concatenate([right, right[-2:0:-1] * (-1, 1)]), 6, closed=True)
    loops = [
        stroke(
            spline([(side * width * 0.92, at), (side * width * 1.02, 0.5 * (at + to)), (side * width * 1.05, to)]),
            0.009,
        )
        for side in (-1, 1)
        for at, to in ((top + 0.05, top - 0.02), (top + 0.17, top + 0.03))
    ]
    canvas.paint(loops, cloth * 0.85, covers=True)
    canvas.darken(patch(shape - (0, 0.010), blur=0.010, opacity=0.5), (0.55, 0.48, 0.46))
    bright = head.bright.mean(axis=0) ** 0.85
    canvas.paint(shape, lit(cloth, bright), covers=True)
    wide = np.linspace(-0.88, 0.88, 15)
    for y in np.linspace(top + 0.085, chin - 0.075, 3):
        pleat = np.stack([wide * width, y + 0.022 * (1 - wide**2) - 0.012], axis=1)
        canvas.darken(patch(stroke(pleat, 0.008, taper=0.6), blur=0.003, within=shape, opacity=0.6), (0.72, 0.74, 0.78))
        canvas.paint(stroke(pleat - (0, 0.010), 0.007, taper=0.6), (1, 1, 1), opacity=0.16, blur=0.003, within=shape)
    edge = shape[:12], shape[-12:]
    canvas.darken(
        patch([stroke(shifted(line, 0, 0.012), 0.006) for line in edge], blur=0.002, within=shape, opacity=0.5),
        (0.8, 0.8, 0.82),
    )


def cap(head: Head, rng: np.random.Generator) -> None:
    """Paint a baseball cap: crown, seams, and a visor that shades the forehead."""
    canvas, width = head.canvas, head.identity.face_width
    cloth = np.array(
        [
            (0.14, 0.18, 0.36),
            (0.60, 0.10, 0.12),
            (0.10, 0.10, 0.11),
            (0.85, 0.84, 0.80),
            (0.16, 0.36, 0.22),
            (0.80, 0.62, 0.20),
        ][rng.integers(6)]
    )
    rim = rng.uniform(0.190, 0.215)
    level = head.bright.mean()
    dome = spline(
        [
            (-1.10, rim + 0.06),
            (-1.06, rim - 0.06),
            (-0.78, 0.02),
            (0, -0.05),
            (0.78, 0.02),
            (1.06, rim - 0.06),
            (1.10, rim + 0.06),
        ]
    ) * (width, 1)
    base = spline([(1.10, rim + 0.06), (0.6, rim + 0.03), (0, rim + 0.02), (-0.6, rim + 0.03), (-1.10, rim + 0.06)]) * (
        width,
        1,
    )
    crown = np.concatenate([dome, base])
    canvas.paint(crown, cloth * level * 0.9, covers=True)
    canvas.paint(
        ellipse(-0.08, 0.06, width * 0.6, 0.09),
        np.clip(cloth * 1.35 + 0.05, 0, 1) * level,
        opacity=0.55,
        blur=0.05,
        within=crown,
    )
    canvas.darken(
        patch([stroke(dome[:20], 0.12), stroke(dome[-20:], 0.12)], blur=0.04, within=crown, opacity=0.6),
        (0.5, 0.5, 0.52),
    )
    seams = [stroke(spline([(x * 0.3, -0.03), (x, 0.06), (x * 1.2, rim)]), 0.004) for x in (-0.14, 0.14)]
    canvas.darken(patch([*seams, ellipse(0, -0.035, 0.016, 0.010)], opacity=0.6), (0.6, 0.6, 0.6))
    drop = rim + rng.uniform(0.105, 0.130)
    visor = np.concatenate(
        [
            spline([(-0.96, rim + 0.060), (-0.60, rim + 0.005), (0, rim - 0.015), (0.60, rim + 0.005), (0.96, rim + 0.060)]),
            spline([(1.00, rim + 0.095), (0.58, drop - 0.010), (0, drop), (-0.58, drop - 0.010), (-1.00, rim + 0.095)]),
        ]
    ) * (width, 1)  # fmt: skip
    canvas.darken(
        patch(shifted(visor, 0, 0.045), blur=0.018, within=head.face.outline, opacity=0.6), (0.48, 0.42, 0.42)
    )
    canvas.paint(visor, np.clip(cloth * 0.9 + 0.02, 0, 1) * level, covers=True)
    canvas.paint(
        visor * (0.75, 0.35) + (0, 0.65 * (rim + 0.055)),
        np.clip(cloth * 1.3 + 0.10, 0, 1) * level,
        opacity=0.6,
        blur=0.014,
        within=visor,
    )
    canvas.darken(patch(stroke(visor[:33] - (0, 0.004), 0.016), blur=0.005, opacity=0.75), (0.35, 0.35, 0.37))
    canvas.darken(
        patch(stroke(visor[33:] - (0, 0.004), 0.012), blur=0.003, within=visor, opacity=0.7), (0.42, 0.42, 0.45)
    )
    stitches = [stroke(visor[33:] - (0, down), 0.003) for down in (0.022, 0.036)]
    canvas.darken(patch(stitches, within=visor, opacity=0.3), (0.6, 0.6, 0.6))


def hand(canvas: Canvas, target: Points, skin: Colour, rng: np.random.Generator) -> None:
    """Paint a hand from below, fingers up, over the mouth or one cheek.

    `target` is the place of the fingers' roots, in crop units.
    """
    side = rng.choice([-1, 1])
    tilt = rng.uniform(-0.45, 0.30)
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    origin = shifted(target, rng.uniform(-0.10, 0.10), rng.uniform(0.10, 0.17))
    size = rng.uniform(0.95, 1.12)

    def placed(points: Points) -> Points:
        return np.asarray(points * (side, 1) * size @ turn.T + origin)

    flesh = np.array(skin) * 0.98
    palm = placed(
        spline(
            [
                (-0.115, -0.01),
                (-0.04, -0.035),
                (0.06, -0.03),
                (0.118, 0.02),
                (0.125, 0.12),
                (0.09, 0.24),
                (0.085, 0.75),
                (-0.085, 0.75),
                (-0.09, 0.24),
                (-0.128, 0.11),
            ],
            closed=True,
        )
    )
    fingers = []
    for x, length, lean in (
        (-0.086, 0.205, -0.035),
        (-0.030, 0.245, -0.008),
        (0.028, 0.235, 0.012),
        (0.084, 0.185, 0.045),
    ):
        joints = np.array(
            [(x, 0.05), (x + 0.3 * lean, -0.4 * length), (x + 0.7 * lean, -0.75 * length), (x + lean, -length)]
        )
        fingers.append(
            (placed(spline(joints, 5)), np.interp(np.linspace(0, 1, 16), [0, 0.5, 1], [0.062, 0.056, 0.046]) * size)
        )
    thumb = (
        placed(spline([(-0.085, 0.16), (-0.16, 0.06), (-0.185, -0.03), (-0.175, -0.10)], 5)),
        np.interp(np.linspace(0, 1, 16), [0, 0.4, 1], [0.075, 0.066, 0.050]) * size,
    )
    canvas.paint(palm, flesh, covers=True)
    for line, width in (*fingers, thumb):
        outline = capsule(line, width)
        canvas.darken(patch(shifted(outline, 0.004, 0.004), blur=0.007, within=palm, opacity=0.35), (0.62, 0.48, 0.45))
        canvas.paint(outline, flesh * 0.84, covers=True)
        canvas.paint(capsule(line, width * 0.62), flesh * 1.06, opacity=0.85, blur=0.009, within=outline)
        tip, before = line[-1], line[-3]
        along = (tip - before) / np.linalg.norm(tip - before)
        nail = capsule(np.stack([tip - 0.016 * size * along, tip + 0.005 * size * along]), 0.026 * size)
        canvas.paint(nail, np.clip(flesh * (1.12, 1.02, 1.02) + 0.05, 0, 1), opacity=0.8, blur=0.0015)
        across = along[::-1] * (-1, 1)
        for back in (5, 10):
            knuckle = np.stack([line[back] - 0.016 * across, line[back] + 0.016 * across])
            canvas.darken(patch(stroke(knuckle, 0.005), blur=0.002, opacity=0.30), (0.66, 0.5, 0.47))
    canvas.darken(patch(stroke(palm[-24:], 0.03), blur=0.015, within=palm, opacity=0.5), (0.6, 0.48, 0.46))
    canvas.darken(patch(stroke(palm[24:48], 0.03), blur=0.015, within=palm, opacity=0.5), (0.6, 0.48, 0.46))


def microphone(canvas: Canvas, target: Points, _skin: Colour, rng: np.random.Generator) -> None:
    """Paint a microphone in front of the mouth. `target`: the mouth's middle, in crop units."""
    side = rng.choice([-1, 1])
    ball = shifted(target, side * rng.uniform(0.01, 0.06), rng.uniform(0.02, 0.06))
    radius = rng.uniform(0.080, 0.100)
    foot = shifted(ball, side * rng.uniform(0.10, 0.28), 0.62)
    along = (foot - ball) / np.linalg.norm(foot - ball)
    body = np.array([(0.09, 0.09, 0.10), (0.35, 0.36, 0.38), (0.55, 0.10, 0.12)][rng.integers(3)])
    handle = np.stack([ball + along * radius * 0.8, foot])
    outline = stroke(handle, [radius * 1.25, radius * 0.8])
    canvas.paint(outline, body * 0.8, covers=True)
    canvas.paint(
        stroke(handle - (side * 0.012, 0), radius * 0.30),
        np.clip(body + 0.30, 0, 1),
        opacity=0.6,
        blur=0.010,
        within=outline,
    )
    sphere = ellipse(ball[0], ball[1], radius, radius * 1.04)
    mesh = np.array([0.30, 0.31, 0.33]) * rng.uniform(0.6, 1.5)
    canvas.paint(sphere, mesh * 0.65, covers=True)
    canvas.paint(
        ellipse(ball[0] - 0.25 * radius, ball[1] - 0.3 * radius, radius * 0.6, radius * 0.55),
        np.clip(mesh * 2, 0, 0.9),
        opacity=0.8,
        blur=0.024,
        within=sphere,
    )
    wires = []
    for at in np.linspace(-0.9, 0.9, 10):
        span = np.linspace(-1, 1, 7)
        bow = np.stack([radius * span, radius * (at + 0.25 * (1 - span**2) * np.sign(at) * abs(at))], axis=1)
        wires += [stroke(bow + ball, 0.0035), stroke(bow[:, ::-1] + ball, 0.0035)]
    canvas.darken(patch(wires, within=sphere, opacity=0.55), (0.45, 0.45, 0.47))
    ring = np.stack([ball + along * radius * 0.80, ball + along * radius * 1.02])
    canvas.paint(stroke(ring, radius * 1.5), (0.62, 0.63, 0.66), covers=True)
    canvas.paint(stroke(ring - (side * 0.01, 0), radius * 0.4), (0.95, 0.95, 0.97), opacity=0.7, blur=0.008)


WORN: dict[str, Callable[[Head, np.random.Generator], None]] = {
    "mask": mask, "glasses": glasses, "sunglasses": sunglasses, "cap": cap,
}  # fmt: skip
HELD: dict[str, Callable[[Canvas, Points, Colour, np.random.Generator], None]] = {
    "hand": hand,
    "microphone": microphone,
}
