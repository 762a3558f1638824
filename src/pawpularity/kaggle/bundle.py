"""Build what Kaggle gets: `kernels/build/dataset/` (see `contents`) and `kernels/build/kernel/`.

Only what prediction needs goes in, and nothing twice: frozen tensors that several runs have in common are kept in the file of
the first, and the code is what the kernel's script imports.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pawpularity import __version__
from pawpularity.console import log
from pawpularity.data.tables import read_cells
from pawpularity.ensemble.record import read_weights
from pawpularity.errors import UserError
from pawpularity.files import read_json, require_space, write_json, write_text
from pawpularity.kaggle import wheel
from pawpularity.kaggle.build_folders import BUILD, building, check_user, clear, source_of
from pawpularity.kaggle.contents import BUNDLE, FORMAT, KIND, METADATA, SUMS, WEIGHTS, Bundle, open_bundle, sha256
from pawpularity.kaggle.half import PHOTOS, Loss, halved
from pawpularity.kaggle.inference import HOURS
from pawpularity.kaggle.training_data import material
from pawpularity.models.weights import read_tensors, save_tensors, tensors_hash
from pawpularity.predictor import load_network
from pawpularity.runs import OOF, Run, check_name, git_commit

USER = "KAGGLE_USER"
"""Stands for the name of whoever pushes, until it is known."""
TITLE = "Pawpularity bundle"
SLUG = "pawpularity-bundle"
_SOURCE = Path("kernels/inference/inference.py")


@dataclass(frozen=True)
class Member:
    """A run and its share."""

    run: Run
    weight: float
    mean: float
    """of its out-of-fold predictions, in score points"""


@dataclass(frozen=True)
class Recipe:
    """What the kernel is to answer: clip(intercept + sum of weight x member, 1, 100)."""

    name: str
    intercept: float
    members: list[Member]
    mean: float
    """of the blend's out-of-fold predictions"""
    blend: str | None
    """the ensemble's name below oof/; None for a run alone and for a mean that nobody scored"""


@dataclass(frozen=True)
class Wishes:
    """How it is to be built."""

    user: str | None = None
    half: bool = False
    photos: int = PHOTOS
    data: Path | None = None
    hours: float = HOURS


def recipe_of(words: Sequence[str]) -> Recipe:
    """The recipe for one run, one blend, or the mean of several runs.

    Raises UserError for runs that keep no networks, that are not trained, or that were trained on different data.
    """
    if not words:
        raise UserError('kernel: name what to bundle: make kernel RUNS="densenet161 resnet152", or a blend: RUNS=NAME')
    runs = [Run.open(OOF / check_name(word)) for word in dict.fromkeys(words)]
    if len(runs) == 1 and runs[0].kind == "ensemble":
        blend = runs[0]
        intercept, weights = read_weights(blend)
        members = [_member(Run.open(OOF / name), weight) for name, weight in weights.items()]
        if not members:
            raise UserError(f"{blend.folder}: all its weights are 0, so there is nothing to predict with; blend anew")
        kept = blend.folder / WEIGHTS
        mean = (
            read_json(kept, f"blend {blend.name}").get("mean_prediction")
            if kept.is_file()
            else np.mean([m.mean for m in members])
        )
        recipe = Recipe(blend.name, intercept, members, float(mean), blend.name)
    else:
        if blends := [run.name for run in runs if run.kind == "ensemble"]:
            raise UserError(f"kernel: {blends[0]} is a blend; bundle it alone (RUNS={blends[0]}), or name its members")
        members = [_member(run, 1.0 / len(runs)) for run in runs]
        mean = float(np.mean([member.mean for member in members]))
        recipe = Recipe("-".join(run.name for run in runs)[:100], 0.0, members, mean, None)
        if len(runs) > 1:
            log(
                f"{len(runs)} runs: their mean, as nobody fitted weights; make ensemble MEMBERS=... fits and scores them"
            )
    hashes = {member.run.record["data"]["hash"]: member.run for member in recipe.members}
    if len(hashes) > 1:
        a, b = list(hashes.values())[:2]
        raise UserError(f"kernel: {a.name} and {b.name} were trained on different data; bundle runs of one data set")
    for member in recipe.members:
        if member.run.leaky:
            log(f"{member.run.name} is leaky by design (train.split=leaky): its own figures say nothing of new photos")
    return recipe


