"""submission.csv: write it, and check it as Kaggle's grader would."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.data import CONTEST
from pawpularity.data.tables import ID, TARGET, near_hint, read_cells, read_sample_submission
from pawpularity.errors import UserError


def submission_text(ids: Sequence[str], scores: NDArray[np.float64]) -> str:
    """The text of a submission: `Id,Pawpularity`, six decimals, in the order of `ids`."""
    table = pd.DataFrame({ID: list(ids), TARGET: scores})
    return table.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def check_submission(path: Path, whose: str, data: Path = CONTEST, rows: int | None = None) -> pd.Series:
    """The scores of `path`, by Id. Raises UserError for a file that the contest would refuse.

    It must have `rows` rows, if given, and the Ids of the sample_submission.csv in `data`, if there is one.
    """
    what = f"submission.csv of {whose}"
    try:
        cells = read_cells(path, (ID, TARGET))
        scores = pd.Series(cells.numbers(TARGET, "a score of 1-100"), index=cells.ids())
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
    if rows is not None and len(scores) != rows:
        raise UserError(
            f"{what}: holds {len(scores)} rows, and the contest shows {rows} test photos; is its data attached?"
        )
    if not scores.between(1, 100).all():
        raise UserError(f"{what}: must hold scores of 1-100, and holds {scores.min():g} to {scores.max():g}")
    check_ids(list(scores.index), what, data)
    return scores


def check_ids(ids: Sequence[str], what: str, data: Path) -> None:
    """Raise UserError if `data` holds a sample_submission.csv with other Ids than those of `what`."""
    sample = data / "sample_submission.csv"
    if sample.exists() and (differing := set(read_sample_submission(data)[ID]) ^ set(ids)):
        raise UserError(
            f"{what} and {sample} hold different Ids ({len(differing)} differ, first {min(differing)})"
            f"{near_hint(differing - set(ids), ids) or '; download both again'}"
        )
