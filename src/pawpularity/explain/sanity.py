"""Sanity check: does a map depend on what the network learnt? Randomise the weights from the top down and compare the maps.

Adebayo et al. 2018, "Sanity Checks for Saliency Maps": the score layer is re-initialised, then also the layer below it, and so on
down to the stem. If the random network's map still looks like the trained network's, the method shows the photo and not the
network. Similarity is Spearman's correlation, of the signed maps and of their absolute values. It lies between two bounds:

- the ceiling: a map and the same photo's map made with other masks or noise;
- the floor: maps of different photos (which share the pet in the middle), also made with other masks or noise.

Every module is re-initialised by its own `reset_parameters`; parameters of modules without one (a ViT's position table, layer
scales) are shuffled. timm's initialiser is not used: it sets the last BatchNorm of a residual block to zero, so only the shortcuts
would be left, an empty network instead of a random one. BatchNorm's running statistics describe features that no longer exist.
Unchanged, or set to 0 and 1, they make deep networks explode or go flat, so randomised blocks take theirs from the photos. If the
score hardly differs between photos at a stage, the stage says so: its maps are evidence neither for nor against a method.
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
"""A method: (score, photo, number of the draw of masks or noise) -> map."""
SIMILARITIES = ("signed", "absolute")
STAGES = 8  # at most, including the three of the head
LEFT = 0.25  # what may be left of the similarity when every weight is random: share of the way from floor to ceiling
FLAT = 1e-4  # sd of the score over photos, points, below which it is float32 rounding
NOISY = 0.3  # largest error of the run's dtype, as a share of the score's sd over photos


class Stage(NamedTuple):
    """The network and its maps when everything from the score down to `name` is random."""

    name: str
    similarity: dict[str, Estimate]  # by SIMILARITIES: to the trained network's maps, mean over photos
    state: str  # `alive`; `flat` (photos score the same, or differ by less than the dtype resolves); `saturated`; `exploded`


@dataclass(frozen=True)
class Sanity:
    """One method through the cascade."""

    method: str
    stages: list[Stage]
    ceiling: dict[str, float]
    floor: dict[str, float]
    photos: int  # photos whose map by the trained network is not constant

    @property
    def left(self) -> dict[str, Estimate]:
        """By similarity, what is left at the last stage, as a share of the way from floor to ceiling."""
        found = {}
        for name, last in self.stages[-1].similarity.items():
            low, span = self.floor[name], self.ceiling[name] - self.floor[name]
            scale = 1.0 / span if span > 0 else math.nan
            mean, lower, upper = ((value - low) * scale for value in (last.mean, last.low, last.high))
            found[name] = Estimate(mean, lower, upper, last.n)
        return found

    @property
    def verdict(self) -> str:
        """`passes`, `fails`, or the reason why it is undecided."""
        if not self.photos:
            return "constant maps"
        if self.stages[-1].state != "alive":
            return f"undecided: the randomised network is {self.stages[-1].state}"
        left = list(self.left.values())
        if not all(math.isfinite(one.low) for one in left):
            return "undecided: maps of different photos are as similar as two maps of one photo, or there are too few photos"
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
    """Put `maps_of` (a method) through the cascade on two or more photos `xs`, with their `scores` by the same network.

    Every stage uses draw 0 of the masks or noise, so that only the weights change; the bounds also use draw 1. `on_map` is called
    after every map. The network is copied and not changed, and a stage's weights depend on the seed alone.
    """

    def mapped(one: PhotoScore, x: Tensor, draw: int) -> Floats:
        found = np.asarray(maps_of(one, x, draw), dtype=np.float64)
        on_map()
        return found

    trained, again = ([mapped(one, x, draw) for one, x in zip(scores, xs, strict=True)] for draw in (0, 1))
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
    """The number of maps that `cascade` makes for a network of so many blocks."""
    return photos * (2 + 1 + min(3 + blocks, STAGES))


def similarity(one: Floats, other: Floats) -> tuple[float, float]:
    """The similarities of two maps, in the order of SIMILARITIES; 0 if one of the maps is constant."""
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
    """Randomise `network` in place, one stage after the other; yields each stage's name when it is done."""
    yield "trained"
    heads = network.stages()
    for stage, (name, modules) in enumerate(heads.items()):
        _reset(modules, [], seed + 1000 * stage)
        yield name
    blocks = list(network.split.blocks)
    # From the last block to the first, in groups of about equal size; blocks without parameters count too.
    groups = np.array_split(np.arange(len(blocks))[::-1], max(1, min(STAGES - len(heads), len(blocks))))
    for stage, group in enumerate(groups, start=len(heads)):
        some = [blocks[i] for i in group]
        modules = [module for block in some for module in block.modules]
        own = [tensor for block in some for tensor in block.own if isinstance(tensor, nn.Parameter)]
        _reset(modules, own, seed + 1000 * stage)
        _renew_statistics(network, int(group[-1]), xs)
        yield some[-1].name


def _reset(modules: Sequence[nn.Module], parameters: list[nn.Parameter], seed: int) -> None:
    """Re-initialise `modules`; shuffle `parameters` and those of modules that have no initialiser."""
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
    """Set the running statistics of every BatchNorm from block `start` on by one pass of the photos."""
    split = network.split
    modules = [part for block in split.blocks[start:] for module in block.modules for part in module.modules()]
    network.eval()
    for norm in modules:
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over batches, not an exponential one
            norm.train()
    # Batches of two or more: after the last pooling a single photo has no variance.
    for batch in np.array_split(np.arange(len(xs)), max(1, len(xs) // 32)):
        features = split.run(network.laid_out(torch.stack([xs[i] for i in batch]).float()), 0, start)
        split.run(features, start)
    network.eval()


@torch.no_grad()
def _health(scores: Sequence[PhotoScore], xs: Sequence[Tensor]) -> str:
    """The network's state (`Stage.state`), by its scores of the photos: maps mean something only if it is `alive`."""
    exact = np.array([float(one.exact(x[None])[0]) for one, x in zip(scores, xs, strict=True)])
    if not np.isfinite(exact).all():
        return "exploded"
    sd = float(exact.std(ddof=1))
    noise = float(np.std([float(one(x[None])[0]) - e for one, x, e in zip(scores, xs, exact, strict=True)]))
    if scores[0].network.model.output == "sigmoid" and bool(((exact < 0.01) | (exact > 99.99)).all()):
        return "saturated"
    return "flat" if sd < FLAT or noise > NOISY * sd else "alive"
