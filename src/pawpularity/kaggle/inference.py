"""What runs on Kaggle: the contest's photos in, submission.csv out, whatever is in the way.

    python inference.py [--hours 8.5]           (Kaggle gives no words; kernels/inference/inference.py starts this)

A bundle that is not what was built is refused before any photo is read. After that a valid submission.csv is always
written: every Id of test.csv once, in its order, numbers within 1..100.
"""

import argparse
import csv
import io
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pawpularity import __version__
from pawpularity.console import log
from pawpularity.data.tables import ID, METADATA, read_cells, read_sample_submission, read_test
from pawpularity.errors import UserError
from pawpularity.files import file_hash, write_json, write_text
from pawpularity.kaggle.blend import Blend
from pawpularity.kaggle.contents import Bundle, open_bundle
from pawpularity.kaggle.paths import find_competition
from pawpularity.kaggle.plan import Plan, Use
from pawpularity.kaggle.submission_file import submission_text

if TYPE_CHECKING:
    from pawpularity.kaggle.stream import Outcome

HOURS = 8.5
"""Of the nine that the contest allows."""
_RESERVE_S = 20.0
"""For writing and checking the submission."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see: {self.prog} --help")


def main(words: Sequence[str], bundle: Path, root: Path, started: float) -> int:
    """Predict below `root` (Kaggle's `/kaggle`: input/ and working/) with `bundle`; returns the exit code.

    `started`: `time.monotonic()` when the script began.
    """
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        stuck = _run(words, bundle, root, started)
    except UserError as error:
        print(f"pawpularity: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 2
    except OSError as error:
        print(f"pawpularity: {error.filename or root}: {error.strerror or error}; free space, or name another folder with "
              "--working", file=sys.stderr, flush=True)  # fmt: skip
        return 2
    except KeyboardInterrupt as error:
        print("pawpularity: ended from outside; submission.csv has what was scored so far", file=sys.stderr, flush=True)
        return 143 if isinstance(error, _Terminated) else 130
    finally:
        signal.signal(signal.SIGTERM, before)
    if stuck:  # Python would wait for the threads that still decode
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


class _Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def _terminated(number: int, frame: object) -> NoReturn:
    raise _Terminated


def _run(words: Sequence[str], bundle_folder: Path, root: Path, started: float) -> int:
    """The whole run; returns how many photos are still being decoded by threads that were given up."""
    options = _options(words, root)
    rerun = "the hidden photos" if os.environ.get("KAGGLE_IS_COMPETITION_RERUN") else "a trial run"
    log(f"pawpularity {__version__}, {rerun}; bundle {bundle_folder}")
    bundle = open_bundle(bundle_folder)
    data = Path(options.data) if options.data else find_competition(root / "input")
    ids, columns = read_rows(data)
    hours = float(bundle.about.get("hours", HOURS)) if options.hours is None else options.hours
    log(f"data    {data}: {len(ids)} photos; bundle {bundle.name}: {', '.join(run.name for run in bundle.runs)}")
    blend = blend_of(bundle)
    path = Path(options.working) / "submission.csv"

    def keep(scores: NDArray[np.float64]) -> None:
        write_text(path, submission_text(ids, scores))

    keep(np.full(len(ids), blend.mean))  # whatever ends the run, and that it can be written is known now
    deadline = started + 3600.0 * hours - _RESERVE_S
    outcome, plan, about = _predict(bundle, data, ids, columns, blend, deadline, options, keep)
    keep(outcome.scores)
    warnings = check_against_sample(path, ids, data)
    for line in warnings:
        log(f"warning: {line}")
    ended = time.monotonic()
    report = about | {
        "bundle": bundle.name,
        "photos": len(ids),
        "seconds": round(ended - started, 3),
        "seconds_to_first_photo": round((outcome.first_photo or ended) - started, 3),
        "processor_seconds": round(outcome.processor_s, 3),
        "seconds_of": {name: round(seconds, 3) for name, seconds in outcome.seconds.items()},
        "left_out": plan.said,
        "photos_without_time": outcome.not_asked,
        "photos_unusable": outcome.faults,
        "warnings": warnings,
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1),
        "submission_hash": file_hash(path),
    }
    write_json(path.with_name("inference.json"), report)
    low, high, mean = outcome.scores.min(), outcome.scores.max(), outcome.scores.mean()
    log(f"wrote {path}: {len(ids)} rows, {low:.1f} to {high:.1f}, mean {mean:.1f}")
    log(f"{len(outcome.faults)} photos could not be used; {ended - started:.0f} s, {report['peak_mb']:.0f} MB at most")
    return outcome.stuck


def _options(words: Sequence[str], root: Path) -> argparse.Namespace:
    parser = _Parser(prog="inference.py", description="Score the contest's test photos.", allow_abbrev=False)
    parser.add_argument(
        "--hours", type=float, help=f"end by then, leaving out what does not fit (default: the bundle's, else {HOURS})"
    )
    parser.add_argument("--data", metavar="DIR", help="the competition's folder (default: found below input/)")
    parser.add_argument("--working", metavar="DIR", default=str(root / "working"), help="where submission.csv goes")
    parser.add_argument("--device", help="cuda or cpu (default: the GPU if it can compute)")
    parser.add_argument("--threads", type=int, help="threads that decode photos (default: one a core)")
    options = parser.parse_args(words)
    if options.hours is not None and not 0 < options.hours < 1e4:
        raise UserError(f"--hours {options.hours:g}: must be more than 0")
    if options.threads is not None and options.threads < 1:
        raise UserError(f"--threads {options.threads}: must be 1 or more")
    return options


def _predict(
    bundle: Bundle,
    data: Path,
    ids: list[str],
    columns: NDArray[np.float32] | None,
    blend: Blend,
    deadline: float,
    options: argparse.Namespace,
    keep: Callable[[NDArray[np.float64]], None],
) -> "tuple[Outcome, Plan, dict[str, Any]]":
    # Only now: torch takes seconds, and a bundle that is refused need not wait for it.
    from pawpularity.kaggle.shared_backbones import flips, load_families
    from pawpularity.kaggle.stream import decoded, stream

    families = load_families(bundle, options.device)
    of = {name: family.name for family in families for name in family.networks}
    runs = {run.name: run for run in bundle.runs}
    plan = Plan({
        name: Use(of[name], len(run.trained_folds()), flips(run), blend.weights[name]) for name, run in runs.items() if name in of
    })  # fmt: skip
    plan.said += [f"{name} (failed)" for name in runs if name not in of]
    computes = {str(family.compute) for family in families}
    for line in sorted(computes):
        log(f"device  {line}")
    paths = [data / "test" / f"{name}.jpg" for name in ids]
    shapes = sorted({(family.size, family.fit) for family in families})
    chunks = decoded(paths, shapes, options.threads, deadline=deadline)
    outcome = stream(ids, columns, chunks, families, blend, plan, deadline=deadline, keep=keep)
    about = {
        "device": families[0].compute.device.type,
        "dtypes": sorted({family.compute.dtype_name for family in families}),
    }
    return outcome, plan, about


def read_rows(data: Path) -> tuple[list[str], NDArray[np.float32] | None]:
    """Ids of test.csv, each once, and their metadata, (n, 12); None, as if it were not known, where the table is unsound."""
    try:
        table = read_test(data)
        return table[ID].tolist(), table[list(METADATA)].to_numpy(dtype=np.float32)
    except UserError as error:
        ids = _ids_of(data / "test.csv")
        if not ids:
            raise
        log(f"warning: {error}; going on without metadata")
        return ids, None


def _ids_of(path: Path) -> list[str]:
    """What can be read of the column `Id`, each once: ragged rows, odd bytes and blanks are passed over."""
    try:
        rows = list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig", errors="replace"))))
    except (OSError, csv.Error):
        return []
    header = [name.strip() for name in rows[0]] if rows else []
    if ID not in header:
        return []
    place = header.index(ID)
    return list(dict.fromkeys(name for row in rows[1:] if len(row) > place and (name := row[place].strip())))


def blend_of(bundle: Bundle) -> Blend:
    """The bundle's weights."""
    members = bundle.weights["members"]
    return Blend(
        float(bundle.weights["intercept"]),
        {member["name"]: float(member["weight"]) for member in members},
        {member["name"]: float(member["mean_prediction"]) for member in members},
        float(bundle.weights["mean_prediction"]),
    )


def check_against_sample(path: Path, ids: Sequence[str], data: Path) -> list[str]:
    """What is wrong with the written file: read again, and held against test.csv's Ids and the sample submission's."""
    written = read_cells(path, (ID, "Pawpularity"))
    scores = written.numbers("Pawpularity", "a score")
    found = []
    if written.columns[ID] != list(ids) or ((scores < 1) | (scores > 100)).any():
        raise AssertionError(f"{path} is not what was to be written")  # a defect of ours
    try:
        sample = read_sample_submission(data)[ID].tolist()
    except UserError as error:
        return [str(error)]
    if odd := set(sample) ^ set(ids):
        found.append(
            f"test.csv and sample_submission.csv differ: {len(odd)} Ids, {min(odd)} the first, are in one of them only"
        )
    return found
