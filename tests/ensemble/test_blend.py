"""Cross-fitting: what weights may see, which folds they are fitted by, and the figures of eight real files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pawpularity.data.folds import deal
from pawpularity.ensemble.blend import Partition, cross_fit, figures, groups_of, open_members, partition_of
from pawpularity.ensemble.methods import NAMES, fit
from pawpularity.errors import UserError
from pawpularity.evaluation.predictions import Predictions

# An independent computation: cross-fitted, fitted and scored on the same rows, difference to the best member, its 95 %.
KNOWN = {
    "best": (17.4695, 17.4695, 0, (0, 0)),
    "mean": (17.2429, 17.2429, -0.227, (-0.308, -0.145)),
    "nnls": (17.2361, 17.2205, -0.233, (-0.303, -0.164)),
    "nnls-intercept": (17.2232, 17.2078, -0.246, (-0.316, -0.177)),
    "simplex": (17.2352, 17.2211, -0.234, (-0.305, -0.165)),
    "ridge": (17.2232, 17.2078, -0.246, (-0.316, -0.177)),
    "ridge-gcv": (17.2211, 17.2107, -0.248, (-0.321, -0.176)),
    "hill-climb": (17.2356, 17.2211, -0.234, (-0.305, -0.164)),
    "mean+affine": (17.2228, 17.2210, -0.247, (-0.322, -0.172)),
    "nnls+affine": (17.2266, 17.2106, -0.243, (-0.309, -0.177)),
}
NNLS_WEIGHTS = {
    "v1": 0.031,
    "v12": 0.070,
    "v19": 0.139,
    "v31": 0.220,
    "v44": 0.236,
    "v57": 0.113,
    "v62": 0.081,
    "v63": 0.114,
}


def test_real_files_blend_as_known(real):
    members = open_members([str(real / "oof-peers" / f"{name}.csv") for name in NNLS_WEIGHTS])
    partition = partition_of(members, groups_of(members))
    blends = [cross_fit(name, members, partition) for name in KNOWN]
    for row in figures(members[0].target, blends, partition.groups):
        rmse, same_rows, difference, ends = KNOWN[row["method"]]
        assert row["rmse"] == pytest.approx(rmse, abs=1e-4)
        assert row["same_rows_rmse"] == pytest.approx(same_rows, abs=1e-4)
        assert row["difference"] == pytest.approx(difference, abs=1e-3)
        assert (row["difference_low"], row["difference_high"]) == pytest.approx(ends, abs=0.01)
    nnls = next(blend for blend in blends if blend.method == "nnls")
    np.testing.assert_allclose(nnls.weights.members, list(NNLS_WEIGHTS.values()), atol=1e-3)


def made_up(seed=0, n=90, m=4):
    random = np.random.default_rng(seed)
    signal = random.normal(38, 9, n)
    target = np.clip(np.rint(signal + random.normal(0, 12, n)), 1, 100)
    return signal[:, None] + random.normal(0, 5, (n, m)), target


def sources(predictions, target, *folds):
    """Members in memory. `folds`: one column for all, or one each."""
    folds = folds if len(folds) > 1 else folds * predictions.shape[1]
    ids = [f"{i:04d}" for i in range(len(target))]
    tables = [
        pd.DataFrame({"Id": ids, "fold": fold, "target": target, "prediction": p})
        for fold, p in zip(folds, predictions.T, strict=False)
    ]
    constant = np.full(len(target), target.mean())
    return [Predictions(f"m{j}", table, None, constant, None, Path(f"m{j}.csv")) for j, table in enumerate(tables)]


def cross_fitted(predictions, target, partition, method):
    return cross_fit(method, sources(predictions, target, partition.fold), partition).prediction


@pytest.mark.parametrize("method", NAMES)
def test_weights_never_see_the_scored_fold_nor_its_near_duplicates(method):
    predictions, target = made_up()
    fold, groups = np.arange(90) % 3, np.arange(90)
    groups[[0, 1, 4]] = 7  # folds 0, 1 and 1; row 7, of fold 1, is in this group too
    partition = Partition(fold, groups, True, "")
    assert partition.to_dict()["groups_spanning"] == 1
    assert [int(partition.known_for(k).sum()) for k in range(3)] == [60 - 3, 60 - 1, 60], (
        "fold 2 holds none of the group"
    )
    clean = cross_fitted(predictions, target, partition, method)
    for k, hidden in ((0, [1, 4, 7]), (1, [0]), (2, [])):
        poisoned = np.where((fold == k) | np.isin(np.arange(90), hidden), 1e6, target)
        again = cross_fitted(predictions, poisoned, partition, method)
        np.testing.assert_array_equal(again[fold == k], clean[fold == k])
        changed = not np.array_equal(again[fold != k], clean[fold != k])
        assert changed == (method != "mean"), "the weights of the other folds do see them"
    known = np.setdiff1d(np.flatnonzero(fold != 0), [1, 4, 7])
    by_hand = fit(method, predictions[known], target[known])(predictions[fold == 0])
    np.testing.assert_array_equal(clean[fold == 0], by_hand)


def test_the_order_of_rows_and_files_changes_nothing(tmp_path):
    predictions, target = made_up(1)
    table = pd.DataFrame({"Id": [f"{i:04d}" for i in range(90)], "fold": np.arange(90) % 3, "target": target})
    blends = []
    for order, shuffled in ((range(4), False), ([2, 0, 3, 1], True)):
        for j in order:
            rows = np.random.default_rng(j).permutation(90) if shuffled else slice(None)
            table.assign(prediction=predictions[:, j]).iloc[rows].to_csv(tmp_path / f"m{j}.csv", index=False)
        members = open_members([str(tmp_path / f"m{j}.csv") for j in order])
        blends.append(cross_fit("ridge-gcv+affine", members, partition_of(members, None)))
    np.testing.assert_array_equal(blends[0].prediction, blends[1].prediction)
    np.testing.assert_array_equal(blends[0].weights.members, blends[1].weights.members)


@pytest.mark.parametrize(("k", "own"), [(1, False), (2, True), (100, True), (101, False)])
def test_a_shared_column_of_two_to_a_hundred_folds_is_the_partition(k, own):
    predictions, target = made_up(4, n=404, m=2)
    found = partition_of(sources(predictions, target, 3 + np.arange(404) % k), None)
    assert (found.own, found.k) == ((True, k) if own else (False, 5))


def test_fold_names_are_kept_in_order_and_may_differ_between_members():
    predictions, target = made_up(5, m=2)
    fold = 2 - np.arange(90) % 3
    for other in (fold, 7 - fold):
        found = partition_of(sources(predictions, target, fold, other), None)
        assert found.own
        assert found.fold.tolist() == fold.tolist()


@pytest.mark.parametrize("size", [1, 3, 23, 45])
def test_members_with_other_folds_get_dealt_ones_that_keep_groups_whole(size):
    predictions, target = made_up(6, m=2)
    groups, unlike = np.arange(90) // size, (np.arange(90) % 3, np.arange(90) % 4)
    found = partition_of(sources(predictions, target, *unlike), None if size == 1 else groups, seed=4)
    count = int(groups.max()) + 1
    parts = min(5, count)
    due = deal(groups, target, k=parts, seed=4, bins=max(1, min(10, count // parts)))
    assert (found.own, found.k, found.fold.tolist()) == (False, parts, due.tolist())
    assert found.to_dict()["groups_spanning"] == 0


def test_too_few_rows_to_fit_on():
    predictions, target = made_up(7, n=20, m=2)
    with pytest.raises(UserError, match="too few"):
        partition_of(sources(predictions, target, np.arange(20) % 3, np.arange(20) % 4), np.zeros(20, dtype=np.int64))
    fold, groups = np.arange(20) // 10, np.arange(20)
    groups[12:] = 0  # two rows of fold 1 are no near-duplicates of row 0
    assert partition_of(sources(predictions, target, fold), groups).known_for(0).sum() == 2
    groups[11:] = 0
    with pytest.raises(UserError, match="fold 0"):
        partition_of(sources(predictions, target, fold), groups)
