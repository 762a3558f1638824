"""The schema of the configuration: frozen dataclasses with their defaults, and which values make sense together.

`config` merges files and words over it; the meaning of every key stands beside it in `configs/default.yaml`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pawpularity.errors import UserError
from pawpularity.training.losses import LOSSES

FITS = ("squash", "crop")
OUTPUTS = ("sigmoid", "relu", "linear")
COPIES = ("none", "paper", "authors")
SPLITS = ("honest", "leaky")
AUGMENTS = ("none", "flip", "strong")
SCHEDULES = ("plateau", "cosine")
STOPS = ("early", "none")
DTYPES = ("auto", "float32", "bfloat16", "float16")
PRUNERS = ("median", "hyperband", "none")
DEPTHS = ("fit", "paper")


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
    split: str = "honest"
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
class HypothesesConfig:
    """How the paper's claims are judged."""

    # Points: 0.15 sd of the contest's scores; from its median, 33, to 36 is 7 percentiles (48.4 -> 55.8 % below).
    margin: float = 3.0


def _space() -> dict[str, Any]:
    return {
        "model.unfrozen": {"low": 50, "high": 120},
        "model.image_width": {"choices": [128, 256, 512]},
        "model.metadata_widths": {"choices": [[16], [16, 32], [16, 32, 64]]},
        "model.fusion_widths": {"choices": [[64], [256], [256, 64]]},
        "model.dropout": {"low": 0.2, "high": 0.5},
        "train.lr": {"low": 1e-5, "high": 3e-3, "log": True},
        "train.weight_decay": {"low": 1e-4, "high": 0.3, "log": True},
    }


@dataclass(frozen=True)
class Search:
    """What a search draws from, and how it is run."""

    fold: int = 0
    trials: int = 50
    seed: int = 0
    pruner: str = "median"
    inner_share: float = 0.2
    top: int = 5
    nested: bool = False
    depths: str = "fit"
    heartbeat: int = 60
    space: dict[str, Any] = field(default_factory=_space)


@dataclass(frozen=True)
class Explain:
    """How a photo's score is traced back to its places."""

    methods: list[str] = field(default_factory=lambda: ["gradient", "gradcam", "rise"])
    masks: str = "auto"
    cells: int = 8
    precision: float = 0.2
    budget: int = 2048
    smooth: int = 16
    noise: float = 0.15
    road: bool = True
    sanity_photos: int = 8
    group_photos: int = 48
    group_blocks: int = 2
    batch_size: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Config:
    """Everything that decides a run's figures, and where its caches are."""

    name: str = "default"
    photos: Photos = field(default_factory=Photos)
    folds: FoldsConfig = field(default_factory=FoldsConfig)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    predict: Predict = field(default_factory=Predict)
    hypotheses: HypothesesConfig = field(default_factory=HypothesesConfig)
    search: Search = field(default_factory=Search)
    explain: Explain = field(default_factory=Explain)
    cache: Cache = field(default_factory=Cache)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionary, as written to `config.json`."""
        return dataclasses.asdict(self)

    @staticmethod
    def of_resolved(value: Mapping[str, Any], where: str) -> "Config":
        """The Config whose `to_dict` was written, without a merge: `config.from_dict` is for what people may have edited.

        Raises UserError for a key this version does not know, and as `check` does.
        """
        config = _laid_over(Config(), value, where)
        assert isinstance(config, Config)
        check(config)
        return config


def _laid_over(default: Any, value: Mapping[str, Any], where: str) -> Any:
    known = {field.name for field in dataclasses.fields(default)}
    if odd := sorted(value.keys() - known):
        raise UserError(f"{where}: unknown key {odd[0]}; was it written by a newer version?")
    parts: dict[str, Any] = {}
    for name, part in value.items():
        own = getattr(default, name)
        nested = dataclasses.is_dataclass(own)
        if nested and not isinstance(part, Mapping):
            raise UserError(f"{where}: {name} must hold keys and values")
        parts[name] = _laid_over(own, part, where) if nested else part
    return dataclasses.replace(default, **parts)


def check(config: Config) -> None:
    """Raise UserError for a value outside its range or a pair of values that contradict each other."""
    model, train = config.model, config.train
    _one_of("photos.fit", config.photos.fit, FITS)
    _one_of("model.output", model.output, OUTPUTS)
    _one_of("model.metadata", model.metadata, ("use", "none"))
    _one_of("train.loss", train.loss, list(LOSSES))
    _one_of("train.copies", train.copies, COPIES)
    _one_of("train.split", train.split, SPLITS)
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
    _within("hypotheses.margin", config.hypotheses.margin, 0.01, 100)
    search = config.search
    _one_of("search.pruner", search.pruner, PRUNERS)
    _one_of("search.depths", search.depths, DEPTHS)
    _within("search.fold", search.fold, 0, config.folds.k - 1)
    _within("search.trials", search.trials, 1, 100_000)
    _within("search.seed", search.seed, 0, 2**31 - 1)
    _within("search.inner_share", search.inner_share, 0.01, 0.5)
    _within("search.top", search.top, 1, 100)
    _within("search.heartbeat", search.heartbeat, 1, 86_400)
    _check_explain(config.explain)
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
    if train.split == "leaky" and train.copies == "none":
        raise UserError("train.split=leaky leaks copies, and train.copies=none makes none; add train.copies=authors")
    if train.split == "leaky" and train.augment != "none":
        raise UserError(
            "train.split=leaky repeats the paper's training, whose only variation are its copies; add train.augment=none"
        )
    if train.split == "leaky" and (train.mixup or train.manifold_mixup):
        raise UserError(
            "train.split=leaky repeats the paper's training, which mixed no photos; leave train.mixup and "
            "train.manifold_mixup 0"
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


def _check_explain(explain: Explain) -> None:
    if not explain.methods or len(set(explain.methods)) < len(explain.methods):  # which there are, `explain` knows
        raise UserError("explain.methods: name one or more, such as [gradient,gradcam,rise], each once")
    if explain.masks != "auto" and not explain.masks.isdecimal():
        raise UserError(f"explain.masks={explain.masks}: must be a count of masks, or auto (until explain.precision)")
    if explain.masks != "auto":
        _within("explain.masks", int(explain.masks), 1, 1_000_000)
    _within("explain.cells", explain.cells, 2, 32)
    _within("explain.precision", explain.precision, 0.01, 1)
    _within("explain.budget", explain.budget, 128, 1_000_000)
    _within("explain.smooth", explain.smooth, 0, 10_000)
    _within("explain.noise", explain.noise, 0, 10)
    _within("explain.sanity_photos", explain.sanity_photos, 0, 1000)
    _within("explain.group_photos", explain.group_photos, 2, 100_000)
    _within("explain.group_blocks", explain.group_blocks, 2, 1000)
    _within("explain.batch_size", explain.batch_size, 1, 65536)
    _within("explain.seed", explain.seed, 0, 2**31 - 1)


def _one_of(key: str, value: str, options: Sequence[str]) -> None:
    if value not in options:
        raise UserError(f"{key}={value}: must be one of {', '.join(options)}")


def _within(key: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise UserError(f"{key}={value}: must lie in {low:g}..{high:g}")
