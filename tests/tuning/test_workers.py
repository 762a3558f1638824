"""Several workers, real processes, a real database: a killed one loses no trial, and none is counted twice."""

import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from pawpularity.tuning.storage import MOST_RETRIES, WORKER, Store, again
from pawpularity.tuning.study import first_try, load_studies, place_of, trials_of, work

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
WORKER_FILE = Path(__file__).with_name("worker.py")


def start(folder: Path, url: str, trials: int, seconds: float, *die: str) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    words = [sys.executable, WORKER_FILE, folder, url, trials, seconds, *die]
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


def finished(folder: Path, url: str, trials: int) -> list[float]:
    """The settings of the finished trials, in the order of their first tries: each once, and none of them twice."""
    (study,) = load_studies(Store(folder, None if url == "-" else url), folder.name)
    every = trials_of(study)
    done = [trial for trial in every if trial.state == TrialState.COMPLETE]
    places = [place_of(every, trial.number, trials) for trial in done]
    assert sorted(places) == list(range(trials))
    assert {trial.state for trial in every} <= {TrialState.COMPLETE, TrialState.FAIL}
    assert len(lines(folder, "ended")) == trials
    assert len({trial.params["x"] for trial in done}) == trials
    return [trial.params["x"] for _, trial in sorted(zip(places, done, strict=True), key=lambda pair: pair[0])]


@pytest.fixture(params=["journal", "postgres"])
def url(request) -> str:
    return request.getfixturevalue("postgres") if request.param == "postgres" else "-"


def test_a_killed_worker_loses_no_trial(url, tmp_path, request):
    folder = tmp_path / request.node.callspec.id
    workers = [start(folder, url, 7, 0.4) for _ in range(2)]
    try:
        own = str(workers[0].pid)
        wait_for(lambda: any(line[0] == own for line in lines(folder, "ended")) and in_a_trial(folder, workers[0].pid))
        workers[0].kill()
        assert workers[1].wait(300) == 0, workers[1].stderr.read().decode()
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert finished(folder, url, 7)[0] == 0.5, "the first trial has the given settings"
    assert {line[0] for line in lines(folder, "ended")} == {str(worker.pid) for worker in workers}, "both worked"


@pytest.mark.parametrize("moment", ["unknown", "undrawn", "running"])
def test_a_killed_study_draws_what_it_would_have_drawn(url, moment, tmp_path, request):
    """Killed before its trial says who runs it, before it draws, and in the middle: a draw depends on its place alone."""
    whole, parts = (tmp_path / f"{request.node.callspec.id}-{part}" for part in ("whole", "parts"))
    done = start(whole, url, 4, 0.01)
    cut = start(parts, url, 4, *(["1.0"] if moment == "running" else ["0.01", moment]))
    if moment == "running":
        wait_for(lambda: in_a_trial(parts, cut.pid))
        cut.kill()
    assert cut.wait(100) == -9
    cut.communicate()
    again = start(parts, url, 4, 0.01)
    for worker in (again, done):
        assert worker.wait(300) == 0, worker.communicate()
        worker.communicate()
    assert finished(parts, url, 4) == finished(whole, url, 4)


def journal(folder: Path) -> tuple[Store, optuna.Study]:
    store = Store(folder / "s")
    return store, optuna.create_study(study_name="s", storage=store.storage)


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_a_trial_that_ends_its_worker_is_tried_again_but_not_for_ever(tmp_path, error):
    store, study = journal(tmp_path)

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        if x == 0.5:
            raise error("it ends the worker")
        return x

    for _ in range(MOST_RETRIES + 1):
        with pytest.raises(error):
            work(store, study, 3, 0, objective, {"x": 0.5})
    work(store, study, 3, 0, objective, {"x": 0.5})
    assert [t.params["x"] for t in study.get_trials(states=(TrialState.FAIL,))] == [0.5] * (MOST_RETRIES + 1)
    assert len(study.get_trials(states=(TrialState.COMPLETE,))) == 2


def test_only_trials_of_the_dead_are_run_again(tmp_path):
    store, study = journal(tmp_path)
    nobodys, dead, living = (study.ask({"x": FloatDistribution(0, 1)}) for _ in range(3))
    other = Store(tmp_path / "s")
    dead.set_user_attr(WORKER, "0" * 12)
    living.set_user_attr(WORKER, other.worker)
    with other.at_work():
        for _ in range(2):
            store.revive(study)
        assert [t.state.name for t in study.get_trials()] == ["RUNNING", "FAIL", "RUNNING", "WAITING"]
        store.heartbeat = 0
        store.revive(study)
    again = study.get_trials()[3:]
    assert [t.params for t in again] == [dead.params, nobodys.params]
    assert not any(t.user_attrs for t in again), "nobody runs them yet"
    store.revive(study)
    assert study.get_trials()[2].state == TrialState.FAIL, "its worker has gone"
    assert not list((tmp_path / "s").glob(".worker*"))


def test_what_two_workers_do_at_once_counts_once(tmp_path):
    """Both start the last trial; both queue the same dead one: the lower number counts, whoever looks."""
    store, study = journal(tmp_path)
    for _ in range(3):
        study.ask()
    study.tell(0, state=TrialState.FAIL)
    other = Store(tmp_path / "s")
    trials = study.get_trials()
    for one in (store, other):
        study.tell(study.ask().number, 1.0)
        one.revive(study)
    again(study, trials[0])
    every = study.get_trials()
    repetitions = [trial.number for trial in every if not first_try(trial)]
    assert [place_of(every, number, 9) for number in repetitions] == [0, None]
    assert [place_of(every, number, 2) for number in range(3)] == [0, 1, None]


@pytest.mark.parametrize("reports", [True, False])
def test_a_trial_that_another_worker_took_over_is_left_to_it(tmp_path, reports):
    """A machine that slept comes back: its trial was run again, and the search goes on."""
    store, study = journal(tmp_path)
    ran = []

    def objective(trial: optuna.Trial) -> float:
        ran.append(trial.number)
        if len(ran) == 1:
            study.tell(trial.number, state=TrialState.FAIL)
            store.revive(study)
            if reports:
                trial.report(1.0, 1)
        return 1.0

    work(store, study, 2, 0, objective, {})
    assert ran == [0, 1, 2]
    assert [t.state.name for t in study.get_trials()] == ["FAIL", "COMPLETE", "COMPLETE"]
