"""`pawpularity augment-preview`: a few photos as training shows them, epoch by epoch, as one PNG."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pawpularity.config import Config, run_name
from pawpularity.console import next_step, say
from pawpularity.context import Context
from pawpularity.data.augment import ORIGINAL, Augmenter, Image, schedule_of
from pawpularity.data.dataset import Dataset
from pawpularity.data.photos import decode
from pawpularity.data.tables import ID, TARGET
from pawpularity.files import atomic_file
from pawpularity.runs import OOF

EPOCHS = 7
"""The most epochs shown."""
SIDE, LEFT, TOP, LINE, GAP = 1.5, 1.15, 0.45, 0.14, 0.05
"""Inches: a photo's side, the margins of the labels, a line of text, and between photos."""


def augment_preview(context: Context, *, augment: str | None, n: int) -> None:
    """Write oof/augment/NAME.png: `n` photos of the data, spread over their Ids, and their first views.

    `augment` stands for `train.augment`. Raises UserError as the settings do, and for data without photos.
    """
    config = context.config if augment is None else context.config.with_values({"train.augment": augment})
    dataset = context.dataset
    dataset.require_photos()
    order = np.argsort(dataset.train[ID].to_numpy(dtype=str))
    rows = order[np.linspace(0, len(order) - 1, min(n, len(order))).astype(int)]
    # A fold shows the same views of a photo, in an order of its own.
    schedule = schedule_of(config.train, np.full(len(rows), ORIGINAL), config.train.seed)
    epochs = range(min(EPOCHS, config.train.epochs))
    views = np.stack([schedule.of(epoch) for epoch in epochs], axis=1)
    heads = [f"{config.photos.size} px, {config.photos.fit}", *(f"epoch {epoch + 1}" for epoch in epochs)]
    table = dataset.train.iloc[rows]
    labels = [f"{one[:12]}\nscore {score:g}" for one, score in zip(table[ID], table[TARGET], strict=True)]
    path = OOF / "augment" / f"{run_name(augment or config.name)}.png"
    steps = [
        f"{name}: {json.dumps(args)}".replace('"', "")
        for step in config.train.transforms
        for name, args in step.items()
    ]
    _draw(path, _seen(dataset, config, rows, views), labels, heads, steps or [f"train.augment: {config.train.augment}"])
    say(f"{path}: {len(rows)} photos, epochs 1 to {len(epochs)}")
    word = [shlex.quote(f"train.augment={augment}")] if augment else []
    next_step(" ".join([context.make_line("train FOLD=0"), *word]))


def _seen(dataset: Dataset, config: Config, rows: NDArray[np.int64], views: NDArray[np.int64]) -> list[list[Image]]:
    """The photos in `rows`, each followed by its `views`, (rows, epochs)."""
    size, fit = config.photos.size, config.photos.fit
    augmenter, seeds = Augmenter(size, config.train.transforms), dataset.photos(size, fit).seeds
    sheet = []
    for row, shown in zip(rows, views, strict=True):
        pixels = decode(dataset.paths[row], size, fit)
        sheet.append([pixels, *(augmenter.apply(pixels, int(view), int(seeds[row])) for view in shown)])
    return sheet


def _draw(
    path: Path, sheet: Sequence[Sequence[Image]], labels: Sequence[str], heads: Sequence[str], notes: Sequence[str]
) -> None:
    from matplotlib.figure import Figure

    lines, columns = len(sheet), len(heads)
    width, top = LEFT + columns * SIDE + GAP, TOP + LINE * len(notes)
    height = top + lines * SIDE + GAP
    figure = Figure(figsize=(width, height), dpi=120)
    figure.text(LEFT / width, 1 - 2 * GAP / height, "\n".join(notes), va="top", fontsize=8, parse_math=False)
    axes = figure.subplots(lines, columns, squeeze=False)
    figure.subplots_adjust(LEFT / width, GAP / height, 1 - GAP / width, 1 - top / height, GAP / SIDE, GAP / SIDE)
    for photos, places, label in zip(sheet, axes, labels, strict=True):
        places[0].text(
            -0.06, 0.5, label, transform=places[0].transAxes, ha="right", va="center", fontsize=8, parse_math=False
        )
        for ax, photo in zip(places, photos, strict=True):
            ax.imshow(photo)
            ax.axis("off")
    for ax, head in zip(axes[0], heads, strict=True):
        ax.set_title(head, fontsize=9, pad=4)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
