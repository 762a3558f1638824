"""Every command, run twice with sockets forbidden: it needs no network, tells no path of this machine, and repeats its bytes."""

import os
import re
import shutil
import socket
from pathlib import Path

import pytest
from tests.conftest import ROOT

from pawpularity import cli

SMALL = ("--config", "scratch", "--data", "input/toy", "photos.size=32", "train.epochs=1", "train.warmup_epochs=0",
         "train.batch_size=16", "folds.k=3")  # fmt: skip
PACKAGED = ("--config", "sample", "--data", "input/toy", "photos.size=32", "train.epochs=1", "train.warmup_epochs=0",
            "folds.k=3")  # fmt: skip
OF_A = ("--run", "a", "--data", "input/toy")
QUICK = ("--masks", 64, "explain.sanity_photos=0", "explain.road=false")

LINES = [
    ["sample", "--photos", 48, "--size", 64, "--seed", 3, "--test-photos", 4, "--into", "input/toy"],
    ["folds", *SMALL],
    ["train", *SMALL, "--run", "a"],
    ["train", *PACKAGED, "--run", "b"],
    ["jobs", *SMALL, "--run", "c"],
    ["oof", "--json", "oof.json"],
    ["compare", "a", "b", "--draws", 200, "--json", "compare.json"],
    ["ensemble", "a", "b", "--method", "mean", "--run", "blend", "--draws", 200],
    ["errors", "a", "--data", "input/toy", "--config", "scratch"],
    ["hypotheses", *OF_A, "--draws", 200],
    ["leakage", *SMALL],
    ["leakcheck", "a", *SMALL],
    ["probe", "--data", "input/toy", "--backbones", "test_resnet", "model.weights=none", "photos.size=32", "folds.k=3"],
    ["table1", "--data", "input/toy", "--backbones", "densenet161", "--copies", "none", "photos.size=32", "train.epochs=1",
     "train.warmup_epochs=0"],
    ["tune", *PACKAGED, "--run", "searched", "--trials", 2, "search.top=1"],
    ["study", "searched", "--json", "study.json"],
    ["predict", *OF_A],
    ["explain", *OF_A, "--n", 1, *QUICK],
    ["robustness", *OF_A, "--photos", 2],
    ["checklist"],
    ["report"],
    ["coach", "input/toy/test", *OF_A, "--json", "coach.json"],
    ["kernel", "--runs", "blend", "--user", "anna"],
    ["kernel-push"],
    ["clean-cache", "--yes"],
]  # fmt: skip
ELSEWHERE = {
    "all": "the commands above in a row; run by the whole check",
    "app": "tests/coach/test_app.py",
    "bench": "its figures are times; tests/studies/test_benchmark.py",
    "data": "tests/kaggle/test_download.py",
    "known-truth": "tests/studies/test_known_truth.py",
    "kernel-check": "tests/kaggle/test_inference.py",
    "kernel-fetch": "tests/kaggle/test_train_kernel.py",
    "kernel-status": "tests/kaggle/test_push.py",
    "kernel-train": "tests/kaggle/test_train_kernel.py",
    "pretrain": "tests/studies/test_pretrain.py",
    "submit": "tests/kaggle/test_push.py",
}
SAME = re.compile(r"predictions\.csv|oof\.csv|head\.safetensors|oof/folds/.*\.csv|submissions/.*\.csv|explain/.*\.(npz|png)"
                  r"|weights\.json|input/toy/.*|compare\.json|coach\.json|hypotheses/.*")  # fmt: skip
"""Files that hold no time and no date, and so must be the same to the byte."""


def forbid(*arguments, **named):
    raise AssertionError(f"a connection was tried: {arguments}")


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """Two folders in which every command was run."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "other")]
    for folder in folders:
        shutil.copytree(ROOT / "configs", folder / "configs")  # tune writes there
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            for name in ("connect", "connect_ex", "sendto", "bind"):
                patch.setattr(socket.socket, name, forbid)
            for name in ("create_connection", "getaddrinfo", "gethostbyname"):
                patch.setattr(socket, name, forbid)
            for line in LINES:
                assert cli.main([str(word) for word in line]) == 0, line
    return folders


def files_in(folder):
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(name) for name in names if name.parts[0] not in (".cache", "configs")}


@pytest.mark.slow
def test_the_same_commands_leave_the_same_files(twice):
    one, other = twice
    assert files_in(one) == files_in(other)
    same = [name for name in files_in(one) if SAME.search(name)]
    assert len(same) > 100
    assert [name for name in same if (one / name).read_bytes() != (other / name).read_bytes()] == []


@pytest.mark.slow
def test_no_path_of_this_machine_stands_in_what_is_shown_or_sent(twice):
    shown = [
        name for name in files_in(twice[0]) if name.endswith(".html") or name.startswith(("submissions/", "kernels/"))
    ]
    assert len(shown) > 10
    for name in shown:
        content = (twice[0] / name).read_bytes()
        assert str(twice[0]).encode() not in content, name
        assert os.fsencode(Path.home()) + b"/" not in content, name


def test_every_command_is_run_here_or_elsewhere():
    assert sorted({line[0] for line in LINES} | ELSEWHERE.keys()) == sorted(cli.TARGETS)
