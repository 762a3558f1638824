"""Where the subject of a photo is, and how far it stands out from its background: the contrast, in levels of luma.

It detects no pets. It relies on colour, and on pets being in the middle of most photos:

1. cut off a plain frame (collage programs, screenshots);
2. guess each pixel's chance to be subject by naive Bayes of its colour (histograms of subject and background in CIELAB)
   and its place (most often around the middle), four times over, smoothed along edges by a guided filter;
3. run GrabCut (Rother et al. 2004, OpenCV's) from that guess, with the very middle fixed as subject and the rim as background;
4. remove specks and fill holes.

The contrast is |mean luma of the subject - mean luma of the background|. Where the two look alike, a mask by colour
overstates it. `docs/log.md` says how good the masks are. A mask below 5 % of the photo (the fixed middle is 4 %) or above
90 % is a failure: such a photo has no measured contrast.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pawpularity.data.dataset import Dataset
from pawpularity.data.photo_cache import CachedRows
from pawpularity.data.photos import DECODER, Pixels, decode
from pawpularity.files import text_hash

RULE = "bayes-grabcut-160-1"  # version of the rule, in the cache's name
SIZE = 160  # pixels a side; GrabCut's time grows with their number
LEAST, MOST = 0.05, 0.90  # shares of the photo outside which a mask is a failure
OUTSIDE, BACKGROUND, SUBJECT = range(3)

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_SMALL = 80  # pixels a side of the first guess
_BINS = 12  # of each channel of CIELAB
_MIDDLE = (0.50, 0.55)  # x, y: subjects sit a little below the middle
_SPREAD = (0.27, 0.36)  # sd of the place, shares of width and height
_ROUNDS = 4
_STEP = 3  # most levels, stretched, between neighbours in a smooth background
_COARSER = 4  # the soft edges of a blurred photo are steps at this fraction of its size
_MARGIN = 0.05  # of the subject's box, share of the side

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Contrasts:
    """Measured contrasts, aligned with the data's table."""

    levels: Floats
    """(n,) levels of luma, 0..255; NaN where the mask failed"""
    share: Floats
    """(n,) the subject's share of the photo"""

    @property
    def failed(self) -> int:
        """Photos without a measured contrast."""
        return int(np.isnan(self.levels).sum())


def measure(dataset: Dataset) -> Contrasts:
    """The contrast of every photo of the training table, cached in the cache folder's `photos/`.

    Raises UserError where the data have no photos, or listing those that cannot be decoded.
    """

    def row(path: Path) -> Pixels:
        photo = decode(path, SIZE, "squash")
        found = subject_map(photo)
        return np.array([contrast(photo, found), share(found)], dtype="<f8").view(np.uint8)

    file = dataset.cache_folder / "photos" / f"{dataset.photo_key}-contrast-{text_hash(RULE, DECODER)}.npy"
    rows = CachedRows(file, dataset.paths, row, (16,), "measuring contrast")
    values = np.ascontiguousarray(rows.open()).view("<f8")
    return Contrasts(levels=values[:, 0].copy(), share=values[:, 1].copy())


def contrast(photo: Pixels, found: NDArray[np.uint8]) -> float:
    """Levels of luma between subject and background of `photo` (s, s, 3) by its `subject_map`; NaN where that failed."""
    if not LEAST <= share(found) <= MOST:
        return float("nan")
    luma = photo @ _LUMA
    return float(abs(luma[found == SUBJECT].mean() - luma[found == BACKGROUND].mean()))


def share(found: NDArray[np.uint8]) -> float:
    """The subject's share of the photo inside its frame."""
    inside = int((found != OUTSIDE).sum())
    return float((found == SUBJECT).sum() / inside) if inside else 0.0


