"""The out-of-fold contract: `Id,fold,target,prediction`, one row per photo, sorted by Id, six decimals.

Every consumer reads through here, by Id and never by row order, and refuses what does not match, naming the first
difference.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.data.folds import Folds, read_folds
from pawpularity.data.tables import read_cells, shown
from pawpularity.errors import UserError
from pawpularity.files import file_hash, write_text
from pawpularity.runs import Run

COLUMNS = ("Id", "fold", "target", "prediction")
LARGEST = 1e9  # in size: squares and counts of anything larger lose digits, and no score or fold is


def write_oof(path: Path, table: pd.DataFrame) -> None:
    """Write predictions whole, sorted by Id, `%.6f`."""
    write_text(path, _text(table))


def _text(table: pd.DataFrame) -> str:
    ordered = table[list(COLUMNS)].sort_values("Id", kind="stable")
    return ordered.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def read_oof(path: Path) -> pd.DataFrame:
    """Predictions sorted by Id: Id str, fold int64, target and prediction float64.

    A table as `read_cells` takes it. Raises UserError naming the file, the row (as a spreadsheet counts) and the column for
    anything else.
    """
    if not path.exists():
        raise UserError(f"{path}: is missing; train the fold again")
    cells = read_cells(path, COLUMNS)
    if not cells.rows:
        raise UserError(f"{path}: has a header and no rows; add at least one")
    columns: dict[str, object] = {"Id": cells.ids()}
    for column, what in (("fold", "a whole number"), ("target", "a score"), ("prediction", "a score")):
        values = cells.numbers(column, what)
        large = np.abs(values) > LARGEST
        unfit = np.flatnonzero(large | (values % 1 != 0) if column == "fold" else large)
        if unfit.size:
            row = int(unfit[0])
            fault = f"too large to be {what}" if large[row] else f"not {what}"
            raise UserError(f"{cells.where(row, column)}: {shown(cells.columns[column][row])} is {fault}; write one")
        columns[column] = values.astype(np.int64) if column == "fold" else values
    return pd.DataFrame(columns).sort_values("Id", kind="stable", ignore_index=True)


def run_folds(run: Run) -> Folds:
    """The folds file `run` was scored by. Raises UserError when it is gone or no longer the one it was."""
    path = Path(run.record["folds"]["file"])
    if not path.is_file():
        raise UserError(f"{run.name}: its folds file {path} is missing; make folds DATA=... makes it again")
    folds = read_folds(path)
    if folds.hash != run.record["folds"]["hash"]:
        raise UserError(f"{path}: is not the folds file {run.name} was trained by (hash {folds.hash}, was "
                        f"{run.record['folds']['hash']}); restore it, or train the run again")  # fmt: skip
    return folds


def read_fold(run: Run, fold: int, folds: Folds) -> pd.DataFrame:
    """The predictions of one fold, exactly as training wrote them and of exactly the fold's photos.

    Raises UserError naming the file and the first difference.
    """
    path = run.predictions_file(fold)
    table = read_oof(path)
    cure = f"make it again: {run.remedy(fold)}"
    if (table["fold"] != fold).any():
        raise UserError(f"{path}: holds rows of another fold; {cure}")
    due = set(folds.frame.loc[folds.frame["fold"] == fold, "Id"])
    if odd := due ^ set(table["Id"]):
        raise UserError(f"{path}: {min(odd)} is {'missing from' if min(odd) in due else 'not of'} fold {fold}; {cure}")
    if file_hash(path) != run.metrics(fold)["predictions_hash"]:
        raise UserError(
            f"{path}: was changed since {'training' if run.kind == 'run' else 'make probe'} wrote it; {cure}"
        )
    return table


def assemble(run: Run) -> pd.DataFrame | None:
    """Join the folds of `run` into oof.csv and return it; None while a fold is missing (a stale oof.csv then goes).

    Raises UserError when a fold's predictions are not what training wrote, or not of its photos.
    """
    if len(run.trained_folds()) < run.k:
        run.oof_file.unlink(missing_ok=True)
        return None
    folds = run_folds(run)
    table = pd.concat([read_fold(run, fold, folds) for fold in range(run.k)], ignore_index=True)
    text = _text(table)
    # Bytes: what a hand or a disk made of the file need not be text, and a copy with other line ends is another file.
    if not run.oof_file.is_file() or run.oof_file.read_bytes() != text.encode():
        write_text(run.oof_file, text)
    return read_oof(run.oof_file)


def read_run(run: Run) -> pd.DataFrame | None:
    """All out-of-fold predictions of a run, a head or a blend, checked; None while a fold is missing."""
    if run.has_folds:
        return assemble(run)
    if not run.oof_file.is_file() or file_hash(run.oof_file) != run.record.get("oof_hash"):
        raise UserError(f"{run.oof_file}: is missing or was changed since the blend was made; make the blend again")
    return read_oof(run.oof_file)


def constant_predictions(table: pd.DataFrame) -> NDArray[np.float64]:
    """For each row of a whole oof table the mean target of the OTHER folds: what answering without looking scores.

    Where there is but one fold, as in a hold-out, its own mean stands in: a little better than any honest constant.
    """
    target, fold = table["target"].to_numpy(), table["fold"].to_numpy()
    present = np.unique(fold)
    means = {k: (target[fold != k] if len(present) > 1 else target).mean() for k in present}
    return np.array([means[k] for k in fold])
