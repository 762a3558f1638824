"""The table over runs: RMSE with its interval, the constant, n; and a line for one fold."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.evaluation.oof import assemble, constant_predictions, read_oof
from pawpularity.evaluation.score import Score, score
from pawpularity.folds.split import read_folds
from pawpularity.run import Run


def run_row(run: Run) -> dict[str, Any]:
    """One row of the table: the pooled score of the folds that are there, and how long they took."""
    folds = run.trained_folds()
    table = assemble(run) if run.kind == "run" else read_oof(run.oof_file)
    row: dict[str, Any] = {"run": run.name, "data": run.record["data"]["name"], "folds": f"{len(folds)}/{run.k}"}
    if run.kind == "ensemble":
        row["folds"] = f"{run.k}/{run.k}"
    if table is None and not folds:
        return row | {"score": None}
    if table is None:
        table = pd.concat([read_oof(run.predictions_file(fold)) for fold in folds], ignore_index=True)
        means = {fold: run.metrics(fold)["training_mean"] for fold in folds}
        constant = table["fold"].map(means).to_numpy(dtype=np.float64)
    else:
        constant = constant_predictions(table)
    seconds = sum(run.metrics(fold)["seconds"] for fold in folds) if run.kind == "run" else None
    return row | {"score": _score(run, table, constant).to_dict(), "seconds": seconds}


def _score(run: Run, table: pd.DataFrame, constant: NDArray[np.float64]) -> Score:
    groups = None
    file = Path(run.record["folds"]["file"])
    # The interval draws whole groups of near-duplicates; without the folds file every row is its own.
    if file.is_file():
        groups = read_folds(file).groups_of(table["Id"])
    return score(table["target"].to_numpy(), table["prediction"].to_numpy(), constant, groups)


def table_text(rows: Sequence[dict[str, Any]]) -> str:
    """The table as aligned text."""
    width = max([len(row["run"]) for row in rows] + [3])
    lines = [f"{'run':{width}s}  folds       n    RMSE  95 % interval     constant     R2     time"]
    for row in rows:
        s = row["score"]
        if s is None:
            lines.append(f"{row['run']:{width}s}  {row['folds']:>5s}  no fold is trained yet")
            continue
        interval = f"[{s['low']:.2f}, {s['high']:.2f}]"
        r2 = f"{s['r2']:.3f}" if s["r2"] is not None else "-"
        seconds = f"{row['seconds']:.0f} s" if row["seconds"] is not None else "-"
        note = "  interval indicative (n < 50)" if s["indicative"] else ""
        lines.append(
            f"{row['run']:{width}s}  {row['folds']:>5s}  {s['n']:6d}  {s['rmse']:6.3f}  {interval:16s}  "
            f"{s['constant_rmse']:8.3f}  {r2:>5s}  {seconds:>7s}{note}"
        )
    return "\n".join(lines)


def fold_line(run: Run, fold: int, data: Path) -> str:
    """What a fold reached, in one or two lines."""
    m = run.metrics(fold)
    word = " (indicative)" if m["indicative"] else ""
    lines = [
        f"fold {fold}: out-of-fold RMSE {m['rmse']:.3f}, 95 % [{m['low']:.2f}, {m['high']:.2f}]{word}; "
        f"constant {m['constant_rmse']:.3f}; n = {m['n']}; {m['epochs']} epochs; {m['seconds']:.0f} s"
    ]
    floor = noise_floor(data)
    if floor is not None:
        lines.append(f"        noise floor of this drawn shelter {floor:.2f}: no predictor can be expected below it")
    return "\n".join(lines)


def noise_floor(data: Path) -> float | None:
    """RMSE of the true conditional mean of a drawn shelter; None for real data."""
    file = data / "truth" / "floor.json"
    if not file.is_file():
        return None
    return float(json.loads(file.read_text())["floor"])
