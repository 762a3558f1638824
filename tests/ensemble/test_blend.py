"""Cross-fitting: what weights may see, which folds they are fitted by, and the figures known for eight real files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pawpularity.data.folds import deal
from pawpularity.ensemble.blend import Partition, cross_fitted, figures, fit_and_predict, partition_of
from pawpularity.ensemble.methods import NAMES, KnownRows, fit
from pawpularity.ensemble.record import groups_of, open_members
from pawpularity.errors import UserError
from pawpularity.evaluation.predictions import Predictions, joined_groups

# An independent computation: method, cross-fitted, fitted and scored on the same rows, difference to the best, its 95 %.
KNOWN = [
    ("best", 17.4695, 17.4695, 0, (0, 0)),
    ("mean", 17.2429, 17.2429, -0.227, (-0.308, -0.145)),
    ("nnls", 17.2361, 17.2205, -0.233, (-0.303, -0.164)),
    ("nnls-intercept", 17.2232, 17.2078, -0.246, (-0.316, -0.177)),
    ("simplex", 17.2352, 17.2211, -0.234, (-0.305, -0.165)),
    ("ridge", 17.2232, 17.2078, -0.246, (-0.316, -0.177)),
    ("ridge-gcv", 17.2211, 17.2107, -0.248, (-0.321, -0.176)),
    ("hill-climb", 17.2356, 17.2211, -0.234, (-0.305, -0.164)),
    ("mean+affine", 17.2228, 17.2210, -0.247, (-0.322, -0.172)),
    ("nnls+affine", 17.2266, 17.2106, -0.243, (-0.309, -0.177)),
]
WEIGHTS = {
    "v1": 0.031,
    "v12": 0.070,
    "v19": 0.139,
    "v31": 0.220,
    "v44": 0.236,
    "v57": 0.113,
    "v62": 0.081,
    "v63": 0.114,
}


@pytest.fixture(scope="module")
def peers(real):
    return open_members([str(real / "oof-peers" / f"{name}.csv") for name in WEIGHTS])


@pytest.fixture(scope="module")
def scored(peers):
    partition = partition_of(peers, groups_of(peers))
    fitted = fit_and_predict(peers, partition, NAMES)
    return fitted, {figure.method: figure for figure in figures(peers[0].target, fitted, partition.groups)}


@pytest.mark.parametrize(("method", "rmse", "same_rows", "difference", "ends"), KNOWN, ids=[row[0] for row in KNOWN])
def test_real_files_blend_as_known(scored, method, rmse, same_rows, difference, ends):
    figure = scored[1][method]
    assert figure.rmse == pytest.approx(rmse, abs=1e-4)
    assert figure.same_rows_rmse == pytest.approx(same_rows, abs=1e-4)
    assert figure.difference == pytest.approx(difference, abs=1e-3)
    assert (figure.difference_low, figure.difference_high) == pytest.approx(ends, abs=0.01)
    if method != "best":
        assert (figure.low, figure.high) == pytest.approx((16.90, 17.55), abs=0.04)


def test_real_weights_are_as_known(scored):
    weights = scored[0].weights[NAMES.index("nnls")]
    np.testing.assert_allclose(weights.members, list(WEIGHTS.values()), atol=1e-3)


def test_the_best_member_is_not_chosen_on_the_fold_it_is_scored_on(peers, scored):
    """Choosing on the scored fold gives 17.4029: optimism that the honest figure must not have."""
    errors = np.stack([(peer.prediction - peer.target) ** 2 for peer in peers], axis=1)
    sums = np.array([errors[peers[0].fold == fold].sum(axis=0) for fold in range(10)])
    assert np.sqrt(sums.min(axis=1).sum() / len(errors)) == pytest.approx(17.4029, abs=1e-4)
    assert scored[1]["best"].rmse == pytest.approx(17.4695, abs=1e-4)


def made(seed=0, n=90, m=4):
    random = np.random.default_rng(seed)
    signal = random.normal(38, 9, n)
    target = np.clip(np.rint(signal + random.normal(0, 12, n)), 1, 100)
    return signal[:, None] + random.normal(0, 5, (n, m)), target, np.arange(n) % 3


def part(fold, groups=None):
    return Partition(fold, groups, True, "")


def test_poisoned_targets_of_a_fold_change_no_prediction_of_it():
    predictions, target, fold = made()
    clean = cross_fitted(predictions, target, part(fold), NAMES)
    for poisoned in range(3):
        changed = np.where(fold == poisoned, 1e6, target)
        again = cross_fitted(predictions, changed, part(fold), NAMES)
        np.testing.assert_array_equal(again[fold == poisoned], clean[fold == poisoned])
        for column, name in enumerate(NAMES):
            same = np.array_equal(again[fold != poisoned, column], clean[fold != poisoned, column])
            assert same == (name == "mean"), f"{name}: the other folds' weights do look at them"


def test_near_duplicates_in_other_folds_are_left_out():
    predictions, target, fold = made()
    groups = np.arange(90)
    groups[[0, 1, 4]] = 7  # folds 0, 1 and 1; so is row 7 itself, in fold 1
    partition = part(fold, groups)
    assert partition.spanning == 1
    # Fold 2 holds nobody of the group, and may look at all of it.
    assert [int(partition.known_for(k).sum()) for k in range(3)] == [60 - 3, 60 - 1, 60]
    alone, blended = (
        cross_fitted(predictions, target, part(fold), NAMES),
        cross_fitted(predictions, target, partition, NAMES),
    )
    poisoned = target.copy()
    poisoned[[1, 4, 7]] = 1e6
    again = cross_fitted(predictions, poisoned, partition, NAMES)
    np.testing.assert_array_equal(again[fold == 0], blended[fold == 0])
    leaked = cross_fitted(predictions, poisoned, part(fold), NAMES)
    assert not np.array_equal(leaked[fold == 0], alone[fold == 0]), "known as strangers they do leak"
    known = np.setdiff1d(np.flatnonzero(fold != 0), [1, 4, 7])
    by_hand = fit(["simplex"], KnownRows(predictions[known], target[known]))[0](predictions[fold == 0])
    np.testing.assert_allclose(blended[fold == 0, NAMES.index("simplex")], by_hand, rtol=1e-12)


def write(folder: Path, name, target, prediction, fold, order=None):
    table = pd.DataFrame({"Id": [f"{i:04d}" for i in range(len(target))], "fold": fold, "target": target,
                          "prediction": prediction})  # fmt: skip
    path = folder / f"{name}.csv"
    table.iloc[slice(None) if order is None else order].to_csv(path, index=False)
    return str(path)


def test_the_order_of_rows_and_files_changes_nothing_but_order(tmp_path):
    predictions, target, fold = made(1)
    (tmp_path / "shuffled").mkdir()
    words, shuffled = [], []
    for j in range(4):
        words.append(write(tmp_path, f"m{j}", target, predictions[:, j], fold))
        order = np.random.default_rng(j).permutation(len(target))
        shuffled.append(write(tmp_path / "shuffled", f"m{j}", target, predictions[:, j], fold, order))
    first = open_members(words)
    partition = partition_of(first, groups_of(first))
    fitted = fit_and_predict(first, partition, NAMES)
    one = figures(target, fitted, None, draws=200)
    turned = [2, 0, 3, 1]
    second = open_members([shuffled[j] for j in turned])
    again = fit_and_predict(second, partition_of(second, groups_of(second)), NAMES)
    np.testing.assert_array_equal(again.blended, fitted.blended)
    np.testing.assert_array_equal(again.same_rows, fitted.same_rows)
    assert figures(target, again, None, draws=200) == one
    for ours, theirs in zip(fitted.weights, again.weights, strict=True):
        np.testing.assert_array_equal(ours.members[turned], theirs.members)
        assert ours.intercept == theirs.intercept


def test_the_partition(tmp_path):
    predictions, target, fold = made(2)
    a = write(tmp_path, "a", target, predictions[:, 0], fold)
    b = write(tmp_path, "b", target, predictions[:, 1], 10 - fold)  # the same folds, called otherwise
    c = write(tmp_path, "c", target, predictions[:, 2], np.arange(90) % 4)
    d = write(tmp_path, "d", target, predictions[:, 2], 0)
    e = write(tmp_path, "e", target, predictions[:, 3], 0)
    own = partition_of(open_members([a, b]), None)
    assert own.own
    assert own.k == 3
    assert (own.fold == fold).all()
    dealt = partition_of(open_members([a, c]), None, seed=4)
    assert not dealt.own
    assert dealt.k == 5
    assert "a and c have different folds" in dealt.why
    assert "seed 4" in dealt.why
    assert np.bincount(dealt.fold).tolist() == [18] * 5
    assert not np.array_equal(dealt.fold, partition_of(open_members([a, c]), None, seed=5).fold)
    groups = np.arange(90) // 3
    assert partition_of(open_members([a, c]), groups).spanning == 0
    some = np.where(np.arange(90) < 45, groups, np.arange(90))
    assert partition_of(open_members([a, b]), some).spanning == 15
    assert "one column of 1 fold" in partition_of(open_members([d, e]), None).why
    with pytest.raises(UserError, match="too few to blend"):
        partition_of(open_members([a, c]), np.zeros(90, dtype=np.int64))
    with pytest.raises(UserError, match="only 0 row"):
        partition_of(open_members([a, b]), groups)


def test_groups_are_joined_where_any_source_joins_them():
    one, two = np.array([0, 0, 1, 2, 3]), np.array([5, 6, 6, 7, 8])
    joined = joined_groups([one, two])
    assert joined.tolist() == [0, 0, 0, 1, 2]
    assert joined_groups([]) is None
    assert joined_groups([one, one]).tolist() == one.tolist()


def test_the_intervals_draw_groups_whole():
    """Rows in identical triples carry the information of a third of the rows: intervals are sqrt(3) wider."""
    predictions, target, _ = made(3, n=300)
    predictions, target, groups = np.repeat(predictions, 3, 0), np.repeat(target, 3), np.repeat(np.arange(300), 3)
    fold = groups % 3

    def width(known):
        blended = cross_fitted(predictions, target, part(fold, known), ["mean", "best"])
        fitted = type("Fitted", (), {"methods": ("mean", "best"), "blended": blended, "same_rows": blended})
        mean = figures(target, fitted, known, draws=2000)[0]
        return mean.high - mean.low

    assert width(groups) / width(None) == pytest.approx(np.sqrt(3), rel=0.1)


def sources(target, folds, predictions):
    """Members in memory, with fold columns of their own."""
    tables = [
        pd.DataFrame({"Id": [f"{i:04d}" for i in range(len(target))], "fold": fold, "target": target, "prediction": p})
        for fold, p in zip(folds, predictions.T, strict=True)
    ]
    return [
        Predictions(name, table, None, np.full(len(target), target.mean()), None, Path(f"{name}.csv"))
        for name, table in zip("ab", tables, strict=False)
    ]


@pytest.mark.parametrize(("k", "own"), [(1, False), (2, True), (100, True), (101, False)])
def test_a_column_of_two_to_a_hundred_folds_is_a_partition(k, own):
    predictions, target, _ = made(4, n=404, m=2)
    fold = np.arange(404) % k
    found = partition_of(sources(target, [fold, fold], predictions), None)
    assert (found.own, found.k) == ((True, k) if own else (False, 5))
    assert own or f"{k} fold(s)" in found.why


def test_folds_that_members_call_alike_keep_their_names():
    """Rows begin in fold 2: renumbered by first sight they would be called otherwise; unlike names are renumbered so."""
    predictions, target, _ = made(5, m=2)
    fold = 2 - np.arange(90) % 3
    alike = partition_of(sources(target, [fold, fold], predictions), None)
    assert alike.fold.tolist() == fold.tolist()
    unlike = partition_of(sources(target, [fold, 7 - fold], predictions), None)
    assert unlike.fold.tolist() == (np.arange(90) % 3).tolist()


def test_what_a_partition_says_of_its_groups():
    fold = np.arange(6) % 2
    own = {"k": 2, "own": True, "why": ""}
    assert part(fold).to_dict() == own | {"groups_known": False, "groups_spanning": 0}
    assert part(fold, np.array([0, 0, 1, 2, 3, 4])).to_dict() == own | {"groups_known": True, "groups_spanning": 1}


def test_folds_dealt_anew_are_those_of_deal():
    """By groups, stratified in ten bins or as many as leave a group a fold in each; five folds, or one per group of fewer."""
    predictions, target, _ = made(6, m=2)
    unlike = [np.arange(90) % 3, np.arange(90) % 4]
    for groups, count in ((None, 90), (np.arange(90) // 3, 30), (np.arange(90) // 23, 4), (np.arange(90) // 30, 3)):
        found = partition_of(sources(target, unlike, predictions), groups)
        labels = np.arange(90) if groups is None else groups
        parts = min(5, count)
        due = deal(labels, target, k=parts, seed=0, bins=max(1, min(10, count // parts)))
        assert (found.k, found.fold.tolist()) == (parts, due.tolist())
    two = sources(target, unlike, predictions), np.arange(90) // 45
    assert partition_of(*two).k == 2, "two groups are enough"


@pytest.mark.parametrize(("left", "enough"), [(1, False), (2, True)])
def test_two_rows_of_other_folds_are_enough_to_fit_on(left, enough):
    """All rows of fold 1 but `left` are near-duplicates of a row of fold 0."""
    predictions, target, _ = made(7, n=20, m=2)
    fold, groups = np.arange(20) // 10, np.arange(20)
    groups[10 + left :] = 0
    wish = (sources(target, [fold, fold], predictions), groups)
    if enough:
        assert partition_of(*wish).known_for(0).sum() == 2
    else:
        with pytest.raises(UserError, match=r"fold 0: only 1 row\(s\) of other folds"):
            partition_of(*wish)


def test_figures_are_of_seed_0_unless_told():
    predictions, target, fold = made(8)
    fitted = fit_and_predict(sources(target, [fold, fold], predictions[:, :2]), part(fold), ["best", "mean"])
    assert figures(target, fitted, None, draws=200) == figures(target, fitted, None, draws=200, seed=0)
    assert figures(target, fitted, None, draws=200) != figures(target, fitted, None, draws=200, seed=1)
