"""The benchmark of searches: the real command at toy size, and the count that must notice a lost or doubled trial."""

import csv
import json
import re
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from tests.conftest import ROOT

from pawpularity.studies.benchmark import postgres, search
from pawpularity.studies.benchmark.postgres import NoServer, programs

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
UNIFORM = {"x": optuna.distributions.FloatDistribution(0, 1)}
START = datetime(2030, 1, 1)


def trial(number: int, x: float, seconds: tuple[float, float], worker: str = "a", state=TrialState.COMPLETE):
    """A trial that began and ended so many seconds after START."""
    ended = state.is_finished()
    return optuna.trial.FrozenTrial(
        number=number, trial_id=number, state=state, value=x if state == TrialState.COMPLETE else None, params={"x": x},
        datetime_start=START + timedelta(seconds=seconds[0]),
        datetime_complete=START + timedelta(seconds=seconds[1]) if ended else None,
        distributions=UNIFORM, user_attrs={search.PROCESS: worker, "epochs": 3}, system_attrs={}, intermediate_values={},
    )  # fmt: skip


class Study:
    """What `count` reads of a study."""

    study_name = "s"

    def __init__(self, *trials: optuna.trial.FrozenTrial) -> None:
        self.trials = trials

    def get_trials(self, deepcopy: bool = True) -> list[optuna.trial.FrozenTrial]:
        return list(self.trials)


def test_a_search_lasts_from_its_first_trials_start_to_the_last_ones_end():
    study = Study(trial(0, 0.1, (2, 9)), trial(1, 0.2, (1.5, 3), "b"), trial(2, 0.3, (3, 4), "b", TrialState.PRUNED))
    assert search.count(study, 3) == search.Counted(seconds=7.5, epochs=9, each=(2, 1))


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ((trial(0, 0.1, (0, 1)), trial(1, 0.2, (1, 2))), "2 trials where 3"),
        (tuple(trial(n, n / 9, (n, n + 1)) for n in range(4)), "4 trials where 3"),
        ((trial(0, 0.1, (0, 1)), trial(2, 0.2, (1, 2)), trial(3, 0.3, (1, 2))), "3 trials where 3"),
        ((trial(0, 0.1, (0, 1)), trial(1, 0.2, (1, 2)), trial(2, 0.2, (1, 2))), "two trials drew the same"),
        (
            (trial(0, 0.1, (0, 1)), trial(1, 0.2, (1, 2)), trial(2, 0.3, (1, 2), state=TrialState.FAIL)),
            "not every trial",
        ),
        (
            (trial(0, 0.1, (0, 1)), trial(1, 0.2, (1, 2)), trial(2, 0.3, (1, 2), state=TrialState.RUNNING)),
            "not every trial",
        ),
    ],
)
def test_a_lost_a_doubled_and_an_unfinished_trial_end_the_benchmark(trials, said):
    with pytest.raises(RuntimeError, match=said):
        search.count(Study(*trials), 3)


@pytest.fixture
def toy(work):
    """A config of two folds and two epochs of small photos, called toy."""
    (work / "configs").unlink()
    shutil.copytree(ROOT / "configs", work / "configs")
    Path("configs/toy.yaml").write_text(
        "base: sample\nphotos: {size: 32}\nfolds: {k: 2}\ntrain: {epochs: 2, warmup_epochs: 0}\n"
        "search: {space: {model.unfrozen: {low: 9, high: 21}}}\n"
    )


def words(*more: object) -> list[object]:
    return [
        "bench",
        "--what",
        "search",
        "--backbones",
        "toy",
        "--photos",
        32,
        "--trials",
        4,
        "--json",
        "found.json",
        *more,
    ]


