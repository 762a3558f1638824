"""The drawn sample: layout, determinism, the rule's distribution and floor, counterfactual pairs, label maps, refusals."""

from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pawpularity.data.tables import METADATA
from pawpularity.errors import UserError
from pawpularity.sample import draw, labels, spec
from pawpularity.sample.draw import draw_sample
from pawpularity.sample.labels import LABELS
from pawpularity.sample.render import render
from pawpularity.sample.spec import NOISE_SD, PARTS, TEST, counterfactual_pair, describe, expected_score, scored
from pawpularity.sample.truth import floor, plan


def read(path):
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "sample"
    draw_sample(folder, photos=60, size=64, seed=3, pairs=1, test_photos=5)
    return folder


def test_layout_is_the_contests(sample):
    names = {"train.csv", "train", "test.csv", "test", "sample_submission.csv", "truth", "pairs"}
    assert {path.name for path in sample.iterdir()} == names
    for name, columns, count in (("train", ["Id", *METADATA, "Pawpularity"], 60), ("test", ["Id", *METADATA], 5)):
        table = read(sample / f"{name}.csv")
        assert list(table) == columns
        assert len(table) == count
        assert table["Id"].is_monotonic_increasing
        assert table["Id"].str.fullmatch("[0-9a-f]{32}").all()
        assert {path.name for path in (sample / name).iterdir()} == set(table["Id"] + ".jpg")
        assert set(table[list(METADATA)].to_numpy().ravel()) == {"0", "1"}
    submission = read(sample / "sample_submission.csv")
    assert list(submission) == ["Id", "Pawpularity"]
    assert submission["Id"].equals(read(sample / "test.csv")["Id"])


def test_every_photo_has_a_label_map_of_its_size(sample):
    rows = read(sample / "truth" / "parts.csv").set_index("Id")
    assert {path.stem for path in (sample / "truth" / "labels").iterdir()} == set(rows.index)
    for path in (*(sample / "train").iterdir(), *(sample / "test").iterdir()):
        with Image.open(path) as photo, Image.open(sample / "truth" / "labels" / f"{path.stem}.png") as numbers:
            assert photo.size == numbers.size
            assert set(np.unique(numbers)) <= set(LABELS)
            longer = max(photo.size)
            assert longer == 64 or (rows.loc[path.stem, "duplicate_of"] and 58 <= longer <= 64)


def test_folds_find_the_planted_duplicates(work, paw):
    assert paw("sample", "--photos", 200, "--size", 96, "--seed", 2, "--into", "drawn").code == 0
    assert paw("folds", "--data", "drawn").code == 0
    (file,) = Path("oof/folds").glob("*.csv")
    planted = {frozenset(pair) for pair in read(Path("drawn/truth/duplicates.csv")).itertuples(index=False)}
    found = {frozenset(pair) for _, group in read(file).groupby("group") for pair in combinations(group["Id"], 2)}
    assert len(planted) == 4
    assert len(planted & found) >= 0.95 * max(len(planted), len(found)), "recall and precision"


def test_same_bytes_for_any_number_of_processes(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(draw, "PER_PROCESS", 40)
    draw_sample(tmp_path / "again", photos=60, size=64, seed=3, pairs=1, test_photos=5)
    assert contents(tmp_path / "again") == contents(sample)


def test_photos_depend_on_the_seed_and_not_on_how_many_there_are(sample, tmp_path):
    draw_sample(tmp_path / "few", photos=12, size=64, seed=3, test_photos=2)
    few, many = contents(tmp_path / "few"), contents(sample)
    photos = [name for name in few if name.endswith((".jpg", ".png"))]
    assert len(photos) == 28
    assert all(few[name] == many[name] for name in photos)
    assert plan(40, 3) == plan(60, 3)[:40]
    assert not {entry.id for entry in plan(60, 4)} & {entry.id for entry in plan(60, 3)}


def test_distribution_is_like_the_contests():
    entries = plan(10_000, 11)
    scores = np.array([entry.score for entry in entries])
    assert 36.5 < scores.mean() < 39.5
    assert 19.6 < scores.std() < 21.6
    assert 0.02 < (scores == 100).mean() < 0.04
    assert 31 < np.median(scores) < scores.mean()
    assert 16 < np.std([entry.mean for entry in entries]) < 18
    assert 10 < floor(entries, 1)["floor"] < 11.2
    shares = {name: np.mean([entry.photo.metadata()[name] for entry in entries]) for name in METADATA}
    contest = (0.03, 0.77, 0.90, 0.86, 0.10, 0.07, 0.13, 0.05, 0.17, 0.17, 0.06, 0.07)
    assert shares == pytest.approx(dict(zip(METADATA, contest, strict=True)), abs=0.015)
    default = np.array([entry.score for entry in plan(600, 0)])
    assert (abs(default.mean() - 38) < 1.5, abs(default.std() - 20.6) < 1) == (True, True)


def test_conditional_mean_and_variance_against_numerical_integration():
    z = np.linspace(-8, 8, 400_001)
    weight = np.exp(-(z**2) / 2)
    weight /= weight.sum()
    means = np.array([-20.0, 5.0, 38.3, 79.0, 95.0, 130.0])
    for mean, expected, variance in zip(means, expected_score(means), spec.score_variance(means), strict=True):
        latent = mean + NOISE_SD * z
        score = np.where(latent >= spec.SPIKE, 100.0, np.clip(np.rint(latent), 1, 99))
        assert expected == pytest.approx((weight * score).sum(), abs=2e-3)
        assert variance == pytest.approx((weight * score**2).sum() - (weight * score).sum() ** 2, abs=0.2)
    assert scored(np.array([-3.0, 1.4, 78.4, 78.6, 78.999, 79.0, 120.0])).tolist() == [1, 1, 78, 79, 79, 100, 100]


def grown(mask, by):
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1))) > 0


