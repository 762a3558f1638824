"""The benchmarks' own arithmetic against closed forms, the plain loop beside ours, and the real commands at toy size."""

import csv
import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from optuna.trial import TrialState
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.conftest import ROOT
from tests.oracles import postgres
from torch.utils.data import default_collate

from pawpularity.config import Model
from pawpularity.device import Compute
from pawpularity.models.backbone import build_backbone
from pawpularity.studies.benchmark import bench_config, side_by_side, spread
from pawpularity.studies.benchmark_rise import ALPHA, ridge_score
from pawpularity.studies.benchmark_search import require_whole, rows_of
from pawpularity.studies.benchmark_train import Bench, PlainLoop, PlainPhotos

HERE = Compute(torch.device("cpu"), torch.float32, "test")


def test_ways_are_timed_in_turn_and_warm_up_is_not_counted():
    order = []
    timings = side_by_side([lambda: order.append("a"), lambda: order.append("b")], HERE, repeats=3, warm_up=2)
    assert order == ["a", "b"] * 5
    assert [len(seconds) for seconds in timings] == [3, 3]
    assert spread([1.0, 4.0, 2.0]) == 1.5


def test_the_plain_loop_computes_the_gradients_of_a_head_on_cached_features(drawn, tmp_path):
    folder = Path(shutil.copytree(drawn, tmp_path / "photos"))
    config = bench_config("sample", 21).with_values(
        {"train.frozen_bn": False, "photos.size": 32, "model.dropout": 0.0, "model.metadata_dropout": 0.0}
    )
    bench = Bench("toy", config, folder, 1, HERE)
    loop, first = PlainLoop(bench), bench.samples.take(np.arange(64))
    assert first.copies.any(), "copies are among them"
    loop.optimiser.param_groups[0]["lr"] = 0.0
    photos = PlainPhotos(bench)
    loop.step(default_collate([photos[sample] for sample in range(64)]), loop.network)
    plain = {name: p.grad.clone() for name, p in loop.network.named_parameters() if p.grad is not None}
    data = bench.data("cache")
    features = data.inputs(loop.network, HERE, bench.samples.pairs).take(*first.pairs)
    scores = torch.tensor(data.scores[first.rows], dtype=torch.float32)
    loop.network.train()  # computing features has put it in evaluation mode
    loop.step((features, torch.tensor(data.metadata[first.rows]), scores), loop.network.head)
    assert len(plain) > 21
    for name, parameter in loop.network.named_parameters():
        if name in plain:
            torch.testing.assert_close(parameter.grad, plain[name], rtol=1e-4, atol=1e-6)
        else:
            assert parameter.grad is None, name


@pytest.mark.slow
def test_the_loops_at_toy_size(work, paw):
    words = ("--what", "all", "--backbones", "small/densenet161", "--unfrozen", 20, "--photos", 32, "--repeats", 1)
    done = paw("bench", *words, "--out", "here", "--json", "-")
    assert done.code == 0, done.err
    tables = json.loads(done.out)
    assert [row["way"].split()[0] for row in tables["train"]] == ["plain", "plain", "features", "features"]
    slow, half, cold, warm = tables["train"]
    assert (slow["times_plain_float32"], half["times_plain_half"]) == (1, 1)
    assert warm["times_plain_half"] == pytest.approx(half["ms_per_image"] / warm["ms_per_image"])
    assert cold["ms_per_image"] > warm["ms_per_image"]
    assert tables["predict"][0]["times_one_model"] > 0
    assert [row["way"] for row in tables["cache"]] == ["frozen part alone", "from JPEGs", "from decoded photos"]
    for what in ("train", "predict", "cache"):
        rows = list(csv.DictReader(Path(f"here/{what}-cpu.csv").read_text().splitlines()))
        assert len(rows) == len(tables[what])
        assert rows[0]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]


@pytest.mark.slow
def test_rise_at_toy_size(work, paw):
    done = paw("bench", "--what", "rise", "--maps", 1, "--photos", 32, "--out", "here", "--json", "-")
    assert done.code == 0, done.err
    photo, median = json.loads(done.out)["rise"]
    assert (photo["net"], median["photo"]) == ("test_resnet", "median of 1")
    assert photo["sd_score"] > 0
    assert 0.4 < photo["agreement"] < 2.5
    assert photo["times_centred"] > 1
    assert photo["times_published"] > 10 * photo["times_centred"]
    assert median["ms_per_mask"] > 0
    assert len(list(csv.DictReader(Path("here/rise-cpu.csv").read_text().splitlines()))) == 2


