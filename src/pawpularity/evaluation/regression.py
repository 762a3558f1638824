"""Ordinary least squares with errors that do not trust equal spread: the adjusted effects, and standard errors of plain ones.

HC2 and HC3 are MacKinnon and White's (1985) corrections of White's standard errors: squared residuals divided by (1 - h)
and (1 - h)^2, h being a row's leverage. For a single 0/1 column HC2 is exactly Welch's standard error.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

_LEVER = 1.0 - 1e-8  # a row of this leverage decides a coefficient alone: its residual is 0 whatever its score is


@dataclass(frozen=True)
class Coefficient:
    """An adjusted effect, in units of the outcome; 95 % interval by Student's t."""

    effect: float
    low: float
    high: float
    se: float
    p: float


@dataclass(frozen=True)
class Regression:
    """A fit: the coefficients that the rows can tell apart (None = not), and the F-test of all together."""

    coefficients: list[Coefficient | None]
    n: int
    r2: float | None
    f: float | None
    f_degrees: tuple[int, int]
    f_p: float | None


def slope_error(x: Floats, y: Floats) -> float:
    """HC2 standard error of the slope of `y` on `x` (both (n,)), NaN where a row decides the slope alone."""
    centred = x - x.mean()
    total = float(centred @ centred)
    residual = y - y.mean() - centred * (float(centred @ y) / total)
    free = 1.0 - 1.0 / len(x) - centred**2 / total
    if free.min() <= 1.0 - _LEVER:
        return float("nan")
    return float(np.sqrt(centred**2 @ (residual**2 / free))) / total


def least_squares(columns: Floats, outcome: Floats) -> Regression:
    """Regress `outcome` (n,) on an intercept and `columns` (n, c); HC3 errors, classical F of all columns.

    A coefficient is None where the rows cannot tell its column from the others, or one row alone decides it.
    """
    n = len(outcome)
    scale = columns.std(axis=0)
    # Centred and scaled, so that the rank does not depend on units; a constant column becomes zeros.
    design = (columns - columns.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    design = np.column_stack([np.ones(n), np.where(scale > 0, design, 0.0)])
    inverse, rank, _ = _solved(design)
    fitted = design @ (inverse @ outcome)
    degrees = (rank - 1, n - rank)
    total, left = float(((outcome - outcome.mean()) ** 2).sum()), float(((outcome - fitted) ** 2).sum())
    f = f_p = None
    if total > 0 and left > 1e-12 * total and min(degrees) > 0:
        f = (total - left) / degrees[0] / (left / degrees[1])
        f_p = float(stats.f.sf(f, *degrees))
    return Regression(
        coefficients=_coefficients(design, outcome, np.where(scale > 0, scale, np.nan)),
        n=n,
        r2=1.0 - left / total if total > 0 else None,
        f=f,
        f_degrees=degrees,
        f_p=f_p,
    )


def _solved(design: Floats) -> tuple[Floats, int, Floats]:
    """The pseudo-inverse of `design` (n, c), its rank, and the combinations of columns that are zero in every row."""
    left, singular, right = np.linalg.svd(design, full_matrices=False)
    there = singular > 1e-10 * singular.max()
    inverse = (right[there].T / singular[there]) @ left[:, there].T
    return inverse, int(there.sum()), right[~there]


def _coefficients(design: Floats, outcome: Floats, scale: Floats) -> list[Coefficient | None]:
    while True:
        n, width = design.shape
        if n <= width:
            return [None] * (width - 1)
        inverse, rank, zero = _solved(design)
        leverage = np.einsum("ij,ji->i", design, inverse)
        alone = leverage >= _LEVER
        if not alone.any():
            break
        # Such a row is fitted exactly and tells nothing of the other coefficients: it goes, and so does what it decided.
        design, outcome = design[~alone], outcome[~alone]
    mixed = np.abs(zero).max(axis=0, initial=0.0) > 1e-6  # the rows cannot tell this column from the others
    solution = inverse @ outcome
    residual = (outcome - design @ solution) / (1.0 - leverage)
    errors = np.sqrt(((inverse * residual) ** 2).sum(axis=1))
    reach = float(stats.t.ppf(0.975, n - rank))
    out: list[Coefficient | None] = []
    for j in range(1, width):
        if mixed[j] or not np.isfinite(scale[j - 1]):
            out.append(None)
            continue
        effect, se = float(solution[j] / scale[j - 1]), float(errors[j] / scale[j - 1])
        p = float(2 * stats.t.sf(abs(effect) / se, n - rank)) if se > 0 else float(effect == 0)
        out.append(Coefficient(effect, effect - reach * se, effect + reach * se, se, p))
    return out
