"""The contest's tables, read strictly: `train.csv`, `test.csv`, `sample_submission.csv`.

Columns are found by name: they may be in any order, and others may be among them. The result is always `Id`, the twelve
metadata columns in Kaggle's order, and (training only) `Pawpularity`, in the file's row order. Everything a model would
fail on later is refused here, in one line that names the file, the row as a spreadsheet numbers it (the header is row 1),
the column, and the remedy.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pawpularity.errors import UserError

ID = "Id"
TARGET = "Pawpularity"
METADATA = ("Subject Focus", "Eyes", "Face", "Near", "Action", "Accessory", "Group", "Collage", "Human", "Occlusion", "Info",
            "Blur")  # fmt: skip

Floats = npt.NDArray[np.float64]

# Python's float() also accepts "1_000", "١" and "nan", which are no numbers in a contest table.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_LONGEST_ID = 200
_NAMED = 6  # most columns of a header that a message names
_ABOVE = 10  # rows among which the header is looked for: a title or Excel's `sep=,` may stand above it


@dataclass(frozen=True)
class Cells:
    """The text of the requested columns: `columns[name][i]` is the cell in spreadsheet row `rows[i]` of the file."""

    path: Path
    rows: list[int]
    columns: dict[str, list[str]]

    def where(self, i: int, column: str) -> str:
        """`train.csv, row 17, column "Eyes"`, for messages."""
        return f'{self.path}, row {self.rows[i]}, column "{column}"'

    def numbers(self, column: str, what: str) -> npt.NDArray[np.float64]:
        """The column as finite float64. Raises UserError naming the first bad cell; `what` says what to write there."""
        cells = self.columns[column]
        for i, cell in enumerate(cells):
            if not _NUMBER.fullmatch(cell):
                empty = cell.lower() in ("", "nan", "na", "n/a", "null", "none")
                wrong = "is empty" if empty else f"{shown(cell)} is not a number"
                raise UserError(f"{self.where(i, column)}: {wrong}; write {what}")
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
            if wrong := _id_fault(value):
                raise UserError(f"{self.where(i, ID)}: {wrong}")
            if value in first:
                shortened = re.fullmatch(r"\d(\.\d+)?E\+\d+", value, re.IGNORECASE)
                remedy = "a spreadsheet shortened them: write Ids as text" if shortened else "keep one of them"
                raise UserError(
                    f"{self.path}: Id {shown(value)} is in row {self.rows[first[value]]} and again in row "
                    f"{self.rows[i]}; {remedy}"
                )
            first[value] = i
        return ids


def read_cells(path: Path, columns: Sequence[str]) -> Cells:
    """Read the named columns of a comma-separated UTF-8 file as stripped text (`Id` is not stripped).

    Empty rows are skipped, and so is what stands above the header; a file with only a header gives no rows. Raises UserError
    for a file that is missing, empty, unreadable, not UTF-8 or separated otherwise, for a missing or repeated column, and for
    a row with another number of cells than the header.
    """
    records = _records(path)
    above = _header_row(records, columns)
    if above is None:
        raise UserError(f"{path}: is empty; it must begin with a header row ({', '.join(columns)})")
    header = [name.strip() for name in records[above]]
    position = {name: _position(path, header, name, columns) for name in columns}
    found = Cells(path, [], {name: [] for name in columns})
    for number, record in enumerate(records[above + 1 :], start=above + 2):
        if not _holds_data(record):
            continue
        if len(record) != len(header):
            raise UserError(
                f"{path}, row {number}: has {len(record)} cells, the header has {len(header)}; "
                "correct the row (a comma inside a cell needs quotes)"
            )
        found.rows.append(number)
        for name in columns:
            cell = record[position[name]]
            found.columns[name].append(cell if name == ID else cell.strip())
    return found


def read_train(path: Path) -> pd.DataFrame:
    """Read the training table from a CSV file or from a data folder that holds `train.csv`.

    Returns columns [Id (str), 12 metadata (int8, 0 or 1), Pawpularity (float64, 1..100)] in file order, index 0..n-1.
    Raises UserError.
    """
    cells = _read(path, "train.csv", (ID, *METADATA, TARGET))
    frame = _frame(cells)
    scores = whole_scores(cells.numbers(TARGET, "a score of 1 to 100"))
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


def whole_scores(values: Floats) -> Floats:
    """`values` (n,), rounded if all of them are nearly whole, as scores are after float32 or half precision; else unchanged."""
    nearest = np.rint(values)
    off = np.abs(values - nearest)
    # Shares of 100 in bfloat16 are up to 0.2 off, nearly all of them. If a few values alone are off, it was not rounding;
    # but one of ten folds may have been.
    beside = off[off > 1e-3]
    many = len(values) >= 20 and np.ptp(nearest) >= 10 and len(beside) >= 0.03 * len(values)
    half = many and off.max() <= min(0.2, 10 * beside.mean())
    return nearest if (half or off.max() <= 1e-3) and np.abs(nearest).max() >= 1 else values


def scores_differ(one: Floats, other: Floats) -> npt.NDArray[np.bool_]:
    """(n,) where two columns of scores differ by more than rounding: a thousandth of their sd, and float32's last digits."""
    tolerance = 1e-3 * float(np.std(one)) + 1e-6 * float(np.abs(one).max(initial=1.0))
    different: npt.NDArray[np.bool_] = np.abs(one - other) > tolerance
    return different


