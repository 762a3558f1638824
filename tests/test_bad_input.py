"""Tables from outside: what is legal is read right, everything else is refused in one line, and no file is touched.

A case is a damage done to a sound file; the real command then reads it. `train.csv` and a foreign OOF CSV go through the
same damages. Photos are in `test_bad_photos.py`.
"""

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pawpularity.data.tables import METADATA, read_train
from pawpularity.evaluation.oof import read_oof

LABELS, OOF = Path("labels/train.csv"), Path("theirs.csv")
READERS = {LABELS: ("folds", "--data", "labels"), OOF: ("leakcheck", OOF)}
LONGEST = 400  # characters of a line that is still read
Damage = Callable[[bytes], bytes]


def labels(n: int = 40) -> pd.DataFrame:
    random = np.random.default_rng(0)
    table = pd.DataFrame({"Id": [f"p{i:02d}" for i in range(n)]})
    for name in METADATA:
        table[name] = random.integers(0, 2, n)
    return table.assign(Pawpularity=random.integers(1, 101, n))


def predictions(n: int = 40, seed: int = 1) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    target = labels(n)["Pawpularity"]
    return pd.DataFrame({"Id": labels(n)["Id"], "fold": np.arange(n) % 4, "target": target,
                         "prediction": np.round(38 + 0.3 * (target - 38) + random.normal(0, 8, n), 3)})  # fmt: skip


@pytest.fixture
def tables(work: Path) -> None:
    """The current folder holds labels/train.csv and theirs.csv, both sound."""
    LABELS.parent.mkdir()
    labels().to_csv(LABELS, index=False)
    predictions().to_csv(OOF, index=False)


@pytest.fixture
def refuses(tables, refused, unharmed):
    """The command ends with one line of readable length that names the file and holds `word`; nothing was touched."""

    def check(file: Path, word: str, *words: object) -> str:
        with unharmed(Path()):
            line = refused(*(words or READERS[file]))
        assert file.name in line
        assert word in line
        assert len(line) <= LONGEST
        assert line.isprintable()
        return line

    return check


def rewritten(change: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table, **options: object) -> Damage:
    """The damage of saving the table again, changed; its other cells stay the same text."""
    return lambda raw: change(pd.read_csv(io.BytesIO(raw), dtype=str)).to_csv(index=False, **options).encode()


