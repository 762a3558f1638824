"""Heads of cats and dogs for the sample shelter: ears, patterns, eyes, muzzle, tongue, whiskers.

Drawn by `pawpularity sample --photos 600 --size 160 --seed 0 --twins 5`. Coordinates are local to the head: its half
width is 1, x grows to the right, y downwards, the origin lies between the cheeks. "Left" is the head's own x < 0: the
left of the picture when the head is upright.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pawpularity.sample.canvas import Canvas, Colour, Frame, Points, ellipse, mirrored, mix, ribbon, smooth
from pawpularity.sample.coats import BLACK_INK, PINK, Look

Draws = npt.NDArray[np.float64]

CAT_HEAD = mirrored(
    [(0, -0.80), (0.45, -0.78), (0.80, -0.48), (0.98, 0.02), (1.00, 0.36), (0.74, 0.68), (0.36, 0.84), (0, 0.88)]
)
DOG_HEAD = mirrored(
    [(0, -0.90), (0.46, -0.86), (0.80, -0.52), (0.90, -0.02), (0.88, 0.40), (0.66, 0.78), (0.34, 1.00), (0, 1.04)]
)
EARS: dict[str, tuple[tuple[float, float], ...]] = {
    "cat": ((0.16, -0.62), (0.40, -1.06), (0.72, -1.50), (0.84, -1.44), (0.98, -0.86), (0.92, -0.18)),
    "pointed": ((0.18, -0.70), (0.36, -1.20), (0.62, -1.66), (0.74, -1.60), (0.90, -1.02), (0.82, -0.34)),
    "floppy": ((0.46, -0.84), (0.86, -0.86), (1.18, -0.44), (1.30, 0.24), (1.16, 0.74), (0.90, 0.66), (0.74, 0.0)),
    "folded": ((0.30, -0.82), (0.62, -1.16), (0.98, -0.98), (1.20, -0.46), (1.10, -0.16), (0.84, -0.34)),
    "curly": ((0.48, -0.80), (0.96, -0.82), (1.30, -0.36), (1.40, 0.30), (1.20, 0.80), (0.86, 0.72), (0.70, 0.0)),
}


@dataclass(frozen=True, slots=True)
class Labels:
    """Numbers a pet's parts get in the label map."""

    body: int
    left_eye: int
    right_eye: int
    tongue: int
    accessory: int


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


def draw_head(canvas: Canvas, look: Look, frame: Frame, eyes: str, tongue: bool, labels: Labels, draws: Draws) -> None:
    """Draw a head. `eyes` is one of the kinds of `Photo.eyes`; `draws` are at least 40 uniform numbers."""
    cat = look.species == "cat"
    outline = shaggy(smooth(CAT_HEAD if cat else DOG_HEAD), look.fluff, 0.15, draws[:31])
    ink = mix(look.base, BLACK_INK, 0.75)
    hanging = look.ears in ("floppy", "curly", "folded")
    away = eyes == "turned away"
    if not hanging:
        _ears(canvas, look, frame, labels.body, away, draws)
    # A soft dark rim parts the head from the body behind it.
    canvas.paint(frame(outline * 1.03), ink, labels.body, alpha=0.55, soft=0.09 * frame.scale)
    canvas.paint(frame(outline), look.base, labels.body, light=0.20, edge=0.20, fur=0.035)
    head = canvas.whole(frame(outline))
    _pattern(canvas, look, frame, labels.body, head, away, draws)
    if hanging:
        _ears(canvas, look, frame, labels.body, away, draws)
    if away:
        return
    _muzzle(canvas, look, frame, labels.body, tongue, labels.tongue)
    _eyes(canvas, look, frame, eyes, labels)
    if cat:
        for side in (-1.0, 1.0):
            for drop in (-0.10, 0.04, 0.18):
                hair = [(side * 0.42, 0.40 + drop * 0.5), (side * 0.9, 0.36 + drop), (side * 1.36, 0.40 + 2.0 * drop)]
                canvas.line(frame(hair), max(0.9, 0.028 * frame.scale), (250, 248, 244), labels.body, alpha=0.75)


