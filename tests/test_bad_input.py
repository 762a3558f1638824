"""Tables from outside: what is legal is read right, everything else is refused in one line, and no file is touched.

A case is a damage done to a sound file; the real command then reads it. `train.csv` and anybody's OOF CSV go through the same
damages. Photos are in `test_bad_photos.py`.
"""

import csv
import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pawpularity.data.tables import METADATA, read_train
from pawpularity.evaluation.oof import read_oof

BOM = b"\xef\xbb\xbf"
LABELS, OOF = Path("labels/train.csv"), Path("theirs.csv")
READERS = {LABELS: ("folds", "--data", "labels"), OOF: ("leakcheck", OOF)}
LONGEST = 400  # characters of a line that is still read


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
def tables(work: Path) -> Path:
    """The current folder holds labels/train.csv and theirs.csv, both sound."""
    LABELS.parent.mkdir()
    labels().to_csv(LABELS, index=False)
    predictions().to_csv(OOF, index=False)
    return work


def rewritten(change: Callable[[pd.DataFrame], pd.DataFrame], **options: object) -> Callable[[bytes], bytes]:
    """The damage of saving the table again, changed; its cells stay the text they are."""
    return lambda raw: change(pd.read_csv(io.BytesIO(raw), dtype=str)).to_csv(index=False, **options).encode()


def same(table: pd.DataFrame) -> pd.DataFrame:
    return table


