"""`pawpularity kernel-check`: run the built kernel as Kaggle would, and compare its scores with `predict`.

It scores a hidden test set of drawn photos, three in ten of them broken, in a sandbox: without network, with Kaggle's libraries
alone (see `kaggle_image`). Where the machine allows it (`unshare`, as root or with user namespaces), that is a network namespace;
sockets are blocked inside Python in any case. The times it reports are this machine's.
"""

import json as json_text
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pawpularity.console import emit, log, next_step, table
from pawpularity.data.dataset import load_test
from pawpularity.data.tables import ID, read_test
from pawpularity.errors import UserError
from pawpularity.kaggle import kaggle_image
from pawpularity.kaggle.built_kernel import BuiltKernel, built_kernel
from pawpularity.kaggle.bundle import Bundle, open_bundle
from pawpularity.kaggle.submission import predict_test
from pawpularity.kaggle.submission_file import check_submission
from pawpularity.runs import OOF, Run
from pawpularity.sample.draw import draw_sample

FLOAT_BOUND = 1e-4
"""Score points between the kernel and predict: the same batches of the same numbers, rounded to six decimals."""
VERSIONS_BOUND = 0.1
"""Score points between other versions of the libraries on one machine; 0.043 was measured (docs/kaggle.md)."""
SIZE, SEED = 224, 4_000_000
BROKEN = 0.3
"""Share of broken photos."""
FAULTS = ("missing", "empty", "text", "truncated", "huge", "a folder")
CONTEST_PHOTOS, CONTEST_HOURS = 6800, 9.0
"""The contest's hidden photos, about, and its time limit."""
MOUNTS = {
    "dataset": "datasets/somebody/pawpularity-bundle",
    "model": "models/somebody/pawpularity-bundle/pytorch/default/1",
    "competition": "competitions/petfinder-pawpularity-score",
}
"""Where Kaggle mounts them below input/."""


def kernel_check(*, photos: int, python: str | None, json: str | None) -> None:
    """Run the built kernel on `photos` simulated photos, with the libraries of `python` (default: this Python).

    Raises UserError for the first fault.
    """
    if not 8 <= photos <= 100_000:
        raise UserError(f"--photos {photos}: must be 8 to 100000")
    program = shutil.which(python or sys.executable)
    if program is None:
        raise UserError(f"--python {python}: is no program; give the path of a Python interpreter")
    built = built_kernel("inference")
    report = check_kernel(built, photos, program, VERSIONS_BOUND if python else FLOAT_BOUND)
    rows = [(key.replace("_", " "), _shown(value)) for key, value in report.items()]
    emit(report, table(("kernel-check", "passed"), rows, left=(0, 1)), json)
    if report["hours_for_contest"] > CONTEST_HOURS:
        log(
            f"at this speed the kernel would leave out mirror images, folds or runs: the contest gives {CONTEST_HOURS:.0f} h"
        )
    next_step(f"make kernel-push{built.make_word}")


def check_kernel(
    built: BuiltKernel, photos: int, program: str = sys.executable, bound: float = FLOAT_BOUND
) -> dict[str, Any]:
    """The report of a run on `photos` simulated photos. Raises UserError for the first fault."""
    bundle = open_bundle(built.dataset)
    with tempfile.TemporaryDirectory(prefix="pawpularity-check-") as scratch:
        return _check(built, bundle, Path(scratch).resolve(), photos, bound, program)


