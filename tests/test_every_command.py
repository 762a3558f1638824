"""Every command, run twice with sockets forbidden: it needs no network, tells no path of this machine, repeats its bytes, and ends
with what fits a screen and the next command.
"""

import io
import os
import re
import shlex
import shutil
import socket
from pathlib import Path

import pytest
import typer
from tests.conftest import ROOT

from pawpularity import cli
from pawpularity.command_line import make_words, spread

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
    ["augment-preview", *SMALL, "--n", 2],
    ["oof", "--json", "oof.json"],
    ["compare", "a", "b", "--draws", 200, "--json", "compare.json"],
    ["ensemble", "a", "b", "--method", "mean", "--run", "blend", "--draws", 200],
    ["errors", "a", "--data", "input/toy", "--config", "scratch"],
    ["hypotheses", *OF_A, "--draws", 200],
    ["leakage", *SMALL],
    ["leakcheck", "a", *SMALL],
    ["heads", "--data", "input/toy", "--encoders", "test_resnet", "model.weights=none", "photos.size=32", "folds.k=3"],
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
    "compete": "tests/pipeline/test_compete.py and the whole check",
    "bench": "its figures are times; tests/studies/test_benchmark.py",
    "data": "tests/kaggle/test_download.py",
    "known-truth": "tests/studies/test_known_truth.py",
    "kernel-check": "tests/kaggle/test_inference.py",
    "kernel-fetch": "tests/kaggle/test_train_kernel.py",
    "kernel-status": "tests/kaggle/test_push.py",
    "kernel-train": "tests/kaggle/test_train_kernel.py",
    "mlebench": "tests/pipeline/test_mlebench.py",
    "pretrain": "tests/studies/test_pretrain.py",
    "submit": "tests/kaggle/test_push.py",
}
SAME = re.compile(r"predictions\.csv|oof\.csv|head\.safetensors|oof/folds/.*\.csv|submissions/.*\.csv|explain/.*\.(npz|png)"
                  r"|weights\.json|input/toy/.*|compare\.json|coach\.json|hypotheses/.*")  # fmt: skip
"""Files that hold no time and no date, and so must be the same to the byte."""


def forbid(*arguments, **named):
    raise AssertionError(f"a connection was tried: {arguments}")


class Screen(io.StringIO):
    """One of the two streams that write on the same terminal; `written` has (is a result, text) in their order."""

    def __init__(self, written, result):
        super().__init__()
        self.written, self.result = written, result

    def write(self, text):
        self.written.append((self.result, text))
        return len(text)

    def isatty(self):
        return True


def final_lines(written):
    """What stands after the last bar, from the first line of the result on."""
    after = max((place + 1 for place, (_, text) in enumerate(written) if "\r" in text), default=0)
    start = next((place for place, (result, _) in enumerate(written) if result and place >= after), after)
    return "".join(text for _, text in written[start:]).strip("\n").splitlines()


@pytest.fixture(scope="module")
def screens(tmp_path_factory):
    """Two folders in which every command was run, on terminals of 80 and 100 columns: folder, columns, final lines by command."""
    found = [(tmp_path_factory.mktemp(name), columns, {}) for name, columns in (("one", 80), ("other", 100))]
    for folder, columns, ends in found:
        shutil.copytree(ROOT / "configs", folder / "configs")  # tune writes there
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("COLUMNS", str(columns))
            for name in ("connect", "connect_ex", "sendto", "bind"):
                patch.setattr(socket.socket, name, forbid)
            for name in ("create_connection", "getaddrinfo", "gethostbyname"):
                patch.setattr(socket, name, forbid)
            for line in LINES:
                written = []
                patch.setattr("sys.stdout", Screen(written, True))
                patch.setattr("sys.stderr", Screen(written, False))
                assert cli.main([str(word) for word in line]) == 0, (line, written[-3:])
                ends[" ".join(map(str, line))] = final_lines(written)
    return found


@pytest.fixture(scope="module")
def twice(screens):
    """The two folders."""
    return [folder for folder, _, _ in screens]


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


@pytest.mark.slow
def test_what_a_command_ends_with_fits_a_screen(screens):
    for _, columns, ends in screens:
        for line, lines in ends.items():
            assert len(lines) <= 20, (line, lines)
            text = [one for one in lines[:-1] if line.split()[0] != "jobs"]  # its lines are for a shell
            assert all(len(one) <= columns for one in text), (line, text)


@pytest.mark.slow
def test_every_command_ends_with_one_command_that_can_be_typed(screens):
    root = typer.main.get_command(cli.app)
    for line, lines in screens[0][2].items():
        assert [one for one in lines if one.startswith("next: ")] == lines[-1:], (line, lines)
        first, *words = shlex.split(lines[-1].removeprefix("next: ").removesuffix(" | sh"))
        if first == "make":
            flags = " -- " + " ".join(re.sub(r"([\\ ])", r"\\\1", word) for word in reversed(words[1:]))
            goal, *options = make_words(root, words[0], flags)
            root.commands[goal].make_context(goal, spread(root.commands[goal], options))
        else:
            assert shutil.which(first) or first in ("open", "xdg-open"), lines[-1]


def test_every_command_is_run_here_or_elsewhere():
    assert sorted({line[0] for line in LINES} | ELSEWHERE.keys()) == sorted(cli.TARGETS)
