"""Heads against scikit-learn and closed forms, their choices, and what a scored fold can change: nothing."""

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from pawpularity.heads.fit import ALPHAS, METHODS, Training, draw_groups, out_of_fold

WIDTHS = {"a": 4, "b": 10}


def fit_head(method, x, y, groups):
    return METHODS[method](Training(x, y, groups))


def fit_folds(method, x, y, folds, groups, widths=None):
    """Out-of-fold predictions (n,), and the head of each fold."""
    prediction, heads = np.empty(len(y)), []
    for fold, _, scores, fitted in out_of_fold([method], x, y, folds, groups, widths=widths):
        prediction[folds == fold] = scores
        heads.append(fitted)
    return prediction, heads


def made_up(n=90, p=20, k=4, seed=0):
    """Columns of very different scales far from zero; one constant, one that only fold 2 moves. Rows come in pairs."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, p)) * 10 ** random.uniform(-3, 3, p) + random.normal(size=p) * 100
    groups = np.arange(n) // 2
    folds = groups % k
    x[:, 5], x[folds != 2, 6] = 7.1, 0.1
    y = 38 + 20 * random.normal(size=n) + 8 * (x[:, 0] - x[:, 0].mean()) / x[:, 0].std()
    return x.astype(np.float32), y, folds, groups


@pytest.mark.parametrize("p", [10, 60])
def test_a_ridge_has_the_penalty_of_the_least_leave_one_out_error(p):
    x, y, _, _ = made_up(30, p)
    z = StandardScaler().fit_transform(x.astype(np.float64))
    fitted = fit_head("ridge", x, y, np.arange(30))
    errors = []
    for alpha in ALPHAS:
        left_out = [Ridge(alpha).fit(np.delete(z, i, 0), np.delete(y, i)).predict(z[i : i + 1])[0] for i in range(30)]
        errors.append(np.sum((np.array(left_out) - y) ** 2))
    alpha = ALPHAS[int(np.argmin(errors))]
    assert fitted.chosen["alpha"] == pytest.approx(alpha)
    assert fitted.words.endswith("(edge)") == (alpha in (ALPHAS[0], ALPHAS[-1]))
    np.testing.assert_allclose(fitted.head.predict(x), Ridge(alpha).fit(z, y).predict(z), atol=1e-6)


def greedy(z, y, parts, metadata):
    """Names in the order in which brute force takes them, and the last ridge."""
    taken, best, score = [], None, -np.inf
    while True:
        tried = {
            name: RidgeCV(ALPHAS).fit(z[:, np.concatenate([metadata, *(parts[one] for one in [*taken, name])])], y)
            for name in parts
            if name not in taken
        }
        name = max(tried, key=lambda one: tried[one].best_score_, default=None)
        if name is None or tried[name].best_score_ <= score:
            return taken, best
        taken, best, score = [*taken, name], tried[name], tried[name].best_score_


def test_forward_takes_the_encoders_that_brute_force_takes():
    """Two encoders carry signal, one is noise; the last columns are metadata. All of it on each fold's training rows."""
    random = np.random.default_rng(3)
    x = (random.normal(size=(160, 40)) * 3 + 5).astype(np.float32)
    y = 38 + 4 * x[:, 20:24].sum(axis=1) + 2 * x[:, 30] + x[:, 39] + 5 * random.normal(size=160)
    widths, folds = {"noise": 18, "strong": 8, "weak": 12}, np.arange(160) % 4
    parts = {"noise": np.arange(18), "strong": np.arange(18, 26), "weak": np.arange(26, 38)}
    prediction, heads = fit_folds("forward", x, y, folds, np.arange(160), widths)
    for fold, fitted in enumerate(heads):
        known = folds != fold
        z = StandardScaler().fit(x[known].astype(np.float64)).transform(x)
        taken, ridge = greedy(z[known], y[known], parts, np.arange(38, 40))
        assert fitted.chosen["taken"] == taken == ["strong", "weak"]
        assert "strong + weak" in fitted.words
        assert not fitted.head.weights[:18].any()
        columns = np.concatenate([[38, 39], *(parts[name] for name in taken)])
        np.testing.assert_allclose(prediction[~known], ridge.predict(z[~known][:, columns]), atol=1e-4)
    for alone in ({"all": 40}, {"without metadata": 38}):
        wanted, _ = fit_folds("ridge", x, y, folds, np.arange(160))
        np.testing.assert_allclose(fit_folds("forward", x, y, folds, np.arange(160), alone)[0], wanted, atol=1e-9)


