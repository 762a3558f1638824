"""Blend methods: from what m members predict of some rows, and those rows' targets, to an intercept and m weights.

Every method answers in the members' own unit (score points), so a blend is `clip(intercept + members @ weights, 1, 100)`
whichever method it came from. All but the best member can be followed by an affine step (`mean+affine`), which corrects
level and spread by a straight line.

| method | weights |
| --- | --- |
| best | 1 for the member with the lowest RMSE |
| mean | 1 / m each |
| nnls | least squares with weights of 0 or more (Lawson and Hanson), no intercept |
| nnls-intercept | the same on centred columns, which leaves the intercept free |
| simplex | least squares with weights of 0 or more that sum to 1 |
| ridge | least squares with a penalty of 1 on the squared weights, and an intercept |
| ridge-gcv | ridge on standardised columns, its penalty chosen by cross-validation among 37 |
| hill-climb | Caruana's selection with replacement (2004): 100 times the member that helps most; the best step counts |

**The default is fixed by the number of rows alone**, because choosing by the figures one then reports flatters them: `mean` below
200 rows, `simplex` from 200, `nnls-intercept` from 3,000. Fitted on n of the contest's rows and scored on the others, RMSE
beyond the mean's (eight real members; four of them with two weak ones; three unequal ones; the eight drawn 30 % towards 38):

|    n | simplex                   | nnls-intercept            | mean+affine               | ridge-gcv                 |
| ---- | ------------------------- | ------------------------- | ------------------------- | ------------------------- |
|  100 | +.15 / -.04 / +.07 / +.02 | +.40 / +.20 / +.32 / -.07 | +.21 / +.23 / +.24 / -.23 | +.37 / +.23 / +.31 / -.08 |
|  400 | +.06 / -.18 / -.01 / -.04 | +.12 / -.12 / +.04 / -.33 | +.05 / +.06 / +.05 / -.41 | +.09 / -.12 / +.03 / -.36 |
| 3000 | +.01 / -.25 / -.06 / -.10 | +.00 / -.24 / -.06 / -.43 | -.01 / +.01 / -.01 / -.45 | -.01 / -.24 / -.06 / -.44 |

Weights cost about 9 sigma^2 / n of mean squared error for eight members, so few rows cannot pay for them; the simplex
cannot leave the range of its members, which costs the least where they are alike and drops a weak one at once; an
intercept and a free sum also mend members that are too timid, as soon as the rows can bear them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.optimize import nnls as lawson_hanson

from pawpularity.errors import UserError, nearest

Floats = NDArray[np.float64]

LOWEST, HIGHEST = 1.0, 100.0  # the contest's scores
RIDGE_ALPHA = 1.0
ALPHAS: tuple[float, ...] = tuple(float(alpha) for alpha in np.logspace(-3, 6, 37))
"""Quarter decades, for sums of squares over standardised columns."""
CLIMB_STEPS = 100
AFFINE = "+affine"
MEAN_BELOW, SIMPLEX_BELOW = 200, 3000


@dataclass(frozen=True, eq=False)
class Weights:
    """A blend: `intercept` in score points, `members` (m,) without unit."""

    intercept: float
    members: Floats

    def __call__(self, predictions: Floats) -> Floats:
        """Blended scores (n,) of the members' predictions (n, m), clipped to 1..100."""
        blended: Floats = np.clip(self.intercept + predictions @ self.members, LOWEST, HIGHEST)
        return blended


@dataclass(frozen=True, eq=False)
class KnownRows:
    """Rows whose targets may be looked at: the members' predictions (n, m) and the targets (n,), both in score points."""

    predictions: Floats
    target: Floats

    @cached_property
    def mean(self) -> Floats:
        """(m,) the members' means."""
        return np.asarray(self.predictions.mean(axis=0))

    @cached_property
    def target_mean(self) -> float:
        """The mean target."""
        return float(self.target.mean())

    @cached_property
    def centred(self) -> Floats:
        """(n, m) predictions less their means."""
        return self.predictions - self.mean

    @cached_property
    def gram(self) -> Floats:
        """(m, m) sums of products of the centred columns."""
        return self.centred.T @ self.centred

    @cached_property
    def cross(self) -> Floats:
        """(m,) sums of products of the centred columns with the centred targets."""
        return self.centred.T @ (self.target - self.target_mean)

    @cached_property
    def error_gram(self) -> Floats:
        """(m, m) sums of products of the members' errors; weights w that sum to 1 have the squared error w'Ew."""
        errors = self.predictions - self.target[:, None]
        return errors.T @ errors

    def through_means(self, weights: Floats) -> Weights:
        """`weights` with the intercept that makes the blend's mean the targets'."""
        return Weights(self.target_mean - float(self.mean @ weights), weights)


def best(rows: KnownRows) -> Weights:
    """The member with the lowest RMSE, alone."""
    weights = np.zeros(len(rows.mean))
    weights[int(np.argmin(np.diag(rows.error_gram)))] = 1.0
    return Weights(0.0, weights)


def mean(rows: KnownRows) -> Weights:
    """Every member alike."""
    return Weights(0.0, np.full(len(rows.mean), 1.0 / len(rows.mean)))


def nnls(rows: KnownRows) -> Weights:
    """Least squares with weights of 0 or more, no intercept."""
    n = len(rows.target)
    gram = rows.gram + n * np.outer(rows.mean, rows.mean)
    return Weights(0.0, nonnegative(gram, rows.cross + n * rows.mean * rows.target_mean))


def nnls_intercept(rows: KnownRows) -> Weights:
    """Least squares with weights of 0 or more and a free intercept."""
    return rows.through_means(nonnegative(rows.gram, rows.cross))


