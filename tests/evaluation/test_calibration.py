"""Ranges, chances and orders against figures of the real out-of-fold files, closed forms, and a bootstrap."""

import numpy as np
import pandas as pd
import pytest

from pawpularity.errors import UserError
from pawpularity.evaluation.calibration import Calibration, Order

BANDS = (0, 25, 30, 35, 40, 50, 60, 101)


@pytest.fixture(scope="module")
def peers(real):
    """(targets, folds, predictions by file) of the eight real files."""
    tables = {f.stem: pd.read_csv(f).sort_values("Id") for f in sorted((real / "oof-peers").glob("*.csv"))}
    first = next(iter(tables.values()))
    predictions = {name: table["prediction"].to_numpy(float) for name, table in tables.items()}
    return first["target"].to_numpy(float), first["fold"].to_numpy(int), predictions


@pytest.fixture(scope="module")
def mean(peers):
    """Targets and folds beside the mean of the eight files."""
    target, fold, predictions = peers
    return target, fold, np.mean(list(predictions.values()), axis=0)


def skewed(n, seed=0, spread=0.15):
    """Predictions and true scores whose residuals are skewed and grow with the prediction."""
    random = np.random.default_rng(seed)
    prediction = random.uniform(20, 60, n)
    return prediction + spread * prediction * (random.exponential(1.0, n) - 1.0), prediction


def cross_fitted_intervals(target, prediction, fold, level):
    """(low, high) of every row by a calibration on the rows of the other folds."""
    low, high = np.empty(len(target)), np.empty(len(target))
    for one in np.unique(fold):
        here = fold == one
        known = Calibration(target[~here], prediction[~here])
        low[here], high[here] = known.interval(prediction[here], level)
    return low, high


def coverage(target, prediction, fold, parts=5):
    """Shares of true scores inside their ranges, by equal parts of the rows from the lowest predictions up."""
    low, high = cross_fitted_intervals(target, prediction, fold, 0.9)
    inside = (low <= target) & (target <= high)
    return [part.mean() for part in np.array_split(inside[np.argsort(prediction, kind="stable")], parts)]


def test_nine_of_ten_in_every_fifth_of_real_predictions(peers, mean):
    target, fold, predictions = peers
    for name, prediction in {**predictions, "mean": mean[2]}.items():
        parts = coverage(target, prediction, fold)
        assert len(parts) == 5
        assert all(0.87 <= part <= 0.93 for part in parts), (name, parts)
        assert coverage(target, prediction, fold, parts=1)[0] == pytest.approx(0.9, abs=0.006)


def test_one_width_for_all_would_not_do(mean):
    """What it is measured against: a constant range covers 99 % at the bottom and 63 % of the top twentieth."""
    target, fold, prediction = mean
    size, inside = np.abs(target - prediction), np.empty(len(target), dtype=bool)
    for one in np.unique(fold):
        inside[fold == one] = size[fold == one] <= np.quantile(size[fold != one], 0.9)
    inside = inside[np.argsort(prediction)]
    n = len(target)
    lowest, high_up, top = (slice(int(n * a), int(n * b)) for a, b in ((0, 0.2), (0.8, 0.95), (0.95, 1)))
    assert inside[lowest].mean() == pytest.approx(0.988, abs=0.003)
    assert inside[high_up].mean() == pytest.approx(0.767, abs=0.005)
    low, high = cross_fitted_intervals(target, prediction, fold, 0.9)
    ours = ((low <= target) & (target <= high))[np.argsort(prediction)]
    assert inside[top].mean() == pytest.approx(0.629, abs=0.005)
    assert ours[top].mean() > 0.9
    assert (high - low).mean() == pytest.approx(53.7, abs=1.0), "and is narrower on average, against 57.3"


def test_chances_are_those_of_real_photos(mean):
    target, _, prediction = mean
    known = Calibration(target, prediction)
    assert (known.n, known.median, known.top_quarter, known.indicative) == (9912, 33, 46, False)
    beats, top = (10, 22, 36, 54, 71, 81, 88), (2, 5, 13, 23, 42, 62, 79)
    for low, high, median, quarter in zip(BANDS, BANDS[1:], beats, top, strict=False):
        here = (prediction >= low) & (prediction < high)
        assert 100 * known.chance_above(prediction[here]).mean() == pytest.approx(median, abs=2.5)
        assert 100 * known.chance_above(prediction[here], 45.5).mean() == pytest.approx(quarter, abs=2.5)


