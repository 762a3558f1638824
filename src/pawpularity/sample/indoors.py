"""Indoor backgrounds: rooms, sofas, blankets, kennels, studio backdrops. One function per scene."""

import numpy as np

from pawpularity.sample.brush import Brush, grid
from pawpularity.sample.canvas import BLACK, WHITE, mix
from pawpularity.sample.shapes import smooth


def room(b: Brush) -> None:
    """A wall, furniture before it, and a floor."""
    foot = 0.48 + 0.32 * b.u[1]
    _wall(b, foot)
    _furniture(b, foot)
    _floor(b, foot)


def sofa(b: Brush) -> None:
    """A sofa before a wall."""
    u = b.u
    _wall(b, 1.0)
    if u[60] < 0.6:
        _furniture(b, 0.62)
    top, seat = 0.26 + 0.2 * u[61], 0.66 + 0.12 * u[62]
    shift = 0.3 * (u[63] - 0.5)
    cloth = b.hue(2, -0.25 + 0.5 * u[64])
    for x0, x1 in ((-0.02, 0.5), (0.5, 1.02)):
        back = [(x0 + shift, seat), (x0 + 0.02 + shift, top), (x1 - 0.02 + shift, top), (x1 + shift, seat)]
        b.shape(smooth(back, 4), cloth, light=0.25, edge=0.22)
    b.fade(seat, 1.0, mix(cloth, WHITE, 0.14), mix(cloth, BLACK, 0.22))
    b.box(0, seat - 0.006, 1, seat + 0.012, mix(cloth, BLACK, 0.4), alpha=0.7)
    b.box(0, 0.93, 1, 0.94, mix(cloth, BLACK, 0.4), alpha=0.5)
    side = 0.10 if u[65] < 0.5 else 0.90
    b.disc(side, seat - 0.06, 0.22, mix(cloth, BLACK, 0.12), light=0.3, edge=0.2)
    if u[66] < 0.7:
        x, y = 1.0 - side + 0.06 * (u[67] - 0.5), seat - 0.10
        pillow = [(x - 0.16, y - 0.11), (x + 0.15, y - 0.14), (x + 0.17, y + 0.12), (x - 0.14, y + 0.13)]
        b.shape(smooth(pillow, 5), b.hue(1, 0.55), light=0.3, edge=0.25)
        b.disc(x, y, 0.05, b.hue(0, -0.2), alpha=0.8)


def blanket(b: Brush) -> None:
    """A blanket that fills the picture."""
    u = b.u
    b.fade(0.0, 1.0, b.hue(0, 0.18), b.hue(0, -0.18))
    b.pattern(int(u[1] * 5), b.hue(1, 0.6 if u[2] < 0.5 else -0.5), u[3:], 0.0, 1.0)
    if u[9] < 0.6:
        b.pattern(int(u[10] * 5), b.hue(2, -0.4), [*u[11:15], 0.1], 0.0, 1.0)
    x, y = grid(b.w, b.h)
    fold = np.sin(x * (3 + 6 * u[16]) + y * (2 + 8 * u[17]) + 6 * u[18])
    fold = fold + 0.6 * np.sin(x * 9 * u[19] - y * 11 * u[20] + 3)
    b.canvas.planes *= 1.0 + np.float32(0.13) * fold.astype(np.float32)
    if u[21] < 0.5:  # a bed's rim, or the floor beside the blanket
        rim = [(1.2, 0.1 + 0.2 * u[22]), (0.5, 0.05 + 0.15 * u[23]), (-0.2, 0.3 * u[24])]
        b.shape(smooth([(-0.2, -0.2), (1.2, -0.2), *rim]), b.colour((166, 120, 84), -0.2 + 0.5 * u[25]), light=0.1)


