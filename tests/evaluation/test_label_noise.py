import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pawpularity.evaluation.label_noise import (
    OTHER_CONTEST_LIST,
    LabelNoise,
    bootstrap_r2,
    contest_noise,
    drawn_noise,
    explainable,
    noise_for,
    noise_of_pairs,
)
from pawpularity.evaluation.metrics import rmse, score
from pawpularity.evaluation.oof import constant_predictions, read_oof
from pawpularity.evaluation.origin import CONTEST_KIND, DRAWN_KIND, OTHER_KIND, Origin
from pawpularity.evaluation.sources import Source
from pawpularity.sample.spec import score_variance, scored
from pawpularity.sample.truth import plan


def test_pairs_are_half_the_mean_squared_difference_and_single_rows_do_nothing():
    random = np.random.default_rng(0)
    first, second = random.normal(40, 15, (2, 30))
    target = np.concatenate([first, second, random.normal(40, 15, 50)])
    groups = np.concatenate([np.arange(30), np.arange(30), np.arange(100, 150)])
    found = noise_of_pairs(target, groups)
    assert found.sd == pytest.approx(np.sqrt(np.mean((first - second) ** 2) / 2))
    assert found.pairs == 30
    assert found.low < found.sd < found.high


def test_larger_groups_are_pooled_with_their_degrees_of_freedom():
    """Against the residual mean square of a one-way analysis of variance, by its definition F = between / within."""
    random = np.random.default_rng(1)
    sizes = [2, 2, 3, 3, 4, 5, 2, 6]
    parts = [random.normal(random.normal(40, 20), 9, size) for size in sizes]
    groups = np.repeat(np.arange(len(sizes)) * 3, sizes)
    shuffled = random.permutation(len(groups))
    found = noise_of_pairs(np.concatenate(parts)[shuffled], groups[shuffled])
    total, rows = np.concatenate(parts), sum(sizes)
    between = sum(size * (part.mean() - total.mean()) ** 2 for size, part in zip(sizes, parts, strict=True))
    f = stats.f_oneway(*parts).statistic
    assert found.sd**2 == pytest.approx(between / (len(sizes) - 1) / f)
    assert found.pairs == rows - len(sizes)


def test_no_pairs_and_pairs_all_alike():
    assert noise_of_pairs(np.arange(10.0), np.arange(10)) is None
    assert noise_of_pairs(np.array([1.0, 5.0, 9.0]), np.array([0, 0, 1])) is None
    same = noise_of_pairs(np.tile([30.0, 50.0], 10), np.repeat(np.arange(10), 2))
    # No spread between the pairs: what normal noise of ten degrees would say.
    assert same.sd == pytest.approx(np.sqrt(200))
    assert (same.low, same.high) == pytest.approx(tuple(np.sqrt(2000 / stats.chi2.ppf([0.975, 0.025], 10))))


@pytest.mark.parametrize(("pairs", "least"), [(12, 0.86), (37, 0.90)])
def test_the_interval_holds_the_known_noise_of_drawn_pairs(pairs, least):
    """400 sets of pairs from a drawn shelter's own rule; the percentile interval holds it in .80 and .91 of them."""
    random = np.random.default_rng(2)
    means = np.array([entry.mean for entry in plan(1500, 5)])
    true = float(np.sqrt(score_variance(means).mean()))
    groups = np.repeat(np.arange(pairs), 2)
    held = []
    for trial in range(400):
        latent = np.repeat(random.choice(means, pairs), 2) + random.normal(0, 10, 2 * pairs)
        found = noise_of_pairs(scored(latent), groups, draws=400, seed=trial)
        held.append(found.low <= true <= found.high)
    assert least < np.mean(held) <= 0.975


