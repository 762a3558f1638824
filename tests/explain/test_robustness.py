"""Attacks against closed forms and bounds, harmless changes against Pillow, and the verb's files on a toy run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tests.conftest import TOY
from tests.explain.linear_network import SIZE, any_pixels, linear_network
from tests.explain.test_gradient import COLUMNS, small

from pawpularity.data.photos import decode
from pawpularity.evaluation.oof import read_oof
from pawpularity.config import Photos
from pawpularity.studies.robustness import (
    SIZES,
    Change,
    attacked,
    chance,
    fgsm,
    harmless,
    noise_of,
    pgd,
    pixel_score,
    saved_again,
    summary,
)

CPU = torch.device("cpu")


def batch(count: int, size: int, low: int = 0, high: int = 256) -> np.ndarray:
    return np.stack([any_pixels(size, seed, low, high) for seed in range(count)])


def noise_for(photos: np.ndarray) -> np.ndarray:
    return np.stack([noise_of(key, photos[0].shape) for key in range(len(photos))])


def test_of_a_linear_score_fgsm_and_pgd_move_exactly_size_times_the_sum_of_the_weights():
    network, weights = linear_network()
    points = pixel_score(network, None)
    photos = batch(3, SIZE, 10, 240)  # away from 0 and 255
    levels = torch.from_numpy(photos).float()
    clean = points(levels).detach().double().numpy()
    found = {change: (score - clean, exact - clean)
             for change, score, exact in attacked(points, photos, noise_for(photos), CPU)}  # fmt: skip
    assert len(found) == len(SIZES) * 5
    for size in SIZES:
        whole = size * np.abs(weights).sum()
        for name, sign in (("raise", 1), ("lower", -1)):
            fast, slow = (
                found[Change(kind, f"{kind.upper()} {size}/255, {name}", size, name)] for kind in ("fgsm", "pgd")
            )
            np.testing.assert_allclose(fast[0], sign * whole, rtol=1e-4)
            np.testing.assert_allclose(fast[1], sign * whole, rtol=1e-4)
            np.testing.assert_allclose(slow[0], sign * whole, rtol=1e-4)
        move, _ = found[Change("chance", f"chance {size}/255", size)]
        signs = np.where(noise_for(photos) < 0, -1, 1).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(move, size * (signs * weights).sum(axis=(1, 2, 3)), rtol=1e-3, atol=1e-3)
        assert np.abs(move).max() < whole / 3, "chance does far less than an attack of the same size"


def curved(levels: torch.Tensor) -> torch.Tensor:
    """Curved and kinked, with a slope that changes its sign within a few levels."""
    values = levels / 8
    return 10 * torch.sin(values.sum(dim=3)).mean(dim=(1, 2)) + torch.relu(values - 9).mean(dim=(1, 2, 3))


def test_pgd_is_never_worse_than_fgsm_on_a_network():
    """Photo by photo, on a small ResNet whose weights were shaken until its score is far from linear."""
    points = pixel_score(small(), np.tile(COLUMNS, (6, 1)))
    photos = torch.from_numpy(batch(6, 32)).float()
    noise = torch.from_numpy(noise_for(photos.numpy()))
    gains = []
    with torch.no_grad():
        clean = points(photos)
    for size in SIZES:
        for sign in (1, -1):
            fast, slow = fgsm(points, photos, size, sign), pgd(points, photos, size, sign, noise)
            with torch.no_grad():
                reached, further = (sign * (points(changed) - clean) for changed in (fast, slow))
            assert (reached > 0).all()
            assert (further >= reached - 1e-4).all(), (size, sign)
            gains.append(float((further / reached).mean()))
    assert max(gains) > 1.2, "the score is not curved enough for this to test anything"


def test_pgd_answers_with_the_best_it_saw_of_each_photo():
    """Steps of a quarter level overshoot a peak 0.3 levels away: the last is not the best."""
    photos = torch.from_numpy(batch(3, 16, 10, 240)).float()
    noise = torch.from_numpy(noise_for(photos.numpy()))
    peaks = photos + torch.tensor([0.3, -0.6, 0.1])[:, None, None, None]
    seen: list[torch.Tensor] = []

    def peaked(levels):
        points = -(levels - peaks).abs().mean(dim=(1, 2, 3))
        seen.append(points.detach())
        return points

    best = pgd(peaked, photos, 1, 1, noise)
    visited = torch.stack(seen)
    reached = -(best - peaks).abs().mean(dim=(1, 2, 3))
    np.testing.assert_allclose(reached, visited.max(dim=0).values, rtol=1e-5)
    assert len(visited) == 11
    assert (reached > visited[-1] + 1e-4).any()


def test_every_photo_that_is_scored_keeps_its_bounds():
    """Black and white pixels included: within 0..255, within the size, and in whole levels where it counts."""
    photos = batch(4, 16)
    photos[0, :8] = 0
    photos[0, 8:] = 255
    base = torch.from_numpy(photos).float()
    seen: list[torch.Tensor] = []

    def spy(levels):
        seen.append(levels.detach().clone())
        return curved(levels)

    reached = {}
    for change, score, _ in attacked(spy, photos, noise_for(photos), CPU):
        wholes = [levels for levels in seen if torch.equal(levels, levels.round())]
        assert wholes, change
        np.testing.assert_array_equal(curved(wholes[-1]).double().numpy(), score)
        for levels in seen:
            assert levels.min() >= 0
            assert levels.max() <= 255
            assert (levels - base).abs().max() <= change.size
        reached[change.kind, change.size] = float((wholes[-1] - base).abs().max())
        seen.clear()
    assert {reached[kind, size] for kind in ("fgsm", "pgd", "chance") for size in SIZES} == {1.0, 2.0, 4.0}
    assert all(reached[kind, size] == size for kind, size in reached)


def test_gradients_go_through_the_normalisation_and_the_mean_of_both_mirror_images():
    network, weights = linear_network()
    photos = torch.from_numpy(batch(1, SIZE, 10, 240)).float()
    both = pixel_score(network, None, flip=True)
    mean = (weights + weights[:, :, ::-1]) / 2
    move = both(fgsm(both, photos, 2, 1)) - both(photos)
    assert float(move.detach()) == pytest.approx(2 * np.abs(mean).sum(), rel=1e-4)
    assert not torch.equal(chance(photos, 1, torch.ones_like(photos)), photos)


def test_a_photos_noise_is_its_own():
    assert np.array_equal(noise_of(5, (4, 4, 3)), noise_of(5, (4, 4, 3)))
    assert not np.array_equal(noise_of(5, (4, 4, 3)), noise_of(6, (4, 4, 3)))
    drawn = noise_of(1, (100, 100, 3))
    assert abs(drawn.mean()) < 0.01
    assert drawn.std() == pytest.approx(1 / np.sqrt(3), rel=0.02)


def test_harmless_changes_are_what_they_say(tmp_path):
    ramp = np.linspace(0, 255, 200 * 160 * 3).reshape(160, 200, 3)
    rough = np.random.default_rng(0).normal(0, 12, ramp.shape)
    photo = np.clip(ramp + rough, 0, 255).astype(np.uint8)
    path = tmp_path / "x.png"
    Image.fromarray(photo).save(path)
    settings = Photos(size=80, fit="squash")
    pixels = decode(path, 80, "squash")
    found = harmless(path, pixels, settings)
    assert all(changed.shape == (80, 80, 3) and changed.dtype == np.uint8 for changed in found.values())
    np.testing.assert_array_equal(found["mirrored"], pixels[:, ::-1])
    np.testing.assert_array_equal(found["brightness -10 %"], np.rint(pixels * 0.9))
    np.testing.assert_array_equal(found["brightness +10 %"], np.minimum(np.rint(pixels * 1.1), 255))
    larger = np.asarray(Image.fromarray(photo).resize((84, 84), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(found["5 % cut off right and below"], larger[:80, :80])
    np.testing.assert_array_equal(found["5 % cut off left and above"], larger[4:, 4:])
    np.testing.assert_array_equal(found["5 % cut off all around"], larger[2:82, 2:82])
    losses = [np.abs(found[f"JPEG quality {q}"].astype(int) - pixels).mean() for q in (90, 70, 50, 30)]
    assert losses == sorted(losses)
    assert 0 < losses[0] < losses[-1] < 20
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned by a quarter
        image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    again = decode(saved_again(tmp_path / "turned.jpg", 95), 80, "squash").astype(int)
    assert np.abs(again - decode(tmp_path / "turned.jpg", 80, "squash")).mean() < 4


def test_the_summary_is_of_photos_and_keeps_groups_together():
    random = np.random.default_rng(1)
    move = random.normal(2.0, 5.0, 300)
    line = summary({Change("harmless", "a"): (move, 2 * move), Change("harmless", "b"): (-move, move)}, None)
    assert [one.name for one in line] == ["a", "b"]
    first = line[0]
    assert (first.n, first.mean, first.size) == (300, pytest.approx(move.mean()), pytest.approx(np.abs(move).mean()))
    assert first.largest == np.abs(move).max()
    assert first.unrounded == pytest.approx(2 * move.mean())
    half = 1.96 * move.std() / np.sqrt(300)
    assert first.mean_low == pytest.approx(move.mean() - half, abs=0.15 * half)
    assert first.mean_high == pytest.approx(move.mean() + half, abs=0.15 * half)
    half = 1.96 * np.abs(move).std() / np.sqrt(300)
    assert first.size_high - first.size_low == pytest.approx(2 * half, rel=0.15)
    pairs = np.repeat(np.arange(300), 2)
    doubled = {Change("harmless", "a"): (np.repeat(move, 2), np.repeat(move, 2))}
    grouped, alone = summary(doubled, pairs)[0], summary(doubled, None)[0]
    assert grouped.size_high - grouped.size_low == pytest.approx(2 * half, rel=0.15)
    assert alone.size_high - alone.size_low == pytest.approx(2 * half / np.sqrt(2), rel=0.15)


@pytest.fixture
def trained(work, shelter, paw):
    def train(name, *more):
        words = ("--config", "scratch", "--data", shelter, *TOY, "folds.k=3", "train.warmup_epochs=0", "train.epochs=1")
        done = paw("train", *words, "--run", name, *more)
        assert done.code == 0, done.err

    train("one")
    return shelter, train


@pytest.mark.slow
def test_the_command_scores_each_photo_by_the_fold_that_never_saw_it(trained, paw):
    folder, train = trained
    done = paw("robustness", "--run", "one", "--photos", 12, "--data", folder)
    assert done.code == 0, done.err
    printed = done.out
    rows = pd.read_csv("oof/one/robustness.csv")
    figures = json.loads(Path("oof/one/robustness.json").read_text())
    oof = read_oof(Path("oof/one/oof.csv")).set_index("Id")
    assert rows["Id"].nunique() == 12
    assert len(rows) == 12 * len(figures["moves"]) == 12 * 25
    assert (rows["fold"] == oof.loc[rows["Id"], "fold"].to_numpy()).all()
    # Another fold's network answers something else (folds differ by far more than this).
    np.testing.assert_allclose(rows["score"].clip(1, 100), oof.loc[rows["Id"], "prediction"], atol=2e-3)
    assert figures["off_predictions"] < 2e-3
    assert figures["score"]["n"] == 60
    for line in figures["moves"]:
        mine = rows.loc[rows["change"] == line["name"], "move"]
        assert line["mean"] == pytest.approx(mine.mean(), abs=1e-3)
        assert line["size"] == pytest.approx(mine.abs().mean(), abs=1e-3)
        assert line["largest"] == pytest.approx(mine.abs().max(), abs=1e-3)
        assert line["name"] in printed
    by_name = {line["name"]: line for line in figures["moves"]}
    for size in (1, 2, 4):
        assert by_name[f"PGD {size}/255, raise"]["mean"] > 3 * by_name[f"chance {size}/255"]["size"]
        assert by_name[f"FGSM {size}/255, lower"]["mean"] < 0 < by_name[f"FGSM {size}/255, raise"]["mean"]
    assert f"RMSE {figures['score']['rmse']:.2f}" in printed
    assert "indicative (n < 50)" in printed

    train("two", "train.seed=1", "photos.size=48")
    before = [Path(f"oof/one/robustness.{kind}").read_bytes() for kind in ("csv", "json")]
    done = paw("robustness", "--runs", "one", "two", "--photos", 12, "--data", folder, "--json", "-")
    both = json.loads(done.out)["runs"]
    assert [one["run"] for one in both] == ["one", "two"]
    assert [one["size"] for one in both] == [32, 48]
    assert [Path(f"oof/one/robustness.{kind}").read_bytes() for kind in ("csv", "json")] == before
    assert sorted(pd.read_csv("oof/two/robustness.csv")["Id"].unique()) == sorted(rows["Id"].unique())


def test_what_the_command_refuses_and_takes_in_part(trained, paw, refused):
    folder, _ = trained
    other = folder.parent / "other"
    shutil.copytree(folder, other)
    table = pd.read_csv(other / "train.csv")
    table.loc[0, "Pawpularity"] = 50 if table.loc[0, "Pawpularity"] != 50 else 51
    table.to_csv(other / "train.csv", index=False)
    assert "name its data with DATA=DIR" in refused("robustness", "--run", "one", "--data", other)
    assert "was trained on toy" in refused("robustness", "--run", "one")
    assert 'remove "train.lr=3"' in refused("robustness", "--run", "one", "train.lr=3")
    assert "give one of them" in refused("robustness", "--run", "one", "--runs", "two")
    assert "twice" in refused("robustness", "--runs", "one one")
    assert "must be 2 or more" in refused("robustness", "--run", "one", "--photos", 1)
    assert "holds no run" in refused("robustness", "--run", "three", "--data", folder)
    shutil.rmtree("oof/one/fold1")
    done = paw("robustness", "--run", "one", "--photos", 8, "--data", folder)
    assert done.code == 0, done.err
    rows = pd.read_csv("oof/one/robustness.csv")
    assert set(rows["fold"]) == {0, 2}
    assert rows["Id"].nunique() == 8
