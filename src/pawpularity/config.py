"""The configuration: frozen dataclasses are the schema, YAML files are deltas, `key=value` words win over both.

    configs/default.yaml  <-  configs/densenet161.yaml  <-  configs/paper.yaml  <-  train.lr=3e-4

`resolve("densenet161,paper", ["train.lr=3e-4"])` merges them in that order. A file may start from others with
`base: NAME` (or a comma-separated list). Unknown keys are errors with the nearest valid name, and so are values of the
wrong type or outside their range. The resolved configuration is written into every run as `config.json`.

The meaning of every key stands beside it in `configs/default.yaml`.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pawpularity.errors import UserError, nearest

CONFIGS = "configs"
FITS = ("squash", "crop")
OUTPUTS = ("sigmoid", "relu", "linear")
LOSSES = ("bce", "mse", "huber")
COPIES = ("none", "paper", "authors")
AUGMENTS = ("none", "flip", "strong")
SCHEDULES = ("plateau", "cosine")
STOPS = ("early", "none")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Photos:
    """How a photo becomes a square of pixels."""

    size: int = 224
    fit: str = "squash"


@dataclass(frozen=True)
class FoldsConfig:
    """How the rows are split."""

    k: int = 5
    seed: int = 0
    bins: int = 10
    duplicate_threshold: float = 0.85


@dataclass(frozen=True)
class Model:
    """The network: a timm backbone, a metadata branch, their fusion, and one score."""

    backbone: str = "densenet161.tv_in1k"
    args: dict[str, Any] = field(default_factory=dict)
    weights: str = "imagenet"
    unfrozen: str = "82"
    metadata: str = "use"
    metadata_widths: list[int] = field(default_factory=lambda: [16, 32, 64])
    metadata_dropout: float = 0.1
    image_width: int = 512
    fusion_widths: list[int] = field(default_factory=lambda: [256])
    dropout: float = 0.3
    output: str = "sigmoid"

    @property
    def unfrozen_tensors(self) -> int | None:
        """Parameter tensors trained, counted from the backbone's end; None means all."""
        return None if self.unfrozen == "all" else int(self.unfrozen)


@dataclass(frozen=True)
class Train:
    """How one fold is fitted."""

    loss: str = "bce"
    huber_delta: float = 10.0
    lr: float = 1e-4
    weight_decay: float = 0.01
    epochs: int = 10
    batch_size: int = 32
    seed: int = 0
    copies: str = "none"
    augment: str = "flip"
    views: int = 0
    mixup: float = 0.0
    manifold_mixup: float = 0.0
    frozen_bn: bool = False
    schedule: str = "plateau"
    patience: int = 1
    warmup_epochs: float = 0.0
    stop: str = "early"
    stop_patience: int = 3
    inner_share: float = 0.1
    refit: bool = False
    ema: float = 0.0
    dtype: str = "auto"
    channels_last: bool = True
    compile: bool = False
    workers: int = -1


@dataclass(frozen=True)
class Cache:
    """Where derived files live."""

    folder: str = ".cache"
    budget_gb: float = 20.0


@dataclass(frozen=True)
class Predict:
    """How photos are scored."""

    flip: bool = False


@dataclass(frozen=True)
class Config:
    """Everything that decides a run's figures, and where its caches are."""

    name: str = "default"
    photos: Photos = field(default_factory=Photos)
    folds: FoldsConfig = field(default_factory=FoldsConfig)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    predict: Predict = field(default_factory=Predict)
    cache: Cache = field(default_factory=Cache)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionary, as written to `config.json`."""
        return dataclasses.asdict(self)


def config_path(name: str) -> Path:
    """`configs/NAME.yaml` below the current folder, else beside the source tree, or NAME itself if it is a YAML file."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"--config {name}: no such file")
        return path
    roots = [Path(CONFIGS), Path(__file__).resolve().parents[2] / CONFIGS]
    for root in roots:
        path = root / f"{name}.yaml"
        if path.is_file():
            return path
    known = {str(p.relative_to(root).with_suffix("")) for root in roots for p in root.rglob("*.yaml")}
    if not known:
        raise UserError(f"--config {name}: there is no {CONFIGS}/ folder here; run from the repository's top folder")
    raise UserError(f"--config {name}: no such configuration{nearest(name, known - {'default'})}")


def run_name(configs: str) -> str:
    """The run's default name for a `--config` word: `small/vgg,paper` -> `small-vgg-paper`."""
    words = (re.sub(r"\.ya?ml$", "", part.strip()) for part in configs.split(","))
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", word).strip("-.") for word in words if word)


