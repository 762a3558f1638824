"""The table over runs and files: RMSE with its interval, the constant, n; everything about one of them; a line for one fold."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pawpularity.data.dataset import is_drawn
from pawpularity.errors import UserError
from pawpularity.evaluation.alarm import FEWEST_ROWS, Sign, leak_signs
from pawpularity.evaluation.bands import breakdown
from pawpularity.evaluation.label_noise import CONTEST_SELECTION, bootstrap_r2, explainable, noise_for
from pawpularity.evaluation.metrics import DRAWS, Score, rmse, score
from pawpularity.evaluation.origin import Origin, floor_of, origin_of
from pawpularity.evaluation.sources import Source, open_source
from pawpularity.runs import OOF, Run, recipe, run_names

LEAKY = "LEAKY BY DESIGN (train.split=leaky): copies of the scored photos were trained on"


def run_row(run: Run) -> dict[str, Any]:
    """One row of the table: the pooled score of the folds that are there, and how long they took."""
    folds = run.trained_folds()
    if run.has_folds and not folds:
        return _head(run) | {"folds": f"0/{run.k}", "score": None}
    return source_row(open_source(run.name, partly=True))


def source_row(source: Source, data: Path | None = None) -> dict[str, Any]:
    """The same of any predictions. `data`: the folder they are of, where the user named it."""
    return _row(source, *_judged(source, data))


def _judged(source: Source, data: Path | None) -> tuple[Score, Origin, list[Sign]]:
    result = score(source.target, source.prediction, source.constant, source.groups)
    origin = origin_of(source, data)
    return result, origin, leak_signs(source, result, origin)


def _row(source: Source, result: Score, origin: Origin, signs: list[Sign]) -> dict[str, Any]:
    row: dict[str, Any] = {"run": source.name, "data": f"files of {origin.kind} data", "leaky": None,
                           "folds": str(len(np.unique(source.fold)))}  # fmt: skip
    seconds = None
    if (run := source.run) is not None:
        there = run.trained_folds() if run.has_folds else range(run.k)
        row = _head(run) | {"folds": f"{len(there)}/{run.k}"}
        if run.has_folds:
            seconds = sum(run.metrics(fold)["seconds"] for fold in there)
        if run.kind == "head":
            row["chosen"] = [run.metrics(fold)["chosen"] for fold in there]
    return row | {
        "score": result.to_dict(),
        "seconds": seconds,
        "kind_of_data": origin.kind,
        "alarms": [sign.name for sign in signs if sign.raised],
    }


def _head(run: Run) -> dict[str, Any]:
    return {"run": run.name, "data": run.record["data"]["name"], "leaky": run.leaky}


def details(source: Source, data: Path | None = None, *, seeds: bool = True) -> dict[str, Any]:
    """Everything there is to say about one set of predictions, for `details_text` and programs.

    `seeds`: look for runs that differ in their seed alone, which reads every run there is.
    """
    result, origin, signs = _judged(source, data)
    noise = noise_for(source, origin)
    share = None
    if noise is not None:
        draws = bootstrap_r2(source.target, source.prediction, source.groups, draws=DRAWS)
        share = explainable(result.r2, noise, result.sd, *draws)
    return _row(source, result, origin, signs) | {
        "constant_words": source.constant_words,
        "explainable": None if share is None else share.to_dict(),
        "origin": origin.why,
        "floor": origin.floor,
        "breakdown": breakdown(source.target, source.prediction, source.constant, source.fold).to_dict(),
        "signs": [sign.to_dict() for sign in signs],
        "seeds": seed_spread(source.run) if seeds and source.run is not None else None,
    }


def seed_spread(run: Run) -> dict[str, Any] | None:
    """RMSE of the complete runs that differ from `run` in nothing but `train.seed`; None for heads and blends.

    The bootstrap covers rows; what another seed would have given is a second, independent doubt.
    """
    if run.kind != "run":
        return None
    own, found, seeds = recipe(run.record), {}, set()
    for name in sorted(run_names(), key=lambda name: name != run.name):  # itself first: a seed again tells nothing new
        try:
            other = Run.open(OOF / name)
            alike = other.kind == "run" and recipe(other.record) == own and len(other.trained_folds()) == other.k
            if alike and other.config.train.seed not in seeds:
                source = open_source(name)
                found[name] = rmse(source.target, source.prediction)
                seeds.add(other.config.train.seed)
        except UserError:
            continue  # a damaged neighbour is `make oof`'s to name
    found = dict(sorted(found.items()))
    values = np.array(list(found.values()))
    return {
        "runs": found,
        "mean": float(values.mean()) if len(values) else None,
        "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
    }


def details_text(d: dict[str, Any]) -> str:
    """`details` as text."""
    s, b = d["score"], d["breakdown"]
    note = " (indicative: n < 50)" if s["indicative"] else ""
    folds = " ".join(f"{f['rmse']:.2f}" for f in b["folds"])
    line = (
        f"target = {_number(b['intercept'])} + {_number(b['slope'])} x prediction (above 1: too timid, below 1: bold)"
    )
    lines = [
        f"{d['run']}: {s['n']} rows, folds {d['folds']}; {d['kind_of_data']} data: {d['origin']}",
        f"RMSE         {s['rmse']:.4f}, 95 % [{s['low']:.3f}, {s['high']:.3f}]{note}",
        f"constant     {s['constant_rmse']:.4f} ({d['constant_words']}); sd of these rows {s['sd']:.4f}",
        f"R2           {_number(s['r2'])}, 95 % [{_number(s['r2_low'])}, {_number(s['r2_high'])}]",
        f"folds        {folds}",
        f"             sd {_number(b['fold_sd'])}, mean {b['mean_of_folds']:.4f} (often quoted; the figure is the pooled RMSE)",
        f"seeds        {_seeds(d['seeds'])}",
        f"correlation  {_number(b['correlation'])}; predictions {b['lowest']:.1f} to {b['highest']:.1f}",
        f"calibration  {'-' if b['slope'] is None else line}",
    ]
    if d["leaky"]:
        lines.insert(1, LEAKY)
    if d["floor"] is not None:
        lines.append(f"noise floor  {d['floor']:.3f}: no predictor of this drawn shelter can be expected below it")
    if (e := d["explainable"]) is not None and e["share"] is not None:
        ceiling = f"{e['ceiling']:.2f} [{_number(e['ceiling_low'], 2)}, {_number(e['ceiling_high'], 2)}]"
        reached = f"{100 * e['share']:.0f} % [{_percent(e['share_low'])}, {_percent(e['share_high'])}]"
        lines.append(f"explainable  {reached} of the R2 {ceiling} that label noise allows")
        noise = e["noise"]
        span = f"[{_number(noise['low'], 1)}, {_number(noise['high'], 1)}]"
        lines.append(f"             noise {noise['sd']:.1f} points {span}: {noise['how']}")
        if noise["how"].startswith("published"):
            lines.append(f"             {CONTEST_SELECTION}")
    lines += ["", "true score      n   RMSE  share of squared error    bias"]
    lines += [
        f"{band['name']:>10s}  {band['n']:5d}  {band['rmse']:5.2f}  {100 * band['share']:20.1f} %  {band['bias']:+6.1f}"
        for band in b["bands"]
    ]
    lines.append("")
    lines += [
        f"{'LEAK ALARM' if sign['raised'] else 'no alarm'}: {sign['name']}: {sign['text']}" for sign in d["signs"]
    ]
    if not d["signs"]:
        few = f"{s['n']} rows are too few ({FEWEST_ROWS} at least)"
        lines.append(f"no alarm can be given: {few if s['n'] < FEWEST_ROWS else d['origin']}")
    return "\n".join(lines)


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}"


def _seeds(seeds: dict[str, Any] | None) -> str:
    if seeds is None or len(seeds["runs"]) < 2:
        return "one: what another seed would give is not known (train.seed=1 RUN=... trains one)" if seeds else "-"
    values = ", ".join(f"{name} {value:.3f}" for name, value in seeds["runs"].items())
    few = "" if len(seeds["runs"]) >= 3 else " (from two; take three or more)"
    return f"mean {seeds['mean']:.3f}, sd {seeds['sd']:.3f}{few}: {values}"


def seed_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One line for every set of complete runs in the table that differ in `train.seed` alone."""
    families: dict[str, dict[int, str]] = defaultdict(dict)
    figures = {row["run"]: row["score"]["rmse"] for row in rows if row["score"] and row["leaky"] is not None}
    for name in figures:
        try:
            run = Run.open(OOF / name)
            if run.kind == "run" and len(run.trained_folds()) == run.k:
                # The same seed again tells nothing new.
                families[recipe(run.record)].setdefault(run.config.train.seed, name)
        except UserError:
            continue
    lines = []
    for names in (list(family.values()) for family in families.values()):
        if len(names) > 1:
            values = np.array([figures[name] for name in names])
            lines.append(f"seeds: {', '.join(names)} differ in train.seed alone: mean {values.mean():.3f}, sd "
                         f"{values.std(ddof=1):.3f}{' (two only)' if len(names) == 2 else ''}")  # fmt: skip
    return lines


