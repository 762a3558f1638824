"""The out-of-fold contract: `Id,fold,target,prediction`, one row per photo, sorted by Id, six decimals.

Every consumer reads through here, by Id and never by row order, and refuses what does not match, naming the first
difference.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.errors import UserError
from pawpularity.files import file_hash, write_text
from pawpularity.folds.split import Folds, read_folds
from pawpularity.run import Run

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

    Raises UserError naming the file and the row (as a spreadsheet counts) or Id for anything else.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)  # as text: faults are shown as they were written
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; train the fold again") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a table ({str(error).splitlines()[0]})") from None
    if missing := [column for column in COLUMNS if column not in table.columns]:
        raise UserError(f"{path}: has no column {missing[0]}; it needs {','.join(COLUMNS)}")
    if repeated := [column for column in COLUMNS if f"{column}.1" in table.columns]:  # pandas' name for the second
        raise UserError(f"{path}: has two columns {repeated[0]}; keep one")
    if not isinstance(table.index, pd.RangeIndex):  # pandas took the first cells for names of the rows
        raise UserError(f"{path}: its rows have more cells than its header; mend the header or the rows")
    table = table[list(COLUMNS)]
    if table.empty:
        raise UserError(f"{path}: has no rows")
    for column in COLUMNS[1:]:
        numbers = pd.to_numeric(table[column], errors="coerce")
        bad = np.flatnonzero(~np.isfinite(numbers.to_numpy(dtype=np.float64)))
        if len(bad):
            cell = table[column].iloc[bad[0]]
            raise UserError(
                f"{path}: row {bad[0] + 2}, {column} is {f'{cell[:40]!r}, not a number' if cell else 'empty'}"
            )
        large = np.flatnonzero(numbers.abs() > LARGEST)
        if len(large):
            raise UserError(
                f"{path}: row {large[0] + 2}, {column} is {table[column].iloc[large[0]][:40]}, too large to be one"
            )
        table = table.assign(**{column: numbers.astype(np.float64)})
    if (table["fold"] % 1 != 0).any():
        raise UserError(f"{path}: column fold must hold whole numbers")
    unfit = (table["Id"].duplicated() | (table["Id"] == "")).to_numpy()
    if unfit.any():
        bad_row = int(np.flatnonzero(unfit)[0])
        raise UserError(f"{path}: row {bad_row + 2}, Id {table['Id'].iloc[bad_row]!r} is repeated or empty")
    table["fold"] = table["fold"].astype(np.int64)
    return table.sort_values("Id", kind="stable", ignore_index=True)


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
            f"{path}: was changed since {'training' if run.kind == 'run' else 'the probe'} wrote it; {cure}"
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
    if not run.oof_file.is_file() or run.oof_file.read_text(encoding="utf-8") != text:
        write_text(run.oof_file, text)
    return read_oof(run.oof_file)


def read_run(run: Run) -> pd.DataFrame | None:
    """All out-of-fold predictions of a run, a probe or a blend, checked; None while a fold is missing."""
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
