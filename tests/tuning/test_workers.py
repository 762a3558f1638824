"""Several workers, real processes, a real database: a killed one loses no trial, and none is run twice in vain."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from pawpularity.tuning.storage import Store, process_mark, revive, signature, this_host
from pawpularity.tuning.study import Slots, load_study, slots, work

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
WORKER = Path(__file__).with_name("worker.py")


def start(folder: Path, url: str, trials: int, seconds: float, host: str = "-") -> subprocess.Popen[bytes]:
    words = [sys.executable, WORKER, folder, url, trials, seconds, host]
    return subprocess.Popen([str(word) for word in words], stderr=subprocess.PIPE)


def lines(folder: Path, file: str) -> list[list[str]]:
    path = folder / file
    return [line.split() for line in path.read_text().splitlines()] if path.is_file() else []


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def in_a_trial(folder: Path, pid: int) -> bool:
    began, ended = ({tuple(line) for line in lines(folder, file)} for file in ("began", "ended"))
    return any(line[0] == str(pid) for line in began - ended)


def check_complete(study: optuna.Study, folder: Path, trials: int) -> None:
    """Exactly `trials` first tries, each finished once, by itself or by one repetition with the same settings."""
    every = study.get_trials()
    done = [trial for trial in every if trial.state == TrialState.COMPLETE]
    assert len(done) == trials
    assert slots(study).started == trials
    origins = [RetryHeartbeatStaleTrialCallback.retried_trial_number(trial) for trial in done]
    assert sorted(trial.number if o is None else o for trial, o in zip(done, origins, strict=True)) == sorted(
        trial.number for trial in every if RetryHeartbeatStaleTrialCallback.retried_trial_number(trial) is None
    )
    for trial, origin in zip(done, origins, strict=True):
        if origin is not None:
            assert trial.params == every[origin].params
            assert every[origin].state == TrialState.FAIL
    ended = lines(folder, "ended")
    assert len(ended) == trials, "a trial was run to its end twice, or never"


@pytest.mark.parametrize("kind", ["journal", "postgres"])
def test_a_killed_worker_loses_no_trial(kind, tmp_path, request):
    url = request.getfixturevalue("postgres") if kind == "postgres" else "-"
    folder = tmp_path / f"shared-{kind}"
    folder.mkdir()
    # On a database the two are of machines that cannot see one another's processes: hearts that stand still must tell.
    hosts = ("one", "two") if kind == "postgres" else ("-", "-")
    workers = [start(folder, url, 7, 0.4, host) for host in hosts]
    try:
        own = str(workers[0].pid)
        wait_for(lambda: any(line[0] == own for line in lines(folder, "ended")) and in_a_trial(folder, workers[0].pid))
        workers[0].send_signal(signal.SIGKILL)
        workers[0].wait()
        assert workers[1].wait(300) == 0, workers[1].stderr.read().decode()
    finally:
        for worker in workers:
            worker.kill()
            worker.stderr.close()
    study = load_study(Store(folder, None if url == "-" else url), folder.name)
    failed = [trial for trial in study.get_trials() if trial.state == TrialState.FAIL]
    assert len(failed) == 1
    check_complete(study, folder, 7)
    assert {line[0] for line in lines(folder, "ended")} == {str(worker.pid) for worker in workers}, "both worked"


def test_a_stopped_study_draws_what_it_would_have_drawn(tmp_path):
    """Killed in the middle and continued: the same settings as in one go, for a draw depends on its number alone."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    done, cut = start(whole, "-", 4, 0.01), start(parts, "-", 4, 1.5)
    wait_for(lambda: in_a_trial(parts, cut.pid))
    cut.kill()
    cut.wait()
    with (parts / "study.journal").open("ab") as journal:
        journal.write(b'{"op_code":5,"half a line')
    assert start(parts, "-", 4, 0.01).wait(300) == 0
    assert done.wait(300) == 0
    settings = {}
    for folder in (whole, parts):
        study = load_study(Store(folder, None), folder.name)
        check_complete(study, folder, 4)
        settings[folder] = sorted(t.params["x"] for t in study.get_trials() if t.state == TrialState.COMPLETE)
    assert settings[whole] == settings[parts]
    assert len(set(settings[whole])) == 4


@pytest.mark.parametrize(("error", "starts"), [(RuntimeError("its own"), 4), (OSError("the disk's"), None)])
def test_a_trial_that_ends_its_worker_by_itself_is_tried_four_times_at_most(tmp_path, error, starts):
    """What comes from outside is no fault of the trial's: it is tried whenever the study goes on."""
    store = Store(tmp_path / "s", None)
    study = optuna.create_study(study_name="s", storage=store.storage)
    study.enqueue_trial({"x": 0.5})

    def objective(trial: optuna.Trial) -> float:
        for key, value in signature().items():
            trial.set_user_attr(key, value)
        x = trial.suggest_float("x", 0, 1)
        store.release()
        if x == 0.5:
            raise error
        return x

    ended = 0
    for _ in range(starts or 8):
        with pytest.raises(type(error)):
            work(store, study, 3, 0, objective)
        ended += 1
    assert [trial.params["x"] for trial in study.get_trials(states=(TrialState.FAIL,))] == [0.5] * ended
    if starts:
        work(store, study, 3, 0, objective)
        assert len(study.get_trials(states=(TrialState.COMPLETE,))) == 2


def test_a_process_is_told_from_a_later_one_of_its_number():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        mark = process_mark(child.pid)
        assert mark is not None
        assert mark == process_mark(child.pid)
        assert mark != process_mark(os.getpid())
        child.kill()
        wait_for(lambda: process_mark(child.pid) is None, 5)  # a zombie: nobody has asked for its exit code yet
    finally:
        child.communicate()
    assert process_mark(child.pid) is None


def test_a_trial_that_notes_nobody_or_a_dead_process_is_run_again_and_others_are_left_alone(tmp_path):
    store = Store(tmp_path / "s", None)
    study = optuna.create_study(study_name="s", storage=store.storage)
    nobody, dead, alive, elsewhere = (study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}) for _ in range(4))
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    for trial, noted in ((dead, {"pid": child.pid, "process": "0" * 12, "host": this_host()}), (alive, signature()),
                         (elsewhere, signature() | {"host": "another"})):  # fmt: skip
        for key, value in noted.items():
            trial.set_user_attr(key, value)
    with store.locked():
        revive(store, study)
        revive(store, study)
    states = [trial.state for trial in study.get_trials()]
    assert states == [*[TrialState.FAIL] * 2, *[TrialState.RUNNING] * 2, *[TrialState.WAITING] * 2]
    again = [trial.params for trial in study.get_trials()[4:]]
    assert again == [nobody.params, dead.params]
    assert slots(study) == Slots(4, 2, 2)
