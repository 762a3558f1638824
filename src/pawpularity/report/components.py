"""The blocks of a section: tables, figures, text. The template renders them; nothing here computes a figure."""

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
    """`bad` = a warning, `strong` = the row's main figure"""
    flag: str = ""
    """a warning shown after the text: leaky by design, leak alarm"""


@dataclass(frozen=True)
class Table:
    """A table. The first cell of a row names it."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    command: str
    """the command that makes its figures"""
    notes: Sequence[str] = ()
    stacked: bool = False
    """on a phone every row is a block, instead of a table that scrolls sideways"""
    kind: str = "table"

    @property
    def wordy(self) -> list[bool]:
        """By column, whether it holds text rather than figures. Text is left-aligned, and long text is wrapped."""
        columns = zip(*self.cells, strict=True)
        return [sum(_is_figure(cell.text) for cell in column) * 2 < len(self.rows) for column in columns]

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, with every cell as a Cell."""
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]


@dataclass(frozen=True)
class Figure:
    """A picture."""

    markup: str
    """an inline `<svg>`, or the data URI of an `<img>`"""
    alt: str
    """the alternative text: what it shows, with its main figures"""
    caption: str
    command: str
    size: tuple[int, int] = (0, 0)
    """pixels of a data URI; (0, 0) for an inline drawing, which has its own size"""
    flag: str = ""
    kind: str = "figure"


@dataclass(frozen=True)
class Words:
    """Paragraphs."""

    lines: Sequence[str]
    kind: str = "words"


@dataclass(frozen=True)
class KeyFigures:
    """A few figures in large type, and one or two sentences about them."""

    figures: Sequence[tuple[str, str, str]]
    """(name, figure, its interval or a note)"""
    lines: Sequence[str]
    kind: str = "key-figures"


@dataclass(frozen=True)
class Heading:
    """The heading of the blocks after it: a data set, a study."""

    text: str
    kind: str = "heading"


@dataclass(frozen=True)
class Folded:
    """A long printed text that opens on a click."""

    title: str
    text: str
    command: str
    kind: str = "folded"


@dataclass(frozen=True)
class Cards:
    """Photos with their maps, which readers can sort and filter."""

    cards: Sequence[Mapping[str, Any]]
    choices: Mapping[str, Any]
    """the options of the filters"""
    scales: Sequence[Mapping[str, str]]
    command: str
    kind: str = "cards"


Block = Table | Figure | Words | KeyFigures | Heading | Folded | Cards


@contextmanager
def as_written(path: Path, writer: str, command: str) -> Iterator[None]:
    """Around a block that reads `path`, which the command `writer` wrote: errors of its format become UserError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(
            f"{path}: is not what {writer} writes ({type(error).__name__}: {error}); run: {command}"
        ) from None


def collect(parts: Iterable[Callable[[], Sequence["Block"]]]) -> tuple[list["Block"], list[str]]:
    """(the blocks of all parts in order, an error message for each part whose file cannot be shown)."""
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
    """A section of the page. If it has no blocks, `command` makes what it would show."""

    key: str
    """its anchor"""
    title: str
    short: str
    """its name in the page's navigation"""
    command: str
    blocks: Sequence[Block] = ()
    faults: Sequence[str] = ()
    """an error message for each result that could not be shown"""
    why: str = ""
    """why it has no blocks, if the command alone does not explain it"""

    @property
    def state(self) -> str:
        """`made`, `not made` or `cannot be shown`."""
        return MADE if self.blocks else DAMAGED if self.faults else MISSING


def _is_figure(text: str) -> bool:
    return not text or text == "-" or re.match(r"[-+<[(]*\d", text) is not None


def flagged(name: str, flags: Mapping[str, str]) -> Cell:
    """A run's name as a row's first cell, with its warning if it has one."""
    return Cell(name, flag=flags.get(name, ""))


def span(low: float | None, high: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """`[14.30, 16.11]`; `-` for None."""
    if low is None or high is None:
        return "-"
    sign = "+" if signed else ""
    return f"[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def number(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """`15.23`; `-` for None."""
    return "-" if value is None else f"{value:{'+' if signed else ''}.{digits}f}"


def chance(p: float | None) -> str:
    """A p: `0.0123`, `<.0001`; `-` for None."""
    return "-" if p is None else f"{p:.4f}" if p >= 0.00005 else "<.0001"


def duration(seconds: float | None) -> str:
    """`67 s`, `7.1 min`, `3.2 h`; `-` for None."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