def resolve(configs: str, overrides: Sequence[str] = (), *, validate: bool = True) -> Config:
    """Merge default.yaml, the comma-separated `configs` in order, and `key=value` words into a checked Config.

    Raises UserError naming the file or word, the key, and the nearest valid key.
    """
    from omegaconf import OmegaConf

    tree: Any = OmegaConf.structured(Config)
    for source in [config_path("default"), *_with_bases(configs)]:
        tree = _merge(tree, _read_yaml(source), str(source))
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UserError(f'"{word}": options are written key=value, for example train.lr=3e-4')
        if key in ("name", "base"):
            raise UserError(f"{key}: is not set by hand; use --run for the name, --config for the base")
        if not all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", part) for part in key.split(".")):
            raise UserError(f'"{word}": a key is words joined by dots, for example train.lr=3e-4')
        try:
            delta = OmegaConf.from_dotlist([f"{key}={value}"])
        except Exception as error:
            raise UserError(f"{word}: {_first_line(error)}") from None
        tree = _merge(tree, delta, f'"{word}"')
    tree = OmegaConf.merge(tree, {"name": run_name(configs) or "default"})
    config = OmegaConf.to_object(tree)
    assert isinstance(config, Config)
    if validate:
        check(config)
    return config


def from_dict(value: Mapping[str, Any], where: str) -> Config:
    """A Config from the `config` part of a run's config.json. Raises UserError naming `where` and the key."""
    from omegaconf import OmegaConf

    tree = _merge(OmegaConf.structured(Config), OmegaConf.create(dict(value)), where)
    config = OmegaConf.to_object(tree)
    assert isinstance(config, Config)
    check(config)
    return config


def _with_bases(configs: str, seen: tuple[str, ...] = ()) -> list[Path]:
    paths: list[Path] = []
    for name in (part.strip() for part in configs.split(",")):
        if not name or name == "default":
            continue
        if name in seen:
            raise UserError(f"--config {name}: its `base` leads back to itself ({' -> '.join([*seen, name])})")
        path = config_path(name)
        base = _read_yaml(path, keep_base=True).get("base")
        if base is not None:
            paths += _with_bases(str(base), (*seen, name))
        paths.append(path)
    return paths


def _read_yaml(path: Path, *, keep_base: bool = False) -> Any:
    from omegaconf import DictConfig, OmegaConf

    try:
        tree = OmegaConf.load(path)
    except Exception as error:
        raise UserError(f"{path}: is not readable YAML ({_first_line(error)})") from None
    if not isinstance(tree, DictConfig):
        raise UserError(f"{path}: must hold keys and values, like configs/densenet161.yaml")
    if not keep_base and "base" in tree:
        del tree["base"]
    return tree


def _merge(tree: Any, delta: Any, where: str) -> Any:
    from omegaconf import OmegaConf, read_write
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    _refuse_placeholders(OmegaConf.to_container(delta, resolve=False), where)
    try:
        merged = OmegaConf.merge(tree, delta)
        # `args` of another backbone mean nothing to this one: a delta that names a backbone starts its args afresh.
        named = OmegaConf.select(delta, "model.backbone")
        if named is not None and named != OmegaConf.select(tree, "model.backbone"):
            with read_write(merged), read_write(merged.model):
                merged.model.args = OmegaConf.select(delta, "model.args") or {}
        return merged
    except (ConfigKeyError, ConfigAttributeError) as error:
        key = str(error.full_key or error.key)
        parent, _, leaf = key.rpartition(".")
        node = OmegaConf.select(tree, parent) if parent else tree
        valid = [str(name) for name in (node or {})]
        dotted = [f"{parent}.{name}" if parent else name for name in valid]
        raise UserError(
            f"{where}: unknown key {key}{nearest(f'{parent}.{leaf}' if parent else leaf, dotted)}"
        ) from None
    except OmegaConfBaseException as error:
        raise UserError(f"{where}: {error.full_key or 'value'}: {_first_line(error)}") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {_first_line(error)}") from None


def _refuse_placeholders(value: Any, where: str) -> None:
    """OmegaConf reads `???` as "keep the old value" and `${...}` as a reference; here both would only be surprises."""
    if isinstance(value, Mapping):
        for item in value.values():
            _refuse_placeholders(item, where)
    elif isinstance(value, list):
        for item in value:
            _refuse_placeholders(item, where)
    elif isinstance(value, str) and ("${" in value or value == "???"):
        raise UserError(f"{where}: {value} is a placeholder; write the value itself")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()


