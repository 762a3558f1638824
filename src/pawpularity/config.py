"""The settings: pydantic models with a default, a range and a line of help for every key. YAML files and words override them.

    configs/default.yaml  <-  configs/densenet161.yaml  <-  configs/paper.yaml  <-  train.lr=3e-4

`resolve("densenet161,paper", ["train.lr=3e-4"])` merges them in that order. A file starts from others with `base: NAME`
(or a comma-separated list). Unknown keys and wrong values are errors that name the nearest key or the allowed range.
`configs/default.yaml` is generated from these models: python -m pawpularity.config > configs/default.yaml
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from pawpularity.errors import UserError, nearest
from pawpularity.transforms import Pipeline, as_pipeline, check_pipeline

CONFIGS = "configs"
Width = Annotated[int, Field(ge=1, le=65536)]
Tree = dict[str, Any]


def _require(fine: bool, message: str) -> None:
    if not fine:
        raise ValueError(message)


class Section(BaseModel):
    """A group of settings. Types are strict: text is no number, and true is not 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _key(default: Any, about: str, low: float | None = None, high: float | None = None, **more: Any) -> Any:
    """A setting: its default, its line of help, and its range."""
    return Field(default, description=about, ge=low, le=high, **more)


class Photos(Section):
    """How a photo becomes a square of pixels."""

    size: int = _key(224, "pixels per side; the paper's four networks all saw 224", 32, 2048)
    fit: Literal["squash", "crop", "pad"] = _key(
        "squash",
        "squash = stretch to the square (the paper); crop = centred square; pad = grey beside the shorter side",
    )


class Folds(Section):
    """How the rows are split."""

    k: int = _key(5, "number of folds", 2, 1000)
    seed: int = _key(0, "of the shuffle before the split", 0, 2**32 - 1)
    bins: int = _key(10, "the score is stratified in this many bins of equal count", 1, 100)
    duplicate_threshold: float = _key(0.85, "two photos are one from this share of equal bits in four hashes", 0.8, 1)


class Model(Section):
    """The network: a timm backbone, a metadata branch, their fusion, and one score."""

    backbone: str = _key("densenet161.tv_in1k", "any timm name, with its weights tag")
    args: dict[str, Any] = _key({}, "keyword arguments for timm.create_model, such as {growth_rate: 12}")
    weights: str = _key(
        "imagenet",
        "imagenet = timm's for that tag (downloaded once); drawn = the packaged net, trained on drawings; none = random; "
        "a file (.safetensors, .pth); a folder of NAME[.TAG].safetensors",
    )
    unfrozen: Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"^(all|[1-9]\d* blocks?)$")] = Field(
        82,
        description="parameter tensors trained, counted from the backbone's end (the authors froze 400 of 482); all; or the last "
        '"4 blocks"',
    )
    lora: int = _key(
        0,
        "train low-rank changes of this rank to the linear and 1x1 layers of the unfrozen part, not the layers; 0 = off",
        0,
        4096,
    )
    metadata: Literal["use", "none"] = _key("use", "the twelve metadata columns")
    metadata_widths: list[Width] = _key([16, 32, 64], "layers of the metadata branch")
    metadata_dropout: float = _key(
        0.1, "chance to hide a training row's metadata, so that a photo alone can be scored", 0, 0.95
    )
    image_width: Width = _key(512, "the image branch's linear layer")
    fusion_widths: list[Width] = _key([256], "layers after image and metadata are joined")
    dropout: float = _key(0.3, "in the fusion layers; the paper searched 0.2 - 0.5", 0, 0.95)
    output: Literal["sigmoid", "relu", "linear", "bins", "ordinal"] = _key(
        "sigmoid",
        "sigmoid x 100; relu (the paper's); linear; the mean over model.bins scores; ordinal = the sum of steps passed",
    )
    bins: int = _key(20, "output bins, ordinal: how many", 2, 100)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in self.args:
            _require(key.isidentifier(), f"model.args: {key} is not the name of an argument")
        _require(
            self.metadata == "none" or len(self.metadata_widths) > 0,
            "model.metadata_widths: is empty; give widths such as [16,32,64], or model.metadata=none",
        )
        return self


