"""`pawpularity oof`: the leaderboard over runs and files (RMSE, interval, constant, n), or everything about one of them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pawpularity.console import duration, emit, log, next_step, table
from pawpularity.errors import UserError, listed
from pawpularity.evaluation.label_noise import explainable, noise_for
from pawpularity.evaluation.leak_detection import FEWEST_ROWS, leak_signs, origin_of
from pawpularity.evaluation.metrics import bootstrap_metrics, calibration_line, error_by_band, evaluate, rmse
from pawpularity.evaluation.predictions import FEWEST_SEEDS, SEED_SPREAD, Predictions, is_file_word, open_predictions
from pawpularity.files import plain
from pawpularity.runs import OOF, Run, recipe, run_names

LEAKY = "LEAKY BY DESIGN (train.split=leaky): copies of the scored photos were trained on"
FLATTERED = (
    "choosing the best on these rows flatters it: of five equal runs by about 0.5 points at 120 photos, 0.06 at 9,912"
)


def oof(
    runs: Sequence[str],
    *,
    data: Path | None = None,
    scale: float | None = None,
    folds: Path | None = None,
    json: str | None = None,
) -> None:
    """`pawpularity oof`: print the leaderboard over `runs` (default: all below oof/), or one of them in detail."""
    names = list(runs) or run_names()
    if not names:
        raise UserError("oof/ holds no run yet; run: make train FOLD=0")
    if len(runs) == 1:
        found = details(open_predictions(names[0], scale=scale, folds=folds, partly=True), data)
        emit({"runs": [found]}, details_text(found), json, more=more_text(found))
        next_step("make errors", RUN=names[0], DATA=data, FOLDS=folds, SCALE=scale)
        return
    rows, words = [], {}
    for name in names:
        try:
            if is_file_word(name):
                rows.append(predictions_row(open_predictions(name, scale=scale, folds=folds), data))
            else:
                rows.append(run_row(Run.open(OOF / name)))
            words[rows[-1]["run"]] = name
        except UserError as error:
            if runs or len(names) == 1:
                raise
            log(f"left out {name}: {error}")  # one damaged run must not hide the others
    rows.sort(key=_rank)
    by_data = {row["data"]: [other for other in rows if other["data"] == row["data"]] for row in rows}
    blocks = [f"data: {name}\n{table_text(some)}" for name, some in by_data.items()]
    emit({"runs": rows}, "\n".join([*blocks, *seed_lines(rows)]), json)
    if len(rows) > 2:
        log(FLATTERED)
    pair = next((some[:2] for data_ in by_data if len(some := _complete(by_data[data_])) > 1), None)
    if pair is None:
        next_step("make oof", RUN=names[0], DATA=data, FOLDS=folds, SCALE=scale)
    else:
        next_step("make compare", RUNS=[words[row["run"]] for row in pair], FOLDS=folds, SCALE=scale)


def _complete(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that can be compared: all folds are scored."""
    return [row for row in rows if row["score"] and len(set(row["folds"].split("/"))) == 1]


def _rank(row: dict[str, Any]) -> tuple[str, bool, float]:
    """Sort key: by data, then leaky or alarming rows last, then by RMSE."""
    return row["data"], bool(row["leaky"] or row.get("alarms")), row["score"]["rmse"] if row["score"] else 1e9


def run_row(run: Run) -> dict[str, Any]:
    """One row of the leaderboard: the pooled figures of the trained folds, and how long training took."""
    if run.has_folds and not run.trained_folds():
        data = run.record["data"]["name"]
        return {"run": run.name, "data": data, "leaky": run.leaky, "searched": run.searched, "folds": f"0/{run.k}",
                "score": None}  # fmt: skip
    return predictions_row(open_predictions(run.name, partly=True))


def predictions_row(predictions: Predictions, data: Path | None = None) -> dict[str, Any]:
    """One row of the leaderboard, of any predictions. `data`: their folder, if the user named it."""
    metrics = evaluate(predictions.target, predictions.prediction, predictions.constant, predictions.groups)
    origin = origin_of(predictions, data)
    signs, run = leak_signs(predictions, metrics, origin), predictions.run
    trained = run.trained_folds() if run is not None and run.has_folds else []
    of_folds = [run.metrics(fold) for fold in trained] if run is not None else []
    count = len(np.unique(predictions.fold))
    row = {
        "run": predictions.name,
        "data": f"files of {origin.kind} data" if run is None else run.record["data"]["name"],
        "leaky": None if run is None else run.leaky,
        "searched": "" if run is None else run.searched,
        "folds": str(count) if run is None else f"{count}/{run.k}",
        "score": metrics.to_dict(),
        "seconds": sum(m["seconds"] for m in of_folds) if of_folds else None,
        "kind_of_data": origin.kind,
        "origin": origin.why,
        "floor": origin.floor,
        "alarms": [sign.name for sign in signs if sign.raised],
        "signs": [vars(sign) for sign in signs],
    }
    return row | ({"chosen": [m["chosen"] for m in of_folds]} if run is not None and run.kind == "head" else {})


