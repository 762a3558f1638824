"""What a command shows: log lines, tables, progress, durations, the next step. Importing this imports nothing heavy.

Results go to standard output, everything else to standard error, so that a result can be piped into another program.
"""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pawpularity.errors import printable

if TYPE_CHECKING:
    from tqdm import tqdm

Item = TypeVar("Item")
LOG_EVERY_S = 30.0
"""Without a terminal there is no bar; a log line appears this often instead."""
PIPED_WIDTH = 200
"""Width of a table in characters where there is no terminal."""
_STYLE = re.compile(r"(\x1b\[[0-9;]*m)")


def log(line: str) -> None:
    """Print one line on standard error. Of several processes that train together only the first prints."""
    if os.environ.get("RANK", "0") == "0":
        print(printable(line, "\n\t"), file=sys.stderr, flush=True)


def next_step(command: str) -> None:
    """Print the command that usually follows."""
    log(f"next: {command}")


def emit(value: Any, text: str, destination: str | None) -> None:
    """Print the result `text`, and write `value` as JSON to the file `destination`; with `-` the JSON is printed instead."""
    from pawpularity.files import write_json

    if destination == "-":
        print(json.dumps(value, indent=2, allow_nan=False))
        return
    # What our tables are made bold with may pass, no other command for the terminal.
    print("".join(part if _STYLE.fullmatch(part) else printable(part, "\n\t") for part in _STYLE.split(text)))
    if destination:
        write_json(Path(destination), value)


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

    A cell that does not fit is wrapped. None is an empty cell; numbers should come formatted.
    """
    from io import StringIO

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    left = set(left)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(header):
        shown.add_column(name, justify="left" if number in left else "right", overflow="fold")
    for row in rows:
        shown.add_row(*("" if cell is None else Text(printable(str(cell), "\n")) for cell in row))
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else PIPED_WIDTH
    console = Console(file=StringIO(), width=width, force_terminal=terminal, highlight=False, legacy_windows=False)
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
    """A progress bar with the time left; without a terminal a log line every half minute. Use it in a `with` block."""

    def __init__(self, total: int | None, what: str, unit: str = "photo") -> None:
        self.total, self.what, self.unit = total, what, unit
        self.done, self.extra = 0, ""
        self.started = self.logged = time.perf_counter()
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
            from tqdm import tqdm

            self._bar = tqdm(total=self.total, desc=self.what, unit=self.unit, leave=False, dynamic_ncols=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, total: int) -> None:
        """Set a total that was not known at the start."""
        self.total = total
        if self._bar is not None:
            self._bar.total = total

    def add(self, count: int = 1) -> None:
        """`count` more are done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.perf_counter() - self.logged > LOG_EVERY_S:
            self.logged = time.perf_counter()
            log(self._line())

    def note(self, text: str) -> None:
        """Show `text` behind the bar, for example the last epoch's RMSE."""
        self.extra = text
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def _line(self) -> str:
        line = f"{self.what}: {self.done:,}{'' if self.total is None else f' of {self.total:,}'}"
        if self.total and self.done:
            left = (time.perf_counter() - self.started) / self.done * (self.total - self.done)
            line += f", {duration(left)} left"
        return f"{line}, {self.extra}" if self.extra else line


def track(items: Iterable[Item], what: str, *, total: int | None = None, unit: str = "photo") -> Iterator[Item]:
    """Yield `items` under a progress bar."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(total, what, unit) as progress:
        for item in items:
            yield item
            progress.add()
