"""Attacks against closed forms and bounds, harmless changes against Pillow, and the command's files on a toy run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tests.conftest import TOY

from pawpularity.config import Photos, resolve
from pawpularity.data.photos import decode
from pawpularity.evaluation.oof import read_oof
from pawpularity.models.network import build_network
from pawpularity.studies.robustness import SIZES, attacked, harmless, noise_of, pgd, pixel_score, saved_again, summary


def levels(count=3, size=16, low=10, high=240):
    return torch.from_numpy(np.random.default_rng(0).integers(low, high, (count, size, size, 3))).float()


def noise_for(photos):
    return torch.from_numpy(np.stack([noise_of("0", str(key), tuple(photos.shape[1:])) for key in range(len(photos))]))


def test_of_a_linear_score_pgd_moves_exactly_size_times_the_sum_of_the_weights():
    photos, weights = levels(), torch.from_numpy(np.random.default_rng(1).normal(size=(16, 16, 3))).float()

    def score(x):
        return (x * weights).sum(dim=(1, 2, 3))

    noise = noise_for(photos)
    found = {name: score(changed) - score(photos) for name, changed in attacked(score, photos, noise).items()}
    assert len(found) == 3 * len(SIZES)
    for size in SIZES:
        whole = size * float(weights.abs().sum())
        for word, sign in (("raise", 1), ("lower", -1)):
            np.testing.assert_allclose(found[f"PGD {size}/255, {word}"], sign * whole, rtol=1e-3)
        due = size * (torch.where(noise < 0, -1.0, 1.0) * weights).sum(dim=(1, 2, 3))
        np.testing.assert_allclose(found[f"chance {size}/255"], due, rtol=1e-2, atol=0.1)
        assert float(found[f"chance {size}/255"].abs().max()) < whole / 3


def test_pgd_answers_with_the_best_it_saw_of_each_photo():
    """Steps of a quarter level overshoot a peak 0.3 levels away: the last is not the best."""
    photos = levels()
    peaks = photos + torch.tensor([0.3, -0.6, 0.1])[:, None, None, None]
    seen: list[torch.Tensor] = []

    def score(x):
        points = -(x - peaks).abs().mean(dim=(1, 2, 3))
        seen.append(points.detach())
        return points

    best = pgd(score, photos, 1, 1, noise_for(photos))
    visited = torch.stack(seen)
    reached = -(best - peaks).abs().mean(dim=(1, 2, 3))
    np.testing.assert_allclose(reached, visited.max(dim=0).values, rtol=1e-5)
    assert len(visited) == 11
    assert (reached > visited[-1] + 1e-4).any()


def test_attacks_keep_their_bounds():
    """Black and white pixels included: within 0..255 and within the size, before rounding and after it."""
    photos = levels(4, low=0, high=256)
    photos[0, :8], photos[0, 8:] = 0, 255

    def curved(x):
        return 10 * torch.sin(x.sum(dim=3) / 8).mean(dim=(1, 2)) + torch.relu(x / 8 - 9).mean(dim=(1, 2, 3))

    for name, changed in attacked(curved, photos, noise_for(photos)).items():
        size = int(name.split()[1].split("/")[0])
        for one in (changed, changed.round()):
            assert one.min() >= 0
            assert one.max() <= 255
            assert (one - photos).abs().max() <= size + 1e-4
        assert (changed.round() - photos).abs().max() == size


def test_the_score_is_the_networks_and_with_flip_the_mean_of_both_mirror_images():
    network = build_network(resolve("scratch", [*TOY, "train.warmup_epochs=0"]), fold=0).eval()
    photos, metadata = levels(2, 32), np.eye(12, dtype=np.float32)[:2]
    once, both = (pixel_score(network, metadata, flip=flip) for flip in (False, True))
    with torch.no_grad():
        plain = network.points(network(photos, torch.from_numpy(metadata)))
        np.testing.assert_allclose(once(photos), plain, atol=1e-4)
        np.testing.assert_allclose(both(photos), (once(photos) + once(photos.flip(2))) / 2, atol=1e-4)


def test_harmless_changes_are_what_they_say(tmp_path):
    ramp = np.linspace(0, 255, 200 * 160 * 3).reshape(160, 200, 3)
    photo = np.clip(ramp + np.random.default_rng(0).normal(0, 12, ramp.shape), 0, 255).astype(np.uint8)
    path = tmp_path / "x.png"
    Image.fromarray(photo).save(path)
    pixels = decode(path, 80, "squash")
    changed = harmless(pixels[None], [path], Photos(size=80, fit="squash"))
    found = {name: photos[0].numpy() for name, photos in changed.items()}
    np.testing.assert_array_equal(found["mirrored"], pixels[:, ::-1])
    np.testing.assert_array_equal(found["brightness -10 %"], np.rint(pixels * 0.9))
    np.testing.assert_array_equal(found["brightness +10 %"], np.minimum(np.rint(pixels * 1.1), 255))
    larger = np.asarray(Image.fromarray(photo).resize((84, 84), Image.Resampling.BICUBIC))
    for word, at in (("right and below", 0), ("all around", 2), ("left and above", 4)):
        np.testing.assert_array_equal(found[f"5 % cut off {word}"], larger[at : at + 80, at : at + 80])
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
    def table(move):
        ids = [f"{at:04d}" for at in range(len(move))]
        return pd.DataFrame({"Id": ids, "change": "a", "move": move})

    move = np.random.default_rng(1).normal(2.0, 5.0, 300)
    (line,) = summary(table(move).sample(frac=1, random_state=0), None)
    half = 1.96 * move.std() / np.sqrt(300)
    assert (line["n"], line["mean"], line["size"]) == (300, pytest.approx(move.mean()), pytest.approx(abs(move).mean()))
    assert line["largest"] == np.abs(move).max()
    assert line["mean_high"] - line["mean_low"] == pytest.approx(2 * half, rel=0.15)
    doubled, pairs = table(np.repeat(move, 2)), np.repeat(np.arange(300), 2)
    width = [one["mean_high"] - one["mean_low"] for groups in (pairs, None) for one in summary(doubled, groups)]
    assert width == pytest.approx([2 * half, 2 * half / np.sqrt(2)], rel=0.15)


def test_the_command(drawn, work, paw, refused):
    """Each photo by the fold that never saw it; runs side by side; what is refused, and what is taken in part."""
    toy = ("--data", drawn, "--config", "scratch", *TOY, "folds.k=2", "train.warmup_epochs=0", "train.epochs=1")
    for words in (("--run", "one"), ("--run", "two", "train.seed=1", "photos.size=48")):
        assert paw("train", *toy, *words).code == 0
    done = paw("robustness", "--runs", "one", "two", "--photos", 5, "--data", drawn)
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) <= 16, "two runs"
    rows, figures = pd.read_csv("oof/one/robustness.csv"), json.loads(Path("oof/one/robustness.json").read_text())
    assert len(rows) == 5 * len(figures["moves"]) == 5 * 16
    oof = read_oof(Path("oof/one/oof.csv")).set_index("Id")
    assert (rows["fold"] == oof.loc[rows["Id"], "fold"].to_numpy()).all()
    np.testing.assert_allclose(rows["score"].clip(1, 100), oof.loc[rows["Id"], "prediction"], atol=2e-3)
    for line in figures["moves"]:
        mine = rows.loc[rows["change"] == line["name"], "move"]
        due = (mine.mean(), mine.abs().mean(), mine.abs().max())
        assert (line["mean"], line["size"], line["largest"]) == pytest.approx(due, abs=1e-3)
    by_name = {line["name"]: line for line in figures["moves"]}
    for size in SIZES:
        assert by_name[f"PGD {size}/255, raise"]["mean"] > 3 * by_name[f"chance {size}/255"]["size"]
    assert sorted(pd.read_csv("oof/two/robustness.csv")["Id"].unique()) == sorted(rows["Id"].unique())
    before = [Path(f"oof/one/robustness.{kind}").read_bytes() for kind in ("csv", "json")]
    shutil.rmtree("oof/two/fold0")
    assert paw("robustness", "--run", "one", "--photos", 5, "--data", drawn).code == 0
    assert [Path(f"oof/one/robustness.{kind}").read_bytes() for kind in ("csv", "json")] == before
    assert paw("robustness", "--run", "two", "--photos", 4, "--data", drawn).code == 0
    assert set(pd.read_csv("oof/two/robustness.csv")["fold"]) == {1}

    other = shutil.copytree(drawn, "other")
    table = pd.read_csv("other/train.csv")
    table["Pawpularity"] = 101 - table["Pawpularity"]
    table.to_csv("other/train.csv", index=False)
    assert "DATA=" in refused("robustness", "--run", "one", "--data", other)
    assert "toy" in refused("robustness", "--run", "one")
    assert "train.lr=3" in refused("robustness", "--run", "one", "train.lr=3")
    assert "--runs" in refused("robustness", "--run", "one", "--runs", "two")
    assert "--photos" in refused("robustness", "--run", "one", "--photos", -1)
    assert "three" in refused("robustness", "--run", "three", "--data", drawn)
