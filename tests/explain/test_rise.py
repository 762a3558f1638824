"""RISE against scores whose map is known in closed form: f = c + sum of a_p times what the photo shows at p."""

import itertools
import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from pawpularity.explain.masks import SHOWN, MaskDesign, mask_tables
from pawpularity.explain.rise import rise, rise_together
from pawpularity.explain.rise_result import Spread, block_map

SIDE = 32
PHOTO = torch.ones(1, SIDE, SIDE, dtype=torch.float64)
y, x = np.mgrid[:SIDE, :SIDE]
EFFECT = 0.20 * np.exp(-((y - 10) ** 2 + (x - 12) ** 2) / 15) - 0.12 * np.exp(-((y - 22) ** 2 + (x - 20) ** 2) / 25)
"""Score points per pixel: a patch that helps, and one that harms."""


@dataclass
class Additive:
    """`constant` + sum of effects + noise that no mask explains: a sine of far too many turns."""

    effect: np.ndarray
    constant: float = 40.0
    noise: float = 0.0

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        points = (batch[:, 0].double() * torch.from_numpy(self.effect)).sum(dim=(1, 2))
        turns = (batch[:, 0].double() * torch.from_numpy(np.cos(3.0 * np.arange(SIDE * SIDE)).reshape(SIDE, SIDE))).sum(
            (1, 2)
        )
        return self.constant + points + self.noise * 2**0.5 * torch.sin(1e4 * turns)


def closed_form(effect: np.ndarray, cells: int = 8) -> np.ndarray:
    """K a / Var, K(p, q) = Cov(M_p, M_q): what RISE makes of additive effects, however many masks it takes."""
    tables = mask_tables(*effect.shape, cells)
    down, across = (np.einsum("spk,sqk->pq", t, t) / len(t) for t in (tables.rows, tables.columns))
    return down @ effect @ across.T / 4 / tables.variance


TRUTH = closed_form(EFFECT)


def off(a: np.ndarray, b: np.ndarray = TRUTH) -> float:
    return float(np.linalg.norm(a.astype(float) - b) / np.linalg.norm(b))


def scale(a: np.ndarray, b: np.ndarray = TRUTH) -> float:
    """How many times `b` is in `a`: noise that is none of `b` does not count."""
    return float((a.astype(float) * b).sum() / (b**2).sum())


def test_an_additive_score_gives_its_closed_form():
    found = rise(Additive(EFFECT), PHOTO, masks=16 * 128)
    assert off(found.map) < 0.05
    assert found.map[10, 12] > 0 > found.map[22, 20], "what harms is negative"
    assert found.map[10, 12] == pytest.approx(TRUTH[10, 12], rel=0.1)
    assert found.r2 > 0.98
    assert found.photo_score == pytest.approx(40 + EFFECT.sum())
    assert found.substrate_score == 40
    assert found.mean_score == pytest.approx(40 + EFFECT.sum() / 2)
    # 7 x 7 cells take 49 of the 64 columns; 4 x 4 a smaller array; 12 x 12 a larger one.
    for cells, masks in ((7, 2048), (4, 1024), (12, 4096)):
        found = rise(Additive(EFFECT), PHOTO, masks=masks, cells=cells)
        assert off(found.map, closed_form(EFFECT, cells)) < 0.10, cells
        assert scale(found.map, closed_form(EFFECT, cells)) == pytest.approx(1, abs=0.03), cells


