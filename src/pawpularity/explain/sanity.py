"""Does a map depend on what the network has learnt? Randomise the weights from the top down and see whether the map changes.

Adebayo et al. 2018, "Sanity Checks for Saliency Maps": the score head is re-initialised, then what is below it as well, and
so on down to the stem. A method whose map of the random network still looks like that of the trained one draws the
photo, not the network.

How like the trained map it still is, is Spearman's correlation of the two (signed, and of the maps' sizes) and SSIM, between
two bounds: the ceiling, how like itself a map is when it is made again with other masks or other noise, and the floor, how
like the maps of different photos are (they share the pet in the middle), those made with other masks too, which they do not
share.

Every module is re-initialised by its own `reset_parameters`, each from its own seed; parameters of modules that have none (a
ViT's position table, layer scales) are shuffled. timm's initialiser is not used: it sets the last BatchNorm of a residual
block to zero, which leaves the shortcuts alone, a network that is not random but empty. BatchNorm's running statistics
belong to features that no longer exist: kept, or set to 0 and 1, they make deep networks explode or go flat. In the
randomised blocks they are therefore taken anew from the given photos. A stage where the score hardly differs from photo
to photo is named, as its maps say nothing for or against a method.
"""

import copy
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pawpularity.evaluation.bootstrap import Groups
from pawpularity.explain.estimate import Estimate, estimates, plain
from pawpularity.explain.map_similarity import LIKENESSES, Map, likeness_of
from pawpularity.explain.scored import PhotoScore
from pawpularity.files import atomic_file
from pawpularity.models.network import Network

MapsOf = Callable[[PhotoScore, Tensor, int], Map]
"""A method: the score, the photo, and which masks or noise it is to draw."""

LEFT = 0.25  # of the way from floor to ceiling: what may be left of a map's likeness when every weight is random
FLAT = 1e-4  # score points between photos, below which float32 answers are rounding
NOISY = 0.3  # of the score's spread that the run's own dtype may blur


@dataclass(frozen=True)
class Stage:
    """What has become of network and maps once everything down to `name` is random."""

    name: str
    likeness: dict[str, Estimate]
    """Of the maps to those of the trained network, mean over photos, by LIKENESSES."""
    score_mean: float
    score_sd: float
    """Over the photos, score points."""
    state: str
    """`alive`; `flat` (the photos score the same, or differ by less than the dtype can tell); `saturated`; `exploded`."""


@dataclass(frozen=True)
class Sanity:
    """One method through the cascade."""

    method: str
    stages: list[Stage]
    ceiling: dict[str, float]
    floor: dict[str, float]
    photos: int
    constant: int
    """Photos whose trained map was the same everywhere: left out."""
    per_photo: dict[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)
    """(stages, photos), by likeness."""

    @property
    def left(self) -> dict[str, Estimate]:
        """Share of the way from floor to ceiling that is left at the last stage, by likeness (signed and absolute decide)."""
        found = {}
        for name, last in self.stages[-1].likeness.items():
            low, span = self.floor[name], self.ceiling[name] - self.floor[name]
            scale = 1.0 / span if span > 0 else math.nan
            found[name] = Estimate(
                (last.mean - low) * scale, (last.low - low) * scale, (last.high - low) * scale, last.n
            )
        return found

    @property
    def verdict(self) -> str:
        """`passes`, `fails`, or why neither can be said."""
        if self.photos == self.constant:
            return "constant maps"
        if self.stages[-1].state != "alive":
            return f"undecided: the randomised network is {self.stages[-1].state}"
        left = [self.left[name] for name in ("signed", "absolute")]
        if not all(math.isfinite(one.low) for one in left):
            return "undecided: maps of different photos are as alike as a map is to itself, or too few photos"
        if any(one.low > LEFT for one in left):
            return "fails"
        return "passes" if all(one.high <= LEFT for one in left) else "undecided: the interval is too wide"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        stages = [{"stage": s.name, **{name: e.to_dict() for name, e in s.likeness.items()}, "score_mean": plain(s.score_mean),
                   "score_sd": plain(s.score_sd), "state": s.state} for s in self.stages]  # fmt: skip
        bounds = {name: {k: plain(v) for k, v in getattr(self, name).items()} for name in ("ceiling", "floor")}
        return {"method": self.method, "photos": self.photos, "constant": self.constant, "stages": stages, **bounds,
                "left": {name: e.to_dict() for name, e in self.left.items()}, "verdict": self.verdict}  # fmt: skip


