"""The replay against an independent computation on the contest's labels, and against torch's own random_split."""

import numpy as np
import pytest
import torch
from torch.utils.data import random_split

from pawpularity.data.augment import copies
from pawpularity.data.tables import read_train
from pawpularity.evaluation.metrics import rmse
from pawpularity.studies.leakage.replay import answers_table, item_split, lookup, over_seeds, replay, siblings_of


@pytest.fixture(scope="module")
def scores(real):
    return read_train(real / "pawpularity-labels" / "train.csv")["Pawpularity"].to_numpy()


def test_the_contest_to_the_digit(scores):
    found = replay(scores)
    assert (found.photos, found.items, found.copied_photos) == (9912, 16962, 3536)
    assert (found.validation, found.siblings) == (1697, 990)
    assert found.sibling_share == pytest.approx(0.58338, abs=5e-6)
    assert found.training_mean == pytest.approx(44.8263, abs=5e-5)
    assert found.lookup_rmse == pytest.approx(9.305196, abs=5e-7)
    assert found.constant_rmse == pytest.approx(27.555862, abs=5e-7)
    assert found.sd == pytest.approx(27.538077, abs=5e-7)
    assert found.r2 == pytest.approx(0.886, abs=5e-4)
    assert (found.leaked_mean, found.leaked_sd) == (pytest.approx(54.913, abs=5e-4), pytest.approx(32.426, abs=5e-4))
    assert (found.other_mean, found.other_sd) == (pytest.approx(33.078, abs=5e-4), pytest.approx(8.355, abs=5e-4))


def test_without_copies_nothing_leaks(scores):
    found = replay(scores, "none")
    assert (found.items, found.validation, found.siblings) == (9912, 992, 0)
    assert (found.sd, found.constant_rmse) == (pytest.approx(21.0925, abs=5e-5), pytest.approx(21.0931, abs=5e-5))
    assert found.lookup_rmse == found.constant_rmse
    assert found.to_dict()["leaked_mean"] is None


def test_the_papers_text_read_literally(scores):
    found = replay(scores, "paper")
    assert (found.copied_photos, found.items) == (2248, 12160)


def test_other_seeds(scores):
    found = over_seeds(scores)
    share, value, constant = found["sibling_share"], found["lookup_rmse"], found["constant_rmse"]
    assert (share["mean"], share["sd"]) == (pytest.approx(0.60240, abs=5e-6), pytest.approx(0.01205, abs=5e-6))
    assert (value["mean"], value["sd"]) == (pytest.approx(9.3134, abs=5e-5), pytest.approx(0.2659, abs=5e-5))
    assert (value["low"], value["high"]) == (pytest.approx(8.749, abs=5e-4), pytest.approx(10.258, abs=5e-4))
    assert (constant["mean"], constant["sd"]) == (pytest.approx(27.6975, abs=5e-5), pytest.approx(0.3502, abs=5e-5))


def test_the_split_is_random_splits():
    items = list(range(1000))
    train, validation = random_split(items, [900, 100], generator=torch.Generator().manual_seed(42))
    split = item_split(np.full(1000, 30.0), "authors")
    assert sorted(validation.indices) == np.flatnonzero(split.validated).tolist()
    assert sorted(train.indices) == np.flatnonzero(~split.validated).tolist()


def test_a_sibling_is_another_item_of_the_photo():
    scores = np.array([5.0, 30.0, 55.0, 70.0] * 30)
    split = item_split(scores, seed=3)
    trained = {int(r) for r in split.rows[~split.validated]}
    assert siblings_of(split).tolist() == [int(r) in trained for r in split.rows[split.validated]]
    answers, mean = lookup(scores, split)
    known = siblings_of(split)
    target = scores[split.rows[split.validated]]
    assert (answers[known] == target[known]).all()
    assert (answers[~known] == mean).all()
    assert not known[target == 30].any()  # nobody copies these


def test_answers_as_a_table(scores):
    ids = [f"{i:032x}" for i in range(len(scores))]
    table = answers_table(ids, scores)
    assert len(table) == 1697
    assert table["Id"].is_unique
    assert rmse(table["target"], table["prediction"]) == pytest.approx(9.305196, abs=5e-7)


def test_copies_of_a_rule_that_draws_them_are_those_of_seed_0():
    """The paper's text gives each rare photo one copy, of a kind that is drawn; the split has a seed of its own."""
    scores = np.random.default_rng(0).integers(1, 101, 400).astype(float)
    due = np.argwhere(copies(scores, "paper", 0)).tolist()
    assert due != np.argwhere(copies(scores, "paper", 1)).tolist()
    for seed in (1, 42):
        split = item_split(scores, "paper", seed=seed)
        assert np.stack([split.rows, split.copies], axis=1).tolist() == due
    answers = [lookup(scores, item_split(scores, "paper", seed=seed))[0] for seed in range(200)]
    targets = []
    for seed in range(200):
        split = item_split(scores, "paper", seed=seed)
        targets.append(scores[split.rows[split.validated]])
    values = [rmse(target, answer) for target, answer in zip(targets, answers, strict=True)]
    assert over_seeds(scores, "paper")["lookup_rmse"]["mean"] == pytest.approx(np.mean(values), rel=1e-12)


def test_r2_needs_scores_that_vary_however_little():
    assert replay(np.full(100, 30.0)).to_dict()["r2"] is None
    little = replay(np.tile([50.0, 50.5], 50))
    assert 0 < little.sd < 1
    assert little.r2 == pytest.approx(1 - (little.lookup_rmse / little.sd) ** 2)


def test_answers_are_one_fold_and_numbered_in_the_order_of_their_ids():
    scores = np.array([5.0, 30.0, 55.0, 70.0] * 30)
    table = answers_table([f"p{i:03d}" for i in range(len(scores))][::-1], scores)
    assert set(table["fold"]) == {0}
    assert table.index.tolist() == list(range(len(table)))
    assert table["Id"].is_monotonic_increasing
