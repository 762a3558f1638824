"""What `make errors` measures: what the worst rows share, what the squared error is made of, whether age goes with the score.

Errors are prediction - target. One warning: the true score itself decides which rows can be far off (regression to the mean).
What the worst rows share against all others is partly what popular photos share, so every difference is also taken against
rows of similar true score, where the rows furthest off are those with the highest (lowest) predictions: that difference
says what the model goes by, not what the public likes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.console import track
from pawpularity.data.tables import METADATA
from pawpularity.evaluation.bootstrap import bootstrap_sums, holm, interval, permutations
from pawpularity.evaluation.label_noise import Explainable, LabelNoise, explainable
from pawpularity.evaluation.metrics import BANDS, band_of, calibration_line, rmse

SIDES = ("over-scored", "under-scored")
FEWEST_DATES = 30

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Interval = tuple[float, float]


def worst_rows(error: Floats, side: str, count: int) -> Rows:
    """The `count` rows furthest off on one of SIDES, the furthest first; ties in row order. `error` is (n,)."""
    return np.argsort(error if side == SIDES[1] else -error, kind="stable")[:count].astype(np.int64)


def what_they_share(
    values: pd.DataFrame, error: Floats, target: Floats, groups: Rows | None, *, count: int, draws: int, seed: int = 0
) -> pd.DataFrame:
    """The worst `count` rows of each side against the rest, a row per side and column of `values` (n, c).

    `difference` is against all others, `banded` against others of similar true score. Holm's correction is over both
    sides and all columns of a kind (metadata, photo properties), for the two questions apart.
    """
    numbers, member = values.to_numpy(dtype=np.float64), np.zeros((len(error), len(SIDES)))
    for s, side in enumerate(SIDES):
        member[worst_rows(error, side, count), s] = 1.0
    strata = {"": np.zeros(len(error), dtype=np.int64), "banded_": band_of(target)}
    found = pd.DataFrame([(side, column) for side in SIDES for column in values], columns=["side", "column"])
    found["worst"] = (member.T @ numbers / count).ravel()
    found["rest"] = ((1 - member.T) @ numbers / (len(error) - count)).ravel()
    kind = found["column"].isin(METADATA)
    for name, own in strata.items():
        figures = differences(numbers, member, own, groups, draws=draws, seed=seed)
        for key, figure in zip(
            (name[:-1] or "difference", f"{name}low", f"{name}high", f"{name}p"), figures, strict=True
        ):
            found[key] = figure.ravel()
        found[f"{name}p_holm"] = found.groupby(kind)[f"{name}p"].transform(lambda p: holm(p.to_numpy()))
    return found


def differences(
    values: Floats, member: Floats, strata: Rows, groups: Rows | None, *, draws: int, seed: int = 0
) -> tuple[Floats, Floats, Floats, Floats]:
    """How the means of `values` (n, c) of the members (n, sides; 0/1) differ from the others' of the same stratum.

    Returns difference, low, high and p, each (sides, c). The difference is Mantel-Haenszel's, the coefficient of membership
    beside the strata: sum_b (a - k A / n) / sum_b k (n - k) / n, with a and k the sum and the count of the members of a
    stratum, A and n those of all its rows; NaN where no stratum has both. The interval draws groups with replacement; p,
    two-sided, shuffles the membership within strata, near-duplicates together.
    """
    own = (strata[:, None] == np.unique(strata)).astype(np.float64)
    sides, columns = (np.column_stack([np.ones(len(values)), part]) for part in (member, values))
    cells = np.einsum("ns,nb,nc->nsbc", sides, own, columns)
    seen, expected = _mantel_haenszel(cells.sum(axis=0))
    drawn = bootstrap_sums(cells.reshape(len(values), -1), groups, draws=draws, seed=seed)
    resampled, _ = _mantel_haenszel(drawn.reshape(draws, *cells.shape[1:]))
    ends = np.array([_finite_interval(draw) for draw in resampled.reshape(draws, -1).T]).T.reshape(2, *seen.shape)
    off = np.abs(member.T @ values - expected)
    # A sum in another order differs in its last digits; a tie must count as reached.
    bar = off - 1e-9 * np.maximum(np.abs(values).sum(axis=0), 1e-300)
    reached, chosen = np.ones_like(off), [np.flatnonzero(column) for column in member.T]
    orders = (permutations_within(strata, groups, draws=draws, seed=seed) if strata.any()
              else permutations(len(strata), groups, draws=draws, seed=seed))  # fmt: skip
    for order in track(orders, "shuffling what the worst share", total=draws, unit="shuffle"):
        for s, rows in enumerate(chosen):
            reached[s] += np.abs(values[order[rows]].sum(axis=0) - expected[s]) >= bar[s]
    return seen, ends[0], ends[1], reached / (draws + 1)


def _mantel_haenszel(sums: Floats) -> tuple[Floats, Floats]:
    """(difference, what the members' sums would be if they were like the others), each (..., sides, c).

    `sums` are (..., 1 + sides, strata, 1 + c): of all rows and of each side's, counts first.
    """
    n, total = sums[..., :1, :, :1], sums[..., :1, :, 1:]
    k, inside = sums[..., 1:, :, :1], sums[..., 1:, :, 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.nansum(k * total / n, axis=-2)
        weight = np.nansum(k * (n - k) / n, axis=-2)
        return np.where(weight > 0, (inside.sum(axis=-2) - expected) / weight, np.nan), expected


def permutations_within(strata: Rows, groups: Rows | None = None, *, draws: int, seed: int = 0) -> Iterator[Rows]:
    """Random orders of n rows, (n,) each, in which a row's place is taken by one of the same stratum.

    Groups stay whole: one changes places with groups of the same size whose members lie in the same strata.
    """
    random = np.random.default_rng([seed, 0x57A7])
    _, index = np.unique(np.arange(len(strata)) if groups is None else groups, return_inverse=True)
    ordered = np.lexsort((np.arange(len(strata)), strata, index))
    by_kind: dict[tuple[int, ...], list[Rows]] = {}
    for members in np.split(ordered, np.flatnonzero(np.diff(index[ordered])) + 1):
        by_kind.setdefault(tuple(strata[members].tolist()), []).append(members)
    blocks = [np.stack(members) for members in by_kind.values()]
    for _ in range(draws):
        order = np.empty(len(strata), dtype=np.int64)
        for block in blocks:
            order[block] = block[random.permutation(len(block))]
        yield order


@dataclass(frozen=True)
class Gap:
    """Parts of the mean squared error. Squares in points squared, RMSEs in points; `*_interval` are 95 %."""

    mse: float
    rmse: float
    rmse_interval: Interval
    band_intervals: dict[str, Interval]
    """of each band's share of the squared error"""
    slope: float
    """of target on prediction: 1 is calibrated"""
    slope_interval: Interval
    intercept: float
    affine_gain: float
    """points of RMSE that a line fitted on the other folds takes off (NaN with one fold or constant predictions)"""
    affine_gain_interval: Interval
    noise: LabelNoise | None
    noise_share: float
    """of the MSE; NaN where the noise is not known. The interval carries the noise's as well"""
    noise_share_interval: Interval
    explainable: Explainable | None
    exact: dict[str, float] | None
    """on a drawn sample, shares of the MSE that add up to 1: the scores' noise, the distance to the expected score (what a better
    predictor could gain), and twice their product (chance)"""


def measure_gap(
    target: Floats,
    prediction: Floats,
    fold: Rows,
    noise: LabelNoise | None,
    expected: Floats | None = None,
    groups: Rows | None = None,
    *,
    draws: int,
    seed: int = 0,
) -> Gap:
    """Split the squared error into label noise, what a line would mend, and the rest; arrays (n,), points.

    All intervals come from the same draws of groups. `expected`: the true expected scores, on a drawn sample.
    """
    error, corrected = (target - prediction) ** 2, cross_fitted_line(target, prediction, fold)
    t, p = target - target.mean(), prediction - prediction.mean()
    band = band_of(target)[:, None] == np.arange(len(BANDS))
    columns = [np.ones(len(t)), t, t * t, p, p * p, t * p, error, (target - corrected) ** 2, *(error[:, None] * band).T]
    drawn = bootstrap_sums(np.stack(columns, axis=1), groups, draws=draws, seed=seed)
    mean_t, square_t, mean_p, square_p, product, mse, mended = (drawn[:, 1:8] / drawn[:, :1]).T
    var_t, var_p = np.maximum(square_t - mean_t**2, 0.0), np.maximum(square_p - mean_p**2, 0.0)
    value, sd = float(error.mean()), float(np.std(target))
    slope, intercept = calibration_line(target, prediction)
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.where(var_p > 1e-12, (product - mean_t * mean_p) / var_p, np.nan)
        r2 = np.where(var_t > 0, 1.0 - mse / var_t, np.nan)
        of_noise = np.full(draws, np.nan) if noise is None else noise.draws(draws, seed=seed) ** 2 / mse
        in_bands = drawn[:, 8:] / np.maximum(drawn[:, 6:7], 1e-300)
    exact = None
    if expected is not None:
        off, rest = target - expected, expected - prediction
        parts = {"noise": off**2, "rest": rest**2, "both": 2 * off * rest}
        exact = {name: float(part.mean()) / value for name, part in parts.items()}
    return Gap(
        mse=value,
        rmse=float(np.sqrt(value)),
        rmse_interval=interval(np.sqrt(mse)),
        band_intervals={name: interval(in_bands[:, i]) for i, (name, _) in enumerate(BANDS) if band[:, i].any()},
        slope=slope,
        slope_interval=_finite_interval(slopes),
        intercept=intercept,
        affine_gain=float(np.sqrt(value)) - rmse(target, corrected),
        affine_gain_interval=_finite_interval(np.sqrt(mse) - np.sqrt(mended)),
        noise=noise,
        noise_share=float("nan") if noise is None else noise.sd**2 / value,
        noise_share_interval=_finite_interval(of_noise),
        explainable=explainable(1.0 - value / sd**2, noise, sd, r2, np.sqrt(var_t))
        if noise is not None and sd > 0
        else None,
        exact=exact,
    )


def cross_fitted_line(target: Floats, prediction: Floats, fold: Rows) -> Floats:
    """`prediction` put through the least-squares line of the other folds' rows, (n,); NaN where no line can be fitted."""
    out = np.full(len(target), np.nan)
    for k in np.unique(fold):
        others = fold != k
        if others.sum() >= 2:
            slope, intercept = calibration_line(target[others], prediction[others])
            out[~others] = intercept + slope * prediction[~others]
    return out


def _finite_interval(values: Floats) -> Interval:
    kept = values[np.isfinite(values)]
    return interval(kept) if len(kept) else (float("nan"), float("nan"))


@dataclass(frozen=True)
class Recency:
    """Whether score and residual go with the date of the photo, as far as the data can tell."""

    verdict: str
    dates: int
    photos: int
    links: tuple[dict[str, Any], ...]
    """Spearman's rank correlations of the date: against (score, residual), n, correlation, p, p_holm"""


def recency(target: Floats, residual: Floats, dates: Floats | None) -> Recency:
    """The paper guesses that newer photos score lower. The contest's table has no dates, and its Ids are hashes: EXIF is left.

    `residual`: target - prediction; `dates`: EXIF days (of the camera or an editor, not of the posting), NaN where a photo
    has none, None without photos. All (n,).
    """
    from scipy.stats import spearmanr

    dates = np.empty(0) if dates is None else dates
    there = np.isfinite(dates)
    words = f"{there.sum()} of {len(dates)} photos carry a date (EXIF, not of the posting)"
    if there.sum() < FEWEST_DATES:
        verdict = f"cannot be tested: {words}, and {FEWEST_DATES} are needed"
        return Recency(verdict, int(there.sum()), len(dates), ())
    rows: list[dict[str, Any]] = []
    for name, other in (("score", target), ("residual", residual)):
        link = spearmanr(dates[there], other[there])
        rows.append(
            {"against": name, "n": int(there.sum()), "correlation": float(link.statistic), "p": float(link.pvalue)}
        )
    rows = [row | {"p_holm": float(p)} for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True)]
    seen = [
        f"{row['against']} ({row['correlation']:+.3f}, Holm p {row['p_holm']:.2g})"
        for row in rows
        if row["p_holm"] < 0.05
    ]
    goes = f"it goes with {' and '.join(seen)}" if seen else "it goes with neither score nor residual"
    return Recency(f"{words}; {goes}", int(there.sum()), len(dates), tuple(rows))
