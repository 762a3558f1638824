"""The statistics against closed forms, scipy, and shelters whose rule is known."""

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pawpularity.data.tables import METADATA
from pawpularity.evaluation.claims import CANNOT_TELL, REJECTED, SUPPORTED, TOO_SMALL, verdict
from pawpularity.evaluation.effects import Column, effects, precision
from pawpularity.evaluation.regression import least_squares, slope_error
from pawpularity.files import write_json
from pawpularity.sample import spec
from pawpularity.sample.truth import floor, plan, truth_row
from pawpularity.studies.hypotheses.drawn import true_contrasts, true_effects
from pawpularity.studies.hypotheses.findings import find


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
    assert found.effect == pytest.approx(y[rare == 1].mean() - y[rare == 0].mean())
    exact = precision(column, y, 7)
    assert exact.se == pytest.approx(found.effect / welch.statistic)
    assert exact.smallest / exact.se == pytest.approx(1.959964 + 0.841621, abs=1e-5)
    assert exact.smallest_corrected / exact.se == pytest.approx(3.53, abs=0.005)
    # The bootstrap finds the same error by another way.
    assert (found.high - found.low) / 2 / 1.96 == pytest.approx(exact.se, rel=0.12)


def test_a_number_counts_per_two_standard_deviations():
    _, level, y = some()
    holes = level.copy()
    holes[::7] = np.nan
    there = np.isfinite(holes)
    column = Column("level", holes)
    (found,) = effects([column], y[:, None], None, draws=400)[0]
    line = stats.linregress(level[there], y[there])
    assert column.unit == pytest.approx(2 * level[there].std())
    assert found.effect == pytest.approx(line.slope * column.unit)
    assert column.counts == (there.sum(), (~there).sum())
    assert (found.high - found.low) / 3.92 == pytest.approx(precision(column, y, 1).se, rel=0.12)
    # A balanced 0/1 column has the same effect either way: two of its standard deviations are 1.
    even = np.arange(300) % 2.0
    assert 2 * even.std() == pytest.approx(1.0)


def test_permutation_p_is_scipys():
    rare, level, y = some(40, seed=4)
    found = effects([Column("a", rare), Column("b", level)], y[:, None], None, draws=6000)[0]

    def distance(x, z, axis):
        return np.abs(x.mean(axis=axis) - z.mean(axis=axis))

    # Two-sided as scipy means it is twice the smaller tail; here it is the distance from zero.
    how = {"n_resamples": 6000, "rng": 1, "alternative": "greater"}
    wanted = stats.permutation_test((y[rare == 1], y[rare == 0]), distance, vectorized=True, **how)
    assert found[0].p == pytest.approx(wanted.pvalue, abs=0.02)
    slope = (level - level.mean()) / level.std()
    wanted = stats.permutation_test((y,), lambda s: abs(s @ slope), permutation_type="pairings", **how)
    assert found[1].p == pytest.approx(wanted.pvalue, abs=0.02)
    lower, upper = sorted((found[0].p, found[1].p))
    assert sorted(e.corrected_p for e in found) == pytest.approx([min(2 * lower, 1), max(min(2 * lower, 1), upper)])


def test_an_effect_that_is_there_has_the_smallest_p_and_false_alarms_are_rare():
    random = np.random.default_rng(5)
    x = np.repeat([0.0, 1.0], 50)
    strong = effects([Column("x", x)], (x * 50 + random.normal(0, 5, 100))[:, None], None, draws=199)[0][0]
    assert strong.p == pytest.approx(1 / 200), "the one seen counts among the draws"
    noise = random.normal(0, 5, (100, 150))
    p = np.array([one[0].p for one in effects([Column("x", x)], noise, None, draws=199)])
    assert 0.01 <= (p <= 0.05).mean() <= 0.11
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_groups_are_drawn_and_shuffled_whole():
    """Rows in identical triples carry the information of a third of the rows."""
    rare, _, y = some(200)
    y = y + 4 * rare
    once = effects([Column("x", rare)], y[:, None], None, draws=3000)[0][0]
    x, z, groups = np.repeat(rare, 3), np.repeat(y, 3), np.repeat(np.arange(200) * 7, 3)
    grouped = effects([Column("x", x)], z[:, None], groups, draws=3000)[0][0]
    naive = effects([Column("x", x)], z[:, None], None, draws=3000)[0][0]
    assert grouped.effect == pytest.approx(once.effect)
    assert (grouped.high - grouped.low) / (once.high - once.low) == pytest.approx(1.0, rel=0.06)
    assert (grouped.high - grouped.low) / (naive.high - naive.low) == pytest.approx(np.sqrt(3), rel=0.06)
    assert grouped.p == pytest.approx(once.p, abs=0.01)
    assert naive.p < grouped.p / 2


