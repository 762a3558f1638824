"""The family of claims put to a labelled table: effects, precision, adjusted effects, verdicts.

Only the true score decides a verdict. With out-of-fold predictions there is also the effect on the prediction (what the
model believes) and on true minus predicted (what it gets wrong). The three are paired: belief + residual = effect.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.data.dataset import Dataset
from pawpularity.data.subject import measure
from pawpularity.data.tables import ID, METADATA, TARGET
from pawpularity.evaluation.effects import (
    CLAIMS,
    CONTRAST,
    FEW,
    NO_COLUMN,
    Claim,
    Coefficient,
    Column,
    Effect,
    Precision,
    Regression,
    effects,
    least_squares,
    precision,
    verdict,
)

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Gathered:
    """The rows of a data set sorted by Id, so that no figure depends on the table's order."""

    table: pd.DataFrame
    groups: Rows
    """(n,) near-duplicates share a number"""
    contrast: Floats | str
    """(n,) levels of luma, NaN where no subject was found; or why there are none"""

    @property
    def notes(self) -> list[str]:
        """How the contrast was measured."""
        if isinstance(self.contrast, str):
            return []
        seen = int(np.isfinite(self.contrast).sum())
        return [
            f"contrast: |mean luma of subject - of background| by GrabCut, on {seen:,} of {len(self.contrast):,} photos"
        ]


def gather(dataset: Dataset, groups_of: Callable[[Iterable[str]], Rows]) -> Gathered:
    """The rows of `dataset`, with the contrast measured where there are photos."""
    order = np.argsort(dataset.train[ID].to_numpy(dtype=str), kind="stable")
    table = dataset.train.iloc[order].reset_index(drop=True)
    contrast: Floats | str = f"needs photos, and {dataset.name} has labels only"
    if dataset.has_photos:
        contrast = measure(dataset).levels[order]
    return Gathered(table, groups_of(table[ID]), contrast)


@dataclass(frozen=True)
class Finding:
    """One claim that was tested. Effects are in score points; those of the contrast per two standard deviations."""

    claim: Claim
    n_with: int
    """photos that have it; for the contrast those it was measured on"""
    n_without: int
    truth: Effect
    precision: Precision
    adjusted: Coefficient | None
    """beside all other columns in one regression; None where the rows cannot tell them apart"""
    verdict: str
    unit: float
    """levels of luma that the contrast's effect is of; 1 for 0/1 columns"""
    belief: Effect | None
    """the effect on the prediction"""
    residual: Effect | None
    """the effect on true minus predicted"""

    @property
    def fewest(self) -> int:
        """Photos on the smaller side."""
        return self.n_with if self.claim.column == CONTRAST else min(self.n_with, self.n_without)


@dataclass(frozen=True)
class Findings:
    """All that was found in one table."""

    rows: list[Finding]
    untested: dict[str, str]
    """column -> why it is not testable here"""
    joint: Regression
    joint_columns: tuple[str, ...]
    scores: Floats
    """(n,) true scores"""


def find(
    table: pd.DataFrame,
    groups: Rows | None,
    *,
    contrast: Floats | str,
    prediction: Floats | None = None,
    draws: int,
    margin: float,
    seed: int = 0,
) -> Findings:
    """Test the family on `table` (the twelve metadata columns and Pawpularity; n rows).

    `groups` and `contrast` as in Gathered, `prediction` (n,) out of fold, `margin` in score points.
    """
    scores = table[TARGET].to_numpy(dtype=np.float64)
    columns, untested = _columns(table, contrast)
    outcomes = scores[:, None] if prediction is None else np.column_stack([scores, prediction, scores - prediction])
    if groups is not None and len(np.unique(groups)) == len(groups):
        groups = None  # every row its own: the same, faster
    found = effects(list(columns.values()), outcomes, groups, draws=draws, seed=seed) if columns else [[]]
    joint, names = _joint(table, columns.get(CONTRAST), scores)
    rows = []
    for index, (claim, column) in enumerate(
        (claim, columns[claim.column]) for claim in CLAIMS if claim.column in columns
    ):
        truth, (n_with, n_without) = found[0][index], column.counts
        fewest = n_with if column.name == CONTRAST else min(n_with, n_without)
        rows.append(
            Finding(
                claim=claim,
                n_with=n_with,
                n_without=n_without,
                truth=truth,
                precision=precision(column, scores, len(columns)),
                adjusted=joint.coefficients[names.index(column.name)],
                verdict=verdict(truth.effect, truth.low, truth.high, truth.corrected_p, claim.sign, margin, fewest),
                unit=column.unit,
                belief=None if prediction is None else found[1][index],
                residual=None if prediction is None else found[2][index],
            )
        )
    return Findings(rows, untested, joint, names, scores)


def _columns(table: pd.DataFrame, contrast: Floats | str) -> tuple[dict[str, Column], dict[str, str]]:
    """The claims' columns that can be tested, in the family's order, and why the others cannot."""
    columns: dict[str, Column] = {}
    untested: dict[str, str] = {}
    for claim in CLAIMS:
        name = claim.column
        if name == CONTRAST and isinstance(contrast, str):
            untested[name] = contrast
            continue
        column = Column(name, np.asarray(contrast if name == CONTRAST else table[name], dtype=np.float64))
        if name == CONTRAST and (column.there.sum() < FEW or not column.varies):
            untested[name] = f"was measured on {int(column.there.sum())} photos, or is the same on all"
        elif not column.varies:
            untested[name] = f"is {column.values[0]:.0f} on every photo"
        else:
            columns[name] = column
    return columns, untested | NO_COLUMN


def _joint(table: pd.DataFrame, contrast: Column | None, scores: Floats) -> tuple[Regression, tuple[str, ...]]:
    """All twelve columns in one regression, and the contrast where it is tested (over the photos that have it)."""
    design = table[list(METADATA)].to_numpy(dtype=np.float64)
    if contrast is None:
        return least_squares(design, scores), METADATA
    design = np.column_stack([design, contrast.centred])
    return least_squares(design[contrast.there], scores[contrast.there]), (*METADATA, contrast.name)
