"""Does a map depend on what the network learnt? Randomise the weights from the top down and see whether the map changes.

Adebayo et al. 2018, "Sanity Checks for Saliency Maps": the score layer is re-initialised, then what is below it as well, down
to the stem. A method whose map of the random network still looks like the trained one's draws the photo, not the network. Map
similarity is Spearman's correlation, signed and of the maps' sizes, between two bounds: the ceiling, how similar a
map is to itself made again with other masks or noise; and the floor, how similar maps of different photos are (they share the
pet in the middle), made with other masks too.

Every module is re-initialised by its own `reset_parameters`; parameters of modules that have none (a ViT's position table, layer
scales) are shuffled. timm's initialiser is not used: it sets the last BatchNorm of a residual block
to zero, which leaves the shortcuts alone, a network that is not random but empty. BatchNorm's running statistics belong to
features that no longer exist; kept, or set to 0 and 1, they make deep networks explode or go flat. In randomised blocks they
are taken from the photos. A stage where the score hardly differs between photos is named: its maps say nothing for or against a
method.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pawpularity.evaluation.bootstrap import Groups
from pawpularity.explain.estimates import Estimate, as_json, estimates
from pawpularity.explain.players import Floats
from pawpularity.explain.scored import PhotoScore
from pawpularity.files import plain
from pawpularity.models.network import Network

MapsOf = Callable[[PhotoScore, Tensor, int], NDArray[np.floating[Any]]]
"""A method: the score, the photo, and which masks or noise it is to draw."""
SIMILARITIES = ("signed", "absolute")
STAGES = 8  # of randomising at most, the three of the heads included
LEFT = 0.25  # of the way from floor to ceiling: what may be left of a map's similarity when every weight is random
FLAT = 1e-4  # score points between photos, below which float32 scores are rounding
NOISY = 0.3  # of the score's spread that the run's own dtype may blur


class Stage(NamedTuple):
    """What network and maps have become once everything down to `name` is random."""

    name: str
    similarity: dict[str, Estimate]  # to the maps of the trained network, mean over photos, by SIMILARITIES
    state: str  # `alive`; `flat` (photos score the same, or differ by less than the dtype can resolve); `saturated`; `exploded`


@dataclass(frozen=True)
class Sanity:
    """One method through the cascade."""

    method: str
    stages: list[Stage]
    ceiling: dict[str, float]
    floor: dict[str, float]
    photos: int  # whose trained map was not the same everywhere

    @property
    def left(self) -> dict[str, Estimate]:
        """Share of the way from floor to ceiling that is left at the last stage, by similarity."""
        found = {}
        for name, last in self.stages[-1].similarity.items():
            low, span = self.floor[name], self.ceiling[name] - self.floor[name]
            scale = 1.0 / span if span > 0 else math.nan
            mean, least, most = ((value - low) * scale for value in (last.mean, last.low, last.high))
            found[name] = Estimate(mean, least, most, last.n)
        return found

    @property
    def verdict(self) -> str:
        """`passes`, `fails`, or why neither can be said."""
        if not self.photos:
            return "constant maps"
        if self.stages[-1].state != "alive":
            return f"undecided: the randomised network is {self.stages[-1].state}"
        left = list(self.left.values())
        if not all(math.isfinite(one.low) for one in left):
            return "undecided: maps of different photos are as similar as a map is to itself, or too few photos"
        if any(one.low > LEFT for one in left):
            return "fails"
        return "passes" if all(one.high <= LEFT for one in left) else "undecided: the interval is too wide"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        stages = [as_json({"stage": one.name, **one.similarity, "state": one.state}) for one in self.stages]
        return plain({"method": self.method, "photos": self.photos, "stages": stages, "ceiling": self.ceiling,
                      "floor": self.floor, "left": as_json(self.left), "verdict": self.verdict})  # fmt: skip


def cascade(
    scores: Sequence[PhotoScore],
    xs: Sequence[Tensor],
    maps_of: MapsOf,
    *,
    method: str = "",
    seed: int = 0,
    groups: Groups = None,
    on_map: Callable[[], object] = lambda: None,
) -> Sanity:
    """Put `maps_of` (a method) through the cascade on photos `xs`, two at least, with their `scores` by one and the same network.

    At every stage the method draws the masks or noise of number 0, so that only the weights change; for the bounds also those of
    number 1. `on_map` is called after every map. The network is copied, never changed, and a stage's weights depend on the seed
    alone.
    """

    def mapped(one: PhotoScore, x: Tensor, drawn: int) -> Floats:
        found = np.asarray(maps_of(one, x, drawn), dtype=np.float64)
        on_map()
        return found

    trained, again = ([mapped(one, x, drawn) for one, x in zip(scores, xs, strict=True)] for drawn in (0, 1))
    varies = [i for i, values in enumerate(trained) if np.ptp(values) > 0.0]
    network = copy.deepcopy(scores[0].network)
    stages = []
    with torch.random.fork_rng(devices=[]):
        for name in _randomised(network, xs, seed):
            now = [replace(one, network=network) for one in scores]
            found = np.full((len(xs), len(SIMILARITIES)), np.nan)
            for i in varies:
                found[i] = similarity(trained[i], mapped(now[i], xs[i], 0))
            figures = dict(zip(SIMILARITIES, estimates(found, groups), strict=True))
            stages.append(Stage(name, figures, _health(now, xs)))
    clusters = np.arange(len(xs)) if groups is None else groups
    ceiling = _mean([similarity(trained[i], again[i]) for i in varies])
    floor = _mean([similarity(trained[i], again[j]) for i in varies for j in varies if clusters[i] != clusters[j]])
    return Sanity(method, stages, ceiling, floor, len(varies))


def maps_in_cascade(photos: int, blocks: int) -> int:
    """How many maps `cascade` makes for a network of so many blocks."""
    return photos * (2 + 1 + min(3 + blocks, STAGES))


def similarity(one: Floats, other: Floats) -> tuple[float, float]:
    """By SIMILARITIES; 0 for a map that is the same everywhere beside one that is not (nothing of it is left)."""
    from scipy.stats import spearmanr

    if np.ptp(one) == 0.0 or np.ptp(other) == 0.0:
        return 0.0, 0.0
    signed = float(spearmanr(one, other, axis=None).statistic)
    sizes = np.abs(one), np.abs(other)
    absolute = 0.0 if any(np.ptp(size) == 0.0 for size in sizes) else float(spearmanr(*sizes, axis=None).statistic)
    return signed, absolute


def _mean(rows: Sequence[tuple[float, float]]) -> dict[str, float]:
    means = np.mean(rows, axis=0) if rows else [math.nan] * len(SIMILARITIES)
    return dict(zip(SIMILARITIES, map(float, means), strict=True))


def _randomised(network: Network, xs: Sequence[Tensor], seed: int) -> Iterator[str]:
    """Randomise `network` in place, one stage after the other; yields each stage's name once the network is ready for it."""
    yield "trained"
    fused = [network.fusion, network.metadata] if network.metadata is not None else [network.fusion]
    heads: dict[str, list[nn.Module]] = {"score": [network.score], "fusion": [*fused], "image": [network.image]}
    for stage, (name, modules) in enumerate(heads.items()):
        _reset(modules, [], seed + 1000 * stage)
        yield name
    blocks = list(network.split.blocks)
    # From the last block to the first, in groups of about as many blocks each; blocks without parameters go along.
    groups = np.array_split(np.arange(len(blocks))[::-1], max(1, min(STAGES - len(heads), len(blocks))))
    for stage, group in enumerate(groups, start=len(heads)):
        some = [blocks[i] for i in group]
        modules, own = ([part for block in some for part in getattr(block, kind)] for kind in ("modules", "own"))
        _reset(modules, own, seed + 1000 * stage)
        _renew_statistics(network, int(group[-1]), xs)
        yield some[-1].name


