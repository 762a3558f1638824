"""A fitted head on its frozen encoders as a network, like any trained one: photo and metadata in, score points out."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from pawpularity.heads.encoders import Encoder, build_encoders
from pawpularity.heads.head import Head
from pawpularity.models.network import Network

if TYPE_CHECKING:
    from pawpularity.config import Config

PREFIX = "fitted."


def head_network(encoders: Sequence[Encoder], head: nn.Module, config: "Config", weights: str | None = None) -> Network:
    """The network of `head`, on the CPU, in evaluation mode. `weights` as in `build_encoders`."""
    backbone = build_encoders(encoders, size=config.photos.size, seed=config.train.seed, weights=weights)
    network = Network(backbone, config.model, channels_last=config.train.channels_last, frozen_bn=True, fitted=head)
    return network.eval()


def head_of(tensors: Mapping[str, Tensor]) -> Head:
    """The head in a fold's head.safetensors."""
    return Head(**{name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()})
