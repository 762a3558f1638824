"""A contact sheet: rows of thumbnails with a few words under each, as one PNG. The same tiles give the same bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pawpularity.data.photo_facts import displayed_size
from pawpularity.data.photos import decode, ordered_map, thread_count
from pawpularity.files import atomic_file

PER_LINE = 6
_SIDE, _GAP = 176, 10  # pixels of a thumbnail's longer side, and between thumbnails
_PAPER, _MAT, _INK = (255, 255, 255), (236, 236, 236), (20, 20, 20)


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture and the lines under it; long ones are wrapped."""

    photo: Path | NDArray[np.uint8]
    """a photo file, or RGB pixels (height, width, 3)"""
    lines: Sequence[str] = ()


def contact_sheet(
    rows: Sequence[Sequence[Tile]], path: Path, captions: Sequence[str] = (), *, per_line: int = PER_LINE
) -> None:
    """Write `rows` of tiles to `path` as a PNG; a row goes on below after `per_line` tiles.

    `captions` stand above the rows, one each. Raises PhotoError for a photo that cannot be decoded.
    """
    pictures = ordered_map(_thumbnail, [tile.photo for row in rows for tile in row], thread_count())
    across = max(1, min(per_line, max((len(row) for row in rows), default=1)))
    width = _GAP + max(across, min(4, per_line)) * (_SIDE + _GAP)  # never too narrow for a caption
    strips: list[Image.Image] = []
    for row, caption in zip(rows, captions or [""] * len(rows), strict=True):
        if caption:
            strips.append(_strip([_words(wrap(caption, width // 9), width - 2 * _GAP, size=16)], width))
        for start in range(0, len(row), across):
            tiles = [_tile(next(pictures), tile.lines) for tile in row[start : start + across]]
            strips.append(_strip(tiles, width))
    sheet = Image.new("RGB", (width, _GAP + sum(strip.height for strip in strips)), _PAPER)
    top = _GAP
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    with atomic_file(path) as temporary:
        sheet.save(temporary, format="PNG")


def _strip(tiles: Sequence[Image.Image], width: int) -> Image.Image:
    strip = Image.new("RGB", (width, max(tile.height for tile in tiles) + _GAP), _PAPER)
    for place, tile in enumerate(tiles):
        strip.paste(tile, (_GAP + place * (_SIDE + _GAP), 0))
    return strip


def _tile(picture: Image.Image, lines: Sequence[str]) -> Image.Image:
    words = _words([part for line in lines for part in wrap(line, 25)], _SIDE, size=13)
    tile = Image.new("RGB", (_SIDE, _SIDE + 3 + words.height), _PAPER)
    tile.paste(ImageOps.pad(picture, (_SIDE, _SIDE), color=_MAT))
    tile.paste(words, (0, _SIDE + 3))
    return tile


def _words(lines: Sequence[str], width: int, *, size: int) -> Image.Image:
    picture = Image.new("RGB", (width, max(1, (size + 4) * len(lines))), _PAPER)
    font = ImageFont.load_default(size)  # comes with Pillow, so a sheet looks the same everywhere
    for i, line in enumerate(lines):
        ImageDraw.Draw(picture).text((0, i * (size + 4)), line, fill=_INK, font=font)
    return picture


def _thumbnail(photo: Path | NDArray[np.uint8]) -> Image.Image:
    if isinstance(photo, Path):
        # The decoder makes squares; the square is stretched back to the photo's shape.
        picture, size = Image.fromarray(decode(photo, _SIDE, "squash")), displayed_size(photo)
    else:
        picture, size = Image.fromarray(photo), (photo.shape[1], photo.shape[0])
    width, height = (max(1, round(_SIDE * side / max(size))) for side in size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)
