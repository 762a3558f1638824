"""The sections that show what commands saved on disk, unchanged: Table 1, the hypotheses, the errors."""

import csv
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pawpularity.console import make_word
from pawpularity.context import data_suffix
from pawpularity.data.tables import read_cells
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import indicative
from pawpularity.files import read_json
from pawpularity.report.components import (
    Block,
    Cell,
    Figure,
    Folded,
    Heading,
    Section,
    Table,
    Words,
    as_written,
    chance,
    collect,
    duration,
    number,
    span,
)
from pawpularity.report.drawing import BLUE, GREEN, INK, ORANGE, SOFT, Mark, Row, drawn, forest, forest_height
from pawpularity.report.inputs import LEAKY_FLAG, Entry, flags_of
from pawpularity.report.pictures import data_uri, read_picture
from pawpularity.runs import OOF, Run

TABLE1, HYPOTHESES, ERRORS = OOF / "table1", OOF / "hypotheses", OOF / "errors"


def data_word(data: str, entries: Sequence[Entry]) -> str:
    """` DATA=folder` of the data set called `data`, as a run recorded it; empty if commands find the folder by themselves."""
    for one in entries:
        record = one.run.record["data"] if one.run is not None else {}
        if record.get("name") == data and record.get("folder"):
            return f" {make_word('DATA', record['folder'])}" if data_suffix(Path(record["folder"])) else ""
    return f" {make_word('DATA', f'path/to/{data}')}"


def table1_section() -> Section:
    """The paper's table, honest and leaky."""
    files = sorted(TABLE1.glob("table1*.csv"))
    blocks, faults = collect(partial(_table1, path, place) for place, path in enumerate(files))
    return Section("table1", "The paper's Table 1, honest and leaky", "Table 1", "make table1", blocks, faults)


def _table1(path: Path, place: int) -> list[Block]:
    command = "make table1"
    rows: list[Row] = []
    lines: list[list[str | Cell]] = []
    with as_written(path, "table1", command):
        with path.open(encoding="utf-8", newline="") as file:
            cells = list(csv.DictReader(file))
        pairs: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
        for cell in cells:
            pairs.setdefault((cell["backbone"], cell["copies"]), {})[cell["split"]] = cell
        for (backbone, copies), ways in pairs.items():
            row, line = _table1_line(f"{backbone}, copies {copies}", ways)
            rows.append(row)
            lines.append(line)
        epochs = ", ".join(sorted({cell["epochs"] for cell in cells}, key=float))
        machines = "; ".join(sorted({f"{cell['machine']}, {cell['device']}, {cell['dtype']}" for cell in cells}))
    if not cells:
        raise UserError(f"{path}: has no cells; run: {command}")
    keys = [("honest: photos never seen", "o", BLUE), ("leaky, the paper's way: not comparable", "D", ORANGE),
            ("upright: the constant of each", "|", SOFT)]  # fmt: skip
    alt = "Table 1, RMSE in score points: " + "; ".join(f"{row.label}: {row.words}" for row in rows)

    def paint(axes: Any) -> None:
        forest(axes, rows, "RMSE, score points", keys=keys)

    markup = drawn(f"table1-{place}", forest_height(rows, len(keys)), paint, alt)
    head = ["network", "honest RMSE", "95 %", "constant, n", "LEAKY RMSE", "95 %", "constant, n", "with a copy in training",
            "paper's", "time"]  # fmt: skip
    notes = [
        f"Leaky: one random tenth of photos and their copies, as in the paper; {LEAKY_FLAG}, with its own constant.",
        f"Epochs: {epochs}. Made on {machines}.",
    ]
    return [
        Heading(path.stem),
        Figure(markup, alt, "Honest and leaky, each with its own constant", command),
        Table("RMSE in score points", head, lines, command, notes),
    ]


