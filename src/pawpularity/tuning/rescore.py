"""What a search found, told honestly.

The best trials by inner RMSE are trained on all folds, as ordinary runs `oof/NAME-trialN`. Then three figures:

- *cross-fitted*: each fold scored by the candidate that is best on the OTHER folds. The headline: what the procedure
  "take the best of these" is worth on rows that had no say in it.
- *selected*: the winner on all folds, chosen on the very rows it is scored on: flattered by choosing (0.05 points for the
  best of five at 9,912 rows, 0.5 at 120).
- *unseen fold*: the same cross-fitted rows of the fold that the search was run on: its scored rows took no part in any trial.

The trials of one search did see the rows of the other folds, as training and inner rows; `search.nested` searches anew for
every fold, so that no row takes part in choosing the settings it is scored by.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from pawpularity.config import CONFIGS, Config, resolve
from pawpularity.console import log
from pawpularity.context import Context
from pawpularity.data.folds import Folds
from pawpularity.errors import UserError
from pawpularity.evaluation.compare import compare
from pawpularity.evaluation.metrics import evaluate, rmse
from pawpularity.evaluation.oof import constant_predictions, read_fold
from pawpularity.evaluation.predictions import Predictions, open_predictions
from pawpularity.files import write_text
from pawpularity.runs import Run
from pawpularity.training.fold import train_run
from pawpularity.training.samples import TrainingData
from pawpularity.tuning.objective import values_of
from pawpularity.tuning.space import with_values

OWN = "default"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """One of the best trials."""

    name: str
    inner_rmse: float
    config: Config
    values: Mapping[str, Any]


@dataclass
class Trainer:
    """Trains runs of one data set, as far as they are not trained yet."""

    context: Context
    data: TrainingData

    @property
    def folds(self) -> Folds:
        """The folds file of all runs."""
        return self.context.folds

    def train(self, name: str, config: Config, wanted: Sequence[int] | None = None) -> Run:
        """The run `name` with all folds (or those `wanted`) there. Raises UserError where another run has the name."""
        return train_run(self.context.variant(config, name), wanted=wanted, data=self.data)

    def baseline(self, name: str, config: Config, fallback: str) -> Predictions:
        """The config's own run, under its usual name, or `fallback` where another run stands there."""
        try:
            run = self.train(name, config)
        except UserError as error:
            log(f"{name} is not taken for the default config's own run ({error}); trained as {fallback}")
            run = self.train(fallback, config)
        return open_predictions(run.name)


def best_trials(study: optuna.Study, top: int) -> list[FrozenTrial]:
    """The `top` finished trials of lowest inner RMSE with settings of their own, best first."""
    found: list[FrozenTrial] = []
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    for trial in sorted(done, key=lambda trial: (trial.value, trial.number)):
        if all(trial.params != other.params for other in found):
            found.append(trial)
    return found[:top]


def candidates(study: optuna.Study, name: str, config: Config, top: int) -> list[Candidate]:
    """The best trials as configurations. Raises UserError where no trial was finished."""
    best = best_trials(study, top)
    if not best:
        raise UserError(
            f"study {name}: no trial was finished, all were pruned or diverged; widen the space or lower train.lr"
        )
    found = []
    for trial in best:
        assert trial.value is not None
        values = values_of(trial)
        found.append(Candidate(f"{name}-trial{trial.number}", trial.value, with_values(config, values), values))
    return found


@dataclass(frozen=True)
class CrossFit:
    """Predictions whose candidate was chosen without their fold."""

    prediction: Floats
    chosen: dict[int, int]
    """fold -> position of the candidate that scored it"""


def cross_fit(target: Floats, fold: NDArray[np.int64], predictions: Sequence[Floats]) -> CrossFit:
    """Each fold by the one of `predictions` (each (n,)) with the lowest RMSE on the OTHER folds; ties to the first."""
    answer, chosen = np.empty(len(target)), {}
    for k in np.unique(fold):
        other, own = fold != k, fold == k
        values = [rmse(target[other], p[other]) for p in predictions]
        chosen[int(k)] = int(np.argmin(values))
        answer[own] = predictions[chosen[int(k)]][own]
    return CrossFit(answer, chosen)


