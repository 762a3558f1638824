"""The time plan, by a clock that only goes when a photo is scored."""

import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from pawpularity.kaggle.blend import Blend
from pawpularity.kaggle.plan import Cost, Plan, Use
from pawpularity.kaggle.stream import BATCH, Chunk, bounds, stream

MEANS = {"a": 30.0, "b": 40.0, "c": 50.0}


def plan_of(flip=True):
    return Plan({
        "a": Use("a", 3, flip, 0.5), "b": Use("a", 2, False, 0.3), "c": Use("c", 2, False, 0.2),
    })  # fmt: skip


COST = Cost({"a": 1.0, "c": 2.0}, {"a": 0.1, "b": 0.2, "c": 0.4}, 0.05)


def test_the_cost_counts_a_shared_trunk_once_and_a_mirror_image_twice():
    # a's trunk twice (mirror images), shared with b; c's once; tails 2 x 3 x .1, 2 x .2, 2 x .4; .05 for the rest.
    assert plan_of().seconds(COST) == pytest.approx(2 * 1 + 2 + 0.6 + 0.4 + 0.8 + 0.05)
    assert plan_of(flip=False).seconds(COST) == pytest.approx(1 + 2 + 0.3 + 0.4 + 0.8 + 0.05)


def test_enough_time_leaves_nothing_out():
    plan = plan_of()
    assert plan.fit(COST, 1000, 100) == 100
    assert plan.said == []


def test_what_is_left_out_comes_in_its_order_and_then_it_fits():
    for budget in np.linspace(600, 5, 60):
        plan = plan_of()
        fitting = plan.fit(COST, budget, 100)
        kinds = [
            "flip" if word == "mirror images" else "fold" if word.startswith("fold") else "run" for word in plan.said
        ]
        assert kinds == sorted(kinds, key=["flip", "fold", "run"].index)
        if fitting == 100:
            assert 100 * plan.seconds(COST) <= budget
        else:  # nothing is left to leave out but photos
            assert [use.folds for use in plan.active.values()] == [1]
            assert fitting * plan.seconds(COST) <= budget < 100 * plan.seconds(COST) / 0.95
    # By weight: c saves 2.4 s for .2, b .2 s for .3; a is what remains.
    plan = plan_of()
    assert plan.fit(COST, 0, 100) == 0
    assert [word for word in plan.said if word in MEANS] == ["c", "b"]


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Fake:
    """A family whose photos cost what `COST` says, on the clock; it answers each run's mean plus the photo's number."""

    def __init__(self, name, runs, clock, slow=1.0, fails_at=None):
        self.fails_at = fails_at
        self.name, self.runs, self.clock, self.slow = name, runs, clock, slow
        self.size, self.fit, self.asked = 8, "squash", []

    def answer(self, pixels, columns, uses):
        assert set(uses) <= set(self.runs)
        at, kind = self.fails_at if isinstance(self.fails_at, tuple) else (self.fails_at, MemoryError)
        if len(self.asked) == at:
            raise kind("no room\nfor this")
        self.asked.append({name: (use.folds, use.flip) for name, use in uses.items()})
        views = {name: 2 if use.flip else 1 for name, use in uses.items()}
        trunk = self.slow * COST.trunks[self.name] * len(pixels)
        tails = [self.slow * COST.tails[name] * len(pixels) * use.folds * views[name] for name, use in uses.items()]
        self.clock.now += trunk * max(views.values()) + sum(tails)
        count = sum(use.folds * views[name] for name, use in uses.items())
        number = pixels[:, 0, 0, 0].astype(float)
        return type("Answer", (), {"scores": {name: MEANS[name] + number for name in uses}, "trunk_s": trunk,
                                   "tail_s": sum(tails) / count})()  # fmt: skip


