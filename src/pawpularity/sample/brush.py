"""The brush that backgrounds are painted with: palette, gradients, patterns, pools of light.

Positions are shares of the canvas: x of its width, y of its height. Radii are shares of its geometric mean side.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Unpack

import numpy as np

from pawpularity.sample.canvas import Canvas, Colour, Image, Shading, tone
from pawpularity.sample.shapes import Line, as_points, ellipse, rectangle

# Hues that go well together; their luminance is set by the photo.
PALETTE: tuple[Colour, ...] = (
    *((122, 152, 124), (196, 128, 124), (116, 160, 196), (214, 170, 92), (188, 108, 78), (150, 132, 178)),
    *((84, 142, 142), (226, 208, 172), (226, 164, 132), (148, 194, 170), (112, 122, 144), (166, 92, 84)),
    *((128, 84, 116), (138, 138, 88), (92, 118, 172), (204, 150, 160)),
)


@cache
def grid(width: int, height: int) -> tuple[Image, Image]:
    """x (0..1) as a row and y (0..1) as a column of float32, to build fields from by broadcasting."""
    x, y = np.linspace(0, 1, width, dtype=np.float32), np.linspace(0, 1, height, dtype=np.float32)
    return x[None, :], y[:, None]


class Brush:
    """Paints on one canvas in three hues, at a luminance near `target` (0..255).

    `u` holds at least 80 uniform numbers; each scene reads its own slots of it.
    """

    def __init__(self, canvas: Canvas, target: float, u: Sequence[float]) -> None:
        self.canvas, self.target, self.u = canvas, target, u
        self.w, self.h = canvas.width, canvas.height
        self.unit = math.sqrt(self.w * self.h)
        first = int(u[0] * len(PALETTE))
        self.hues = [PALETTE[(first + k) % len(PALETTE)] for k in (0, 5, 11)]

    def hue(self, number: int, step: float) -> Colour:
        """Hue 0, 1 or 2 of the photo's palette at the target luminance, changed by `step` (-1 dark to 1 light)."""
        return self.colour(self.hues[number], step)

    def colour(self, colour: Colour, step: float) -> Colour:
        """A colour outside the palette (grass, sky) at the target luminance, changed by `step`."""
        room = 0.32 * (255.0 - self.target) if step > 0 else 0.35 * self.target
        return tone(colour, self.target + step * max(room, 20.0))

    def shape(self, points: Line, colour: Colour, **shading: Unpack[Shading]) -> None:
        """A polygon. `shading` is that of `Canvas.paint`."""
        self.canvas.paint(as_points(points) * [self.w, self.h], colour, **shading)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, **shading: Unpack[Shading]) -> None:
        """An upright rectangle."""
        self.shape(rectangle(x0, y0, x1, y1), colour, **shading)

    def disc(
        self, x: float, y: float, r: float, colour: Colour, squash: float = 1.0, **shading: Unpack[Shading]
    ) -> None:
        """A disc, `squash` times as high as wide."""
        points = ellipse(x * self.w, y * self.h, r * self.unit, r * self.unit * squash)
        self.canvas.paint(points, colour, **shading)

    def line(self, points: Line, width: float, colour: Colour, alpha: float) -> None:
        """A smooth line."""
        self.canvas.line(as_points(points) * [self.w, self.h], width * self.unit, colour, alpha=alpha)

    def fade(self, y0: float, y1: float, top: Colour, foot: Colour) -> None:
        """A vertical gradient from y0 to y1."""
        a, b = round(y0 * self.h), round(y1 * self.h)
        t = np.linspace(0, 1, max(b - a, 0), dtype=np.float32)[:, None]
        self.canvas.rgb[a:b] = (np.array(top, np.float32) * (1 - t) + np.array(foot, np.float32) * t)[:, None, :]

    def blend(self, field: Image, colour: Colour, y0: float = 0.0, y1: float = 1.0) -> None:
        """Blend a colour in by a field of opacities (0..1) of the whole canvas, used between y0 and y1."""
        a, b = round(y0 * self.h), round(y1 * self.h)
        region = self.canvas.planes[:, a:b]
        region += (np.array(colour, np.float32)[:, None, None] - region) * field[a:b]

    def glow(self, x: float, y: float, r: float, colour: Colour, strength: float) -> None:
        """A soft pool of light."""
        gx, gy = grid(self.w, self.h)
        d = ((gx - x) * (self.w / self.unit)) ** 2 + ((gy - y) * (self.h / self.unit)) ** 2
        self.blend(np.exp(d * np.float32(-1.0 / r**2)) * np.float32(strength), colour)

    def pattern(self, kind: int, colour: Colour, u: Sequence[float], y0: float, y1: float) -> None:
        """Wallpaper or fabric: stripes, dots, plaid, zigzag, diamonds or bricks in `colour`."""
        x, y = grid(self.w, self.h)
        px, py = x * (self.w / self.unit), y * (self.h / self.unit)
        turn = float((u[0] - 0.5) * math.pi) if kind in (0, 2) else 0.0
        a = px * math.cos(turn) + py * math.sin(turn)
        b = -px * math.sin(turn) + py * math.cos(turn)
        f = np.float32(2 * math.pi * (3.0 + 6.0 * u[1]))
        shift = np.float32(6.28 * u[2])
        sharp = np.float32(5.0)
        if kind == 0:
            field = np.sin(f * a + shift) * sharp
        elif kind == 1:
            field = (np.sin(f * a + shift) * np.sin(f * b) - 0.45) * (sharp * 3)
        elif kind == 2:
            field = (np.sin(f * a + shift) > 0).astype(np.float32) + (np.sin(f * b) > 0).astype(np.float32)
            field = field * 0.5 + 0 * a
        elif kind == 3:
            wave = np.abs(((px * (3 + 5 * u[3])) % 1.0) - 0.5) * 0.22
            field = np.sin(f * (py + wave) + shift) * sharp
        elif kind == 4:
            field = np.sin(f * 0.6 * (px + py) + shift) * np.sin(f * 0.6 * (px - py)) * sharp
        else:
            row = np.floor(py * f * 0.5)
            line = np.minimum((py * f * 0.5) % 1.0, ((px * f * 0.25 + 0.5 * (row % 2)) % 1.0) * 2)
            field = (line < 0.14).astype(np.float32)
        strength = np.float32(0.45 + 0.5 * u[4])
        full = np.broadcast_to(np.clip(field, 0, 1) * strength, (self.h, self.w))
        self.blend(full.astype(np.float32), colour, y0, y1)
