"""The table over runs: RMSE with its interval, the constant, n; and a line for one fold."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pawpularity.evaluation.oof import constant_predictions, read_fold, read_run, run_folds
from pawpularity.evaluation.score import score
from pawpularity.files import read_json
from pawpularity.run import Run


def run_row(run: Run) -> dict[str, Any]:
    """One row of the table: the pooled score of the folds that are there, and how long they took."""
    folds = run.trained_folds()
    table, split = read_run(run), run_folds(run)
    row: dict[str, Any] = {"run": run.name, "data": run.record["data"]["name"], "folds": f"{len(folds)}/{run.k}"}
    if not run.has_folds:
        row["folds"] = f"{run.k}/{run.k}"
    if table is None and not folds:
        return row | {"score": None}
    if table is None:
        table = pd.concat([read_fold(run, fold, split) for fold in folds], ignore_index=True)
        means = {fold: run.metrics(fold)["training_mean"] for fold in folds}
        constant = table["fold"].map(means).to_numpy(dtype=np.float64)
    else:
        constant = constant_predictions(table)
    seconds = sum(run.metrics(fold)["seconds"] for fold in folds) if run.has_folds else None
    if run.kind == "probe":
        row["chosen"] = [run.metrics(fold)["chosen"] for fold in folds]
    result = score(table["target"].to_numpy(), table["prediction"].to_numpy(), constant, split.groups_of(table["Id"]))
    return row | {"score": result.to_dict(), "seconds": seconds}


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
        if chosen := row.get("chosen"):
            note += f"  {_counted(chosen)}"
        lines.append(
            f"{row['run']:{width}s}  {row['folds']:>5s}  {s['n']:6d}  {s['rmse']:6.3f}  {interval:16s}  "
            f"{s['constant_rmse']:8.3f}  {r2:>5s}  {seconds:>7s}{note}"
        )
    return "\n".join(lines)


def _counted(words: Sequence[str]) -> str:
    """`alpha 1000 (4 of 5 folds), alpha 316 (1)`, the commonest first; just the word where all are alike."""
    counts = sorted(Counter(words).items(), key=lambda item: -item[1])
    if len(counts) == 1:
        return counts[0][0]
    first, *others = counts
    return ", ".join([f"{first[0]} ({first[1]} of {len(words)} folds)", *(f"{word} ({n})" for word, n in others)])


def fold_line(run: Run, fold: int) -> str:
    """What a fold reached, in one line."""
    m = run.metrics(fold)
    word = " (indicative: n < 50)" if m["indicative"] else ""
    return (
        f"fold {fold}: out-of-fold RMSE {m['rmse']:.3f}, 95 % [{m['low']:.2f}, {m['high']:.2f}]{word}; "
        f"constant {m['constant_rmse']:.3f}; n = {m['n']}; {m['epochs']} epochs; {m['seconds']:.0f} s"
    )


def floor_line(data: Path) -> str | None:
    """The noise floor of a drawn shelter, in one line; None for real data."""
    floor = noise_floor(data)
    return (
        None
        if floor is None
        else f"noise floor of this drawn shelter {floor:.2f}: no predictor can be expected below it"
    )


def noise_floor(data: Path) -> float | None:
    """RMSE of the true conditional mean of a drawn shelter; None for real data."""
    file = data / "truth" / "floor.json"
    if not file.is_file():
        return None
    return float(read_json(file, "the drawn shelter's truth")["floor"])
