"""The time plan by a clock that only goes when photos are scored, the blend, and what may go wrong with a network."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pawpularity.device import Compute
from pawpularity.errors import Diverged
from pawpularity.kaggle import scoring
from pawpularity.kaggle.scoring import Blend, Chunk, Member, photo_chunks, score_photos
from pawpularity.predictor import SCORED_AT_ONCE

SHAPE = (8, "squash")
MEANS = {"a": 30.0, "b": 40.0, "c": 50.0}
FOLD = {"a": 0.1, "b": 0.2, "c": 0.4}
FULL = 2 * 3 * 0.1 + 2 * 0.2 + 2 * 0.4
"""Seconds a photo: a has three folds and is mirrored, b and c have two folds."""


class Fake:
    """A predictor whose photos cost what the tables say; it answers its mean plus the photo's number."""

    def __init__(self, name, folds, now, fails_at=0):
        self.run, self.networks, self.now = SimpleNamespace(name=name), dict.fromkeys(range(folds)), now
        self.config = SimpleNamespace(photos=SimpleNamespace(size=8, fit="squash"))
        self.calls, self.fails_at = 0, fails_at

    def predict(self, pixels, metadata, *, flip):
        self.calls += 1
        if self.calls == self.fails_at:
            raise MemoryError("no room")
        name = self.run.name
        self.now[0] += len(pixels) * FOLD[name] * len(self.networks) * (2 if flip else 1)
        return MEANS[name] + pixels[:, 0, 0, 0].astype(float)


def run(photos, deadline, fails_at=0):
    now = [0.0]
    members = [
        Member(Fake("a", 3, now), 0.5, MEANS["a"], True),
        Member(Fake("b", 2, now), 0.3, MEANS["b"], False),
        Member(Fake("c", 2, now, fails_at), 0.2, MEANS["c"], False),
    ]
    numbers = (np.arange(photos) % 10).astype(np.uint8)
    pixels = numbers[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    edges = [*range(0, photos, SCORED_AT_ONCE), photos]
    chunks = (Chunk(i, j, {SHAPE: pixels[i:j]}, {}) for i, j in pairwise(edges))
    blend, metadata = Blend(0.0, members), np.zeros((photos, 12), np.float32)
    ids = [str(i) for i in range(photos)]
    outcome = score_photos(ids, metadata, chunks, blend, 37.0, deadline=deadline, clock=lambda: now[0])
    return outcome, blend, now[0], 37.0 + numbers


def test_with_time_enough_the_blend_is_exact_and_nothing_is_left_out():
    outcome, _, spent, due = run(500, 1e6)
    assert np.allclose(outcome.scores, due, atol=1e-12)
    assert (outcome.left_out, outcome.without_time) == ([], 0)
    assert spent == pytest.approx(500 * FULL)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.0, 1.2), st.integers(1, 2500))
def test_less_time_leaves_things_out_in_order_and_keeps_every_row_and_the_hour(share, photos):
    allowed = share * photos * FULL
    outcome, _, spent, due = run(photos, allowed)
    assert spent <= max(allowed, SCORED_AT_ONCE * FULL), "one batch is always scored"
    kinds = ["flip" if word == "mirror images" else word.split()[0] for word in outcome.left_out]
    order = ["flip", "fold", "c", "b"]  # runs by their weight
    assert kinds == sorted(kinds, key=order.index)
    assert (outcome.scores[photos - outcome.without_time :] == 37.0).all()
    if not {"b", "c"} & set(kinds):  # fewer folds give the same answer here
        assert np.allclose(outcome.scores[: photos - outcome.without_time], due[: photos - outcome.without_time])
    if photos > 2000 and share > 0.2:
        assert outcome.without_time == 0


def test_a_member_that_is_left_out_is_stood_in_for_by_its_mean():
    blend = run(10, 1e6)[1]
    while word := blend.shorten(1.0, 1.0):
        last = word
    assert last == ["b"]
    assert len(blend.members) == 1
    scores = blend.score({SHAPE: np.full((1, 8, 8, 3), 6, np.uint8)}, np.zeros((1, 12), np.float32))
    assert scores == pytest.approx([37.0 + 0.5 * 6])


def test_a_batch_that_fails_costs_no_other_its_scores_but_the_first_must_work():
    outcome, _, _, due = run(500, 1e6, fails_at=3)
    failed = slice(2 * SCORED_AT_ONCE, 3 * SCORED_AT_ONCE)
    assert (outcome.scores[failed] == 37.0).all()
    assert np.allclose(np.delete(outcome.scores, failed), np.delete(due, failed))
    with pytest.raises(MemoryError):
        run(500, 1e6, fails_at=1)


def test_a_photo_that_breaks_its_decoder_costs_no_other_its_score(tmp_path, monkeypatch):
    def decode(path, size, fit):
        if path.stem == "1":
            raise MemoryError("bomb")
        return np.full((size, size, 3), int(path.stem), np.uint8)

    monkeypatch.setattr(scoring, "decode", decode)
    chunks = list(photo_chunks([tmp_path / f"{i}.jpg" for i in range(70)], [SHAPE]))
    assert [(chunk.start, chunk.stop) for chunk in chunks] == [(0, 64), (64, 70)]
    assert [list(chunk.faults) for chunk in chunks] == [[1], []]
    assert [int(image.max()) for chunk in chunks for image in chunk.pixels[SHAPE]] == [0, 0, *range(2, 70)]


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, Diverged])
def test_little_memory_gets_smaller_batches_and_an_overflow_float32(capfd, error):
    fake = Fake("a", 1, [0.0])
    fake.compute, answer = Compute(torch.device("cpu"), torch.bfloat16, ""), fake.predict

    def predict(pixels, metadata, *, flip):
        if len(pixels) > 16 if error is torch.cuda.OutOfMemoryError else fake.compute.dtype != torch.float32:
            raise error("x")
        return answer(pixels, metadata, flip=flip)

    fake.predict = predict
    pixels = np.arange(50, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    scores = Member(fake, 1.0, 30.0, False).score(pixels, np.zeros((50, 12), np.float32))
    assert scores.tolist() == [30.0 + number for number in range(50)]
    assert "going on" in capfd.readouterr().err
