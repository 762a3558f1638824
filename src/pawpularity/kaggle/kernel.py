"""`pawpularity kernel`: build the inference kernel, `kernels/build/dataset/` (see `bundle`) and `kernels/build/kernel/`.

The bundle holds only what prediction needs, and nothing twice: frozen tensors that runs share are in the file of the first run.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pawpularity import __version__
from pawpularity.config import resolve
from pawpularity.console import log, next_step, say, track
from pawpularity.data import is_drawn
from pawpularity.data.tables import ID
from pawpularity.errors import UserError
from pawpularity.evaluation.oof import read_oof, run_folds
from pawpularity.files import atomic_folder, read_json, require_space, size_text, text_hash, write_json
from pawpularity.kaggle import wheel
from pawpularity.kaggle.built_kernel import BUILD, KERNEL, USER, check_user, kernel_source, sources
from pawpularity.kaggle.bundle import BUNDLE, FORMAT, METADATA, Bundle, open_bundle, write_sums
from pawpularity.kaggle.inference import HOURS
from pawpularity.kaggle.submission import members_of
from pawpularity.runs import OOF, Run, check_name, git_commit

TITLE = "Pawpularity bundle"
SLUG, KERNEL_SLUG = "pawpularity-bundle", "pawpularity-inference"
CONTEST_IDS = "67f0c419872d"
"""`ids_hash` of the contest's train.csv, 9,912 photos."""

Members = list[tuple[Run, float]]
"""Runs and their weights."""


def kernel(
    *,
    runs: list[str],
    user: str | None,
    half: bool,
    photos: int,
    hours: float | None,
    into: str,
    config: str | None,
    data: str | None,
    settings: list[str],
) -> None:
    """Build the inference kernel and its data set. `half` stores the trained heads in half precision, measured on `photos` photos.

    Raises UserError for runs without networks or of different data, and as loading the networks does.
    """
    if other := [*(["--config"] if config else []), *(word for word in settings if not word.startswith("kernel."))]:
        raise UserError(f'kernel: uses the runs\' own settings; remove "{other[0]}"')
    carrier = resolve("default", settings).kernel.carrier
    hours = HOURS if hours is None else hours
    if not 0.1 <= hours <= 9:
        raise UserError(f"--hours {hours:g}: must be 0.1 to 9; Kaggle stops the contest's kernels after 9")
    if photos < 1:
        raise UserError(f"--photos {photos}: must be 1 or more")
    if user:
        check_user(user)
    about, members = recipe_of(runs)
    folder, source = Path(into), kernel_source("inference")
    needed = sum(run.head_file(fold).stat().st_size for run, _ in members for fold in run.trained_folds())
    needed += sum(run.frozen_file.stat().st_size for run, _ in members if run.frozen_file.is_file())
    require_space(folder, needed, "the bundle", ", or name another place with --into DIR")
    about |= {"hours": hours, "half": _losses(members, Path(data) if data else None, photos) if half else {}}
    with atomic_folder(folder / "dataset") as dataset, atomic_folder(folder / "kernel") as script:
        _write_bundle(dataset, about, members)
        write_json(dataset / METADATA, {"title": TITLE, "id": f"{user or USER}/{SLUG}"})
        metadata = read_json(source / KERNEL, "kernel") | {"id": f"{user or USER}/{KERNEL_SLUG}"}
        write_json(script / KERNEL, metadata | sources(f"{user or USER}/{SLUG}", carrier))
        shutil.copyfile(source / "inference.py", script / "inference.py")
    _show(open_bundle(folder / "dataset"), user)
    next_step("make kernel-check", BUILD=into if folder != BUILD else None)


def recipe_of(words: Sequence[str]) -> tuple[dict[str, Any], Members]:
    """Name, intercept and blend for bundle.json, and the members with their weights, of one run, one blend or several runs' mean.

    Raises UserError for runs that keep no networks, are not trained, or were trained on different data.
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
    for run, _ in members:
        run.require_networks()
        folds = run.trained_folds()
        if not folds:
            raise UserError(f"{run.folder}: no fold is trained yet; run: {run.remedy()}")
        if len(folds) < run.k:
            log(f"{run.name}: only folds {folds} of {run.k} are trained; the bundle holds those")
        if run.leaky:
            log(f"{run.name} is leaky by design (train.split=leaky): its own figures say nothing about new photos")
    hashes = {run.record["data"]["hash"]: run.name for run, _ in members}
    if len(hashes) > 1:
        raise UserError(f"kernel: {' and '.join(hashes.values())} were trained on different data; bundle runs of one")
    return about, members


def mean_prediction(run: Run) -> float:
    """The mean out-of-fold prediction of the trained folds."""
    return float(pd.concat(read_oof(run.predictions_file(fold)) for fold in run.trained_folds())["prediction"].mean())


def trained_on(run: Run) -> dict[str, Any]:
    """Name and number of the training photos; whether they are drawn; whether they are exactly the contest's, by their Ids."""
    data = run.record["data"]
    ids = run_folds(run).frame[ID].tolist()
    drawn = is_drawn(Path(data.get("folder") or Path("input") / data["name"]))
    return {"name": data["name"], "photos": len(ids), "drawn": drawn, "contest": ids_hash(ids) == CONTEST_IDS}


