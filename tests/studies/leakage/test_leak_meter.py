"""The leak meter: neighbours against scikit-learn, its signs against made leaks, and the real command on real files."""

import json
import math
import shutil
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from sklearn.neighbors import NearestNeighbors
from tests.studies.leakage.rows_by_hand import source

from pawpularity.data.duplicates import is_copy
from pawpularity.data.tables import read_train
from pawpularity.evaluation.leak_detection import (
    Neighbours,
    Origin,
    copies_of,
    copies_sign,
    deciles,
    extremes_remark,
    nearest_across_folds,
    pair_sign,
    signs_of,
    spanning_sign,
    standardised,
    verdict_of,
)
from pawpularity.evaluation.metrics import evaluate
from pawpularity.evaluation.oof import write_oof
from pawpularity.evaluation.predictions import Predictions
from pawpularity.sample.truth import plan

PEERS = ("v1", "v12", "v19", "v31", "v44", "v57", "v62", "v63")


def test_neighbours_are_scikit_learns_and_of_another_fold():
    random = np.random.default_rng(0)
    features, fold = random.normal(size=(300, 12)).astype(np.float32) * 5 + 3, random.integers(0, 4, 300)
    unit = standardised(features)
    near = nearest_across_folds(unit, fold)
    for k in range(4):
        others = np.flatnonzero(fold != k)
        mine = np.flatnonzero(fold == k)
        distance, at = NearestNeighbors(n_neighbors=1, metric="cosine").fit(unit[others]).kneighbors(unit[mine])
        assert (near.at[mine] == others[at[:, 0]]).all()
        np.testing.assert_allclose(near.similarity[mine], 1 - distance[:, 0], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)


def test_one_fold_has_no_neighbours():
    near = nearest_across_folds(
        standardised(np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)), np.zeros(9, int)
    )
    assert (near.at == -1).all()
    assert np.isnan(near.similarity).all()


def by_hand(pairs):
    """RMSE of (target, answer) pairs."""
    return math.sqrt(sum((t - a) ** 2 for t, a in pairs) / len(pairs))


def test_the_error_by_how_alike_the_neighbour_is_and_of_the_copies():
    """Of a table's 60 rows 47 have a photo; neighbours are counted among those."""
    random = np.random.default_rng(3)
    own = source(random.uniform(1, 100, 60), random.uniform(20, 60, 60), np.arange(60) % 3)
    rows = np.sort(random.choice(60, 47, replace=False))
    near = Neighbours(random.integers(0, 47, 47), random.permutation(np.linspace(0.1, 0.9, 47)))
    target, prediction, constant = (own.target[rows], own.prediction[rows], own.constant[rows])
    parts, start = [], 0
    ranked = sorted(range(47), key=lambda i: near.similarity[i])
    for size in [5] * 7 + [4] * 3:
        parts.append(ranked[start : start + size])
        start += size
    for found, part in zip(deciles(own, rows, near), parts, strict=True):
        assert found.n == len(part)
        assert found.similarity == pytest.approx(statistics.median(near.similarity[i] for i in part))
        assert found.rmse == pytest.approx(by_hand([(target[i], prediction[i]) for i in part]))
        assert found.copying_rmse == pytest.approx(by_hand([(target[i], target[near.at[i]]) for i in part]))
        assert found.constant_rmse == pytest.approx(by_hand([(target[i], constant[i]) for i in part]))
    chosen = np.isin(np.arange(47), ranked[-12:-3])
    copies = copies_of(own, rows, near, float(near.similarity[ranked[-12]]), chosen)
    assert (copies.looked_at, copies.suspected, copies.rows, copies.share) == (47, 12, 9, pytest.approx(9 / 47))
    assert copies.rmse == pytest.approx(by_hand([(target[i], prediction[i]) for i in ranked[-12:-3]]))
    assert copies.other_rmse == pytest.approx(by_hand([(target[i], prediction[i]) for i in ranked[:-12] + ranked[-3:]]))
    assert copies.copying_rmse == pytest.approx(by_hand([(target[i], target[near.at[i]]) for i in ranked[-12:-3]]))
    assert not copies_sign(copies).raised, "nine rows"
    assert copies_sign(copies_of(own, rows, near, 0.5, np.arange(47) < 10)).raised
    nobody = copies_of(own, rows, near, 2.0, np.zeros(47, dtype=bool)).to_dict()
    assert (nobody["suspected"], nobody["rows"], nobody["rmse"], nobody["copying_rmse"]) == (0, 0, None, None)
    assert nobody["other_rmse"] == pytest.approx(by_hand(list(zip(target, prediction, strict=True))))


