"""Where the oracles meet the package: the only file here that knows its modules, commands, options, files and keys.

Follow a rename here and nowhere else. Every function returns plain values: numbers, arrays, tables, paths, exit codes.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray

from pawpularity.cli import main
from pawpularity.config import resolve
from pawpularity.data.photo_cache import Photos
from pawpularity.data.photos import decode
from pawpularity.device import choose
from pawpularity.evaluation.calibration import Calibration, Order
from pawpularity.evaluation.metrics import evaluate
from pawpularity.explain.gradcam import gradcam
from pawpularity.explain.rise import rise
from pawpularity.explain.scored import PhotoScore
from pawpularity.models.network import build_network
from pawpularity.models.split import Split
from pawpularity.predictor import Predictor
from pawpularity.training.fit import fit_fold
from pawpularity.training.samples import TrainingData, fold_samples

ROOT = Path(__file__).resolve().parents[2]
CONTEST = "petfinder-pawpularity-score"
METADATA = ("Subject Focus", "Eyes", "Face", "Near", "Action", "Accessory", "Group", "Collage", "Human", "Occlusion", "Info",
            "Blur")  # fmt: skip
TOY = ("photos.size=32", "model.backbone=test_resnet", "model.weights=none", "train.epochs=2", "train.batch_size=16",
       "train.dtype=float32", "train.warmup_epochs=0", "folds.k=3")  # fmt: skip
KEEP_OFTEN = ("train.checkpoint_minutes=0",)
"""Settings under which a training writes its checkpoint as often as it can."""
METHODS = {"best": "best member", "mean": "mean", "nnls": "nnls", "nnls-intercept": "nnls with intercept", "simplex": "simplex",
           "ridge": "ridge", "ridge-gcv": "ridge by generalised CV", "hill-climb": "hill climb", "mean+affine": "mean, affine",
           "nnls+affine": "nnls, affine"}  # fmt: skip


def checkout(folder: Path) -> Path:
    """`folder`, made, with a copy of configs/: where commands can be run."""
    shutil.copytree(ROOT / "configs", folder / "configs", ignore=shutil.ignore_patterns("tuned"))
    return folder


def run(*words, at: Path):
    """(code, out, err) of a command, run in this process with `at` as the current folder. A defect: 1 and its traceback."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        sys.stdout.flush(), sys.stderr.flush()
        kept = os.dup(1), os.dup(2)
        os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
        try:
            with redirect_stdout(out), redirect_stderr(err), chdir(at):
                code = main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code or 0
        except Exception:
            code = 1
            traceback.print_exc(file=err)
        finally:
            for end, stream in zip(kept, (1, 2), strict=True):
                os.dup2(end, stream), os.close(end)
        out.seek(0), err.seek(0)
        return code, out.read(), err.read()


