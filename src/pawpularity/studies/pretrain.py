"""Question: what is the packaged network of `model.weights=drawn`, and how can it be made again?

Command: `pawpularity pretrain --photos 5000 --epochs 15 --seed 1001` (the defaults).
Result: test_resnet's tensors in half precision, and beside them a .json with the recipe and how well the network knows every label
on photos that it never saw. The same command gives the same bytes on one CPU machine.

A clone without internet has no ImageNet weights; with this network it can still train behind a frozen part that has learned
something. A student learns what is on drawn photos, never how popular they are: the points of the score's rule appear nowhere
here. Pets come from a seed that no figure of the project uses, and pass through the JPEG and the decoder of the sample's photos.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pawpularity.config import Model
from pawpularity.console import Progress, emit, make_word, next_step, table
from pawpularity.data.photos import DECODER, decode
from pawpularity.errors import UserError
from pawpularity.files import write_json
from pawpularity.models.backbone import as_tensor_stats, build_backbone, count_parameters
from pawpularity.models.weights import packaged_weights, save_tensors, tensors_hash
from pawpularity.runs import git_commit, machine, versions
from pawpularity.sample import spec
from pawpularity.sample.draw import in_processes
from pawpularity.sample.render import render

RESERVED = (0, 1, 3, 7)  # seeds that figures are reported on (0), recipes are chosen on (7), and tests draw (1, 3)
BACKBONE = "test_resnet"
SIZE, FIT = 96, "squash"  # as configs/sample.yaml decodes
DRAWN_SIZE, QUALITY = 160, 90  # as `pawpularity sample` draws
BATCH, RATE, DECAY = 64, 4e-3, 0.05
HELD_OUT = 6  # one photo is held out for every six that are learned from
NOTE = (
    "Never the score, its points or its expectation. Labels with in_rule=true (tongue, eyes and face, pose, second pet) are "
    "parts that the rule of the drawn scores counts; how many points they are worth is not told. The rule's other two "
    "parts, contrast and clutter, are not taught. Kinds and flags: accuracy beside that of always answering the most "
    "frequent; measures: R2, a constant's being 0. All of the half-precision net, on held-out photos."
)
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
IN_RULE = {"pose", "eyes", "second pet", "face visible", "tongue out"}
WIDTHS = [*map(len, KINDS.values()), len(FLAGS), len(MEASURES)]
"""The student's outputs: those of every kind, one a flag, one a measure"""


class Labels(NamedTuple):
    """What is on N photos: (N, KINDS) positions among the names, (N, FLAGS) 0 or 1, (N, MEASURES) as `labels_of` has them."""

    kinds: Tensor
    flags: Tensor
    measures: Tensor


def labels_of(photos: Sequence[spec.Photo]) -> Labels:
    """The labels of described photos."""
    t = pd.DataFrame([vars(photo) for photo in photos])
    t["coat"] = t["species"] + " " + t["coat"].astype(str)
    t["eyes"] = t["eyes"].replace(["left shut", "right shut"], "one shut")  # a mirror swaps left and right
    t["second pet"] = t["second_species"].where(t["second"], "none")
    kinds = [pd.Index(names).get_indexer(pd.Index(t[kind].replace("", "none"))) for kind, names in KINDS.items()]
    # The head's place from the middle, logarithms of its half width and of width / height, its tilt in tens of degrees.
    tilt = (t["tilt"] / 10).where(~t["pose"].isin(spec.ODD_POSES), 0.0)
    measures = [t["x"] - 0.5, t["y"] - 0.5, np.log(t["radius"]), np.log(t["aspect"]), tilt]
    return Labels(
        torch.tensor(np.stack(kinds, axis=1), dtype=torch.int64),
        torch.tensor(t[list(FLAGS.values())].to_numpy(np.float32)),
        torch.tensor(np.stack(measures, axis=1), dtype=torch.float32),
    )


