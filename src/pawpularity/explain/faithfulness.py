"""Does a map rank the places of a photo by what they really do to its score? Judged by removing and by showing them.

Deletion removes the places, the highest first; insertion shows them in that order on a hidden photo. A hidden place shows the
blurred photo or the mean colour ("grey", which RISE itself hides with, so the blur and ROAD are the neutral judges). Good maps
lose score fast and gain it fast: area under insertion minus area under deletion, in score points, is the figure. It cannot be
compared between photos, but it can with other orders of the same photo:

- random orders, as coarse as the map judged and never finer than a cell (an order of single pixels removes a little of
  everything and is beaten by any blob). A smooth random field and its negative are drawn together: insertion in one order is
  deletion in the other, read backwards, so insertion minus deletion of the pair is +d and -d.
- the centre first, where pets are. It knows nothing of the photo and beats random orders on many, so a map must beat it as
  well.

A map beats random on a photo where its p is at most .05: the rank of its figure among its own, its reverse's, the random
orders' and theirs (a randomisation test; ten pairs give p >= 1/22, so one photo says little; see `summary`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pawpularity.errors import UserError
from pawpularity.explain.masks import Floats
from pawpularity.explain.removal import SHARES, Ranks, centre_first, grain, random_fields, ranks_of, road
from pawpularity.explain.rise import Score
from pawpularity.files import plain

BASELINES = ("blur", "grey")
CENTRE = "centre"
NO_BETTER = "no better than random"
LEVEL = 0.05
GRAINS = 3  # random orders come in grains of 1, 2 and 4 cells

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Faithfulness:
    """One map of one photo, judged on one baseline. Everything is in score points, but for p and grain."""

    method: str
    baseline: str
    deletion_auc: float
    insertion_auc: float
    insertion_minus_deletion: float
    positive_end: float
    """Change of the score when the tenth that ranks highest is removed, as far as the map is positive there; nan if nowhere."""
    negative_end: float  # the same of the tenth that ranks lowest, as far as the map is negative there
    road: float  # ROAD combined (see `road`), the same on every baseline; nan if it was not asked for
    beats_random: bool
    p_random: float
    road_beats_random: bool
    beats_centre: bool
    random_sd: float  # spread of insertion minus deletion over random orders of this map's grain; their mean is 0
    grain: float  # pixels over which the map's autocorrelation falls to a half
    constant: bool  # the map is the same everywhere: it has no order, and was judged in a random one

    @property
    def mark(self) -> str:
        """What a reader must see beside the figures; "" if nothing."""
        if self.method == CENTRE or (self.beats_random and not self.constant):
            return ""
        return "constant map" if self.constant else NO_BETTER

    def to_dict(self) -> dict[str, Any]:
        """For JSON: figures and mark."""
        return plain(vars(self) | {"mark": self.mark})

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Faithfulness":
        """What `to_dict` wrote."""
        values: dict[str, Any] = {name: float("nan") if value is None else value for name, value in row.items()}
        values.pop("mark")
        return cls(**values)


def judge(
    score: Score,
    x: Tensor,
    maps: Mapping[str, NDArray[np.floating[Any]]],
    *,
    seed: int = 0,
    steps: int = 28,
    pairs: int = 10,
    cells: int = 8,
    ends: float = 0.1,
    baselines: Sequence[str] = BASELINES,
    with_road: bool = True,
    batch_size: int = 128,
) -> list[Faithfulness]:
    """Judge `maps`, (H, W) each and signed, of the photo `x` (C, H, W), whose zero is the mean colour.

    Rows: every map, then "centre", each on every baseline. `pairs` random orders and their reverses are drawn for each
    grain in use (at least 9, or nothing can beat them); `cells` across the picture set the finest. Maps and random orders are
    compared on every second step. Raises ValueError for a map that does not fit or is not finite, UserError where the score is not.
    """
    if pairs < 9:
        raise ValueError(f"with {pairs} pairs of random orders no map can reach p <= {LEVEL}; draw at least 9")
    shape = (int(x.shape[-2]), int(x.shape[-1]))
    # Ties, such as a constant map's, fall in an order as coarse as the rest.
    ties = random_fields(shape, shape[0] / cells, 1, [seed, 99])[0]
    signed = {name: _checked(name, values, shape) for name, values in maps.items()} | {CENTRE: centre_first(shape)}
    own = np.stack([ranks_of(values, ties) for values in signed.values()])
    fields = [random_fields(shape, shape[0] / cells * 2**level, pairs, [seed, level]) for level in range(GRAINS)]
    sizes = np.array([np.mean([grain(field) for field in level]) for level in fields])
    grains = {name: grain(values) for name, values in signed.items()}
    levels = {name: int(np.abs(np.log(sizes / g)).argmin()) if g > 0 else 0 for name, g in grains.items()}
    drawn = {n: np.stack([ranks_of(field, ties) for field in fields[n]]) for n in sorted({0, *levels.values()})}

    total, count = ties.size, round(ends * ties.size)
    tails = np.array([(min(count, int((v > 0).sum())), min(count, int((v < 0).sum()))) for v in signed.values()])
    tails[list(signed).index(CENTRE)] = count, 0  # a distance has no sign: what is far from the centre says nothing
    steps += steps % 2
    shares = np.round(np.arange(steps + 1) / steps * total).astype(np.int64)
    roads, random_roads = np.full(len(own), np.nan), {level: np.full(pairs, np.nan) for level in drawn}
    if with_road:
        roads = road(score, x, own, seed=seed)
        random_roads = {level: road(score, x, orders, seed=seed) for level, orders in drawn.items()}

    rows: list[Faithfulness] = []
    for baseline in baselines:
        hidden = _hidden(x, baseline)
        curves = _curves(score, x, hidden, own, shares, tails, batch_size)
        both = np.full((pairs, 2), count)
        random = {n: _curves(score, x, hidden, orders, shares[::2], both, batch_size) for n, orders in drawn.items()}
        gains = curves.gain(2)
        for place, (name, values) in enumerate(signed.items()):
            level, constant = levels[name], bool(np.ptp(values) == 0.0)
            chance = random[level].gain()
            p = _p(gains[place], chance)
            rows.append(
                Faithfulness(
                    method=name, baseline=baseline,
                    deletion_auc=float(curves.area(curves.deletion)[place]),
                    insertion_auc=float(curves.area(curves.insertion)[place]),
                    insertion_minus_deletion=float(curves.gain()[place]),
                    positive_end=float(curves.ends[place, 0]), negative_end=float(curves.ends[place, 1]),
                    road=float(roads[place]), beats_random=p <= LEVEL and not constant, p_random=p,
                    road_beats_random=with_road and _p(roads[place], random_roads[level]) <= LEVEL and not constant,
                    beats_centre=bool(gains[place] > gains[-1]) and not constant,
                    random_sd=float(np.sqrt(np.mean(chance**2))), grain=grains[name], constant=constant,
                )
            )  # fmt: skip
    return rows


def passes_to_judge(maps: int, *, with_road: bool = True, steps: int = 28, pairs: int = 10) -> int:
    """How many photos `judge` scores at most for this many maps."""
    orders = (maps + 1) * 2 * steps + GRAINS * pairs * steps
    return 2 * (orders + 2 * (1 + GRAINS)) + with_road * 2 * len(SHARES) * (maps + 1 + GRAINS * pairs)


def _checked(name: str, values: NDArray[np.floating[Any]], shape: tuple[int, int]) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f'map "{name}" must be finite and of shape {shape}, not {array.shape}')
    return array


def _hidden(x: Tensor, baseline: str) -> Tensor:
    if baseline == "grey":
        return torch.zeros_like(x)
    from scipy.ndimage import gaussian_filter

    # Half a cell of eight: what is as small as an eye is gone, where the pet is can still be seen.
    sd = x.shape[-1] / 16.0
    blurred = gaussian_filter(x.detach().float().cpu().numpy(), (0, sd, sd), mode="nearest")
    return torch.from_numpy(blurred).to(x)


@dataclass(frozen=True)
class _Curves:
    """Scores of some orders on one baseline."""

    share: Floats
    deletion: Floats
    insertion: Floats
    ends: Floats
    """(orders, 2): how removing the first and the last places changes the score; nan where there is nothing to remove."""

    def area(self, curves: Floats, every: int = 1) -> Floats:
        """Area under `curves` (orders, steps + 1), read at every so many steps: (orders,)."""
        return np.asarray(np.trapezoid(curves[:, ::every], self.share[::every], axis=1))

    def gain(self, every: int = 1) -> Floats:
        """Insertion minus deletion, (orders,)."""
        gain: Floats = self.area(self.insertion, every) - self.area(self.deletion, every)
        return gain


def _curves(
    score: Score, x: Tensor, hidden: Tensor, orders: Ranks, shares: Counts, tails: Counts, batch_size: int
) -> _Curves:
    """Scores after deletion and after insertion of `shares` (numbers of pixels) and of the `tails` (orders, 2).

    Every picture shows the places whose rank is from `low` on and below `high`: all are scored as one long batch.
    """
    total, inner = int(shares[-1]), shares[1:-1]
    low = [np.concatenate([inner, np.zeros(len(inner), np.int64), [first, 0]]) for first, _ in tails]
    high = [np.concatenate([np.full(len(inner), total), inner, [total, total - last]]) for _, last in tails]
    jobs = np.stack([np.repeat(np.arange(len(orders)), len(low[0])), np.concatenate(low), np.concatenate(high)], axis=1)
    # What every curve begins and ends with is scored once.
    jobs = np.concatenate([[[0, 0, total], [0, 0, 0]], jobs])
    ranks, scores = torch.from_numpy(orders).to(x.device), []
    for start in range(0, len(jobs), batch_size):
        order, bottom, top = torch.from_numpy(jobs[start : start + batch_size]).to(x.device).unbind(1)
        rank = ranks[order]
        shown = ((rank >= bottom[:, None, None]) & (rank < top[:, None, None]))[:, None]
        scores.append(score(torch.where(shown, x, hidden)).detach().double().cpu().numpy())
    found = np.concatenate(scores)
    if not np.isfinite(found).all():
        raise UserError("the score of a photo with hidden places is not a number; train with a lower train.lr")
    whole, nothing = found[:2]
    by_order = found[2:].reshape(len(orders), -1)
    deletion = np.pad(by_order[:, : len(inner)], ((0, 0), (1, 1)), constant_values=((0, 0), (whole, nothing)))
    insertion = np.pad(by_order[:, len(inner) : -2], ((0, 0), (1, 1)), constant_values=((0, 0), (nothing, whole)))
    return _Curves(shares / total, deletion, insertion, np.where(tails > 0, by_order[:, -2:] - whole, np.nan))


def _p(own: float, drawn: Floats) -> float:
    """One-sided p of `own` among the random orders `drawn`, both with their reverses: its rank among 2 (n + 1)."""
    everyone = np.concatenate([drawn, -drawn, [-own]])
    # Float sums in another order differ in their last digits; a tie must count as reached.
    return float((1 + (everyone >= own - 1e-9 * max(abs(own), 1e-12)).sum()) / (len(everyone) + 1))