def _reset(modules: Sequence[nn.Module], parameters: list[nn.Parameter], seed: int) -> None:
    """Initialise `modules` anew; shuffle `parameters` and those of modules that have no initialiser."""
    torch.manual_seed(seed)
    for part in (part for module in modules for part in module.modules()):
        if callable(reset := getattr(part, "reset_parameters", None)):
            reset()
        else:
            parameters = [*parameters, *part.parameters(recurse=False)]
    for parameter in parameters:
        order = torch.randperm(parameter.numel()).to(parameter.device)
        parameter.data.copy_(parameter.data.flatten()[order].view_as(parameter.data))


@torch.no_grad()
def _renew_statistics(network: Network, start: int, xs: Sequence[Tensor]) -> None:
    """Take the running statistics of every BatchNorm from block `start` on from one pass of the photos."""
    split = network.split
    modules = [part for block in split.blocks[start:] for module in block.modules for part in module.modules()]
    network.eval()
    for norm in modules:
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over batches, not a fading one
            norm.train()
    # Batches of two at least: after the last pooling a single photo has no spread.
    for batch in np.array_split(np.arange(len(xs)), max(1, len(xs) // 32)):
        features = split.run(network.laid_out(torch.stack([xs[i] for i in batch]).float()), 0, start)
        split.run(features, start)
    network.eval()


@torch.no_grad()
def _health(scores: Sequence[PhotoScore], xs: Sequence[Tensor]) -> str:
    """Whether maps of the score can mean anything, by its values for the photos: the states of `Stage`."""
    exact = np.array([float(one.exact(x[None])[0]) for one, x in zip(scores, xs, strict=True)])
    if not np.isfinite(exact).all():
        return "exploded"
    sd = float(exact.std(ddof=1))
    noise = float(np.std([float(one(x[None])[0]) - e for one, x, e in zip(scores, xs, exact, strict=True)]))
    if scores[0].network.model.output == "sigmoid" and bool(((exact < 0.01) | (exact > 99.99)).all()):
        return "saturated"
    return "flat" if sd < FLAT or noise > NOISY * sd else "alive"
