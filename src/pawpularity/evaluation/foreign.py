"""A CSV of predictions from outside: rows that no model scored, the scale of its columns, scores that went through float32.

What is assumed is logged. What cannot be known is refused in one line.
"""

from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.console import log
from pawpularity.data.tables import ID, Floats, whole_scores
from pawpularity.errors import UserError
from pawpularity.evaluation.oof import read_oof

Marks = NDArray[np.bool_]
_TYPICAL = 35.0  # score points: the median of true scores and of any predictor's answers is about that
_FOLD = 10  # fewest rows that may be called constant, or of another scale
_NORMAL = NormalDist()


def read_foreign(path: Path, word: str, scale: float | None) -> pd.DataFrame:
    """`read_oof` of the file that the user called `word`, in score points.

    Raises UserError where rows were never scored, and where a column is on another scale and `scale` is not given.
    """
    table = read_oof(path)
    require_scored(table, word)
    if scale is None:
        for column in ("prediction", "target"):
            low, high = np.quantile(table[column], [0.05, 0.95])
            times = 100 if low >= -0.5 and high <= 1.5 else 0.01 if low > 100 and high <= 15_000 else None
            if times is not None:
                raise UserError(
                    f"{word}: nine of ten {column}s lie in {low:.3g} to {high:.3g}, scores are 1-100; add --scale {times}"
                )
    else:
        table = rescaled(table, word, scale)
    _log_doubtful_scale(table, word)
    target = table["target"].to_numpy(dtype=np.float64)
    whole = whole_scores(target)
    if (off := float(np.abs(whole - target).max())) > 0:
        log(f"{word}: targets are up to {off:.1g} beside whole scores, as after float32; read as whole scores")
    require_known(table.assign(target=whole), word)
    return table.assign(target=whole)


def _log_doubtful_scale(table: pd.DataFrame, word: str) -> None:
    """Log targets that are hardly scores of 1-100, and predictions that are hardly on their scale, as logarithms or z-scores."""
    low, high = np.quantile(table["target"], [0.05, 0.95])
    lowest, highest = np.quantile(table["prediction"], [0.05, 0.95])
    targets = f"{word}: nine of ten targets lie in {low:.3g} to {high:.3g}"
    if low < 0 or high <= 10 or high > 101:
        log(f"{targets}, scores in 1-100; scores of ten points, for example, need --scale 10")
    elif len(table) >= _FOLD and (highest < low or lowest > high):
        log(f"{targets}, nine of ten predictions in {lowest:.3g} to {highest:.3g}; is one of them on another scale?")


def rescaled(table: pd.DataFrame, word: str, scale: float) -> pd.DataFrame:
    """`table` with those columns times `scale` that this brings nearer to scores; says which.

    Their medians decide, so a few stray values change nothing. Raises UserError if it would be the targets alone.
    """
    medians = {column: float(np.median(np.abs(table[column]))) for column in ("prediction", "target")}
    # Nearer by ratio: 0.4 x 100 is nearer to 35 than 0.4 is, and 40 x 100 is farther than 40.
    middle = _TYPICAL / np.sqrt(scale)
    chosen = [column for column, median in medians.items() if (median < middle if scale > 1 else median > middle)]
    if chosen == ["target"]:
        raise UserError(
            f"{word}: targets (median {medians['target']:.3g}) are on another scale than predictions (median "
            f"{medians['prediction']:.3g}), and --scale {scale:g} would fit the targets alone; bring both to one scale"
        )
    said = {True: f"times {scale:g}", False: "scores already"}
    log(f"{word}: " + ", ".join(f"{c}s {said[c in chosen]} (median {median:.3g})" for c, median in medians.items()))
    # 0.07 x 100 is 7.000000000000001, and a whole score must stay one.
    return table.assign(**{column: (table[column] * scale).round(6) for column in chosen})


