"""The section of the reproducibility checklist: how many answers of each run a file backs, every answer, and its sources."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pawpularity.console import make_word
from pawpularity.files import read_json
from pawpularity.report.components import Block, Cell, Folded, Section, Table, Words, as_written, collect, flagged
from pawpularity.report.inputs import Entry, flags_of
from pawpularity.runs import OOF

CHECKLIST = OOF / "checklist.json"
_WIDE = 118  # characters of a line of a folded list


def checklist_section(entries: Sequence[Entry]) -> Section:
    """The answers that `make checklist` wrote for each run. CSVs have none: they do not say how they were made."""
    runs = [one for one in entries if one.run is not None]
    command = f"make checklist {make_word('RUNS', *(one.name for one in runs))}" if runs else "make checklist"
    answered: list[tuple[str, list[dict[str, Any]]]] = []
    parts = [partial(_answers, one, answered, command) for one in runs] if CHECKLIST.is_file() else []
    lists, faults = collect(parts)
    flags = flags_of(entries)
    rows: list[list[str | Cell]] = []
    gaps = []
    for name, found in answered:
        counts = Counter(one["status"] for one in found)
        missing = [one for one in found if one["status"] == "not backed"]
        rows.append([flagged(name, flags), str(counts["answered"]), str(counts["does not apply"]),
                     Cell(str(len(missing)), "bad" if missing else "")])  # fmt: skip
        gaps += [f"{name}, {one['question']}: {one['text']}; run: {one['make']}" for one in missing]
    blocks: list[Block] = []
    if rows:
        caption = "Questions of the machine-learning reproducibility checklist that a run's files answer"
        blocks = [Table(caption, ["run", "backed by a file", "do not apply", "not backed"], rows, command), *lists]
        if gaps:
            blocks.insert(1, Words(gaps))
    why = "CSVs do not say how they were made; only runs trained here do." if entries and not runs else ""
    return Section("checklist", "Reproducibility checklist", "checklist", command, blocks, faults, why)


def _answers(one: Entry, answered: list[tuple[str, list[dict[str, Any]]]], command: str) -> list[Block]:
    """One run's answers as a folded text. Also appends (name, answers) to `answered`."""
    path: Path = CHECKLIST
    with as_written(path, "checklist", command):
        runs: Mapping[str, Any] = {run["run"]: run for run in read_json(path, "the checklist")["runs"]}
        if one.name not in runs:
            return []
        found = runs[one.name]["answers"]
        if one.source is not None:
            one.require_about(path, runs[one.name]["predictions_hash"], command)
        # Words stay whole, so that commands and paths can be copied.
        wrap = partial(
            textwrap.wrap, width=_WIDE, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
        lines = []
        for a in found:
            status = "" if a["status"] == "answered" else f"({a['status']}) "
            lines += wrap(f"{a['section']}, {a['question']}: {status}{a['text']}")
            lines += [f"    from {source}" for source in a["read"]]
    answered.append((one.name, found))
    return [Folded(f"{one.name}: every answer and its sources", "\n".join(lines), command)]
