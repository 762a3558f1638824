"""Effects against Welch's test, scipy's permutations, textbook HC3, and the figures of the real table."""

from dataclasses import astuple

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pawpularity.data.tables import METADATA
from pawpularity.evaluation.effects import (
    CANNOT_TELL,
    REJECTED,
    SUPPORTED,
    TOO_SMALL,
    Column,
    effects,
    least_squares,
    standard_error,
    verdict,
)


def some(n=300, seed=0):
    """A rare 0/1 column, a number, and a score that both move."""
    random = np.random.default_rng(seed)
    rare = (random.random(n) < 0.2).astype(float)
    level = random.gamma(2.0, 15.0, n)
    return rare, level, 40 + 5 * rare + 0.2 * level + random.normal(0, 15 + 10 * rare, n)


def test_a_difference_of_means_with_welchs_error():
    rare, _, y = some()
    column = Column("x", rare)
    (found,) = effects([column], y[:, None], None, draws=400)[0]
    welch = stats.ttest_ind(y[rare == 1], y[rare == 0], equal_var=False)
    exact = standard_error(column, y)
    assert found.effect == pytest.approx(y[rare == 1].mean() - y[rare == 0].mean())
    assert exact == pytest.approx(found.effect / welch.statistic)
    assert (found.high - found.low) / 3.92 == pytest.approx(exact, rel=0.12), "the bootstrap finds the same error"
    alone = np.zeros(300)
    alone[7] = 1.0
    assert standard_error(Column("alone", alone), y) is None


def test_a_number_counts_per_two_standard_deviations():
    _, level, y = some()
    level[::7] = np.nan
    there, column = np.isfinite(level), Column("level", level)
    (found,) = effects([column], y[:, None], None, draws=400)[0]
    line = stats.linregress(level[there], y[there])
    assert column.unit == pytest.approx(2 * level[there].std())
    assert found.effect == pytest.approx(line.slope * column.unit)
    assert column.counts == (there.sum(), (~there).sum())


def test_permutation_p_is_scipys():
    rare, level, y = some(40, seed=4)
    found = effects([Column("a", rare), Column("b", level)], y[:, None], None, draws=6000)[0]

    def distance(x, z, axis):
        return np.abs(x.mean(axis=axis) - z.mean(axis=axis))

    how = {"n_resamples": 6000, "rng": 1, "alternative": "greater"}
    wanted = stats.permutation_test((y[rare == 1], y[rare == 0]), distance, vectorized=True, **how)
    assert found[0].p == pytest.approx(wanted.pvalue, abs=0.02)
    slope = (level - level.mean()) / level.std()
    wanted = stats.permutation_test((y,), lambda s: abs(s @ slope), permutation_type="pairings", **how)
    assert found[1].p == pytest.approx(wanted.pvalue, abs=0.02)


def test_belief_and_residual_add_up_to_the_effect():
    rare, level, y = some()
    guess, columns = 0.5 * y + rare, [Column("a", rare), Column("b", level)]
    truth, belief, residual = effects(columns, np.column_stack([y, guess, y - guess]), None, draws=200)
    assert [b.effect + r.effect for b, r in zip(belief, residual, strict=True)] == pytest.approx(
        [t.effect for t in truth]
    )


def test_false_alarms_are_rare():
    x, noise = np.repeat([0.0, 1.0], 50), np.random.default_rng(5).normal(0, 5, (100, 150))
    p = np.array([one[0].p for one in effects([Column("x", x)], noise, None, draws=199)])
    assert 0.01 <= (p <= 0.05).mean() <= 0.11
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_groups_are_drawn_and_shuffled_whole():
    """Rows in identical triples carry the information of a third of the rows."""
    rare, _, y = some(200)
    y = y + 4 * rare
    x, z, groups = np.repeat(rare, 3), np.repeat(y, 3), np.repeat(np.arange(200) * 7, 3)
    once, grouped, naive = (
        effects([Column("x", c)], outcome[:, None], g, draws=3000)[0][0]
        for c, outcome, g in ((rare, y, None), (x, z, groups), (x, z, None))
    )
    assert (grouped.high - grouped.low) / (once.high - once.low) == pytest.approx(1.0, rel=0.06)
    assert (grouped.high - grouped.low) / (naive.high - naive.low) == pytest.approx(np.sqrt(3), rel=0.06)
    assert grouped.p == pytest.approx(once.p, abs=0.01)
    assert naive.p < grouped.p / 2


