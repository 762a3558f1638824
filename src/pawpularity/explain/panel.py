"""A photo beside its maps, as pictures: the panel for people and papers, and the strip of bare tiles for the gallery.

    photo | gradient | Grad-CAM | RISE | RISE's standard error

A map is laid over the faint grey photo: red raises the score, blue lowers it, and where it is zero the photo shows. One
scale per method serves all photos that are shown together, from -s to +s, so that strong and weak maps look it; nothing is
stretched to its own largest value. What lies beyond the scale has the end's colour. The same maps give the same bytes.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import stats

from pawpularity.explain.methods import TITLES as TITLES
from pawpularity.explain.saliency import Saliency
from pawpularity.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

ERROR = "RISE's standard error"
SIDE = 224  # pixels of a tile
_RAISES, _LOWERS, _ZERO = (178, 24, 43), (33, 102, 172), (236, 236, 236)
_NO_ERROR, _ERROR, _OUTLINE, _HATCH = (247, 247, 250), (63, 0, 125), (230, 120, 0), (70, 70, 70)
_FULL = 0.88  # of a map's colour at the end of its scale; the rest is photo
_UNIT_LINES = 3  # below a scale
_SHARE = 99.0  # per cent of all pixels of a method that its scale covers

Floats = NDArray[np.float64]
Map = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Caption:
    """What stands around the tiles of one photo."""

    title: str
    under: Mapping[str, Sequence[str]]
    """lines below a tile, by method, and by `photo` and `error`"""
    marked: frozenset[str] = frozenset()
    """methods that do not beat a random order on this photo"""


def tidy(value: float) -> float:
    """`value` rounded up to 1, 1.5, 2, 3, 4, 5, 6 or 8 times a power of ten: the end of a scale. 1 for what is not above 0."""
    if not (math.isfinite(value) and value > 0):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    step = next((step for step in (1, 1.5, 2, 3, 4, 5, 6, 8) if step * power >= value * (1 - 1e-9)), 10.0)
    return float(f"{step * power:.3g}")


def scale_of(maps: Sequence[Map]) -> float:
    """The end of the one symmetric scale for `maps` (each (H, W)): it covers 99 % of all their pixels."""
    if not maps:
        return 1.0
    return tidy(float(np.percentile(np.abs(np.concatenate([each.ravel() for each in maps])), _SHARE)))


def error_scale(maps: Sequence[Map]) -> float:
    """The end of the scale, from zero, for standard errors."""
    return tidy(max((float(each.max()) for each in maps), default=0.0))


def overlay(pixels: Pixels, values: NDArray[np.floating], scale: float, side: int = SIDE) -> Pixels:
    """`values` (any size) in colour over the faint grey photo (s, s, 3): (side, side, 3)."""
    large = _resized(np.asarray(values, dtype=np.float64), side)
    strength = (np.clip(np.abs(large) / scale, 0.0, 1.0) * _FULL)[..., None]
    colour = np.where(large[..., None] > 0, np.array(_RAISES, dtype=np.float64), np.array(_LOWERS, dtype=np.float64))
    return np.rint(_faint(pixels, side) * (1.0 - strength) + colour * strength).astype(np.uint8)


def error_tile(rise: Saliency, scale: float, side: int = SIDE) -> Pixels:
    """RISE's standard error, 0 to `scale`, as white to dark violet; outlined in red where the map is told to be above zero, in
    blue where below, and hatched where it is told to be neither."""
    assert rise.standard_error is not None
    told = told_from_zero(rise)
    tile = hatched(shaded(rise.standard_error, scale, side), ~told)
    return outlined(outlined(tile, told & (rise.map > 0), _RAISES), told & (rise.map < 0), _LOWERS)


def shaded(errors: NDArray[np.floating], scale: float, side: int = SIDE) -> Pixels:
    """Standard errors from 0 to `scale` as white to dark violet, (side, side, 3)."""
    share = np.clip(_resized(np.asarray(errors, dtype=np.float64), side) / scale, 0.0, 1.0)[..., None]
    return np.rint(np.array(_NO_ERROR) * (1 - share) + np.array(_ERROR) * share).astype(np.uint8)


def hatched(tile: Pixels, places: NDArray[np.bool_]) -> Pixels:
    """A copy of `tile` (side, side, 3) with diagonal lines over `places`, of any size."""
    side, drawn = len(tile), tile.copy()
    inside = _resized(places.astype(np.float64), side) > 0.5
    down, across = np.indices((side, side))
    drawn[inside & ((down + across) % (side // 16) == 0)] = _HATCH
    return drawn


def outlined(tile: Pixels, places: NDArray[np.bool_], colour: tuple[int, int, int] = _OUTLINE) -> Pixels:
    """A copy of `tile` (side, side, 3) with a line around `places`, of any size."""
    side, drawn = len(tile), tile.copy()
    inside = _resized(places.astype(np.float64), side) > 0.5
    outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, colour, max(1, side // 112))
    return drawn


def told_from_zero(rise: Saliency) -> NDArray[np.bool_]:
    """(H, W) where zero lies outside the 95 % interval of the map, pixel by pixel (Student's t)."""
    assert rise.standard_error is not None
    told: NDArray[np.bool_] = np.abs(rise.map) > stats.t.ppf(0.975, int(rise.facts["degrees"])) * rise.standard_error
    return told


def strip(pixels: Pixels, maps: Mapping[str, Saliency], scales: Mapping[str, float]) -> Pixels:
    """The photo and its maps side by side without a word, (SIDE, tiles x SIDE, 3); `tiles_of` says which is which."""
    tiles = [cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)]
    for name in tiles_of(maps)[1:]:
        tiles.append(error_tile(maps["rise"], scales[name]) if name == "error"
                     else overlay(pixels, maps[name].map, scales[name]))  # fmt: skip
    return np.concatenate(tiles, axis=1)


