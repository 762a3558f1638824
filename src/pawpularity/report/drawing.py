"""Drawings for the page: matplotlib's SVG, inline, in colours that are the page's CSS variables.

So they follow the page's dark mode and print style, and their text can be searched and read aloud. They are drawn at the width of
a phone (`WIDTH` CSS pixels), where text has its real size; wider screens show them side by side.

    markup = drawn("rmse", 240, paint, "RMSE of three runs: ...")     # paint(axes)
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 340.0  # CSS pixels; matplotlib's point is one of them here
INK, SOFT, LINE, PAPER = "#1b1b1c", "#5a5a5b", "#d5d5d1", "#fdfdfe"
# Okabe and Ito's colours, which colour-blind readers can distinguish; the page has a lighter set for dark mode.
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, BROWN = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b88700", "#56b4e9", "#7f6a3f"),
)
SERIES = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, BROWN)
_VARIABLES = {
    INK: "ink", SOFT: "soft", LINE: "line", PAPER: "paper",
    **{colour: f"c{place}" for place, colour in enumerate(SERIES)},
}  # fmt: skip
_SHAPES = ("o", "s", "D", "^", "v", "P", "X")
_RASTER_DPI = 170
_ROW, _STEP, _MARGIN = (
    21.0,
    13.0,
    42.0,
)  # pixels of a forest plot: a row's text, a mark below it, the axis with its label
_LETTER, _BOLD_LETTER = 5.8, 7.2  # widest letter of a forest plot's text, CSS pixels

_STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a `$` in a name is a `$`
    "font.family": "sans-serif", "font.size": 11.0, "axes.titlesize": 11.0, "axes.labelsize": 11.0,
    "xtick.labelsize": 11.0, "ytick.labelsize": 11.0, "legend.fontsize": 11.0, "svg.fonttype": "none",
    "svg.hashsalt": "pawpularity", "text.color": INK, "axes.labelcolor": SOFT, "axes.edgecolor": SOFT,
    "axes.titlecolor": INK, "xtick.color": SOFT, "ytick.color": SOFT, "axes.facecolor": "none", "figure.facecolor": "none",
    "savefig.facecolor": "none", "axes.linewidth": 0.8, "axes.spines.top": False, "axes.spines.right": False,
    "grid.color": LINE, "grid.linewidth": 0.8, "legend.frameon": False, "axes.axisbelow": True,
}  # fmt: skip


def drawn(name: str, height: float, paint: Callable[["Axes"], None], alt: str) -> str:
    """An inline `<svg>` of WIDTH x `height` CSS pixels, drawn by `paint`. The same drawing gives the same bytes.

    `name` (letters, digits, hyphens) must be unique on the page: the ids inside begin with it.
    """
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot: it asks the machine for a screen

    text = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        paint(figure.add_subplot())
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", dpi=_RASTER_DPI, metadata=metadata)
    return inline(text.getvalue(), name, height, alt)


def inline(svg: str, name: str, height: float, alt: str) -> str:
    """A matplotlib SVG as part of a page: unique ids, the page's colours and font, no style that affects the rest of it."""
    body = svg[svg.index("<defs>") : svg.rindex("</svg>")] if "<defs>" in svg else svg
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = body.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    body = re.sub(r"(font: [^;\"]*?px) [^;\"]+", r"\1 var(--font)", body)
    body = re.sub(r"#[0-9a-f]{6}\b", lambda found: _themed(found[0]), body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    size = f'viewBox="0 0 {WIDTH:g} {height:g}" width="{WIDTH:g}" height="{height:g}"'
    return f'<svg class="plot" {size} role="img" aria-label="{escape(alt)}">{body}</svg>'


def _themed(colour: str) -> str:
    return f"var(--{_VARIABLES[colour]})" if colour in _VARIABLES else colour


@dataclass(frozen=True)
class Mark:
    """A figure and its interval."""

    value: float
    low: float
    high: float
    colour: str = INK
    hollow: bool = False
    shape: str = "o"


@dataclass(frozen=True)
class Row:
    """One row of a forest plot: its label, its figure as text, its marks one below the other."""

    label: str
    words: str
    marks: Sequence[Mark]
    ticks: Sequence[tuple[float, str]] = field(default_factory=tuple)
    """(place, colour) of upright strokes: the constant, a known truth"""
    bad: bool = False
    """a flagged run, whose label has the colour of warnings"""


def forest_height(rows: Sequence[Row], keys: int = 0) -> float:
    """CSS pixels that `forest` needs for `rows` and a legend of `keys` lines."""
    return _MARGIN + 16.0 * keys + sum(_ROW + _STEP * len(row.marks) for row in rows)


def forest(
    axes: "Axes",
    rows: Sequence[Row],
    label: str,
    *,
    zero: float | None = None,
    band: tuple[float, float] | None = None,
    keys: Sequence[tuple[str, str, str]] = (),
) -> None:
    """Paint a forest plot with labels above their marks, so that it fits a phone.

    `label`: the axis and its unit. `zero`: the place of no difference. `band`: the range too small to matter. `keys`: (text, shape,
    colour) of the legend, a line each.
    """
    from matplotlib.lines import Line2D

    top = 0.0
    across = axes.get_yaxis_transform()
    if band is not None:
        axes.axvspan(*band, color=LINE, alpha=0.6, lw=0, zorder=0)
    if zero is not None:
        axes.axvline(zero, color=SOFT, lw=0.9, zorder=1)
    for row in rows:
        colour = ORANGE if row.bad else INK
        axes.text(0.0, top + _ROW - 8, _fitted(row), transform=across, color=colour, va="baseline", weight="bold")
        axes.text(1.0, top + _ROW - 8, row.words, transform=across, ha="right", va="baseline", color=INK)
        bottom = top + _ROW + _STEP * len(row.marks)
        for step, mark in enumerate(row.marks):
            y = top + _ROW + _STEP * (step + 0.35)
            axes.plot([mark.low, mark.high], [y, y], color=mark.colour, lw=2.0, zorder=2, solid_capstyle="butt")
            face = PAPER if mark.hollow else mark.colour
            axes.plot([mark.value], [y], mark.shape, ms=6.5, color=mark.colour, mfc=face, mew=1.4, zorder=3)
        for place, tick in row.ticks:
            axes.plot([place, place], [top + _ROW - 2, bottom - 4], color=tick, lw=2.0, zorder=2)
        top = bottom
    axes.set_ylim(top, 0.0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel(label)
    axes.margins(x=0.04)
    if keys:
        lines = [Line2D([], [], color=colour, marker=shape, ls="" if shape == "|" else "-", ms=10 if shape == "|" else 6,
                        mew=2.0 if shape == "|" else 1.0, label=words) for words, shape, colour in keys]  # fmt: skip
        figure = axes.get_figure()
        assert figure is not None
        figure.legend(handles=lines, loc="outside lower left", ncols=1, handlelength=1.6, labelspacing=0.25)


def _fitted(row: Row) -> str:
    """The row's label, shortened in the middle if it would run into the row's text. Tables have the whole label."""
    room = int((WIDTH - 20.0 - _LETTER * len(row.words)) / _BOLD_LETTER)
    if len(row.label) <= room:
        return row.label
    half = max(3, (room - 1) // 2)
    return f"{row.label[:half]}…{row.label[-half:]}"


def shape_of(place: int) -> str:
    """A different marker for each of a few series, for readers who cannot distinguish colours."""
    return _SHAPES[place % len(_SHAPES)]


def colour_of(place: int) -> str:
    """A different colour for each of a few series."""
    return SERIES[place % len(SERIES)]