def _check(built: BuiltKernel, bundle: Bundle, scratch: Path, photos: int, bound: float, python: str) -> dict[str, Any]:
    """The report of a session whose files go below `scratch`. Raises UserError for a difference above `bound`, in score points."""
    data = scratch / "contest"
    draw_sample(data, photos=1, size=SIZE, seed=SEED, test_photos=photos)
    expected, faults = _predicted(bundle, data, scratch), break_photos(data, BROKEN)
    log(f"running the script on {photos} hidden photos, {len(faults)} of them broken; sandbox: {isolation()}")
    carrier = "model" if built.about["model_sources"] else "dataset"
    mounted = {carrier: built.dataset, "competition": data}
    code, guard = run_script(scratch / "kaggle", built.kernel / "inference.py", mounted, python)
    working = scratch / "kaggle" / "working"
    if code != 0 or not guard:
        raise UserError(
            f"kernel-check: the script ended with {code}, see above; a ModuleNotFoundError names a module that Kaggle's image lacks"
        )
    if tried := guard["connections"]:
        raise UserError(f"kernel-check: the script tried to reach {tried[0]}; on Kaggle there is no network")
    scores = check_submission(working / "submission.csv", "kernel-check", data)
    report = json_text.loads((working / "inference.json").read_text("utf-8"))
    if wrong := report["photos_unusable"].keys() ^ faults.keys():
        name = min(wrong)
        did = f"used the broken photo {name} ({faults[name]})" if name in faults else f"refused the good photo {name}"
        raise UserError(f"kernel-check: the script {did}")
    expected[scores.index.isin(list(faults))] = bundle.mean
    difference = float(np.abs(scores.to_numpy() - expected).max())
    if list(scores.index) != read_test(data)[ID].tolist() or difference > bound:
        raise UserError(
            f"kernel-check: the kernel and predict differ by {difference:.6f} points, allowed are {bound:.6f}; "
            "if the runs were changed since the bundle was built, run make kernel again"
        )
    seconds_each = (report["seconds"] - report["seconds_to_first_photo"]) / photos
    return {
        "bundle": bundle.name,
        "sandbox": isolation(),
        "versions": guard["versions"],
        "photos": photos,
        "broken": len(faults),
        "photos_per_s": 1 / seconds_each,
        "hours_for_contest": (report["seconds_to_first_photo"] + CONTEST_PHOTOS * seconds_each) / 3600,
        "difference": difference,
        "bound": bound,
        **{key: report[key] for key in ("device", "dtypes", "left_out", "seconds_to_first_photo", "peak_mb")},
    }


def _predicted(bundle: Bundle, data: Path, scratch: Path) -> NDArray[np.float64]:
    """The scores that `make predict` gives the photos of `data`: of the blend, of the run, or the mean of the runs."""
    test, blend = load_test(data, scratch / "cache"), bundle.about["ensemble"]
    names = [blend] if blend else list(bundle.about["runs"])
    found = [predict_test(Run.open(OOF / name), test, scratch / "predicted.csv") for name in names]
    scores: NDArray[np.float64] = np.mean(found, axis=0)
    return scores


@cache
def network_namespace() -> tuple[str, ...]:
    """The words to put before a command so that it has no network; () if this machine does not allow it."""
    for words in (("unshare", "-n"), ("unshare", "-r", "-n")):  # as root; as root of a user namespace
        if shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0:
            return words
    return ()


def isolation() -> str:
    """How the script is cut off from the network, in words."""
    return "network namespace of its own" if network_namespace() else "sockets blocked in Python (no namespaces here)"


def run_script(
    root: Path, script: Path, mounted: dict[str, Path], python: str = sys.executable
) -> tuple[int, dict[str, Any]]:
    """Run `script` in a new sandbox at `root`; what it prints goes to standard error.

    `mounted`: the folders to mount, by their key in `MOUNTS`. `python`: the interpreter, with its libraries. Returns the exit code,
    and what `kaggle_image` wrote ({} if the script never started).
    """
    for key, source in mounted.items():
        target = root / "input" / MOUNTS[key]
        target.parent.mkdir(parents=True)
        target.symlink_to(source.resolve())
    (root / "working").mkdir()
    # The link to Python is not resolved: Python finds its virtual environment through it.
    command = [str(Path(python).absolute()), "-I", kaggle_image.__file__, str(root), str(script.resolve())]
    environment = {"PATH": os.environ["PATH"], "HOME": str(root), "LANG": "C.UTF-8", "PAWPULARITY_KAGGLE": str(root)}
    environment |= {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ}
    words = [*network_namespace(), *command]
    done = subprocess.run(words, cwd=root / "working", env=environment, stdout=sys.stderr, check=False)
    log = root / "guard.json"
    return done.returncode, json_text.loads(log.read_text("utf-8")) if log.is_file() else {}


def break_photos(data: Path, share: float) -> dict[str, str]:
    """Break a share of the test photos of `data`; returns the faults (see `FAULTS`) by Id."""
    ids = read_test(data)[ID].tolist()
    at = np.unique(np.linspace(0, len(ids) - 1, round(share * len(ids))).round().astype(int))
    faults = {ids[row]: FAULTS[number % len(FAULTS)] for number, row in enumerate(at)}
    for name, fault in faults.items():
        path = data / "test" / f"{name}.jpg"
        photo = path.read_bytes()
        path.unlink()
        if fault == "a folder":
            path.mkdir()
        elif fault == "huge":  # one bit a pixel keeps the file small: 100 megapixels, 300 MB of colours
            Image.new("1", (10_000, 10_000)).save(path, format="PNG")
        elif fault != "missing":
            path.write_bytes({"empty": b"", "text": b"no photo", "truncated": photo[: len(photo) // 3]}[fault])
    return faults


def _shown(value: Any) -> str:
    """A value of the report in a table."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    if isinstance(value, list):
        return ", ".join(value) or "nothing"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
