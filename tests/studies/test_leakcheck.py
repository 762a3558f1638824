"""Leak check: neighbours against scikit-learn, each alarm where it begins, the command on made leaks and real files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler, normalize

from pawpularity.config import resolve
from pawpularity.data.augment import CROP, FLIP
from pawpularity.data.duplicates import is_copy
from pawpularity.evaluation.leak_detection import (
    ACROSS,
    SPANNING,
    Copies,
    Neighbours,
    Origin,
    Sign,
    copies_of,
    copies_sign,
    deciles,
    nearest_across_folds,
    pair_sign,
    signs_of,
    spanning_sign,
    standardised,
    verdict_of,
)
from pawpularity.evaluation.metrics import evaluate, rmse
from pawpularity.evaluation.oof import constant_predictions, write_oof
from pawpularity.evaluation.predictions import Predictions
from pawpularity.studies import leakcheck
from pawpularity.studies.leakcheck import copy_threshold, write_sheet


def source(target, prediction, fold, groups=None):
    """Rows by hand: Ids 0000, 0001, ..."""
    ids = [f"{i:04d}" for i in range(len(target))]
    target, prediction = np.asarray(target, float), np.asarray(prediction, float)
    table = pd.DataFrame({"Id": ids, "fold": np.asarray(fold), "target": target, "prediction": prediction})
    return Predictions("x", table, groups, constant_predictions(table), None, Path("x.csv"))


# --- The detector -----------------------------------------------------------------------------------------------------


def test_features_and_neighbours_are_scikit_learns():
    """Beyond the 2,048 rows that are compared at a time; a column that does not vary tells nothing."""
    random = np.random.default_rng(1)
    features = (random.normal(size=(2100, 6)) * [1, 20, 0.3, 4, 9, 0] + [0, 50, -3, 8, 2, 7]).astype(np.float32)
    fold, unit = random.integers(0, 3, 2100), standardised(features)
    scaler = StandardScaler().fit(features)
    np.testing.assert_allclose(unit, normalize(scaler.transform(features)), atol=1e-4)
    other = features[:15] + 1
    np.testing.assert_allclose(standardised(other, by=features), normalize(scaler.transform(other)), atol=1e-4)
    near = nearest_across_folds(unit, fold)
    for mine, others in ((np.flatnonzero(fold == k), np.flatnonzero(fold != k)) for k in range(3)):
        distance, _ = NearestNeighbors(n_neighbors=1, metric="cosine").fit(unit[others]).kneighbors(unit[mine])
        np.testing.assert_allclose(near.similarity[mine], 1 - distance[:, 0], atol=1e-4)
        assert (fold[near.at[mine]] != fold[mine]).all()
    alone = nearest_across_folds(unit[:9], np.zeros(9, int))
    assert (alone.at == -1).all()
    assert np.isnan(alone.similarity).all()


def test_the_error_by_similarity_and_of_the_copies():
    """Of a table's 60 rows 47 have a photo; neighbours are counted among those."""
    random = np.random.default_rng(3)
    own = source(random.uniform(1, 100, 60), random.uniform(20, 60, 60), np.arange(60) % 3)
    rows = np.sort(random.choice(60, 47, replace=False))
    near = Neighbours(random.integers(0, 47, 47), random.permutation(np.linspace(0.1, 0.9, 47)))
    target, order = own.target[rows], np.argsort(near.similarity)
    answers = (own.prediction[rows], target[near.at], own.constant[rows])
    for found, part in zip(deciles(own, rows, near), np.array_split(order, 10), strict=True):
        assert (found.n, found.similarity) == (len(part), pytest.approx(np.median(near.similarity[part])))
        due = [rmse(target[part], answer[part]) for answer in answers]
        assert [found.rmse, found.copying_rmse, found.constant_rmse] == pytest.approx(due)
    chosen = np.isin(np.arange(47), order[-12:-3])
    copies = copies_of(own, rows, near, float(near.similarity[order[-12]]), chosen)
    assert (copies.compared, copies.suspected, copies.rows, copies.share) == (47, 12, 9, pytest.approx(9 / 47))
    due = [rmse(target[m], a[m]) for m, a in ((chosen, answers[0]), (~chosen, answers[0]), (chosen, answers[1]))]
    assert [copies.rmse, copies.other_rmse, copies.copying_rmse] == pytest.approx(due)
    nobody = copies_of(own, rows, near, 2.0, np.zeros(47, dtype=bool)).to_dict()
    assert (nobody["suspected"], nobody["rows"], nobody["rmse"]) == (0, 0, None)