def check(config: Config) -> None:
    """Raise UserError for a value outside its range or a pair of values that contradict each other."""
    model, train = config.model, config.train
    _one_of("photos.fit", config.photos.fit, FITS)
    _one_of("model.output", model.output, OUTPUTS)
    _one_of("model.metadata", model.metadata, ("use", "none"))
    _one_of("train.loss", train.loss, LOSSES)
    _one_of("train.copies", train.copies, COPIES)
    _one_of("train.augment", train.augment, AUGMENTS)
    _one_of("train.schedule", train.schedule, SCHEDULES)
    _one_of("train.stop", train.stop, STOPS)
    _one_of("train.dtype", train.dtype, DTYPES)
    _within("photos.size", config.photos.size, 32, 2048)
    _within("folds.k", config.folds.k, 2, 1000)
    _within("folds.seed", config.folds.seed, 0, 2**32 - 1)
    _within("folds.bins", config.folds.bins, 1, 100)
    _within("folds.duplicate_threshold", config.folds.duplicate_threshold, 0.8, 1)
    _within("model.image_width", model.image_width, 1, 65536)
    _within("model.dropout", model.dropout, 0, 0.95)
    _within("model.metadata_dropout", model.metadata_dropout, 0, 0.95)
    for key, widths in (("metadata_widths", model.metadata_widths), ("fusion_widths", model.fusion_widths)):
        for width in widths:
            _within(f"model.{key}", width, 1, 65536)
    for key in model.args:
        if not key.isidentifier():
            raise UserError(f"model.args: {key} is no argument's name; write model.args.NAME=VALUE, or {{NAME: VALUE}}")
    if not model.metadata_widths and model.metadata == "use":
        raise UserError("model.metadata_widths: is empty; give widths such as [16,32,64], or model.metadata=none")
    if model.unfrozen != "all" and not model.unfrozen.isdecimal():
        raise UserError(f"model.unfrozen={model.unfrozen}: must be a count of parameter tensors, or all")
    _within("train.lr", train.lr, 1e-9, 10)
    _within("train.weight_decay", train.weight_decay, 0, 10)
    _within("train.epochs", train.epochs, 1, 100_000)
    _within("train.batch_size", train.batch_size, 2, 65536)
    _within("train.seed", train.seed, 0, 2**31 - 1)
    _within("train.huber_delta", train.huber_delta, 1e-3, 1000)
    _within("train.views", train.views, 0, 100_000)
    _within("train.mixup", train.mixup, 0, 100)
    _within("train.manifold_mixup", train.manifold_mixup, 0, 100)
    _within("cache.budget_gb", config.cache.budget_gb, 0, 1e6)
    _within("train.patience", train.patience, 0, 100_000)
    _within("train.stop_patience", train.stop_patience, 1, 100_000)
    _within("train.warmup_epochs", train.warmup_epochs, 0, 1e6)
    if train.warmup_epochs > train.epochs:
        raise UserError(
            f"train.warmup_epochs={train.warmup_epochs:g} is longer than train.epochs={train.epochs}; "
            "add train.warmup_epochs=0, or train longer"
        )
    _within("train.inner_share", train.inner_share, 0.01, 0.5)
    _within("train.ema", train.ema, 0, 0.99999)
    _within("train.workers", train.workers, -1, 1024)
    if train.loss == "bce" and model.output != "sigmoid":
        raise UserError(
            f"train.loss=bce needs model.output=sigmoid, not {model.output}; or take train.loss=mse or huber"
        )
    if train.mixup and train.manifold_mixup:
        raise UserError("train.mixup mixes photos, train.manifold_mixup their states at the cut; take one of them")
    if train.manifold_mixup and model.unfrozen == "all":
        raise UserError(
            "train.manifold_mixup: nothing is frozen, so there is no cut to mix at; train.mixup mixes photos"
        )
    if train.views and train.augment != "strong":
        raise UserError(f"train.views={train.views}: only train.augment=strong has random views to count")
    if train.stop == "none" and train.schedule == "plateau":
        raise UserError("train.stop=none has no inner split for train.schedule=plateau to watch; take schedule=cosine")
    if train.stop == "none" and train.refit:
        raise UserError("train.refit=true chooses its epochs on the inner split, which train.stop=none does not make")
    if train.schedule == "plateau" and train.warmup_epochs:
        raise UserError("train.warmup_epochs belongs to train.schedule=cosine; plateau starts at the full rate")


def _one_of(key: str, value: str, options: Sequence[str]) -> None:
    if value not in options:
        raise UserError(f"{key}={value}: must be one of {', '.join(options)}")


def _within(key: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise UserError(f"{key}={value}: must lie in {low:g}..{high:g}")
