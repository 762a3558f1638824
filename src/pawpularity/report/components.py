"""What a section of the page is made of: tables, figures, words. The template shows them; nothing here computes a figure."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pawpularity.errors import UserError


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    kind: str = ""
    """`bad` = a warning, `strong` = the row's own figure"""
    flag: str = ""
    """words shown behind it as a warning: leaky by design, leak alarm"""


@dataclass(frozen=True)
class Table:
    """A table. The first cell of a row names it."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    command: str
    """what makes its figures again"""
    notes: Sequence[str] = ()
    stacked: bool = False
    """on a phone a block a row, instead of scrolling sideways"""
    kind: str = "table"

    @property
    def wordy(self) -> list[bool]:
        """By column, whether it holds words rather than figures: words stand to the left, and long ones are wrapped."""
        columns = zip(*self.cells, strict=True)
        return [sum(_is_figure(cell.text) for cell in column) * 2 < len(self.rows) for column in columns]

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, every cell a Cell."""
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]


@dataclass(frozen=True)
class Figure:
    """A picture."""

    markup: str
    """an inline `<svg>`, or the data URI of an `<img>`"""
    alt: str
    """what it shows, in words, with its main figures"""
    caption: str
    command: str
    size: tuple[int, int] = (0, 0)
    """pixels, of a data URI; (0, 0) for inline drawings, which carry their own"""
    flag: str = ""
    kind: str = "figure"


@dataclass(frozen=True)
class Words:
    """Paragraphs."""

    lines: Sequence[str]
    kind: str = "words"


@dataclass(frozen=True)
class Stand:
    """A few figures in large letters, and one sentence or two about them."""

    figures: Sequence[tuple[str, str, str]]
    """(what it is, the figure, its interval or what it is of)"""
    lines: Sequence[str]
    kind: str = "stand"


@dataclass(frozen=True)
class Heading:
    """What the blocks after it are of: a data set, a study."""

    text: str
    kind: str = "heading"


@dataclass(frozen=True)
class Folded:
    """A long text as it was printed, shown on request."""

    title: str
    text: str
    command: str
    kind: str = "folded"


@dataclass(frozen=True)
class Cards:
    """Photos beside their maps, to be sorted and filtered."""

    cards: Sequence[Mapping[str, Any]]
    choices: Mapping[str, Any]
    """what the filters offer"""
    scales: Sequence[Mapping[str, str]]
    command: str
    kind: str = "cards"


Block = Table | Figure | Words | Stand | Heading | Folded | Cards


@contextmanager
def as_written(path: Path, verb: str, command: str) -> Iterator[None]:
    """Say of a file that `verb` wrote, and whose parts are read in the block, that it is not what it should be."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(
            f"{path}: is not what {verb} writes ({type(error).__name__}: {error}); run: {command}"
        ) from None


def collect(parts: Iterable[Callable[[], Sequence["Block"]]]) -> tuple[list["Block"], list[str]]:
    """(the blocks of all parts in their order, a line for each part whose file cannot be shown)."""
    blocks: list[Block] = []
    faults: list[str] = []
    for part in parts:
        try:
            blocks += part()
        except UserError as error:
            faults.append(str(error))
    return blocks, faults


MADE, MISSING, DAMAGED = "made", "not made", "cannot be shown"


@dataclass(frozen=True)
class Section:
    """A part of the page. Without blocks it was not run, and `command` says how to."""

    key: str
    """its anchor"""
    title: str
    short: str
    """for the list of the page's parts"""
    command: str
    blocks: Sequence[Block] = ()
    faults: Sequence[str] = ()
    """what was there and could not be shown, a line each"""
    why: str = ""
    """why it has nothing to show, where the command alone does not say it"""

    @property
    def state(self) -> str:
        """`made`, `not made` or `cannot be shown`."""
        return MADE if self.blocks else DAMAGED if self.faults else MISSING


def _is_figure(text: str) -> bool:
    return not text or text == "-" or re.match(r"[-+<[(]*\d", text) is not None


def flagged(name: str, flags: Mapping[str, str]) -> Cell:
    """A run's name as a row's first cell, with its warning where it has one."""
    return Cell(name, flag=flags.get(name, ""))


def span(low: float | None, high: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """`[14.30, 16.11]`; `-` where there is none."""
    if low is None or high is None:
        return "-"
    sign = "+" if signed else ""
    return f"[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def number(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """`15.23`; `-` where there is none."""
    return "-" if value is None else f"{value:{'+' if signed else ''}.{digits}f}"


def chance(p: float | None) -> str:
    """A p for people."""
    return "-" if p is None else f"{p:.4f}" if p >= 0.00005 else "<.0001"


def duration(seconds: float | None) -> str:
    """`67 s`, `7.1 min`, `3.2 h`; `-` where nothing was timed."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
