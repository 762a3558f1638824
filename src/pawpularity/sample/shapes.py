"""Outlines to paint: smooth curves, ellipses, ribbons, and the frames that place them on a canvas."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
"""(n, 2): x, y"""
Line = str | Sequence[tuple[float, float]] | Points
"""Points to draw through. Text is in the notation of SVG's polygons: x,y x,y ..."""


def as_points(line: Line) -> Points:
    """The points of a line, (n, 2)."""
    if isinstance(line, str):
        line = [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())]
    return np.asarray(line, float)


def smooth(points: Line, steps: int = 6, closed: bool = True) -> Points:
    """A Catmull-Rom curve through the points ((n, 2), any unit), `steps` samples per piece."""
    control = as_points(points)
    if closed:
        around = np.stack([np.roll(control, s, axis=0) for s in (1, 0, -1, -2)], axis=1)
    else:
        padded = np.concatenate([control[:1], control, control[-1:]])
        around = np.stack([padded[s : len(padded) - 3 + s] for s in range(4)], axis=1)
    curve: Points = np.einsum("sk,nkd->nsd", _catmull_rom(steps), around).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, control[-1:]])


@cache
def _catmull_rom(steps: int) -> npt.NDArray[np.float64]:
    t = np.arange(steps) / steps
    cubic = np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]) / 2
    weights: npt.NDArray[np.float64] = np.stack([t**0, t, t**2, t**3], axis=1) @ cubic
    return weights


def mirrored(half: Line) -> Points:
    """A closed outline from its right half, listed from the top to the bottom; points on the axis are not doubled."""
    right = as_points(half)
    left = right[::-1] * [-1.0, 1.0]
    return np.concatenate([right, left[np.abs(left[:, 0]) > 1e-9]])


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0, steps: int = 28) -> Points:
    """An ellipse as a polygon; `angle` in degrees, clockwise in a picture whose y grows downwards."""
    t = np.arange(steps) * (2 * math.pi / steps)
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    u, v = rx * np.cos(t), ry * np.sin(t)
    return np.stack([x + c * u - s * v, y + s * u + c * v], axis=1)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Points:
    """The corners (4, 2) of an upright rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def ribbon(points: Line, start: float, end: float) -> Points:
    """A band along a smooth line, with half-widths from `start` to `end` and a round tip: tails, legs, arms."""
    line = smooth(points, closed=False)
    along = np.gradient(line, axis=0)
    along /= np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    width = np.linspace(start, end, len(line))[:, None]
    turn = np.linspace(math.pi / 2, -math.pi / 2, 7)[1:-1, None]
    tip = line[-1] + end * (np.cos(turn) * along[-1] + np.sin(turn) * across[-1])
    return np.concatenate([line + width * across, tip, (line - width * across)[::-1]])


@dataclass(frozen=True)
class Frame:
    """A local coordinate system: origin (canvas pixels), pixels per unit, angle (degrees), mirror."""

    x: float
    y: float
    scale: float
    angle: float = 0.0
    mirror: bool = False

    def __call__(self, points: Line) -> Points:
        """Local points, (n, 2), to canvas pixels."""
        local = as_points(points)
        c, s = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        u = -local[:, 0] if self.mirror else local[:, 0]
        v = local[:, 1]
        return np.stack([self.x + self.scale * (c * u - s * v), self.y + self.scale * (s * u + c * v)], axis=1)
