"""`make kernel-check`: the built kernel run as Kaggle would run it, and held against `make predict`.

Three sessions, each in a sandbox of its own (see `sandbox`): the contest's eight noise photos under the mounts of old; a
hidden test set under those of late; the same with three photos in ten broken. What it says of time is this machine's.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pawpularity.console import log
from pawpularity.data.dataset import load_test
from pawpularity.data.photos import decode, ordered_map, thread_count
from pawpularity.data.tables import ID, METADATA, TARGET, read_cells, read_test
from pawpularity.ensemble.record import read_weights
from pawpularity.errors import UserError
from pawpularity.kaggle import fake_test_set, sandbox
from pawpularity.kaggle.build_folders import building, clear
from pawpularity.kaggle.check_report import Part, Result
from pawpularity.kaggle.contents import BUNDLE, Bundle, open_bundle
from pawpularity.kaggle.stream import BATCH, PATIENCE_S, STUCK
from pawpularity.kaggle.submission import submit
from pawpularity.kaggle.submission_file import check_submission
from pawpularity.predictor import Predictor
from pawpularity.runs import OOF, Run

FLOAT_BOUND = 1e-4
"""Score points between the kernel and `make predict`: the same batches of the same numbers, but for six decimals."""
HALF_BOUND = 3.0
"""Times the largest difference that was measured when the bundle was built: these are other photos."""
VERSIONS_BOUND = 0.1
"""Score points between other versions of the libraries on one machine; 0.043 was measured (docs/kaggle.md)."""
COMPARED = 256
TIMED = 2 * BATCH
BROKEN = 0.3
_SCRATCH = ".check."

Floats = NDArray[np.float64]


def check(
    build: Path, *, photos: int, threads: int | None = None, python: str | None = None
) -> tuple[dict[str, Any], str]:
    """Run the sessions; returns a report for programs and its text. Raises UserError for the first thing that is not right.

    `python`: another one that shall run the script, with libraries of its own; `make predict` stays this one's.
    """
    if not (build / "dataset" / BUNDLE).is_file():
        raise UserError(f"{build}: is not built yet; run: make kernel RUNS=...")
    # The builder's lock: nothing is built anew under the sessions, and what a killed check left is nobody's.
    with building(build / ".lock"):
        _remove_left_overs(build)
        return _check(build, photos, threads, python)


def _remove_left_overs(build: Path) -> None:
    for left in [*build.glob(f"{_SCRATCH}*"), *build.glob(f"{sandbox.TRIED}*")]:
        # A session whose input was closed by permissions leaves folders that cannot be emptied. Files may be links into
        # the build, and keep theirs.
        for folder in [left, *left.rglob("*")]:
            if folder.is_dir() and not folder.is_symlink():
                folder.chmod(0o700)
        clear(left)


def _check(build: Path, photos: int, threads: int | None, other: str | None) -> tuple[dict[str, Any], str]:
    bundle = open_bundle(build / "dataset")
    script = build / "kernel" / "inference.py"
    if not script.is_file():
        raise UserError(f"{script}: is missing; build again: make kernel")
    if gone := [run.name for run in bundle.runs if not (OOF / run.name / "config.json").is_file()]:
        raise UserError(
            f"kernel-check: compares with make predict, and run {gone[0]} is not below {OOF}/; build from runs that are"
        )
    _require_unchanged(bundle)
    words = ["--threads", str(threads)] if threads else []
    python = sandbox.interpreter(other) if other else sandbox.interpreter()
    log(f"sandbox {sandbox.isolation(build)}")
    log(f"python  {python.path}: {python}")
    # Beside the build, so that links into it need no room.
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=build) as scratch:
        root = Path(scratch).resolve()
        log(f"drawing {min(photos, fake_test_set.DRAWN)} photos, shown as {photos} ...")
        fake_test_set.noise(root / "noise")
        fake_test_set.hidden(root / "hidden", photos)
        some = fake_test_set.first(root / "hidden", min(photos, COMPARED), root / "some")
        spoiled = fake_test_set.first(root / "hidden", min(photos, 2 * BATCH), root / "spoiled")
        ways = fake_test_set.spoil(spoiled, BROKEN)
        bound = _bound(bundle) + (VERSIONS_BOUND if other else 0.0)
        log("the contest's eight noise photos, mounts of old ...")
        eight = _session(root / "a", "of old", bundle, script, root / "noise", words, python)
        off = _compare(_scores(eight), _predicted(bundle, root / "noise", root), bound)
        log(f"{photos} hidden photos, mounts of late ...")
        many = _session(root / "b", "of late", bundle, script, root / "hidden", words, python, rerun=True)
        off = max(off, _compare(_scores(many)[:COMPARED], _predicted(bundle, some, root), bound))
        log(f"{len(ways)} of {min(photos, 2 * BATCH)} photos broken ...")
        broken = _session(root / "c", "of late", bundle, script, spoiled, words, python, rerun=True)
        _check_broken(bundle, broken, spoiled, ways, _scores(many), bound)
        log("its parts, one by one ...")
        parts = _parts(bundle, some, threads)
    result = Result(bundle, python, many, broken, off, bound, parts)
    return result.values(), result.text()


def _require_unchanged(bundle: Bundle) -> None:
    """Raise UserError where a run or the blend is no longer what was bundled: make predict would answer for another one."""

    def changed(name: str, what: str) -> UserError:
        return UserError(
            f"kernel-check: {OOF / name} was changed since the bundle was built ({what}); build it again: make kernel"
        )

    for bundled in bundle.runs:
        here = Run.open(OOF / bundled.name)
        if here.trained_folds() != bundled.trained_folds():
            raise changed(bundled.name, f"folds {here.trained_folds()}, were {bundled.trained_folds()}")
        if bundled.name in (bundle.about["half"] or {}):
            continue  # halved tensors have a hash of their own
        for fold in here.trained_folds():
            if here.metrics(fold).get("head_hash") != bundled.metrics(fold)["head_hash"]:
                raise changed(bundled.name, f"fold {fold} was trained anew")
    if blend := bundle.about["ensemble"]:
        intercept, weights = read_weights(Run.open(OOF / blend))
        held = {member["name"]: member["weight"] for member in bundle.weights["members"]}
        if (intercept, weights) != (bundle.weights["intercept"], held):
            raise changed(blend, "its weights")


def _session(
    root: Path,
    layout: str,
    bundle: Bundle,
    script: Path,
    data: Path,
    words: list[str],
    python: sandbox.Interpreter,
    *,
    rerun: bool = False,
) -> sandbox.Session:
    """One run of the script that must end well."""
    root.mkdir()
    sandbox.lay_out(root, layout, bundle.folder, data)
    session = sandbox.run(root, script, *words, rerun=rerun, python=python)
    where = f"kernel-check ({layout}, {data.name})"
    if session.code != 0:
        missing = [name for name in session.log.get("refused", []) if f"No module named {name!r}" in session.said]
        why = (
            f"it needs {missing[0]}, which Kaggle's image does not promise" if missing else session.said.strip()[-600:]
        )
        raise UserError(f"{where}: the script ended with {session.code}: {why}")
    if not session.log:  # a script whose threads still decode ends as it stands, and its guard with it
        faults = session.report.get("photos_unusable", {})
        if stuck := [name for name, fault in faults.items() if fault == STUCK]:
            raise UserError(
                f"{where}: the script gave up {len(stuck)} photos that took more than {PATIENCE_S:.0f} s to decode, "
                f"{stuck[0]} the first; check again while the machine does nothing else"
            )
        raise UserError(
            f"{where}: the script ended past its guard, so what it imported and tried to reach is not known; "
            "build again: make kernel"
        )
    if tried := session.log["connections"]:
        raise UserError(f"{where}: the script tried to reach {tried[0]}; on Kaggle there is no network")
    if not str(session.log["own"]).startswith(str(root)):
        raise UserError(f"{where}: the package was imported from {session.log['own']}, not from the bundle")
    if session.left != ["inference.json", "submission.csv"]:
        raise UserError(f"{where}: left {', '.join(session.left)} in the working folder")
    check_submission(session.working / "submission.csv", where, data)
    written = read_cells(session.working / "submission.csv", (ID, TARGET))
    if written.columns[ID] != read_test(data)[ID].tolist():
        raise UserError(f"{where}: the rows of submission.csv do not stand in the order of test.csv")
    return session


def _scores(session: sandbox.Session) -> Floats:
    return read_cells(session.working / "submission.csv", (ID, TARGET)).numbers(TARGET, "a score")


def _predicted(bundle: Bundle, data: Path, scratch: Path) -> Floats:
    """What `make predict` says of the photos of `data`: of the blend, of the run, or the mean of the runs'."""
    names = [bundle.about["ensemble"]] if bundle.about["ensemble"] else [run.name for run in bundle.runs]
    test = load_test(data, scratch / "cache")
    place = scratch / "predicted.csv"
    scores: Floats = np.mean([submit(Run.open(OOF / name), test, place) for name in names], axis=0)
    return scores


