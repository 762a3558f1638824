"""The reproducibility checklist on the page: how much of it files back for each run, every answer, and what it was read from."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from functools import partial

from pawpularity.console import make_word
from pawpularity.report.components import Block, Cell, Folded, Section, Table, Words, as_written, collect, flagged
from pawpularity.report.inputs import Subject, flags_of
from pawpularity.runs import Run
from pawpularity.studies.checklist.evidence import ANSWERED, MISSING, NONE, Answer, Backing
from pawpularity.studies.checklist.questions import answers

_WIDE = 118  # characters of a line of a folded list


def checklist_section(subjects: Sequence[Subject]) -> Section:
    """As `make checklist`, read anew from the files of each run; CSVs tell nothing of how they were made."""
    runs = [one.run for one in subjects if one.run is not None]
    command = f"make checklist {make_word('RUNS', *(run.name for run in runs))}" if runs else "make checklist"
    told: list[tuple[Run, list[Answer]]] = []
    lists, faults = collect(partial(_answered, run, told, command) for run in runs)
    flags = flags_of(subjects)
    rows: list[list[str | Cell]] = []
    gaps = []
    for run, found in told:
        counts = Counter(one.status for one in found)
        missing = [one for one in found if one.status == MISSING]
        rows.append([flagged(run.name, flags), str(counts[ANSWERED]), str(counts[NONE]),
                     Cell(str(len(missing)), "bad" if missing else "")])  # fmt: skip
        gaps += [f"{run.name}, {one.question}: {one.text}; run: {one.make}" for one in missing]
    blocks: list[Block] = []
    if rows:
        caption = "Questions of the machine-learning reproducibility checklist that files of a run answer, by run"
        blocks = [Table(caption, ["run", "backed by a file", "do not apply", "not backed"], rows, command), *lists]
        if gaps:
            blocks.insert(1, Words(gaps))
    why = "Files alone tell nothing of how they were made; a run trained here does." if subjects and not runs else ""
    return Section("checklist", "Reproducibility checklist", "checklist", command, blocks, faults, why)


def _answered(run: Run, told: list[tuple[Run, list[Answer]]], command: str) -> list[Block]:
    with as_written(run.folder, "train", run.remedy()):
        found = answers(Backing(run))
    told.append((run, found))
    lines = []
    # Whole words: commands and paths are there to be copied.
    wrap = partial(textwrap.wrap, width=_WIDE, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    for one in found:
        status = "" if one.status == ANSWERED else f"({one.status}) "
        lines += wrap(f"{one.section}, {one.question}: {status}{one.text}")
        lines += [f"    from {source}" for source in one.read]
    return [Folded(f"{run.name}: every answer, and what it was read from", "\n".join(lines), command)]
