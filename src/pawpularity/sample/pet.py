"""Whole cats and dogs: bodies in all poses, tails, legs, accessories, shadows.

Coordinates are those of the head (`face`): its half width is 1 and its centre the origin, so turning a body about the
head leaves the face where it is.
"""

from dataclasses import dataclass, replace

import numpy as np

from pawpularity.sample.canvas import SHADOW, WHITE, Colour, Draws, Mask, Pen, mix
from pawpularity.sample.coats import BLACK_INK, Look
from pawpularity.sample.face import SIDES, draw_head, shaggy
from pawpularity.sample.labels import ACCESSORY
from pawpularity.sample.shapes import Points, as_points, ellipse, mirrored, ribbon, smooth
from pawpularity.sample.spec import Photo

Oval = tuple[float, float, float, float]  # x, y, rx, ry


@dataclass(frozen=True)
class Body:
    """The body of one pose. Lines in text run from hip to paw, and from the root of the tail to its tip."""

    outline: Points
    chest: Oval  # the lighter fur
    flanks: list[str]  # lines along which stripes and saddles are laid
    tail: str = ""
    far_legs: tuple[str, ...] = ()  # behind the body
    near_legs: tuple[str, ...] = ()
    thighs: tuple[Oval, ...] = ()


_LYING = "-0.98,1.6 -0.92,0.86 -0.4,0.3 0.7,0.22 1.8,0.34 2.66,0.8 2.92,1.42 2.6,1.78 1.4,1.86 0.2,1.88 -0.7,1.86"
_STANDING = "-0.62,0.9 -0.3,0.4 0.5,0.46 1.6,0.62 2.7,0.54 3.24,0.9 3.24,1.6 2.7,1.92 1.5,1.98 0.3,2.1 -0.48,1.7"
_LEAPING = "-0.7,0.6 -0.1,0.06 0.9,0.14 1.9,0.6 2.76,1.3 2.9,2 2.3,2.24 1.3,1.98 0.2,1.62 -0.5,1.2"
_SITTING = mirrored("0,0.4 0.6,0.62 0.86,1.3 1.22,2.2 1.34,2.86 1.05,3.24 0.5,3.3 0,3.3")
_PORTRAIT = mirrored("0,0.4 0.7,0.66 1.22,1.3 1.62,2.3 1.8,3.6 1.8,6 0,6.4")
BODIES = {
    "sitting": Body(
        smooth(_SITTING),
        chest=(0.0, 1.35, 0.46, 0.85),
        flanks=["-1,1 -1.2,2.7", "1,1 1.2,2.7"],
        tail="0.9,3.02 1.55,3.08 1.98,2.7 1.92,2.1 1.72,1.72",
        near_legs=("-0.36,1.5 -0.38,2.4 -0.4,3.16", "0.36,1.5 0.38,2.4 0.4,3.16"),
        thighs=((-0.94, 2.70, 0.46, 0.58), (0.94, 2.70, 0.46, 0.58)),
    ),
    "lying": Body(
        smooth(_LYING),
        chest=(-0.1, 1.10, 0.52, 0.62),
        flanks=["0.9,0.3 2.7,0.9"],
        tail="2.6,1.5 3.1,1.78 2.7,2.02 1.9,2.02 1.3,1.92",
        near_legs=("-0.52,1.1 -0.62,1.5 -0.66,1.8", "0.44,1.1 0.4,1.5 0.34,1.82"),
        thighs=((2.06, 1.30, 0.68, 0.58),),
    ),
    "standing": Body(
        smooth(_STANDING),
        chest=(-0.05, 1.30, 0.44, 0.60),
        flanks=["0.7,0.5 3.1,0.7"],
        tail="3,0.9 3.5,0.7 3.8,0.1 3.66,-0.5",
        far_legs=("-0.1,1.4 -0.16,2.4 -0.2,3.16", "2.5,1.4 2.44,2.3 2.52,3.16"),
        near_legs=("0.52,1.5 0.56,2.4 0.54,3.22", "2.94,1.3 3.06,2.2 3.04,3.22"),
        thighs=((2.76, 1.26, 0.50, 0.66),),
    ),
    "portrait": Body(smooth(_PORTRAIT), chest=(0.0, 1.75, 0.74, 1.20), flanks=["-1.2,1.3 -1.6,3.4", "1.2,1.3 1.6,3.4"]),
    "leaping": Body(
        smooth(_LEAPING),
        chest=(0.0, 1.0, 0.55, 0.45),
        flanks=["0.8,0.2 2.6,1.3"],
        tail="2.7,1.4 3.3,1 3.7,0.4 3.6,-0.3",
        far_legs=("-0.1,1 -0.9,1.55 -1.75,1.45", "2.4,1.7 3.1,2.3 3.9,2.15"),
        near_legs=("0.2,1.3 -0.4,2.1 -1.2,2.35", "2.1,1.9 2.6,2.7 3.35,3"),
    ),
    "on its back": Body(
        smooth(_SITTING),
        chest=(0.0, 1.80, 0.72, 1.15),
        flanks=["-1,1.2 -1.2,2.8", "1,1.2 1.2,2.8"],
        tail="0.2,3.1 0.5,3.7 1,4",
        near_legs=(
            *("-0.5,1.1 -1.15,1.15 -1.25,0.72", "0.5,1.1 1.15,1.15 1.25,0.72"),
            *("-0.8,2.6 -1.45,2.9 -1.7,3.45", "0.8,2.6 1.45,2.9 1.7,3.45"),
        ),
    ),
}


