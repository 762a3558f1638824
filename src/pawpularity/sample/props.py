"""Things about the pets of the sample shelter: clutter, what hides them, hands, banners, frames.

Drawn by `pawpularity sample --photos 600 --size 160 --seed 0 --twins 5`. Positions and lengths are canvas pixels.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt

from pawpularity.sample.canvas import Canvas, Colour, Frame, ellipse, mirrored, mix, ribbon, smooth

Draws = npt.NDArray[np.float64]
# No red and no pink: those are for tongues.
BRIGHT: tuple[Colour, ...] = (
    *((112, 196, 232), (66, 132, 206), (248, 196, 60), (92, 176, 110), (162, 96, 186), (242, 140, 62), (60, 178, 190)),
)
CLUTTER_KINDS = 8
BANNER = 0.13


def clutter_places(
    left: float, width: float, height: float, size: float, count: int, face: tuple[float, float, float], draws: Draws
) -> list[tuple[float, float]]:
    """Where `count` (at most 4) objects of half size `size` stand: along the foot of the picture, away from the face.

    They keep within the `width` pixels from `left`, and above `height`.
    `face` is a disc (x, y, radius) that stays free. The place of an object does not depend on how many there are.
    """
    places: list[tuple[float, float]] = []
    first = int(draws[0] * 4)
    for k in range(count):
        slot = (first + (0, 2, 1, 3)[k]) % 4
        x = left + (0.12 + 0.253 * slot + 0.05 * (draws[1 + k] - 0.5)) * width
        y = height - size * (0.75 + 0.5 * draws[6 + k]) - (0.03 * height if k % 2 else 0.0)
        gap = math.hypot(x - face[0], y - face[1])
        need = face[2] + size
        if gap < need:  # pushed away from the face, and kept mostly within the picture
            along = (x - face[0]) / max(gap, 1e-6)
            x = face[0] + need * math.copysign(max(abs(along), 0.6), along)
            y = face[1] + need * max((y - face[1]) / max(gap, 1e-6), 0.75)
        places.append(
            (min(max(x, left + size * 0.6), left + width - size * 0.6), min(max(y, size), height - size * 0.45))
        )
    return places


def draw_clutter(canvas: Canvas, places: list[tuple[float, float]], size: float, label: int, draws: Draws) -> None:
    """Draw an object at each place; `draws` are at least 40 uniform numbers."""
    for k, (x, y) in enumerate(places):
        canvas.paint(
            ellipse(x + 0.1 * size, y + 0.86 * size, size, 0.3 * size), (30, 24, 34), label, alpha=0.4, soft=0.2 * size
        )
        kind = int(draws[12 + k] * CLUTTER_KINDS)
        colour = BRIGHT[int(draws[18 + k] * len(BRIGHT))]
        other = BRIGHT[int(draws[24 + k] * len(BRIGHT))]
        _object(canvas, kind, Frame(x, y, size, 16 * (draws[30 + k] - 0.5)), colour, other, label)


def _object(canvas: Canvas, kind: int, frame: Frame, colour: Colour, other: Colour, label: int) -> None:
    def shape(points: npt.NDArray[np.float64] | list[tuple[float, float]], fill: Colour, edge: float = 0.2) -> None:
        canvas.paint(frame(points), fill, label, light=0.4, edge=edge)

    dark, pale = mix(colour, (0, 0, 0), 0.35), mix(colour, (255, 255, 255), 0.7)
    if kind == 0:  # ball
        shape(ellipse(0, 0, 0.9, 0.9), colour, 0.3)
        shape(ribbon([(-0.84, -0.1), (0, 0.22), (0.84, -0.1)], 0.14, 0.14), pale, 0.0)
        shape(ellipse(-0.34, -0.42, 0.2, 0.14, -30), (255, 255, 255), 0.0)
    elif kind == 1:  # food bowl
        shape(smooth([(-0.8, -0.1), (0.8, -0.1), (1.0, 0.8), (0, 0.86), (-1.0, 0.8)], 4), colour)
        shape(ellipse(0, -0.1, 0.84, 0.24), dark, 0.0)
        shape(ellipse(0, -0.16, 0.66, 0.2), (146, 98, 62), 0.3)
        shape(ellipse(0, 0.4, 0.2, 0.18), pale, 0.0)
    elif kind == 2:  # ball of wool
        shape(ellipse(0, 0.05, 0.85, 0.85), colour, 0.3)
        for turn in (-0.5, 0.0, 0.5):
            shape(ribbon([(-0.6, -0.5 + turn), (0, -0.1 + turn), (0.62, 0.3 + turn)], 0.05, 0.05), dark, 0.0)
        shape(ribbon([(0.5, 0.75), (1.0, 0.86), (1.4, 0.7)], 0.06, 0.05), colour, 0.0)
    elif kind == 3:  # books
        for k, fill in enumerate((colour, other, pale)):
            y = 0.82 - 0.5 * k
            shape(
                [(-0.95 + 0.1 * k, y - 0.44), (0.85 - 0.06 * k, y - 0.44), (0.85 - 0.06 * k, y), (-0.95 + 0.1 * k, y)],
                fill,
                0.05,
            )
            shape(
                [(0.5, y - 0.36), (0.85 - 0.06 * k, y - 0.36), (0.85 - 0.06 * k, y - 0.1), (0.5, y - 0.1)],
                (250, 244, 230),
                0.0,
            )
    elif kind == 4:  # pot plant
        for lean in (-0.7, -0.25, 0.25, 0.7):
            shape(
                smooth([(0, 0.1), (lean * 0.4 - 0.22, -0.5), (lean, -1.15), (lean * 0.7 + 0.16, -0.4)], 5),
                (84, 150, 88),
            )
        shape([(-0.62, 0.0), (0.62, 0.0), (0.44, 0.86), (-0.44, 0.86)], (206, 116, 76), 0.1)
        shape([(-0.7, -0.08), (0.7, -0.08), (0.7, 0.16), (-0.7, 0.16)], (220, 134, 92), 0.0)
    elif kind == 5:  # trainer
        sole = smooth(
            [(-1.0, 0.2), (-0.95, -0.5), (-0.3, -0.5), (0.1, 0.0), (0.8, 0.2), (1.05, 0.6), (0, 0.72), (-1.0, 0.66)], 4
        )
        shape(sole, colour)
        shape(ribbon([(-0.98, 0.72), (0, 0.78), (1.04, 0.7)], 0.12, 0.12), (250, 248, 244), 0.0)
        for x in (-0.28, 0.0, 0.28):
            shape(ribbon([(x - 0.12, -0.06 + x * 0.5), (x + 0.16, -0.2 + x * 0.5)], 0.06, 0.06), (255, 255, 255), 0.0)
    elif kind == 6:  # bone
        for x, y in ((-0.8, -0.2), (-0.8, 0.24), (0.8, -0.2), (0.8, 0.24)):
            shape(ellipse(x, y + 0.3, 0.3, 0.28), (246, 234, 208), 0.15)
        shape(ribbon([(-0.8, 0.32), (0, 0.3), (0.8, 0.32)], 0.24, 0.24), (248, 238, 214), 0.1)
    else:  # carton
        shape([(-0.8, -0.5), (0.8, -0.5), (0.8, 0.84), (-0.8, 0.84)], (196, 152, 104), 0.12)
        shape([(-0.8, -0.5), (-1.1, -0.95), (-0.1, -0.8), (0.0, -0.5)], (214, 174, 126), 0.0)
        shape([(0.8, -0.5), (1.1, -0.95), (0.1, -0.8), (0.0, -0.5)], (206, 164, 116), 0.0)
        shape([(-0.16, -0.5), (0.16, -0.5), (0.16, 0.2), (-0.16, 0.2)], other, 0.0)


def draw_occlusion(canvas: Canvas, kind: str, face: tuple[float, float, float], draws: Draws) -> None:
    """Something before the pet, below or beside its face (a disc x, y, radius)."""
    w, h = canvas.width, canvas.height
    foot = max(0.80 * h, face[1] + face[2])
    if kind == "grass":
        for k in range(34):
            x = (k + draws[k % 30]) / 34 * w
            top = foot + (h - foot) * (0.1 + 0.7 * draws[(k * 7) % 30])
            lean = 0.05 * w * (draws[(k * 3) % 30] - 0.5)
            shade = mix((74, 128, 62), (150, 186, 92), float(draws[(k * 5) % 30]))
            canvas.paint(np.array([(x - 0.014 * w, h), (x + lean, top), (x + 0.014 * w, h)]), shade, 0, light=0.2)
    elif kind == "box":
        card = (190.0, 146.0, 98.0)
        canvas.paint(
            np.array([(0.02 * w, foot + 0.03 * h), (0.98 * w, foot + 0.03 * h), (w, h + 4), (0, h + 4)]),
            card,
            0,
            light=0.2,
        )
        canvas.paint(
            np.array(
                [(0, foot + 0.01 * h), (w, foot + 0.01 * h), (0.98 * w, foot + 0.06 * h), (0.02 * w, foot + 0.06 * h)]
            ),
            (216, 176, 128),
            0,
        )
        canvas.paint(
            np.array([(0.46 * w, foot + 0.06 * h), (0.54 * w, foot + 0.06 * h), (0.54 * w, h), (0.46 * w, h)]),
            (226, 196, 150),
            0,
            alpha=0.7,
        )
    elif kind == "blanket":
        colour = BRIGHT[int(draws[31] * len(BRIGHT))]
        edge = [
            (-0.1 * w, foot + 0.05 * h),
            (0.25 * w, foot),
            (0.5 * w, foot + 0.06 * h),
            (0.8 * w, foot + 0.01 * h),
            (1.1 * w, foot + 0.06 * h),
        ]
        line = smooth(edge, closed=False)
        canvas.paint(
            np.concatenate([line, [(1.1 * w, 1.1 * h), (-0.1 * w, 1.1 * h)]]),
            mix(mix(colour, (255, 255, 255), 0.25), (150, 146, 142), 0.45),
            0,
            light=0.3,
            fur=0.03,
        )
        canvas.paint(ribbon(edge, 0.015 * h, 0.015 * h), mix(colour, (255, 255, 255), 0.7), 0)
    else:
        for x in np.arange(0.06, 1.0, 0.125) * w:
            if abs(x - face[0]) > 0.96 * face[2]:
                canvas.paint(
                    np.array([(x - 0.011 * w, 0), (x + 0.011 * w, 0), (x + 0.011 * w, h), (x - 0.011 * w, h)]),
                    (96, 102, 112),
                    0,
                    light=0.6,
                )


def draw_human(canvas: Canvas, face: tuple[float, float, float], side: float, odd: bool, draws: Draws) -> None:
    """An arm reaching in from the left (`side` -1) or right (1), its hand beside the pet's chest, below its eyes.

    In an `odd` pose the tongue may hang sideways, so the hand keeps farther off.
    """
    w, h = canvas.width, canvas.height
    size = math.sqrt(w * h)
    hand_x = min(max(face[0] + side * ((1.2 if odd else 0.86) * face[2] + 0.06 * size), 0.10 * w), 0.90 * w)
    hand_y = min(face[1] + face[2] * (0.62 + 0.4 * draws[0]), 0.92 * h)
    out = (w + 0.1 * size) if side > 0 else -0.1 * size
    skin: Colour = ((242, 206, 178), (222, 172, 134), (176, 122, 86), (124, 82, 58))[int(draws[1] * 4)]
    sleeve = BRIGHT[int(draws[2] * len(BRIGHT))]
    start = (out, hand_y + 0.28 * size * (draws[3] - 0.2))
    elbow = ((out + hand_x) / 2, (start[1] + hand_y) / 2 + 0.02 * size)
    canvas.paint(ribbon([start, elbow, (hand_x, hand_y)], 0.062 * size, 0.046 * size), skin, 0, light=0.2, edge=0.15)
    cuff = (elbow[0] + (hand_x - elbow[0]) * 0.35, elbow[1] + (hand_y - elbow[1]) * 0.35)
    canvas.paint(
        ribbon([start, elbow, cuff], 0.085 * size, 0.072 * size),
        mix(sleeve, (120, 116, 116), 0.6),
        0,
        light=0.3,
        edge=0.2,
    )
    canvas.paint(ellipse(hand_x, hand_y, 0.062 * size, 0.054 * size), skin, 0, light=0.2, edge=0.12)
    for k in range(4):
        root = (hand_x - side * 0.02 * size, hand_y + (k - 1.5) * 0.026 * size)
        tip = (hand_x - side * (0.098 - 0.008 * abs(k - 1.2)) * size, hand_y + (k - 1.5) * 0.031 * size)
        canvas.paint(
            ribbon([root, tip], 0.016 * size, 0.013 * size), mix(skin, (120, 60, 40), 0.05 * (k % 2)), 0, light=0.2
        )


def draw_banner(canvas: Canvas, draws: Draws, at_top: bool) -> None:
    """A line of text on a band of BANNER's share of the height, at the top or at the foot."""
    w, h = canvas.width, canvas.height
    text = ("ADOPT ME", "HELLO!", "I AM 3 MONTHS", "FREE TO A HOME", "CALL US", "VACCINATED")[int(draws[0] * 6)]
    tall = int((BANNER - 0.02) * h)
    top = int(0.015 * h) if at_top else h - tall - int(0.015 * h)
    band = mix(BRIGHT[int(draws[1] * len(BRIGHT))], (110, 110, 116), 0.45)
    canvas.paint(np.array([(0, top), (w, top), (w, top + tall), (0, top + tall)]), band, 0, alpha=0.92)
    (tw, th), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, 1.0, 2)
    scale = min(0.62 * tall / th, 0.92 * w / tw)
    thick = max(1, round(2.2 * scale))
    place = (int((w - tw * scale) / 2), int(top + (tall + th * scale) / 2))
    ink = np.zeros((h, w), np.uint8)
    cv2.putText(ink, text, place, cv2.FONT_HERSHEY_DUPLEX, scale, 255, thick, cv2.LINE_AA)
    white = np.array((255, 252, 244), np.float32)[:, None, None]
    canvas.planes += (white - canvas.planes) * (ink.astype(np.float32) / 255.0)


