import json

import numpy as np
import pytest
from scipy import stats

from pawpularity.evaluation.bands import BANDS, band_of, breakdown, calibration
from pawpularity.evaluation.metrics import rmse
from pawpularity.evaluation.oof import constant_predictions, read_oof

# An independent computation on the real out-of-fold file v31: RMSE, share of squared error, rows.
V31 = {"<=20": (24.82, 0.289, 1417), "21-30": (10.76, 0.106, 2779), "31-40": (9.41, 0.068, 2340),
       "41-60": (12.98, 0.116, 2088), "61-80": (23.46, 0.132, 727), "81-99": (36.82, 0.122, 273),
       "100": (41.72, 0.166, 288)}  # fmt: skip
MEAN_OF_FOLDS = {"v31": 17.4670, "v44": 17.4927, "v12": 17.6372, "v19": 17.6459, "v57": 17.6929, "v63": 17.7457,
                 "v62": 17.8473, "v1": 18.1869}  # fmt: skip
CORRELATION = {"v31": 0.5319, "v44": 0.5282, "v12": 0.5185, "v19": 0.5173, "v57": 0.5133, "v63": 0.5081, "v62": 0.4986,
               "v1": 0.4739}  # fmt: skip


def of_file(file):
    table = read_oof(file)
    target, prediction = table["target"].to_numpy(), table["prediction"].to_numpy()
    return breakdown(target, prediction, constant_predictions(table), table["fold"].to_numpy()), table


def test_bands_and_calibration_of_a_real_file(real):
    found, _ = of_file(real / "oof-peers" / "v31.csv")
    assert {band.name: (round(band.rmse, 2), round(band.share, 3), band.n) for band in found.bands} == V31
    assert (round(found.slope, 4), round(found.intercept, 3)) == (0.9145, 2.938)
    assert sum(band.share for band in found.bands) == pytest.approx(1)
    # The bias runs from far too high to far too low, as any honest prediction's does.
    bias = [band.bias for band in found.bands]
    assert bias == sorted(bias, reverse=True)


def test_calibration_of_a_real_blend(real):
    tables = [read_oof(real / "oof-peers" / f"{name}.csv") for name in MEAN_OF_FOLDS]
    mean = np.mean([table["prediction"] for table in tables], axis=0)
    assert calibration(tables[0]["target"].to_numpy(), mean) == (
        pytest.approx(1.0833, abs=5e-5), pytest.approx(-3.188, abs=5e-4),
    )  # fmt: skip


@pytest.mark.parametrize("name", MEAN_OF_FOLDS)
def test_folds_of_real_files(real, name):
    found, table = of_file(real / "oof-peers" / f"{name}.csv")
    assert found.mean_of_folds == pytest.approx(MEAN_OF_FOLDS[name], abs=5e-5)
    assert found.correlation == pytest.approx(CORRELATION[name], abs=5e-5)
    assert found.mean_of_folds < rmse(table["target"], table["prediction"])
    assert 0.23 < found.fold_sd < 0.37
    assert [fold.fold for fold in found.folds] == list(range(10))
    assert {fold.n for fold in found.folds} == {991, 992}
    by_hand = table.assign(e=(table["target"] - table["prediction"]) ** 2).groupby("fold")["e"].mean() ** 0.5
    np.testing.assert_allclose([fold.rmse for fold in found.folds], by_hand)
    assert found.fold_sd == pytest.approx(by_hand.std())


def test_by_hand():
    target = np.array([10.0, 20.0, 60.0, 100.0])
    prediction = np.array([20.0, 20.0, 50.0, 80.0])
    found = breakdown(target, prediction, np.full(4, 40.0), np.array([0, 0, 1, 1]))
    assert [(band.name, band.n, band.share, band.bias) for band in found.bands] == [
        ("<=20", 2, pytest.approx(100 / 600), 5.0), ("41-60", 1, pytest.approx(100 / 600), -10.0),
        ("100", 1, pytest.approx(400 / 600), -20.0),
    ]  # fmt: skip
    assert [band.rmse for band in found.bands] == pytest.approx([np.sqrt(50), 10, 20])
    assert [(fold.fold, fold.n) for fold in found.folds] == [(0, 2), (1, 2)]
    assert [fold.rmse for fold in found.folds] == pytest.approx([np.sqrt(50), np.sqrt(250)])
    assert [fold.constant_rmse for fold in found.folds] == pytest.approx([np.sqrt(650), np.sqrt(2000)])
    assert found.mean_of_folds == pytest.approx((np.sqrt(50) + np.sqrt(250)) / 2)
    assert found.fold_sd == pytest.approx((np.sqrt(250) - np.sqrt(50)) / np.sqrt(2))
    assert (found.lowest, found.highest) == (20, 80)


def test_every_whole_score_has_the_band_that_names_it():
    scores = np.arange(1, 101)
    names = np.array([name for name, _ in BANDS])[band_of(scores.astype(float))]
    for score, name in zip(scores, names, strict=True):
        low, high = (1, 20) if name == "<=20" else (100, 100) if name == "100" else map(int, name.split("-"))
        assert low <= score <= high


def test_calibration_is_scipys_regression():
    random = np.random.default_rng(0)
    prediction = random.normal(40, 8, 300)
    target = 5 + 0.8 * prediction + random.normal(0, 10, 300)
    line = stats.linregress(prediction, target)
    assert calibration(target, prediction) == pytest.approx((line.slope, line.intercept))
    # The line leaves nothing to gain: what it answers is calibrated.
    better = line.intercept + line.slope * prediction
    assert calibration(target, better) == (pytest.approx(1), pytest.approx(0, abs=1e-9))


def test_what_is_not_defined_is_null():
    target = np.array([10.0, 30.0, 50.0])
    found = breakdown(target, np.full(3, 38.0), target, np.zeros(3, dtype=np.int64))
    assert np.isnan([found.fold_sd, found.slope, found.intercept, found.correlation]).all()
    value = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [value[key] for key in ("fold_sd", "slope", "intercept", "correlation")] == [None] * 4
    assert value["mean_of_folds"] == pytest.approx(rmse(target, np.full(3, 38.0)))
    perfect = breakdown(target, target, target, np.array([0, 1, 2]))
    assert [band.share for band in perfect.bands] == [0, 0, 0]
    assert (perfect.slope, perfect.intercept) == (pytest.approx(1), pytest.approx(0, abs=1e-9))


def test_folds_may_be_numbered_as_they_like():
    target = np.array([10.0, 30.0, 50.0, 70.0])
    found = breakdown(target, target + np.array([1, 1, 2, 2]), target, np.array([-3, -3, 40, 40]))
    assert [(fold.fold, fold.rmse) for fold in found.folds] == [(-3, 1), (40, 2)]
