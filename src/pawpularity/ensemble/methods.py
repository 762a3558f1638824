"""Blend methods: from the predictions of m members and the targets of the same rows to an intercept and m weights.

Every blend is `clip(intercept + members @ weights, 1, 100)`, in score points. Any method but `best` can be followed by a
straight-line fit (`mean+affine`), which corrects level and spread.

The number of rows alone decides the default, because choosing the method by the reported figures would make them optimistic.
Weights overfit few rows; an intercept and a free sum help from about 3,000 rows (measured on subsamples: docs/log.md).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOWEST, HIGHEST = 1.0, 100.0  # the contest's scores
ALPHAS = np.logspace(-3, 6, 37)
CLIMB_STEPS = 100
AFFINE = "+affine"


@dataclass(frozen=True, eq=False)
class Weights:
    """A blend: `intercept` in score points, `members` (m,)."""

    intercept: float
    members: Floats

    def __call__(self, predictions: Floats) -> Floats:
        """Blended scores (n,) of the members' predictions (n, m), clipped to 1..100."""
        blended: Floats = np.clip(self.intercept + predictions @ self.members, LOWEST, HIGHEST)
        return blended


def best(predictions: Floats, target: Floats) -> Weights:
    """The member with the lowest RMSE, alone."""
    errors = np.square(predictions - target[:, None]).sum(axis=0)
    return Weights(0.0, np.eye(len(errors))[errors.argmin()])


def mean(predictions: Floats, target: Floats) -> Weights:
    """Equal weights."""
    m = predictions.shape[1]
    return Weights(0.0, np.full(m, 1.0 / m))


def nonnegative(predictions: Floats, target: Floats) -> Weights:
    """Least squares with weights of 0 or more (Lawson and Hanson), no intercept."""
    from scipy.optimize import nnls

    return Weights(0.0, nnls(predictions, target)[0])


def nonnegative_intercept(predictions: Floats, target: Floats) -> Weights:
    """Least squares with weights of 0 or more and a free intercept."""
    centre, level = predictions.mean(axis=0), target.mean()
    weights = nonnegative(predictions - centre, target - level).members
    return Weights(float(level - centre @ weights), weights)


def simplex(predictions: Floats, target: Floats) -> Weights:
    """Least squares with weights of 0 or more that sum to 1.

    With errors E and w = t u, u on the simplex, |Ew|^2 + s (sum(w) - 1)^2 is lowest at s |Eu|^2 / (|Eu|^2 + s), which rises
    with |Eu|. So one extra row, sqrt(s) (sum of w) = sqrt(s), gives the direction of the answer, for any s > 0.
    """
    errors = predictions - target[:, None]
    row = np.full((1, errors.shape[1]), np.linalg.norm(errors) or 1.0)
    weights = nonnegative(np.concatenate([errors, row]), np.append(np.zeros(len(errors)), row[0, 0])).members
    return Weights(0.0, weights / weights.sum())


def ridge(predictions: Floats, target: Floats) -> Weights:
    """Least squares with an intercept and a penalty of 1, in square score points, on the squared weights."""
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=1.0).fit(predictions, target)
    return Weights(float(model.intercept_), model.coef_)


def ridge_gcv(predictions: Floats, target: Floats) -> Weights:
    """Ridge on standardised columns, with the penalty of ALPHAS that has the lowest leave-one-out error."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scaler, model = make_pipeline(StandardScaler(), RidgeCV(ALPHAS)).fit(predictions, target)
    weights = model.coef_ / scaler.scale_
    return Weights(float(model.intercept_ - scaler.mean_ @ weights), weights)


def hill_climb(predictions: Floats, target: Floats) -> Weights:
    """Caruana 2004: CLIMB_STEPS times, add to a bag the member that lowers the RMSE of its mean most; take the best bag."""
    errors = predictions - target[:, None]
    products = errors.T @ errors  # the squared error of weights w that sum to 1 is w' products w
    counts = np.zeros(len(products))
    bags: dict[float, Floats] = {}
    for step in range(1, CLIMB_STEPS + 1):
        reached = (counts @ products @ counts + 2 * products @ counts + np.diag(products)) / step**2
        counts[reached.argmin()] += 1
        bags.setdefault(float(reached.min()), counts / step)
    return Weights(0.0, bags[min(bags)])


def affine(weights: Weights, predictions: Floats, target: Floats) -> Weights:
    """`weights` followed by the straight line that fits `target` best."""
    blend = predictions @ weights.members
    centred = blend - blend.mean()
    slope = centred @ target / (centred @ centred) if np.std(blend) > 1e-9 else 0.0
    return Weights(float(target.mean() - slope * blend.mean()), slope * weights.members)


METHODS: dict[str, Callable[[Floats, Floats], Weights]] = {
    "best": best,
    "mean": mean,
    "nnls": nonnegative,
    "nnls-intercept": nonnegative_intercept,
    "simplex": simplex,
    "ridge": ridge,
    "ridge-gcv": ridge_gcv,
    "hill-climb": hill_climb,
}
NAMES: tuple[str, ...] = (*METHODS, *(name + AFFINE for name in METHODS if name != "best"))


def fit(method: str, predictions: Floats, target: Floats) -> Weights:
    """The weights of one of NAMES, from `predictions` (n, m) and `target` (n,)."""
    weights = METHODS[method.removesuffix(AFFINE)](predictions, target)
    return affine(weights, predictions, target) if method.endswith(AFFINE) else weights


def default_method(n: int) -> str:
    """The method for `n` rows."""
    if n < 1000:  # on 24 public files simplex costs up to .08 points against the mean there
        return "mean"
    return "simplex" if n < 3000 else "nnls-intercept"
