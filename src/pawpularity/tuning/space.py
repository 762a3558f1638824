"""The space: the config section `search.space` as Optuna's distributions. The schema checks every bound and choice.

A range of `model.unfrozen` becomes the block boundaries inside it, because trials that split the backbone at the same block
share one file of cached features.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pawpularity.config import Config
from pawpularity.console import log
from pawpularity.device import Compute
from pawpularity.errors import UserError, nearest
from pawpularity.features.build import run_blocks
from pawpularity.files import size_text
from pawpularity.models.network import build_network
from pawpularity.training.fit import required_pairs
from pawpularity.training.samples import TrainingData, samples_of

DEPTH = "model.unfrozen"
MOST_DEPTHS = 8
PAPER_DEPTHS = {"low": 50, "high": 150}
# Settings that trials may differ in. The others decide how trials are scored (splits, seeds), what they share (photos, folds,
# weights), or how fast they run.
SEARCHED = (
    *(DEPTH, "model.metadata", "model.metadata_widths", "model.metadata_dropout", "model.image_width"),
    *("model.fusion_widths", "model.dropout", "model.output"),
    *("train.loss", "train.huber_delta", "train.lr", "train.weight_decay", "train.epochs", "train.batch_size"),
    *("train.copies", "train.augment", "train.views", "train.mixup", "train.manifold_mixup", "train.frozen_bn"),
    *("train.schedule", "train.patience", "train.stop_patience", "train.warmup_epochs", "train.ema"),
)
_RULE_KEYS = ("low", "high", "log", "step", "choices")
Space = dict[str, BaseDistribution]


def encoded(value: Any) -> Any:
    """A setting's value for Optuna, which stores plain values only: a list of widths becomes JSON."""
    return json.dumps(value) if isinstance(value, list) else value


def decoded(value: Any) -> Any:
    """The setting's value from what `encoded` made of it."""
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
    """The settings of the first trial: the config's own values that lie in the space, `encoded`."""
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


def written_space(config: Config) -> dict[str, Any]:
    """The rules of `search.space` by dotted key, as the config states them."""
    found = {key: rule for key, rule in config.search.space.items() if rule is not None}
    if config.search.depths == "paper" and DEPTH in found:
        found[DEPTH] = PAPER_DEPTHS
    return found


def read_space(config: Config) -> Space:
    """The rules of `search.space`, sorted by key; the range of `model.unfrozen` stays a range.

    Raises UserError that names a key that is unknown or cannot be searched, a reversed range, or a value the schema refuses.
    """
    space = {key: _rule(config, key, rule) for key, rule in sorted(written_space(config).items())}
    if not space:
        raise UserError("search.space: is empty; name a setting, such as search.space.train.lr={low: 1e-5, high: 1e-3}")
    return space


def _rule(config: Config, key: str, written: Any) -> BaseDistribution:
    where = f"search.space.{key}"
    if key not in SEARCHED:
        raise UserError(f"{where}: cannot be searched{nearest(key, SEARCHED)}")
    rule = {word: value for word, value in written.items() if value is not None} if isinstance(written, dict) else {}
    values = rule.get("choices", [rule.get("low"), rule.get("high")])
    if unknown := rule.keys() - set(_RULE_KEYS):
        raise UserError(f"{where}: unknown key {min(unknown)}{nearest(min(unknown), _RULE_KEYS)}")
    if not isinstance(values, list) or None in values:
        raise UserError(f"{where}: must be {{low: ..., high: ...}} or {{choices: [...]}}, or null, not {written}")
    if "choices" in rule and len(rule) > 1:
        raise UserError(f"{where}: has both choices and {min(rule.keys() - {'choices'})}; set one to null")
    try:
        section, _, leaf = key.partition(".")
        # As the config holds them: of a list of transforms its content, not its name.
        values = [config.with_values({key: value}).to_dict()[section][leaf] for value in values]
        if "choices" in rule:
            return CategoricalDistribution([encoded(value) for value in values])
        whole = key == DEPTH or isinstance(config.to_dict()[section][leaf], int)
        return IntDistribution(**rule) if whole else FloatDistribution(**rule)
    except (TypeError, ValueError, UserError) as error:
        raise UserError(f"{where}: {error}") from None