def figures(
    sources: Sequence[Predictions], inner: Sequence[float], default: Predictions, unseen: int
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The three figures and the paired comparisons, and the cross-fitted predictions as an OOF table.

    `inner`: each source's inner RMSE in the search; `unseen`: the fold whose scored rows the search never saw.
    """
    first = sources[0]
    fitted = cross_fit(first.target, first.fold, [source.prediction for source in sources])
    pooled = [rmse(source.target, source.prediction) for source in sources]
    winner = int(np.argmin(pooled))
    table = first.table.assign(prediction=fitted.prediction)
    found = _figures(table, default, unseen, first.groups) | {
        "kind": "cross-fitted",
        "selected": evaluate(first.target, sources[winner].prediction, constant_predictions(table), first.groups).to_dict(),
        "winner": sources[winner].name,
        "candidates": [
            {"run": source.name, "inner_rmse": value, "rmse": own,
             "scores_folds": [k for k, at in fitted.chosen.items() if at == i]}
            for i, (source, value, own) in enumerate(zip(sources, inner, pooled, strict=True))
        ],
    }  # fmt: skip
    others = [("cross-fitted", fitted.prediction), ("selected", sources[winner].prediction)]
    found["against_default"] = [
        row.to_dict() for row in compare(default.target, default.prediction, others, first.groups)
    ]
    return found, table


def nested_figures(
    runs: Sequence[Run], folds: Folds, default: Predictions, inner: Sequence[float], unseen: int
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The figure of a search per fold: `runs[k]` is the winner of fold k's own search and scores that fold."""
    parts = [read_fold(run, fold, folds) for fold, run in enumerate(runs)]
    table = pd.concat(parts).sort_values("Id", ignore_index=True)
    groups = folds.groups_of(table["Id"])
    found = _figures(table, default, unseen, groups) | {
        "kind": "nested",
        "selected": None,
        "winner": runs[unseen].name,
        "candidates": [
            {"run": run.name, "inner_rmse": value, "rmse": None, "scores_folds": [fold]}
            for fold, (run, value) in enumerate(zip(runs, inner, strict=True))
        ],
    }  # fmt: skip
    others = [("nested", table["prediction"].to_numpy(dtype=np.float64))]
    found["against_default"] = [row.to_dict() for row in compare(default.target, default.prediction, others, groups)]
    return found, table


def _figures(
    table: pd.DataFrame, default: Predictions, unseen: int, groups: NDArray[np.int64] | None
) -> dict[str, Any]:
    target, prediction = (table[c].to_numpy(dtype=np.float64) for c in ("target", "prediction"))
    constant = constant_predictions(table)
    alone = (table["fold"] == unseen).to_numpy()
    own = groups[alone] if groups is not None else None
    return {
        "headline": evaluate(target, prediction, constant, groups).to_dict(),
        "unseen_fold": unseen,
        "unseen": evaluate(target[alone], prediction[alone], constant[alone], own).to_dict(),
        "default": {"run": default.name,
                    **evaluate(default.target, default.prediction, default.constant, default.groups).to_dict()},
    }  # fmt: skip


def write_winner(name: str, configs: str, config: Config, line: str, root: Path | None = None) -> Path:
    """Write `configs/tuned/NAME.yaml`: what `config` sets otherwise than `configs` does, so that training repeats it."""
    import yaml

    before, after = resolve(configs).to_dict(), config.to_dict()
    delta: dict[str, Any] = {}
    if configs != "default":
        delta["base"] = configs
    for section, part in after.items():
        if section in ("name", "search", "cache") or not isinstance(part, dict):
            continue
        changed = {key: value for key, value in part.items() if before[section].get(key) != value}
        if changed:
            delta[section] = {key: _plain(value) for key, value in changed.items()}
    # A backbone named anew starts its arguments afresh, so they are named with it.
    if "backbone" in delta.get("model", {}):
        delta["model"]["args"] = after["model"]["args"]
    path = (root or Path(CONFIGS)) / "tuned" / f"{name}.yaml"
    write_text(path, f"# {line}\n{yaml.safe_dump(delta, sort_keys=False)}")
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value


def report(found: Mapping[str, Any], counts: Mapping[str, int], fold: str) -> str:
    """The figures as text."""
    width = max(len(c["run"]) for c in (*found["candidates"], found["default"]))
    lines = [f"{counts['trials']} trials: {counts['complete']} finished, {counts['pruned']} pruned, {counts['refused']} "
             f"refused or diverged, {counts['repeated']} run again; {fold}", ""]  # fmt: skip
    lines.append(f"{'candidate':{width}s}  inner RMSE  all folds  scores fold")
    for c in found["candidates"]:
        own = "        -" if c["rmse"] is None else f"{c['rmse']:9.3f}"
        lines.append(
            f"{c['run']:{width}s}  {c['inner_rmse']:10.3f}  {own}  {' '.join(map(str, c['scores_folds'])) or '-'}"
        )
    lines.append("")
    notes = {"cross-fitted": "each fold scored by the candidate that is best on the other folds",
             "nested": "each fold scored by the winner of a search that never saw it"}  # fmt: skip
    lines.append(_line(found["kind"], found["headline"], notes[found["kind"]]))
    if found["selected"] is not None:
        lines.append(_line("selected", found["selected"], f"{found['winner']}, chosen on these rows: flattered"))
    lines.append(_line(f"fold {found['unseen_fold']} alone", found["unseen"],
                       "its rows had no part in the search, nor in the choice of the settings that score them"))  # fmt: skip
    lines.append(_line("default", found["default"], f"{found['default']['run']}: the config as it was"))
    for row in found["against_default"]:
        lines.append(f"{row['name']} - default: {row['difference']:+.3f}, paired 95 % [{row['low']:+.3f}, {row['high']:+.3f}], "
                     f"p {row['p']:.4f} (Holm {row['p_holm']:.4f}): {row['verdict']}")  # fmt: skip
    return "\n".join(lines)


def _line(name: str, s: Mapping[str, Any], note: str) -> str:
    few = " (indicative: n < 50)" if s["indicative"] else ""
    return (f"{name:13s} RMSE {s['rmse']:.3f}, 95 % [{s['low']:.2f}, {s['high']:.2f}]{few}; constant {s['constant_rmse']:.3f}; "
            f"n = {s['n']}; {note}")  # fmt: skip


def counts_of(studies: Sequence[optuna.Study], first_try: Callable[[FrozenTrial], bool]) -> dict[str, int]:
    """How many trials there were, and what became of them."""
    trials = [trial for study in studies for trial in study.get_trials(deepcopy=False)]
    refused = sum("refused" in t.user_attrs and t.state == TrialState.PRUNED for t in trials)
    return {
        "trials": sum(first_try(t) for t in trials),
        "complete": sum(t.state == TrialState.COMPLETE for t in trials),
        "pruned": sum(t.state == TrialState.PRUNED for t in trials) - refused,
        "refused": refused,
        "repeated": sum(not first_try(t) for t in trials),
    }
