"""The blend methods against what defines them, and against other solvers."""

import numpy as np
import pytest
from scipy import optimize
from sklearn.linear_model import LinearRegression

from pawpularity.ensemble.methods import ALPHAS, NAMES, Weights, default_method, fit


def made_up(seed, n=300, m=6, weak=1):
    """Members that see one signal through noise of their own, `weak` of them pure noise: predictions (n, m), target (n,)."""
    random = np.random.default_rng(seed)
    signal = random.normal(38, 8, n)
    target = np.clip(signal + random.normal(0, 17, n), 1, 100)
    slopes, noise = random.uniform(0.6, 1.2, m), random.uniform(2, 8, m)
    members = 38 + slopes * (signal[:, None] - 38) + random.normal(0, 1, (n, m)) * noise
    members[:, :weak] = random.normal(38, 8, (n, weak))
    return members, target


def linear(weights, predictions):
    """Without the clip."""
    return weights.intercept + predictions @ weights.members


@pytest.mark.parametrize("method", ["nnls", "nnls-intercept"])
@pytest.mark.parametrize("seed", range(4))
def test_nonnegative_weights_are_scikit_learns(seed, method):
    x, y = made_up(seed, m=3 + seed, weak=seed % 3)
    weights = fit(method, x, y)
    theirs = LinearRegression(positive=True, fit_intercept=method != "nnls").fit(x, y)
    np.testing.assert_allclose(weights.members, theirs.coef_, atol=1e-8)
    assert weights.intercept == pytest.approx(theirs.intercept_, abs=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_simplex_weights_sum_to_one_and_are_the_best_such(seed):
    x, y = made_up(seed, n=80, m=5, weak=seed % 3)
    weights = fit("simplex", x, y)
    assert weights.members.sum() == pytest.approx(1, abs=1e-12)
    assert (weights.members >= 0).all()
    errors = x - y[:, None]
    gram = errors.T @ errors
    theirs = optimize.minimize(
        lambda w: w @ gram @ w / gram.max(), np.full(5, 0.2), method="SLSQP", bounds=[(0, 1)] * 5,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"ftol": 1e-15, "maxiter": 500},
    )  # fmt: skip
    np.testing.assert_allclose(weights.members, theirs.x, atol=2e-5)


@pytest.mark.parametrize(("n", "m"), [(300, 6), (40, 12), (25, 20)])
def test_ridges_equal_the_closed_form_and_every_row_left_out_in_turn(n, m):
    x, y = made_up(n, n=n, m=m)
    centred, level = x - x.mean(axis=0), y - y.mean()
    np.testing.assert_allclose(
        fit("ridge", x, y).members, np.linalg.solve(centred.T @ centred + np.eye(m), centred.T @ level), atol=1e-8
    )
    z = np.column_stack([np.ones(n), centred / x.std(axis=0)])  # the intercept is not penalised
    penalty, left_out = np.diag([0.0] + [1.0] * m), []
    for alpha in ALPHAS:
        hat = z @ np.linalg.solve(z.T @ z + alpha * penalty, z.T)
        left_out.append(np.sum(((y - hat @ y) / (1 - np.diag(hat))) ** 2))
    alpha = ALPHAS[int(np.argmin(left_out))]
    wanted = z @ np.linalg.solve(z.T @ z + alpha * penalty, z.T @ y)
    np.testing.assert_allclose(linear(fit("ridge-gcv", x, y), x), wanted, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 7])  # of seed 7 the hundredth step is the best
def test_the_hill_is_climbed_as_by_hand(seed):
    x, y = made_up(seed, n=60, m=4)
    bag, best, least = [], None, np.inf
    for _ in range(100):
        tried = [np.mean((x[:, [*bag, j]].mean(axis=1) - y) ** 2) for j in range(4)]
        bag.append(int(np.argmin(tried)))
        if min(tried) < least:
            best, least = list(bag), min(tried)
    np.testing.assert_allclose(fit("hill-climb", x, y).members, np.bincount(best, minlength=4) / len(best))


@pytest.mark.parametrize("method", [name for name in NAMES if name.endswith("+affine")])
def test_the_affine_step_is_a_regression_on_the_blend(method):
    x, y = made_up(5)
    blend = linear(fit(method.removesuffix("+affine"), x, y), x)[:, None]
    line = LinearRegression().fit(blend, y)
    np.testing.assert_allclose(linear(fit(method, x, y), x), line.predict(blend), atol=1e-8)


def test_each_method_is_the_best_of_its_set_of_weights():
    """The sets lie within one another, so the errors are ordered."""
    x, y = made_up(7)
    error = {name: np.sum((linear(fit(name, x, y), x) - y) ** 2) for name in NAMES}
    assert error["best"] == pytest.approx(min(np.sum((x[:, j] - y) ** 2) for j in range(6)))
    np.testing.assert_allclose(fit("mean", x, y).members, 1 / 6)
    assert error["nnls-intercept"] <= error["nnls"] <= error["simplex"] <= error["hill-climb"] <= error["best"]
    assert error["simplex"] <= error["mean"]
    assert error["ridge"] <= error["nnls-intercept"] * (1 + 1e-6)
    assert all(fit(name, x, y).intercept == 0 for name in ("best", "mean", "nnls", "simplex", "hill-climb"))


ODD = {
    "constant": (np.full((10, 3), 40.0), np.arange(10.0)),
    "perfect and alike": (np.repeat(np.arange(10.0)[:, None], 3, axis=1), np.arange(10.0)),
    "fewer rows than members": (np.random.default_rng(0).normal(40, 5, (3, 8)), np.array([10.0, 50.0, 90.0])),
    "flat targets": (np.random.default_rng(1).normal(40, 5, (10, 3)), np.full(10, 33.0)),
    "no weight above 0 helps": (-np.random.default_rng(2).normal(40, 5, (10, 3)), np.arange(10.0)),
}


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("method", NAMES)
def test_odd_members_leave_finite_weights(method, case):
    x, y = ODD[case]
    weights = fit(method, x, y)
    assert np.isfinite([weights.intercept, *weights.members]).all()
    if method in ("simplex", "mean", "hill-climb", "best"):
        assert weights.members.sum() == pytest.approx(1)
    if method in ("nnls-intercept", "mean+affine"):  # the intercept alone is open to both
        assert np.sum((linear(weights, x) - y) ** 2) <= np.sum((y - y.mean()) ** 2) + 1e-6


def test_clipping_and_the_default():
    np.testing.assert_array_equal(Weights(0.0, np.array([2.0]))(np.array([[70.0], [0.2], [20.0]])), [100, 1, 40])
    rows = {2: "mean", 999: "mean", 1000: "simplex", 2999: "simplex", 3000: "nnls-intercept", 9912: "nnls-intercept"}
    assert {n: default_method(n) for n in rows} == rows
