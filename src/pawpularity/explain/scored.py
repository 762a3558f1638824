"""The score of one photo as a function of its pixels, by one fold's network or the mean of several: what every map explains.

The photo's metadata is held fixed. The frozen backbone and the trained head run as one network. The score is not clipped to
1..100: a clipped score has no gradient, and a mask may not change it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pawpularity.data.photos import Pixels
from pawpularity.device import Compute
from pawpularity.explain.saliency import Map, Saliency
from pawpularity.models.network import Network


@dataclass(frozen=True)
class PhotoScore:
    """The score by `network` in evaluation mode, with one photo's metadata, (12,), or None if it has none."""

    network: Network
    compute: Compute
    metadata: NDArray[np.float32] | None = None
    on_scored: Callable[[int], Any] | None = None  # called with the batch's size after every batch

    def input_of(self, pixels: Pixels) -> Tensor:
        """The network's input, (3, H, W) float32 on its device, from decoded pixels (H, W, 3).

        Zero is the mean colour that the backbone normalises with. A hidden place shows it.
        """
        photo = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.compute.device)
        normalised: Tensor = self.network.normalise(photo[None])[0]
        return normalised

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        """Unclipped score points, (B,) float32, of inputs (B, 3, H, W); no gradient, in the dtype the run computes in."""
        self.network.eval()
        with self.compute.autocast():
            points = self._points(x)
        if self.on_scored is not None:
            self.on_scored(len(x))
        return points

    def exact(self, x: Tensor) -> Tensor:
        """The same in float32 and differentiable. `x` must require a gradient: frozen parameters give none."""
        self.network.eval()
        return self._points(x.float())

    def columns(self, rows: int, device: torch.device) -> Tensor | None:
        """The photo's metadata, repeated for each of `rows` rows."""
        return None if self.metadata is None else torch.tensor(self.metadata, device=device).expand(rows, -1)

    def _points(self, x: Tensor) -> Tensor:
        network = self.network
        features = network.split.run(network.laid_out(x), 0, network.frozen_blocks)
        return network.points(network.head(features, self.columns(len(x), x.device)))


@dataclass(frozen=True)
class FoldsMean:
    """The mean score of several folds on one frozen backbone, for pictures that no fold was trained on; see `PhotoScore`."""

    folds: tuple[PhotoScore, ...]
    on_scored: Callable[[int], Any] | None = None

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        """Unclipped score points, (B,) float32, of inputs (B, 3, H, W). The frozen backbone runs once."""
        first = self.folds[0].network
        with self.folds[0].compute.autocast():
            features = first.split.run(first.laid_out(x), 0, first.frozen_blocks)
            scores = [fold.network.points(fold.network.head(features, None)) for fold in self.folds]
        if self.on_scored is not None:
            self.on_scored(len(x))
        return torch.stack(scores).mean(dim=0)

    def input_of(self, pixels: Pixels) -> Tensor:
        """The networks' input; see `PhotoScore.input_of`."""
        return self.folds[0].input_of(pixels)


def over_folds(score: PhotoScore | FoldsMean, map_of: Callable[[PhotoScore], Saliency]) -> Saliency:
    """The map that `map_of` makes of one network, or the mean of its maps of all folds' networks."""
    if isinstance(score, PhotoScore):
        return map_of(score)
    maps = [map_of(fold) for fold in score.folds]
    effects = [one.effect for one in maps if one.effect is not None]
    return replace(
        maps[0],
        map=_mean([one.map for one in maps]),
        # All folds get the same noise, so their errors do not shrink in the mean.
        standard_error=maps[0].standard_error if len(maps) == 1 else None,
        arrays={},
        effect=_mean(effects) if effects else None,
        warnings=tuple(dict.fromkeys(line for one in maps for line in one.warnings)),
    )


def _mean(maps: list[Map]) -> Map:
    mean: Map = np.stack(maps).mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean
