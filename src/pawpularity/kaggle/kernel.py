"""`pawpularity kernel`: build the inference kernel, `kernels/build/dataset/` (see `bundle`) and `kernels/build/kernel/`.

The bundle holds only what prediction needs.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pawpularity.config import resolve
from pawpularity.console import log, next_step, say, track
from pawpularity.data.tables import ID
from pawpularity.errors import UserError
from pawpularity.evaluation.oof import read_oof, run_folds
from pawpularity.files import atomic_folder, read_json, size_text, text_hash, write_json
from pawpularity.kaggle.built_kernel import BUILD, USER, WHEEL, check_user, write_kernel, write_wheel
from pawpularity.kaggle.bundle import BUNDLE, FORMAT, Bundle, open_bundle, write_sums
from pawpularity.kaggle.submission import members_of
from pawpularity.runs import OOF, Run, check_name, git_commit

CONTEST_IDS = "67f0c419872d"
"""`ids_hash` of the contest's train.csv, 9,912 photos."""

Members = list[tuple[Run, float]]
"""Runs and their weights."""


def kernel(*, runs: list[str], user: str | None, hours: float, settings: list[str]) -> None:
    """Build the inference kernel and its data set.

    Raises UserError for runs without networks or of different data, and as loading the networks does.
    """
    if other := [word for word in settings if not word.startswith("kernel.")]:
        raise UserError(f'kernel: uses the runs\' own settings; remove "{other[0]}"')
    carrier = resolve("default", settings).kernel.carrier
    if not 0.1 <= hours <= 9:
        raise UserError(f"--hours {hours:g}: must be 0.1 to 9; Kaggle stops the contest's kernels after 9")
    owner = check_user(user) if user else USER
    _show(build(runs, owner, hours, carrier), user)
    next_step("make kernel-check")


def build(runs: list[str], owner: str, hours: float, carrier: str) -> Bundle:
    """Write the kernel and its files below kernels/build/."""
    about, members = recipe_of(runs)
    with atomic_folder(BUILD / "dataset") as dataset, atomic_folder(BUILD / "kernel") as script:
        about_kernel = {"id": f"{owner}/pawpularity-inference"}
        write_kernel(script, "inference", about_kernel, f"{owner}/pawpularity-bundle", carrier)
        _write_bundle(dataset, about | {"hours": hours}, members)
    return open_bundle(BUILD / "dataset")


def recipe_of(words: Sequence[str]) -> tuple[dict[str, Any], Members]:
    """Name, blend and intercept for bundle.json, and the members with their weights, of one run, one blend or several runs' mean.

    Raises UserError for a blend among others, and as `_check` does.
    """
    if not words:
        raise UserError('kernel: name what to bundle: make kernel RUNS="densenet161 resnet152", or a blend: RUNS=NAME')
    runs = [Run.open(OOF / check_name(word)) for word in dict.fromkeys(words)]
    about: dict[str, Any] = {"name": "-".join(run.name for run in runs)[:100], "ensemble": None, "intercept": 0.0}
    members = [(run, 1 / len(runs)) for run in runs]
    blends = [run for run in runs if run.kind == "ensemble"]
    if blends and len(runs) > 1:
        raise UserError(f"kernel: {blends[0].name} is a blend; bundle it alone, or name its members")
    if blends:
        intercept, found, weights = members_of(blends[0])
        members = list(zip(found, weights.tolist(), strict=True))
        mean = read_json(blends[0].folder / "weights.json", f"blend {blends[0].name}")["mean_prediction"]
        about |= {"ensemble": blends[0].name, "intercept": intercept, "mean_prediction": mean}
        if not members:
            raise UserError(f"{blends[0].folder}: all its weights are 0; make another blend")
    elif len(runs) > 1:
        log(f"bundling the plain mean of {len(runs)} runs; make ensemble MEMBERS=... fits weights and scores them")
    _check([run for run, _ in members])
    return about, members


def _check(runs: Sequence[Run]) -> None:
    """Raise UserError for runs that keep no networks, are not trained, or were trained on different data."""
    for run in runs:
        run.require_networks()
        folds = run.trained_folds()
        if not folds:
            raise UserError(f"{run.folder}: no fold is trained yet; run: {run.remedy()}")
        if len(folds) < run.k:
            log(f"{run.name}: only folds {folds} of {run.k} are trained; the bundle holds those")
        if run.leaky:
            log(f"{run.name} is leaky by design (train.split=leaky): its own figures say nothing about new photos")
    hashes = {run.record["data"]["hash"]: run.name for run in runs}
    if len(hashes) > 1:
        raise UserError(f"kernel: {' and '.join(hashes.values())} were trained on different data; bundle runs of one")


