"""A contact sheet: rows of thumbnails with a few words under each, as one PNG. The same tiles give the same bytes."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

from pawpularity.data.photos import decode, ordered_map, photo_size, thread_count
from pawpularity.files import atomic_file

PER_LINE = 6
_SIDE, _WIDTH, _HEIGHT = 176, 2.0, 3.0  # pixels of a thumbnail, inches of a tile


class Tile(NamedTuple):
    """A photo file and the lines under it; long ones are wrapped."""

    photo: Path
    lines: Sequence[str] = ()


def contact_sheet(
    rows: Sequence[Sequence[Tile]], path: Path, captions: Sequence[str] = (), *, per_line: int = PER_LINE
) -> None:
    """Write `rows` of tiles to `path` as a PNG; a row wraps after `per_line` tiles.

    `captions` stand above the rows, one each. Raises PhotoError for a photo that cannot be decoded.
    """
    from matplotlib.figure import Figure

    lines = [(caption if at == 0 else "", row[at : at + per_line])
             for row, caption in zip(rows, captions or [""] * len(rows), strict=True)
             for at in range(0, max(len(row), 1), per_line)]  # fmt: skip
    photos = ordered_map(
        lambda photo: decode(photo, _SIDE, "squash"), [t.photo for row in rows for t in row], thread_count()
    )
    figure = Figure(figsize=(_WIDTH * per_line, _HEIGHT * len(lines)), dpi=90)
    axes = figure.subplots(len(lines), per_line, squeeze=False)
    figure.subplots_adjust(0.01, 0.85 / len(lines) / _HEIGHT, 0.99, 1 - 0.3 / len(lines) / _HEIGHT, 0.08, 0.62)
    for ax in axes.flat:
        ax.axis("off")
    for (caption, tiles), places in zip(lines, axes, strict=True):
        places[0].set_title(caption, loc="left", fontsize=11)
        for ax, tile in zip(places, tiles, strict=False):
            width, height = photo_size(tile.photo)
            # The decoder makes squares; `aspect` gives the photo its shape back.
            ax.imshow(next(photos), aspect=height / width)
            words = "\n".join(fill(line, 25) for line in tile.lines)
            ax.text(0.5, -0.04, words, transform=ax.transAxes, ha="center", va="top", fontsize=8, parse_math=False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
