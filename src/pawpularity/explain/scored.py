"""One fold's network as a function of one photo alone: what every map explains.

The photo's metadata is held fixed, the frozen trunk and the trained tail are run as one network, and the score is taken
before it is clipped to 1..100 (a clipped score has no gradient, and hides what a mask does to it).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pawpularity.device import Compute
from pawpularity.model.network import Network


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
        state = network.chain.run(network.laid_out(x), 0, network.cut)
        columns = None
        if self.metadata is not None:
            columns = torch.tensor(self.metadata, device=x.device).expand(len(x), -1)
        return network.points(network.tail(state, columns))

    def of(self, network: Network) -> "PhotoScore":
        """The same photo scored by another network."""
        return replace(self, network=network)
