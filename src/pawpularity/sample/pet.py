"""Whole cats and dogs for the sample shelter: bodies in all poses, tails, paws, accessories, shadows.

Drawn by `pawpularity sample --photos 600 --size 160 --seed 0 --twins 5`. Coordinates are those of the head
(`face`): the head's half width is 1 and its centre the origin, so turning a body about the head leaves the face
where it is.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pawpularity.sample.canvas import (
    Canvas,
    Colour,
    Frame,
    Points,
    ellipse,
    mirrored,
    mix,
    ribbon,
    smooth,
)
from pawpularity.sample.coats import BLACK_INK, Look
from pawpularity.sample.face import Draws, Labels, draw_head, shaggy

Line = list[tuple[float, float]]

# One body per pose: outline, legs as lines from hip to paw, tail, where the lighter chest lies (x, y, rx, ry).
SITTING = smooth(
    mirrored([(0, 0.40), (0.60, 0.62), (0.86, 1.30), (1.22, 2.20), (1.34, 2.86), (1.05, 3.24), (0.5, 3.30), (0, 3.30)])
)
LYING = smooth(
    [
        *((-0.98, 1.60), (-0.92, 0.86), (-0.40, 0.30), (0.70, 0.22), (1.80, 0.34), (2.66, 0.80)),
        *((2.92, 1.42), (2.60, 1.78), (1.40, 1.86), (0.20, 1.88), (-0.70, 1.86)),
    ]
)
STANDING = smooth(
    [
        *((-0.62, 0.90), (-0.30, 0.40), (0.50, 0.46), (1.60, 0.62), (2.70, 0.54), (3.24, 0.90)),
        *((3.24, 1.60), (2.70, 1.92), (1.50, 1.98), (0.30, 2.10), (-0.48, 1.70)),
    ]
)
PORTRAIT = smooth(mirrored([(0, 0.40), (0.70, 0.66), (1.22, 1.30), (1.62, 2.30), (1.80, 3.60), (1.80, 6.0), (0, 6.4)]))
LEAPING = smooth(
    [
        *((-0.70, 0.60), (-0.10, 0.06), (0.90, 0.14), (1.90, 0.60), (2.76, 1.30)),
        *((2.90, 2.00), (2.30, 2.24), (1.30, 1.98), (0.20, 1.62), (-0.50, 1.20)),
    ]
)
LEGS: dict[str, tuple[Line, ...]] = {
    "sitting": ([(-0.36, 1.5), (-0.38, 2.4), (-0.40, 3.16)], [(0.36, 1.5), (0.38, 2.4), (0.40, 3.16)]),
    "lying": ([(-0.52, 1.1), (-0.62, 1.5), (-0.66, 1.80)], [(0.44, 1.1), (0.40, 1.5), (0.34, 1.82)]),
    "standing": (
        *([(-0.10, 1.4), (-0.16, 2.4), (-0.20, 3.16)], [(0.52, 1.5), (0.56, 2.4), (0.54, 3.22)]),
        *([(2.50, 1.4), (2.44, 2.3), (2.52, 3.16)], [(2.94, 1.3), (3.06, 2.2), (3.04, 3.22)]),
    ),
    "portrait": (),
    "leaping": (
        *([(-0.1, 1.0), (-0.9, 1.55), (-1.75, 1.45)], [(0.2, 1.3), (-0.4, 2.1), (-1.2, 2.35)]),
        *([(2.4, 1.7), (3.1, 2.3), (3.9, 2.15)], [(2.1, 1.9), (2.6, 2.7), (3.35, 3.0)]),
    ),
    "on its back": (
        *([(-0.5, 1.1), (-1.15, 1.15), (-1.25, 0.72)], [(0.5, 1.1), (1.15, 1.15), (1.25, 0.72)]),
        *([(-0.8, 2.6), (-1.45, 2.9), (-1.70, 3.45)], [(0.8, 2.6), (1.45, 2.9), (1.70, 3.45)]),
    ),
}
TAILS: dict[str, Line] = {
    "sitting": [(0.9, 3.02), (1.55, 3.08), (1.98, 2.70), (1.92, 2.10), (1.72, 1.72)],
    "lying": [(2.6, 1.5), (3.10, 1.78), (2.7, 2.02), (1.9, 2.02), (1.30, 1.92)],
    "standing": [(3.0, 0.9), (3.5, 0.7), (3.8, 0.1), (3.66, -0.5)],
    "leaping": [(2.7, 1.4), (3.3, 1.0), (3.7, 0.4), (3.6, -0.3)],
    "on its back": [(0.2, 3.1), (0.5, 3.7), (1.0, 4.0)],
}
BODIES = {
    "sitting": SITTING,
    "lying": LYING,
    "standing": STANDING,
    "portrait": PORTRAIT,
    "leaping": LEAPING,
    "on its back": SITTING,
}
CHESTS = {
    "sitting": (0.0, 1.35, 0.46, 0.85),
    "lying": (-0.1, 1.10, 0.52, 0.62),
    "standing": (-0.05, 1.30, 0.44, 0.60),
    "portrait": (0.0, 1.75, 0.74, 1.20),
    "leaping": (0.0, 1.0, 0.55, 0.45),
    "on its back": (0.0, 1.80, 0.72, 1.15),
}
# Centre line of the back, along which stripes, saddles and spots are laid.
SPINES: dict[str, Line] = {
    "sitting": [(-1.0, 1.0), (-1.2, 2.7), (1.0, 1.0), (1.2, 2.7)],
    "lying": [(0.9, 0.3), (2.7, 0.9)],
    "standing": [(0.7, 0.5), (3.1, 0.7)],
    "portrait": [(-1.2, 1.3), (-1.6, 3.4), (1.2, 1.3), (1.6, 3.4)],
    "leaping": [(0.8, 0.2), (2.6, 1.3)],
    "on its back": [(-1.0, 1.2), (-1.2, 2.8), (1.0, 1.2), (1.2, 2.8)],
}


def body_frame(pose: str, head: Frame, draws: Draws) -> tuple[str, Frame]:
    """The body drawn for a pose and the frame it lies in: an odd pose is a body turned about its head."""
    if pose == "on its side":
        turn = (72.0 + 36.0 * draws[0]) * (-1.0 if head.mirror else 1.0)
        return "sitting", replace(head, angle=-turn)
    if pose == "on its back":
        return pose, replace(head, angle=180.0 + 44.0 * (draws[0] - 0.5))
    if pose == "leaping":
        return pose, replace(head, angle=(8.0 + 22.0 * draws[0]) * (1.0 if head.mirror else -1.0))
    return pose, head


def draw_pet(
    canvas: Canvas,
    look: Look,
    frame: Frame,
    pose: str,
    tilt: float,
    eyes: str,
    tongue: bool,
    accessory: str,
    labels: Labels,
    draws: Draws,
) -> None:
    """Draw a pet whose head lies at `frame`, tilted by `tilt` degrees; `draws` are at least 60 uniform numbers."""
    shape, body = body_frame(pose, frame, draws[40:])
    _shadow(canvas, frame, shape, body, pose, labels.body)
    _body(canvas, look, body, shape, labels.body, draws, eyes == "turned away")
    turn = tilt
    if pose == "on its side":
        turn += body.angle * 0.8
    elif pose == "on its back":
        turn += 180.0
    elif pose == "leaping":
        turn += body.angle
    head = replace(frame, angle=turn, mirror=False)
    if accessory and accessory != "hat":
        _neckwear(canvas, accessory, body, labels.accessory, draws)
    draw_head(canvas, look, head, eyes, tongue, labels, draws)
    if accessory == "hat":
        _hat(canvas, head, labels.accessory, look.species, draws)


def _shadow(canvas: Canvas, frame: Frame, shape: str, body: Frame, pose: str, label: int) -> None:
    if shape == "portrait":
        return
    outline = body(BODIES[shape])
    low, left, right = outline[:, 1].max(), outline[:, 0].min(), outline[:, 0].max()
    if pose == "leaping":
        low += 0.9 * frame.scale
    wide = (right - left) * 0.55
    oval = ellipse((left + right) / 2 + 0.12 * frame.scale, low - 0.02 * frame.scale, wide, 0.26 * frame.scale)
    canvas.paint(oval, (30, 24, 34), label, alpha=0.42, soft=0.28 * frame.scale)


def _body(canvas: Canvas, look: Look, frame: Frame, shape: str, label: int, draws: Draws, away: bool) -> None:
    outline = shaggy(BODIES[shape], look.fluff, 0.20, draws[:37])
    ink = mix(look.base, BLACK_INK, 0.75)
    cat = look.species == "cat"

    def rimmed(points: Points, colour: Colour, rim: float = 0.45) -> None:
        canvas.paint(frame(points), ink, label, alpha=rim, soft=0.08 * frame.scale)
        canvas.paint(frame(points), colour, label, light=0.18, edge=0.20, fur=0.035)

    if shape in TAILS:
        tail = np.array(TAILS[shape])
        if not cat:  # dogs carry shorter, thicker tails
            tail = tail[0] + (tail - tail[0]) * 0.72
        tip = look.mark if look.pattern in ("points", "saddle") else look.base
        thick = 0.17 if cat else 0.20
        band = shaggy(ribbon(tail, thick * 1.1, thick * (0.8 if cat else 0.6)), max(look.fluff, 0.1), 0.2, draws[:23])
        rimmed(band, tip)
    if shape in ("standing", "leaping"):
        for leg in LEGS[shape][::2]:
            rimmed(ribbon(leg, 0.30, 0.21), mix(look.base, BLACK_INK, 0.22))
    canvas.paint(frame(outline * [1.02, 1.0]), ink, label, alpha=0.5, soft=0.09 * frame.scale)
    canvas.paint(frame(outline), look.base, label, light=0.24, edge=0.24, fur=0.04)
    inside = canvas.whole(frame(outline))
    _coat(canvas, look, frame, shape, label, inside, draws)
    if shape in ("sitting", "lying", "standing"):
        x, y, rx, ry = {"sitting": (0.94, 2.70, 0.46, 0.58), "lying": (2.06, 1.30, 0.68, 0.58)}.get(
            shape, (2.76, 1.26, 0.50, 0.66)
        )
        sides = (-1.0, 1.0) if shape == "sitting" else (1.0,)
        flank = look.mark if look.pattern == "saddle" and shape != "sitting" else look.base
        for side in sides:
            thigh = smooth(ellipse(side * x, y, rx, ry, steps=10))
            canvas.paint(
                frame(thigh), flank, label, soft=0.10 * frame.scale, light=0.34, edge=0.26, fur=0.035, alpha=0.85
            )
    x, y, rx, ry = CHESTS[shape]
    chest = shaggy(ellipse(x, y, rx, ry), 1.0, 0.12, draws[3:30])
    chest_colour = (
        look.second if look.pattern not in ("points", "muzzle", "spots") else mix(look.base, look.second, 0.5)
    )
    if not away:
        canvas.paint(frame(chest), chest_colour, label, soft=0.13 * frame.scale, clip=inside, light=0.2, fur=0.05)
    white_feet = look.pattern in ("tuxedo", "blaze", "mask", "patches") or (
        look.pattern == "saddle" and look.ears == "floppy"
    )
    front = LEGS[shape][1::2] if shape in ("standing", "leaping") else LEGS[shape]
    for leg in front:
        # Soft, so that the leg grows out of the body instead of being stuck on it.
        soft = 0.10 * frame.scale
        canvas.paint(frame(ribbon(leg, 0.36, 0.27)), ink, label, alpha=0.30, soft=1.3 * soft)
        canvas.paint(frame(ribbon(leg, 0.33, 0.26)), look.base, label, alpha=0.9, soft=soft, edge=0.18, fur=0.03)
    for leg in LEGS[shape]:
        x, y = leg[-1]
        paw = look.second if white_feet else (look.mark if look.pattern == "points" else look.base)
        rimmed(ellipse(x, y, 0.33, 0.23), paw, 0.35)
        if shape in ("on its back", "leaping"):
            canvas.paint(frame(ellipse(x, y + 0.02, 0.13, 0.09)), (214, 168, 158), label)
        else:
            for dx in (-0.11, 0.11):
                toe = frame([(x + dx, y + 0.04), (x + dx, y + 0.18)])
                canvas.line(toe, max(1.0, 0.045 * frame.scale), ink, label, alpha=0.55)


def _coat(
    canvas: Canvas, look: Look, frame: Frame, shape: str, label: int, inside: npt.NDArray[np.uint8], draws: Draws
) -> None:
    def patch(points: Points, colour: Colour, soft: float) -> None:
        canvas.paint(
            frame(points), colour, label, soft=soft * frame.scale, clip=inside, light=0.15, fur=0.04, alpha=0.95
        )

    spine = np.array(SPINES[shape])
    lines = spine.reshape(-1, 2, 2)
    if look.pattern == "tabby":
        for start, end in lines:
            for k in range(5):
                x, y = start + (end - start) * (k + 0.2 + 0.5 * draws[k]) / 5
                if len(lines) == 2:  # stripes wrap in from both flanks
                    inward = -np.sign(x) * 0.62
                    patch(
                        ribbon([(x * 1.25, y - 0.05), (x + inward * 0.5, y + 0.1), (x + inward, y + 0.02)], 0.12, 0.03),
                        look.mark,
                        0.04,
                    )
                else:
                    patch(
                        ribbon([(x, y - 0.3), (x + 0.1, y + 0.35), (x + 0.02, y + 0.85)], 0.13, 0.03), look.mark, 0.04
                    )
    elif look.pattern == "saddle":
        for start, end in lines:
            middle = (start + end) / 2
            along = np.hypot(*(end - start)) / 2
            rx, ry = (along, 0.8) if len(lines) == 1 else (0.5, along)
            patch(ellipse(middle[0], middle[1], rx, ry), look.mark, 0.22)
    elif look.pattern in ("spots", "patches"):
        low, high = BODIES[shape].min(axis=0), np.minimum(BODIES[shape].max(axis=0), 4.0)
        count, size = (16, 0.17) if look.pattern == "spots" else (5, 0.55)
        across, down = np.resize(draws[5:], count), np.resize(draws[22:47], count)
        for k in range(count):
            x = low[0] + (high[0] - low[0]) * ((k * 0.618 + 0.4 * across[k]) % 1.0)
            y = low[1] + (high[1] - low[1]) * ((k + down[k]) / count)
            colour = look.mark if look.pattern == "spots" or k % 2 else mix(look.mark, BLACK_INK, 0.72)
            patch(
                smooth(ellipse(x, y, size * (0.6 + 0.6 * across[k]), size * (0.5 + 0.5 * down[k]), steps=9)),
                colour,
                0.05,
            )


def _neckwear(canvas: Canvas, kind: str, frame: Frame, label: int, draws: Draws) -> None:
    colours: tuple[Colour, ...] = ((84, 196, 206), (52, 120, 190), (60, 150, 104), (236, 176, 56), (140, 84, 168))
    colour = colours[int(draws[35] * len(colours))]
    neck: Line = [(-0.70, 0.84), (-0.38, 1.14), (0.0, 1.22), (0.38, 1.14), (0.70, 0.84)]
    canvas.paint(frame(ribbon(neck, 0.14, 0.14)), colour, label, light=0.3)
    if kind == "collar":
        canvas.paint(frame(ellipse(0, 1.46, 0.22, 0.22)), (240, 200, 92), label, light=0.5, edge=0.2)
    elif kind == "bow tie":
        for side in (-1.0, 1.0):
            wing = smooth([(side * 0.02, 1.2), (side * 0.52, 0.94), (side * 0.58, 1.24), (side * 0.52, 1.5)], steps=4)
            canvas.paint(frame(wing), colour, label, light=0.35, edge=0.15)
        canvas.paint(frame(ellipse(0, 1.2, 0.13, 0.14)), mix(colour, (255, 255, 255), 0.25), label)
    else:
        cloth = mirrored([(0, 0.98), (0.74, 0.84), (0.5, 1.34), (0, 1.86)])
        canvas.paint(frame(cloth), colour, label, light=0.3)
        for x, y in ((-0.3, 1.2), (0.3, 1.2), (0, 1.5), (0, 1.16)):
            canvas.paint(frame(ellipse(x, y, 0.07, 0.07)), (250, 246, 240), label)


def _hat(canvas: Canvas, frame: Frame, label: int, species: str, draws: Draws) -> None:
    colours: tuple[Colour, ...] = ((134, 108, 200), (72, 130, 202), (250, 190, 70), (122, 188, 132))
    colour = colours[int(draws[36] * len(colours))]
    foot = -0.66 if species == "cat" else -0.74
    cone = [(-0.42, foot), (0.0, foot + 0.10), (0.42, foot), (0.06, foot - 0.98), (-0.06, foot - 0.98)]
    canvas.paint(frame(cone), colour, label, light=0.35, edge=0.1)
    for y, half in ((-0.25, 0.31), (-0.52, 0.20)):
        canvas.paint(
            frame(ribbon([(-half, foot + y), (0, foot + y + 0.07), (half, foot + y)], 0.05, 0.05)),
            (255, 246, 228),
            label,
        )
    canvas.paint(frame(ellipse(0, foot - 1.0, 0.15, 0.15)), (255, 250, 240), label, edge=0.2)