def simplex(rows: KnownRows) -> Weights:
    """Least squares with weights of 0 or more that sum to 1.

    For w = t u with u on the simplex, u'Eu t^2 + s (t - 1)^2 is least at s u'Eu / (u'Eu + s), which rises with u'Eu: so the
    nonnegative least squares of the errors with one more row, sqrt(s) (sum of w) = sqrt(s), points to the answer for any s > 0.
    """
    errors = rows.error_gram
    scale = float(np.mean(np.diag(errors))) or 1.0
    weights = nonnegative(errors + scale, np.full(len(errors), scale))
    return Weights(0.0, weights / weights.sum())


def ridge(rows: KnownRows) -> Weights:
    """Least squares with a penalty of RIDGE_ALPHA, in square score points, on the squared weights; the intercept is free."""
    penalised = rows.gram + RIDGE_ALPHA * np.eye(len(rows.gram))
    return rows.through_means(np.asarray(np.linalg.solve(penalised, rows.cross), dtype=np.float64))


def ridge_gcv(rows: KnownRows) -> Weights:
    """Ridge on standardised columns, the penalty of ALPHAS with the least leave-one-out error.

    Leave-one-out in closed form, error / (1 - leverage), as scikit-learn's RidgeCV has it. With the average leverage in place of
    each row's own (Golub, Heath and Wahba 1979) half of ten folds chose the next smaller penalty; RMSE moved by .0002.
    """
    sd = np.sqrt(np.diag(rows.gram) / len(rows.target))
    sd[sd <= 1e-12 * np.maximum(np.abs(rows.mean), 1.0)] = 1.0  # a member that always says the same
    values, vectors = scipy.linalg.eigh(rows.gram / np.outer(sd, sd))
    rotated = (rows.centred / sd) @ vectors  # (n, m)
    shrunk = vectors.T @ (rows.cross / sd) / (np.maximum(values, 0.0) + np.array(ALPHAS)[:, None])  # (alphas, m)
    errors = (rows.target - rows.target_mean)[:, None] - rotated @ shrunk.T
    leverage = 1.0 / len(rows.target) + rotated**2 @ (1.0 / (np.maximum(values, 0.0) + np.array(ALPHAS)[:, None])).T
    left_out = np.square(errors / np.maximum(1.0 - leverage, 1e-12)).sum(axis=0)
    return rows.through_means(vectors @ shrunk[int(np.argmin(left_out))] / sd)


def hill_climb(rows: KnownRows) -> Weights:
    """The mean of a bag that takes, CLIMB_STEPS times, the member that lowers its RMSE most; the best bag on the way."""
    errors = rows.error_gram
    counts = np.zeros(len(errors))
    kept, least = counts, np.inf
    for step in range(1, CLIMB_STEPS + 1):
        towards = errors @ counts
        reached = (counts @ towards + 2.0 * towards + np.diag(errors)) / step**2
        chosen = int(np.argmin(reached))
        counts[chosen] += 1.0
        if reached[chosen] < least:
            kept, least = counts / step, float(reached[chosen])
    return Weights(0.0, kept)


def affine(weights: Weights, rows: KnownRows) -> Weights:
    """`weights` followed by the straight line that fits the targets best: still an intercept and m weights."""
    variance = float(weights.members @ rows.gram @ weights.members)
    scale = float(np.sum(rows.predictions**2)) * float(weights.members @ weights.members)
    slope = float(weights.members @ rows.cross) / variance if variance > 1e-12 * scale else 0.0
    return rows.through_means(slope * weights.members)


METHODS: dict[str, Callable[[KnownRows], Weights]] = {
    "best": best,
    "mean": mean,
    "nnls": nnls,
    "nnls-intercept": nnls_intercept,
    "simplex": simplex,
    "ridge": ridge,
    "ridge-gcv": ridge_gcv,
    "hill-climb": hill_climb,
}
NAMES: tuple[str, ...] = (*METHODS, *(name + AFFINE for name in METHODS if name != "best"))


def fit(names: Iterable[str], rows: KnownRows) -> list[Weights]:
    """The weights of each of the methods `names` on `rows`, in that order."""
    fitted: dict[str, Weights] = {}
    found = []
    for name in names:
        first = name.removesuffix(AFFINE)
        if first not in fitted:
            fitted[first] = METHODS[first](rows)
        found.append(affine(fitted[first], rows) if name.endswith(AFFINE) else fitted[first])
    return found


def default_method(n: int) -> str:
    """The method for `n` rows, fixed before any figure is seen; the table above says why."""
    if n < MEAN_BELOW:
        return "mean"
    return "simplex" if n < SIMPLEX_BELOW else "nnls-intercept"


def check_method(name: str) -> str:
    """`name` if it is one of NAMES. Raises UserError with the nearest."""
    if name not in NAMES:
        raise UserError(f"--method {name}: is not known{nearest(name, NAMES)}")
    return name


def nonnegative(gram: Floats, cross: Floats) -> Floats:
    """The w >= 0, (m,), that makes w'Gw - 2 c'w least, for `gram` G (m, m), positive semidefinite, and `cross` c (m,).

    By Lawson and Hanson's active set on a square root of G, which takes microseconds however many rows stand behind it.
    """
    values, vectors = scipy.linalg.eigh(gram)
    kept = values > 1e-13 * len(values) * max(float(values[-1]), 0.0)
    if not kept.any():
        return np.zeros(len(cross))
    root = np.sqrt(values[kept])
    weights, _ = lawson_hanson(root[:, None] * vectors[:, kept].T, (vectors[:, kept].T @ cross) / root,
                               maxiter=100 * len(cross))  # fmt: skip
    return np.asarray(weights, dtype=np.float64)