def draw_pet(pen: Pen, look: Look, photo: Photo, draws: Draws) -> None:
    """Draw the pet that `photo` describes, its head at the pen's frame; `draws` are at least 60 uniform numbers."""
    shape = BODIES["sitting" if photo.pose == "on its side" else photo.pose]
    body_turn, head_turn = _turns(photo.pose, 1.0 if pen.frame.mirror else -1.0, draws[40])
    body = replace(pen, frame=replace(pen.frame, angle=body_turn))
    head = replace(pen, frame=replace(pen.frame, angle=photo.tilt + head_turn, mirror=False))
    if photo.pose != "portrait":
        _shadow(body, body.frame(shape.outline), 0.9 if photo.pose == "leaping" else 0.0)
    _body(body, look, photo, shape, draws)
    if photo.accessory and photo.accessory != "hat":
        _neckwear(body.labelled(ACCESSORY), photo.accessory, draws)
    draw_head(head, look, photo.eyes, photo.tongue, draws)
    if photo.accessory == "hat":
        _hat(head.labelled(ACCESSORY), look.species, draws)


def _turns(pose: str, side: float, draw: float) -> tuple[float, float]:
    """Turns of the body and of the head (in addition to its tilt), degrees."""
    if pose == "on its side":
        angle = side * (72.0 + 36.0 * draw)
        return angle, 0.8 * angle
    if pose == "on its back":
        return 180.0 + 44.0 * (draw - 0.5), 180.0
    if pose == "leaping":
        angle = side * (8.0 + 22.0 * draw)
        return angle, angle
    return 0.0, 0.0


def _shadow(pen: Pen, outline: Points, drop: float) -> None:
    scale = pen.frame.scale
    left, right = outline[:, 0].min(), outline[:, 0].max()
    low = outline[:, 1].max() + drop * scale
    oval = ellipse((left + right) / 2 + 0.12 * scale, low - 0.02 * scale, (right - left) * 0.55, 0.26 * scale)
    pen.canvas.paint(oval, SHADOW, pen.label, alpha=0.42, soft=0.28 * scale)


