"""Near-duplicate photos: which photos of a data set show the same picture, and so must share a fold.

Each photo is decoded once to 64 x 64 and kept as a signature: aHash, pHash, dHash and wHash of 256 bits each
(ImageHash, hash_size 16) and a 16 x 16 luminance thumbnail. Two photos are duplicates if

- their files are byte for byte the same, or
- at least `threshold` of the 1,024 bits are equal and their thumbnails correlate by at least 0.9, and
- so do 0.78 of the bits of what lies inside, if they share a border: the bars of a screen, a frame, a printed card.

Why 0.85: over 495,000 pairs of different real pictures (crops and mirror images of 100 contest photos) the share of
equal bits was 0.50 with sd 0.06 and never above 0.76, while 99 of 100 copies cropped by 2 % on each side, and all
copies that were re-encoded, rescaled, brightened by a third or turned by 1 degree, stayed above 0.85 (at 0.90: 87 of
100 crops). A picture without structure (thumbnail sd below 4 levels of 255) has hashes made of noise, so only identical
files are its duplicates. Without the third line, 46 of 100 different pets, each inside the same phone's screen, were one
group. Over ten such layouts at most 0.73 of the bits inside are equal for different pets, and at least 0.8 for copies.
Mirror images and crops of 5 % are not found; `is_copy` finds them, for one pair at a time.
"""

from collections.abc import Sequence
from functools import lru_cache
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
INSIDE = 0.78
"""Least share of equal bits of the insides of two pictures that share a border."""

_HASH_SIZE = 16
_DECODED = 64  # pixels that pHash and wHash work on
_LARGER = 160  # pixels to crop from, a multiple of _THUMB
_BITS = 4 * _HASH_SIZE**2
_BYTES = _BITS // 8
_THUMB = 16
_EQUAL = 2  # levels by which cells of a shared border may differ
_DIFFERING = 1 / 3  # least share of differing cells in a row or column of the inside: a clock in a bar is less
_SMALLEST, _LARGEST = 0.15, 0.9  # share of the picture: a smaller inside is a caption, around a larger one is no border
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
    known = np.asarray(rows[distinct])
    a, b = similar_pairs(known, threshold)
    thumbs = known[:, _BYTES:].reshape(-1, _THUMB, _THUMB)

    @lru_cache(maxsize=256)
    def larger(i: int) -> Pixels:
        return decode(paths[distinct[i]], _LARGER, "squash")

    same = [
        all(_same_inside(larger(i), larger(j), box) for box in _insides(thumbs[i], thumbs[j]))
        for i, j in zip(a.tolist(), b.tolist(), strict=True)
    ]
    a, b = a[same], b[same]
    left, right = np.concatenate([distinct[a], firsts]), np.concatenate([distinct[b], np.arange(len(prints))])
    return components(len(prints), left, right)


def signature(path: Path) -> Signatures:
    """The photo's 1,024 hash bits (a, p, d, w; packed, 128 bytes) and its luminance thumbnail (256 bytes), uint8."""
    return _signature(decode(path, _DECODED, "squash"))


def is_copy(one: Path, other: Path, threshold: float = THRESHOLD) -> bool:
    """Whether two photos show the same picture, even if one is mirrored or cropped to 90 %, by the rule above.

    It decodes both photos, some 10 ms a pair, so use it for suspected pairs only.
    """
    pictures = [decode(path, _LARGER, "squash") for path in (one, other)]
    thumbs = [_signature(_resized(picture, _DECODED))[_BYTES:].reshape(_THUMB, _THUMB) for picture in pictures]
    for box in sorted(_insides(thumbs[0], thumbs[1]))[:1]:
        pictures = [_resized(_cut(picture, box), _LARGER) for picture in pictures]
    first, second = _variants(pictures[0], mirrored=True), _variants(pictures[1], mirrored=False)
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


Box = tuple[int, int, int, int]
"""top, bottom, left, right, in cells of a thumbnail"""


def _insides(one: Pixels, other: Pixels) -> set[Box]:
    """The parts in which two thumbnails that share a border differ: by rows first, and by columns first; none without a border.

    Either may miss narrow pictures, or take in a clock in a bar.
    """
    differs = np.abs(one.astype(np.int16) - other) > _EQUAL
    by_rows, by_columns = _differing(differs), _differing(differs.T)
    found = {by_rows, by_columns and (*by_columns[2:], *by_columns[:2])} - {None}
    return {box for box in found if box and _SMALLEST <= (box[1] - box[0]) * (box[3] - box[2]) / _THUMB**2 <= _LARGEST}


def _differing(differs: npt.NDArray[np.bool_]) -> Box | None:
    """From the first to the last row in which many cells differ, and the same for the columns within these rows."""
    rows = np.flatnonzero(differs.mean(axis=1) >= _DIFFERING)
    if not rows.size:
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(differs[top:bottom].mean(axis=0) >= _DIFFERING)
    return (top, bottom, int(columns[0]), int(columns[-1]) + 1) if columns.size else None


def _cut(picture: Pixels, box: Box) -> Pixels:
    """The part of a picture (s, s, 3) within `box`."""
    top, bottom, left, right = (edge * len(picture) // _THUMB for edge in box)
    return picture[top:bottom, left:right]


def _same_inside(one: Pixels, other: Pixels, box: Box) -> bool:
    """Whether two pictures (s, s, 3) show the same within `box`, by their hashes."""
    first, second = (np.unpackbits(_signature(_resized(_cut(p, box), _DECODED))[:_BYTES]) for p in (one, other))
    return bool((first == second).mean() >= INSIDE)


def _variants(picture: Pixels, *, mirrored: bool) -> list[Signatures]:
    """Signatures of the picture, its 90 % crop and, `mirrored`, the mirror images of both."""
    edge = _LARGER // 20
    pixels = [_resized(part, _DECODED) for part in (picture, picture[edge:-edge, edge:-edge])]
    return [_signature(p) for p in pixels + [np.ascontiguousarray(p[:, ::-1]) for p in pixels] * mirrored]


def _resized(picture: Pixels, side: int) -> Pixels:
    how = Image.Resampling.BOX if min(picture.shape[:2]) >= side else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(picture).resize((side, side), how))


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
