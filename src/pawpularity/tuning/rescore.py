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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from pawpularity.config import CONFIGS, Config, resolve
from pawpularity.console import log, table
from pawpularity.context import Context, default_run
from pawpularity.errors import UserError
from pawpularity.evaluation.compare import compare
from pawpularity.evaluation.metrics import evaluate, rmse
from pawpularity.evaluation.oof import read_fold
from pawpularity.evaluation.predictions import Predictions, open_predictions
from pawpularity.files import write_text
from pawpularity.runs import Run
from pawpularity.training.fold import train_run
from pawpularity.training.samples import TrainingData
from pawpularity.tuning.objective import REFUSED, values_of
from pawpularity.tuning.space import with_values
from pawpularity.tuning.study import first_try, trials_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """One of the best trials."""

    name: str
    inner_rmse: float
    config: Config
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Trainer:
    """Trains runs of one data set, as far as they are not trained yet."""

    context: Context
    data: TrainingData

    def train(self, name: str, config: Config, wanted: Sequence[int] | None = None) -> Run:
        """The run `name` with all folds (or those `wanted`). Raises UserError where another run has the name."""
        return train_run(self.context.variant(config, name), wanted=wanted, data=self.data)

    def default(self, study: str) -> Predictions:
        """The config's own run, under its usual name, or as `STUDY-default` where another run stands there."""
        config, name = self.context.config, default_run(self.context.words[1], self.context.data)
        try:
            run = self.train(name, config)
        except UserError as error:
            log(f"the default is trained as {study}-default: {error}")
            run = self.train(f"{study}-default", config)
        return open_predictions(run.name)


def best_trials(study: optuna.Study, top: int) -> list[FrozenTrial]:
    """The `top` finished trials of lowest inner RMSE with settings of their own, best first."""
    found: list[FrozenTrial] = []
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    for trial in sorted(done, key=lambda trial: (trial.value, trial.number)):
        if all(trial.params != other.params for other in found):
            found.append(trial)
    return found[:top]


def candidates(study: optuna.Study, config: Config, top: int) -> list[Candidate]:
    """The best trials as configurations. Raises UserError where no trial was finished."""
    found = []
    for trial in best_trials(study, top):
        assert trial.value is not None
        values, name = values_of(trial), f"{study.study_name}-trial{trial.number}"
        found.append(Candidate(name, trial.value, with_values(config, values), values))
    if not found:
        why = next((t.user_attrs[REFUSED] for t in trials_of(study) if REFUSED in t.user_attrs), "all were pruned")
        raise UserError(
            f"study {study.study_name}: no trial was finished ({why}), so there is nothing to train on all folds; take another "
            "name (RUN=...) with a lower search.space.train.lr"
        )
    return found


def cross_fit(target: Floats, fold: NDArray[np.int64], predictions: Sequence[Floats]) -> tuple[Floats, dict[int, int]]:
    """Each fold by the one of `predictions` (each (n,)) with the lowest RMSE on the OTHER folds; ties to the first.

    Gives the predictions, and for each fold the position of the one that scored it.
    """
    answer, chosen = np.empty(len(target)), {}
    for k in map(int, np.unique(fold)):
        other = fold != k
        chosen[k] = int(np.argmin([rmse(target[other], p[other]) for p in predictions]))
        answer[~other] = predictions[chosen[k]][~other]
    return answer, chosen


def rescore(best: Sequence[Candidate], trainer: Trainer, default: Predictions) -> tuple[dict[str, Any], Floats]:
    """Train the candidates of one search on all folds: the figures, and the cross-fitted predictions (n,)."""
    sources = [open_predictions(trainer.train(c.name, c.config).name).prediction for c in best]
    pooled = [rmse(default.target, source) for source in sources]
    prediction, chosen = cross_fit(default.target, default.fold, sources)
    winner = int(np.argmin(pooled))
    rows = [
        {
            "run": c.name,
            "inner_rmse": c.inner_rmse,
            "rmse": own,
            "scores_folds": [k for k, at in chosen.items() if at == i],
        }
        for i, (c, own) in enumerate(zip(best, pooled, strict=True))
    ]
    found = {"kind": "cross-fitted", "winner": best[winner].name, "candidates": rows}
    return found | _figures("cross-fitted", prediction, sources[winner], default, trainer), prediction


def rescore_nested(best: Sequence[Candidate], trainer: Trainer, default: Predictions) -> tuple[dict[str, Any], Floats]:
    """Train the winner of each fold's own search on that fold's training rows: the figures, and the predictions (n,)."""
    folds = trainer.context.folds
    parts = [read_fold(trainer.train(c.name, c.config, [fold]), fold, folds) for fold, c in enumerate(best)]
    prediction = pd.concat(parts).sort_values("Id")["prediction"].to_numpy(dtype=np.float64)
    rows = [{"run": c.name, "inner_rmse": c.inner_rmse, "rmse": None, "scores_folds": [k]} for k, c in enumerate(best)]
    winner = best[trainer.context.config.search.fold].name
    found = {"kind": "nested", "winner": winner, "candidates": rows}
    return found | _figures("nested", prediction, None, default, trainer), prediction


