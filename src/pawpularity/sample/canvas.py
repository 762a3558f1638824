"""A canvas with soft, shaded, antialiased shapes, and a label map that is painted with them.

The mask that colours pixels also labels them, so the label map is correct by construction. Everything is drawn at twice the
photo's size and shrunk by `Canvas.finish`. OpenCV fills the polygons: at this size it is many times faster than Pillow,
and it places them to 1/16 pixel.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import TypedDict, Unpack

import cv2
import numpy as np
import numpy.typing as npt

from pawpularity.sample.shapes import Frame, Line, Points, ribbon

Draws = npt.NDArray[np.float64]
Mask = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]
Colour = tuple[float, float, float]

SUPERSAMPLE = 2
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
BLACK: Colour = (0.0, 0.0, 0.0)
WHITE: Colour = (255.0, 255.0, 255.0)
SHADOW: Colour = (30.0, 24.0, 34.0)
_SHIFT = 4  # OpenCV takes fixed-point coordinates: 4 bits give 1/16 pixel


def luminance(colour: Colour) -> float:
    """Rec. 601 luma (0..255) of an RGB colour, as in JPEG and `convert("L")`."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` with `share` (0..1) of `second` in it."""
    a, b, c = (p + (q - p) * share for p, q in zip(first, second, strict=True))
    return a, b, c


def tone(colour: Colour, target: float) -> Colour:
    """The colour at luminance `target` (0..255), with the same hue: darkened by scaling, lightened with white."""
    now = luminance(colour)
    if target <= now:
        return mix(BLACK, colour, target / max(now, 1e-6))
    return mix(colour, WHITE, (target - now) / max(255.0 - now, 1e-6))


@cache
def _slope(length: int) -> Image:
    return np.linspace(1, -1, length, dtype=np.float32)


@cache
def _noise_tile(kind: str) -> Image:
    """A fixed 1024x1024 tile of unit-sd noise: "grain" (white) or "fur" (short strokes)."""
    white = np.random.default_rng(20).standard_normal((1024, 1024), dtype=np.float32)
    if kind == "fur":
        white = cv2.GaussianBlur(white, (0, 0), sigmaX=0.8, sigmaY=2.6)
    tile: Image = (white / white.std()).astype(np.float32)
    return tile


def texture(kind: str, top: int, left: int, height: int, width: int) -> Image:
    """A piece (height, width) of a noise tile, which repeats."""
    cut = _noise_tile(kind)[top : top + height, left : left + width]
    missing = height - cut.shape[0], width - cut.shape[1]
    return np.pad(cut, ((0, missing[0]), (0, missing[1])), mode="wrap") if any(missing) else cut


