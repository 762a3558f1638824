"""Paired comparisons against known figures, closed forms, and false-positive rates."""

import json
from pathlib import Path

import numpy as np
import pytest

from pawpularity.evaluation.compare import compare
from pawpularity.evaluation.metrics import rmse


def test_real_files_compared(real, work, paw):
    """Known from an independent computation: v44 against v31 +0.026 [-0.085, +0.135]; v1 is worse."""
    files = [real / "oof-peers" / f"{name}.csv" for name in ("v31", "v44", "v1")]
    done = paw("compare", *files, "--draws", "2000", "--json", "found.json")
    found = json.loads(Path("found.json").read_text())
    v44, v1 = found["others"]
    assert v44["difference"] == pytest.approx(0.026, abs=5e-4)
    assert (v44["low"], v44["high"]) == pytest.approx((-0.085, 0.135), abs=0.03)
    assert (v44["verdict"], v1["verdict"]) == ("no clear difference", "worse")
    assert (found["n"], found["constant_rmse"]) == (9912, pytest.approx(20.591, abs=1e-3))
    for words in ("+0.03 [", "20.59", "9,912"):
        assert words in done.out


def test_a_known_shift_is_found():
    """Adding b to predictions without bias makes an RMSE of s one of sqrt(s^2 + b^2)."""
    random = np.random.default_rng(1)
    target, noise = random.normal(40, 20, 2000), random.normal(0, 10, 2000)
    first = target + noise - noise.mean()
    others = [("shift", first + 4), ("half", (first + target) / 2), ("same", first.copy())]
    worse, better, same = compare(target, first, others, draws=2000)
    s = rmse(target, first)
    assert worse.difference == pytest.approx(np.hypot(s, 4) - s)
    assert better.difference == pytest.approx(-s / 2)
    assert worse.low > 0 > better.high
    assert [one.verdict for one in (worse, better, same)] == ["worse", "better", "no clear difference"]
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    # By the delta method, from the spread of the two squared errors.
    e = np.stack([(first - target) ** 2, (first + 4 - target) ** 2])
    spread = np.sqrt(np.cov(e / (2 * np.sqrt(e.mean(axis=1, keepdims=True)))).ravel() @ [1, -1, -1, 1] / 2000)
    assert worse.high - worse.low == pytest.approx(3.92 * spread, rel=0.08)


def test_several_questions_are_corrected():
    random = np.random.default_rng(7)
    target = random.normal(40, 20, 300)
    first = target + random.normal(0, 10, 300)
    others = [(str(i), target + random.normal(0, 10 + i / 2, 300)) for i in range(4)]
    found = compare(target, first, others, draws=1000)
    # Asked alone the second would be called worse; as one of four questions it may not be.
    (alone,) = compare(target, first, others[1:2], draws=1000)
    assert (alone.p, alone.difference) == (found[1].p, found[1].difference)
    assert alone.p < 0.05 < found[1].p_holm
    assert [alone.verdict, found[1].verdict] == ["worse", "no clear difference"]


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


def test_one_in_twenty_is_falsely_different_also_with_near_duplicates():
    """Binomial(200, .05) lies in 3..20 in 99.5 % of cases; triples counted as separate rows differ far more often."""
    assert 3 <= false_positives(True, 3) <= 20
    assert false_positives(False, 3) > 35


@pytest.mark.parametrize(
    ("words", "said"),
    [(("a.csv",), "two or more"), (("a.csv", "a.csv"), "twice"), (("a.csv", "nosuch"), "no run"),
     (("a.csv", "a.csv", "--draws", "99"), "--draws")],
)  # fmt: skip
def test_wrong_words(work, refused, words, said):
    Path("a.csv").write_text("Id,fold,target,prediction\na,0,10,20\nb,1,30,25\n")
    assert said in refused("compare", *words)
