"""The leaderboard, the leak flags and the blends. The figures are those of `pawpularity oof`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from pawpularity.ensemble.record import blend_command
from pawpularity.errors import UserError, listed
from pawpularity.evaluation.leaderboard import LEAKY, seed_lines
from pawpularity.evaluation.leak_detection import FEWEST_ROWS
from pawpularity.evaluation.metrics import INDICATIVE_BELOW, indicative
from pawpularity.files import file_hash, read_json
from pawpularity.report.components import (
    Block,
    Cell,
    Figure,
    Heading,
    KeyFigures,
    Section,
    Table,
    Words,
    as_written,
    collect,
    duration,
    flagged,
    number,
    span,
)
from pawpularity.report.drawing import BLUE, GREEN, ORANGE, SOFT, Mark, Row, drawn, forest, forest_height
from pawpularity.report.inputs import Entry, by_data, command_of, copy_lines, distinct, flags_of
from pawpularity.runs import OOF, Run


def runs_section(entries: Sequence[Entry], notes: Sequence[str]) -> Section:
    """The table of runs, and the same as a figure."""
    blocks: list[Block] = []
    groups, flags = by_data(entries), flags_of(entries)
    for place, (data, some) in enumerate(groups.items()):
        floor = next((s.row["floor"] for s in some if s.row.get("floor") is not None), None)
        blocks += [Heading(f"data: {data}")] if len(groups) > 1 else []
        blocks += [_key_figures(some, floor), _runs_table(data, some, flags, floor)]
        if any(s.row["score"] for s in some):
            blocks.append(_runs_figure(f"rmse{place}", data, some, floor))
    lines = [
        "RMSE is pooled over all rows, each scored by networks that never saw it; its interval is the 95 % bootstrap over groups "
        f"of near-duplicates (indicative below {INDICATIVE_BELOW} rows or groups).",
        "The constant is the RMSE of answering with the training rows' mean. Of the explainable: R2 as a share of the R2 that "
        "label noise allows.",
    ]
    copies = copy_lines(distinct(entries)[1])
    blocks.append(Words([" ".join(lines), *copies, *seed_lines([s.row for s in entries]), *notes]))
    return Section("runs", "Leaderboard", "runs", "make train", blocks)


def _runs_figure(name: str, data: str, some: Sequence[Entry], floor: float | None) -> Figure:
    shown = [s for s in some if s.row["score"]]
    rows, ticks = [], [] if floor is None else [(floor, GREEN)]
    for one in shown:
        s = one.row["score"]
        mark = Mark(s["rmse"], s["low"], s["high"], ORANGE if one.flag else BLUE, bool(one.flag))
        words = f"{s['rmse']:.2f} {span(s['low'], s['high'])}{indicative(s)}"
        rows.append(Row(one.label, words, [mark], [*ticks, (s["constant_rmse"], SOFT)], bool(one.flag)))
    keys = [("out-of-fold RMSE, 95 % interval", "o", BLUE), ("constant: answering with the training mean", "|", SOFT)]
    keys += [("noise floor of the drawn sample", "|", GREEN)] if floor is not None else []
    keys += [("flagged: not comparable", "o", ORANGE)] if any(one.flag for one in shown) else []
    alt = f"RMSE in score points with 95 % intervals. {'; '.join(one.words for one in shown)}"
    alt += "" if floor is None else f". Noise floor {floor:.2f}"

    def paint(axes: Any) -> None:
        forest(axes, rows, "RMSE, score points (lower is better)", keys=keys)

    markup = drawn(name, forest_height(rows, len(keys)), paint, alt)
    return Figure(markup, alt, f"Leaderboard, {data}", _oof(some))


def _runs_table(data: str, some: Sequence[Entry], flags: dict[str, str], floor: float | None) -> Table:
    head = ["run", "kind", "folds", "photos n", "RMSE", "95 % interval", "constant", "R2", "of the explainable", "time"]
    rows: list[list[str | Cell]] = []
    for one in some:
        s, e = one.row["score"], one.row.get("explainable")
        if s is None:
            rows.append([flagged(one.name, flags), one.kind, one.row["folds"], "no fold is trained yet", *["-"] * 6])
            continue
        rows.append([
            flagged(one.name, flags), one.kind, one.row["folds"], f"{s['n']:,}", Cell(f"{s['rmse']:.3f}", "strong"),
            span(s["low"], s["high"]) + indicative(s), f"{s['constant_rmse']:.3f}", number(s["r2"], 3), _share(e),
            duration(one.row["seconds"]),
        ])  # fmt: skip
    caption = f"{data}: out-of-fold RMSE, score points"
    caption += "" if floor is None else f"; noise floor of this drawn sample {floor:.2f}"
    return Table(caption, head, rows, _oof(some), stacked=True)


def _oof(some: Sequence[Entry]) -> str:
    """The command that prints the table. It must name files."""
    return "make oof" if all(one.run is not None for one in some) else command_of(some, "oof", "RUN")


def _share(e: dict[str, Any] | None) -> str:
    if e is None or e["share"] is None:
        return "-"
    low, high = ("-" if end is None else f"{100 * end:.0f}" for end in (e["share_low"], e["share_high"]))
    return f"{100 * e['share']:.0f} % [{low}, {high}]"


def _key_figures(some: Sequence[Entry], floor: float | None) -> KeyFigures:
    """The best honest figure on one data set, and the figures to judge it by."""
    honest = [s for s in some if s.row["score"] and not s.flag]
    if not honest:
        line = "No honest run has a score on these data yet. The flagged ones below are leaky, or look leaky."
        return KeyFigures([], [line])
    # Some folds only are other, perhaps easier, rows: such a run leads only if no run has all folds.
    whole = [s for s in honest if s.source is not None and s.source.complete] or honest
    best, s = whole[0], whole[0].row["score"]
    few = ", indicative" if s["indicative"] else ""
    figures = [("lowest honest RMSE", f"{s['rmse']:.2f}", f"{span(s['low'], s['high'])}{few}"),
               ("constant", f"{s['constant_rmse']:.2f}", "the training mean for every photo")]  # fmt: skip
    if floor is not None:
        figures.append(("noise floor", f"{floor:.2f}", "of this drawn sample"))
    if (share := _share(best.row.get("explainable"))) != "-":
        value, _, interval = share.partition(" [")
        figures.append(("of the explainable", value, f"[{interval}"))
    figures.append(("photos", f"{s['n']:,}", f"{len(some)} run{'s' if len(some) > 1 else ''}"))
    line = f"The lowest honest RMSE is that of {best.name}"
    many = len(distinct(whole)[0])  # a copy does not count as another candidate
    line += f", the lowest of {many} on these rows, so it looks a little too good." if many > 1 else "."
    if best.source is not None and not best.source.complete:
        line += f" Only folds {best.row['folds']} are there."
    if s["r2_low"] is not None and s["r2_low"] <= 0:
        line += " It is not significantly better than the constant."
    return KeyFigures(figures, [line])


def leaks_section(entries: Sequence[Entry]) -> Section:
    """Every sign of leakage that was checked, raised or not."""
    rows: list[list[str | Cell]] = []
    flags = flags_of(entries)
    command = "make oof RUN=name"
    for one in sorted((one for one in entries if one.source is not None), key=lambda one: not one.flag):
        if not one.row["signs"]:
            n = one.row["score"]["n"]
            why = f"{n} rows are too few ({FEWEST_ROWS} at least)" if n < FEWEST_ROWS else one.row["origin"]
            rows.append([flagged(one.name, flags), "no alarm can be given", "-", why])
        for sign in one.row["signs"]:
            raised = Cell("RAISED", "bad") if sign["raised"] else Cell("no")
            rows.append([flagged(one.name, flags), sign["name"], raised, sign["text"]])
    lines = [f"{one.name}: {LEAKY}. It is flagged wherever it is shown." for one in entries if one.row["leaky"]]
    if raised_by := [one.name for one in entries if one.flag and not one.row["leaky"]]:
        lines.append(f"Alarms are raised on {listed(raised_by)}: find the cause before you draw conclusions.")
    if not lines:
        lines = ["No run here is leaky by design, and no alarm is raised."]
    caption = "Signs of leakage in the predictions alone"
    table = Table(caption, ["run", "sign", "raised?", "finding"], rows, command, stacked=True)
    return Section("leaks", "Leak flags", "leak flags", command, [Words(lines), table] if rows else [])


def ensemble_section(entries: Sequence[Entry]) -> Section:
    """The blends among the entries: members, weights, the cross-fitted figure and the optimistic one."""
    blends = [one for one in entries if one.run is not None and one.run.kind == "ensemble"]
    blocks, faults = collect(partial(_blend, one, one.run, entries) for one in blends if one.run is not None)
    return Section("ensemble", "The ensemble", "ensemble", 'make ensemble MEMBERS="a b"', blocks, faults)


def _blend(one: Entry, run: Run, entries: Sequence[Entry]) -> list[Block]:
    path = run.folder / "weights.json"
    if not path.is_file():
        raise UserError(f"{path}: is missing; make the blend again")
    w = read_json(path, f"blend {one.name}")
    if file_hash(path) != run.record.get("weights_hash"):
        raise UserError(f"{path}: was changed since the blend was made; make the blend again")
    known, flags = {s.name: s for s in entries if s.row["score"]}, flags_of(entries)
    files = {file_hash(s.source.path): s for s in entries if s.run is None and s.source is not None}
    rows: list[list[str | Cell]] = []
    with as_written(path, "ensemble", "make ensemble"):
        score, r, method = one.row["score"], w["rmse"], w["method"]
        names = [member["name"] for member in w["members"]]
        command, words = blend_command(run, {digest: s.word for digest, s in files.items()})
        lost = [name for name, word in zip(names, words, strict=True) if word == f"path/to/{name}.csv"]
        for member in w["members"]:
            # The member, if it is an entry of this page.
            own = known.get(member["name"]) if member["source"] == "run" else files.get(member["hash"])
            s = None if own is None else own.row["score"]
            alone = "-" if s is None else f"{s['rmse']:.3f} ({s['constant_rmse']:.3f})"
            weight, mean = f"{member['weight']:.3f}", f"{member['mean_prediction']:.2f}"
            rows.append([flagged(member["name"], flags), member["source"], weight, mean, alone])
        rows.append(["intercept", "", f"{w['intercept']:.3f}", "", ""])
        lines = [
            f"Cross-fitted RMSE {r['cross_fitted']:.3f} {span(score['low'], score['high'])}{indicative(score)}, constant "
            f"{r['constant']:.3f}, n = {w['n']:,}. Fitted and scored on the same rows it would be {r['same_rows']:.3f}, which is "
            "optimistic.",
            f"The weights for a row never saw its fold: {w['partition']['k']} folds, {w['partition']['why']}.",
        ]
        if score["r2_low"] is not None and score["r2_low"] <= 0:
            lines.append("It is no better than the constant, whatever it gains over its members.")
        # A member run may have changed since the blend was made.
        hashes = {member["name"]: member["hash"] for member in w["members"] if member["source"] == "run"}
        changed = [
            name
            for name, digest in hashes.items()
            if (file := OOF / name / "oof.csv").is_file() and file_hash(file) != digest
        ]
        lines += [f"Made of other predictions than {listed(changed)} hold now; make it again."] if changed else []
        if lost:
            lines.append(f"Made of CSVs whose paths are not kept ({listed(lost)}): put yours into the command.")
    head = ["member", "from", "weight", "mean prediction", "RMSE alone (constant)"]
    return [
        Heading(f"{one.label}: {method} of {len(names)}, data: {one.data}"),
        Words(lines),
        Table("Members, and weights fitted on all rows (for new photos)", head, rows, command),
    ]