def test_belief_and_residual_add_up_to_the_effect():
    rare, level, y = some()
    guess = 0.5 * y + np.random.default_rng(9).normal(20, 5, len(y))
    truth, belief, residual = effects(
        [Column("a", rare), Column("b", level)], np.column_stack([y, guess, y - guess]), None, draws=200
    )
    for t, b, r in zip(truth, belief, residual, strict=True):
        assert b.effect + r.effect == pytest.approx(t.effect)


def test_hc3_and_f_are_the_textbooks():
    random = np.random.default_rng(3)
    x = np.column_stack([random.random(80) < 0.3, random.random(80) < 0.5, random.normal(size=80)]).astype(float)
    y = 3 * x[:, 0] - x[:, 2] + random.normal(0, 1 + 2 * x[:, 1])
    fit = least_squares(x, y)
    design = np.column_stack([np.ones(80), x])
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ y
    e = y - design @ beta
    h = np.diag(design @ inverse @ design.T)
    cov = inverse @ design.T @ np.diag((e / (1 - h)) ** 2) @ design @ inverse
    for j, coefficient in enumerate(fit.coefficients, start=1):
        se = np.sqrt(cov[j, j])
        assert (coefficient.effect, coefficient.se) == (pytest.approx(beta[j]), pytest.approx(se))
        assert coefficient.high - coefficient.low == pytest.approx(2 * stats.t.ppf(0.975, 76) * se)
        assert coefficient.p == pytest.approx(2 * stats.t.sf(abs(beta[j]) / se, 76))
    r2 = 1 - (e @ e) / ((y - y.mean()) ** 2).sum()
    assert fit.r2 == pytest.approx(r2)
    assert fit.f == pytest.approx(r2 / 3 / ((1 - r2) / 76))
    assert fit.f_p == pytest.approx(stats.f.sf(fit.f, 3, 76))
    assert slope_error(x[:, 0], y) == pytest.approx(
        np.sqrt(y[x[:, 0] == 1].var(ddof=1) / x[:, 0].sum() + y[x[:, 0] == 0].var(ddof=1) / (80 - x[:, 0].sum()))
    )


def test_columns_that_cannot_be_told_apart_have_no_coefficient_and_spare_the_others():
    random = np.random.default_rng(6)
    x = (random.random((60, 3)) < 0.4).astype(float)
    y = random.normal(size=60) + x[:, 0]
    alone = np.zeros(60)
    alone[7] = 1.0
    fit = least_squares(np.column_stack([x, 1 - x[:, 1], np.ones(60), alone]), y)
    assert [c is None for c in fit.coefficients] == [False, True, False, True, True, True]
    keep = np.arange(60) != 7
    wanted = least_squares(x[keep], y[keep]).coefficients
    assert astuple(fit.coefficients[0]) == pytest.approx(astuple(wanted[0]))
    assert astuple(fit.coefficients[2]) == pytest.approx(astuple(wanted[2]))
    assert precision(Column("alone", alone), y, 1).se is None


@pytest.mark.parametrize(
    ("effect", "low", "high", "p", "sign", "fewest", "word"),
    [
        (+4, 2, 6, 0.01, +1, 500, SUPPORTED),
        (-4, -6, -2, 0.01, -1, 500, SUPPORTED),
        (+4, 2, 6, 0.01, -1, 500, REJECTED),
        (+1, 0.2, 1.8, 0.01, +1, 500, SUPPORTED),
        (+1, -1, 2.99, 0.2, +1, 500, TOO_SMALL),
        (+1, -1, 3.01, 0.2, +1, 500, CANNOT_TELL),
        (-1, -3.01, 1, 0.2, +1, 500, CANNOT_TELL),
        (+1, -1, 2.0, 0.2, +1, 9, CANNOT_TELL),
        (+9, 2, 16, 0.05, +1, 500, CANNOT_TELL),
    ],
)
def test_verdicts(effect, low, high, p, sign, fewest, word):
    assert verdict(effect, low, high, p, sign, 3.0, fewest) == word


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """The tables of a shelter of 6,000 photos, none of which is drawn."""
    return write_plan(tmp_path_factory.mktemp("planned") / "big", 6000, 1)