@pytest.mark.parametrize("part", PARTS)
def test_counterfactual_pairs_differ_in_one_part_and_there_only(part):
    """Compared before encoding; the margin of 1 pixel is the antialiased rim that labels round away."""
    face = [labels.TONGUE, labels.LEFT_EYE, labels.RIGHT_EYE]
    own = {
        "tongue": [labels.TONGUE],
        "eyes": [labels.LEFT_EYE, labels.RIGHT_EYE],
        "clutter": [labels.CLUTTER],
        "pose": [labels.BODY, labels.ACCESSORY, *face],
        "pets": [labels.SECOND_PET],
        "accessory": [labels.ACCESSORY],
        "contrast": [labels.BACKGROUND],
    }[part]
    for pair in range(6):
        with_part, without = counterfactual_pair(7, part, pair)
        changed = [name for name in PARTS if with_part.points()[name] != without.points()[name]]
        assert changed == ([] if part == "accessory" else [part])
        (a, numbers_a), (b, numbers_b) = render(with_part, 128), render(without, 128)
        difference = np.abs(a.astype(int) - b).max(axis=2)
        differs = difference > 3
        where = np.isin(numbers_a, own) | np.isin(numbers_b, own)
        assert differs.any()
        if part == "contrast":
            # The pet's soft shadow and rim let the background through; eyes and tongue do not.
            assert np.array_equal(numbers_a, numbers_b)
            assert not (differs & np.isin(numbers_a, face) & ~grown(where, 2)).any()
            assert differs[where].mean() > 0.9
        else:
            # A part may shimmer through the antialiased rim of something before it: a few pixels, and faintly.
            stray = differs & ~grown(where, 1)
            assert stray.mean() < 0.001
            assert not stray.any() or difference[stray].max() < 32
            assert where.mean() > 0.004


def test_parts_are_on_the_picture_exactly_when_the_table_says_so_and_large_enough():
    for index in range(150):
        photo = describe(1, TEST, index)
        _, numbers = render(photo, 96)
        wanted = {
            labels.TONGUE: photo.tongue,
            labels.LEFT_EYE: photo.eyes in ("open", "right shut"),
            labels.RIGHT_EYE: photo.eyes in ("open", "left shut"),
            labels.CLUTTER: photo.clutter > 0,
            labels.SECOND_PET: photo.second,
            labels.ACCESSORY: bool(photo.accessory),
        }
        for part, there in wanted.items():
            mask = numbers == part
            assert mask.any() == there, (index, part)
            if there and part in (labels.TONGUE, labels.LEFT_EYE, labels.RIGHT_EYE):
                across, down = (np.ptp(np.flatnonzero(mask.any(axis=k))) + 1 for k in (0, 1))
                # A turned head's tongue is as wide as it was, but lies across: its lesser extent counts.
                assert (min(across, down) if photo.odd else across) >= 0.04 * numbers.shape[1], (index, part)
        assert (numbers == labels.BODY).mean() > 0.02
        assert (numbers == labels.BACKGROUND).mean() > 0.02


@pytest.mark.parametrize(
    ("option", "value"),
    [("photos", 0), ("size", 47), ("size", 1025), ("seed", -1), ("pairs", -1), ("test-photos", 0)],
)
def test_options_out_of_range_are_named(option, value, work, refused):
    assert f"--{option}" in refused("sample", f"--{option}", value, "--into", "new/sample")
    assert not Path("new").exists()


def test_only_a_new_or_empty_folder_is_filled_and_a_failure_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("old", "file"):
        with pytest.raises(UserError, match="another folder"):
            draw_sample(tmp_path / name, photos=1, size=48)
    monkeypatch.setattr(draw, "render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        draw_sample(tmp_path / "new", photos=3, size=48)
    assert contents(tmp_path) == {"file": b"mine", "old/mine.txt": b"mine"}
    monkeypatch.undo()
    (tmp_path / "empty").mkdir()
    draw_sample(tmp_path / "empty", photos=1, size=48, test_photos=1)
    assert len(read(tmp_path / "empty" / "train.csv")) == 1
