import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pawpularity.studies.leakage.replay import answers_table

from pawpularity.data.tables import read_train
from pawpularity.errors import UserError
from pawpularity.evaluation.alarm import FEWEST_ROWS, known_noise, leak_signs
from pawpularity.evaluation.metrics import score
from pawpularity.evaluation.oof import constant_predictions, read_oof
from pawpularity.evaluation.origin import CONTEST_KIND, DRAWN_KIND, OTHER_KIND, Origin, expected_scores, origin_of
from pawpularity.evaluation.sources import Source, open_source
from pawpularity.sample.spec import TEST, TRAIN, score_variance
from pawpularity.sample.truth import floor, photo_id, plan

PEERS = ("v1", "v12", "v19", "v31", "v44", "v57", "v62", "v63")
CONTEST = Origin(CONTEST_KIND, "it")


def source_of(ids, target, prediction, folds=5):
    table = pd.DataFrame({"Id": ids, "fold": np.arange(len(ids)) % folds, "target": target, "prediction": prediction})
    table = table.sort_values("Id", ignore_index=True)
    return Source("x", table, None, constant_predictions(table), None, Path("x.csv"))


def raised(source, origin, draws=500):
    result = score(source.target, source.prediction, source.constant, source.groups, draws=draws)
    return [sign.name for sign in leak_signs(source, result, origin) if sign.raised]


@pytest.fixture(scope="module")
def blend(real):
    """Target and mean of the eight real files: honest, and better than any of them."""
    tables = [read_oof(real / "oof-peers" / f"{name}.csv") for name in PEERS]
    return tables[0]["target"].to_numpy(), np.mean([table["prediction"] for table in tables], axis=0)


@pytest.mark.parametrize(
    ("n", "times", "most"),
    [(20, 500, 15), (120, 200, 5), (992, 100, 0)],
)
def test_an_honest_blend_is_hardly_ever_accused(blend, n, times, most):
    """Known: false alarms 1 % at n = 20, 0.6 % at 120, 0 of 400 at 992."""
    target, prediction = blend
    random = np.random.default_rng(n)
    accused = 0
    for _ in range(times):
        rows = random.choice(len(target), n, replace=False)
        accused += bool(raised(source_of([str(i) for i in rows], target[rows], prediction[rows]), CONTEST, draws=300))
    assert accused <= most


def test_too_few_rows_accuse_nobody(blend, work, paw):
    """Three honest rows lie below the labels' noise in one case of five: nothing can be said of them."""
    target, prediction = blend
    random = np.random.default_rng(0)
    for n in (1, 2, 3, 10, FEWEST_ROWS - 1):
        for _ in range(30):
            rows = random.choice(len(target), n, replace=False)
            assert not raised(source_of([str(i) for i in rows], target[rows], prediction[rows]), CONTEST, draws=50)
    few = source_of([f"{i:032x}" for i in range(19)], target[:19], target[:19])
    few.table.to_csv("few.csv", index=False)
    assert "no alarm can be given: 19 rows are too few (20 at least)" in paw("oof", "few.csv").out
    more = source_of([f"{i:032x}" for i in range(20)], target[:20], target[:20] + 0.1)
    more.table.to_csv("more.csv", index=False)
    assert json.loads(paw("oof", "more.csv", "--json", "-").out)["runs"][0]["alarms"] == ["R2", "label noise"]


def test_real_files_pass(real, work, paw):
    done = paw("oof", *(real / "oof-peers" / f"{name}.csv" for name in PEERS), "--json", "-")
    rows = json.loads(done.out)["runs"]
    assert {row["run"] for row in rows} == set(PEERS)
    assert [row["alarms"] for row in rows] == [[]] * 8
    assert {row["kind_of_data"] for row in rows} == {"contest"}


def test_the_papers_lookup_is_caught(real, work, paw):
    """Answers from copies' labels, without looking at any photo: RMSE 9.305, R2 .886."""
    labels = pd.read_csv(real / "pawpularity-labels" / "train.csv")
    table = answers_table(labels["Id"].tolist(), labels["Pawpularity"].to_numpy(dtype=float))
    table.to_csv("lookup.csv", index=False)
    done = paw("oof", "lookup.csv", "--json", "found.json")
    found = json.loads(Path("found.json").read_text())["runs"][0]
    assert found["alarms"] == ["R2", "label noise"]
    assert found["kind_of_data"] == "contest"
    assert found["score"]["rmse"] == pytest.approx(9.305196, abs=1e-5)
    assert found["score"]["r2"] == pytest.approx(0.886, abs=5e-4)
    assert done.out.count("LEAK ALARM: ") == 2
    assert "LEAK ALARM (R2, label noise)" in paw("oof", "lookup.csv", real / "oof-peers" / "v1.csv").out


