"""`tune` and `study` through the real command at toy size, and the figures against their definitions."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from optuna.trial import TrialState
from tests.tuning.conftest import PASSWORD

from pawpularity.config import resolve
from pawpularity.context import folds_of
from pawpularity.data.dataset import Dataset
from pawpularity.device import choose
from pawpularity.errors import Diverged, UserError
from pawpularity.runs import Run
from pawpularity.training import fold as folds_module
from pawpularity.training.samples import TrainingData
from pawpularity.tuning import objective
from pawpularity.tuning import tune as search_tune
from pawpularity.tuning.objective import Objective
from pawpularity.tuning.rescore import best_trials, cross_fit
from pawpularity.tuning.space import encoded
from pawpularity.tuning.storage import Store, study_folder
from pawpularity.tuning.study import load_studies, pruner_of

TOY = ("photos.size=32", "folds.k=2", "train.epochs=2", "train.warmup_epochs=0", "search.top=2", "train.augment=flip",
       "search.space.model.unfrozen={low: 9, high: 21}")  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def words(shelter: Path, name: str, trials: int, *more: str) -> list[object]:
    return ["tune", "--data", shelter, "--run", name, "--trials", trials, *TOY, *more]


def rmse(table: pd.DataFrame) -> float:
    return float(np.sqrt(np.mean((table["target"] - table["prediction"]) ** 2)))


def trials_of(name: str, fold: int = 0) -> list[optuna.trial.FrozenTrial]:
    return load_studies(Store(study_folder(name)), name)[fold].get_trials()


def test_cross_fitting_by_hand():
    """Three folds of one row each; errors a: 1 1 5, b: 2 2 2. Without the last fold a is best, without the others b."""
    target, fold = np.zeros(3), np.arange(3)
    a, b = np.array([1.0, 1.0, 5.0]), np.array([2.0, 2.0, 2.0])
    prediction, chosen = cross_fit(target, fold, [a, b])
    assert chosen == {0: 1, 1: 1, 2: 0}
    assert prediction.tolist() == [2.0, 2.0, 5.0]


def test_choosing_at_random_is_not_flattered():
    """Ten candidates of pure noise: chosen on their own rows they beat their mean, cross-fitted they do not."""
    random = np.random.default_rng(0)
    fold = np.repeat(np.arange(5), 24)
    gains, honest = [], []
    for _ in range(200):
        predictions = [random.normal(0, 1, 120) for _ in range(10)]
        each = [np.mean(p**2) for p in predictions]
        gains.append(np.mean(each) - min(each))
        honest.append(np.mean(each) - np.mean(cross_fit(np.zeros(120), fold, predictions)[0] ** 2))
    assert np.mean(gains) > 0.15
    assert abs(np.mean(honest)) < 4 * np.std(honest) / np.sqrt(200)


@pytest.mark.slow
def test_from_a_config_to_a_better_one(own_configs, shelter, work, paw, refused):
    tuned = paw(*words(shelter, "t", 4), "--json", "found.json")
    assert tuned.code == 0, tuned.err
    found = json.loads(Path("found.json").read_text())
    assert found["counts"]["trials"] == found["counts"]["complete"] + found["counts"]["pruned"] == 4
    # The first trial is the config itself, as far as the space holds it.
    first = trials_of("t")[0]
    assert (first.params["train.lr"], first.params["model.unfrozen"], first.params["model.image_width"]) == (
        1e-3,
        21,
        64,
    )
    # One file of cached features a depth, for all trials, folds and runs.
    used = {trial.params["model.unfrozen"] for trial in trials_of("t")}
    assert len(list(Path(".cache/features").glob("*/features.bin"))) == len(used | {21})

    # Each figure is what it says it is, from the files that are there.
    runs = [c["run"] for c in found["candidates"]]
    tables = {name: pd.read_csv(f"oof/{name}/oof.csv") for name in runs}
    parts = []
    for k in range(2):
        best = min(runs, key=lambda name, k=k: rmse(tables[name][tables[name]["fold"] != k]))
        assert next(c for c in found["candidates"] if c["run"] == best)["scores_folds"].count(k) == 1
        parts.append(tables[best][tables[best]["fold"] == k])
    crossed = pd.concat(parts).sort_values("Id", ignore_index=True)
    pd.testing.assert_frame_equal(pd.read_csv("oof/studies/t/crossfitted.csv"), crossed)
    headline, alone = found["headline"], found["unseen"]
    assert (headline["rmse"], headline["n"]) == (pytest.approx(rmse(crossed), abs=1e-6), 60)
    assert alone["rmse"] == pytest.approx(rmse(crossed[crossed["fold"] == 0]), abs=1e-6)
    assert found["selected"]["rmse"] == pytest.approx(min(rmse(t) for t in tables.values()), abs=1e-6)
    own = pd.read_csv("oof/sample-toy/oof.csv")
    assert found["against_default"][0]["difference"] == pytest.approx(rmse(crossed) - rmse(own), abs=1e-6)
    assert found["headline"]["constant_rmse"] == found["default"]["constant_rmse"]
    text = Path("oof/studies/t/report.txt").read_text()
    assert all(
        word in text for word in ("cross-fitted", "selected", "fold 0 alone", "default", "constant", "paired 95 %")
    )
    assert f"{headline['rmse']:.2f}" in text

    # The winner's file repeats its run to the last digit.
    assert paw("train", "--config", "tuned/t", "--data", shelter, "--fold", "0", "--run", "again").code == 0
    again = Path("oof/again/fold0/predictions.csv").read_bytes()
    assert again == Path(f"oof/{found['winner']}/fold0/predictions.csv").read_bytes()
    delta = Path("configs/tuned/t.yaml").read_text()
    assert "base: sample" in delta
    assert "batch_size" not in delta
    assert {Run.open(Path("oof", name)).searched for name in ("again", "sample-toy")} == {"tuned by a search", ""}
    Path("mine.yaml").write_text("base: tuned/t\ntrain: {epochs: 3}\n")
    assert resolve("sample,mine.yaml").search.found_by == "t", "whatever is built on it is marked"

    # The same command again runs nothing; more trials go on; other settings are refused.
    same = paw(*words(shelter, "t", 4), "--json", "same.json")
    assert not [line for line in same.err.splitlines() if line.startswith("trial")]
    assert json.loads(Path("same.json").read_text()) == found
    assert paw(*words(shelter, "t", 5), "--search-only").code == 0
    assert len(trials_of("t")) == 5
    for other, said in (("train.batch_size=8", "train.batch_size was 16, is 8"), ("search.fold=1", "search.fold was 0"),
                        ("search.space.train.lr.low=3e-4", "search.space.train.lr was"), ("folds.seed=1", "folds"),
                        ("search.seed=1", "search.seed")):  # fmt: skip
        assert said in refused(*words(shelter, "t", 5, other))

    # And it can be looked at.
    seen = paw("study", "t", "--json", "study.json")
    assert seen.code == 0, seen.err
    assert seen.err.splitlines()[-1] == f"next: make train CONFIG=tuned/t DATA={shelter}"
    assert "optuna-dashboard oof/studies/t/study.journal" in seen.err
    about = json.loads(Path("study.json").read_text())["studies"][0]
    assert about["best"][0]["inner_rmse"] == min(t.value for t in trials_of("t") if t.state == TrialState.COMPLETE)
    assert sum(depth["trials"] for depth in about["depths"]) == 5
    for name in ("history", "epochs", "settings", "depth-rmse", "depth-seconds"):
        assert Path(f"oof/studies/t/study/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "plotly" in Path(f"oof/studies/t/study/{name}.html").read_text().lower()
    assert "studies there: t" in refused("study", "u")


@pytest.fixture
def toy_fold(shelter, own_configs):
    """The rows of the toy shelter, fold 0's training and scored rows, and an objective on given rows."""
    config = resolve("sample", [*TOY])
    dataset = Dataset.load(shelter, Path(".cache"))
    split = folds_of(dataset, config)
    rows = TrainingData.load(dataset, split, config)
    training, scored = split.rows(sorted(dataset.train["Id"]), 0)

    def objective(values: dict[str, object], **changed: np.ndarray) -> float:
        space = {key: optuna.distributions.CategoricalDistribution([encoded(value)]) for key, value in values.items()}
        trial = optuna.trial.FixedTrial({key: encoded(value) for key, value in values.items()})
        try:
            return Objective(config, space, replace(rows, **changed), training, 0, choose("float32", "cpu"))(trial)
        finally:
            objective.said = trial.user_attrs.get("refused")

    return rows, training, scored, objective