def require_scored(table: pd.DataFrame, word: str) -> None:
    """Raise UserError if rows of `table` were never scored: their fold is below 0, or their prediction is a filler."""
    prediction, fold = table["prediction"].to_numpy(dtype=np.float64), table["fold"].to_numpy(dtype=np.int64)
    found = {
        "a fold below 0": fold < 0,
        "a prediction that is the same in the whole fold": constant_folds(prediction, fold),
        "the same prediction": filler(prediction),
        "the same prediction as others of their fold": filler(with_common_joined(prediction, fold)),
    }
    for what, rows in found.items():
        if rows.any():
            at = int(rows.argmax())
            first = f"first {table[ID].iloc[at]}: fold {fold[at]}, prediction {prediction[at]:g}"
            count = f"{int(rows.sum()):,} of {len(rows):,} rows"
            raise UserError(f"{word}: {count} have {what} ({first}), as rows that no model scored; remove them")


def require_known(table: pd.DataFrame, word: str) -> None:
    """Raise UserError if targets are whole scores but for some outside 1 to 100, as rows have whose score is not known."""
    target = table["target"].to_numpy(dtype=np.float64)
    outside = (target < 1) | (target > 100)
    # Targets on another scale are left alone.
    if outside.any() and (target % 1 == 0).all() and np.median(target) > 10:
        at = int(outside.argmax())
        raise UserError(
            f"{word}: {int(outside.sum()):,} of {len(target):,} targets are no score of 1 to 100 (first {table[ID].iloc[at]}: "
            f"{target[at]:g}); remove rows whose score is not known, or bring all to scores with --scale"
        )


def constant_folds(prediction: Floats, fold: NDArray[np.int64]) -> Marks:
    """(n,) rows of folds in which every prediction is the same, where those of other folds are not."""
    folds = pd.Series(prediction).groupby(fold)
    rows: Marks = ((folds.transform("size") >= _FOLD) & (folds.transform("nunique") == 1)).to_numpy()
    rest = np.unique(prediction[~rows], return_counts=True)[1]
    # A constant in every fold is the constant's own score, and a tree of two leaves may give one answer to a whole fold.
    return rows if len(rest) and rest.max() <= rest.sum() / 2 else np.zeros_like(rows)


def with_common_joined(prediction: Floats, fold: NDArray[np.int64]) -> Floats:
    """`prediction` with each fold's most common value (of five rows or more, within the fold's range) put to one value for all.

    So what every fold filled in by itself, as its training rows' mean, looks like one filler.
    """
    values = pd.Series(prediction)
    folds, count = values.groupby(fold), values.groupby([fold, prediction]).transform("size")
    inside = (values > folds.transform("min")) & (values < folds.transform("max"))
    common = inside & (count >= 5) & (count == count.groupby(fold).transform("max"))
    return np.asarray(values.where(~common, values[common].median()), dtype=np.float64)


def filler(prediction: Floats) -> Marks:
    """(n,) rows that share one value too often for a model's predictions, so that it fills in for rows never scored; else none.

    Inside the range of the others a filler must be far more common than any other value. At an end of the range many equal values
    may also come from clipping. Then others lie close: if clipping cuts c values from a normal tail, the gap beside it is about
    sd / (c x hazard).
    """
    values, place, counts = np.unique(prediction, return_inverse=True, return_counts=True)
    if len(values) < 3:
        return np.zeros(len(prediction), dtype=bool)
    for at in {0, len(values) - 1, int(counts.argmax())}:
        value, count, rest = values[at], int(counts[at]), prediction[place != at]
        # Few values altogether, as of a tree or a table of answers, may well be given often.
        second, n = int(np.delete(counts, at).max()), len(prediction)
        many = count >= max(5, 0.02 * n, 5 * second) and second <= max(2, 0.01 * n)
        inside = values[0] < value < values[-1]
        gap, tail = float(np.abs(np.delete(values, at) - value).min()), count / n
        # An upper tail may be long, and a few answers alone there. Below 0 is no score, nor is what lies far from all others.
        hazard = _NORMAL.pdf(_NORMAL.inv_cdf(tail)) / tail if at == 0 else 1.0
        # A single value may be a stray, unless it lies as far below 0 as -999, or as -1 among shares.
        sure = count > 1 or (value < 0 and gap > 2 * np.median(rest))
        few = sure and (value <= 0 or gap > 3 * rest.std())
        if many if inside else (many or few) and count * hazard * gap > 9 * rest.std():
            return np.asarray(place == at)
    return np.zeros(len(prediction), dtype=bool)
