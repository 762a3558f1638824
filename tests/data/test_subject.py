"""The subject's mask and the contrast, against the label maps of a drawn shelter; then hypothesis 2 through the command."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from pawpularity.data.dataset import Dataset
from pawpularity.data.photos import decode
from pawpularity.data.subject import (
    BACKGROUND,
    OUTSIDE,
    SIZE,
    SUBJECT,
    Contrasts,
    contrast,
    measure,
    share,
    subject_map,
)
from pawpularity.sample.draw import draw_sample
from pawpularity.studies.hypotheses.drawn import true_contrasts

PET = (1, 2, 3, 5, 7)  # of the label maps: tongue, eyes, accessory, head and body
SECOND = 6


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A shelter other than the one the mask's numbers were chosen on."""
    folder = tmp_path_factory.mktemp("drawn") / "photos"
    draw_sample(folder, photos=170, size=128, seed=11, test_photos=1)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One cache for all tests: measuring takes a twentieth of a second a photo."""
    return tmp_path_factory.mktemp("cache")


def disc(pet, ground, size=SIZE):
    """A photo of a disc of one grey on another."""
    photo = np.full((size, size, 3), ground, dtype=np.uint8)
    noise = np.random.default_rng(0).integers(-3, 4, photo.shape)
    cv2.circle(photo, (size // 2 + 8, size // 2 + 10), size // 4, (pet, pet, pet), -1)
    return np.clip(photo + noise, 0, 255).astype(np.uint8)


def test_a_disc_is_found_and_its_contrast_is_exact():
    photo = disc(60, 170)
    found = subject_map(photo)
    true = np.hypot(*(np.mgrid[0:SIZE, 0:SIZE] - np.array([SIZE // 2 + 10, SIZE // 2 + 8])[:, None, None])) <= SIZE // 4
    subject = found == SUBJECT
    assert (subject & true).sum() / (subject | true).sum() > 0.95
    assert contrast(photo, found) == pytest.approx(110, abs=1)
    # White paper around it is no background: 30 px on two sides would make the contrast another.
    framed = np.full_like(photo, 255)
    framed[:, 30:-30] = cv2.resize(photo, (SIZE - 60, SIZE))
    found = subject_map(framed)
    assert (found[:, :30] == OUTSIDE).all()
    assert (found[:, -30:] == OUTSIDE).all()
    assert (found[:, 31:-31] != OUTSIDE).all()
    assert contrast(framed, found) == pytest.approx(110, abs=5)


def test_a_photo_without_a_subject_has_no_contrast():
    flat = np.full((SIZE, SIZE, 3), 130, dtype=np.uint8)
    random = np.random.default_rng(0).integers(0, 256, flat.shape, dtype=np.uint8)
    for photo in (flat, random):
        assert np.isnan(contrast(photo, subject_map(photo)))
    assert np.isnan(contrast(flat, np.full((SIZE, SIZE), SUBJECT, dtype=np.uint8)))
    assert share(np.full((SIZE, SIZE), BACKGROUND, dtype=np.uint8)) == 0.0


def test_masks_are_the_drawn_pets(photos):
    """A centred ellipse of a pet's usual size reaches .55; a mask turned upside down less than half of the masks'."""
    overlap, turned = [], []
    for file in sorted((photos / "train").iterdir())[:40]:
        labels = cv2.imread(str(photos / "truth" / "labels" / f"{file.stem}.png"), cv2.IMREAD_UNCHANGED)
        labels = cv2.resize(labels, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST)
        true = np.isin(labels, (*PET, SECOND) if (labels == SECOND).any() else PET)
        mask = subject_map(decode(file, SIZE, "squash")) == SUBJECT
        for kept, guess in ((overlap, mask), (turned, mask[::-1])):
            kept.append((guess & true).sum() / (guess | true).sum())
    assert np.mean(overlap) > 0.62
    assert np.mean(turned) < np.mean(overlap) - 0.1


@pytest.mark.slow
def test_contrasts_follow_the_drawn_ones(photos, cache):
    measured = measure(Dataset.load(photos, cache), cache)
    ids = pd.read_csv(photos / "train.csv")["Id"].tolist()
    assert measured.failed <= 2
    there = np.isfinite(measured.levels)
    assert np.corrcoef(measured.levels[there], true_contrasts(photos, ids)[there])[0, 1] > 0.55
    assert ((measured.share > 0.05) & (measured.share < 0.9)).mean() > 0.97


def test_a_contrast_is_measured_once_whatever_the_threads(shelter, tmp_path, monkeypatch):
    import pawpularity.data.photo_cache as photo_cache
    import pawpularity.data.subject as subject

    table = pd.read_csv(shelter / "train.csv").iloc[:8]
    table.to_csv(shelter / "train.csv", index=False)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(photo_cache, "thread_count", lambda threads=threads: threads)
        results.append(measure(Dataset.load(shelter, tmp_path / str(threads)), tmp_path / str(threads)).levels)
    assert np.array_equal(*results, equal_nan=True)
    (kept,) = (tmp_path / "1" / "photos").glob("*-contrast-*.npy")
    assert kept.read_bytes() == next((tmp_path / "3" / "photos").glob("*-contrast-*.npy")).read_bytes()
    monkeypatch.setattr(subject, "_row", None)  # from the cache now, in whatever order the table is
    assert np.array_equal(measure(Dataset.load(shelter, tmp_path / "1"), tmp_path / "1").levels, results[0])
    monkeypatch.setattr(subject, "RULE", "another")
    with pytest.raises(TypeError):
        measure(Dataset.load(shelter, tmp_path / "1"), tmp_path / "1")


@pytest.mark.slow
def test_hypothesis_two_on_drawn_photos(work, photos, cache, paw):
    words = ("hypotheses", "--data", photos, "--draws", 2000, f"cache.folder={cache}")
    done = paw(*words, "--out", "found")
    assert done.code == 0, done.err
    found = json.loads(Path("found/hypotheses.json").read_text())
    (row,) = [row for row in found["tested"] if row["column"] == "contrast"]
    assert row["verdict"] == "supported"
    (note,) = [note for note in found["notes"] if note.startswith("contrast: measured on")]
    assert note in done.out
    due = float(note.rsplit("= ", 1)[1].split()[0])
    assert row["low"] < due < row["high"] + 2
    assert 0.5 * row["true_effect"] < due < row["true_effect"]
    assert row["per_10_levels"] == pytest.approx(row["effect"] / row["levels"] * 10)
    assert found["joint"]["coefficients"].keys() >= {"contrast", "Eyes", "Blur"}
    assert len(found["tested"]) == 8
    again = paw(*words, "--out", "again")
    assert again.out == done.out
    for name in ("hypotheses.csv", "hypotheses.json", "forest.png"):
        assert Path("found", name).read_bytes() == Path("again", name).read_bytes()


def test_photos_whose_subject_was_not_found_are_counted_and_left_out(work, photos, cache, paw, monkeypatch):
    import pawpularity.studies.hypotheses.data as data

    def some(levels):
        monkeypatch.setattr(data, "measure", lambda dataset, cache: Contrasts(levels, np.full(len(levels), 0.3)))
        done = paw("hypotheses", "--data", photos, "--draws", 100, "--json", "-", f"cache.folder={cache}")
        return json.loads(done.out)

    levels = np.random.default_rng(2).gamma(2, 20, 170)
    levels[:30] = np.nan
    found = some(levels)
    (row,) = [row for row in found["tested"] if row["column"] == "contrast"]
    assert (row["with"], row["without"], found["joint"]["photos"]) == (140, 30, 140)
    assert "30 without a plausible subject are left out" in found["notes"][0]
    found = some(np.full(170, np.nan))
    assert "measured on 0 photos" in found["not_testable"]["contrast"]
    assert found["joint"]["photos"] == 170
