"""The leak meter's signs and words, to the row at which each alarm begins; features and tiles against scikit-learn."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler, normalize
from tests.studies.leakage.rows_by_hand import copies, source

from pawpularity.evaluation.leak_detection import (
    ACROSS,
    SPANNING,
    Origin,
    Sign,
    blind_remark,
    copies_sign,
    nearest_across_folds,
    pair_sign,
    signs_of,
    spanning_sign,
    standardised,
    verdict_of,
)
from pawpularity.evaluation.metrics import evaluate

CONTEST, DRAWN, OTHER = (Origin(kind, "so it is") for kind in ("contest", "drawn", "other"))


def test_features_are_scaled_as_scikit_learn_does():
    random = np.random.default_rng(0)
    features = (random.normal(size=(40, 6)) * [1, 20, 0.3, 4, 9, 0] + [0, 50, -3, 8, 2, 7]).astype(np.float32)
    other = features[:15] + 1
    for rows, base in ((features, None), (other, features)):
        scaler = StandardScaler().fit(features)
        np.testing.assert_allclose(standardised(rows, by=base), normalize(scaler.transform(rows)), atol=1e-5)
    steady = np.full((3, 2), 5, np.float32)
    assert (standardised(steady) == 0).all(), "a column that does not vary tells nothing, and is divided by nothing"


def test_neighbours_beyond_the_first_tile_are_scikit_learns():
    """Rows are compared 2,048 at a time."""
    random = np.random.default_rng(1)
    unit, fold = standardised(random.normal(size=(2100, 4)).astype(np.float32)), random.integers(0, 2, 2100)
    near = nearest_across_folds(unit, fold)
    for mine, others in ((np.flatnonzero(fold == k), np.flatnonzero(fold != k)) for k in (0, 1)):
        distance, _ = NearestNeighbors(n_neighbors=1, metric="cosine").fit(unit[others]).kneighbors(unit[mine])
        np.testing.assert_allclose(near.similarity[mine], 1 - distance[:, 0], atol=1e-5)
        assert (fold[near.at[mine]] != fold[mine]).all()


@pytest.mark.parametrize(
    ("rows", "looked_at", "raised"), [(10, 200, True), (9, 100, False), (10, 201, False), (11, 200, True)]
)
def test_copies_are_an_alarm_from_ten_rows_and_five_percent(rows, looked_at, raised):
    sign = copies_sign(copies(rows, looked_at))
    assert (sign.name, sign.raised) == (ACROSS, raised)


def grouped(spanning, n, within=3):
    """`n` rows; `spanning` pairs lie in two folds, `within` pairs in one, all others stand alone."""
    groups, fold = np.arange(n), np.arange(n) // 7 % 5
    for pair in range(spanning + within):
        groups[2 * pair + 1] = groups[2 * pair]
        fold[2 * pair : 2 * pair + 2] = (1, 3) if pair < spanning else 2
    return source(np.arange(n) % 100 + 1.0, np.full(n, 38.0), fold, groups)


@pytest.mark.parametrize(
    ("pairs", "n", "raised"), [(5, 200, True), (4, 100, False), (5, 201, False), (6, 200, True), (0, 50, False)]
)
def test_groups_that_span_folds_are_an_alarm_from_ten_rows_and_five_percent(pairs, n, raised):
    sign = spanning_sign(grouped(pairs, n))
    assert sign is not None
    assert (sign.name, sign.raised) == (SPANNING, raised)
    assert sign.text == (
        f"{pairs} of {pairs + 3} groups of near-duplicates span folds: {2 * pairs} rows ({100 * 2 * pairs / n:.1f} %); "
        "alarm from 5 %"
    )


def test_groups_that_nobody_knows_span_nothing():
    assert spanning_sign(source(np.arange(9.0), np.arange(9.0), np.arange(9) % 2)) is None


def pairs_that_follow(slopes):
    """One pair each: scores 10 apart, predictions `slope` times that; the rows stand mixed."""
    count = len(slopes)
    target = np.concatenate([np.full(count, 40.0), np.full(count, 50.0)])
    prediction = np.concatenate([np.full(count, 40.0), 40 + 10 * np.asarray(slopes, float)])
    return source(target, prediction, np.arange(2 * count) % 5, np.concatenate([np.arange(count)] * 2))


def test_pairs_are_looked_at_from_ten_on_and_where_scores_differ():
    assert pair_sign(pairs_that_follow([0.0] * 9)) is None
    sign = pair_sign(pairs_that_follow([0.5] * 10))
    assert sign is not None
    assert (sign.raised, "+0.50" in sign.text) == (True, True)
    alike = pairs_that_follow([0.5] * 10)
    assert pair_sign(source(np.full(20, 40.0), alike.prediction, alike.fold, alike.groups)) is None


@pytest.mark.parametrize(
    ("slope", "raised"), [(0.29, False), (0.31, True), (-0.29, False), (-0.31, True), (0.0, False)]
)
def test_pairs_are_an_alarm_beyond_three_tenths(slope, raised):
    """Every pair alike, so that the interval is the slope itself."""
    assert pair_sign(pairs_that_follow([slope] * 12)).raised is raised


def test_the_interval_of_pairs_is_of_whole_groups():
    """Half of the pairs follow fully, half not at all: a binomial share of 20 pairs, or of 10 groups of three (two pairs each)."""
    wide = pair_sign(pairs_that_follow([0.0, 1.0] * 10))
    low, high = (float(x) for x in wide.text.split("[")[1].split("]")[0].split(", "))
    assert low == pytest.approx(0.5 - 1.96 * np.sqrt(0.25 / 20), abs=0.04)
    assert high == pytest.approx(0.5 + 1.96 * np.sqrt(0.25 / 20), abs=0.04)
    base = np.repeat(np.arange(10), 3)
    target, follows = np.tile([30.0, 40.0, 50.0], 10), base % 2
    threes = pair_sign(source(target, 30 + (target - 30) * follows, np.arange(30) % 5, base))
    low, high = (float(x) for x in threes.text.split("[")[1].split("]")[0].split(", "))
    assert "where 20 pairs" in threes.text
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 10), abs=0.12)
    assert not threes.raised


def test_which_signs_are_looked_for_where():
    own = pairs_that_follow([0.0] * 12)
    result = evaluate(own.target, own.prediction, own.constant)
    names = [s.name for s in signs_of(own, result, CONTEST, copies(3, 24))]
    assert names == ["R2", "label noise", "near-duplicates", ACROSS, SPANNING]
    assert [s.name for s in signs_of(own, result, DRAWN, None)] == ["near-duplicates", SPANNING]
    assert [s.name for s in signs_of(own, result, OTHER, None)] == [SPANNING]


@pytest.mark.parametrize(
    ("raised", "others", "verdict"),
    [
        ([], [], "none"),
        ([], [ACROSS, SPANNING], "none"),
        ([], ["R2", SPANNING], "pass"),
        ([SPANNING], ["R2"], "folds"),
        ([ACROSS], [], "folds"),
        (["R2"], [ACROSS], "leak"),
        (["R2", ACROSS, SPANNING], [], "leak"),
    ],
)
def test_the_verdict(raised, others, verdict):
    assert verdict_of([Sign(name, name in raised, "") for name in [*others, *raised]]) == verdict


def test_what_a_pass_of_few_rows_is_worth():
    assert blind_remark(1000) is None
    assert blind_remark(999) == (
        "999 rows show large leaks only: where 30 % of the scores are known, R2's alarm is raised in 5 % of cases at 20 rows, "
        "30 % at 100, 98 % at 992"
    )