def shown(cell: str) -> str:
    """The cell in quotes, on one line and short, for messages."""
    text = cell if len(cell) <= 40 else f"{cell[:37]}..."
    return '"' + "".join(c if c.isprintable() else "?" for c in text) + '"'


def near_name(name: str) -> str:
    """The same for all names that file systems, spreadsheets and TensorFlow make of one Id.

    Other case or Unicode form, endings, lost zeros, `b'...'` around bytes.
    """
    plain = re.sub(r"^b?'(.*)'$", r"\1", unicodedata.normalize("NFC", name).casefold())
    plain = re.sub(r"(\.(jpe?g|jpe|jfif|png|webp|gif|bmp|tiff?|avif|hei[cf]|0))+$", "", plain)
    return plain.lstrip("0") if plain.isdecimal() else plain


def find_near(name: str, among: Mapping[str, str]) -> str | None:
    """What `name` may be in truth; `among`: the true names by their `near_name`.

    A spreadsheet also writes 123456789012345 as 1.23E+14, and 123e6 as 1.23E+08.
    """
    if found := among.get(near_name(name)):
        return found
    if rounded := re.fullmatch(r"\d(?:\.(\d+))?e\+\d+", name.casefold()):
        digits = len(rounded[1] or "")
        return next((true for near, true in among.items() if _rounded(near, digits) == float(name)), None)
    return None


def _rounded(text: str, digits: int) -> float | None:
    return float(f"{float(text):.{digits}e}") if re.fullmatch(r"\d+(e\d+)?", text, re.ASCII) else None


def near_hint(others: Iterable[str], ids: Iterable[str]) -> str:
    """`; "ABC.jpg" looks like "abc": write the Ids alike`, where one of `others` is near to one of `ids`; else empty."""
    known = set(ids)
    among = {near_name(name): name for name in known}
    pairs = ((other, find_near(other, among)) for other in others if other not in known)
    other, found = next((pair for pair in pairs if pair[1]), ("", None))
    return f"; {shown(other)} looks like {shown(found)}: write the Ids alike" if found else ""


def _read(path: Path, name: str, columns: Sequence[str]) -> Cells:
    file = path / name if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise UserError(f"{path}: holds no {name}; give a folder in Kaggle's layout, or get the data with `make data`")
    cells = read_cells(file, columns)
    if not cells.rows:
        raise UserError(f"{file}: has a header and no rows; add at least one")
    return cells


