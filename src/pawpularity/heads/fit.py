"""Fit heads on frozen features: a ridge, a kernel ridge, a support vector machine (SVR); to compare with, trees and TabPFN.

Features are standardised on the training rows. What a head chooses (a penalty; a kernel and C) it chooses on its training
rows alone, so the scored rows are never used.

- Ridge: the penalty of ALPHAS with the lowest leave-one-out error (`RidgeCV`: one decomposition a fit). A near-duplicate in the
  training rows can lower that penalty a little; the scored rows stay unseen.
- Kernel ridge (rbf): width and penalty by cross-validation, as for the SVR.
- SVR: kernel and C by cross-validation over groups of near-duplicates, on a draw of about INNER_ROWS rows where there are more;
  the final fit has all rows. Kernels are made by matrix products, because libsvm's own loops take many times as long.
  C and EPSILON are in standard deviations of the targets; gamma = 1 / columns. The loss aims nearer to the median of the scores
  than to their mean, which costs some RMSE where they are as skewed as the contest's.
- Gradient boosting (scikit-learn's) and TabPFN (`pip install tabpfn`; its weights are for non-commercial use) only evaluate: they
  are not kept, so nothing can be predicted with them afterwards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pawpularity.console import track
from pawpularity.errors import UserError
from pawpularity.heads.head import Floats, Head, Table

ALPHAS = tuple(np.logspace(0, 6, 13).tolist())
"""Penalties on sums of squares over standardised columns; the last leaves little but the mean."""
KERNEL_ALPHAS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
GAMMAS = (0.3, 1.0, 3.0)
"""times 1 / columns"""
SVR_C = {"rbf": (0.1, 0.3, 1.0, 3.0, 10.0), "linear": (0.01, 0.1, 1.0)}
EPSILON = 0.1
INNER_ROWS = 2000
INNER_FOLDS = 4

Rows = NDArray[np.int64]


class Scorer(Protocol):
    """Anything that predicts. Only a `Head` can be kept."""

    def predict(self, features: Table) -> Floats:
        """Scores (n,) of features (n, p), not clipped."""
        ...


@dataclass(frozen=True, eq=False)
class Fitted:
    """A head and what it chose."""

    head: "Scorer"
    chosen: dict[str, Any]
    words: str
    """`alpha 316`, `rbf C 3 (edge)`; edge = the smallest or largest value tried"""


def fit_head(method: str, features: Table, target: Floats, groups: Rows, *, seed: int = 0) -> Fitted:
    """Fit a method of METHODS on `features` (n, p) and `target` (n,). `groups` (n,) of near-duplicates are kept whole."""
    return METHODS[method](features, target, groups, seed)


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


def fit_ridge(features: Table, target: Floats, groups: Rows | None = None, seed: int = 0) -> Fitted:
    """Ridge regression with the penalty of ALPHAS that has the lowest leave-one-out error."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scaler, ridge = make_pipeline(StandardScaler(copy=False), RidgeCV(ALPHAS)).fit(features.astype(np.float64), target)
    head = Head(mean=scaler.mean_, weights=ridge.coef_ / scaler.scale_, intercept=np.asarray(ridge.intercept_))
    alpha = float(ridge.alpha_)
    shown = np.format_float_positional(alpha, precision=3, fractional=False, trim="-")
    return Fitted(head, {"alpha": alpha}, f"alpha {shown}{_edge(alpha, ALPHAS)}")


def fit_svr(features: Table, target: Floats, groups: Rows, seed: int = 0, inner_rows: int = INNER_ROWS) -> Fitted:
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
        head = Head(mean=scaler.mean_, weights=weights, intercept=intercept, scale=scaler.scale_,
                    support=support.astype(np.float32), gamma=np.asarray(gamma))  # fmt: skip
    else:
        head = Head(mean=scaler.mean_, weights=gamma * (weights @ support) / scaler.scale_, intercept=intercept)
    chosen = {"kernel": name, "c": c, "epsilon": EPSILON, "inner_rows": len(inner)}
    return Fitted(head, chosen, f"{name} C {c:g}{_edge(c, SVR_C[name])}")


