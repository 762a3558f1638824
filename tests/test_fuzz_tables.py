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
STEADY = settings(derandomize=True, deadline=None, max_examples=250, database=None,
                  suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])  # fmt: skip

Reader = Callable[[Path], pd.DataFrame]
READERS: dict[str, Reader] = {"train": read_train, "test": read_test, "sample": read_sample_submission, "oof": read_oof}
COLUMNS = {"train": ("Id", *METADATA, "Pawpularity"), "test": ("Id", *METADATA), "sample": ("Id", "Pawpularity"),
           "oof": ("Id", "fold", "target", "prediction")}  # fmt: skip

NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="/\\"), min_size=1, max_size=12
)
IDS = NAMES.filter(lambda name: ".." not in name and not name.startswith(".") and name.isprintable())
SCORES = st.one_of(st.integers(1, 100), st.floats(1, 100, allow_subnormal=False))


@st.composite
def tables(draw: st.DrawFn, kind: str) -> pd.DataFrame:
    """A legal table: its cells as Python's own numbers and text."""
    ids = draw(st.lists(IDS, min_size=1, max_size=6, unique=True))
    columns: dict[str, list[object]] = {"Id": list(ids)}
    for name in COLUMNS[kind][1:]:
        values = {"fold": st.integers(-3, 9), "prediction": st.floats(-1e6, 1e6)}.get(name, SCORES)
        values = st.integers(0, 1) if name in METADATA else values
        columns[name] = [draw(values) for _ in ids]
    return pd.DataFrame(columns, dtype=object)


def written(table: pd.DataFrame, end: str, quoting: int, mark: bool) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end, quoting=quoting)
    writer.writerow(table.columns)
    writer.writerows(table.itertuples(index=False, name=None))
    return text.getvalue().encode("utf-8-sig" if mark else "utf-8")


def outcome(kind: str, data: bytes) -> pd.DataFrame | None:
    """What the reader makes of the bytes; None where it refuses them, as it should: any other error ends the test."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed.csv"
        path.write_bytes(data)
        try:
            found = READERS[kind](path)
        except UserError as error:
            line = str(error)
            assert line.startswith(str(path))
            assert ";" in line, "what to do follows what is wrong"
            assert line.isprintable(), "one line"
            assert len(line) - len(str(path)) <= LONGEST
            return None
        assert path.read_bytes() == data
        return found


def assert_sound(kind: str, found: pd.DataFrame) -> None:
    """What everything later relies on."""
    wanted = {"sample": ("Id",)}.get(kind, COLUMNS[kind])
    assert tuple(found.columns) == wanted
    assert len(found) > 0
    assert found["Id"].is_unique
    assert all(name == name.strip() and name and "/" not in name and ".." not in name for name in found["Id"])
    numbers = found[list(wanted[1:])].to_numpy(dtype=np.float64)
    assert np.isfinite(numbers).all()
    if kind in ("train", "test"):
        assert np.isin(found[list(METADATA)], (0, 1)).all()
    if kind == "train":
        assert found["Pawpularity"].between(1, 100).all()


@pytest.mark.parametrize("kind", READERS)
def test_a_legal_table_reads_the_same_however_it_is_saved(kind: str) -> None:
    @STEADY
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        table = data.draw(tables(kind))
        order = data.draw(st.permutations([*table.columns, "note"]))
        end, mark = data.draw(st.sampled_from(["\n", "\r\n", "\r"])), data.draw(st.booleans())
        quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
        # csv's writer leaves a line end other than its own unquoted, which no reader could tell from a row's end.
        barred = "\0" if quoting == csv.QUOTE_ALL else "\0\r\n"
        text = st.text(st.characters(codec="utf-8", exclude_characters=barred), max_size=8)
        notes = [data.draw(text) for _ in range(len(table))]
        found = outcome(kind, written(table.assign(note=notes)[order], end, quoting, mark))
        assert found is not None, "a legal table was refused"
        if kind == "oof":  # sorted by Id
            table = table.sort_values("Id", ignore_index=True)
        assert found["Id"].tolist() == table["Id"].tolist()
        for name in found.columns[1:]:
            assert found[name].tolist() == [float(value) for value in table[name]]  # every digit of them

    holds()


@pytest.mark.parametrize("kind", READERS)
def test_any_bytes(kind: str) -> None:
    header = ",".join(COLUMNS[kind]).encode()

    @STEADY
    @given(st.binary(max_size=200), st.booleans())
    @example(b"\n\xff\xfea\x00", True)
    @example(b"\n" + b'"' * 99_999, True)
    @example(b"\n" + b"," * 200_000, True)
    @example("\n\u2028,\x85,\x1c".encode(), True)
    def holds(data: bytes, headed: bool) -> None:
        found = outcome(kind, header + data if headed else data)
        if found is not None:
            assert_sound(kind, found)

    holds()


CELLS = st.one_of(
    st.sampled_from(["", " ", "nan", "inf", "-inf", "1e999", "-1", "0.5", "101", "1_0", "0x1", "True", "../x", "a/b", '"', '""',
                     ",", ";", "\n", "\r", "\0", "\ufeff", "\u2028", "\x85", "1,5", "٣", "=1+1", "é" * 150, "9" * 400]),
    st.text(max_size=6), st.floats().map(repr), st.integers().map(str),
)  # fmt: skip


@pytest.mark.parametrize("kind", READERS)
def test_a_legal_table_mutated(kind: str) -> None:
    """One cell, name or byte of a legal file is exchanged, doubled or lost: where it is still read, the rest is untouched."""
    base = pd.DataFrame({"Id": [f"p{i}" for i in range(5)]})
    for name in COLUMNS[kind][1:]:
        base[name] = [i % 2 if name in METADATA else 3 + i for i in range(5)]

    @STEADY
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        rows = [list(base.columns), *base.astype(str).to_numpy().tolist()]
        i, j = data.draw(st.integers(0, 5)), data.draw(st.integers(0, len(base.columns) - 1))
        how = data.draw(st.sampled_from(["cell", "add", "drop", "twice", "swap", "byte", "cut"]))
        if how == "cell":
            rows[i][j] = data.draw(CELLS)
        elif how == "add":
            rows[i].insert(j, data.draw(CELLS))
        elif how == "drop":
            del rows[i][j]
        elif how == "twice":
            rows.insert(i, list(rows[i]))
        elif how == "swap":
            rows[i], rows[0] = rows[0], rows[i]
        raw = "\n".join(",".join(row) for row in rows).encode() + b"\n"
        if how in ("byte", "cut"):
            at = data.draw(st.integers(0, len(raw) - 1))
            raw = raw[:at] + (bytes([data.draw(st.integers(0, 255))]) + raw[at + 1 :] if how == "byte" else b"")
        found = outcome(kind, raw)
        if found is None:
            return
        assert_sound(kind, found)
        assert how != "twice" or (kind == "sample" and i == 0), "an Id stands twice"
        wanted = base.astype(dict.fromkeys(base.columns[1:], float)).set_index("Id")
        kept = found.set_index("Id")
        both = kept.index.intersection(wanted.index)
        # One row at most may differ from the original: the one that was touched (or, cut, the last one).
        differing = (kept.loc[both].astype(float) != wanted.loc[both, kept.columns].astype(float)).any(axis=1).sum()
        assert differing + len(kept.index.difference(wanted.index)) <= 1

    holds()
