"""A canvas with soft, shaded, antialiased shapes and a label map that is drawn along with them.

The sample shelter (`pawpularity sample --photos 600 --size 160 --seed 0 --twins 5`) is drawn on it, at twice the size of
the photo; `Canvas.finish` shrinks it. Every shape may carry a part's number: the label map is then true by construction,
because the very mask that colours the pixels also labels them. OpenCV does the filling: it is many times faster than
drawing through Pillow at this size, and its masks come with 1/16-pixel positions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
Mask = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]
Colour = tuple[float, float, float]
Box = tuple[slice, slice]

SUPERSAMPLE = 2
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_SHIFT = 4  # OpenCV takes fixed-point coordinates: 4 bits give 1/16 pixel


def luminance(colour: Colour) -> float:
    """Rec. 601 luma (0..255) of an RGB colour: the one JPEG and `convert("L")` use."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` with `share` (0..1) of `second` stirred in."""
    a, b, c = (p + (q - p) * share for p, q in zip(first, second, strict=True))
    return a, b, c


def tone(colour: Colour, target: float) -> Colour:
    """The colour brought to luminance `target` (0..255): darkened by scaling, lightened with white; the hue stays."""
    now = luminance(colour)
    if target <= now:
        return mix((0.0, 0.0, 0.0), colour, target / max(now, 1e-6))
    return mix(colour, (255.0, 255.0, 255.0), (target - now) / max(255.0 - now, 1e-6))


@cache
def _basis(steps: int) -> npt.NDArray[np.float64]:
    t = np.arange(steps) / steps
    cubic = np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]) / 2
    weights: npt.NDArray[np.float64] = np.stack([t**0, t, t**2, t**3], axis=1) @ cubic
    return weights


def smooth(points: Sequence[tuple[float, float]] | Points, steps: int = 6, closed: bool = True) -> Points:
    """A Catmull-Rom curve through the points ((n, 2), any unit), `steps` samples per piece."""
    control = np.asarray(points, float)
    if closed:
        around = np.stack([np.roll(control, s, axis=0) for s in (1, 0, -1, -2)], axis=1)
    else:
        padded = np.concatenate([control[:1], control, control[-1:]])
        around = np.stack([padded[s : len(padded) - 3 + s] for s in range(4)], axis=1)
    curve: Points = np.einsum("sk,nkd->nsd", _basis(steps), around).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, control[-1:]])


def mirrored(half: Sequence[tuple[float, float]]) -> Points:
    """A closed outline from its right half, listed from the top to the bottom; points on the axis are not doubled."""
    right = np.asarray(half, float)
    left = right[::-1] * [-1.0, 1.0]
    outline: Points = np.concatenate([right, left[np.abs(left[:, 0]) > 1e-9]])
    return outline


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0, steps: int = 28) -> Points:
    """An ellipse as a polygon; `angle` in degrees, clockwise in a picture whose y grows downwards."""
    t = np.arange(steps) * (2 * math.pi / steps)
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    u, v = rx * np.cos(t), ry * np.sin(t)
    return np.stack([x + c * u - s * v, y + s * u + c * v], axis=1)


def ribbon(points: Sequence[tuple[float, float]] | Points, start: float, end: float) -> Points:
    """A band of changing width (half-widths `start` to `end`) with a round tip along a smooth line: tails, legs, arms."""
    line = smooth(points, closed=False)
    along = np.gradient(line, axis=0)
    along /= np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    width = np.linspace(start, end, len(line))[:, None]
    turn = np.linspace(math.pi / 2, -math.pi / 2, 7)[1:-1, None]
    tip = line[-1] + end * (np.cos(turn) * along[-1] + np.sin(turn) * across[-1])
    outline: Points = np.concatenate([line + width * across, tip, (line - width * across)[::-1]])
    return outline


@dataclass(frozen=True)
class Frame:
    """Where a local system of coordinates lies on the canvas: origin (pixels), pixels per unit, turn (degrees), mirror."""

    x: float
    y: float
    scale: float
    angle: float = 0.0
    mirror: bool = False

    def __call__(self, points: Sequence[tuple[float, float]] | Points) -> Points:
        """Local points, (n, 2), to canvas pixels."""
        local = np.asarray(points, float)
        c, s = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        u = -local[:, 0] if self.mirror else local[:, 0]
        v = local[:, 1]
        return np.stack([self.x + self.scale * (c * u - s * v), self.y + self.scale * (s * u + c * v)], axis=1)


@cache
def _slope(length: int) -> Image:
    return np.linspace(1, -1, length, dtype=np.float32)


@cache
def noise_tile(kind: str) -> Image:
    """A fixed 1024x1024 tile of unit-sd noise, cut at random places: "grain" (white) or "fur" (short strokes)."""
    white = np.random.default_rng(20).standard_normal((1024, 1024), dtype=np.float32)
    if kind == "fur":
        white = cv2.GaussianBlur(white, (0, 0), sigmaX=0.8, sigmaY=2.6)
    tile: Image = (white / white.std()).astype(np.float32)
    return tile