def subject_map(photo: Pixels) -> NDArray[np.uint8]:
    """OUTSIDE (a plain frame), BACKGROUND or SUBJECT for every pixel of `photo` (s, s, 3) RGB: (s, s)."""
    size = len(photo)
    top, bottom, left, right = _frame(photo)
    inside = photo[top : size - bottom, left : size - right]
    height, width = inside.shape[:2]
    mask = _subject(cv2.resize(inside, (size, size)) if top + bottom + left + right else inside)
    out = np.full((size, size), OUTSIDE, dtype=np.uint8)
    shape = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    out[top : size - bottom, left : size - right] = np.where(shape > 0, SUBJECT, BACKGROUND)
    return out


def subject_box(photo: Pixels) -> tuple[float, float, float, float]:
    """left, top, right, bottom, as shares of `photo` (s, s, 3): the box of all but sure background, with a margin.

    Sure is what smooth colour joins to the rim, at two sizes, and the mask leaves out. The mask's own box loses a part of the pet
    on every third of 200 drawn photos; this one, on none of 150. Most backgrounds are too busy to be sure of: then it is the whole
    photo.
    """
    size = len(photo)
    small = cv2.resize(photo, (size // _COARSER, size // _COARSER), interpolation=cv2.INTER_AREA)  # blur is steep there
    sure = _joined_to_rim(photo) & cv2.resize(_joined_to_rim(small), (size, size), interpolation=cv2.INTER_NEAREST)
    found = (sure == 0) | (subject_map(photo) == SUBJECT)
    down, across = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    if not len(down):
        return 0.0, 0.0, 1.0, 1.0
    left, top = (max(float(places[0]) / size - _MARGIN, 0.0) for places in (across, down))
    right, bottom = (min(float(places[-1] + 1) / size + _MARGIN, 1.0) for places in (across, down))
    return left, top, right, bottom


def _joined_to_rim(photo: Pixels) -> NDArray[np.uint8]:
    """1 where steps of few levels lead from the rim of `photo` (s, s, 3) to a pixel, else 0: (s, s)."""
    size = len(photo)
    soft, joined = _stretched(cv2.GaussianBlur(photo, (0, 0), 1.0)), np.zeros((size + 2, size + 2), dtype=np.uint8)
    for x, y in np.argwhere(np.pad(np.zeros((size - 2, size - 2)), 1, constant_values=1)).tolist():
        if not joined[y + 1, x + 1]:
            cv2.floodFill(soft, joined, (x, y), 0, (_STEP,) * 3, (_STEP,) * 3, 4 | cv2.FLOODFILL_MASK_ONLY | (1 << 8))
    return joined[1:-1, 1:-1].copy()


def _stretched(photo: Pixels) -> NDArray[np.float32]:
    """`photo` with the steps in its shadows and lights, and those of a dull photo, made as large as those of middle levels.

    A black cat before a black sofa is a step of few levels.
    """
    level = photo.astype(np.float32)
    logit = 64.0 * np.log((level + 3.0) / (258.0 - level))  # slope 1 in the middle
    low, high = np.percentile(logit, [1, 99])
    return np.asarray(logit * max(1.0, 255.0 / max(high - low, 1.0)), dtype=np.float32)


def _subject(photo: Pixels) -> Mask:
    size = len(photo)
    guess = cv2.resize(_guess(photo), (size, size))
    marks = np.where(guess > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    marks[_distance(size, 0.10, 0.12) <= 1.0] = cv2.GC_FGD
    marks[:2] = marks[:, :2] = marks[:, -2:] = cv2.GC_BGD  # not the lower rim: many pets leave the photo there
    cv2.setRNGSeed(0)  # of this thread: GrabCut starts its colour models by k-means
    cv2.grabCut(np.ascontiguousarray(photo[..., ::-1]), marks, None, np.zeros((1, 65)), np.zeros((1, 65)), 1,
                cv2.GC_INIT_WITH_MASK)  # fmt: skip
    return _tidy((marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD))


def _guess(photo: Pixels) -> Floats:
    """Each pixel's chance to be subject, (_SMALL, _SMALL)."""
    small = cv2.resize(photo, (_SMALL, _SMALL), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB).astype(np.float64)
    scaled = np.clip((lab + np.array([0.0, 60.0, 60.0])) / np.array([100.0, 120.0, 120.0]), 0.0, 0.999)
    bins = np.ravel_multi_index(tuple((scaled * _BINS).astype(int).transpose(2, 0, 1)), (_BINS,) * 3)
    place = 0.03 + 0.9 * np.exp(-0.5 * _distance(_SMALL, *_SPREAD))
    logit = 0.7 * np.log(place / (1.0 - place))  # the place counts for less than the colour
    chance = place
    for _ in range(_ROUNDS):
        log_odds = np.log(_colours(bins, chance) / _colours(bins, 1.0 - chance))[bins] + logit
        chance = 1.0 / (1.0 + np.exp(-_along_edges(log_odds, scaled[..., 0])))
    return chance


def _colours(bins: NDArray[np.int64], weight: Floats) -> Floats:
    """How likely each colour is, (_BINS ** 3,), smoothed over similar colours."""
    counts = np.bincount(bins.ravel(), weight.ravel(), _BINS**3).reshape((_BINS,) * 3)
    smooth = ndimage.gaussian_filter(counts, 1.0, mode="constant").ravel()
    found: Floats = smooth / smooth.sum() + 1e-5
    return found


def _along_edges(values: Floats, guide: Floats) -> Floats:
    """`values` smoothed, but not across edges of `guide` (He et al. 2010, the guided filter)."""

    def mean(a: Floats) -> Floats:
        blurred: Floats = cv2.blur(a, (7, 7), borderType=cv2.BORDER_REFLECT)
        return blurred

    of_guide, of_values = mean(guide), mean(values)
    slope = (mean(guide * values) - of_guide * of_values) / (mean(guide * guide) - of_guide**2 + 0.005)
    return mean(slope) * guide + mean(of_values - slope * of_guide)


def _distance(size: int, spread_x: float, spread_y: float) -> Floats:
    """Squared distance of every pixel from the usual place of a subject, in spreads: (size, size)."""
    y, x = np.mgrid[0:size, 0:size] / (size - 1.0)
    squared: Floats = ((x - _MIDDLE[0]) / spread_x) ** 2 + ((y - _MIDDLE[1]) / spread_y) ** 2
    return squared


def _tidy(mask: Mask) -> Mask:
    """The mask without pieces below a fifth of the largest one, and without holes below 2 % of the photo."""
    pieces, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(pieces.ravel())[1:]
    kept = np.isin(pieces, 1 + np.flatnonzero(sizes >= 0.2 * sizes.max()))
    gaps, _ = ndimage.label(~kept)
    small = np.bincount(gaps.ravel()) < 0.02 * mask.size
    small[np.unique(np.concatenate([gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]]))] = False
    small[0] = False  # the mask itself
    filled: Mask = kept | small[gaps]
    return filled


def _frame(photo: Pixels) -> tuple[int, int, int, int]:
    """Depth of a plain frame at the top, bottom, left and right, in pixels. A frame has two opposite sides."""
    across = photo.transpose(1, 0, 2)
    top, bottom, left, right = (_frame_depth(lines) for lines in (photo, photo[::-1], across, across[::-1]))
    rows = (top, bottom) if min(top, bottom) >= 3 else (0, 0)
    return (*rows, left, right) if min(left, right) >= 3 else (*rows, 0, 0)


def _frame_depth(lines: Pixels) -> int:
    """How many of the first lines share one colour, up to 4 levels of JPEG noise; 0 unless an edge follows them.

    After a frame comes a line that differs from it over most of its length. After a plain wall none does: it is background.
    """
    colour = lines[0].mean(axis=0)
    for depth, line in enumerate(lines[: len(lines) * 3 // 10]):
        if line.std(axis=0).mean() >= 4.0 or np.abs(line - colour).mean() >= 4.0:
            # The resize blends the edge over a line or two, so compare the line after those.
            beyond = np.abs(lines[depth + 2] - colour).mean(axis=1)
            return depth if (beyond > 8.0).mean() > 0.5 else 0
    return 0
