"""Question: which items of the machine-learning reproducibility checklist do the files of a run answer?

Command: `make checklist [RUNS="a b"]` (default: all runs).
Result: oof/checklist.md and oof/checklist.json: every answer with the file and key it was read from. Exit code 2 where a file is
missing; the line says which, and what makes it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from pawpularity.console import emit, log, make_word, next_step
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import DRAWS, evaluate, rmse
from pawpularity.evaluation.predictions import open_predictions
from pawpularity.files import write_json, write_text
from pawpularity.runs import OOF, Run, run_names
from pawpularity.studies.checklist_evidence import Evidence, NotAsked, NotBacked, flat

MARKDOWN, JSON = OOF / "checklist.md", OOF / "checklist.json"
ANSWERED, NONE, MISSING = "answered", "does not apply", "not backed"


def checklist(*, runs: Sequence[str] = (), json: str | None = None) -> None:
    """`pawpularity checklist`: write both files. Raises UserError, after writing, where an answer is not backed by a file."""
    names = list(dict.fromkeys(runs or run_names()))
    if not names:
        raise UserError("oof/ holds no run yet; run: make train FOLD=0")
    value = make_checklist(names)
    write_json(JSON, value)
    write_text(MARKDOWN, markdown(value))
    gaps = value["not_backed"]
    asked = sum(len(one["answers"]) for one in value["runs"]) + len(names) - len(value["runs"])
    words = f"{asked - len(gaps)} of {asked} answers of {len(names)} runs are backed or do not apply"
    emit(value, f"{MARKDOWN} and {JSON}: {words}", json)
    for gap in gaps:
        log(gap)
    if gaps:
        raise UserError(
            f"checklist: {len(gaps)} of {asked} answers are not backed (listed above); run what makes their files"
        )
    next_step(f"make report {make_word('RUNS', *names)}")


def make_checklist(names: list[str]) -> dict[str, Any]:
    """What the JSON holds about the runs `names`: their answers, and a line for each answer that is not backed.

    A run whose record cannot be read is one such line. Raises UserError for a name that holds no run.
    """
    found, gaps = [], []
    for name in names:
        try:
            run = Run.open(OOF / name)
        except UserError as error:
            if not (OOF / name / "config.json").is_file():
                raise
            gaps.append(f"{name}: its record: not backed: {error}")
            continue
        answers = [answer(run, *question) for question in QUESTIONS]
        found.append({"run": name, "kind": run.kind, "leaky": run.leaky, "predictions_hash": _hash(name),
                      "answers": [asdict(one) for one in answers]})  # fmt: skip
        missing = [one for one in answers if one.status == MISSING]
        gaps += [f"{name}: {one.question}: not backed: {one.text}; run: {one.make}" for one in missing]
    return {"runs": found, "not_backed": gaps}


def _hash(name: str) -> str | None:
    """The hash of the run's predictions, so that a reader of the JSON knows whether it is current; None without predictions."""
    try:
        return open_predictions(name, partly=True).predictions_hash
    except UserError:
        return None


def markdown(value: dict[str, Any]) -> str:
    """The checklist for people."""
    lines = ["# Reproducibility checklist", ""]
    for one in value["runs"]:
        lines += [f"## {one['run']}{' (leaky by design)' if one['leaky'] else ''}", ""]
        section = ""
        for a in one["answers"]:
            if a["section"] != section:
                lines += [*([""] if section else []), f"### {a['section']}", ""]
                section = a["section"]
            status = "" if a["status"] == ANSWERED else f"*{a['status']}*: "
            lines.append(f"- **{a['question']}**: {status}{a['text']}" + (f"; run: `{a['make']}`" if a["make"] else ""))
            lines += [f"  - `{source}`" for source in a["read"]]
        lines.append("")
    if value["not_backed"]:
        lines += ["## Not backed by any file", "", *(f"- {gap}" for gap in value["not_backed"]), ""]
    return "\n".join(lines)


# --- Questions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """One line of the checklist. `read` names every file and key behind it; `make` is what makes a missing file."""

    section: str
    question: str
    status: str
    text: str
    read: list[str]
    make: str = ""


def answer(run: Run, section: str, question: str, ask: "Ask | dict[str, Ask]") -> Answer:
    """One question, answered from the files of `run`."""
    e = Evidence(run)
    own = ask.get(run.kind, ask["run"]) if isinstance(ask, dict) else ask
    try:
        if isinstance(own, NotAsked):
            e.record("kind")
            raise own
        return Answer(section, question, ANSWERED, " ".join(own(e).split()) if callable(own) else e.filled(own), e.read)
    except NotAsked as why:
        return Answer(section, question, NONE, str(why), e.read)
    except NotBacked as gap:
        return Answer(section, question, MISSING, str(gap), [gap.file.as_posix()], gap.command)


def _statistics(e: Evidence) -> str:
    scores, sizes = e.source.target, np.unique(e.folds().frame["group"], return_counts=True)[1]
    several = sizes[sizes > 1]
    known = "photos" in e.run.record["data"] or len(several)
    groups = f"{several.sum()} near-duplicates in {len(several)} known groups"
    return (f"{len(scores)} scored rows, mean {scores.mean():.4f}, sd {scores.std():.4f}, range {scores.min():g} to "
            f"{scores.max():g}; {groups if known else 'near-duplicates are not known: the members are files'}")  # fmt: skip


def _excluded(e: Evidence) -> str:
    if "photos" not in e.run.record["data"]:
        e.record("data.name")
        raise NotAsked("predictions in files hold the rows that they came with")
    due, dealt = int(e.record("data.photos")), len(e.folds().frame)
    return f"{due - dealt} of {due} rows: {'every labelled row is in a fold' if due == dealt else 'the data changed since'}"


