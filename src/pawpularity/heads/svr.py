"""Support vector regression over frozen features: kernel and C chosen on the training folds, then fitted once per fold.

Features and targets are standardised on the training rows. Both kernels are scaled by gamma = 1 / (p var(Z)), scikit-learn's
`scale`: rbf is exp(-gamma |z - z'|^2), linear is gamma z'z', so that one range of C fits any number of columns. Kernels are
computed here, in blocks by BLAS, and handed to scikit-learn's SVR (libsvm) ready-made: its own loops take many times as long.

The choice for a fold is made on its training folds, each predicted by the others; where those have more than `INNER_ROWS`
rows, on a draw of whole groups of near-duplicates that makes about so many. The final fit always uses all training rows.
The epsilon-insensitive loss aims nearer to the median of the scores than to their mean, which costs some RMSE where they
are as skewed as the contest's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import SVR

from pawpularity.errors import UserError
from pawpularity.heads.ridge import Floats, Table, inverse_sd, require_inner_folds, standardised_products

INNER_ROWS = 2000
MOST_ROWS = 20_000
"""The kernel of the training rows lies in memory: 3.2 GB for so many."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Candidate:
    """One kernel and one C; C and epsilon are in standard deviations of the training scores."""

    kernel: Literal["rbf", "linear"]
    c: float
    epsilon: float = 0.1

    def __str__(self) -> str:
        return f"{self.kernel} C {self.c:g}"


CANDIDATES: tuple[Candidate, ...] = (
    *(Candidate("rbf", c) for c in (0.1, 0.3, 1.0, 3.0, 10.0)),
    *(Candidate("linear", c) for c in (0.01, 0.1, 1.0)),
)


@dataclass(frozen=True, eq=False)
class SvrOof:
    """Out-of-fold predictions (n,) in the unit of the targets, not clipped, and the choice of each fold."""

    prediction: Floats
    chosen: tuple[Candidate, ...]
    candidates: tuple[Candidate, ...]
    inner_rmse: Floats
    """(folds, candidates): RMSE over the inner rows, each predicted without its own fold and the scored one."""
    inner_rows: tuple[int, ...]
    """Training rows that the choice of each fold looked at."""

    def at_edge(self, fold: int) -> bool:
        """Whether the choice of `fold` has the smallest or largest C tried with its kernel."""
        mine = self.chosen[fold]
        tried = [candidate.c for candidate in self.candidates if candidate.kernel == mine.kernel]
        return mine.c in (min(tried), max(tried))


def svr_oof(
    features: Table,
    targets: Floats,
    folds: Rows,
    groups: Rows,
    *,
    seed: int,
    candidates: Sequence[Candidate] = CANDIDATES,
    inner_rows: int = INNER_ROWS,
) -> SvrOof:
    """Predict every row by a support vector machine that never saw its fold.

    `features` (n, p), `targets` (n,) in score points, `folds` (n,) numbered 0..k-1 with k >= 3, `groups` (n,) of
    near-duplicates. The same input and seed give the same answer.
    Raises UserError for fewer than three folds, more than MOST_ROWS rows, and features that are no numbers.
    """
    k = int(folds.max()) + 1
    require_inner_folds(k)
    if len(targets) > MOST_ROWS:
        raise UserError(f"--head svr: {len(targets)} rows are more than its {MOST_ROWS}; take --head ridge")
    if not np.isfinite(features).all():
        raise UserError(
            "the features hold something that is no number; take another dtype (train.dtype=float32) or tower"
        )
    prediction, chosen, errors, looked = np.empty(len(targets)), [], [], []
    for fold in range(k):
        training, scored = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        inner = _draw(training, groups, inner_rows, np.random.default_rng([seed, fold, 0x57]))
        rmse = _inner_rmse(features, targets, folds, inner, candidates)
        best = candidates[int(rmse.argmin())]
        prediction[scored] = fit_predict(features, targets, training, scored, [best])[0]
        chosen.append(best)
        errors.append(rmse)
        looked.append(len(inner))
    return SvrOof(prediction, tuple(chosen), tuple(candidates), np.stack(errors), tuple(looked))


def fit_predict(
    features: Table, targets: Floats, training: Rows, scored: Rows, candidates: Sequence[Candidate]
) -> list[Floats]:
    """For each candidate the predictions of the rows `scored` after a fit on the rows `training`, (scored,) each."""
    mean = features[training].mean(axis=0, dtype=np.float64)
    scale = inverse_sd(features[training].var(axis=0, dtype=np.float64), mean, len(training))
    # Standardised columns have variance 1, constant ones 0: the variance of the whole table is the share that varies.
    gamma = 1.0 / max(1, int(np.count_nonzero(scale)))
    own = standardised_products(features, training, training, mean, scale)
    cross = standardised_products(features, scored, training, mean, scale)
    squares = np.diag(own).copy()
    level, spread = float(targets[training].mean()), float(targets[training].std()) or 1.0
    y = (targets[training] - level) / spread
    answers: dict[Candidate, Floats] = {}
    linear = [candidate for candidate in candidates if candidate.kernel == "linear"]
    for candidate in linear:
        answers[candidate] = _fit(own * gamma, cross * gamma, y, candidate)
    rbf = [candidate for candidate in candidates if candidate.kernel == "rbf"]
    if rbf:
        norms = _row_squares(features, scored, mean, scale)
        _to_rbf(own, squares, squares, gamma)
        _to_rbf(cross, norms, squares, gamma)
        for candidate in rbf:
            answers[candidate] = _fit(own, cross, y, candidate)
    return [answers[candidate] * spread + level for candidate in candidates]


def _fit(own: Floats, cross: Floats, y: Floats, candidate: Candidate) -> Floats:
    machine = SVR(kernel="precomputed", C=candidate.c, epsilon=candidate.epsilon, cache_size=500)
    answer: Floats = machine.fit(own, y).predict(cross)
    return answer


def _to_rbf(products: Floats, left: Floats, right: Floats, gamma: float) -> None:
    """Products of rows to rbf kernel values, in place; `left` and `right` are the rows' squared lengths."""
    products *= -2.0
    products += left[:, None]
    products += right
    np.maximum(products, 0.0, out=products)
    products *= -gamma
    np.exp(products, out=products)


def _row_squares(features: Table, rows: Rows, mean: Floats, scale: Floats) -> Floats:
    total = np.empty(len(rows))
    for start in range(0, len(rows), 512):
        z = (features[rows[start : start + 512]] - mean) * scale
        total[start : start + 512] = np.einsum("ij,ij->i", z, z)
    return total


def _inner_rmse(features: Table, targets: Floats, folds: Rows, inner: Rows, candidates: Sequence[Candidate]) -> Floats:
    """RMSE of each candidate over the rows `inner`, each fold of them predicted by the others."""
    errors = np.zeros(len(candidates))
    for fold in np.unique(folds[inner]):
        watched, training = inner[folds[inner] == fold], inner[folds[inner] != fold]
        for place, answer in enumerate(fit_predict(features, targets, training, watched, candidates)):
            errors[place] += ((answer - targets[watched]) ** 2).sum()
    return np.sqrt(errors / len(inner))


def _draw(rows: Rows, groups: Rows, most: int, random: np.random.Generator) -> Rows:
    """At most about `most` of `rows`, ascending, by whole groups drawn at random; all of them where they are no more."""
    if len(rows) <= most:
        return rows
    _, index, sizes = np.unique(groups[rows], return_inverse=True, return_counts=True)
    order = random.permutation(len(sizes))
    taken = order[np.cumsum(sizes[order]) <= most]
    return rows[np.isin(index, taken)]