def cell(row: int, column: str, value: str) -> Callable[[bytes], bytes]:
    """Write `value` into the spreadsheet's row."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row - 2, column] = value
        return table

    return rewritten(change)


LEGAL: dict[str, Callable[[bytes], bytes]] = {
    "BOM": lambda raw: BOM + raw,
    "CRLF": lambda raw: raw.replace(b"\n", b"\r\n"),
    "old Mac line ends": lambda raw: raw.replace(b"\n", b"\r"),
    "BOM, CRLF and quotes": rewritten(same, quoting=csv.QUOTE_ALL, lineterminator="\r\n", encoding="utf-8-sig"),
    "no line end at the end": lambda raw: raw.rstrip(b"\n"),
    "blank lines": lambda raw: raw.replace(b"\n", b"\n\n") + b"\n\n",
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
    assert paw("folds", "--data", "labels").code == 0
    (folds,) = Path("oof/folds").glob("*.csv")
    made = folds.read_bytes()
    for file in READERS:
        file.write_bytes(LEGAL[how](file.read_bytes()))
    with unharmed(*READERS, folds):
        done = paw("folds", "--data", "labels")
        assert done.code == 0, done.err
        assert paw("oof", OOF).code == 0
    assert list(Path("oof/folds").glob("*.csv")) == [folds], "the same rows have the same name"
    assert folds.read_bytes() == made
    found = read_train(LABELS).sort_values("Id", ignore_index=True)
    pd.testing.assert_frame_equal(found, labels(), check_dtype=False)
    pd.testing.assert_frame_equal(read_oof(OOF), predictions(), check_dtype=False)


# Whatever file it is done to. FIRST is its first column but one, COUNT how many columns it has.
ANYWHERE: dict[str, tuple[Callable[[bytes], bytes], tuple[str, ...]]] = {
    "empty": (lambda raw: b"", ("is empty; it must begin with a header row",)),
    "line ends alone": (lambda raw: b"\r\n\r\n", ("is empty",)),
    "a header alone": (lambda raw: raw.split(b"\n")[0], ("a header and no rows; add",)),
    "no header": (lambda raw: raw.split(b"\n", 1)[1], ('column "Id" is missing; the file has "p00"',)),
    "semicolons": (lambda raw: raw.replace(b",", b";"), ("by semicolons, not commas; save it as",)),
    "tabs": (lambda raw: raw.replace(b",", b"\t"), ("by tabs, not commas; save it as",)),
    "bars": (lambda raw: raw.replace(b",", b"|"), ("by bars, not commas; save it as",)),
    "semicolons and decimal commas": (rewritten(same, sep=";", decimal=","), ("by semicolons, not commas",)),
    "Latin-1": (lambda raw: raw.replace(b"p01", "pé".encode("latin-1")), ("row 3: is not UTF-8 text; save",)),
    "UTF-16": (lambda raw: raw.decode().encode("utf-16"), ("row 1: is not UTF-8 text; save the file as CSV UTF-8",)),
    "UTF-16 without a mark": (lambda raw: raw.decode().encode("utf-16-le"), ("zero bytes", "save it as CSV UTF-8")),
    "a zero byte": (lambda raw: raw.replace(b"p01", b"p\x001"), ("holds zero bytes", "get it again")),
    "a spreadsheet's own file": (lambda raw: b"PK\x03\x04\x14\x00\x06\x00\x08\x00\xd0\xcf", ("not UTF-8",)),
    "a page instead of the file": (lambda raw: b"<!DOCTYPE html>\n<html>Sign in</html>\n", ('column "Id" is missing',)),
    "a quote never closed": (lambda raw: raw.replace(b"p01", b'"p01'), ("row 3: is not readable CSV", "mend its quotes")),
    "a quote within": (lambda raw: raw.replace(b"p01", b'"p"01'), ("row 3: is not readable CSV", "mend its quotes")),
    "a cell of megabytes": (lambda raw: raw.replace(b"p01", b"p" * 3_000_000), ("row 3: a cell has more than 131,072",)),
    "a row of megabytes": (lambda raw: raw.replace(b"\np01", b",1" * 1_500_000 + b"\np01"), ("row 2: has", "mend the row")),
    "a header of megabytes": (lambda raw: b"x," * 1_500_000 + raw.replace(b"Id", b"Ix"), ('"x" and 1', " more; add it")),
    "a column in two": (lambda raw: raw.replace(b"Id,", b"Id,Id,", 1), ('column "Id" stands in the header 2 times; keep',)),
    "Id in small letters": (lambda raw: raw.replace(b"Id", b"ID", 1), ('column "Id" is missing; rename column "ID"?',)),
    "no Id": (rewritten(lambda table: table.drop(columns="Id")), ('column "Id" is missing; the file has', "add it")),
    "a cell too many": (lambda raw: raw.replace(b"p01", b"p01,0"), ("row 3: has", "cells, the header has", "mend the row")),
    "a comma at the end of all": (lambda raw: raw.replace(b"\n", b",\n").replace(b",\n", b"\n", 1), ("row 2: has",)),
    "a cell too few": (lambda raw: raw.replace(b"p01,", b""), ("row 3: has", "mend the row (a comma inside")),
    "cut short": (lambda raw: raw[:-9], ("row 41", "mend the row")),
    "twice": (lambda raw: raw + raw.split(b"\n", 1)[1], ('Id "p00" stands in row 2 and again in row 42; keep one',)),
    "an Id twice": (cell(4, "Id", "p00"), ('Id "p00" stands in row 2 and again in row 4; keep one of them',)),
    "no Id in a row": (cell(4, "Id", ""), ('row 4, column "Id": is empty; every row needs its photo\'s Id',)),
    "an Id of spaces": (cell(4, "Id", "  "), ('row 4, column "Id": is empty; every row needs',)),
    "an Id that leads out": (cell(4, "Id", "../p02"), ('row 4, column "Id": "../p02" is no file name; an Id may not',)),
    "an Id with a slash": (cell(4, "Id", "/etc/passwd"), ('row 4, column "Id": "/etc/passwd" is no file name',)),
    "an Id with a backslash": (cell(4, "Id", "a\\b"), ('row 4, column "Id"', "is no file name")),
    "an Id with two dots": (cell(4, "Id", "a..b"), ('row 4, column "Id": "a..b" is no file name',)),
    "an Id that hides": (cell(4, "Id", ".p"), ('row 4, column "Id": ".p" is no file name', "a leading dot")),
    "an Id with a space": (cell(4, "Id", "p02 "), ('row 4, column "Id": "p02 " is no file name', "spaces around")),
    "an Id of two lines": (cell(4, "Id", "p\n02"), ('row 4, column "Id": "p?02" is no file name', "control characters")),
    "an Id that rings": (cell(4, "Id", "p\x0702"), ('row 4, column "Id": "p?02" is no file name',)),
    "an Id too long for a disk": (cell(4, "Id", "é" * 101), ("is no file name; an Id may have 200 bytes at most",)),
}  # fmt: skip


def refuses(refused, unharmed, file: Path, parts: tuple[str, ...], *words: object) -> None:
    """The command that reads `file` ends with one line of readable length that names it, and nothing was touched."""
    with unharmed(Path()):
        line = refused(*(words or READERS[file]))
    assert str(file) in line
    for part in parts:
        assert part in line
    assert len(line) <= LONGEST
    assert line.isprintable()


@pytest.mark.parametrize("file", READERS, ids=str)
@pytest.mark.parametrize("how", ANYWHERE)
def test_a_damaged_table_is_refused(tables, refused, unharmed, file, how):
    damage, parts = ANYWHERE[how]
    file.write_bytes(damage(file.read_bytes()))
    refuses(refused, unharmed, file, parts)


SCORE, EYES = 'row 4, column "Pawpularity": ', 'row 4, column "Eyes": '
OF_LABELS = [
    ("Eyes", "", EYES + "is empty; write 0 or 1"),
    ("Eyes", "NaN", EYES + "is empty; write 0 or 1"),
    ("Eyes", "yes", EYES + '"yes" is not a number; write 0 or 1'),
    ("Eyes", "True", EYES + '"True" is not a number; write 0 or 1'),
    ("Eyes", "2", EYES + '"2" is neither 0 nor 1; write 0 or 1'),
    ("Eyes", "0.5", EYES + '"0.5" is neither 0 nor 1; write 0 or 1'),
    ("Eyes", "-1", EYES + '"-1" is neither 0 nor 1; write 0 or 1'),
    ("Pawpularity", "", SCORE + "is empty; write a score of 1 to 100"),
    ("Pawpularity", "nan", SCORE + "is empty; write a score of 1 to 100"),
    ("Pawpularity", "inf", SCORE + '"inf" is not a number; write a score of 1 to 100'),
    ("Pawpularity", "1e999", SCORE + '"1e999" is too large; write a score of 1 to 100'),
    ("Pawpularity", "9" * 100_000, SCORE + '"9999999999999999999999999999999999999..." is too large'),
    ("Pawpularity", "1_0", SCORE + '"1_0" is not a number; write a score of 1 to 100'),
    ("Pawpularity", "٣", SCORE + '"٣" is not a number'),
    ("Pawpularity", "0x1f", SCORE + '"0x1f" is not a number'),
    ("Pawpularity", "38,5", SCORE + '"38,5" is not a number'),
    ("Pawpularity", "0", SCORE + '"0" is no score; write 1 to 100'),
    ("Pawpularity", "0.999", SCORE + '"0.999" is no score; write 1 to 100'),
    ("Pawpularity", "100.01", SCORE + '"100.01" is no score; write 1 to 100'),
    ("Pawpularity", "-5", SCORE + '"-5" is no score; write 1 to 100'),
]


@pytest.mark.parametrize(("column", "value", "said"), OF_LABELS, ids=lambda value: str(value)[:12])
def test_a_cell_of_the_labels_is_refused(tables, refused, unharmed, column, value, said):
    LABELS.write_bytes(cell(4, column, value)(LABELS.read_bytes()))
    refuses(refused, unharmed, LABELS, (said,))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Subject Focus", "subject_focus", 'column "Subject Focus" is missing; rename column "subject_focus"?'),
        ("Pawpularity", "popularity", 'column "Pawpularity" is missing; rename column "popularity"?'),
        ("Blur", "xyz", 'column "Blur" is missing; the file has "Id", "Subject Focus", "Eyes"'),
        ("Blur", "Eyes", 'column "Eyes" stands in the header 2 times; keep one'),
    ],
)
def test_a_column_of_the_labels_is_missed(tables, refused, unharmed, old, new, said):
    LABELS.write_text(LABELS.read_text().replace(old, new, 1))
    refuses(refused, unharmed, LABELS, (said,))


NUMBER = "row 4, column "
OF_PREDICTIONS = [
    ("prediction", "", NUMBER + '"prediction": is empty; write a score'),
    ("prediction", "nan", NUMBER + '"prediction": is empty; write a score'),
    ("prediction", "inf", NUMBER + '"prediction": "inf" is not a number; write a score'),
    ("prediction", "9" * 400, '"9999999999999999999999999999999999999..." is too large'),
    ("prediction", "1e200", NUMBER + '"prediction": "1e200" is too large to be a score; write one'),
    ("target", "0x10", NUMBER + '"target": "0x10" is not a number; write a score'),
    ("target", "True", NUMBER + '"target": "True" is not a number; write a score'),
    ("target", "-1e10", NUMBER + '"target": "-1e10" is too large to be a score; write one'),
    ("fold", "1000000000000000001", NUMBER + '"fold": "1000000000000000001" is too large to be a whole number'),
    ("fold", "0.5", NUMBER + '"fold": "0.5" is not a whole number; write one'),
    ("fold", "", NUMBER + '"fold": is empty; write a whole number'),
    ("fold", "A", NUMBER + '"fold": "A" is not a number; write a whole number'),
]


@pytest.mark.parametrize(("column", "value", "said"), OF_PREDICTIONS, ids=lambda value: str(value)[:12])
def test_a_cell_of_the_predictions_is_refused(tables, refused, unharmed, column, value, said):
    OOF.write_bytes(cell(4, column, value)(OOF.read_bytes()))
    refuses(refused, unharmed, OOF, (said,))


@pytest.mark.parametrize("column", ["fold", "target", "prediction"])
def test_a_column_of_the_predictions_is_missed(tables, refused, unharmed, column):
    predictions().drop(columns=column).to_csv(OOF, index=False)
    refuses(refused, unharmed, OOF, (f'column "{column}" is missing; the file has "Id", ', "add it"))


@pytest.fixture
def other(tables, paw) -> None:
    """Another model's CSV and the folds file are there too."""
    predictions(seed=2).to_csv("other.csv", index=False)
    assert paw("folds", "--data", "labels").code == 0