def _table1_line(name: str, ways: Mapping[str, Mapping[str, str]]) -> tuple[Row, list[str | Cell]]:
    """One network with one rule of copies, as a row of the forest plot and a line of the table."""
    marks, ticks, words = [], [], []
    line: list[str | Cell] = [name]
    for split, colour, shape in (("honest", BLUE, "o"), ("leaky", ORANGE, "D")):
        if (way := ways.get(split)) is None:
            line += ["-"] * 3
            continue
        rmse, low, high, constant = (float(way[key]) for key in ("rmse", "low", "high", "constant_rmse"))
        marks.append(Mark(rmse, low, high, colour, split == "leaky", shape))
        ticks.append((constant, SOFT if split == "honest" else ORANGE))
        words.append(f"{split} {rmse:.1f}")
        kind = "strong" if split == "honest" else "bad"
        few = indicative({"indicative": way.get("indicative") == "True"})
        line += [Cell(f"{rmse:.2f}", kind), span(low, high) + few, f"{constant:.2f}, {int(way['n']):,}"]
    if (leaky := ways.get("leaky")) is None:
        line += ["-", "-"]
    else:
        line += [f"{leaky['with_copy_in_training']} of {leaky['n']}"]
        line += [number(float(leaky["paper_rmse"]), 1) if leaky["paper_rmse"] else "-"]
    line.append(duration(sum(float(way["seconds"]) for way in ways.values())))
    return Row(name.replace(" copies", ""), ", ".join(words), marks, ticks), line


def hypotheses_section(entries: Sequence[Entry], *, named: bool) -> Section:
    """The paper's hypotheses on the true scores, and what models believe. `named`: only the beliefs of these entries."""
    files = sorted([*HYPOTHESES.glob("*/hypotheses.json"), *HYPOTHESES.glob("*/*/hypotheses.json")])
    parts = (partial(_hypotheses, path, place, entries, named) for place, path in enumerate(files))
    blocks, faults = collect(parts)
    return Section("hypotheses", "What makes a photo popular", "hypotheses", "make hypotheses", blocks, faults)


def _hypotheses(path: Path, place: int, entries: Sequence[Entry], named: bool) -> list[Block]:
    found = read_json(path, "the hypotheses")
    with as_written(path, "hypotheses", "make hypotheses"):
        name, tested, margin = found["run"], found["tested"], found["margin"]
        if named and name is not None and name not in {one.name for one in entries}:
            return []
        flag = "" if name is None else flags_of(entries).get(name) or _leaky(name)
        of = "" if name is None else f" {make_word('RUN', name)}"
        command = f"make hypotheses{data_word(found['data'], entries)}{of}"
        for one in entries:
            if one.name == name:
                one.require_about(path, found["predictions_hash"], command)
        known = any(row["true_effect"] is not None for row in tested)
        rows = [_claim(row) for row in tested]
        effects = "; ".join(
            f"{row['claim']}: {row['effect']:+.2f} {span(row['low'], row['high'], signed=True)}, {row['verdict']}"
            for row in tested
        )
        alt = f"Effects on the true score of {found['photos']:,} photos of {found['data']}, points, 95 % intervals: {effects}"
        lines = [_claim_line(row, known, name is not None) for row in tested]
        title = f"data: {found['data']}, {found['photos']:,} photos{'' if name is None else f'; beliefs of {name}'}"
        notes = [*found["notes"], *found["disagreements"]]
        words = found["margin_words"]
    if flag:
        notes.insert(0, f"{name}: {flag}; its beliefs come from predictions that saw the answers")
    keys = [("plain difference (decides)", "o", INK), ("adjusted for the other columns", "s", BLUE)]
    keys += [] if name is None else [(f"what {name} believes{f' ({flag})' if flag else ''}", "D", ORANGE)]
    keys += [("the drawn rule's effect", "|", GREEN)] if known else []
    axis = f"effect, score points; grey: ±{margin:g}, too small to matter"

    def paint(axes: Any) -> None:
        forest(axes, rows, axis, zero=0.0, band=(-margin, margin), keys=keys)

    markup = drawn(f"hypotheses{place}", forest_height(rows, len(keys)), paint, alt)
    head = ["claim", "column", "with", "without", "effect", "95 %", "Holm p", "adjusted"]
    head += [*(["the rule's"] if known else []), "verdict", *([] if name is None else ["believed", "Holm p"])]
    return [
        Heading(f"{title}{f' ({flag})' if flag else ''}"),
        Words(["Only true scores decide. Too small to matter: not significant, and the interval lies inside "
               f"±{margin:g} points ({words})."]),
        Figure(markup, alt, "Effects and verdicts", command, flag=flag),
        Table("Mean score with it less without it, points", head, lines, command, notes),
    ]  # fmt: skip