def write_plan(folder: Path, photos: int, seed: int) -> Path:
    entries = sorted(plan(photos, seed), key=lambda entry: entry.id)
    (folder / "truth").mkdir(parents=True)
    rows = [{"Id": e.id, **e.photo.metadata(), "Pawpularity": e.score} for e in entries]
    pd.DataFrame(rows).to_csv(folder / "train.csv", index=False)
    pd.DataFrame([truth_row(e) for e in entries]).to_csv(folder / "truth" / "parts.csv", index=False)
    write_json(folder / "truth" / "floor.json", floor(entries[:100], seed))
    return folder


def test_verdicts_and_adjusted_effects_are_those_of_the_rule(planned):
    table = pd.read_csv(planned / "train.csv")
    ids = table["Id"].tolist()
    known = true_effects(planned, ids)
    levels = true_contrasts(planned, ids)
    found = find(table, None, contrast=levels, prediction=None, known=known, draws=1000, margin=3.0)
    rows = {row.claim.column: row for row in found.rows}
    for column in ("Eyes", "contrast", "Action", "Group", "Face"):
        assert rows[column].verdict == SUPPORTED
    for column in ("Accessory", "Occlusion", "Collage"):
        assert rows[column].verdict in (TOO_SMALL, CANNOT_TELL)
    for column in set(rows) - {"Face"}:
        assert rows[column].adjusted.low < known[column] < rows[column].adjusted.high
    # Eyes and tongue need a face: the plain difference of Eyes says too much, and a face goes with 28 % of tongues.
    assert rows["Eyes"].truth.low > known["Eyes"]
    mean = np.array([e.mean for e in plan(6000, 1)])
    out = np.array([e.photo.tongue for e in plan(6000, 1)])
    tongue = (spec.expected_score(mean + spec.TONGUE * ~out) - spec.expected_score(mean - spec.TONGUE * out)).mean()
    assert rows["Face"].adjusted.low < 0.28 * tongue < rows["Face"].adjusted.high
    assert found.untested.keys() == {"tongue"}


def test_the_rules_effects_are_the_twins(planned):
    """Over many twins, exact: the twins' photos are plainer, so the clip at 1 and the spike at 100 count a little less."""
    known = true_effects(planned, pd.read_csv(planned / "train.csv")["Id"].tolist())
    for column, part in (("Eyes", "eyes"), ("Action", "pose"), ("Group", "pets"), ("Accessory", "accessory")):
        pairs = [spec.counterfactual_pair(0, part, pair) for pair in range(1000)]
        on, off = (np.array([pair[side].mean_unclipped() for pair in pairs]) for side in range(2))
        assert known[column] == pytest.approx((spec.expected_score(on) - spec.expected_score(off)).mean(), abs=0.6)
    assert true_effects(planned, ["of", "other", "photos"]) == {}
    assert true_effects(planned / "truth", ["x"]) == {}


def test_the_figures_known_for_the_real_table(real):
    """An independent computation's: effects and errors to the digit, all twelve columns together."""
    table = pd.read_csv(real / "pawpularity-labels" / "train.csv")
    y = table["Pawpularity"].to_numpy(float)
    blur = Column("Blur", table["Blur"].to_numpy(float))
    (found,) = effects([blur], y[:, None], None, draws=4000)[0]
    assert (found.effect, precision(blur, y, 1).se) == (pytest.approx(-1.895, abs=6e-4), pytest.approx(0.808, abs=6e-4))
    assert (found.low, found.high) == (pytest.approx(-3.46, abs=0.09), pytest.approx(-0.29, abs=0.09))
    assert found.p == pytest.approx(0.020, abs=0.015)
    fit = least_squares(table[list(METADATA)].to_numpy(float), y)
    assert (fit.f, fit.f_degrees, fit.f_p) == (
        pytest.approx(1.99, abs=6e-3),
        (12, 9899),
        pytest.approx(0.021, abs=6e-4),
    )
    assert fit.r2 == pytest.approx(0.0024, abs=6e-5)
    wanted = {"Eyes": (-2.48, -4.05, -0.91), "Face": (2.45, 0.55, 4.35), "Blur": (-3.75, -5.78, -1.73),
              "Accessory": (1.21, -0.41, 2.83), "Group": (1.22, -0.04, 2.48)}  # fmt: skip
    for name, figures in wanted.items():
        c = fit.coefficients[METADATA.index(name)]
        assert (c.effect, c.low, c.high) == pytest.approx(figures, abs=6e-3)
    both = Column("both", (table["Face"] * table["Eyes"]).to_numpy(float))
    assert precision(both, y, 1).se == pytest.approx(0.508, abs=6e-4)