def kennel(b: Brush) -> None:
    """A kennel: wall, floor and bars."""
    u = b.u
    foot = 0.55 + 0.25 * u[1]
    steel = mix(b.hues[0], (150, 158, 166), 0.6)
    b.fade(0.0, foot, b.colour(steel, 0.25), b.colour(steel, -0.1))
    b.pattern(5, b.colour(steel, -0.4), [0.0, u[2], u[3], 0.0, 0.9], 0.0, foot)
    b.fade(foot, 1.0, b.colour((168, 160, 150), 0.12), b.colour((140, 132, 124), -0.25))
    if u[4] < 0.5:  # a bed of straw or a mat
        b.disc(0.2 + 0.6 * u[5], 0.94, 0.5, b.hue(1, 0.3), 0.3, edge=0.2, light=0.2)
    bars = 5 + int(u[6] * 6)
    x0, x1 = (0.0, 1.0) if u[7] < 0.4 else ((0.0, 0.45) if u[7] < 0.7 else (0.55, 1.0))
    dark = b.colour((90, 96, 104), -0.6)
    for k in range(bars):
        x = x0 + (x1 - x0) * (k + 0.5) / bars
        b.box(x - 0.008, 0, x + 0.008, foot, dark, light=0.5)
    for y in (0.03 + 0.3 * u[8], foot - 0.06):
        b.box(x0, y, x1, y + 0.018, dark, light=0.3)
    b.glow(u[9], 0.2 * u[10], 0.35 + 0.3 * u[11], b.colour((255, 250, 230), 0.9), 0.6)


def backdrop(b: Brush) -> None:
    """A photographer's backdrop: a gradient with discs of light."""
    u = b.u
    b.fade(0.0, 1.0, b.hue(0, 0.9 * u[1] - 0.45), b.hue(1, 0.9 * u[2] - 0.45))
    b.glow(u[3], u[4], 0.3 + 0.3 * u[5], b.hue(1, 0.8), 0.8)
    b.glow(u[6], u[7], 0.25 + 0.3 * u[8], b.hue(2, -0.6), 0.7)
    for k in range(14):
        colour = b.hue(k % 3, 0.9 if k % 3 else -0.5)
        b.disc(u[24 + k], u[40 + k], 0.03 + 0.10 * u[9 + k], colour, alpha=0.28 + 0.25 * u[60], soft=2.0)
    if u[61] < 0.6:
        b.fade(0.7 + 0.15 * u[62], 1.0, b.hue(2, 0.15), b.hue(2, -0.35))


def _wall(b: Brush, foot: float) -> None:
    """A wall down to `foot`, a share of the height."""
    u = b.u[8:]
    b.fade(0.0, foot, b.hue(0, 0.25 + 0.3 * (u[0] - 0.5)), b.hue(0, -0.15))
    kind = int(u[1] * 8)
    if kind < 6:
        b.pattern(kind, b.hue(1 if u[2] < 0.5 else 0, 0.5 if u[3] < 0.6 else -0.4), u[4:], 0.0, foot)
    if u[9] < 0.35:  # wainscot
        top = foot * (0.55 + 0.2 * u[10])
        b.fade(top, foot, b.hue(2, 0.05), b.hue(2, -0.2))
        b.fade(top - 0.012, top + 0.012, b.hue(2, 0.6), b.hue(2, 0.3))


def _furniture(b: Brush, foot: float) -> None:
    """Something on or before the wall, at its left or right."""
    u = b.u[24:]
    x = 0.02 + 0.22 * u[2] if u[1] < 0.5 else 0.58 + 0.16 * u[2]
    (_window, _window, _pictures, _shelves, _lamp, _cupboard)[int(u[0] * 6)](b, x, foot)


def _window(b: Brush, x: float, foot: float) -> None:
    u, frame = b.u[24:], b.hue(2, 0.75)
    y, w, h = foot * (0.05 + 0.12 * u[3]), 0.26 + 0.16 * u[4], foot * (0.5 + 0.2 * u[5])
    b.box(x - 0.015, y - 0.012, x + w + 0.015, y + h + 0.012, frame)
    bright = b.u[20] < 0.7
    b.box(x, y, x + w, y + h, b.colour((150, 196, 232), 0.7 if bright else -0.75), light=0.25)
    if bright:
        hill = [(x, y + h), (x, y + 0.7 * h), (x + 0.5 * w, y + 0.6 * h), (x + w, y + 0.8 * h), (x + w, y + h)]
        b.shape(smooth(hill, closed=False), b.colour((130, 170, 110), 0.2))
    else:
        b.disc(x + 0.7 * w, y + 0.3 * h, 0.03, (250, 240, 200))
    b.box(x + 0.48 * w, y, x + 0.52 * w, y + h, frame)
    b.box(x, y + 0.47 * h, x + w, y + 0.53 * h, frame)
    if b.u[21] < 0.5:  # curtains
        cloth = b.hue(1, -0.25)
        b.box(x - 0.05, y - 0.04, x + 0.16 * w, y + h + 0.1, cloth, light=0.3, edge=0.25)
        b.box(x + 0.84 * w, y - 0.04, x + w + 0.05, y + h + 0.1, cloth, light=0.3, edge=0.25)