def test_the_score_that_rise_explains_is_scikit_learns_ridge():
    rng = np.random.default_rng(0)
    pixels, scores = rng.integers(0, 256, (40, 96, 96, 3), dtype=np.uint8), rng.uniform(1, 100, 40)
    model = Model(backbone="test_resnet", weights="drawn")
    score, photos = ridge_score(model, pixels, scores, HERE)
    with torch.inference_mode():
        features = build_backbone(model, size=96, seed=0).net.eval()(photos).numpy().astype(np.float64)
    expected = make_pipeline(StandardScaler(), Ridge(ALPHA)).fit(features, scores).predict(features)
    assert score(photos).numpy() == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize(
    ("numbers", "drawn_settings", "last"),
    [
        ((0, 1, 2), (1, 2, 3), "PRUNED"),
        ((0, 1), (1, 2), "COMPLETE"),
        ((0, 1, 2), (1, 2, 2), "COMPLETE"),
        ((0, 1, 2), (1, 2, 3), "FAIL"),
    ],
    ids=["sound", "lost", "drawn twice", "failed"],
)
def test_a_lost_a_doubled_and_an_unfinished_trial_end_the_benchmark(numbers, drawn_settings, last):
    states = ["COMPLETE"] * (len(numbers) - 1) + [last]
    every = [SimpleNamespace(number=n, user_attrs={}, params={"x": x}, state=TrialState[state])
             for n, x, state in zip(numbers, drawn_settings, states, strict=True)]  # fmt: skip
    study = SimpleNamespace(study_name="s", get_trials=lambda deepcopy: every)
    with nullcontext() if last == "PRUNED" else pytest.raises(RuntimeError, match="study s"):
        require_whole(study, 3)


def test_a_search_is_measured_in_five_trainings():
    found = {("plain training", 1): [(s, 10.0) for s in (40.0, 60.0, 50.0)], ("warm training", 1): [(20.0, 4.0)],
             ("search", 1): [(25.0, 6.0)]}  # fmt: skip
    plain, warm, search = rows_of("sample", "cpu", found, 4)
    assert (plain["seconds"], plain["spread"], warm["seconds"]) == (50.0, 0.4, 20.0)
    assert (search["share_of_five_plain"], search["share_of_five_warm"], search["trials_per_s"]) == (0.1, 0.25, 0.16)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["journal", "PostgreSQL"])
def test_a_search_beside_trainings_and_two_workers_beside_one(work, paw, monkeypatch, storage):
    (work / "configs").unlink()
    shutil.copytree(ROOT / "configs", work / "configs")
    Path("configs/toy.yaml").write_text(
        "base: sample\nphotos: {size: 32}\nfolds: {k: 2}\ntrain: {epochs: 2, warmup_epochs: 0}\n"
        "search: {space: {model.unfrozen: {low: 9, high: 21}}}\n"
    )
    words = ("--what", "search", "--backbones", "toy", "--photos", 32, "--trials", 4, "--json", "-")
    with nullcontext() if storage == "journal" else postgres.server() as url:
        monkeypatch.setenv("PAWPULARITY_STORAGE", url or "")
        outcome = paw("bench", *words, "--out", "here")
    assert outcome.code == 0, outcome.err
    rows = json.loads(outcome.out)["search"]
    assert [(row["way"], row["workers"]) for row in rows[1:]] == [("warm training", 1), ("search", 1), ("search", 2)]
    assert all(row["cpu_seconds"] > 0.1 for row in rows)
    assert len(list(csv.DictReader(Path("here/search-cpu.csv").read_text().splitlines()))) == 4


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--photos", 3), "--photos"),
        (("--what", "trian"), "train"),
        (("--backbones", "densenet16"), "densenet161"),
        (("--what", "search", "--trials", 1), "--trials"),
        (("--what", "search", "--backbones", "scratch"), "freezes nothing"),
        (("--backbones", "scratch"), "freezes nothing"),
        (("--what", "rise", "--maps", 0), "--maps"),
    ],
)
def test_wrong_options_are_refused(work, refused, words, named):
    assert named in refused("bench", *words)
