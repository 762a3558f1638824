"""The drawn sample: its published rule gives its scores, its noise floor is right, and it is drawn the same every time."""

import hashlib
import importlib.metadata

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr
from tests.oracles import adapter

# Points of each part, noise and spike, as the truth's README publishes them.
RULE = {"base": 19.0, "tongue": 30.0, "eyes": 9.0, "contrast": 43.0, "clutter": -3.5, "pose": -9.0, "pets": -9.0}
NOISE, SPIKE = 10.0, 79.0
EFFECTS = {"tongue": 30, "eyes": 9, "contrast": 25.8, "clutter": -10.5, "pose": -9, "pets": -9, "accessory": 0}


def mean_score(latent):
    """E[score] of normal noise about `latent`: 79 and above is 100, the rest is rounded and clipped to 1..99."""
    bars = np.minimum(np.arange(2.0, 101.0) - 0.5, SPIKE)
    return 1 + ndtr((np.asarray(latent)[:, None] - bars) / NOISE).sum(axis=1)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """400 photos of 48 px: enough to see the noise."""
    return adapter.draw_sample(tmp_path_factory.mktemp("drawn") / "many", photos=400, size=48, seed=11, test_photos=4)


def test_the_published_rule_gives_the_scores(drawn):
    parts, floor = adapter.truth(drawn)
    due = (
        RULE["base"] + RULE["tongue"] * (parts["tongue_kind"] == "out") + RULE["eyes"] * (parts["eyes_kind"] == "open")
    )
    due += RULE["contrast"] * parts["contrast_c"] + RULE["clutter"] * parts["clutter_count"]
    due += RULE["pose"] * parts["pose_kind"].isin(["leaping", "on its side", "on its back"])
    due += RULE["pets"] * (parts["pets_count"] == 2)
    assert parts["mean_unclipped"].to_numpy() == pytest.approx(due.to_numpy(), abs=1e-3)
    assert parts["expected"].to_numpy() == pytest.approx(mean_score(due), abs=1e-3)
    table = pd.read_csv(drawn / "train.csv", dtype={"Id": str}).set_index("Id")
    own = parts.loc[table.index]
    noise = table["Pawpularity"] - own["expected"]
    assert abs(noise.mean()) < 4 * floor["floor"] / 20
    assert np.sqrt((noise**2).mean()) == pytest.approx(floor["floor"], rel=0.12)
    again = np.random.default_rng(0).normal(due.loc[table.index], NOISE, (2000, len(table)))
    scores = np.where(again >= SPIKE, 100, np.clip(np.rint(again), 1, 99))
    assert floor["floor"] == pytest.approx(np.sqrt(((scores - own["expected"].to_numpy()) ** 2).mean()), abs=0.1)
    assert (table["Eyes"] == (own["eyes_kind"] == "open")).all()
    assert (table["Group"] == (own["pets_count"] == 2)).all()
    assert (table["Accessory"] == (own["accessory_kind"] != "none")).all()
    assert table["Pawpularity"].between(1, 100).all()
    assert table["Pawpularity"].mean() == pytest.approx(38, abs=4)


def test_counterfactual_pairs_hold_the_exact_effects(sample):
    pairs = adapter.counterfactual_pairs(sample)
    assert dict(zip(pairs["part"], pairs["effect"], strict=True)) == EFFECTS
    for row in pairs.itertuples():
        one, other = (adapter.pixels(photo, 64).astype(int) for photo in row[3:5])
        assert np.abs(one - other).max() > 20, row.part


def digest(folder, pattern):
    """SHA-256 over names and bytes of files."""
    found = hashlib.sha256()
    for file in sorted(folder.glob(pattern)):
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()[:16]


def test_the_same_seed_draws_the_same_bytes_and_looks(sample, tmp_path, expected):
    again = adapter.draw_sample(tmp_path / "toy", photos=60, size=64, seed=3, pairs=1)
    names = sorted(str(file.relative_to(sample)) for file in sample.rglob("*") if file.is_file())
    assert names == sorted(str(file.relative_to(again)) for file in again.rglob("*") if file.is_file())
    assert all((sample / name).read_bytes() == (again / name).read_bytes() for name in names)
    other = adapter.draw_sample(tmp_path / "other", photos=4, size=64, seed=4)
    assert not {file.name for file in (other / "train").iterdir()} & {
        file.name for file in (sample / "train").iterdir()
    }
    expected("sample: scores and metadata", digest(sample, "*.csv"))
    expected("sample: what was drawn", digest(sample, "truth/parts.csv"))
    # Looks: the mean colour of every fifth photo on any machine; every byte where the libraries are those that wrote it.
    colours = [adapter.pixels(photo, 64).mean(axis=(0, 1)).round(2).tolist()
               for photo in sorted((sample / "train").iterdir())[::5]]  # fmt: skip
    expected("sample: mean colours", np.concatenate(colours).tolist(), within=1.0)
    versions = [importlib.metadata.version(name) for name in ("opencv-python-headless", "numpy", "scipy")]
    expected(
        f"sample: pixels, by OpenCV, numpy, scipy {' '.join(versions)}", digest(sample, "train/*.jpg"), optional=True
    )
