"""Things around the pets: clutter, occlusions, hands, banners, a collage's strip. Positions are canvas pixels."""

import math

import cv2
import numpy as np

from pawpularity.sample.canvas import BLACK, SHADOW, WHITE, Canvas, Colour, Draws, Pen, mix
from pawpularity.sample.labels import NOTHING
from pawpularity.sample.shapes import Frame, Line, ellipse, mirrored, rectangle, ribbon, smooth

Disc = tuple[float, float, float]  # x, y, radius
# No red or pink, which are the colours of tongues.
BRIGHT: tuple[Colour, ...] = (
    *((112, 196, 232), (66, 132, 206), (248, 196, 60), (92, 176, 110), (162, 96, 186), (242, 140, 62), (60, 178, 190)),
)
PAPER: Colour = (250.0, 244.0, 230.0)
TEXTS = ("ADOPT ME", "HELLO!", "I AM 3 MONTHS", "FREE TO A HOME", "CALL US", "VACCINATED")
BANNER = 0.13


def bright(draw: float) -> Colour:
    """One of the bright colours, by a uniform number."""
    return BRIGHT[int(draw * len(BRIGHT))]


def clutter_places(
    columns: tuple[float, float], foot: float, size: float, count: int, face: Disc, draws: Draws
) -> list[tuple[float, float]]:
    """The places of `count` (at most 4) objects of half size `size`: side by side between two columns, above `foot`.

    They do not cover the face. The place of an object does not depend on the number of objects.
    """
    places: list[tuple[float, float]] = []
    left, right = columns
    first = int(draws[0] * 4)
    for k in range(count):
        slot = (first + (0, 2, 1, 3)[k]) % 4
        x = left + (0.12 + 0.253 * slot + 0.05 * (draws[1 + k] - 0.5)) * (right - left)
        y = foot - size * (0.75 + 0.5 * draws[6 + k]) - (0.03 * foot if k % 2 else 0.0)
        gap = math.hypot(x - face[0], y - face[1])
        need = face[2] + size
        if gap < need:  # move it away from the face, but mostly within the picture
            along = (x - face[0]) / max(gap, 1e-6)
            x = face[0] + need * math.copysign(max(abs(along), 0.6), along)
            y = face[1] + need * max((y - face[1]) / max(gap, 1e-6), 0.75)
        places.append((min(max(x, left + size * 0.6), right - size * 0.6), min(max(y, size), foot - size * 0.45)))
    return places


# Objects of clutter, within -1..1 of their centre: layers from back to front, each an outline, its colour and edge.
THINGS: dict[str, list[tuple[Line, str | Colour, float]]] = {
    "ball": [
        (ellipse(0, 0, 0.9, 0.9), "colour", 0.3),
        (ribbon("-0.84,-0.1 0,0.22 0.84,-0.1", 0.14, 0.14), "pale", 0.0),
        (ellipse(-0.34, -0.42, 0.2, 0.14, -30), WHITE, 0.0),
    ],
    "food bowl": [
        (smooth("-0.8,-0.1 0.8,-0.1 1,0.8 0,0.86 -1,0.8", 4), "colour", 0.2),
        (ellipse(0, -0.1, 0.84, 0.24), "dark", 0.0),
        (ellipse(0, -0.16, 0.66, 0.2), (146, 98, 62), 0.3),
        (ellipse(0, 0.4, 0.2, 0.18), "pale", 0.0),
    ],
    "ball of wool": [
        (ellipse(0, 0.05, 0.85, 0.85), "colour", 0.3),
        *((ribbon([(-0.6, y - 0.5), (0, y - 0.1), (0.62, y + 0.3)], 0.05, 0.05), "dark", 0.0) for y in (-0.5, 0.0, 0.5)),
        (ribbon("0.5,0.75 1,0.86 1.4,0.7", 0.06, 0.05), "colour", 0.0),
    ],
    "books": [
        (rectangle(-0.95, 0.38, 0.85, 0.82), "colour", 0.05),
        (rectangle(0.5, 0.46, 0.85, 0.72), PAPER, 0.0),
        (rectangle(-0.85, -0.12, 0.79, 0.32), "other", 0.05),
        (rectangle(0.5, -0.04, 0.79, 0.22), PAPER, 0.0),
        (rectangle(-0.75, -0.62, 0.73, -0.18), "pale", 0.05),
        (rectangle(0.5, -0.54, 0.73, -0.28), PAPER, 0.0),
    ],
    "pot plant": [
        *((smooth([(0, 0.1), (0.4 * x - 0.22, -0.5), (x, -1.15), (0.7 * x + 0.16, -0.4)], 5), (84, 150, 88), 0.2)
          for x in (-0.7, -0.25, 0.25, 0.7)),
        ("-0.62,0 0.62,0 0.44,0.86 -0.44,0.86", (206, 116, 76), 0.1),
        (rectangle(-0.7, -0.08, 0.7, 0.16), (220, 134, 92), 0.0),
    ],
    "trainer": [
        (smooth("-1,0.2 -0.95,-0.5 -0.3,-0.5 0.1,0 0.8,0.2 1.05,0.6 0,0.72 -1,0.66", 4), "colour", 0.2),
        (ribbon("-0.98,0.72 0,0.78 1.04,0.7", 0.12, 0.12), (250, 248, 244), 0.0),
        *((ribbon([(x - 0.12, 0.5 * x - 0.06), (x + 0.16, 0.5 * x - 0.2)], 0.06, 0.06), WHITE, 0.0) for x in (-0.28, 0, 0.28)),
    ],
    "bone": [
        *((ellipse(x, y, 0.3, 0.28), (246, 234, 208), 0.15) for x in (-0.8, 0.8) for y in (0.1, 0.54)),
        (ribbon("-0.8,0.32 0,0.3 0.8,0.32", 0.24, 0.24), (248, 238, 214), 0.1),
    ],
    "carton": [
        (rectangle(-0.8, -0.5, 0.8, 0.84), (196, 152, 104), 0.12),
        ("-0.8,-0.5 -1.1,-0.95 -0.1,-0.8 0,-0.5", (214, 174, 126), 0.0),
        ("0.8,-0.5 1.1,-0.95 0.1,-0.8 0,-0.5", (206, 164, 116), 0.0),
        (rectangle(-0.16, -0.5, 0.16, 0.2), "other", 0.0),
    ],
}  # fmt: skip


