"""One fold's network as a function of one photo alone, or the mean of several: what every map explains.

The photo's metadata is held fixed, the frozen trunk and the trained tail are run as one network, and the score is taken
before it is clipped to 1..100 (a clipped score has no gradient, and hides what a mask does to it).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pawpularity.data.photos import Pixels
from pawpularity.device import Compute
from pawpularity.explain.saliency import Saliency
from pawpularity.models.network import Network

_PLANES = ("cells", "channels")  # of a method's further arrays, those that mean something when averaged over folds


@dataclass(frozen=True)
class PhotoScore:
    """`network` in evaluation mode beside one photo's metadata, (12,), or None where it is absent."""

    network: Network
    compute: Compute
    metadata: NDArray[np.float32] | None = None

    def input_of(self, pixels: NDArray[np.uint8]) -> Tensor:
        """(H, W, 3) pixels from the project's decoder to the network's input, (3, H, W) float32 on its device.

        Zero in it is the mean colour the backbone normalises with: what a hidden place shows.
        """
        photo = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.compute.device)
        normalised: Tensor = self.network.normalise(photo[None])[0]
        return normalised

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        """Unclipped score points, (B,) float32, of inputs (B, 3, H, W); no gradient, in the dtype the run computes in."""
        self.network.eval()
        with self.compute.autocast():
            return self._points(x)

    def exact(self, x: Tensor) -> Tensor:
        """The same in float32, and differentiable: what gradients and Grad-CAM are taken of.

        The caller's `x` must ask for a gradient where the trunk is frozen, else there is none to take.
        """
        self.network.eval()
        return self._points(x.float())

    def _points(self, x: Tensor) -> Tensor:
        network = self.network
        state = network.split.run(network.laid_out(x), 0, network.frozen_blocks)
        columns = None
        if self.metadata is not None:
            columns = torch.tensor(self.metadata, device=x.device).expand(len(x), -1)
        return network.points(network.head(state, columns))

    def of(self, network: Network) -> "PhotoScore":
        """The same photo scored by another network."""
        return replace(self, network=network)


@dataclass(frozen=True)
class FoldsMean:
    """The mean score of several fold networks behind one trunk, as a function of one photo; for pictures no fold knows."""

    folds: tuple[PhotoScore, ...]

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        """Unclipped score points, (B,) float32, of inputs (B, 3, H, W)."""
        first = self.folds[0].network
        with self.folds[0].compute.autocast():
            state = first.split.run(
                first.laid_out(x), 0, first.frozen_blocks
            )  # the trunk is one and the same, and runs once
            scores = [fold.network.points(fold.network.head(state, None)) for fold in self.folds]
        return torch.stack(scores).mean(dim=0)

    def input_of(self, pixels: Pixels) -> Tensor:
        """As `PhotoScore.input_of`."""
        return self.folds[0].input_of(pixels)


def over_folds(score: PhotoScore | FoldsMean, map_of: Callable[[PhotoScore], Saliency]) -> Saliency:
    """The map that `map_of` makes of one network, or the mean of those it makes of each fold's."""
    return _mean([map_of(fold) for fold in (score.folds if isinstance(score, FoldsMean) else (score,))])


def _mean(each: Sequence[Saliency]) -> Saliency:
    """One Saliency of several networks' maps of one photo; itself where there is one."""
    if len(each) == 1:
        return each[0]
    first = each[0]
    mean = _mean_array([one.map for one in each])
    arrays = {key: _mean_array([one.arrays[key] for one in each]) for key in first.arrays if key in _PLANES}
    effects = [one.effect for one in each if one.effect is not None]
    effect = _mean_array(effects) if len(effects) == len(each) else None
    facts = {key: value for key, value in first.facts.items() if all(one.facts.get(key) == value for one in each)}
    warnings = tuple(dict.fromkeys(line for one in each for line in one.warnings))
    # The folds are given the same noise, so their standard errors do not shrink by averaging; none is claimed.
    return replace(
        first,
        map=mean,
        standard_error=None,
        facts=facts | {"folds": len(each)},
        arrays=arrays,
        effect=effect,
        warnings=warnings,
    )


def _mean_array(each: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = np.stack(each).mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean
