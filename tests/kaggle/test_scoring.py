"""The time plan by a clock that only goes when photos are scored, the blend, and what may go wrong with a network."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.kaggle import scoring
from pawpularity.kaggle.scoring import Blend, Chunk, SharedBackbone, load_backbones, photo_chunks, score_photos
from pawpularity.kaggle.time_plan import Plan, Use
from pawpularity.predictor import SCORED_AT_ONCE

MEANS = {"a": 30.0, "b": 40.0, "c": 50.0}
WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}
FROZEN = {"ab": 1.0, "c": 2.0}
HEAD = {"a": 0.1, "b": 0.2, "c": 0.4}
FULL = 2 * 1.0 + 2.0 + 2 * 3 * 0.1 + 2 * 0.2 + 2 * 0.4
"""Seconds a photo: a and b share a frozen part, a is mirrored."""


class Fake:
    """A shared backbone whose photos cost what the tables say; it answers each run's mean plus the photo's number."""

    shape = (8, "squash")

    def __init__(self, runs, fails_at=None):
        self.networks, self.fails_at, self.calls, self.now = dict.fromkeys(runs), fails_at, 0, [0.0]

    def score(self, pixels, metadata, uses):
        self.calls += 1
        if self.fails_at and self.calls == self.fails_at[0]:
            raise self.fails_at[1]("no room")
        views = {run: 2 if use.flip else 1 for run, use in uses.items()}
        heads = sum(HEAD[run] * use.folds * views[run] for run, use in uses.items())
        self.now[0] += len(pixels) * (FROZEN["".join(self.networks)] * max(views.values()) + heads)
        return {run: MEANS[run] + pixels[:, 0, 0, 0].astype(float) for run in uses}


def run(photos, deadline, fails=(None, None)):
    backbones = [Fake("ab", fails[0]), Fake("c", fails[1])]
    backbones[1].now = now = backbones[0].now
    numbers = (np.arange(photos) % 10).astype(np.uint8)
    pixels = numbers[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    edges = [*range(0, photos, SCORED_AT_ONCE), photos]
    chunks = (Chunk(i, j, {(8, "squash"): pixels[i:j]}, {}) for i, j in pairwise(edges))
    plan = Plan({"a": Use(3, True, 0.5), "b": Use(2, False, 0.3), "c": Use(2, False, 0.2)})
    outcome = score_photos(
        [str(i) for i in range(photos)], np.zeros((photos, 12), np.float32), chunks, backbones,
        Blend(0.0, WEIGHTS, MEANS, 37.0), plan, deadline=deadline, clock=lambda: now[0],
    )  # fmt: skip
    return outcome, plan, now[0], 37.0 + numbers


def test_with_time_enough_the_blend_is_exact_and_nothing_is_left_out():
    outcome, plan, spent, due = run(500, 1e6)
    assert np.allclose(outcome.scores, due, atol=1e-12)
    assert (plan.left_out, outcome.without_time) == ([], 0)
    assert spent == pytest.approx(500 * FULL), "the shared part once a photo and view"


@settings(max_examples=25, deadline=None)
@given(st.floats(0.0, 1.2), st.integers(1, 2500))
def test_less_time_leaves_things_out_in_order_and_keeps_every_row_and_the_hour(share, photos):
    allowed = share * photos * FULL
    outcome, plan, spent, due = run(photos, allowed)
    assert spent <= max(allowed, SCORED_AT_ONCE * FULL), "one batch is always scored"
    kinds = [
        "flip" if word == "mirror images" else "fold" if word.startswith("fold") else "run" for word in plan.left_out
    ]
    assert kinds == sorted(kinds, key=["flip", "fold", "run"].index)
    scored = photos - outcome.without_time
    # The answers are the members' means plus one number, so whoever is missing is made up for exactly.
    assert np.allclose(outcome.scores[:scored], due[:scored], atol=1e-9)
    assert (outcome.scores[scored:] == 37.0).all()
    if photos > 2000 and share > 0.4:
        assert outcome.without_time == 0


def test_a_backbone_that_fails_is_left_out_from_there_on_and_every_row_is_written(capfd):
    outcome, plan, _, due = run(500, 1e6, fails=(None, (3, MemoryError)))
    assert np.allclose(outcome.scores, due, atol=1e-9)
    assert plan.left_out == ["c (failed)"]
    assert "c failed" in capfd.readouterr().err
    outcome, plan, _, due = run(500, 1e6, fails=((4, MemoryError), (1, RuntimeError)))
    at = 3 * SCORED_AT_ONCE
    assert np.allclose(outcome.scores[:at], due[:at])
    assert (outcome.scores[at:] == 37.0).all()
    assert outcome.without_time == 500 - at - SCORED_AT_ONCE
    assert set(plan.left_out) == {"a (failed)", "b (failed)", "c (failed)"}


def test_the_blend_without_a_member_keeps_its_level_and_its_spread():
    blend = Blend(2.0, {"a": 0.6, "b": 0.4}, {"a": 30.0, "b": 50.0}, 41.0)
    a = np.array([20.0, 40.0])
    whole = blend({"a": a, "b": a + 20}, 2)
    assert np.allclose(whole, 2 + 0.6 * a + 0.4 * (a + 20))
    assert np.allclose(blend({"a": a}, 2), whole), "b is a + 20 throughout, as their means are apart"
    assert np.allclose(blend({}, 2), 41.0)
    assert np.allclose(Blend(0, {"a": 1.0}, {"a": 30.0}, 30.0)({"a": np.array([-5.0, 300.0])}, 2), [1.0, 100.0])


def test_a_photo_that_breaks_its_decoder_costs_no_other_its_score(tmp_path, monkeypatch):
    def decode(path, size, fit):
        if path.stem == "1":
            raise MemoryError("bomb")
        return np.full((size, size, 3), int(path.stem), np.uint8)

    monkeypatch.setattr(scoring, "decode", decode)
    chunks = list(photo_chunks([tmp_path / f"{i}.jpg" for i in range(70)], [(8, "squash")], threads=2))
    assert [(chunk.start, chunk.stop) for chunk in chunks] == [(0, 64), (64, 70)]
    assert [list(chunk.faults) for chunk in chunks] == [[1], []]
    assert [int(image.max()) for chunk in chunks for image in chunk.pixels[8, "squash"]] == [0, 0, *range(2, 70)]


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, UserError])
def test_little_memory_gets_smaller_batches_and_an_overflow_float32(monkeypatch, capfd, error):
    def score_heads(networks, inputs, rows, metadata, compute, *, view, batch_size):
        if batch_size > 16 if error is torch.cuda.OutOfMemoryError else compute.dtype != torch.float32:
            raise error("x")
        return np.stack([rows + network for network in networks]).astype(float)

    monkeypatch.setattr(scoring, "score_heads", score_heads)
    backbone = SharedBackbone(
        (8, "squash"), Compute(torch.device("cpu"), torch.bfloat16, ""), {"a": [0, 2], "b": [10, 20]}
    )
    uses = {"a": Use(2, True, 0.5), "b": Use(1, False, 0.5)}
    scores = backbone.score(np.zeros((5, 8, 8, 3), np.uint8), None, uses)
    assert {run: list(score) for run, score in scores.items()} == {"a": [1, 2, 3, 4, 5], "b": [10, 11, 12, 13, 14]}
    assert "going on" in capfd.readouterr().err


def test_a_run_that_cannot_be_loaded_is_left_out_and_none_left_is_refused(built, monkeypatch, capfd):
    from pawpularity.kaggle.bundle import open_bundle

    bundle, load = open_bundle(built / "dataset"), scoring.load_network
    broken = {"near"}

    def failing(run, *args, **words):
        if run.name in broken:
            raise TypeError("timm has changed")
        return load(run, *args, **words)

    monkeypatch.setattr(scoring, "load_network", failing)
    assert sorted(run for backbone in load_backbones(bundle, "cpu") for run in backbone.networks) == ["far", "whole"]
    assert "near cannot be loaded" in capfd.readouterr().err
    broken |= {"far", "whole"}
    with pytest.raises(UserError, match="no network"):
        load_backbones(bundle, "cpu")


def test_folds_and_runs_share_the_frozen_backbone(checkout, paw):
    import shutil

    from pawpularity.kaggle.bundle import open_bundle

    shutil.copytree("oof/near", "oof/also")
    assert paw("kernel", "--runs", "near", "also", "far").code == 0
    groups = load_backbones(open_bundle(checkout / "kernels/build/dataset"), "cpu")
    assert [list(group.networks) for group in groups] == [["near", "also"], ["far"]]
    first, second = groups[0].networks["near"]
    own = dict(first.named_parameters()), dict(second.named_parameters())
    for name in first.frozen_state().keys() & own[0].keys():
        assert own[0][name].data_ptr() == own[1][name].data_ptr()
