from dataclasses import FrozenInstanceError

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import mean_squared_error, r2_score

from pawpularity.evaluation.bootstrap import bootstrap_sums
from pawpularity.evaluation.metrics import rmse, score
from pawpularity.evaluation.oof import constant_predictions, read_oof, write_oof

# An independent computation's figures for eight real out-of-fold files (9,912 rows each).
PEERS = {"v31": 17.4695, "v44": 17.4955, "v12": 17.6406, "v19": 17.6485, "v57": 17.6955, "v63": 17.7474, "v62": 17.8488,
         "v1": 18.1883}  # fmt: skip


@pytest.mark.parametrize(("name", "wanted"), PEERS.items())
def test_real_files_score_as_known(real, name, wanted):
    table = read_oof(real / "oof-peers" / f"{name}.csv")
    assert len(table) == 9912
    assert rmse(table["target"], table["prediction"]) == pytest.approx(wanted, abs=5e-5)


def bootstrap_rmse(errors, groups=None):
    n, squared = bootstrap_sums(np.stack([np.ones_like(errors), errors], axis=1), groups, draws=2000).T
    return np.sqrt(squared / n)


def test_interval_of_a_real_blend(real):
    """Known: percentile [16.914, 17.570] for the mean of eight, sd of the RMSE .168 over rows."""
    tables = [read_oof(real / "oof-peers" / f"{name}.csv") for name in PEERS]
    target, mean = tables[0]["target"].to_numpy(), np.mean([t["prediction"] for t in tables], axis=0)
    result = score(target, mean, constant_predictions(tables[0]))
    assert result.rmse == pytest.approx(17.2429, abs=5e-5)
    assert (result.low, result.high) == (pytest.approx(16.914, abs=0.03), pytest.approx(17.570, abs=0.03))
    assert result.sd == pytest.approx(20.591, abs=1e-3)
    assert result.r2 == pytest.approx(0.299, abs=1e-3)
    assert np.std(bootstrap_rmse((target - mean) ** 2)) == pytest.approx(0.168, abs=0.008)
    assert not result.indicative


def test_interval_agrees_with_scipys_bootstrap():
    random = np.random.default_rng(0)
    target = random.normal(40, 20, 400)
    prediction = target + random.standard_t(4, 400) * 10
    ours = score(target, prediction, 40.0)
    errors = (target - prediction) ** 2
    theirs = stats.bootstrap((errors,), lambda e, axis: np.sqrt(e.mean(axis=axis)), method="percentile", n_resamples=4000,
                             random_state=1).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert abs(ours.low - theirs.low) < 0.08 * width
    assert abs(ours.high - theirs.high) < 0.08 * width


def test_groups_are_drawn_whole():
    """Rows in identical triples carry the information of a third of the rows: the interval is sqrt(3) wider."""
    random = np.random.default_rng(1)
    errors = np.repeat(random.chisquare(1, 300) * 100, 3)
    groups = np.repeat(np.arange(300), 3) * 7
    wide, narrow = np.std(bootstrap_rmse(errors, groups)), np.std(bootstrap_rmse(errors))
    assert wide / narrow == pytest.approx(np.sqrt(3), rel=0.08)


def test_small_samples_are_called_indicative():
    target = np.arange(20.0)
    result = score(target, target + 1, float(target.mean()))
    assert result.indicative
    assert result.constant_rmse == pytest.approx(np.std(target))
    assert np.isnan(score(np.ones(5), np.ones(5), 1.0).r2)
    assert score(np.ones(5), np.ones(5), 1.0).to_dict()["r2"] is None


def table(**columns):
    base = {"Id": ["b", "a", "c"], "fold": [0, 1, 1], "target": [10.0, 20.0, 60.0], "prediction": [1.5, 2.25, 3.125]}
    return pd.DataFrame(base | columns)


def test_constant_is_the_other_folds_mean():
    assert constant_predictions(table()).tolist() == [40.0, 10.0, 10.0]


def test_written_oof_is_sorted_with_six_decimals(tmp_path):
    write_oof(tmp_path / "oof.csv", table())
    assert (tmp_path / "oof.csv").read_text() == (
        "Id,fold,target,prediction\na,1,20.000000,2.250000\nb,0,10.000000,1.500000\nc,1,60.000000,3.125000\n"
    )
    again = read_oof(tmp_path / "oof.csv")
    assert list(again["Id"]) == ["a", "b", "c"]


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
    ratios = [r2_score(target[r], prediction[r]) for r in rows]
    errors = [np.sqrt(mean_squared_error(target[r], prediction[r])) for r in rows]
    result = score(target, prediction, 38.0, groups, draws=200)
    np.testing.assert_allclose((result.r2_low, result.r2_high), np.percentile(ratios, [2.5, 97.5]), rtol=1e-6)
    np.testing.assert_allclose((result.low, result.high), np.percentile(errors, [2.5, 97.5]), rtol=1e-9)
    assert result.r2 == pytest.approx(r2_score(target, prediction), rel=1e-9)


def test_resamples_that_do_not_vary_have_no_r2_and_the_others_count():
    target = np.array([10.0] * 5 + [90.0])  # a third of the resamples lack the last row
    result = score(target, target - 1.0, 38.0, draws=500)
    times = bootstrap_sums(np.eye(6), None, draws=500)
    finite = [1 - 1 / np.var(np.repeat(target, np.round(one).astype(int))) for one in times if 0 < one[-1] < 6]
    assert 250 < len(finite) < 450
    np.testing.assert_allclose((result.r2_low, result.r2_high), np.percentile(finite, [2.5, 97.5]), rtol=1e-9)
    flat = score(np.full(6, 0.5), np.full(6, 0.25), 38.0)
    assert np.isnan([flat.r2, flat.r2_low, flat.r2_high]).all()
    little = score(np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.2, 0.2]), 0.2)
    assert little.r2 == pytest.approx(0.5), "an sd below one point is an sd"


def test_fewer_than_fifty_rows_are_indicative_and_the_seed_is_nought():
    numbers = np.random.default_rng(0)
    target, prediction = numbers.normal(38, 20, 50), numbers.normal(38, 5, 50)
    assert not score(target, prediction, 38.0, draws=10).indicative
    assert score(target[1:], prediction[1:], 38.0, draws=10).indicative
    plain = score(target, prediction, 38.0)
    assert plain == score(target, prediction, 38.0, seed=0, draws=2000)
    assert plain != score(target, prediction, 38.0, seed=1, draws=2000)
    assert plain != score(target, prediction, 38.0, seed=0, draws=1999)
    with pytest.raises(FrozenInstanceError):
        plain.rmse = 9.3