@pytest.mark.slow
def test_a_search_beside_trainings_and_two_workers_beside_one(toy, paw):
    try:
        programs()
    except NoServer as why:
        pytest.skip(str(why))
    outcome = paw(*words("--repeats", 1, "--out", "here"))
    assert outcome.code == 0, outcome.err
    rows = json.loads(Path("found.json").read_text())["search"]
    plain, warm, journal, one, two = rows
    assert [row["way"] for row in rows] == ["plain training", "warm training", *["search"] * 3]
    assert [(row["storage"], row["workers"]) for row in rows[2:]] == [
        ("journal", 1),
        ("postgresql", 1),
        ("postgresql", 2),
    ]
    assert plain["epochs_run"] == warm["epochs_run"] == 2 * 2
    assert (journal["epochs_run"], journal["trials"]) == (one["epochs_run"], 4), (
        "one seed, one search, wherever it is kept"
    )
    assert journal["share_of_five_plain"] == pytest.approx(journal["seconds"] / (5 * plain["seconds"]))
    assert two["share_of_five_warm"] == pytest.approx(two["seconds"] / (5 * warm["seconds"]))
    assert two["trials_per_s"] == pytest.approx(4 / two["seconds"])
    assert sum(map(int, two["trials_of_each_worker"].split())) == 4
    assert one["trials_of_each_worker"] == "4"
    assert all(row["cpu_seconds"] > 0.1 for row in rows)
    left = list(csv.DictReader(Path("here/search-cpu.csv").read_text().splitlines()))
    assert [row["seconds"] for row in left] == [f"{row['seconds']:.4g}" for row in rows]
    assert "paw:***@127.0.0.1" in outcome.err
    assert re.search(r"paw:[^*]", outcome.err + outcome.out) is None, "a password was shown"


@pytest.fixture
def nowhere(monkeypatch):
    """A machine without PostgreSQL."""

    def none() -> Path:
        raise NoServer("no PostgreSQL is installed (Debian: apt-get install postgresql)")

    monkeypatch.setattr(postgres, "programs", none)


def test_without_postgresql_its_rows_are_left_out_and_it_is_said(toy, paw, monkeypatch, nowhere):
    taken = {True: [40.0, 60.0, 50.0], False: [20.0, 20.0, 20.0]}
    monkeypatch.setattr(search.Ways, "warm", lambda self: None)
    monkeypatch.setattr(search.Ways, "training", lambda self, run, plain: search.Counted(taken[plain].pop(), 100))
    monkeypatch.setattr(search.Ways, "search", lambda self, run, url, workers: search.Counted(25.0, 40, (4,)))
    clock = iter((0, 10, 10, 14, 14, 20) * 3)
    monkeypatch.setattr(search, "cpu_seconds", lambda: float(next(clock)))
    outcome = paw(*words("--repeats", 3))
    assert outcome.code == 0, outcome.err
    assert "PostgreSQL are left out: no PostgreSQL is installed" in outcome.err
    plain, warm, journal = json.loads(Path("found.json").read_text())["search"]
    assert (plain["seconds"], plain["spread"], warm["seconds"]) == (50.0, 0.4, 20.0)
    assert (journal["share_of_five_plain"], journal["share_of_five_warm"], journal["trials_per_s"]) == (0.1, 0.25, 0.16)
    assert (plain["cpu_seconds"], warm["cpu_seconds"], journal["cpu_share_of_five_plain"]) == (10.0, 4.0, 6 / 50)


def test_states_computed_in_what_is_timed_as_warm_end_the_benchmark(toy, paw, monkeypatch, nowhere):
    kept = iter((1, 2))
    monkeypatch.setattr(search.Ways, "warm", lambda self: None)
    monkeypatch.setattr(search.Ways, "training", lambda self, run, plain: search.Counted(1.0, 1))
    monkeypatch.setattr(search.Ways, "search", lambda self, run, url, workers: search.Counted(1.0, 1, (4,)))
    monkeypatch.setattr(search, "states_kept", lambda: next(kept))
    with pytest.raises(RuntimeError, match="inside what was timed as warm"):
        paw(*words())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--what", "train", "--trials", "4"), "--what search alone"),
        (("--what", "search", "--unfrozen", "9"), "leave out --unfrozen"),
        (("--what", "search", "--trained-bn"), "--trained-bn"),
        (("--what", "search", "--trials", "1"), "--trials 2"),
        (("--what", "search", "--backbones", "scratch"), "freezes nothing"),
        (("--what", "search", "--backbones", "sampel"), "sample"),
    ],
)
def test_words_that_a_search_does_not_take(work, refused, more, said):
    assert said in refused("bench", *more)
