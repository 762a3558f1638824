"""Outdoor backgrounds: gardens, beaches, woods. One function per scene."""

import numpy as np

from pawpularity.sample.brush import Brush
from pawpularity.sample.canvas import Colour, mix
from pawpularity.sample.shapes import ellipse


def garden(b: Brush) -> None:
    """Sky, hills, a fence or a tree, and grass with flowers."""
    u = b.u
    line = 0.30 + 0.34 * u[1]
    b.fade(0.0, line + 0.05, b.colour((110, 170, 224), 0.05), b.colour((206, 230, 240), 0.55))
    if u[2] < 0.5:
        sun = (0.1 + 0.8 * u[3], line * (0.2 + 0.4 * u[4]))
        b.glow(*sun, 0.3, (255, 244, 206), 0.7)
        b.disc(*sun, 0.055, (255, 248, 222))
    for k in range(3):
        x, y = u[5 + k], line * (0.12 + 0.6 * u[8 + k])
        for dx, r in ((-0.07, 0.05), (0.0, 0.075), (0.08, 0.055)):
            b.disc(x + dx, y, r, b.colour((250, 250, 255), 0.9), 0.62, soft=3.0, alpha=0.8)
    for k in range(2):
        top = line - 0.16 + 0.10 * k
        hill = [(-0.1, 1.0), *((i / 5, top + 0.14 * u[11 + 6 * k + i]) for i in range(-1, 7)), (1.2, 1.0)]
        b.shape(hill, b.colour((110, 150, 110), 0.05 - 0.2 * k), light=0.15)
    if u[24] < 0.4:
        _fence(b, line)
    elif u[24] < 0.8:
        _tree(b, u[25], line)
    _grass(b, line + 0.02)


def _fence(b: Brush, y: float) -> None:
    colour = b.colour((236, 228, 212), 0.75)
    for k in range(9):
        x = (k + 0.2) / 8.5
        picket = [(x, y + 0.1), (x, y - 0.12), (x + 0.025, y - 0.15), (x + 0.05, y - 0.12), (x + 0.05, y + 0.1)]
        b.shape(picket, colour, light=0.15)
    b.box(0, y - 0.07, 1, y - 0.04, colour)


def _tree(b: Brush, x: float, y: float) -> None:
    b.box(x - 0.03, y - 0.25, x + 0.03, y + 0.06, b.colour((112, 82, 60), -0.5), light=0.2)
    for dx, dy in ((-0.12, 0.0), (0.12, 0.02), (0.0, -0.1)):
        leaves = b.colour((96, 142, 84), -0.35)
        b.disc(x + dx, y - 0.28 + dy, 0.15 + 0.12 * b.u[26], leaves, edge=0.2, light=0.3)


def _grass(b: Brush, top: float) -> None:
    """A meadow with tufts and flowers, from `top` down."""
    u = b.u
    b.fade(top, 1.0, b.colour((134, 172, 92), 0.08), b.colour((92, 140, 76), -0.3))
    place = np.resize(u[30:], 78).tolist()
    petals: tuple[Colour, ...] = ((250, 236, 240), (240, 170, 190), (250, 220, 110))
    for k in range(26):
        x, y = place[k], top + (1.0 - top) * float((place[k + 26] * 7.3 + k / 26) % 1.0)
        lean, tall = 0.03 * (place[k + 52] - 0.5), 0.03 + 0.05 * (y - top)
        tips = [(x - 0.012 + lean, y - tall), (x, y), (x + 0.008 + lean, y - tall * 1.3)]
        b.shape([(x - 0.02, y), *tips, (x + 0.02, y)], b.colour((80, 130, 66), -0.45 if k % 2 else 0.25), alpha=0.8)
        if k % 4 == 0 and u[27] < 0.7:
            b.disc(x + lean, y - tall, 0.017, petals[k % 3])
            b.disc(x + lean, y - tall, 0.007, (222, 160, 60))


