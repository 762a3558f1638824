"""Near-duplicate photos: which photos of a data set show the same picture, so that no fold boundary runs between them.

Each photo is decoded once to 64 x 64 and kept as a signature: aHash, pHash, dHash and wHash of 256 bits each
(ImageHash, hash_size 16) and a 16 x 16 luminance thumbnail. Two photos are duplicates where

- their files are byte for byte the same, or
- at least `threshold` of the 1,024 bits are equal and their thumbnails correlate by at least 0.9.

Why 0.85: over 495,000 pairs of different real pictures (crops and mirror images of 100 contest photos) the share of
equal bits was 0.50 with sd 0.06 and never above 0.76, while 99 of 100 copies cropped by 2 % on each side, and all
copies that were re-encoded, rescaled, brightened by a third or turned by 1 degree, stayed above 0.85 (at 0.90: 87 of
100 crops). A picture without structure (thumbnail sd below 4 levels of 255) has hashes made of noise, so it is a
duplicate of identical files only. Mirror images and crops of 5 % are not found; `is_copy` finds them, pair by pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from pawpularity.data.dataset import fingerprints as fingerprints_of
from pawpularity.data.photo_cache import open_rows
from pawpularity.data.photos import DECODER, Pixels, decode
from pawpularity.errors import UserError
from pawpularity.files import text_hash

THRESHOLD = 0.85
CORRELATION = 0.9
FLAT_SD = 4.0
RULE = "apdw16-of-64-thumb16-1"  # in the names of caches and of folds files

_HASH_SIZE = 16
_LARGER = 160  # pixels to crop from
_DECODED = 64  # the pixels pHash and wHash work on
_BITS = 4 * _HASH_SIZE**2
_BYTES = _BITS // 8
_THUMB = 16
_TILE = 2048  # photos compared at a time: two tiles of bits and their products take 32 MB

Signatures = npt.NDArray[np.uint8]
Groups = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Duplicates:
    """`pairs`: Id_a, Id_b, similarity (share of equal bits), correlation (of thumbnails); one row per pair found.

    `groups`: int64 (n,), aligned with the Ids asked about: photos joined by pairs share a number, numbered by first
    appearance from 0. Of files that are byte for byte the same only the first is compared with others.
    """

    pairs: pd.DataFrame
    groups: Groups


def find_duplicates(
    ids: Sequence[str],
    paths: Sequence[Path],
    *,
    threshold: float = THRESHOLD,
    cache_folder: Path,
    fingerprints: Sequence[str] | None = None,
) -> Duplicates:
    """Find near-duplicates among the photos `paths` of `ids` (`fingerprints`: their content hashes, if known).

    Signatures are kept in `cache_folder/duplicates/`, so another threshold costs seconds. Raises UserError for a
    threshold outside 0.8 to 1 and for photos that cannot be decoded.
    """
    check_threshold(threshold)
    prints = list(fingerprints) if fingerprints is not None else fingerprints_of(paths, cache_folder)
    file = cache_folder / "duplicates" / f"{text_hash(*prints)}-{text_hash(RULE, DECODER)}.npy"
    rows = open_rows(paths, signature, shape=(_BYTES + _THUMB**2,), file=file, progress="looking for duplicates")
    first: dict[str, int] = {}
    firsts = np.array([first.setdefault(value, i) for i, value in enumerate(prints)])
    distinct = np.flatnonzero(firsts == np.arange(len(prints)))
    a, b, similarity, correlation = compare(np.asarray(rows[distinct]), threshold)
    copies = np.flatnonzero(firsts != np.arange(len(prints)))
    left = np.concatenate([distinct[a], firsts[copies]])
    right = np.concatenate([distinct[b], copies])
    names = np.array(ids, dtype=object)
    pairs = pd.DataFrame(
        {
            "Id_a": names[left],
            "Id_b": names[right],
            "similarity": np.concatenate([similarity, np.ones(len(copies))]),
            "correlation": np.concatenate([correlation, np.ones(len(copies))]),
        }
    )
    return Duplicates(pairs, components(len(prints), left, right))


def check_threshold(threshold: float) -> None:
    """Raise UserError for a threshold at which different pictures would be taken for one, or none for duplicates."""
    if not 0.8 <= threshold <= 1:
        raise UserError(f"folds.duplicate_threshold {threshold:g}: must be 0.8 to 1 (different pictures reach 0.76)")


def signature(path: Path) -> Signatures:
    """The photo's 1,024 hash bits (a, p, d, w; packed, 128 bytes) and its luminance thumbnail (256 bytes), uint8."""
    return _signature(decode(path, _DECODED, "squash"))


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


