"""Question: what is the packaged network of `model.weights=drawn`, and how is it made?

Command: `pawpularity pretrain --photos 5000 --epochs 15 --seed 1001` (the defaults).
Result: test_resnet's tensors in half precision, and a .json with the recipe and the network's accuracy on every label, measured on
photos that it never saw. On one CPU machine the same command gives the same bytes.

Without internet there are no ImageNet weights. With this network a clone can still train on a frozen part that has learned
something. It learns what is on drawn photos, never how popular they are: no label uses the points of the score's rule, and two of
the rule's parts, contrast and clutter, are not labels. The pets come from a seed that no figure of the project uses.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import r2_score
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.nn import functional as F

from pawpularity.config import Model
from pawpularity.console import emit, make_word, next_step, table, track
from pawpularity.data.photos import DECODER, decode
from pawpularity.errors import UserError
from pawpularity.files import write_json
from pawpularity.models.backbone import as_tensor_stats, build_backbone
from pawpularity.models.weights import packaged_weights, save_tensors, tensors_hash
from pawpularity.runs import git_commit, machine, versions
from pawpularity.sample import spec
from pawpularity.sample.draw import in_processes
from pawpularity.sample.render import render

RESERVED = (0, 1, 3, 7)  # seeds of the reported figures (0), of choosing recipes (7), and of tests (1, 3)
BACKBONE, SIZE, FIT = "test_resnet", 96, "squash"  # as configs/sample.yaml decodes
DRAWN_SIZE, QUALITY = 160, 90  # as `pawpularity sample` draws
BATCH, RATE, DECAY = 64, 4e-3, 0.05
HELD_OUT = 6  # training photos for each held-out photo
KINDS: dict[str, Sequence[str]] = {
    "species": ("cat", "dog"),
    "coat": [f"{species} {coat}" for species, count in spec.COATS.items() for coat in range(count)],
    "scene": spec.SCENES,
    "pose": (*spec.POSES, *spec.ODD_POSES),
    "eyes": ("open", "one shut", "shut", "turned away"),
    "accessory": ("none", *spec.ACCESSORIES),
    "occlusion": ("none", *spec.OCCLUSIONS),
    "second pet": ("none", "cat", "dog"),
}
FLAGS = {"face visible": "face", "tongue out": "tongue", "near": "near", "human": "human", "info": "info",
         "collage": "collage", "blur": "blur", "spotlight": "focus"}  # fmt: skip
"""Label -> field of `spec.Photo`"""
MEASURES = ("x", "y", "radius", "aspect", "tilt")
WIDTHS = [*map(len, KINDS.values()), len(FLAGS), len(MEASURES)]
"""The number of outputs: one a name for every kind, then all flags, then all measures"""


class Labels(NamedTuple):
    """What is on N photos: (N, KINDS) positions among the names, (N, FLAGS) 0 or 1, (N, MEASURES) as `labels_of` has them."""

    kinds: Tensor
    flags: Tensor
    measures: Tensor


def pretrain(out: str | None = None, *, photos: int = 5000, epochs: int = 15, seed: int = 1001) -> None:
    """`pawpularity pretrain`: write `out` (default: the packaged file) and its record. Raises UserError."""
    path = Path(out) if out else packaged_weights(BACKBONE)
    if seed in RESERVED:
        reserved = ", ".join(map(str, RESERVED))
        raise UserError(f"--seed {seed}: the project's figures use that sample; choose a seed other than {reserved}")
    if path.suffix != ".safetensors":
        raise UserError(f"--out {path}: must name a .safetensors file")
    learned = [spec.describe(seed, spec.TRAIN, index) for index in range(photos)]
    unseen = [spec.describe(seed, spec.TEST, index) for index in range(math.ceil(photos / HELD_OUT))]
    pixels = torch.from_numpy(np.stack(list(in_processes(draw, [*learned, *unseen]))))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Labelling(seed)
        fit(network, pixels[:photos], labels_of(learned), epochs=epochs, seed=seed)
    tensors = {name: t.half() if t.is_floating_point() else t for name, t in network.backbone.state_dict().items()}
    network.backbone.load_state_dict(tensors)  # measure the rounded network, which is the one that is saved
    figures = measure(network, pixels[photos:], labels_of(learned), labels_of(unseen))
    record = {
        "file": path.name, "licence": "MIT", "backbone": BACKBONE, "tensors_hash": tensors_hash(tensors),
        "what": "a backbone without its classifier, for model.weights=drawn; it knows drawings, not photographs",
        "command": f"pawpularity pretrain --photos {photos} --epochs {epochs} --seed {seed}",
        "data": {"seed": seed, "photos": photos, "held_out_photos": len(unseen), "drawn_px": DRAWN_SIZE, "size": SIZE,
                 "fit": FIT, "decoder": DECODER},
        "labels": figures, "git_commit": git_commit(), "versions": versions(), "machine": machine(),
    }  # fmt: skip
    # The record first: it has the tensors' hash, so a mismatch is noticed.
    write_json(path.with_suffix(".json"), record)
    save_tensors(path, tensors, {"backbone": BACKBONE, "made_by": str(record["command"])})
    rows = [[name, row.get("accuracy"), row.get("majority"), row.get("r2")] for name, row in figures.items()]
    emit(record, table(["label", "accuracy", "majority", "R2"], rows), None)
    next_step(f"make train {make_word('model.weights', str(path))}")


def draw(photo: spec.Photo) -> NDArray[np.uint8]:
    """A described photo as the project decodes it from a drawn sample, (SIZE, SIZE, 3)."""
    picture, _ = render(photo, DRAWN_SIZE)
    jpeg = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return decode(jpeg.tobytes(), SIZE, FIT)


def labels_of(photos: Sequence[spec.Photo]) -> Labels:
    """The labels of described photos."""
    t = pd.DataFrame([vars(photo) for photo in photos])
    t["coat"] = t["species"] + " " + t["coat"].astype(str)
    t["eyes"] = t["eyes"].replace(["left shut", "right shut"], "one shut")  # a mirror swaps left and right
    t["second pet"] = t["second_species"].where(t["second"], "none")
    kinds = [pd.Index(names).get_indexer(pd.Index(t[kind].replace("", "none"))) for kind, names in KINDS.items()]
    # The head's offset from the middle, logarithms of its half width and of width / height, its tilt in tens of degrees.
    tilt = (t["tilt"] / 10).where(~t["pose"].isin(spec.ODD_POSES), 0.0)
    measures = [t["x"] - 0.5, t["y"] - 0.5, np.log(t["radius"]), np.log(t["aspect"]), tilt]
    return Labels(torch.tensor(np.stack(kinds, axis=1), dtype=torch.int64),
                  torch.tensor(t[list(FLAGS.values())].to_numpy(np.float32)),
                  torch.tensor(np.stack(measures, axis=1), dtype=torch.float32))  # fmt: skip


class Labelling(nn.Module):
    """The backbone, and one linear layer for all labels, which is not saved."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        backbone = build_backbone(Model(backbone=BACKBONE, weights="none"), size=SIZE, seed=seed)
        self.backbone, self.labels = backbone.net, nn.Linear(backbone.width, sum(WIDTHS))
        self.mean, self.std = as_tensor_stats(backbone.mean), as_tensor_stats(backbone.std)
        self.to(memory_format=torch.channels_last)

    def forward(self, photos: Tensor) -> tuple[Tensor, ...]:
        """Outputs by label (`WIDTHS`) of (B, 3, H, W) pixels in 0..255."""
        x = ((photos - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return torch.split(self.labels(self.backbone(x)), WIDTHS, dim=1)


def loss_on(learned: Labels) -> Callable[[Sequence[Tensor], Labels], Tensor]:
    """The loss: the mean over labels of each label's loss over that of a constant answer; about 1 for an untrained network."""
    n, share = len(learned.kinds), learned.flags.mean(dim=0)
    shares = [learned.kinds[:, i].bincount(minlength=width).float() / n for i, width in enumerate(WIDTHS[:-2])]
    # At least 0.15: a label that rarely changes must not outweigh the others.
    of_kinds = [torch.special.entr(part).sum().clamp_min(0.15) for part in shares]
    of_flags = (torch.special.entr(share) + torch.special.entr(1.0 - share)).clamp_min(0.15)
    mean, sd = spread_of(learned)

    def loss(outputs: Sequence[Tensor], labels: Labels) -> Tensor:
        *kinds, flags, measures = outputs
        each = [F.cross_entropy(kind, labels.kinds[:, i]) / of_kinds[i] for i, kind in enumerate(kinds)]
        binary = F.binary_cross_entropy_with_logits(flags, labels.flags, reduction="none").mean(dim=0) / of_flags
        squares = (measures - (labels.measures - mean) / sd).square().mean(dim=0)
        return torch.cat([torch.stack(each), binary, squares]).mean()

    return loss


def spread_of(learned: Labels) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the measures, (MEASURES,) each. The network's outputs are standardised with them."""
    return learned.measures.mean(dim=0), learned.measures.std(dim=0).clamp_min(1e-3)


def augment(photos: Tensor, labels: Labels, generator: torch.Generator) -> tuple[Tensor, Labels]:
    """A random view of each photo, and the labels of the view.

    Takes uint8 (B, H, W, 3) and returns float32 (B, 3, H, W) in 0..255: cropped to 80-100 % of each side, half of them mirrored,
    with a little more or less brightness, contrast and colour.
    """
    draws = torch.rand(7, len(photos), generator=generator)
    scale = 0.8 + 0.2 * draws[0]
    left, top = draws[1] * (1.0 - scale), draws[2] * (1.0 - scale)
    sign = torch.where(draws[3] < 0.5, -1.0, 1.0)
    # The crop as an affine map of the output's coordinates (-1..1) to the photo's.
    rows = [sign * scale, 0 * scale, 2 * left + scale - 1, 0 * scale, scale, 2 * top + scale - 1]
    x = photos.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    light, contrast, colour = (1.0 + 0.3 * (draw - 0.5).view(-1, 1, 1, 1) for draw in draws[4:7])
    x = x.lerp(x.mean(dim=1, keepdim=True).expand_as(x), 1.0 - colour)
    x = x.lerp(x.mean(dim=(1, 2, 3), keepdim=True).expand_as(x), 1.0 - contrast) * light
    across, down, radius, aspect, tilt = labels.measures.unbind(1)
    across, down = sign * ((across + 0.5 - left) / scale - 0.5), (down + 0.5 - top) / scale - 0.5
    measures = torch.stack([across, down, radius - scale.log(), aspect, sign * tilt], dim=1)
    return x.clamp(0.0, 255.0), labels._replace(measures=measures)


def fit(network: Labelling, photos: Tensor, labels: Labels, *, epochs: int, seed: int) -> None:
    """Train on photos, uint8 (N, H, W, 3), and their labels. The rate rises over the first epoch, then falls as a cosine."""
    loss_of, generator = loss_on(labels), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(param_groups_weight_decay(network, DECAY), lr=RATE)
    steps = math.ceil(len(photos) / BATCH)
    warm = steps if epochs > 1 else 0

    def rate(step: int) -> float:
        done = (step - warm) / max(epochs * steps - warm, 1)
        return (step + 1) / warm if step < warm else 0.5 * (1.0 + math.cos(math.pi * done))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    network.train()
    for _ in track(range(epochs), "training", unit="epochs"):
        for rows in torch.randperm(len(photos), generator=generator).tensor_split(steps):
            views, true = augment(photos[rows], Labels(*(part[rows] for part in labels)), generator)
            optimiser.zero_grad()
            loss_of(network(views), true).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()


@torch.inference_mode()
def measure(network: Labelling, photos: Tensor, learned: Labels, unseen: Labels) -> dict[str, dict[str, float]]:
    """By label, on unseen photos: accuracy and that of the most frequent answer, or the R2 of a measure."""
    network.eval()
    parts = [network(rows.permute(0, 3, 1, 2).float()) for rows in torch.split(photos, 256)]
    *kinds, flags, measures = (torch.cat(group) for group in zip(*parts, strict=True))
    answers = torch.stack([*(kind.argmax(dim=1) for kind in kinds), *(flags > 0).unbind(1)], dim=1)
    usual = torch.cat([learned.kinds, learned.flags.long()], dim=1).mode(dim=0).values
    truth = torch.cat([unseen.kinds, unseen.flags.long()], dim=1)
    right, majority = ((truth == guess).double().mean(dim=0).tolist() for guess in (answers, usual))
    figures = {name: {"accuracy": round(own, 4), "majority": round(constant, 4)}
               for name, own, constant in zip([*KINDS, *FLAGS], right, majority, strict=True)}  # fmt: skip
    mean, sd = spread_of(learned)
    r2 = r2_score(unseen.measures, measures * sd + mean, multioutput="raw_values")
    return figures | {name: {"r2": round(float(one), 4)} for name, one in zip(MEASURES, r2, strict=True)}
