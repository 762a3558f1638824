"""Ridge regression in closed form: every fold and every penalty from one pass over the features.

Columns are standardised and the intercept is fitted on the training rows of each fold, so the result is what refitting
scikit-learn's `StandardScaler` and `Ridge` on those rows would give (a test holds it to 1e-8), only sooner.

- At most as many columns as rows: each fold's centred X'X and X'y are made once and joined by the parallel formula of
  Chan, Golub and LeVeque (1983). Nothing is subtracted, so a fold that is left out never touches the answer, not even in
  its last digit, and large means cost no digits.
- More columns than rows: the Gram matrix ZZ' between training rows instead, made anew for every set of training rows
  (the standardisation differs). Never larger than the training rows squared.
- All penalties from one reduction of that matrix to tridiagonal form (Eldén, BIT 17, 1977), a third of the work of its
  eigenvectors: each penalty then costs one tridiagonal solve.

The penalty of a scored fold is chosen on the other folds alone: each of them is predicted by the rest of them. A model that
leaves out folds i and j serves the choice for i (scored on j) and the choice for j (scored on i): k (k - 1) / 2 fits in all.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.linalg import lapack
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pawpularity.errors import UserError

Floats = NDArray[np.float64]
Table = NDArray[np.float32] | NDArray[np.float64]

ALPHAS: tuple[float, ...] = tuple(float(alpha) for alpha in np.logspace(0, 6, 13))
"""Half decades, for sums of squares over standardised columns; at the upper end little but the mean is left."""

_CHUNK = 1024  # columns that are standardised at a time, so that no second table of the features is made
_HELD_BYTES = 1_000_000_000  # of folds' X'X held at a time; beyond it they are made again whenever one is needed


@dataclass(frozen=True, eq=False)
class RidgeOof:
    """Out-of-fold predictions (n,) in the unit of the targets, not clipped, and the penalty of each fold."""

    prediction: Floats
    alphas: tuple[float, ...]
    """The grid, ascending."""
    chosen: tuple[int, ...]
    """Per fold the place of its penalty in `alphas`."""
    inner_rmse: Floats
    """(folds, penalties): RMSE over the other folds, each predicted without itself and without the scored fold."""

    def alpha(self, fold: int) -> float:
        """The penalty of `fold`."""
        return self.alphas[self.chosen[fold]]

    def at_edge(self, fold: int) -> bool:
        """Whether the choice of `fold` is an end of the grid: a better penalty may lie beyond."""
        return self.chosen[fold] in (0, len(self.alphas) - 1)


@dataclass(frozen=True, eq=False)
class Weights:
    """One linear model a penalty: `intercept + (x - mean) @ columns[:, a]`, in the unit of the targets."""

    mean: Floats
    columns: Floats
    intercept: float

    def __call__(self, rows: Table) -> Floats:
        """(rows, penalties) predictions of raw features (rows, p)."""
        centred: Floats = rows.astype(np.float64)
        centred -= self.mean
        return centred @ self.columns + self.intercept


def ridge_oof(features: Table, targets: Floats, folds: NDArray[np.int64], alphas: Sequence[float] = ALPHAS) -> RidgeOof:
    """Predict every row by a ridge that never saw its fold, neither for its weights nor for its penalty.

    `features` (n, p), `targets` (n,) in score points, `folds` (n,) numbered 0..k-1 with k >= 3.
    Raises UserError for fewer than three folds, a penalty that is not above zero, and features that are no numbers.
    """
    grid = tuple(sorted(float(alpha) for alpha in alphas))
    models = fold_models(features, targets, folds)
    k = models.k
    require_inner_folds(k)
    errors = np.zeros((k, len(grid)))
    for i, j in combinations(range(k), 2):
        fitted = models.weights((i, j), grid)
        for scored, watched in ((i, j), (j, i)):
            rows = np.flatnonzero(folds == watched)
            errors[scored] += ((fitted(features[rows]) - targets[rows, None]) ** 2).sum(axis=0)
    chosen = errors.argmin(axis=1)
    prediction = np.empty(len(targets))
    for fold in range(k):
        rows = np.flatnonzero(folds == fold)
        prediction[rows] = models.weights((fold,), [grid[chosen[fold]]])(features[rows])[:, 0]
    others = np.array([(folds != fold).sum() for fold in range(k)])
    return RidgeOof(prediction, grid, tuple(int(place) for place in chosen), np.sqrt(errors / others[:, None]))


def require_inner_folds(k: int) -> None:
    """Raise UserError where there are too few folds to choose anything on the training folds."""
    if k < 3:
        raise UserError(
            f"folds.k={k}: a probe chooses its penalty on the training folds, predicting each by the others; take 3 or more"
        )


class Models(Protocol):
    """Ridge models of one table, by the folds they leave out."""

    k: int

    def weights(self, left_out: Iterable[int], alphas: Sequence[float]) -> Weights:
        """The models fitted without the folds `left_out`, one for each penalty."""


def fold_models(features: Table, targets: Floats, folds: NDArray[np.int64]) -> Models:
    """The cheaper of the two ways to fit `features` (n, p). Raises UserError for features that are no numbers."""
    if not np.isfinite(features).all():
        raise UserError(
            "the features hold something that is no number; take another dtype (train.dtype=float32) or tower"
        )
    return _Columns(features, targets, folds) if features.shape[1] <= len(features) else _Rows(features, targets, folds)


@dataclass(frozen=True, eq=False)
class _Moments:
    """Of some rows: count, means, sums of squares of each column, X'y; the last two about the means."""

    n: int
    mean: Floats
    target: float
    squares: Floats
    products: Floats

    @property
    def inverse_sd(self) -> Floats:
        return inverse_sd(self.squares / self.n, self.mean, self.n)


