"""What a study looks like: the best trials, which settings matter, what depth costs; as text, PNG and HTML.

The pictures are Optuna's own. `optuna-dashboard oof/studies/NAME/study.journal` (a package of its own) shows the same live.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from pawpularity.files import atomic_file
from pawpularity.tuning.objective import values_of, words
from pawpularity.tuning.rescore import best_trials
from pawpularity.tuning.space import DEPTH
from pawpularity.tuning.study import first_try

FEWEST_FOR_IMPORTANCE = 8


def summary(study: optuna.Study, top: int = 10) -> dict[str, Any]:
    """Everything about a study, for `summary_text` and programs. Inner RMSEs in score points, times in seconds."""
    trials = study.get_trials(deepcopy=False)
    by = {state.name.lower(): sum(trial.state == state for trial in trials) for state in TrialState}
    return {
        "study": study.study_name,
        "trials": sum(first_try(trial) for trial in trials),
        "states": by,
        "best": [
            {"trial": t.number, "inner_rmse": t.value, "epochs": t.user_attrs.get("epochs"),
             "seconds": t.user_attrs.get("seconds"), "values": values_of(t)}
            for t in best_trials(study, top)
        ],
        "importances": importances(study),
        "depths": depths(trials),
    }  # fmt: skip


def importances(study: optuna.Study) -> dict[str, float] | None:
    """Share of the inner RMSE's variance each setting explains (fANOVA, Hutter et al. 2014); None with too few trials."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < FEWEST_FOR_IMPORTANCE or np.ptp([trial.value or 0.0 for trial in done]) == 0:
        return None
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(value) for key, value in found.items()}


def depths(trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """Per depth: trials, how many were finished, best and median inner RMSE, and the median seconds of an epoch."""
    found = []
    for depth in sorted({trial.params[DEPTH] for trial in trials if DEPTH in trial.params}):
        here = [trial for trial in trials if trial.params.get(DEPTH) == depth]
        values = [trial.value for trial in here if trial.state == TrialState.COMPLETE and trial.value is not None]
        epochs = [
            trial.user_attrs["seconds"] / trial.user_attrs["epochs"] for trial in here if trial.user_attrs.get("epochs")
        ]
        found.append(
            {"unfrozen": depth, "trials": len(here), "finished": len(values), "best": min(values, default=None),
             "median": float(np.median(values)) if values else None,
             "seconds_an_epoch": float(np.median(epochs)) if epochs else None}
        )  # fmt: skip
    return found


def summary_text(found: dict[str, Any]) -> str:
    """`summary` as text."""
    states = ", ".join(f"{count} {name}" for name, count in found["states"].items() if count)
    lines = [f"study {found['study']}: {found['trials']} trials ({states})", "",
             "trial  inner RMSE  epochs     time  settings"]  # fmt: skip
    for t in found["best"]:
        epochs, seconds = (
            "-" if t[key] is None else f"{t[key]:.{digits}f}" for key, digits in (("epochs", 0), ("seconds", 1))
        )
        lines.append(f"{t['trial']:5d}  {t['inner_rmse']:10.3f}  {epochs:>6s}  {seconds:>5s} s  {words(t['values'])}")
    lines.append("")
    if found["importances"] is None:
        lines.append(f"importances: {FEWEST_FOR_IMPORTANCE} finished trials that differ are needed")
    else:
        lines.append("importance (fANOVA: share of the inner RMSE's variance)")
        lines += [f"  {key:24s} {value:.2f}" for key, value in found["importances"].items()]
    if found["depths"]:
        lines += ["", "unfrozen  trials  finished    best  median  seconds an epoch"]
        for d in found["depths"]:
            best, median, seconds = (
                "-" if d[key] is None else f"{d[key]:.{digits}f}"
                for key, digits in (("best", 3), ("median", 3), ("seconds_an_epoch", 2))
            )
            lines.append(
                f"{d['unfrozen']:>8}  {d['trials']:6d}  {d['finished']:8d}  {best:>6s}  {median:>6s}  {seconds:>16s}"
            )
    lines += [
        "",
        "inner RMSEs chose these trials, so they flatter; what is out of fold is what make tune prints at its end",
    ]
    return "\n".join(lines)


def draw(study: optuna.Study, folder: Path) -> list[Path]:
    """Optuna's plots as PNG and HTML below `folder`; those that these trials are too few for are left out."""
    import matplotlib

    matplotlib.use("Agg")
    made: list[Path] = []
    for name, (flat, page) in _plots(study).items():
        for suffix, make, save in ((".png", flat, _save_png), (".html", page, _save_page)):
            path = folder / f"{name}{suffix}"
            # Optuna lays a style over all of matplotlib: without the context it would stay for whoever draws next.
            with matplotlib.rc_context(), warnings.catch_warnings(), atomic_file(path) as temporary:
                warnings.simplefilter("ignore")  # its matplotlib plots are called experimental
                save(make(), temporary, name)
            made.append(path)
    return made


def _save_png(axes: Any, path: Path, _: str) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    every = np.asarray(axes, dtype=object).ravel()
    figure = every[0].figure
    for axis in every:
        axis.tick_params(axis="x", labelrotation=30)
        axis.xaxis.set_minor_formatter(NullFormatter())  # a narrow logarithmic axis would write them over one another
        legend = axis.get_legend()
        if legend is not None and len(legend.get_texts()) > 8:  # one line a trial, longer than the picture
            legend.remove()
        if axis.get_ylabel() == "Intermediate Value":
            axis.set(xlabel="epoch", ylabel="inner RMSE", title="Inner RMSE by epoch, one line a trial")
    figure.set_size_inches(max(8.0, 3.2 * len(every)), 5.0)
    figure.savefig(path, format="png", dpi=100, bbox_inches="tight")
    plt.close(figure)


def _save_page(figure: Any, path: Path, name: str) -> None:
    # The script travels inside, so that a page opens without a network; without a name of ours the bytes would be others each time.
    figure.write_html(path, include_plotlyjs=True, full_html=True, div_id=name)


def _seconds(trial: FrozenTrial) -> float:
    return float(trial.user_attrs.get("seconds", math.nan))


def _plots(study: optuna.Study) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    import optuna.visualization as page
    import optuna.visualization.matplotlib as flat

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    found: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}
    if not done:
        return found
    names = sorted(set.intersection(*(set(trial.params) for trial in done)))

    def both(name: str, plot: str, **arguments: Any) -> None:
        found[name] = (lambda: getattr(flat, plot)(study, **arguments), lambda: getattr(page, plot)(study, **arguments))

    said = {"target_name": "inner RMSE"}
    both("history", "plot_optimization_history", **said)
    both("epochs", "plot_intermediate_values")
    if names:
        both("settings", "plot_slice", params=names, **said)
    if DEPTH in names:
        both("depth-rmse", "plot_slice", params=[DEPTH], **said)
        both("depth-seconds", "plot_slice", params=[DEPTH], target=_seconds, target_name="seconds")
    if importances(study) is not None:
        both(
            "importances",
            "plot_param_importances",
            evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
            **said,
        )
    return found
