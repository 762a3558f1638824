"""The blend methods against scipy, scikit-learn and what defines them."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from scipy import optimize
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pawpularity.ensemble.methods import (
    ALPHAS,
    NAMES,
    KnownRows,
    Weights,
    check_method,
    default_method,
    fit,
    nonnegative,
)
from pawpularity.errors import UserError


def rows(seed, n=300, m=6, weak=1):
    """Members that see the same signal through noise of their own, `weak` of them pure noise."""
    random = np.random.default_rng(seed)
    signal = random.normal(38, 8, n)
    target = np.clip(signal + random.normal(0, 17, n), 1, 100)
    slopes, noise = random.uniform(0.6, 1.2, m), random.uniform(2, 8, m)
    members = 38 + slopes * (signal[:, None] - 38) + random.normal(0, 1, (n, m)) * noise
    members[:, :weak] = random.normal(38, 8, (n, weak))
    return KnownRows(members, target)


def fitted(name, known):
    return fit([name], known)[0]


def linear(weights, predictions):
    """Without the clip."""
    return weights.intercept + predictions @ weights.members


def squared_error(weights, known):
    return float(np.sum((linear(weights, known.predictions) - known.target) ** 2))


@pytest.mark.parametrize("seed", range(8))
def test_nnls_is_scipys_and_meets_its_conditions(seed):
    known = rows(seed, m=3 + seed, weak=seed % 3)
    free = fitted("nnls", known)
    np.testing.assert_allclose(free.members, optimize.nnls(known.predictions, known.target)[0], atol=1e-9)
    assert free.intercept == 0
    level = fitted("nnls-intercept", known)
    theirs = LinearRegression(positive=True).fit(known.predictions, known.target)
    np.testing.assert_allclose(level.members, theirs.coef_, atol=1e-9)
    assert level.intercept == pytest.approx(theirs.intercept_, abs=1e-8)
    for weights in (free, level):
        slope = known.predictions.T @ (linear(weights, known.predictions) - known.target)
        scale = np.abs(known.predictions.T @ known.target).max()
        assert (weights.members >= 0).all()
        assert (slope >= -1e-9 * scale).all(), "no member would help if it got more"
        assert (np.abs(slope[weights.members > 0]) < 1e-9 * scale).all(), "those in use are at their best"


@pytest.mark.parametrize("seed", range(6))
def test_simplex_weights_sum_to_one_and_are_the_best_such(seed):
    known = rows(seed, n=80, m=5, weak=seed % 3)
    weights = fitted("simplex", known)
    assert weights.members.sum() == pytest.approx(1, abs=1e-12)
    assert (weights.members >= 0).all()
    # Scaled, because SLSQP stops on absolute changes.
    theirs = optimize.minimize(
        lambda w: w @ known.error_gram @ w / known.error_gram.max(), np.full(5, 0.2), method="SLSQP", bounds=[(0, 1)] * 5,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"ftol": 1e-15, "maxiter": 500},
    )  # fmt: skip
    np.testing.assert_allclose(weights.members, theirs.x, atol=2e-5)
    slope = known.error_gram @ weights.members
    level = weights.members @ slope
    np.testing.assert_allclose(slope[weights.members > 0], level, rtol=1e-8)
    assert (slope >= level * (1 - 1e-8)).all()


@pytest.mark.parametrize(("seed", "n", "m"), [(0, 300, 6), (1, 40, 12), (2, 60, 3), (3, 25, 20), (4, 1000, 8)])
def test_ridges_are_scikit_learns(seed, n, m):
    known = rows(seed, n=n, m=m)
    ours, theirs = fitted("ridge", known), Ridge(alpha=1.0).fit(known.predictions, known.target)
    np.testing.assert_allclose(ours.members, theirs.coef_, atol=1e-9)
    assert ours.intercept == pytest.approx(theirs.intercept_, abs=1e-7)
    ours = fitted("ridge-gcv", known)
    pipe = make_pipeline(StandardScaler(), RidgeCV(ALPHAS)).fit(known.predictions, known.target)
    np.testing.assert_allclose(linear(ours, known.predictions), pipe.predict(known.predictions), atol=1e-7)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("+affine")])
def test_the_affine_step_is_a_regression_on_the_blend(name):
    known = rows(5)
    before, after = fitted(name.removesuffix("+affine"), known), fitted(name, known)
    blend = linear(before, known.predictions)[:, None]
    line = LinearRegression().fit(blend, known.target)
    np.testing.assert_allclose(linear(after, known.predictions), line.predict(blend), atol=1e-8)
    assert squared_error(after, known) <= squared_error(before, known) + 1e-6


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 7])  # of seed 7 the hundredth step is the best
def test_the_hill_is_climbed_as_by_hand(seed):
    known = rows(seed, n=60, m=4)
    bag, best, least = [], None, np.inf
    for _ in range(100):
        tried = [np.mean((known.predictions[:, [*bag, j]].mean(axis=1) - known.target) ** 2) for j in range(4)]
        bag.append(int(np.argmin(tried)))
        if min(tried) < least:
            best, least = list(bag), min(tried)
    np.testing.assert_allclose(fitted("hill-climb", known).members, np.bincount(best, minlength=4) / len(best))


def test_best_and_mean_and_the_order_of_errors():
    """Each method is the least squared error over its own set of weights, and the sets lie within one another."""
    known = rows(7)
    error = {name: squared_error(fitted(name, known), known) for name in NAMES}
    alone = [np.sum((known.predictions[:, j] - known.target) ** 2) for j in range(6)]
    assert error["best"] == pytest.approx(min(alone))
    np.testing.assert_allclose(fitted("mean", known).members, 1 / 6)
    assert error["nnls-intercept"] <= error["nnls"] <= error["simplex"] <= error["hill-climb"] <= error["best"]
    assert error["simplex"] <= error["mean"]
    assert error["ridge"] <= error["nnls-intercept"] * (1 + 1e-6)


def test_what_has_no_intercept_has_none():
    known = rows(8)
    for name in ("best", "mean", "nnls", "simplex", "hill-climb"):
        assert fitted(name, known).intercept == 0


def test_the_penalties_tried_are_thirty_seven_from_a_thousandth_to_a_million():
    assert len(ALPHAS) == 37
    assert ALPHAS[0] == pytest.approx(1e-3)
    assert ALPHAS[-1] == pytest.approx(1e6)
    np.testing.assert_allclose(np.diff(np.log10(ALPHAS)), 0.25)


def test_blends_are_clipped_to_the_scores():
    np.testing.assert_array_equal(Weights(0.0, np.array([2.0]))(np.array([[70.0], [0.2], [20.0]])), [100, 1, 40])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "known",
    [
        KnownRows(np.full((10, 3), 40.0), np.arange(10.0)),  # members that always say the same
        KnownRows(np.repeat(np.arange(10.0)[:, None], 3, axis=1), np.arange(10.0)),  # perfect, and all alike
        KnownRows(
            np.random.default_rng(0).normal(40, 5, (3, 8)), np.array([10.0, 50.0, 90.0])
        ),  # fewer rows than members
        KnownRows(np.random.default_rng(1).normal(40, 5, (10, 3)), np.full(10, 33.0)),  # targets that do not vary
        KnownRows(
            -np.random.default_rng(2).normal(40, 5, (10, 3)), np.arange(10.0)
        ),  # nothing with weights above 0 helps
    ],
    ids=["constant", "alike", "few", "flat", "negative"],
)
def test_odd_members_leave_numbers(name, known):
    weights = fitted(name, known)
    assert np.isfinite(weights.members).all()
    assert np.isfinite(weights.intercept)
    if name in ("simplex", "mean", "hill-climb", "best"):
        assert weights.members.sum() == pytest.approx(1)
    if name in ("nnls-intercept", "mean+affine"):  # the intercept alone is open to both
        spread = float(np.sum((known.target - known.target.mean()) ** 2))
        assert squared_error(weights, known) <= spread + 1e-6


def test_a_singular_gram_is_met_with_the_least_error():
    random = np.random.default_rng(3)
    table = random.normal(0, 1, (50, 3))
    table = np.concatenate([table, table @ random.uniform(0, 1, (3, 4))], axis=1)
    target = table @ random.uniform(-0.2, 1, 7) + random.normal(0, 1, 50)
    ours, (theirs, norm) = nonnegative(table.T @ table, table.T @ target), optimize.nnls(table, target)
    assert np.linalg.norm(table @ ours - target) == pytest.approx(norm, rel=1e-9)
    np.testing.assert_allclose(table @ ours, table @ theirs, atol=1e-5)


def test_the_default_depends_on_the_number_of_rows_alone():
    assert [default_method(n) for n in (2, 100, 199, 200, 600, 2999, 3000, 9912)] == [
        "mean", "mean", "mean", "simplex", "simplex", "simplex", "nnls-intercept", "nnls-intercept"
    ]  # fmt: skip


def test_names():
    assert len(NAMES) == 15
    assert check_method("ridge-gcv+affine") == "ridge-gcv+affine"
    for wrong, near in (
        ("nls", "nnls"),
        ("ridge-gvc", "ridge-gcv"),
        ("hillclimb", "hill-climb"),
        ("mean-affine", "mean+affine"),
    ):
        with pytest.raises(UserError, match="did you mean") as caught:
            check_method(wrong)
        assert f'"{near}"' in str(caught.value)
    with pytest.raises(UserError, match="is not known"):
        check_method("best+affine")


@pytest.mark.parametrize("case", ["few rows", "members all but alike"])
def test_the_penalty_is_chosen_as_scikit_learn_chooses_it_where_it_is_close(case):
    """Where a row's own share of its leverage, or the smallest eigenvalues, decide."""
    known = rows(1, n=25, m=20)
    if case != "few rows":
        known = rows(0, n=30, m=4)
        alike = known.predictions[:, [0] * 4] + 0.05 * np.random.default_rng(0).normal(size=(30, 4))
        known = KnownRows(alike, known.target)
    pipe = make_pipeline(StandardScaler(), RidgeCV(ALPHAS)).fit(known.predictions, known.target)
    np.testing.assert_allclose(
        linear(fitted("ridge-gcv", known), known.predictions), pipe.predict(known.predictions), atol=1e-6
    )


def test_members_that_always_say_the_same_get_no_slope():
    weights = fitted("mean+affine", KnownRows(np.full((10, 3), 40.0), np.arange(10.0)))
    np.testing.assert_array_equal(weights.members, 0)
    assert weights.intercept == pytest.approx(4.5)


def test_the_unit_of_the_errors_does_not_matter():
    known = rows(9)
    gram, cross = known.predictions.T @ known.predictions, known.predictions.T @ known.target
    np.testing.assert_allclose(nonnegative(1e-20 * gram, 1e-20 * cross), nonnegative(gram, cross), rtol=1e-9)


def test_what_was_fitted_cannot_be_changed():
    """Sums are kept once they are made: other targets beside them would go unseen."""
    known = rows(10)
    for one, name in ((known, "target"), (fitted("mean", known), "intercept")):
        with pytest.raises(FrozenInstanceError):
            setattr(one, name, 0.0)
