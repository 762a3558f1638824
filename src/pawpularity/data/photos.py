"""From photo files to pixels: the project's only decoder.

`decode` is the one rule by which a file becomes a square of RGB bytes, for training, prediction and explanation alike.
`photo_cache` keeps the answer for a whole table.

The rule (named by `DECODER`, which stands in cache names): Pillow; first frame; EXIF orientation applied; colour
profile ignored; alpha over white; 16-bit grey by its high byte; then one antialiased Pillow BICUBIC resize. JPEGs are
first reduced in the DCT by 2, 4 or 8 as long as both sides stay at least twice the target: 2.5 times faster at
1280 px and 8 times at 4000 px, for a mean difference below 0.8 of 255 levels to decoding in full.
"""

import io
import logging
import os
import stat
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from pawpularity.errors import UserError, nearest
from pawpularity.files import write_text

if TYPE_CHECKING:
    from tqdm import tqdm

DECODER = "pillow-bicubic-draft2x-white-1"
# Named so that a photo sent to the app can never start a plugin with side effects (EPS runs Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_BYTES = 1_000_000_000  # a file is read whole; no photo of that many pixels is as large
MAX_PIXELS = 89_478_485  # Pillow's own decompression-bomb limit; Pillow only warns there, we refuse
_MAX_SIZE = 4096
_NAMED = 20  # bad photos told in the message itself; the rest go to a file

# What Pillow says about odd metadata does not concern the pixels, and its bomb warning is an error of ours below.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else what it logs of a broken TIFF lands on standard error

Pixels = npt.NDArray[np.uint8]
Item = TypeVar("Item")
Result = TypeVar("Result")

_TURNS = {  # by EXIF orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PhotoError(UserError):
    """A photo that cannot be used. The message is `train/x.jpg: truncated`; `reason` is the part after the colon."""

    def __init__(self, source: Path | bytes, reason: str) -> None:
        name = f"{source.parent.name}/{source.name}".lstrip("/") if isinstance(source, Path) else "the photo"
        super().__init__(f"{name}: {reason}")
        self.reason = reason


FITS = ("squash", "crop")


def decode(source: Path | bytes, size: int, fit: str) -> Pixels:
    """Decode one photo to RGB, uint8, shape (size, size, 3).

    `fit` is "squash" (both sides are stretched to the square, as the paper did) or "crop" (the largest centred square).
    Raises PhotoError for what is absent, no image, truncated, larger than 89 Mpx, or of floating-point pixels.
    """
    if fit not in FITS:
        raise UserError(f'fit "{fit}": no such way to make a square{nearest(fit, FITS)}')
    if not 1 <= size <= _MAX_SIZE:
        raise UserError(f"size {size}: must be 1 to {_MAX_SIZE} pixels")
    try:
        with _open(source) as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise PhotoError(
                    source, f"too large ({image.width} x {image.height}; {MAX_PIXELS / 1e6:.0f} Mpx at most); shrink it"
                )
            image.draft("RGB", (2 * size, 2 * size))
            image.load()
            turn = _TURNS.get(_orientation(image))
            rgb = _to_rgb(image, source)
            return _to_square(rgb if turn is None else rgb.transpose(turn), size, fit)
    except UserError:
        raise
    except Exception as error:  # a photo is foreign input: Pillow's plugins raise dozens of types on broken files
        raise PhotoError(source, fault(error, source)) from None


def photo_faults(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """(path, reason) of every photo that cannot be decoded, in order."""

    def attempt(path: Path) -> str | None:
        try:
            decode(path, 32, "squash")
        except PhotoError as error:
            return error.reason
        return None

    reasons = zip(paths, in_order(attempt, paths, thread_count()), strict=True)
    return [(path, reason) for path, reason in reasons if reason is not None]


def refuse(faults: Sequence[tuple[Path, str]], total: int, report: Path) -> None:
    """Raise one UserError of one line naming the first 20 bad photos; all of them go to `report` if there are more."""
    if not faults:
        return
    named = "; ".join(f"{path.parent.name}/{path.name}: {reason}" for path, reason in faults[:_NAMED])
    rest = len(faults) - _NAMED
    more = ""
    if rest > 0:
        more = f"; and {rest} more"
        try:
            write_text(report, "".join(f"{path}\t{reason}\n" for path, reason in faults))
            more += f", listed in {report}"
        except OSError:  # the list is a courtesy: a read-only cache folder must not hide the real fault
            pass
    raise UserError(f"{len(faults)} of {total} photos cannot be used ({named}{more}); replace them, or drop their rows")


def thread_count() -> int:
    """Threads for decoding: the processors this process may use, 16 at most."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, usable))


def in_order(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """`map` over a thread pool, in the order of `items`, with a few results at a time in memory."""
    window = 4 * threads
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="photos") as pool:
        for item in items:
            if len(pending) >= window:
                yield pending.popleft().result()
            pending.append(pool.submit(function, item))
        while pending:
            yield pending.popleft().result()


def bar(total: int, what: str) -> "tqdm[Any]":
    """A progress bar on stderr, silent where that is no terminal."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit="photo", file=sys.stderr, disable=not sys.stderr.isatty())


@contextmanager
def _open(source: Path | bytes) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        if not source:
            raise PhotoError(source, "empty")
        yield io.BytesIO(source)
        return
    if file_stat(source).st_size == 0:
        raise PhotoError(source, "empty")
    with source.open("rb") as file:
        yield file


def file_stat(path: Path) -> os.stat_result:
    """Size and times of a photo file. Raises PhotoError where it is absent, larger than 1 GB or no file.

    Opening a pipe would hang.
    """
    try:
        about = path.stat()
    except OSError as error:
        dead = isinstance(error, FileNotFoundError) and path.is_symlink()
        raise PhotoError(path, "a link that leads nowhere" if dead else fault(error, path)) from None
    if not stat.S_ISREG(about.st_mode):
        raise PhotoError(path, "a folder, not a photo" if stat.S_ISDIR(about.st_mode) else "not a regular file")
    if about.st_size > MAX_BYTES:
        raise PhotoError(path, f"too large a file ({about.st_size / 1e6:.0f} MB; {MAX_BYTES / 1e6:.0f} MB at most)")
    return about


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, else 1. To be asked after `load`: a PNG may end with it, and a TIFF is turned by then."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # broken metadata around good pixels is common and no reason to refuse a photo
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image, source: Path | bytes) -> Image.Image:
    if image.mode == "F":
        raise PhotoError(source, "floating-point pixels have no known range; save it as 8-bit")
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise PhotoError(source, "32-bit grey; save it as 8-bit")
        return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        solid = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", solid.size, "white"), solid).convert("RGB")
    return image.convert("RGB")


def _to_square(image: Image.Image, size: int, fit: str) -> Pixels:
    if fit == "crop":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        # Not resize's own `box`: its kernel would reach beyond the square.
        image = image.crop((left, top, left + side, top + side))
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC))


def fault(error: Exception, source: Path | bytes) -> str:
    """What is wrong with a photo, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror})"
    if isinstance(error, UnidentifiedImageError):
        head = source[:8] if isinstance(source, bytes) else _head(source)
        if head.startswith((b"\xff\xd8\xff", b"\x89PNG")):
            return "truncated"
        return "not a JPEG, PNG, WebP, GIF, BMP or TIFF image"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"too large ({MAX_PIXELS / 1e6:.0f} Mpx at most); shrink it"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    text = str(error).lower()
    if any(word in text for word in ("truncated", "data stream", "not enough image data", "end of file")):
        return "truncated"
    return f"damaged ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:80]})"


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError:
        return b""