def test_a_trials_figure_never_saw_the_folds_scored_rows(toy_fold):
    """Other scores and columns on the scored rows change no digit of a trial's figure; on the training rows they do."""
    rows, training, scored, objective = toy_fold
    values = {"train.lr": 2e-3, "model.unfrozen": 9, "model.fusion_widths": [32]}
    before = objective(values)
    for at, same in ((scored, True), (training[::2], False)):
        scores, metadata = rows.scores.copy(), rows.metadata.copy()
        scores[at], metadata[at] = 50.0, 0.0
        assert (objective(values, scores=scores, metadata=metadata) == before) is same


def test_a_trial_that_diverges_or_contradicts_itself_ends_alone(toy_fold, monkeypatch):
    rows, _, _, trial = toy_fold

    def ends(values, **changed) -> str:
        with pytest.raises(optuna.TrialPruned):
            trial(values, **changed)
        return trial.said

    assert "finite" in ends({"train.lr": 1e-3}, metadata=np.full_like(rows.metadata, np.inf))
    # Each is fine beside the config, the two are not.
    assert "manifold_mixup" in ends({"train.mixup": 0.4, "train.manifold_mixup": 0.4})
    # The loss of the epoch is still finite, the weights after its last step are not.
    step = torch.optim.AdamW.step

    def leap(self, *args):
        step(self, *args)
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.fill_(torch.inf)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", leap)
        assert "diverged" in ends({"train.batch_size": 64})

    def too_large(*args, **more):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(objective, "fit_fold", too_large)
    assert "memory" in ends({"train.lr": 1e-3})