def fit_kernel_ridge(
    features: Table, target: Floats, groups: Rows, seed: int = 0, inner_rows: int = INNER_ROWS
) -> Fitted:
    """Kernel ridge regression (rbf) with the width and penalty that predict held-out groups of about `inner_rows` rows best."""
    from scipy.linalg import solve
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.metrics.pairwise import rbf_kernel
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler(copy=False)
    z = scaler.fit_transform(features.astype(np.float64))
    level, columns = float(target.mean()), max(1, int(z.any(axis=0).sum()))
    inner = draw_groups(groups, inner_rows, seed)
    folds = GroupKFold(min(INNER_FOLDS, len(np.unique(groups[inner]))))
    errors: dict[tuple[float, float], float] = {}
    for times in GAMMAS:
        search = GridSearchCV(KernelRidge(kernel="precomputed"), {"alpha": KERNEL_ALPHAS}, cv=folds, refit=False,
                              scoring="neg_mean_squared_error")  # fmt: skip
        search.fit(rbf_kernel(z[inner], gamma=times / columns), target[inner] - level, groups=groups[inner])
        mean_errors = zip(KERNEL_ALPHAS, search.cv_results_["mean_test_score"], strict=True)
        errors |= {(times, alpha): -float(error) for alpha, error in mean_errors}
    times, alpha = min(errors, key=errors.__getitem__)
    kernel = rbf_kernel(z, gamma=times / columns)
    kernel[np.diag_indices_from(kernel)] += alpha
    weights = solve(kernel, target - level, assume_a="pos", overwrite_a=True)
    head = Head(mean=scaler.mean_, weights=weights, intercept=np.asarray(level), scale=scaler.scale_,
                support=z.astype(np.float32), gamma=np.asarray(times / columns))  # fmt: skip
    chosen = {"gamma": times, "alpha": alpha, "inner_rows": len(inner)}
    edge = _edge(times, GAMMAS) or _edge(alpha, KERNEL_ALPHAS)
    return Fitted(head, chosen, f"gamma {times:g}, alpha {alpha:g}{edge}")


def fit_boosting(features: Table, target: Floats, groups: Rows, seed: int = 0) -> Fitted:
    """Gradient boosting over histograms, with scikit-learn's early stopping on training rows."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    trees = HistGradientBoostingRegressor(
        learning_rate=0.05, max_iter=300, max_leaf_nodes=15, max_features=0.2, early_stopping=True, random_state=seed
    ).fit(features, target)
    return Fitted(trees, {"trees": int(trees.n_iter_)}, f"{trees.n_iter_} trees")


def fit_tabpfn(features: Table, target: Floats, groups: Rows, seed: int = 0) -> Fitted:
    """TabPFN on the first 500 principal components. Raises UserError where it is not installed."""
    try:
        from tabpfn import TabPFNRegressor  # type: ignore[import-not-found]
    except ImportError:
        raise UserError("--heads tabpfn: is not installed; run: pip install tabpfn (non-commercial weights)") from None
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline

    few = PCA(min(500, *features.shape), random_state=seed)
    model = make_pipeline(few, TabPFNRegressor(random_state=seed, ignore_pretraining_limits=True)).fit(features, target)
    return Fitted(model, {}, "TabPFN")


METHODS: dict[str, Callable[[Table, Floats, Rows, int], Fitted]] = {
    "ridge": fit_ridge,
    "kernel-ridge": fit_kernel_ridge,
    "svr": fit_svr,
    "boosting": fit_boosting,
    "tabpfn": fit_tabpfn,
}


def draw_groups(groups: Rows, most: int, seed: int) -> Rows:
    """Rows, ascending, of whole groups drawn at random, `most` at most; all rows where they are no more."""
    if len(groups) <= most:
        return np.arange(len(groups))
    _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    return np.flatnonzero(np.isin(index, order[np.cumsum(sizes[order]) <= most]))


def _edge(value: float, tried: Sequence[float]) -> str:
    return " (edge)" if value in (min(tried), max(tried)) else ""
