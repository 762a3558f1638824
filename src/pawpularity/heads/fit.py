"""Fit heads on frozen features with scikit-learn: a ridge, or a support vector machine (SVR).

Features are standardised on the training rows. What a head chooses (a penalty; a kernel and C) it chooses on its training
rows alone, so the scored rows are never used.

- Ridge: the penalty of ALPHAS with the lowest leave-one-out error (`RidgeCV`: one decomposition a fit). A near-duplicate in the
  training rows can lower that penalty a little; the scored rows stay unseen.
- SVR: kernel and C by cross-validation over groups of near-duplicates, on a draw of about INNER_ROWS rows where there are more;
  the final fit has all rows. Kernels are made by matrix products, because libsvm's own loops take many times as long.
  C and EPSILON are in standard deviations of the targets; gamma = 1 / columns. The loss aims nearer to the median of the scores
  than to their mean, which costs some RMSE where they are as skewed as the contest's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.console import track
from pawpularity.heads.head import Floats, Head, Table

ALPHAS = tuple(np.logspace(0, 6, 13).tolist())
"""Penalties on sums of squares over standardised columns; the last leaves little but the mean."""
SVR_C = {"rbf": (0.1, 0.3, 1.0, 3.0, 10.0), "linear": (0.01, 0.1, 1.0)}
EPSILON = 0.1
INNER_ROWS = 2000
INNER_FOLDS = 4

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A head and what it chose."""

    head: Head
    chosen: dict[str, Any]
    words: str
    """`alpha 316`, `rbf C 3 (edge)`; edge = the smallest or largest value tried"""


def fit_head(method: str, features: Table, target: Floats, groups: Rows, *, seed: int = 0) -> Fitted:
    """Fit `method`, `ridge` or `svr`, on `features` (n, p) and `target` (n,). `groups` (n,) of near-duplicates are kept whole."""
    return fit_ridge(features, target) if method == "ridge" else fit_svr(features, target, groups, seed=seed)


def out_of_fold(
    method: str, features: Table, target: Floats, folds: Rows, groups: Rows, *, seed: int = 0
) -> tuple[Floats, list[Fitted]]:
    """Predictions (n,) of every row by a head fitted on the other folds, not clipped, and the head of each fold 0..k-1."""
    prediction, fitted = np.empty(len(target)), []
    for fold in track(range(int(folds.max()) + 1), f"fit {method}", unit="folds"):
        known, scored = folds != fold, folds == fold
        fitted.append(fit_head(method, features[known], target[known], groups[known], seed=seed))
        prediction[scored] = fitted[-1].head.predict(features[scored])
    return prediction, fitted


def fit_ridge(features: Table, target: Floats) -> Fitted:
    """Ridge regression with the penalty of ALPHAS that has the lowest leave-one-out error."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scaler, ridge = make_pipeline(StandardScaler(copy=False), RidgeCV(ALPHAS)).fit(features.astype(np.float64), target)
    head = Head(scaler.mean_, ridge.coef_ / scaler.scale_, np.asarray(ridge.intercept_))
    alpha = float(ridge.alpha_)
    shown = np.format_float_positional(alpha, precision=3, fractional=False, trim="-")
    return Fitted(head, {"alpha": alpha}, f"alpha {shown}{_edge(alpha, ALPHAS)}")


def fit_svr(features: Table, target: Floats, groups: Rows, *, seed: int = 0, inner_rows: int = INNER_ROWS) -> Fitted:
    """Support vector regression with the kernel and C that predict held-out groups of about `inner_rows` rows best."""
    from sklearn.metrics.pairwise import linear_kernel, rbf_kernel
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    scaler = StandardScaler(copy=False)
    z = scaler.fit_transform(features.astype(np.float64))
    gamma = 1.0 / max(1, int(z.any(axis=0).sum()))

    kernels = {"rbf": lambda rows: rbf_kernel(rows, gamma=gamma), "linear": lambda rows: gamma * linear_kernel(rows)}
    level, spread = float(target.mean()), float(target.std()) or 1.0
    y = (target - level) / spread
    inner = draw_groups(groups, inner_rows, seed)
    folds = GroupKFold(min(INNER_FOLDS, len(np.unique(groups[inner]))))
    errors: dict[tuple[str, float], float] = {}
    for name, values in SVR_C.items():
        search = GridSearchCV(SVR(kernel="precomputed", epsilon=EPSILON), {"C": values}, cv=folds, refit=False,
                              scoring="neg_mean_squared_error")  # fmt: skip
        search.fit(kernels[name](z[inner]), y[inner], groups=groups[inner])
        errors |= {(name, c): -float(e) for c, e in zip(values, search.cv_results_["mean_test_score"], strict=True)}
    name, c = min(errors, key=errors.__getitem__)
    svr = SVR(kernel="precomputed", C=c, epsilon=EPSILON, cache_size=500).fit(kernels[name](z), y)
    support, weights = z[svr.support_], spread * svr.dual_coef_[0]
    intercept = np.asarray(spread * svr.intercept_[0] + level)
    if name == "rbf":
        head = Head(scaler.mean_, weights, intercept, scaler.scale_, support.astype(np.float32), np.asarray(gamma))
    else:
        head = Head(scaler.mean_, gamma * (weights @ support) / scaler.scale_, intercept)
    chosen = {"kernel": name, "c": c, "epsilon": EPSILON, "inner_rows": len(inner)}
    return Fitted(head, chosen, f"{name} C {c:g}{_edge(c, SVR_C[name])}")


def draw_groups(groups: Rows, most: int, seed: int) -> Rows:
    """Rows, ascending, of whole groups drawn at random, `most` at most; all rows where they are no more."""
    if len(groups) <= most:
        return np.arange(len(groups))
    _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    return np.flatnonzero(np.isin(index, order[np.cumsum(sizes[order]) <= most]))


def _edge(value: float, tried: Sequence[float]) -> str:
    return " (edge)" if value in (min(tried), max(tried)) else ""
