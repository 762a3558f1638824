"""Ranges, chances and orders against figures of the real out-of-fold files, closed forms, and a bootstrap."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from pawpularity.errors import UserError
from pawpularity.evaluation.calibration import Calibration, Order


@pytest.fixture(scope="module")
def peers(real):
    """(targets, folds, predictions by file) of the eight real files, and their mean."""
    tables = {f.stem: pd.read_csv(f).sort_values("Id") for f in sorted((real / "oof-peers").glob("*.csv"))}
    predictions = {name: table["prediction"].to_numpy(float) for name, table in tables.items()}
    target, fold = (tables["v31"][column].to_numpy() for column in ("target", "fold"))
    return target.astype(float), fold, predictions | {"mean": np.mean(list(predictions.values()), axis=0)}


def skewed(n, seed=0):
    """Predictions and true scores whose residuals are skewed and grow with the prediction."""
    random = np.random.default_rng(seed)
    prediction = random.uniform(20, 60, n)
    return prediction + 0.15 * prediction * (random.exponential(1.0, n) - 1.0), prediction


def covered(target, prediction, fold, level):
    """(inside, width) of every row's range by a calibration on the rows of the other folds, by rising prediction."""
    low, high = np.empty((2, len(target)))
    for one in np.unique(fold):
        here = fold == one
        low[here], high[here] = Calibration(target[~here], prediction[~here]).interval(prediction[here], level)
    order = np.argsort(prediction, kind="stable")
    return ((low <= target) & (target <= high))[order], (high - low)[order]


def test_nine_of_ten_in_every_fifth_of_real_predictions(peers):
    target, fold, predictions = peers
    for name, prediction in predictions.items():
        inside, width = covered(target, prediction, fold, 0.9)
        assert all(0.87 <= part.mean() <= 0.93 for part in np.array_split(inside, 5)), name
        assert inside.mean() == pytest.approx(0.9, abs=0.006)
    # A constant range covers .629 of the top twentieth of the mean, and is 57.3 wide.
    assert inside[int(0.95 * len(inside)) :].mean() > 0.9
    assert width.mean() == pytest.approx(53.7, abs=1.0)


def test_chances_are_those_of_real_photos(peers):
    target, _, predictions = peers
    prediction, known = predictions["mean"], Calibration(target, predictions["mean"])
    assert (known.n, known.median, known.top_quarter, known.indicative) == (9912, 33, 46, False)
    bands = (0, 25, 30, 35, 40, 50, 60, 101)
    for score, shares in ((None, (10, 22, 36, 54, 71, 81, 88)), (45.5, (2, 5, 13, 23, 42, 62, 79))):
        for low, high, share in zip(bands, bands[1:], shares, strict=False):
            here = prediction[(prediction >= low) & (prediction < high)]
            assert 100 * known.chance_above(here, score).mean() == pytest.approx(share, abs=2.5)


def test_an_order_is_as_reliable_as_it_was_on_real_pairs(peers):
    order = Order.measure(peers[0], peers[2]["mean"])
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
    assert known.interval(40.0, 0.99) == (1.0, 100.0)
    assert known.indicative
    with pytest.raises(UserError, match="too few"):
        Calibration(*skewed(19))


def test_reliability_in_closed_form():
    """Of normal scores about their predictions the higher one is truly higher with Phi(gap / (sigma sqrt 2))."""
    random = np.random.default_rng(2)
    prediction = random.uniform(0, 60, 2000)
    order = Order.measure(prediction + 12 * random.standard_normal(2000), prediction)
    gaps = np.abs(prediction[:, None] - prediction)[np.triu_indices(2000, 1)]
    for band in order.bands:
        inside = gaps[(gaps >= band.low) & (gaps < band.high)]
        assert band.pairs == len(inside)
        assert band.share == pytest.approx(norm.cdf(inside / (12 * np.sqrt(2))).mean(), abs=0.02)


def test_its_error_is_that_of_a_bootstrap_over_rows():
    random = np.random.default_rng(3)
    prediction = random.uniform(0, 60, 300)
    target = prediction + 15 * random.standard_normal(300)
    right = np.sign(target[:, None] - target) == np.sign(prediction[:, None] - prediction)
    shares = []
    for _ in range(400):
        rows = random.integers(0, 300, 300)
        pairs = prediction[rows][:, None] != prediction[rows]  # a row is no pair with itself
        shares.append(right[np.ix_(rows, rows)][pairs].mean())
    assert Order.measure(target, prediction).whole.error == pytest.approx(np.std(shares), rel=0.15)


def test_near_duplicates_are_no_pair_and_bands_of_few_pairs_are_joined():
    prediction, target = np.random.default_rng(4).uniform(0, 9, (2, 60))
    order = Order.measure(target, prediction)
    assert order.whole.pairs == 60 * 59 / 2
    assert Order.measure(target, prediction, np.repeat(np.arange(30), 2)).whole.pairs == 60 * 59 / 2 - 30
    assert all(band.pairs >= 100 for band in order.bands[1:])
    assert order.bands[-1].high == float("inf")
