"""Score the best trials of a search on out-of-fold rows.

The best trials by inner RMSE are trained on all folds, as ordinary runs `oof/NAME-trialN`. Then three figures:

- *cross-fitted*: each fold scored by the candidate that is best on the OTHER folds. The headline: the RMSE of the
  procedure "take the best of these" on rows that did not choose.
- *selected*: the winner on all folds. It was chosen on the rows that score it, so the figure is optimistic (by 0.05 points for
  the best of five at 9,912 rows, 0.5 at 120).
- *unseen fold*: the cross-fitted rows of the searched fold alone: no trial used its scored rows.

The trials of one search used the rows of the other folds for training and as inner rows. `search.nested` runs a separate
search for every fold, so that no row takes part in choosing the settings that score it.
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
from pawpularity.console import log, span, table
from pawpularity.context import Context, default_run
from pawpularity.errors import Diverged, UserError, listed
from pawpularity.evaluation.compare import compare
from pawpularity.evaluation.metrics import evaluate, indicative, rmse
from pawpularity.evaluation.oof import read_fold
from pawpularity.evaluation.predictions import Predictions, open_predictions
from pawpularity.files import write_text
from pawpularity.runs import OOF, Run
from pawpularity.training.fold import train_run
from pawpularity.training.samples import TrainingData
from pawpularity.tuning.objective import values_of
from pawpularity.tuning.study import REFUSED, counts_text, trials_of

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
    """Trains runs of one data set; folds that are trained already are skipped."""

    context: Context
    data: TrainingData

    def train(self, name: str, config: Config, wanted: Sequence[int] | None = None) -> Run:
        """The run `name` with all folds (or those `wanted`). Raises UserError if a run with other settings has the name."""
        return train_run(self.context.variant(config, name), wanted=wanted, data=self.data)

    def candidates(self, best: Sequence[Candidate]) -> list[Candidate]:
        """Train them on all folds, in a nested search each on its own; those that diverge there are left out.

        Raises UserError if none is left, or one of a nested search.
        """
        nested, kept = self.context.config.search.nested, []
        for fold, candidate in enumerate(best):
            try:
                self.train(candidate.name, candidate.config, [fold] if nested else None)
                kept.append(candidate)
            except Diverged as error:
                log(f"{candidate.name} is left out: {error}")
        if not kept or (nested and len(kept) < len(best)):
            raise UserError(
                f"{', '.join(c.name for c in best if c not in kept)}: diverged on all folds, so there is nothing to score; take "
                "another name (RUN=...) with a lower search.space.train.lr"
            )
        return kept

    def default(self, study: str) -> Predictions:
        """The run of the config as it is, under its usual name, or as `STUDY-default` if another run has that name."""
        config, words = self.context.config, self.context.words
        name = default_run(words[1], self.context.data, words[6:])
        try:
            run = self.train(name, config)
        except Diverged:
            raise
        except UserError as error:
            log(f"the default is trained as {study}-default: {error}")
            run = self.train(f"{study}-default", config)
        return open_predictions(run.name)


def best_trials(study: optuna.Study, top: int) -> list[FrozenTrial]:
    """The `top` finished trials of lowest inner RMSE with different settings, best first."""
    found: list[FrozenTrial] = []
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    for trial in sorted(done, key=lambda trial: (trial.value, trial.number)):
        if all(trial.params != other.params for other in found):
            found.append(trial)
    return found[:top]


def candidates(study: optuna.Study, config: Config, top: int) -> list[Candidate]:
    """The best trials as configurations. Raises UserError if no trial was finished."""
    found = []
    for trial in best_trials(study, top):
        assert trial.value is not None
        values, name = values_of(trial), f"{study.study_name}-trial{trial.number}"
        marked = config.with_values(values | {"search.found_by": study.study_name})
        found.append(Candidate(name, trial.value, marked, values))
    if not found:
        why = next((t.user_attrs[REFUSED] for t in trials_of(study) if REFUSED in t.user_attrs), "all were pruned")
        raise UserError(
            f"study {study.study_name}: no trial was finished ({why}), so there is nothing to train on all folds; take another "
            "name (RUN=...) with a lower search.space.train.lr"
        )
    return found


def cross_fit(target: Floats, fold: NDArray[np.int64], predictions: Sequence[Floats]) -> tuple[Floats, dict[int, int]]:
    """Take each fold from the one of `predictions` (each (n,)) with the lowest RMSE on the OTHER folds; ties to the first.

    Returns the predictions, and for each fold the position of the one it was taken from.
    """
    answer, chosen = np.empty(len(target)), {}
    for k in map(int, np.unique(fold)):
        other = fold != k
        chosen[k] = int(np.argmin([rmse(target[other], p[other]) for p in predictions]))
        answer[~other] = predictions[chosen[k]][~other]
    return answer, chosen


def rescore(best: Sequence[Candidate], context: Context, default: Predictions) -> tuple[dict[str, Any], Floats]:
    """Score the trained candidates: the figures, and the predictions (n,) behind the headline.

    `best`: of one search, trained on all folds; or the winner of each fold's own search, trained on that fold's training rows.
    """
    search, folds = context.config.search, context.folds
    pooled: list[float | None] = [None] * len(best)
    if search.nested:
        parts = [read_fold(Run.open(OOF / c.name), fold, folds) for fold, c in enumerate(best)]
        prediction = pd.concat(parts).sort_values("Id")["prediction"].to_numpy(dtype=np.float64)
        kind, winner, chosen = "nested", search.fold, {fold: fold for fold in range(len(best))}
        figures = {kind: prediction}
    else:
        sources = [open_predictions(c.name).prediction for c in best]
        prediction, chosen = cross_fit(default.target, default.fold, sources)
        errors = [rmse(default.target, source) for source in sources]
        kind, winner, pooled = "cross-fitted", int(np.argmin(errors)), [*errors]
        figures = {kind: prediction, "selected": sources[winner]}

    def scored(values: Floats, at: Any = slice(None)) -> dict[str, Any]:
        groups = None if default.groups is None else default.groups[at]
        return evaluate(default.target[at], values[at], default.constant[at], groups).to_dict()

    paired = compare(default.target, default.prediction, list(figures.items()), default.groups)
    return {
        "kind": kind,
        "headline": scored(prediction),
        "selected": scored(figures["selected"]) if "selected" in figures else None,
        "unseen_fold": search.fold,
        "unseen": scored(prediction, default.fold == search.fold),
        "default": {"run": default.name, **scored(default.prediction)},
        "against_default": [row.to_dict() for row in paired],
        "winner": best[winner].name,
        "candidates": [
            {"run": c.name, "inner_rmse": c.inner_rmse, "rmse": own, "scores_folds": [k for k in chosen if chosen[k] == i]}
            for i, (c, own) in enumerate(zip(best, pooled, strict=True))
        ],
    }, prediction  # fmt: skip


def write_winner(name: str, configs: str, winner: Candidate) -> Path:
    """Write `configs/tuned/NAME.yaml`: the settings in which the winner differs from `configs`, and the study's name."""
    import yaml

    before, after = resolve(configs).to_dict(), winner.config.to_dict()
    delta: dict[str, Any] = {} if configs == "default" else {"base": configs}
    for section, part in after.items():
        if section in ("name", "search", "cache"):
            continue
        if changed := {key: value for key, value in part.items() if before[section].get(key) != value}:
            delta[section] = changed
    # Setting model.backbone resets model.args, so write both.
    if "backbone" in delta.get("model", {}):
        delta["model"]["args"] = after["model"]["args"]
    delta["search"] = {"found_by": name}
    path = Path(CONFIGS) / "tuned" / f"{name}.yaml"
    line = f"# Found by make tune: study {name}, run {winner.name} (inner RMSE {winner.inner_rmse:.3f})."
    write_text(path, f"{line}\n{yaml.safe_dump(delta, sort_keys=False)}")
    return path