def test_the_ends_of_the_scale_are_told():
    own = source([20.0, 10.0, 21.0, 99.0, 100.0, 100.0], [24.0, 13.0, 50.0, 50.0, 60.0, 70.0], [0, 1, 0, 1, 0, 1])
    assert extremes_remark(own, "other") == (
        "predictions 13.0 to 70.0; RMSE of true scores <=20: 3.5 (n 2), 100: 35.4 (n 2)"
    )  # sqrt((16 + 9) / 2) and sqrt((1600 + 900) / 2)
    assert extremes_remark(own, "contest").endswith("(an honest blend of the contest: 24 and 43)")


def pairs_of(follow, count=40, seed=0):
    """`count` photos posted twice; predictions follow a share `follow` of each posting's own noise."""
    random = np.random.default_rng(seed)
    base, noise = np.repeat(random.uniform(20, 60, count), 2), random.normal(0, 12, 2 * count)
    prediction = base + follow * noise + random.normal(0, 1, 2 * count)
    return source(base + noise, prediction, np.arange(2 * count) % 5, np.repeat(np.arange(count), 2))


@pytest.mark.parametrize(("follow", "raised"), [(0.0, False), (0.1, False), (0.8, True)])
def test_predictions_that_follow_one_posting_are_seen(follow, raised):
    pairs = pairs_of(follow)
    sign = pair_sign(pairs)
    assert sign is not None
    assert sign.raised == raised
    apart = [np.diff(values.reshape(-1, 2))[:, 0] for values in (pairs.target, pairs.prediction)]
    slope = np.linalg.lstsq(apart[0][:, None], apart[1], rcond=None)[0][0]
    assert f"predictions follow by {slope:+.2f} points a point" in sign.text


def test_predictions_that_follow_the_other_posting_are_seen():
    honest = pairs_of(0.0)
    other = honest.target.reshape(-1, 2)[:, ::-1].ravel()
    table = honest.table.assign(prediction=0.8 * other + 8)
    assert pair_sign(Predictions("x", table, honest.groups, honest.constant, None, Path("x"))).raised
    assert spanning_sign(honest).raised
    assert "40 of 40 groups of near-duplicates span folds" in spanning_sign(honest).text


def test_too_few_pairs_say_nothing():
    assert pair_sign(pairs_of(0.8, count=9)) is None
    assert pair_sign(source(np.arange(9.0), np.arange(9.0), np.arange(9) % 2)) is None


@pytest.mark.parametrize("leak", [0.0, 0.1, 0.3])
def test_predictions_that_know_the_noise_of_a_drawn_score(leak):
    """2,000 planned photos; an honest net sees the true mean through fog, a leaky one also some of the noise."""
    entries = plan(2000, 5)
    target, expected = np.array([float(e.score) for e in entries]), np.array([e.expected for e in entries])
    fog = np.random.default_rng(1).normal(0, 8, 2000)
    own = source(target, 0.8 * expected + 8 + fog + leak * (target - expected), np.arange(2000) % 5)
    result = evaluate(own.target, own.prediction, own.constant)
    signs = signs_of(own, result, Origin("drawn", "test", floor=10.4, expected=expected), None)
    assert verdict_of(signs) == ("leak" if leak else "pass")
    assert [s.name for s in signs if s.raised] == (["knows the noise"] if leak else [])


def test_copies_are_found_mirrored_and_cropped(drawn, tmp_path):
    paths = sorted((drawn / "train").glob("*.jpg"))[:12]
    for i, path in enumerate(paths[:6]):
        photo = Image.open(path)
        w, h = photo.size
        crop = photo.crop((round(0.05 * w), round(0.05 * h), round(0.95 * w), round(0.95 * h))).resize((w, h))
        ImageOps.mirror(photo).save(tmp_path / "mirror.jpg", quality=85)
        crop.save(tmp_path / "crop.jpg", quality=85)
        assert is_copy(path, tmp_path / "mirror.jpg")
        assert is_copy(tmp_path / "crop.jpg", path)
        assert not is_copy(path, paths[i + 6])


