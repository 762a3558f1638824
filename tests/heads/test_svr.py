"""The support vector machine against scikit-learn's own kernels, its inner choice, and what a scored fold can change."""

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from pawpularity.errors import UserError
from pawpularity.heads import svr
from pawpularity.heads.svr import Candidate, fit_predict, svr_oof


def made_up(n=120, p=15, seed=0):
    random = np.random.default_rng(seed)
    x = (random.normal(size=(n, p)) * 3 + 5).astype(np.float32)
    x[:, 2] = 4
    y = 38 + 10 * np.sin(x[:, 0]) + 3 * x[:, 1] + random.normal(size=n)
    return x, y, np.arange(n) % 4, np.arange(n) // 2


def test_kernels_are_scikit_learns():
    x, y, folds, _ = made_up()
    training, scored = np.flatnonzero(folds != 0), np.flatnonzero(folds == 0)
    candidates = [Candidate("rbf", 1.0), Candidate("linear", 0.1), Candidate("rbf", 3.0)]
    scaler = StandardScaler().fit(x[training].astype(float))
    z = scaler.transform(x.astype(float))
    gamma = 1 / (z.shape[1] * z[training].var())
    level, spread = y[training].mean(), y[training].std()
    for candidate, ours in zip(candidates, fit_predict(x, y, training, scored, candidates), strict=True):
        c = candidate.c if candidate.kernel == "rbf" else candidate.c * gamma
        scaled = z if candidate.kernel == "rbf" else z * np.sqrt(gamma)
        machine = SVR(kernel=candidate.kernel, C=candidate.c, gamma="scale", epsilon=0.1)
        theirs = machine.fit(scaled[training], (y[training] - level) / spread).predict(scaled[scored])
        np.testing.assert_allclose(ours, theirs * spread + level, atol=0.05 * c + 0.05)


def test_a_folds_scores_do_not_touch_its_predictions():
    x, y, folds, groups = made_up()
    before = svr_oof(x, y, folds, groups, seed=0)
    after = svr_oof(x, np.where(folds == 1, -50 * y, y), folds, groups, seed=0)
    np.testing.assert_array_equal(after.prediction[folds == 1], before.prediction[folds == 1])
    assert after.chosen[1] == before.chosen[1]
    assert not np.array_equal(after.prediction[folds != 1], before.prediction[folds != 1])


def test_it_learns_what_a_line_cannot():
    x, y, folds, groups = made_up(400, 3)
    done = svr_oof(x, y, folds, groups, seed=0)
    assert np.sqrt(((done.prediction - y) ** 2).mean()) < 0.75 * y.std()
    assert all(candidate.kernel == "rbf" for candidate in done.chosen)
    assert [done.at_edge(fold) for fold in range(4)] == [c.c in (0.1, 10.0) for c in done.chosen]
    assert done.inner_rows == (300,) * 4


def test_a_draw_for_the_inner_choice_takes_whole_groups_and_no_scored_row(monkeypatch):
    x, y, _, groups = made_up()
    folds = groups % 4
    seen = []
    whole = svr._inner_rmse
    monkeypatch.setattr(svr, "_inner_rmse", lambda *a: seen.append(a[3]) or whole(*a))
    done = svr_oof(x, y, folds, groups, seed=0, inner_rows=40)
    for fold, inner in enumerate(seen):
        assert len(inner) == done.inner_rows[fold] == 40
        assert not (folds[inner] == fold).any()
        assert (np.bincount(groups[inner])[np.unique(groups[inner])] == 2).all()
    again = svr_oof(x, y, folds, groups, seed=0, inner_rows=40)
    np.testing.assert_array_equal(done.prediction, again.prediction)


def test_what_is_refused(monkeypatch):
    x, y, folds, groups = made_up()
    with pytest.raises(UserError, match="take 3 or more"):
        svr_oof(x, y, folds % 2, groups, seed=0)
    monkeypatch.setattr(svr, "MOST_ROWS", 100)
    with pytest.raises(UserError, match="take --head ridge"):
        svr_oof(x, y, folds, groups, seed=0)
