"""The paper's leak, replayed from labels alone, and the detector that must see such leaks and let honest files pass.

Figures of the contest come from an independent computation; the small replay is computed here a second time.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from tests.oracles import adapter
from torch.utils.data import random_split

CONTEST = {
    "photos": 9912, "items": 16962, "copied_photos": 3536, "validation": 1697, "siblings": 990, "sibling_share": 0.58338,
    "training_mean": 44.8263, "lookup_rmse": 9.305196, "constant_rmse": 27.555862, "sd": 27.538077, "r2": 0.886,
    "leaked_mean": 54.913, "leaked_sd": 32.426, "other_mean": 33.078, "other_sd": 8.355,
}  # fmt: skip
OVER_SEEDS = {"sibling_share": (0.60240, 0.01205), "lookup_rmse": (9.3134, 0.2659), "constant_rmse": (27.6975, 0.3502)}


def test_the_contests_leak_to_the_digit(real, work):
    labels = real / "pawpularity-labels" / "train.csv"
    found = adapter.leak_replay(labels, work)
    for name, value in CONTEST.items():
        digits = len(str(value).partition(".")[2])
        assert found[name] == pytest.approx(value, abs=0.5001 * 10**-digits if digits else 0), name
    for name, (mean, sd) in OVER_SEEDS.items():
        due = pytest.approx((mean, sd), abs=1e-5 if name == "sibling_share" else 5e-5)
        assert (found["over_seeds"][name]["mean"], found["over_seeds"][name]["sd"]) == due
    plain, literal = (adapter.leak_replay(labels, work, copies=rule) for rule in ("none", "paper"))
    assert (plain["items"], plain["validation"], plain["siblings"]) == (9912, 992, 0)
    assert (plain["sd"], plain["constant_rmse"]) == pytest.approx((21.0925, 21.0931), abs=5e-5)
    assert (literal["copied_photos"], literal["items"]) == (2248, 12160)


def test_a_small_leak_computed_a_second_time(work):
    """Copies by the authors' rule, torch's own random_split, and a lookup, without the package."""
    scores = np.random.default_rng(0).integers(1, 101, 400).astype(float)
    table = (
        {"Id": [f"{i:03d}" for i in range(400)]}
        | dict.fromkeys(adapter.METADATA, 0)
        | {"Pawpularity": scores.astype(int)}
    )
    pd.DataFrame(table).to_csv(work / "labels.csv", index=False)
    copies = 1 + ((scores <= 20) | (scores >= 50)) + 2 * ((scores <= 10) | (scores >= 60))
    photo = np.repeat(np.arange(400), copies)
    n = int(0.9 * len(photo))
    parts = random_split(range(len(photo)), [n, len(photo) - n], generator=torch.Generator().manual_seed(42))
    train, held = map(list, parts)
    seen, target = photo[train], scores[photo[held]]
    mean, known = scores[seen].mean(), np.isin(photo[held], seen)
    found = adapter.leak_replay(work / "labels.csv", work, answers=work / "answers.csv")
    assert (found["items"], found["validation"], found["siblings"]) == (len(photo), len(target), known.sum())
    assert found["lookup_rmse"] == pytest.approx(np.sqrt(np.mean(np.where(known, 0, target - mean) ** 2)))
    assert found["constant_rmse"] == pytest.approx(np.sqrt(np.mean((target - mean) ** 2)))
    answers = pd.read_csv(work / "answers.csv")
    assert np.sqrt(np.mean((answers["target"] - answers["prediction"]) ** 2)) == pytest.approx(found["lookup_rmse"])


def test_public_files_pass_and_the_lookup_is_caught(real, mean_of_eight, work):
    mean_of_eight.to_csv(work / "blend.csv", index=False)
    assert adapter.leak_alarms(work / "blend.csv", work) == (False, set())
    for file in sorted((real / "oof-peers").glob("*.csv")):
        assert adapter.own_score(work, file)["alarms"] == [], file.stem
    adapter.leak_replay(real / "pawpularity-labels" / "train.csv", work, answers=work / "lookup.csv")
    leak, signs = adapter.leak_alarms(work / "lookup.csv", work)
    assert leak
    assert "R2" in signs


@pytest.mark.parametrize(("n", "draws", "most"), [(120, 200, 5), (992, 40, 0)])
def test_false_alarms_are_rare(mean_of_eight, n, draws, most):
    """Rows drawn from a blend of public files: R2's lower end above 0.36 in 0.6 % of draws of 120 rows, in none of 992."""
    random = np.random.default_rng(0)
    target, prediction = mean_of_eight["target"].to_numpy(float), mean_of_eight["prediction"].to_numpy()
    alarms = 0
    for _ in range(draws):
        rows = random.choice(len(target), n, replace=False)
        r2, low, high = adapter.r2_interval(target[rows], prediction[rows])
        assert r2 == pytest.approx(1 - np.mean((target - prediction)[rows] ** 2) / np.var(target[rows]))
        assert low < r2 < high
        alarms += low > 0.36
    assert alarms <= most