@pytest.mark.parametrize("name", PEERS)
def test_the_eight_real_files_pass(real, work, paw, name):
    found = json.loads(paw("leakcheck", real / "oof-peers" / f"{name}.csv", "--json", "-").out)
    assert found["verdict"] == "pass"
    assert found["kind_of_data"] == "contest"


def test_the_replay_is_caught(real, work, paw):
    labels = real / "pawpularity-labels" / "train.csv"
    paw("leakage", "--labels", labels, "--answers", "replay.csv")
    outcome = paw("leakcheck", "replay.csv")
    assert outcome.out.startswith("replay: LEAK")
    found = json.loads(Path("oof/leakcheck/replay.csv/check.json").read_text())
    assert {s["name"] for s in found["signs"] if s["raised"]} == {"R2", "label noise"}
    # Also where every photo stands once, as in an OOF table: the copied ones answered, the others not.
    table = read_train(labels)
    target = table["Pawpularity"].to_numpy()
    known = (target <= 20) | (target >= 50)
    every = pd.DataFrame({"Id": table["Id"], "fold": np.arange(len(table)) % 5, "target": target,
                          "prediction": np.where(known, target, 38.0)})  # fmt: skip
    write_oof(Path("whole.csv"), every)
    assert json.loads(paw("leakcheck", "whole.csv", "--json", "-").out)["verdict"] == "leak"


def test_photos_that_are_copies_are_shown(shelter, work, paw):
    """A shelter whose augmented copies lie beside its photos, split at random: half of the rows have a copy elsewhere."""
    table = pd.read_csv(shelter / "train.csv", dtype={"Id": str})
    folder = Path("augmented")
    folder.mkdir()
    rows = []
    for fold, (name, target) in enumerate(zip(table["Id"], table["Pawpularity"], strict=True)):
        photo = Image.open(shelter / "train" / f"{name}.jpg")
        photo.save(folder / f"{name}.jpg", quality=92)
        rows.append((name, fold % 5, float(target), 38.0))
        if fold % 2:
            ImageOps.mirror(photo).save(folder / f"{name}_flip.jpg", quality=92)
            rows.append((f"{name}_flip", (fold + 1) % 5, float(target), 38.0))
    write_oof(Path("mine.csv"), pd.DataFrame(rows, columns=["Id", "fold", "target", "prediction"]))
    outcome = paw("leakcheck", "mine.csv", "--photos", folder, "--config", "sample")
    assert outcome.code == 0, outcome.err
    assert "COPIES ACROSS FOLDS" in outcome.out
    assert "ALARM copies across folds: " in outcome.out
    neighbours = pd.read_csv("oof/leakcheck/mine.csv/neighbours.csv", dtype={"Id": str, "neighbour": str})
    copies = neighbours[neighbours["copy"]]
    same = (copies["Id"].str[:32] == copies["neighbour"].str[:32]) & (copies["target"] == copies["neighbour_target"])
    assert 40 <= same.sum() <= 60  # of 30 photos and their mirror images; the bar lets nine of ten through
    assert (~same).sum() <= 4  # the shelter's own pets that were posted twice
    with Image.open("oof/leakcheck/mine.csv/copies.png") as sheet:
        assert sheet.size[0] > 700
    # A check without photos does not leave the other's sheet beside it.
    paw("leakcheck", "mine.csv")
    assert not Path("oof/leakcheck/mine.csv/copies.png").exists()


def test_what_cannot_be_checked_is_refused(shelter, work, refused):
    table = pd.DataFrame({"Id": [f"p{i}" for i in range(30)], "fold": np.arange(30) % 3, "target": 30.0 + np.arange(30),
                          "prediction": 38.0})  # fmt: skip
    write_oof(Path("mine.csv"), table)
    assert "there is no such folder" in refused("leakcheck", "mine.csv", "--photos", "nowhere")
    assert "holds 0 of these 30 photos" in refused("leakcheck", "mine.csv", "--photos", shelter)
    assert "there is no such file" in refused("leakcheck", "none.csv")
    assert "needs a run or a CSV" in refused("leakcheck", "model.weights=none")
    assert "knows none of the" in refused("leakcheck", "mine.csv", "--data", shelter)