def _claim(row: Mapping[str, Any]) -> Row:
    marks = [Mark(row["effect"], row["low"], row["high"], INK)]
    if (adjusted := row["adjusted"]) is not None:
        marks.append(Mark(adjusted["effect"], adjusted["low"], adjusted["high"], BLUE, shape="s"))
    if (belief := row["believed"]) is not None:
        marks.append(Mark(belief["effect"], belief["low"], belief["high"], ORANGE, True, "D"))
    ticks = [] if row["true_effect"] is None else [(row["true_effect"], GREEN)]
    return Row(row["claim"].removesuffix(" the score"), row["verdict"], marks, ticks)


def _claim_line(row: Mapping[str, Any], known: bool, believed: bool) -> list[str | Cell]:
    adjusted, belief = row["adjusted"], row["believed"]
    adjusted_text = "-"
    if adjusted is not None:
        adjusted_text = f"{adjusted['effect']:+.2f} {span(adjusted['low'], adjusted['high'], signed=True)}"
    line: list[str | Cell] = [row["claim"], row["column"], f"{row['with']:,}", f"{row['without']:,}"]
    line += [Cell(f"{row['effect']:+.2f}", "strong"), span(row["low"], row["high"], signed=True)]
    line += [chance(row["corrected_p"]), adjusted_text]
    line += [number(row["true_effect"], 1, signed=True)] if known else []
    line.append(row["verdict"])
    if believed:
        line += ["-", "-"] if belief is None else [f"{belief['effect']:+.2f}", chance(belief["corrected_p"])]
    return line


def _leaky(name: str) -> str:
    """The warning of a run that is not on the page."""
    try:
        return LEAKY_FLAG if Run.open(OOF / name).leaky else ""
    except UserError:
        return ""


def errors_section(entries: Sequence[Entry]) -> Section:
    """The photos with the largest errors, as `errors` wrote them."""
    blocks, faults = collect(partial(_errors, one) for one in entries)
    return Section("errors", "The largest errors", "largest errors", "make errors RUN=name", blocks, faults)


def _errors(one: Entry) -> list[Block]:
    folder = ERRORS / (one.source.folder_name if one.source is not None else one.name)
    report, worst, sheet = (folder / name for name in ("report.txt", "worst.csv", "worst.png"))
    if not report.is_file():
        return []
    command = f"make errors {make_word('RUN', one.word)}"
    with as_written(worst, "errors", command):
        cells = read_cells(worst, ("Id", "target", "prediction"))
        figures = (cells.numbers(name, name).tolist() for name in ("target", "prediction"))
        if not one.holds(zip(cells.columns["Id"], *figures, strict=True)):
            raise UserError(f"{folder}: is about other predictions than {one.name} holds now; run: {command}")
        text = report.read_text(encoding="utf-8")
    blocks: list[Block] = [Heading(one.label), Words([text.partition("\n")[0]])]
    if sheet.is_file():
        uri, size = data_uri(read_picture(sheet, command))
        alt = f"Contact sheet of the photos with the largest errors of {one.name}, over-scored first; the report below lists them"
        blocks.append(Figure(uri, alt, "True and predicted scores under each photo, points", command, size, one.flag))
    return [*blocks, Folded(f"the whole report on {one.name}", text.rstrip("\n"), command)]
