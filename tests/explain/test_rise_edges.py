"""What RISE refuses, in one line each; its plot; its memory."""

import math
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from pawpularity.errors import UserError
from pawpularity.explain.convergence import draw_convergence
from pawpularity.explain.rise import rise, rise_together
from pawpularity.studies.benchmark_train import PeakMemory

PHOTO = torch.ones(3, 32, 32)


def bright(batch):
    return 40 + batch[:, 0, :12, 8:20].sum((1, 2)) / 10


def nan_late(batch):
    answers = bright(batch)
    answers[5:] = math.nan
    return answers


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"photo": torch.ones(3, 31, 40)}, "31 x 40 px; 8 x 8 cells need 32"),
        ({"photo": torch.ones(3, 40, 40), "cells": 32}, "need 64 or more"),
        ({"photo": torch.ones(32, 32)}, r"\(channels, height, width\)"),
        ({"photo": torch.ones(3, 32, 32, dtype=torch.uint8)}, "must be a float tensor"),
        ({"photo": torch.full((3, 32, 32), math.inf)}, "photo holds something that is no number"),
        ({"score": lambda batch: torch.full((len(batch),), 44.25)}, "is 44.25 whatever is hidden"),
        ({"photo": torch.zeros(3, 32, 32)}, "is 40 whatever is hidden"),
        ({"score": nan_late, "batch_size": 32}, "no number in batch 1 of block 1"),
        ({"score": lambda batch: bright(batch) * math.inf}, "no number for the photo itself"),
        ({"score": lambda batch: bright(batch)[:, None]}, r"must answer \(2,\) for a batch of 2, not \(2, 1\)"),
        ({"design": "orthogonl"}, 'no design orthogonl; did you mean "orthogonal"'),
        ({"weights": "center"}, 'no weights center; did you mean "centred"'),
        ({"budget": 100}, "budget=100 is below one block, 128 masks"),
        ({"budget": 500, "cells": 16}, "one block, 512 masks"),
        ({"budget": 10**12}, "more than 10000000 masks"),
        ({"masks": 0}, 'must be "auto" or a number above 0'),
        ({"masks": "many"}, 'must be "auto"'),
        ({"cells": 1}, "cells=1"),
        ({"cells": 64}, "cells=64"),
        ({"precision": 0}, "precision=0"),
        ({"seed": -1}, "seed=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"substrate": torch.zeros(5, 5)}, r"substrate of shape \(5, 5\) does not fit"),
    ],
)
def test_refusals(words, said):
    words = {"score": bright, "photo": PHOTO} | words
    with pytest.raises(UserError, match=said) as caught:
        rise(words.pop("score"), words.pop("photo"), **words)
    assert "\n" not in str(caught.value)


def test_refusals_name_the_photo_and_the_batch():
    with pytest.raises(UserError, match="score of photo 2 is 40 whatever"):
        rise_together(bright, [PHOTO, 0 * PHOTO])
    with pytest.raises(UserError, match="2 scores do not go with 3 photos"):
        rise_together([bright, bright], [PHOTO] * 3)
    calls = iter(range(1000))
    late = lambda batch: bright(batch) if next(calls) < 7 else bright(batch) * math.nan  # noqa: E731
    with pytest.raises(UserError, match="batch 3 of block 2"):  # one call for the ends, four for the first block
        rise(late, PHOTO, batch_size=32)


def test_the_convergence_plot(tmp_path):
    found = {design: rise(bright, PHOTO, masks=2048, design=design) for design in ("orthogonal", "independent")}
    # Independent masks' error falls with the root of their number.
    masks, errors = np.array(found["independent"].history).T
    assert np.polyfit(np.log(masks), np.log(errors), 1)[0] == pytest.approx(-0.5, abs=0.15)
    draw_convergence(found, tmp_path / "a.png")
    draw_convergence(found, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    pixels = matplotlib.image.imread(tmp_path / "a.png")[..., :3]
    for colour in ("#0072B2", "#D55E00"):
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (np.abs(pixels - rgb).max(axis=2) < 0.01).sum() > 100, "each design has its line"
    with pytest.raises(UserError, match="four blocks"):
        draw_convergence({"few": rise(bright, PHOTO, masks=128)}, tmp_path / "c.png")


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="RssAnon is read from /proc")
def test_memory_does_not_grow_with_the_masks():
    photo = torch.ones(3, 160, 160)
    rise(bright, photo, masks=512)
    peaks = []
    for masks in (512, 1024, 4096):
        with PeakMemory() as peak:
            rise(bright, photo, masks=masks)
        assert peak.mb - peak.before < 300
        peaks.append(peak.mb)
    # Kept masks would be 420 MB, a batch lost in every block 630; what the allocator holds back between runs is none of ours.
    assert peaks[2] < max(peaks[:2]) + 100