def beach(b: Brush) -> None:
    """Sky, sea and sand."""
    u = b.u
    sea, sand = 0.2 + 0.25 * u[1], 0.45 + 0.25 * u[2]
    high, low = ((240, 170, 130), (250, 220, 180)) if u[3] < 0.35 else ((130, 186, 230), (214, 234, 240))
    b.fade(0.0, sea, b.colour(high, 0.1), b.colour(low, 0.6))
    x = 0.1 + 0.8 * u[4]
    b.glow(x, sea * 0.5, 0.25, (255, 240, 200), 0.7)
    b.disc(x, sea * 0.5, 0.06, (255, 248, 220))
    b.fade(sand, 1.0, b.colour((226, 198, 150), 0.12), b.colour((226, 198, 150), 0.0))
    b.fade(sea, sand + 0.05, b.colour((70, 130, 160), -0.4), b.colour((120, 180, 186), 0.05))
    for k in range(6):
        y = sea + (sand - sea) * (k + 0.5 * u[5 + k]) / 6
        wave = [(u[11 + k] - 0.3, y), (u[11 + k] - 0.1, y - 0.008), (u[11 + k] + 0.25, y)]
        b.line(wave, 0.012, (244, 250, 250), alpha=0.6)
    shore = [(-0.1, 1.1), *((i / 4, sand - 0.04 + 0.09 * u[19 + i]) for i in range(-1, 6)), (1.3, 1.1)]
    b.shape(shore, b.colour((226, 198, 150), 0.12), light=0.15)
    for k in range(3):
        if u[26 + k] < 0.6:  # shells
            b.disc(u[30 + k], 0.8 + 0.18 * u[33 + k], 0.03, b.colour((240, 200, 190), 0.5), 0.7, edge=0.3)
    if u[36] < 0.5:
        _parasol(b, 0.12 + 0.76 * (u[37] < 0.5), sand + 0.12)


def _parasol(b: Brush, x: float, foot: float) -> None:
    b.box(x - 0.008, 0.2, x + 0.008, foot, b.colour((240, 236, 230), 0.5))
    top = [(x - 0.26, 0.30), (x - 0.14, 0.14), (x, 0.1), (x + 0.14, 0.14), (x + 0.26, 0.30)]
    b.shape(top, b.hue(1, -0.3), light=0.3)
    b.shape([(x - 0.1, 0.30), (x, 0.1), (x + 0.1, 0.30)], b.hue(1, 0.7), light=0.3)


def wood(b: Brush) -> None:
    """Trunks before green or autumn leaves."""
    u = b.u
    foot = 0.5 + 0.22 * u[1]
    autumn = u[2] < 0.5
    leaves: tuple[Colour, ...]
    if autumn:
        haze, sky, near, far = (236, 206, 160), (150, 130, 96), (178, 130, 78), (120, 84, 54)
        leaves = ((214, 120, 50), (230, 170, 70), (180, 80, 50))
    else:
        haze, sky, near, far = (190, 214, 196), (96, 140, 120), (110, 140, 84), (70, 100, 60)
        leaves = ((110, 160, 80), (150, 190, 100), (80, 130, 80))
    mist = b.colour(haze, 0.45)
    b.fade(0.0, foot, b.colour(sky, -0.1), mist)
    b.glow(u[3], 0.35, 0.35, (255, 246, 214), 0.5)
    for k in range(9):
        depth = k / 8
        x, wide = u[4 + k], (0.02 + 0.05 * depth) * (0.7 + 0.6 * u[13 + k])
        y, lean = foot + 0.14 * depth, 0.05 * (u[22 + k] - 0.5)
        if k == 4:  # the ground hides the feet of the farther trunks
            b.fade(foot, 1.0, b.colour(near, 0.0), b.colour(far, -0.35))
        trunk = [(x - wide + lean, -0.05), (x + wide + lean, -0.05), (x + wide * 1.1, y), (x - wide * 1.1, y)]
        b.shape(trunk, mix(mist, b.colour((84, 62, 50), -0.8), 0.35 + 0.65 * depth), light=0.35)
    scatter = np.resize(u[5:75], 120).tolist()
    for k in range(30):
        y = foot + (1 - foot) * float((scatter[k + 30] * 3.7 + k / 30) % 1.0)
        x, turn = float((scatter[k] * 5.3) % 1.0), 180 * scatter[k + 60]
        size = (0.012 + 0.02 * (y - foot)) * b.unit
        leaf = ellipse(x * b.w, y * b.h, size * 1.5, size * 0.7, turn, steps=8)
        b.canvas.paint(leaf, b.colour(leaves[k % 3], 0.25 - 0.4 * (k % 2)))
    if u[40] < 0.6:  # a canopy hanging into the picture
        for k in range(7):
            b.disc(u[41 + k], 0.08 * u[48 + k], 0.12, b.colour(leaves[k % 3], -0.1), edge=0.25, light=0.2)
