"""Augmentations: the paper's fixed ones against closed forms, the random ones repeatable, the schedules complete."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pawpularity import transforms
from pawpularity.config import Config
from pawpularity.data.augment import AUGMENTATIONS, COPIES, RANDOM, Augmenter, Schedule, copies
from pawpularity.data.tables import read_train
from pawpularity.errors import UserError
from pawpularity.training.samples import originals

ORIGINAL, FLIP, BLUR, CROP = range(COPIES)
STRONG = Config().with_values({"train.augment": "strong"}).train.transforms
MIRROR = {ORIGINAL: FLIP, FLIP: ORIGINAL, BLUR: 4, CROP: 5}


@pytest.fixture
def photo():
    """Smooth, so that resampling has a right answer."""
    y, x = np.mgrid[0:64, 0:64]
    return np.stack([128 + 100 * np.sin(x / 9), 2 * x + y, 128 + 90 * np.cos(y / 7)], axis=2).astype(np.uint8)


def test_the_fixed_ones_are_what_the_paper_says(photo):
    fixed = [Augmenter(64).apply(photo, number, 0) for number in range(len(AUGMENTATIONS))]
    for plain, mirrored in MIRROR.items():
        assert np.array_equal(fixed[mirrored], fixed[plain][:, ::-1])
    assert np.array_equal(fixed[ORIGINAL], photo)
    blurred = gaussian_filter(photo.astype(float), (0.3, 0.3, 0), mode="mirror")
    assert np.abs(fixed[BLUR] - blurred).max() <= 1.0
    # The middle 58 of 64 pixels, resized: read between the pixels of the middle row.
    inner = photo[3:61, 3:61].astype(float)
    at = (np.arange(64) + 0.5) * 58 / 64 - 0.5
    across = np.stack([np.interp(at, np.arange(58), inner[29, :, c]) for c in range(3)], axis=1)
    assert fixed[CROP].shape == photo.shape
    assert np.abs(fixed[CROP][round(29.5 * 64 / 58 - 0.5)] - across)[3:-3].max() < 4


def test_a_random_one_is_a_function_of_photo_number_and_seed(photo):
    one, other = Augmenter(64, STRONG), Augmenter(64, STRONG)
    asked = [(RANDOM + number, seed) for number in range(8) for seed in (1, 2**63 + 5)]
    first = [one.apply(photo, number, seed) for number, seed in asked]
    with ThreadPoolExecutor(4) as pool:  # in another order, and in threads that share an augmenter
        second = list(pool.map(lambda at: other.apply(photo, *at), reversed(asked)))[::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(a.shape == photo.shape and a.dtype == np.uint8 for a in first)
    assert len({a.tobytes() for a in first}) == len(asked)


def test_the_authors_copy_by_score():
    samples = copies(np.arange(1, 101, dtype=float), "authors", seed=0)
    named = [{AUGMENTATIONS[c] for c in np.flatnonzero(row)} for row in samples]
    for score, expected in ((10, 4), (11, 2), (20, 2), (21, 1), (49, 1), (50, 2), (59, 2), (60, 4), (100, 4)):
        assert named[score - 1] == [{"original"}, {"original", "flip"}, set(AUGMENTATIONS[:4])][expected // 2]


def test_the_papers_text_draws_one_of_three_once():
    scores = np.tile(np.arange(1, 101, dtype=float), 30)
    samples = copies(scores, "paper", seed=1)
    rare = (scores <= 20) | ((scores >= 50) & (scores <= 60))
    assert (samples.sum(axis=1) == 1 + rare).all()
    assert samples[:, 1:].sum(axis=0).min() > 0.25 * rare.sum()
    assert np.array_equal(samples, copies(scores, "paper", seed=1))
    assert not np.array_equal(samples, copies(scores, "paper", seed=2))


def test_copy_counts_of_the_contest(real):
    scores = read_train(real / "pawpularity-labels" / "train.csv")["Pawpularity"].to_numpy()
    assert [copies(scores, rule, 0).sum() for rule in ("authors", "paper", "none")] == [16_962, 12_160, 9_912]


@pytest.mark.parametrize(("kind", "views", "each"), [("none", 0, 1), ("flip", 0, 2), (STRONG, 0, 5), (STRONG, 2, 2)])
def test_schedules_show_what_they_list(kind, views, each):
    copy_of = np.array([ORIGINAL, FLIP, BLUR, CROP] * 50)
    schedule = Schedule(kind, copy_of, epochs=5, views=views, seed=0)
    epochs = np.stack([schedule.of(epoch) for epoch in range(5)])
    assert np.array_equal(epochs[1], schedule.of(1))
    samples, numbers = schedule.all()
    listed = set(zip(samples.tolist(), numbers.tolist(), strict=True))
    assert len(listed) == len(samples) == each * len(copy_of)
    assert {(i, int(number)) for epoch in epochs for i, number in enumerate(epoch)} <= listed
    if kind == STRONG:
        assert ((epochs - RANDOM) % COPIES == copy_of).all()
        assert all(len(set(sample.tolist())) == each for sample in epochs.T)
    elif kind == "flip":
        mirrored = np.array([MIRROR[copy] for copy in copy_of.tolist()])
        assert ((epochs == copy_of) | (epochs == mirrored)).all()
        assert 0.3 < (epochs == copy_of).mean() < 0.7
    else:
        assert (epochs == copy_of).all()


def test_seeds_draw_their_own_views_unless_a_number_of_views_is_shared():
    def views(seed, **train):
        config = Config().with_values({"train.augment": "strong", "train.epochs": 4, "train.seed": seed, **train})
        return set(originals(np.arange(6)).schedule(config, seed * 1009).all()[1].tolist())

    assert len(views(0)) == 4
    assert not views(0) & views(1)
    assert views(0) == {RANDOM + COPIES * k for k in range(4)}, "as they were numbered before seeds had their own"
    assert views(0, **{"train.views": 3}) == views(1, **{"train.views": 3})


def test_another_albumentations_is_refused(photo, monkeypatch):
    monkeypatch.setattr(transforms.importlib.metadata, "version", lambda name: "2.5.1")
    with pytest.raises(UserError, match=r"2\.5\.1.*MIT"):
        Augmenter(64).apply(photo, BLUR, 0)


def test_no_registry_is_asked():
    code = (
        "import socket\n"
        "def no(*a, **k): raise AssertionError('a connection was tried')\n"
        "socket.socket.connect = socket.getaddrinfo = no\n"
        "import pawpularity.data.augment as augment, numpy, sys\n"
        "assert 'albumentations' not in sys.modules\n"
        "flips = [{'HorizontalFlip': {}}]\n"
        "augment.Augmenter(32, flips).apply(numpy.zeros((32, 32, 3), 'uint8'), 8, 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