def report(found: Mapping[str, Any], where: str) -> tuple[str, str]:
    """The figures as text, and the candidates they were chosen from. `where`: what was searched."""
    crossed = "each fold scored by the candidate that is best on the other folds"
    nested = "each fold scored by the winner of a search that never saw it"
    figures = [
        (found["kind"], found["headline"], nested if found["kind"] == "nested" else crossed),
        ("selected", found["selected"], f"{found['winner']}, chosen on these rows: optimistic"),
        (f"fold {found['unseen_fold']} alone", found["unseen"], "no trial used its scored rows"),
        ("default", found["default"], f"{found['default']['run']}: the config as it was"),
    ]
    figures = [figure for figure in figures if figure[1] is not None]
    runs = [
        [c["run"], f"{c['inner_rmse']:.2f}", "-" if c["rmse"] is None else f"{c['rmse']:.2f}",
         listed(c["scores_folds"], " ") if c["scores_folds"] else "-"] for c in found["candidates"]
    ]  # fmt: skip
    scores = [[name, f"{s['rmse']:.2f}", f"[{s['low']:.2f}, {s['high']:.2f}]{indicative(s)}", f"{s['constant_rmse']:.2f}",
               f"{s['n']:,}"] for name, s, _ in figures]  # fmt: skip
    paired = [[row["name"], span(row["difference"], row["low"], row["high"]), f"{row['p_holm']:.4f}", row["verdict"]]
              for row in found["against_default"]]  # fmt: skip
    return "\n".join([
        f"{counts_text(found['counts'])}; {where}",
        table(["figure", "RMSE", "95 %", "constant", "n"], scores),
        table(["less the default", "paired 95 %", "p (Holm)", "verdict"], paired, left=(0, 3)),
    ]), "\n".join([
        *(f"{name}: {note}" for name, _, note in figures),
        table(["candidate", "inner RMSE", "all folds", "scores fold"], runs),
    ])  # fmt: skip
