import numpy as np
import pytest
from scipy import stats

from pawpularity.evaluation.compare import compare, comparison_text
from pawpularity.evaluation.metrics import rmse, score
from pawpularity.evaluation.oof import read_oof


def columns(real, *names):
    tables = [read_oof(real / "oof-peers" / f"{name}.csv") for name in names]
    return tables[0]["target"].to_numpy(), [table["prediction"].to_numpy() for table in tables]


def test_two_real_files_are_not_told_apart(real):
    """Known from an independent computation: +0.026 [-0.085, +0.135]."""
    target, (v31, v44) = columns(real, "v31", "v44")
    (found,) = compare(target, v31, [("v44", v44)])
    assert found.difference == pytest.approx(0.026, abs=5e-4)
    assert (found.low, found.high) == (pytest.approx(-0.085, abs=0.03), pytest.approx(0.135, abs=0.03))
    assert found.verdict == "not told apart"
    # The t test of the paired squared errors asks nearly the same.
    theirs = stats.ttest_rel((target - v44) ** 2, (target - v31) ** 2).pvalue
    assert found.p == pytest.approx(theirs, abs=0.02)
    assert found.p == found.p_holm


def test_a_real_blend_is_better_than_its_best_member(real):
    """Known: mean of eight -0.227 [-0.308, -0.145] against v31; sd of a paired difference .034 to .042."""
    target, predictions = columns(real, "v31", "v44", "v12", "v19", "v57", "v63", "v62", "v1")
    (found,) = compare(target, predictions[0], [("mean", np.mean(predictions, axis=0))])
    assert found.difference == pytest.approx(-0.2266, abs=5e-4)
    assert (found.low, found.high) == (pytest.approx(-0.308, abs=0.03), pytest.approx(-0.145, abs=0.03))
    assert 0.034 <= (found.high - found.low) / 3.92 <= 0.043
    assert found.verdict == "better"
    assert found.p == pytest.approx(1 / 10_001)


def test_identical_predictions_do_not_differ():
    random = np.random.default_rng(0)
    target, prediction = random.normal(40, 20, (2, 50))
    (found,) = compare(target, prediction, [("same", prediction.copy())], draws=500)
    assert (found.difference, found.low, found.high) == (0, 0, 0)
    assert (found.p, found.p_holm, found.verdict) == (1, 1, "not told apart")


def test_a_known_shift_is_found():
    """Adding b to predictions without bias makes an RMSE of s one of sqrt(s^2 + b^2)."""
    random = np.random.default_rng(1)
    target = random.normal(40, 20, 2000)
    noise = random.normal(0, 10, 2000)
    first = target + noise - noise.mean()
    worse, better = compare(target, first, [("shift", first + 4), ("half", (first + target) / 2)], draws=2000)
    s = rmse(target, first)
    assert worse.difference == pytest.approx(np.hypot(s, 4) - s)
    assert better.difference == pytest.approx(-s / 2)
    assert worse.low < worse.difference < worse.high
    assert worse.low > 0 > better.high
    assert (worse.verdict, better.verdict) == ("worse", "better")
    # By the delta method, from the spread of the two squared errors.
    e = np.stack([(first - target) ** 2, (first + 4 - target) ** 2])
    spread = np.sqrt(np.cov(e / (2 * np.sqrt(e.mean(axis=1, keepdims=True)))).ravel() @ [1, -1, -1, 1] / 2000)
    assert worse.high - worse.low == pytest.approx(3.92 * spread, rel=0.08)


def test_holm_corrects_several_comparisons():
    random = np.random.default_rng(7)
    target = random.normal(40, 20, 300)
    first = target + random.normal(0, 10, 300)
    others = [(str(i), target + random.normal(0, 10 + i / 2, 300)) for i in range(4)]
    found = compare(target, first, others, draws=1000)
    order = sorted(found, key=lambda c: c.p)
    assert order[0].p_holm == pytest.approx(min(1, 4 * order[0].p))
    assert all(c.p_holm >= c.p for c in found)
    text = comparison_text("first", score(target, first, 20.0), found, "the mean")
    # Asked alone the second would be called worse; as one of four questions it may not be.
    (alone,) = compare(target, first, others[1:2], draws=1000)
    assert (alone.p, alone.difference) == (found[1].p, found[1].difference)
    assert alone.p < 0.05 < found[1].p_holm
    assert [alone.verdict, *(c.verdict for c in found)] == ["worse", *["not told apart"] * 2, *["worse"] * 2]
    assert [line.split()[0] for line in text.splitlines()[2:6]] == ["0", "1", "2", "3"]
    for c, line in zip(found, text.splitlines()[2:6], strict=True):
        assert f"{c.difference:+.3f}" in line
        assert line.endswith(c.verdict)


def false_positives(grouped, copies):
    """Of 200 comparisons of two sets of predictions that are equally good; every pet was posted `copies` times."""
    found = 0
    for seed in range(200):
        random = np.random.default_rng([3, seed])
        target = random.normal(40, 20, 40)
        first, second = target + random.standard_t(5, (2, 40)) * 8
        groups = np.repeat(np.arange(40), copies)
        (c,) = compare(target[groups], first[groups], [("second", second[groups])], groups if grouped else None,
                       draws=300, seed=seed)  # fmt: skip
        found += c.p < 0.05
    return found


def test_one_in_twenty_is_falsely_told_apart():
    """Binomial(200, .05) lies in 3..20 in 99.5 % of cases."""
    assert 3 <= false_positives(False, 1) <= 20


def test_near_duplicates_are_no_further_evidence():
    """Triples told apart as if they were rows of their own: p < .05 in a quarter of the cases (z of 1.96 / sqrt 3)."""
    assert 3 <= false_positives(True, 3) <= 20
    assert false_positives(False, 3) > 35
