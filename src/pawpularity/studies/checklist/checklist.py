"""`oof/checklist.md` and `oof/checklist.json`: the checklist of several runs, and the lines about what is not backed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pawpularity.errors import UserError
from pawpularity.files import write_json, write_text
from pawpularity.runs import OOF, Run
from pawpularity.studies.checklist.evidence import MISSING, Backing
from pawpularity.studies.checklist.questions import answers

MARKDOWN, JSON = OOF / "checklist.md", OOF / "checklist.json"


def make_checklist(names: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Write both files about the runs `names`; returns what the JSON holds, and a line for each answer not backed.

    A run whose record cannot be read is one such line. Raises UserError for a name that holds no run.
    """
    found: list[dict[str, Any]] = []
    gaps: list[str] = []
    for name in names:
        try:
            run = Run.open(OOF / name)
        except UserError as error:
            if not (OOF / name / "config.json").is_file():
                raise
            gaps.append(f"{name}: its record: not backed: {error}")
            continue
        told = answers(Backing(run))
        found.append(
            {"run": run.name, "kind": run.kind, "leaky": run.leaky, "answers": [one.to_dict() for one in told]}
        )
        gaps += [
            f"{run.name}: {one.question}: not backed: {one.text}; run: {one.make}"
            for one in told
            if one.status == MISSING
        ]
    value = {"runs": found, "not_backed": gaps}
    write_json(JSON, value)
    write_text(MARKDOWN, _markdown(value))
    return value, gaps


def written() -> list[Path]:
    """The files a checklist leaves."""
    return [MARKDOWN, JSON]


def _markdown(value: dict[str, Any]) -> str:
    lines = ["# Reproducibility checklist", ""]
    for one in value["runs"]:
        lines += [f"## {one['run']}{' (leaky by design)' if one['leaky'] else ''}", ""]
        section = ""
        for a in one["answers"]:
            if a["section"] != section:
                lines += [""] if section else []
                section = a["section"]
                lines += [f"### {section}", ""]
            status = "" if a["status"] == "answered" else f"*{a['status']}*: "
            text = " ".join(f"{status}{a['text']}".split())
            make = f"; run: `{a['make']}`" if a["make"] else ""
            lines.append(f"- **{a['question']}**: {text}{make}")
            lines += [f"  - `{source}`" for source in a["read"]]
        lines.append("")
    if value["not_backed"]:
        lines += ["## Not backed by any file", "", *(f"- {' '.join(gap.split())}" for gap in value["not_backed"]), ""]
    return "\n".join(lines)
