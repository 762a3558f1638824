"""Where rows come from, and the alarms: on real files, the paper's lookup, and a drawn sample's truth."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pawpularity.errors import UserError
from pawpularity.evaluation import leak_detection as leaks
from pawpularity.evaluation.metrics import evaluate
from pawpularity.evaluation.oof import constant_predictions
from pawpularity.evaluation.predictions import Predictions
from pawpularity.sample.spec import TRAIN
from pawpularity.sample.truth import floor, photo_id, plan

CONTEST = leaks.Origin(leaks.CONTEST_KIND, "it")


def of(ids, target, prediction, folds=5):
    table = pd.DataFrame({"Id": ids, "fold": np.arange(len(ids)) % folds, "target": target, "prediction": prediction})
    table = table.sort_values("Id", ignore_index=True)
    return Predictions("x", table, None, constant_predictions(table), None, Path("x.csv"))


def raised(predictions, origin, draws=300):
    metrics = evaluate(predictions.target, predictions.prediction, predictions.constant, None, draws=draws)
    return [sign.name for sign in leaks.leak_signs(predictions, metrics, origin) if sign.raised]


@pytest.mark.parametrize("n", [leaks.FEWEST_ROWS - 1, leaks.FEWEST_ROWS])
def test_below_twenty_rows_nothing_is_said(n):
    target = np.arange(1.0, n + 1)
    answers = of(np.arange(n).astype(str), target, target + 0.1)
    assert raised(answers, CONTEST) == ([] if n < leaks.FEWEST_ROWS else ["R2", "label noise"])


def contest(n, seed=0, bold=1.0):
    """Scores spread as the contest's, and a model of them with an R2 of .3, its predictions `bold` times as far from their mean."""
    random = np.random.default_rng(seed)
    known, noise = random.normal(0, 0.5, n), random.normal(0, 0.75, n)
    score = 33 * np.exp(0.55 * (known + noise))
    target = np.where(
        score > np.quantile(score, 0.97), 100, np.clip(np.rint(score), 1, 100)
    )  # 2.9 % of the contest's are 100
    honest = 38 + bold * (38 * np.exp(0.4 * known) - 38) + random.normal(0, 3, n)
    return target, np.clip(honest, 1, 100)


def small_signs(target, prediction):
    return [leaks.spike_sign(target, prediction).raised, leaks.top_sign(target, prediction).raised]


@pytest.mark.parametrize(
    ("share", "off", "due"), [(0.05, 0.0, [True, True]), (0.1, 0.0, [True, True]), (0.05, 5.0, [False, True])]
)
def test_a_few_known_answers_among_honest_ones(share, off, due):
    for seed in range(5):
        target, prediction = contest(9912, seed)
        random = np.random.default_rng(seed)
        rows = random.random(9912) < share
        prediction[rows] = np.clip(target + random.uniform(-off, off, 9912), 1, 100)[rows]
        assert small_signs(target, prediction) == due
        assert raised(of([f"{i:032x}" for i in range(9912)], target, prediction), CONTEST), "it is looked for"


@pytest.mark.parametrize("bold", [0.7, 1.0, 1.5, 2.5])
@pytest.mark.parametrize("n", [25, 300, 9912])
def test_honest_predictions_raise_no_small_sign(n, bold):
    """Nor if they are rounded, clipped, bold or the constant."""
    for seed in range(5):
        target, prediction = contest(n, seed, bold)
        for one in (
            prediction,
            prediction.round(),
            prediction.astype(np.float16),
            prediction.clip(20, 60),
            target * 0 + 36,
        ):
            assert small_signs(target, np.asarray(one, dtype=float)) == [False, False]


def test_public_files_raise_no_sign_and_leaks_in_them_do(real):
    files = sorted((real / "oof-peers").glob("*.csv"))
    for seed, file in enumerate(files):
        table = pd.read_csv(file, dtype={"Id": str})
        target, random = table["target"].to_numpy(dtype=float), np.random.default_rng(seed)
        assert small_signs(target, table["prediction"].to_numpy()) == [False, False]
        known = np.clip(target + random.uniform(-5, 5, len(table)), 1, 100)
        for answers in (target, known):
            leaked = np.where(random.random(len(table)) < 0.05, answers, table["prediction"])
            assert any(small_signs(target, leaked))


@cache
def entries(seed=4):
    """600 photos of a drawn sample, described and scored but not drawn."""
    return plan(600, seed)


def columns(seed=4):
    ids = [e.id for e in entries(seed)]
    return ids, np.array([e.score for e in entries(seed)], float), np.array([e.expected for e in entries(seed)])


@pytest.fixture
def truth(work):
    """A folder that says what such a sample's truth/ says."""
    folder = Path("drawn/truth")
    folder.mkdir(parents=True)
    (folder / "floor.json").write_text(json.dumps(floor(entries(), 4)))
    ids, _, expected = columns()
    pd.DataFrame({"Id": ids, "expected": expected}).to_csv(folder / "parts.csv", index=False)
    return Path("drawn")