def draw_strip(canvas: Canvas, x0: int, draws: Draws) -> None:
    """The side strip of a collage, from column `x0` (negative: up to it, from the left): three cards with paw prints."""
    w, h = canvas.width, canvas.height
    left, right = (x0, w) if x0 >= 0 else (0, -x0)
    canvas.paint(np.array([(left, 0), (right, 0), (right, h), (left, h)]), (252, 248, 240), 0)
    gap = 0.08 * (right - left)
    first = int(draws[0] * len(BRIGHT))
    for k in range(3):
        top, foot = k * h / 3 + gap, (k + 1) * h / 3 - gap / 2
        card = mix(BRIGHT[(first + 2 * k) % len(BRIGHT)], (255, 255, 255), 0.35)
        canvas.paint(
            np.array([(left + gap, top), (right - gap, top), (right - gap, foot), (left + gap, foot)]),
            card,
            0,
            light=0.25,
        )
        size = 0.26 * min(right - left, foot - top)
        paw = Frame((left + right) / 2, (top + foot) / 2 + 0.3 * size, size, 50 * (draws[1 + k] - 0.5))
        canvas.paint(
            paw(smooth(mirrored([(0, -0.3), (0.5, -0.05), (0.72, 0.5), (0.3, 0.72), (0, 0.62)]))), (255, 252, 246), 0
        )
        for x, y in ((-0.82, -0.32), (-0.3, -0.86), (0.3, -0.86), (0.82, -0.32)):
            canvas.paint(paw(ellipse(x, y, 0.24, 0.32)), (255, 252, 246), 0)
