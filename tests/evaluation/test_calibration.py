"""Ranges, chances and orders against figures of the real out-of-fold files, closed forms, and a bootstrap."""

import numpy as np
import pytest
from scipy.stats import norm

from pawpularity.errors import UserError
from pawpularity.evaluation.calibration import Calibration, Order
from pawpularity.evaluation.oof import read_oof


def skewed(n, seed=0):
    """Predictions and true scores whose residuals are skewed and grow with the prediction."""
    random = np.random.default_rng(seed)
    prediction = random.uniform(20, 60, n)
    return prediction + 0.15 * prediction * (random.exponential(1.0, n) - 1.0), prediction


def test_chances_are_those_of_real_photos(real):
    tables = [read_oof(file) for file in (real / "oof-peers").glob("*.csv")]
    prediction = np.mean([table["prediction"] for table in tables], axis=0)
    known = Calibration(tables[0]["target"], prediction)
    assert (known.n, known.median, known.top_quarter, known.indicative) == (9912, 33, 46, False)
    bands = (0, 25, 30, 35, 40, 50, 60, 101)
    for score, shares in ((None, (10, 22, 36, 54, 71, 81, 88)), (45.5, (2, 5, 13, 23, 42, 62, 79))):
        for low, high, share in zip(bands, bands[1:], shares, strict=False):
            here = prediction[(prediction >= low) & (prediction < high)]
            assert 100 * known.chance_above(here, score).mean() == pytest.approx(share, abs=2.5)


def test_half_the_photos_and_the_size_of_residuals_of_a_known_law():
    known, (target, prediction) = Calibration(*skewed(20_000)), skewed(20_000, seed=1)
    low, high = known.interval(prediction, 0.5)
    assert np.mean((low <= target) & (target <= high)) == pytest.approx(0.5, abs=0.01)
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
    assert order.reliability(-7.0) == order.reliability(7.0) == order.bands[2].share
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