@pytest.mark.parametrize(("rows", "n", "raised"), [(10, 200, True), (8, 100, False), (10, 201, False), (12, 200, True)])
def test_copies_and_groups_that_span_folds_are_alarms_from_ten_rows_and_five_percent(rows, n, raised):
    sign = copies_sign(Copies(0.91, n, rows + 3, rows, rows / n, 12.0, 18.0, 9.0))
    assert (sign.name, sign.raised) == (ACROSS, raised)
    groups, fold, pairs = np.arange(n), np.arange(n) // 7 % 5, rows // 2
    for pair in range(pairs + 3):  # three pairs lie in one fold
        groups[2 * pair + 1] = groups[2 * pair]
        fold[2 * pair : 2 * pair + 2] = (1, 3) if pair < pairs else 2
    sign = spanning_sign(source(np.arange(n) % 100 + 1.0, np.full(n, 38.0), fold, groups))
    assert (sign.name, sign.raised) == (SPANNING, raised)
    assert f"{pairs} of {pairs + 3} groups" in sign.text
    assert spanning_sign(source(np.arange(9.0), np.arange(9.0), np.arange(9) % 2)) is None


def pairs_that_follow(slopes):
    """One pair each: scores 10 apart, predictions `slope` times that."""
    count = len(slopes)
    target = np.concatenate([np.full(count, 40.0), np.full(count, 50.0)])
    prediction = np.concatenate([np.full(count, 40.0), 40 + 10 * np.asarray(slopes, float)])
    return source(target, prediction, np.arange(2 * count) % 5, np.concatenate([np.arange(count)] * 2))


@pytest.mark.parametrize(
    ("slope", "raised"), [(0.29, False), (0.31, True), (-0.29, False), (-0.31, True), (0.0, False)]
)
def test_pairs_are_an_alarm_beyond_three_tenths(slope, raised):
    """Every pair alike, so that the interval is the slope itself."""
    assert pair_sign(pairs_that_follow([slope] * 12)).raised is raised
    assert pair_sign(pairs_that_follow([slope] * 9)) is None, "too few"


def test_the_interval_of_pairs_is_of_whole_groups():
    """Half of the pairs follow fully, half not at all: a binomial share of 20 pairs, or of 10 groups of three (two pairs each)."""

    def width(sign):
        low, high = (float(x) for x in sign.text.split("[")[1].split("]")[0].split(", "))
        return high - low

    assert width(pair_sign(pairs_that_follow([0.0, 1.0] * 10))) == pytest.approx(
        2 * 1.96 * np.sqrt(0.25 / 20), abs=0.06
    )
    base, target = np.repeat(np.arange(10), 3), np.tile([30.0, 40.0, 50.0], 10)
    threes = pair_sign(source(target, 30 + (target - 30) * (base % 2), np.arange(30) % 5, base))
    assert width(threes) == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 10), abs=0.12)


def test_which_signs_are_looked_for_where_and_the_verdict():
    own = pairs_that_follow([0.0] * 12)
    result = evaluate(own.target, own.prediction, own.constant)
    copies = Copies(0.9, 24, 6, 3, 3 / 24, 12.0, 18.0, 9.0)
    names = {
        kind: [s.name for s in signs_of(own, result, Origin(kind, ""), copies)]
        for kind in ("contest", "drawn", "other")
    }
    alone = ["R2", "label noise", "exact answers among others", "top scores"]
    assert names["contest"] == [*alone, "near-duplicates", ACROSS, SPANNING]
    assert names["drawn"] == ["near-duplicates", ACROSS, SPANNING]
    assert names["other"] == [ACROSS, SPANNING]
    for raised, others, verdict in (
        ([], [], "none"), ([], [ACROSS, SPANNING], "none"), ([], ["R2", SPANNING], "pass"), ([SPANNING], ["R2"], "folds"),
        ([ACROSS], [], "folds"), (["R2"], [ACROSS], "leak"), (["R2", ACROSS, SPANNING], [], "leak"),
    ):  # fmt: skip
        assert verdict_of([Sign(name, name in raised, "") for name in [*others, *raised]]) == verdict


