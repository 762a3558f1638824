"""Heads of cats and dogs: ears, pattern, muzzle, tongue, eyes, whiskers.

Coordinates are local to the head: its half width is 1, x grows to the right, y downwards, the origin lies between the
cheeks. "Left" means x < 0 in these coordinates: the left of the picture when the head is upright.
"""

import math
from typing import NamedTuple

import numpy as np

from pawpularity.sample.canvas import WHITE, Colour, Draws, Mask, Pen, mix
from pawpularity.sample.coats import BLACK_INK, PINK, Look
from pawpularity.sample.labels import LEFT_EYE, RIGHT_EYE, TONGUE
from pawpularity.sample.shapes import Line, Points, as_points, ellipse, mirrored, ribbon, smooth

SIDES = (-1.0, 1.0)
PUPIL: Colour = (22.0, 18.0, 22.0)
HEADS = {
    "cat": mirrored("0,-0.8 0.45,-0.78 0.8,-0.48 0.98,0.02 1,0.36 0.74,0.68 0.36,0.84 0,0.88"),
    "dog": mirrored("0,-0.9 0.46,-0.86 0.8,-0.52 0.9,-0.02 0.88,0.4 0.66,0.78 0.34,1 0,1.04"),
}
EARS = {
    "cat": "0.16,-0.62 0.4,-1.06 0.72,-1.5 0.84,-1.44 0.98,-0.86 0.92,-0.18",
    "pointed": "0.18,-0.7 0.36,-1.2 0.62,-1.66 0.74,-1.6 0.9,-1.02 0.82,-0.34",
    "floppy": "0.46,-0.84 0.86,-0.86 1.18,-0.44 1.3,0.24 1.16,0.74 0.9,0.66 0.74,0",
    "folded": "0.3,-0.82 0.62,-1.16 0.98,-0.98 1.2,-0.46 1.1,-0.16 0.84,-0.34",
    "curly": "0.48,-0.8 0.96,-0.82 1.3,-0.36 1.4,0.3 1.2,0.8 0.86,0.72 0.7,0",
}


class Patch(NamedTuple):
    """A marking of the head. One in `front` is not visible when the head is turned away."""

    points: Points
    soft: float
    alpha: float = 1.0
    colour: str = "mark"
    front: bool = False


def _stripe(line: Line, width: float) -> Patch:
    return Patch(ribbon(line, width, 0.03), 0.03)


def _white(points: Points, soft: float) -> Patch:
    return Patch(points, soft, colour="second", front=True)


MARKINGS = {
    "tabby": [
        *(_stripe([(x * 0.6, -0.95), (x, -0.66), (x * 1.25, -0.38)], 0.085) for x in (-0.34, -0.12, 0.12, 0.34)),
        *(_stripe(line, 0.08) for line in ("-1.1,0.08 -0.82,0.12 -0.6,0.06", "-1.1,0.34 -0.82,0.38 -0.6,0.32")),
        *(_stripe(line, 0.08) for line in ("1.1,0.08 0.82,0.12 0.6,0.06", "1.1,0.34 0.82,0.38 0.6,0.32")),
    ],
    "points": [Patch(ellipse(0, 0.25, 0.66, 0.62), 0.34, 0.85, front=True)],
    "muzzle": [Patch(ellipse(0, 0.52, 0.56, 0.46), 0.22, 0.9, front=True)],
    "patches": [
        Patch(smooth("0.02,-1 0.1,-0.4 0.3,0.12 0.8,0.2 1.2,-0.3 0.9,-1"), 0.06),
        Patch(smooth("-0.25,-1 -0.42,-0.5 -0.9,-0.3 -1.2,-0.9 -0.6,-1.2"), 0.06, colour="black"),
    ],
    "saddle": [Patch(smooth("-0.75,-0.9 -0.32,-0.38 0,-0.56 0.32,-0.38 0.75,-0.9 0,-1.3"), 0.14, 0.75)],
    "blaze": [_white(mirrored("0,-0.98 0.13,-0.88 0.14,-0.05 0.5,0.3 0.55,0.8 0,1.2"), 0.05)],
    "tuxedo": [_white(mirrored("0,-0.3 0.13,-0.2 0.14,-0.05 0.5,0.3 0.55,0.8 0,1.2"), 0.05)],
    "mask": [_white(smooth(mirrored("0,-0.3 0.14,-0.62 0.44,-0.56 0.66,-0.2 0.86,0.3 0.7,1.1 0,1.3")), 0.07)],
}


