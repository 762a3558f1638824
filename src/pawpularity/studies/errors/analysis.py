"""Where predictions are furthest off, what those rows share, and how much of the gap is only the labels' noise.

`pawpularity errors v31.csv --data input/petfinder-pawpularity-score` prints and writes it (`error_report`); the figures are
made here. Errors are prediction - target, so over-scored rows have positive ones.

One warning runs through all of it. The true score itself decides which rows can be far off: predictions stay near the
middle, so the worst under-scored rows are mostly those whose score, and whose noise, came out high (regression to the
mean). What they share against all other rows is therefore partly what popular photos share. So every share is given
twice: against the rest, and against the rest of similar true score. Among the latter the rows furthest off are those with
the highest (lowest) predictions, so that difference says what the model goes by, not what the public likes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.evaluation.bootstrap import DRAWS, bootstrap_sums, holm, interval, permutations
from pawpularity.evaluation.label_noise import Explainable, LabelNoise, explainable
from pawpularity.evaluation.metrics import BANDS, band_of, calibration_line, rmse
from pawpularity.files import plain

SIDES = ("over-scored", "under-scored")
WORST_SHARE = 0.05
FEWEST_ROWS = 20  # below these, 5 % is not one row

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Interval = tuple[float, float]


def worst_rows(error: Floats, side: str, count: int) -> Rows:
    """The `count` rows furthest off on one of SIDES, the furthest first; ties in row order. `error` is (n,)."""
    return np.argsort(error if side == SIDES[1] else -error, kind="stable")[:count].astype(np.int64)


@dataclass(frozen=True)
class Share:
    """What the worst rows of one side have of one column, against the rest: as a mean of a 0/1 column, or in sd."""

    side: str
    column: str
    worst: float
    rest: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    banded: float
    """the same difference among rows of similar true score (Mantel-Haenszel over the bands); NaN where no band has both"""
    banded_low: float
    banded_high: float
    banded_p: float
    banded_p_holm: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what is not defined is null."""
        return plain(asdict(self))