class Shading(TypedDict, total=False):
    """How a shape is filled; all but `soft` are shares of its colour."""

    alpha: float  # opacity
    light: float  # how much brighter its upper left is than its lower right
    edge: float  # how much its border darkens, which makes it look round
    fur: float  # strength of the fur's strokes
    soft: float  # distance over which its border fades


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

    def cover(self, points: Points, soft: float = 0.0) -> tuple[tuple[slice, slice], Mask] | None:
        """The polygon's box on the canvas (rows, columns) and its coverage (0..255) in it; None if it lies outside.

        `soft` is the radius, in pixels, over which its border fades.
        """
        pad = 2 + int(2 * soft)
        low, high = np.floor(points.min(axis=0)) - pad, np.ceil(points.max(axis=0)) + pad + 1
        x0, y0 = max(int(low[0]), 0), max(int(low[1]), 0)
        x1, y1 = min(int(high[0]), self.width), min(int(high[1]), self.height)
        if x1 <= x0 or y1 <= y0:
            return None
        # A soft shape is blurred together with its parts outside the canvas, so that it does not fade at the canvas' edge.
        rim = pad if soft else 0
        mask = np.zeros((y1 - y0 + 2 * rim, x1 - x0 + 2 * rim), np.uint8)
        fixed = np.rint((points - [x0 - rim, y0 - rim]) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, _SHIFT)
        if soft:
            k = 2 * max(1, int(soft * 0.6)) + 1
            mask = cv2.blur(cv2.blur(mask, (k, k)), (k, k))[rim:-rim, rim:-rim]
        return (slice(y0, y1), slice(x0, x1)), mask

    def mask(self, points: Points) -> Mask:
        """The polygon's coverage as a mask of the whole canvas, to clip other shapes with."""
        whole = np.zeros((self.height, self.width), np.uint8)
        found = self.cover(points)
        if found is not None:
            whole[found[0]] = found[1]
        return whole

    def paint(
        self, points: Points, colour: Colour, label: int | None = None, clip: Mask | None = None,
        **shading: Unpack[Shading],
    ) -> None:  # fmt: skip
        """Fill a polygon (canvas pixels) within `clip`, a mask of the whole canvas, and write `label` into the label map."""
        found = self.cover(points, shading.get("soft", 0.0))
        if found is None:
            return
        box, cover = found
        if clip is not None:
            cover = cv2.multiply(cover, clip[box], scale=1 / 255)
        weight = cover.astype(np.float32)
        weight *= shading.get("alpha", 1.0) / 255.0
        region = self.planes[:, box[0], box[1]]
        ink = np.array(colour, np.float32)[:, None, None]
        light, edge, fur = shading.get("light", 0.0), shading.get("edge", 0.0), shading.get("fur", 0.0)
        if light or edge or fur:
            # Shading adds a little grey as well as scaling the colour: black coats would otherwise stay flat.
            paint = _shade(box, cover, light, edge, fur) * (ink + 26.0)
            paint += ink
            paint -= region
        else:
            paint = ink - region
        paint *= weight
        region += paint
        if label is not None:
            # Faint paint (a shadow, a soft rim) relabels a pixel only if the label below has a higher number.
            below = self.labels[box]
            below[(weight > 0.9) | ((weight > 0.03) & (below > label))] = label

    def line(self, points: Points, width: float, colour: Colour, label: int | None = None, alpha: float = 1.0) -> None:
        """A smooth open line of the given width (pixels)."""
        self.paint(ribbon(points, width / 2, width / 2 * 0.8), colour, label, alpha=alpha)

    def finish(self) -> tuple[Image, Mask]:
        """The picture and its label map, shrunk to the photo's size. A pixel gets the label of one of its four pixels."""
        size = (self.width // SUPERSAMPLE, self.height // SUPERSAMPLE)
        small = np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in self.planes], axis=-1)
        return small, np.ascontiguousarray(self.labels[::SUPERSAMPLE, ::SUPERSAMPLE])


def _shade(box: tuple[slice, slice], cover: Mask, light: float, edge: float, fur: float) -> Image:
    """How much brighter or darker each pixel of a shape is than its colour."""
    height, width = cover.shape
    shade = np.float32(0.62 * light) * _slope(height)[:, None] + np.float32(0.38 * light) * _slope(width)[None, :]
    if edge:
        k = 2 * max(1, min(height, width) // 7) + 1
        depth = cv2.blur(cv2.blur(cover, (k, k)), (k, k)).astype(np.float32)
        depth *= edge * 2 / 255.0
        depth -= edge * 1.75
        shade += depth
    if fur:
        shade += np.float32(fur) * texture("fur", box[0].start % 512, box[1].start % 512, height, width)
    return shade


@dataclass(frozen=True)
class Pen:
    """Paints on a canvas in the coordinates and units of a frame, and labels what it paints."""

    canvas: Canvas
    frame: Frame
    label: int
    fixed: bool = False

    def labelled(self, label: int) -> "Pen":
        """This pen with another label, unless its label is fixed."""
        return self if self.fixed else replace(self, label=label)

    def paint(self, points: Line, colour: Colour, clip: Mask | None = None, **shading: Unpack[Shading]) -> None:
        """`Canvas.paint`."""
        if "soft" in shading:
            shading["soft"] *= self.frame.scale
        self.canvas.paint(self.frame(points), colour, self.label, clip, **shading)

    def line(self, points: Line, width: float, colour: Colour, alpha: float = 1.0) -> None:
        """`Canvas.line`; the width is in pixels."""
        self.canvas.line(self.frame(points), width, colour, self.label, alpha)
