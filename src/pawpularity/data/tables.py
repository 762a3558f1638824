"""The contest's tables, read strictly: `train.csv`, `test.csv`, `sample_submission.csv`.

Columns are found by name, so they may stand in any order and beside others. What comes back is always
`Id`, the twelve metadata columns in Kaggle's order, and (training only) `Pawpularity`, in the file's row order.
Anything a model would choke on later is refused here, in one line that names the file, the row as a spreadsheet
numbers it (the header is row 1), the column, and the mend.
"""

import csv
import io
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pawpularity.errors import UserError

ID = "Id"
TARGET = "Pawpularity"
METADATA = (
    "Subject Focus",
    "Eyes",
    "Face",
    "Near",
    "Action",
    "Accessory",
    "Group",
    "Collage",
    "Human",
    "Occlusion",
    "Info",
    "Blur",
)

# Python's float() also takes "1_000", "١" and "nan"; none of them is a number in a contest table.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_LONGEST_ID = 200
_NAMED = 6  # columns of a foreign header that a message names


@dataclass(frozen=True)
class Cells:
    """The text of the columns asked for: `columns[name][i]` stands in spreadsheet row `rows[i]` of the file."""

    path: Path
    rows: list[int]
    columns: dict[str, list[str]]

    def where(self, i: int, column: str) -> str:
        """`train.csv, row 17, column "Eyes"`, for messages."""
        return f'{self.path}, row {self.rows[i]}, column "{column}"'

    def numbers(self, column: str, what: str) -> npt.NDArray[np.float64]:
        """The column as finite float64. Raises UserError naming the first cell that is no number and `what` is due."""
        cells = self.columns[column]
        for i, cell in enumerate(cells):
            if not _NUMBER.fullmatch(cell):
                if cell.lower() in ("", "nan", "na", "n/a", "null", "none"):
                    raise UserError(f"{self.where(i, column)}: is empty; write {what}")
                raise UserError(f"{self.where(i, column)}: {shown(cell)} is not a number; write {what}")
        values = np.array([float(cell) for cell in cells], dtype=np.float64)
        if not np.isfinite(values).all():
            i = int(np.flatnonzero(~np.isfinite(values))[0])
            raise UserError(f"{self.where(i, column)}: {shown(cells[i])} is too large; write {what}")
        return values

    def ids(self) -> list[str]:
        """The `Id` column: not empty, unique, and fit to be a file name. Raises UserError naming the row(s)."""
        ids = self.columns[ID]
        first: dict[str, int] = {}
        for i, value in enumerate(ids):
            fault = _id_fault(value)
            if fault:
                raise UserError(f"{self.where(i, ID)}: {fault}")
            if value in first:
                raise UserError(
                    f"{self.path}: Id {shown(value)} stands in row {self.rows[first[value]]} and again in row "
                    f"{self.rows[i]}; keep one of them"
                )
            first[value] = i
        return ids


def read_cells(path: Path, columns: Sequence[str]) -> Cells:
    """Read the named columns of a comma-separated UTF-8 file as stripped text (`Id` is not stripped).

    Rows whose cells are all empty are skipped; a file of a header alone gives no rows. Raises UserError for a file that
    is absent, empty, unreadable, not UTF-8 or separated otherwise, for a missing or repeated column, and for a row with
    another number of cells than the header.
    """
    records = _records(path, _text(path))
    if not records:
        raise UserError(f"{path}: is empty; it must begin with a header row ({', '.join(columns)})")
    header = [name.strip() for name in records[0]]
    where = _column_positions(path, header, columns)
    rows: list[int] = []
    taken: dict[str, list[str]] = {name: [] for name in columns}
    for number, record in enumerate(records[1:], start=2):
        if not any(cell.strip() for cell in record):
            continue
        if len(record) != len(header):
            raise UserError(
                f"{path}, row {number}: has {len(record)} cells, the header has {len(header)}; "
                "mend the row (a comma inside a cell needs quotes)"
            )
        rows.append(number)
        for name, position in where.items():
            cell = record[position]
            taken[name].append(cell if name == ID else cell.strip())
    return Cells(path, rows, taken)


def read_train(path: Path) -> pd.DataFrame:
    """Read the training table from a CSV file or from a data folder that holds `train.csv`.

    Returns columns [Id (str), 12 metadata (int8, 0 or 1), Pawpularity (float64, 1..100)] in file order, index 0..n-1.
    Raises UserError for everything else.
    """
    cells = _read(path, "train.csv", (ID, *METADATA, TARGET))
    frame = _frame(cells)
    scores = cells.numbers(TARGET, "a score of 1 to 100")
    outside = np.flatnonzero((scores < 1) | (scores > 100))
    if outside.size:
        i = int(outside[0])
        raise UserError(f"{cells.where(i, TARGET)}: {shown(cells.columns[TARGET][i])} is no score; write 1 to 100")
    frame[TARGET] = scores
    return frame


