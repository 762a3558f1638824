"""Does a map rank the places of a photo by what they really do to its score? Judged by removing and by showing them.

Deletion takes the places away, the highest first, and insertion shows them in that order on a hidden photo; what is
hidden shows a blurred photo or the mean colour ("grey", which RISE itself hides with, so the blur and ROAD are the
neutral judges). Good maps lose score fast and win it fast: area under insertion minus area under deletion, in score
points, is the figure. It is not comparable from photo to photo, but it is with other orders of the same photo:

- random orders, as coarse as the map judged, and never finer than a cell. An order of single pixels removes a little of
  everything and is beaten by any blob. Orders are smooth random fields; a field and its negative are drawn together, as
  insertion in one order is deletion in the other, read backwards: insertion minus deletion of the pair is +d and -d.
- the centre first, which is where pets are. It knows nothing of the photo and beats random orders on many, so a map has to
  beat it as well.

A map beats random on a photo where its p is at most .05: the rank of its figure among its own, its reverse's, the random
orders' and theirs (a randomisation test; ten pairs give p >= 1/22, so one photo tells little; see `faithfulness_summary`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pawpularity.errors import UserError
from pawpularity.explain.estimate import plain
from pawpularity.explain.orders import centre_first, grain, random_fields, ranks_of
from pawpularity.explain.road import SHARES, Score, road

SUBSTRATES = ("blur", "grey")
RANDOM, CENTRE = "random", "centre"
NOT_TOLD = "not told from random"
LEVEL = 0.05
COARSEST = 2  # random orders come in grains of 1, 2 and 4 cells

Floats = NDArray[np.float64]
Ranks = NDArray[np.int32]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Faithfulness:
    """One map of one photo, judged on one substrate. Everything is in score points, but for p and grain."""

    method: str
    substrate: str
    deletion_auc: float
    insertion_auc: float
    insertion_minus_deletion: float
    positive_end: float
    """Change of the score when the tenth that ranks highest is removed, as far as the map is positive there; nan if nowhere."""
    negative_end: float
    """The same of the tenth that ranks lowest, as far as the map is negative there."""
    road: float
    """ROAD combined (see `road`), the same on every substrate; nan if it was not asked for."""
    beats_random: bool
    p_random: float
    road_beats_random: bool
    beats_centre: bool
    random_sd: float
    """Spread of insertion minus deletion over random orders of this map's grain; their mean is 0."""
    grain: float
    """Pixels over which the map's autocorrelation falls to a half."""
    constant: bool
    """The map is the same everywhere: it has no order, and was judged in a random one."""
    curves: dict[str, Floats] = field(default_factory=dict, repr=False)
    """`share` removed or shown, and the score after `deletion` and `insertion` of it, (steps + 1,) each."""

    @property
    def mark(self) -> str:
        """What a reader must be told beside the figures; "" if nothing."""
        if self.method in (RANDOM, CENTRE):
            return ""
        if self.constant:
            return "constant map"
        return "" if self.beats_random else NOT_TOLD

    def to_dict(self) -> dict[str, Any]:
        """For JSON: figures and mark, without the curves."""
        return {name: plain(value) for name, value in vars(self).items() if name != "curves"} | {"mark": self.mark}


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
    substrates: Sequence[str] = SUBSTRATES,
    with_road: bool = True,
    batch_size: int = 128,
) -> list[Faithfulness]:
    """Judge `maps`, (H, W) each and signed, of the photo `x` (C, H, W), whose zero is the mean colour.

    Rows: every map, then "centre" and "random", each on every substrate. `pairs` random orders and their reverses are
    drawn for each grain in use (at least 9, or nothing can beat them); `cells` across the picture set the finest. Maps and
    random orders are compared on every second step. Forward passes: `judge_forwards`. Raises ValueError for a map that
    does not fit or holds no numbers, UserError where the score is none.
    """
    if pairs < 9:
        raise ValueError(f"with {pairs} pairs of random orders no map can reach p <= {LEVEL}; draw at least 9")
    shape = (int(x.shape[-2]), int(x.shape[-1]))
    # Ties, such as a constant map's, fall in an order as coarse as the rest.
    ties = random_fields(shape, shape[0] / cells, 1, [seed, 99])[0]
    signed = {name: _checked(name, values, shape) for name, values in maps.items()} | {CENTRE: centre_first(shape)}
    own = np.stack([ranks_of(values, ties) for values in signed.values()])
    fields = [random_fields(shape, shape[0] / cells * 2**level, pairs, [seed, level]) for level in range(COARSEST + 1)]
    sizes = np.array([np.mean([grain(field) for field in level]) for level in fields])
    grains = {name: grain(values) for name, values in signed.items()}
    levels = {name: int(np.abs(np.log(sizes / g)).argmin()) if g > 0 else 0 for name, g in grains.items()}
    drawn = {n: np.stack([ranks_of(field, ties) for field in fields[n]]) for n in sorted({0, *levels.values()})}

    total, count = ties.size, round(ends * ties.size)
    tails = np.array([(min(count, int((v > 0).sum())), min(count, int((v < 0).sum()))) for v in signed.values()])
    tails[list(signed).index(CENTRE)] = count, 0  # a distance has no sign: what is far from the centre says nothing
    steps = steps + steps % 2
    shares = np.round(np.arange(steps + 1) / steps * total).astype(np.int64)
    roads, random_roads = np.full(len(own), np.nan), {level: np.full(pairs, np.nan) for level in drawn}
    if with_road:
        roads = road(score, x, own, seed=seed)
        random_roads = {level: road(score, x, orders, seed=seed) for level, orders in drawn.items()}

    rows: list[Faithfulness] = []
    for substrate in substrates:
        hidden = _hidden(x, substrate)
        curves = _curves(score, x, hidden, own, shares, tails, batch_size)
        thin, both = shares[::2], np.full((pairs, 2), count)
        random = {level: _curves(score, x, hidden, orders, thin, both, batch_size) for level, orders in drawn.items()}
        gains = curves.gain(2)
        for place, (name, values) in enumerate(signed.items()):
            level, constant = levels[name], bool(np.ptp(values) == 0.0)
            chance = random[level].gain()
            p = _p(gains[place], chance)
            rows.append(
                Faithfulness(
                    method=name,
                    substrate=substrate,
                    deletion_auc=float(curves.area(curves.deletion)[place]),
                    insertion_auc=float(curves.area(curves.insertion)[place]),
                    insertion_minus_deletion=float(curves.gain()[place]),
                    positive_end=float(curves.ends[place, 0]),
                    negative_end=float(curves.ends[place, 1]),
                    road=float(roads[place]),
                    beats_random=p <= LEVEL and not constant,
                    p_random=p,
                    road_beats_random=with_road and _p(roads[place], random_roads[level]) <= LEVEL and not constant,
                    beats_centre=bool(gains[place] > gains[-1]) and not constant,
                    random_sd=_sd(chance),
                    grain=grains[name],
                    constant=constant,
                    curves=curves.of(place),
                )
            )
        rows.append(_random_row(substrate, random[0], float(sizes[0]), 0.0 if with_road else float("nan")))
    return rows


