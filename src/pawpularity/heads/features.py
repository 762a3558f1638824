"""Frozen features: what a timm network that never saw our scores answers about every photo.

A *tower* is such a network. Its features are `pooled` (the state before the classifier) or `logits` (the classifier's own
outputs, a thousand names of things for ImageNet weights: the contest's winner found them better than the layer below).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pawpularity.config import Model
from pawpularity.data.augment import ORIGINAL
from pawpularity.data.photo_cache import Photos
from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.features.build import FeatureCache
from pawpularity.features.load import open_inputs
from pawpularity.models.backbone import Backbone, build_backbone
from pawpularity.models.network import Network
from pawpularity.models.weights import find_weights, tensors_hash

KINDS = ("pooled", "logits")
BATCH = 64


@dataclass(frozen=True)
class Tower:
    """A network to take features from, checked but not kept in memory."""

    model: Model
    """`backbone`, `args` and `weights` decide; the rest of it means nothing here."""
    kind: str
    width: int
    """Features per photo."""
    weights_hash: str
    """12 hex over all its tensors."""

    @property
    def name(self) -> str:
        """timm's name."""
        return self.model.backbone


def towers_of(model: Model, names: list[str], kind: str, *, size: int, seed: int) -> list[Tower]:
    """Build each network once to see that it can be had: its name, weights, photo size and width.

    `model.args` go to `model.backbone` alone. Raises UserError as `build_tower` does.
    """
    towers = []
    for name in names:
        own = model.model_copy(update={"backbone": name, "args": model.args if name == model.backbone else {}})
        net = build_tower(own, kind, size=size, seed=seed)
        towers.append(Tower(own, kind, net.width, tensors_hash(net.net.state_dict())))
    return towers


def build_tower(model: Model, kind: str, *, size: int, seed: int) -> Backbone:
    """The network whose outputs are the features of `kind`, with its weights, in evaluation mode.

    Random weights depend on `seed`. Raises UserError for whatever `build_backbone` refuses, and for `logits` of a network
    that has no classifier, or of a weights file that holds none.
    """
    if kind == "pooled":
        return build_backbone(model, size=size, seed=seed)
    if find_weights(model.backbone, model.weights) is None:
        tower = build_backbone(model, size=size, seed=seed, classifier=True)
    else:
        build_backbone(
            model, size=size, seed=seed
        )  # says what is wrong with the name, the size, or the rest of the file
        try:
            tower = build_backbone(model, size=size, seed=seed, classifier=True)
        except UserError as error:
            raise UserError(f"--features logits needs the classifier too, pooled does not: {error}") from None
    if not getattr(tower.net, "num_classes", 0):
        raise UserError(f"--features logits: {model.backbone} has no classifier; take --features pooled")
    return tower


def frozen_features(
    photos: Photos,
    photo_rows: NDArray[np.int64],
    model: Model,
    kind: str,
    size: int,
    compute: Compute,
    *,
    seed: int = 0,
    trunks: FeatureCache | None = None,
    view: int = ORIGINAL,
) -> NDArray[np.float32]:
    """Features of the photos `photo_rows` seen as `view`, float32 (len(photo_rows), width), a batch of photos in memory at a time.

    A tower is a network that is all trunk: with `trunks` its answers are kept on disk like any trunk's states, and read
    from there the next time. Raises UserError as `build_tower`, and where the network answers something that is no number.
    """
    tower = build_tower(model, kind, size=size, seed=seed)
    # In half precision channels_last was faster for every network measured, in float32 slower for some (docs/log.md).
    network = Network(
        tower,
        model.model_copy(update={"unfrozen": 0, "metadata": "none"}),
        channels_last=compute.dtype != torch.float32,
        frozen_bn=True,
    )
    network.place(compute.device).eval()
    rows = np.arange(len(photo_rows))
    inputs = open_inputs(trunks, photos, photo_rows, network, compute, rows, np.full(len(rows), view))
    table = np.empty((len(rows), tower.width), dtype=np.float32)
    with tqdm(total=len(table), desc=f"{kind} {model.backbone}", unit="photo", leave=False, disable=None) as bar:
        for start in range(0, len(table), BATCH):
            part = rows[start : start + BATCH]
            x = inputs.take(part, np.full(len(part), view)).to(compute.device)
            with torch.inference_mode(), compute.autocast():
                answer = inputs.features(network, x)
            table[start : start + len(part)] = answer.float().cpu().numpy()
            bar.update(len(part))
    if not np.isfinite(table).all():
        raise UserError(
            f"{model.backbone}: gives features that are no numbers in {compute.dtype_name}; try train.dtype=float32"
        )
    return table
