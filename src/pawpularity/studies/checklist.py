"""Question: which items of the machine-learning reproducibility checklist do the files of a run answer?

Command: `make checklist [RUNS="a b"]` (default: all runs).
Result: oof/checklist.md and oof/checklist.json, with the file and key behind every answer. If a file is missing, the exit code is 2
and a line names the file and the command that makes it.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from pawpularity.console import emit, next_step
from pawpularity.errors import UserError, printable
from pawpularity.evaluation.metrics import DRAWS, evaluate, rmse
from pawpularity.evaluation.predictions import open_predictions
from pawpularity.files import write_json, write_text
from pawpularity.runs import OOF, Run, run_names
from pawpularity.studies.checklist_evidence import Evidence, NotAsked, NotBacked, flat

MARKDOWN, JSON = OOF / "checklist.md", OOF / "checklist.json"
ANSWERED, NONE, MISSING = "answered", "does not apply", "not backed"


def checklist(*, runs: Sequence[str] = (), json: str | None = None) -> None:
    """`pawpularity checklist`: write both files. Raises UserError, after writing, if no file backs an answer."""
    names = list(dict.fromkeys(runs or run_names()))
    if not names:
        raise UserError("oof/ holds no run yet; run: make train FOLD=0")
    found = [_about(Run.open(OOF / name)) for name in names]
    asked = [(one["run"], answer) for one in found for answer in one["answers"]]
    gaps = [
        f"{run}: {a['question']}: not backed: {a['text']}; run: {a['make']}"
        for run, a in asked
        if a["status"] == MISSING
    ]
    value = {"runs": found, "not_backed": gaps}
    write_json(JSON, value)
    write_text(MARKDOWN, printable(markdown(found), "\n"))
    words = f"{len(asked) - len(gaps)} of {len(asked)} answers of {len(names)} runs are backed or do not apply"
    emit(value, "\n".join([f"{MARKDOWN} and {JSON}: {words}", *gaps]), json)
    if gaps:
        raise UserError(f"checklist: {len(gaps)} of {len(asked)} answers are not backed (--full lists all)")
    next_step("make report", RUNS=names)


def _about(run: Run) -> dict[str, Any]:
    """A run's answers, and the hash of the predictions they are about (None without any), by which readers detect stale answers."""
    answers = [answer(run, *question) for question in QUESTIONS]
    try:
        predictions_hash = open_predictions(run.name, partly=True).predictions_hash
    except UserError:
        predictions_hash = None
    return {"run": run.name, "leaky": run.leaky, "predictions_hash": predictions_hash, "answers": answers}


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """The checklist for people."""
    lines = ["# Reproducibility checklist", ""]
    for one in found:
        lines += [f"## {one['run']}{' (leaky by design)' if one['leaky'] else ''}", ""]
        for section, answers in groupby(one["answers"], key=lambda a: a["section"]):
            lines += [f"### {section}", ""]
            for a in answers:
                status = "" if a["status"] == ANSWERED else f"*{a['status']}*: "
                lines.append(
                    f"- **{a['question']}**: {status}{a['text']}" + (f"; run: `{a['make']}`" if a["make"] else "")
                )
                lines += [f"  - `{source}`" for source in a["read"]]
            lines.append("")
    return "\n".join(lines)


# --- Questions ---------------------------------------------------------------------------------------------------------


def answer(run: Run, section: str, question: str, ask: "Ask | dict[str, Ask]") -> dict[str, Any]:
    """One line of the checklist. `read` names every file and key behind it; `make` is the command that makes a missing file."""
    e = Evidence(run)
    rule = ask.get(run.kind, ask["run"]) if isinstance(ask, dict) else ask
    status, make = ANSWERED, ""
    try:
        if isinstance(rule, NotAsked):
            e.value("kind")
            raise rule
        text = rule(e) if callable(rule) else e.filled(rule)
    except NotAsked as why:
        status, text = NONE, str(why)
    except NotBacked as gap:
        status, text, make, e.read = MISSING, str(gap), gap.command, [gap.file.as_posix()]
    return {"section": section, "question": question, "status": status, "text": text, "read": e.read, "make": make}


def _statistics(e: Evidence) -> str:
    scores, sizes = e.source.target, np.unique(e.folds().frame["group"], return_counts=True)[1]
    several = sizes[sizes > 1]
    known = "photos" in e.run.record["data"] or len(several)
    groups = f"{several.sum()} near-duplicates in {len(several)} known groups"
    return (f"{len(scores)} scored rows, mean {scores.mean():.4f}, sd {scores.std():.4f}, range {scores.min():g} to "
            f"{scores.max():g}; {groups if known else 'near-duplicates are not known: the members are files'}")  # fmt: skip


def _excluded(e: Evidence) -> str:
    if "photos" not in e.run.record["data"]:
        e.value("data.name")
        raise NotAsked("the blend's members are files of predictions, whose rows are all used")
    labelled, in_folds = int(e.value("data.photos")), len(e.folds().frame)
    why = "every labelled row is in a fold" if labelled == in_folds else "the data changed since"
    return f"{labelled - in_folds} of {labelled} rows: {why}"


def _splits(e: Evidence) -> str:
    folds = e.folds()
    sizes = np.bincount(folds.frame["fold"], minlength=folds.k).tolist()
    made = e.json(folds.path.with_suffix(".json"), "rule", e.folds_command)
    how = flat(e.value("config.folds")) if "folds" in e.run.record["config"] else f"k {folds.k}"
    # Our folds are stratified; a blend of files keeps the folds of its members.
    grouped = "whole groups dealt, stratified by score" if "deal-" in made else "folds as the members have them"
    return f"{how}; rule {made}: {grouped}; photos by fold {sizes}; {folds.path.as_posix()}, hash {folds.hash}"


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
    e.value("config")
    name = e.run.name
    return f"{e.command}; make oof RUN={name}; make errors RUN={name} {e.data_word}; make report RUNS={name}"


def _tests(e: Evidence) -> str:
    rows = e.value("search.json:against_default")
    return "; ".join(f"{row['name']} {row['difference']:+.4f}, p (Holm) {row['p_holm']:.4g}" for row in rows)


BLEND, COMPARE = (
    NotAsked("a blend trains nothing; see the files of its members"),
    NotAsked("no test is saved; make compare tests runs"),
)
Ask = Callable[[Evidence], str] | str | NotAsked
"""How to answer: a function, a text with {keys} (`Evidence.value`), or the reason why the question does not apply."""
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
               "mixup {config.train.mixup}, cutmix {config.train.cutmix}, manifold_mixup {config.train.manifold_mixup}, views {config.train.views}",
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