def inverse_sd(variance: Floats, mean: Floats, n: int) -> Floats:
    """1 / sd of each column, 0 for a constant one: told by the rounding errors `n` values may leave, as scikit-learn does."""
    epsilon = np.finfo(np.float64).eps
    constant = variance <= n * epsilon * variance + (n * mean * epsilon) ** 2
    return np.where(constant, 0.0, 1.0 / np.sqrt(np.where(constant, 1.0, variance)))


class _Folds:
    """What both ways share: the moments of each fold and how they are joined."""

    def __init__(self, features: Table, targets: Floats, folds: NDArray[np.int64]) -> None:
        self.features, self.targets = features, targets
        self.k = int(folds.max()) + 1
        self.rows = [np.flatnonzero(folds == fold) for fold in range(self.k)]
        self.moments = [self._moments(rows) for rows in self.rows]

    def _moments(self, rows: NDArray[np.int64]) -> _Moments:
        mean, target = self.features[rows].mean(axis=0, dtype=np.float64), float(self.targets[rows].mean())
        x = self._centred(rows, mean)
        return _Moments(len(rows), mean, target, np.einsum("ij,ij->j", x, x), (self.targets[rows] - target) @ x)

    def _centred(self, rows: NDArray[np.int64], mean: Floats) -> Floats:
        x: Floats = self.features[rows].astype(np.float64)
        x -= mean
        return x

    def _kept(self, left_out: Iterable[int]) -> list[int]:
        without = set(left_out)
        return [fold for fold in range(self.k) if fold not in without]

    def _joined(self, kept: list[int]) -> tuple[_Moments, Floats]:
        """The moments of several folds, and what their means add to X'X: `shift' shift`."""
        parts = [self.moments[fold] for fold in kept]
        sizes = np.array([part.n for part in parts], dtype=np.float64)
        n = int(sizes.sum())
        means, targets = np.stack([part.mean for part in parts]), np.array([part.target for part in parts])
        mean, target = sizes @ means / n, float(sizes @ targets / n)
        shift = np.sqrt(sizes)[:, None] * (means - mean)
        squares = sum(part.squares for part in parts) + np.einsum("ij,ij->j", shift, shift)
        products = sum(part.products for part in parts) + (np.sqrt(sizes) * (targets - target)) @ shift
        return _Moments(n, mean, target, squares, products), shift


class _Columns(_Folds):
    """Ridge by the p x p matrix of columns."""

    def __init__(self, features: Table, targets: Floats, folds: NDArray[np.int64]) -> None:
        super().__init__(features, targets, folds)
        held = 8 * self.k * features.shape[1] ** 2 <= _HELD_BYTES
        self._held = [self._scatter(fold) for fold in range(self.k)] if held else None

    def _scatter(self, fold: int) -> Floats:
        x = self._centred(self.rows[fold], self.moments[fold].mean)
        product: Floats = x.T @ x
        return product

    def weights(self, left_out: Iterable[int], alphas: Sequence[float]) -> Weights:
        """As in `Models`."""
        kept = self._kept(left_out)
        moments, shift = self._joined(kept)
        matrix = shift.T @ shift
        for fold in kept:
            matrix += self._held[fold] if self._held is not None else self._scatter(fold)
        scale = moments.inverse_sd
        matrix *= scale[:, None]
        matrix *= scale
        columns = scale[:, None] * shifted_solutions(matrix, scale * moments.products, alphas)
        return Weights(moments.mean, columns, moments.target)