@dataclass(frozen=True)
class Cut:
    """A block boundary at which the backbone can be split into frozen part and head."""

    unfrozen: int
    """parameter tensors behind it, as `model.unfrozen` counts them"""
    block: int
    """the first block behind it"""
    state_bytes: int
    """bytes of one photo's features there"""


def cuts_of(config: Config, compute: Compute) -> list[Cut]:
    """Every block boundary with tensors behind it, deepest first.

    Two boundaries with only a pooling between them have the same tensors behind them: they count once, as the later one.
    """
    network = build_network(config, fold=0).place(compute.device)
    split, size = network.split, config.photos.size
    features = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    found: dict[int, Cut] = {}
    for position in range(len(split)):
        features = run_blocks(network, compute, features, position, position + 1)
        if behind := split.behind(position + 1):
            found[behind] = Cut(behind, position + 1, features.numel() * features.dtype.itemsize)
    return list(found.values())


def resolved(space: Space, config: Config, rows: TrainingData, compute: Compute) -> Space:
    """`space` with the range of `model.unfrozen` as a list of depths. Raises UserError if no block boundary lies in it."""
    rule = space.get(DEPTH)
    if not isinstance(rule, IntDistribution):
        return space
    return space | {DEPTH: CategoricalDistribution(_depths(rule.low, rule.high, config, rows, compute))}


def _depths(low: int, high: int, config: Config, rows: TrainingData, compute: Compute) -> list[int]:
    cuts = cuts_of(config, compute)
    inside = [cut for cut in cuts if low <= cut.unfrozen <= high]
    if not inside:
        remedy = f"search.space.{DEPTH}=null"
        if depths := sorted(cut.unfrozen for cut in cuts):
            fit = "search.depths=fit " if config.search.depths == "paper" else ""
            shown = ", ".join(map(str, depths[:40]))
            remedy = f"{fit}search.space.{DEPTH}.low={depths[0]} search.space.{DEPTH}.high={depths[-1]} (of {shown})"
        raise UserError(
            f"search.space.{DEPTH}: no block boundary of {config.model.backbone} lies in {low}..{high}; set {remedy}"
        )
    own = config.model.unfrozen if isinstance(config.model.unfrozen, int) else None
    if own is not None and low <= own <= high:
        # The config's own depth replaces the boundary it splits at, so that trials can draw the config's settings.
        block = build_network(config, fold=0).frozen_blocks
        inside = [Cut(own, cut.block, cut.state_bytes) if cut.block == block else cut for cut in inside]
    chosen, pairs = inside, _pairs(config, rows)
    if config.search.depths == "fit":
        chosen = affordable(inside, own, pairs, config.cache.budget_gb)
    values = sorted(cut.unfrozen for cut in chosen)
    if len(chosen) < len(inside):
        disk = size_text(sum(cut.state_bytes for cut in chosen) * pairs)
        log(f"depths  {', '.join(map(str, values))} of the {len(inside)} block boundaries in {low}..{high}: "
            f"cached features of {disk} in all (cache.budget_gb {config.cache.budget_gb:g})")  # fmt: skip
    return values


def _pairs(config: Config, rows: TrainingData) -> int:
    """(photo, view) pairs that training on the whole table needs: the rows of a file of cached features."""
    every = np.arange(len(rows.scores))
    pairs = required_pairs(config, samples_of(config, rows.scores, every), every)
    return len(np.unique(np.stack(pairs, axis=1), axis=0))


def affordable(cuts: Sequence[Cut], own: int | None, pairs: int, budget_gb: float) -> list[Cut]:
    """At most eight of `cuts`, evenly spread, without the largest ones until their cached features together fit the budget.

    The config's own depth stays. If not even one fits, nothing is cached at any depth, so all are kept.
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