def test_an_svr_is_scikit_learns_with_kernels_of_its_own():
    random = np.random.default_rng(0)
    x = (random.normal(size=(120, 15)) * 3 + 5).astype(np.float32)
    curved, straight = 38 + 15 * np.sin(x[:, 0] / 2), 38 + 3 * x[:, 1] + random.normal(size=120)
    z = StandardScaler().fit_transform(x.astype(np.float64))
    for y, kernel in ((curved, "rbf"), (straight, "linear")):
        fitted = fit_head("svr", x, y, np.arange(120))
        assert fitted.chosen["kernel"] == kernel
        assert (fitted.head.support is not None) == (kernel == "rbf")
        rows = z if kernel == "rbf" else z / np.sqrt(15)
        theirs = SVR(kernel=kernel, C=fitted.chosen["c"], gamma=1 / 15, epsilon=0.1).fit(rows, (y - y.mean()) / y.std())
        np.testing.assert_allclose(fitted.head.predict(x), theirs.predict(rows) * y.std() + y.mean(), atol=0.1)
        assert np.sqrt(np.mean((fitted.head.predict(x) - y) ** 2)) < 0.5 * y.std()


@pytest.mark.parametrize("p", [20, 150])
@pytest.mark.parametrize("method", ["ridge", "forward", "kernel-ridge", "svr", "boosting"])
def test_a_scored_fold_touches_neither_its_predictions_nor_the_choice(method, p):
    x, y, folds, groups = made_up(80, p)
    before, heads = fit_folds(method, x, y, folds, groups, WIDTHS)
    for fold in range(4):
        scored = folds == fold
        after, others = fit_folds(method, x, np.where(scored, -50 * y[::-1], y), folds, groups, WIDTHS)
        np.testing.assert_array_equal(after[scored], before[scored])
        assert others[fold].chosen == heads[fold].chosen
        assert not np.array_equal(after[~scored], before[~scored])
    photos = np.where((folds == 1)[:, None], 1e6, x).astype(np.float32)
    _, others = fit_folds(method, photos, y, folds, groups, WIDTHS)
    np.testing.assert_array_equal(others[1].head.predict(x), heads[1].head.predict(x))


def test_a_kernel_ridge_is_scikit_learns():
    x, y, _, groups = made_up()
    fitted = fit_head("kernel-ridge", x, y, groups)
    z = StandardScaler().fit_transform(x.astype(np.float64))
    gamma = fitted.chosen["gamma"] / z.any(axis=0).sum()
    theirs = KernelRidge(kernel="rbf", gamma=gamma, alpha=fitted.chosen["alpha"]).fit(z, y - y.mean())
    np.testing.assert_allclose(fitted.head.predict(x), theirs.predict(z) + y.mean(), atol=2e-3)


def test_predictions_are_scikit_learns_to_the_eighth_digit():
    """With the same support vectors: those that are kept have float32's precision."""
    x, _, _, groups = made_up()
    head = fit_head("svr", x, 38 + 15 * np.sin(2 * StandardScaler().fit_transform(x)[:, 0]), groups).head
    z = (x.astype(np.float64) - head.mean.numpy()) / head.scale.numpy()
    wanted = rbf_kernel(z, head.support.double().numpy(), gamma=float(head.gamma)) @ head.weights.numpy()
    np.testing.assert_allclose(head.predict(x), wanted + float(head.intercept), rtol=0, atol=1e-8)


def test_the_rows_of_an_svrs_choice_are_whole_groups(monkeypatch):
    groups = np.repeat(np.arange(40), 3)
    rows = draw_groups(groups, 50, seed=0)
    assert len(rows) == 48
    assert (np.bincount(groups[rows])[np.unique(groups[rows])] == 3).all()
    assert not np.array_equal(rows, draw_groups(groups, 50, seed=1))
    x, y, _, pairs = made_up()
    monkeypatch.setattr("pawpularity.heads.fit.INNER_ROWS", 40)
    assert fit_head("svr", x, y, pairs).chosen["inner_rows"] == 40