def _splits(e: Evidence) -> str:
    folds = e.folds()
    sizes = np.bincount(folds.frame["fold"], minlength=folds.k).tolist()
    made = e.json(folds.path.with_suffix(".json"), "rule", e.command if e.run.kind == "ensemble" else e.folds_command)
    how = flat(e.record("config.folds")) if "folds" in e.run.record["config"] else f"k {folds.k}"
    # A dealt folds file is stratified; a blend of files keeps the folds that its members came with.
    grouped = "whole groups dealt, stratified by score" if "deal-" in made else "folds as the members have them"
    digest = sha256(folds.path.read_bytes()).hexdigest()
    return f"{how}; rule {made}: {grouped}; photos by fold {sizes}; {folds.path.as_posix()}, hash {folds.hash}, sha256 {digest}"


def _result(e: Evidence) -> str:
    source = e.source
    s = evaluate(source.target, source.prediction, source.constant, source.groups)
    each = np.array(
        [rmse(source.target[own], source.prediction[own]) for own in source.fold == np.unique(source.fold)[:, None]]
    )
    sd = f"{each.mean():.4f} +- {each.std(ddof=1):.4f} (sd)" if len(each) > 1 else f"{each[0]:.4f}, of one fold: no sd"
    return (f"RMSE {s.rmse:.4f}, 95 % bootstrap interval [{s.low:.4f}, {s.high:.4f}] ({DRAWS} draws of groups, seed 0); over "
            f"{len(each)} folds {sd}; constant {s.constant_rmse:.4f}; n = {s.n}, score points")  # fmt: skip


def _commands(e: Evidence) -> str:
    e.record("config")
    name = e.run.name
    return f"{e.command}; make oof RUN={name}; make errors RUN={name} {e.data_word}; make report RUNS={name}"


def _tests(e: Evidence) -> str:
    rows = e.value("search.json:against_default")
    return "; ".join(f"{row['name']} {row['difference']:+.4f}, p (Holm) {row['p_holm']:.4g}" for row in rows)


BLEND, COMPARE = (
    NotAsked("a blend trains nothing; its members' files say it"),
    NotAsked("none is kept; make compare tests runs"),
)
Ask = Callable[[Evidence], str] | str | NotAsked
"""A function, or a text with {keys} (`Evidence.value`), or why it is not asked."""
QUESTIONS: list[tuple[str, str, Ask | dict[str, Ask]]] = [
    ("Models and algorithms", "model", {
        "run": "one network of photo and metadata: {config.model}; loss {config.train.loss}",
        "head": "frozen features: {head}",
        "ensemble": "blend by {method} of {members}, cross-fitted"}),
    ("Models and algorithms", "size", {
        "run": "{fold.parameters} parameters, {fold.trained_parameters} trained; unfrozen {config.model.unfrozen}; {weights}",
        "head": "features a photo: {fold.features}; the networks stay frozen",
        "ensemble": "intercept {weights.json:intercept}, weights of {weights.json:members}"}),
    ("Theoretical claims", "theoretical claims", NotAsked("none is made: a run is a measurement")),
    ("Datasets", "statistics", _statistics),
    ("Datasets", "source", "{data.name}, hash {data.hash}"),
    ("Datasets", "exclusions", _excluded),
    ("Datasets", "splits", _splits),
    ("Datasets", "preprocessing", {
        "run": "photos {config.photos}; augment {config.train.augment}, copies {config.train.copies}, split {config.train.split}, "
               "mixup {config.train.mixup}, manifold_mixup {config.train.manifold_mixup}, views {config.train.views}",
        "head": "photos {config.photos}; no augmentation: features are frozen",
        "ensemble": NotAsked("a blend reads predictions, no photos")}),
    ("Code", "commit", "commit {git_commit}"),
    ("Code", "versions", {"run": "{versions}", "head": "{fold.versions}"}),
    ("Code", "commands", _commands),
    ("Experimental results", "ranges searched", {
        "run": lambda e: f"study {e.searched().name}: {e.filled('{config.search.space}')}", "head": "tried {head.tried}",
        "ensemble": BLEND}),
    ("Experimental results", "trials and choice", {
        "run": "trials: {search.json:counts}; by inner RMSE, then {search.json:kind} on the folds; winner {search.json:winner}",
        "head": "on each fold's training rows: {by_fold.chosen}", "ensemble": BLEND}),
    ("Experimental results", "final hyper-parameters", {
        "run": "{config.train}", "head": "{head}", "ensemble": "{config}, method {method}"}),
    ("Experimental results", "seeds", {"run": "training {fold.seed}, folds {config.folds.seed}", "ensemble": BLEND}),
    ("Experimental results", "training and evaluation runs", {
        "run": "of {folds.k} folds, each trained once and evaluated once; rows by fold: {by_fold.n}",
        "ensemble": "one blend of {members}, evaluated once out of fold"}),
    ("Experimental results", "metric",
     lambda e: f"pooled RMSE = sqrt(sum over rows of (target - prediction)^2 / n), n = {len(e.source.target)}, score points"),
    ("Experimental results", "result and spread", _result),
    ("Experimental results", "statistical tests", {"run": _tests, "head": COMPARE, "ensemble": COMPARE}),
    ("Experimental results", "runtime", {"run": "seconds by fold: {by_fold.seconds}", "ensemble": BLEND}),
    ("Experimental results", "machine", {"run": "{machine}; computed on {fold.device} in {fold.dtype}", "ensemble": "{machine}"}),
]  # fmt: skip
"""Section, question, and how it is answered: for every run, or by kind of run (other kinds as `run`)."""
