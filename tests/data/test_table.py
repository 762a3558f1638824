"""The tables: what is legal comes back in one shape, and every fault is one line that names its place."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pawpularity.data.tables import (
    ID,
    METADATA,
    TARGET,
    read_cells,
    read_sample_submission,
    read_test,
    read_train,
)
from pawpularity.errors import UserError

HEADER = [ID, *METADATA, TARGET]


def row(name: str, score: object = 50, **changes: object) -> dict[str, object]:
    return {ID: name, **dict.fromkeys(METADATA, 0), TARGET: score} | changes


def csv_text(rows: list[dict[str, object]], header: list[str] | None = None) -> str:
    header = header or HEADER
    return "\n".join([",".join(header), *(",".join(str(r.get(c, "")) for c in header) for r in rows)]) + "\n"


def write(tmp_path: Path, text: str | bytes, name: str = "train.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(path: Path, *parts: str, read=read_train) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    return message


def test_columns_order_and_types(tmp_path: Path) -> None:
    rows = [row("001e5", 63, Eyes=1), row("b", 1), row("a", 100.0, Blur=1)]
    frame = read_train(write(tmp_path, csv_text(rows)))
    assert list(frame.columns) == HEADER
    assert frame[ID].tolist() == ["001e5", "b", "a"]
    assert all(frame[name].dtype == np.int8 for name in METADATA)
    assert frame[TARGET].dtype == np.float64
    assert frame["Eyes"].tolist() == [1, 0, 0]
    assert frame["Blur"].tolist() == [0, 0, 1]
    assert frame[TARGET].tolist() == [63, 1, 100]


def test_agrees_with_pandas_on_a_plain_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    expected = pd.DataFrame({ID: [f"p{i}" for i in range(300)]})
    for name in METADATA:
        expected[name] = rng.integers(0, 2, 300)
    expected[TARGET] = rng.integers(1, 101, 300)
    path = tmp_path / "train.csv"
    expected.to_csv(path, index=False)
    pd.testing.assert_frame_equal(read_train(path), expected, check_dtype=False)


def test_folder_or_file(tmp_path: Path) -> None:
    path = write(tmp_path, csv_text([row("a")]))
    pd.testing.assert_frame_equal(read_train(tmp_path), read_train(path))


def test_rows_are_counted_as_a_spreadsheet_does(tmp_path: Path) -> None:
    # A quoted line break is one row; a blank line is a row of its own.
    header = ["note", *HEADER]
    text = (
        csv_text([row("a", note='"two\nlines"')], header) + "\n" + csv_text([row("b", Eyes=3)], header).split("\n")[1]
    )
    refused(write(tmp_path, text + "\n"), "row 4", 'column "Eyes"')


def test_read_test_needs_no_score_and_ignores_one(tmp_path: Path) -> None:
    write(tmp_path, csv_text([row("a"), row("b")], [ID, *METADATA]), "test.csv")
    assert list(read_test(tmp_path).columns) == [ID, *METADATA]
    write(tmp_path, csv_text([row("a", "?")]), "test.csv")
    assert list(read_test(tmp_path).columns) == [ID, *METADATA]
    refused(tmp_path / "none.csv", "is missing", read=read_test)


def test_sample_submission(tmp_path: Path) -> None:
    write(tmp_path, f"{ID},{TARGET}\nb,1\na,zzz\n", "sample_submission.csv")
    assert read_sample_submission(tmp_path)[ID].tolist() == ["b", "a"]
    write(tmp_path, f"{ID},{TARGET}\nb,1\nb,2\n", "sample_submission.csv")
    refused(tmp_path, "row 2", "row 3", read=read_sample_submission)


def test_cells_keep_their_rows(tmp_path: Path) -> None:
    cells = read_cells(write(tmp_path, "x,Id\n1,a\n\n2,b\n"), ["x"])
    assert (cells.rows, cells.columns) == ([2, 4], {"x": ["1", "2"]})


def test_the_contests_labels(real: Path) -> None:
    frame = read_train(real / "pawpularity-labels" / "train.csv")
    assert len(frame) == 9912
    assert frame[TARGET].mean() == pytest.approx(38.0390, abs=5e-5)
    assert frame[TARGET].std(ddof=0) == pytest.approx(20.5910, abs=5e-5)
    assert frame[list(METADATA)].sum().to_dict() | {"Eyes": 7658, "Blur": 698} == frame[list(METADATA)].sum().to_dict()
