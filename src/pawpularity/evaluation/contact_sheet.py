"""A contact sheet: rows of thumbnails with a few words under each, as one PNG.

    rows = [[Tile(Path("a.jpg"), ("true 100", "predicted 31.2"))], [Tile(pixels, ("a copy",))]]
    contact_sheet(rows, Path("sheet.png"), captions=["scored too low", "copies"])

Photos are decoded by the project's one decoder and shown in their own shape. The same tiles give the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pawpularity.data.photo_facts import displayed_size
from pawpularity.data.photos import decode, ordered_map, thread_count
from pawpularity.files import atomic_file

PER_LINE = 6
_SIDE = 176  # pixels of a thumbnail's longer side
_GAP = 10
_TEXT, _TITLE = 13, 16  # font sizes, pixels
_LINE, _HEADING = 17, 24  # from one line of text to the next
_PAPER, _MAT, _INK = (255, 255, 255), (236, 236, 236), (20, 20, 20)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture and the lines under it (each goes on below where it is too long)."""

    photo: Path | NDArray[np.uint8]
    """a photo file, or RGB pixels (height, width, 3)"""
    lines: Sequence[str] = ()


def contact_sheet(
    rows: Sequence[Sequence[Tile]], path: Path, captions: Sequence[str] = (), *, per_line: int = PER_LINE
) -> None:
    """Write `rows` of tiles to `path` as a PNG, whole; a row goes on below after `per_line` tiles.

    `captions` stand above the rows, one each (none at all, or "", leaves them out). Memory: the sheet and one thumbnail a
    tile, about 150 kB a tile. Raises PhotoError for a photo that cannot be decoded.
    """
    titles = list(captions) or [""] * len(rows)
    if len(titles) != len(rows):
        raise ValueError(f"{len(titles)} captions for {len(rows)} rows")
    pictures = ordered_map(_thumbnail, [tile.photo for row in rows for tile in row], thread_count())
    across = max(1, min(per_line, max((len(row) for row in rows), default=1)))
    width = _GAP + max(across, min(4, per_line)) * (_SIDE + _GAP)  # never too narrow for a caption
    text, bold = _font(_TEXT), _font(_TITLE)
    headings = [_wrapped(title, bold, width - 2 * _GAP) for title in titles]
    below = [[[part for line in tile.lines for part in _wrapped(line, text, _SIDE)] for tile in row] for row in rows]
    # Lines of tiles: each as high as its longest text.
    bands = [[lines[start : start + across] for start in range(0, len(lines), across)] for lines in below]
    heights = [[_SIDE + _GAP + 6 + _LINE * max(map(len, band)) for band in row] for row in bands]
    height = _GAP + sum(
        len(heading) * _HEADING + sum(row) + _GAP for heading, row in zip(headings, heights, strict=True)
    )
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for heading, row_bands, row_heights in zip(headings, bands, heights, strict=True):
        for line in heading:
            draw.text((_GAP, top), line, fill=_INK, font=bold)
            top += _HEADING
        for band, band_height in zip(row_bands, row_heights, strict=True):
            for place, lines in enumerate(band):
                _paint(sheet, draw, (_GAP + place * (_SIDE + _GAP), top), next(pictures), lines, text)
            top += band_height
        top += _GAP
    with atomic_file(path) as temporary:
        sheet.save(temporary, format="PNG")


def _paint(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    picture: Image.Image,
    lines: Sequence[str],
    font: Font,
) -> None:
    left, top = at
    draw.rectangle((left, top, left + _SIDE - 1, top + _SIDE - 1), fill=_MAT)
    sheet.paste(picture, (left + (_SIDE - picture.width) // 2, top + (_SIDE - picture.height) // 2))
    for i, line in enumerate(lines):
        draw.text((left, top + _SIDE + 3 + i * _LINE), _cut(line, font, _SIDE), fill=_INK, font=font)


def _thumbnail(photo: Path | NDArray[np.uint8]) -> Image.Image:
    if isinstance(photo, Path):
        width, height = displayed_size(photo)
        # The decoder makes squares; the square is then stretched back to the photo's shape.
        picture = Image.fromarray(decode(photo, _SIDE, "squash"))
    else:
        if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
            raise ValueError(f"a tile's pixels are {photo.dtype} {photo.shape}; due uint8 (height, width, 3)")
        picture = Image.fromarray(np.ascontiguousarray(photo))
        height, width = photo.shape[:2]
    longer = max(width, height)
    size = (max(1, round(_SIDE * width / longer)), max(1, round(_SIDE * height / longer)))
    return picture.resize(size, Image.Resampling.BICUBIC)


def _font(size: int) -> Font:
    return ImageFont.load_default(size)  # comes with Pillow, so a sheet looks the same everywhere


def _cut(line: str, font: Font, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "...") > width:
        line = line[:-1]
    return line.rstrip() + "..."


def _wrapped(text: str, font: Font, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
