"""Effects on the score: the hypotheses, plain and adjusted effects, and the verdicts.

CLAIMS are the paper's advice on photos, each with its sign: one subject, a contrasting background, face and both eyes visible,
no unusual pose (the nearest columns are Action and Occlusion), the tongue out as a bonus. That accessories raise the score is
our reading of the paper's pictures. The family is fixed beforehand; Holm's correction is over those that can be tested.

The estimand is the plain difference: the mean score of the photos with a trait, less that of the others. It is a
weighted sum of the outcome, so one shuffle or resample serves all columns and all outcomes (true score, prediction, residual),
and they stay paired. A number (the contrast) counts per two standard deviations (Gelman 2008), which for a balanced 0/1 column
is the difference of the means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from pawpularity.evaluation.bootstrap import Floats, Groups, bootstrap_sums, holm, interval, permutations

ALPHA = 0.05
CONTRAST = "contrast"
FEW = 10  # photos: with fewer on a side the bootstrap's interval is too narrow to call an effect small
SUPPORTED, REJECTED = "supported", "rejected"
TOO_SMALL, CANNOT_TELL, NOT_TESTABLE = "too small to matter", "cannot tell", "not testable here"
_BATCH = 32  # shuffles at once: 8 MB of shuffled scores for 9,912 photos
_ALONE = 1.0 - 1e-8  # a row of this leverage decides a coefficient by itself: its residual is 0 whatever its score


@dataclass(frozen=True)
class Claim:
    """One hypothesis of the family."""

    hypothesis: int
    column: str
    """a metadata column, or `contrast`, which is measured from the pixels"""
    sign: int
    """+1 if it is claimed to raise the score, -1 if to lower it"""
    words: str


CLAIMS = (
    Claim(1, "Face", +1, "a visible face raises"),
    Claim(1, "Eyes", +1, "both eyes facing front raise"),
    Claim(2, CONTRAST, +1, "a contrasting background raises"),
    Claim(3, "Accessory", +1, "an accessory raises"),
    Claim(4, "Action", -1, "an unusual pose lowers"),
    Claim(4, "Occlusion", -1, "being partly hidden lowers"),
    Claim(5, "Group", -1, "more than one pet lowers"),
    Claim(5, "Collage", -1, "a collage lowers"),
)
NO_COLUMN = {"tongue": "no column says whether the tongue is out"}


def verdict(effect: float, low: float, high: float, corrected_p: float, sign: int, margin: float, fewest: int) -> str:
    """What the true score says about a claim of `sign`.

    `effect` with its 95 % interval `low`..`high` and `margin` are in score points, `corrected_p` is Holm's, `fewest` the
    photos on the smaller side. Not significant is no evidence of absence: only an interval inside the margin is.
    """
    if corrected_p < ALPHA:
        return SUPPORTED if effect * sign > 0 else REJECTED
    inside = -margin < low and high < margin
    return TOO_SMALL if inside and fewest >= FEW else CANNOT_TELL


class Column:
    """A trait of photos: 0/1, or a number; NaN where it was not measured.

    there      (n,) where it was measured
    is_number  whether it is more than 0/1
    varies     whether there is anything to compare
    counts     photos with and without; for a number those measured and those not
    fewest     photos on the smaller side; of a number those measured
    unit       the step whose effect is measured, in units of the column: 1, or two standard deviations of a number
    centred    (n,) the column less its mean, in `unit`s; 0 where it was not measured
    """

    def __init__(self, name: str, values: Floats) -> None:
        self.name, self.values, self.there = name, values, np.isfinite(values)
        measured = values[self.there]
        self.is_number = not bool(np.isin(measured, (0.0, 1.0)).all())
        self.varies = len(np.unique(measured)) > 1
        first = int((self.there if self.is_number else values == 1.0).sum())
        self.counts = (first, len(values) - first)
        self.fewest = first if self.is_number else min(self.counts)
        self.unit = 2.0 * float(np.std(measured)) if self.is_number else 1.0
        self.centred = np.zeros(len(values))
        if self.varies:
            self.centred[self.there] = (measured - measured.mean()) / self.unit


@dataclass(frozen=True)
class Effect:
    """An effect on one outcome, in score points: 95 % bootstrap interval, permutation p, and p after Holm's correction."""

    effect: float
    low: float
    high: float
    p: float
    corrected_p: float


def effects(
    columns: Sequence[Column], outcomes: Floats, groups: Groups, *, draws: int, seed: int = 0
) -> list[list[Effect]]:
    """The effect of each of the m varying `columns` on each column of `outcomes` (n, t): a list per outcome, of m.

    `groups` (n,) are near-duplicates (None: every row its own). Holm's correction is over the m columns.
    """
    if groups is not None and len(np.unique(groups)) == len(groups):
        groups = None  # the same result, faster
    outcomes = outcomes - outcomes.mean(axis=0)  # keeps the sums small; a difference does not change
    weights = np.column_stack([x / float(x @ x) for x in (column.centred for column in columns)])
    observed = weights.T @ outcomes
    p = _permutation_p(weights, observed, outcomes, groups, draws, seed)
    drawn = _resampled(columns, outcomes, groups, draws, seed)
    found = []
    for t in range(outcomes.shape[1]):
        # A resample without any photo on one side has no difference; this happens with very rare traits only.
        ends = [interval(values[np.isfinite(values[:, t]), t]) for values in drawn]
        figures = zip(observed[:, t].tolist(), ends, p[:, t].tolist(), holm(p[:, t]).tolist(), strict=True)
        found.append([Effect(effect, *end, plain_p, corrected) for effect, end, plain_p, corrected in figures])
    return found