# --- Photos -----------------------------------------------------------------------------------------------------------


def test_a_crop_is_a_copy_and_another_photo_is_not(drawn, tmp_path):
    paths = sorted((drawn / "train").glob("*.jpg"))[:8]
    for path, other in zip(paths[:4], paths[4:], strict=True):
        with Image.open(path) as photo:
            w, h = photo.size
            crop = photo.crop((round(0.05 * w), round(0.05 * h), round(0.95 * w), round(0.95 * h))).resize((w, h))
        crop.save(tmp_path / "crop.jpg", quality=85)
        assert is_copy(tmp_path / "crop.jpg", path)
        assert not is_copy(path, other)


def test_the_bar_is_where_nine_of_ten_of_two_hundred_copies_are():
    own, seen = np.random.default_rng(0).normal(size=(230, 30)).astype(np.float32), []

    def features(rows, view):
        seen.append(rows)
        return own[rows] + np.float32(0.02 * view) * np.arange(230, dtype=np.float32)[rows, None]

    unit = standardised(own)
    bar = copy_threshold(own, unit, features)
    assert [len(np.unique(rows)) for rows in seen] == [200, 200]
    views = [features(rows, view) for rows, view in zip(seen[:2], (FLIP, CROP), strict=True)]
    similar = [(unit[seen[0]] * standardised(one, by=own)).sum(axis=1) for one in views]
    assert bar == pytest.approx(np.quantile(np.concatenate(similar), 0.1), abs=1e-5)


def test_the_sheet_shows_every_pair_once_and_no_more_than_24(tmp_path, monkeypatch):
    """25 photos, each the copy of the next; the most similar first."""
    shown = []
    monkeypatch.setattr(
        "pawpularity.evaluation.contact_sheet.contact_sheet", lambda rows, path, per_line: shown.append(rows)
    )
    names, at = [f"{i:04d}" for i in range(25)], (np.arange(25) + 1) % 25
    table = pd.DataFrame({"Id": names, "fold": np.arange(25) % 2, "target": np.arange(25.0), "prediction": 38.0,
                          "neighbour": [names[i] for i in at], "neighbour_fold": at % 2, "neighbour_target": at.astype(float),
                          "similarity": np.linspace(0.5, 0.98, 25), "copy": True})  # fmt: skip
    files = {name: tmp_path / f"{name}.jpg" for name in names}
    write_sheet(table, files, tmp_path / "sheet.png")
    ((*tiles,),) = shown.pop()
    stems = [tile.photo.stem for tile in tiles]
    assert len(stems) == 48
    assert stems[:4] == ["0024", "0000", "0023", "0024"]
    assert stems.count("0000") == 1, "the pair least alike is one too many"
    both = table.assign(
        copy=table["Id"].isin(["0003", "0004"]), neighbour=["0004" if i == 3 else "0003" for i in range(25)]
    )
    write_sheet(both, files, tmp_path / "sheet.png")
    assert [[tile.photo.stem for tile in row] for row in shown.pop()] == [["0004", "0003"]]


def test_weights_that_cannot_be_had_are_replaced(work):
    own = resolve("sample", ["model.backbone=test_resnet", "model.weights=drawn"])
    assert leakcheck.with_weights(own) is own
    found = leakcheck.with_weights(resolve("densenet161", ["model.weights=nowhere/at-all.safetensors"]))
    assert (found.model.backbone, found.model.weights, found.photos.size) == ("test_resnet", "drawn", 96)


# --- The command ------------------------------------------------------------------------------------------------------


def rows_of(folder, fold):
    """A constant for every photo of the data in `folder`."""
    table = pd.read_csv(folder / "train.csv", dtype={"Id": str})
    target = table["Pawpularity"].astype(float)
    return pd.DataFrame({"Id": table["Id"], "fold": fold, "target": target, "prediction": 38.0})