def _body(pen: Pen, look: Look, photo: Photo, shape: Body, draws: Draws) -> None:
    outline = shaggy(shape.outline, look.fluff, 0.20, draws[:37])
    if shape.tail:
        _tail(pen, look, as_points(shape.tail), draws)
    for leg in shape.far_legs:
        _rimmed(pen, look, ribbon(leg, 0.30, 0.21), mix(look.base, BLACK_INK, 0.22))
    pen.paint(outline * [1.02, 1.0], look.ink, alpha=0.5, soft=0.09)
    pen.paint(outline, look.base, light=0.24, edge=0.24, fur=0.04)
    inside = pen.canvas.mask(pen.frame(outline))
    _coat(pen, look, shape, inside, draws)
    flank = look.mark if look.pattern == "saddle" and len(shape.thighs) == 1 else look.base
    for thigh in shape.thighs:
        points = smooth(ellipse(*thigh, steps=10))
        pen.paint(points, flank, soft=0.10, light=0.34, edge=0.26, fur=0.035, alpha=0.85)
    if photo.eyes != "turned away":
        half = look.pattern in ("points", "muzzle", "spots")
        pale = mix(look.base, look.second, 0.5) if half else look.second
        chest = shaggy(ellipse(*shape.chest), 1.0, 0.12, draws[3:30])
        pen.paint(chest, pale, soft=0.13, clip=inside, light=0.2, fur=0.05)
    for leg in shape.near_legs:
        # Soft, so that the leg merges with the body.
        pen.paint(ribbon(leg, 0.36, 0.27), look.ink, alpha=0.30, soft=0.13)
        pen.paint(ribbon(leg, 0.33, 0.26), look.base, alpha=0.9, soft=0.10, edge=0.18, fur=0.03)
    for leg in (*shape.far_legs, *shape.near_legs):
        _paw(pen, look, *as_points(leg)[-1].tolist(), pads=photo.pose in ("on its back", "leaping"))


def _rimmed(pen: Pen, look: Look, points: Points, colour: Colour, rim: float = 0.45) -> None:
    pen.paint(points, look.ink, alpha=rim, soft=0.08)
    pen.paint(points, colour, light=0.18, edge=0.20, fur=0.035)


def _tail(pen: Pen, look: Look, line: Points, draws: Draws) -> None:
    if look.species == "cat":
        band = ribbon(line, 0.17 * 1.1, 0.17 * 0.8)
    else:  # dogs carry shorter, thicker tails
        band = ribbon(line[0] + (line - line[0]) * 0.72, 0.20 * 1.1, 0.20 * 0.6)
    colour = look.mark if look.pattern in ("points", "saddle") else look.base
    _rimmed(pen, look, shaggy(band, look.fluff, 0.2, draws[:23]), colour)


def _paw(pen: Pen, look: Look, x: float, y: float, *, pads: bool) -> None:
    white = look.pattern in ("tuxedo", "blaze", "mask", "patches")
    if white or (look.pattern == "saddle" and look.ears == "floppy"):
        colour = look.second
    else:
        colour = look.mark if look.pattern == "points" else look.base
    _rimmed(pen, look, ellipse(x, y, 0.33, 0.23), colour, 0.35)
    if pads:
        pen.paint(ellipse(x, y + 0.02, 0.13, 0.09), (214, 168, 158))
        return
    for dx in (-0.11, 0.11):
        toe = [(x + dx, y + 0.04), (x + dx, y + 0.18)]
        pen.line(toe, max(1.0, 0.045 * pen.frame.scale), look.ink, alpha=0.55)