def what_they_share(
    columns: Sequence[str],
    values: Floats,
    error: Floats,
    target: Floats,
    groups: Rows | None = None,
    *,
    count: int,
    families: Sequence[int] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Share]:
    """Compare the worst `count` rows of each side with the rest, column by column of `values` (n, c).

    Intervals draw groups with the rows' membership as it is; p shuffle the membership, over all rows and within bands
    of true score, near-duplicates together. Holm's correction is over both sides and all columns of one family
    (`families`: a number per column; None = one), for the two questions apart.
    """
    n = len(error)
    chosen = [worst_rows(error, side, count) for side in SIDES]
    member = np.zeros((n, len(SIDES)))
    for s, rows in enumerate(chosen):
        member[rows, s] = 1.0
    band = band_of(target)
    sums = _Sums.of(values, member, band)
    drawn = sums.bootstrap(groups, draws, seed)
    plain, banded = sums.seen(banded=False), sums.seen(banded=True)
    orders = (
        permutations(n, groups, draws=draws, seed=seed),
        permutations_within(band, groups, draws=draws, seed=seed),
    )
    p, p_banded = (
        _permutation_p(values, chosen, expected, order, draws)
        for expected, order in zip((sums.expected(False), sums.expected(True)), orders, strict=True)
    )
    family = np.zeros(len(columns), dtype=int) if families is None else np.asarray(families)
    adjusted, adjusted_banded = _holm_by_family(p, family), _holm_by_family(p_banded, family)
    found = []
    for s, side in enumerate(SIDES):
        inside = member[:, s] > 0
        for c, column in enumerate(columns):
            found.append(
                Share(side, column, float(values[inside, c].mean()), float(values[~inside, c].mean()),
                      float(plain[s, c]), *_interval(drawn[0][:, s, c]), float(p[s, c]), float(adjusted[s, c]),
                      float(banded[s, c]), *_interval(drawn[1][:, s, c]), float(p_banded[s, c]), float(adjusted_banded[s, c]))
            )  # fmt: skip
    return found


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums by band of (1, columns) over all rows and over each side's worst rows: all that a difference needs.

    Both differences are sum_b (a - k A / n) / sum_b (k (n - k) / n): a and k are the column's sum and the count of the worst
    rows of a band, A and n of all its rows. With one band it is the difference of two means; with several the
    Mantel-Haenszel difference, in which a band without worst rows, or without others, weighs nothing.
    """

    rows: Floats  # (n, (1 + sides) * bands * (1 + columns))
    shape: tuple[int, int, int]

    @staticmethod
    def of(values: Floats, member: Floats, band: Rows) -> "_Sums":
        within = (band[:, None] == np.arange(len(BANDS))).astype(np.float64)
        cells = within[:, :, None] * np.concatenate([np.ones((len(values), 1)), values], axis=1)[:, None, :]
        sides = np.concatenate([np.ones((len(values), 1)), member], axis=1)
        rows = sides[:, :, None, None] * cells[:, None]
        return _Sums(rows.reshape(len(values), -1), rows.shape[1:])

    def seen(self, banded: bool) -> Floats:
        """The difference on the rows as they are: (sides, columns)."""
        difference: Floats = self._difference(self.rows.sum(axis=0).reshape(1, *self.shape), banded)[0]
        return difference

    def expected(self, banded: bool) -> Floats:
        """What the sum of each column over the worst rows would be, were they like the others: (sides, columns)."""
        sums = self._merged(self.rows.sum(axis=0).reshape(1, *self.shape), banded)
        with np.errstate(invalid="ignore"):
            parts: Floats = sums[:, 1:, :, :1] * sums[:, :1, :, 1:] / sums[:, :1, :, :1]
        total: Floats = np.nansum(parts, axis=2)[0]
        return total

    def bootstrap(self, groups: Rows | None, draws: int, seed: int) -> tuple[Floats, Floats]:
        """The difference in resamples of whole groups, over all rows and by bands: two of (draws, sides, columns)."""
        used = self.rows.any(axis=0)
        sums = np.zeros((draws, self.rows.shape[1]))
        sums[:, used] = bootstrap_sums(self.rows[:, used], groups, draws=draws, seed=seed)
        drawn = sums.reshape(draws, *self.shape)
        return self._difference(drawn, False), self._difference(drawn, True)

    @staticmethod
    def _merged(sums: Floats, banded: bool) -> Floats:
        return sums if banded else sums.sum(axis=2, keepdims=True)

    @classmethod
    def _difference(cls, sums: Floats, banded: bool) -> Floats:
        sums = cls._merged(sums, banded)
        n, total = sums[:, :1, :, :1], sums[:, :1, :, 1:]
        k, inside = sums[:, 1:, :, :1], sums[:, 1:, :, 1:]
        with np.errstate(divide="ignore", invalid="ignore"):
            above = np.nansum(inside - k * total / n, axis=2)
            weight = np.nansum(k * (n - k) / n, axis=2)
            difference: Floats = np.where(weight > 0, above / weight, np.nan)
        return difference


def permutations_within(
    strata: Rows, groups: Rows | None = None, *, draws: int = DRAWS, seed: int = 0
) -> Iterator[NDArray[np.int64]]:
    """Random orders of n rows, (n,) each, in which a row's place is taken by one of the same stratum.

    Groups stay whole: one changes places with groups of the same size whose members lie in the same strata, so a group
    like no other stays where it is.
    """
    random = np.random.default_rng([seed, 0x57A7])
    n = len(strata)
    _, index = np.unique(np.arange(n) if groups is None else groups, return_inverse=True)
    ordered = np.lexsort((np.arange(n), strata, index))
    by_kind: dict[tuple[int, ...], list[Rows]] = {}
    for members in np.split(ordered, np.flatnonzero(np.diff(index[ordered])) + 1):
        by_kind.setdefault(tuple(strata[members].tolist()), []).append(members)
    blocks = [np.stack(members) for members in by_kind.values()]
    for _ in range(draws):
        order = np.empty(n, dtype=np.int64)
        for block in blocks:
            order[block] = block[random.permutation(len(block))]
        yield order


def _permutation_p(
    values: Floats, chosen: Sequence[Rows], expected: Floats, orders: Iterator[NDArray[np.int64]], draws: int
) -> Floats:
    """Two-sided p of the column sums over each side's rows, (sides, columns); the one seen counts among the draws."""
    seen = np.abs(np.stack([values[rows].sum(axis=0) for rows in chosen]) - expected)
    # A sum in another order differs in its last digits; a tie must count as reached.
    bar = seen - 1e-9 * np.maximum(np.abs(values).sum(axis=0), 1e-300)
    reached = np.ones_like(seen)
    for order in orders:
        for s, rows in enumerate(chosen):
            reached[s] += np.abs(values[order[rows]].sum(axis=0) - expected[s]) >= bar[s]
    p: Floats = reached / (draws + 1)
    return p


def _holm_by_family(p: Floats, family: NDArray[Any]) -> Floats:
    adjusted = np.empty_like(p)
    for name in np.unique(family):
        inside = family == name
        adjusted[:, inside] = holm(p[:, inside].ravel()).reshape(p[:, inside].shape)
    return adjusted


def _interval(values: Floats) -> Interval:
    kept = values[np.isfinite(values)]
    return interval(kept) if len(kept) else (float("nan"), float("nan"))