def cascade(
    score: PhotoScore | Sequence[PhotoScore],
    xs: Sequence[Tensor],
    maps_of: MapsOf,
    *,
    method: str = "",
    seed: int = 0,
    groups: Groups = None,
    at_most: int = 8,
) -> Sanity:
    """Put `maps_of` (a method) through the cascade on photos `xs`.

    `score`: one for all photos, or one each where their metadata differ; all of one network. At every stage the method draws
    the masks or noise of the number 0, so that only the weights change; for the bounds those of 1 as well (a method that draws
    nothing gives the same map, and a ceiling of 1). `at_most`: stages of randomising, the heads' three among them. The
    network is copied, never changed, and a stage's weights depend on the seed and on nothing but the layer's name.
    """
    scores = [score] * len(xs) if isinstance(score, PhotoScore) else list(score)
    if len(scores) != len(xs) or len(xs) < 2 or any(one.network is not scores[0].network for one in scores):
        raise ValueError("a cascade needs two photos at least, and a score of one and the same network for each")
    trained, again = (
        [np.asarray(maps_of(one, x, drawn), dtype=np.float64) for one, x in zip(scores, xs, strict=True)]
        for drawn in (0, 1)
    )
    told = [bool(np.ptp(values) > 0.0) for values in trained]
    network = copy.deepcopy(scores[0].network)
    stages, per_photo = [], []
    with torch.random.fork_rng(devices=[]):
        for name in _randomised(network, xs, seed, at_most):
            now = [one.of(network) for one in scores]
            likeness = np.full((len(xs), len(LIKENESSES)), np.nan)
            for i, (one, x) in enumerate(zip(now, xs, strict=True)):
                if told[i]:
                    likeness[i] = likeness_of(trained[i], np.asarray(maps_of(one, x, 0), dtype=np.float64))
            figures = dict(zip(LIKENESSES, estimates(likeness, groups), strict=True))
            stages.append(Stage(name, figures, *_health(now, xs)))
            per_photo.append(likeness)
    pairs = [(i, j) for i in range(len(xs)) for j in range(len(xs)) if i != j and told[i] and told[j]]
    pairs = [(i, j) for i, j in pairs if groups is None or groups[i] != groups[j]]
    by_stage = np.stack(per_photo)
    return Sanity(method, stages, _mean_likeness([(trained[i], again[i]) for i in range(len(xs)) if told[i]]),
                  _mean_likeness([(trained[i], again[j]) for i, j in pairs]), len(xs), told.count(False),
                  {name: by_stage[..., i] for i, name in enumerate(LIKENESSES)})  # fmt: skip


def _mean_likeness(pairs: Sequence[tuple[Map, Map]]) -> dict[str, float]:
    """By LIKENESSES; nan without any pair."""
    if not pairs:
        return dict.fromkeys(LIKENESSES, math.nan)
    means = np.mean([likeness_of(*pair) for pair in pairs], axis=0)
    return {name: float(mean) for name, mean in zip(LIKENESSES, means, strict=True)}


def _randomised(network: Network, xs: Sequence[Tensor], seed: int, at_most: int) -> Iterator[str]:
    """Randomise `network` in place, one stage after the other; yields each stage's name once the network is ready for it."""
    yield "trained"
    fused = [network.fusion, *([network.metadata] if network.metadata is not None else [])]
    heads: list[tuple[str, list[nn.Module]]] = [
        ("score", [network.score]),
        ("fusion", [*fused]),
        ("image", [network.image]),
    ]
    for name, modules in heads:
        for number, module in enumerate(modules):
            _reset(module, f"{name}.{number}", seed)
        yield name
    blocks = list(network.split.blocks)
    # From the last block to the first, in groups of about as many blocks each; blocks without parameters go along.
    groups = [
        g
        for g in np.array_split(np.arange(len(blocks))[::-1], max(1, min(at_most - len(heads), len(blocks))))
        if len(g)
    ]
    for group in groups:
        renewed: list[nn.Module] = []
        for position in group:
            for number, parameter in enumerate(blocks[position].own):
                _shuffle(parameter, f"{blocks[position].name}.own.{number}", seed)
            for number, module in enumerate(blocks[position].modules):
                _reset(module, f"{blocks[position].name}.{number}", seed)
                renewed.append(module)
        _renew_statistics(network, blocks_from=int(group[-1]), xs=xs)
        yield blocks[group[-1]].name


