"""The mean blend of runs, as a run of its own: `oof/NAME/` with config.json (its members) and oof.csv.

The mean has no weights to fit, so its out-of-fold rows are as unseen as those of its members.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pawpularity.errors import UserError
from pawpularity.evaluation.oof import check_same_rows, read_run, write_oof
from pawpularity.files import file_hash, write_json
from pawpularity.run import Run, git_commit, machine, versions


def mean_blend(runs: Sequence[Run], folder: Path) -> Run:
    """Average the runs' out-of-fold predictions into the run at `folder`.

    Raises UserError for fewer than two runs, one without all folds, or rows, targets or folds that differ.
    """
    if len({run.name for run in runs}) < max(2, len(runs)):
        raise UserError("a blend needs at least two runs, each named once")
    check_free(folder)
    tables = []
    for run in runs:
        table = read_run(run)
        if table is None:
            raise UserError(f"{run.folder}: not every fold is there yet; run: {run.remedy()}")
        tables.append(table)
        check_same_rows(tables[0], table, (runs[0].name, run.name))
        if run.record["folds"]["hash"] != runs[0].record["folds"]["hash"]:
            raise UserError(f"{run.name} and {runs[0].name} were trained on different folds files")
    write_oof(folder / "oof.csv", tables[0].assign(prediction=np.mean([t["prediction"] for t in tables], axis=0)))
    record = {
        "kind": "ensemble",
        "config": {"name": folder.name},
        "members": {run.name: file_hash(run.oof_file) for run in runs},
        "method": "mean",
        "oof_hash": file_hash(folder / "oof.csv"),
        "data": runs[0].record["data"],
        "folds": runs[0].record["folds"],
        "git_commit": git_commit(),
        "versions": versions(),
        "machine": machine(),
    }
    write_json(folder / "config.json", record)
    return Run.open(folder)


def check_free(folder: Path) -> None:
    """Raise UserError when a run of its own stands where a blend would be written."""
    if (folder / "config.json").is_file() and Run.open(folder).kind != "ensemble":
        raise UserError(f"{folder} holds a trained run, which the blend would overwrite; rename that folder")
