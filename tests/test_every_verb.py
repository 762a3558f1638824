"""Every verb, run twice in two folders, the second time with sockets forbidden: it needs no network, and leaves the same bytes.

What may differ is named in `UNLIKE`, each with its reason; everything else is compared byte for byte.
"""

import functools
import json
import os
import re
import socket
import sys
from pathlib import Path

import pytest
from tests.conftest import ROOT

from pawpularity import cli

SMALL = (
    "--config",
    "scratch",
    "photos.size=32",
    "train.epochs=1",
    "train.warmup_epochs=0",
    "train.batch_size=16",
    "folds.k=3",
)
QUICK = ("explain.sanity_photos=0", "explain.road=false")
BEHIND = ("--config", "sample", "photos.size=32", "train.epochs=1", "train.warmup_epochs=0", "folds.k=3")

COMMANDS = {
    "sample": ["--photos", 48, "--size", 64, "--seed", 3, "--test-photos", 4, "--into", "input/toy"],
    "folds": ["--data", "input/toy", *SMALL],
    "train": ["--data", "input/toy", *SMALL, "--run", "a"],
    "train again": ["--data", "input/toy", *BEHIND, "--run", "b"],
    "jobs": ["--data", "input/toy", *SMALL, "--run", "c"],
    "oof": ["--json", "oof.json"],
    "compare": ["a", "b", "--draws", 200, "--json", "compare.json"],
    "ensemble": ["a", "b", "--method", "mean", "--run", "blend", "--draws", 200],
    "errors": ["a", "--data", "input/toy", "--config", "scratch"],
    "hypotheses": ["--run", "a", "--data", "input/toy", "--draws", 200],
    "leakage": ["--data", "input/toy", *SMALL],
    "leakcheck": ["a", "--data", "input/toy", *SMALL],
    "probe": ["--data", "input/toy", "--backbones", "test_resnet", "model.weights=none", "photos.size=32", "folds.k=3"],
    "table1": ["--data", "input/toy", "--backbones", "densenet161", "--copies", "none", "photos.size=32", "train.epochs=1",
               "train.warmup_epochs=0"],
    "tune": ["--data", "input/toy", *BEHIND, "--run", "searched", "--trials", 2, "search.top=1"],
    "study": ["searched", "--json", "study.json"],
    "predict": ["--run", "a", "--data", "input/toy"],
    "explain": ["--run", "a", "--data", "input/toy", "--n", 1, "--masks", 64, *QUICK],
    "explain groups": ["--run", "a", "--data", "input/toy", "--group", "scores", "--n", 2, "--masks", 64],
    "robustness": ["--run", "a", "--data", "input/toy", "--photos", 2],
    "checklist": [],
    "report": ["--json", "report.json"],
    "coach": ["input/toy/test", "--run", "a", "--data", "input/toy", "--json", "coach.json"],
    "kernel": ["--runs", "blend", "--data", "input/toy", "--user", "anna"],
    "kernel-push": [],
    "submit": [],
    "clean-cache": ["--yes"],
}  # fmt: skip

# Verbs that are not run here.
LEFT_OUT = {
    "all": "the verbs above in a row; tests/test_cli_main_job.py",
    "app": "a server: tests/coach/test_app.py blocks what is not this machine",
    "bench": "its figures are times",
    "data": "fetches from Kaggle: refused below",
    "kernel-check": "runs without a network by itself: tests/kernel/test_inference.py",
    "kernel-fetch": "fetches from Kaggle: tests/kernel/test_train_kernel.py",
    "kernel-status": "asks Kaggle: tests/kernel/test_push.py",
    "kernel-train": "for the contest's data alone: tests/kernel/test_train_kernel.py",
    "pretrain": "minutes, and its figure stands beside the weights: tests/studies/test_pretrain.py",
}

# Files that hold times or what follows from them.
UNLIKE = {
    "study.journal": "a search's trials, with the times at which they began and ended",
    "depth-seconds.png": "a plot of seconds",
    "depth-seconds.html": "a plot of seconds",
    "table1-toy-part.md": "a table with a column of times",
    "checklist.md": "says how long a fold took",
    "checklist.json": "says how long a fold took",
    "report.html": "the table of runs has a column of seconds; its JSON is compared without it",
}
# Keys of JSON files and columns that do; `row_hash` is of a row of Table 1, seconds included.
TIMES = re.compile(r"^seconds|^row_hash$")


def forbid(*arguments: object, **named: object) -> None:
    """In place of every way out of this machine."""
    raise AssertionError(f"a connection was tried: {arguments}")