def ids_hash(ids: Sequence[str]) -> str:
    """12 hex digits over the Ids, in any order."""
    return text_hash("ids 1", *sorted(ids))


def _losses(members: Members, data: Path | None, photos: int) -> dict[str, Any]:
    from pawpularity.kaggle.half_precision import loss_of_halves

    return {run.name: loss_of_halves(run, data, photos) for run, _ in members}


def _write_bundle(into: Path, about: dict[str, Any], members: Members) -> None:
    held: dict[tuple[str, str], str] = {}  # a frozen tensor's name and hash: the file that holds it
    runs = {}
    for run, weight in members:
        entry = _write_run(into, run, held, half=bool(about["half"]))
        runs[run.name] = {"weight": weight, "mean_prediction": mean_prediction(run), **entry}
    wheel.write_wheel(into / wheel.NAME)
    common = {
        "format": FORMAT,
        "package": __version__,
        "git_commit": git_commit(),
        "code": wheel.NAME,
        "mean_prediction": sum(run["weight"] * run["mean_prediction"] for run in runs.values()),
        "trained_on": trained_on(members[0][0]),
    }
    write_json(into / BUNDLE, common | about | {"runs": runs})
    write_sums(into)


def _write_run(into: Path, run: Run, held: dict[tuple[str, str], str], *, half: bool) -> dict[str, Any]:
    """Write one run's tensors; returns its part of bundle.json.

    Loading every network checks that head, frozen part and record belong together.
    """
    from pawpularity.kaggle.half_precision import halved
    from pawpularity.models.weights import read_tensors, save_tensors, tensors_hash
    from pawpularity.predictor import load_network

    folds: dict[str, dict[str, str]] = {}
    first = None
    for fold in track(run.trained_folds(), f"bundle {run.name}", unit="folds"):
        first = load_network(run, fold, frozen_of=first)
        file, head = into / f"{run.name}.fold{fold}.head.safetensors", read_tensors(run.head_file(fold))
        if half:
            head = halved(head)
            save_tensors(file, head, {"run": run.name, "fold": str(fold), "precision": "half"})
        else:
            shutil.copyfile(run.head_file(fold), file)
        folds[str(fold)] = {"head": file.name, "head_hash": tensors_hash(head)}
    assert first is not None
    frozen_file, tensors = f"{run.name}.frozen.safetensors", first.frozen_state()
    places = {name: held.setdefault((name, tensors_hash({name: tensors[name]})), frozen_file) for name in tensors}
    if kept := {name: tensor for name, tensor in tensors.items() if places[name] == frozen_file}:
        save_tensors(into / frozen_file, kept, {"backbone": run.config.model.backbone})
    frozen = {file: [name for name in places if places[name] == file] for file in dict.fromkeys(places.values())}
    return {"record": _record(run), "folds": folds, "frozen": frozen}


def _record(run: Run) -> dict[str, Any]:
    """The run's record without details of this machine: paths, processor."""
    config = dict(run.record["config"])
    config["model"] = config["model"] | {"weights": "none"}  # the bundle holds the tensors
    config["cache"] = {"folder": ".cache", "budget_gb": 0.0}
    return {
        "kind": "run",
        "config": config,
        "data": {key: run.record["data"][key] for key in ("name", "hash")},
        "folds": run.record["folds"],
        "weights": {"frozen": "kept", "frozen_hash": run.record["weights"]["frozen_hash"]},
        "git_commit": run.record.get("git_commit"),
        "versions": run.record.get("versions"),
    }


def _show(bundle: Bundle, user: str | None) -> None:
    sizes = {path.name: path.stat().st_size for path in bundle.folder.iterdir() if path.name != METADATA}
    frozen = sum(size for name, size in sizes.items() if name.endswith(".frozen.safetensors"))
    networks = ", ".join(f"{run.name} ({len(run.trained_folds())} folds)" for run in bundle.runs)
    say(f"{bundle.folder}: {networks}; {size_text(sum(sizes.values()))}, of it {size_text(frozen)} frozen backbones")
    for name, loss in bundle.about["half"].items():
        say(f"half precision moves {name} by {loss['largest_difference']:.4f} points at most, RMSE {loss['rmse']:.4f} -> "
              f"{loss['rmse_half']:.4f} (constant {loss['constant_rmse']:.2f}; {loss['photos']} photos out of fold, "
              f"{loss['dtype']})")  # fmt: skip
    say(bundle.trained_on)
    if not bundle.trained_on_contest:
        log("make submit refuses this without ARGS=--anyway; make data fetches the contest's photos")
    if not user:
        log("built without a user name; to push it, build with KAGGLE_USER=you")