def _permutation_p(
    weights: Floats, observed: Floats, outcomes: Floats, groups: Groups, draws: int, seed: int
) -> Floats:
    """Two-sided p (m, t): the share of shuffles at least as far from zero, the observed order counted among them."""
    reached = np.ones(observed.shape)
    # A sum in another order differs in its last digits; a tie must count as reached.
    threshold = np.abs(observed) - 1e-9 * np.maximum(np.abs(weights).T @ np.abs(outcomes), 1e-300)
    orders = permutations(len(outcomes), groups, draws=draws, seed=seed)
    while batch := list(islice(orders, _BATCH)):
        reached += (np.abs(weights.T @ outcomes[np.stack(batch)]) >= threshold).sum(axis=0)
    p: Floats = reached / (draws + 1)
    return p


def _resampled(columns: Sequence[Column], outcomes: Floats, groups: Groups, draws: int, seed: int) -> list[Floats]:
    """Per column the effects of all resamples, (draws, t); the unit of a number stays that of the observed rows."""
    t = outcomes.shape[1]
    parts = []
    for column in columns:
        there, x = column.there.astype(np.float64)[:, None], column.centred[:, None]
        parts += [there, x, x * x, there * outcomes, x * outcomes]
    sums = bootstrap_sums(np.hstack(parts), groups, draws=draws, seed=seed)
    found = []
    for block in np.split(sums, len(columns), axis=1):
        count, x, xx, y, xy = np.split(block, [1, 2, 3, 3 + t], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = xx - x * x / count
            found.append((xy - x * y / count) / np.where(spread > 1e-12 * xx, spread, np.nan))
    return found


def standard_error(column: Column, outcome: Floats) -> float | None:
    """Welch's standard error (HC2) of the effect on `outcome` (n,); None where one side has a single photo.

    An effect of 2.80 standard errors is detected with 80 % power at .05.
    """
    fit, _, leverage = _fit(column.values[column.there, None], outcome[column.there])
    return None if leverage.max() >= _ALONE else float(fit.HC2_se[1]) * column.unit


@dataclass(frozen=True)
class Coefficient:
    """An adjusted effect, in units of the outcome: HC3 standard error, 95 % interval and p by Student's t."""

    effect: float
    low: float
    high: float
    se: float
    p: float


@dataclass(frozen=True)
class Regression:
    """A fit: the coefficients that the rows can tell apart (None = not), and the F test of all together."""

    coefficients: list[Coefficient | None]
    n: int
    r2: float | None
    f: float | None
    f_degrees: tuple[int, int]
    f_p: float | None


def least_squares(columns: Floats, outcome: Floats) -> Regression:
    """Regress `outcome` (n,) on an intercept and `columns` (n, c): HC3 errors, classical F test of all columns.

    A coefficient is None where the rows cannot tell its column from the others, or where one row alone decides it.
    """
    fit, _, _ = _fit(columns, outcome)
    degrees = (int(fit.df_model), int(fit.df_resid))
    varied = fit.centered_tss > 0
    tested = varied and fit.ssr > 1e-12 * fit.centered_tss and min(degrees) > 0
    return Regression(
        coefficients=_coefficients(columns, outcome),
        n=len(outcome),
        r2=float(fit.rsquared) if varied else None,
        f=float(fit.fvalue) if tested else None,
        f_degrees=degrees,
        f_p=float(fit.f_pvalue) if tested else None,
    )


def _coefficients(columns: Floats, outcome: Floats) -> list[Coefficient | None]:
    found: list[Coefficient | None] = [None] * columns.shape[1]
    while True:
        if len(outcome) <= columns.shape[1] + 1:
            return found
        fit, kept, leverage = _fit(columns, outcome)
        if leverage.max() < _ALONE:
            break
        # Such a row is fitted exactly and says nothing about the other coefficients. Without it, the coefficient that it alone
        # decides cannot be estimated and becomes None.
        columns, outcome = columns[leverage < _ALONE], outcome[leverage < _ALONE]
    robust = fit.get_robustcov_results("HC3", use_t=True)
    ends = robust.conf_int()
    design = _with_intercept(columns)
    for place, column in enumerate(kept):
        # A column differs from all combinations of the others if the rank falls without it.
        if column and np.linalg.matrix_rank(np.delete(design, column, axis=1)) < len(kept):
            effect, se = float(robust.params[place]), float(robust.bse[place])
            p = float(robust.pvalues[place]) if se > 0 else float(effect == 0)
            found[column - 1] = Coefficient(effect, float(ends[place, 0]), float(ends[place, 1]), se, p)
    return found


def _fit(columns: Floats, outcome: Floats) -> tuple[Any, list[int], Floats]:
    """Ordinary least squares on an intercept and those columns that do not follow from ones before them.

    Returns the fit, the kept columns (0 = the intercept), and the leverage of each row, (n,).
    """
    from statsmodels.regression.linear_model import OLS

    design = _with_intercept(columns)
    kept: list[int] = []
    for column in range(design.shape[1]):
        if np.linalg.matrix_rank(design[:, [*kept, column]]) > len(kept):
            kept.append(column)
    model = OLS(outcome, design[:, kept])
    return model.fit(), kept, np.einsum("ij,ji->i", model.exog, np.linalg.pinv(model.exog))


def _with_intercept(columns: Floats) -> Floats:
    return np.column_stack([np.ones(len(columns)), columns])
