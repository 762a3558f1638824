"""From photo files to pixels: the project's only decoder, and its only thread map.

`decode` turns a file into a square of RGB bytes, for training, prediction and explanation alike. Its rule, named by
`DECODER` (part of every cache's name): Pillow; first frame; EXIF or XMP orientation applied; colour profile ignored;
alpha over white; of 16-bit levels the upper 8 bits in use; one antialiased BICUBIC resize. JPEGs are first reduced in the
DCT by 2, 4 or 8 as long as both sides stay at least twice the target: 2.5 times faster at 1280 px and 8 times at 4000 px,
for a mean difference below 0.8 of 255 levels to decoding in full. `formats`, `jpeg` and `png` open the files.
"""

import logging
import os
import stat
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from pawpularity.data.formats import ENDINGS, HEAD, NAMES, kind_of, opened, orientation, upright_size
from pawpularity.data.png import eight_bits, rescaled
from pawpularity.errors import BadPhoto, UserError, printable
from pawpularity.files import write_text

DECODER = "pillow-bicubic-draft2x-white-3"
MAX_BYTES = 1_000_000_000  # a file is read whole
MAX_PIXELS = 89_478_485  # where Pillow warns of decompression bombs; we refuse
_NAMED = 20  # bad photos in an error message

# Warnings of odd metadata do not concern the pixels. Too many pixels raise PhotoError.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else broken TIFFs are logged on standard error

Pixels = npt.NDArray[np.uint8]
Item = TypeVar("Item")
Result = TypeVar("Result")

_T = Image.Transpose
_TURNS = {2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM, 5: _T.TRANSPOSE, 6: _T.ROTATE_270, 7: _T.TRANSVERSE,
          8: _T.ROTATE_90}  # by EXIF orientation; 1 is upright  # fmt: skip


class PhotoError(UserError):
    """A photo that cannot be used. The message is `train/x.jpg: truncated`; `reason` is the part after the colon."""

    def __init__(self, source: Path | bytes, reason: str) -> None:
        name = f"{source.parent.name}/{source.name}".lstrip("/") if isinstance(source, Path) else "the photo"
        super().__init__(f"{name}: {reason}")
        self.reason = reason


def decode(source: Path | bytes, size: int, fit: str) -> Pixels:
    """Decode one photo to RGB, uint8, shape (size, size, 3).

    `fit`: "squash" stretches both sides to the square, as the paper did; "crop" takes the largest centred square;
    "pad" adds grey to the shorter side.
    Raises PhotoError for a photo that is missing, no image, damaged, above 89 Mpx, or of floating-point pixels.
    """
    data = source if isinstance(source, bytes) else read_photo(source)
    with _reasons(source, data), opened(data) as image:
        _require_fewer(image.size, MAX_PIXELS)
        turn = None if image.format == "TIFF" else _TURNS.get(orientation(image))
        rawmode = _rawmode(image)
        image.draft("RGB", (2 * size, 2 * size))
        image.load()
        rgb = _to_rgb(rescaled(image, rawmode, data))
        return _to_square(rgb if turn is None else rgb.transpose(turn), size, fit)


def photo_size(source: Path | bytes, limits: Mapping[str, int] | None = None) -> tuple[int, int]:
    """(width, height) in pixels of the upright photo, from its header. `limits`: most pixels by format; "" for all others.

    Raises PhotoError. The pixels are not decoded, so they may still be damaged.
    """
    data = source if isinstance(source, bytes) else read_photo(source)
    with _reasons(source, data), opened(data) as image:
        limits = limits or {"": MAX_PIXELS}
        _require_fewer(image.size, limits.get(image.format or "", limits[""]))
        return upright_size(image)


@contextmanager
def _reasons(source: Path | bytes, data: bytes) -> Iterator[None]:
    """Raise whatever goes wrong with the photo as PhotoError."""
    try:
        if not data:
            raise BadPhoto("empty")
        yield
    except BadPhoto as error:
        raise PhotoError(source, str(error)) from None
    except Exception as error:  # Pillow's plugins raise dozens of types on broken files
        raise PhotoError(source, fault(error)) from None


def _require_fewer(size: tuple[int, int], most: int) -> None:
    if size[0] * size[1] > most:
        raise BadPhoto(f"too large ({size[0]} x {size[1]}; {most / 1e6:.0f} Mpx at most); shrink it")