def test_an_order_is_as_reliable_as_it_was_on_real_pairs(mean):
    target, _, prediction = mean
    order = Order.measure(target, prediction)
    assert [round(100 * band.share) for band in order.bands] == [52, 58, 66, 73, 78, 83, 88]
    assert 100 * order.whole.share == pytest.approx(68.3, abs=0.05)
    assert order.reliability(-7.0) == order.reliability(7.0) == order.bands[2].share


def test_half_and_nine_tenths_hold_for_new_rows_of_a_known_law():
    known = Calibration(*skewed(20_000))
    target, prediction = skewed(20_000, seed=1)
    for level in (0.5, 0.9):
        low, high = known.interval(prediction, level)
        inside = (low <= target) & (target <= high)
        for part in np.array_split(inside[np.argsort(prediction)], 5):
            assert part.mean() == pytest.approx(level, abs=0.035)
    # E|residual| of this law is 0.15 p 2 / e, by integration.
    assert known.size([25.0, 40.0, 55.0]) == pytest.approx(0.3 / np.e * np.array([25.0, 40.0, 55.0]), rel=0.12)


def test_few_rows_widen_the_range_to_all_there_is():
    """The smallest of 19 in 20 rows is no 5 % point: the range must say so and not guess."""
    known = Calibration(*skewed(20))
    low, high = known.interval(40.0, 0.99)
    assert (low, high) == (1.0, 100.0)
    assert known.indicative
    with pytest.raises(UserError, match="19 out-of-fold rows are too few"):
        Calibration(*skewed(19))


def test_nothing_is_ever_certain_and_chances_rise_with_the_score():
    prediction = np.linspace(10, 90, 200)
    known = Calibration(np.where(prediction > 50, 90.0, 10.0), prediction)
    chances = known.chance_above(np.linspace(0, 100, 300))
    assert (np.diff(chances) >= 0).all()
    assert 0 < chances[0] < 0.02 < 0.98 < chances[-1] < 1


def test_reliability_in_closed_form():
    """Of normal scores about their predictions the higher one is truly higher with Phi(gap / (sigma sqrt 2))."""
    from scipy.stats import norm

    random = np.random.default_rng(2)
    prediction = random.uniform(0, 60, 3000)
    order = Order.measure(prediction + 12 * random.standard_normal(3000), prediction)
    gaps = np.abs(prediction[:, None] - prediction)[np.triu_indices(3000, 1)]
    for band in order.bands:
        inside = gaps[(gaps >= band.low) & (gaps < band.high)]
        assert band.pairs == len(inside)
        assert band.share == pytest.approx(norm.cdf(inside / (12 * np.sqrt(2))).mean(), abs=0.02)


def test_its_error_is_that_of_a_bootstrap_over_rows():
    random = np.random.default_rng(3)
    prediction = random.uniform(0, 60, 300)
    target = prediction + 15 * random.standard_normal(300)
    whole = Order.measure(target, prediction).whole
    right = np.sign(target[:, None] - target) == np.sign(prediction[:, None] - prediction)
    shares = []
    for _ in range(400):
        rows = random.integers(0, 300, 300)
        pairs = prediction[rows][:, None] != prediction[rows]  # a row is no pair with itself
        shares.append(right[np.ix_(rows, rows)][pairs].mean())
    assert whole.error == pytest.approx(np.std(shares), rel=0.15)


def test_near_duplicates_are_no_pair():
    random = np.random.default_rng(4)
    prediction, target = random.uniform(0, 9, 60), random.uniform(0, 9, 60)
    groups = np.repeat(np.arange(30), 2)
    assert Order.measure(target, prediction).whole.pairs == 60 * 59 / 2
    assert Order.measure(target, prediction, groups).whole.pairs == 60 * 59 / 2 - 30


def test_bands_without_pairs_go_with_the_one_below():
    random = np.random.default_rng(5)
    order = Order.measure(random.uniform(0, 9, 40), random.uniform(0, 9, 40))
    assert order.bands[-1].high == float("inf")
    assert all(band.pairs >= 100 for band in order.bands[1:])
    assert 0.3 < order.reliability(80.0) < 0.8
