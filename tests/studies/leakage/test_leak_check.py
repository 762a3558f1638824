"""A leak check's photos, words and sheet: what is looked at, what is said, what is shown."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.studies.leakage.rows_by_hand import copies, source

from pawpularity.config import resolve
from pawpularity.device import choose
from pawpularity.errors import UserError
from pawpularity.evaluation.leak_detection import Decile, Neighbours, Origin, Sign, standardised
from pawpularity.evaluation.metrics import evaluate
from pawpularity.studies.leakage import check, look_alikes
from pawpularity.studies.leakage.check import Check, check_leaks, check_text, photos_for, write_check
from pawpularity.studies.leakage.look_alikes import LookAlikes, config_for, photo_files

CONTEST, OTHER = (Origin(kind, "so it is") for kind in ("contest", "other"))


def packaged():
    return config_for(resolve("sample", ("model.weights=none",)))


@pytest.fixture
def photos(work, tmp_path):
    """Twenty-five photos of one colour each."""
    for i in range(25):
        Image.new("RGB", (40, 40), (10 * i, 255 - 10 * i, 80)).save(tmp_path / f"{i:04d}.jpg")
    return tmp_path


def test_photos_are_found_beside_the_table_or_below_train(photos):
    ids = [f"{i:04d}" for i in range(4, 30)]
    rows, paths = photo_files(ids, photos)
    assert rows.tolist() == list(range(21))
    assert paths == [photos / f"{i:04d}.jpg" for i in range(4, 25)]
    assert len(photo_files(ids[1:], photos)[0]) == 20
    with pytest.raises(UserError, match=r"holds 19 of these 24 photos as ID.jpg; 20 or more are needed"):
        photo_files(ids[2:], photos)
    with pytest.raises(UserError, match="there is no such folder"):
        photo_files(ids, photos / "none")
    own = source(np.arange(25.0), np.arange(25.0), np.arange(25) % 2)
    assert photos_for(None, own, photos) is None, "not in Kaggle's layout"
    (photos / "train").mkdir()
    assert photos_for(None, own, photos) is None, "train/ is empty, and nobody asked for it"
    assert photos_for(str(photos), own, None) == photos
    for path in photos.glob("*.jpg"):
        path.rename(photos / "train" / path.name)
    assert photos_for(None, own, photos) == photos
    assert photo_files(ids, photos)[1] == [photos / "train" / f"{i:04d}.jpg" for i in range(4, 25)]


def test_weights_that_cannot_be_had_are_replaced_and_it_is_said(work, capsys):
    config = resolve("default")
    model = replace(config.model, backbone="test_resnet", weights="drawn", args={"a": 1})
    own = replace(config, model=model)
    assert config_for(own) is own
    for weights, said in (("none", ""), ("nowhere/at-all.safetensors", "taking the packaged test_resnet instead")):
        found = config_for(replace(config, model=replace(config.model, weights=weights)))
        assert (found.model.backbone, found.model.weights, found.photos.size, found.model.args) == (
            "test_resnet",
            "drawn",
            96,
            {},
        )
        assert found.train == config.train
        assert (said in capsys.readouterr().err) if said else not capsys.readouterr().err


def test_a_copy_is_suspected_and_its_picture_agrees(monkeypatch, photos):
    """What is as near as the bar is asked of the pictures; nothing below it is."""
    asked = []
    monkeypatch.setattr(
        look_alikes, "is_copy", lambda a, b: asked.append((a.name, b.name)) or "0003" not in (a.stem, b.stem)
    )
    monkeypatch.setattr(look_alikes, "_bar", lambda own, unit, features: bar)
    monkeypatch.setattr(
        look_alikes,
        "nearest_across_folds",
        lambda unit, fold: Neighbours((np.arange(25) + 1) % 25, np.linspace(0, 1, 25)),
    )
    bar, paths = 0.75, [photos / f"{i:04d}.jpg" for i in range(25)]
    looks = look_alikes.look_alikes(np.arange(25), paths, np.arange(25) % 2, packaged(), choose("float32"))
    assert sorted(asked) == [(f"{i:04d}.jpg", f"{(i + 1) % 25:04d}.jpg") for i in range(18, 25)]
    assert np.flatnonzero(looks.copy).tolist() == list(range(18, 25))
    bar, asked[:] = 0.1, []
    looks = look_alikes.look_alikes(np.arange(25), paths, np.arange(25) % 2, packaged(), choose("float32"))
    assert np.flatnonzero(~looks.copy).tolist() == [0, 1, 2, 3], "the pictures of 2, 3 and 3, 4 differ"


def test_the_bar_is_where_nine_of_ten_copies_are():
    """Features of the mirrored rows stand at known angles to their originals."""
    own = np.random.default_rng(0).normal(size=(10, 30)).astype(np.float32)
    unit = standardised(own)
    seen = []

    def features(rows, view):
        seen.append((rows.tolist(), view))
        return own[rows] + np.float32(0.05 * view) * np.arange(10, dtype=np.float32)[rows, None]

    def cosine(view, i):
        scaled = (features(np.arange(10), view) - own.mean(0)) / own.std(0)
        return float(unit[i] @ scaled[i] / np.linalg.norm(scaled[i]))

    bar = look_alikes._bar(own, unit, features)
    assert [rows for rows, _ in seen] == [list(range(10))] * 2
    views = [view for _, view in seen]
    assert len(set(views)) == 2
    assert bar == pytest.approx(np.quantile([cosine(v, i) for v in views for i in range(10)], 0.1), abs=1e-5)


def test_the_bar_asks_of_two_hundred_photos_and_no_more():
    own, seen = np.random.default_rng(0).normal(size=(230, 8)).astype(np.float32), []
    look_alikes._bar(own, standardised(own), lambda rows, view: seen.append(rows) or own[rows])
    assert [len(rows) for rows in seen] == [200, 200]
    assert (np.diff(seen[0]) > 0).all(), "in the table's order, each once"


def looks_of(photos, n, near, copy, network="a_net"):
    return LookAlikes(np.arange(n), [photos / f"{i:04d}.jpg" for i in range(n)], near, 0.9, copy, network)


def test_the_findings_as_text(photos):
    own = source([40.0] * 12 + [60.0] * 12, np.linspace(30, 60, 24), np.arange(24) % 3)
    result = evaluate(own.target, own.prediction, own.constant)
    signs = [Sign("R2", True, "high"), Sign("label noise", False, "fine")]
    looks = looks_of(photos, 24, Neighbours(np.arange(24), np.ones(24)), np.zeros(24, bool))
    parts = [Decile(12, 0.25, 3.0, 4.125, 5.0), Decile(12, 0.875, 30.0, 0.0, 50.0)]
    mean = "the training rows' mean"
    found = Check("mine", mean, CONTEST, result, signs, ["so many"], looks, parts, copies(10, 24), None)
    assert check_text(found).splitlines() == [
        "mine: LEAK: what predicted these scores had seen answers",
        f"RMSE {result.rmse:.3f}, 95 % [{result.low:.2f}, {result.high:.2f}] (indicative: n < 50); n = 24",
        f"constant {result.constant_rmse:.3f} (the training rows' mean); sd of these rows {result.sd:.3f}",
        "contest data: so it is",
        "ALARM R2: high",
        "ok    label noise: fine",
        "note  so many",
        "",
        "by how alike the nearest photo of another fold looks to a_net, the least alike first",
        "   n  similarity    RMSE  copying its score  constant",
        "  12       0.250    3.00               4.12      5.00",
        "  12       0.875   30.00               0.00     50.00",
        "the 10 rows with a copy in another fold: RMSE 12.00, copying its score 9.00; all others 18.00",
    ]
    bare = replace(found, looks=None, deciles=[], copies=replace(copies(10, 24), rows=0), signs=[])
    assert check_text(bare).splitlines()[4:] == ["note  so many"]
    assert bare.verdict == "none"
    assert bare.to_dict()["photos"] is None
    assert (found.to_dict()["photos"], found.to_dict()["network"]) == (24, "a_net")


@pytest.mark.parametrize("k", [1, 2])
def test_what_keeps_look_alikes_from_being_looked_for(photos, k):
    own = source(np.arange(24.0), np.full(24, 9.0), np.arange(24) % k)
    result = evaluate(own.target, own.prediction, own.constant)
    config = packaged()
    none = check_leaks(own, result, OTHER, None, config)
    assert none.remarks[2:] == [
        "fewer than 20 photos are at hand: look-alikes in other folds were not looked for (--photos DIR)"
    ]
    found = check_leaks(own, result, OTHER, photos, config)
    if k == 1:
        assert found.remarks[2:] == ["all rows are of one fold: there are no other folds to look for look-alikes in"]
        assert (found.looks, found.neighbours) == (None, None)
    else:
        assert found.remarks[2:] == ["look-alikes by test_resnet (model.backbone=NAME model.weights=... takes another)"]
        assert (photos / "0022.jpg").is_file()
        for i in range(2):
            (photos / f"{i:04d}.jpg").unlink()
        fewer = check_leaks(own, result, OTHER, photos, config)
        assert fewer.remarks[3] == "22 of 24 rows have a photo; look-alikes were looked for among those"
        table = fewer.neighbours
        assert table["Id"].tolist() == [f"{i:04d}" for i in range(2, 24)]
        row = dict(zip(own.table["Id"], range(24), strict=True))
        for _, pair in table.iterrows():
            mine, other = row[pair["Id"]], row[pair["neighbour"]]
            assert (pair["fold"], pair["target"], pair["prediction"]) == (mine % 2, mine, 9.0)
            assert (pair["neighbour_fold"], pair["neighbour_target"]) == (other % 2, other)
            assert mine % 2 != other % 2


def test_the_sheet_shows_every_pair_once_and_no_more_than_24(photos, monkeypatch):
    """25 photos, each the copy of the next: two pairs stand side by side, the most alike first."""
    shown = []
    monkeypatch.setattr(
        check, "contact_sheet", lambda rows, path, per_line: shown.append((rows, per_line)) or path.touch()
    )
    names = [
        "a-name-that-is-too-long_flip",
        *(f"{i:04d}" for i in range(1, 23)),
        "a-name-too-long-by1",
        "a-name-too-long-by-1",
    ]
    at, similarity = (np.arange(25) + 1) % 25, np.linspace(0.5, 0.98, 25)
    table = pd.DataFrame({"Id": names, "fold": np.arange(25) % 2, "target": np.arange(25.0), "prediction": 38.0,
                          "neighbour": [names[i] for i in at], "neighbour_fold": at % 2, "neighbour_target": at.astype(float),
                          "similarity": similarity, "copy": True})  # fmt: skip
    own = source(np.arange(25.0), np.full(25, 38.0), np.arange(25) % 2)
    looks = replace(looks_of(photos, 25, Neighbours(at, similarity), table["copy"].to_numpy()))
    found = Check("x", "", OTHER, evaluate(own.target, own.prediction, own.constant), [], [], looks, [], None, table)
    write_check(own, found, photos / "found")
    rows, per_line = shown.pop()
    assert (len(rows), per_line) == (12, 4)
    assert [len(row) for row in rows] == [4] * 12
    flat = [tile for row in rows for tile in row]
    assert [tile.lines for tile in flat[:3]] == [
        ("a-name-to..ong-by-1", "fold 0, score 24", "predicted 38.0"),
        ("a-name-th..ong_flip", "fold 0, score 0", "similarity 0.980"),
        ("a-name-too-long-by1", "fold 1, score 23", "predicted 38.0"),
    ]
    assert [tile.photo.name for tile in flat[:4]] == ["0024.jpg", "0000.jpg", "0023.jpg", "0024.jpg"]
    assert "0000.jpg" not in [tile.photo.name for tile in flat[2:]], "the pair least alike is one too many"
    assert (photos / "found/neighbours.csv").read_text().splitlines()[:2] == [
        "Id,fold,target,prediction,neighbour,neighbour_fold,neighbour_target,similarity,copy",
        "a-name-that-is-too-long_flip,0,0.000000,38.000000,0001,1,1.000000,0.500000,True",
    ]
    both = table.assign(
        copy=np.isin(np.arange(25), [2, 3, 4]), neighbour=[names[{3: 4, 4: 3}.get(i, 0)] for i in range(25)]
    )
    write_check(own, replace(found, neighbours=both), photos / "found")
    assert [[tile.photo.stem for tile in row] for row in shown.pop()[0]] == [["0004", "0003", "0002", "0000"]], (
        "each pair once"
    )
    assert (photos / "found/copies.png").exists()
    write_check(own, replace(found, neighbours=table.assign(copy=False)), photos / "found")
    assert not shown
    assert not (photos / "found/copies.png").exists()