class Canvas:
    """An RGB picture (float32, 0..255) and its label map (uint8), both (height, width) at the supersampled size.

    `planes` is (3, height, width): numpy is twice as fast on long rows as on triples. `rgb` is the same memory seen as
    (height, width, 3).
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.planes: Image = np.zeros((3, height, width), np.float32)
        self.rgb: Image = self.planes.transpose(1, 2, 0)
        self.labels: Mask = np.zeros((height, width), np.uint8)

    def mask(self, points: Points, soft: float = 0.0) -> tuple[Box, Mask] | None:
        """The polygon's coverage (0..255) within its bounding box on the canvas; None if it lies outside.

        `soft` is the radius, in pixels, over which its border fades.
        """
        pad = 2 + int(2 * soft)
        low, high = np.floor(points.min(axis=0)) - pad, np.ceil(points.max(axis=0)) + pad + 1
        x0, y0 = max(int(low[0]), 0), max(int(low[1]), 0)
        x1, y1 = min(int(high[0]), self.width), min(int(high[1]), self.height)
        if x1 <= x0 or y1 <= y0:
            return None
        # A soft shape is blurred with its parts beyond the canvas, so that its border does not fade at the canvas' edge.
        rim = pad if soft else 0
        cover = np.zeros((y1 - y0 + 2 * rim, x1 - x0 + 2 * rim), np.uint8)
        fixed = np.rint((points - [x0 - rim, y0 - rim]) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(cover, [fixed], 255, cv2.LINE_AA, _SHIFT)
        if soft:
            k = 2 * max(1, int(soft * 0.6)) + 1
            cover = cv2.blur(cv2.blur(cover, (k, k)), (k, k))[rim:-rim, rim:-rim]
        return (slice(y0, y1), slice(x0, x1)), cover

    def whole(self, points: Points) -> Mask:
        """The polygon's coverage as a mask of the whole canvas, to clip other shapes with."""
        full = np.zeros((self.height, self.width), np.uint8)
        found = self.mask(points)
        if found is not None:
            full[found[0]] = found[1]
        return full

    def paint(
        self,
        points: Points,
        colour: Colour,
        label: int | None = None,
        *,
        alpha: float = 1.0,
        light: float = 0.0,
        edge: float = 0.0,
        fur: float = 0.0,
        soft: float = 0.0,
        clip: Mask | None = None,
    ) -> None:
        """Fill a polygon (canvas pixels).

        `light`: how much brighter its upper left is than its lower right (a share of the colour). `edge`: how much its
        border darkens, which makes it look round. `fur`: strength of the fur's strokes. `soft`: see `mask`. `clip`: a
        whole-canvas mask it stays within. `label`: number written where it hides a pixel, and where it shows at
        all over a higher number.
        """
        found = self.mask(points, soft)
        if found is None:
            return
        box, cover = found
        if clip is not None:
            cover = cv2.multiply(cover, clip[box], scale=1 / 255)
        region = self.planes[:, box[0], box[1]]
        weight = cover.astype(np.float32)
        weight *= alpha / 255.0
        height, width = cover.shape
        ink = np.array(colour, np.float32)[:, None, None]
        if light or edge or fur:
            # Shading adds a little grey as well as scaling the colour: black coats would otherwise stay flat.
            down = np.float32(0.62 * light) * _slope(height)[:, None]
            shade = down + np.float32(0.38 * light) * _slope(width)[None, :]
            if edge:
                k = 2 * max(1, min(height, width) // 7) + 1
                depth = cv2.blur(cv2.blur(cover, (k, k)), (k, k)).astype(np.float32)
                depth *= edge * 2 / 255.0
                depth -= edge * 1.75
                shade += depth
            if fur:
                y, x = box[0].start % 512, box[1].start % 512
                tile = noise_tile("fur")[y : y + height, x : x + width]
                if tile.shape != shade.shape:  # canvases wider than the tile
                    tile = np.resize(noise_tile("fur"), shade.shape)
                shade += np.float32(fur) * tile
            paint = shade * (ink + 26.0)
            paint += ink
            paint -= region
        else:
            paint = ink - region
        paint *= weight
        region += paint
        if label is not None:
            # What lies faintly over something (a shadow, a soft rim) takes its pixel only from higher numbers.
            below = self.labels[box]
            below[(weight > 0.9) | ((weight > 0.03) & (below > label))] = label

    def line(self, points: Points, width: float, colour: Colour, label: int | None = None, alpha: float = 1.0) -> None:
        """A smooth open line of the given width (pixels)."""
        self.paint(ribbon(points, width / 2, width / 2 * 0.8), colour, label, alpha=alpha)

    def finish(self) -> tuple[Image, Mask]:
        """The picture and its label map, shrunk to the photo's size. A label is that of one of the pixel's four."""
        size = (self.width // SUPERSAMPLE, self.height // SUPERSAMPLE)
        small = np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in self.planes], axis=-1)
        return small, np.ascontiguousarray(self.labels[::SUPERSAMPLE, ::SUPERSAMPLE])