def _member(run: Run, weight: float) -> Member:
    run.require_networks()
    folds = run.trained_folds()
    if not folds:
        raise UserError(f"{run.folder}: no fold is trained yet; run: {run.remedy()}")
    if missing := run.k - len(folds):
        log(f"{run.name}: {missing} of {run.k} folds are not trained and will be missing from the bundle")
    files = [run.predictions_file(fold) for fold in folds]
    predictions = [read_cells(file, ("prediction",)).numbers("prediction", "a score") for file in files]
    return Member(run, weight, float(np.concatenate(predictions).mean()))


def build(recipe: Recipe, wishes: Wishes, folder: Path = BUILD) -> Bundle:
    """Build both folders below `folder`, each whole or not at all. Raises UserError as loading the networks does, for a
    user name that is none, and for data that is not the runs' own (half precision is measured on it).
    """
    if wishes.user is not None:
        check_user(wishes.user)
    source = source_of("kernel", _SOURCE)
    members = [member.run for member in recipe.members]
    tails = sum(run.head_file(fold).stat().st_size for run in members for fold in run.trained_folds())
    trunks = sum(run.frozen_file.stat().st_size for run in members if run.frozen_file.is_file())
    folder.mkdir(parents=True, exist_ok=True)
    require_space(
        folder, (tails // 2 if wishes.half else tails) + trunks, "the bundle", ", or name another place with --into DIR"
    )
    with building(folder / ".lock"):
        _build(recipe, wishes, folder, source)
    return open_bundle(folder / "dataset")


def _build(recipe: Recipe, wishes: Wishes, folder: Path, source: Path) -> None:
    names = ("dataset", "kernel")
    for left in [path for name in names for path in folder.glob(f".{name}.*.part")]:
        clear(left)
    fresh = {name: Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=folder)) for name in names}
    try:
        _fill(fresh["dataset"], recipe, wishes)
        _fill_kernel(fresh["kernel"], source, wishes)
        # Only now: what fails before leaves the two that belong together.
        for name, filled in fresh.items():
            filled.chmod(0o755)
            _take_place(filled, folder / name)
    finally:
        for left in fresh.values():
            shutil.rmtree(left, ignore_errors=True)


def _fill_kernel(into: Path, source: Path, wishes: Wishes) -> None:
    text = (source / "kernel-metadata.json").read_text(encoding="utf-8").replace(USER, wishes.user or USER)
    json.loads(text)
    write_text(into / "kernel-metadata.json", text)
    write_text(into / "inference.py", (source / "inference.py").read_text(encoding="utf-8"))