def _reset(module: nn.Module, name: str, seed: int) -> None:
    for inner, part in module.named_modules():
        own = list(part.named_parameters(recurse=False))
        if callable(reset := getattr(part, "reset_parameters", None)):
            # Modules of one shape would otherwise all get the same weights.
            torch.manual_seed(_seed(f"{name}.{inner}", seed))
            reset()
        else:
            for number, (_, parameter) in enumerate(own):
                _shuffle(parameter, f"{name}.{inner}.{number}", seed)


def _shuffle(parameter: nn.Parameter, name: str, seed: int) -> None:
    order = torch.randperm(parameter.numel(), generator=torch.Generator().manual_seed(_seed(name, seed)))
    flat = parameter.data.flatten()
    parameter.data = flat[order.to(flat.device)].view_as(parameter.data).clone(memory_format=torch.preserve_format)


def _seed(name: str, seed: int) -> int:
    return (zlib.crc32(name.encode()) + 0x9E3779B9 * (seed + 1)) % 2**32


@torch.no_grad()
def _renew_statistics(network: Network, blocks_from: int, xs: Sequence[Tensor]) -> None:
    """Running statistics of every BatchNorm from block `blocks_from` on, taken from one pass of the photos.

    What is below is trained and keeps its own.
    """
    chain = network.split
    norms = [
        part
        for block in chain.blocks[blocks_from:]
        for module in block.modules
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats
    ]
    network.eval()
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over batches, not a fading one
        norm.train()
    # Batches of two at least: after the last pooling a single photo has no spread.
    for batch in np.array_split(np.arange(len(xs)), max(1, len(xs) // 32)):
        state = chain.run(network.laid_out(torch.stack([xs[i] for i in batch]).float()), 0, blocks_from)
        chain.run(state, blocks_from)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


@torch.no_grad()
def _health(scores: Sequence[PhotoScore], xs: Sequence[Tensor]) -> tuple[float, float, str]:
    """Mean and spread of the score over the photos, and whether maps of it can mean anything."""
    exact = np.array([float(one.exact(x[None])[0]) for one, x in zip(scores, xs, strict=True)])
    if not np.isfinite(exact).all():
        return math.nan, math.nan, "exploded"
    mean, sd = float(exact.mean()), float(exact.std(ddof=1))
    noise = float(np.std([float(one(x[None])[0]) - e for one, x, e in zip(scores, xs, exact, strict=True)]))
    squashed = scores[0].network.model.output == "sigmoid"
    if squashed and bool(((exact < 0.01) | (exact > 99.99)).all()):
        return mean, sd, "saturated"
    return mean, sd, "flat" if sd < FLAT or noise > NOISY * sd else "alive"


def draw_sanity(found: Sequence[Sanity], path: Path) -> None:
    """Correlation with the trained map against stage, one panel a method, with ceiling and floor; a PNG at `path`."""
    from matplotlib.figure import Figure  # not pyplot: it asks the machine for a screen; PNGs are drawn by Agg

    figure = Figure(figsize=(1.4 + 4.2 * len(found), 4.3), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, one in zip(panels, found, strict=True):
        places = np.arange(len(one.stages))
        axes.axhline(one.ceiling["signed"], color="#888888", lw=1.0, ls="--", label="ceiling (made again)")
        axes.axhline(one.floor["signed"], color="#0072B2", lw=1.0, ls=":", label="floor (other photos)")
        axes.axhline(one.floor["absolute"], color="#D55E00", lw=1.0, ls=":", label="floor of sizes")
        for name, colour, words in (("signed", "#0072B2", "signed"), ("absolute", "#D55E00", "sizes")):
            rows = [stage.likeness[name] for stage in one.stages]
            axes.fill_between(places, [r.low for r in rows], [r.high for r in rows], color=colour, alpha=0.18, lw=0)
            axes.plot(places, [r.mean for r in rows], "o-", color=colour, ms=4, label=words)
        for place, stage in zip(places, one.stages, strict=True):
            if stage.state != "alive":
                axes.text(place, -0.97, stage.state, ha="center", va="bottom", fontsize=8, color="#A00000", rotation=90)
        axes.set_xticks(places, [stage.name for stage in one.stages], rotation=40, ha="right", fontsize=8)
        axes.set_xlabel("weights random from the score down to")
        axes.set_ylim(-1.0, 1.05)
        axes.set_title(f"{one.method}: {one.verdict}", fontsize=10, loc="left", wrap=True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("Spearman's correlation with the trained map")
    figure.legend(
        *panels[0].get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower center", ncols=5
    )
    with atomic_file(path) as temporary:
        # Without the version of matplotlib in it, so that the same findings give the same bytes.
        figure.savefig(temporary, format="png", metadata={"Software": None})