def test_a_search_in_which_all_diverge_ends_before_the_default_is_trained(own_configs, shelter, refused, monkeypatch):
    def fit_fold(*args, **more):
        raise Diverged("the loss is no longer finite")

    monkeypatch.setattr(objective, "fit_fold", fit_fold)
    assert "no longer finite" in refused(*words(shelter, "t", 3))
    assert [trial.state.name for trial in trials_of("t")] == ["PRUNED"] * 3
    assert not list(Path("oof").glob("*/config.json")), "nothing was trained on all folds"


def test_a_candidate_that_diverges_on_all_folds_is_left_out(own_configs, shelter, paw, refused, monkeypatch):
    """And if all do, the default is not trained first."""
    real, sick = folds_module.fit_fold, [0]

    def fit_fold(config, *given, **more):
        if len(sick) and config.train.lr in (rates[number] for number in sick):
            raise Diverged("the loss is no longer finite")
        return real(config, *given, **more)

    assert paw(*words(shelter, "t", 2, "search.pruner=none"), "--search-only").code == 0
    rates = [trial.params["train.lr"] for trial in trials_of("t")]
    monkeypatch.setattr(folds_module, "fit_fold", fit_fold)
    sick[:] = [0, 1]
    line = refused(*words(shelter, "t", 2, "search.pruner=none"))
    assert "t-trial0" in line
    assert "t-trial1" in line
    assert not Path("oof/sample-toy").exists()
    sick[:] = [1]
    done = paw(*words(shelter, "t", 2, "search.pruner=none"), "--json", "found.json")
    assert done.code == 0, done.err
    assert [one["run"] for one in json.loads(Path("found.json").read_text())["candidates"]] == ["t-trial0"]