@pytest.mark.parametrize("sizes", [[4] * 3, [9, 2], [2] * 7])
def test_few_groups_have_the_interval_of_normal_noise(sizes):
    """Their own spread says nothing. With normal noise it holds the truth in 95 of 100 cases."""
    random = np.random.default_rng(7)
    groups, degrees = np.repeat(np.arange(len(sizes)), sizes), sum(sizes) - len(sizes)
    held = []
    for _ in range(600):
        found = noise_of_pairs(random.normal(40, 10, sum(sizes)), groups, draws=100)
        ends = found.sd * np.sqrt(degrees / stats.chi2.ppf([0.975, 0.025], degrees))
        assert (found.low, found.high) == pytest.approx(tuple(ends))
        held.append(found.low <= 10 <= found.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


def test_one_pair_unlike_the_others_makes_no_endless_interval():
    """A third of the resamples hold pairs all alike, whose spread is 0 but for rounding."""
    first = 30 + 3.7 * np.arange(8)
    target = np.stack([first, first + 10], axis=1)
    target[0, 1] += 20
    found = noise_of_pairs(target.ravel(), np.repeat(np.arange(8), 2))
    assert found.sd == pytest.approx(np.sqrt((7 * 50 + 450) / 8))
    assert (found.low, found.high) == pytest.approx(tuple(found.sd * np.sqrt(8 / stats.chi2.ppf([0.975, 0.025], 8))))


def test_postings_of_a_drawn_shelter_give_its_floor():
    entries = [entry for seed in range(20) for entry in plan(1500, seed)]
    index = {entry.id: i for i, entry in enumerate(entries)}
    groups = np.array([index[entry.duplicate_of or entry.id] for entry in entries])
    found = noise_of_pairs([entry.score for entry in entries], groups, draws=500)
    true = np.sqrt(score_variance(np.array([e.mean for e in entries])).mean())
    assert found.pairs > 400
    assert found.low < true < found.high
    assert found.high - found.low < 1.6


def test_the_contests_figures():
    noise = contest_noise()
    assert noise.sd == pytest.approx(15.16 / np.sqrt(2), abs=0.05)
    found = explainable(0.28, noise, 20.59)
    assert (found.ceiling, found.ceiling_low, found.ceiling_high) == pytest.approx((0.730, 0.595, 0.841), abs=5e-4)
    assert (found.share_low, found.share_high) == (None, None)
    assert OTHER_CONTEST_LIST.low < noise.sd < OTHER_CONTEST_LIST.sd < noise.high


def test_the_noise_is_drawn_as_its_interval_says():
    noise = contest_noise()
    drawn = noise.draws(100_000)
    assert np.mean(drawn < noise.low) == pytest.approx(0.025, abs=0.003)
    assert np.mean(drawn > noise.high) == pytest.approx(0.025, abs=0.003)
    assert np.median(drawn) == pytest.approx(noise.sd, abs=0.02)
    assert np.ptp(LabelNoise(10.4, 10.4, 10.4, 0, "exact").draws(50)) == 0


def test_the_share_carries_both_doubts():
    """Small doubts add up like independent errors (delta method); either alone gives its own interval."""
    r2_draws = np.random.default_rng(3).normal(0.30, 0.01, 20_000)
    exact, sharp = LabelNoise(10.0, 10.0, 10.0, 0, ""), LabelNoise(10.0, 9.608, 10.392, 500, "")  # sd 0.2
    rows = explainable(0.30, exact, 20.0, r2_draws)
    assert rows.share == pytest.approx(0.4)
    assert (rows.share_low, rows.share_high) == pytest.approx(
        tuple(np.percentile(r2_draws, [2.5, 97.5]) / 0.75), abs=1e-4
    )
    noise = explainable(0.30, sharp, 20.0, np.full(20_000, 0.30))
    both = explainable(0.30, sharp, 20.0, r2_draws)
    from_noise = (
        0.30 / 0.75**2 * 2 * 10.0 / 400 * 0.2
    )  # derivative of R2 / (1 - noise^2 / sd^2) by the noise, times its sd
    for found, sd in ((noise, from_noise), (both, np.hypot(from_noise, 0.01 / 0.75))):
        assert found.share_high - found.share_low == pytest.approx(2 * 1.96 * sd, rel=0.04)


def test_no_ceiling_no_share():
    wide = LabelNoise(10.0, 8.0, 25.0, 8, "")
    drawn = np.full(5000, 0.2)
    assert explainable(0.2, wide, 9.0, drawn).share is None
    open_ended = explainable(0.2, wide, 20.0, drawn)
    assert open_ended.share_high == np.inf
    assert json.loads(json.dumps(open_ended.to_dict(), allow_nan=False))["share_high"] is None
    assert explainable(float("nan"), wide, 0.0) is None


def test_r2_draws_are_those_of_the_score_and_of_the_same_rows():
    random = np.random.default_rng(4)
    target = random.normal(40, 20, 500)
    prediction = 40 + 0.5 * (target - 40) + random.normal(0, 10, 500)
    groups = np.repeat(np.arange(250), 2)
    r2, sd = bootstrap_r2(target, prediction, groups, draws=2000)
    own = score(target, prediction, 40.0, groups, draws=2000)
    assert (own.r2_low, own.r2_high) == pytest.approx(tuple(np.percentile(r2, [2.5, 97.5])))
    # Paired: undoing R2 with its own sd gives the resamples' RMSE back.
    errors = np.sqrt((1 - r2) * sd**2)
    assert (own.low, own.high) == pytest.approx(tuple(np.percentile(errors, [2.5, 97.5])))


def source_of(target, groups):
    table = pd.DataFrame(
        {"Id": [f"{i:03d}" for i in range(len(target))], "fold": 0, "target": target, "prediction": 1.0}
    )
    return Source("x", table, groups, target, None, None)


def test_the_best_known_noise_is_taken():
    target = np.random.default_rng(5).normal(40, 10, 30)
    pairs = {n: np.concatenate([np.repeat(np.arange(n), 2), 100 + np.arange(30 - 2 * n)]) for n in (7, 8)}
    contest, other = Origin(CONTEST_KIND, "it"), Origin(OTHER_KIND, "that")
    drawn, unknown = Origin(DRAWN_KIND, "a shelter", floor=10.4), Origin(DRAWN_KIND, "a shelter of seed 3")
    assert noise_for(source_of(target, pairs[8]), drawn) == drawn_noise(drawn)
    assert drawn_noise(drawn).exact
    assert (drawn_noise(drawn).low, drawn_noise(drawn).high) == (10.4, 10.4)
    for origin in (contest, other, unknown):
        own = noise_for(source_of(target, pairs[8]), origin)
        assert own == noise_of_pairs(target, pairs[8])
        assert own.pairs == 8
    for groups in (None, pairs[7]):
        assert noise_for(source_of(target, groups), contest) == contest_noise()
        assert noise_for(source_of(target, groups), other) is None
        assert noise_for(source_of(target, groups), unknown) is None
    copied = np.repeat(target[:15], 2)
    assert noise_for(source_of(copied, np.repeat(np.arange(15), 2)), other) is None


def test_share_of_a_real_file(real):
    table = read_oof(real / "oof-peers" / "v31.csv")
    target, prediction = table["target"].to_numpy(), table["prediction"].to_numpy()
    own = score(target, prediction, constant_predictions(table), draws=500)
    r2, sd = bootstrap_r2(target, prediction, draws=2000)
    found = explainable(own.r2, contest_noise(), own.sd, r2, sd)
    r2_known = 1 - (17.4695 / 20.5910) ** 2
    assert own.r2 == pytest.approx(r2_known, abs=1e-5)
    assert found.share == pytest.approx(r2_known / (1 - (10.7 / 20.5910) ** 2), abs=1e-4)
    # The noise's ends alone give .333 and .471; the rows widen that.
    assert 0.30 < found.share_low < r2_known / (1 - (8.2 / 20.5910) ** 2) < found.share
    assert found.share < r2_known / (1 - (13.1 / 20.5910) ** 2) < found.share_high < 0.50
    assert rmse(target, prediction) == pytest.approx(17.4695, abs=5e-5)