def start(*words, at: Path) -> subprocess.Popen:
    """The command in a process of its own; its standard error is a pipe."""
    return subprocess.Popen([sys.executable, "-m", "pawpularity", *map(str, words)], cwd=at, text=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip


def done(*words, at: Path):
    """What a command that must end well printed: (out, err)."""
    code, out, err = run(*words, at=at)
    assert code == 0, err
    return out, err


def figures(*words, at: Path):
    """The JSON of a command that must end well."""
    with tempfile.TemporaryDirectory() as place:
        done(*words, "--json", f"{place}/figures.json", at=at)
        return json.loads(Path(place, "figures.json").read_text())


def training(name: str, data: Path, *settings: str, config="scratch", fold=None, processes=None):
    """The words that train the run `name`."""
    words = ["train", "--config", config, "--data", data, "--run", name, *settings]
    return [*words, *(["--fold", fold] if fold is not None else []), *(["--processes", processes] if processes else [])]


def run_folder(at: Path, name: str) -> Path:
    """Where the run `name` is."""
    return at / "oof" / name


def predictions(at: Path, name: str, fold: int | None = None) -> pd.DataFrame:
    """Id, fold, target, prediction: all rows of a run, or those of one fold."""
    file = "oof.csv" if fold is None else f"fold{fold}/predictions.csv"
    return pd.read_csv(run_folder(at, name) / file, dtype={"Id": str})


def learning_curve(at: Path, name: str, fold: int) -> NDArray:
    """Training RMSE by epoch."""
    return pd.read_csv(run_folder(at, name) / f"fold{fold}" / "history.csv")["train_rmse"].to_numpy()


def flip_scores(at: Path, name: str, fold: int):
    """(RMSE without the mirror image, with it), as training noted them."""
    found = json.loads((run_folder(at, name) / f"fold{fold}" / "metrics.json").read_text())
    return found["rmse_without_flip"], found["rmse_with_flip"]


def processes(at: Path, name: str, fold: int) -> int:
    """In how many processes a fold was trained."""
    return json.loads((run_folder(at, name) / f"fold{fold}" / "metrics.json").read_text())["processes"]


def checkpoint(at: Path, name: str, fold: int) -> Path:
    """The file from which a stopped fold goes on."""
    return run_folder(at, name) / f".fold{fold}.checkpoint.safetensors"


def resumed(err: str) -> bool:
    """Whether a training said that it went on from a checkpoint."""
    return "resuming" in err


def cached_feature_files(at: Path) -> list[Path]:
    """The files that hold cached features."""
    return sorted((at / ".cache" / "features").glob("*/features.bin"))


def own_score(at: Path, name: str):
    """n, rmse, low, high, constant_rmse, r2 of a run (or CSV), its alarms, slope, intercept and correlation."""
    found = figures("oof", name, at=at)["runs"][0]
    more = found["breakdown"]
    kept = {key: more[key] for key in ("slope", "intercept", "correlation", "mean_of_folds")}
    bands = {band["name"]: (band["n"], band["rmse"], band["share"]) for band in more["bands"]}
    return found["score"] | kept | {"alarms": found["alarms"], "bands": bands}


def leak_replay(labels: Path, at: Path, answers: Path | None = None, copies="authors"):
    """The paper's split replayed: a dict of figures. `answers`: also write what the lookup answers, as a table."""
    words = ("leakage", "--labels", labels, "--copies", copies)
    found = figures(*words, *(("--answers", answers) if answers else ()), at=at)
    return found | {"items": found["samples"]}


def leak_alarms(table: Path, at: Path):
    """(whether it is called a leak, the names of the signs raised) of a table of predictions."""
    found = figures("leakcheck", table, at=at)
    return found["verdict"] == "leak", {sign["name"] for sign in found["signs"] if sign["raised"]}


def r2_interval(target, prediction):
    """(R2, lower end, upper end of its 95 % interval)."""
    found = evaluate(target, prediction, float(target.mean()), draws=1000)
    return found.r2, found.r2_low, found.r2_high


def blend(members, at: Path, name="blend", method=None, draws=10_000):
    """By method: rmse (cross-fitted), low, high, same_rows_rmse, difference to the best member and its interval."""
    words = ["ensemble", *members, "--run", name, "--draws", draws, *(["--method", method] if method else [])]
    return {METHODS[one["method"]]: one for one in figures(*words, at=at)["methods"] if one["method"] in METHODS}


def blend_weights(at: Path, name="blend") -> list[float]:
    """The members' weights for new photos."""
    return [one["weight"] for one in json.loads((run_folder(at, name) / "weights.json").read_text())["members"]]


def compare(first: str, other: str, at: Path):
    """rmse of both, their paired difference and its interval."""
    found = figures("compare", first, other, "--draws", 1000, at=at)
    return {"first": found["first"]["rmse"]} | found["others"][0]


def hypotheses(data: Path, at: Path, believed_by: Path | None = None, draws=10_000):
    """(by column: with, effect, low, high, se, p, corrected_p, verdict, adjusted, believed; the regression of all columns)."""
    words = ("hypotheses", "--data", data, "--draws", draws, *(("--run", believed_by) if believed_by else ()))
    found = figures(*words, at=at)
    return {row["column"]: row for row in found["tested"]}, found["joint"]


def ranges(target, prediction, new, level: float):
    """(low, high) of the true scores to expect for the predictions `new`, by out-of-fold rows."""
    return Calibration(target, prediction).interval(new, level)


def order_shares(target, prediction) -> list[float]:
    """How often the higher prediction is truly higher: 0-2, 2-5, 5-10, 10-15, 15-20, 20-30, more points apart; of all."""
    found = Order.measure(target, prediction)
    return [band.share for band in found.bands] + [found.whole.share]


def draw_sample(folder: Path, photos: int, size: int, seed: int, test_photos=5, pairs=0) -> Path:
    """A drawn data set at `folder`, in the contest's layout; `truth(folder)` says what moved its scores."""
    done("sample", "--photos", photos, "--size", size, "--seed", seed, "--test-photos", test_photos, "--pairs", pairs,
         "--into", folder, at=folder.parent)  # fmt: skip
    return folder


def truth(folder: Path):
    """(a row a photo of what was drawn and its points, {floor, constant_rmse})."""
    table = pd.read_csv(folder / "truth" / "parts.csv", dtype={"Id": str, "duplicate_of": str})
    return table.set_index("Id"), json.loads((folder / "truth" / "floor.json").read_text())


def counterfactual_pairs(folder: Path) -> pd.DataFrame:
    """part, effect (score points), with, without (paths of photos)."""
    table = pd.read_csv(folder / "pairs" / "pairs.csv", dtype=str)
    photo = {side: [folder / "pairs" / "photos" / f"{name}.jpg" for name in table[f"Id_{side}"]]
             for side in ("with", "without")}  # fmt: skip
    return pd.DataFrame({"part": table["part"], "effect": table["effect"].astype(float), **photo})


def pixels(photo: Path, size: int) -> NDArray[np.uint8]:
    """(size, size, 3) as every network sees the photo."""
    return decode(photo, size, "squash")


def predict_pixels(at: Path, name: str, photos, metadata=None, flip=None, folds=None) -> NDArray:
    """Mean score of the run's folds for (N, size, size, 3) pixels."""
    return Predictor.load(run_folder(at, name), folds=folds).predict(photos, metadata, flip=flip)


def submission(at: Path, name: str, data: Path) -> pd.DataFrame:
    """Id, Pawpularity that the run gives the photos of test.csv."""
    done("predict", "--run", name, "--data", data, "--out", "submission.csv", at=at)
    return pd.read_csv(at / "submission.csv", dtype={"Id": str})


def _split(net: torch.nn.Module) -> Split:
    size = getattr(getattr(net, "patch_embed", None), "img_size", None)
    return Split(net, size[0] if size else 64)


def split_count(net: torch.nn.Module) -> int:
    """In how many places a timm network (num_classes=0) can be split, its two ends not counted."""
    return len(_split(net)) - 1


def split_at(net: torch.nn.Module, place: int):
    """(frozen part, rest): two functions of a tensor, the network split at `place` (1 .. split_count)."""
    split = _split(net)
    return lambda x: split.run(x, 0, place), lambda x: split.run(x, place)


def fit_weights(photos, scores, metadata, training_rows, *settings: str):
    """({name: trained weights}, training RMSE by epoch) of one fold fitted on `training_rows` of the arrays."""
    config = resolve("scratch", ["photos.size=32", "train.batch_size=16", "train.warmup_epochs=0", *settings])
    rows = np.arange(len(scores))
    data = TrainingData(Photos.of(photos), rows, metadata, scores, rows)
    scored = np.setdiff1d(rows, training_rows)
    samples = fold_samples(config, scores, training_rows, scored, 0, 5)
    fitted = fit_fold(config, data, training_rows, fold=0, compute=choose("float32", "cpu"), samples=samples)
    weights = {name: tensor.numpy() for name, tensor in fitted.network.state_dict().items()}
    return weights, [epoch.train_rmse for epoch in fitted.history]


def network(backbone: str, size: int, *settings: str):
    """An untrained network of random weights: `timm` (the module), `input` (pixels -> tensor), `head` (pooled features and

    metadata -> score points), `gradcam` (input -> cells (h, w)).
    """
    words = [f"photos.size={size}", f"model.backbone={backbone}", "model.weights=none", *settings]
    net = build_network(resolve("scratch", words), fold=0).eval()

    def cells(x, metadata):
        return gradcam(PhotoScore(net, choose("float32", "cpu"), metadata), x).arrays["cells"]

    return SimpleNamespace(timm=net.backbone, gradcam=cells,
                           input=lambda photo: net.normalise(torch.from_numpy(photo)[None])[0],
                           head=lambda x, metadata: net.points(net.regress(x, torch.from_numpy(metadata)[None])))  # fmt: skip


def rise_map(score_of, photo: torch.Tensor, masks: int, seed=0):
    """(map, standard error, degrees of freedom), (H, W) score points: 8 x 8 cells, hidden places show zero."""
    found = rise(score_of, photo, masks=masks, cells=8, seed=seed, batch_size=128)
    return found.map.astype(float), found.standard_error.astype(float), found.degrees


def explained(at: Path, name: str, data: Path, masks: int):
    """By photo: its maps ({method: (H, W)}) and the relative error of RISE's by masks; then the picture of convergence."""
    quick = ("explain.sanity_photos=0", "explain.road=false", "explain.smooth=0")
    done("explain", "--run", name, "--data", data, "--n", 1, "--masks", masks, *quick, at=at)
    folder = run_folder(at, name) / "explain"
    found = {}
    for photo in json.loads((folder / "explain.json").read_text())["photos"]:
        with np.load(folder / "maps" / f"{photo['name']}.npz", allow_pickle=False) as maps:
            own = {key: maps[key] for key in ("gradient", "gradcam", "rise") if key in maps}
        found[photo["name"]] = own, photo["methods"]["rise"]["facts"]["history"]
    return found, folder / "convergence.png"


def difference_map(at: Path, name: str, data: Path, n: int):
    """high, low, difference and difference_standard_error (H, W) of the groups of high and of low scores; the figure."""
    done("explain", "--run", name, "--data", data, "--group", "scores", "--n", n, at=at)
    folder = run_folder(at, name) / "explain" / "groups" / "scores"
    with np.load(folder / "maps.npz", allow_pickle=False) as maps:
        return dict(maps), folder / "figure.png"


CHANGES = {"mirrored": "mirrored", "brightness -10 %": "darker by a tenth", "PGD 1/255, raise": "attacked upwards",
           "PGD 1/255, lower": "attacked downwards", "chance 1/255": "random noise"}  # fmt: skip


def robustness(at: Path, name: str, data: Path, photos: int) -> pd.DataFrame:
    """Id, fold, change (of CHANGES), score (of the photo as it is), move: a row a photo and change."""
    done("robustness", "--run", name, "--data", data, "--photos", photos, at=at)
    table = pd.read_csv(run_folder(at, name) / "robustness.csv", dtype={"Id": str})
    return table.assign(change=table["change"].map(CHANGES)).dropna(subset="change")


def table1(at: Path, data: Path, *settings: str):
    """{(backbone, copies, "honest" or "leaky"): its figures}: every cell of the paper's table."""
    cells = figures("table1", "--data", data, *settings, at=at)["cells"]
    return {(one["backbone"], one["copies"], one["split"]): one for one in cells}


def table1_run(backbone: str, copies: str, data: Path) -> str:
    """The name of the run behind an honest cell."""
    return f"table1-{backbone.replace('/', '-')}-{copies}-{data.name}"


def searching(name: str, data: Path, trials: int, *more: str):
    """The words of a search at toy size."""
    toy = ("photos.size=32", "folds.k=2", "train.epochs=2", "train.warmup_epochs=0", "train.augment=flip", "search.top=1",
           "search.space.model.unfrozen={low: 5, high: 30}")  # fmt: skip
    return ("tune", "--config", "sample", "--data", data, "--run", name, "--trials", trials, *toy, *more)


def trials(at: Path, name: str, url: str | None = None) -> list[optuna.trial.FrozenTrial]:
    """Optuna's own record of a search; [] before it exists."""
    try:
        if url is None:
            journal = optuna.storages.journal.JournalFileBackend(str(at / "oof" / "studies" / name / "study.journal"))
            return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(journal)).get_trials()
        storage = optuna.storages.RDBStorage(url.replace("postgresql://", "postgresql+pg8000://"))
        return optuna.load_study(study_name=name, storage=storage).get_trials()
    except KeyError:
        return []