def _ears(canvas: Canvas, look: Look, frame: Frame, label: int, away: bool, draws: Draws) -> None:
    shape = np.array(EARS[look.ears])
    shape = shape * [1.0, 1.0 + 0.10 * (draws[31] - 0.5)]
    dark = look.pattern in ("points", "muzzle", "saddle", "spots", "mask")
    for side in (-1.0, 1.0):
        colour = look.mark if dark or (look.pattern == "patches" and side > 0) else mix(look.base, look.mark, 0.35)
        if look.pattern in ("plain", "blaze", "tuxedo", "tabby"):
            colour = mix(look.base, BLACK_INK, 0.14 if look.ears in ("floppy", "curly") else 0.04)
        outline = shaggy(smooth(shape) * [side, 1.0], look.fluff, 0.16, draws[:17])
        canvas.paint(frame(outline), mix(look.base, BLACK_INK, 0.75), label, alpha=0.45, soft=0.07 * frame.scale)
        canvas.paint(frame(outline), colour, label, light=0.22, edge=0.22, fur=0.035)
        if look.ears in ("cat", "pointed") and not away:
            centre = shape.mean(axis=0) + np.array([-0.01, 0.06])
            inner = smooth(centre + (shape - centre) * [0.58, 0.66]) * [side, 1.0]
            canvas.paint(frame(inner), mix(PINK, look.base, 0.25), label, light=0.2, edge=0.35, soft=0.04 * frame.scale)


def _pattern(
    canvas: Canvas, look: Look, frame: Frame, label: int, head: npt.NDArray[np.uint8], away: bool, draws: Draws
) -> None:
    def patch(points: Points, colour: Colour, soft: float = 0.06, alpha: float = 1.0) -> None:
        canvas.paint(
            frame(points), colour, label, alpha=alpha, soft=soft * frame.scale, clip=head, light=0.12, fur=0.03
        )

    if look.pattern == "tabby":
        for x in (-0.34, -0.12, 0.12, 0.34):
            patch(ribbon([(x * 0.6, -0.95), (x, -0.66), (x * 1.25, -0.38)], 0.085, 0.03), look.mark, 0.03)
        for side in (-1.0, 1.0):
            for y in (0.08, 0.34):
                patch(
                    ribbon([(side * 1.1, y), (side * 0.82, y + 0.04), (side * 0.6, y - 0.02)], 0.08, 0.03),
                    look.mark,
                    0.03,
                )
    elif look.pattern == "points" and not away:
        patch(ellipse(0, 0.25, 0.66, 0.62), look.mark, 0.34, 0.85)
    elif look.pattern == "muzzle" and not away:
        patch(ellipse(0, 0.52, 0.56, 0.46), look.mark, 0.22, 0.9)
    elif look.pattern == "patches":
        patch(smooth([(0.02, -1.0), (0.1, -0.4), (0.3, 0.12), (0.8, 0.2), (1.2, -0.3), (0.9, -1.0)]), look.mark)
        patch(
            smooth([(-0.25, -1.0), (-0.42, -0.5), (-0.9, -0.3), (-1.2, -0.9), (-0.6, -1.2)]),
            mix(look.mark, BLACK_INK, 0.72),
        )
    elif look.pattern == "spots":
        for k in range(7):
            turn = 2 * math.pi * (k + draws[k]) / 7
            size = 0.08 + 0.09 * draws[k + 8]
            patch(ellipse(0.72 * math.cos(turn), 0.75 * math.sin(turn) - 0.1, size, size * 0.85), look.mark, 0.02)
    elif look.pattern == "saddle":
        patch(
            smooth([(-0.75, -0.9), (-0.32, -0.38), (0, -0.56), (0.32, -0.38), (0.75, -0.9), (0, -1.3)]),
            look.mark,
            0.14,
            0.75,
        )
    if away:
        return
    if look.pattern in ("blaze", "tuxedo"):
        top = -0.98 if look.pattern == "blaze" else -0.30
        patch(
            mirrored([(0, top), (0.13, top + 0.1), (0.14, -0.05), (0.5, 0.3), (0.55, 0.8), (0, 1.2)]), look.second, 0.05
        )
    elif look.pattern == "mask":
        shape = [(0, -0.50), (0.14, -0.62), (0.44, -0.56), (0.66, -0.2), (0.86, 0.3), (0.7, 1.1), (0, 1.3)]
        patch(smooth(mirrored([(0, -0.30), *shape[1:]])), look.second, 0.07)


