"""What a command shows: log lines, tables, progress, durations, the next step. Importing this imports nothing heavy.

Results go to standard output, everything else to standard error, so that a result can be piped into another program.
"""

import json
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import suppress
from functools import cache
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pawpularity.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Item = TypeVar("Item")
LOG_EVERY_S = 30.0
"""Without a terminal there is no bar; a log line appears this often instead."""
MOST_LINES = 15
"""Lines of a result without --full; remarks and the next step add up to five."""
NARROWEST = 12
"""Characters that a column of words keeps at least."""
_STYLE = re.compile(r"(\x1b\[[0-9;]*m)")
_full = True


def log(line: str) -> None:
    """Print one line on standard error. Of several processes that train together only the first prints."""
    if os.environ.get("RANK", "0") == "0":
        line = printable(line, "\n\t")
        if _bars.cache_info().currsize:
            _bars().console.print("\n".join(fitted(line)), markup=False, highlight=False, soft_wrap=True)
        else:  # a log file keeps a line whole
            print("\n".join(fitted(line)) if sys.stderr.isatty() else line, file=sys.stderr, flush=True)


def next_step(command: str, **words: object) -> None:
    """Print the command that usually follows, as `make_line` writes it. It is never wrapped, so that it can be copied."""
    if os.environ.get("RANK", "0") == "0":
        print(f"next: {printable(make_line(command, **words))}", file=sys.stderr, flush=True)


def make_line(command: str, **words: object) -> str:
    """`command` with the words that have a value: `RUN=a MEMBERS="a b"`."""
    some = {key: value if isinstance(value, list | tuple) else [value] for key, value in words.items() if value}
    texts = {
        key: [f"{one:g}" if isinstance(one, float) else str(one) for one in values] for key, values in some.items()
    }
    return " ".join([command, *(make_word(key, *values) for key, values in texts.items())])


def show_full(full: bool) -> None:
    """Whether results are printed whole from now on, or the first lines of each (option --full)."""
    global _full  # as the terminal's width, it is the same for all that one command prints
    _full = full


def emit(value: Any, text: str, destination: str | None, *, more: str = "") -> None:
    """Print the result `text`, and write `value` as JSON to the file `destination`; with `-` the JSON is printed instead.

    Without --full it prints the first lines of `text`, nothing of `more`, and how many lines that leaves out.
    """
    from pawpularity.files import write_json

    if destination == "-":
        print(json.dumps(value, indent=2, allow_nan=False))
        return
    lines, rest = fitted(text), fitted(more)
    if not _full:
        lines, rest = lines[:MOST_LINES], lines[MOST_LINES:] + rest
        if len(rest) > 1:
            rest = [f"{len(rest)} more lines: --full (make: FULL=1)"]
    print(*map(_shown, [*lines, *rest]), sep="\n")
    if destination:
        write_json(Path(destination), value)


def say(text: str) -> None:
    """Print a result that is words only."""
    print(*map(_shown, fitted(text)), sep="\n")


def _shown(line: str) -> str:
    """`line` without commands for the terminal but those that make it dim."""
    return "".join(part if _STYLE.fullmatch(part) else printable(part, "\t") for part in _STYLE.split(line))


def fitted(text: str) -> list[str]:
    """The lines of `text`, those wider than the terminal wrapped at blanks. Tables fit already."""
    width = terminal_width()
    return [
        part
        for line in text.splitlines()
        for part in (
            [line]
            if len(line) <= width
            else textwrap.wrap(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        )
    ]


def terminal_width() -> int:
    """Columns of the terminal; 80 if unknown."""
    return shutil.get_terminal_size((80, 24)).columns


def points(value: float) -> str:
    """A difference in score points: two decimals with its sign, three where two would be 0.00."""
    return f"{value:+.3f}" if abs(value) < 0.005 else f"{value:+.2f}"


def span(value: float, low: float, high: float) -> str:
    """A difference and its interval: `-0.52 [-0.71, -0.33]`."""
    return f"{points(value)} [{points(low)}, {points(high)}]"


def confirm(question: str) -> bool:
    """Ask a yes/no question at the terminal. End of input counts as no."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def duration(seconds: float) -> str:
    """A time for people: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, left: Iterable[int] = (0,)) -> str:
    """An aligned table as text, no wider than the terminal. Columns `left` are left-aligned, the others right-aligned.

    Where it does not fit, left-aligned cells are wrapped, and numbers only if that is not enough. None is an empty cell; numbers
    should come formatted.
    """
    from io import StringIO

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    left = set(left)
    cells = [["" if cell is None else printable(str(cell), "\n") for cell in row] for row in rows]
    widest = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    least = [min(NARROWEST, width) if number in left else width for number, width in enumerate(widest)]
    whole = sum(least) + 2 * (len(least) - 1) <= terminal_width()  # else numbers are wrapped too, never cut off
    shown = Table(box=None, pad_edge=False, show_header=any(header), header_style="")
    for number, name in enumerate(header):
        words = number in left
        shown.add_column(name, justify="left" if words else "right", overflow="fold", no_wrap=whole and not words,
                         min_width=least[number] if whole else None)  # fmt: skip
    for row in cells:
        shown.add_row(*map(Text, row))
    console = Console(file=StringIO(), width=terminal_width(), highlight=False, legacy_windows=False)
    console.print(shown)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