def test_the_noise_of_a_score_can_be_known_only_by_a_leak(truth):
    ids, target, expected = columns()
    random, noise = np.random.default_rng(1), target - expected
    for sd in (0, 2, 5, 10):
        honest = of(ids, target, expected + sd * random.normal(size=600))
        assert (leaks.origin_of(honest, truth).kind, raised(honest, leaks.origin_of(honest, truth))) == (
            leaks.DRAWN_KIND,
            [],
        )
    # 30 % of each score's noise is mixed in: the RMSE still lies above the floor, so nothing else could tell.
    leaked = of(ids, target, expected + random.normal(0, 8, 600) + 0.3 * noise)
    assert raised(leaked, leaks.origin_of(leaked, truth)) == ["knows the noise"]
    # A tenth of the rows are the answers: nearly all others know nothing of the noise.
    few = of(ids, target, np.where(random.random(600) < 0.1, target, expected + random.normal(0, 8, 600)))
    assert raised(few, leaks.origin_of(few, truth)) == ["exact answers among others"]
    below = of(ids, target, expected + 0.5 * noise)
    assert raised(below, leaks.origin_of(below, truth)) == ["noise floor", "knows the noise"]


def test_how_much_of_the_noise_is_known():
    ids, target, expected = columns()
    random, held = np.random.default_rng(3), 0
    order = np.argsort(ids)
    for trial in range(50):
        share = random.uniform(0, 0.5)
        found = of(ids, target, 10 + 0.6 * expected + random.normal(0, 6, 600) + share * (target - expected))
        slope, low, high = leaks.known_noise(found, expected[order], draws=400, seed=trial)
        assert slope == pytest.approx(share, abs=0.12)
        held += low <= share <= high
    assert held >= 47  # of 50 intervals of 99 %


def test_a_drawn_sample_is_found_in_input_or_known_by_its_ids(truth):
    ids, target, expected = columns()
    found = leaks.origin_of(of(ids, target, expected))
    assert (found.kind, found.folder, found.floor, found.expected) == (leaks.DRAWN_KIND, None, None, None)
    for rows in np.array_split(np.random.default_rng(7).permutation(600), 5):  # any fold of it too
        assert leaks.origin_of(of([photo_id(999, TRAIN, i) for i in rows], 50.0, 50.0)).kind == leaks.DRAWN_KIND
    Path("input").mkdir()
    truth.rename("input/sample")
    assert leaks.origin_of(of(ids, target, expected)).folder == Path("input/sample")
    assert leaks.origin_of(of(*columns(5))).folder is None, "rows of another sample"
    (Path("input/sample") / "truth" / "floor.json").write_text('{"floor": null}')
    with pytest.raises(UserError, match=r"floor\.json"):
        leaks.origin_of(of(ids, target, expected))


@pytest.mark.parametrize(
    ("change", "kind"),
    [({}, "contest"), ({"Id": lambda t: t["Id"] + "-flip"}, "contest"), ({"Id": lambda t: t["Id"].str.upper() + ".jpg"}, "contest"),
     ({"Id": lambda t: t["Id"].str[1:]}, "other"),
     ({"Id": lambda t: t["Id"].where(t.index > 0, "odd one")}, "other"), ({"target": lambda t: t["target"] + 0.5}, "other")],
)  # fmt: skip
def test_other_data_gives_no_alarm_and_says_so(work, paw, change, kind):
    target = np.random.default_rng(6).integers(1, 101, 40).astype(float)
    of([f"{i:032x}" for i in range(40)], target, target + 0.1).table.assign(**change).to_csv("x.csv", index=False)
    done = paw("oof", "x.csv", "--json", "found.json")
    (found,) = json.loads(Path("found.json").read_text())["runs"]
    assert found["kind_of_data"] == kind
    assert bool(found["alarms"]) == ("LEAK ALARM" in done.out) == (kind == "contest")
    assert ("no alarm possible" in done.out) == (kind == "other")


def test_data_of_other_rows_is_refused(real, truth, drawn, refused, paw):
    ids, target, expected = columns()
    of(ids, target, expected + 1).table.to_csv("x.csv", index=False)
    assert "noise floor" in paw("oof", "x.csv", "--data", "drawn").out
    Path("empty").mkdir()
    for data in (drawn, real / "pawpularity-100", "nowhere", "empty"):
        assert str(data) in refused("oof", "x.csv", "--data", data)
    peer = real / "oof-peers" / "v1.csv"
    assert "drawn" in refused("oof", peer, "--data", "drawn")
    # A part of the contest's photos is the contest's data, and so are its labels alone.
    for data in (real / "pawpularity-100", real / "pawpularity-labels", real / "pawpularity-labels" / "train.csv"):
        assert paw("oof", peer, "--data", data).code == 0