def test_helpers_end_with_the_search_that_started_them(own_configs, shelter, refused, monkeypatch):
    """Else they would go on with every trial that is left, and the reason be told after hours."""
    started = []

    def popen(*args, **more):
        started.append(popen_(["sleep", "600"]))
        return started[0]

    popen_ = subprocess.Popen
    monkeypatch.setattr(search_tune.subprocess, "Popen", popen)

    def broken(*args, **more):
        raise UserError("the database is gone")

    monkeypatch.setattr(search_tune, "work", broken)
    try:
        assert "the database is gone" in refused(*words(shelter, "t", 3), "--workers", "2")
        assert [helper.returncode for helper in started] == [-signal.SIGTERM]
    finally:
        for helper in started:
            helper.kill()


def test_a_search_per_fold(own_configs, shelter, paw):
    outcome = paw(*words(shelter, "n", 2, "search.nested=true", "search.pruner=hyperband"), "--json", "found.json")
    assert outcome.code == 0, outcome.err
    found = json.loads(Path("found.json").read_text())
    assert (found["kind"], found["selected"], found["counts"]["trials"]) == ("nested", None, 4)
    parts = []
    for fold, candidate in enumerate(found["candidates"]):
        best = min((t for t in trials_of("n", fold) if t.state == TrialState.COMPLETE), key=lambda t: t.value)
        assert candidate["run"] == f"n-fold{fold}-trial{best.number}"
        assert candidate["scores_folds"] == [fold]
        parts.append(pd.read_csv(f"oof/{candidate['run']}/fold{fold}/predictions.csv"))
    assert found["headline"]["rmse"] == pytest.approx(rmse(pd.concat(parts)), abs=1e-6)
    assert found["winner"] == found["candidates"][0]["run"]


@pytest.mark.slow
def test_the_command_killed_in_a_trial_goes_on_with_two_workers(own_configs, shelter, paw, refused):
    more = ("train.epochs=20", "search.pruner=none")
    command = [sys.executable, "-m", "pawpularity", *map(str, words(shelter, "k", 2, *more)), "--search-only"]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    journal, end = Path("oof/studies/k/study.journal"), time.monotonic() + 300
    try:
        while not (journal.is_file() and re.search(r'"intermediate_value"', journal.read_text())):
            assert time.monotonic() < end
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    assert "--workers" in refused(*words(shelter, "k", 4, *more), "--workers", "0")
    outcome = paw(*words(shelter, "k", 4, *more), "--workers", "2", "--search-only")
    assert outcome.code == 0, outcome.err
    assert "run again" in outcome.err
    trials = trials_of("k")
    assert sorted(t.state.name for t in trials) == ["COMPLETE"] * 4 + ["FAIL"]
    failed = next(t for t in trials if t.state == TrialState.FAIL)
    assert [t.params for t in trials].count(failed.params) == 2
    assert len({str(t.params) for t in trials}) == 4, "two workers drew the same settings"


def test_a_database(postgres, own_configs, shelter, paw, refused):
    outcome = paw(*words(shelter, "p", 2), "--search-only", "--storage", postgres)
    assert outcome.code == 0, outcome.err
    seen = paw("study", "p", "--storage", postgres)
    assert "2 trials" in seen.out
    assert "optuna-dashboard postgresql+pg8000://" in seen.err
    assert f"next: make tune DATA={shelter} RUN=p" in seen.err
    line = refused(*words(shelter, "p", 2), "--storage", postgres.replace(PASSWORD, "another-word"))
    assert "password authentication failed" in line
    for text in (outcome.err, outcome.out, seen.err, seen.out, line):
        assert PASSWORD not in text
        assert "another-word" not in text
    assert "does not exist" in refused(*words(shelter, "p", 2), "--storage", postgres.replace("/postgres", "/nowhere"))
    assert "holds no study q" in refused("study", "q", "--storage", postgres)


