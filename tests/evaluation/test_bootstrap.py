"""Resampling against gathered rows, scipy, and enumerations."""

from collections import Counter

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from pawpularity.evaluation.bootstrap import bootstrap_sums, group_sums, holm, permutations, sign_flip_p

GROUPS = np.array([7, 3, 7, 11, 3, 7, 20, 21, 22, 11])  # sizes 3, 2, 2, 1, 1, 1, scattered


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_bootstrap_sums_are_those_of_gathered_rows(groups):
    """Counts and the matrix product give what drawing groups and adding up their rows gives, over several batches."""
    columns = np.random.default_rng(1).normal(size=(10, 2))
    names = np.arange(10) if groups is None else groups
    members = [np.flatnonzero(names == group) for group in np.unique(names)]
    np.testing.assert_allclose(group_sums(columns, groups), [columns[rows].sum(axis=0) for rows in members])
    random = np.random.default_rng([5, 0xB007])
    wanted = []
    for _ in range(300):
        chosen = np.concatenate([members[k] for k in random.integers(0, len(members), len(members))])
        wanted.append(columns[chosen].sum(axis=0))
    np.testing.assert_allclose(bootstrap_sums(columns, groups, draws=300, seed=5), wanted, atol=1e-12)
    one = bootstrap_sums(columns[:, 1], groups, draws=300, seed=5)
    np.testing.assert_allclose(one[:, 0], np.array(wanted)[:, 1], atol=1e-12)  # columns of separate calls are paired


def test_holm_is_the_step_down_procedure():
    random = np.random.default_rng(7)
    for size in (1, 2, 5, 9):
        p = np.round(random.beta(0.3, 3, size), 2)  # rounded: ties are common
        np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])


def close_to(exact, draws):
    """Five standard errors of a share of `draws`."""
    return pytest.approx(exact, abs=5 * np.sqrt(max(exact * (1 - exact), 1e-4) / draws) + 1 / draws)


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_sign_flips_agree_with_scipys_exact_paired_test(groups):
    """Of whole groups: of their sums."""
    differences = np.random.default_rng(9).normal(0.6, 1, 10)
    sums = group_sums(differences, groups)[:, 0]
    exact = stats.permutation_test(
        (sums, np.zeros_like(sums)), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=np.inf,
    ).pvalue  # fmt: skip
    assert sign_flip_p(differences, groups, draws=20_000)[0] == close_to(exact, 20_000)
    assert exact != close_to(sign_flip_p(differences, GROUPS if groups is None else None, draws=20_000)[0], 20_000)


def test_sign_flips_count_ties_and_the_observed_order():
    # 2 of 8 sign patterns reach |3|; a float sum in another order must not lose them.
    assert sign_flip_p(np.full(3, 0.1), draws=20_000)[0] == close_to(0.25, 20_000)
    assert sign_flip_p(np.zeros(20), draws=100)[0] == 1.0
    assert sign_flip_p(np.full(200, 1.0), draws=999)[0] == pytest.approx(1 / 1000)


@pytest.mark.parametrize(("groups", "orders"), [(None, 24), (np.array([4, 1, 4, 1, 9, 2, 2, 0]), 12)])
def test_permutations_are_uniform_and_keep_groups_together(groups, orders):
    n = 4 if groups is None else 8
    seen = list(permutations(n, groups, draws=12_000, seed=3))
    counts = Counter(tuple(order) for order in seen)
    assert len(counts) == orders
    assert stats.chisquare(list(counts.values())).pvalue > 0.001
    for order in [] if groups is None else seen[:100]:
        for group in np.unique(groups):
            came = order[np.flatnonzero(groups == group)]
            assert (came == np.flatnonzero(groups == groups[came[0]])).all(), "a whole group, in its own order"
    assert [tuple(order) for order in permutations(n, groups, draws=5, seed=3)] == [tuple(order) for order in seen[:5]]