def search_space() -> set[str]:
    """The settings that a search varies by default."""
    return set(yaml.safe_load((ROOT / "configs" / "default.yaml").read_text())["search"]["space"])


SEARCHED = {"unfrozen depth": "model.unfrozen", "head widths": "model.fusion_widths", "image width": "model.image_width",
            "dropout": "model.dropout", "learning rate": "train.lr"}  # fmt: skip


def jobs(at: Path, name: str, data: Path, *settings: str) -> list[str]:
    """A shell line for every fold that is not trained."""
    return done("jobs", "--config", "scratch", "--data", data, "--run", name, *settings, at=at)[0].splitlines()


def checklist(at: Path, *names: str):
    """(exit code, {question: (answer, files it was read from)} of the last run, the page)."""
    code, _, _ = run("checklist", "--runs", *names, "--json", "checklist.json", at=at)
    answers = json.loads((at / "checklist.json").read_text())["runs"][-1]["answers"]
    found = {one["question"]: (one["text"], [at / name.split(": ")[0] for name in one["read"]]) for one in answers}
    return code, found, at / "oof" / "checklist.md"


def build_kernel(at: Path, names) -> Path:
    """The folder that goes up to Kaggle for the runs `names`."""
    done("kernel", "--runs", *names, "--user", "anna", at=at)
    return at / "kernels" / "build"


