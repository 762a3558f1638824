"""The tables: what is legal comes back in one shape, and every fault is one line that names its place."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pawpularity.competition.table import (
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


def test_reordered_and_extra_columns_bom_crlf_and_padding(tmp_path: Path) -> None:
    header = ["note", TARGET, *reversed(METADATA), ID]
    text = csv_text([row("a", 7, note="x", Human=" 1 "), row("b", 8, note="")], header).replace("\n", "\r\n")
    frame = read_train(write(tmp_path, b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n"))
    assert list(frame.columns) == HEADER
    assert frame["Human"].tolist() == [1, 0]
    assert frame[TARGET].tolist() == [7, 8]


def test_metadata_saved_as_floats_is_legal(tmp_path: Path) -> None:
    frame = read_train(write(tmp_path, csv_text([row("a", Eyes="1.0", Face="0.0")])))
    assert (frame["Eyes"][0], frame["Face"][0]) == (1, 0)


def test_missing_file_folder_and_folder_as_file(tmp_path: Path) -> None:
    refused(tmp_path / "train.csv", "is missing", "make data")
    refused(tmp_path, "holds no train.csv")
    (tmp_path / "train.csv").mkdir()
    refused(tmp_path, "is a folder, not a CSV file")


def test_empty_file_and_no_rows(tmp_path: Path) -> None:
    refused(write(tmp_path, ""), "is empty")
    refused(write(tmp_path, "\n\n"), "is empty")
    refused(write(tmp_path, csv_text([])), "no rows")


def test_unreadable_text(tmp_path: Path) -> None:
    refused(write(tmp_path, csv_text([row("a"), row("é")]).encode("latin-1")), "row 3", "not UTF-8")
    refused(write(tmp_path, csv_text([row("a")]).encode("utf-16")), "row 1", "not UTF-8")
    refused(write(tmp_path, csv_text([row("a\0")])), "zero bytes")
    refused(write(tmp_path, csv_text([row('"a')])), "row 2", "not readable CSV")


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_wrong_delimiter(tmp_path: Path, mark: str, name: str) -> None:
    refused(write(tmp_path, csv_text([row("a")]).replace(",", mark)), name, "comma-separated")


def test_missing_column_names_the_nearest(tmp_path: Path) -> None:
    text = csv_text([row("a")])
    refused(
        write(tmp_path, text.replace("Subject Focus", "subject_focus")),
        'column "Subject Focus" is missing',
        '"subject_focus"',
    )
    refused(write(tmp_path, text.replace(TARGET, "popularity")), f'column "{TARGET}" is missing', '"popularity"')
    refused(write(tmp_path, text.replace("Blur", "xyz")), 'column "Blur" is missing', '"xyz"')
    refused(write(tmp_path, text.replace("Blur", "Eyes")), 'column "Eyes" stands in the header 2 times')


def test_row_of_another_length(tmp_path: Path) -> None:
    text = csv_text([row("a"), row("b")])
    refused(write(tmp_path, text.rstrip("\n") + ",1\n"), "row 3", "15 cells", "14")
    refused(write(tmp_path, text.rstrip("\n")[:-3] + "\n"), "row 3", "13 cells")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"Eyes": ""}, ('column "Eyes"', "empty", "0 or 1")),
        ({"Eyes": "NaN"}, ('column "Eyes"', "empty")),
        ({"Eyes": "yes"}, ('column "Eyes"', '"yes" is not a number')),
        ({"Eyes": 2}, ('column "Eyes"', "neither 0 nor 1")),
        ({"Eyes": 0.5}, ('column "Eyes"', "neither 0 nor 1")),
        ({"Eyes": "-1"}, ("neither 0 nor 1",)),
        ({TARGET: ""}, (f'column "{TARGET}"', "empty")),
        ({TARGET: "nan"}, ("empty",)),
        ({TARGET: "inf"}, ("is not a number",)),
        ({TARGET: "1e999"}, ("too large",)),
        ({TARGET: "1_0"}, ("is not a number",)),
        ({TARGET: "٣"}, ("is not a number",)),
        ({TARGET: "0"}, ("is no score",)),
        ({TARGET: "0.999"}, ("is no score",)),
        ({TARGET: "100.01"}, ("is no score",)),
        ({TARGET: "-5"}, ("is no score",)),
        ({ID: ""}, ('column "Id"', "empty")),
        ({ID: "  "}, ("empty",)),
        ({ID: "../x"}, ("no file name",)),
        ({ID: "a/b"}, ("no file name",)),
        ({ID: "a\\b"}, ("no file name",)),
        ({ID: "a..b"}, ("no file name",)),
        ({ID: " a"}, ("no file name",)),
        ({ID: ".a"}, ("no file name",)),
        ({ID: "a\x07"}, ("no file name",)),
        ({ID: "x" * 300}, ("200 bytes",)),
        ({ID: "first"}, ("row 2", "row 4")),
    ],
)
def test_bad_cell_names_row_and_column(tmp_path: Path, changes: dict[str, object], parts: tuple[str, ...]) -> None:
    rows = [row("first"), row("second"), row("third") | changes]
    refused(write(tmp_path, csv_text(rows)), "row 4", *parts)


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
