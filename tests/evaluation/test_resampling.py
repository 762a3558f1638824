from collections import Counter
from itertools import product

import numpy as np
import pytest
from scipy import stats

from pawpularity.evaluation.bootstrap import bootstrap_sums, group_sums, holm, interval, permutations, sign_flip_p

GROUPS = np.array([7, 3, 7, 11, 3, 7, 20, 21, 22, 11])  # sizes 3, 2, 2, 1, 1, 1, scattered


def test_group_sums_are_a_loops():
    columns = np.random.default_rng(0).normal(size=(10, 3))
    wanted = [columns[group == GROUPS].sum(axis=0) for group in np.unique(GROUPS)]
    np.testing.assert_allclose(group_sums(columns, GROUPS), wanted)
    np.testing.assert_allclose(group_sums(columns[:, 0], GROUPS)[:, 0], np.array(wanted)[:, 0])
    assert group_sums(columns).shape == (10, 3)


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_bootstrap_sums_are_those_of_gathered_rows(groups):
    """The counts and the matrix product give what drawing groups and adding their rows up gives, over several batches."""
    columns = np.random.default_rng(1).normal(size=(10, 2))
    names = np.arange(10) if groups is None else groups
    members = [np.flatnonzero(names == group) for group in np.unique(names)]
    random = np.random.default_rng([5, 0xB007])
    wanted = []
    for _ in range(300):
        chosen = np.concatenate([members[k] for k in random.integers(0, len(members), len(members))])
        wanted.append(columns[chosen].sum(axis=0))
    np.testing.assert_allclose(bootstrap_sums(columns, groups, draws=300, seed=5), wanted, atol=1e-12)


def test_intervals_agree_with_scipys_bootstrap():
    random = np.random.default_rng(2)
    groups = np.concatenate([np.repeat(np.arange(60), 3), np.arange(60, 200)])
    errors = random.chisquare(2, 200)[groups] * 50 + random.chisquare(1, len(groups))
    sums = bootstrap_sums(np.stack([np.ones(len(groups)), errors], axis=1), groups, draws=10_000)
    low, high = interval(np.sqrt(sums[:, 1] / sums[:, 0]))
    n, total = group_sums(np.stack([np.ones(len(groups)), errors], axis=1), groups).T
    theirs = stats.bootstrap(
        (n, total), lambda n, total, axis: np.sqrt(total.sum(axis=axis) / n.sum(axis=axis)), paired=True, vectorized=True,
        method="percentile", n_resamples=10_000, random_state=3,
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert low == pytest.approx(theirs.low, abs=0.05 * width)
    assert high == pytest.approx(theirs.high, abs=0.05 * width)
    # Rows drawn alone would have claimed to know it better.
    alone = bootstrap_sums(np.stack([np.ones(len(groups)), errors], axis=1), draws=2000)
    narrow = np.subtract(*interval(np.sqrt(alone[:, 1] / alone[:, 0]))[::-1])
    assert narrow < 0.85 * width


def test_groups_are_drawn_whole_and_as_many_as_there_are():
    """One column per row counts how often the row came up."""
    counts = bootstrap_sums(np.eye(10), GROUPS, draws=500)
    for group in np.unique(GROUPS):
        rows = counts[:, group == GROUPS]
        assert (rows == rows[:, :1]).all()
    _, first = np.unique(GROUPS, return_index=True)
    assert (counts[:, first].sum(axis=1) == len(first)).all()
    assert counts[:, first].mean() == pytest.approx(1, abs=1e-12)
    assert counts[:, first].std() == pytest.approx(np.sqrt(1 - 1 / len(first)), abs=0.05)  # binomial(6, 1/6)


def test_the_same_seed_pairs_columns_of_separate_calls():
    random = np.random.default_rng(4)
    a, b = random.normal(size=(2, 10))
    both = bootstrap_sums(np.stack([a, b], axis=1), GROUPS, draws=200, seed=9)
    np.testing.assert_allclose(bootstrap_sums(a, GROUPS, draws=200, seed=9)[:, 0], both[:, 0], atol=1e-12)
    np.testing.assert_allclose(bootstrap_sums(b, GROUPS, draws=200, seed=9)[:, 0], both[:, 1], atol=1e-12)
    assert not np.allclose(bootstrap_sums(a, GROUPS, draws=200, seed=10)[:, 0], both[:, 0])


def test_interval_is_the_percentile_one():
    values = np.random.default_rng(5).exponential(size=1001)
    assert interval(values) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))
    assert interval(values, 0.5) == pytest.approx(tuple(np.quantile(values, [0.25, 0.75])))