def _compare(kernel: Floats, predict: Floats, bound: float) -> float:
    off = float(np.abs(kernel - predict).max())
    if off > bound:
        raise UserError(
            f"kernel-check: the kernel and make predict differ by {off:.6f} points, allowed are {bound:.6f}"
        )
    return off


def _bound(bundle: Bundle) -> float:
    losses: dict[str, dict[str, float]] = bundle.about["half"] or {}
    return FLOAT_BOUND + HALF_BOUND * max([loss["largest_difference"] for loss in losses.values()], default=0.0)


def _check_broken(
    bundle: Bundle, session: sandbox.Session, data: Path, ways: dict[str, str], whole: Floats, bound: float
) -> None:
    """Broken photos got the mean, and the others what they get in sound company."""
    ids, scores = read_test(data)[ID].tolist(), _scores(session)
    if session.report["photos_unusable"].keys() != ways.keys():
        odd = sorted(session.report["photos_unusable"].keys() ^ ways.keys())[0]
        raise UserError(f"kernel-check: photo {odd} ({ways.get(odd, 'sound')}) was not seen for what it is")
    mean = float(bundle.weights["mean_prediction"])
    bad = np.array([name in ways for name in ids])
    if np.abs(scores[bad] - mean).max() > 1e-5:
        raise UserError(f"kernel-check: a broken photo did not get the mean prediction, {mean:.4f}")
    if (off := float(np.abs(scores - whole[: len(ids)])[~bad].max())) > bound:
        raise UserError(f"kernel-check: beside broken photos a sound one scores {off:.6f} points differently")