def pretrain(out: str | None = None, *, photos: int = 5000, epochs: int = 15, seed: int = 1001) -> None:
    """`pawpularity pretrain`: draw, train, measure, and write `out` (default: the packaged file) and its record beside it.

    Raises UserError for a seed that figures of the project use, or a file that is no .safetensors.
    """
    path = Path(out) if out else packaged_weights(BACKBONE)
    if seed in RESERVED:
        raise UserError(f"--seed {seed}: figures of the project are made on that sample; take another than {RESERVED}")
    if path.suffix != ".safetensors":
        raise UserError(f"--out {path}: must name a .safetensors file")
    learned = [spec.describe(seed, spec.TRAIN, index) for index in range(photos)]
    unseen = [spec.describe(seed, spec.TEST, index) for index in range(math.ceil(photos / HELD_OUT))]
    pixels = torch.from_numpy(np.stack(list(in_processes(draw, [*learned, *unseen]))))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = Student(seed)
        loss = fit(student, pixels[:photos], labels_of(learned), epochs=epochs, seed=seed)
    tensors = halved(student.backbone)
    student.backbone.load_state_dict(tensors)  # what is measured is what is kept: the rounded network
    figures = measure(student, pixels[photos:], labels_of(learned), labels_of(unseen))
    record: dict[str, Any] = {
        "file": path.name,
        "what": "a backbone without its classifier, for model.weights=drawn; it knows drawings, not photographs",
        "licence": "MIT",
        "backbone": BACKBONE,
        "parameters": count_parameters(student.backbone),
        "tensors_hash": tensors_hash(tensors),
        "tensors_dtype": "float16",
        "command": f"pawpularity pretrain --photos {photos} --epochs {epochs} --seed {seed}",
        "data": {
            "what": "drawn by the project's own sample/ from other seeds than any figure of the project; no photograph",
            **{"seed": seed, "photos": photos, "held_out_photos": len(unseen), "drawn_px": DRAWN_SIZE},
            **{"size": SIZE, "fit": FIT, "decoder": DECODER},
        },
        "training": {
            **{"epochs": epochs, "batch_size": BATCH},
            "optimiser": f"AdamW, rate {RATE:g}, weight decay {DECAY:g}, cosine",
            "last_epoch_loss": loss,
        },
        "labels_note": NOTE,
        "labels": figures,
        **{"git_commit": git_commit(), "versions": versions(), "machine": machine()},
    }
    # The record first: it names the tensors' hash, so that one without the other is found out.
    write_json(path.with_suffix(".json"), record)
    save_tensors(path, tensors, {"backbone": BACKBONE, "made_by": record["command"]})
    rows = [[name, f.get("accuracy"), f.get("majority"), f.get("r2")] for name, f in figures.items()]
    emit(record, table(["label", "accuracy", "majority", "R2"], rows), None)
    next_step(f"make train {make_word('model.weights', str(path))}")


def draw(photo: spec.Photo) -> NDArray[np.uint8]:
    """A described photo as the project decodes it from a drawn sample, (SIZE, SIZE, 3)."""
    picture, _ = render(photo, DRAWN_SIZE)
    jpeg = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return decode(jpeg.tobytes(), SIZE, FIT)


class Student(nn.Module):
    """The backbone and one linear layer for all labels, which is thrown away in the end."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        backbone = build_backbone(Model(backbone=BACKBONE, weights="none"), size=SIZE, seed=seed)
        self.backbone, self.labels = backbone.net, nn.Linear(backbone.width, sum(WIDTHS))
        self.mean, self.std = as_tensor_stats(backbone.mean), as_tensor_stats(backbone.std)
        self.to(memory_format=torch.channels_last)

    def forward(self, photos: Tensor) -> tuple[Tensor, ...]:
        """Outputs by label (`WIDTHS`) of (B, 3, H, W) pixels in 0..255."""
        x = ((photos - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        outputs: Tensor = self.labels(self.backbone(x))
        return torch.split(outputs, WIDTHS, dim=1)


class Losses:
    """The loss of every label as a share of what a constant answer loses on the labels that are learned."""

    def __init__(self, learned: Labels) -> None:
        n, share = len(learned.kinds), learned.flags.mean(dim=0)
        shares = [learned.kinds[:, i].bincount(minlength=width).float() / n for i, width in enumerate(WIDTHS[:-2])]
        # At least 0.15: a label that hardly ever changes must not outweigh the others.
        self.kinds = [torch.special.entr(part).sum().clamp_min(0.15) for part in shares]
        self.flags = (torch.special.entr(share) + torch.special.entr(1.0 - share)).clamp_min(0.15)
        self.mean, self.sd = learned.measures.mean(dim=0), learned.measures.std(dim=0).clamp_min(1e-3)

    def __call__(self, outputs: Sequence[Tensor], labels: Labels) -> Tensor:
        """Mean over labels; about 1 for a network that has learned nothing."""
        *kinds, flags, measures = outputs
        each = [F.cross_entropy(kind, labels.kinds[:, i]) / self.kinds[i] for i, kind in enumerate(kinds)]
        binary = F.binary_cross_entropy_with_logits(flags, labels.flags, reduction="none").mean(dim=0) / self.flags
        squares = (measures - (labels.measures - self.mean) / self.sd).square().mean(dim=0)
        return torch.cat([torch.stack(each), binary, squares]).mean()


def augment(photos: Tensor, labels: Labels, generator: torch.Generator) -> tuple[Tensor, Labels]:
    """A random view of each photo, and the labels that are true of it.

    Photos come as uint8 (B, H, W, 3) and leave as float32 (B, 3, H, W) in 0..255: cropped to 80-100 % of each side, half
    of them mirrored, a little brighter or darker, with more or less contrast and colour.
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
    # In place: these are the largest tensors of a step outside the network.
    x.lerp_(x.mean(dim=1, keepdim=True).expand_as(x), 1.0 - colour)
    x.lerp_(x.mean(dim=(1, 2, 3), keepdim=True).expand_as(x), 1.0 - contrast).mul_(light)
    across, down, radius, aspect, tilt = labels.measures.unbind(1)
    across, down = sign * ((across + 0.5 - left) / scale - 0.5), (down + 0.5 - top) / scale - 0.5
    measures = torch.stack([across, down, radius - scale.log(), aspect, sign * tilt], dim=1)
    return x.clamp_(0.0, 255.0), labels._replace(measures=measures)