def draw_clutter(canvas: Canvas, places: list[tuple[float, float]], size: float, label: int, draws: Draws) -> None:
    """Draw an object at each place; `draws` are at least 40 uniform numbers."""
    for k, (x, y) in enumerate(places):
        shadow = ellipse(x + 0.1 * size, y + 0.86 * size, size, 0.3 * size)
        canvas.paint(shadow, SHADOW, label, alpha=0.4, soft=0.2 * size)
        colour, other = bright(draws[18 + k]), bright(draws[24 + k])
        colours = {"colour": colour, "other": other, "dark": mix(colour, BLACK, 0.35), "pale": mix(colour, WHITE, 0.7)}
        pen = Pen(canvas, Frame(x, y, size, 16 * (draws[30 + k] - 0.5)), label)
        for outline, fill, edge in list(THINGS.values())[int(draws[12 + k] * len(THINGS))]:
            pen.paint(outline, colours[fill] if isinstance(fill, str) else fill, light=0.4, edge=edge)


def draw_occlusion(canvas: Canvas, kind: str, face: Disc, draws: Draws) -> None:
    """Draw something in front of the pet, below or beside its face."""
    w, h = canvas.width, canvas.height
    foot = max(0.80 * h, face[1] + face[2])
    if kind == "grass":
        for k in range(34):
            x = (k + draws[k % 30]) / 34 * w
            top = foot + (h - foot) * (0.1 + 0.7 * draws[(k * 7) % 30])
            lean = 0.05 * w * (draws[(k * 3) % 30] - 0.5)
            shade = mix((74, 128, 62), (150, 186, 92), float(draws[(k * 5) % 30]))
            blade = np.array([(x - 0.014 * w, h), (x + lean, top), (x + 0.014 * w, h)])
            canvas.paint(blade, shade, NOTHING, light=0.2)
    elif kind == "box":
        front = np.array([(0.02 * w, foot + 0.03 * h), (0.98 * w, foot + 0.03 * h), (w, h + 4), (0, h + 4)])
        rim_foot = foot + 0.06 * h
        rim = np.array([(0, foot + 0.01 * h), (w, foot + 0.01 * h), (0.98 * w, rim_foot), (0.02 * w, rim_foot)])
        canvas.paint(front, (190, 146, 98), NOTHING, light=0.2)
        canvas.paint(rim, (216, 176, 128), NOTHING)
        canvas.paint(rectangle(0.46 * w, rim_foot, 0.54 * w, h), (226, 196, 150), NOTHING, alpha=0.7)
    elif kind == "blanket":
        colour = bright(draws[31])
        waves = ((-0.1, 0.05), (0.25, 0.0), (0.5, 0.06), (0.8, 0.01), (1.1, 0.06))
        edge = [(x * w, foot + y * h) for x, y in waves]
        cloth = np.concatenate([smooth(edge, closed=False), [(1.1 * w, 1.1 * h), (-0.1 * w, 1.1 * h)]])
        pale = mix(mix(colour, WHITE, 0.25), (150, 146, 142), 0.45)
        canvas.paint(cloth, pale, NOTHING, light=0.3, fur=0.03)
        canvas.paint(ribbon(edge, 0.015 * h, 0.015 * h), mix(colour, WHITE, 0.7), NOTHING)
    else:  # bars, but none in front of the face
        for x in np.arange(0.06, 1.0, 0.125) * w:
            if abs(x - face[0]) > 0.96 * face[2]:
                canvas.paint(rectangle(x - 0.011 * w, 0, x + 0.011 * w, h), (96, 102, 112), NOTHING, light=0.6)