def _muzzle(canvas: Canvas, look: Look, frame: Frame, label: int, tongue: bool, tongue_label: int) -> None:
    cat = look.species == "cat"
    scale = frame.scale
    light = mix(look.mark, look.second, 0.25) if look.pattern in ("muzzle", "points") else look.second
    nose_y, mouth_y, chin = (0.22, 0.40, 0.62) if cat else (0.24, 0.50, 0.74)
    if cat:
        canvas.paint(frame(ellipse(0, 0.62, 0.26, 0.20)), light, label, soft=0.05 * scale, light=0.15)
        for side in (-1.0, 1.0):
            canvas.paint(
                frame(ellipse(side * 0.21, 0.46, 0.27, 0.21)), light, label, soft=0.05 * scale, light=0.2, edge=0.12
            )
    else:
        bulge = smooth(mirrored([(0, 0.02), (0.26, 0.10), (0.46, 0.40), (0.46, 0.66), (0.26, 0.86), (0, 0.90)]))
        canvas.paint(frame(bulge), light, label, soft=0.07 * scale, light=0.24, edge=0.16, fur=0.03)
    ink = mix(BLACK_INK, look.base, 0.15)
    if look.pattern in ("muzzle", "points"):
        ink = BLACK_INK
    width = max(1.6, 0.055 * scale)
    canvas.line(frame([(0, nose_y), (0, mouth_y)]), width, ink, label, alpha=0.8)
    for side in (-1.0, 1.0):
        curl = [
            (0, mouth_y),
            (side * 0.14, mouth_y + 0.11),
            (side * 0.28, mouth_y + 0.07),
            (side * 0.36, mouth_y - 0.03),
        ]
        canvas.line(frame(curl), width, ink, label, alpha=0.8)
    if tongue:
        # Mouth and tongue are one part: both are there, or neither is.
        length = 1.28 if cat else 1.50
        mouth = smooth(
            mirrored([(0, mouth_y + 0.02), (0.22, mouth_y + 0.08), (0.27, mouth_y + 0.22), (0, chin + 0.22)])
        )
        canvas.paint(frame(mouth), (104, 36, 46), tongue_label, light=0.3)
        half = [
            (0, mouth_y + 0.14),
            (0.17, mouth_y + 0.16),
            (0.26, chin + 0.14),
            (0.25, length - 0.22),
            (0.13, length - 0.04),
        ]
        flap = smooth(mirrored([*half, (0, length)]))
        canvas.paint(frame(flap), (240, 98, 122), tongue_label, light=0.28, edge=0.22)
        canvas.line(frame([(0, chin), (0, length - 0.28)]), width, (196, 62, 92), tongue_label, alpha=0.8)
        canvas.paint(frame(ellipse(-0.10, length - 0.34, 0.05, 0.12)), (255, 196, 206), tongue_label, alpha=0.7)
    if cat:
        nose = smooth(mirrored([(0, nose_y - 0.10), (0.13, nose_y - 0.10), (0.08, nose_y + 0.03), (0, nose_y + 0.09)]))
    else:
        nose = smooth(mirrored([(0, nose_y - 0.16), (0.2, nose_y - 0.12), (0.2, nose_y + 0.03), (0, nose_y + 0.15)]))
    canvas.paint(frame(nose), look.nose, label, light=0.35, edge=0.15)
    canvas.paint(frame(ellipse(-0.06, nose_y - 0.08, 0.055, 0.028)), (255, 252, 250), label, alpha=0.75)


def _eyes(canvas: Canvas, look: Look, frame: Frame, eyes: str, labels: Labels) -> None:
    cat = look.species == "cat"
    x, y, rx, ry = (0.43, -0.12, 0.29, 0.27) if cat else (0.40, -0.14, 0.255, 0.26)
    for side, label, shut in (
        (-1.0, labels.left_eye, eyes in ("left shut", "shut")),
        (1.0, labels.right_eye, eyes in ("right shut", "shut")),
    ):
        centre = side * x
        if shut:
            # A drowsy lid, kept within the open eye's outline, so that a twin differs nowhere else.
            lid = [(centre + u * rx, y + v * ry) for u, v in ((-0.78, 0.0), (-0.35, 0.42), (0.35, 0.42), (0.78, 0.0))]
            dark = BLACK_INK if sum(look.base) > 240 and look.pattern != "points" else (206.0, 196.0, 186.0)
            canvas.line(frame(lid), 0.10 * frame.scale, dark, labels.body)
            continue

        def oval(share: float, dx: float, dy: float, at: float = centre, turn: float = side) -> Points:
            return frame(ellipse(at + dx * rx, y + dy * ry, rx * share, ry * share, angle=8.0 * turn if cat else 0.0))

        canvas.paint(oval(1.0, 0, 0), BLACK_INK, label)
        canvas.paint(oval(0.86, 0, 0), mix((250, 248, 242), look.iris, 0.85 if cat else 0.1), label)
        if not cat:
            canvas.paint(oval(0.80, -0.02 * side, 0.02), look.iris, label)
        # Lit from above, an iris glows at its foot.
        canvas.paint(
            oval(0.56, 0, 0.26), mix(look.iris, (255, 246, 206), 0.5), label, soft=0.05 * frame.scale, alpha=0.8
        )
        if cat:
            canvas.paint(frame(ellipse(centre, y, 0.36 * rx, 0.76 * ry)), (22, 18, 22), label)
        else:
            canvas.paint(oval(0.50, 0, 0), (22, 18, 22), label)
        canvas.paint(oval(0.26, -0.28, -0.36), (255, 255, 255), label)
        canvas.paint(oval(0.12, 0.34, 0.36), (255, 255, 255), label, alpha=0.85)
