"""The space: the config section `search.space` as Optuna's distributions, every value of which the schema has accepted.

A range of `model.unfrozen` becomes the block boundaries inside it, since trials that are cut at the same block share
one file of cached features.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pawpularity.config import Config, from_dict
from pawpularity.console import log
from pawpularity.device import Compute
from pawpularity.errors import UserError, nearest
from pawpularity.features.build import run_blocks
from pawpularity.files import size_text
from pawpularity.models.backbone import unfrozen_tensors
from pawpularity.models.network import build_network
from pawpularity.training.fit import look_at
from pawpularity.training.samples import TrainingData, samples_of

DEPTH = "model.unfrozen"
MOST_DEPTHS = 8
PAPER_DEPTHS = {"low": 50, "high": 150}
# Settings that trials may differ in. The rest decides what trials are judged by (splits, seeds), what they share (photos, folds,
# weights), or how fast they are.
SEARCHED = (
    *(DEPTH, "model.metadata", "model.metadata_widths", "model.metadata_dropout", "model.image_width"),
    *("model.fusion_widths", "model.dropout", "model.output"),
    *("train.loss", "train.huber_delta", "train.lr", "train.weight_decay", "train.epochs", "train.batch_size"),
    *("train.copies", "train.augment", "train.views", "train.mixup", "train.manifold_mixup", "train.frozen_bn"),
    *("train.schedule", "train.patience", "train.stop_patience", "train.warmup_epochs", "train.ema"),
)
_WORDS = ("low", "high", "log", "step", "choices")
Space = dict[str, BaseDistribution]


def encoded(value: Any) -> Any:
    """A setting's value as Optuna keeps it: plain values only, so that a list of widths travels as its JSON."""
    return json.dumps(value) if isinstance(value, list) else value


def decoded(value: Any) -> Any:
    """The setting's value that Optuna kept."""
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value


