"""`pawpularity coach` through the real command: scores, what they are worth, folders, refusals."""

import csv
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from pawpularity import Predictor
from pawpularity.coach.coach import ranked
from pawpularity.coach.doubt import ENCODER, Typical
from pawpularity.coach.evaluate_tips import pair_for
from pawpularity.coach.traits import LoadedEncoder
from pawpularity.device import Compute
from pawpularity.evaluation.calibration import Calibration
from pawpularity.evaluation.oof import read_oof
from pawpularity.evaluation.predictions import open_predictions
from pawpularity.files import read_json, write_json


@pytest.fixture
def coach(bench, drawn, paw):
    """Run the command on the toy run: (outcome, JSON)."""

    def run(*photos):
        done = paw("coach", *photos, "--run", "toy", "--data", drawn, "--json", "said.json")
        return done, json.loads(Path("said.json").read_text())

    return run


@pytest.fixture
def photo(drawn):
    return sorted((drawn / "test").glob("*.jpg"))[0]


def test_a_new_photo_is_scored_by_all_folds_and_calibrated_on_their_unseen_rows(coach, photo):
    done, found = coach(photo)
    assert done.code == 0, done.err
    report, table = found["photos"][0], read_oof(Path("oof/toy/oof.csv"))
    assert report["score"] == pytest.approx(float(Predictor.load("oof/toy").predict(photo)[0]), abs=1e-4)
    assert report["fold"] is None
    ends = Calibration(table["target"], table["prediction"], open_predictions("toy").groups).interval(
        report["score"], 0.9
    )
    assert (report["low"], report["high"]) == pytest.approx([float(end) for end in ends], abs=1e-3)
    assert report["low"] <= report["half_low"] < report["half_high"] <= report["high"]
    assert 0 < report["beats_top_quarter"] <= report["beats_median"] < 1
    kinds = {tip["key"]: tip["kind"] for tip in report["tips"]}
    assert kinds.keys() == {"contrast", "face", "eyes", "pets", "blur", "framing"}
    assert (kinds["pets"], kinds["blur"]) == ("left out", "left out"), "too few for a probe"
    assert found["about"]["median"] == np.median(table["target"])
    assert found["about"]["indicative"]
    assert not report["crop"]["worth"], "a drawn pet's true score does not depend on the crop"
    assert "drawn pets" in done.err
    assert len(done.out.splitlines()) <= 16


def test_a_photo_of_the_runs_own_table_is_scored_by_the_fold_that_never_saw_it(coach, drawn):
    table = read_oof(Path("oof/toy/oof.csv")).set_index("Id")
    names = sorted(table.index)[:4]
    # Under another name: what counts is what is in the file.
    copies = [shutil.copy(drawn / "train" / f"{name}.jpg", f"copy{i}.jpg") for i, name in enumerate(names)]
    done, found = coach(*copies)
    for name, report in zip(names, found["photos"], strict=True):
        assert report["score"] == pytest.approx(table.loc[name, "prediction"], abs=1e-3), "its out-of-fold prediction"
        assert report["fold"] == table.loc[name, "fold"]
        assert "never saw it" in report["notes"][0]
    assert all(name in done.out for name in copies)