def table_text(rows: Sequence[dict[str, Any]]) -> str:
    """The leaderboard as a table. How long training took is in `details`."""
    header = ["run", "folds", "n", "RMSE", "95 %", "constant", "sd", "R2"]
    lines = []
    for row in rows:
        line = [row["run"], row["folds"], *[""] * (len(header) - 2)]
        if s := row["score"]:
            line[2:] = [f"{s['n']:,}", f"{s['rmse']:.2f}", f"[{s['low']:.2f}, {s['high']:.2f}]", f"{s['constant_rmse']:.2f}",
                        f"{s['sd']:.2f}", _number(s["r2"])]  # fmt: skip
        lines.append([*line, _note(row)])
    if any(line[-1] for line in lines):
        return table([*header, "note"], lines, left=(0, len(header)))
    return table(header, [line[:-1] for line in lines])


def _note(row: dict[str, Any]) -> str:
    if row["score"] is None:
        return "no fold yet"
    notes = ["indicative"] if row["score"]["indicative"] else []
    notes += [row["searched"]] if row["searched"] else []
    if row["leaky"]:
        notes.append(LEAKY.split(":")[0])
    elif row["alarms"]:
        notes.append("LEAK ALARM")
    return "; ".join(notes)


def details(predictions: Predictions, data: Path | None = None) -> dict[str, Any]:
    """Everything that is shown of one set of predictions, for `details_text` and for JSON."""
    row, share = predictions_row(predictions, data), None
    if (noise := noise_for(predictions, origin_of(predictions, data))) is not None and row["score"]["r2"] is not None:
        _, r2, sd = bootstrap_metrics(predictions.target, predictions.prediction, predictions.groups)
        share = explainable(row["score"]["r2"], noise, row["score"]["sd"], r2, sd)
    return row | {
        "constant_words": predictions.constant_words,
        "explainable": None if share is None else share.to_dict(),
        "breakdown": breakdown(predictions),
    }


def breakdown(predictions: Predictions) -> dict[str, Any]:
    """Errors by band and by fold, correlation, range and calibration line; what is not defined is None."""
    target, prediction, constant = predictions.target, predictions.prediction, predictions.constant
    folds = [
        {"fold": int(k), "n": int(here.sum()), "rmse": rmse(target[here], prediction[here]),
         "constant_rmse": rmse(target[here], constant[here])}
        for k in np.unique(predictions.fold) for here in [predictions.fold == k]
    ]  # fmt: skip
    values = [one["rmse"] for one in folds]
    slope, intercept = calibration_line(target, prediction)
    varied = np.ptp(target) > 0 and np.ptp(prediction) > 0
    return plain({
        "bands": [vars(band) for band in error_by_band(target, prediction)],
        "folds": folds,
        "fold_sd": np.std(values, ddof=1) if len(values) > 1 else None,
        "mean_of_folds": np.mean(values),
        "correlation": np.corrcoef(target, prediction)[0, 1] if varied else None,
        "lowest": prediction.min(),
        "highest": prediction.max(),
        "slope": slope,
        "intercept": intercept,
    })  # fmt: skip


def details_text(d: dict[str, Any]) -> str:
    """The figures of `details`, and whether there is an alarm."""
    head = f"{d['run']}: folds {d['folds']}; {d['kind_of_data']} data: {d['origin']}"
    return f"{head}\n{table(('', ''), _detail_lines(d), left=(0, 1))}"


def more_text(d: dict[str, Any]) -> str:
    """The rest of `details`: errors by band of true score, and signs of leaks."""
    bands = [(band["name"], band["n"], f"{band['rmse']:.2f}", f"{100 * band['share']:.1f} %", f"{band['bias']:+.1f}")
             for band in d["breakdown"]["bands"]]  # fmt: skip
    blocks = [table(("true score", "n", "RMSE", "of squared error", "bias"), bands)]
    if d["signs"]:
        signs = [("LEAK ALARM" if sign["raised"] else "no alarm", sign["name"], sign["text"]) for sign in d["signs"]]
        blocks.append(table(("leak", "sign", ""), signs, left=(0, 1, 2)))
    if d["explainable"] is not None:
        blocks.append(f"label noise: {d['explainable']['noise']['how']}")
    blocks += [f"chosen: {word} ({count} folds)" for word, count in Counter(d.get("chosen", ())).most_common()]
    return "\n" + "\n\n".join(blocks)


