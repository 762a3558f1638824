"""The out-of-fold contract: `Id,fold,target,prediction`, one row per photo, sorted by Id, six decimals.

All code reads predictions through this module, by Id and never by row order. What training wrote is verified by its hash.
The command `pawpularity oof` is in `leaderboard`.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.console import duration
from pawpularity.data import is_drawn
from pawpularity.data.folds import Folds, read_folds
from pawpularity.data.tables import ID, read_cells, shown
from pawpularity.errors import UserError
from pawpularity.files import file_hash, read_json, write_text
from pawpularity.runs import Run

COLUMNS = (ID, "fold", "target", "prediction")
_LARGEST = 1e9  # squares and counts of larger numbers lose digits


def write_oof(path: Path, table: pd.DataFrame) -> None:
    """Write predictions, sorted by Id, `%.6f`; the file appears whole or not at all."""
    write_text(path, _text(table))


def _text(table: pd.DataFrame) -> str:
    ordered = table[list(COLUMNS)].sort_values(ID, kind="stable")
    return ordered.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def read_oof(path: Path) -> pd.DataFrame:
    """Predictions sorted by Id: Id str, fold int64, target and prediction float64.

    Raises UserError that names the file, the row (as a spreadsheet counts) and the column that cannot be read.
    """
    if not path.exists():
        raise UserError(f"{path}: is missing; train the fold again")
    cells = read_cells(path, COLUMNS)
    if not cells.rows:
        raise UserError(f"{path}: has a header and no rows; add at least one")
    columns: dict[str, object] = {ID: cells.ids()}
    unscored = "a score, or remove the rows that no model scored"
    for column, what in (("fold", "a whole number"), ("target", "a score"), ("prediction", unscored)):
        values = cells.numbers(column, what)
        unfit = np.flatnonzero((np.abs(values) > _LARGEST) | ((values % 1 != 0) & (column == "fold")))
        if unfit.size:
            row = int(unfit[0])
            raise UserError(f"{cells.where(row, column)}: {shown(cells.columns[column][row])} is not {what}; write one")
        columns[column] = values.astype(np.int64) if column == "fold" else values
    return pd.DataFrame(columns).sort_values(ID, kind="stable", ignore_index=True)


def run_folds(run: Run) -> Folds:
    """The folds file that `run` was trained with. Raises UserError if it is missing or has changed."""
    path = Path(run.record["folds"]["file"])
    if not path.is_file():
        raise UserError(f"{run.name}: its folds file {path} is missing; run: make folds DATA=...")
    folds = read_folds(path)
    if folds.hash != run.record["folds"]["hash"]:
        raise UserError(f"{path}: is not the folds file {run.name} was trained with; restore it, or train again")
    return folds


def read_fold(run: Run, fold: int, folds: Folds) -> pd.DataFrame:
    """The predictions of one fold. Raises UserError unless training wrote them, for exactly that fold's photos."""
    path, remedy = run.predictions_file(fold), f"run: {run.remedy(fold)}"
    table = read_oof(path)
    expected = set(folds.frame.loc[folds.frame["fold"] == fold, ID])
    if differing := expected ^ set(table[ID]):
        raise UserError(f"{path}: does not hold exactly the photos of fold {fold} ({min(differing)} differs); {remedy}")
    if file_hash(path) != run.metrics(fold)["predictions_hash"]:
        raise UserError(f"{path}: was changed since it was made; {remedy}")
    return table


def read_run(run: Run, *, partly: bool = False) -> pd.DataFrame:
    """All out-of-fold predictions of a run or a blend, verified; a run's oof.csv is brought up to date.

    `partly`: only of the trained folds. Raises UserError if a fold is missing or a file was changed.
    """
    if not run.has_folds:
        if not run.oof_file.is_file() or file_hash(run.oof_file) != run.record.get("oof_hash"):
            raise UserError(f"{run.oof_file}: is missing or was changed since the blend was made; make the blend again")
        return read_oof(run.oof_file)
    trained = run.trained_folds()
    if len(trained) < run.k:
        run.oof_file.unlink(missing_ok=True)
        if not (trained and partly):
            raise UserError(f"{run.folder}: {len(trained)} of {run.k} folds are trained; run: {run.remedy()}")
    folds = run_folds(run)
    table = pd.concat([read_fold(run, fold, folds) for fold in trained]).sort_values(ID, ignore_index=True)
    text = _text(table)
    if len(trained) == run.k and not (run.oof_file.is_file() and run.oof_file.read_bytes() == text.encode()):
        write_text(run.oof_file, text)
    return table


def constant_predictions(table: pd.DataFrame) -> NDArray[np.float64]:
    """For each row the mean target of the OTHER folds, (n,): the prediction of somebody who looks at no photo.

    With a single fold, as in a hold-out, it is the rows' own mean, a little better than an honest constant.
    """
    target, fold = table["target"].to_numpy(dtype=np.float64), table["fold"].to_numpy()
    present = np.unique(fold)
    means = {k: (target[fold != k] if len(present) > 1 else target).mean() for k in present}
    return np.array([means[k] for k in fold])


def fold_line(run: Run, fold: int) -> str:
    """The figures of a trained fold, in one line."""
    m = run.metrics(fold)
    few = " (indicative)" if m["indicative"] else ""
    return (
        f"fold {fold}: RMSE {m['rmse']:.2f} [{m['low']:.2f}, {m['high']:.2f}]{few}; constant {m['constant_rmse']:.2f}; "
        f"n = {m['n']:,}; {m['epochs']} epochs; {duration(m['seconds'])}"
    )


def floor_line(data: Path) -> str | None:
    """The noise floor of a drawn sample, in one line; None for real data."""
    if not is_drawn(data):
        return None
    return f"noise floor of this drawn sample {floor_of(data):.2f}: no predictor can be expected below it"


def floor_of(folder: Path) -> float:
    """The noise floor of the sample drawn in `folder`: RMSE of the true conditional mean. Raises UserError if damaged."""
    file = folder / "truth" / "floor.json"
    try:
        return float(read_json(file, "the drawn sample's truth")["floor"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file}: is damaged; draw the sample again") from None
