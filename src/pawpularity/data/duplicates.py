"""Near-duplicate photos: which photos of a data set show the same picture, and so must share a fold.

Each photo is decoded once to 64 x 64 and kept as a signature: aHash, pHash, dHash and wHash of 256 bits each
(ImageHash, hash_size 16) and a 16 x 16 luminance thumbnail. Two photos are duplicates if

- their files are byte for byte the same, or
- at least `threshold` of the 1,024 bits are equal and their thumbnails correlate by at least 0.9.

Why 0.85: over 495,000 pairs of different real pictures (crops and mirror images of 100 contest photos) the share of
equal bits was 0.50 with sd 0.06 and never above 0.76, while 99 of 100 copies cropped by 2 % on each side, and all
copies that were re-encoded, rescaled, brightened by a third or turned by 1 degree, stayed above 0.85 (at 0.90: 87 of
100 crops). A picture without structure (thumbnail sd below 4 levels of 255) has hashes made of noise, so only identical
files are its duplicates. Mirror images and crops of 5 % are not found; `is_copy` finds them, for one pair at a time.
"""

from collections.abc import Sequence
from pathlib import Path

import imagehash
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from pawpularity.data import DUPLICATES
from pawpularity.data.dataset import fingerprints
from pawpularity.data.photo_cache import CachedRows
from pawpularity.data.photos import DECODER, Pixels, decode
from pawpularity.files import text_hash

THRESHOLD = 0.85
CORRELATION = 0.9
FLAT_SD = 4.0

_HASH_SIZE = 16
_DECODED = 64  # pixels that pHash and wHash work on
_LARGER = 160  # pixels to crop from
_BITS = 4 * _HASH_SIZE**2
_BYTES = _BITS // 8
_THUMB = 16
_TILE = 2048  # photos compared at a time: two tiles of bits and their products take 32 MB

Signatures = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def duplicate_groups(paths: Sequence[Path], *, threshold: float = THRESHOLD, cache_folder: Path) -> Integers:
    """Groups of near-duplicates among photos: int64 (n,), numbered by first appearance from 0.

    Signatures are kept in `cache_folder/duplicates/`, so another threshold costs seconds. Raises UserError for photos
    that cannot be decoded.
    """
    prints = fingerprints(paths, cache_folder)
    file = cache_folder / "duplicates" / f"{text_hash(*prints)}-{text_hash(DUPLICATES, DECODER)}.npy"
    rows = CachedRows(file, paths, signature, (_BYTES + _THUMB**2,), "looking for duplicates").open()
    # Of identical files, only the first is compared with others.
    first: dict[str, int] = {}
    firsts = np.array([first.setdefault(value, i) for i, value in enumerate(prints)])
    distinct = np.unique(firsts)
    a, b = similar_pairs(np.asarray(rows[distinct]), threshold)
    left, right = np.concatenate([distinct[a], firsts]), np.concatenate([distinct[b], np.arange(len(prints))])
    return components(len(prints), left, right)


def signature(path: Path) -> Signatures:
    """The photo's 1,024 hash bits (a, p, d, w; packed, 128 bytes) and its luminance thumbnail (256 bytes), uint8."""
    return _signature(decode(path, _DECODED, "squash"))


def is_copy(one: Path, other: Path, threshold: float = THRESHOLD) -> bool:
    """Whether two photos show the same picture, even if one is mirrored or cropped to 90 %, by the rule above.

    It decodes both photos, some 10 ms a pair, so use it for suspected pairs only.
    """
    first, second = _variants(one, mirrored=True), _variants(other, mirrored=False)
    a, b = similar_pairs(np.stack([*first, *second]), threshold)
    return bool(((a < len(first)) & (b >= len(first))).any())


def similar_pairs(signatures: Signatures, threshold: float) -> tuple[Integers, Integers]:
    """All pairs a < b that are duplicates by their signatures.

    Every pair is compared: of two photos with bits of +-1, the product is (equal - unequal) bits, exact in float32,
    and the matrix product is faster than counting bits. Memory does not grow with the number of photos.
    """
    thumbs = signatures[:, _BYTES:]
    structured = thumbs.std(axis=1) >= FLAT_SD
    lowest = _BITS * (2 * threshold - 1) - 1e-6
    found = [np.empty((2, 0), dtype=np.int64)]
    for i in range(0, len(signatures), _TILE):
        these = _signs(signatures[i : i + _TILE])
        for j in range(i, len(signatures), _TILE):
            a, b = np.nonzero(these @ _signs(signatures[j : j + _TILE]).T >= lowest)
            a, b = a + i, b + j
            found.append(np.stack([a, b])[:, (a < b) & structured[a] & structured[b]])
    left, right = np.concatenate(found, axis=1)
    alike = _correlations(thumbs, left, right) >= CORRELATION
    return left[alike], right[alike]


def components(n: int, left: Integers, right: Integers) -> Integers:
    """Connected components of `n` things joined by pairs (left, right): int64 (n,), numbered by first appearance."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(left)), (left, right)), shape=(n, n))
    return numbered(connected_components(graph, directed=False)[1].tolist())


def numbered(labels: Sequence[int]) -> Integers:
    """The labels renamed 0, 1, 2 ... by first appearance."""
    return pd.factorize(np.asarray(labels, dtype=np.int64))[0].astype(np.int64)


def _signature(pixels: Pixels) -> Signatures:
    grey = Image.fromarray(pixels).convert("L")
    hashes = (
        imagehash.average_hash(grey, _HASH_SIZE),
        imagehash.phash(grey, _HASH_SIZE),
        imagehash.dhash(grey, _HASH_SIZE),
        imagehash.whash(grey, _HASH_SIZE, image_scale=_DECODED),
    )
    bits = np.concatenate([np.asarray(one.hash, dtype=bool).ravel() for one in hashes])
    thumb = np.asarray(grey.resize((_THUMB, _THUMB), Image.Resampling.BOX))
    return np.concatenate([np.packbits(bits), thumb.ravel()])


def _variants(path: Path, *, mirrored: bool) -> list[Signatures]:
    """Signatures of the photo, its 90 % crop and, `mirrored`, the mirror images of both."""
    picture, edge = Image.fromarray(decode(path, _LARGER, "squash")), _LARGER // 20
    crop = picture.crop((edge, edge, _LARGER - edge, _LARGER - edge))
    pixels = [np.asarray(p.resize((_DECODED, _DECODED), Image.Resampling.BOX)) for p in (picture, crop)]
    if mirrored:
        pixels += [np.ascontiguousarray(p[:, ::-1]) for p in pixels]
    return [_signature(p) for p in pixels]


def _signs(signatures: Signatures) -> npt.NDArray[np.float32]:
    return np.unpackbits(signatures[:, :_BYTES], axis=1).astype(np.float32) * 2 - 1


def _correlations(thumbs: Signatures, a: Integers, b: Integers) -> Floats:
    out = np.empty(len(a), dtype=np.float64)
    for start in range(0, len(a), _TILE):
        part = slice(start, start + _TILE)
        x, y = thumbs[a[part]].astype(np.float64), thumbs[b[part]].astype(np.float64)
        x -= x.mean(axis=1, keepdims=True)
        y -= y.mean(axis=1, keepdims=True)
        out[part] = (x * y).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return out