def test_an_oblong_photo_of_three_channels_with_something_else_behind_it():
    photo = torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    behind = torch.tensor([0.5, 0.1, 0.9], dtype=torch.float64)[:, None, None]
    weights = torch.randn(3, 40, 56, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 10
    found = rise(lambda batch: (batch * weights).sum((1, 2, 3)), photo, masks=4096, substrate=behind)
    assert found.map.shape == (40, 56)
    assert found.substrate_score == pytest.approx(float((behind * weights).sum()))
    due = closed_form((weights * (photo - behind)).sum(0).numpy())
    assert off(found.map, due) < 0.25
    assert scale(found.map, due) == pytest.approx(1, abs=0.03)
    assert abs(off(found.map, closed_form((weights * photo).sum(0).numpy()))) > 0.5, "else the substrate was not seen"


def test_the_score_s_constant_and_scale():
    plain, moved, doubled = (
        rise(score, PHOTO, masks=512)
        for score in (Additive(EFFECT), Additive(EFFECT, constant=-7.0), Additive(2 * EFFECT, constant=80.0))
    )
    assert moved.map == pytest.approx(plain.map, abs=1e-6)
    assert moved.mean_score == pytest.approx(plain.mean_score - 47)
    assert doubled.map == pytest.approx(2 * plain.map, rel=1e-5, abs=1e-6)
    assert doubled.standard_error == pytest.approx(2 * plain.standard_error, rel=1e-4, abs=1e-6)
    assert doubled.relative_error == pytest.approx(plain.relative_error)


def test_same_call_same_bytes_and_batch_size_and_dtype_do_not_matter():
    one, again = (rise(Additive(EFFECT, noise=0.1), PHOTO, masks=512, seed=5) for _ in range(2))
    assert one.map.tobytes() == again.map.tobytes()
    assert one.standard_error.tobytes() == again.standard_error.tobytes()
    smooth = rise(Additive(EFFECT), PHOTO, masks=512, seed=5)
    for batch_size, dtype in ((7, torch.float64), (1000, torch.float64), (64, torch.float32)):
        other = rise(Additive(EFFECT), PHOTO.to(dtype), masks=512, seed=5, batch_size=batch_size)
        assert other.map == pytest.approx(smooth.map, abs=1e-5)


@pytest.mark.parametrize(
    ("design", "noise", "blocks"),
    [("orthogonal", 2.0, 8), ("orthogonal", 2.0, 9), ("orthogonal", 2.0, 16), ("independent", 0.5, 8)],
)
def test_unbiased_over_seeds_and_the_error_is_calibrated(design, noise, blocks):
    seeds = range(40)
    total, inside, actual, said = np.zeros_like(TRUTH), [], 0.0, 0.0
    for seed in seeds:
        found = rise(Additive(EFFECT, noise=noise), PHOTO, masks=blocks * 128, design=design, seed=seed, batch_size=128)
        total += found.map
        miss = found.map - TRUTH
        inside.append(float((np.abs(miss) <= found.interval(0.95)).mean()))
        actual, said = actual + float((miss**2).sum()), said + float((found.standard_error**2).sum())
        assert found.degrees == (blocks - 4 if design == "orthogonal" else blocks - 1)
    assert 0.93 <= np.mean(inside) <= 0.97
    assert actual / said == pytest.approx(1, abs=0.15)
    # The mean of 40 maps is nearer by the root of 40, as it is only where nothing is biased.
    assert off(total / len(seeds)) < 1.5 * (actual / len(seeds)) ** 0.5 / np.linalg.norm(TRUTH) / len(seeds) ** 0.5


def test_error_bound_to_the_shift_alone():
    # Without noise orthogonal blocks differ by their shift only. Below eight blocks the error said is on the safe side.
    ratios = {}
    for blocks in (4, 8, 16):
        actual = said = 0.0
        for seed in range(40):
            found = rise(Additive(EFFECT), PHOTO, masks=blocks * 128, seed=seed, batch_size=128)
            actual += float(((found.map - TRUTH) ** 2).sum())
            said += float((found.standard_error.astype(float) ** 2).sum())
        ratios[blocks] = actual / said
    assert ratios[4] < 0.7
    assert ratios[8] == pytest.approx(1, abs=0.35)
    assert ratios[16] == pytest.approx(1, abs=0.35)


def test_orthogonal_masks_beat_independent_ones_by_far_where_effects_add_up():
    ours, centred = (
        np.mean([off(rise(Additive(EFFECT), PHOTO, masks=512, design=design, seed=seed).map) ** 2 for seed in range(6)])
        for design in ("orthogonal", "independent")
    )
    published = np.mean([
        off((found.map - found.mean_score) * 0.5 / found.tables.variance) ** 2
        for found in (rise(Additive(EFFECT), PHOTO, masks=512, design="independent", weights="score", seed=s) for s in range(6))
    ])  # fmt: skip
    assert centred > 20 * ours
    assert published > 20 * centred


def test_the_published_weights():
    found = rise(Additive(EFFECT), PHOTO, masks=1024, weights="score")
    # E[f M] / p = E f + Cov(f, M) / p.
    due = found.mean_score + TRUTH * found.tables.variance / 0.5
    assert off(found.map - found.mean_score, due - found.mean_score) < 0.07
    assert found.relative_error < 0.1, "the constant must not count as signal, nor hide it"
    independent = rise(Additive(EFFECT, constant=4000.0), PHOTO, masks=512, design="independent", weights="score")
    assert independent.verdict == "no signal found"
    # (f - f0)^2 of an additive score: 2 (f0 - mu) Cov(f, M) / p, so its sign is that of all effects together.
    for sign in (1, -1):
        found = rise(Additive(sign * EFFECT), PHOTO, masks=8192, weights="squared-error")
        due = 2 * (found.photo_score - found.mean_score) * sign * TRUTH * found.tables.variance / 0.5
        constant = float(found.block_maps().mean()) - float(due.mean())
        assert off(found.map - constant, due) < 0.2
        assert scale(found.map - constant, due) == pytest.approx(1, abs=0.05)
        assert np.corrcoef(found.map.ravel(), TRUTH.ravel())[0, 1] > 0.95, "blind to the sign of what it explains"


@pytest.mark.parametrize("design", ["orthogonal", "independent"])
def test_a_blocks_map_is_the_sum_over_its_masks(design):
    """Against masks that are made, one by one, and numpy's covariance: in float64, to its digits."""
    plan, tables = MaskDesign(8, design, seed=3), mask_tables(SIDE, 40, 8)
    block = plan.block(2)
    masks = tables.masks(block.grids, block.shifts, PHOTO)[:, 0].numpy()
    scores = np.random.default_rng(0).normal(40, 3, len(masks))
    n, own = len(scores), 43.0
    found, constant = block_map(block, scores, tables, "centred", plan, own)
    centred = ((scores - scores.mean())[:, None, None] * masks).sum(axis=0)
    # Sampled masks lose a degree of freedom to their mean; balanced ones do not.
    np.testing.assert_allclose(
        found, centred / (n if design == "orthogonal" else n - 1) / tables.variance, rtol=1e-9, atol=1e-9
    )
    if design == "independent":
        assert found[5, 7] == pytest.approx(np.cov(scores, masks[:, 5, 7])[0, 1] / tables.variance[5, 7])
    assert constant == 0
    for weights, given in (("score", scores), ("squared-error", -((scores - own) ** 2))):
        found, constant = block_map(block, scores, tables, weights, plan, own)
        assert constant == pytest.approx(given.mean())
        published = (given[:, None, None] * masks).mean(axis=0) / SHOWN
        np.testing.assert_allclose(found + constant, published, rtol=1e-9)


@pytest.mark.parametrize("rest", [0, 1, 2, 3])
def test_the_error_of_an_unfinished_round_is_that_of_all_the_ways_it_may_go(rest):
    """Strata without a spread of their own: what varies is which of them the unfinished round has taken, and it is counted."""
    values = np.array([1.0, 4.0, -2.0, 9.0])
    means, said = [], []
    for drawn in itertools.combinations(range(4), rest):
        spread = Spread(4, (1, 1))
        for stratum in (*range(4), *range(4), *drawn):
            spread.add(stratum, np.array([[values[stratum]]]))
        assert spread.degrees == 8 + rest - 4
        means.append(float(spread.mean[0, 0]))
        said.append(float(spread.variance[0, 0]))
    assert said == pytest.approx([np.var(means)] * len(said), abs=1e-12)
    assert (np.var(means) > 0.01) == (rest > 0), "else nothing is tested"


def test_the_error_within_strata_is_cochrans():
    """Two rounds of four strata, each d off its mean: a variance of 2 d^2 within, over n blocks."""
    spread = Spread(4, (1, 1))
    for sign in (1, -1):
        for stratum, mean in enumerate((1.0, 4.0, -2.0, 9.0)):
            spread.add(stratum, np.array([[mean + sign * 0.3]]))
    assert spread.mean[0, 0] == pytest.approx(3.0)
    assert spread.variance[0, 0] == pytest.approx(2 * 0.3**2 / 8)
    # A ninth block: five rows of one more degree of freedom, and a fourth of a round on top.
    spread.add(1, np.array([[4.0]]))
    within = 8 * 0.3**2 / (9 - 4) / 9
    assert spread.variance[0, 0] == pytest.approx(within + (1 - 1 / 4) * np.var([1, 4, -2, 9], ddof=1) / 81)
    # Four blocks of one round: no spread within is known yet, so all of it counts.
    early = Spread(4, (1, 1))
    for stratum, mean in enumerate((1.0, 4.0, -2.0, 9.0)):
        early.add(stratum, np.array([[mean]]))
    assert (early.degrees, early.variance[0, 0]) == (3, pytest.approx(np.var([1, 4, -2, 9], ddof=1) / 4))


def test_r2_is_the_share_of_what_cells_explain():
    points = rise(Additive(EFFECT), PHOTO, masks=2048).sd_score
    for share in (0.8, 0.3):
        noise = points * math.sqrt(1 / share - 1)
        assert rise(Additive(EFFECT, noise=noise), PHOTO, masks=4096).r2 == pytest.approx(share, abs=0.04)
        assert rise(Additive(EFFECT, noise=noise), PHOTO, masks=4096, design="independent").r2 == pytest.approx(
            share, abs=0.04
        )


def test_it_stops_when_it_is_precise_and_says_when_it_is_not():
    easy = rise(Additive(EFFECT), PHOTO)
    assert (easy.masks, easy.verdict, easy.coarse) == (512, "precise", False), "it never decides before four blocks"
    harder = rise(Additive(EFFECT, noise=3.0), PHOTO, precision=0.2, budget=128 * 40)
    assert harder.verdict == "precise"
    assert 512 < harder.masks < 128 * 40
    assert harder.relative_error <= 0.2 < harder.history[-2][1]
    assert harder.history[-1] == (harder.masks, harder.relative_error)
    short = rise(Additive(EFFECT, noise=3.0), PHOTO, precision=0.2, budget=600)
    assert (short.masks, short.verdict) == (512, "budget spent")
    for seed in range(3):
        nothing = rise(Additive(0 * EFFECT, noise=1.0), PHOTO, seed=seed)
        assert (nothing.masks, nothing.verdict) == (2048, "no signal found")
        assert any("no signal found" in line for line in nothing.saliency().warnings)


def test_few_masks_are_coarse_and_whole_blocks_are_said():
    coarse = rise(Additive(EFFECT), PHOTO, masks=100)
    assert (coarse.masks, coarse.blocks, coarse.coarse, coarse.verdict) == (128, 1, True, "budget spent")
    assert (coarse.standard_error, coarse.relative_error, coarse.r2) == (None, None, None)
    assert any("100 masks were asked for, 128 taken" in line for line in coarse.notes)
    assert any("no error bar" in line for line in coarse.saliency().warnings)
    with pytest.raises(Exception, match="1 blocks give no error bar"):
        coarse.interval()
    published = rise(Additive(EFFECT), PHOTO, masks=500, design="independent", weights="score")
    assert published.masks == 512
    assert published.standard_error is not None


def test_what_is_shown_on_the_way():
    seen = []
    found = rise(Additive(EFFECT, noise=3.0), PHOTO, masks=768, on_block=seen.append)
    assert [one.masks for one in seen] == [128 * n for n in range(1, 7)]
    assert [one.coarse for one in seen] == [True] * 3 + [False] * 3
    assert seen[-1].map.tobytes() == found.map.tobytes()
    assert found.first(3).map.tobytes() == seen[2].map.tobytes()
    assert found.block_maps().mean(axis=0) == pytest.approx(found.map, abs=1e-5)
    # The same scores under other weights, without asking the score again.
    again = rise(Additive(EFFECT, noise=3.0), PHOTO, masks=768, weights="score")
    assert found.weighted("score").map.tobytes() == again.map.tobytes()
    assert found.block_maps()[0] == pytest.approx(rise(Additive(EFFECT, noise=3.0), PHOTO, masks=128).map, abs=1e-6)


def test_maps_made_together_differ_by_what_differs():
    other = EFFECT + 0.05 * np.exp(-((y - 5) ** 2 + (x - 26) ** 2) / 12)
    scores = [Additive(EFFECT, noise=2.0), Additive(other, noise=2.0)]
    alone = rise(scores[0], PHOTO, masks=1024)
    one, two = rise_together(scores, PHOTO, masks=1024)
    assert one.map.tobytes() == alone.map.tobytes()
    difference = two - one
    assert difference.map == pytest.approx(two.map - one.map, abs=1e-5)
    # Both scores have the same noise, so it cancels: the error of the difference is a small part of either map's.
    assert np.linalg.norm(difference.standard_error) < 0.1 * np.linalg.norm(one.standard_error)
    assert off(difference.map, closed_form(other - EFFECT)) < 0.1
    stranger = rise(scores[1], PHOTO, masks=1024, seed=1)
    with pytest.raises(Exception, match="rise_together"):
        stranger - one


def test_together_they_go_on_until_the_last_is_precise_and_sizes_may_differ():
    large = torch.ones(2, 48, 64)
    easy, hard, wide = rise_together(
        [Additive(EFFECT), Additive(EFFECT, noise=3.0), lambda batch: batch[:, 1, :20].sum((1, 2))],
        [PHOTO, PHOTO, large],
    )
    assert easy.masks == hard.masks == wide.masks > 512
    assert wide.map.shape == (48, 64)
    assert wide.map[5].mean() > 10 * abs(wide.map[44].mean())
    assert easy.relative_error < hard.relative_error <= 0.2


def test_as_every_method_gives_its_map():
    given = rise(Additive(EFFECT), PHOTO).saliency()
    assert given.method == "rise"
    assert given.unit.startswith("score points, when a place")
    assert given.map.dtype == given.standard_error.dtype == np.float32
    assert json.loads(json.dumps(given.facts, allow_nan=False))["verdict"] == "precise"
    assert given.facts["relative_error"] <= 0.2
    none = rise(Additive(0 * EFFECT, noise=1.0), PHOTO, seed=1).saliency()
    json.dumps(none.facts, allow_nan=False)