class _Rows(_Folds):
    """Ridge by the matrix of training rows: w = Z' (ZZ' + alpha)^-1 y."""

    def weights(self, left_out: Iterable[int], alphas: Sequence[float]) -> Weights:
        """As in `Models`."""
        kept = self._kept(left_out)
        moments, _ = self._joined(kept)
        rows = np.concatenate([self.rows[fold] for fold in kept])
        scale = moments.inverse_sd
        matrix = standardised_products(self.features, rows, rows, moments.mean, scale)
        dual = shifted_solutions(matrix, self.targets[rows] - moments.target, alphas)
        columns = np.empty((self.features.shape[1], len(alphas)))
        for part in _chunks(self.features.shape[1]):
            z = (self.features[rows, part] - moments.mean[part]) * scale[part]
            columns[part] = scale[part, None] * (z.T @ dual)
        return Weights(moments.mean, columns, moments.target)


def standardised_products(
    features: Table, left: NDArray[np.int64], right: NDArray[np.int64], mean: Floats, scale: Floats
) -> Floats:
    """ZZ' between the rows `left` and `right` of `features`, (left, right), with z = (x - mean) scale."""
    total = np.zeros((len(left), len(right)))
    for part in _chunks(features.shape[1]):
        a = (features[left, part] - mean[part]) * scale[part]
        total += a @ (a if right is left else (features[right, part] - mean[part]) * scale[part]).T
    return total


def shifted_solutions(matrix: Floats, right: Floats, alphas: Sequence[float]) -> Floats:
    """(matrix + alpha I)^-1 right for every alpha, (n, alphas). `matrix` is symmetric, semidefinite, and is used up.

    matrix = Q T Q' with T tridiagonal (LAPACK's sytrd); then (T + alpha I) y = Q' right is solved for each alpha, and the
    answer is Q y. Raises UserError for an alpha that is not above zero.
    """
    if not alphas or min(alphas) <= 0 or not np.isfinite(alphas).all():
        raise UserError(
            f"ridge penalties must be above zero, not {', '.join(f'{alpha:g}' for alpha in alphas) or 'none'}"
        )
    n = len(matrix)
    if n == 1 or len(alphas) == 1:
        # One penalty needs no reduction.
        solved = []
        for alpha in alphas:
            shifted = matrix.copy()
            shifted.flat[:: n + 1] += alpha
            factor = scipy.linalg.cho_factor(shifted.T, lower=True, overwrite_a=True, check_finite=False)
            solved.append(scipy.linalg.cho_solve(factor, right, check_finite=False))
        return np.stack(solved, axis=1)
    work = int(_checked(lapack.dsytrd_lwork(n, lower=1))[0])
    # One thread: the reduction waits for memory rather than for arithmetic, and its threads would meet at every column.
    # Beside other programs a whole table of 512 columns took 0.3 s with one thread of OpenBLAS and 2 - 15 s with two.
    with threadpool_limits(limits=1, user_api="blas"):
        # The transpose of a symmetric matrix is itself, and in Fortran's order: LAPACK works in place.
        reflectors, diagonal, beside, tau = _checked(lapack.dsytrd(matrix.T, lower=1, lwork=work, overwrite_a=1))
    # Q leaves the first coordinate alone; the reflectors below the diagonal are those of a QR factorisation.
    below = np.asfortranarray(reflectors[1:, :-1])
    turned = right.astype(np.float64).reshape(-1, 1).copy(order="F")
    turned[1:] = _turn(below, tau, turned[1:], "T")
    answers = np.empty((n, len(alphas)), order="F")
    for place, alpha in enumerate(alphas):
        answers[:, place] = _checked(lapack.dptsv(diagonal + alpha, beside, turned))[2][:, 0]
    answers[1:] = _turn(below, tau, answers[1:], "N")
    return answers


def _turn(reflectors: Floats, tau: Floats, vectors: Floats, transposed: str) -> Floats:
    """Q (`N`) or Q' (`T`) times the columns of `vectors`."""
    work = max(1, vectors.shape[1]) * 64 + 65 * 64  # LAPACK's blocks of 64 columns and their triangle
    turned: Floats = _checked(lapack.dormqr("L", transposed, reflectors, tau, vectors, work))[0]
    return turned


def _checked(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """LAPACK's answer without its last entry, which is 0 where all went well."""
    *values, info = answer
    if info != 0:
        raise ValueError(f"LAPACK answered {info}")
    return tuple(values)


def _chunks(columns: int) -> Iterable[slice]:
    return (slice(start, min(start + _CHUNK, columns)) for start in range(0, columns, _CHUNK))
