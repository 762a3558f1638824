"""What runs on Kaggle: the contest's photos in, submission.csv out. kernels/inference/inference.py starts it.

A changed or damaged bundle is refused before any photo is read. After that a valid submission.csv is always written: every Id
of test.csv once, in its order, scores in 1..100. inference.json beside it is the report.
"""

import argparse
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pawpularity import __version__
from pawpularity.console import duration, log
from pawpularity.data.tables import ID, METADATA, read_test
from pawpularity.errors import UserError
from pawpularity.files import write_json, write_text
from pawpularity.kaggle.bundle import open_bundle
from pawpularity.kaggle.submission_file import check_submission, submission_text

HOURS = 8.5
"""Time limit; the contest allows nine hours."""
RESERVE_S = 20.0
"""Time for writing and checking the submission."""
SLUG = "petfinder-pawpularity-score"
DEPTH = 4
"""Levels of folders to search below the input folder: datasets/OWNER/SLUG/ and one more."""


def main(words: Sequence[str], bundle: Path, root: Path, started: float) -> int:
    """Predict below `root` (Kaggle's `/kaggle`: input/ and working/) with `bundle`; returns the exit code.

    `started`: `time.monotonic()` when the script began. On Kaggle `words` is empty.
    """
    parser = argparse.ArgumentParser(prog="inference.py", description="Score the contest's test photos.")
    parser.add_argument("--hours", type=float, help="time limit; leave out what does not fit (default: the bundle's)")
    parser.add_argument("--threads", type=int, help="threads that decode photos (default: one a core)")
    options = parser.parse_args(words)
    try:
        _run(bundle, root, started, options.hours, options.threads)
    except (UserError, OSError) as error:
        print(f"pawpularity: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def _run(bundle_folder: Path, root: Path, started: float, hours: float | None, threads: int | None) -> None:
    rerun = "the hidden photos" if os.environ.get("KAGGLE_IS_COMPETITION_RERUN") else "a trial run"
    log(f"pawpularity {__version__}, {rerun}; bundle {bundle_folder}")
    bundle = open_bundle(bundle_folder)
    data = find_competition(root / "input")
    table = read_test(data)
    ids, metadata = table[ID].tolist(), table[list(METADATA)].to_numpy(dtype=np.float32)
    log(f"data    {data}: {len(ids)} photos; bundle {bundle.name}: {', '.join(run.name for run in bundle.runs)}")
    path = root / "working" / "submission.csv"
    write_text(path, submission_text(ids, np.full(len(ids), bundle.mean)))  # fails now if the folder is not writable

    # Imported late: torch takes seconds, and a faulty bundle is refused without it.
    from pawpularity.kaggle.scoring import Blend, load_backbones, photo_chunks, score_photos
    from pawpularity.kaggle.time_plan import Plan, Use

    backbones = load_backbones(bundle)
    for line in sorted({str(backbone.compute) for backbone in backbones}):
        log(f"device  {line}")
    loaded = {run for backbone in backbones for run in backbone.networks}
    plan = Plan(
        {run.name: Use(len(run.trained_folds()), run.config.predict.flip, run.weight) for run in bundle.runs if run.name in loaded},
        [f"{run.name} (failed)" for run in bundle.runs if run.name not in loaded],
    )  # fmt: skip
    shapes = sorted({backbone.shape for backbone in backbones})
    chunks = photo_chunks([data / "test" / f"{name}.jpg" for name in ids], shapes, threads)
    deadline = started + 3600 * (hours or float(bundle.about["hours"])) - RESERVE_S
    first_photo = time.monotonic()
    outcome = score_photos(ids, metadata, chunks, backbones, Blend.of(bundle), plan, deadline=deadline)
    write_text(path, submission_text(ids, outcome.scores))
    try:
        check_submission(path, "the kernel", data)
    except UserError as error:  # for example, sample_submission.csv has other Ids
        log(f"warning: {error}")
    seconds, peak_mb = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    report = {
        "bundle": bundle.name,
        "photos": len(ids),
        "device": backbones[0].compute.device.type,
        "dtypes": sorted({backbone.compute.dtype_name for backbone in backbones}),
        "seconds": round(seconds, 3),
        "seconds_to_first_photo": round(first_photo - started, 3),
        "left_out": plan.left_out,
        "photos_without_time": outcome.without_time,
        "photos_unusable": outcome.faults,
        "peak_mb": round(peak_mb, 1),
    }
    write_json(path.with_name("inference.json"), report)
    log(f"wrote {path}: {len(ids)} rows, mean {outcome.scores.mean():.1f}; {len(outcome.faults)} photos could not be used; "
        f"{duration(seconds)}, {peak_mb:.0f} MB at most")  # fmt: skip


def find_competition(inputs: Path) -> Path:
    """The contest's folder below `inputs`: the one that holds its tables, because Kaggle has moved its mounts before.

    Raises UserError where there is none, or more than one.
    """
    found = [folder for folder in _folders(inputs, DEPTH) if (folder / "test.csv").is_file()]
    found = [folder for folder in found if folder.name == SLUG] or found
    if len(found) != 1:
        how = f"competition data more than once ({found[0]}, {found[1]})" if found else "no competition data (test.csv)"
        raise UserError(
            f'{inputs}: holds {how}; add the competition to the kernel once (competition_sources: "{SLUG}") and accept its rules'
        )
    return found[0]


def _folders(root: Path, depth: int) -> Iterator[Path]:
    """`root` and the folders below it, except those of photos."""
    yield root
    if depth and root.is_dir():
        for path in sorted(root.iterdir()):
            if path.is_dir() and path.name not in ("train", "test"):
                yield from _folders(path, depth - 1)
