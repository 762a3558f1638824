"""The checklist's questions, and how each is answered from a run's files. Returns text; raises NotBacked or NotAsked."""

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.evaluation.metrics import DRAWS, evaluate
from pawpularity.evaluation.oof import constant_predictions
from pawpularity.studies.checklist.evidence import ANSWERED, MISSING, NONE, Answer, Backing, NotBacked


class NotAsked(Exception):  # an outcome, not a fault
    """The question does not apply; why."""


def answers(backing: Backing) -> list[Answer]:
    """Every question of the checklist, answered for one run."""
    found = []
    for section, question, ask in QUESTIONS:
        backing.read = []
        try:
            found.append(Answer(section, question, ANSWERED, ask(backing), backing.read))
        except NotAsked as why:
            found.append(Answer(section, question, NONE, str(why), backing.read))
        except NotBacked as gap:
            found.append(Answer(section, question, MISSING, str(gap), [gap.file.as_posix()], gap.command))
    return found


def _flat(value: Any) -> str:
    """A JSON value in a line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "[" + ", ".join(_flat(item) for item in value) + "]"
    return str(value)


def _kind(b: Backing) -> str:
    return "run" if "kind" not in b.run.record else str(b.record("kind"))  # the oldest records name none


def _model(b: Backing) -> str:
    if _kind(b) == "ensemble":
        return f"blend by {b.record('method')} of {', '.join(b.record('members'))}, cross-fitted"
    if b.run.kind == "probe":
        return f"frozen features: {_flat(b.record('probe'))}"
    return f"one network of photo and metadata: {_flat(b.record('config.model'))}; loss {b.record('config.train.loss')}"


def _size(b: Backing) -> str:
    if _kind(b) == "ensemble":
        file = b.run.folder / "weights.json"
        members = b.json(file, "members", b.command)
        intercept = b.json(file, "intercept", b.command)
        return f"intercept {intercept:g} and {len(members)} weights: " + ", ".join(
            f"{one['name']} {one['weight']:.4f}" for one in members
        )
    if b.run.kind == "probe":
        return f"features a photo: {_flat(sorted(set(b.metric('features').values())))}; the networks stay frozen"
    every, trained = set(b.metric("parameters").values()), set(b.metric("trained_parameters").values())
    return (f"{_flat(sorted(every))} parameters, {_flat(sorted(trained))} of them trained; unfrozen "
            f"{b.record('config.model.unfrozen')}; pre-trained weights {_flat(b.record('weights'))}")  # fmt: skip


def _theory(b: Backing) -> str:
    raise NotAsked(f"none is made: a run ({_kind(b)}) is a measurement")


def _duplicates(b: Backing, several: NDArray[np.int64]) -> str:
    if "photos" not in b.run.record["data"] and not len(several):
        return "near-duplicates are not known: the members are files"
    return f"{int(several.sum())} near-duplicates in {len(several)} known groups"


def _statistics(b: Backing) -> str:
    scores, where = b.scores()
    sizes = np.unique(b.folds().frame["group"], return_counts=True)[1]
    several = sizes[sizes > 1]
    return (f"{len(scores)} scored rows, mean {scores.mean():.4f}, sd {scores.std(ddof=0):.4f}, range {scores.min():g} to "
            f"{scores.max():g} ({where}); {_duplicates(b, several)}")  # fmt: skip


def _source(b: Backing) -> str:
    return f"{b.record('data.name')}, hash {b.record('data.hash')}, named as {b.data_folder}"


def _excluded(b: Backing) -> str:
    data = b.run.record["data"]
    if "photos" not in data:
        b.record("data.name")
        raise NotAsked("predictions in files hold the rows that they came with")
    # Without the place of train.csv, the record's count of its rows stands in.
    due = len(b.scores()[0]) if data.get("folder") else int(b.record("data.photos"))
    dealt = len(b.folds().frame)
    kept = "every labelled row is in a fold" if due == dealt else "they differ: the data changed since"
    return f"{due - dealt} of {due} rows: {kept}"


def _splits(b: Backing) -> str:
    folds = b.folds()
    sizes = np.bincount(folds.frame["fold"], minlength=folds.k).tolist()
    command = b.command if b.run.kind == "ensemble" else b.folds_command
    made = b.json(folds.path.with_suffix(".json"), "rule", command)
    how = _flat(b.record("config.folds")) if "folds" in b.run.record["config"] else f"k {folds.k}"
    # A folds file of deal-1 is stratified; a blend of files keeps the folds that its members came with.
    grouped = "whole groups dealt, stratified by score" if "deal-" in made else "folds as the members have them"
    digest = sha256(folds.path.read_bytes()).hexdigest()
    return f"{how}; rule {made}: {grouped}; photos by fold {sizes}; {folds.path.as_posix()}, hash {folds.hash}, sha256 {digest}"


def _preprocessing(b: Backing) -> str:
    if _kind(b) == "ensemble":
        raise NotAsked("a blend reads predictions, no photos")
    if b.run.kind == "probe":
        return f"photos {_flat(b.record('config.photos'))}; no augmentation: features are frozen"
    keys = ("augment", "copies", "split", "mixup", "manifold_mixup", "views")
    train = b.record("config.train")
    return f"photos {_flat(b.record('config.photos'))}; training " + ", ".join(
        f"{key} {train[key]}" for key in keys if key in train
    )


def _commit(b: Backing) -> str:
    commit = b.record("git_commit")
    return f"commit {commit}" if commit else "no commit is recorded: the code stood outside a repository"


def _versions(b: Backing) -> str:
    if b.run.kind == "probe" and "versions" not in b.run.record:
        return _flat(next(iter(b.metric("versions").values())))
    return _flat(b.record("versions"))


def _commands(b: Backing) -> str:
    name, data = b.run.name, b.data_word
    b.record("kind" if "kind" in b.run.record else "config")
    lines = [b.command, f"make oof RUN={name}", f"make errors RUN={name} {data}", f"make report RUNS={name}"]
    return "; ".join(lines)


def _ranges(b: Backing) -> str:
    if b.run.kind == "probe":
        return f"tried {_flat(b.record('probe.tried'))}"
    folder = b.study()
    if folder is None:
        b.record("config.name")
        raise NotAsked("none were searched: there is no study of this name below oof/studies")
    return f"{_flat(b.record('config.search.space'))}"


def _chosen(b: Backing) -> str:
    if b.run.kind == "probe":
        return "on each fold's training rows: " + ", ".join(f"fold {k} {v}" for k, v in b.metric("chosen").items())
    folder = b.study()
    if folder is None:
        b.record("config.name")
        raise NotAsked("none were searched: there is no study of this name below oof/studies")
    file, command = folder / "search.json", f"make tune RUN={folder.name}"
    counts, kind = b.json(file, "counts", command), b.json(file, "kind", command)
    return f"trials: {_flat(counts)}; by inner RMSE, then {kind} on the folds; winner {b.json(file, 'winner', command)}"


def _final(b: Backing) -> str:
    if _kind(b) == "ensemble":
        return f"{_flat(b.record('config'))}, method {b.record('method')}"
    return _flat(b.record("config.train") if b.run.kind == "run" else b.record("probe"))


def _seeds(b: Backing) -> str:
    if _kind(b) == "ensemble":
        raise NotAsked("a blend trains nothing; its members' seeds stand with them")
    return f"training {_flat(sorted(set(b.metric('seed').values())))}, folds {b.record('config.folds.seed')}"


def _count(b: Backing) -> str:
    if _kind(b) == "ensemble":
        return f"one blend of {len(b.record('members'))} members, evaluated once out of fold"
    there = b.metric("n")
    return f"{len(there)} of {b.record('folds.k')} folds trained once each; each evaluated once, on {sum(there.values())} rows"


def _metric(b: Backing) -> str:
    n = len(b.predictions())
    return f"pooled RMSE = sqrt(sum over rows of (target - prediction)^2 / n), n = {n}, score points"


def _result(b: Backing) -> str:
    table = b.predictions()
    whole = not b.run.has_folds or len(b.begun) == b.run.k
    means = None if whole else b.metric("training_mean")  # the other folds' rows are known only when all are there
    constant = constant_predictions(table) if means is None else table["fold"].map(means).to_numpy(dtype=np.float64)
    target, prediction = table["target"].to_numpy(), table["prediction"].to_numpy()
    s = evaluate(target, prediction, constant, b.folds().groups_of(table["Id"]))
    each = np.sqrt(((table["target"] - table["prediction"]) ** 2).groupby(table["fold"]).mean().to_numpy())
    spread = (
        f"{each.mean():.4f} +- {each.std(ddof=1):.4f} (sd)" if len(each) > 1 else f"{each[0]:.4f}, of one fold: no sd"
    )
    return (f"RMSE {s.rmse:.4f}, 95 % bootstrap interval [{s.low:.4f}, {s.high:.4f}] ({DRAWS} draws of groups, seed 0); over "
            f"{len(each)} folds {spread}; constant {s.constant_rmse:.4f}")  # fmt: skip


def _tests(b: Backing) -> str:
    folder = b.study()
    if folder is None:
        b.record("config.name")
        raise NotAsked("no test of this run is kept; make compare tests two runs, paired, with Holm's correction")
    rows = b.json(folder / "search.json", "against_default", f"make tune RUN={folder.name}")
    return "; ".join(f"{row['name']} {row['difference']:+.4f}, p (Holm) {row['p_holm']:.4g}" for row in rows)


def _runtime(b: Backing) -> str:
    if _kind(b) == "ensemble":
        raise NotAsked("a blend trains nothing; its members' times stand with them")
    return ", ".join(f"fold {fold} {seconds:.1f} s" for fold, seconds in b.metric("seconds").items())


def _machine(b: Backing) -> str:
    about = f"{b.record('machine.processor')}, {b.record('machine.cores')} cores, {b.record('machine.memory_gb')} GB"
    if _kind(b) == "ensemble":
        return about
    devices = sorted(set(b.metric("device").values()))
    gpu = f" ({b.record('machine.gpu')})" if "cuda" in devices else ""
    return f"{about}; computed on {_flat(devices)}{gpu} in {_flat(sorted(set(b.metric('dtype').values())))}"


Ask = Callable[[Backing], str]
QUESTIONS: list[tuple[str, str, Ask]] = [
    ("Models and algorithms", "model", _model),
    ("Models and algorithms", "size", _size),
    ("Theoretical claims", "theoretical claims", _theory),
    ("Datasets", "statistics", _statistics),
    ("Datasets", "source", _source),
    ("Datasets", "exclusions", _excluded),
    ("Datasets", "splits", _splits),
    ("Datasets", "preprocessing", _preprocessing),
    ("Code", "commit", _commit),
    ("Code", "versions", _versions),
    ("Code", "commands", _commands),
    ("Experimental results", "ranges searched", _ranges),
    ("Experimental results", "trials and choice", _chosen),
    ("Experimental results", "final hyper-parameters", _final),
    ("Experimental results", "seeds", _seeds),
    ("Experimental results", "training and evaluation runs", _count),
    ("Experimental results", "metric", _metric),
    ("Experimental results", "result and spread", _result),
    ("Experimental results", "statistical tests", _tests),
    ("Experimental results", "runtime", _runtime),
    ("Experimental results", "machine", _machine),
]