def table_text(rows: Sequence[dict[str, Any]]) -> str:
    """The table as aligned text."""
    width = max([len(row["run"]) for row in rows] + [3])
    lines = [f"{'run':{width}s}  folds       n    RMSE  95 % interval     constant  sd of rows     R2     time"]
    for row in rows:
        s = row["score"]
        if s is None:
            lines.append(f"{row['run']:{width}s}  {row['folds']:>5s}  no fold is trained yet")
            continue
        interval = f"[{s['low']:.2f}, {s['high']:.2f}]"
        r2 = f"{s['r2']:.3f}" if s["r2"] is not None else "-"
        seconds = f"{row['seconds']:.0f} s" if row["seconds"] is not None else "-"
        note = "  interval indicative (n < 50)" if s["indicative"] else ""
        if chosen := row.get("chosen"):
            note += f"  {_counted(chosen)}"
        if row.get("leaky"):
            note += "  LEAKY BY DESIGN (train.split=leaky)"
        elif alarms := row.get("alarms"):
            note += f"  LEAK ALARM ({', '.join(alarms)})"
        lines.append(
            f"{row['run']:{width}s}  {row['folds']:>5s}  {s['n']:6d}  {s['rmse']:6.3f}  {interval:16s}  "
            f"{s['constant_rmse']:8.3f}  {s['sd']:10.3f}  {r2:>5s}  {seconds:>7s}{note}"
        )
    return "\n".join(lines)


