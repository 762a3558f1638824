"""The space: the config section `search.space` as rules, every key and value of which the schema has accepted.

A rule is a range (`low`, `high`, `log`, `step`) or a list of `choices`. A range of `model.unfrozen` becomes the block
boundaries inside it (`depths`), since trials that are cut at the same block share one trunk file.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from optuna.trial import Trial

from pawpularity.config import Config, from_dict
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
PAPER_DEPTHS = (50, 150)
# Settings that trials may differ in. The rest decides what trials are judged by (splits, seeds), or what they share
# (photos, folds, weights), or how fast they are.
SEARCHED = (
    *(DEPTH, "model.metadata", "model.metadata_widths", "model.metadata_dropout", "model.image_width"),
    *("model.fusion_widths", "model.dropout", "model.output"),
    *("train.loss", "train.huber_delta", "train.lr", "train.weight_decay", "train.epochs", "train.batch_size"),
    *("train.copies", "train.augment", "train.views", "train.mixup", "train.manifold_mixup", "train.frozen_bn"),
    *("train.schedule", "train.patience", "train.stop_patience", "train.warmup_epochs", "train.ema"),
)
_WORDS = ("low", "high", "log", "step", "choices")
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """What one setting is drawn from: `choices`, or whole or real numbers from `low` to `high`, both included."""

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    whole: bool = False

    def draw(self, trial: Trial) -> Any:
        """The setting's value in this trial."""
        if self.choices:
            # Optuna keeps plain values only; a list of widths travels as its JSON.
            return decoded(trial.suggest_categorical(self.key, [encoded(value) for value in self.choices]))
        if self.whole:
            return trial.suggest_int(
                self.key, int(self.low), int(self.high), log=self.log, step=1 if self.step is None else int(self.step)
            )
        return trial.suggest_float(self.key, self.low, self.high, log=self.log, step=self.step)

    def holds(self, value: Any) -> bool:
        """Whether a trial could draw `value`."""
        if self.choices:
            return value in self.choices
        inside = isinstance(value, int | float) and self.low <= value <= self.high
        return inside and (
            self.step is None or math.isclose(math.remainder(value - self.low, self.step), 0, abs_tol=1e-9)
        )

    def to_dict(self) -> dict[str, Any]:
        """For the study's record."""
        if self.choices:
            return {"choices": list(self.choices)}
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step, "whole": self.whole}

    @staticmethod
    def of(key: str, value: Mapping[str, Any]) -> "Rule":
        """The rule whose `to_dict` is `value`."""
        return Rule(key, **{**value, "choices": tuple(value.get("choices", ()))})


def encoded(value: Any) -> Any:
    """A setting's value as Optuna keeps it."""
    return json.dumps(value) if isinstance(value, list) else value


def decoded(value: Any) -> Any:
    """The setting's value that Optuna kept."""
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value


def with_values(config: Config, values: Values) -> Config:
    """`config` with settings by their dotted keys. Raises UserError for a value the schema refuses."""
    tree = config.to_dict()
    for key, value in values.items():
        section, _, leaf = key.partition(".")
        tree[section][leaf] = value
    return from_dict(tree, "search.space")


def read_space(config: Config) -> list[Rule]:
    """The rules of `search.space`, sorted by key; the range of `model.unfrozen` as it is written.

    Raises UserError naming the key: unknown or not to be searched, an upside-down range, a value the schema refuses.
    """
    found = _flat(config.search.space)
    if config.search.depths == "paper" and found.get(DEPTH) is not None:
        found[DEPTH] = {"low": PAPER_DEPTHS[0], "high": PAPER_DEPTHS[1]}
    rules = [_rule(config, key, found[key]) for key in sorted(found) if found[key] is not None]
    if not rules:
        raise UserError(
            "search.space: is empty; name a setting, such as train.lr: {low: 1.0e-5, high: 1.0e-3, log: true}"
        )
    for rule in rules:
        for value in rule.choices or (rule.low, rule.high):
            try:
                with_values(config, {rule.key: int(value) if rule.whole and not rule.choices else value})
            except UserError as error:
                raise UserError(f"search.space.{rule.key}: {str(error).removeprefix('search.space: ')}") from None
    return rules