WITH_ANOTHER = {
    "compare": ("compare", OOF, "other.csv", "--draws", "100"),
    "ensemble": ("ensemble", OOF, "other.csv", "--draws", "100"),
    "oof": ("oof", OOF, "other.csv"),
    "errors": ("errors", OOF, "--data", "labels", "--draws", "100"),
    "hypotheses": ("hypotheses", "--run", OOF, "--data", "labels", "--draws", "100"),
}


@pytest.mark.parametrize("verb", WITH_ANOTHER)
def test_every_verb_reads_predictions_as_strictly(other, refused, unharmed, verb):
    OOF.write_bytes(cell(4, "prediction", "NaN")(OOF.read_bytes()))
    refuses(refused, unharmed, OOF, (NUMBER + '"prediction": is empty; write a score',), *WITH_ANOTHER[verb])


@pytest.mark.parametrize("verb", WITH_ANOTHER)
def test_predictions_on_another_scale(other, refused, unharmed, verb):
    table = predictions()
    table.assign(prediction=table["prediction"] / 100).to_csv(OOF, index=False)
    said = "every prediction lies in 0..1, so they are on a 0-1 scale, not 1-100; add --scale 100"
    refuses(refused, unharmed, OOF, (said,), *WITH_ANOTHER[verb])


@pytest.mark.parametrize("verb", sorted(WITH_ANOTHER.keys() - {"oof"}))
def test_targets_that_disagree(other, refused, unharmed, verb):
    OOF.write_bytes(cell(5, "target", "1.25")(OOF.read_bytes()))
    refuses(refused, unharmed, OOF, ("p03", "1.25", "; "), *WITH_ANOTHER[verb])