@cache
def entries(seed=4):
    """600 photos of a drawn shelter, described and scored but not drawn."""
    return plan(600, seed)


@pytest.fixture
def shelter_600(work):
    """A folder that says what such a shelter's truth/ says."""
    truth = Path("drawn/truth")
    truth.mkdir(parents=True)
    (truth / "floor.json").write_text(json.dumps(floor(entries(), 4)))
    pd.DataFrame({"Id": [e.id for e in entries()], "expected": [e.expected for e in entries()]}).to_csv(
        truth / "parts.csv", index=False
    )
    return Path("drawn")


def columns(seed=4):
    ids = [e.id for e in entries(seed)]
    return ids, np.array([e.score for e in entries(seed)], float), np.array([e.expected for e in entries(seed)])


def test_the_truth_of_a_shelter_that_was_drawn(drawn):
    found = expected_scores(drawn)
    for entries in (plan(60, 3), plan(5, 3, TEST)):
        assert [found.pop(e.id) for e in entries] == pytest.approx([e.expected for e in entries], abs=1e-4)
    assert not found


def test_an_honest_predictor_of_drawn_pets_raises_nothing(shelter_600):
    ids, target, expected = columns()
    random = np.random.default_rng(1)
    for sd in (0, 2, 5, 10):
        for _ in range(10):
            source = source_of(ids, target, expected + random.normal(0, sd, 600) if sd else expected)
            origin = origin_of(source, shelter_600)
            assert origin.kind == DRAWN_KIND
            assert raised(source, origin, draws=100) == []


def test_a_predictor_that_knows_the_noise_is_caught(shelter_600):
    """30 % of each score's noise is mixed in: the RMSE still lies above the floor, so nothing else could tell."""
    ids, target, expected = columns()
    random = np.random.default_rng(2)
    for _ in range(10):
        source = source_of(ids, target, expected + random.normal(0, 8, 600) + 0.3 * (target - expected))
        assert raised(source, origin_of(source, shelter_600), draws=100) == ["knows the noise"]


def test_how_much_of_the_noise_is_known(shelter_600):
    ids, target, expected = columns()
    random = np.random.default_rng(3)
    held = 0
    for trial in range(100):
        share = random.uniform(0, 0.5)
        prediction = 10 + 0.6 * expected + random.normal(0, 6, 600) + share * (target - expected)
        source = source_of(ids, target, prediction)
        own = dict(zip(ids, expected, strict=True))
        slope, low, high = known_noise(source, np.array([own[i] for i in source.table["Id"]]), draws=400, seed=trial)
        assert slope == pytest.approx(share, abs=0.12)
        held += low <= share <= high
    assert held >= 95  # of 100 intervals of 99 %


def test_below_the_floor(shelter_600):
    ids, target, expected = columns()
    source = source_of(ids, target, expected + 0.5 * (target - expected))
    origin = origin_of(source, shelter_600)
    assert origin.floor == pytest.approx(np.sqrt(score_variance(np.array([e.mean for e in entries()])).mean()), abs=0.1)
    assert raised(source, origin) == ["noise floor", "knows the noise"]
    # The true mean itself scores the floor, and is not accused.
    own = source_of(ids, target, expected)
    assert raised(own, origin_of(own, shelter_600)) == []


def test_a_drawn_shelter_is_known_by_its_ids_alone(work):
    ids, target, expected = columns()
    source = source_of(ids, target, expected)
    origin = origin_of(source)
    assert (origin.kind, origin.floor, origin.expected) == (DRAWN_KIND, None, None)
    assert "seed 4 " in origin.why
    assert raised(source, origin) == []
    # Any fold of it too, or else its R2 of .7 would be an alarm on contest data.
    random = np.random.default_rng(7)
    for seed in range(0, 1000, 25):
        order = random.permutation(600)
        for rows in np.array_split(order, 5):
            fold = source_of([photo_id(seed, TRAIN, index) for index in rows], 50.0, 50.0)
            assert f"seed {seed} " in origin_of(fold).why
    ids, target, expected = columns(1000)
    assert origin_of(source_of(ids, target, expected)).kind == CONTEST_KIND, "beyond the seeds that are known"


