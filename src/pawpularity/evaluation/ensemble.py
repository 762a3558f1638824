"""The mean blend of runs, as a run of its own: `oof/NAME/` with config.json (its members) and oof.csv.

The mean has no weights to fit, so its out-of-fold rows are as unseen as those of its members.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pawpularity.errors import UserError
from pawpularity.evaluation.oof import check_same_rows, read_oof, write_oof
from pawpularity.files import write_json
from pawpularity.run import Run, git_commit, machine, versions


def mean_blend(runs: Sequence[Run], folder: Path) -> Run:
    """Average the runs' out-of-fold predictions into the run at `folder`.

    Raises UserError for fewer than two runs, one without all folds, or rows, targets or folds that differ.
    """
    if len(runs) < 2:
        raise UserError("a blend needs at least two runs")
    tables = []
    for run in runs:
        if not run.oof_file.is_file():
            raise UserError(f"{run.folder}: has no oof.csv yet; run: make train RUN={run.name}")
        tables.append(read_oof(run.oof_file))
        check_same_rows(tables[0], tables[-1], (runs[0].name, run.name))
        if run.record["folds"]["hash"] != runs[0].record["folds"]["hash"]:
            raise UserError(f"{run.name} and {runs[0].name} were trained on different folds files")
    table = tables[0].assign(prediction=np.mean([t["prediction"].to_numpy() for t in tables], axis=0))
    record = {
        "kind": "ensemble",
        "config": {"name": folder.name},
        "members": [run.name for run in runs],
        "method": "mean",
        "data": runs[0].record["data"],
        "folds": runs[0].record["folds"],
        "git_commit": git_commit(),
        "versions": versions(),
        "machine": machine(),
    }
    write_oof(folder / "oof.csv", table)
    write_json(folder / "config.json", record)
    return Run.open(folder)
