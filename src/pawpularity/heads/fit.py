"""Fit heads on frozen features: ridge, kernel ridge and SVR, which are kept; trees and TabPFN, which only show a score.

Features are standardised on the training rows. What a head chooses (a penalty; a kernel and C) it chooses on its training
rows alone, so the scored rows are never used.

- Ridge: the penalty of ALPHAS with the lowest leave-one-out error (`RidgeCV`).
- Kernel ridge (rbf): width and penalty by cross-validation over groups of near-duplicates.
- SVR: kernel and C the same way; they and EPSILON are in standard deviations of the targets. The loss aims nearer to the median of
  the scores than to their mean, which costs some RMSE where they are as skewed as the contest's.

Choices are made on a draw of about INNER_ROWS training rows where there are more; the final fit has all rows. Kernels come from one
matrix of products, in float32, because libsvm's own loops take many times as long.

Gradient boosting (scikit-learn's) and TabPFN (`pip install tabpfn`; its weights are for non-commercial use) are not kept, so
nothing can be predicted with them afterwards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pawpularity.console import Progress
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
TRIED: dict[str, list[str]] = {
    "ridge": [f"alpha {alpha:g}" for alpha in ALPHAS],
    "kernel-ridge": [f"gamma {times:g}, alpha {alpha:g}" for times in GAMMAS for alpha in KERNEL_ALPHAS],
    "svr": [f"{kernel} C {c:g}" for kernel, values in SVR_C.items() for c in values],
    "boosting": ["fixed settings"],
    "tabpfn": ["fixed settings"],
}
"""What each head chooses among."""

Rows = NDArray[np.int64]
Linear = tuple[Floats, float]
"""weights (n,) of a kernel's columns, and an intercept"""


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


class Training:
    """The rows that a head is fitted on. What several heads need is computed once."""

    def __init__(self, features: Table, target: Floats, groups: Rows, seed: int = 0) -> None:
        """`features` (n, p), `target` (n,); `groups` (n,) of near-duplicates are kept whole."""
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler()
        self.features, self.target, self.groups, self.seed = features, target, groups, seed
        self.z: NDArray[np.float32] = scaler.fit(features.astype(np.float64)).transform(features).astype(np.float32)
        self.mean, self.scale = scaler.mean_, scaler.scale_
        self.level, self.spread = float(target.mean()), float(target.std()) or 1.0
        self.gamma = 1.0 / max(1, int(self.z.any(axis=0).sum()))
        self.inner = draw_groups(groups, INNER_ROWS, seed)
        """rows that choices are made on"""

    @cached_property
    def gram(self) -> NDArray[np.float32]:
        """(n, n) products of standardised rows."""
        products: NDArray[np.float32] = self.z @ self.z.T
        return products

    def kernel(self, name: str, gamma: float, rows: Rows | slice = slice(None)) -> Floats:
        """(rows, rows) of the linear or the rbf kernel, in float64."""
        gram = self.gram[rows][:, rows].astype(np.float64)
        if name == "linear":
            return np.multiply(gram, gamma, out=gram)
        size = gram.diagonal().copy()
        gram *= 2.0
        gram -= size[:, None]
        gram -= size
        return np.exp(np.multiply(gram, gamma, out=gram), out=gram)

    def errors(
        self, kernel: Floats, target: Floats, values: Sequence[float], solve: Callable[[Floats, Floats, float], Linear]
    ) -> dict[float, float]:
        """Mean squared error on held-out groups of the inner rows, by value. `solve` fits one value on a kernel."""
        from sklearn.model_selection import GroupKFold

        groups, y = self.groups[self.inner], target[self.inner]
        folds = list(GroupKFold(min(INNER_FOLDS, len(np.unique(groups)))).split(y, groups=groups))
        found = dict.fromkeys(values, 0.0)
        for known, held in folds:
            for value in values:
                weights, intercept = solve(kernel[known][:, known], y[known], value)
                error = kernel[held][:, known] @ weights + intercept - y[held]
                found[value] += float(np.mean(error**2)) / len(folds)
        return found


def out_of_fold(
    methods: Sequence[str], features: Table, target: Floats, folds: Rows, groups: Rows, *, seed: int = 0
) -> dict[str, tuple[Floats, list[Fitted]]]:
    """By method: predictions (n,) of every row by a head fitted on the other folds, not clipped, and the head of each fold."""
    found: dict[str, tuple[Floats, list[Fitted]]] = {method: (np.empty(len(target)), []) for method in methods}
    count = int(folds.max()) + 1
    with Progress(count * len(methods), f"fit {', '.join(methods)}", "heads") as progress:
        for fold in range(count):
            known, scored = folds != fold, folds == fold
            training = Training(features[known], target[known], groups[known], seed)
            for method, (prediction, fitted) in found.items():
                fitted.append(METHODS[method](training))
                prediction[scored] = fitted[-1].head.predict(features[scored])
                progress.add()
    return found