def test_ten_thousand_draws_of_the_contests_size():
    columns = np.random.default_rng(6).normal(1, 2, size=(9912, 15))
    drawn = bootstrap_sums(columns, draws=10_000)
    assert drawn.shape == (10_000, 15)
    standard_error = columns.std(axis=0) * np.sqrt(9912)
    assert (np.abs(drawn.mean(axis=0) - columns.sum(axis=0)) < 5 * standard_error / 100).all()
    np.testing.assert_allclose(drawn.std(axis=0), standard_error, rtol=0.04)
    correlation = np.corrcoef(columns[:, 0] + columns[:, 1], columns[:, 0])[0, 1]
    assert np.corrcoef(drawn[:, 0] + drawn[:, 1], drawn[:, 0])[0, 1] == pytest.approx(correlation, abs=0.05)


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, and .04 may not fall below .06.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.6]), [1.0, 1.0])
    np.testing.assert_allclose(holm([0.03]), [0.03])
    assert len(holm([])) == 0


def test_holm_rejects_what_the_step_down_procedure_rejects():
    random = np.random.default_rng(7)
    for _ in range(200):
        p = np.round(random.beta(0.3, 3, size=random.integers(1, 9)), 2)  # rounded: ties are common
        wanted = [
            max(min(1, (len(p) - j) * q) for j, q in enumerate(sorted(p)) if q <= value) for value in p
        ]  # the definition, by value: tied p share the largest of their factors' maxima
        found = holm(p)
        np.testing.assert_allclose(found, wanted)
        for alpha in (0.01, 0.05, 0.3):
            rejected = 0
            for j, q in enumerate(sorted(p)):
                if q * (len(p) - j) > alpha:
                    break
                rejected += 1
            assert (found <= alpha).sum() == rejected


def close_to(exact, draws):
    """Five standard errors of a share of `draws`."""
    return pytest.approx(exact, abs=5 * np.sqrt(max(exact * (1 - exact), 1e-4) / draws) + 1 / draws)


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.2])
def test_sign_flips_agree_with_scipys_exact_paired_test(shift):
    random = np.random.default_rng(8)
    first, second = random.normal(size=(2, 11))
    first = first + shift
    exact = stats.permutation_test(
        (first, second), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=np.inf,
    ).pvalue  # fmt: skip
    assert sign_flip_p(first - second, draws=20_000)[0] == close_to(exact, 20_000)


def test_sign_flips_of_groups_are_an_enumeration_over_groups():
    random = np.random.default_rng(9)
    differences = random.normal(0.6, 1, size=(10, 2))
    sums = group_sums(differences, GROUPS)
    flipped = np.abs(np.array(list(product([-1, 1], repeat=len(sums)))) @ sums)
    exact = (flipped >= np.abs(sums.sum(axis=0)) - 1e-12).mean(axis=0)
    found = sign_flip_p(differences, GROUPS, draws=20_000)
    assert list(found) == [close_to(p, 20_000) for p in exact]
    assert found[0] != close_to(sign_flip_p(differences, draws=20_000)[0], 20_000), "the groups decide"


def test_sign_flips_count_ties_and_the_one_seen():
    # 2 of 8 sign patterns reach |3|; a float sum in another order must not lose them.
    assert sign_flip_p(np.full(3, 0.1), draws=20_000)[0] == close_to(0.25, 20_000)
    assert sign_flip_p(np.zeros(20), draws=100)[0] == 1.0
    assert sign_flip_p(np.array([5.0]), draws=100)[0] == 1.0, "one pair tells nothing"
    assert sign_flip_p(np.full(200, 1.0), draws=999)[0] == pytest.approx(1 / 1000)


def test_permutations_keep_groups_together():
    seen = set()
    for order in permutations(10, GROUPS, draws=300):
        assert sorted(order) == list(range(10))
        for group in np.unique(GROUPS):
            place = np.flatnonzero(group == GROUPS)
            came = order[place]
            other = GROUPS[came[0]]
            assert (came == np.flatnonzero(other == GROUPS)).all(), "a whole group, in its own order"
        seen.add(tuple(order))
    assert len(seen) == 2 * 6  # two groups of two and three of one change places


@pytest.mark.parametrize(("groups", "orders"), [(None, 24), (np.array([4, 1, 4, 1, 9, 2, 2, 0]), 12)])
def test_permutations_are_uniform(groups, orders):
    n = 4 if groups is None else 8
    counts = Counter(tuple(order) for order in permutations(n, groups, draws=12_000, seed=3))
    assert len(counts) == orders
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


def test_permutations_are_a_function_of_the_seed():
    first, again, other = ([tuple(o) for o in permutations(30, draws=3, seed=seed)] for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(set(first)) == 3
