"""What a prediction is worth: ranges that hold in every fifth of real predictions, and how reliable an order is."""

import numpy as np
import pytest
from tests.oracles import adapter


def cross_fitted(table, level=0.9):
    """(low, high) of every row, by the rows of the other folds."""
    target, prediction, fold = (table[name].to_numpy() for name in ("target", "prediction", "fold"))
    low, high = np.empty(len(table)), np.empty(len(table))
    for one in np.unique(fold):
        here = fold == one
        low[here], high[here] = adapter.ranges(target[~here].astype(float), prediction[~here], prediction[here], level)
    return low, high


def test_ninety_percent_ranges_hold_in_every_fifth_of_real_predictions(peers, mean_of_eight):
    for name, table in {**peers, "mean": mean_of_eight}.items():
        low, high = cross_fitted(table)
        inside = ((low <= table["target"]) & (table["target"] <= high)).to_numpy()
        ordered = inside[np.argsort(table["prediction"].to_numpy(), kind="stable")]
        for part in np.array_split(ordered, 5):
            assert 0.87 <= part.mean() <= 0.93, name
        assert ordered.mean() == pytest.approx(0.9, abs=0.006), name
        assert ordered[int(0.95 * len(ordered)) :].mean() > 0.87, "the top 5 %, where +- a constant covers 65 %"
    assert (high - low).mean() == pytest.approx(53.7, abs=1.0), "of the mean; +- a constant takes 57.3"
    assert low.min() >= 1
    assert high.max() <= 100


def test_ranges_hold_for_new_rows_of_a_known_law():
    def law(seed):
        random = np.random.default_rng(seed)
        prediction = random.uniform(20, 60, 20_000)
        return prediction * (1 + 0.15 * (random.exponential(1.0, 20_000) - 1.0)), prediction

    target, prediction = law(1)
    low, high = adapter.ranges(*law(0), prediction, 0.9)
    inside = ((low <= target) & (target <= high))[np.argsort(prediction)]
    assert [part.mean() for part in np.array_split(inside, 5)] == pytest.approx([0.9] * 5, abs=0.035)


def test_an_order_is_as_reliable_as_it_was_on_real_pairs(mean_of_eight):
    found = adapter.order_shares(mean_of_eight["target"].to_numpy(float), mean_of_eight["prediction"].to_numpy())
    assert [round(100 * share) for share in found[:-1]] == [52, 58, 66, 73, 78, 83, 88]
    assert 100 * found[-1] == pytest.approx(68.3, abs=0.05)