def test_the_folder_that_was_named_is_at_hand_without_its_truth(shelter):
    """Its photos are there to be looked at, whatever is known of the scores."""
    ids = read_train(shelter)["Id"].tolist()
    shutil.rmtree(shelter / "truth")
    scores = np.full(len(ids), 40.0)
    origin = origin_of(source_of(ids, scores, scores), shelter)
    assert (origin.kind, origin.folder, origin.floor) == (DRAWN_KIND, shelter, None)


def test_the_sample_is_found_where_it_always_lies(shelter_600):
    ids, target, expected = columns()
    source = source_of(ids, target, expected)
    assert origin_of(source).floor is None
    Path("input").mkdir()
    shelter_600.rename("input/sample")
    assert origin_of(source).floor is not None
    assert origin_of(source).folder == Path("input/sample")
    # Rows of another shelter are none of its.
    ids, target, expected = columns(5)
    assert origin_of(source_of(ids, target, expected)).folder is None


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda t: t, CONTEST_KIND),
        (lambda t: t.assign(Id=[f"photo {i}" for i in range(len(t))]), OTHER_KIND),
        (lambda t: t.assign(Id="A" + t["Id"].str[1:]), OTHER_KIND),
        (lambda t: t.assign(Id=t["Id"].str[1:]), OTHER_KIND),
        (lambda t: t.assign(Id=t["Id"].where(t.index > 0, "odd one")), OTHER_KIND),
        (lambda t: t.assign(target=t["target"] + 0.5), OTHER_KIND),
        (lambda t: t.assign(target=t["target"].where(t.index > 0, 0)), OTHER_KIND),
        (lambda t: t.assign(target=t["target"].where(t.index > 0, 101)), OTHER_KIND),
        (lambda t: t.assign(Id=t["Id"] + "-flip"), CONTEST_KIND),
    ],
)
def test_other_data_gives_no_alarm_and_says_so(work, paw, change, kind):
    target = np.random.default_rng(6).integers(1, 101, 40).astype(float)
    source = source_of([f"{i:032x}" for i in range(40)], target, target + 0.1)
    table = change(source.table).sort_values("Id", ignore_index=True)
    table.to_csv("x.csv", index=False)
    assert origin_of(open_source("x.csv")).kind == kind
    done = paw("oof", "x.csv")
    if kind == CONTEST_KIND:
        assert "LEAK ALARM: R2" in done.out
    else:
        assert "alarm can be given: the Ids or scores are not as the contest's" in done.out
        assert "LEAK ALARM" not in done.out + paw("oof", "x.csv", "x.csv").out


def test_scores_that_do_not_vary_say_nothing(work, paw):
    source = source_of([f"{i:032x}" for i in range(40)], np.full(40, 38.0), np.full(40, 38.0))
    source.table.to_csv("x.csv", index=False)
    done = paw("oof", "x.csv")
    assert "LEAK ALARM" not in done.out
    assert "nan" not in done.out


def test_data_of_other_rows_is_refused(real, shelter_600, shelter, refused, paw):
    ids, target, expected = columns()
    source = source_of(ids, target, expected + np.random.default_rng(0).normal(0, 5, 600))
    source.table.to_csv("x.csv", index=False)
    assert "noise floor" in paw("oof", "x.csv", "--data", "drawn").out
    assert f"--data {shelter}: does not know" in refused("oof", "x.csv", "--data", shelter)
    assert "knows none of the 600 rows of x.csv" in refused("oof", "x.csv", "--data", real / "pawpularity-100")
    assert "there is no such folder or file" in refused("oof", "x.csv", "--data", "nowhere")
    Path("empty").mkdir()
    assert "holds no train.csv" in refused("oof", "x.csv", "--data", "empty")
    peer = real / "oof-peers" / "v1.csv"
    assert "does not know 0007de18844b0dbbb5e1f607da0606e0" in refused("oof", peer, "--data", "drawn")
    # A part of the contest's photos is the contest's data, and so are its labels alone.
    for data in (real / "pawpularity-100", real / "pawpularity-labels", real / "pawpularity-labels" / "train.csv"):
        assert "no alarm: R2" in paw("oof", peer, "--data", data).out


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"floor": "low"}', '{"floor": null}'])
def test_a_damaged_truth_is_named(shelter_600, text):
    ids, target, expected = columns()
    (shelter_600 / "truth" / "floor.json").write_text(text)
    with pytest.raises(UserError, match=r"floor\.json"):
        origin_of(source_of(ids, target, expected), shelter_600)