def test_hc3_and_f_are_the_textbooks():
    random = np.random.default_rng(3)
    x = np.column_stack([random.random(80) < 0.3, random.random(80) < 0.5, random.normal(size=80)]).astype(float)
    y = 3 * x[:, 0] - x[:, 2] + random.normal(0, 1 + 2 * x[:, 1])
    fit = least_squares(x, y)
    design = np.column_stack([np.ones(80), x])
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ y
    e, h = y - design @ beta, np.diag(design @ inverse @ design.T)
    se = np.sqrt(np.diag(inverse @ design.T @ np.diag((e / (1 - h)) ** 2) @ design @ inverse))[1:]
    reach, p = stats.t.ppf(0.975, 76) * se, 2 * stats.t.sf(np.abs(beta[1:]) / se, 76)
    wanted = np.column_stack([beta[1:], beta[1:] - reach, beta[1:] + reach, se, p])
    np.testing.assert_allclose([astuple(c) for c in fit.coefficients], wanted)
    r2 = 1 - (e @ e) / ((y - y.mean()) ** 2).sum()
    assert (fit.r2, fit.f) == pytest.approx((r2, r2 / 3 / ((1 - r2) / 76)))
    assert fit.f_p == pytest.approx(stats.f.sf(fit.f, 3, 76))


def test_collinear_columns_have_no_coefficient_and_spare_the_others():
    random = np.random.default_rng(6)
    x = (random.random((60, 3)) < 0.4).astype(float)
    y = random.normal(size=60) + x[:, 0]
    alone = np.zeros(60)
    alone[7] = 1.0
    fit = least_squares(np.column_stack([x, 1 - x[:, 1], np.ones(60), alone]), y)
    assert [c is None for c in fit.coefficients] == [False, True, False, True, True, True]
    keep = np.arange(60) != 7
    wanted = least_squares(x[keep], y[keep]).coefficients
    for column in (0, 2):
        assert astuple(fit.coefficients[column]) == pytest.approx(astuple(wanted[column]))
    assert least_squares(x[:4], y[:4]).coefficients == [None] * 3, "too few rows"


@pytest.mark.parametrize(
    ("effect", "low", "high", "p", "sign", "fewest", "word"),
    [
        (+4, 2, 6, 0.01, +1, 500, SUPPORTED),
        (-4, -6, -2, 0.01, -1, 500, SUPPORTED),
        (+4, 2, 6, 0.01, -1, 500, REJECTED),
        (+1, -1, 2.99, 0.2, +1, 500, TOO_SMALL),
        (+1, -1, 3.01, 0.2, +1, 500, CANNOT_TELL),
        (-1, -3.01, 1, 0.2, +1, 500, CANNOT_TELL),
        (+1, -1, 2.0, 0.2, +1, 9, CANNOT_TELL),
        (+9, 2, 16, 0.05, +1, 500, CANNOT_TELL),
    ],
)
def test_verdicts(effect, low, high, p, sign, fewest, word):
    assert verdict(effect, low, high, p, sign, 3.0, fewest) == word


def test_the_figures_known_for_the_real_table(real):
    """An independent computation's: effects and errors to the digit, all twelve columns together."""
    table = pd.read_csv(real / "pawpularity-labels" / "train.csv")
    y = table["Pawpularity"].to_numpy(float)
    known = {"Face": (0.560, 0.731), "Eyes": (-0.328, 0.510), "Action": (-0.284, 2.124), "Blur": (-1.895, 0.808)}
    columns = [Column(name, table[name].to_numpy(float)) for name in known]
    found = effects(columns, y[:, None], None, draws=2000)[0]
    for column, one in zip(columns, found, strict=True):
        assert (one.effect, standard_error(column, y)) == pytest.approx(known[column.name], abs=6e-4)
    blur = found[-1]
    assert (blur.low, blur.high, blur.p) == pytest.approx((-3.46, -0.29, 0.020), abs=0.09)
    fit = least_squares(table[list(METADATA)].to_numpy(float), y)
    assert (fit.f, fit.f_p, fit.r2) == (
        pytest.approx(1.99, abs=6e-3),
        pytest.approx(0.021, abs=6e-4),
        pytest.approx(0.0024, abs=6e-5),
    )
    assert fit.f_degrees == (12, 9899)
    wanted = {"Eyes": (-2.48, -4.05, -0.91), "Face": (2.45, 0.55, 4.35), "Blur": (-3.75, -5.78, -1.73),
              "Accessory": (1.21, -0.41, 2.83), "Group": (1.22, -0.04, 2.48)}  # fmt: skip
    for name, figures in wanted.items():
        c = fit.coefficients[METADATA.index(name)]
        assert (c.effect, c.low, c.high) == pytest.approx(figures, abs=6e-3)