@pytest.mark.parametrize("verb", ["compare", "ensemble", "hypotheses"])
@pytest.mark.parametrize(
    "table", [predictions()[:-1], predictions().replace("p39", "zzz")], ids=["one less", "another"]
)
def test_rows_that_disagree(other, refused, unharmed, verb, table):
    table.to_csv(OOF, index=False)
    refuses(refused, unharmed, OOF, ("p39", "; "), *WITH_ANOTHER[verb])


def test_a_million_rows(tables, refused, unharmed):
    """The last of them is bad: its row is named as a spreadsheet would."""
    row = ",0,1,0,1,0,1,0,1,0,1,0,1,"
    rows = [f"x{i}{row}{1 + i % 100}\n" for i in range(1_000_000)]
    LABELS.write_text(",".join(labels().columns) + "\n" + "".join(rows[:-1]) + rows[-1].replace(",100\n", ",101\n"))
    refuses(refused, unharmed, LABELS, ('row 1000001, column "Pawpularity": "101" is no score',))


def in_its_place(kind: str, file: Path) -> None:
    """Put something that is no file where `file` was."""
    file.rename(file.with_suffix(".sound"))
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind != "nothing":
        file.symlink_to(
            {"device": "/dev/zero", "dangling": "nowhere.csv", "loop": file.name, "unreadable": "/proc/self/mem"}[kind]
        )


@pytest.mark.parametrize("file", READERS, ids=str)
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nothing", "(holds no train.csv|there is no such file)"),
        ("folder", "is a folder"),
        ("pipe", "is not a regular file; give the CSV file itself"),
        ("device", "is not a regular file; give the CSV file itself"),
        ("dangling", "(holds no train.csv|there is no such file)"),
        ("loop", "(holds no train.csv|there is no such file)"),
        ("unreadable", r"cannot be read \(Input/output error\); check"),
    ],
)
def test_something_else_in_its_place(tables, refused, unharmed, file, kind, said):
    if kind == "unreadable" and not Path("/proc/self/mem").exists():
        pytest.skip("root reads what chmod forbids, and /proc/self/mem, which even root cannot, is not here")
    in_its_place(kind, file)
    with unharmed(Path()):
        line = refused(*READERS[file])
    assert line.startswith(("labels", "theirs.csv"))
    assert re.search(said, line)
    assert len(line) <= LONGEST


@pytest.mark.parametrize("file", READERS, ids=str)
def test_a_link_out_of_the_folder_is_followed(tables, paw, tmp_path, unharmed, file):
    before = paw(*READERS[file], "--json", "-").out
    away = tmp_path / "another disk" / "x.csv"
    away.parent.mkdir()
    file.rename(away)
    file.symlink_to(away)
    with unharmed(file, away):
        done = paw(*READERS[file], "--json", "-")
    assert done.code == 0, done.err
    assert done.out == before
    assert file.is_symlink()
