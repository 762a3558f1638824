"""The reproducibility checklist on the page: how much of it files back for each run, every answer, and what it was read from."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pawpularity.console import make_word
from pawpularity.files import read_json
from pawpularity.report.components import Block, Cell, Folded, Section, Table, Words, as_written, collect, flagged
from pawpularity.report.inputs import Subject, flags_of
from pawpularity.runs import OOF

CHECKLIST = OOF / "checklist.json"
_WIDE = 118  # characters of a line of a folded list


def checklist_section(subjects: Sequence[Subject]) -> Section:
    """What `make checklist` left of each run; CSVs tell nothing of how they were made."""
    runs = [one for one in subjects if one.run is not None]
    command = f"make checklist {make_word('RUNS', *(one.name for one in runs))}" if runs else "make checklist"
    told: list[tuple[str, list[dict[str, Any]]]] = []
    parts = [partial(_answered, one, told, command) for one in runs] if CHECKLIST.is_file() else []
    lists, faults = collect(parts)
    flags = flags_of(subjects)
    rows: list[list[str | Cell]] = []
    gaps = []
    for name, found in told:
        counts = Counter(one["status"] for one in found)
        missing = [one for one in found if one["status"] == "not backed"]
        rows.append([flagged(name, flags), str(counts["answered"]), str(counts["does not apply"]),
                     Cell(str(len(missing)), "bad" if missing else "")])  # fmt: skip
        gaps += [f"{name}, {one['question']}: {one['text']}; run: {one['make']}" for one in missing]
    blocks: list[Block] = []
    if rows:
        caption = "Questions of the machine-learning reproducibility checklist that files of a run answer, by run"
        blocks = [Table(caption, ["run", "backed by a file", "do not apply", "not backed"], rows, command), *lists]
        if gaps:
            blocks.insert(1, Words(gaps))
    why = "Files alone tell nothing of how they were made; a run trained here does." if subjects and not runs else ""
    return Section("checklist", "Reproducibility checklist", "checklist", command, blocks, faults, why)


def _answered(one: Subject, told: list[tuple[str, list[dict[str, Any]]]], command: str) -> list[Block]:
    path: Path = CHECKLIST
    with as_written(path, "checklist", command):
        runs: Mapping[str, Any] = {run["run"]: run for run in read_json(path, "the checklist")["runs"]}
        if one.name not in runs:
            return []
        found = runs[one.name]["answers"]
        if one.source is not None:
            one.require_about(path, runs[one.name]["predictions_hash"], command)
        # Whole words: commands and paths are there to be copied.
        wrap = partial(
            textwrap.wrap, width=_WIDE, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
        lines = []
        for a in found:
            status = "" if a["status"] == "answered" else f"({a['status']}) "
            lines += wrap(f"{a['section']}, {a['question']}: {status}{a['text']}")
            lines += [f"    from {source}" for source in a["read"]]
    told.append((one.name, found))
    return [Folded(f"{one.name}: every answer, and what it was read from", "\n".join(lines), command)]
