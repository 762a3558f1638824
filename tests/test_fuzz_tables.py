"""The CSV readers under fuzz: whatever the bytes are, the table is read right or refused in one line that names the file."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pawpularity.data.tables import METADATA, read_sample_submission, read_test, read_train
from pawpularity.errors import UserError
from pawpularity.evaluation.oof import read_oof

LONGEST = 300  # characters of a message, its path not counted
STEADY = settings(derandomize=True, deadline=None, max_examples=400, database=None,
                  suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])  # fmt: skip

READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "train": read_train, "test": read_test, "sample": read_sample_submission, "oof": read_oof}  # fmt: skip
COLUMNS = {"train": ("Id", *METADATA, "Pawpularity"), "test": ("Id", *METADATA), "sample": ("Id", "Pawpularity"),
           "oof": ("Id", "fold", "target", "prediction")}  # fmt: skip
KINDS = st.sampled_from(list(READERS))
IDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="/\\"), min_size=1, max_size=12
).filter(lambda name: ".." not in name and not name.startswith(".") and name.isprintable())
SCORES = st.one_of(st.integers(1, 100), st.floats(1, 100, allow_subnormal=False))


@st.composite
def tables(draw: st.DrawFn, kind: str) -> pd.DataFrame:
    """A legal table: its cells as Python's own numbers and text."""
    ids = draw(st.lists(IDS, min_size=1, max_size=6, unique=True))
    columns: dict[str, list[object]] = {"Id": list(ids)}
    for name in COLUMNS[kind][1:]:
        values = {"fold": st.integers(-3, 9), "prediction": st.floats(-1e6, 1e6)}.get(name, SCORES)
        columns[name] = [draw(st.integers(0, 1) if name in METADATA else values) for _ in ids]
    return pd.DataFrame(columns, dtype=object)


def outcome(kind: str, data: bytes) -> pd.DataFrame | None:
    """A sound table, or None where the reader refuses the bytes in one line. Any other error ends the test."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed.csv"
        path.write_bytes(data)
        try:
            found = READERS[kind](path)
        except UserError as error:
            line = str(error)
            assert line.startswith(str(path))
            assert ";" in line, "what to do follows what is wrong"
            assert line.isprintable()
            assert len(line) - len(str(path)) <= LONGEST
            return None
    wanted = ("Id",) if kind == "sample" else COLUMNS[kind]
    assert tuple(found.columns) == wanted
    assert len(found) > 0
    assert found["Id"].is_unique
    assert all(name == name.strip() and name and "/" not in name and ".." not in name for name in found["Id"])
    assert np.isfinite(found[list(wanted[1:])].to_numpy(dtype=np.float64)).all()
    if "Eyes" in wanted:
        assert np.isin(found[list(METADATA)], (0, 1)).all()
        assert (found[list(METADATA)].dtypes == np.int8).all()
    if kind == "train":
        assert found["Pawpularity"].between(1, 100).all()
    return found


@STEADY
@given(KINDS, st.data())
def test_a_legal_table_reads_the_same_however_it_is_saved(kind: str, data: st.DataObject) -> None:
    table = data.draw(tables(kind))
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    # csv's writer leaves a line end other than its own unquoted, which no reader could tell from a row's end.
    barred = "\0" if quoting == csv.QUOTE_ALL else "\0\r\n"
    text = st.text(st.characters(codec="utf-8", exclude_characters=barred), max_size=8)
    noted = table.assign(note=[data.draw(text) for _ in range(len(table))])
    noted = noted[data.draw(st.permutations(list(noted.columns)))]
    saved = io.StringIO(newline="")
    writer = csv.writer(saved, lineterminator=data.draw(st.sampled_from(["\n", "\r\n", "\r"])), quoting=quoting)
    writer.writerows([noted.columns, *noted.itertuples(index=False, name=None)])
    found = outcome(kind, saved.getvalue().encode(data.draw(st.sampled_from(["utf-8", "utf-8-sig"]))))
    assert found is not None, "a legal table was refused"
    if kind == "oof":
        table = table.sort_values("Id", ignore_index=True)
    assert found["Id"].tolist() == table["Id"].tolist()
    for name in found.columns[1:]:
        values = [float(value) for value in table[name]]
        if name in ("Pawpularity", "target"):  # whole scores are told from their float32 neighbours
            assert found[name].tolist() == pytest.approx(values, rel=1e-5)
        else:
            assert found[name].tolist() == values  # every digit of them


@STEADY
@given(KINDS, st.binary(max_size=200), st.booleans())
@example("train", b"\n\xff\xfea\x00", True)
@example("oof", b"\n" + b'"' * 99_999, True)
@example("sample", b"\n" + b"," * 200_000, True)
@example("test", "\n\u2028,\x85,\x1c".encode(), True)
def test_any_bytes(kind: str, data: bytes, headed: bool) -> None:
    outcome(kind, ",".join(COLUMNS[kind]).encode() + data if headed else data)


CELLS = st.one_of(
    st.sampled_from(["", " ", "nan", "inf", "-inf", "1e999", "-1", "0.5", "101", "1_0", "0x1", "True", "../x", "a/b", '"', '""',
                     ",", ";", "\n", "\r", "\0", "\ufeff", "\u2028", "\x85", "1,5", "٣", "=1+1", "é" * 150, "9" * 400]),
    st.text(max_size=6), st.floats().map(repr), st.integers().map(str),
)  # fmt: skip


@STEADY
@given(KINDS, st.data())
def test_a_legal_table_mutated(kind: str, data: st.DataObject) -> None:
    """One cell, name or byte of a legal file is exchanged or lost: where it is still read, the rest is untouched."""
    base = pd.DataFrame({"Id": [f"p{i}" for i in range(5)]})
    for name in COLUMNS[kind][1:]:
        base[name] = [i % 2 if name in METADATA else 3 + i for i in range(5)]
    rows = [list(base.columns), *base.astype(str).to_numpy().tolist()]
    i, j = data.draw(st.integers(0, 5)), data.draw(st.integers(0, len(base.columns) - 1))
    how = data.draw(st.sampled_from(["cell", "drop", "twice", "byte", "cut"]))
    if how == "cell":
        rows[i][j] = data.draw(CELLS)
    elif how == "drop":
        del rows[i][j]
    elif how == "twice":
        rows.insert(i, list(rows[i]))
    raw = "\n".join(",".join(row) for row in rows).encode() + b"\n"
    if how in ("byte", "cut"):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw = raw[:at] + (bytes([data.draw(st.integers(0, 255))]) + raw[at + 1 :] if how == "byte" else b"")
    found = outcome(kind, raw)
    if found is None:
        return
    assert how != "twice" or (kind == "sample" and i == 0), "an Id stands twice"
    expected, kept = base.astype(dict.fromkeys(base.columns[1:], float)).set_index("Id"), found.set_index("Id")
    both = kept.index.intersection(expected.index)
    # One row at most may differ from the original: the one that was touched (or, cut, the last one).
    differing = (kept.loc[both].astype(float) != expected.loc[both, kept.columns].astype(float)).any(axis=1).sum()
    assert differing + len(kept.index.difference(expected.index)) <= 1


def test_the_contests_labels(real: Path) -> None:
    frame = read_train(real / "pawpularity-labels" / "train.csv")
    assert (len(frame), frame["Eyes"].sum(), frame["Blur"].sum()) == (9912, 7658, 698)
    assert frame["Pawpularity"].mean() == pytest.approx(38.0390, abs=5e-5)
    assert frame["Pawpularity"].std(ddof=0) == pytest.approx(20.5910, abs=5e-5)
