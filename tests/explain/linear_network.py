"""A network whose score is a known linear function of the photo's levels: what maps and attacks can be checked against."""

import numpy as np
import torch
from torch import nn

from pawpularity.config import Model
from pawpularity.device import choose
from pawpularity.explain.scored import PhotoScore
from pawpularity.models.backbone import Backbone
from pawpularity.models.network import Network

SIZE = 8


def linear_network(scale: float = 0.002, bias: float = 40.0, size: int = SIZE) -> tuple[Network, np.ndarray]:
    """The network, and its weights per level (3, size, size): score = bias' + sum of weight x level."""
    random = torch.Generator().manual_seed(3)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
    net = Backbone(nn.Flatten(), 3 * size * size, mean, std, None, size)
    network = Network(net, Model(output="linear", metadata="none", image_width=3 * size * size, fusion_widths=[]))
    network.image = network.fusion = nn.Sequential()
    levels = scale * torch.randn(3, size, size, generator=random)
    with torch.no_grad():
        network.score = nn.Linear(3 * size * size, 1)
        network.score.weight.copy_((levels * network.std[0]).reshape(1, -1))
        network.score.bias.fill_(bias)
    return network.eval(), levels.numpy()


def score_of(network: Network, metadata: np.ndarray | None = None) -> PhotoScore:
    """On the CPU, in float32."""
    return PhotoScore(network, choose("float32", "cpu"), metadata)


def any_pixels(size: int, seed: int = 0, low: int = 0, high: int = 256) -> np.ndarray:
    """(size, size, 3) random pixels, blurred a little so that a network has something to see."""
    coarse = np.random.default_rng(seed).integers(low, high, (size // 4, size // 4, 3))
    return np.kron(coarse, np.ones((4, 4, 1))).astype(np.uint8)