def tiles_of(maps: Mapping[str, Saliency]) -> list[str]:
    """Names of the tiles, left to right: `photo`, the methods, and `error` where RISE has a standard error."""
    error = ["error"] if "rise" in maps and maps["rise"].standard_error is not None else []
    return ["photo", *maps, *error]


def write_strip(path: Path, tiles: Pixels) -> None:
    """`tiles` as a PNG, whole or not at all."""
    with atomic_file(path) as temporary:
        Image.fromarray(tiles).save(temporary, format="PNG")


def draw_panel(
    path: Path, tiles: Pixels, maps: Mapping[str, Saliency], scales: Mapping[str, float], caption: Caption
) -> None:
    """Write the panel of one photo (its `strip` as `tiles`) as a PNG, whole: titles, scales in score points, captions."""
    from matplotlib.figure import Figure

    names = tiles_of(maps)
    lines = max((len(caption.under.get(name, ())) for name in names), default=0)
    width, above, below = 2.45 * len(names), 0.75, 0.78 + 0.165 * lines
    height = above + 2.3 + below
    figure = Figure(figsize=(width, height), dpi=100)
    figure.text(0.012, 1 - 0.2 / height, caption.title, fontsize=11, va="center", parse_math=False)
    for place, name in enumerate(names):
        left = (place + 0.03) / len(names)
        share = 0.94 / len(names)
        axes = figure.add_axes((left, below / height, share, 2.3 / height))
        axes.imshow(tiles[:, place * SIDE : (place + 1) * SIDE], interpolation="none")
        axes.set_axis_off()
        weak = name in caption.marked
        title = {"photo": "photo", "error": ERROR}.get(name) or TITLES.get(name, name)
        axes.set_title(
            f"{title}: not told from random" if weak else title, fontsize=9.5, color="#b2182b" if weak else "#111111"
        )
        if weak:
            axes.add_patch(_frame(axes))
        top = below / height
        if name != "photo":
            bar = figure.add_axes((left, top - 0.13 / height, share, 0.08 / height))
            _draw_bar(bar, name != "error", scales[name], maps["rise" if name == "error" else name].unit)
            top -= 0.64 / height
        for number, line in enumerate(caption.under.get(name, ())):
            figure.text(left, top - (0.16 + 0.165 * number) / height, line, fontsize=7.5, va="center", color="#333333",
                        parse_math=False)  # fmt: skip
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def write_maps(path: Path, maps: Mapping[str, Saliency]) -> None:
    """The raw maps as `.npz` without pickle, float32: METHOD, METHOD_standard_error, METHOD_effect, METHOD_NAME (others)."""
    arrays: dict[str, NDArray[np.float32]] = {}
    for name, saliency in maps.items():
        arrays[name] = np.asarray(saliency.map, dtype=np.float32)
        if saliency.standard_error is not None:
            arrays[f"{name}_standard_error"] = np.asarray(saliency.standard_error, dtype=np.float32)
        if saliency.effect is not None:
            arrays[f"{name}_effect"] = np.asarray(saliency.effect, dtype=np.float32)
        arrays |= {f"{name}_{key}": np.asarray(value, dtype=np.float32) for key, value in saliency.arrays.items()}
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _draw_bar(axes: "Axes", signed: bool, scale: float, unit: str) -> None:
    level = np.linspace(-1 if signed else 0, 1, 257)[None, :, None]
    if signed:
        colour = np.where(level > 0, np.array(_RAISES), np.array(_LOWERS))
        shown = np.array(_ZERO) * (1 - np.abs(level) * _FULL) + colour * np.abs(level) * _FULL
    else:
        shown = np.array(_NO_ERROR) * (1 - level) + np.array(_ERROR) * level
    axes.imshow(np.rint(shown).astype(np.uint8), aspect="auto", extent=(-scale if signed else 0, scale, 0, 1))
    axes.set_yticks([])
    axes.set_xticks([-scale, 0, scale] if signed else [0, scale])
    axes.set_xticklabels([f"{-scale:g}", "0", f"+{scale:g}"] if signed else ["0", f"{scale:g}"], fontsize=7)
    labels = axes.get_xticklabels()
    labels[0].set_horizontalalignment("left")
    labels[-1].set_horizontalalignment("right")
    axes.tick_params(length=2, pad=1)
    lines = textwrap.wrap(unit, 46)
    short = lines if len(lines) <= _UNIT_LINES else [*lines[: _UNIT_LINES - 1], lines[_UNIT_LINES - 1] + " ..."]
    axes.set_xlabel("\n".join(short), fontsize=6.5, labelpad=0, linespacing=1.05)
    axes.spines[:].set_visible(False)


