"""Where the error of a set of predictions sits: by true score, by fold, and whether they are on the right scale.

Honest predictions of a score that is mostly noise stay near the middle, so the error grows towards both ends of the true
score: on the contest the 2.9 % of photos at 100 make a sixth of it. The bands say so; they chose nothing.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.evaluation.metrics import rmse
from pawpularity.files import plain

BANDS = (
    ("<=20", 20.0),
    ("21-30", 30.0),
    ("31-40", 40.0),
    ("41-60", 60.0),
    ("61-80", 80.0),
    ("81-99", 99.0),
    ("100", 100.0),
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """Rows whose true score lies in one band."""

    name: str
    n: int
    rmse: float
    share: float
    """of all squared error"""
    bias: float
    """mean of prediction - target, points"""


@dataclass(frozen=True)
class FoldScore:
    """One fold's rows."""

    fold: int
    n: int
    rmse: float
    constant_rmse: float


@dataclass(frozen=True)
class Breakdown:
    """Everything below the pooled figure."""

    bands: tuple[Band, ...]
    folds: tuple[FoldScore, ...]
    fold_sd: float
    """sd of the fold RMSEs (ddof 1), points; NaN for one fold"""
    mean_of_folds: float
    """of folds of equal size never above the pooled RMSE: the figure others often quote"""
    correlation: float
    lowest: float
    highest: float
    slope: float
    """of target on prediction: 1 is calibrated, above 1 too timid, below 1 too bold"""
    intercept: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what is not defined is null."""
        return plain(asdict(self))


def band_of(target: Floats) -> NDArray[np.int64]:
    """The band of each true score, index into BANDS, (n,)."""
    return np.searchsorted(np.array([high for _, high in BANDS[:-1]]), target, side="left").astype(np.int64)


def breakdown(target: Floats, prediction: Floats, constant: Floats, fold: NDArray[np.int64]) -> Breakdown:
    """Break the errors of `prediction` down; all of shape (n,), points."""
    squared, band = (target - prediction) ** 2, band_of(target)
    total = max(float(squared.sum()), 1e-300)
    bands = tuple(
        Band(name, int(inside.sum()), float(np.sqrt(squared[inside].mean())), float(squared[inside].sum() / total),
             float((prediction - target)[inside].mean()))
        for i, (name, _) in enumerate(BANDS)
        if (inside := band == i).any()
    )  # fmt: skip
    folds = tuple(
        FoldScore(int(k), int((fold == k).sum()), rmse(target[fold == k], prediction[fold == k]),
                  rmse(target[fold == k], constant[fold == k]))
        for k in np.unique(fold)
    )  # fmt: skip
    values = np.array([f.rmse for f in folds])
    slope, intercept = calibration(target, prediction)
    varied = len(target) > 1 and np.ptp(target) > 0 and np.ptp(prediction) > 0
    return Breakdown(
        bands=bands,
        folds=folds,
        fold_sd=float(values.std(ddof=1)) if len(values) > 1 else float("nan"),
        mean_of_folds=float(values.mean()),
        correlation=float(np.corrcoef(target, prediction)[0, 1]) if varied else float("nan"),
        lowest=float(prediction.min()),
        highest=float(prediction.max()),
        slope=slope,
        intercept=intercept,
    )


def calibration(target: Floats, prediction: Floats) -> tuple[float, float]:
    """Slope and intercept of the least-squares line of `target` on `prediction`; NaN where predictions do not vary."""
    centred = prediction - prediction.mean()
    spread = float(centred @ centred)
    if spread <= 1e-12:
        return float("nan"), float("nan")
    slope = float(centred @ target) / spread
    return slope, float(target.mean() - slope * prediction.mean())
