"""The report: which sections there are, and `report.html`, one file that needs nothing else.

oof/report.html     style, script, drawings and pictures stand in it; nothing is ever fetched
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pawpularity.files import size_text, write_text
from pawpularity.report.components import MADE, Cards, Section
from pawpularity.report.gallery import gallery_section
from pawpularity.report.inputs import Subject, by_data, distinct
from pawpularity.report.leaderboard import ensemble_section, leaks_section, runs_section
from pawpularity.report.maps import groups_section, robustness_section
from pawpularity.report.predictions import bands_section, curves_section, paired, paired_section, predicted_section
from pawpularity.report.records import errors_section, hypotheses_section, table1_section
from pawpularity.report.reproduced import checklist_section
from pawpularity.report.studies import studies_section

MOST_BYTES = 15_000_000  # more than that opens slowly, and mail programs refuse it


def make_report(
    subjects: Sequence[Subject], notes: Sequence[str], path: Path, command: str, *, first: str | None = None
) -> dict[str, Any]:
    """Write the page about `subjects` to `path`, whole; returns what is on it, for programs.

    `notes`: what was left out; `command` makes it again; `first`: the word of the one that the others are compared with (else
    the best honest one); where runs were named (`first`), only their galleries and beliefs are shown.
    """
    pairs = paired(subjects, first)
    sections = [
        runs_section(subjects, notes),
        ensemble_section(subjects),
        leaks_section(subjects),
        paired_section(subjects, pairs),
        predicted_section(subjects),
        bands_section(subjects),
        curves_section(subjects),
        errors_section(subjects),
        table1_section(),
        hypotheses_section(subjects, named=first is not None),
        studies_section(),
        gallery_section(subjects),
        groups_section(subjects),
        robustness_section(subjects),
        checklist_section(subjects),
    ]
    text = page(sections, _title(subjects), command, _foot(subjects))
    write_text(path, text)
    size = len(text.encode())
    return {
        "report": str(path),
        "bytes": size,
        "too_large": size > MOST_BYTES,
        "runs": [one.row | {"flag": one.flag} for one in subjects],
        "left_out": list(notes),
        "copies": [{"run": one.name, "of": first.name} for one, first in distinct(subjects)[1]],
        "paired": [
            {"first": reference.name, "constant_rmse": reference.row["score"]["constant_rmse"],
             "others": [row.to_dict() | {"flag": one.flag} for one, row in zip(others, rows, strict=True)]}
            for reference, others, rows in pairs
        ],
        "photos": sum(len(b.cards) for section in sections for b in section.blocks if isinstance(b, Cards)),
        "sections": [
            {"key": s.key, "title": s.title, "state": s.state, "command": s.command, "faults": list(s.faults)} for s in sections
        ],
    }  # fmt: skip


def page(sections: Sequence[Section], title: str, command: str, foot: Sequence[str]) -> str:
    """report.html."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pawpularity.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("report.html.j2").render(
        sections=sections, title=title, command=command, foot=foot, MADE=MADE
    )


def summary(value: dict[str, Any]) -> str:
    """What the command prints: the runs in a line each, which sections there are, and how to make the others."""
    lines = []
    for row in value["runs"]:
        s = row["score"]
        if s is None:
            lines.append(f"{row['run']}: no fold is trained yet")
            continue
        flag = f"; {row['flag'].upper()}" if row["flag"] else ""
        interval = f"[{s['low']:.2f}, {s['high']:.2f}]{' indicative' if s['indicative'] else ''}"
        lines.append(
            f"{row['run']}: RMSE {s['rmse']:.3f} {interval}, constant {s['constant_rmse']:.3f}, n = {s['n']}{flag}"
        )
    lines += [f"{copy['run']} holds the same predictions as {copy['of']}" for copy in value["copies"]]
    made = [s["title"] for s in value["sections"] if s["state"] == MADE]
    lines += ["", f"on the page: {'; '.join(made)}"]
    for s in value["sections"]:
        if s["state"] != MADE and not s["faults"]:
            lines.append(f"not made: {s['title']} ({s['command']})")
        lines += [f"{s['title']}: {fault}" for fault in s["faults"]]
    if value["too_large"]:
        lines.append(f"{size_text(value['bytes'])} is a lot for a page; name some of the runs with RUNS=...")
    lines.append(f"{value['report']}: {size_text(value['bytes'])}, {value['photos']} photos with maps")
    return "\n".join(lines)


def _title(subjects: Sequence[Subject]) -> str:
    return f"Pawpularity: where we stand on {' and '.join(by_data(subjects))}"


def _foot(subjects: Sequence[Subject]) -> list[str]:
    commits = sorted({_short(one.run.record.get("git_commit")) for one in subjects if one.run is not None})
    machines = sorted({f"{m['processor']}, {m['cores']} cores" for one in subjects if one.run is not None
                       if (m := one.run.record.get("machine"))})  # fmt: skip
    lines = []
    if commits:
        lines.append(f"The runs were made by commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}.")
    if machines:
        lines.append(f"On {'; '.join(machines)}; times are of these.")
    lines.append("Every figure is that of the verb named under it; the page shows what runs and verbs left on disk. It "
                 "fetches nothing and sends nothing.")  # fmt: skip
    return lines


def _short(commit: str | None) -> str:
    """A commit by its first digits, with what says that files were changed."""
    name, plus, changes = (commit or "unknown").partition("+")
    return name[:10] + plus + changes
