"""The out-of-fold contract, and what guards a run's predictions."""

import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pawpularity.errors import UserError
from pawpularity.evaluation.oof import constant_predictions, read_oof, write_oof

ROW = st.tuples(st.integers(0, 9), st.floats(1, 100), st.floats(-50, 150))


@settings(deadline=None)
@given(st.dictionaries(st.from_regex(r"[0-9A-Za-z][0-9A-Za-z_-]{0,20}", fullmatch=True), ROW, min_size=1))
def test_what_is_written_is_read_by_id(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("oof") / "oof.csv"
    table = pd.DataFrame([(name, *row) for name, row in rows.items()], columns=["Id", "fold", "target", "prediction"])
    write_oof(path, table)
    found = read_oof(path)
    assert list(found["Id"]) == sorted(rows), "Ids are text"
    for name, *values in found.itertuples(index=False):
        assert values == pytest.approx(rows[name], abs=5.1e-7)
    first = path.read_bytes()
    write_oof(path, found)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    "row", ["a,x,50,50", "a,1.5,50,50", "a,1,,50", "a,1,50,1e300", "a,1,50,1e10", "b,0,1,2", ",0,1,2"]
)
def test_bad_rows_are_named(tmp_path, row):
    (tmp_path / "x.csv").write_text(f"Id,fold,target,prediction\nb,1,30,40\n{row}\n")
    with pytest.raises(UserError, match=r"row 3|again in row"):
        read_oof(tmp_path / "x.csv")


def test_the_constant_is_the_mean_of_the_other_folds():
    table = pd.DataFrame({"fold": [0, 1, 1], "target": [20.0, 10.0, 60.0]})
    assert constant_predictions(table).tolist() == [35.0, 20.0, 20.0]
    assert constant_predictions(table.assign(fold=3)).tolist() == [30.0, 30.0, 30.0]


def test_what_guards_a_run(runs, paw, refused):
    """Its folds' predictions are those that training wrote, of the photos of the folds file it was trained by."""
    run = Path("oof/a")
    whole = (run / "oof.csv").read_bytes()
    (run / "oof.csv").write_bytes(b"\xff")  # a copy of the folds: made again
    assert paw("oof", "a").code == 0
    assert (run / "oof.csv").read_bytes() == whole
    predictions, before = run / "fold1/predictions.csv", (run / "fold1/predictions.csv").read_bytes()
    better = read_oof(predictions)
    for change in (better.assign(prediction=better["target"]), better[1:], better.assign(Id=better["Id"] + "x")):
        write_oof(predictions, change)
        assert "fold1" in refused("oof", "a")
    predictions.write_bytes(before)
    folds = Path(json.loads((run / "config.json").read_text())["folds"]["file"])
    split = pd.read_csv(folds, dtype={"Id": str})
    split.assign(fold=1 - split["fold"]).to_csv(folds, index=False)
    assert "folds" in refused("oof", "a")
    folds.unlink()
    assert "is missing" in refused("oof", "a")
