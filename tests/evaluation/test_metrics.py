"""RMSE, its interval, R2, bands: against scikit-learn and scipy; figures of real files are in tests/oracles."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import mean_squared_error, r2_score

from pawpularity.evaluation.bootstrap import bootstrap_sums
from pawpularity.evaluation.metrics import BANDS, band_of, calibration_line, evaluate


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("level", [0.0, 5e6])
def test_the_interval_of_r2_is_that_of_scikit_learns_r2_over_the_resampled_rows(grouped, level):
    """`level`: scores far from zero, of which a variance from plain sums of squares would lose the digits."""
    numbers = np.random.default_rng(4)
    target = level + numbers.normal(38, 20, 60)
    prediction = target + numbers.normal(0, 15, 60)
    groups = np.repeat(np.arange(30), 2) if grouped else None
    times = bootstrap_sums(np.eye(60), groups, draws=200)  # how often each resample has each row
    rows = [np.repeat(np.arange(60), np.round(one).astype(int)) for one in times]
    found = evaluate(target, prediction, 38.0, groups, draws=200)
    ratios = np.percentile([r2_score(target[r], prediction[r]) for r in rows], [2.5, 97.5])
    errors = np.percentile([np.sqrt(mean_squared_error(target[r], prediction[r])) for r in rows], [2.5, 97.5])
    np.testing.assert_allclose((found.r2_low, found.r2_high), ratios, rtol=1e-6)
    np.testing.assert_allclose((found.low, found.high), errors, rtol=1e-9)
    assert found.r2 == pytest.approx(r2_score(target, prediction), rel=1e-9)


def test_resamples_that_do_not_vary_have_no_r2_and_the_others_count():
    target = np.array([10.0] * 5 + [90.0])  # a third of the resamples lack the last row
    found = evaluate(target, target - 1.0, 38.0, draws=500)
    times = bootstrap_sums(np.eye(6), None, draws=500)
    finite = [1 - 1 / np.var(np.repeat(target, np.round(one).astype(int))) for one in times if 0 < one[-1] < 6]
    np.testing.assert_allclose((found.r2_low, found.r2_high), np.percentile(finite, [2.5, 97.5]), rtol=1e-9)
    flat = evaluate(np.full(6, 0.5), np.full(6, 0.25), 38.0)
    assert flat.to_dict()["r2"] is flat.to_dict()["r2_low"] is None


def test_fewer_than_fifty_rows_or_groups_are_indicative():
    target, prediction = np.random.default_rng(0).normal(38, 20, (2, 100))
    groups = np.repeat(np.arange(49), 3)[:100]
    assert not evaluate(target[:50], prediction[:50], 38.0, draws=10).indicative
    assert evaluate(target[:49], prediction[:49], 38.0, draws=10).indicative
    assert evaluate(target, prediction, 38.0, groups, draws=10).indicative


def test_every_whole_score_has_the_band_that_names_it():
    for score, band in zip(range(1, 101), band_of(np.arange(1.0, 101)), strict=True):
        name = BANDS[band][0]
        low, high = (1, 20) if name == "<=20" else (100, 100) if name == "100" else map(int, name.split("-"))
        assert low <= score <= high


def test_the_calibration_line_is_scipys_regression():
    random = np.random.default_rng(0)
    prediction = random.normal(40, 8, 300)
    target = 5 + 0.8 * prediction + random.normal(0, 10, 300)
    line = stats.linregress(prediction, target)
    assert calibration_line(target, prediction) == pytest.approx((line.slope, line.intercept))
    assert np.isnan(calibration_line(target, np.full(300, 38.0))).all()