def draw(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """A value for every setting."""
    return {key: decoded(_drawn(trial, key, distribution)) for key, distribution in space.items()}


def _drawn(trial: optuna.Trial, key: str, rule: BaseDistribution) -> Any:
    if isinstance(rule, CategoricalDistribution):
        return trial.suggest_categorical(key, rule.choices)
    if isinstance(rule, IntDistribution):
        return trial.suggest_int(key, rule.low, rule.high, log=rule.log, step=rule.step)
    assert isinstance(rule, FloatDistribution)
    return trial.suggest_float(key, rule.low, rule.high, log=rule.log, step=rule.step)


def own_values(config: Config, space: Space) -> dict[str, Any]:
    """The config's own values, as Optuna keeps them, as far as the space holds them: the first trial."""
    tree, found = config.to_dict(), {}
    for key, rule in space.items():
        section, _, leaf = key.partition(".")
        value = encoded(tree[section][leaf])
        try:
            optuna.create_trial(value=0.0, params={key: value}, distributions={key: rule})
        except (TypeError, ValueError):
            continue
        found[key] = value
    return found


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """`config` with settings by their dotted keys. Raises UserError for a value the schema refuses."""
    tree = config.to_dict()
    for key, value in values.items():
        section, _, leaf = key.partition(".")
        tree[section][leaf] = value
    return from_dict(tree, "search.space")


def written_space(config: Config) -> dict[str, Any]:
    """The rules of `search.space` by dotted key, as they are written."""
    found = _flat(config.search.space)
    if config.search.depths == "paper" and found.get(DEPTH) is not None:
        found[DEPTH] = PAPER_DEPTHS
    return {key: found[key] for key in sorted(found) if found[key] is not None}


def read_space(config: Config) -> Space:
    """The rules of `search.space`, sorted by key; the range of `model.unfrozen` as it is written.

    Raises UserError naming the key: unknown or not to be searched, an upside-down range, a value the schema refuses.
    """
    space = {key: _rule(config, key, rule) for key, rule in written_space(config).items()}
    if not space:
        raise UserError("search.space: is empty; name a setting, such as search.space.train.lr={low: 1e-5, high: 1e-3}")
    return space


def _flat(space: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Rules by dotted key: `train.lr: ...` and `train: {lr: ...}` (as key=value words make it) are one; the later wins."""
    found: dict[str, Any] = {}
    for name, value in space.items():
        key = f"{prefix}{name}"
        section = key in Config.model_fields and isinstance(value, Mapping)
        for dotted, rule in (_flat(value, f"{key}.") if section else {key: value}).items():
            both = isinstance(found.get(dotted), Mapping) and isinstance(rule, Mapping)
            found[dotted] = {**found[dotted], **rule} if both else rule
    return found


def _rule(config: Config, key: str, written: Any) -> BaseDistribution:
    where = f"search.space.{key}"
    if key not in SEARCHED:
        raise UserError(f"{where}: is not a setting that trials may differ in{nearest(key, SEARCHED)}")
    if not isinstance(written, Mapping):
        raise UserError(f"{where}: must be {{low: ..., high: ...}} or {{choices: [...]}}, or null, not {written}")
    if unknown := [word for word in written if word not in _WORDS]:
        raise UserError(f"{where}: unknown word {unknown[0]}{nearest(str(unknown[0]), _WORDS)}")
    rule = {word: value for word, value in written.items() if value is not None}
    section, _, leaf = key.partition(".")
    now = 0 if key == DEPTH else config.to_dict()[section][leaf]
    values = rule.get("choices", [rule.get("low"), rule.get("high")])
    if "choices" in rule:
        if len(rule) > 1:
            raise UserError(f"{where}: has both choices and {next(iter(rule.keys() - {'choices'}))}; set one to null")
        if not isinstance(values, list) or not values:
            raise UserError(f"{where}: choices must be a list of values, not {values}")
    elif isinstance(now, bool) or not isinstance(now, int | float):
        raise UserError(f"{where}: is no number; give {{choices: [...]}}")
    if ("choices" not in rule or key == DEPTH) and not all(_is_number(value) for value in values):
        raise UserError(f"{where}: needs numbers, such as {{low: 1, high: 10}}, not {dict(rule)}")
    for value in values:
        try:
            with_values(config, {key: value})
        except UserError as error:
            raise UserError(f"{where}: {str(error).removeprefix('search.space: ')}") from None
    if key == DEPTH and rule.keys() & {"log", "step"}:
        raise UserError(f"{where}: takes no log or step; its values are the block boundaries from low to high")
    try:
        if "choices" in rule:
            return CategoricalDistribution([encoded(value) for value in values])
        return IntDistribution(**rule) if isinstance(now, int) else FloatDistribution(**rule)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Cut:
    """A place to cut the backbone."""

    unfrozen: int
    """Parameter tensors behind it: what `model.unfrozen` says"""
    block: int
    state_bytes: int


def cuts_of(config: Config, compute: Compute) -> tuple[list[Cut], int]:
    """Every block boundary with tensors behind it, deepest first, and how many tensors the backbone has.

    Boundaries with the same tensors behind them (a pooling lies between) are one cut, at the later place, as in training.
    """
    network = build_network(config, fold=0).place(compute.device)
    chain, size = network.split, config.photos.size
    total = left = sum(len(block.parameters()) for block in chain.blocks)
    state = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    found: dict[int, Cut] = {}
    for position, block in enumerate(chain.blocks):
        state = run_blocks(network, compute, state, position, position + 1)
        left -= len(block.parameters())
        if left:
            found[left] = Cut(left, position + 1, state.numel() * state.dtype.itemsize)
    return list(found.values()), total


def resolved(space: Space, config: Config, rows: TrainingData, compute: Compute) -> Space:
    """`space` with the range of `model.unfrozen` as a list of depths. Raises UserError for depths beyond the network."""
    rule = space.get(DEPTH)
    return space if rule is None else space | {DEPTH: _depths(rule, config, rows, compute)}


def _depths(rule: BaseDistribution, config: Config, rows: TrainingData, compute: Compute) -> CategoricalDistribution:
    cuts, total = cuts_of(config, compute)
    there = sorted(cut.unfrozen for cut in cuts)
    shown = ", ".join(map(str, there[:40])) + (", ..." if there[40:] else "")
    cure = f"search.space.{DEPTH}=null"
    if there:
        fit = "search.depths=fit " if config.search.depths == "paper" else ""
        cure = f"{fit}search.space.{DEPTH}.low={there[0]} search.space.{DEPTH}.high={there[-1]} (of {shown})"
    net = config.model.backbone
    if isinstance(rule, CategoricalDistribution):
        if beyond := [depth for depth in rule.choices if isinstance(depth, int) and depth > total]:
            raise UserError(f"search.space.{DEPTH}: {beyond[0]} is beyond the {total} parameter tensors of {net}")
        return rule
    assert isinstance(rule, IntDistribution)
    if rule.high > total and config.search.depths != "paper":
        raise UserError(
            f"search.space.{DEPTH}: {rule.high} is beyond the {total} parameter tensors of {net}; set {cure}"
        )
    inside = [cut for cut in cuts if rule.low <= cut.unfrozen <= rule.high]
    if not inside:
        raise UserError(f"search.space.{DEPTH}: no block boundary of {net} lies in {rule.low}..{rule.high}; set {cure}")
    own = unfrozen_tensors(config.model)
    if own is not None and rule.low <= own <= rule.high:
        # The config's own depth stands for its cut, so that its own settings are among those drawn.
        block = build_network(config, fold=0).frozen_blocks
        inside = [Cut(own, cut.block, cut.state_bytes) if cut.block == block else cut for cut in inside]
    chosen, pairs = inside, _pairs(config, rows)
    if config.search.depths == "fit":
        chosen = affordable(inside, own, pairs, config.cache.budget_gb)
    values = sorted(cut.unfrozen for cut in chosen)
    if len(chosen) < len(inside):
        disk = size_text(sum(cut.state_bytes for cut in chosen) * pairs)
        log(f"depths  {', '.join(map(str, values))} of the {len(inside)} block boundaries in {rule.low}..{rule.high}: "
            f"cached features of {disk} in all (cache.budget_gb {config.cache.budget_gb:g})")  # fmt: skip
    return CategoricalDistribution(values)


def _pairs(config: Config, rows: TrainingData) -> int:
    """(photo, view) pairs that training on the whole table looks at: the rows of a file of cached features."""
    every = np.arange(len(rows.scores))
    pairs = look_at(config, samples_of(config, rows.scores, every), every)
    return len(np.unique(np.stack(pairs, axis=1), axis=0))


def affordable(cuts: Sequence[Cut], own: int | None, pairs: int, budget_gb: float) -> list[Cut]:
    """At most eight of `cuts`, evenly spread; of these the dearest give way until their cached features fit the budget together.

    The config's own depth stays. Where not even one fits, the frozen part runs in every epoch at any depth, and none gives way.
    """
    ordered = sorted(cuts, key=lambda cut: cut.unfrozen)
    picked = [ordered[round(place)] for place in np.linspace(0, len(ordered) - 1, min(MOST_DEPTHS, len(ordered)))]
    for mine in (cut for cut in ordered if cut.unfrozen == own and cut not in picked):
        nearest_one = min(picked, key=lambda cut: abs(cut.unfrozen - mine.unfrozen))
        picked[picked.index(nearest_one)] = mine
    budget = budget_gb * 1e9 / pairs
    if min(cut.state_bytes for cut in picked) <= budget:
        while len(picked) > 1 and sum(cut.state_bytes for cut in picked) > budget:
            picked.remove(max(picked, key=lambda cut: (cut.unfrozen != own, cut.state_bytes)))
    return picked
