"""`pawpularity coach` through the real command: scores, what they are worth, folders, refusals."""

import csv
import io
import json
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pawpularity import Predictor
from pawpularity.coach.command import read_photo
from pawpularity.coach.prepared import read_prepared
from pawpularity.coach.text import COLUMNS, Album, as_csv
from pawpularity.coach.upload import MOST_BYTES
from pawpularity.evaluation.calibration import Calibration
from pawpularity.evaluation.oof import read_oof
from pawpularity.explain.chosen import choose
from pawpularity.files import read_json, write_json

KINDS = {"advised", "perhaps", "fine", "not worth it", "left out"}


def test_a_new_photo_is_scored_by_all_folds_and_calibrated_on_their_unseen_rows(bench, drawn, paw):
    photo = sorted((drawn / "test").glob("*.jpg"))[0]
    done = paw("coach", photo, "--run", "toy", "--data", drawn, "--json", "-")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    told = found["photos"][0]
    assert told["score"] == pytest.approx(float(Predictor.load("oof/toy").predict(photo)[0]), abs=1e-4)
    assert told["fold"] is None
    table = read_oof(Path("oof/toy/oof.csv"))
    known = Calibration(table["target"], table["prediction"])
    assert (told["low"], told["high"]) == pytest.approx(
        [float(end) for end in known.interval(told["score"], 0.9)], abs=1e-3
    )
    assert told["low"] <= told["half_low"] < told["half_high"] <= told["high"]
    assert 0 < told["beats_top_quarter"] <= told["beats_median"] < 1
    assert {tip["key"] for tip in told["tips"]} == {"contrast", "face", "eyes", "pets", "blur", "framing"}
    assert {tip["kind"] for tip in told["tips"]} <= KINDS
    assert all(tip["kind"] == "left out" for tip in told["tips"] if tip["key"] in ("pets", "blur")), (
        "too few for a probe"
    )
    assert found["about"]["median"] == np.median(table["target"])
    assert found["about"]["metadata"] == "the photo alone: the run was trained without metadata"
    assert found["about"]["indicative"]
    assert told["crop"]["tried"] > 80
    assert "drawn pets" in done.err


def test_a_photo_of_the_runs_own_table_is_scored_by_the_fold_that_never_saw_it(bench, drawn, paw):
    table = read_oof(Path("oof/toy/oof.csv")).set_index("Id")
    names = sorted(table.index)[:4]
    # Under another name: what counts is what is in the file.
    copies = [shutil.copy(drawn / "train" / f"{name}.jpg", bench / f"copy{i}.jpg") for i, name in enumerate(names)]
    done = paw("coach", *copies, "--run", "toy", "--data", drawn, "--json", "-")
    for name, told in zip(names, json.loads(done.out)["photos"], strict=True):
        assert told["score"] == pytest.approx(table.loc[name, "prediction"], abs=1e-3), "its out-of-fold prediction"
        assert told["fold"] == table.loc[name, "fold"]
        assert "never saw it" in told["notes"][0]


def test_one_photo_in_words(bench, drawn, paw):
    done = paw("coach", sorted((drawn / "test").glob("*.jpg"))[0], "--run", "toy", "--data", drawn)
    for words in ("it beats the shelter's middle photo", "nine of ten", "(indicative: 60 rows)", "Not looked at", "crop:",
                  "It says nothing about the pet", "always answering the mean"):  # fmt: skip
        assert words in done.out, words
    assert "learns from" not in done.err, "what was prepared is kept"


