"""A kernel that trains one run on Kaggle's GPUs: `kernels/build/train/RUN/{dataset,kernel}`.

The data set carries what the script (kernels/train/train.py) lays out there as a checkout has it:

order.json                          run, folds, hours, needed packages, SHA-256 of every file
pawpularity-VERSION-py3-none-any.whl    the package
default.yaml, CONFIG-.yaml          the schema's defaults; the run's configuration, resolved
FOLDS.csv, FOLDS.json               the contest's folds files of this machine, so that both split alike
BACKBONE.safetensors                the pretrained weights, only with `offline`

The run is the one that `make train RUN=...` would make here: its folds may come from both places.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pawpularity
from pawpularity.config import Config, config_path
from pawpularity.data.dataset import CONTEST
from pawpularity.errors import UserError
from pawpularity.files import read_json, write_json, write_text
from pawpularity.kaggle import wheel
from pawpularity.kaggle.build_folders import (
    Pair,
    building,
    check_pair,
    check_user,
    clear,
    pair_of,
    slug_of,
    source_of,
)
from pawpularity.kaggle.contents import sha256
from pawpularity.runs import OOF

FORMAT = 1
HOURS = 12.0
"""What Kaggle allows a GPU session (https://www.kaggle.com/docs/notebooks)."""
_LICENCE = "other"
_SOURCE = Path("kernels/train/train.py")

NEEDS: list[dict[str, Any]] = [
    {"module": "torch", "name": "torch", "at_least": "2.6", "keep": True},
    {"module": "torchvision", "name": "torchvision", "at_least": "0.21", "keep": True},
    {"module": "numpy", "name": "numpy", "at_least": "1.26", "keep": True},
    {"module": "timm", "name": "timm", "at_least": "1.0.15"},
    {"module": "cv2", "name": "opencv-python-headless", "at_least": "4.10", "also": ["opencv-python", "opencv-contrib-python"]},
    {"module": "pandas", "name": "pandas", "at_least": "2.2"},
    {"module": "scipy", "name": "scipy", "at_least": "1.13"},
    {"module": "PIL", "name": "pillow", "at_least": "10.3"},
    {"module": "imagehash", "name": "ImageHash", "at_least": "4.3.1"},
    {"module": "omegaconf", "name": "omegaconf", "at_least": "2.3"},
    {"module": "safetensors", "name": "safetensors", "at_least": "0.4.5"},
    {"module": "tqdm", "name": "tqdm", "at_least": "4.66"},
    {"module": "filelock", "name": "filelock", "at_least": "3.16"},
]  # fmt: skip
"""What training imports, with pyproject.toml's lower bounds. `keep`: never replaced on Kaggle, whose GPUs need its own build."""
PAINTER: dict[str, Any] = {"module": "albumentations", "name": "albumentations", "exactly": "2.0.8"}
"""Only for copies and random views."""


@dataclass(frozen=True)
class Wanted:
    """What is to be trained there."""

    config: Config
    run: str
    folds: tuple[int, ...]
    hours: float
    user: str | None
    """On Kaggle; None: not known yet, so that it cannot be pushed"""
    resume: bool = False
    offline: bool = False


def fold_numbers(words: Sequence[str], k: int) -> tuple[int, ...]:
    """The folds that `words` name; all of them where there are none. Raises UserError."""
    if odd := [word for word in words if not (word.isascii() and word.isdigit() and int(word) < k)]:
        raise UserError(f"--folds {odd[0]}: is no fold; write them like 0 1, in 0..{k - 1} (folds.k is {k})")
    return tuple(dict.fromkeys(int(word) for word in words)) or tuple(range(k))


def build_train_kernel(wanted: Wanted, build: Path) -> Pair:
    """Build data set and kernel below `build`, whole or not at all.

    Raises UserError for hours that Kaggle does not give, weights that cannot be had there, and names that Kaggle cannot hold or
    that another run has there.
    """
    if not 0.05 <= wanted.hours <= HOURS - 0.25:
        raise UserError(
            f"--hours {wanted.hours:g}: must lie in 0.05..{HOURS - 0.25:g}; Kaggle ends a GPU session after {HOURS:g}"
        )
    if wanted.user is not None:
        check_user(wanted.user)
    _require_own_name(wanted.run, build)
    source = source_of("kernel-train", _SOURCE)
    weights = _weights(wanted)
    place = build / "train" / wanted.run
    place.parent.mkdir(parents=True, exist_ok=True)
    with building(place.with_name(f".{wanted.run}.lock")):
        _build(wanted, source, weights, place)
    pair = pair_of(f"train-{wanted.run}", build)
    if wanted.user is not None:
        check_pair(pair, wanted.user)
    return pair


def _build(wanted: Wanted, source: Path, weights: Path | None, place: Path) -> None:
    fresh = Path(tempfile.mkdtemp(prefix=f".{wanted.run}.", suffix=".part", dir=place.parent))
    try:
        (fresh / "dataset").mkdir()
        (fresh / "kernel").mkdir()
        _fill_kernel(wanted, source, fresh / "kernel")
        _fill_dataset(wanted, weights, fresh / "dataset")
        fresh.chmod(0o755)
        clear(place)
        fresh.rename(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _slug(run: str) -> str:
    slug = slug_of(run)
    if len(f"pawpularity-train-{slug}-files") > 50:
        raise UserError(f"--run {run}: is too long a name for Kaggle (50 letters with ours); take another: RUN=...")
    return slug


def _require_own_name(run: str, build: Path) -> None:
    """Raise UserError where another run has the name on Kaggle that `run` would get: one would take the other's place."""
    slug = _slug(run)
    built = (path for path in (build / "train").glob("[!.]*") if path.is_dir())
    pushed = (build.parent / "pushed").glob("train-*.json")
    for name, place in [
        *((path.name, path) for path in built),
        *((path.stem.removeprefix("train-"), path) for path in pushed),
    ]:
        if name != run and slug_of(name) == slug:
            raise UserError(f"--run {run}: Kaggle would call it pawpularity-train-{slug}, as it does run {name} ({place}); "
                            f"take another name: RUN=..., or delete {place}")  # fmt: skip


def _fill_kernel(wanted: Wanted, source: Path, into: Path) -> None:
    slug, user = _slug(wanted.run), wanted.user or "KAGGLE_USER"
    metadata = read_json(source / "kernel-metadata.json", "kernel-train")
    kernel = f"{user}/pawpularity-train-{slug}"
    metadata |= {
        "id": kernel,
        "title": f"pawpularity train {slug.replace('-', ' ')}",
        "dataset_sources": [f"{kernel}-files"],
        # Its own last output. Kaggle refuses it as long as no version has completed.
        "kernel_sources": [kernel] if wanted.resume else [],
        "enable_internet": not wanted.offline,
    }
    write_json(into / "kernel-metadata.json", metadata)
    shutil.copyfile(source / "train.py", into / "train.py")


def _fill_dataset(wanted: Wanted, weights: Path | None, into: Path) -> None:
    from omegaconf import OmegaConf

    slug, user = _slug(wanted.run), wanted.user or "KAGGLE_USER"
    wheel.write_wheel(into / wheel.NAME, package_files())
    # Not under the configuration's own name: `default` would be taken for the schema's defaults, and passed over. A dash at
    # the end is dropped from what a run's record calls its configuration (`run_name`): there as it is called here.
    name = f"{wanted.config.name}-"
    places = {file: f"configs/{file}" for file in ("default.yaml", f"{name}.yaml")}
    shutil.copyfile(config_path("default"), into / "default.yaml")
    settings = {key: value for key, value in wanted.config.to_dict().items() if key not in ("name", "cache")}
    write_text(into / f"{name}.yaml", OmegaConf.to_yaml(OmegaConf.create(settings)))
    for folds in sorted((OOF / "folds").glob(f"{CONTEST.name}-*.csv")):
        if (beside := folds.with_suffix(".json")).is_file():
            for file in (folds, beside):
                shutil.copyfile(file, into / file.name)
                places[file.name] = f"oof/folds/{file.name}"
    if weights is not None:
        file_name = f"{wanted.config.model.backbone}.safetensors"
        shutil.copyfile(weights, into / file_name)
        places[file_name] = f"input/weights/{file_name}"
    paints = wanted.config.train.augment == "strong" or wanted.config.train.copies != "none"
    order = {
        "format": FORMAT,
        "version": pawpularity.__version__,
        "package": wheel.NAME,
        "run": wanted.run,
        "config": name,
        "folds": list(wanted.folds),
        "hours": wanted.hours,
        "internet": not wanted.offline,
        "needs": [*NEEDS, *([PAINTER] if paints else [])],
        "places": places,
        "files": {path.name: sha256(path) for path in sorted(into.iterdir())},
    }
    write_json(into / "order.json", order)
    metadata = {
        "title": f"pawpularity train {slug.replace('-', ' ')} files",
        "id": f"{user}/pawpularity-train-{slug}-files",
        "licenses": [{"name": _LICENCE}],
    }
    write_json(into / "dataset-metadata.json", metadata)


def _weights(wanted: Wanted) -> Path | None:
    """The weights file to carry along. Raises UserError where Kaggle could not find what the configuration names."""
    named = wanted.config.model.weights
    if named not in ("imagenet", "drawn", "none"):
        raise UserError(f"model.weights={named}: is a place on this machine; put the file into input/weights/ under its timm name, "
                        "take model.weights=imagenet, and --offline carries it along")  # fmt: skip
    if named != "imagenet" or not wanted.offline:
        return None
    from pawpularity.models.weights import find_weights

    return find_weights(wanted.config.model.backbone, named)


def package_files() -> list[Path]:
    """The package's modules, and the net that comes with it."""
    found = (path for path in wheel.PACKAGE.rglob("*") if path.suffix == ".py" or path.parent.name == "pretrained")
    return sorted(path for path in found if path.is_file())
