"""The sections about mean maps of groups of photos (`explain`) and about small changes of photos (`robustness`)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pawpularity.console import make_word
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import indicative
from pawpularity.files import read_json
from pawpularity.report.components import (
    Block,
    Cell,
    Figure,
    Heading,
    Section,
    Table,
    Words,
    as_written,
    chance,
    collect,
    number,
    span,
)
from pawpularity.report.inputs import Entry
from pawpularity.report.pictures import data_uri, read_picture


def groups_section(entries: Sequence[Entry]) -> Section:
    """Mean maps of groups: oof/RUN/explain/groups/GROUP/."""
    files = [
        (one, path) for one in entries if one.run is not None
        for path in sorted((one.run.folder / "explain" / "groups").glob("*/groups.json"))
    ]  # fmt: skip
    blocks, faults = collect(partial(_group, one, path) for one, path in files)
    title = "Where the scores of groups come from"
    return Section("groups", title, "groups", "make explain GROUP=scores", blocks, faults)


def _group(one: Entry, path: Path) -> list[Block]:
    command = f"make explain {make_word('RUN', one.name)} GROUP={path.parent.name}"
    found = read_json(path, f"the group {path.parent.name}")
    rows: list[list[str | Cell]] = []
    with as_written(path, "explain", command):
        one.require_about(path, found["predictions_hash"], command)
        lines = found["figures"]
        sides = list(dict.fromkeys(line["side"] for line in lines))
        names = list(dict.fromkeys(line["figure"] for line in lines))
        for side in sides:
            figures = {line["figure"]: line for line in lines if line["side"] == side}
            first = figures[names[0]]
            row: list[str | Cell] = [side, str(first["photos"]), number(first["mean_score"], 1)]
            for name in names:
                value, low, high = (figures[name][key] for key in ("value", "low", "high"))
                row.append("no signal" if value is None else f"{value:.2f} {span(low, high)}")
            rows.append(row)
        between = " and ".join(sides)
        alt = (f"Mean signed RISE maps of the photos {between}, their difference and its standard error, score points; the "
               f"maps differ somewhere: p {chance(found['p_anywhere'])}")  # fmt: skip
        heading = Heading(f"{found['group']}, {one.label}")
        caption = f"Mean RISE maps, {found['masks']} masks a photo, score points"
    uri, size = data_uri(read_picture(path.parent / "figure.png", command))
    about = "Means of the maps inside and outside the subject, score points, 95 % intervals over photos"
    return [
        heading,
        Figure(uri, alt, caption, command, size, one.flag),
        Table(about, ["photos", "n", "mean score", *names], rows, command),
    ]


def robustness_section(entries: Sequence[Entry]) -> Section:
    """How far attacks and harmless changes move the scores: oof/RUN/robustness.json."""
    files = [(one, path) for one in entries if one.run is not None
             and (path := one.run.folder / "robustness.json").is_file()]  # fmt: skip
    blocks, faults = collect(partial(_robustness, one, path) for one, path in files)
    return Section("robustness", "How small changes move the scores", "robustness", "make robustness", blocks, faults)


def _robustness(one: Entry, path: Path) -> list[Block]:
    command = f"make robustness {make_word('RUN', one.name)}"
    found = read_json(path, f"robustness of {one.name}")
    with as_written(path, "robustness", command):
        s, photos = found["score"], found["photos"]
        now = one.row["score"]
        if now is None or s["n"] != now["n"] or abs(s["rmse"] - now["rmse"]) > 1e-6:
            raise UserError(f"{path}: is about other predictions than {one.name} holds now; run: {command}")
        few = "; intervals indicative (n < 50)" if photos < 50 else ""
        words = [
            f"{photos} photos, whose scores have a standard deviation of {found['sd_of_scores']:.1f} points{few}.",
            f"Out of fold: RMSE {s['rmse']:.2f} {span(s['low'], s['high'])}{indicative(s)}, constant {s['constant_rmse']:.2f}, "
            f"n = {s['n']:,}.",
        ]
        rows: list[list[str | Cell]] = [
            [m["name"], f"{m['mean']:+.2f}", f"{m['size']:.2f}", span(m["size_low"], m["size_high"]), f"{m['largest']:.1f}"]
            for m in found["moves"]
        ]  # fmt: skip
    head = ["change", "mean move", "mean size", "95 %", "largest"]
    caption = "Moves of the score, points; each photo by the network that never saw it"
    return [Heading(one.label), Words([" ".join(words)]), Table(caption, head, rows, command)]