def _pictures(b: Brush, _: float, foot: float) -> None:
    u = b.u[24:]
    for k in range(2 + int(u[3] * 3)):
        x, y = 0.04 + 0.86 * ((u[4] + 0.37 * k) % 1.0), foot * (0.08 + 0.4 * u[5 + k])
        w, h = 0.10 + 0.10 * u[9 + k], 0.10 + 0.08 * u[12 + k]
        b.box(x, y, x + w, y + h, b.colour((120, 80, 50), -0.4))
        b.box(x + 0.02, y + 0.015, x + w - 0.02, y + h - 0.015, b.hue(k % 3, 0.7))
        b.disc(x + w / 2, y + h / 2, 0.02, b.hue((k + 1) % 3, -0.3))


def _shelves(b: Brush, x: float, foot: float) -> None:
    u = b.u[24:]
    for k in range(2):
        y = foot * (0.2 + 0.32 * k + 0.1 * u[3])
        b.box(x - 0.06, y, x + 0.36, y + 0.022, b.colour((150, 104, 66), -0.2), light=0.3)
        for book in range(6):
            left, top = x - 0.05 + 0.062 * book, y - 0.07 - 0.07 * u[4 + book]
            b.box(left, top, left + 0.045, y, b.hue(book % 3, 0.7 * u[5 + book] - 0.35), light=0.2)


def _lamp(b: Brush, x: float, foot: float) -> None:
    b.box(x + 0.1, foot * 0.3, x + 0.115, foot, b.colour((110, 90, 70), -0.4))
    shade = [(x, foot * 0.42), (x + 0.05, foot * 0.16), (x + 0.165, foot * 0.16), (x + 0.215, foot * 0.42)]
    b.shape(shade, b.colour((250, 222, 160), 0.8), light=0.2)
    b.glow(x + 0.1, foot * 0.36, 0.4, (255, 236, 190), 0.4)


def _cupboard(b: Brush, x: float, foot: float) -> None:
    top = foot * (0.35 + 0.2 * b.u[27])
    tall = foot - top
    b.box(x - 0.04, top, x + 0.34, foot + 0.03, b.colour((146, 100, 64), -0.25), light=0.25, edge=0.1)
    for k in range(2):
        y = top + tall * (0.1 + 0.46 * k)
        b.box(x - 0.01, y, x + 0.31, y + 0.36 * tall, b.colour((166, 120, 80), -0.05), light=0.2)
        b.disc(x + 0.15, y + 0.18 * tall, 0.014, b.colour((230, 190, 110), 0.4))


def _floor(b: Brush, top: float) -> None:
    """A floor from `top`, a share of the height, down."""
    u = b.u[44:]
    kind = int(u[0] * 4)
    wood = b.colour((176, 128, 86), -0.05 - 0.3 * u[1]) if u[1] < 0.5 else b.hue(2, -0.3 + 0.5 * u[1])
    b.fade(top, 1.0, mix(wood, WHITE, 0.10), mix(wood, BLACK, 0.16))
    gap = mix(wood, BLACK, 0.30)
    if kind == 0:  # boards running away from us
        for k in range(-6, 13):
            b.line([(0.5 + (k - 3) * 0.10, top), (0.5 + (k - 3) * 0.17, 1.0)], 0.008, gap, alpha=0.6)
    elif kind == 1:  # boards across
        y = top
        for k in range(7):
            y += 0.018 + 0.014 * k
            b.box(0, y, 1, y + 0.007, gap, alpha=0.6)
    elif kind == 2:  # tiles
        gx, gy = grid(b.w, b.h)
        depth = np.float32(1.0) / np.maximum(gy - top + 0.12, 1e-3)
        check = (np.floor((gx - 0.5) * depth * 0.9 + 40) + np.floor(depth * 0.7)) % 2
        b.blend(check.astype(np.float32) * 0.5, b.hue(1, 0.4), top)
    b.box(0, top - 0.018, 1, top + 0.012, b.hue(0, 0.65), alpha=0.9)
    if u[2] < 0.55:
        rug = b.hue(1, 0.35 if u[3] < 0.5 else -0.35)
        x, y = 0.3 + 0.4 * u[4], min(0.95, top + 0.22)
        for k, colour in enumerate((rug, b.hue(2, 0.4), rug)):
            b.disc(x, y, 0.46 - 0.07 * k, colour, 0.36, light=0.1)