def is_copy(one: Path, other: Path, threshold: float = THRESHOLD) -> bool:
    """Whether two photos show the same picture, though one be mirrored or cropped to 90 %: by the rule above.

    For pairs that something else suspects: it decodes both, some 10 ms a pair.
    """
    first, second = _variants(one, mirrored=True), _variants(other, mirrored=False)
    a, b, _, _ = compare(np.stack([*first, *second]), threshold)
    return bool(((a < len(first)) & (b >= len(first))).any())


def _variants(path: Path, *, mirrored: bool) -> list[Signatures]:
    picture = Image.fromarray(decode(path, _LARGER, "squash"))
    edge = _LARGER // 20
    crop = picture.crop((edge, edge, _LARGER - edge, _LARGER - edge))
    pictures = [p.resize((_DECODED, _DECODED), Image.Resampling.BOX) for p in (picture, crop)]
    pixels = [np.asarray(p) for p in pictures]
    return [_signature(np.ascontiguousarray(p)) for p in [*pixels, *((q[:, ::-1] for q in pixels) if mirrored else ())]]


def compare(
    signatures: Signatures, threshold: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """All pairs a < b that are duplicates by their signatures: (a, b, share of equal bits, correlation), by (a, b).

    Every pair is looked at: of two photos with bits of +-1, the product is (equal - unequal) bits, exact in float32,
    and the matrix product is faster than counting bits. Memory does not grow with the number of photos.
    """
    n = len(signatures)
    thumbs = signatures[:, _BYTES:]
    structured = thumbs.std(axis=1) >= FLAT_SD
    lowest = np.float32(2 * threshold - 1) * _BITS - 0.5  # half a bit of slack for the rounding of the threshold
    found: list[npt.NDArray[np.int64]] = []
    shares: list[npt.NDArray[np.float64]] = []
    for i in range(0, n, _TILE):
        these = _signs(signatures[i : i + _TILE])
        for j in range(i, n, _TILE):
            products = these @ _signs(signatures[j : j + _TILE]).T
            a, b = np.nonzero(products >= lowest)
            keep = (a + i < b + j) & structured[a + i] & structured[b + j]
            a, b = a[keep], b[keep]
            found.append(np.stack([a + i, b + j]))
            shares.append((products[a, b].astype(np.float64) / _BITS + 1) / 2)
    pairs = np.concatenate(found, axis=1) if found else np.empty((2, 0), dtype=np.int64)
    share = np.concatenate(shares) if shares else np.empty(0)
    correlation = _correlations(thumbs, pairs[0], pairs[1])
    sure = np.flatnonzero((share >= threshold) & (correlation >= CORRELATION))
    order = sure[np.lexsort((pairs[1][sure], pairs[0][sure]))]
    return pairs[0][order], pairs[1][order], share[order], correlation[order]


def components(n: int, left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]) -> Groups:
    """Connected components of `n` things joined by pairs (left, right): int64 (n,), numbered by first appearance."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for one, other in zip(left.tolist(), right.tolist(), strict=True):
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return numbered([root(i) for i in range(n)])


def numbered(labels: Sequence[int]) -> Groups:
    """The labels renamed 0, 1, 2 ... by first appearance."""
    names: dict[int, int] = {}
    return np.array([names.setdefault(label, len(names)) for label in labels], dtype=np.int64)


def _signs(signatures: Signatures) -> npt.NDArray[np.float32]:
    return np.unpackbits(signatures[:, :_BYTES], axis=1).astype(np.float32) * 2 - 1


def _correlations(thumbs: Signatures, a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    out = np.empty(len(a), dtype=np.float64)
    for start in range(0, len(a), _TILE):
        part = slice(start, start + _TILE)
        x, y = thumbs[a[part]].astype(np.float64), thumbs[b[part]].astype(np.float64)
        x -= x.mean(axis=1, keepdims=True)
        y -= y.mean(axis=1, keepdims=True)
        out[part] = (x * y).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return out
