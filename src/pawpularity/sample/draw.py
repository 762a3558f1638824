"""The sample shelter: drawn photos of cats and dogs in the contest's layout, whose every score has a known answer.

    pawpularity sample --photos 600 --size 160 --seed 0 --twins 5

It stands in for the photos of Kaggle's "PetFinder.my Pawpularity": `draw_shelter` writes train.csv, train/, test.csv,
test/ and sample_submission.csv exactly as they are there, and beside them `truth/`: per photo the points of every part
and a label map of where the parts are, the noise floor no model can beat, and which photos are the same pet posted
twice. `twins/` holds pets drawn with and without one part.

The rule of the score (`spec` holds it, truth/README.md repeats it): base 19; tongue out +30; both eyes visible
+9; contrast c of pet and background +43 c (c from 0 to 1); -3.5 per object of clutter; odd pose -9; a second pet -9;
accessories 0. Normal noise of sd 10 is added; 79 and above becomes 100; the rest is rounded and clipped to 1..99.

The same (photos, size, seed) gives the same bytes whatever the number of workers, and photo i is the same photo in a
shelter of any number of photos.
"""

import csv
import io
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.pool import Pool
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pawpularity.errors import UserError
from pawpularity.files import require_space, write_json, write_text
from pawpularity.sample.render import render, repost
from pawpularity.sample.spec import METADATA, PARTS, REPOST, TEST, TRAIN, Photo, expected_score
from pawpularity.sample.spec import twins as twin_photos
from pawpularity.sample.truth import Entry, floor, photo_id, plan, readme, truth_row

MAX_PHOTOS, MIN_SIZE, MAX_SIZE = 100_000, 48, 1024


@dataclass(frozen=True, slots=True)
class _Job:
    """One picture to draw. `again`: address of the random numbers of a second posting, or None."""

    photo: Photo
    size: int
    picture: Path
    labels: Path
    again: tuple[int, int, int, int] | None = None


def draw_shelter(
    folder: Path,
    *,
    photos: int = 600,
    size: int = 160,
    seed: int = 0,
    twins: int = 0,
    test_photos: int = 8,
    workers: int | None = None,
    progress: bool | None = None,
) -> None:
    """Draw a sample shelter into `folder`, which must not exist or be empty; it appears whole or not at all.

    `size` is the longer side in pixels; `twins` the number of pairs per part; `workers` the number of processes (None:
    one per usable core, one for small shelters); `progress` whether to show a bar on stderr (None: if it is a terminal).
    With more than one worker, the calling script needs the usual `if __name__ == "__main__"` guard, since processes are
    spawned. Raises UserError for options out of range, a folder that holds something, or a full disk.
    """
    _check("photos", photos, 1, MAX_PHOTOS)
    _check("size", size, MIN_SIZE, MAX_SIZE)
    _check("seed", seed, 0, 2**63 - 1)
    _check("twins", twins, 0, 1000)
    _check("test-photos", test_photos, 1, MAX_PHOTOS)
    if workers is not None:
        _check("workers", workers, 1, 256)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; delete it or choose another folder for the sample shelter")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; delete it or choose another folder for the sample shelter")
    pictures = photos + test_photos + 2 * len(PARTS) * twins
    require_space(
        folder, pictures * (9000 + size * size // 3), "the sample shelter", ", or choose another place with --into"
    )
    with _alone(folder):
        _draw_whole(folder, photos=photos, size=size, seed=seed, twins=twins, test_photos=test_photos,
                    workers=workers, progress=progress)  # fmt: skip


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock beside `folder`. Raises UserError where another command is drawing there, or no file can be made."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder}: another command is drawing it; wait for its end, or choose another folder"
        ) from None
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}); choose another folder") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # before it is let go; who waits for it finds it deleted
        lock.release()


def _draw_whole(
    folder: Path, *, photos: int, size: int, seed: int, twins: int, test_photos: int, workers: int | None,
    progress: bool | None,
) -> None:  # fmt: skip
    try:
        whole = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}); choose another folder") from None
    try:
        # mkdtemp makes a folder of mode 700; give it the mode any other new folder would get.
        umask = os.umask(0)
        os.umask(umask)
        whole.chmod(0o777 & ~umask)
        train, test = plan(photos, seed), plan(test_photos, seed, TEST)
        jobs = _write_tables(whole, train, test, size, seed)
        if twins:
            jobs += _write_twins(whole / "twins", twins, size, seed)
        if workers is None:
            workers = min(_cores(), 1 + len(jobs) // 200)
        _draw_all(jobs, workers, progress)
        try:
            if folder.exists():
                folder.resolve().rmdir() if folder.is_symlink() else folder.rmdir()
            whole.replace(folder.resolve() if folder.is_symlink() else folder)
        except OSError as error:
            raise UserError(
                f"{folder} cannot take the drawn shelter ({error.strerror}); choose another folder"
            ) from None
    except OSError as error:
        error.filename = str(folder)  # a full disk names no file, and what was being drawn is gone
        raise
    finally:
        shutil.rmtree(whole, ignore_errors=True)


def _check(option: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UserError(f"--{option} {value} is out of range; legal: {low} to {high}")


def _cores() -> int:
    # A container or `taskset` may allow fewer cores than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _draw(job: _Job) -> None:
    picture, labels = render(job.photo, job.size)
    quality = 90
    if job.again is not None:
        draws = np.random.default_rng(job.again).random(7)
        picture, labels = repost(picture, labels, draws)
        quality = 72 + int(14 * draws[6])
    _encode(job.picture, picture[..., ::-1], ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])
    _encode(job.labels, labels, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 6])


