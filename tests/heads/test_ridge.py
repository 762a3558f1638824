"""The closed form against scikit-learn, fold by fold; the choice of the penalty; what a scored fold can change: nothing."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pawpularity.errors import UserError
from pawpularity.heads import ridge
from pawpularity.heads.ridge import ALPHAS, fold_models, ridge_oof, shifted_solutions


def made_up(n, p, k=4, seed=0):
    """Columns of very different scales far from zero; two alike, one constant, one that only fold 2 moves."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, p)) * 10 ** random.uniform(-3, 3, p) + random.normal(size=p) * 100
    folds = np.concatenate([np.arange(k), random.integers(0, k, n - k)])
    x[:, 3], x[:, 5] = x[:, 4], 7.1
    x[folds != 2, 6] = 0.1
    y = 38 + 20 * random.normal(size=n) + 5 * (x[:, 0] - x[:, 0].mean()) / x[:, 0].std()
    return x.astype(np.float32), y, folds


def refitted(x, y, training, wanted, alpha):
    x = x.astype(np.float64)
    return make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(x[training], y[training]).predict(x[wanted])


@pytest.mark.parametrize("held", [ridge._HELD_BYTES, 0])
@pytest.mark.parametrize(("n", "p"), [(90, 20), (60, 61), (60, 150), (50, 1500)])
def test_every_fold_and_penalty_equals_a_refit(n, p, held, monkeypatch):
    monkeypatch.setattr(ridge, "_HELD_BYTES", held)
    x, y, folds = made_up(n, p)
    models = fold_models(x, y, folds)
    for left_out in [(0,), (1,), (2,), (3,), (0, 1), (1, 2), (0, 3)]:
        training, wanted = ~np.isin(folds, left_out), np.isin(folds, left_out)
        ours = models.weights(left_out, ALPHAS)(x[wanted])
        theirs = np.stack([refitted(x, y, training, wanted, alpha) for alpha in ALPHAS], axis=1)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-8)


@pytest.mark.parametrize("p", [20, 150])
def test_the_penalty_is_the_best_of_the_other_folds(p):
    x, y, folds = made_up(80, p)
    done = ridge_oof(x, y, folds)
    for fold in range(4):
        outside = folds != fold
        errors = np.zeros(len(ALPHAS))
        for inner in set(range(4)) - {fold}:
            training, watched = outside & (folds != inner), folds == inner
            for place, alpha in enumerate(ALPHAS):
                errors[place] += ((refitted(x, y, training, watched, alpha) - y[watched]) ** 2).sum()
        np.testing.assert_allclose(done.inner_rmse[fold], np.sqrt(errors / outside.sum()), atol=1e-8)
        assert done.alpha(fold) == ALPHAS[errors.argmin()]
        assert done.at_edge(fold) == (errors.argmin() in (0, len(ALPHAS) - 1))
        np.testing.assert_allclose(
            done.prediction[~outside], refitted(x, y, outside, ~outside, done.alpha(fold)), rtol=0, atol=1e-8
        )


@pytest.mark.parametrize("p", [20, 150])
def test_a_folds_scores_do_not_touch_its_predictions(p):
    """Neither its weights nor its penalty: to the last bit, though the other folds' answers change."""
    x, y, folds = made_up(80, p)
    before = ridge_oof(x, y, folds)
    for fold in range(4):
        poisoned = np.where(folds == fold, 1e6 * y[::-1], y)
        after = ridge_oof(x, poisoned, folds)
        np.testing.assert_array_equal(after.prediction[folds == fold], before.prediction[folds == fold])
        np.testing.assert_array_equal(after.inner_rmse[fold], before.inner_rmse[fold])
        assert not np.array_equal(after.prediction[folds != fold], before.prediction[folds != fold])


@pytest.mark.parametrize("p", [20, 150])
def test_a_folds_photos_do_not_touch_the_models_that_leave_it_out(p):
    x, y, folds = made_up(80, p)
    poisoned = np.where((folds == 1)[:, None], 1e9, x).astype(np.float32)
    a, b = (fold_models(features, y, folds).weights((1,), ALPHAS) for features in (x, poisoned))
    np.testing.assert_array_equal(a.columns, b.columns)
    np.testing.assert_array_equal(a.mean, b.mean)


def test_the_same_input_gives_the_same_bytes():
    x, y, folds = made_up(80, 150)
    assert ridge_oof(x, y, folds).prediction.tobytes() == ridge_oof(x, y, folds).prediction.tobytes()


@pytest.mark.parametrize("n", [1, 2, 3, 70])
def test_shifted_systems(n):
    random = np.random.default_rng(n)
    a = random.normal(size=(n, n + 2))
    matrix, right, alphas = a @ a.T, random.normal(size=n), [0.1, 1.0, 100.0]
    wanted = np.stack([np.linalg.solve(matrix + alpha * np.eye(n), right) for alpha in alphas], axis=1)
    np.testing.assert_allclose(shifted_solutions(matrix.copy(), right, alphas), wanted, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(shifted_solutions(matrix.copy(), right, alphas[:1]), wanted[:, :1], rtol=1e-9)


def test_what_is_refused():
    x, y, folds = made_up(80, 20)
    with pytest.raises(UserError, match="take 3 or more"):
        ridge_oof(x, y, folds % 2)
    with pytest.raises(UserError, match="above zero, not 0"):
        ridge_oof(x, y, folds, [0.0, 1.0])
    x[3, 3] = np.inf
    with pytest.raises(UserError, match="no number"):
        ridge_oof(x, y, folds)