@dataclass(frozen=True)
class Gap:
    """What the mean squared error is made of. Squares are in points squared, RMSEs in points; `*_interval` are 95 %."""

    mse: float
    mse_interval: Interval
    rmse: float
    rmse_interval: Interval
    band_intervals: dict[str, Interval]
    """of each band's share of the squared error"""
    slope: float
    slope_interval: Interval
    intercept: float
    intercept_interval: Interval
    affine_gain: float
    """points of RMSE that a line fitted on the other folds takes off (NaN with one fold or constant predictions)"""
    affine_gain_interval: Interval
    affine_gain_same_rows: float
    """the same fitted on the rows it is scored on: optimistic"""
    noise: LabelNoise | None
    noise_share: float
    """of the MSE; NaN where the noise is not known"""
    noise_share_interval: Interval
    explainable: Explainable | None
    exact: "ExactGap | None"

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what is not defined is null."""
        return plain(asdict(self))


@dataclass(frozen=True)
class ExactGap:
    """The same of a drawn shelter, where every score's noise is known: shares of the MSE that add up to 1."""

    noise: float
    """mean (target - expected)^2"""
    rest: float
    """mean (expected - prediction)^2: what a better predictor could gain"""
    both: float
    """twice the mean product: chance, unless predictions know the noise"""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def the_gap(
    target: Floats,
    prediction: Floats,
    fold: Rows,
    noise: LabelNoise | None,
    expected: Floats | None = None,
    groups: Rows | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Gap:
    """Take the squared error apart: labels' noise, what a line would mend, the rest; all arrays (n,), points.

    Every interval comes from the same draws of groups; the noise's share carries the noise's interval as well.
    """
    error = (target - prediction) ** 2
    corrected = affine_cross_fitted(target, prediction, fold)
    t, p = target - target.mean(), prediction - prediction.mean()
    band = band_of(target)[:, None] == np.arange(len(BANDS))
    columns = [np.ones(len(t)), t, t * t, p, p * p, t * p, error, (target - corrected) ** 2, *(error[:, None] * band).T]
    drawn = bootstrap_sums(np.stack(columns, axis=1), groups, draws=draws, seed=seed)
    n = drawn[:, 0]
    mean_t, var_t, mean_p, var_p, product, mse, mended = (drawn[:, 1:8] / n[:, None]).T
    var_t, var_p = np.maximum(var_t - mean_t**2, 0.0), np.maximum(var_p - mean_p**2, 0.0)
    slope, intercept = calibration_line(target, prediction)
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.where(var_p > 1e-12, (product - mean_t * mean_p) / var_p, np.nan)
        intercepts = target.mean() + mean_t - slopes * (prediction.mean() + mean_p)
        r2 = np.where(var_t > 0, 1.0 - mse / var_t, np.nan)
        of_noise = noise.draws(draws, seed=seed) ** 2 / mse if noise is not None else np.full(draws, np.nan)
        in_bands = drawn[:, 8:] / np.maximum(drawn[:, 6:7], 1e-300)
    value, sd = float(error.mean()), float(np.std(target))
    line = intercept + slope * prediction
    return Gap(
        mse=value,
        mse_interval=interval(mse),
        rmse=float(np.sqrt(value)),
        rmse_interval=interval(np.sqrt(mse)),
        band_intervals={name: interval(in_bands[:, i]) for i, (name, _) in enumerate(BANDS) if band[:, i].any()},
        slope=slope,
        slope_interval=_interval(slopes),
        intercept=intercept,
        intercept_interval=_interval(intercepts),
        affine_gain=float(np.sqrt(value)) - rmse(target, corrected),
        affine_gain_interval=_interval(np.sqrt(mse) - np.sqrt(mended)),
        affine_gain_same_rows=float(np.sqrt(value)) - rmse(target, line),
        noise=noise,
        noise_share=noise.sd**2 / value if noise is not None and value > 0 else float("nan"),
        noise_share_interval=_interval(of_noise),
        explainable=None
        if noise is None or not sd > 0
        else explainable(1.0 - value / sd**2, noise, sd, r2, np.sqrt(var_t)),
        exact=None if expected is None or not value > 0 else _exact(target, prediction, expected, value),
    )


def affine_cross_fitted(target: Floats, prediction: Floats, fold: Rows) -> Floats:
    """`prediction` put through the least-squares line of the other folds' rows, (n,); NaN where no line can be fitted."""
    out = np.full(len(target), np.nan)
    for k in np.unique(fold):
        others = fold != k
        if others.sum() >= 2:
            slope, intercept = calibration_line(target[others], prediction[others])
            out[~others] = intercept + slope * prediction[~others]
    return out


def _exact(target: Floats, prediction: Floats, expected: Floats, mse: float) -> ExactGap:
    noise, rest = target - expected, expected - prediction
    parts = (np.mean(noise**2), np.mean(rest**2), 2 * np.mean(noise * rest))
    return ExactGap(*(float(part) / mse for part in parts))