def read_photo(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a photo file. Raises PhotoError where it is missing, too large, unreadable, or no regular file."""
    photo_stat(path, max_bytes)
    try:
        return path.read_bytes()
    except OSError as error:
        raise PhotoError(path, fault(error)) from None


def photos_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """(photos, other files) directly in a folder, by name. A photo is told by its content or its ending; hidden files are neither.

    Raw files of cameras, which begin as a TIFF does and hold a small picture first, are other files.
    """
    photos, others = [], []
    for path in sorted(folder.iterdir()):
        ending = path.suffix.lower()
        if path.name.startswith(".") or (path.is_dir() and ending not in ENDINGS):
            continue
        kind = _kind_of_file(path)
        if ending in ENDINGS or kind not in ("", "TIFF") or (kind == "TIFF" and not ending):
            photos.append(path)
        else:
            others.append(path)
    return photos, others


def _kind_of_file(path: Path) -> str:
    try:
        if path.is_file():  # opening a pipe would hang
            with path.open("rb") as file:
                return kind_of(file.read(HEAD))
    except OSError:
        pass
    return ""


def photo_stat(path: Path, max_bytes: int = MAX_BYTES) -> os.stat_result:
    """Size and times of a photo file. Raises PhotoError as `read_photo` does: opening a pipe would hang."""
    try:
        about = path.stat()
    except OSError as error:
        broken = isinstance(error, FileNotFoundError) and path.is_symlink()
        raise PhotoError(path, "a link that leads nowhere" if broken else fault(error)) from None
    if not stat.S_ISREG(about.st_mode):
        raise PhotoError(path, "a folder, not a photo" if stat.S_ISDIR(about.st_mode) else "not a regular file")
    if about.st_size > max_bytes:
        raise PhotoError(path, f"too large a file ({about.st_size / 1e6:.0f} MB; {max_bytes / 1e6:.0f} MB at most)")
    return about


def fault(error: Exception) -> str:
    """What is wrong with a photo, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror})"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"too large ({MAX_PIXELS / 1e6:.0f} Mpx at most); shrink it"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, UnidentifiedImageError):
        return f"not a {NAMES} image"
    text = str(error).lower()
    if any(word in text for word in ("truncated", "data stream", "not enough image data", "end of file")):
        return "truncated"
    return f"damaged ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:80]})"


def refuse(
    faults: Sequence[tuple[Path, str]], total: int, report: Path, remedy: str = "replace them, or drop their rows"
) -> None:
    """Raise one UserError for all `faults` (photo, reason), if any. It names 20; with more, the file `report` lists all."""
    if not faults:
        return
    named = "; ".join(f"{path.parent.name}/{path.name}: {reason}" for path, reason in faults[:_NAMED])
    if len(faults) > _NAMED:
        named += f"; and {len(faults) - _NAMED} more"
        with suppress(OSError):
            write_text(report, "".join(f"{printable(str(path))}\t{reason}\n" for path, reason in faults))
            named += f", listed in {report}"
    # Kaggle refuses a submission that lacks a row, so a test photo's row must stay.
    if any(path.parent.name == "test" for path, _ in faults):
        remedy = remedy.replace(", or drop their rows", "")
    raise UserError(f"{len(faults)} of {total} photos cannot be used ({named}); {remedy}")


def thread_count() -> int:
    """Threads for decoding: the processors this process may use, 16 at most."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, usable))


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Generator[Result, None, None]:
    """`map` over a thread pool, in the order of `items`, with at most 4 pending results per thread.

    Closing the generator stops the work and closes `items`.
    """
    source, pending = iter(items), deque[Future[Result]]()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in source:
                pending.append(pool.submit(function, item))
                if len(pending) >= 4 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            if close := getattr(source, "close", None):
                close()


def prefetch(items: Iterable[Item], ahead: int) -> Generator[Item, None, None]:
    """`items`, of which a thread prepares up to `ahead` in advance."""
    source, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        pending = deque(pool.submit(next, source, end) for _ in range(ahead))
        try:
            while (item := pending.popleft().result()) is not end:
                pending.append(pool.submit(next, source, end))
                yield cast("Item", item)
        finally:
            for future in pending:
                future.cancel()
            # Closed in the thread that ran it: only that thread can release a lock that a generator holds.
            if close := getattr(source, "close", None):
                pool.submit(close)


def _rawmode(image: Image.Image) -> str:
    """How Pillow unpacks the pixels of a PNG or TIFF that is not yet loaded; empty for others."""
    if image.format not in ("PNG", "TIFF") or not isinstance(image, ImageFile.ImageFile):
        return ""
    args = image.tile[0][3]
    return str(args[0] if isinstance(args, tuple) else args)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadPhoto("floating-point pixels have no known range; save it as 8-bit")
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise BadPhoto("32-bit grey; save it as 8-bit")
        return Image.fromarray(eight_bits(grey)).convert("RGB")
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
    if fit == "pad":
        return np.array(ImageOps.pad(image, (size, size), Image.Resampling.BICUBIC, color=(128, 128, 128)))
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC))