def cell(row: int, column: str, value: str) -> Damage:
    """Write `value` into the spreadsheet's row."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row - 2, column] = value
        return table

    return rewritten(change)


LEGAL: dict[str, Damage] = {
    "BOM": lambda raw: b"\xef\xbb\xbf" + raw,
    "CRLF": lambda raw: raw.replace(b"\n", b"\r\n"),
    "old Mac line ends": lambda raw: raw.replace(b"\n", b"\r"),
    "BOM, CRLF and quotes": rewritten(quoting=csv.QUOTE_ALL, lineterminator="\r\n", encoding="utf-8-sig"),
    "no line end at the end": lambda raw: raw.rstrip(b"\n"),
    "blank lines": lambda raw: b"\n,,\n" + raw.replace(b"\n", b"\n\n") + b"\n\n",
    "rows of commas alone": lambda raw: raw + b"," * raw.split(b"\n")[0].count(b",") + b"\n",
    "columns the other way round": rewritten(lambda table: table[table.columns[::-1]]),
    "extra columns": rewritten(lambda table: table.assign(note='a, "b"\nc', n="1")[["note", *table.columns, "n"]]),
    "rows in another order": rewritten(lambda table: table[::-1]),
    "whole numbers as floats": rewritten(lambda table: pd.concat([table["Id"], table.iloc[:, 1:].astype(float)], axis=1)),
    "spaces around numbers": rewritten(lambda table: pd.concat([table["Id"], " " + table.iloc[:, 1:] + " "], axis=1)),
    "spaces around the names of columns": rewritten(lambda table: table.rename(columns=" {} ".format)),
}  # fmt: skip


@pytest.mark.parametrize("how", LEGAL)
def test_a_legal_file_is_read_right(tables, paw, how, unharmed):
    assert paw(*READERS[LABELS]).code == 0
    (folds,) = Path("oof/folds").glob("*.csv")
    for file in READERS:
        file.write_bytes(LEGAL[how](file.read_bytes()))
    with unharmed(*READERS, folds):
        assert [paw(*READERS[LABELS]).code, paw("oof", OOF).code] == [0, 0]
    assert list(Path("oof/folds").glob("*.csv")) == [folds], "the same rows have the same name"
    found = read_train(LABELS).sort_values("Id", ignore_index=True)
    pd.testing.assert_frame_equal(found, labels(), check_dtype=False)
    pd.testing.assert_frame_equal(read_oof(OOF), predictions(), check_dtype=False)


DAMAGES: dict[str, tuple[Damage, str]] = {  # of any file
    "empty": (lambda raw: b"", "empty"),
    "line ends alone": (lambda raw: b"\r\n\r\n", "empty"),
    "a header alone": (lambda raw: raw.split(b"\n")[0], "no rows"),
    "no header": (lambda raw: raw.split(b"\n", 1)[1], '"Id" is missing'),
    "semicolons": (lambda raw: raw.replace(b",", b";"), "semicolons"),
    "tabs": (lambda raw: raw.replace(b",", b"\t"), "tabs"),
    "bars": (lambda raw: raw.replace(b",", b"|"), "bars"),
    "semicolons and decimal commas": (rewritten(sep=";", decimal=","), "semicolons"),
    "Latin-1": (lambda raw: raw.replace(b"p01", "pé".encode("latin-1")), "row 3: is not UTF-8"),
    "UTF-16": (lambda raw: raw.decode().encode("utf-16"), "row 1: is not UTF-8"),
    "UTF-16 without a mark": (lambda raw: raw.decode().encode("utf-16-le"), "zero bytes"),
    "a zero byte": (lambda raw: raw.replace(b"p01", b"p\x001"), "zero bytes"),
    "a spreadsheet's own file": (lambda raw: b"PK\x03\x04\x14\x00\x06\x00\x08\x00\xd0\xcf", "UTF-8"),
    "a page instead of the file": (lambda raw: b"<!DOCTYPE html>\n<html>Sign in</html>\n", '"Id" is missing'),
    "a quote never closed": (lambda raw: raw.replace(b"p01", b'"p01'), "row 3"),
    "a quote within": (lambda raw: raw.replace(b"p01", b'"p"01'), "row 3"),
    "a cell of megabytes": (lambda raw: raw.replace(b"p01", b"p" * 3_000_000), "row 3"),
    "a row of megabytes": (lambda raw: raw.replace(b"\np01", b",1" * 1_500_000 + b"\np01"), "row 2"),
    "a header of megabytes": (lambda raw: b"x," * 1_500_000 + raw.replace(b"Id", b"Ix"), " more"),
    "a column in two": (lambda raw: raw.replace(b"Id,", b"Id,Id,", 1), '"Id" stands in the header 2 times'),
    "Id in small letters": (lambda raw: raw.replace(b"Id", b"ID", 1), 'rename column "ID"'),
    "no Id": (rewritten(lambda table: table.drop(columns="Id")), '"Id" is missing'),
    "a cell too many": (lambda raw: raw.replace(b"p01", b"p01,0"), "row 3"),
    "a comma at the end of all": (lambda raw: raw.replace(b"\n", b",\n").replace(b",\n", b"\n", 1), "row 2"),
    "a cell too few": (lambda raw: raw.replace(b"p01,", b""), "row 3"),
    "cut short": (lambda raw: raw[:-9], "row 41"),
    "twice": (lambda raw: raw + raw.split(b"\n", 1)[1], "row 2 and again in row 42"),
    "an Id twice": (cell(4, "Id", "p00"), "row 2 and again in row 4"),
    "no Id in a row": (cell(4, "Id", ""), 'row 4, column "Id": is empty'),
    "an Id of spaces": (cell(4, "Id", "  "), 'row 4, column "Id": is empty'),
    "an Id that leads out": (cell(4, "Id", "../p02"), '"../p02" is no file name'),
    "an Id with a slash": (cell(4, "Id", "/etc/passwd"), '"/etc/passwd" is no file name'),
    "an Id with a backslash": (cell(4, "Id", "a\\b"), "is no file name"),
    "an Id with two dots": (cell(4, "Id", "a..b"), "is no file name"),
    "an Id that hides": (cell(4, "Id", ".p"), "dot"),
    "an Id with a space": (cell(4, "Id", "p02 "), "spaces"),
    "an Id of two lines": (cell(4, "Id", "p\n02"), '"p?02" is no file name'),
    "an Id that rings": (cell(4, "Id", "p\x0702"), '"p?02" is no file name'),
    "an Id too long for a disk": (cell(4, "Id", "é" * 101), "200 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("file", READERS, ids=str)
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_table_is_refused(refuses, file, how):
    damage, word = DAMAGES[how]
    file.write_bytes(damage(file.read_bytes()))
    refuses(file, word)


EMPTY, TEXT, LARGE = "is empty", "is not a number", "is too large"
CELLS = [
    *((LABELS, "Eyes", value, word) for value, word in [
        ("", EMPTY), ("NaN", EMPTY), ("yes", TEXT), ("True", TEXT), ("2", "0 or 1"), ("0.5", "0 or 1"), ("-1", "0 or 1")]),
    *((LABELS, "Pawpularity", value, word) for value, word in [
        ("", EMPTY), ("nan", EMPTY), ("inf", TEXT), ("1e999", LARGE), ("9" * 100_000, LARGE), ("1_0", TEXT), ("٣", TEXT),
        ("0x1f", TEXT), ("38,5", TEXT), ("0", "1 to 100"), ("0.999", "1 to 100"), ("100.01", "1 to 100"), ("-5", "1 to 100")]),
    *((OOF, "prediction", value, word) for value, word in [
        ("", EMPTY), ("nan", EMPTY), ("inf", TEXT), ("9" * 400, LARGE), ("1e200", LARGE)]),
    *((OOF, "target", value, word) for value, word in [("0x10", TEXT), ("True", TEXT), ("-1e10", LARGE)]),
    *((OOF, "fold", value, word) for value, word in [
        ("1000000000000000001", LARGE), ("0.5", "whole number"), ("", EMPTY), ("A", TEXT)]),
]  # fmt: skip


@pytest.mark.parametrize(("file", "column", "value", "word"), CELLS, ids=lambda value: str(value)[:12])
def test_a_bad_cell_is_refused(refuses, file, column, value, word):
    file.write_bytes(cell(4, column, value)(file.read_bytes()))
    assert f'row 4, column "{column}"' in refuses(file, word)


@pytest.mark.parametrize(
    ("file", "old", "new", "word"),
    [
        (LABELS, "Subject Focus", "subject_focus", 'rename column "subject_focus"'),
        (LABELS, "Pawpularity", "popularity", 'rename column "popularity"'),
        (LABELS, "Blur", "xyz", '"Blur" is missing'),
        (LABELS, "Blur", "Eyes", '"Eyes" stands in the header 2 times'),
        (OOF, "fold", "xyz", '"fold" is missing'),
        (OOF, "target", "xyz", '"target" is missing'),
        (OOF, "prediction", "xyz", '"prediction" is missing'),
    ],
)
def test_a_missing_column_is_named(refuses, file, old, new, word):
    file.write_text(file.read_text().replace(old, new, 1))
    refuses(file, word)


COMMANDS = {
    "compare": ("compare", OOF, "other.csv", "--draws", "100"),
    "ensemble": ("ensemble", OOF, "other.csv", "--draws", "100"),
    "oof": ("oof", OOF, "other.csv"),
    "errors": ("errors", OOF, "--data", "labels", "--draws", "100"),
    "hypotheses": ("hypotheses", "--run", OOF, "--data", "labels", "--draws", "100"),
}
PREDICTIONS: dict[str, tuple[Damage, str, tuple[str, ...]]] = {
    "no number": (cell(4, "prediction", "NaN"), 'row 4, column "prediction"', tuple(COMMANDS)),
    "another scale": (rewritten(lambda table: table.assign(prediction=table["prediction"].astype(float) / 100)), "--scale",
                      tuple(COMMANDS)),
    "another target": (cell(5, "target", "1.25"), "p03", ("compare", "ensemble", "errors", "hypotheses")),
    "a row less": (rewritten(lambda table: table[:-1]), "p39", ("compare", "ensemble", "hypotheses")),
    "another row": (rewritten(lambda table: table.replace("p39", "zzz")), "p39", ("compare", "ensemble", "hypotheses")),
}  # fmt: skip


@pytest.mark.parametrize("how", PREDICTIONS)
def test_every_command_reads_predictions_as_strictly(refuses, paw, how):
    predictions(seed=2).to_csv("other.csv", index=False)
    assert paw(*READERS[LABELS]).code == 0  # the folds file is there too
    damage, word, commands = PREDICTIONS[how]
    OOF.write_bytes(damage(OOF.read_bytes()))
    for command in commands:
        refuses(OOF, word, *COMMANDS[command])


def test_the_last_of_many_rows_is_named_as_a_spreadsheet_does(refuses):
    """A quoted line break belongs to its row; a blank line is a row of its own."""
    row = ",0,1,0,1,0,1,0,1,0,1,0,1,"
    lines = [f"x{i}{row}{1 + i % 100}\n" for i in range(100_000)]
    head = "note," + ",".join(labels().columns) + '\n"two\nlines",' + lines[0] + "\n"
    LABELS.write_text(head + "".join("," + line for line in lines[1:-1]) + "," + lines[-1].replace(",100\n", ",101\n"))
    refuses(LABELS, 'row 100002, column "Pawpularity"')


@pytest.mark.parametrize("file", READERS, ids=str)
@pytest.mark.parametrize(
    ("kind", "word"),
    [("nothing", "no"), ("folder", "folder"), ("pipe", "regular"), ("/dev/zero", "regular"), ("nowhere.csv", "no"), ("loop", "no"),
     ("/proc/self/mem", "cannot be read")],
)  # fmt: skip
def test_something_else_in_its_place(refuses, file, kind, word):
    if kind.startswith("/") and not Path(kind).exists():
        pytest.skip(f"{kind} is not here")
    file.rename(file.with_suffix(".sound"))
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind != "nothing":
        file.symlink_to(file.name if kind == "loop" else kind)
    refuses(file, word)


@pytest.mark.parametrize("file", READERS, ids=str)
def test_a_link_out_of_the_folder_is_followed(tables, paw, tmp_path, unharmed, file):
    before = paw(*READERS[file], "--json", "-").out
    away = tmp_path / "x.csv"
    file.rename(away)
    file.symlink_to(away)
    with unharmed(file, away):
        done = paw(*READERS[file], "--json", "-")
    assert (done.code, done.out) == (0, before)