def test_a_folder_gives_a_ranked_csv_and_what_is_no_photo_is_named(coach, drawn, tmp_path, unharmed, photo):
    folder, data = tmp_path / "mine", photo.read_bytes()
    shutil.copytree(drawn / "test", folder)
    (folder / "cut.jpg").write_bytes(data[:900])
    (folder / "text.jpg").write_bytes(b"no photo")
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "dead.jpg").symlink_to("nowhere.jpg")
    (folder / "notes.txt").write_text("not a photo, and not asked about")
    with (folder / "huge.jpg").open("wb") as file:
        file.truncate(900_000_000)
    with unharmed(folder):
        done, _ = coach(folder, "--out", tmp_path / "ranked.csv")
    assert done.code == 2
    reasons = {"cut": "truncated", "text": "not a JPEG", "huge": "too large", "folder": "folder", "pipe": "regular",
               "dead": "link"}  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert done.out == (tmp_path / "ranked.csv").read_text()
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5", *[""] * len(reasons)]
    notes = {Path(row["photo"]).stem: row["note"] for row in rows[5:]}
    assert notes.keys() == reasons.keys()
    assert all(word in notes[name] and word in done.err for name, word in reasons.items())
    scores = [float(row["score"]) for row in rows[:5]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(float(Predictor.load("oof/toy").predict(rows[0]["photo"])[0]), abs=0.01)
    assert rows[0]["beats_next"]
    assert not rows[4]["beats_next"]


def test_what_is_hardly_a_photo_gets_no_number_and_equal_photos_are_too_close_to_call(coach, photo):
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save("noise.png")
    Image.new("RGB", (160, 120), (200, 30, 30)).save("red.png")
    page = np.full((160, 120, 3), 255, dtype=np.uint8)
    page[20:140:8, 10:110] = np.random.default_rng(1).integers(0, 2, (15, 100, 1), dtype=np.uint8) * 255
    Image.fromarray(page).save("page.png")
    for name, picture in zip(("china.png", "flower.png"), load_sample_images().images, strict=True):
        Image.fromarray(picture).save(name)
    doubtful = ["noise.png", "red.png", "page.png", "china.png", "flower.png"]
    done, found = coach("red.png", photo, *doubtful[2:], "noise.png")
    assert [row["photo"] for row in found["order"]] == [str(photo)]
    assert {report["photo"]: bool(report["doubt"]) for report in found["photos"]} == {
        str(photo): False,
        **dict.fromkeys(doubtful, True),
    }
    for report in found["photos"]:
        if report["doubt"]:
            numbers = [value for key, value in report.items() if key not in ("photo", "fold", "notes", "doubt", "tips")]
            assert set(numbers) == {None}
            assert report["tips"] == []
    for name in doubtful[:2]:
        done, _ = coach(name)
        assert (done.code, "no score" in done.out, "points" in done.out.splitlines()[0]) == (0, True, False)
    done, _ = coach(photo, shutil.copy(photo, "copy.jpg"))
    assert "too close" in done.out


def test_real_pets_are_not_doubted_and_other_pictures_are(real):
    folder = real / "pawpularity-100" / "train"
    pets = [np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in sorted(folder.glob("*.jpg"))]
    random = np.random.default_rng(0)
    plain = [np.full((224, 224, 3), random.integers(0, 256, 3), dtype=np.uint8) for _ in range(5)]
    blocks = [np.kron(random.integers(0, 256, (n, n, 3)), np.ones((224 // n, 224 // n, 1))) for n in (4, 8, 32, 224)]
    photos = [np.asarray(Image.fromarray(picture).resize((224, 224))) for picture in load_sample_images().images]
    ramp = np.repeat(np.linspace(0, 255, 224)[None, :, None], 224, axis=0).repeat(3, axis=2)
    others = np.stack([*plain, *blocks, *photos, ramp]).astype(np.uint8)
    looks = LoadedEncoder(ENCODER, 224, 0, Compute(torch.device("cpu"), torch.float32, ""))
    typical = Typical.fit(looks(np.stack(pets[::2])))
    rest = np.stack(pets[1::2])
    assert np.mean([bool(typical.doubt(row[None])) for row in looks(rest)]) <= 0.08
    assert np.mean([bool(typical.doubt(row[None])) for row in looks(rest // 4)]) <= 0.1, "dark ones"
    assert all(typical.doubt(row[None]) for row in looks(others))


def test_a_run_no_better_than_its_constant_gives_no_advice(bench, drawn, paw, photo, monkeypatch):
    """The toy run with its predictions shuffled among the photos."""

    def shuffled(*args, **options):
        found = open_predictions(*args, **options)
        mixed = np.random.default_rng(0).permutation(found.table["prediction"])
        return replace(found, table=found.table.assign(prediction=mixed))

    monkeypatch.setattr("pawpularity.explain.photos.open_predictions", shuffled)
    other = sorted((drawn / "test").glob("*.jpg"))[1]
    for photos in ([photo], [photo, other]):
        done = paw("coach", *photos, "--run", "toy", "--data", drawn, "--json", "said.json")
        assert done.code == 0, done.err
        found = json.loads(Path("said.json").read_text())
        assert not found["about"]["beats_constant"]
        assert [(report["tips"], report["crop"]) for report in found["photos"]] == [([], None)] * len(photos)
        assert not any(row["clear"] for row in found["order"])
        assert "mean little" in done.out
        assert "Use" not in done.out


def test_the_rule_of_the_drawn_score_pays_what_the_pairs_say(bench):
    for key, points in {"contrast": 25.8, "eyes": 9.0, "pets": 9.0, "blur": 0.0}.items():
        lacks, has = pair_for(key, 3)
        assert has.mean_unclipped() - lacks.mean_unclipped() == pytest.approx(points)
    results = {row["tip"]: row for row in read_json(Path("oof/toy/coach.json"), "coach")["tip_results"]}
    assert results.keys() == {"contrast", "face", "eyes", "pets", "blur", "crop"}
    contrast, crop = results["contrast"], results["crop"]
    # The rule pays 43 x 0.6 for what is changed, less what clipping to 1..100 takes or the spike at 100 gives.
    assert contrast["promised"] is None or 15 < contrast["true_gain"] < 40
    assert crop["promised"] is None or (crop["true_gain"] == 0 and crop["promised"] >= 1)


@pytest.mark.slow
def test_what_was_learnt_is_kept_until_the_run_changes(coach, photo):
    path = Path("oof/toy/coach.json")
    before = path.read_bytes()
    assert "learns from" not in coach(photo)[0].err
    write_json(path, read_json(path, "coach") | {"key": "of another run"})
    assert "learns from" in coach(photo)[0].err
    assert path.read_bytes() == before, "the same again"


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"model": {"metadata": "use", "metadata_dropout": 0.0}}, "metadata"),
        ({"train": {"split": "leaky", "copies": "authors", "augment": "none"}}, "leaky"),
    ],
)
def test_runs_that_cannot_be_used_here_are_refused(bench, drawn, refused, settings, word):
    shutil.copytree("oof/toy", "oof/odd")
    try:
        record = read_json(Path("oof/odd/config.json"), "run")
        for section, values in settings.items():
            record["config"][section] |= values
        write_json(Path("oof/odd/config.json"), record)
        assert word in refused("coach", drawn / "test", "--run", "odd", "--data", drawn)
    finally:
        shutil.rmtree("oof/odd")


def test_other_data_than_the_runs_own_are_refused(bench, drawn, refused, photo):
    assert "DATA=" in refused("coach", photo, "--run", "toy"), "the sample, which is not drawn for that"
    assert not Path("input/sample").exists()
    other = Path(shutil.copytree(drawn, "other"))
    table = (other / "train.csv").read_text()
    (other / "train.csv").write_text(table.rsplit(",", 1)[0] + ",77\n")
    assert "DATA=" in refused("coach", photo, "--run", "toy", "--data", other)


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["coach", "nowhere.jpg"], "no such photo"),
        (["coach", "configs"], "no photo"),
        (["coach", "first.json", "train.lr=1"], "train.lr=1"),
        (["coach", "first.json"], "not a JPEG"),
        (["app", "--port", "70000"], "--port"),
        (["app", "--host", "203.0.113.7"], "--host"),
        (["app", "--host", "a..b"], "--host"),
    ],
)
def test_wrong_words_end_with_one_line(bench, drawn, refused, words, word):
    assert word in refused(*words, "--run", "toy", "--data", drawn)


def test_without_the_extra_the_app_says_how_to_get_it(monkeypatch, refused):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pawpularity[app]" in refused("app")


def test_an_order_says_whether_it_is_clear():
    def known(n):
        """A calibration whose residuals are skewed and grow with the prediction."""
        random = np.random.default_rng(0)
        prediction = random.uniform(20, 60, n)
        return Calibration(prediction + 0.15 * prediction * (random.exponential(1.0, n) - 1.0), prediction)

    rows = ranked([30.0, 55.0, 30.5], known(600))
    assert [(row["rank"], row["place"]) for row in rows] == [(1, 1), (2, 2), (3, 0)]
    assert rows[0]["clear"]
    assert (rows[2]["reliability"], rows[2]["behind_best"]) == (None, 25.0)
    assert not ranked([30.0, 30.0], known(600))[0]["clear"], "the order of equal scores is never clear"
    assert not ranked([30.0, 30.4], known(6000))[0]["clear"], "52 % is no advice"