def _figures(
    kind: str, prediction: Floats, selected: Floats | None, default: Predictions, trainer: Trainer
) -> dict[str, Any]:
    unseen = trainer.context.config.search.fold

    def scored(values: Floats, at: Any = slice(None)) -> dict[str, Any]:
        groups = None if default.groups is None else default.groups[at]
        return evaluate(default.target[at], values[at], default.constant[at], groups).to_dict()

    others = [(kind, prediction)] + ([] if selected is None else [("selected", selected)])
    return {
        "headline": scored(prediction),
        "selected": None if selected is None else scored(selected),
        "unseen_fold": unseen,
        "unseen": scored(prediction, default.fold == unseen),
        "default": {"run": default.name, **scored(default.prediction)},
        "against_default": [
            row.to_dict() for row in compare(default.target, default.prediction, others, default.groups)
        ],
    }


def write_winner(name: str, configs: str, winner: Candidate) -> Path:
    """Write `configs/tuned/NAME.yaml`: what the winner sets otherwise than `configs` does, so that training repeats it."""
    import yaml

    before, after = resolve(configs).to_dict(), winner.config.to_dict()
    delta: dict[str, Any] = {} if configs == "default" else {"base": configs}
    for section, part in after.items():
        if section in ("name", "search", "cache"):
            continue
        if changed := {key: value for key, value in part.items() if before[section].get(key) != value}:
            delta[section] = changed
    # A backbone named anew starts its arguments afresh, so they are named with it.
    if "backbone" in delta.get("model", {}):
        delta["model"]["args"] = after["model"]["args"]
    path = Path(CONFIGS) / "tuned" / f"{name}.yaml"
    line = f"# Found by make tune: study {name}, run {winner.name} (inner RMSE {winner.inner_rmse:.3f})."
    write_text(path, f"{line}\n{yaml.safe_dump(delta, sort_keys=False)}")
    return path


def counts_of(studies: Sequence[optuna.Study]) -> dict[str, int]:
    """How many trials there were, and what became of them."""
    trials = [trial for study in studies for trial in trials_of(study)]
    refused = sum(REFUSED in t.user_attrs for t in trials)
    first = sum(map(first_try, trials))
    return {
        "trials": first,
        "complete": sum(t.state == TrialState.COMPLETE for t in trials),
        "pruned": sum(t.state == TrialState.PRUNED for t in trials) - refused,
        "refused": refused,
        "repeated": len(trials) - first,
    }


def report(found: Mapping[str, Any], where: str) -> str:
    """The figures as text. `where`: what was searched."""
    counts = found["counts"]
    notes = {
        "cross-fitted": "each fold scored by the candidate that is best on the other folds",
        "nested": "each fold scored by the winner of a search that never saw it",
    }
    figures = [
        (found["kind"], found["headline"], notes[found["kind"]]),
        ("selected", found["selected"], f"{found['winner']}, chosen on these rows: flattered"),
        (f"fold {found['unseen_fold']} alone", found["unseen"], "its rows had no part in the search"),
        ("default", found["default"], f"{found['default']['run']}: the config as it was"),
    ]
    runs = table(
        ["candidate", "inner RMSE", "all folds", "scores fold"],
        [[c["run"], f"{c['inner_rmse']:.3f}", "-" if c["rmse"] is None else f"{c['rmse']:.3f}",
          " ".join(map(str, c["scores_folds"])) or "-"] for c in found["candidates"]],
    )  # fmt: skip
    scores = table(
        ["figure", "RMSE", "95 %", "constant", "n", "what it is"],
        [[name, f"{s['rmse']:.3f}", f"[{s['low']:.2f}, {s['high']:.2f}]", f"{s['constant_rmse']:.3f}", s["n"],
          note + (" (indicative: n < 50)" if s["indicative"] else "")] for name, s, note in figures if s is not None],
        left=(0, 5),
    )  # fmt: skip
    paired = [
        f"{row['name']} - default: {row['difference']:+.3f}, paired 95 % [{row['low']:+.3f}, {row['high']:+.3f}], "
        f"p {row['p']:.4f} (Holm {row['p_holm']:.4f}): {row['verdict']}"
        for row in found["against_default"]
    ]
    head = (
        f"{counts['trials']} trials: {counts['complete']} finished, {counts['pruned']} pruned, {counts['refused']} refused or "
        f"diverged, {counts['repeated']} run again; {where}"
    )
    return "\n".join([head, "", runs, "", scores, "", *paired])