def judge_forwards(
    maps: int, *, steps: int = 28, pairs: int = 10, grains: int = 2, substrates: int = 2, with_road: bool = True
) -> int:
    """Forward passes of `judge` for one photo and this many maps, whose grains (and the centre's) fall into `grains` sizes."""
    orders = (maps + 1) * 2 * steps + grains * pairs * steps
    return substrates * (orders + 2 * (1 + grains)) + with_road * 2 * len(SHARES) * (maps + 1 + grains * pairs)


def _checked(name: str, values: NDArray[np.floating[Any]], shape: tuple[int, int]) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape or name in (RANDOM, CENTRE):
        raise ValueError(f'map "{name}" has shape {array.shape}; a map of this photo has {shape}, and another name')
    if not np.isfinite(array).all():
        raise ValueError(f'map "{name}" holds what is no number')
    return array


def _hidden(x: Tensor, substrate: str) -> Tensor:
    if substrate == "grey":
        return torch.zeros_like(x)
    if substrate != "blur":
        raise ValueError(f"substrate {substrate} is not known; known: {', '.join(SUBSTRATES)}")
    from scipy.ndimage import gaussian_filter

    # Half a cell of eight: what is as small as an eye is gone, where the pet is remains to be seen.
    sd = x.shape[-1] / 16.0
    blurred = gaussian_filter(x.detach().float().cpu().numpy(), (0, sd, sd), mode="nearest")
    return torch.from_numpy(blurred).to(x)


@dataclass(frozen=True)
class _Curves:
    """Scores of some orders on one substrate."""

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

    def of(self, place: int) -> dict[str, Floats]:
        """One order's curves."""
        return {"share": self.share, "deletion": self.deletion[place], "insertion": self.insertion[place]}


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
        raise UserError(
            "the network answers what is no number to a photo with hidden places; train it with a lower train.lr"
        )
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


def _sd(drawn: Floats) -> float:
    # About 0, the mean of an order and its reverse.
    return float(np.sqrt(np.mean(drawn**2)))


def _random_row(substrate: str, random: _Curves, size: float, road_combined: float) -> Faithfulness:
    """The mean of the orders of the finest grain and of their reverses."""
    removed = np.concatenate([random.deletion, random.insertion[:, ::-1]])
    mean, auc, end = removed.mean(axis=0), float(random.area(removed).mean()), float(random.ends.mean())
    curves = {
        "share": random.share,
        "deletion": mean,
        "insertion": mean[::-1],
        "deletion_sd": removed.std(axis=0, ddof=1),
    }
    return Faithfulness(RANDOM, substrate, auc, auc, 0.0, end, end, road_combined, False, float("nan"), False, False,
                        _sd(random.gain()), size, False, curves)  # fmt: skip