@pytest.mark.parametrize(
    ("change", "cure"),
    [
        ("UPDATE alembic_version SET version_num = 'v3.0.0.d'", "storage upgrade"),
        ("UPDATE alembic_version SET version_num = 'v9.0.0'", "pip install -U optuna"),
        ("INSERT INTO alembic_version VALUES ('8e1d3a7c2b10')", "a database of its own"),
    ],
)
def test_a_database_of_another_version_of_optuna_or_another_program(postgres, work, refused, change, cure):
    from sqlalchemy import create_engine, text

    Store(work, postgres)
    with create_engine(postgres.replace("postgresql:", "postgresql+pg8000:")).begin() as connection:
        before = connection.scalar(text("SELECT version_num FROM alembic_version"))
        connection.execute(text(change))
    try:
        assert cure in refused("study", "p", "--storage", postgres)
    finally:
        with create_engine(postgres.replace("postgresql:", "postgresql+pg8000:")).begin() as connection:
            connection.execute(text("DELETE FROM alembic_version"))
            connection.execute(text("INSERT INTO alembic_version VALUES (:now)"), {"now": before})


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://paw:hidden@127.0.0.1:1/paw", "paw:***@127.0.0.1:1/paw: connection refused"),
        ("postgresql://paw:hidden@127.0.0.1:1", "DATABASE"),
        ("postgresql://paw:hid?den@127.0.0.1:1/paw?password=hidden", "connection refused"),
        ("postgresql://paw@127.0.0.1:1/paw?password=hidden", "connection refused"),
        ("postgresql://paw:my@hidden@127.0.0.1:1/paw", "%40"),
        ("postgresql://paw:my@hid/den@127.0.0.1:1/paw", "%40"),
        ("mysql://paw:hidden@127.0.0.1/paw", "postgresql://"),
        ("sqlite:///hidden.db", "postgresql://"),
        ("hidden", "postgresql://"),
        ("postgresql://paw:hidden@127.0.0.1:port/paw", "postgresql://"),
        ("postgresql://paw:hidden@127.0.0.1:1/paw?sslmode=hid", "sslmode"),
        ("postgresql:///paw?host=127.0.0.1&password=hidden", "USER"),
    ],
)
def test_addresses_that_are_wrong(shelter, work, refused, url, said):
    line = refused(*words(shelter, "x", 2), "--storage", url)
    assert said in line
    assert "hid" not in line


def test_a_damaged_journal_is_one_line(work, refused):
    journal = study_folder("x") / "study.journal"
    for content in ("no JSON\n{}\n", "[1]\n"):
        journal.parent.mkdir(parents=True, exist_ok=True)
        journal.write_text(content)
        assert "damaged" in refused("study", "x")


@pytest.mark.parametrize(
    ("more", "ends"),
    [
        ([], 15),
        (["search.pruner=none"], 20),
        (["train.schedule=plateau", "train.stop=early", "train.warmup_epochs=0"], 5),
    ],
)
def test_no_trial_ends_while_its_epochs_say_nothing(more, ends):
    """One that is the worst at every epoch ends at the first that counts: of 20 the 15th under a cosine, else the 5th."""
    study = optuna.create_study(pruner=pruner_of(resolve("sample", more)))
    for value in range(5):
        study.add_trial(optuna.create_trial(value=value, intermediate_values=dict.fromkeys(range(1, 21), value)))
    trial = study.ask()
    for epoch in range(1, 21):
        trial.report(9.0, epoch)
        if trial.should_prune():
            break
    assert epoch == ends


def test_the_best_trials_have_settings_of_their_own():
    study = optuna.create_study()
    for x, value in ((1.0, 3.0), (2.0, 1.0), (2.0, 1.0), (3.0, 2.0)):
        study.add_trial(optuna.create_trial(params={"x": x}, value=value,
                                            distributions={"x": optuna.distributions.FloatDistribution(0, 9)}))  # fmt: skip
    study.add_trial(optuna.create_trial(state=TrialState.PRUNED, params={"x": 5.0},
                                        distributions={"x": optuna.distributions.FloatDistribution(0, 9)}))  # fmt: skip
    assert [trial.number for trial in best_trials(study, 5)] == [1, 3, 0]
