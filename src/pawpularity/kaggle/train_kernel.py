"""`pawpularity kernel-train`: a kernel that trains one run on Kaggle's GPUs, `kernels/build/train/RUN/{dataset,kernel}`.

The data set holds the files that the script (kernels/train/train.py) copies into place on Kaggle, as in a checkout:

order.json                              run, folds, hours, required packages, where the files go
SHA256SUMS                              of all files
pawpularity-VERSION-py3-none-any.whl    the package
default.yaml, CONFIG-.yaml              the defaults; the run's resolved configuration
FOLDS.csv, FOLDS.json                   this machine's folds files of the contest, so that both use the same split
BACKBONE.safetensors                    the pretrained weights, only with --offline

`make train RUN=...` makes the same run here, so its folds may come from both places.
"""

import importlib.metadata
import re
import shutil
from pathlib import Path

import yaml

from pawpularity.config import Config, config_path, resolve
from pawpularity.console import log, next_step, say
from pawpularity.context import FOLDS, default_run
from pawpularity.data import CONTEST
from pawpularity.errors import UserError
from pawpularity.files import atomic_folder, size_text, write_json, write_text
from pawpularity.kaggle.built_kernel import (
    BUILD,
    ORDER,
    USER,
    WHEEL,
    built_kernel,
    check_user,
    write_kernel,
    write_wheel,
)
from pawpularity.kaggle.bundle import write_sums
from pawpularity.runs import check_name

FORMAT = 2
"""Of order.json; kernels/train/train.py has the same number."""
SESSION_HOURS = 12.0
"""Kaggle's limit for a GPU session (https://www.kaggle.com/docs/notebooks)."""
UNUSED = {"grad-cam", "jinja2", "matplotlib", "optuna", "pg8000", "plotly", "scikit-learn", "statsmodels"}
"""Dependencies that training does not import."""


def kernel_train(
    *,
    folds: list[str],
    hours: float,
    resume: bool,
    offline: bool,
    user: str | None,
    run: str | None,
    config: str | None,
    settings: list[str],
) -> None:
    """Build the kernel and its data set.

    Raises UserError for more hours than Kaggle allows, weights that Kaggle cannot fetch, and names that are too long.
    """
    configs = config or "densenet161"
    resolved = resolve(configs, settings)
    name = check_name(run or default_run(configs, CONTEST, settings))
    numbers = _fold_numbers(folds, resolved.folds.k)
    if not 0.05 <= hours <= SESSION_HOURS - 0.25:
        raise UserError(
            f"--hours {hours:g}: must be 0.05 to {SESSION_HOURS - 0.25:g}; Kaggle ends a GPU session after 12"
        )
    owner, slug, weights = check_user(user) if user else USER, _slug(name), _weights(resolved, offline)
    kernel_id, title = f"{owner}/pawpularity-train-{slug}", f"pawpularity train {slug.replace('-', ' ')}"
    about = {
        "id": kernel_id,
        "title": title,
        # The kernel's own last output. Kaggle refuses it until a version has completed.
        "kernel_sources": [kernel_id] if resume else [],
        "enable_internet": not offline,
    }
    with atomic_folder(BUILD / "train" / name) as fresh:
        dataset, script = fresh / "dataset", fresh / "kernel"
        dataset.mkdir()
        script.mkdir()
        write_kernel(script, "train", about, f"{kernel_id}-files", resolved.kernel.carrier)
        config_name, places = _copy_inputs(dataset, resolved, weights)
        order = {
            "format": FORMAT,
            "package": WHEEL,
            "run": name,
            "config": config_name,
            "folds": numbers,
            "hours": hours,
            "internet": not offline,
            "needs": needed_packages(),
            "places": places,
        }
        write_json(dataset / ORDER, order)
        write_sums(dataset)
    built = built_kernel(f"train-{name}")
    total = size_text(sum(path.stat().st_size for path in built.files))
    say(f"{built.root}: fold {', '.join(map(str, numbers))} of run {name}, at most {hours:g} h; {total}")
    if not user:
        log("built without a user name; to push it, build with KAGGLE_USER=you")
    next_step(f"make kernel-push{built.make_word}")


def needed_packages() -> list[str]:
    """The packages that training imports, as pip requirements with the package's lower bounds."""
    words = [word for word in importlib.metadata.requires("pawpularity") or [] if "extra ==" not in word]
    return [word for word in words if re.split(r"[>=<~!\s]", word)[0] not in UNUSED]


def _fold_numbers(words: list[str], k: int) -> list[int]:
    """The folds that `words` name; all of them where there are none."""
    if wrong := [word for word in words if not (word.isascii() and word.isdigit() and int(word) < k)]:
        raise UserError(f"--folds {wrong[0]}: is not a fold; write them like 0 1, each 0 to {k - 1} (folds.k is {k})")
    return list(dict.fromkeys(int(word) for word in words)) or list(range(k))


def slug_of(title: str) -> str:
    """The name that Kaggle makes of a title: small letters and digits, dashes for all else."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _slug(run: str) -> str:
    slug = slug_of(run)
    if len(f"pawpularity-train-{slug}-files") > 50:
        raise UserError(
            f"--run {run}: is too long a name for Kaggle, which allows 50 letters with ours; take another: RUN=..."
        )
    return slug


def _weights(config: Config, offline: bool) -> Path | None:
    """The weights file to put into the data set. Raises UserError for weights that the kernel could not find on Kaggle."""
    named = config.model.weights
    if named not in ("imagenet", "drawn", "none"):
        raise UserError(
            f"model.weights={named}: is a place on this machine; put the file into input/weights/ under its timm name, and build "
            "with model.weights=imagenet --offline"
        )
    if named != "imagenet" or not offline:
        return None
    from pawpularity.models.weights import find_weights

    return find_weights(config.model.backbone, named)


def _copy_inputs(into: Path, config: Config, weights: Path | None) -> tuple[str, dict[str, str]]:
    """Copy package, configuration, folds files and weights; returns the configuration's name, and each file's place on Kaggle."""
    write_wheel(into / WHEEL, pretrained=True)
    # The dash keeps a config named `default` from replacing the defaults. The run's record drops it (`run_name`).
    name = f"{config.name}-"
    files = {config_path("default"): "configs/default.yaml"}
    settings = {key: value for key, value in config.to_dict().items() if key not in ("name", "cache")}
    write_text(into / f"{name}.yaml", yaml.safe_dump(settings, sort_keys=False))
    for folds in sorted(FOLDS.glob(f"{CONTEST.name}-*.csv")):
        if folds.with_suffix(".json").is_file():
            files |= {file: f"oof/folds/{file.name}" for file in (folds, folds.with_suffix(".json"))}
    if weights is not None:
        files[weights] = f"input/weights/{config.model.backbone}{weights.suffix}"
    for file, place in files.items():
        shutil.copyfile(file, into / Path(place).name)
    places = [f"configs/{name}.yaml", *files.values()]
    return name, {Path(place).name: place for place in places}
