"""How a run does on MLE-bench's version of the contest: 8,920 photos to learn from, 992 to be graded on.

make mlebench CONFIG=densenet161           splits, trains, predicts, grades
make mlebench SUBMISSION=mine.csv          grades a file

The split is the benchmark's (github.com/openai/mle-bench, prepare.py): a tenth of the labelled photos at random, seed 0. Its grader
wants every Id once and scores of 1-100, and takes the RMSE. Medals are those of the contest's private leaderboard, which had
other photos. 992 rows cannot tell them apart: gold and bronze are 0.15 points from one another, and the intervals of eight
published models' predictions on them are 2.0 to 2.2 points wide.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pawpularity.console import emit, log, next_step, table
from pawpularity.context import Context, data_suffix, default_run
from pawpularity.data.tables import ID, METADATA, TARGET
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import evaluate
from pawpularity.files import write_text
from pawpularity.kaggle.submission_file import check_submission

INPUT = Path("input")
SHARE, SEED = 0.1, 0
MEDALS = {"gold": 16.95041, "silver": 17.06696, "bronze": 17.0971, "median": 17.699}
"""RMSE of the contest's last team with that medal (ranks 17, 177 and 354 of 3,538), and of the middle one (1,768)."""


def mlebench(
    context: Context, *, submission: str | None = None, run: str | None = None, json: str | None = None
) -> None:
    """Grade `submission`, or what `run` (default: the config's name) predicts after training on the benchmark's split."""
    dataset = context.dataset
    known, hidden = split_rows(dataset.train)
    path = Path(submission) if submission else None
    if path is not None and not path.is_file():
        raise UserError(f"--submission {path}: no such file")
    if path is None:
        dataset.require_photos()
        folder = INPUT / f"mlebench{data_suffix(context.data)}"
        _lay_out(dataset.folder, folder, known, hidden)
        path = _predicted(context, folder, run)
    scores = check_submission(path, path.name, data=Path(), rows=len(hidden))
    if other := set(scores.index) ^ set(hidden[ID]):
        raise UserError(f"{path}: {len(other)} Ids are not those of the {len(hidden)} hidden rows (first {min(other)})")
    prediction = scores[hidden[ID]].to_numpy(dtype=np.float64)
    found = evaluate(hidden[TARGET].to_numpy(dtype=np.float64), prediction, float(known[TARGET].mean()))
    groups = context.folds.groups_of(dataset.train[ID]) if dataset.has_photos else None
    copies = None if groups is None else int(np.isin(groups[hidden.index], groups[known.index]).sum())
    _show(
        found.to_dict() | {"submission": str(path), "training_rows": len(known), "copies": copies, "medals": MEDALS},
        json,
    )


def split_rows(labels: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows to learn from and the hidden ones, in the benchmark's order. `labels`: train.csv in the order of its file."""
    from sklearn.model_selection import train_test_split

    known, hidden = train_test_split(labels, test_size=SHARE, random_state=SEED)
    return known, hidden


def _lay_out(source: Path, folder: Path, known: pd.DataFrame, hidden: pd.DataFrame) -> None:
    """A data folder in Kaggle's layout, its photos linked. The hidden scores are not in it."""
    columns = [ID, *METADATA]
    blank = hidden[[ID]].assign(**{TARGET: f"{known[TARGET].mean():.2f}"})
    tables = {"train": known[[*columns, TARGET]], "test": hidden[columns], "sample_submission": blank}
    for name, rows in tables.items():
        write_text(folder / f"{name}.csv", rows.to_csv(index=False, lineterminator="\n"))
    for name, rows in (("train", known), ("test", hidden)):
        (folder / name).mkdir(exist_ok=True)
        for photo in rows[ID]:
            link = folder / name / f"{photo}.jpg"
            if not link.is_symlink():
                link.symlink_to(os.path.relpath(source / "train" / f"{photo}.jpg", link.parent))


def _predicted(context: Context, folder: Path, run: str | None) -> Path:
    from pawpularity.data.dataset import load_test
    from pawpularity.evaluation.oof import fold_line
    from pawpularity.kaggle.submission import SUBMISSIONS, predict_test
    from pawpularity.runs import OOF, check_name
    from pawpularity.training.fold import train_run

    _, configs, _, _, _, _, *settings = context.words
    name = check_name(run or default_run(configs, folder, settings))
    words = ("--config", configs, "--data", str(folder), "--run", name, *settings)
    trained = train_run(
        Context(context.config, folder, OOF / name, words), on_fold=lambda run, fold: log(fold_line(run, fold))
    )
    path = SUBMISSIONS / f"{name}.csv"
    predict_test(trained, load_test(folder, Path(context.config.cache.folder)), path)
    return path


def _show(result: dict[str, Any], json: str | None) -> None:
    better = result["rmse"] < result["constant_rmse"]
    place = (
        next((name for name, last in MEDALS.items() if result["rmse"] <= last), "below the median") if better else None
    )
    inside = [name for name, last in MEDALS.items() if result["low"] <= last <= result["high"]]
    rows = [("this submission", f"{result['rmse']:.3f}", f"95 % [{result['low']:.2f}, {result['high']:.2f}]"),
            ("constant", f"{result['constant_rmse']:.3f}", "the training rows' mean"),
            *((name, f"{last:.3f}", "private leaderboard") for name, last in MEDALS.items())]  # fmt: skip
    lines = [table(("", "RMSE", ""), rows)]
    if result["copies"]:
        lines.append(
            f"{result['copies']} of the {result['n']} hidden photos have a near-duplicate among the training photos"
        )
    if place is None:
        lines.append("no better than the constant, so it has no place")
    else:
        others = ", ".join(name for name in inside if name != place) or "no other line"
        lines.append(f"by its figure: {place}; {result['n']} rows cannot tell it from {others}")
    emit(result | {"place": place}, "\n".join(lines), json)
    next_step("make report")