def test_a_folder_gives_a_ranked_csv_and_bad_files_are_named(bench, drawn, paw, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(drawn / "test", folder)
    (folder / "broken.jpg").write_bytes(next(folder.glob("*.jpg")).read_bytes()[:900])
    (folder / "notes.txt").write_text("not a photo, and not asked about")
    done = paw("coach", folder, "--run", "toy", "--data", drawn, "--out", tmp_path / "ranked.csv")
    assert done.code == 2
    assert "1 of 6 photos cannot be used" in done.err
    assert "broken.jpg: truncated" in done.err
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert done.out == (tmp_path / "ranked.csv").read_text()
    assert tuple(rows[0]) == COLUMNS
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5", ""]
    scores = [float(row["score"]) for row in rows[:5]]
    assert scores == sorted(scores, reverse=True)
    expected = Predictor.load("oof/toy").predict(rows[0]["photo"])[0]
    assert scores[0] == pytest.approx(float(expected), abs=0.01)
    assert rows[4]["beats_next"] == ""
    assert rows[5]["note"] == "truncated"


def test_twins_say_what_became_of_promises(bench):
    kept = read_json(Path("oof/toy/coach/prepared.json"), "prepared")["promises"]
    assert [row["tip"] for row in kept] == ["contrast", "face", "eyes", "pets", "blur", "crop"]
    contrast = kept[0]
    # The rule pays 43 x 0.6 for what is changed here, less what clipping to 1..100 takes or the spike at 100 gives.
    if contrast["promised"] is not None:
        assert 15 < contrast["true_gain"] < 40
    crop = kept[-1]
    assert crop["promised"] is None or (crop["true_gain"] == 0 and crop["promised"] >= 1)
    assert all(row["words"].startswith(row["tip"]) for row in kept)


def test_the_rule_pays_what_the_twins_say():
    from pawpularity.coach.evaluate_tips import pair_for

    for key, points in {"contrast": 25.8, "eyes": 9.0, "pets": 9.0, "blur": 0.0}.items():
        lacks, has = pair_for(key, 3)
        assert has.mean_unclipped() - lacks.mean_unclipped() == pytest.approx(points)
    lacks, has = pair_for("face", 3)
    assert has.mean_unclipped() - lacks.mean_unclipped() == pytest.approx(9.0 + 30.0 * has.tongue)


def test_what_was_prepared_is_made_anew_for_another_run_and_is_the_same_bytes(bench, drawn, paw, monkeypatch):
    from pawpularity.coach import evaluate_tips as twins

    monkeypatch.setattr(twins, "PAIRS", 2)
    folder = Path("oof/toy/coach")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    kept = read_json(folder / "prepared.json", "prepared")
    write_json(folder / "prepared.json", kept | {"recipe": kept["recipe"] | {"data": "another"}})
    done = paw("coach", sorted((drawn / "test").glob("*.jpg"))[0], "--run", "toy", "--data", drawn)
    assert done.code == 0
    assert "learns from" in done.err
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    whole = (folder / "probes.npz").read_bytes()
    for damaged in (b"damaged", whole[: len(whole) // 2]):
        (folder / "probes.npz").write_bytes(damaged)
        assert "learns from" in paw("coach", drawn / "test", "--run", "toy", "--data", drawn).err
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    chosen = choose(Namespace(data=str(drawn), config=None, masks=None, run="toy"), [])
    assert read_prepared(chosen) is not None
    for part, value in (
        ("quantiles", {"contrast": []}),
        ("notes", 5),
        ("promises", [{"tip": "crop"}]),
        ("promises", [3]),
    ):
        write_json(folder / "prepared.json", kept | {part: value})
        assert read_prepared(chosen) is None, f"{part} = {value}: made anew"
    write_json(folder / "prepared.json", kept)


def test_what_cannot_be_kept_is_said_and_the_answer_given(bench, drawn, paw, monkeypatch):
    from pawpularity.coach import coach
    from pawpularity.coach import evaluate_tips as twins

    monkeypatch.setattr(twins, "PAIRS", 2)
    shutil.rmtree("oof/toy/coach")

    def full(*words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(coach, "write_prepared", full)
    done = paw("coach", sorted((drawn / "test").glob("*.jpg"))[0], "--run", "toy", "--data", drawn)
    assert done.code == 0, done.err
    assert "cannot keep what it learnt" in done.err


@pytest.mark.slow
def test_what_is_hardly_a_photo_is_doubted_and_not_put_first(bench, drawn, paw):
    photo = sorted((drawn / "test").glob("*.jpg"))[0]
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save("=noise.png")
    Image.new("RGB", (160, 120), (200, 30, 30)).save("red.png")
    done = paw("coach", photo, "=noise.png", "red.png", "--run", "toy", "--data", drawn, "--json", "-")
    doubts = [told["doubt"] for told in json.loads(done.out)["photos"]]
    assert doubts[0] == ""
    assert "looks like noise" in doubts[1]
    assert "nearly one colour" in doubts[2]
    text = paw("coach", "red.png", "=noise.png", "--run", "toy", "--data", drawn).out
    assert not text.startswith("Use ")
    copy = shutil.copy(photo, "copy.jpg")
    same = paw("coach", photo, copy, "--run", "toy", "--data", drawn).out
    assert "The first two cannot be told apart." in same
    Path("some").mkdir()
    shutil.move("=noise.png", "some/=noise.png")
    done = paw("coach", "some", "--run", "toy", "--data", drawn)
    assert "some/=noise.png" in done.out
    table = read_oof(Path("oof/toy/oof.csv"))
    known = Calibration(table["target"], table["prediction"])
    lines = as_csv(Album([], {"=cmd()": "-1"}), known).splitlines()
    assert lines[1].startswith(",'=cmd(),")
    assert lines[1].endswith(",'-1")


def test_no_more_of_a_file_is_read_than_may_be(bench, drawn, paw, tmp_path):
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(900_000_000)
    assert len(read_photo(tmp_path / "huge.jpg")) == MOST_BYTES + 1


def run_like(place, name, **settings):
    """A copy of the toy run whose record says something else."""
    folder = place / "oof" / name
    shutil.copytree(place / "oof" / "toy", folder)
    record = read_json(folder / "config.json", "run")
    for key, value in settings.items():
        part, word = key.split("__")
        record["config"][part][word] = value
    write_json(folder / "config.json", record)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model__metadata": "use", "model__metadata_dropout": 0.0}, "was trained with metadata always there"),
        ({"train__split": "leaky", "train__copies": "authors", "train__augment": "none"}, "is leaky by design"),
    ],
)
def test_runs_that_cannot_be_trusted_here_are_refused(bench, drawn, refused, settings, said):
    run_like(bench, "odd", **settings)
    try:
        assert said in refused("coach", drawn / "test", "--run", "odd", "--data", drawn)
    finally:
        shutil.rmtree(bench / "oof" / "odd")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.jpg"], "there is no such photo"),
        (["train.lr=1"], "names no photo"),
        (["configs"], "holds no photo"),
        (["first.json", "train.lr=1"], 'remove "train.lr=1"'),
        (["first.json"], "not a JPEG, PNG"),
    ],
)
def test_wrong_words_end_with_one_line(bench, drawn, refused, words, said):
    assert said in refused("coach", *words, "--run", "toy", "--data", drawn)


def test_other_kinds_of_runs_are_refused(bench, refused):
    assert "holds no run" in refused("coach", "first.json", "--run", "nothing")
    assert "must be 0 to 65535" in refused("app", "--run", "toy", "--port", "70000")
    assert "cannot be listened on" in refused("app", "--run", "toy", "--host", "203.0.113.7")
    assert "cannot be listened on" in refused("app", "--run", "toy", "--host", "a..b"), "no name at all"
