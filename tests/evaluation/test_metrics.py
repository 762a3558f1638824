"""RMSE, its interval, R2, bands: against figures of real files, scikit-learn, scipy."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import mean_squared_error, r2_score

from pawpularity.evaluation.bootstrap import bootstrap_sums
from pawpularity.evaluation.metrics import (
    BANDS,
    band_of,
    bootstrap_metrics,
    calibration_line,
    error_by_band,
    evaluate,
    rmse,
)
from pawpularity.evaluation.oof import constant_predictions, read_oof

# An independent computation on eight real out-of-fold files: RMSE; of v31 by band RMSE, share of squared error, rows.
PEERS = {"v31": 17.4695, "v44": 17.4955, "v12": 17.6406, "v19": 17.6485, "v57": 17.6955, "v63": 17.7474, "v62": 17.8488,
         "v1": 18.1883}  # fmt: skip
V31 = {"<=20": (24.82, 0.289, 1417), "21-30": (10.76, 0.106, 2779), "31-40": (9.41, 0.068, 2340),
       "41-60": (12.98, 0.116, 2088), "61-80": (23.46, 0.132, 727), "81-99": (36.82, 0.122, 273),
       "100": (41.72, 0.166, 288)}  # fmt: skip


@pytest.fixture(scope="module")
def peers(real):
    return {name: read_oof(real / "oof-peers" / f"{name}.csv") for name in PEERS}


def test_real_files(peers):
    for name, wanted in PEERS.items():
        assert rmse(peers[name]["target"], peers[name]["prediction"]) == pytest.approx(wanted, abs=5e-5)
    target, prediction = (peers["v31"][c].to_numpy() for c in ("target", "prediction"))
    bands = error_by_band(target, prediction)
    assert {band.name: (round(band.rmse, 2), round(band.share, 3), band.n) for band in bands} == V31
    assert calibration_line(target, prediction) == pytest.approx((0.9145, 2.938), abs=5e-4)


def test_interval_of_a_real_blend(peers):
    """Known: percentile [16.914, 17.570] for the mean of eight, sd of the RMSE .168 over rows, slope 1.0833."""
    target, mean = peers["v31"]["target"].to_numpy(), np.mean([t["prediction"] for t in peers.values()], axis=0)
    found = evaluate(target, mean, constant_predictions(peers["v31"]))
    assert (found.rmse, found.sd) == (pytest.approx(17.2429, abs=5e-5), pytest.approx(20.591, abs=1e-3))
    assert (found.low, found.high) == pytest.approx((16.914, 17.570), abs=0.03)
    assert (found.constant_rmse, found.r2) == pytest.approx((20.591, 0.299), abs=1e-3)
    assert bootstrap_metrics(target, mean, draws=2000).rmse.std() == pytest.approx(0.168, abs=0.008)
    assert calibration_line(target, mean) == pytest.approx((1.0833, -3.188), abs=5e-4)


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
