"""A helper or a search is killed, or a study's disk is full: one line with exit code 2, and the same command goes on."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from tests.conftest import ROOT, TOY
from tests.test_faults import KILLED, mounted, started

from pawpularity import cli
from pawpularity.command_line import Verb
from pawpularity.training.checkpoint import SECONDS
from pawpularity.tuning.storage import Store, _Journal, _JournalLock, study_folder
from pawpularity.tuning.study import load_study

TRAIN = ("train", "--config", "scratch", *TOY, "train.epochs=6", "train.batch_size=4", "train.warmup_epochs=0", "folds.k=2",
         "train.workers=2", "--fold", "0")  # fmt: skip
KEPT = Path("oof/a/.fold0.resume.safetensors")


def artefacts(run: str) -> tuple[bytes, list[str], str]:
    """A fold's predictions, its history without times, and the hash of its tail."""
    fold = Path("oof", run, "fold0")
    history = [line.rsplit(",", 1)[0] for line in (fold / "history.csv").read_text().splitlines()]
    return (
        (fold / "predictions.csv").read_bytes(),
        history,
        json.loads((fold / "metrics.json").read_text())["head_hash"],
    )


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="finds the processes in /proc")
def test_a_killed_process_that_prepares_batches_is_one_line_and_the_command_goes_on(work, shelter, paw):
    words = (*TRAIN, "--data", str(shelter), "--run")
    assert paw(*words, "b").code == 0
    for victim in (0, 1):
        began = KEPT.stat().st_mtime_ns if KEPT.exists() else 0
        process = subprocess.Popen([sys.executable, "-m", "pawpularity", *words, "a"], stderr=subprocess.PIPE, text=True,
                                   stdout=subprocess.DEVNULL, env=os.environ | {SECONDS: "0"})  # fmt: skip
        end = time.monotonic() + 300
        while not (KEPT.exists() and KEPT.stat().st_mtime_ns > began and len(children(process.pid)) == 2):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.005)
        os.kill(children(process.pid)[victim], signal.SIGKILL)
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 2, said
        assert "Traceback" not in said
        assert said.splitlines()[-1] == (
            "pawpularity: train: a process that prepares batches was killed, most likely because memory ran out; lower "
            "train.workers, or end other programs; the same command goes on with what was kept"
        )
        assert not Path("oof/a/fold0").exists()
        assert not list(work.rglob("*.part"))
    last = paw(*words, "a")
    assert last.code == 0, last.err
    assert "goes on where it was stopped" in last.err
    assert artefacts("a") == artefacts("b")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible"),
            "shared memory (/dev/shm) ran out",
        ),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "because memory ran out"),
        (ValueError("Caught ValueError in DataLoader worker process 0."), None),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0."), None),
        (EOFError(), None),
    ],
)
def test_what_a_process_raised_itself_is_no_kill(error, said):
    line = cli._helper_died(error, "train")
    assert line is None if said is None else said in line


def call(name, inner):
    """A function of the module `name` that calls `inner`."""
    scope = {"inner": inner, "__name__": name}
    exec("def here(): inner()", scope)
    return scope["here"]


@pytest.mark.parametrize("error", [ConnectionResetError, BrokenPipeError, EOFError, FileNotFoundError])
@pytest.mark.parametrize("pipe", ["multiprocessing.connection", "multiprocessing.reduction"])
def test_a_broken_pipe_of_a_loader_is_a_kill_and_of_others_is_not(error, pipe, monkeypatch, capsys):
    def broken():
        raise error(104, "Connection reset by peer")

    loader = call("torch.utils.data.dataloader", call(pipe, broken))
    monkeypatch.setattr(cli, "verbs", lambda: {"feed": Verb("feed", "", lambda options: loader(), configured=False)})
    assert cli.main(["feed"]) == 2, "also where the pipe might be that of somebody who reads what we print"
    assert "a process that prepares batches was killed" in capsys.readouterr().err
    for module, killed in (("torch.utils.data.dataloader", True), ("pawpularity.training.processes", False)):
        with pytest.raises(error) as caught:
            call(module, call(pipe, broken))()
        line = cli._helper_died(caught.value, "train")
        assert (line is not None) is killed


def test_a_full_disk_leaves_no_half_line_in_a_journal(tmp_path, monkeypatch):
    file = tmp_path / "study.journal"
    journal = _Journal(file, _JournalLock(tmp_path / ".lock"))
    journal.append_logs([{"a": 1}])

    def full(self, logs):
        with file.open("ab") as out:
            out.write(b'{"b"')
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", full)
        with pytest.raises(OSError, match="No space left") as caught:
            journal.append_logs([{"b": 2}])
    assert caught.value.filename == str(file)
    journal.append_logs([{"c": 3}])
    assert list(journal.read_logs(0)) == [{"a": 1}, {"c": 3}]