def trained_on(run: Run) -> dict[str, Any]:
    """Name and number of the training photos, and whether they are exactly the contest's, by their Ids."""
    ids = run_folds(run).frame[ID].tolist()
    return {"name": run.record["data"]["name"], "photos": len(ids), "contest": ids_hash(ids) == CONTEST_IDS}


def ids_hash(ids: Sequence[str]) -> str:
    """12 hex digits over the Ids, in any order."""
    return text_hash("ids 1", *sorted(ids))


def _write_bundle(into: Path, about: dict[str, Any], members: Members) -> None:
    runs: dict[str, dict[str, float]] = {}
    places: dict[str, str] = {}
    frozen: dict[str, str] = {}  # the hash of frozen tensors: the file that holds them
    for run, weight in members:
        places |= _write_run(into, run, frozen)
        mean = pd.concat(read_oof(run.predictions_file(fold)) for fold in run.trained_folds())["prediction"].mean()
        runs[run.name] = {"weight": weight, "mean_prediction": float(mean)}
    write_wheel(into / WHEEL)
    common = {
        "format": FORMAT,
        "git_commit": git_commit(),
        "code": WHEEL,
        "mean_prediction": sum(run["weight"] * run["mean_prediction"] for run in runs.values()),
        "trained_on": trained_on(members[0][0]),
        "runs": runs,
        "places": places,
    }
    write_json(into / BUNDLE, common | about)
    write_sums(into)


def _write_run(into: Path, run: Run, frozen: dict[str, str]) -> dict[str, str]:
    """Write what prediction needs of one run; returns the name of each file by its place below oof/.

    Loading every network checks that head, frozen part and record belong together.
    """
    from pawpularity.models.weights import save_tensors
    from pawpularity.predictor import load_network

    places: dict[str, str] = {}

    def place(name: str) -> Path:
        places[f"{run.name}/{name}"] = file = f"{run.name}.{name.replace('/', '.')}"
        return into / file

    first = None
    for fold in track(run.trained_folds(), f"bundle {run.name}", unit="folds"):
        first = load_network(run, fold, frozen_of=first)
        shutil.copyfile(run.head_file(fold), place(f"fold{fold}/head.safetensors"))
        needed = ("n", "rmse", "constant_rmse", "predictions_hash", "head_hash")
        write_json(place(f"fold{fold}/metrics.json"), {key: run.metrics(fold)[key] for key in needed})
    assert first is not None
    write_json(place("config.json"), _record(run))
    digest = run.record["weights"]["frozen_hash"]
    if digest not in frozen:
        path = place("frozen.safetensors")
        save_tensors(path, first.frozen_state(), {"backbone": run.config.model.backbone})
        frozen[digest] = path.name
    return places | {f"{run.name}/frozen.safetensors": frozen[digest]}


def _record(run: Run) -> dict[str, Any]:
    """The run's config.json without details of this machine: paths, processor."""
    config = dict(run.record["config"])
    config["model"] = config["model"] | {"weights": "none"}  # the bundle holds the tensors
    config["cache"] = {"folder": ".cache", "budget_gb": 0.0}
    data = {key: run.record["data"][key] for key in ("name", "hash")}
    weights = {"frozen": "kept", "frozen_hash": run.record["weights"]["frozen_hash"]}
    kept = {"kind": run.kind, "config": config, "data": data, "folds": run.record["folds"], "weights": weights}
    return kept | ({"head": run.record["head"]} if run.kind == "head" else {})


def _show(bundle: Bundle, user: str | None) -> None:
    total = sum(path.stat().st_size for path in bundle.folder.iterdir())
    say(f"{bundle.folder}: {', '.join(bundle.about['runs'])}; {size_text(total)}")
    say(bundle.trained_on)
    if not bundle.about["trained_on"]["contest"]:
        log("make submit refuses this without ARGS=--anyway; make data fetches the contest's photos")
    if not user:
        log("built without a user name; to push it, build with KAGGLE_USER=you")
