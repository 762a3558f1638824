"""A study as text and Optuna's plots: the best trials, the importance of settings, the cost of each depth."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from pawpularity.console import Progress, table, track
from pawpularity.files import atomic_file, plain
from pawpularity.tuning.objective import settings_text, values_of
from pawpularity.tuning.rescore import best_trials
from pawpularity.tuning.space import DEPTH
from pawpularity.tuning.study import counts_of, counts_text, trials_of

FEWEST_FOR_IMPORTANCE = 8


def summary(study: optuna.Study, top: int = 10) -> dict[str, Any]:
    """A study's figures, for `summary_text` and JSON. Inner RMSEs in score points, times in seconds."""
    counts = counts_of([study])
    return {
        "study": study.study_name,
        "trials": counts["trials"],
        "counts": counts,
        "best": [
            {"trial": t.number, "inner_rmse": t.value, "epochs": t.user_attrs.get("epochs"),
             "seconds": t.user_attrs.get("seconds"), "values": values_of(t)}
            for t in best_trials(study, top)
        ],
        "importances": importances(study),
        "depths": depths(trials_of(study)),
    }  # fmt: skip


def importances(study: optuna.Study) -> dict[str, float] | None:
    """Share of the inner RMSE's variance each setting explains (fANOVA, Hutter et al. 2014); None with too few trials."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < FEWEST_FOR_IMPORTANCE or np.ptp([trial.value or 0.0 for trial in done]) == 0:
        return None
    return optuna.importance.get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def depths(trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    """Per depth: trials, how many were finished, best and median inner RMSE, and the median seconds of an epoch."""
    rows = [
        {"unfrozen": t.params[DEPTH], "value": t.value if t.state == TrialState.COMPLETE else math.nan,
         "epoch": _seconds(t) / (t.user_attrs.get("epochs") or math.nan)}
        for t in trials if DEPTH in t.params
    ]  # fmt: skip
    if not rows:
        return []
    groups = pd.DataFrame(rows).groupby("unfrozen")
    found = groups.agg(
        trials=("value", "size"), finished=("value", "count"), best=("value", "min"), median=("value", "median"),
        seconds_an_epoch=("epoch", "median"),
    )  # fmt: skip
    return [plain(dict(row)) for _, row in found.reset_index().astype(object).iterrows()]


def _seconds(trial: FrozenTrial) -> float:
    return float(trial.user_attrs.get("seconds", math.nan))


def summary_text(found: dict[str, Any], most: int = 5) -> str:
    """A study's best trials and the importance of its settings."""
    weights = ", ".join(f"{key} {value:.2f}" for key, value in (found["importances"] or {}).items())
    return "\n".join([
        f"study {found['study']}: {counts_text(found['counts'])}",
        _trials(found["best"][:most]),
        *(f"best trial: {settings_text(t['values'])}" for t in found["best"][:1]),
        f"importances (fANOVA): {weights or f'{FEWEST_FOR_IMPORTANCE} finished trials that differ are needed'}",
        "Trials were chosen by inner RMSE, so it is optimistic; make tune ends with out-of-fold figures.",
    ])  # fmt: skip


def more_text(found: dict[str, Any]) -> str:
    """The rest of `summary`: the listed trials with their settings, and what each depth costs."""
    parts = [f"study {found['study']}", _trials(found["best"])]
    parts += [f"trial {t['trial']}: {settings_text(t['values'])}" for t in found["best"]]
    if found["depths"]:
        lines = [
            [d["unfrozen"], d["trials"], d["finished"], _number(d["best"], 2), _number(d["median"], 2),
             _number(d["seconds_an_epoch"], 2)] for d in found["depths"]
        ]  # fmt: skip
        parts.append(table(["unfrozen", "trials", "finished", "best", "median", "seconds an epoch"], lines, left=()))
    return "\n".join(parts)


def _trials(best: list[dict[str, Any]]) -> str:
    rows = [[t["trial"], _number(t["inner_rmse"], 2), t["epochs"], _number(t["seconds"], 1)] for t in best]
    return table(["trial", "inner RMSE", "epochs", "seconds"], rows, left=())


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def draw(study: optuna.Study, folder: Path) -> None:
    """Write Optuna's plots below `folder` as PNG and HTML; plots that need more trials are left out."""
    with Progress(None, "loading the plots"):
        import matplotlib
        import matplotlib.pyplot as plt
        import optuna.visualization as plotly_plots
        import optuna.visualization.matplotlib as matplotlib_plots
        from matplotlib.ticker import NullFormatter

    matplotlib.use("Agg")
    for name, (plot, arguments) in track(_plots(study).items(), "drawing plots", unit="plots"):
        # Optuna sets a style for all of matplotlib; the context restores it for later plots.
        with matplotlib.rc_context(), warnings.catch_warnings(), atomic_file(folder / f"{name}.png") as png:
            warnings.simplefilter("ignore")  # its matplotlib plots are called experimental
            axes = np.ravel(np.asarray(getattr(matplotlib_plots, plot)(study, **arguments), dtype=object))
            for axis in axes:
                axis.tick_params(axis="x", labelrotation=30)
                axis.xaxis.set_minor_formatter(NullFormatter())  # a narrow logarithmic axis would overprint them
                if (legend := axis.get_legend()) and len(legend.get_texts()) > 8:
                    legend.remove()  # one line a trial, longer than the picture
            axes[0].figure.set_size_inches(max(8.0, 3.2 * len(axes)), 5.0)
            axes[0].figure.savefig(png, format="png", dpi=100, bbox_inches="tight")
            plt.close(axes[0].figure)
        # The page includes plotly's script, so that it opens without a network. A fixed div_id makes its bytes the same each time.
        with atomic_file(folder / f"{name}.html") as html:
            getattr(plotly_plots, plot)(study, **arguments).write_html(html, include_plotlyjs=True, div_id=name)


def _plots(study: optuna.Study) -> dict[str, tuple[str, dict[str, Any]]]:
    """The plots that these trials allow: file name -> Optuna's function and its arguments."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not done:
        return {}
    titles = {"target_name": "inner RMSE"}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "history": ("plot_optimization_history", titles),
        "epochs": ("plot_intermediate_values", {}),
        "settings": ("plot_slice", titles),
    }
    if any(DEPTH in trial.params for trial in done):
        found["depth-rmse"] = ("plot_slice", {"params": [DEPTH], **titles})
        found["depth-seconds"] = ("plot_slice", {"params": [DEPTH], "target": _seconds, "target_name": "seconds"})
    if importances(study) is not None:
        found["importances"] = ("plot_param_importances", {"evaluator": FanovaImportanceEvaluator(seed=0), **titles})
    return found