def _frame(cells: Cells) -> pd.DataFrame:
    data: dict[str, object] = {ID: cells.ids()}
    for name in METADATA:
        column = cells.columns[name]
        if set(column) <= {"0", "1"}:  # every real file: no need to parse the cells
            data[name] = (np.array(column) == "1").astype(np.int8)
            continue
        values = cells.numbers(name, "0 or 1")
        wrong = np.flatnonzero((values != 0) & (values != 1))
        if wrong.size:
            i = int(wrong[0])
            raise UserError(f"{cells.where(i, name)}: {shown(column[i])} is neither 0 nor 1; write 0 or 1")
        data[name] = values.astype(np.int8)
    return pd.DataFrame(data)


def _records(path: Path) -> list[list[str]]:
    records: list[list[str]] = []
    text = _text(path)
    try:
        # newline="" leaves line ends to the csv module, which takes \n, \r\n and \r alike.
        records.extend(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:  # most often a quote that is never closed
        _require_commas(path, text, '"')
        raise UserError(f"{path}, row {len(records) + 1}: is not readable CSV ({error}); correct its quotes") from None
    return records


def _text(path: Path) -> str:
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder, not a CSV file; give the file")
        if not path.exists():
            raise UserError(f"{path}: is missing; `make data` gets the contest's data, `make sample` draws a sample")
        if not path.is_file():  # opening a pipe would hang
            raise UserError(f"{path}: is not a regular file; give the CSV file itself")
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    try:
        text = raw.decode().replace("\ufeff", "")  # also one below a title, or a second one
    except UnicodeDecodeError as error:
        row = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, row {row}: is not UTF-8 text; save the file as CSV UTF-8") from None
    if "\0" in text:
        raise UserError(f"{path}: holds zero bytes, so it is no CSV file; save it as CSV UTF-8")
    return text


def _header_row(records: Sequence[Sequence[str]], columns: Sequence[str]) -> int | None:
    """The place of the header: of the first rows that hold anything, the one with most of `columns`. None for an empty file."""
    first = [i for i, record in enumerate(records) if _holds_data(record)][:_ABOVE]
    # Joined and cut at any separator, so that the header of a table with semicolons is found too, and then refused.
    named = {i: len(set(columns) & set(map(str.strip, re.split(r"[,;\t|]", ",".join(records[i]))))) for i in first}
    return max(named, key=named.__getitem__, default=None)


def _holds_data(record: Sequence[str]) -> bool:
    return any(cell.strip() for cell in record)


def _position(path: Path, header: Sequence[str], name: str, columns: Sequence[str]) -> int:
    """The index of the column. Raises UserError if it is missing or repeated."""
    count = header.count(name)
    if count == 1:
        return header.index(name)
    if count > 1:
        raise UserError(f'{path}: column "{name}" is in the header {count} times; keep one')
    if len(header) == 1:
        _require_commas(path, header[0])
    folded = {other.casefold(): other for other in header if other not in columns}
    if close := get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6):
        raise UserError(f'{path}: column "{name}" is missing; rename column {shown(folded[close[0]])}?')
    more = f" and {len(header) - _NAMED} more" if len(header) > _NAMED else ""
    listed = ", ".join(map(shown, header[:_NAMED])) + more
    raise UserError(f'{path}: column "{name}" is missing; the file has {listed}; add it')


def _require_commas(path: Path, text: str, quote: str = "") -> None:
    """Raise UserError if another separator is in `text`, between two of `quote`."""
    for mark, marks in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if quote + mark + quote in text:
            raise UserError(f"{path}: is separated by {marks}, not commas; save it as comma-separated")


def _id_fault(value: str) -> str:
    """Why `value` cannot be an Id, or "". An Id names a photo file, so it must not lead out of the folder."""
    if not value.strip():
        return "is empty; every row needs its photo's Id"
    bad = re.search(r"[/\\]|\.\.|^\.|^\s|\s$", value) or not value.isprintable() or len(value.encode()) > _LONGEST_ID
    rule = f"may not hold /, \\, .. or control characters, begin with a dot, have spaces around it or over {_LONGEST_ID} bytes"
    return f"{shown(value)} is no file name; an Id {rule}" if bad else ""