def fit_ridge(rows: Training) -> Fitted:
    """Ridge regression with the penalty of ALPHAS that has the lowest leave-one-out error on the inner rows."""
    from sklearn.linear_model import Ridge, RidgeCV

    z = (rows.features - rows.mean) / rows.scale
    alpha = float(RidgeCV(ALPHAS).fit(z[rows.inner], rows.target[rows.inner]).alpha_)
    ridge = Ridge(alpha, solver="cholesky").fit(z, rows.target)
    head = Head(mean=rows.mean, weights=ridge.coef_ / rows.scale, intercept=np.asarray(ridge.intercept_))
    shown = np.format_float_positional(alpha, precision=3, fractional=False, trim="-")
    return Fitted(head, {"alpha": alpha, "inner_rows": len(rows.inner)}, f"alpha {shown}{_edge(alpha, ALPHAS)}")


def fit_svr(rows: Training) -> Fitted:
    """Support vector regression with the kernel and C that predict held-out groups of the inner rows best."""
    y = (rows.target - rows.level) / rows.spread
    errors: dict[tuple[str, float], float] = {}
    for name, values in SVR_C.items():
        found = rows.errors(rows.kernel(name, rows.gamma, rows.inner), y, values, _svr)
        errors |= {(name, c): error for c, error in found.items()}
    name, c = min(errors, key=errors.__getitem__)
    weights, level = _svr(rows.kernel(name, rows.gamma), y, c)
    support, weights = rows.z[weights != 0], rows.spread * weights[weights != 0]
    intercept = np.asarray(rows.spread * level + rows.level)
    if name == "rbf":
        head = Head(mean=rows.mean, weights=weights, intercept=intercept, scale=rows.scale, support=support,
                    gamma=np.asarray(rows.gamma))  # fmt: skip
    else:
        linear = rows.gamma * (weights @ support.astype(np.float64)) / rows.scale
        head = Head(mean=rows.mean, weights=linear, intercept=intercept)
    chosen = {"kernel": name, "c": c, "epsilon": EPSILON, "inner_rows": len(rows.inner)}
    return Fitted(head, chosen, f"{name} C {c:g}{_edge(c, SVR_C[name])}")


def _svr(kernel: Floats, y: Floats, c: float) -> Linear:
    from sklearn.svm import SVR

    svr = SVR(kernel="precomputed", C=c, epsilon=EPSILON, cache_size=500).fit(kernel, y)
    weights = np.zeros(len(y))
    weights[svr.support_] = svr.dual_coef_[0]
    return weights, float(svr.intercept_[0])


def _kernel_ridge(kernel: Floats, y: Floats, alpha: float) -> Linear:
    from scipy.linalg import cho_factor, cho_solve

    kernel[np.diag_indices_from(kernel)] += alpha
    return cho_solve(cho_factor(kernel, overwrite_a=True, check_finite=False), y), 0.0


def fit_kernel_ridge(rows: Training) -> Fitted:
    """Kernel ridge regression (rbf) with the width and penalty that predict held-out groups of the inner rows best."""
    centred = rows.target - rows.level
    errors: dict[tuple[float, float], float] = {}
    for times in GAMMAS:
        kernel = rows.kernel("rbf", times * rows.gamma, rows.inner)
        found = rows.errors(kernel, centred, KERNEL_ALPHAS, _kernel_ridge)
        errors |= {(times, alpha): error for alpha, error in found.items()}
    times, alpha = min(errors, key=errors.__getitem__)
    weights, _ = _kernel_ridge(rows.kernel("rbf", times * rows.gamma), centred, alpha)
    head = Head(mean=rows.mean, weights=weights, intercept=np.asarray(rows.level), scale=rows.scale, support=rows.z,
                gamma=np.asarray(times * rows.gamma))  # fmt: skip
    edge = _edge(times, GAMMAS) or _edge(alpha, KERNEL_ALPHAS)
    chosen = {"gamma": times, "alpha": alpha, "inner_rows": len(rows.inner)}
    return Fitted(head, chosen, f"gamma {times:g}, alpha {alpha:g}{edge}")


def fit_boosting(rows: Training) -> Fitted:
    """Gradient boosting over histograms, with scikit-learn's early stopping on training rows."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    trees = HistGradientBoostingRegressor(
        learning_rate=0.05,
        max_iter=300,
        max_leaf_nodes=15,
        max_features=0.2,
        early_stopping=True,
        random_state=rows.seed,
    ).fit(rows.features, rows.target)
    return Fitted(trees, {"trees": int(trees.n_iter_)}, f"{trees.n_iter_} trees")


def fit_tabpfn(rows: Training) -> Fitted:
    """TabPFN on the first 500 principal components. Raises UserError where it is not installed."""
    try:
        from tabpfn import TabPFNRegressor  # type: ignore[import-not-found]
    except ImportError:
        raise UserError("--heads tabpfn: is not installed; run: pip install tabpfn (non-commercial weights)") from None
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline

    few = PCA(min(500, *rows.features.shape), random_state=rows.seed)
    model = make_pipeline(few, TabPFNRegressor(random_state=rows.seed, ignore_pretraining_limits=True))
    model.fit(rows.features, rows.target)
    return Fitted(model, {}, "TabPFN")


METHODS: dict[str, Callable[[Training], Fitted]] = {
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
