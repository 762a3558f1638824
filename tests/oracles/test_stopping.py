"""What is killed goes on, and what is shared loses nothing: real processes, so all of it is slow."""

import signal
import time

import numpy as np
import pytest
from optuna.trial import TrialState
from tests.oracles import adapter, postgres

pytestmark = pytest.mark.slow


def wait_for(condition, process, seconds=120.0):
    """Until `condition()`, while `process` lives."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def same_fold(one, other, fold=1):
    """Predictions within 0.001 points, and the errors of every epoch, which another order of the data would change."""
    tables = [adapter.predictions(at, name, fold) for at, name in (one, other)]
    assert tables[0][["Id", "target"]].equals(tables[1][["Id", "target"]])
    assert np.abs(tables[0]["prediction"] - tables[1]["prediction"]).max() < 1e-3
    curves = [adapter.learning_curve(at, name, fold) for at, name in (one, other)]
    assert curves[0] == pytest.approx(curves[1], abs=1e-3)
    assert np.ptp(curves[0]) > 0.1, "epochs differ by more than the tolerance"


@pytest.mark.parametrize("settings", [("train.epochs=20",), ("model.weights=drawn", "model.unfrozen=21", "train.epochs=60")],
                         ids=["plain loop", "cached features"])  # fmt: skip
def test_a_fold_killed_in_the_middle_ends_as_one_that_was_not(work, sample, settings):
    """Dropout and shuffling draw at every step, so that a random state that is not restored is seen."""

    def words(name):
        return adapter.training(
            name, sample, *adapter.TOY, "model.dropout=0.4", "train.batch_size=8", *settings, fold=1
        )

    adapter.done(*words("whole"), at=work)
    kept = adapter.checkpoint(work, "killed", 1)
    for _ in range(2):
        before = kept.stat().st_mtime_ns if kept.exists() else 0
        process = adapter.start(*words("killed"), *adapter.KEEP_OFTEN, at=work)
        wait_for(lambda before=before: kept.exists() and kept.stat().st_mtime_ns > before, process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    _, err = adapter.done(*words("killed"), at=work)
    assert adapter.resumed(err)
    assert not kept.exists()
    same_fold((work, "whole"), (work, "killed"))


def test_two_workers_on_postgresql_lose_no_trial(work, sample, tmp_path):
    """One is killed while both are in a trial: the other ends with every trial finished once, as it was drawn."""
    with postgres.server() as url:
        other = adapter.checkout(tmp_path / "other")
        words = adapter.searching("shared", sample, 5, "train.epochs=100", "search.heartbeat=1", "search.pruner=none",
                                  "--search-only", "--storage", url)  # fmt: skip

        def running():
            """Trials that are under way with settings drawn."""
            known = adapter.trials(work, "shared", url)
            drawn = set(adapter.SEARCHED.values())
            return sum(trial.state == TrialState.RUNNING and drawn <= trial.params.keys() for trial in known)

        with adapter.start(*words, at=work) as first, adapter.start(*words, at=other) as second:
            try:
                wait_for(lambda: running() == 2, second)
                first.kill()
                _, said = second.communicate(timeout=240)
            finally:
                first.kill()
                second.kill()
        assert (first.returncode, second.returncode) == (-signal.SIGKILL, 0), said
        found = adapter.trials(work, "shared", url)
    finished = [trial for trial in found if trial.state == TrialState.COMPLETE]
    assert len(finished) == len({str(sorted(trial.params.items())) for trial in finished}) == 5
    assert not [trial for trial in found if trial.state in (TrialState.RUNNING, TrialState.WAITING)]
    (lost,) = [trial for trial in found if trial.state == TrialState.FAIL]
    again = [trial for trial in finished if lost.params.items() <= trial.params.items()]
    assert len(again) == 1, "it was run again with its settings"


def test_two_processes_train_what_one_trains(work, sample):
    settings = (*adapter.TOY, "train.frozen_bn=true", "model.dropout=0", "model.metadata_dropout=0", "train.augment=flip",
                "train.batch_size=10")  # fmt: skip
    adapter.done(*adapter.training("one", sample, *settings, fold=1), at=work)
    process = adapter.start(*adapter.training("two", sample, *settings, fold=1, processes=2), at=work)
    _, said = process.communicate(timeout=180)
    assert process.returncode == 0, said
    assert adapter.processes(work, "two", 1) == 2
    one, two = (adapter.predictions(work, name, 1) for name in ("one", "two"))
    assert one["Id"].tolist() == two["Id"].tolist()
    assert np.abs(one["prediction"] - two["prediction"]).max() < 2e-3
    adapter.done(*adapter.training("less", sample, *settings, "train.epochs=1", fold=1), at=work)
    less = adapter.predictions(work, "less", 1)
    assert np.abs(one["prediction"] - less["prediction"]).max() > 0.01, "training moves predictions by more than that"