def _flat(space: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Rules by dotted key: `train.lr: ...` and `train: {lr: ...}` (as key=value words make it) are one; the later wins."""
    sections = set(Config.model_fields)
    found: dict[str, Any] = {}
    for name, value in space.items():
        key = f"{prefix}{name}"
        inner = _flat(value, f"{key}.") if key in sections and isinstance(value, Mapping) else {key: value}
        for dotted, rule in inner.items():
            both = isinstance(found.get(dotted), Mapping) and isinstance(rule, Mapping)
            found[dotted] = {**found[dotted], **rule} if both else rule
    return found


def _rule(config: Config, key: str, written: Any) -> Rule:
    where = f"search.space.{key}"
    section, _, leaf = key.partition(".")
    part = config.to_dict().get(section)
    if key not in SEARCHED:
        if isinstance(part, dict) and leaf in part:
            raise UserError(f"{where}: is not for trials to differ in; they may in {', '.join(SEARCHED)}")
        raise UserError(f"{where}: there is no such setting{nearest(key, SEARCHED)}")
    assert isinstance(part, dict)
    if not isinstance(written, Mapping):
        raise UserError(f"{where}: must be {{low: ..., high: ...}} or {{choices: [...]}}, or null, not {written}")
    for word in written:
        if word not in _WORDS:
            raise UserError(f"{where}: unknown word {word}{nearest(str(word), _WORDS)}")
    rule = {word: value for word, value in written.items() if value is not None}
    if "choices" in rule:
        return _choice(where, key, rule)
    now = 0 if key == DEPTH else part[leaf]
    if isinstance(now, bool) or not isinstance(now, int | float):
        raise UserError(f"{where}: is no number; give {{choices: [...]}}")
    for word in ("low", "high"):
        value = rule.get(word)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{where}: {word} is {value}; a range needs two numbers, low and high")
    low, high, step, log = rule["low"], rule["high"], rule.get("step"), rule.get("log", False)
    if not isinstance(log, bool):
        raise UserError(f"{where}: log is {log}; it must be true or false")
    if not low < high:
        raise UserError(f"{where}: low {low:g} is not below high {high:g}; swap them, or give {{choices: [{low:g}]}}")
    whole = isinstance(now, int)
    if step is not None and (isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step <= high - low):
        raise UserError(f"{where}: step {step} must lie above 0 and within {high - low:g}, the width of the range")
    if whole and any(value != int(value) for value in (low, high, step or 1)):
        raise UserError(f"{where}: is a whole number, so low, high and step must be")
    if log and low <= 0:
        raise UserError(f"{where}: a logarithmic range must begin above 0, not at {low:g}")
    if log and step is not None:
        raise UserError(f"{where}: has both log and step; keep one")
    if key == DEPTH and (log or step is not None):
        raise UserError(f"{where}: has log or step, but its values are the block boundaries from low to high")
    return Rule(key, low=low, high=high, log=log, step=step, whole=whole)


def _choice(where: str, key: str, rule: Mapping[str, Any]) -> Rule:
    if len(rule) > 1:
        other = next(word for word in rule if word != "choices")
        raise UserError(f"{where}: has both choices and {other}; keep one (null takes the other away)")
    choices = rule["choices"]
    if not isinstance(choices, list) or not choices:
        raise UserError(f"{where}: choices must be a list of values, not {choices}")
    if key == DEPTH and any(isinstance(value, bool) or not isinstance(value, int) for value in choices):
        raise UserError(f"{where}: choices must be counts of parameter tensors, not {choices}")
    if any(choices.index(value) < position for position, value in enumerate(choices)):
        raise UserError(f"{where}: a choice stands there twice; keep one")
    return Rule(key, choices=tuple(choices))


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


def resolved(rules: Sequence[Rule], config: Config, rows: TrainingData, compute: Compute, say: Callable[[str], None]
             ) -> list[Rule]:  # fmt: skip
    """`rules` with the range of `model.unfrozen` as a list of depths. Raises UserError for depths beyond the net."""
    return [_depths(rule, config, rows, compute, say) if rule.key == DEPTH else rule for rule in rules]


def _depths(rule: Rule, config: Config, rows: TrainingData, compute: Compute, say: Callable[[str], None]) -> Rule:
    cuts, total = cuts_of(config, compute)
    highest = max(rule.choices) if rule.choices else rule.high
    if highest > total and config.search.depths != "paper":
        raise UserError(
            f"search.space.{DEPTH}: {highest:g} is beyond the {total} parameter tensors of {config.model.backbone}; "
            "write a lower one, or null where everything is trained"
        )
    if rule.choices:
        return rule
    inside = [cut for cut in cuts if rule.low <= cut.unfrozen <= rule.high]
    if not inside:
        there = ", ".join(str(cut.unfrozen) for cut in sorted(cuts, key=lambda cut: cut.unfrozen)[:40]) or "none"
        raise UserError(
            f"search.space.{DEPTH}: no block boundary lies in {rule.low:g}..{rule.high:g}; they are {there}"
        )
    own = unfrozen_tensors(config.model)
    if own is not None and rule.low <= own <= rule.high:
        # The config's own depth stands for its cut, so that its own settings are among those drawn.
        block = build_network(config, fold=0).frozen_blocks
        inside = [Cut(own, cut.block, cut.state_bytes) if cut.block == block else cut for cut in inside]
    chosen = (
        inside
        if config.search.depths == "paper"
        else affordable(inside, own, _pairs(config, rows), config.cache.budget_gb)
    )
    values = sorted(cut.unfrozen for cut in chosen)
    if len(chosen) < len(inside):
        disk = size_text(sum(cut.state_bytes for cut in chosen) * _pairs(config, rows))
        say(f"depths  {', '.join(map(str, values))} of the {len(inside)} block boundaries in {rule.low:g}..{rule.high:g}: "
            f"trunk files of {disk} in all (cache.budget_gb {config.cache.budget_gb:g})")  # fmt: skip
    return Rule(DEPTH, choices=tuple(values))


def _pairs(config: Config, rows: TrainingData) -> int:
    """(photo, view) pairs that training on the whole table looks at: the rows of a trunk file."""
    every = np.arange(len(rows.scores))
    pairs = look_at(config, samples_of(config, rows.scores, every), every)
    return len(np.unique(np.stack(pairs, axis=1), axis=0))


def affordable(cuts: Sequence[Cut], own: int | None, pairs: int, budget_gb: float) -> list[Cut]:
    """At most eight of `cuts`, evenly spread, whose trunk files of `pairs` states fit the budget together.

    A cut that would eat more than a third of the budget gives way where three others fit. The config's own depth stays.
    Where not even one fits there is no trunk file to share, and nothing is left out but what is above eight.
    """
    size = {cut.unfrozen: cut.state_bytes * pairs for cut in cuts}
    budget = budget_gb * 1e9
    ordered = sorted(cuts, key=lambda cut: cut.unfrozen)
    small = [cut for cut in ordered if size[cut.unfrozen] <= budget / 3]
    usable = small if len(small) >= 3 else [cut for cut in ordered if size[cut.unfrozen] <= budget]
    if not usable:
        usable, budget = ordered, math.inf
    for count in range(min(MOST_DEPTHS, len(usable)), 0, -1):
        at = sorted({round(place) for place in np.linspace(0, len(usable) - 1, count)})
        picked = [usable[place] for place in at]
        mine = next((cut for cut in usable if cut.unfrozen == own), None)
        if mine is not None and mine not in picked:
            nearest_one = min(picked, key=lambda cut: abs(cut.unfrozen - mine.unfrozen))
            picked[picked.index(nearest_one)] = mine
        if sum(size[cut.unfrozen] for cut in picked) <= budget:
            return picked
    return [min(usable, key=lambda cut: size[cut.unfrozen])]