PLENTY = """
import shutil, sys
plenty = shutil.disk_usage("/")._replace(free=10**12)
import pawpularity.files
pawpularity.files.shutil.disk_usage = lambda place: plenty
from pawpularity.cli import main
sys.exit(main(sys.argv[1:]))
"""
# Bytes that are free: for the first lines, in a trial and at its end; for the tables' beginning, and for all but the trials.
ROOMS = [("journal", 0), ("journal", 8_000), ("journal", 12_000), ("sqlite", 0), ("sqlite", 108_000)]
TUNE = ("tune", "--data", "input/toy", "--run", "k", "--trials", "2", *TOY, "folds.k=2", "train.warmup_epochs=0",
        "train.augment=flip", "search.space.model.unfrozen={low: 9, high: 21}", "--search-only")  # fmt: skip


Figures = list[tuple[dict[str, object], float | None]]


def tried(state: TrialState, url: str | None = None) -> Figures:
    """Settings and figure of every trial that ended so; a repeated one has another number, and its first try failed."""
    trials = load_study(Store(study_folder("k"), url), "k").get_trials(states=(state,))
    return sorted(((trial.params, trial.value) for trial in trials), key=str)


@pytest.fixture(scope="module")
def undisturbed(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Figures:
    place = tmp_path_factory.mktemp("study")
    (place / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(drawn, place / "input/toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert cli.main(list(TUNE)) == 0
        return tried(TrialState.COMPLETE)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "room"), ROOMS)
def test_a_full_disk_ends_a_study_in_one_line_and_it_goes_on(work, drawn, undisturbed, kind, room):
    """In a process of its own: the trials of one that lives are waited for.

    What such a study leaves is what an undisturbed one leaves, but for a trial that was cut short while it drew its settings:
    it is repeated with those it had, and draws the others anew.
    """
    shutil.copytree(drawn, "input/toy")
    url = "sqlite:///db/s.db" if kind == "sqlite" else None
    place = work / ("db" if url else study_folder("k"))
    place.mkdir(parents=True)
    command = [sys.executable, "-c", PLENTY, *TUNE, *(["--storage", url] if url else [])]
    with mounted(place, "-t", "tmpfs", "-o", "size=4m", "tmpfs"):
        (place / "filler").write_bytes(bytes(shutil.disk_usage(place).free - room))
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        (place / "filler").unlink()
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        line = done.stderr.splitlines()[-1]
        assert line.startswith("pawpularity: ")
        assert ("sqlite:///db/s.db: database or disk is full" if url else "study.journal: no disk space") in line
        assert "the same command again" in line
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        shutil.copytree(place, work / "left")
    shutil.copytree(work / "left", place, dirs_exist_ok=True)
    nothing_lost(undisturbed, url)


@pytest.mark.slow
def test_a_study_killed_wherever_it_writes_loses_no_trial(work, drawn, undisturbed):
    """Killed five times, at points drawn from all of its writes, its trunk's states and its trials' among them."""
    shutil.copytree(drawn, "input/toy")
    counted = started(TUNE, KILLED, KILL_AT="0", COUNTED=str(work / "writes"))
    assert counted.wait(120) == 0, counted.stderr.read()
    writes = int((work / "writes").read_text())
    assert writes > 20
    for point in sorted(random.Random(9).sample(range(1, writes + 1), 5)):
        shutil.rmtree(study_folder("k"))
        shutil.rmtree(".cache")
        process = started(TUNE, KILLED, KILL_AT=str(point))
        process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, f"write {point} of {writes}"
        process = started(TUNE)
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0, f"after a kill at write {point} of {writes}: {said}"
        nothing_lost(undisturbed)


def nothing_lost(undisturbed: Figures, url: str | None = None) -> None:
    """The study of this folder has the trials of `undisturbed`; one that was cut short was repeated with the settings it had."""
    done, cut = tried(TrialState.COMPLETE, url), tried(TrialState.FAIL, url)
    assert len(done) == len(undisturbed) == 2
    own = next(one for one in undisturbed if one[0]["train.lr"] == 1e-3)
    assert own in done, "the config's own settings draw nothing"
    assert all(any(settings.items() >= had.items() for settings, _ in done) for had, _ in cut)
    if not cut:
        assert done == undisturbed