def _parts(bundle: Bundle, data: Path, threads: int | None) -> dict[str, Part]:
    """Time a photo of what the kernel must do, each alone: decoding, and per run a trunk pass and its tails."""
    table = read_test(data).head(TIMED)
    paths = [data / "test" / f"{name}.jpg" for name in table[ID]]
    columns = torch.tensor(table[list(METADATA)].to_numpy(dtype=np.float32))
    shapes = sorted({(run.config.photos.size, run.config.photos.fit) for run in bundle.runs})
    found: dict[str, Part] = {}
    pixels = {}
    for shape in shapes:

        def squares(size: int = shape[0], fit: str = shape[1]) -> Any:
            return list(ordered_map(lambda path: decode(path, size, fit), paths, threads or thread_count()))

        pixels[shape] = np.stack(squares())
        key = f"decoding, {shape[0]} px"
        found[key] = _timed(squares, len(paths))
    trunks: set[str] = set()
    for run in bundle.runs:
        predictor = Predictor.load(OOF / run.name)
        networks, compute = list(predictor.networks.values()), predictor.compute
        views = 2 if predictor.config.predict.flip else 1
        x = torch.from_numpy(pixels[run.config.photos.size, run.config.photos.fit])
        batches = [
            (x[at : at + BATCH].to(compute.device), columns[at : at + BATCH].to(compute.device))
            for at in range(0, len(x), BATCH)
        ]
        with torch.inference_mode(), compute.autocast():
            states = [networks[0].frozen_features(batch) for batch, _ in batches]

            def trunk(network: Any = networks[0], batches: Any = batches, compute: Any = compute) -> None:
                for batch, _ in batches:
                    network.frozen_features(batch)
                compute.synchronise()

            def tails(
                networks: Any = networks, states: Any = states, batches: Any = batches, compute: Any = compute
            ) -> None:
                for state, (_, given) in zip(states, batches, strict=True):
                    for network in networks:
                        network.clipped(network.head(state, given))
                compute.synchronise()

            name = networks[0].frozen_hash() if networks[0].frozen_blocks else run.name
            if name not in trunks:
                found[f"trunk, {run.name}"] = _timed(trunk, len(x), views)
            trunks.add(name)
            found[f"{len(networks)} tails, {run.name}"] = _timed(tails, len(x), views)
    return found


def _timed(work: Callable[[], Any], photos: int, views: int = 1) -> Part:
    """The median of three, after one to warm up."""
    work()
    spent = []
    for _ in range(3):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        spent.append((time.perf_counter() - wall, time.process_time() - processor))
    wall, processor = (1e3 * views * float(part) / photos for part in np.median(spent, axis=0))
    return Part(wall, processor)
