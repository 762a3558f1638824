"""Fitted heads as modules: frozen features and metadata in, score points out, computed in float64.

`heads.fit` fits them with scikit-learn. They are saved as plain tensors, without pickle.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float64]
Table = NDArray[np.float32] | NDArray[np.float64]
ROWS = 256
"""predicted at once"""
SUPPORT = 512
"""support vectors compared at once: all of them in float64 would be read from memory for every batch"""


class Head(nn.Module):
    """A linear head, `intercept + (x - mean) @ weights`; with `support` vectors a kernel one.

    That is `intercept + sum of weights_i exp(-gamma |z - support_i|^2)`, z = (x - mean) / scale. Shapes: mean and scale (p,),
    weights (p,) or (s,), support (s, p), the others ().
    """

    mean: Tensor
    weights: Tensor
    intercept: Tensor
    scale: Tensor | None
    support: Tensor | None
    gamma: Tensor | None

    def __init__(self, **tensors: Table | Tensor | float) -> None:
        super().__init__()
        for name in ("mean", "weights", "intercept", "scale", "support", "gamma"):
            value = tensors.get(name)
            self.register_buffer(name, None if value is None else torch.as_tensor(value))

    def forward(self, pooled: Tensor, metadata: Tensor | None) -> Tensor:
        """Scores (B,), float64, from (B, q) features and (B, 12) metadata; absent metadata count as the training rows' mean."""
        x = pooled.to(self.mean.dtype)
        missing = len(self.mean) - x.shape[1]
        if missing:
            columns = self.mean[-missing:].expand(len(x), missing) if metadata is None else metadata.to(x.dtype)
            x = torch.cat([x, columns], dim=1)
        z, scores = x - self.mean, self.intercept
        if self.support is None or self.scale is None or self.gamma is None:
            linear: Tensor = z @ self.weights + scores
            return linear
        z = z / self.scale
        for some, weights in zip(torch.split(self.support, SUPPORT), torch.split(self.weights, SUPPORT), strict=True):
            support = some.to(z.dtype)
            sizes = z.square().sum(1)[:, None] + support.square().sum(1)
            distances = torch.addmm(sizes, z, support.T, alpha=-2.0)
            scores = scores + torch.exp(-self.gamma * distances.clamp(min=0.0)) @ weights
        return scores

    def reset_parameters(self) -> None:
        """Shuffle the weights: how a head is randomised (explain's sanity test)."""
        self.weights.copy_(self.weights[torch.randperm(len(self.weights)).to(self.weights.device)])

    @torch.inference_mode()
    def predict(self, features: Table) -> Floats:
        """Scores (n,) of `features` (n, p), metadata among them, not clipped."""
        parts = [self(torch.as_tensor(features[at : at + ROWS]), None) for at in range(0, len(features), ROWS)]
        scores: Floats = torch.cat(parts).numpy()
        return scores