def read_test(path: Path) -> pd.DataFrame:
    """Read the test table from a CSV file or from a data folder that holds `test.csv`.

    Returns columns [Id (str), 12 metadata (int8, 0 or 1)] in file order, index 0..n-1. Raises UserError.
    """
    return _frame(_read(path, "test.csv", (ID, *METADATA)))


def read_sample_submission(path: Path) -> pd.DataFrame:
    """Read the Ids of a sample submission (a CSV file, or a data folder that holds `sample_submission.csv`), in order.

    Returns the one column [Id (str)]: the scores in a sample submission mean nothing. Raises UserError.
    """
    return pd.DataFrame({ID: _read(path, "sample_submission.csv", (ID,)).ids()})


def _read(path: Path, name: str, columns: Sequence[str]) -> Cells:
    if path.is_dir():
        file = path / name
        if not file.exists():
            raise UserError(
                f"{path}: holds no {name}; give a folder in Kaggle's layout, or get the data with `make data`"
            )
    else:
        file = path
    cells = read_cells(file, columns)
    if not cells.rows:
        raise UserError(f"{file}: has a header and no rows; add at least one")
    return cells


def _frame(cells: Cells) -> pd.DataFrame:
    data: dict[str, object] = {ID: cells.ids()}
    for name in METADATA:
        column = cells.columns[name]
        if set(column) <= {"0", "1"}:  # every real file: no need to look at the cells one by one
            data[name] = (np.array(column) == "1").astype(np.int8)
            continue
        values = cells.numbers(name, "0 or 1")
        wrong = np.flatnonzero((values != 0) & (values != 1))
        if wrong.size:
            i = int(wrong[0])
            raise UserError(f"{cells.where(i, name)}: {shown(column[i])} is neither 0 nor 1; write 0 or 1")
        data[name] = values.astype(np.int8)
    return pd.DataFrame(data)


def _text(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():  # opening a pipe would hang
            raise UserError(f"{path}: is not a regular file; give the CSV file itself")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{path}: is missing; check the path; `make data` gets the contest's, `make sample` draws a sample"
        ) from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, not a CSV file; give the file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, row {row}: is not UTF-8 text; save the file as CSV UTF-8") from None


def _records(path: Path, text: str) -> list[list[str]]:
    if "\0" in text:
        raise UserError(f"{path}: holds zero bytes, so it is no CSV file; get it again, or save it as CSV UTF-8")
    records: list[list[str]] = []
    # newline="" leaves line ends to the csv module, which takes \n, \r\n and \r alike.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        records.extend(reader)
    except csv.Error as error:
        where, most = f"{path}, row {len(records) + 1}", csv.field_size_limit()
        if "field limit" in str(error):  # most often a quote that is never closed
            raise UserError(f"{where}: a cell has more than {most:,} characters; close its quote, or drop it") from None
        raise UserError(f"{where}: is not readable CSV ({error}); mend its quotes") from None
    while records and not any(cell.strip() for cell in records[-1]):
        records.pop()
    return records


def _column_positions(path: Path, header: list[str], columns: Sequence[str]) -> dict[str, int]:
    if len(header) == 1 and len(columns) > 1:
        for mark, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if mark in header[0]:
                raise UserError(f"{path}: is separated by {name}, not commas; save it as comma-separated")
    positions: dict[str, int] = {}
    for name in columns:
        count = header.count(name)
        if count > 1:
            raise UserError(f'{path}: column "{name}" stands in the header {count} times; keep one')
        if count == 0:
            folded = {other.casefold(): other for other in header if other not in columns}
            close = get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
            hint = f"rename column {shown(folded[close[0]])}?" if close else f"the file has {_listed(header)}; add it"
            raise UserError(f'{path}: column "{name}" is missing; {hint}')
        positions[name] = header.index(name)
    return positions


def _listed(header: list[str]) -> str:
    """The first columns' names, as many as leave the message readable."""
    more = len(header) - _NAMED
    return ", ".join(shown(name) for name in header[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _id_fault(value: str) -> str:
    """Why `value` cannot be an Id (it names a photo file, so it must not lead out of the folder), or nothing."""
    if not value.strip():
        return "is empty; every row needs its photo's Id"
    if "/" in value or "\\" in value or ".." in value:
        return f"{shown(value)} is no file name; an Id may not hold /, \\ or .."
    if value != value.strip() or value.startswith(".") or not value.isprintable():
        return (
            f"{shown(value)} is no file name; an Id may not have spaces around it, a leading dot or control characters"
        )
    if len(value.encode()) > _LONGEST_ID:
        return f"{shown(value)} is no file name; an Id may have {_LONGEST_ID} bytes at most"
    return ""


def shown(cell: str) -> str:
    """The cell in quotes, on one line and cut to a length that leaves the message readable."""
    text = cell if len(cell) <= 40 else f"{cell[:37]}..."
    return '"' + "".join(c if c.isprintable() else "?" for c in text) + '"'