def check_kernel(at: Path, photos: int):
    """difference (to predict, score points), sandbox (how it was closed), broken (photos it survived)."""
    return figures("kernel-check", "--photos", photos, at=at)


def run_kernel(build: Path, contest: Path, root: Path, before=()):
    """(code, submission.csv or None, what was printed) of the built script in a copy of Kaggle's folders at `root`."""
    shutil.copytree(build / "dataset", root / "input" / "datasets" / "anna" / "bundle")
    shutil.copytree(contest, root / "input" / "competitions" / CONTEST, symlinks=True)
    (root / "working").mkdir()
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run([*before, sys.executable, build / "kernel" / "inference.py"], cwd=root / "working", text=True,
                           capture_output=True, check=False, env=clean | {"PAWPULARITY_KAGGLE": str(root)})  # fmt: skip
    file = root / "working" / "submission.csv"
    table = pd.read_csv(file, dtype={"Id": str}) if file.is_file() else None
    return ended.returncode, table, ended.stdout + ended.stderr


def training_kernel(at: Path, name: str, *settings: str):
    """(its kernel-metadata.json, the script's path), for the contest's data at input/."""
    done("kernel-train", "--config", "sample", "--run", name, "--user", "anna", *settings, at=at)
    folder = at / "kernels" / "build" / "train" / name / "kernel"
    metadata = json.loads((folder / "kernel-metadata.json").read_text())
    return metadata, folder / metadata["code_file"]


def read_labels(folder: Path, at: Path):
    """(code, err, {Id: fold} or None): the command that reads train.csv, in its folder."""
    code, _, err = run("folds", "--data", folder, at=at)
    if code:
        return code, err, None
    (file,) = re.findall(r"oof/folds/\S+?\.csv", err)
    table = pd.read_csv(at / file, dtype={"Id": str}, keep_default_na=False)
    return code, err, dict(zip(table["Id"], table["fold"], strict=True))


def read_oof(file: Path, at: Path):
    """(code, err, RMSE or None): the command that reads anybody's predictions."""
    code, out, err = run("oof", file, "--json", "-", at=at)
    return code, err, None if code else json.loads(out)["runs"][0]["score"]["rmse"]
