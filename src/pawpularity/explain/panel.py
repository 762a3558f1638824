"""Pictures of maps: tiles, strips of bare tiles for the gallery, panels with text and scales for people and papers, and two plots.

A map is laid over the faint grey photo: red raises the score, blue lowers it, and where the map is zero the photo shows. All photos
that are shown together have one scale per method, from -s to +s. No map is stretched to its own maximum; values beyond the scale
have the colour of its end. The same maps give the same bytes.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import stats

from pawpularity.data.photos import Pixels
from pawpularity.explain.methods import TITLES
from pawpularity.explain.players import Floats
from pawpularity.explain.saliency import Saliency
from pawpularity.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pawpularity.explain.sanity import Sanity

SIDE = 224  # pixels of a tile
RAISES, LOWERS = (178, 24, 43), (33, 102, 172)  # colours of places that raise and lower the score
_ZERO = (236, 236, 236)
_NO_ERROR, _ERROR, _OUTLINE, _HATCH = (247, 247, 250), (63, 0, 125), (230, 120, 0), (70, 70, 70)
_WEAK = "#b2182b"
_FULL = 0.88  # share of a map's colour at the end of its scale; the rest is photo
_COLUMN, _LINE = 245, 16  # width of a panel's column and height of a line of text, pixels
# Okabe and Ito's colours, which colour-blind readers can distinguish.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def tidy(value: float) -> float:
    """The end of a scale: `value` rounded up to 1, 1.5, 2, 3, 4, 5, 6 or 8 times a power of ten. 1 if `value` is not above 0."""
    if not (math.isfinite(value) and value > 0):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    step = next((step for step in (1, 1.5, 2, 3, 4, 5, 6, 8) if step * power >= value * (1 - 1e-9)), 10.0)
    return float(f"{step * power:.3g}")


def scale_of(maps: Sequence[NDArray[np.floating[Any]]]) -> float:
    """The end of one symmetric scale for all `maps` (each (H, W)): it covers 99 % of their pixels."""
    return tidy(float(np.percentile(np.abs(np.concatenate([each.ravel() for each in maps])), 99.0))) if maps else 1.0


def error_scale(maps: Sequence[NDArray[np.floating[Any]] | None]) -> float:
    """The end of the scale, from zero, for standard errors."""
    return tidy(max((float(each.max()) for each in maps if each is not None), default=0.0))


def overlay(pixels: Pixels, values: NDArray[np.floating[Any]], scale: float) -> Pixels:
    """`values` (any size) in colour over the faint grey photo (s, s, 3): (SIDE, SIDE, 3)."""
    large = _resized(values)[..., None]
    strength = np.clip(np.abs(large) / scale, 0.0, 1.0) * _FULL
    grey = cv2.cvtColor(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    faint = 150.0 + 0.40 * grey.astype(np.float64)[..., None]
    mixed: Pixels = np.rint(faint * (1.0 - strength) + np.where(large > 0, RAISES, LOWERS) * strength).astype(np.uint8)
    return mixed


def differs_from_zero(rise: Saliency) -> NDArray[np.bool_]:
    """(H, W) where zero lies outside the 95 % interval of the map, pixel by pixel (Student's t)."""
    assert rise.standard_error is not None
    beyond: NDArray[np.bool_] = np.abs(rise.map) > stats.t.ppf(0.975, int(rise.facts["degrees"])) * rise.standard_error
    return beyond


def error_tile(rise: Saliency, scale: float) -> Pixels:
    """RISE's standard error from 0 to `scale`, as white to dark violet. Outlined in red where the map is above zero and in blue
    where it is below; hatched where it may be either."""
    assert rise.standard_error is not None
    beyond = differs_from_zero(rise)
    tile = shaded(rise.standard_error, scale)
    down, across = np.indices((SIDE, SIDE))
    tile[(_resized(~beyond) > 0.5) & ((down + across) % (SIDE // 16) == 0)] = _HATCH
    return outlined(outlined(tile, beyond & (rise.map > 0), RAISES), beyond & (rise.map < 0), LOWERS)


def shaded(errors: NDArray[np.floating[Any]], scale: float) -> Pixels:
    """Standard errors from 0 to `scale` as white to dark violet, (SIDE, SIDE, 3)."""
    share = np.clip(_resized(errors) / scale, 0.0, 1.0)[..., None]
    return np.rint(np.array(_NO_ERROR) * (1 - share) + np.array(_ERROR) * share).astype(np.uint8)


def outlined(tile: Pixels, places: NDArray[np.bool_], colour: tuple[int, int, int] = _OUTLINE) -> Pixels:
    """A copy of `tile` (SIDE, SIDE, 3) with a line around `places` (a mask of any size)."""
    inside = (_resized(places) > 0.5).astype(np.uint8)
    outlines, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    drawn: Pixels = cv2.drawContours(tile.copy(), outlines, -1, colour, SIDE // 112)
    return drawn


def tiles_of(maps: Mapping[str, Saliency]) -> list[str]:
    """Names of the tiles, left to right: `photo`, the methods, and `error` if RISE has a standard error."""
    error = ["error"] if "rise" in maps and maps["rise"].standard_error is not None else []
    return ["photo", *maps, *error]


def tiles(pixels: Pixels, maps: Mapping[str, Saliency], scales: Mapping[str, float]) -> dict[str, Pixels]:
    """The photo and its maps by name, (SIDE, SIDE, 3) each."""
    found = {"photo": cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)}
    found |= {name: overlay(pixels, one.map, scales[name]) for name, one in maps.items()}
    return found | {"error": error_tile(maps["rise"], scales["error"])} if "error" in tiles_of(maps) else found


def write_strip(path: Path, shown: Mapping[str, Pixels]) -> None:
    """Write the tiles side by side without text, (SIDE, tiles x SIDE, 3), as PNG."""
    with atomic_file(path) as temporary:
        Image.fromarray(np.concatenate(list(shown.values()), axis=1)).save(temporary, format="PNG")


@dataclass(frozen=True, eq=False)
class Column:
    """One picture of a panel, with its scale and the lines below it."""

    title: str
    tile: Pixels
    lines: Sequence[str]
    scale: float = 0.0  # 0 for a picture without a scale
    unit: str = ""
    signed: bool = True
    weak: bool = False  # no better than random: framed in red


def draw_panel(path: Path, title: str, columns: Sequence[Column], foot: Sequence[str] = ()) -> None:
    """Write a PNG of pictures side by side, with a title above and the lines `foot` below. Tiles are not resampled."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    below = ["\n".join(part for line in column.lines for part in textwrap.wrap(line, 46)) for column in columns]
    units = ["\n".join(textwrap.wrap(column.unit, 46, max_lines=3, placeholder=" ...")) for column in columns]
    top, under = 60, 28 + 12 * max(unit.count("\n") + 1 for unit in units)  # above the tiles; scale and unit below them
    width = _COLUMN * len(columns)
    height = top + SIDE + under + _LINE * (max(text.count("\n") for text in below) + 1 + len(foot)) + 20
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)

    def write(left: float, down: float, text: str, size: float, colour: str = "#333333", at: str = "top") -> None:
        figure.text(
            left / width, 1 - down / height, text, size=size, color=colour, va=at, linespacing=1.5, parse_math=False
        )

    write(10, 12, title, 11, "#111111")
    for number, (column, text, unit) in enumerate(zip(columns, below, units, strict=True)):
        left = number * _COLUMN + 10
        axes = figure.add_axes((left / width, 1 - (top + SIDE) / height, SIDE / width, SIDE / height))
        axes.imshow(column.tile, interpolation="none")
        axes.set_axis_off()
        colour = _WEAK if column.weak else "#111111"
        axes.set_title(column.title + ": no better than random" * column.weak, fontsize=9, color=colour)
        if column.weak:
            frame = Rectangle(
                (0, 0), 1, 1, fill=False, edgecolor=_WEAK, lw=2.5, ls=(0, (4, 2)), transform=axes.transAxes
            )
            axes.add_patch(frame)
        if column.scale:
            bar = figure.add_axes((left / width, 1 - (top + SIDE + 14) / height, SIDE / width, 8 / height))
            _draw_bar(bar, column, unit)
        write(left, top + SIDE + (under if column.scale else 4) + 4, text, 7.5)
    write(10, height - 8, "\n".join(foot), 7, "#555555", "bottom")
    _save(figure, path)


def _draw_bar(axes: "Axes", column: Column, unit: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    # The ends as they look over grey; the rest mixed as `overlay` and `shaded` do.
    ends = [np.array(_ZERO) * (1 - _FULL) + np.array(end) * _FULL for end in (LOWERS, RAISES)]
    colours = [ends[0], np.array(_ZERO), ends[1]] if column.signed else [np.array(_NO_ERROR), np.array(_ERROR)]
    low = -column.scale if column.signed else 0.0
    shown = ScalarMappable(
        Normalize(low, column.scale), LinearSegmentedColormap.from_list("", [c / 255 for c in colours])
    )
    bar = axes.figure.colorbar(shown, cax=axes, orientation="horizontal", ticks=[low, column.scale])
    bar.outline.set_visible(False)
    bar.ax.set_xticklabels([f"{low:g}", f"{'+' if column.signed else ''}{column.scale:g}"], fontsize=7)
    first, last = bar.ax.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    bar.ax.tick_params(length=2, pad=1)
    bar.ax.set_xlabel(unit, fontsize=6.5, labelpad=0)


def draw_convergence(history: Mapping[str, Sequence[Sequence[float | None]]], precision: float, path: Path) -> None:
    """Write a PNG: the relative standard error of each photo's RISE map against its masks, both axes logarithmic.

    `history`: by photo, (masks, relative error) after each block; None means no signal. The grey line falls with the root of the
    number of masks (slope -1/2), as the error of a mean of independent blocks does. The dashed line is `precision`, the target.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(8.2, 4.4), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for colour, (name, points) in zip(_COLOURS, history.items(), strict=False):
        masks, errors = np.array(points, dtype=np.float64).T  # None becomes nan, which is not drawn
        label = name[:12] + ("" if np.isfinite(errors).any() else ": no signal")
        axes.plot(masks, errors, "o-", ms=3, lw=1.4, color=colour, label=label)
    span = np.array([min(one[0][0] or 0 for one in history.values()), max(one[-1][0] or 0 for one in history.values())])
    axes.plot(span, precision * np.sqrt(span[1] / span), color="#BBBBBB", lw=1.2, zorder=1, label="slope -1/2")
    axes.axhline(precision, color="#666666", lw=0.9, ls="--", label="target precision")
    axes.set(xscale="log", yscale="log", xlabel="masks", ylabel="relative standard error, ||SE|| / ||map||")
    axes.xaxis.set_major_locator(LogLocator(base=2))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")
    axes.set_title("RISE: error of the map by masks", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    _save(figure, path)


def draw_sanity(found: "Sequence[Sanity]", path: Path) -> None:
    """Write a PNG: correlation with the trained network's map by stage, with ceiling and floor, one plot a method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.4 + 4.2 * len(found), 4.3), dpi=110, layout="constrained")
    plots = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, one in zip(plots, found, strict=True):
        places = np.arange(len(one.stages))
        axes.axhline(one.ceiling["signed"], color="#888888", lw=1.0, ls="--", label="ceiling (same photo, new draws)")
        for name, words, colour in (("signed", "signed", _COLOURS[0]), ("absolute", "sizes", _COLOURS[1])):
            axes.axhline(one.floor[name], color=colour, lw=1.0, ls=":", label=f"floor (other photos), {words}")
            low, mean, high = np.array([[r.low, r.mean, r.high] for r in (s.similarity[name] for s in one.stages)]).T
            axes.fill_between(places, low, high, color=colour, alpha=0.18, lw=0)
            axes.plot(places, mean, "o-", color=colour, ms=4, label=words)
        for place, stage in zip(places, one.stages, strict=True):
            if stage.state != "alive":
                axes.text(place, -0.97, stage.state, ha="center", va="bottom", fontsize=8, color="#A00000", rotation=90)
        axes.set_xticks(places, [stage.name for stage in one.stages], rotation=40, ha="right", fontsize=8)
        axes.set(xlabel="random weights from the score down to", ylim=(-1.0, 1.05))
        axes.set_title(f"{TITLES.get(one.method, one.method)}: {one.verdict}", fontsize=10, loc="left", wrap=True)
        axes.spines[["top", "right"]].set_visible(False)
    plots[0].set_ylabel("Spearman's correlation with the trained map")
    figure.legend(*plots[0].get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower center", ncols=5)
    _save(figure, path)


def _save(figure: "Figure", path: Path) -> None:
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})  # matplotlib's version would change bytes


def _resized(values: NDArray[Any]) -> Floats:
    large: Floats = cv2.resize(np.asarray(values, dtype=np.float64), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return large