def _counted(words: Sequence[str]) -> str:
    """`alpha 1000 (4 of 5 folds), alpha 316 (1)`, the commonest first; just the word where all are alike."""
    counts = sorted(Counter(words).items(), key=lambda item: -item[1])
    if len(counts) == 1:
        return counts[0][0]
    first, *others = counts
    return ", ".join([f"{first[0]} ({first[1]} of {len(words)} folds)", *(f"{word} ({n})" for word, n in others)])


def fold_line(run: Run, fold: int) -> str:
    """What a fold reached, in one line."""
    m = run.metrics(fold)
    word = " (indicative: n < 50)" if m["indicative"] else ""
    sd = _number(m.get("sd"))
    return (
        f"fold {fold}: out-of-fold RMSE {m['rmse']:.3f}, 95 % [{m['low']:.2f}, {m['high']:.2f}]{word}; "
        f"constant {m['constant_rmse']:.3f}, sd of these rows {sd}; n = {m['n']}; {m['epochs']} epochs; {m['seconds']:.0f} s"
    )


def floor_line(data: Path) -> str | None:
    """The noise floor of a drawn shelter, in one line; None for real data."""
    floor = noise_floor(data)
    return (
        None
        if floor is None
        else f"noise floor of this drawn shelter {floor:.2f}: no predictor can be expected below it"
    )


def noise_floor(data: Path) -> float | None:
    """RMSE of the true conditional mean of a drawn shelter; None for real data."""
    return floor_of(data) if is_drawn(data) else None
