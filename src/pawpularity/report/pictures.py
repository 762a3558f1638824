"""Pictures that commands wrote, as WebP data URIs inside the page. The same file gives the same bytes."""

import base64
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pawpularity.data.photos import fault
from pawpularity.errors import UserError

QUALITY = 82  # of 100; a tile of 224 px takes about 8 kB
_PAPER = (255, 255, 255)

Pixels = NDArray[np.uint8]


def read_picture(path: Path, command: str) -> Image.Image:
    """A picture that `command` wrote, as RGB on white. Raises UserError that names `command`."""
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            image.load()
            if image.mode in ("RGBA", "LA", "P"):
                clear = image.convert("RGBA")
                flat = Image.new("RGB", clear.size, _PAPER)
                flat.paste(clear, mask=clear.getchannel("A"))
                return flat
            return image.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; run: {command}") from None
    except Exception as error:  # Pillow raises dozens of types on broken files
        raise UserError(f"{path}: {fault(error)}; run: {command}") from None


def data_uri(image: Image.Image, *, widest: int = 1200, quality: int = QUALITY) -> tuple[str, tuple[int, int]]:
    """(`data:image/webp;base64,...`, (width, height)). A picture wider than `widest` pixels is shrunk to that."""
    if image.width > widest:
        image = image.resize((widest, round(image.height * widest / image.width)), Image.Resampling.LANCZOS)
    whole = io.BytesIO()
    image.save(whole, format="WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(whole.getvalue()).decode()}", image.size


def tiles(strip: Image.Image, names: list[str], path: Path, command: str) -> dict[str, Image.Image]:
    """The square tiles of an `explain` strip by name, left to right. Raises UserError if the number of tiles is wrong."""
    side = strip.height
    if strip.width != side * len(names):
        raise UserError(f"{path}: is {strip.width} x {side}, not {len(names)} squares; run: {command}")
    return {name: strip.crop((place * side, 0, (place + 1) * side, side)) for place, name in enumerate(names)}