class Train(Section):
    """How one fold is trained."""

    loss: Literal["bce", "mse", "huber", "bins", "ordinal"] = _key(
        "bce", "bce on score/100 (needs output sigmoid); bins, ordinal (need that output); mse, huber in points"
    )
    huber_delta: float = _key(10.0, "score points", 1e-3, 1000)
    optimizer: str = _key("adamw", "a name of timm's")
    lr: float = _key(1e-4, "learning rate", 1e-9, 10)
    layer_decay: float = _key(1.0, "a block's rate is this share of the next one's; 1 = all learn at train.lr", 0.01, 1)
    weight_decay: float = _key(0.01, "weight decay", 0, 10)
    decay_norms: bool = _key(True, "weight decay of norms and biases too")
    clip_grad: float = _key(0.0, "longest gradient; 0 = any", 0, 1e6)
    epochs: int = _key(10, "at most", 1, 100_000)
    batch_size: int = _key(32, "photos a step, over all processes", 2, 65536)
    accumulation: int = _key(1, "parts that a batch is computed in, to save memory", 1, 1024)
    grad_checkpointing: bool = _key(False, "save memory: compute the trained blocks a second time for the gradient")
    start_size: int = _key(
        0, "pixels a side in the first epoch, photos.size after two thirds of them; 0 = always that", 0, 2048
    )
    seed: int = _key(0, "of the trained head's start, the order of photos, dropout", 0, 2**31 - 1)
    copies: Literal["none", "paper", "authors"] = _key(
        "none", "fixed copies of photos, by the paper's or the authors' rule"
    )
    split: Literal["honest", "leaky"] = _key("honest", "leaky = the paper's mistake: copies are split like photos")
    augment: Literal["none", "flip"] | Pipeline = _key(
        "flip",
        "random, every epoch; also NAME of configs/augment/NAME.yaml (strong = crop, flip, colour), or a .yaml file",
    )
    views: int = _key(
        0,
        "augment=NAME: random views that seeds share; 0 = one an epoch, drawn by train.seed",
        0,
        100_000,
    )
    mixup: float = _key(0.0, "Beta(a, a) mixing of pairs of photos before the network; 0 = off", 0, 100)
    cutmix: float = _key(0.0, "Beta(a, a) share of a photo that a part of another one covers; 0 = off", 0, 100)
    manifold_mixup: float = _key(0.0, "the same for cached features, before the trained head", 0, 100)
    frozen_bn: bool = _key(False, "trained BatchNorms keep their statistics; the pretrained configs set it")
    schedule: Literal["plateau", "cosine"] = _key(
        "plateau", "plateau = rate / 10 when the inner split stalls; cosine = to 0"
    )
    patience: int = _key(1, "plateau: epochs without a better inner RMSE before the rate drops", 0, 100_000)
    warmup_epochs: float = _key(0.0, "cosine: linear warm-up", 0, 1e6)
    stop: Literal["early", "none"] = _key("early", "early = keep the inner split's best epoch; none = all epochs")
    stop_patience: int = _key(3, "early: epochs without a better inner RMSE before stopping", 1, 100_000)
    checks: int = _key(1, "times an epoch that the inner split is scored; history.csv has a line for each", 1, 1000)
    soup: int = _key(
        1, "average the weights of up to so many of the best checks, as long as the inner RMSE falls", 1, 100
    )
    inner_share: float = _key(0.1, "the inner split's share of the TRAINING rows; it holds no scored rows", 0.01, 0.5)
    refit: bool = _key(False, "train again on all training rows, for the epochs that the inner split chose")
    ema: float = _key(0.0, "score a moving average of the weights with this decay; 0 = off", 0, 0.99999)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _key("auto", "auto = half precision where it is native")
    channels_last: bool = _key(True, "memory layout; faster in bfloat16, not for VGG-19 in float32 on a CPU")
    compile: bool = _key(False, "torch.compile of the trained head: a minute first, then steps a fifth faster")
    workers: int = _key(-1, "processes that prepare photos; -1 = none on a CPU, else up to 8", -1, 1024)
    checkpoint_minutes: float = _key(5.0, "minutes between checkpoints within an epoch; 0 = after every step", 0, 1440)
    log: Literal["none", "tensorboard", "wandb", "mlflow", "trackio"] = _key(
        "none", "a tracker to send settings and curves to; history.csv is always written"
    )

    @property
    def transforms(self) -> Pipeline:
        """What random views are made by; empty for `none` and `flip`."""
        return [] if isinstance(self.augment, str) else self.augment

    @field_validator("augment", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """A name or a file becomes the list that it holds."""
        if value in (plain := ("none", "flip")):
            return value
        if not isinstance(value, str):
            return as_pipeline(value, "train.augment")
        path = config_path(value, "augment", "train.augment=", plain)
        return as_pipeline(_load(path), str(path))

    @model_validator(mode="after")
    def _check(self) -> Self:
        leaky, early = self.split == "leaky", self.stop == "early"
        mixes = self.mixup or self.manifold_mixup or self.cutmix
        warmup = self.warmup_epochs
        rules = {
            f"train.warmup_epochs={warmup:g} is longer than train.epochs={self.epochs}; add train.warmup_epochs=0": (
                warmup <= self.epochs
            ),
            "train.split=leaky leaks copies, and train.copies=none makes none; add train.copies=authors": (
                not leaky or self.copies != "none"
            ),
            "train.split=leaky takes no random augmentation; add train.augment=none": not leaky
            or self.augment == "none",
            "train.split=leaky takes no mixup; set train.mixup, train.manifold_mixup and train.cutmix to 0": not (
                leaky and mixes
            ),
            "train.manifold_mixup mixes cached features; set it, or train.mixup and train.cutmix, to 0": (
                not (self.manifold_mixup and (self.mixup or self.cutmix))
            ),
            "train.soup chooses by an inner split, and train.stop=none makes none; set train.stop=early": early
            or self.soup == 1,
            f"train.views={self.views}: needs random transforms, such as train.augment=strong": self.views == 0
            or bool(self.transforms),
            "train.stop=none has no inner split for train.schedule=plateau to watch; add train.schedule=cosine": (
                early or self.schedule == "cosine"
            ),
            "train.refit=true needs an inner split, and train.stop=none makes none; set train.stop=early": early
            or not self.refit,
            "train.warmup_epochs belongs to train.schedule=cosine; set it to 0": self.schedule == "cosine"
            or not warmup,
        }
        for message, fine in rules.items():
            _require(fine, message)
        return self


class Predict(Section):
    """How photos are scored."""

    flip: bool = _key(False, "score the mirrored photo too, and answer with the mean of both")


class Hypotheses(Section):
    """How the paper's claims are judged (make hypotheses)."""

    # 0.15 sd of the contest's scores; from its median, 33, to 36 is 7 percentiles (48.4 -> 55.8 % below).
    margin: float = _key(3.0, "points: an effect whose interval lies inside +-margin is too small to matter", 0.01, 100)


class Search(Section):
    """What a search varies, and how it runs (make tune)."""

    fold: int = _key(0, "trials use an inner split of this fold's TRAINING rows, never its scored rows", 0)
    trials: int = _key(50, "trials in all", 1, 100_000)
    seed: int = _key(0, "of the sampler (TPE)", 0, 2**31 - 1)
    pruner: Literal["median", "hyperband", "none"] = _key("median", "stops trials that fall behind")
    inner_share: float = _key(0.2, "share of the training rows that trials are scored on", 0.01, 0.5)
    top: int = _key(5, "trials with the best inner RMSE, to train on all folds afterwards", 1, 100)
    nested: bool = _key(
        False, "search again for every fold: k times the work, but no row helps to choose its own settings"
    )
    depths: Literal["fit", "paper"] = _key(
        "fit", "fit = block borders whose features fit cache.budget_gb; paper = all in 50-150"
    )
    heartbeat: int = _key(
        60, "seconds; a worker on PostgreSQL that is silent for twice as long counts as dead", 1, 86_400
    )
    space: dict[str, Any] = _key(
        {
            "model.unfrozen": {"low": 50, "high": 120},
            "model.image_width": {"choices": [128, 256, 512]},
            "model.metadata_widths": {"choices": [[16], [16, 32], [16, 32, 64]]},
            "model.fusion_widths": {"choices": [[64], [256], [256, 64]]},
            "model.dropout": {"low": 0.2, "high": 0.5},
            "train.lr": {"low": 1e-5, "high": 3e-3, "log": True},
            "train.weight_decay": {"low": 1e-4, "high": 0.3, "log": True},
        },
        "KEY: {low, high, log, step} or {choices: [...]}, KEY from model and train; null = not searched",
    )
    found_by: str = _key("", "the study that found these settings; make tune writes it, and their runs are marked")


class Explain(Section):
    """How maps of a photo's score are made and tested (make explain)."""

    methods: list[str] = _key(["gradient", "gradcam", "rise"], "maps to make", min_length=1)
    layer: str = _key("auto", "Grad-CAM's layer: a module of the backbone, such as blocks.9; auto = its last features")
    masks: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["auto"] = Field(
        "auto",
        description="RISE's masks a photo: a count, or auto = blocks of 128 until precision or budget is reached",
    )
    cells: int = _key(8, "RISE hides cells of a grid with this many a side", 2, 32)
    precision: float = _key(0.2, "auto: stop when the standard error is this share of the map", 0.01, 1)
    budget: int = _key(2048, "auto: masks a photo at most", 128, 1_000_000)
    smooth: int = _key(16, "gradient: mean over noisy copies (SmoothGrad); 0 = the photo alone", 0, 10_000)
    noise: float = _key(0.15, "smooth: standard deviation of the noise, as a share of the pixels' range", 0, 10)
    road: bool = _key(True, "also test maps by ROAD; up to half of the time")
    sanity_photos: int = _key(8, "photos mapped again with randomised weights, as a test; 0 = none", 0, 1000)
    group_photos: int = _key(48, "GROUP=...: photos a group at most", 2, 100_000)
    group_blocks: int = _key(2, "GROUP=...: blocks of 128 masks a photo", 2, 1000)
    batch_size: int = _key(64, "masked photos a forward pass", 1, 65536)
    seed: int = _key(0, "of masks, noise and random orders", 0, 2**31 - 1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _require(len(set(self.methods)) == len(self.methods), "explain.methods: name each once")
        return self


class Cache(Section):
    """Where derived files live."""

    folder: str = _key(".cache", "decoded photos, cached features; make clean-cache shows sizes and empties it")
    budget_gb: float = _key(20.0, "disk for cached features; 0 = none: the frozen part runs every epoch", 0, 1e6)


class Kernel(Section):
    """How a kernel's files travel to Kaggle."""

    carrier: Literal["dataset", "model"] = _key("dataset", "a private data set, or a private Kaggle Model")


class Config(Section):
    """All settings: those that decide a run's figures, those of other commands, and where the caches are."""

    name: str = "default"
    photos: Photos = Photos()
    folds: Folds = Folds()
    model: Model = Model()
    train: Train = Train()
    predict: Predict = Predict()
    hypotheses: Hypotheses = Hypotheses()
    search: Search = Search()
    explain: Explain = Explain()
    kernel: Kernel = Kernel()
    cache: Cache = Cache()

    def to_dict(self) -> Tree:
        """Plain nested dictionary, as written to `config.json`."""
        return self.model_dump()

    def with_values(self, values: Mapping[str, Any]) -> "Config":
        """A checked copy with settings changed by their dotted keys, such as {"train.lr": 1e-3}. Raises UserError."""
        tree = self.to_dict()
        for key, value in values.items():
            section, _, leaf = key.partition(".")
            tree[section][leaf] = value
        return _validated(tree, [])

    @model_validator(mode="after")
    def _check(self) -> Self:
        loss, output = self.train.loss, self.model.output
        _require(
            loss != "bce" or output == "sigmoid",
            f"train.loss=bce needs model.output=sigmoid, not {output}; or set train.loss to mse or huber",
        )
        _require(
            loss not in ("bins", "ordinal") or output == loss,
            f"train.loss={loss} needs model.output={loss}, not {output}",
        )
        small = self.train.start_size
        _require(
            not small or (small <= self.photos.size and self.model.unfrozen == "all"),
            f"train.start_size={small}: must be at most photos.size, and needs model.unfrozen=all",
        )
        _require(
            not (self.train.manifold_mixup and self.model.unfrozen == "all"),
            "train.manifold_mixup mixes cached features, and model.unfrozen=all caches none; use train.mixup",
        )
        check_pipeline(self.train.transforms, self.photos.size)
        _require(
            self.search.fold < self.folds.k, f"search.fold={self.search.fold}: must be below folds.k={self.folds.k}"
        )
        return self


def resolve(configs: str, overrides: Sequence[str] = ()) -> Config:
    """Lay the comma-separated `configs` in order, then `key=value` words, over the defaults.

    Raises UserError naming the file or word, the key, and the nearest valid key or the allowed range.
    """
    layers = [(f"{path}: ", read_yaml(path)) for path in _with_bases(configs)]
    layers += [("", _read_word(word)) for word in overrides]
    tree = Config().to_dict() | {"name": run_name(configs) or "default"}
    for _, layer in layers:
        model = layer.get("model")
        if isinstance(model, dict) and model.get("backbone", "") not in ("", tree["model"]["backbone"]):
            tree["model"]["args"] = {}  # arguments of another backbone do not fit this one
        tree = _merged(tree, layer)
        if any(_section(name) and not isinstance(part, Mapping) for name, part in layer.items()):
            break  # refused below; a later layer must not hide it
    return _validated(tree, layers)


def run_name(configs: str) -> str:
    """The run's default name for a `--config` word: `small/vgg,paper` -> `small-vgg-paper`."""
    words = (re.sub(r"\.ya?ml$", "", part.strip()) for part in configs.split(","))
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", word).strip("-.") for word in words if word)


def config_path(name: str, below: str = "", asked: str = "--config ", also: Sequence[str] = ()) -> Path:
    """`configs/NAME.yaml` below the current folder, else beside the source tree, or NAME itself if it is a YAML file.

    `below`: a folder below configs/. For errors: `asked`, what the name stands behind, and `also`, words that are no files.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise UserError(f"{asked}{name}: no such file")
        return Path(name)
    roots = [Path(CONFIGS) / below, Path(__file__).resolve().parents[2] / CONFIGS / below]
    for root in roots:
        if (root / f"{name}.yaml").is_file():
            return root / f"{name}.yaml"
    known = set(also) | {str(path.relative_to(root).with_suffix("")) for root in roots for path in root.rglob("*.yaml")}
    if not known:
        raise UserError(f"{asked}{name}: there is no {CONFIGS}/ folder here; run from the repository's top folder")
    raise UserError(f"{asked}{name}: no such file in {Path(CONFIGS) / below}{nearest(name, known)}")


def _with_bases(configs: str, seen: tuple[str, ...] = ()) -> list[Path]:
    paths: list[Path] = [] if seen else [config_path("default")]
    for name in (part.strip() for part in configs.split(",")):
        if not name or name == "default":
            continue
        if name in seen:
            raise UserError(f"--config {name}: its `base` leads back to itself ({' -> '.join([*seen, name])})")
        path = config_path(name)
        base = read_yaml(path, keep_base=True).get("base")
        if base is not None:
            paths += _with_bases(str(base), (*seen, name))
        paths.append(path)
    return paths


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as a number, as YAML 1.2 does; YAML 1.1 needs 1.0e-4."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _load(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: is not readable YAML ({' '.join(str(error).split())})") from None


def read_yaml(path: Path, *, keep_base: bool = False) -> Tree:
    """The keys and values of a YAML file, without `base`. Raises UserError for one that is not readable."""
    tree = _load(path)
    if not isinstance(tree, dict):
        raise UserError(f"{path}: must hold keys and values, as configs/densenet161.yaml does")
    return {str(key): value for key, value in tree.items() if keep_base or key != "base"}


def _read_word(word: str) -> Tree:
    """`train.lr=3e-4` as {"train": {"lr": 3e-4}}."""
    key, equals, text = word.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", key):
        raise UserError(f'"{word}": settings are written key=value, for example train.lr=3e-4')
    if key in ("name", "base"):
        raise UserError(f"{key}: use --run for the run's name, --config for the base")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise UserError(f"{word}: the value is not readable; lists are written [16,32]") from None
    # search.space.train.lr.low=1e-5: the rule's own key has a dot
    parts = re.fullmatch(r"(search)\.(space)\.(\w+\.\w+)(?:\.(\w+))?", key)
    for part in reversed([part for part in parts.groups() if part] if parts else key.split(".")):
        value = {part: value}
    found: Tree = value
    return found


def _merged(tree: Any, layer: Any) -> Any:
    if not (isinstance(tree, dict) and isinstance(layer, Mapping)):
        return layer
    return tree | {key: _merged(tree.get(key), value) for key, value in layer.items()}


def _section(name: str) -> type[Section] | None:
    field = Config.model_fields.get(name)
    cls = field and field.annotation
    return cls if isinstance(cls, type) and issubclass(cls, Section) else None


def all_keys() -> dict[str, FieldInfo]:
    """Every setting by its dotted key."""
    sections = {name: _section(name) for name in Config.model_fields}
    return {
        f"{name}.{leaf}": field for name, cls in sections.items() if cls for leaf, field in cls.model_fields.items()
    }


def _did_you_mean(key: str) -> str:
    leaves = {name.rpartition(".")[2]: name for name in reversed(all_keys())}
    close = get_close_matches(key, all_keys(), n=1, cutoff=0.7)
    close = close or get_close_matches(key.rpartition(".")[2], leaves, n=1, cutoff=0.6)
    return f'; did you mean "{leaves.get(close[0], close[0])}"?' if close else "; configs/default.yaml lists all keys"


def _validated(tree: Mapping[str, Any], layers: Sequence[tuple[str, Mapping[str, Any]]]) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        # An unknown key first: other errors may follow from it.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    if "error" in first.get("ctx", {}):  # one of our own rules above
        raise UserError(str(first["ctx"]["error"]))
    section, leaf = (*map(str, first["loc"]), "")[:2]
    where = next(
        (name for name, layer in reversed(layers) if section in layer and (not leaf or leaf in (layer[section] or {}))),
        "",
    )
    key, value, cls = f"{section}.{leaf}".strip("."), tree[section], _section(section)
    if first["type"] == "extra_forbidden":
        key = key if leaf or not isinstance(value, Mapping) else ".".join([section, *map(str, value)][:2])
        raise UserError(f"{where}{key}: unknown key{_did_you_mean(key)}")
    if cls is None or not leaf:
        example = next(name for name in all_keys() if name.startswith(f"{section}."))
        raise UserError(f"{where}{section}: is a section; set a key of it, for example {example}=...")
    shown = str(value[leaf]).lower() if isinstance(value[leaf], bool) else value[leaf]
    about = cls.model_json_schema()["properties"][leaf]
    raise UserError(f"{where}{key}={shown}: must be {_expected(about)} ({about['description']})")


def _expected(about: Mapping[str, Any]) -> str:
    """The valid values of a setting, in words, from its JSON schema."""
    if "anyOf" in about:
        return " or ".join(_expected(one) for one in about["anyOf"])
    if options := about.get("enum", [about["const"]] if "const" in about else []):
        return ("one of " if len(options) > 1 else "") + ", ".join(options)
    words = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text",
             "array": "a list such as [64,32]", "object": "keys and values"}  # fmt: skip
    low, high = about.get("minimum"), about.get("maximum")
    limits = "" if low is None else f" from {low:g}" if high is None else f" in {low:g}..{high:g}"
    return words[about["type"]] + limits


def default_yaml() -> str:
    """The text of `configs/default.yaml`."""
    return "\n".join(_yaml_lines()) + "\n"


def _yaml_lines() -> Iterator[str]:
    yield "# Every setting with its default, generated from src/pawpularity/config.py. Other files here are deltas of a few lines."
    yield "# Change a value for one run: make train FOLD=0 train.lr=3e-4 model.unfrozen=all"
    for name, section in Config().to_dict().items():
        if (cls := _section(name)) is None:
            continue
        yield f"\n{name}:  # {cls.__doc__}"
        for leaf, value in section.items():
            field = cls.model_fields[leaf]
            if leaf == "space":
                yield f"  {leaf}:  # {field.description}"
                yield from (f"    {key}: {_flow(rule)}" for key, rule in value.items())
                continue
            yield f"  {leaf}: {_flow(value)}  # {field.description}"


def _flow(value: Any) -> str:
    """YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False).removesuffix("...\n").strip()


if __name__ == "__main__":
    print(default_yaml(), end="")
