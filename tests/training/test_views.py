import subprocess
import sys

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pawpularity.competition.table import read_train
from pawpularity.training.views import BLUR, CROP, FLIP, VIEWS, Augment, copies, fixed_views


@pytest.fixture
def photo():
    """Smooth, so that resampling has a right answer."""
    y, x = np.mgrid[0:64, 0:64]
    return np.stack([128 + 100 * np.sin(x / 9), 2 * x + y, 128 + 90 * np.cos(y / 7)], axis=2).astype(np.uint8)


def test_flip_is_exact(photo):
    assert np.array_equal(fixed_views(64)[VIEWS.index(FLIP)](photo), photo[:, ::-1])


def test_blur_is_a_gaussian_of_sigma_03(photo):
    ours = fixed_views(64)[VIEWS.index(BLUR)](photo).astype(float)
    theirs = gaussian_filter(photo.astype(float), (0.3, 0.3, 0), mode="mirror")
    assert np.abs(ours - theirs).max() <= 1.0


def test_crop_is_the_middle_90_percent_at_full_size(photo):
    ours = fixed_views(64)[VIEWS.index(CROP)](photo).astype(float)
    inner = photo[3:61, 3:61].astype(float)
    assert ours.shape == photo.shape
    at = (np.arange(64) + 0.5) * 58 / 64 - 0.5
    across = np.stack([np.interp(at, np.arange(58), inner[29, :, c]) for c in range(3)], axis=1)
    row = round((29 + 0.5) * 64 / 58 - 0.5)
    assert np.abs(ours[row] - across)[3:-3].max() < 4


def test_authors_rule_on_a_table_of_every_score():
    scores = np.arange(1, 101, dtype=float)
    rows, views = np.nonzero(copies(scores, "authors", seed=0))
    per_row = {int(s): {VIEWS[v] for v in views[rows == i]} for i, s in enumerate(scores)}
    assert per_row[10] == per_row[60] == per_row[100] == {"original", "flip", "blur", "crop"}
    assert per_row[11] == per_row[20] == per_row[50] == per_row[59] == {"original", "flip"}
    assert per_row[21] == per_row[49] == {"original"}


def test_paper_rule_draws_one_of_three_once():
    scores = np.tile(np.arange(1, 101, dtype=float), 30)
    rows, views = np.nonzero(copies(scores, "paper", seed=1))
    counts = np.bincount(rows)
    rare = (scores <= 20) | ((scores >= 50) & (scores <= 60))
    assert (counts[rare] == 2).all()
    assert (counts[~rare] == 1).all()
    drawn = np.bincount(views[views > 0], minlength=4)[1:]
    assert drawn.min() > 0.25 * drawn.sum(), "the three transforms are about equally frequent"
    assert np.array_equal(copies(scores, "paper", seed=1), copies(scores, "paper", seed=1))
    assert not np.array_equal(copies(scores, "paper", seed=2), copies(scores, "paper", seed=1))


def test_copy_counts_of_the_contest(real):
    """16,962 items of 9,912 photos by the authors' code; 2,248 copies by the paper's text."""
    scores = read_train(real / "pawpularity-labels" / "train.csv")["Pawpularity"].to_numpy()
    assert copies(scores, "authors", 0).sum() == 16_962
    assert copies(scores, "paper", 0).sum() == 12_160
    assert copies(scores, "none", 0).sum() == 9_912


@pytest.mark.parametrize("kind", ["none", "flip", "strong"])
def test_augmentation_depends_on_its_seed_alone(photo, kind):
    one, other = Augment(kind, 64), Augment(kind, 64)
    first = [one(photo, seed) for seed in range(8)]
    second = [other(photo, seed) for seed in reversed(range(8))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(a.shape == photo.shape and a.dtype == np.uint8 for a in first)
    distinct = {a.tobytes() for a in first}
    assert len(distinct) == {"none": 1, "flip": 2, "strong": 8}[kind]


def test_another_albumentations_is_refused(monkeypatch):
    from pawpularity.errors import UserError
    from pawpularity.training import views

    monkeypatch.setattr(views.importlib.metadata, "version", lambda name: "2.5.1")
    with pytest.raises(UserError, match=r"albumentations 2\.5\.1 .*MIT"):
        fixed_views(64)


def test_importing_views_asks_no_registry():
    code = (
        "import socket\n"
        "def no(*a, **k): raise AssertionError('a connection was tried')\n"
        "socket.socket.connect = socket.getaddrinfo = no\n"
        "import pawpularity.training.views"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
