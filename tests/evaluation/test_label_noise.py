"""The labels' noise against analysis of variance, the chi-square, drawn samples whose noise is known, and the delta method."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pawpularity.evaluation.label_noise import CONTEST_NOISE, LabelNoise, explainable, noise_for, noise_of_pairs
from pawpularity.evaluation.leak_detection import CONTEST_KIND, DRAWN_KIND, OTHER_KIND, Origin
from pawpularity.evaluation.predictions import Predictions
from pawpularity.sample.spec import score_variance, scored
from pawpularity.sample.truth import plan


def test_groups_are_pooled_with_their_degrees_of_freedom():
    """Against the residual mean square of a one-way analysis of variance, by its definition F = between / within."""
    random = np.random.default_rng(1)
    sizes = [2, 2, 3, 3, 4, 5, 2, 6]
    parts = [random.normal(random.normal(40, 20), 9, size) for size in sizes]
    groups, shuffled = np.repeat(np.arange(8) * 3, sizes), random.permutation(sum(sizes))
    found = noise_of_pairs(np.concatenate(parts)[shuffled], groups[shuffled])
    total = np.concatenate(parts)
    between = sum(size * (part.mean() - total.mean()) ** 2 for size, part in zip(sizes, parts, strict=True))
    assert found.sd**2 == pytest.approx(between / (len(sizes) - 1) / stats.f_oneway(*parts).statistic)
    assert found.pairs == sum(sizes) - len(sizes)


def test_no_pairs_and_pairs_all_alike():
    assert noise_of_pairs(np.arange(10.0), np.arange(10)) is None
    assert noise_of_pairs(np.array([1.0, 5.0, 9.0]), np.array([0, 0, 1])) is None
    same = noise_of_pairs(np.tile([30.0, 50.0], 10), np.repeat(np.arange(10), 2))
    # No spread between the pairs: what normal noise of ten degrees would say.
    assert same.sd == pytest.approx(np.sqrt(200))
    assert (same.low, same.high) == pytest.approx(tuple(np.sqrt(2000 / stats.chi2.ppf([0.975, 0.025], 10))))


@pytest.mark.parametrize("law", ["drawn", "normal", "laplace"])
@pytest.mark.parametrize("sizes", [[2] * 37, [4] * 3])
def test_the_interval_holds_the_known_noise(law, sizes):
    """600 sets of near-duplicates from a drawn sample's own rule, and from two other laws."""
    random, n = np.random.default_rng(2), sum(sizes)
    groups, means = np.repeat(np.arange(len(sizes)), sizes), np.array([entry.mean for entry in plan(1500, 5)])
    true = float(np.sqrt(score_variance(means).mean())) if law == "drawn" else 10.0
    held = 0
    for _ in range(600):
        if law == "drawn":
            scores = scored(random.choice(means, len(sizes))[groups] + random.normal(0, 10, n))
        else:
            scores = random.normal(0, 10, n) if law == "normal" else random.laplace(0, 10 / np.sqrt(2), n)
        found = noise_of_pairs(scores, groups)
        held += found.low <= true <= found.high
    assert held / 600 > {"drawn": 0.90, "normal": 0.93, "laplace": 0.85}[law]


def test_the_noise_is_drawn_as_its_interval_says():
    noise, drawn = CONTEST_NOISE, CONTEST_NOISE.draws(100_000)
    assert (np.mean(drawn < noise.low), np.mean(drawn > noise.high)) == pytest.approx((0.025, 0.025), abs=0.003)
    assert np.median(drawn) == pytest.approx(noise.sd, abs=0.02)
    assert noise.sd == pytest.approx(15.16 / np.sqrt(2), abs=0.05)


def test_the_share_carries_both_doubts():
    """Small doubts add up like independent errors (delta method); either alone gives its own interval."""
    r2, sd, n = np.random.default_rng(3).normal(0.30, 0.01, 20_000), np.full(20_000, 20.0), 20_000
    exact, sharp = LabelNoise(10.0, 10.0, 10.0, 0, ""), LabelNoise(10.0, 9.608, 10.392, 500, "")  # sd 0.2
    from_noise = 0.30 / 0.75**2 * 2 * 10.0 / 400 * 0.2  # the derivative by the noise, times its sd
    for noise, draws, wanted in ((exact, r2, 0.01 / 0.75), (sharp, np.full(n, 0.3), from_noise),
                                 (sharp, r2, np.hypot(from_noise, 0.01 / 0.75))):  # fmt: skip
        found = explainable(0.30, noise, 20.0, draws, sd)
        assert found.share == pytest.approx(0.4)
        assert found.share_high - found.share_low == pytest.approx(2 * 1.96 * wanted, rel=0.04)
    contest = explainable(0.28, CONTEST_NOISE, 20.59, r2, sd)
    assert (contest.ceiling, contest.ceiling_low, contest.ceiling_high) == pytest.approx(
        (0.730, 0.595, 0.841), abs=5e-4
    )


def test_no_ceiling_no_share():
    wide, drawn, sd = LabelNoise(10.0, 8.0, 25.0, 8, ""), np.full(5000, 0.2), np.full(5000, 20.0)
    assert explainable(0.2, wide, 9.0, drawn, sd).share is None
    assert explainable(0.2, wide, 20.0, drawn, sd).share_high == np.inf
    assert explainable(0.2, wide, 20.0, drawn, sd).to_dict()["share_high"] is None
    assert explainable(float("nan"), wide, 0.0, drawn, sd) is None


def test_the_best_known_noise_is_taken():
    target = np.random.default_rng(5).normal(40, 10, 30)
    table = pd.DataFrame({"Id": [f"{i:03d}" for i in range(30)], "fold": 0, "target": target, "prediction": 1.0})
    pairs = {n: np.concatenate([np.repeat(np.arange(n), 2), 100 + np.arange(30 - 2 * n)]) for n in (7, 8)}
    of = {n: Predictions("x", table, groups, target, None, Path("x.csv")) for n, groups in {0: None, **pairs}.items()}
    drawn, contest = Origin(DRAWN_KIND, "a sample", floor=10.4), Origin(CONTEST_KIND, "it")
    assert noise_for(of[8], drawn).sd == 10.4
    for origin in (contest, Origin(OTHER_KIND, "that"), Origin(DRAWN_KIND, "a sample of seed 3")):
        assert noise_for(of[8], origin) == noise_of_pairs(target, pairs[8])
        for n in (0, 7):
            assert noise_for(of[n], origin) == (CONTEST_NOISE if origin is contest else None)
