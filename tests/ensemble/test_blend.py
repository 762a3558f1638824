"""Cross-fitting: what weights may see, and which folds they are fitted by. Figures of real files are in tests/oracles."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pawpularity.data.folds import deal
from pawpularity.ensemble.blend import Partition, cross_fit, open_members, partition_of
from pawpularity.ensemble.methods import NAMES
from pawpularity.errors import UserError
from pawpularity.evaluation.predictions import Predictions


def made_up(seed=0, n=90, m=4):
    random = np.random.default_rng(seed)
    signal = random.normal(38, 9, n)
    target = np.clip(np.rint(signal + random.normal(0, 12, n)), 1, 100)
    return signal[:, None] + random.normal(0, 5, (n, m)), target


def sources(predictions, target, *folds, groups=None):
    """Members in memory. `folds`: one column for all, or one each."""
    folds = folds if len(folds) > 1 else folds * predictions.shape[1]
    ids = [f"{i:04d}" for i in range(len(target))]
    tables = [
        pd.DataFrame({"Id": ids, "fold": fold, "target": target, "prediction": p})
        for fold, p in zip(folds, predictions.T, strict=False)
    ]
    constant = np.full(len(target), target.mean())
    return [Predictions(f"m{j}", table, groups, constant, None, Path(f"m{j}.csv")) for j, table in enumerate(tables)]


def cross_fitted(predictions, target, partition, method):
    return cross_fit(method, sources(predictions, target, partition.fold), partition).prediction


@pytest.mark.parametrize("method", NAMES)
def test_weights_never_see_the_scored_fold_nor_its_near_duplicates(method):
    predictions, target = made_up()
    fold, groups = np.arange(90) % 3, np.arange(90)
    groups[[0, 1, 4]] = 7  # folds 0, 1 and 1; row 7, of fold 1, is in this group too
    partition = Partition(fold, groups, True, True, "")
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


def test_the_order_of_rows_and_files_changes_nothing(tmp_path):
    predictions, target = made_up(1)
    table = pd.DataFrame({"Id": [f"{i:04d}" for i in range(90)], "fold": np.arange(90) % 3, "target": target})
    blends = []
    for order, shuffled in ((range(4), False), ([2, 0, 3, 1], True)):
        for j in order:
            rows = np.random.default_rng(j).permutation(90) if shuffled else slice(None)
            table.assign(prediction=predictions[:, j]).iloc[rows].to_csv(tmp_path / f"m{j}.csv", index=False)
        members = open_members([str(tmp_path / f"m{j}.csv") for j in order])
        blends.append(cross_fit("ridge-gcv+affine", members, partition_of(members)))
    np.testing.assert_array_equal(blends[0].prediction, blends[1].prediction)
    np.testing.assert_array_equal(blends[0].weights.members, blends[1].weights.members)


@pytest.mark.parametrize(("k", "own"), [(1, False), (2, True), (100, True), (101, False)])
def test_a_shared_column_of_two_to_a_hundred_folds_is_the_partition(k, own):
    predictions, target = made_up(4, n=404, m=2)
    found = partition_of(sources(predictions, target, 3 + np.arange(404) % k))
    assert (found.own, found.k) == ((True, k) if own else (False, 5))


def test_fold_names_are_kept_in_order_and_may_differ_between_members():
    predictions, target = made_up(5, m=2)
    fold = 2 - np.arange(90) % 3
    for other in (fold, 7 - fold):
        found = partition_of(sources(predictions, target, fold, other))
        assert found.own
        assert found.fold.tolist() == fold.tolist()


@pytest.mark.parametrize("size", [1, 3, 23, 45])
def test_members_with_other_folds_get_dealt_ones_that_keep_groups_whole(size):
    predictions, target = made_up(6, m=2)
    groups, unlike = np.arange(90) // size, (np.arange(90) % 3, np.arange(90) % 4)
    found = partition_of(sources(predictions, target, *unlike, groups=None if size == 1 else groups), seed=4)
    count = int(groups.max()) + 1
    parts = min(5, count)
    due = deal(groups, target, k=parts, seed=4, bins=max(1, min(10, count // parts)))
    assert (found.own, found.k, found.fold.tolist()) == (False, parts, due.tolist())
    assert found.to_dict()["groups_spanning"] == 0


def test_too_few_rows_to_fit_on():
    predictions, target = made_up(7, n=20, m=2)
    with pytest.raises(UserError, match="too few"):
        partition_of(sources(predictions, target, np.arange(20) % 3, np.arange(20) % 4, groups=np.zeros(20, dtype=int)))
    fold, groups = np.arange(20) // 10, np.arange(20)
    groups[12:] = 0  # two rows of fold 1 are no near-duplicates of row 0
    assert partition_of(sources(predictions, target, fold, groups=groups)).known_for(0).sum() == 2
    groups[11:] = 0
    with pytest.raises(UserError, match="fold 0"):
        partition_of(sources(predictions, target, fold, groups=groups))
