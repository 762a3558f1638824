"""Makes the small net that comes with the package: test_resnet, trained on a drawn shelter of its own.

    pawpularity pretrain --photos 5000 --epochs 15 --seed 1001

A clone without a network has no ImageNet weights; with this net it can still transfer from a trunk that has learned
something (`model.weights=drawn`). It learns what is on the photos (`labels`), not how popular they are, on pets of a
seed that no figure of the project uses. Beside the net stands its provenance, with how well it tells each label on
photos it never saw. Photos are drawn in memory and pass through the very JPEG and decoder the sample's photos do.
The same command gives the same bytes on one CPU machine.
"""

import math
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from pawpularity.config import Model
from pawpularity.data.photos import DECODER, Pixels, decode
from pawpularity.errors import UserError
from pawpularity.files import require_space, write_json
from pawpularity.models.backbone import as_tensor_stats, build_backbone, count_parameters
from pawpularity.models.weights import packaged_weights, save_tensors, tensors_hash
from pawpularity.runs import git_commit, machine, versions
from pawpularity.sample.draw import in_processes
from pawpularity.sample.render import render
from pawpularity.sample.spec import TEST, TRAIN, Photo, describe
from pawpularity.studies.pretraining import EPOCHS, PHOTOS, RESERVED, SEED
from pawpularity.studies.pretraining.labels import FLAGS, IN_RULE, KINDS, MEASURES, Labels, labels_of, widths

BACKBONE = "test_resnet"
SIZE, FIT = 96, "squash"  # as configs/sample.yaml decodes
DRAWN_SIZE, QUALITY = 160, 90  # as `pawpularity sample` draws
BATCH, RATE, DECAY, WARMUP = 64, 4e-3, 0.05, 1.0
HELD_OUT = 6  # one photo is held out for every six that are learned from
NOTE = (
    "Never the score, its points or its expectation. Labels with in_rule=true (tongue, eyes and face, pose, second pet) are "
    "parts that the rule of the drawn scores counts; how many points they are worth is not told. The rule's other two "
    "parts, contrast and clutter, are not taught. Kinds and flags: accuracy beside that of always answering the most "
    "frequent; measures: R2, a constant's being 0. All of the half-precision net, on held-out photos."
)