def _frame(axes: "Axes") -> "Rectangle":
    from matplotlib.patches import Rectangle

    return Rectangle(
        (0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor="#b2182b", linewidth=2.5, linestyle=(0, (4, 2))
    )


def _faint(pixels: Pixels, side: int) -> Floats:
    grey = cv2.cvtColor(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    faint: Floats = 150.0 + 0.40 * grey.astype(np.float64)
    return np.repeat(faint[..., None], 3, axis=2)


def _resized(values: Floats, side: int) -> Floats:
    large: Floats = cv2.resize(values, (side, side), interpolation=cv2.INTER_LINEAR)
    return large


@dataclass(frozen=True, eq=False)
class Column:
    """One picture of a row, with its scale and the lines below it."""

    head: str
    tile: Pixels
    scale: float
    unit: str
    lines: Sequence[str]
    signed: bool = True


def draw_columns(path: Path, title: str, columns: Sequence[Column], foot: Sequence[str] = ()) -> None:
    """Write pictures side by side between a title and lines `foot` as a PNG, whole."""
    from matplotlib.figure import Figure

    below = 0.1 + 0.16 * len(foot) if foot else 0.0
    bottom = below + 0.62 + 0.17 * max(len(column.lines) for column in columns)
    width, height = 2.75 * len(columns), 0.75 + 2.55 + bottom
    figure = Figure(figsize=(width, height), dpi=100)
    figure.text(0.012, 1 - 0.2 / height, title, fontsize=11, va="center", parse_math=False)
    for number, line in enumerate(foot):
        figure.text(0.012, (below - 0.1 - 0.16 * number) / height, line, fontsize=7, va="center", color="#555555")
    for place, column in enumerate(columns):
        left, share = (place + 0.03) / len(columns), 0.94 / len(columns)
        axes = figure.add_axes((left, bottom / height, share, 2.55 / height))
        axes.imshow(column.tile, interpolation="none")
        axes.set_axis_off()
        axes.set_title(column.head, fontsize=8.5)
        bar = figure.add_axes((left, (bottom - 0.13) / height, share, 0.08 / height))
        _draw_bar(bar, column.signed, column.scale, column.unit)
        for number, line in enumerate(column.lines):
            figure.text(left, (bottom - 0.6 - 0.17 * number) / height, line, fontsize=7.5, va="center", color="#333333",
                        parse_math=False)  # fmt: skip
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