def test_photos_that_are_copies_are_shown(drawn, work, paw):
    """Mirror images lie beside half of the photos, split at random: half of the rows have a copy elsewhere."""
    Path("augmented").mkdir()
    rows = []
    for fold, row in enumerate(rows_of(drawn, 0).to_dict("records")):
        photo = Image.open(drawn / "train" / f"{row['Id']}.jpg")
        photo.save(f"augmented/{row['Id']}.jpg", quality=92)
        rows.append(row | {"fold": fold % 5})
        if fold % 2:
            ImageOps.mirror(photo).save(f"augmented/{row['Id']}_flip.jpg", quality=92)
            rows.append(row | {"Id": f"{row['Id']}_flip", "fold": (fold + 1) % 5})
    write_oof(Path("mine.csv"), pd.DataFrame(rows))
    done = paw("leakcheck", "mine.csv", "--photos", "augmented", "--config", "sample")
    assert done.code == 0, done.err
    assert "COPIES ACROSS FOLDS" in done.out
    assert len(done.out.splitlines()) <= 20
    folder = Path("oof/leakcheck/mine.csv")
    neighbours = pd.read_csv(folder / "neighbours.csv", dtype={"Id": str, "neighbour": str})
    assert (neighbours["fold"] != neighbours["neighbour_fold"]).all()
    copies = neighbours[neighbours["copy"]]
    same = (copies["Id"].str[:32] == copies["neighbour"].str[:32]) & (copies["target"] == copies["neighbour_target"])
    assert 40 <= same.sum() <= 60  # of 30 photos and their mirror images; the bar lets nine of ten through
    assert (~same).sum() <= 4  # the sample's own pets that were posted twice
    with Image.open(folder / "copies.png") as sheet:
        assert sheet.size[0] > 700
    found = json.loads((folder / "check.json").read_text())
    assert (found["verdict"], found["photos"], found["network"]) == ("folds", 90, "test_resnet")
    assert (len(found["deciles"]), found["copies"]["rows"]) == (10, len(copies))
    # A check without photos does not leave the other's files beside it.
    paw("leakcheck", "mine.csv")
    assert [file.name for file in folder.iterdir()] == ["check.json"]


def test_photos_of_one_fold_are_compared_with_nothing(drawn, work, paw):
    shutil.copytree(drawn, "toy")
    rows = rows_of(drawn, (np.arange(60) >= 30).astype(int))
    write_oof(Path("mine.csv"), rows)
    for name in rows["Id"][30:]:
        Path(f"toy/train/{name}.jpg").unlink()
    found = json.loads(paw("leakcheck", "mine.csv", "--photos", "toy", "--config", "sample", "--json", "-").out)
    assert (found["photos"], found["deciles"], found["copies"]) == (None, [], None)
    assert any("all of one fold" in remark for remark in found["remarks"])


def test_the_photos_of_the_contests_folder_are_found_if_they_are_enough_and_of_these_scores(drawn, work, paw):
    place = Path("input/petfinder-pawpularity-score")
    shutil.copytree(drawn, place)
    shutil.rmtree(place / "truth")
    rows = rows_of(place, np.arange(60) % 5)

    def photos(table):
        write_oof(Path("mine.csv"), table)
        return json.loads(paw("leakcheck", "mine.csv", "--config", "sample", "--json", "-").out)["photos"]

    assert photos(rows) == 60
    assert photos(rows[:19]) is None
    assert photos(rows.assign(target=rows["target"].where(rows.index > 0, 101 - rows["target"]))) is None


def test_what_cannot_be_checked_is_refused(drawn, work, refused):
    table = pd.DataFrame({"Id": [f"p{i}" for i in range(30)], "fold": np.arange(30) % 3, "target": 30.0 + np.arange(30),
                          "prediction": 38.0})  # fmt: skip
    write_oof(Path("mine.csv"), table)
    assert "holds 0" in refused("leakcheck", "mine.csv", "--photos", "nowhere")
    assert "holds 0" in refused("leakcheck", "mine.csv", "--photos", drawn)
    assert "none.csv" in refused("leakcheck", "none.csv")
    assert "OOF" in refused("leakcheck", "model.weights=none")
    assert "p0" in refused("leakcheck", "mine.csv", "--data", drawn)
