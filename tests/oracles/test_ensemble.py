"""Blends: figures known for eight real out-of-fold files, and that weights never saw the rows they are scored on."""

import numpy as np
import pandas as pd
import pytest
from tests.oracles import adapter

# Cross-fitted RMSE, fitted and scored on the same rows, difference to the best member and its 95 %: computed independently.
BLENDS = {
    "best member": (17.4695, 17.4695, 0, 0, 0),
    "mean": (17.2429, 17.2429, -0.227, -0.308, -0.145),
    "nnls": (17.2361, 17.2205, -0.233, -0.303, -0.164),
    "nnls with intercept": (17.2232, 17.2078, -0.246, -0.316, -0.177),
    "simplex": (17.2352, 17.2211, -0.234, -0.305, -0.165),
    "ridge": (17.2232, 17.2078, -0.246, -0.316, -0.177),
    "ridge by generalised CV": (17.2211, 17.2107, -0.248, -0.321, -0.176),
    "hill climb": (17.2356, 17.2211, -0.234, -0.305, -0.164),
    "mean, affine": (17.2228, 17.2210, -0.247, -0.322, -0.172),
    "nnls, affine": (17.2266, 17.2106, -0.243, -0.309, -0.177),
}
WEIGHTS = {"v1": 0.031, "v12": 0.070, "v19": 0.139, "v31": 0.220, "v44": 0.236, "v57": 0.113, "v62": 0.081,
           "v63": 0.114}  # fmt: skip
ALONE = {"v31": (17.4695, 0.5319, 17.4670), "v44": (17.4955, 0.5282, 17.4927), "v1": (18.1883, 0.4739, 18.1869)}
BANDS = {"<=20": (1417, 24.82, 0.289), "21-30": (2779, 10.76, 0.106), "31-40": (2340, 9.41, 0.068), "41-60": (2088, 12.98, 0.116),
         "61-80": (727, 23.46, 0.132), "81-99": (273, 36.82, 0.122), "100": (288, 41.72, 0.166)}  # fmt: skip


def rmse(table) -> float:
    return float(np.sqrt(np.mean((table["target"] - table["prediction"]) ** 2)))


def test_the_blends_of_eight_real_files(real, work):
    found = adapter.blend([real / "oof-peers" / f"{name}.csv" for name in WEIGHTS], work)
    for method, (crossed, same_rows, difference, low, high) in BLENDS.items():
        one = found[method]
        assert (one["rmse"], one["same_rows_rmse"]) == pytest.approx((crossed, same_rows), abs=1e-4), method
        assert one["difference"] == pytest.approx(difference, abs=1e-3), method
        assert (one["difference_low"], one["difference_high"]) == pytest.approx((low, high), abs=0.01), method
    adapter.blend([real / "oof-peers" / f"{name}.csv" for name in WEIGHTS], work, "plain", "nnls", draws=100)
    assert adapter.blend_weights(work, "plain") == pytest.approx(list(WEIGHTS.values()), abs=1e-3)
    assert rmse(adapter.predictions(work, "plain")) == pytest.approx(17.2361, abs=1e-4)


def test_single_files_and_the_interval_of_a_blend(real, mean_of_eight, work):
    for name, (value, correlation, mean_of_folds) in ALONE.items():
        found = adapter.own_score(work, real / "oof-peers" / f"{name}.csv")
        assert (found["rmse"], found["mean_of_folds"]) == pytest.approx((value, mean_of_folds), abs=5e-5)
        assert found["correlation"] == pytest.approx(correlation, abs=5e-5)
        assert (found["n"], found["constant_rmse"]) == (9912, pytest.approx(20.5910, abs=5e-5))
    found = adapter.own_score(work, real / "oof-peers" / "v31.csv")
    assert (found["slope"], found["intercept"]) == pytest.approx((0.9145, 2.938), abs=5e-4)
    for band, (n, value, share) in BANDS.items():
        assert found["bands"][band] == (n, pytest.approx(value, abs=6e-3), pytest.approx(share, abs=6e-4))
    mean_of_eight.to_csv(work / "mean.csv", index=False)
    found = adapter.own_score(work, "mean.csv")
    assert (found["low"], found["high"]) == pytest.approx((16.914, 17.570), abs=0.03)
    assert (found["slope"], found["intercept"]) == pytest.approx((1.0833, -3.188), abs=1e-3)


def test_poisoned_targets_of_a_fold_change_no_prediction_of_it(work):
    random = np.random.default_rng(0)
    signal, fold = random.normal(38, 9, 90), np.arange(90) % 3
    target = np.clip(np.rint(signal + random.normal(0, 12, 90)), 1, 100)
    members = {f"m{k}": signal + random.normal(0, 5, 90) for k in range(4)}

    def blended(name, target, method):
        for member, prediction in members.items():
            pd.DataFrame({"Id": [f"{i:02d}" for i in range(90)], "fold": fold, "target": target, "prediction": prediction}
                         ).to_csv(work / f"{member}.csv", index=False)  # fmt: skip
        adapter.blend([f"{member}.csv" for member in members], work, name, method, draws=100)
        return adapter.predictions(work, name)["prediction"].to_numpy()

    for method in ("nnls-intercept", "simplex", "ridge"):
        clean = blended(f"clean-{method}", target, method)
        poisoned = blended(f"poisoned-{method}", np.where(fold == 1, 101 - target, target), method)
        assert np.array_equal(poisoned[fold == 1], clean[fold == 1])
        assert not np.allclose(poisoned[fold != 1], clean[fold != 1], atol=1e-3), "the other folds do look at them"


def test_a_paired_difference_and_the_mean_of_members_by_hand(trained):
    found = adapter.compare("whole", "frozen", trained)
    one, two = (adapter.predictions(trained, name) for name in ("whole", "frozen"))
    assert (found["first"], found["rmse"]) == pytest.approx((rmse(one), rmse(two)), abs=1e-5)
    assert found["difference"] == pytest.approx(rmse(two) - rmse(one), abs=1e-5)
    assert found["low"] < found["difference"] < found["high"]
    adapter.blend(["whole", "frozen"], trained, "both", "mean")
    blended = adapter.predictions(trained, "both")["prediction"]
    assert blended.to_numpy() == pytest.approx((one["prediction"] + two["prediction"]).to_numpy() / 2, abs=2e-6)