def carry_out(folder: Path, sockets: bool) -> dict[str, int]:
    """Every command in `folder`; exit codes by name."""
    folder.mkdir()
    (folder / "configs").mkdir()
    for path in (ROOT / "configs").iterdir():
        if path.name != "tuned":
            (folder / "configs" / path.name).symlink_to(path)
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    if not sockets:
        for name in ("connect", "connect_ex", "sendto", "bind"):
            patch.setattr(socket.socket, name, forbid)
        for name in ("create_connection", "getaddrinfo", "gethostbyname"):
            patch.setattr(socket, name, forbid)
    try:
        return {name: cli.main([name.split()[0], *map(str, words)]) for name, words in COMMANDS.items()}
    finally:
        patch.undo()


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """The two folders, and the exit codes of both."""
    place = tmp_path_factory.mktemp("twice")
    folders = [place / "open", place / "closed"]
    codes = [carry_out(folder, sockets=folder.name == "open") for folder in folders]
    return folders, codes


def plain(path: Path) -> object:
    """What a file says beside its times: JSON without the keys of `TIMES`, CSV without the columns, else its bytes."""
    if path.suffix == ".json":
        return timeless(json.loads(path.read_text()))
    if path.suffix == ".csv":
        head, *rows = path.read_text().splitlines()
        kept = [i for i, name in enumerate(head.split(",")) if not TIMES.search(name)]
        return [[cell for i, cell in enumerate(row.split(",")) if i in kept] for row in rows] if rows else head
    return path.read_bytes()


def timeless(value: object) -> object:
    """`value` without what `TIMES` names."""
    if isinstance(value, dict):
        return {key: timeless(one) for key, one in value.items() if not TIMES.search(key)}
    return [timeless(one) for one in value] if isinstance(value, list) else value


@functools.cache
def files_in(folder: Path) -> frozenset[str]:
    """Every file below `folder`, caches and links aside."""
    return frozenset(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in (".cache", "configs")
    )


@pytest.mark.slow
def test_every_verb_ends_well_without_a_network(twice):
    _, (free, closed) = twice
    assert closed == free
    assert {name: code for name, code in free.items() if code} == {"submit": 2}, "submit: nothing was pushed yet"


def test_every_verb_is_run_or_named_with_a_reason():
    run = {name.split()[0] for name in COMMANDS}
    assert run | set(LEFT_OUT) == set(cli.verbs())
    assert not run & set(LEFT_OUT)


@pytest.mark.slow
def test_the_same_commands_leave_the_same_files(twice):
    (one, other), _ = twice
    assert files_in(one) == files_in(other)
    unlike = [
        name
        for name in sorted(files_in(one))
        if Path(name).name not in UNLIKE and plain(one / name) != plain(other / name)
    ]
    assert unlike == []
    compared = {Path(name).suffix for name in files_in(one)}
    assert {".csv", ".json", ".safetensors", ".png", ".jpg", ".html", ".npz", ".whl"} <= compared


@pytest.mark.slow
def test_what_the_contract_promises_is_the_same_to_the_byte(twice):
    """Predictions, OOF, tails, folds, submissions and maps hold no times at all."""
    (one, other), _ = twice
    promised = re.compile(
        r"predictions\.csv|oof\.csv|tail\.safetensors|oof/folds/.*\.csv|submissions/.*\.csv|explain/.*\.(npz|png)|weights\.json"
    )
    names = [name for name in files_in(one) if promised.search(name)]
    assert len(names) > 40
    assert [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()] == []


@pytest.mark.slow
def test_what_differs_is_only_what_is_named(twice):
    """Each file of `UNLIKE` was made, so that the list does not outlive its reasons."""
    (one, _), _ = twice
    assert set(UNLIKE) <= {Path(name).name for name in files_in(one)}


@pytest.mark.slow
def test_no_path_of_this_machine_stands_in_what_is_shown_or_sent(twice):
    """Pages, submissions and bundles go to others."""
    (one, _), _ = twice
    shown = [name for name in files_in(one) if name.endswith(".html") or name.startswith(("submissions/", "kernels/"))]
    assert any(name.endswith(".html") for name in shown)
    for name in shown:
        content = (one / name).read_bytes()
        assert str(one.parent).encode() not in content, name
        assert os.fsencode(Path.home()) + b"/" not in content, name


def test_data_says_that_there_is_no_network(work, refused, monkeypatch):
    """The one verb that must connect asks the `kaggle` command, which fails at once here."""
    fake = work / "bin"
    fake.mkdir()
    (fake / "kaggle").write_text(f"#!{sys.executable}\nimport sys\nsys.exit('Network is unreachable')\n")
    (fake / "kaggle").chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}{os.pathsep}{os.environ['PATH']}")
    line = refused("data")
    assert "kaggle" in line
    assert not list(work.glob("input/*"))
