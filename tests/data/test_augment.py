import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pawpularity.data.augment import (
    BLUR,
    BLUR_FLIPPED,
    COPIES,
    CROP,
    CROP_FLIPPED,
    FLIP,
    ORIGINAL,
    RANDOM,
    VIEWS,
    Painter,
    Schedule,
    copies,
)
from pawpularity.data.tables import read_train


def paint(photo, view):
    return Painter(len(photo)).paint(photo, view, 0)


@pytest.fixture
def photo():
    """Smooth, so that resampling has a right answer."""
    y, x = np.mgrid[0:64, 0:64]
    return np.stack([128 + 100 * np.sin(x / 9), 2 * x + y, 128 + 90 * np.cos(y / 7)], axis=2).astype(np.uint8)


def test_flip_is_exact(photo):
    assert np.array_equal(paint(photo, FLIP), photo[:, ::-1])
    for plain, mirrored in ((ORIGINAL, FLIP), (BLUR, BLUR_FLIPPED), (CROP, CROP_FLIPPED)):
        assert np.array_equal(paint(photo, mirrored), paint(photo, plain)[:, ::-1])


def test_blur_is_a_gaussian_of_sigma_03(photo):
    ours = paint(photo, BLUR).astype(float)
    theirs = gaussian_filter(photo.astype(float), (0.3, 0.3, 0), mode="mirror")
    assert np.abs(ours - theirs).max() <= 1.0


def test_crop_is_the_middle_90_percent_at_full_size(photo):
    ours = paint(photo, CROP).astype(float)
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


def test_a_random_view_is_a_function_of_photo_number_and_seed(photo):
    one, other = Painter(64), Painter(64)
    asked = [(RANDOM + number, seed) for number in range(8) for seed in (1, 2**63 + 5)]
    first = [one.paint(photo, view, seed) for view, seed in asked]
    with ThreadPoolExecutor(4) as pool:  # in another order, and in threads that share a painter
        second = list(pool.map(lambda at: other.paint(photo, *at), reversed(asked)))[::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(a.shape == photo.shape and a.dtype == np.uint8 for a in first)
    assert len({a.tobytes() for a in first}) == len(asked)


def test_schedules_show_what_they_say():
    copy_of = np.array([ORIGINAL, FLIP, BLUR, CROP] * 50)
    assert np.array_equal(Schedule("none", copy_of, epochs=3, views=0, seed=0).of(2), copy_of)

    flips = Schedule("flip", copy_of, epochs=3, views=0, seed=0)
    mirror = {ORIGINAL: FLIP, FLIP: ORIGINAL, BLUR: BLUR_FLIPPED, CROP: CROP_FLIPPED}
    shown = flips.of(1)
    assert all(view in (copy, mirror[copy]) for copy, view in zip(copy_of.tolist(), shown.tolist(), strict=True))
    assert 60 < (shown != copy_of).sum() < 140
    assert np.array_equal(shown, flips.of(1))
    assert not np.array_equal(shown, flips.of(0))

    strong = Schedule("strong", copy_of, epochs=5, views=0, seed=0)
    epochs = np.stack([strong.of(epoch) for epoch in range(5)])
    assert (epochs >= RANDOM).all()
    assert ((epochs - RANDOM) % COPIES == copy_of).all()
    assert all(len(set(item.tolist())) == 5 for item in epochs.T), "a new view in every epoch"
    cycled = Schedule("strong", copy_of, epochs=5, views=2, seed=0)
    assert all(len({int(cycled.of(epoch)[item]) for epoch in range(5)}) == 2 for item in range(8))

    for schedule in (flips, strong, cycled):
        items, views = schedule.all()
        listed = set(zip(items.tolist(), views.tolist(), strict=True))
        assert len(listed) == len(items)
        used = {(item, int(view)) for epoch in range(5) for item, view in enumerate(schedule.of(epoch))}
        assert used <= listed
        assert len(listed) == len(copy_of) * {"flip": 2, "strong": schedule.views}[schedule.augment]


def test_another_albumentations_is_refused(monkeypatch):
    from pawpularity.data import augment as views
    from pawpularity.errors import UserError

    monkeypatch.setattr(views.importlib.metadata, "version", lambda name: "2.5.1")
    with pytest.raises(UserError, match=r"albumentations 2\.5\.1 .*MIT"):
        paint(np.zeros((64, 64, 3), np.uint8), BLUR)


def test_importing_views_asks_no_registry():
    code = (
        "import socket\n"
        "def no(*a, **k): raise AssertionError('a connection was tried')\n"
        "socket.socket.connect = socket.getaddrinfo = no\n"
        "import pawpularity.data.augment, numpy\n"
        "pawpularity.data.augment.Painter(32).paint(numpy.zeros((32, 32, 3), 'uint8'), 8, 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
