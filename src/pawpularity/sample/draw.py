"""`pawpularity sample`: draw photos of cats and dogs whose scores follow a known rule, in the contest's layout.

    pawpularity sample --photos 600 --size 160 --seed 0 --pairs 5

Besides the contest's tables and photos it writes `truth/`: the points of every part of every photo, a label map of where the
parts are, the noise floor, and which photos are the same pet posted twice. `pairs/` holds counterfactual pairs: the same pet
with and without one part. `spec` has the rule of the score.

The same options give the same bytes for any number of processes, and photo i is the same in a sample of any size.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import pandas as pd

from pawpularity.console import log, next_step, track
from pawpularity.data.tables import ID, TARGET
from pawpularity.errors import UserError
from pawpularity.files import atomic_folder, require_space, write_json, write_text
from pawpularity.sample import SAMPLE, spec
from pawpularity.sample.labels import LABELS
from pawpularity.sample.render import Picture, render, repost
from pawpularity.sample.spec import PARTS, TEST, Photo
from pawpularity.sample.truth import FLOOR_DRAWS, Entry, floor, plan, truth_row

PER_PROCESS = 200
"""With so many more photos, another process saves time."""
Work = TypeVar("Work")
Result = TypeVar("Result")


class Job(NamedTuple):
    """One picture to draw. `again`: the seed of the random numbers of a second posting."""

    photo: Photo
    size: int
    picture: Path
    labels: Path
    again: tuple[int, ...] | None = None


def sample(*, photos: int, test_photos: int, size: int, seed: int, pairs: int, into: str) -> None:
    """`pawpularity sample`: draw a sample into a new folder."""
    folder = Path(into)
    draw_sample(folder, photos=photos, test_photos=test_photos, size=size, seed=seed, pairs=pairs)
    log(f"drew    {photos} photos into {into}; {folder / 'truth' / 'README.md'} explains their scores")
    if pairs:
        next_step("make known-truth", PAIRS=into)
    else:
        next_step("make train FOLD=0", DATA=into if folder != SAMPLE else None)


def draw_sample(
    folder: Path, *, photos: int = 600, test_photos: int = 8, size: int = 160, seed: int = 0, pairs: int = 0
) -> None:
    """Draw a sample into `folder`, which must be empty or not exist.

    `size` is the longer side in pixels, `pairs` the number of counterfactual pairs per part. Raises UserError if the folder is
    not empty or the disk is full.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is not empty; delete it, or choose another folder with --into")
    pictures = photos + test_photos + 2 * len(PARTS) * pairs
    require_space(folder, pictures * (9000 + size * size // 3), "the sample", ", or choose another folder with --into")
    with atomic_folder(folder) as whole:
        for name in ("train", "test", "truth/labels", *(["pairs/photos", "pairs/labels"] if pairs else [])):
            (whole / name).mkdir(parents=True)
        jobs = _write_tables(whole, plan(photos, seed), plan(test_photos, seed, TEST), size, seed)
        jobs += _write_pairs(whole / "pairs", pairs, size, seed) if pairs else []
        for _ in in_processes(_draw, jobs):
            pass


def in_processes(function: Callable[[Work], Result], work: Sequence[Work]) -> Iterator[Result]:
    """Yield `function` of each item of `work`, in order, with a progress bar. Much work is spread over processes.

    Processes, not threads: drawing is many small calls, which threads slow down. They are spawned, so a script that calls this
    needs the usual `if __name__ == "__main__"` guard.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, 1 + len(work) // PER_PROCESS)
    if workers == 1:
        yield from track(map(function, work), "drawing", total=len(work))
        return
    with get_context("spawn").Pool(workers, _start_worker) as pool:
        yield from track(pool.imap(function, work, chunksize=16), "drawing", total=len(work))


def _start_worker() -> None:
    cv2.setNumThreads(1)  # OpenCV's own threads would fight those of the other processes
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one


def _draw(job: Job) -> None:
    picture, labels = render(job.photo, job.size)
    quality = 90
    if job.again is not None:
        draws = np.random.default_rng(job.again).random(7)
        picture, labels = repost(picture, labels, draws)
        quality = 72 + int(14 * draws[6])
    _write(job.picture, picture[..., ::-1], cv2.IMWRITE_JPEG_QUALITY, quality)
    _write(job.labels, labels, cv2.IMWRITE_PNG_COMPRESSION, 6)


def _write(path: Path, picture: Picture, option: int, value: int) -> None:
    # Not cv2.imwrite: it reports a full disk only by its return value.
    done, data = cv2.imencode(path.suffix, np.ascontiguousarray(picture), [option, value])
    if not done:
        raise RuntimeError(f"{path.name} could not be encoded")
    path.write_bytes(data.tobytes())


def _write_tables(whole: Path, train: list[Entry], test: list[Entry], size: int, seed: int) -> list[Job]:
    """Write the contest's tables and truth/, rows sorted by Id. Returns the pictures to draw."""
    train, test = (sorted(entries, key=lambda entry: entry.id) for entries in (train, test))
    scores = pd.Series([entry.score for entry in train])
    _public(train).assign(**{TARGET: scores}).to_csv(whole / "train.csv", index=False)
    _public(test).to_csv(whole / "test.csv", index=False)
    _public(test)[[ID]].assign(**{TARGET: 38.0}).to_csv(whole / "sample_submission.csv", index=False)
    truth = whole / "truth"
    pd.DataFrame([truth_row(entry) for entry in (*train, *test)]).to_csv(truth / "parts.csv", index=False)
    duplicates = [(entry.duplicate_of, entry.id) for entry in train if entry.duplicate_of]
    pd.DataFrame(duplicates, columns=["Id_a", "Id_b"]).to_csv(truth / "duplicates.csv", index=False)
    summary = floor(train, seed)
    write_json(truth / "floor.json", summary)
    write_text(truth / "README.md", readme(summary))
    jobs = []
    for folder, entries in ((whole / "train", train), (whole / "test", test)):
        for entry in entries:
            again = (seed, entry.split, spec.REPOST, entry.index) if entry.duplicate_of else None
            files = folder / f"{entry.id}.jpg", truth / "labels" / f"{entry.id}.png"
            jobs.append(Job(entry.photo, size, *files, again))
    return jobs


def _public(entries: list[Entry]) -> pd.DataFrame:
    """The columns that the contest shows: Ids and metadata."""
    return pd.DataFrame([{ID: entry.id, **entry.photo.metadata()} for entry in entries])


def _write_pairs(folder: Path, pairs: int, size: int, seed: int) -> list[Job]:
    """Write the table of counterfactual pairs. Returns the pictures to draw."""
    jobs, rows = [], []
    for part, pair in product(PARTS, range(pairs)):
        photos = spec.counterfactual_pair(seed, part, pair)
        ids = [spec.photo_id(seed, "twins", part, pair, side) for side in range(2)]  # "twins" keeps the published Ids
        mean = np.array([photo.mean_unclipped() for photo in photos])
        effects = [f"{points[0] - points[1]:.4f}" for points in (mean, spec.expected_score(mean))]
        rows.append([*ids, part, *effects])
        for name, photo in zip(ids, photos, strict=True):
            jobs.append(Job(photo, size, folder / "photos" / f"{name}.jpg", folder / "labels" / f"{name}.png"))
    columns = ["Id_with", "Id_without", "part", "effect", "effect_expected"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "pairs.csv", index=False)
    return jobs


def readme(summary: dict[str, float | int]) -> str:
    """truth/README.md: the rule and the label maps' numbers, from the constants that the drawing uses."""
    numbers = "\n".join(f"| {number} | {meaning} |" for number, meaning in LABELS.items())
    levels = f"{spec.FAINTEST:g} + {spec.CONTRAST_SPAN:g} c"
    saturation = f"{spec.DULLEST:g} + {spec.VIVID - spec.DULLEST:g} sqrt c"
    return f"""# The truth about these photos

A program drew these pets. Their scores follow this rule:

| part | points |
|---|---|
| base | {spec.BASE:g} |
| tongue | {spec.TONGUE:+g} if it is out |
| eyes | {spec.EYES:+g} if both are visible (one or none: 0) |
| contrast | {spec.CONTRAST:+g} c, with c from 0 to 1: pet and background differ by {levels} levels of luma |
| clutter | {spec.CLUTTER:+g} per object, 0 to 4 of them |
| pose | {spec.POSE:+g} if it is odd (leaping, on its side, on its back) |
| pets | {spec.PETS:+g} if there is a second one |
| accessory | 0 |

The contrast is between the usual luma of a pet of this coat and the mean luma of the background. The background also
grows more vivid with c: its saturation is scaled by {saturation}.

The points add up to `mean_unclipped`. Normal noise of sd {spec.NOISE_SD:g} is added. {spec.SPIKE:g} and above becomes 100;
the rest is rounded and clipped to 1..99. `expected` is the exact mean of the score, given the photo.

No model can be expected to beat the noise floor: RMSE {summary["floor"]:.3f} on the photos of train.csv, where a constant
gives {summary["constant_rmse"]:.3f}. `floor.json` has both; its `floor` averages {FLOOR_DRAWS} draws of the noise per photo.

- `parts.csv`: what was drawn on each photo, the points of each part, `mean_unclipped`, `expected`, the `score` (of test
  photos too), and `duplicate_of`, the Id of the earlier posting of the same photo.
- `duplicates.csv`: these duplicates as pairs. A second posting is compressed again, slightly smaller, cropped, and brighter
  or darker. Its score has its own noise.
- `labels/ID.png`: where the parts are, at the photo's size:

| number | part |
|---|---|
{numbers}

`../pairs/`, if it exists, holds counterfactual pairs: the same pet with and without one part. In `pairs.csv`,
`effect` is the exact difference of `mean_unclipped`, `effect_expected` that of `expected`.
"""