def shaggy(outline: Points, fluff: float, size: float, draws: Draws) -> Points:
    """The outline with tufts of fur: every second point pushed out, by about `size` (units) times `fluff`."""
    if fluff < 0.2:
        return outline
    step = np.roll(outline, -1, axis=0) - np.roll(outline, 1, axis=0)
    length = np.maximum(np.hypot(step[:, 0], step[:, 1]), 1e-9)
    normal = np.stack([step[:, 1], -step[:, 0]], axis=1) / length[:, None]
    push = np.resize(draws, len(outline)) * (np.arange(len(outline)) % 2) * fluff * size
    tufted: Points = outline + push[:, None] * normal
    return tufted


def draw_head(pen: Pen, look: Look, eyes: str, tongue: bool, draws: Draws) -> None:
    """Draw a head. `eyes` is one of the kinds of `Photo.eyes`; `draws` are at least 40 uniform numbers."""
    outline = shaggy(smooth(HEADS[look.species]), look.fluff, 0.15, draws[:31])
    hanging = look.ears in ("floppy", "curly", "folded")
    away = eyes == "turned away"
    if not hanging:
        _ears(pen, look, away, draws)
    # A soft dark rim parts the head from the body behind it.
    pen.paint(outline * 1.03, look.ink, alpha=0.55, soft=0.09)
    pen.paint(outline, look.base, light=0.20, edge=0.20, fur=0.035)
    _markings(pen, look, pen.canvas.mask(pen.frame(outline)), away, draws)
    if hanging:
        _ears(pen, look, away, draws)
    if away:
        return
    _muzzle(pen, look, tongue)
    for side, label, shut in ((-1.0, LEFT_EYE, "left shut"), (1.0, RIGHT_EYE, "right shut")):
        if eyes in (shut, "shut"):
            _lid(pen, look, side)
        else:
            _eye(pen.labelled(label), look, side)
    if look.species == "cat":
        for side in SIDES:
            for drop in (-0.10, 0.04, 0.18):
                hair = [(side * 0.42, 0.40 + drop * 0.5), (side * 0.9, 0.36 + drop), (side * 1.36, 0.40 + 2.0 * drop)]
                pen.line(hair, max(0.9, 0.028 * pen.frame.scale), (250, 248, 244), alpha=0.75)


def _ears(pen: Pen, look: Look, away: bool, draws: Draws) -> None:
    shape = as_points(EARS[look.ears]) * [1.0, 1.0 + 0.10 * (draws[31] - 0.5)]
    for side in SIDES:
        if look.pattern in ("plain", "blaze", "tuxedo", "tabby"):
            colour = mix(look.base, BLACK_INK, 0.14 if look.ears in ("floppy", "curly") else 0.04)
        elif look.pattern == "patches" and side < 0:
            colour = mix(look.base, look.mark, 0.35)
        else:
            colour = look.mark
        outline = shaggy(smooth(shape) * [side, 1.0], look.fluff, 0.16, draws[:17])
        pen.paint(outline, look.ink, alpha=0.45, soft=0.07)
        pen.paint(outline, colour, light=0.22, edge=0.22, fur=0.035)
        if look.ears in ("cat", "pointed") and not away:
            centre = shape.mean(axis=0) + np.array([-0.01, 0.06])
            inner = smooth(centre + (shape - centre) * [0.58, 0.66]) * [side, 1.0]
            pen.paint(inner, mix(PINK, look.base, 0.25), light=0.2, edge=0.35, soft=0.04)


def _markings(pen: Pen, look: Look, head: Mask, away: bool, draws: Draws) -> None:
    patches = MARKINGS.get(look.pattern, [])
    if look.pattern == "spots":
        turns = [2 * math.pi * (k + draws[k]) / 7 for k in range(7)]
        sizes = [0.08 + 0.09 * draws[k + 8] for k in range(7)]
        patches = [
            Patch(ellipse(0.72 * math.cos(turn), 0.75 * math.sin(turn) - 0.1, size, size * 0.85), 0.02)
            for turn, size in zip(turns, sizes, strict=True)
        ]
    colours = {"mark": look.mark, "second": look.second, "black": mix(look.mark, BLACK_INK, 0.72)}
    for patch in patches:
        if not (patch.front and away):
            colour = colours[patch.colour]
            pen.paint(patch.points, colour, clip=head, soft=patch.soft, alpha=patch.alpha, light=0.12, fur=0.03)


