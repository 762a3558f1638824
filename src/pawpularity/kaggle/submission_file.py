"""A submission.csv as Kaggle's grader wants it, whoever wrote it."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.data.dataset import CONTEST
from pawpularity.data.tables import ID, TARGET, read_sample_submission
from pawpularity.errors import UserError

VISIBLE = 8
"""Test photos that the contest shows, all of noise: rows of a kernel's trial before it is submitted."""


def submission_text(ids: Sequence[str], scores: NDArray[np.float64]) -> str:
    """What a submission file holds: `Id,Pawpularity`, six decimals, in the order of `ids`."""
    table = pd.DataFrame({ID: list(ids), TARGET: scores})
    return table.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def check_submission(path: Path, whose: str, data: Path = CONTEST, rows: int | None = None) -> int:
    """Rows of `path`. Raises UserError, naming `whose` file it is, for one that the contest would refuse.

    There must be `rows` of them, if it is given. Where the contest's own sample_submission.csv is in `data`, it must be a
    table, and its Ids the file's.
    """
    doing = f"submission.csv of {whose}"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{doing}: cannot be read ({error})") from None
    if not lines or lines[0] != [ID, TARGET]:
        raise UserError(
            f"{doing}: must begin with {ID},{TARGET}, not {','.join(lines[0])[:60] if lines else 'nothing'}"
        )
    if len(lines) == 1:
        raise UserError(f"{doing}: holds no rows")
    seen: set[str] = set()
    for number, row in enumerate(lines[1:], start=2):
        if len(row) != 2 or not row[0] or row[0] in seen:
            raise UserError(f"{doing}: line {number} must be an Id that stands there once, and its score")
        seen.add(row[0])
        if not _is_score(row[1]):
            raise UserError(f"{doing}: line {number}: {row[1][:40]} is no score of 1-100")
    if rows is not None and len(seen) != rows:
        raise UserError(
            f"{doing}: holds {len(seen)} rows, and the contest shows {rows} test photos; is its data attached to the kernel?"
        )
    sample = data / "sample_submission.csv"
    if sample.exists():
        wanted = set(read_sample_submission(data)[ID])
        if odd := wanted ^ seen:
            raise UserError(f"{doing}: {min(odd)} is only in one of it and {sample}")
    return len(seen)


def require_answers(path: Path, whose: str) -> None:
    """Raise UserError where a sound submission.csv of several photos gives all the same score: the mean, not an answer."""
    with path.open(encoding="utf-8", newline="") as file:
        scores = [float(line[1]) for line in list(csv.reader(file))[1:]]
    if len(scores) > 1 and len(set(scores)) == 1:
        raise UserError(
            f"submission.csv of {whose}: all {len(scores)} photos score {scores[0]:g}, so no network answered; read its log"
        )


def _is_score(text: str) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    return math.isfinite(value) and 1 <= value <= 100