def run(photos, deadline, *, slow=1.0, blend=None, fails=(), keep=lambda scores: None):
    clock, fails = Clock(), dict(fails)
    families = [Fake("a", ["a", "b"], clock, slow, fails.get("a")), Fake("c", ["c"], clock, slow, fails.get("c"))]
    pixels = (np.arange(photos) % 10).astype(np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    chunks = (Chunk(i, j, {(8, "squash"): pixels[i:j]}, {}, 0.0) for i, j in bounds_of_a_few(photos))
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    said = []
    outcome = stream(
        [str(i) for i in range(photos)], None, chunks, families, blend or Blend(0.0, weights, MEANS, 37.0), plan := plan_of(),
        deadline=deadline, clock=clock, tell=said.append, keep=lambda scores: keep(scores.copy()),
    )  # fmt: skip
    return outcome, plan, said, clock, families, 37.0 + np.arange(photos) % 10


def bounds_of_a_few(photos):
    edges = [*range(0, photos, BATCH), photos]
    return list(pairwise(edges))


def test_with_time_enough_the_blend_is_exact():
    outcome, plan, said, _, families, true = run(500, 1e6)
    assert np.allclose(outcome.scores, true, atol=1e-12)
    assert plan.said == []
    assert outcome.not_asked == 0
    assert all(asked == {"a": (3, True), "b": (2, False)} for asked in families[0].asked)
    assert said[-1].endswith("allowed")
    assert len(said) == 7, "one line a minute and not after the last chunk: every chunk of 64 takes longer than that"


@pytest.mark.parametrize("share", [0.9, 0.6, 0.4, 0.25])
def test_less_time_leaves_things_out_keeps_every_row_and_the_hour(share):
    full = 1000 * plan_of().seconds(COST)
    outcome, plan, said, clock, _, true = run(1000, share * full)
    assert clock.now <= share * full
    assert plan.said
    assert any("left out: mirror images" in line for line in said)
    assert outcome.not_asked == 0
    # The answers are the members' means plus one number, so whoever is absent is made up for exactly.
    assert np.allclose(outcome.scores, true, atol=1e-9)


def test_a_backbone_that_fails_is_left_out_from_there_on_and_every_row_is_written():
    outcome, plan, said, _, families, true = run(500, 1e6, fails={"c": 2})
    assert np.allclose(outcome.scores, true, atol=1e-9), "its absence is made up for, as where time is short"
    assert plan.said == ["c (failed)"]
    assert [line for line in said if "failed" in line] == [
        "c failed and is left out from here on (MemoryError: no room for this)"
    ]
    assert len(families[1].asked) == 2
    assert len(families[0].asked) == len(bounds_of_a_few(500))
    outcome, plan, said, _, _, true = run(500, 1e6, fails={"a": 3, "c": 0})
    assert np.allclose(outcome.scores[: 3 * BATCH], true[: 3 * BATCH])
    assert (outcome.scores[3 * BATCH :] == 37.0).all()
    assert outcome.not_asked == 500 - 3 * BATCH
    assert set(plan.said) == {"a (failed)", "b (failed)", "c (failed)"}
    assert said[-1] == f"no network is left; {500 - 3 * BATCH} photos get the mean prediction, 37.00"


def test_a_photo_that_breaks_its_decoder_costs_no_other_its_score(tmp_path, monkeypatch):
    from pawpularity.kaggle import stream as module

    def decode(path, size, fit):
        if path.stem == "1":
            raise MemoryError("bomb")
        return np.full((size, size, 3), 7, np.uint8)

    monkeypatch.setattr(module, "decode", decode)
    (chunk,) = module.decoded([tmp_path / f"{i}.jpg" for i in range(3)], [(8, "squash")], threads=2)
    assert chunk.faults == {1: "MemoryError: bomb"}
    assert [image.max() for image in chunk.pixels[8, "squash"]] == [7, 0, 7]


def test_a_photo_whose_decoding_does_not_end_holds_nobody_up(tmp_path, monkeypatch):
    """The first two of twelve hang both threads; whoever waits behind them is decoded by others."""
    from pawpularity.kaggle import stream as module

    hang = threading.Event()

    def decode(path, size, fit):
        if int(path.stem) < 2:
            hang.wait(60)
        return np.full((size, size, 3), 7, np.uint8)

    monkeypatch.setattr(module, "decode", decode)
    monkeypatch.setattr(module, "PATIENCE_S", 1.0)
    paths = [tmp_path / f"{i}.jpg" for i in range(12)]
    try:
        began = time.monotonic()
        (chunk,) = module.decoded(paths, [(8, "squash")], threads=2)
        assert time.monotonic() - began < 30
        assert chunk.faults == dict.fromkeys((0, 1), "its decoding does not end")
        assert chunk.stuck == 2
        assert [int(image.max()) for image in chunk.pixels[8, "squash"]] == [0, 0, *[7] * 10]
        # Past the deadline nothing is waited for.
        (late,) = module.decoded(paths[:1] * 3, [(8, "squash")], threads=1, deadline=0.0)
        assert late.stuck == 3
    finally:
        hang.set()


def test_scores_are_kept_when_something_ends_the_run():
    kept = []
    with pytest.raises(KeyboardInterrupt):
        run(500, 1e6, fails={"a": (2, KeyboardInterrupt)}, keep=kept.append)
    assert np.allclose(kept[-1][: 2 * BATCH], (37.0 + np.arange(500) % 10)[: 2 * BATCH])
    assert (kept[-1][2 * BATCH :] == 37.0).all()


def test_no_time_at_all_gives_the_mean():
    outcome, _, said, _, _, true = run(1000, 1.0)
    assert np.allclose(outcome.scores[:BATCH], true[:BATCH])
    assert (outcome.scores[BATCH:] == 37.0).all()
    assert outcome.not_asked == 1000 - BATCH
    assert "no photo more fits" in said[-1]


def test_the_blend_without_a_member_keeps_its_level_and_its_spread():
    blend = Blend(2.0, {"a": 0.6, "b": 0.4}, {"a": 30.0, "b": 50.0}, 41.0)
    a = np.array([20.0, 40.0])
    whole = blend({"a": a, "b": a + 20}, 2)
    assert np.allclose(whole, 2 + 0.6 * a + 0.4 * (a + 20))
    # b is a + 20 throughout, as their means are apart: without it nothing changes.
    assert np.allclose(blend({"a": a}, 2), whole)
    assert np.allclose(blend({"a": a, "b": np.array([np.nan, 60.0])}, 2), whole)
    assert np.allclose(blend({}, 2), 41.0)
    assert np.allclose(Blend(0, {"a": 1.0}, {"a": 30.0}, 30.0)({"a": np.array([-5.0, 300.0])}, 2), [1.0, 100.0])


def test_chunks_are_whole_batches_and_cover_every_row():
    for rows in (0, 1, 63, 64, 65, 1000, 6800):
        for shapes in ([(96, "squash")], [(224, "squash"), (640, "crop")]):
            found = bounds(rows, shapes)
            assert [at for start, stop in found for at in range(start, stop)] == list(range(rows))
            assert all((stop - start) % BATCH == 0 for start, stop in found[:-1])
            assert all(stop - start <= max(BATCH, 16e6 / sum(3 * s * s for s, _ in shapes)) for start, stop in found)