def _coat(pen: Pen, look: Look, shape: Body, inside: Mask, draws: Draws) -> None:
    def patch(points: Points, colour: Colour, soft: float) -> None:
        pen.paint(points, colour, soft=soft, clip=inside, light=0.15, fur=0.04, alpha=0.95)

    upright = len(shape.flanks) == 2
    if look.pattern == "tabby":
        for start, end in map(as_points, shape.flanks):
            for k in range(5):
                x, y = start + (end - start) * (k + 0.2 + 0.5 * draws[k]) / 5
                stripe, width = [(x, y - 0.3), (x + 0.1, y + 0.35), (x + 0.02, y + 0.85)], 0.13
                if upright:  # stripes wrap in from both flanks
                    inward = -np.sign(x) * 0.62
                    stripe, width = [(x * 1.25, y - 0.05), (x + inward * 0.5, y + 0.1), (x + inward, y + 0.02)], 0.12
                patch(ribbon(stripe, width, 0.03), look.mark, 0.04)
    elif look.pattern == "saddle":
        for start, end in map(as_points, shape.flanks):
            x, y = (start + end) / 2
            along = np.hypot(*(end - start)) / 2
            patch(ellipse(x, y, 0.5, along) if upright else ellipse(x, y, along, 0.8), look.mark, 0.22)
    elif look.pattern in ("spots", "patches"):
        low, high = shape.outline.min(axis=0), np.minimum(shape.outline.max(axis=0), 4.0)
        count, size = (16, 0.17) if look.pattern == "spots" else (5, 0.55)
        across, down = np.resize(draws[5:], count), np.resize(draws[22:47], count)
        for k in range(count):
            x = low[0] + (high[0] - low[0]) * ((k * 0.618 + 0.4 * across[k]) % 1.0)
            y = low[1] + (high[1] - low[1]) * ((k + down[k]) / count)
            spot = smooth(ellipse(x, y, size * (0.6 + 0.6 * across[k]), size * (0.5 + 0.5 * down[k]), steps=9))
            colour = look.mark if look.pattern == "spots" or k % 2 else mix(look.mark, BLACK_INK, 0.72)
            patch(spot, colour, 0.05)


def _neckwear(pen: Pen, kind: str, draws: Draws) -> None:
    colours: tuple[Colour, ...] = ((84, 196, 206), (52, 120, 190), (60, 150, 104), (236, 176, 56), (140, 84, 168))
    colour = colours[int(draws[35] * len(colours))]
    neck = "-0.7,0.84 -0.38,1.14 0,1.22 0.38,1.14 0.7,0.84"
    pen.paint(ribbon(neck, 0.14, 0.14), colour, light=0.3)
    if kind == "collar":
        pen.paint(ellipse(0, 1.46, 0.22, 0.22), (240, 200, 92), light=0.5, edge=0.2)
    elif kind == "bow tie":
        for side in SIDES:
            wing = [(side * 0.02, 1.2), (side * 0.52, 0.94), (side * 0.58, 1.24), (side * 0.52, 1.5)]
            pen.paint(smooth(wing, steps=4), colour, light=0.35, edge=0.15)
        pen.paint(ellipse(0, 1.2, 0.13, 0.14), mix(colour, WHITE, 0.25))
    else:
        pen.paint(mirrored("0,0.98 0.74,0.84 0.5,1.34 0,1.86"), colour, light=0.3)
        for x, y in ((-0.3, 1.2), (0.3, 1.2), (0, 1.5), (0, 1.16)):
            pen.paint(ellipse(x, y, 0.07, 0.07), (250, 246, 240))


def _hat(pen: Pen, species: str, draws: Draws) -> None:
    colours: tuple[Colour, ...] = ((134, 108, 200), (72, 130, 202), (250, 190, 70), (122, 188, 132))
    colour = colours[int(draws[36] * len(colours))]
    foot = -0.66 if species == "cat" else -0.74
    cone = [(-0.42, foot), (0.0, foot + 0.10), (0.42, foot), (0.06, foot - 0.98), (-0.06, foot - 0.98)]
    pen.paint(cone, colour, light=0.35, edge=0.1)
    for y, half in ((-0.25, 0.31), (-0.52, 0.20)):
        band = [(-half, foot + y), (0, foot + y + 0.07), (half, foot + y)]
        pen.paint(ribbon(band, 0.05, 0.05), (255, 246, 228))
    pen.paint(ellipse(0, foot - 1.0, 0.15, 0.15), (255, 250, 240), edge=0.2)
