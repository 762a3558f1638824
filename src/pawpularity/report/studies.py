"""The section of the searches: what `tune` found, with the honest figure first, and its trials."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pawpularity.evaluation.metrics import indicative
from pawpularity.files import read_json
from pawpularity.report.components import (
    Block,
    Cell,
    Figure,
    Heading,
    Section,
    Table,
    Words,
    as_written,
    chance,
    collect,
    number,
    span,
)
from pawpularity.report.drawing import drawn
from pawpularity.report.inputs import STUDIES
from pawpularity.report.plots import bars, trial_history

if TYPE_CHECKING:
    import optuna

_HEIGHT = 250.0  # CSS pixels
MOST_SETTINGS = 12
_KINDS = {
    "cross-fitted": "each fold by the candidate that is best on the other folds",
    "nested": "each fold by the winner of a search that never saw it",
}


def studies_section() -> Section:
    """Every study below `oof/studies/`."""
    folders = sorted(path for path in STUDIES.glob("*") if path.is_dir())
    blocks, faults = collect(part for place, folder in enumerate(folders) for part in _parts(folder, place))
    return Section("search", "The search", "search", "make tune", blocks, faults)


def _parts(folder: Path, place: int) -> Sequence[Callable[[], Sequence[Block]]]:
    """The parts of one study: its figures, once its best trials are scored; its trials, if they are in a journal."""
    name = folder.name
    parts: list[Callable[[], Sequence[Block]]] = []
    scored, journal = (folder / "search.json").is_file(), (folder / "study.journal").is_file()
    if scored:
        parts.append(partial(_figures, folder / "search.json", name))
    if journal:
        parts.append(partial(_trials, name, place, scored))
    return parts


def _figures(path: Path, name: str) -> list[Block]:
    """The figures in search.json."""
    found = read_json(path, f"the search {name}")
    command = f"make tune RUN={name}"
    rows: list[list[str | Cell]] = []
    with as_written(path, "tune", command):
        headline, winner = found["headline"], found["winner"]
        lines = [(found["kind"], headline, _KINDS[found["kind"]])]
        if found["selected"] is not None:
            lines.append(("selected", found["selected"], f"{winner}, chosen on these rows: optimistic"))
        lines.append((f"fold {found['unseen_fold']} alone", found["unseen"], "its rows had no part in the search"))
        lines.append(("default", found["default"], f"{found['default']['run']}: the config as it was"))
        against = {row["name"]: row for row in found["against_default"]}
        for figure, s, note in lines:
            row: list[str | Cell] = [
                figure,
                Cell(f"{s['rmse']:.3f}", "strong"),
                span(s["low"], s["high"]) + indicative(s),
            ]
            row += [f"{s['constant_rmse']:.3f}", f"{s['n']:,}"]
            if (c := against.get(figure)) is None:
                row += ["-", "-", note]
            else:
                row += [
                    f"{c['difference']:+.3f} {span(c['low'], c['high'], 3, signed=True)}",
                    chance(c["p_holm"]),
                    note,
                ]
            rows.append(row)
        candidates: list[list[str | Cell]] = [
            [c["run"], f"{c['inner_rmse']:.3f}", number(c["rmse"], 3), f"{headline['constant_rmse']:.3f}",
             " ".join(map(str, c["scores_folds"])) or "-"]
            for c in found["candidates"]
        ]  # fmt: skip
        n = found["counts"]
        counts = (f"{n['trials']} trials: {n['complete']} finished, {n['pruned']} pruned, {n['refused']} refused or diverged. The "
                  f"winner is {winner}, in {found['winner_config']}.")  # fmt: skip
    head = ["figure", "RMSE", "95 %", "constant", "n", "less the default, paired 95 %", "p (Holm)", "what it is"]
    candidate_head = ["candidate", "inner RMSE", "RMSE on all folds", "constant", "scores folds"]
    note = "Inner RMSEs chose these trials, so they are optimistic."
    return [
        Heading(f"search {name}"),
        Words([counts]),
        Table("Out-of-fold RMSE, score points; the first is the honest one", head, rows, command),
        Table("The best trials, trained on all folds", candidate_head, candidates, command, [note]),
    ]


def _trials(name: str, place: int, scored: bool) -> list[Block]:
    """The study's trials, as `make study` shows them."""
    from pawpularity.tuning.storage import Store
    from pawpularity.tuning.study import load_studies
    from pawpularity.tuning.views import summary

    blocks: list[Block] = []
    if not scored:
        line = f"Its best trials are not scored on all folds yet: make tune RUN={name}."
        blocks += [Heading(f"search {name}"), Words([line])]
    for count, study in enumerate(load_studies(Store(STUDIES / name, create=False), name)):
        title = study.study_name
        found = summary(study)
        command = f"make study RUN={name}"
        tag = f"{place}-{count}"
        blocks.append(_history(study, found, f"trials{tag}", command))
        if importances := found["importances"]:
            shown = dict(list(importances.items())[:MOST_SETTINGS])
            alt = f"Importance of the settings in {title}: " + ", ".join(
                f"{key} {value:.2f}" for key, value in shown.items()
            )

            def paint(axes: Any, shown: Any = shown) -> None:
                bars(axes, shown, "share of the inner RMSE's variance (fANOVA)")

            markup = drawn(f"importance{tag}", 48.0 + 31.0 * len(shown), paint, alt)
            blocks.append(Figure(markup, alt, f"{title}: which settings matter", command))
        if found["depths"]:
            depths: list[list[str | Cell]] = [
                [str(d["unfrozen"]), str(d["trials"]), str(d["finished"]), number(d["best"], 3), number(d["median"], 3),
                 number(d["seconds_an_epoch"])] for d in found["depths"]
            ]  # fmt: skip
            head = ["tensors trained", "trials", "finished", "best inner RMSE", "median", "seconds an epoch"]
            blocks.append(Table(f"{title}: what depth costs", head, depths, command))
    return blocks


def _history(study: "optuna.Study", found: Mapping[str, Any], name: str, command: str) -> Figure:
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    finished = [(t.number, t.value) for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    pruned = [(t.number, t.intermediate_values[max(t.intermediate_values)]) for t in trials
              if t.state == TrialState.PRUNED and t.intermediate_values]  # fmt: skip
    best = found["best"][0] if found["best"] else None
    winner = "none finished" if best is None else f"the best, trial {best['trial']}, {best['inner_rmse']:.2f}"
    alt = f"Inner RMSE of {found['trials']} trials of {found['study']} in their order, points: {len(finished)} finished, {winner}"

    def paint(axes: Any) -> None:
        trial_history(axes, finished, pruned)

    return Figure(
        drawn(name, _HEIGHT, paint, alt), alt, f"{found['study']}: the trials; inner rows, which chose them", command
    )