def _encode(path: Path, image: npt.NDArray[np.uint8], kind: str, options: list[int]) -> None:
    # Not cv2.imwrite: it reports a full disk by its return value alone, and has no way with non-ASCII paths on Windows.
    done, data = cv2.imencode(kind, np.ascontiguousarray(image), options)
    if not done:
        raise RuntimeError(f"{path.name} could not be encoded")
    path.write_bytes(data.tobytes())


@contextmanager
def drawers(workers: int) -> Iterator[Pool]:
    """Processes that draw, ended with the block."""
    if sys.platform != "win32":
        resource_tracker.ensure_running()  # else the pool starts it, and that unblocks Ctrl-C
    with ExitStack() as stack:
        pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(workers, _quiet_drawer))
        yield pool


def _quiet_drawer() -> None:
    cv2.setNumThreads(1)  # OpenCV's own threads would fight those of the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _draw_all(jobs: Sequence[_Job], workers: int, progress: bool | None) -> None:
    for folder in {path.parent for job in jobs for path in (job.picture, job.labels)}:
        folder.mkdir(parents=True, exist_ok=True)
    hide = not (sys.stderr.isatty() if progress is None else progress)

    def wait(done: Iterable[None]) -> None:
        for _ in tqdm(done, total=len(jobs), desc="drawing", unit="photo", disable=hide, file=sys.stderr):
            pass

    if workers == 1:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            wait(map(_draw, jobs))
        finally:
            cv2.setNumThreads(threads)
    else:
        with drawers(workers) as pool:
            wait(pool.imap_unordered(_draw, jobs, chunksize=16))


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _write_tables(whole: Path, train: list[Entry], test: list[Entry], size: int, seed: int) -> list[_Job]:
    """The contest's tables and truth/ but for the pictures, which are returned as jobs. Rows are sorted by Id."""
    train, test = (sorted(entries, key=lambda entry: entry.id) for entries in (train, test))
    metadata = [[entry.id, *entry.photo.metadata().values()] for entry in train]
    _write_csv(
        whole / "train.csv",
        ("Id", *METADATA, "Pawpularity"),
        [[*row, entry.score] for row, entry in zip(metadata, train, strict=True)],
    )
    _write_csv(whole / "test.csv", ("Id", *METADATA), [[entry.id, *entry.photo.metadata().values()] for entry in test])
    _write_csv(whole / "sample_submission.csv", ("Id", "Pawpularity"), [[entry.id, "38.0"] for entry in test])
    truth = whole / "truth"
    rows = [truth_row(entry) for entry in (*train, *test)]
    _write_csv(truth / "parts.csv", list(rows[0]), [list(row.values()) for row in rows])
    pairs = [(entry.duplicate_of, entry.id) for entry in train if entry.duplicate_of]
    _write_csv(truth / "duplicates.csv", ("Id_a", "Id_b"), pairs)
    summary = floor(train, seed)
    write_json(truth / "floor.json", summary)
    write_text(truth / "README.md", readme(summary))
    jobs = []
    for entry in (*train, *test):
        name = "train" if entry.split == TRAIN else "test"
        picture, labels = whole / name / f"{entry.id}.jpg", truth / "labels" / f"{entry.id}.png"
        again = (seed, entry.split, REPOST, entry.index) if entry.duplicate_of else None
        jobs.append(_Job(entry.photo, size, picture, labels, again))
    return jobs


def _write_twins(folder: Path, pairs: int, size: int, seed: int) -> list[_Job]:
    jobs, rows = [], []
    for part in PARTS:
        for pair in range(pairs):
            both = twin_photos(seed, part, pair)
            ids = [photo_id(seed, "twins", part, pair, side) for side in range(2)]
            mean = np.array([photo.mean_unclipped() for photo in both])
            expected = expected_score(mean)
            rows.append([*ids, part, f"{mean[0] - mean[1]:.4f}", f"{expected[0] - expected[1]:.4f}"])
            for name, photo in zip(ids, both, strict=True):
                jobs.append(_Job(photo, size, folder / "photos" / f"{name}.jpg", folder / "labels" / f"{name}.png"))
    _write_csv(folder / "twins.csv", ("Id_with", "Id_without", "part", "effect", "effect_expected"), rows)
    return jobs
