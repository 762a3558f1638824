"""The report: the list of its sections, and `oof/report.html`.

The page is one file that contains its style, script, drawings and pictures. It fetches nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pawpularity.files import size_text, write_text
from pawpularity.report.components import MADE, Cards, Section
from pawpularity.report.gallery import gallery_section
from pawpularity.report.inputs import Entry, by_data, distinct
from pawpularity.report.leaderboard import ensemble_section, leaks_section, runs_section
from pawpularity.report.maps import groups_section, robustness_section
from pawpularity.report.predictions import bands_section, curves_section, paired, paired_section, predicted_section
from pawpularity.report.records import errors_section, hypotheses_section, table1_section
from pawpularity.report.reproduced import checklist_section
from pawpularity.report.studies import studies_section

MOST_BYTES = 15_000_000  # a larger page opens slowly, and mail programs refuse it


def make_report(
    entries: Sequence[Entry], notes: Sequence[str], path: Path, command: str, *, first: str | None = None
) -> dict[str, Any]:
    """Write the page about `entries` to `path`; returns its content for JSON.

    `notes`: what was left out. `command`: what makes the page. `first`: the word of the entry that the others are compared with
    (None: the best honest one). If runs were named (`first`), only their galleries and beliefs are shown.
    """
    pairs = paired(entries, first)
    sections = [
        runs_section(entries, notes),
        ensemble_section(entries),
        leaks_section(entries),
        paired_section(entries, pairs),
        predicted_section(entries),
        bands_section(entries),
        curves_section(entries),
        errors_section(entries),
        table1_section(),
        hypotheses_section(entries, named=first is not None),
        studies_section(),
        gallery_section(entries),
        groups_section(entries),
        robustness_section(entries),
        checklist_section(entries),
    ]
    text = page(sections, _title(entries), command, _foot(entries))
    write_text(path, text)
    size = len(text.encode(errors="replace"))
    return {
        "report": str(path),
        "bytes": size,
        "too_large": size > MOST_BYTES,
        "runs": [one.row | {"flag": one.flag} for one in entries],
        "left_out": list(notes),
        "copies": [{"run": one.name, "of": first.name} for one, first in distinct(entries)[1]],
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
    """What the command prints: a line for each run, the sections on the page, and the commands that make the others."""
    lines = []
    for row in value["runs"]:
        s = row["score"]
        if s is None:
            lines.append(f"{row['run']}: no fold is trained yet")
            continue
        flag = f"; {row['flag'].upper()}" if row["flag"] else ""
        interval = f"[{s['low']:.2f}, {s['high']:.2f}]{' indicative' if s['indicative'] else ''}"
        lines.append(
            f"{row['run']}: RMSE {s['rmse']:.2f} {interval}, constant {s['constant_rmse']:.2f}, n = {s['n']:,}{flag}"
        )
    lines += [f"{copy['run']} holds the same predictions as {copy['of']}" for copy in value["copies"]]
    made = [s["title"] for s in value["sections"] if s["state"] == MADE]
    lines.append(f"on the page: {'; '.join(made)}")
    for s in value["sections"]:
        if s["state"] != MADE and not s["faults"]:
            lines.append(f"not made: {s['title']} ({s['command']})")
        lines += [f"{s['title']}: {fault}" for fault in s["faults"]]
    if value["too_large"]:
        lines.append(f"{size_text(value['bytes'])} is large for a page; name fewer runs with RUNS=...")
    lines.append(f"{value['report']}: {size_text(value['bytes'])}, {value['photos']} photos with maps")
    return "\n".join(lines)


def _title(entries: Sequence[Entry]) -> str:
    return f"Pawpularity: results on {' and '.join(by_data(entries))}"


def _foot(entries: Sequence[Entry]) -> list[str]:
    commits = sorted({_short(one.run.record.get("git_commit")) for one in entries if one.run is not None})
    machines = sorted({f"{m['processor']}, {m['cores']} cores" for one in entries if one.run is not None
                       if (m := one.run.record.get("machine"))})  # fmt: skip
    lines = []
    if commits:
        lines.append(f"The runs were made by commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}.")
    if machines:
        lines.append(f"Times were measured on {'; '.join(machines)}.")
    lines.append("Every figure comes from the command named under it; the page shows what runs and commands saved on disk. It "
                 "fetches nothing and sends nothing.")  # fmt: skip
    return lines


def _short(commit: str | None) -> str:
    """The first ten digits of a commit, with its mark of changed files."""
    name, plus, changes = (commit or "unknown").partition("+")
    return name[:10] + plus + changes