def fit(student: Student, photos: Tensor, labels: Labels, *, epochs: int, seed: int) -> float:
    """Train on photos, uint8 (N, H, W, 3), and their labels; returns the mean loss of the last epoch."""
    losses, generator = Losses(labels), torch.Generator().manual_seed(seed)
    matrices, vectors = ([p for p in student.parameters() if (p.ndim > 1) == several] for several in (True, False))
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=RATE)
    steps = math.ceil(len(photos) / BATCH)
    warm = steps if epochs > 1 else 0

    def rate(step: int) -> float:
        """A linear rise over the first epoch, then half a cosine to zero."""
        done = (step - warm) / max(epochs * steps - warm, 1)
        return (step + 1) / warm if step < warm else 0.5 * (1.0 + math.cos(math.pi * done))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    student.train()
    total = 0.0
    with Progress(epochs * steps, "training", "step") as progress:
        for _ in range(epochs):
            total = 0.0
            for rows in torch.randperm(len(photos), generator=generator).tensor_split(steps):
                views, true = augment(photos[rows], Labels(*(part[rows] for part in labels)), generator)
                loss = losses(student(views), true)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                total += loss.item() * len(rows)
                progress.add()
            progress.note(f"loss {total / len(photos):.3f}")
    return total / len(photos)


def halved(net: nn.Module) -> dict[str, Tensor]:
    """The network's tensors with every floating-point one in half precision. Raises UserError if one does not fit."""
    tensors = {name: t.half() if t.is_floating_point() else t for name, t in net.state_dict().items()}
    if unfit := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise UserError(f"{unfit[0]} left the range of half precision; train with other --epochs or another --seed")
    return tensors


@torch.inference_mode()
def measure(student: Student, photos: Tensor, learned: Labels, unseen: Labels) -> dict[str, dict[str, Any]]:
    """Per label how well the student knows it on unseen photos: accuracy beside the majority's, or R2 of a measure."""
    student.eval()
    losses = Losses(learned)
    parts = [student(rows.permute(0, 3, 1, 2).float()) for rows in torch.split(photos, 256)]
    *kinds, flags, measures = (torch.cat(group) for group in zip(*parts, strict=True))
    answers = torch.stack([*(kind.argmax(dim=1) for kind in kinds), *(flags > 0).unbind(1)], dim=1)
    usual = torch.stack(
        [*(kind.bincount().argmax() for kind in learned.kinds.unbind(1)), *(learned.flags.mean(0) > 0.5)]
    )
    truth = torch.cat([unseen.kinds, unseen.flags.long()], dim=1)
    right, majority = ((truth == guess).double().mean(dim=0).tolist() for guess in (answers, usual))
    sorts = [*(f"one of {len(names)} kinds" for names in KINDS.values()), *(["flag"] * len(FLAGS))]
    figures: dict[str, dict[str, Any]] = {}
    for name, sort, own, constant in zip([*KINDS, *FLAGS], sorts, right, majority, strict=True):
        known = {"accuracy": round(own, 4), "majority": round(constant, 4)}
        figures[name] = {"sort": sort, "in_rule": name in IN_RULE, **known}
    wrong = (unseen.measures.double() - (measures * losses.sd + losses.mean).double()).square().sum(dim=0)
    spread = (unseen.measures.double() - losses.mean).square().sum(dim=0).clamp_min(1e-12)
    for name, r2 in zip(MEASURES, (1.0 - wrong / spread).tolist(), strict=True):
        figures[name] = {"sort": "measure", "in_rule": False, "r2": round(r2, 4)}
    return figures
