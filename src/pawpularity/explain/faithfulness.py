"""Faithfulness: does a map rank the places of a photo by what they do to its score? Insertion, deletion and ROAD.

Deletion removes the places, the highest first. Insertion starts from the hidden photo and shows the places in the same order. A
hidden place shows the blurred photo or the mean colour ("grey"). RISE itself hides with grey, so blur and ROAD are the neutral
tests. A good map loses score fast in deletion and gains it fast in insertion. The figure is the area under insertion minus the
area under deletion, in score points. It does not compare between photos; it compares with other orders of the same photo:

- Random orders, as coarse as the map and never finer than a cell. (An order of single pixels removes a little of everything, and
  any blob beats it.) Each random field is used with its negative: insertion in one order is deletion in the other, backwards, so
  the pair's figures are +d and -d.
- The centre first, where pets are. This order ignores the photo and still beats random orders on many photos, so a map must
  beat it as well.

A map beats random on a photo where p <= .05. p is a randomisation test: the rank of the map's figure among the figures of the map,
the random orders, and the reverses of all of them. Ten random orders give p >= 1/22, so one photo says little; see `summary`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from pawpularity.errors import UserError
from pawpularity.explain.players import Floats
from pawpularity.explain.removal import SHARES, Ranks, centre_first, grain, random_fields, ranks_of, road
from pawpularity.explain.rise import Score
from pawpularity.files import plain

BASELINES = ("blur", "grey")
CENTRE, CONSTANT, NO_BETTER = "centre", "constant map", "no better than random"
LEVEL = 0.05
PAIRS = 10  # random orders of each coarseness, and their reverses: with fewer than nine no map could reach p <= .05
GRAINS = 3  # levels of coarseness: 1, 2 and 4 cells
CELLS = 8  # across the photo: the finest grain
STEPS = 28
BATCH = 128


def judge(
    score: Score,
    x: Tensor,
    maps: Mapping[str, NDArray[np.floating[Any]]],
    *,
    seed: int = 0,
    steps: int = STEPS,
    baselines: Sequence[str] = BASELINES,
    with_road: bool = True,
) -> list[dict[str, Any]]:
    """Judge `maps`, (H, W) each and signed, of the photo `x` (C, H, W), whose zero is the mean colour.

    Returns rows for JSON, on each baseline one for every map and one for "centre": method, baseline, deletion_auc, insertion_auc,
    insertion_minus_deletion, road (see `road`), p_random, beats_random, road_beats_random, and mark (a warning to show beside the
    figures). Figures are in score points, except p. A constant map has no order: it is judged in a random one, and its p is 1.
    `steps` must be even: random orders are scored at every second step. Raises UserError for a score that is not finite.
    """
    shape = (int(x.shape[-2]), int(x.shape[-1]))
    ties = random_fields(shape, shape[0] / CELLS, 1, [seed, 99])[0]  # the order of a constant map: one cell coarse
    signed = {**maps, CENTRE: centre_first(shape)}
    map_orders = np.stack([ranks_of(values, ties) for values in signed.values()])
    fields = [random_fields(shape, shape[0] / CELLS * 2**level, PAIRS, [seed, level]) for level in range(GRAINS)]
    sizes = np.log([np.mean([grain(field) for field in level]) for level in fields])
    constant = [bool(np.ptp(values) == 0.0) for values in signed.values()]
    levels = [0 if flat else int(np.abs(sizes - np.log(grain(values))).argmin())
              for flat, values in zip(constant, signed.values(), strict=True)]  # fmt: skip
    drawn = {level: np.stack([ranks_of(field, ties) for field in fields[level]]) for level in sorted(set(levels))}
    roads = road(score, x, map_orders, seed=seed) if with_road else np.full(len(map_orders), np.nan)
    random_roads = {level: road(score, x, orders, seed=seed) for level, orders in drawn.items() if with_road}

    shares = np.round(np.arange(steps + 1) / steps * ties.size).astype(np.int64)
    rows = []
    for baseline in baselines:
        hidden = _hidden(x, baseline)
        deletion, insertion = _curves(score, x, hidden, map_orders, shares)
        areas = [np.trapezoid(curves, shares / ties.size, axis=1) for curves in (deletion, insertion)]
        gains = _gains(deletion[:, ::2], insertion[:, ::2])
        chance = {n: _gains(*_curves(score, x, hidden, orders, shares[::2])) for n, orders in drawn.items()}
        for i, (name, level) in enumerate(zip(signed, levels, strict=True)):
            p = 1.0 if constant[i] else p_among(gains[i], chance[level])
            beats = with_road and not constant[i] and p_among(roads[i], random_roads[level]) <= LEVEL
            mark = CONSTANT if constant[i] else "" if p <= LEVEL or name == CENTRE else NO_BETTER
            rows.append(plain({
                "method": name, "baseline": baseline, "deletion_auc": areas[0][i], "insertion_auc": areas[1][i],
                "insertion_minus_deletion": areas[1][i] - areas[0][i], "road": roads[i], "p_random": p,
                "beats_random": p <= LEVEL, "road_beats_random": beats, "mark": mark,
            }))  # fmt: skip
    return rows


def passes_to_judge(maps: int, *, with_road: bool = True) -> int:
    """The most photos that `judge` scores for this many maps."""
    orders, random = maps + 1, GRAINS * PAIRS
    curves = orders * 2 * (STEPS + 1) + random * 2 * (STEPS // 2 + 1)
    return len(BASELINES) * curves + with_road * 2 * len(SHARES) * (orders + random)


def _hidden(x: Tensor, baseline: str) -> Tensor:
    if baseline == "grey":
        return torch.zeros_like(x)
    # Half a cell of eight: details the size of an eye disappear, and the pet's place stays visible.
    sd = x.shape[-1] / 16.0
    blurred = gaussian_filter(x.detach().float().cpu().numpy(), (0, sd, sd), mode="nearest")
    return torch.from_numpy(blurred).to(x)


def _curves(score: Score, x: Tensor, hidden: Tensor, orders: Ranks, shares: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Scores while `shares` (numbers of pixels) are removed, and while they are shown: (orders, shares) each."""
    ranks, steps = torch.from_numpy(orders).to(x.device), torch.from_numpy(shares).to(x.device)
    scores = []
    for batch in torch.split(torch.arange(2 * len(ranks) * len(steps), device=x.device), BATCH):
        first = ranks[batch // (2 * len(steps))] < steps[batch % len(steps), None, None]
        shown = first == (batch // len(steps) % 2 == 1)[:, None, None]
        scores.append(score(torch.where(shown[:, None], x, hidden)).detach().double().cpu().numpy())
    found: Floats = np.concatenate(scores).reshape(len(ranks), 2, len(steps))
    if not np.isfinite(found).all():
        raise UserError("the score of a photo with hidden places is not a number; train with a lower train.lr")
    return found[:, 0], found[:, 1]


def _gains(deletion: Floats, insertion: Floats) -> Floats:
    """Area under insertion minus area under deletion, at even steps: (orders,)."""
    gains: Floats = np.trapezoid(insertion - deletion, dx=1.0 / (deletion.shape[1] - 1), axis=1)
    return gains


def p_among(own: float, drawn: Floats) -> float:
    """One-sided p of `own` among the figures `drawn` (n,) of random orders: its rank among all 2 (n + 1), reverses included."""
    others = np.concatenate([drawn, -drawn, [-own]])
    # Float sums in another order differ in their last digits; a tie must count as reached.
    return float((1 + (others >= own - 1e-9 * max(abs(own), 1e-12)).sum()) / (len(others) + 1))