def _take_place(fresh: Path, place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        old = place.with_name(f".{place.name}.old.part")
        clear(old)
        place.rename(old)
        fresh.rename(place)
        shutil.rmtree(old)
    else:
        clear(place)
        fresh.rename(place)


@dataclass
class _Shelf:
    """Frozen tensors that are in the bundle already: (name, content) -> file."""

    held: dict[tuple[str, str], str] = field(default_factory=dict)


def _fill(into: Path, recipe: Recipe, wishes: Wishes) -> None:
    shelf = _Shelf()
    entries: dict[str, dict[str, Any]] = {}
    losses: dict[str, dict[str, Any]] = {}
    for member in recipe.members:
        run = member.run
        entries[run.name] = _fill_run(into, run, wishes, shelf, losses)
    code = into / wheel.NAME
    wheel.write_wheel(code, wheel.modules_for("pawpularity.kaggle.inference"))
    write_json(into / WEIGHTS, {
        "intercept": recipe.intercept,
        "members": [
            {"name": member.run.name, "weight": member.weight, "mean_prediction": member.mean} for member in recipe.members
        ],
        "clip": [1.0, 100.0],
        "mean_prediction": recipe.mean,
    })  # fmt: skip
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(into.iterdir())}
    write_json(into / BUNDLE, {
        "kind": KIND,
        "format": FORMAT,
        "package": __version__,
        "git_commit": git_commit(),
        "name": recipe.name,
        "ensemble": recipe.blend,
        "hours": wishes.hours,
        "code": code.name,
        "half": losses or None,
        "data": asdict(material(recipe.members[0].run)),  # of one data set, as recipe_of saw to
        "runs": entries,
        "files": files,
    })  # fmt: skip
    sums = {name: entry["sha256"] for name, entry in files.items()} | {BUNDLE: sha256(into / BUNDLE)}
    write_text(into / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))
    user = wishes.user or USER
    write_json(into / METADATA, {"title": TITLE, "id": f"{user}/{SLUG}", "licenses": [{"name": "other"}]})


def _fill_run(into: Path, run: Run, wishes: Wishes, shelf: _Shelf, losses: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Write one run's tensors and record; returns its part of bundle.json."""
    loss = Loss(run, _data_of(run, wishes.data), wishes.photos) if wishes.half else None
    folds: dict[str, dict[str, Any]] = {}
    first = None
    for fold in run.trained_folds():
        # Loading proves that tail, trunk and record belong together, before Kaggle is asked to believe it.
        network = load_network(run, fold, frozen_of=first)
        first = first or network
        file = into / f"{run.name}.fold{fold}.head.safetensors"
        tail = read_tensors(run.head_file(fold))
        if loss is None:
            shutil.copyfile(run.head_file(fold), file)
        else:
            tail = halved(tail)
            save_tensors(file, tail, {"run": run.name, "fold": str(fold), "precision": "half"})
            loss.measure(fold, network, tail)
        folds[str(fold)] = {"tail": file.name, "head_hash": tensors_hash(tail)}
    assert first is not None
    frozen = first.frozen_state()
    trunk: dict[str, list[str]] = {}
    own = {}
    for name, tensor in frozen.items():
        key = (name, tensors_hash({name: tensor}))
        held = shelf.held.setdefault(key, f"{run.name}.frozen.safetensors")
        trunk.setdefault(held, []).append(name)
        if held == f"{run.name}.frozen.safetensors":
            own[name] = tensor
    if own:
        save_tensors(into / f"{run.name}.frozen.safetensors", own, {"backbone": run.config.model.backbone})
    record = into / f"{run.name}.config.json"
    write_json(record, _record(run))
    if loss is not None:
        losses[run.name] = loss.result()
    return {"record": record.name, "folds": folds, "trunk": trunk}


def _record(run: Run) -> dict[str, Any]:
    """The run's record without what is of this machine: paths, processor."""
    config = run.config.to_dict()
    config["model"]["weights"] = "none"  # a place on this machine, or a download; the bundle holds the tensors
    config["cache"] = {"folder": ".cache", "budget_gb": 0.0}
    return {
        "kind": "run",
        "config": config,
        "data": {"name": run.record["data"]["name"], "hash": run.record["data"]["hash"]},
        "folds": run.record["folds"],
        "weights": {"trunk": "kept", "frozen_hash": run.record["weights"]["frozen_hash"]},
        "git_commit": run.record.get("git_commit"),
        "versions": run.record.get("versions"),
    }


def _data_of(run: Run, named: Path | None) -> Path:
    folder = named or (Path(run.record["data"]["folder"]) if run.record["data"].get("folder") else None)
    if folder is None or not (folder / "train").is_dir():
        raise UserError(
            f"{run.name}: half precision is measured on its own photos, which are not at {folder or 'a place it remembers'}; "
            "name them with DATA=DIR"
        )
    return folder
