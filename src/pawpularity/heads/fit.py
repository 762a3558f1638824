"""Fit heads on frozen features: ridge, kernel ridge and SVR, which are kept; trees and TabPFN, which only show a score.

Features are standardised on the training rows. What a head chooses (a penalty; a kernel and C) it chooses on its training
rows alone, so the scored rows are never used.

- Ridge: the penalty of ALPHAS with the lowest leave-one-out error (`RidgeCV`).
- Forward: ridge on the encoders that forward selection takes by leave-one-out error; the others have weights of 0.
- Kernel ridge (rbf): width and penalty by cross-validation over groups of near-duplicates.
- SVR: kernel and C the same way; they and EPSILON are in standard deviations of the targets. The loss aims nearer to the median of
  the scores than to their mean, which costs some RMSE where they are as skewed as the contest's.

Choices are made on a draw of about INNER_ROWS training rows where there are more; the final fit has all rows. Kernels come from one
matrix of products, in float32, because libsvm's own loops take many times as long; kernel ridge solves in float32 too.

Gradient boosting (scikit-learn's) and TabPFN (`pip install tabpfn`; its weights are for non-commercial use) are not kept, so
nothing can be predicted with them afterwards.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pawpularity.console import Progress
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
    "forward": [f"alpha {alpha:g}" for alpha in ALPHAS],
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

    def __init__(
        self, features: Table, target: Floats, groups: Rows, seed: int = 0, widths: Mapping[str, int] | None = None
    ) -> None:
        """`features` (n, p), `target` (n,); `groups` (n,) of near-duplicates are kept whole.

        `widths`: columns of each encoder, by its name, from the left; those after them are metadata.
        """
        from sklearn.preprocessing import StandardScaler

        self.target, self.groups, self.seed, self.scaler = target, groups, seed, StandardScaler().fit(features)
        self.z: NDArray[np.float32] = self.scaler.transform(features).astype(np.float32, copy=False)
        """(n, p) standardised features"""
        self.mean, self.scale = self.scaler.mean_, self.scaler.scale_
        self.level, self.spread = float(target.mean()), float(target.std()) or 1.0
        self.gamma = 1.0 / max(1, int(self.z.any(axis=0).sum()))
        self.widths = widths or {"all": features.shape[1]}
        self.inner = draw_groups(groups, INNER_ROWS, seed)
        """rows that choices are made on"""

    @cached_property
    def gram(self) -> NDArray[np.float32]:
        """(n, n) products of standardised rows."""
        products: NDArray[np.float32] = self.z @ self.z.T
        return products

    def kernel(
        self, name: str, gamma: float, rows: Rows | slice = slice(None), dtype: torch.dtype = torch.float32
    ) -> Table:
        """(rows, rows) of the linear or the rbf kernel."""
        gram = torch.tensor(self.gram[rows][:, rows], dtype=dtype)  # torch, because its exp has all threads
        if name == "rbf":
            size = gram.diagonal().clone()
            gram.mul_(2.0).sub_(size[:, None]).sub_(size).mul_(gamma).exp_()
        else:
            gram.mul_(gamma)
        kernel: Table = gram.numpy()
        return kernel

    def errors(
        self, kernel: Table, target: Floats, values: Sequence[float], solve: Callable[[Table, Floats, float], Linear]
    ) -> dict[float, float]:
        """Mean squared error on held-out groups of the inner rows, by value. `solve` fits one value on a kernel."""
        from sklearn.model_selection import GroupKFold
        from threadpoolctl import threadpool_limits

        groups, y = self.groups[self.inner], target[self.inner]
        folds = list(GroupKFold(min(INNER_FOLDS, len(np.unique(groups)))).split(y, groups=groups))

        def error(value: float) -> float:
            found = 0.0
            for known, held in folds:
                weights, intercept = solve(kernel[np.ix_(known, known)], y[known], value)
                found += float(np.mean((kernel[np.ix_(held, known)] @ weights + intercept - y[held]) ** 2)) / len(folds)
            return found

        # A thread per value: on matrices this small, the threads of BLAS wait for one another most of the time.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return dict(zip(values, pool.map(error, values), strict=True))


def out_of_fold(
    methods: Sequence[str],
    features: Table,
    target: Floats,
    folds: Rows,
    groups: Rows,
    *,
    seed: int = 0,
    widths: Mapping[str, int] | None = None,
) -> Iterator[tuple[int, str, Floats, Fitted]]:
    """Fold by fold and method by method: predictions of the fold's rows by a head fitted on the others, not clipped, and the head.

    A kernel head holds its training rows, so memory lasts if the caller keeps none. `widths` as in `Training`.
    """
    count = int(folds.max()) + 1
    with Progress(count * len(methods), f"fit {', '.join(methods)}", "heads") as progress:
        for fold in range(count):
            known, scored = folds != fold, folds == fold
            training = Training(features[known], target[known], groups[known], seed, widths)
            for method in methods:
                fitted = METHODS[method](training)
                yield fold, method, fitted.head.predict(features[scored]), fitted
                progress.add()
                del fitted
            del training  # before the next fold's is made


def fit_ridge(rows: Training) -> Fitted:
    """Ridge regression with the penalty of ALPHAS that has the lowest leave-one-out error on the inner rows."""
    return _ridge(rows, slice(None))


def _ridge(rows: Training, columns: Rows | slice) -> Fitted:
    """Ridge regression on some columns; the others have weights of 0."""
    from sklearn.linear_model import Ridge

    alpha, _ = _leave_one_out(rows, columns)
    z = rows.z[:, columns].astype(np.float64)
    ridge = Ridge(alpha, solver="cholesky", fit_intercept=False, copy_X=False).fit(z, rows.target - rows.level)
    weights = np.zeros(len(rows.mean))
    weights[columns] = ridge.coef_ / rows.scale[columns]
    head = Head(mean=rows.mean, weights=weights, intercept=np.asarray(rows.level))
    shown = np.format_float_positional(alpha, precision=3, fractional=False, trim="-")
    return Fitted(head, {"alpha": alpha, "inner_rows": len(rows.inner)}, f"alpha {shown}{_edge(alpha, ALPHAS)}")


def _leave_one_out(rows: Training, columns: Rows | slice) -> tuple[float, float]:
    """The penalty of the lowest leave-one-out error of a ridge on some columns of the inner rows, and that mean squared error."""
    from sklearn.linear_model import RidgeCV

    ridge = RidgeCV(ALPHAS, gcv_mode="eigen").fit(
        rows.z[rows.inner][:, columns].astype(np.float64), rows.target[rows.inner]
    )
    return float(ridge.alpha_), -float(ridge.best_score_)


def fit_forward(rows: Training) -> Fitted:
    """Ridge on the encoders that forward selection takes: the best one, then whichever lowers the leave-one-out error most.

    It stops when none does. Metadata are always in, so with one encoder it is `fit_ridge`.
    """
    ends = np.cumsum([0, *rows.widths.values()])
    columns = {name: np.arange(ends[i], ends[i + 1]) for i, name in enumerate(rows.widths)}
    taken, used, lowest = list[str](), np.arange(ends[-1], len(rows.mean)), np.inf
    while len(taken) < len(columns):
        errors = {
            name: _leave_one_out(rows, np.append(used, more))[1] for name, more in columns.items() if name not in taken
        }
        best = min(errors, key=errors.__getitem__)
        if errors[best] >= lowest:
            break
        taken, used, lowest = [*taken, best], np.append(used, columns[best]), errors[best]
    fitted = _ridge(rows, np.sort(used))
    return Fitted(fitted.head, {"taken": taken} | fitted.chosen, f"{' + '.join(taken)}, {fitted.words}")


def fit_svr(rows: Training) -> Fitted:
    """Support vector regression with the kernel and C that predict held-out groups of the inner rows best."""
    y = (rows.target - rows.level) / rows.spread
    errors: dict[tuple[str, float], float] = {}
    for name, values in SVR_C.items():
        found = rows.errors(rows.kernel(name, rows.gamma, rows.inner), y, values, _svr)
        errors |= {(name, c): error for c, error in found.items()}
    name, c = min(errors, key=errors.__getitem__)
    kernel = rows.kernel(name, rows.gamma, dtype=torch.float64)
    del rows.gram  # libsvm needs the memory; it is computed again if asked for
    weights, level = _svr(kernel, y, c)
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


def _svr(kernel: Table, y: Floats, c: float) -> Linear:
    from sklearn.svm import SVR

    svr = SVR(kernel="precomputed", C=c, epsilon=EPSILON, cache_size=100).fit(kernel, y)
    weights = np.zeros(len(y))
    weights[svr.support_] = svr.dual_coef_[0]
    return weights, float(svr.intercept_[0])


def _kernel_ridge(kernel: Table, y: Floats, alpha: float) -> Linear:
    from scipy.linalg import cho_factor, cho_solve

    kernel[np.diag_indices_from(kernel)] += alpha
    # Transposed, it is in the order of LAPACK, which then needs no copy.
    factor = cho_factor(kernel.T, overwrite_a=True, check_finite=False)
    return cho_solve(factor, y.astype(np.float32), check_finite=False).astype(np.float64), 0.0


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
    from sklearn.pipeline import make_pipeline

    trees = HistGradientBoostingRegressor(
        learning_rate=0.05,
        max_iter=300,
        max_leaf_nodes=15,
        max_features=0.2,
        early_stopping=True,
        random_state=rows.seed,
    ).fit(rows.z, rows.target)
    return Fitted(make_pipeline(rows.scaler, trees), {"trees": int(trees.n_iter_)}, f"{trees.n_iter_} trees")


def fit_tabpfn(rows: Training) -> Fitted:
    """TabPFN on the first 500 principal components."""
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from tabpfn import TabPFNRegressor  # type: ignore[import-not-found]

    few = PCA(min(500, *rows.z.shape), random_state=rows.seed)
    model = make_pipeline(few, TabPFNRegressor(random_state=rows.seed, ignore_pretraining_limits=True))
    model.fit(rows.z, rows.target)
    return Fitted(make_pipeline(rows.scaler, model), {}, "TabPFN")


METHODS: dict[str, Callable[[Training], Fitted]] = {
    "ridge": fit_ridge,
    "forward": fit_forward,
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