def _muzzle(pen: Pen, look: Look, tongue: bool) -> None:
    cat, dark = look.species == "cat", look.pattern in ("muzzle", "points")
    light = mix(look.mark, look.second, 0.25) if dark else look.second
    if cat:
        nose_y, mouth_y = 0.22, 0.40
        nose = [(0, nose_y - 0.10), (0.13, nose_y - 0.10), (0.08, nose_y + 0.03), (0, nose_y + 0.09)]
        pen.paint(ellipse(0, 0.62, 0.26, 0.20), light, soft=0.05, light=0.15)
        for side in SIDES:
            pen.paint(ellipse(side * 0.21, 0.46, 0.27, 0.21), light, soft=0.05, light=0.2, edge=0.12)
    else:
        nose_y, mouth_y = 0.24, 0.50
        nose = [(0, nose_y - 0.16), (0.2, nose_y - 0.12), (0.2, nose_y + 0.03), (0, nose_y + 0.15)]
        bulge = "0,0.02 0.26,0.1 0.46,0.4 0.46,0.66 0.26,0.86 0,0.9"
        pen.paint(smooth(mirrored(bulge)), light, soft=0.07, light=0.24, edge=0.16, fur=0.03)
    ink = BLACK_INK if dark else mix(BLACK_INK, look.base, 0.15)
    width = max(1.6, 0.055 * pen.frame.scale)
    pen.line([(0, nose_y), (0, mouth_y)], width, ink, alpha=0.8)
    for side in SIDES:
        curl = [(0.0, 0.0), (side * 0.14, 0.11), (side * 0.28, 0.07), (side * 0.36, -0.03)]
        pen.line([(x, mouth_y + y) for x, y in curl], width, ink, alpha=0.8)
    if tongue:
        _tongue(pen.labelled(TONGUE), mouth_y, 0.62 if cat else 0.74, 1.28 if cat else 1.50, width)
    pen.paint(smooth(mirrored(nose)), look.nose, light=0.35, edge=0.15)
    pen.paint(ellipse(-0.06, nose_y - 0.08, 0.055, 0.028), (255, 252, 250), alpha=0.75)


def _tongue(pen: Pen, mouth: float, chin: float, length: float, width: float) -> None:
    """Draw mouth and tongue, which are one part: a photo has both or neither."""
    hole = [(0, mouth + 0.02), (0.22, mouth + 0.08), (0.27, mouth + 0.22), (0, chin + 0.22)]
    pen.paint(smooth(mirrored(hole)), (104, 36, 46), light=0.3)
    flap = [(0, mouth + 0.14), (0.17, mouth + 0.16), (0.26, chin + 0.14), (0.25, length - 0.22), (0.13, length - 0.04)]
    pen.paint(smooth(mirrored([*flap, (0, length)])), (240, 98, 122), light=0.28, edge=0.22)
    pen.line([(0, chin), (0, length - 0.28)], width, (196, 62, 92), alpha=0.8)
    pen.paint(ellipse(-0.10, length - 0.34, 0.05, 0.12), (255, 196, 206), alpha=0.7)


def _eye_place(look: Look, side: float) -> tuple[float, float, float, float]:
    """Centre and half axes of an eye."""
    return (side * 0.43, -0.12, 0.29, 0.27) if look.species == "cat" else (side * 0.40, -0.14, 0.255, 0.26)


def _lid(pen: Pen, look: Look, side: float) -> None:
    """Draw a shut lid within the open eye's outline, so that a counterfactual pair differs nowhere else."""
    x, y, rx, ry = _eye_place(look, side)
    curve = [(x + u * rx, y + v * ry) for u, v in ((-0.78, 0.0), (-0.35, 0.42), (0.35, 0.42), (0.78, 0.0))]
    dark = sum(look.base) > 240 and look.pattern != "points"
    pen.line(curve, 0.10 * pen.frame.scale, BLACK_INK if dark else (206.0, 196.0, 186.0))


def _eye(pen: Pen, look: Look, side: float) -> None:
    cat = look.species == "cat"
    x, y, rx, ry = _eye_place(look, side)

    def oval(share: float, dx: float, dy: float, colour: Colour, soft: float = 0.0, alpha: float = 1.0) -> None:
        angle = 8.0 * side if cat else 0.0
        points = ellipse(x + dx * rx, y + dy * ry, rx * share, ry * share, angle)
        pen.paint(points, colour, soft=soft, alpha=alpha)

    oval(1.0, 0, 0, BLACK_INK)
    oval(0.86, 0, 0, mix((250, 248, 242), look.iris, 0.85 if cat else 0.1))
    if not cat:
        oval(0.80, -0.02 * side, 0.02, look.iris)
    # Light from above makes an iris bright at its lower edge.
    oval(0.56, 0, 0.26, mix(look.iris, (255, 246, 206), 0.5), soft=0.05, alpha=0.8)
    if cat:
        pen.paint(ellipse(x, y, 0.36 * rx, 0.76 * ry), PUPIL)
    else:
        oval(0.50, 0, 0, PUPIL)
    oval(0.26, -0.28, -0.36, WHITE)
    oval(0.12, 0.34, 0.36, WHITE, alpha=0.85)