class Pupil(nn.Module):
    """The backbone with one linear layer for all labels, which is thrown away in the end."""

    mean: Tensor
    std: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        backbone = build_backbone(Model(backbone=BACKBONE, weights="none"), size=SIZE, seed=seed)
        self.backbone = backbone.net
        self.register_buffer("mean", as_tensor_stats(backbone.mean), persistent=False)
        self.register_buffer("std", as_tensor_stats(backbone.std), persistent=False)
        self.heads = nn.Linear(backbone.width, sum(widths()))

    def forward(self, photos: Tensor) -> list[Tensor]:
        """Outputs per label (see `labels.widths`) of (B, 3, H, W) pixels in 0..255."""
        x = ((photos - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        outputs: Tensor = self.heads(self.backbone(x))
        return list(torch.split(outputs, widths(), dim=1))


def pretrain(
    out: Path | None = None, *, photos: int = PHOTOS, epochs: int = EPOCHS, seed: int = SEED
) -> dict[str, Any]:
    """Draw, train, measure, and write `out` (default: the packaged file) and its provenance beside it; returns that.

    `out` gets the backbone's tensors in half precision. A calling script needs the usual
    `if __name__ == "__main__"` guard, since drawing spawns processes. Raises UserError for options out of range, a seed
    that the project's own figures use, or a place that cannot be written.
    """
    out = packaged_weights(BACKBONE) if out is None else out
    _check(out, photos, epochs, seed)
    learned = [describe(seed, TRAIN, index) for index in range(photos)]
    unseen = [describe(seed, TEST, index) for index in range(math.ceil(photos / HELD_OUT))]
    pixels, labels = draw([*learned, *unseen]), labels_of([*learned, *unseen])
    mine, theirs = labels.rows(torch.arange(photos)), labels.rows(torch.arange(photos, len(labels)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pupil = Pupil(seed).to(memory_format=torch.channels_last)
        loss = fit(pupil, torch.from_numpy(pixels[:photos]), mine, epochs=epochs, seed=seed)
    tensors = halved(pupil.backbone)
    pupil.backbone.load_state_dict(tensors)  # what is measured is what is kept: the rounded net
    figures = measure(pupil, torch.from_numpy(pixels[photos:]), mine, theirs)
    provenance = {
        "file": out.name,
        "what": "a backbone without its classifier, for model.weights=drawn; it knows drawings, not photographs",
        "licence": "MIT",
        "backbone": BACKBONE,
        "parameters": count_parameters(pupil.backbone),
        "tensors_hash": tensors_hash(tensors),
        "tensors_dtype": "float16",
        "command": f"pawpularity pretrain --photos {photos} --epochs {epochs} --seed {seed}",
        "data": {
            "what": "drawn by the project's own shelter/ from other seeds than any figure of the project; no photograph",
            "seed": seed,
            "photos": photos,
            "held_out_photos": len(unseen),
            "drawn_px": DRAWN_SIZE,
            "size": SIZE,
            "fit": FIT,
            "decoder": DECODER,
        },
        "training": {
            "epochs": epochs,
            "batch_size": BATCH,
            "optimiser": f"AdamW, rate {RATE:g}, weight decay {DECAY:g}, cosine",
            "last_epoch_loss": loss,
        },
        "labels_note": NOTE,
        "labels": figures,
        "git_commit": git_commit(),
        "versions": versions(),
        "machine": machine(),
    }
    # The provenance first: it names the tensors' hash, so that one without the other is found out.
    write_json(out.with_suffix(".json"), provenance)
    save_tensors(out, tensors, {"backbone": BACKBONE, "made_by": str(provenance["command"])})
    return provenance


def estimate(photos: int, epochs: int) -> float:
    """Seconds on two idle cores, roughly: 5 ms to draw a photo and 2 ms for every time it is looked at."""
    return 5.0 + photos * (0.005 * (1.0 + 1.0 / HELD_OUT) + 0.002 * epochs)


def _check(out: Path, photos: int, epochs: int, seed: int) -> None:
    """Refuse now what would fail after minutes."""
    for option, value, low, high in (
        ("photos", photos, 2, 100_000),
        ("epochs", epochs, 1, 1000),
        ("seed", seed, 0, 2**63 - 1),
    ):
        if not low <= value <= high:
            raise UserError(f"--{option} {value} is out of range; legal: {low} to {high}")
    if seed in RESERVED:
        raise UserError(
            f"--seed {seed}: figures of the project are reported or chosen on that shelter; take another than "
            f"{', '.join(map(str, RESERVED))}"
        )
    if out.suffix != ".safetensors" or out.is_dir():
        raise UserError(f"--out {out}: must name a .safetensors file")
    beside = out.with_suffix(".json")
    if beside.exists() and not (beside.is_file() and '"tensors_hash"' in beside.read_text(errors="replace")):
        raise UserError(f"--out {out}: {beside}, where its provenance goes, holds something else; name another file")
    require_space(out.parent, 4_000_000, "the net")
    existing = out.absolute().parent
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"--out {out}: {existing} is a file, not a folder; name another place")
    if not os.access(existing, os.W_OK):
        raise UserError(f"--out {out}: {existing} cannot be written; name a file elsewhere with --out")


def draw(photos: Sequence[Photo]) -> Pixels:
    """The photos as the project decodes them from a drawn shelter, uint8 (len(photos), SIZE, SIZE, 3), all in memory."""
    pixels = np.empty((len(photos), SIZE, SIZE, 3), np.uint8)
    for row, picture in enumerate(in_processes(_drawn, photos)):
        pixels[row] = picture
    return pixels


def _drawn(photo: Photo) -> Pixels:
    picture, _ = render(photo, DRAWN_SIZE)
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise RuntimeError("a drawn photo could not be encoded")
    return decode(data.tobytes(), SIZE, FIT)


def augment(photos: Tensor, labels: Labels, generator: torch.Generator) -> tuple[Tensor, Labels]:
    """A new view of each photo and the labels that are true of it.

    Photos come as uint8 (B, H, W, 3) and leave as float32 (B, 3, H, W) in 0..255: cropped to 80-100 % of each side, half
    of them mirrored, a little brighter or darker, with more or less contrast and colour.
    """
    count = len(photos)
    draws = torch.rand(7, count, generator=generator)
    scale = 0.8 + 0.2 * draws[0]
    left, top = draws[1] * (1.0 - scale), draws[2] * (1.0 - scale)
    flipped = draws[3] < 0.5
    # The crop as an affine map of the output's coordinates (-1..1) to the photo's.
    across = torch.where(flipped, -scale, scale)
    zero = torch.zeros(count)
    theta = torch.stack([across, zero, 2 * left + scale - 1, zero, scale, 2 * top + scale - 1], dim=1).view(count, 2, 3)
    x = photos.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    light, contrast, colour = (1.0 + 0.3 * (draw - 0.5).view(-1, 1, 1, 1) for draw in draws[4:7])
    # In place: these are the largest tensors of a step outside the net.
    x.lerp_(x.mean(dim=1, keepdim=True).expand_as(x), 1.0 - colour)
    x.lerp_(x.mean(dim=(1, 2, 3), keepdim=True).expand_as(x), 1.0 - contrast).mul_(light)
    return x.clamp_(0.0, 255.0), labels.moved(scale, left, top, flipped)


class Losses:
    """The loss of every label, as a share of what answering with a constant loses, so that all count the same."""

    def __init__(self, labels: Labels) -> None:
        self.kinds = []
        for column, (names, _) in enumerate(KINDS.values()):
            shares = torch.bincount(labels.kinds[:, column], minlength=len(names)).float() / len(labels)
            self.kinds.append(_floored(torch.special.entr(shares).sum()))
        share = labels.flags.mean(dim=0)
        self.flags = _floored(torch.special.entr(share) + torch.special.entr(1.0 - share))
        self.mean = labels.measures.mean(dim=0)
        self.sd = labels.measures.std(dim=0).clamp_min(1e-3)

    def __call__(self, outputs: Sequence[Tensor], labels: Labels) -> Tensor:
        """Mean over labels, () float32; about 1 for a net that has learned nothing."""
        *kinds, flags, measures = outputs
        each = [
            F.cross_entropy(logits, labels.kinds[:, column]) / entropy
            for column, (logits, entropy) in enumerate(zip(kinds, self.kinds, strict=True))
        ]
        binary = F.binary_cross_entropy_with_logits(flags, labels.flags, reduction="none").mean(dim=0) / self.flags
        squares = (measures - (labels.measures - self.mean) / self.sd).square().mean(dim=0)
        return torch.cat([torch.stack(each), binary, squares]).mean()


def _floored(entropy: Tensor) -> Tensor:
    # A label that hardly ever changes must not outweigh the others.
    return entropy.clamp_min(0.15)


def fit(pupil: Pupil, photos: Tensor, labels: Labels, *, epochs: int, seed: int) -> float:
    """Train on photos, uint8 (N, H, W, 3), and their labels; returns the mean loss of the last epoch."""
    losses = Losses(labels)
    generator = torch.Generator().manual_seed(seed)
    plain = [p for p in pupil.parameters() if p.ndim > 1]
    bare = [p for p in pupil.parameters() if p.ndim <= 1]
    groups = [{"params": plain, "weight_decay": DECAY}, {"params": bare, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=RATE)
    steps = math.ceil(len(photos) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, partial(_rate, steps=steps, epochs=epochs))
    pupil.train()
    total = 0.0
    with tqdm(total=epochs * steps, desc="training", unit="step", file=sys.stderr, disable=None) as shown:
        for _ in range(epochs):
            total = 0.0
            for rows in torch.randperm(len(photos), generator=generator).tensor_split(steps):
                batch, true = augment(photos[rows], labels.rows(rows), generator)
                loss = losses(pupil(batch), true)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                total += loss.item() * len(rows)
                shown.update()
            shown.set_postfix(loss=f"{total / len(photos):.3f}")
    pupil.eval()
    return total / len(photos)


def _rate(step: int, *, steps: int, epochs: int) -> float:
    """Share of the full rate: a linear rise over WARMUP epochs, then a cosine to zero."""
    warm, whole = WARMUP * steps, epochs * steps
    if epochs > WARMUP and step < warm:
        return (step + 1) / warm
    start = warm if epochs > WARMUP else 0.0
    return 0.5 * (1.0 + math.cos(math.pi * (step - start) / max(whole - start, 1.0)))


def halved(net: nn.Module) -> dict[str, Tensor]:
    """The net's tensors with every floating-point one in half precision. Raises UserError if one does not fit."""
    tensors = {name: t.half() if t.is_floating_point() else t for name, t in net.state_dict().items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"{name} left the range of half precision; train with other --epochs or another --seed")
    return tensors


@torch.inference_mode()
def measure(pupil: Pupil, photos: Tensor, learned: Labels, unseen: Labels) -> dict[str, dict[str, Any]]:
    """Per label, how well the net tells it on unseen photos: accuracy beside the majority's, or R2 of a measure."""
    pupil.eval()
    losses = Losses(learned)
    parts = [pupil(rows.permute(0, 3, 1, 2).float()) for rows in torch.split(photos, 256)]
    *kinds, flags, measures = (torch.cat(group) for group in zip(*parts, strict=True))
    figures: dict[str, dict[str, Any]] = {}

    def told(name: str, answers: Tensor, truth: Tensor, usual: float, sort: str) -> None:
        figures[name] = {
            "sort": sort,
            "in_rule": name in IN_RULE,
            "accuracy": round((answers == truth).double().mean().item(), 4),
            "majority": round((truth == usual).double().mean().item(), 4),
        }

    for column, name in enumerate(KINDS):
        usual = torch.bincount(learned.kinds[:, column]).argmax().item()
        told(name, kinds[column].argmax(dim=1), unseen.kinds[:, column], usual, f"one of {len(KINDS[name][0])} kinds")
    for column, name in enumerate(FLAGS):
        usual = float(learned.flags[:, column].mean() > 0.5)
        told(name, (flags[:, column] > 0).float(), unseen.flags[:, column], usual, "flag")
    for column, name in enumerate(MEASURES):
        truth = unseen.measures[:, column].double()
        answers = (measures * losses.sd + losses.mean)[:, column].double()
        spread = (truth - losses.mean[column]).square().sum().clamp_min(1e-12)
        r2 = 1.0 - ((truth - answers).square().sum() / spread).item()
        figures[name] = {"sort": "measure", "in_rule": False, "r2": round(r2, 4)}
    return figures
