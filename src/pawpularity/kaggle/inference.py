"""What runs on Kaggle: the contest's photos in, submission.csv out. kernels/inference/inference.py starts it.

A changed or damaged bundle is refused before any photo is read. submission.csv holds every Id of test.csv once, in its order,
and scores in 1..100, whatever the photos are. inference.json beside it is the report.
"""

import resource
import sys
import time
from pathlib import Path

import numpy as np

from pawpularity import __version__
from pawpularity.console import duration, log
from pawpularity.data.tables import ID, METADATA, read_test
from pawpularity.errors import UserError
from pawpularity.files import write_json, write_text
from pawpularity.kaggle.bundle import open_bundle
from pawpularity.kaggle.submission_file import submission_text

RESERVE_S = 20.0
"""Time for writing the submission."""
SLUG = "petfinder-pawpularity-score"


def main(bundle: Path, root: Path, started: float) -> int:
    """Predict below `root` (Kaggle's `/kaggle`: input/ and working/) with `bundle`; returns the exit code.

    `started`: `time.monotonic()` when the script began.
    """
    try:
        _run(bundle, root, started)
    except (UserError, OSError) as error:
        print(f"pawpularity: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def _run(bundle_folder: Path, root: Path, started: float) -> None:
    log(f"pawpularity {__version__}; bundle {bundle_folder}")
    bundle = open_bundle(bundle_folder)
    data = find_competition(root / "input")
    table = read_test(data)
    ids, metadata = table[ID].tolist(), table[list(METADATA)].to_numpy(dtype=np.float32)
    log(f"data    {data}: {len(ids)} photos; bundle {bundle.name}: {', '.join(bundle.about['runs'])}")

    # Imported late: torch takes seconds, and a faulty bundle is refused without it.
    from pawpularity.kaggle.scoring import load_blend, photo_chunks, score_photos

    blend = load_blend(bundle)
    computes = [member.predictor.compute for member in blend.members]
    log(f"device  {'; '.join(sorted(set(map(str, computes))))}")
    shapes = sorted({member.shape for member in blend.members})
    chunks = photo_chunks([data / "test" / f"{name}.jpg" for name in ids], shapes)
    first_photo, deadline = time.monotonic(), started + 3600 * bundle.about["hours"] - RESERVE_S
    outcome = score_photos(ids, metadata, chunks, blend, bundle.mean, deadline=deadline)
    path = root / "working" / "submission.csv"
    write_text(path, submission_text(ids, outcome.scores))
    seconds, peak_mb = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    report = {
        "device": computes[0].device.type,
        "dtypes": sorted({compute.dtype_name for compute in computes}),
        "seconds": round(seconds, 3),
        "seconds_to_first_photo": round(first_photo - started, 3),
        "left_out": outcome.left_out,
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
    found = [file.parent for depth in range(4) for file in inputs.glob("*/" * depth + "test.csv")]
    found = [folder for folder in found if folder.name == SLUG] or found
    if len(found) != 1:
        how = f"competition data more than once ({found[0]}, {found[1]})" if found else "no competition data (test.csv)"
        raise UserError(
            f'{inputs}: holds {how}; add the competition to the kernel once (competition_sources: "{SLUG}") and accept its rules'
        )
    return found[0]