def draw_human(canvas: Canvas, face: Disc, side: float, odd: bool, draws: Draws) -> None:
    """Draw an arm from the left (`side` -1) or right (1), with the hand beside the pet's chest, below its eyes.

    In an `odd` pose the tongue may hang sideways, so the hand is farther away.
    """
    w, h = canvas.width, canvas.height
    size = math.sqrt(w * h)
    hand_x = min(max(face[0] + side * ((1.2 if odd else 0.86) * face[2] + 0.06 * size), 0.10 * w), 0.90 * w)
    hand_y = min(face[1] + face[2] * (0.62 + 0.4 * draws[0]), 0.92 * h)
    out = (w + 0.1 * size) if side > 0 else -0.1 * size
    skin: Colour = ((242, 206, 178), (222, 172, 134), (176, 122, 86), (124, 82, 58))[int(draws[1] * 4)]
    sleeve = mix(bright(draws[2]), (120, 116, 116), 0.6)
    start = (out, hand_y + 0.28 * size * (draws[3] - 0.2))
    elbow = ((out + hand_x) / 2, (start[1] + hand_y) / 2 + 0.02 * size)
    cuff = (elbow[0] + (hand_x - elbow[0]) * 0.35, elbow[1] + (hand_y - elbow[1]) * 0.35)
    arm = ribbon([start, elbow, (hand_x, hand_y)], 0.062 * size, 0.046 * size)
    canvas.paint(arm, skin, NOTHING, light=0.2, edge=0.15)
    canvas.paint(ribbon([start, elbow, cuff], 0.085 * size, 0.072 * size), sleeve, NOTHING, light=0.3, edge=0.2)
    canvas.paint(ellipse(hand_x, hand_y, 0.062 * size, 0.054 * size), skin, NOTHING, light=0.2, edge=0.12)
    for k in range(4):
        root = (hand_x - side * 0.02 * size, hand_y + (k - 1.5) * 0.026 * size)
        tip = (hand_x - side * (0.098 - 0.008 * abs(k - 1.2)) * size, hand_y + (k - 1.5) * 0.031 * size)
        finger = ribbon([root, tip], 0.016 * size, 0.013 * size)
        canvas.paint(finger, mix(skin, (120, 60, 40), 0.05 * (k % 2)), NOTHING, light=0.2)


def draw_banner(canvas: Canvas, draws: Draws, at_top: bool) -> None:
    """Draw a line of text on a band at the top or the bottom, BANNER of the height."""
    w, h = canvas.width, canvas.height
    text = TEXTS[int(draws[0] * len(TEXTS))]
    tall = int((BANNER - 0.02) * h)
    top = int(0.015 * h) if at_top else h - tall - int(0.015 * h)
    canvas.paint(rectangle(0, top, w, top + tall), mix(bright(draws[1]), (110, 110, 116), 0.45), NOTHING, alpha=0.92)
    (tw, th), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, 1.0, 2)
    scale = min(0.62 * tall / th, 0.92 * w / tw)
    place = (int((w - tw * scale) / 2), int(top + (tall + th * scale) / 2))
    ink = np.zeros((h, w), np.uint8)
    cv2.putText(ink, text, place, cv2.FONT_HERSHEY_DUPLEX, scale, 255, max(1, round(2.2 * scale)), cv2.LINE_AA)
    white = np.array((255, 252, 244), np.float32)[:, None, None]
    canvas.planes += (white - canvas.planes) * (ink.astype(np.float32) / 255.0)


def draw_strip(canvas: Canvas, left: int, right: int, draws: Draws) -> None:
    """Draw the side strip of a collage, from column `left` to `right`: three cards with paw prints."""
    h = canvas.height
    canvas.paint(rectangle(left, 0, right, h), (252, 248, 240), NOTHING)
    gap = 0.08 * (right - left)
    first = int(draws[0] * len(BRIGHT))
    for k in range(3):
        top, foot = k * h / 3 + gap, (k + 1) * h / 3 - gap / 2
        card = mix(BRIGHT[(first + 2 * k) % len(BRIGHT)], WHITE, 0.35)
        canvas.paint(rectangle(left + gap, top, right - gap, foot), card, NOTHING, light=0.25)
        size = 0.26 * min(right - left, foot - top)
        centre = Frame((left + right) / 2, (top + foot) / 2 + 0.3 * size, size, 50 * (draws[1 + k] - 0.5))
        paw = Pen(canvas, centre, NOTHING)
        paw.paint(smooth(mirrored("0,-0.3 0.5,-0.05 0.72,0.5 0.3,0.72 0,0.62")), (255, 252, 246))
        for x, y in ((-0.82, -0.32), (-0.3, -0.86), (0.3, -0.86), (0.82, -0.32)):
            paw.paint(ellipse(x, y, 0.24, 0.32), (255, 252, 246))