def _detail_lines(d: dict[str, Any]) -> list[tuple[str, str]]:
    s, b = d["score"], d["breakdown"]
    few = " (indicative: fewer than 50 rows or groups)" if s["indicative"] else ""
    values = [one["rmse"] for one in b["folds"]]
    folds = " ".join(f"{v:.2f}" for v in values) if len(values) <= 10 else f"{min(values):.2f} to {max(values):.2f}"
    line = "none, predictions do not vary"
    if b["slope"] is not None:
        bold = "timid" if b["slope"] > 1 else "bold"
        line = f"target = {b['intercept']:.2f} + {b['slope']:.2f} x prediction (the predictions are too {bold})"
    lines = [("warning", LEAKY)] if d["leaky"] else []
    lines += [("settings", f"{d['searched']}: a little too good on the rows that it used")] if d["searched"] else []
    lines += [
        ("RMSE", f"{s['rmse']:.2f}, 95 % [{s['low']:.2f}, {s['high']:.2f}]{few}; n = {s['n']:,}"),
        ("constant", f"{s['constant_rmse']:.2f} ({d['constant_words']}); sd of these rows {s['sd']:.2f}"),
        ("R2", f"{_number(s['r2'])}, 95 % [{_number(s['r2_low'])}, {_number(s['r2_high'])}]"),
        ("folds", f"{folds}; sd {_number(b['fold_sd'])}"),
        ("correlation", f"{_number(b['correlation'])}; predictions {b['lowest']:.1f} to {b['highest']:.1f}"),
        ("calibration", line),
        *_floor_lines(d),
    ]
    if d["seconds"] is not None:
        lines.append(("training", duration(d["seconds"])))
    return [*lines, ("leak", _alarm(d))]


def _floor_lines(d: dict[str, Any]) -> list[tuple[str, str]]:
    """What noise in the scores allows, where it is known."""
    lines, e = [], d["explainable"]
    if d["floor"] is not None:
        lines.append(("noise floor", f"{d['floor']:.2f}: no predictor of this drawn sample can be expected below it"))
    if e is not None and e["share"] is not None:
        share, low, high = (_number(e[key], 0, 100) for key in ("share", "share_low", "share_high"))
        noise = "{} [{}, {}]".format(*(_number(e["noise"][key], 1) for key in ("sd", "low", "high")))
        lines.append(
            (
                "explainable",
                f"{share} % [{low}, {high}] of R2 {e['ceiling']:.2f}: noise of {noise} points allows no more",
            )
        )
    return lines


def _alarm(d: dict[str, Any]) -> str:
    """The alarms by name, or why there is none."""
    if d["alarms"]:
        return f"LEAK ALARM: {', '.join(d['alarms'])}"
    if d["signs"]:
        return f"no alarm ({', '.join(sign['name'] for sign in d['signs'])})"
    n = d["score"]["n"]
    return f"no alarm possible: {d['origin'] if n >= FEWEST_ROWS else f'{n} rows are too few ({FEWEST_ROWS} at least)'}"


def _number(value: float | None, digits: int = 2, times: int = 1) -> str:
    return "-" if value is None else f"{times * value:.{digits}f}"


def seed_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One line for every set of complete runs in the leaderboard that differ in `train.seed` alone, and one about single seeds.

    The bootstrap covers the choice of rows, not the training seed.
    """
    figures = {row["run"]: row["score"]["rmse"] for row in rows if row["score"] and row["leaky"] is not None}
    by_recipe: dict[str, dict[int, str]] = {}
    for run in (Run.open(OOF / name) for name in figures):
        if run.kind == "run" and len(run.trained_folds()) == run.k:
            by_recipe.setdefault(recipe(run.record), {}).setdefault(run.config.train.seed, run.name)
    lines = []
    if len(by_recipe) > 1 and any(len(by_seed) < FEWEST_SEEDS for by_seed in by_recipe.values()):
        single = sorted(
            name for by_seed in by_recipe.values() if len(by_seed) < FEWEST_SEEDS for name in by_seed.values()
        )
        lines.append(f"{SEED_SPREAD} Fewer than {FEWEST_SEEDS} seeds: {listed(single)}.")
    for names in (list(by_seed.values()) for by_seed in by_recipe.values() if len(by_seed) > 1):
        values = [figures[name] for name in names]
        few = " (from two only)" if len(names) == 2 else ""
        each = listed(f"{name} {figures[name]:.2f}" for name in names)
        lines.append(f"seeds: mean {np.mean(values):.2f}, sd {np.std(values, ddof=1):.2f}{few}: {each}")
    return lines
