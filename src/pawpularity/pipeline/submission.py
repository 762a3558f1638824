"""The submission CSV, `Id,Pawpularity`, with a .json beside it that says where it came from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.data.tables import ID, TARGET, read_sample_submission
from pawpularity.errors import UserError
from pawpularity.files import file_hash, write_json, write_text

SUBMISSIONS = Path("submissions")


def submission_text(ids: Sequence[str], scores: NDArray[np.float64]) -> str:
    """What a submission file holds: `Id,Pawpularity`, six decimals, in the order of `ids`."""
    table = pd.DataFrame({ID: list(ids), TARGET: scores})
    return table.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def require_wanted(ids: Sequence[str], data: Path) -> None:
    """Raise UserError where `ids` are not those of the data's sample_submission.csv, if it has one, or that is no table."""
    if not (data / "sample_submission.csv").exists():
        return
    wanted = set(read_sample_submission(data)[ID])
    if odd := wanted ^ set(ids):
        first = min(odd)
        there, lacking = (
            ("sample_submission.csv", "test.csv") if first in wanted else ("test.csv", "sample_submission.csv")
        )
        raise UserError(
            f'{data}: Id "{first}" is in {there} and not in {lacking} ({len(odd)} differ); get both files again'
        )


def write_submission(path: Path, ids: Sequence[str], scores: NDArray[np.float64], origin: dict[str, Any]) -> None:
    """Write `path` in the order of `ids`, six decimals, and `path` with suffix .json holding `origin`.

    Raises UserError when a score is not in 1..100 (the contest's grader refuses such files).
    """
    outside = np.flatnonzero(~((scores >= 1) & (scores <= 100)))
    if len(outside):
        raise UserError(
            f"the score of {ids[outside[0]]} is {scores[outside[0]]}, outside 1..100; was the training sound?"
        )
    write_text(path, submission_text(ids, scores))
    write_json(path.with_suffix(".json"), origin | {"rows": len(ids), "submission_hash": file_hash(path)})