def make_word(key: str, *values: str) -> str:
    """`RUN=a`, `RUNS="a b"`, `RUN="'my run'"`: a word for `make`, quoted so that it can be pasted into a shell."""
    inner = " ".join(quote(value) for value in values)
    if quote(inner) == inner:
        return f"{key}={inner}"
    if not set(inner) & set('"$`\\!'):
        return f'{key}="{inner}"'
    return f"{key}={quote(inner)}"


class Progress:
    """A progress bar with the time left; without a terminal a log line every half minute. Use it in a `with` block.

    The bar is redrawn by a thread of its own, so that its clock also goes on during a long step. Blocks may be nested.
    """

    def __init__(self, total: int | None, what: str, unit: str = "photos") -> None:
        self.total, self.what, self.unit = total, what, unit
        self.done, self.extra = 0, ""
        self.started = self.logged = time.perf_counter()
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
            with suppress(ModuleNotFoundError):  # Kaggle's image lacks rich
                self._task = _bars().add_task("", total=self.total, line=self.line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            bars = _bars()
            bars.remove_task(self._task)
            if not bars.task_ids:
                bars.stop()
                _bars.cache_clear()

    def start(self, total: int) -> None:
        """Set a total that was not known at the start."""
        self.total, self.started = total, time.perf_counter()
        self._show()

    def add(self, count: int = 1) -> None:
        """`count` more are done."""
        self.done += count
        self._show()
        if self._task is None and time.perf_counter() - self.logged > LOG_EVERY_S:
            self.logged = time.perf_counter()
            log(self.line())

    def note(self, text: str) -> None:
        """Show `text` behind the bar, for example the last epoch's RMSE."""
        self.extra = text

    def line(self) -> str:
        """`what: 12 of 40 photos, 5 s left, note`; the time that has passed where there is no total."""
        passed = time.perf_counter() - self.started
        if self.total is None:
            parts = [self.what, duration(passed)]
        elif self.extra and self._task is not None:  # counts would push the note off a terminal of 80 columns
            parts = [f"{self.what}: {100 * self.done // max(1, self.total)} %"]
        else:
            parts = [f"{self.what}: {self.done:,} of {self.total:,} {self.unit}"]
        if self.total and 0 < self.done < self.total:
            parts.append(f"{duration(passed / self.done * (self.total - self.done))} left")
        return ", ".join([*parts, self.extra] if self.extra else parts)

    def _show(self) -> None:
        if self._task is not None:
            _bars().update(self._task, total=self.total, completed=self.done)


@cache
def _bars() -> "RichProgress":
    """The one display of all bars that are open. The last bar to close stops it."""
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task
    from rich.progress import Progress as RichProgress
    from rich.table import Column
    from rich.text import Text

    class Line(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(task.fields["line"](), no_wrap=True, overflow="ellipsis")

    bars = RichProgress(
        BarColumn(20), Line(Column(no_wrap=True)), console=Console(stderr=True), transient=True, redirect_stdout=False,
        redirect_stderr=False, refresh_per_second=4,
    )  # fmt: skip
    bars.start()
    return bars


def track(items: Iterable[Item], what: str, *, total: int | None = None, unit: str = "photos") -> Iterator[Item]:
    """Yield `items` under a progress bar."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(total, what, unit) as progress:
        for item in items:
            yield item
            progress.add()