def posted(folder, fold):
    """A constant for every photo of the data in `folder`."""
    table = pd.read_csv(folder / "train.csv", dtype={"Id": str})
    return pd.DataFrame(
        {"Id": table["Id"], "fold": fold, "target": table["Pawpularity"].astype(float), "prediction": 38.0}
    )


def test_photos_of_one_fold_alone_have_no_others_to_look_like(shelter, work, paw):
    """The rows are of two folds; of the second no photo is there."""
    write_oof(Path("mine.csv"), posted(shelter, (np.arange(60) >= 30).astype(int)))
    assert paw("leakcheck", "mine.csv", "--photos", shelter, "--config", "sample").code == 0
    folder = Path("oof/leakcheck/mine.csv")
    assert (folder / "neighbours.csv").exists()
    for name in pd.read_csv(shelter / "train.csv", dtype={"Id": str})["Id"][30:]:
        (shelter / "train" / f"{name}.jpg").unlink()
    done = paw("leakcheck", "mine.csv", "--photos", shelter, "--config", "sample")
    assert done.code == 0, done.err
    assert "note  the 30 rows with a photo are all of one fold" in done.out
    found = json.loads((folder / "check.json").read_text())
    assert (found["photos"], found["deciles"], found["copies"]) == (None, [], None)
    assert not (folder / "neighbours.csv").exists(), "nor does it keep those of the check before"


def test_the_photos_of_data_that_was_not_drawn_are_found(shelter, work, paw):
    """As `make errors` finds them: where the contest's data lies, and knows these rows with these scores."""
    shutil.rmtree(shelter / "truth")
    Path("input").mkdir()
    shutil.move(shelter, "input/petfinder-pawpularity-score")
    rows = posted(Path("input/petfinder-pawpularity-score"), np.arange(60) % 5)

    def photos(table):
        write_oof(Path("mine.csv"), table)
        return json.loads(paw("leakcheck", "mine.csv", "--config", "sample", "--json", "-").out)["photos"]

    assert photos(rows) == 60
    assert photos(rows[:19]) is None, "so few say nothing, and nobody asked for them"
    assert photos(rows.assign(target=rows["target"].where(rows.index > 0, 101 - rows["target"]))) is None


def test_unknown_data_gets_no_verdict(work, paw):
    table = pd.DataFrame({"Id": [f"p{i}" for i in range(60)], "fold": np.arange(60) % 3, "target": 30.5 + np.arange(60),
                          "prediction": 30.6 + np.arange(60)})  # fmt: skip
    write_oof(Path("mine.csv"), table)
    assert json.loads(paw("leakcheck", "mine.csv", "--json", "-").out)["verdict"] == "none"
    write_oof(Path("exact.csv"), table.assign(prediction=table["target"]))
    assert json.loads(paw("leakcheck", "exact.csv", "--json", "-").out)["verdict"] == "leak"


def test_few_copies_are_no_alarm_and_a_pass_of_few_rows_says_what_it_is_worth(drawn, work, paw):
    """One pair among 60 rows, under constant predictions: a property of the folds, and not of these predictions."""
    table = pd.read_csv(drawn / "train.csv", dtype={"Id": str})
    rows = pd.DataFrame(
        {"Id": table["Id"], "fold": np.arange(60) % 5, "target": table["Pawpularity"].astype(float), "prediction": 38.0}
    )
    write_oof(Path("mine.csv"), rows)
    outcome = paw("leakcheck", "mine.csv", "--data", drawn, "--photos", drawn, "--config", "sample")
    assert outcome.out.startswith("mine: no sign of a leak")
    assert "60 rows show large leaks only" in outcome.out
    assert "an honest blend of the contest" not in outcome.out


def test_a_scale_of_one_hides_no_leak(real, work, paw):
    """Scores of 0.07 times 100 are not whole to the last bit; the rows are the contest's all the same."""
    table = read_train(real / "pawpularity-labels" / "train.csv")
    target = table["Pawpularity"].to_numpy()
    near = np.clip(target + np.random.default_rng(0).normal(0, 3, len(target)), 1, 100)
    frame = pd.DataFrame(
        {"Id": table["Id"], "fold": np.arange(len(table)) % 5, "target": target / 100, "prediction": near / 100}
    )
    write_oof(Path("mine.csv"), frame)
    assert json.loads(paw("leakcheck", "mine.csv", "--scale", "100", "--json", "-").out)["verdict"] == "leak"
