import math
import shutil
from dataclasses import replace
from resource import RLIM_INFINITY, RLIMIT_FSIZE, setrlimit

import numpy as np
import pytest
import torch

from pawpularity.config import resolve
from pawpularity.data.photo_cache import Photos
from pawpularity.device import choose
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import rmse
from pawpularity.features.load import PixelInputs
from pawpularity.models.network import build_network
from pawpularity.models.weights import load_strictly, read_tensors, save_tensors, tensors_hash
from pawpularity.predictor import score_rows
from pawpularity.training.fit import fit_fold
from pawpularity.training.loop import Hooks, Loop
from pawpularity.training.losses import LOSSES
from pawpularity.training.samples import EpochBatches, TrainingData

CPU = choose("float32", "cpu")


@pytest.fixture(scope="module")
def data():
    """120 photos whose score is their brightness: anything that trains at all learns it."""
    random = np.random.default_rng(0)
    scores = random.integers(5, 95, 120).astype(float)
    photos = np.clip(scores[:, None, None, None] * 2.2 + random.normal(0, 12, (120, 32, 32, 3)), 0, 255).astype(
        np.uint8
    )
    photos.setflags(write=False)
    return TrainingData(Photos.of(photos), np.arange(120), np.zeros((120, 12), np.float32), scores, np.arange(120))


def toy(*words):
    return resolve(
        "scratch", ["photos.size=32", "train.epochs=8", "train.batch_size=16", "train.warmup_epochs=0", *words]
    )


EARLY = ("train.stop=early", "train.schedule=plateau", "train.lr=3e-3")


def pixels_of(data):
    return PixelInputs(data.photos, data.photo_rows)


@pytest.mark.parametrize(
    "words",
    [(), EARLY, (*EARLY, "train.refit=true"), ("train.ema=0.9",), ("train.mixup=0.2",), ("train.copies=authors",),
     ("model.output=linear", "train.loss=huber"), ("model.output=relu", "train.loss=mse"), ("model.unfrozen=12",),
     ("model.metadata=none",), ("model.fusion_widths=[]",), ("model.output=bins", "train.loss=bins", "model.bins=12"),
     ("model.output=ordinal", "train.loss=ordinal"), ("model.output=bins", "train.loss=mse"), ("train.cutmix=1",),
     ("train.mixup=0.2", "train.cutmix=1"), ("model.unfrozen=4 blocks", "model.lora=4", "train.lr=3e-3"),
     ("model.unfrozen=all", "train.start_size=16"), ("train.optimizer=lion", "train.clip_grad=1"),
     (*EARLY, "train.checks=3", "train.soup=4", "train.refit=true", "train.layer_decay=0.8", "train.decay_norms=false")],
    ids=lambda words: "+".join(words) or "scratch",
)  # fmt: skip
def test_every_recipe_learns_brightness(data, words):
    training, held = np.arange(100), np.arange(100, 120)
    fitted = fit_fold(toy(*words), data, training, fold=0, compute=CPU)
    predicted = score_rows(fitted.network, pixels_of(data), held, data.metadata[held], CPU)
    constant = rmse(data.scores[held], np.full(20, fitted.training_mean))
    assert rmse(data.scores[held], predicted) < (0.85 if "model.unfrozen=12" in words else 0.7) * constant
    assert fitted.training_mean == data.scores[training].mean()
    assert predicted.min() >= 1
    assert predicted.max() <= 100


def test_best_inner_epoch_is_kept_and_scored_rows_do_not_choose_it(data):
    config = toy(*EARLY, "train.stop_patience=8", "train.lr=2e-2")
    seen = []
    fitted = fit_fold(config, data, np.arange(100), fold=0, compute=CPU, hooks=Hooks(on_epoch=seen.append))
    inner = [e.inner_rmse for e in seen]
    assert fitted.epochs == int(np.argmin(inner)) + 1
    assert fitted.inner_rows == 10
    from pawpularity.data.folds import inner_split

    _, at = inner_split(data.groups[:100], data.scores[:100], share=0.1, seed=0)
    again = rmse(data.scores[at], score_rows(fitted.network, pixels_of(data), at, data.metadata[at], CPU))
    assert again == pytest.approx(min(inner), abs=1e-9)


def test_plateau_divides_the_rate_by_ten_and_early_stopping_stops(data, monkeypatch):
    monkeypatch.setattr(Loop, "_inner_rmse", lambda self, inner: 10.0)
    fitted = fit_fold(toy(*EARLY, "train.epochs=30", "train.patience=1", "train.stop_patience=5"), data, np.arange(60), fold=0,
                      compute=CPU)  # fmt: skip
    assert [e.lr for e in fitted.history] == pytest.approx([3e-3, 3e-3, 3e-3, 3e-4, 3e-4, 3e-5])
    assert fitted.epochs == 1


def test_refit_replays_the_chosen_rates_on_all_rows(data, monkeypatch):
    figures = iter([10.0, 9.0, 9.5, 9.6, 8.0, 9.0, 9.0, 9.0])
    monkeypatch.setattr(Loop, "_inner_rmse", lambda self, watched: next(figures) if len(watched) else math.nan)
    config = toy(*EARLY, "train.refit=true", "train.patience=1", "train.stop_patience=3")
    fitted = fit_fold(config, data, np.arange(60), fold=0, compute=CPU)
    first, second = fitted.history[:8], fitted.history[8:]
    assert [e.lr for e in second] == [e.lr for e in first[:5]]
    assert len({e.lr for e in second}) > 1
    assert all(math.isnan(e.inner_rmse) for e in second)
    assert fitted.epochs == 5


def test_cosine_warms_up_and_ends_at_zero(data):
    fitted = fit_fold(toy("train.warmup_epochs=2"), data, np.arange(60), fold=0, compute=CPU)
    rates = [e.lr for e in fitted.history]
    peak = resolve("scratch").train.lr
    assert rates[0] < rates[1] < peak
    assert max(rates) <= peak
    assert rates[-1] < 0.02 * peak


@pytest.mark.parametrize("words", [(), (*EARLY, "train.ema=0.9", "train.mixup=0.3", "train.augment=strong")])
def test_the_same_seed_gives_the_same_network_and_another_does_not(data, words):
    def run(*more):
        state = fit_fold(
            toy("train.epochs=2", *words, *more), data, np.arange(60), fold=0, compute=CPU
        ).network.state_dict()
        return torch.cat([t.flatten().float() for t in state.values()])

    first = run()
    torch.rand(7)  # what was drawn before must not matter
    assert torch.equal(first, run())
    assert not torch.equal(first, run("train.seed=1"))


ODD = {
    "statistics of another name": "resnetv2_50d_gn {layers: [1, 1], channels: [16, 32], norm_layer: evonormb0}",
    "shared modules": "coat_tiny {img_size: 32, embed_dims: [16, 16, 16, 16], serial_depths: [1, 1, 1, 1], parallel_depth: 1}",
}


@pytest.mark.parametrize(
    "words", [("model.unfrozen=all",), ("model.unfrozen=12", "train.ema=0.5")], ids=["all", "half"]
)
@pytest.mark.parametrize("odd", ODD)
def test_the_saved_tensors_are_the_whole_of_what_was_trained(odd, words, data, tmp_path, monkeypatch):
    """Of the first epoch, which is kept here, while what is derived from weights is left over from the second."""
    real, figures = Loop._inner_rmse, iter([1.0, 2.0])
    monkeypatch.setattr(Loop, "_inner_rmse", lambda *given: (real(*given), next(figures))[1])
    name, _, args = ODD[odd].partition(" ")
    config = toy(*EARLY, "train.epochs=2", f"model.backbone={name}", f"model.args={args}", "train.lr=3e-2", *words)
    start = build_network(config, fold=0)
    before = tensors_hash(start.frozen_state())
    fitted = fit_fold(config, data, np.arange(100), fold=0, compute=CPU).network
    save_tensors(tmp_path / "head.safetensors", fitted.trained_state(), {})
    load_strictly(start, start.frozen_state() | read_tensors(tmp_path / "head.safetensors"), "head")
    assert before == tensors_hash(start.frozen_state()) == tensors_hash(fitted.frozen_state())
    rows = np.arange(100, 120)
    ours, theirs = (score_rows(net, pixels_of(data), rows, data.metadata[rows], CPU) for net in (start, fitted))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def loss_of(network, raw, target, train):
    return LOSSES[train.loss](raw, network.points(raw), target, train)


def test_losses_against_closed_forms():
    config = toy()
    network = build_network(config, fold=0)
    raw, target = torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([10.0, 60.0, 100.0])
    p = 1 / (1 + np.exp(-raw.numpy().astype(float)))
    y = target.numpy() / 100
    bce = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    assert loss_of(network, raw, target, config.train).item() == pytest.approx(bce, rel=1e-6)
    mse = toy("train.loss=mse")
    assert loss_of(network, raw, target, mse.train).item() == pytest.approx(((100 * p - 100 * y) ** 2).mean(), rel=1e-5)
    huber = toy("train.loss=huber", "train.huber_delta=5")
    gap = np.abs(100 * p - 100 * y)
    expected = np.where(gap <= 5, 0.5 * gap**2, 5 * (gap - 2.5)).mean()
    assert loss_of(network, raw, target, huber.train).item() == pytest.approx(expected, rel=1e-5)


def test_diverging_is_said_in_one_line(data):
    with pytest.raises(UserError, match="no longer finite"):
        fit_fold(toy("model.output=linear", "train.loss=mse", "train.lr=10", "train.weight_decay=10", "train.epochs=50"),
                 replace(data, metadata=np.full_like(data.metadata, np.inf)),
                 np.arange(60), fold=0, compute=CPU)  # fmt: skip


def test_too_few_rows(data):
    with pytest.raises(UserError, match="only 2 training rows"):
        fit_fold(toy(), data, np.arange(2), fold=0, compute=CPU)


def test_workers_do_not_change_the_network(data):
    """Dropout draws from torch's global generator, which a loader must leave alone."""
    words = ("train.epochs=3", "model.dropout=0.5", "train.augment=strong")
    runs = [fit_fold(toy(*words, f"train.workers={n}"), data, np.arange(60), fold=0, compute=CPU) for n in (0, 2)]
    pairs = zip(*(run.network.state_dict().values() for run in runs), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_little_shared_memory_does_not_matter(data, monkeypatch):
    """A process that may write no file, not even one in /dev/shm, still prepares photos: they travel through a pipe."""
    monkeypatch.setattr(
        "pawpularity.features.load._start_worker", lambda _: setrlimit(RLIMIT_FSIZE, (0, RLIM_INFINITY))
    )
    rows = np.arange(40)
    batches = [(rows[:32], np.ones(32, dtype=np.int64)), (rows[32:], np.zeros(8, dtype=np.int64))]
    fed = list(pixels_of(data).feed(rows, batches, 1, False))
    for (x, positions), (at, views) in zip(fed, batches, strict=True):
        assert torch.equal(x, pixels_of(data).take(rows[at], views))
        assert positions is at


@pytest.mark.parametrize(("items", "size"), [(5, 2), (3, 1), (17, 16), (2, 64)])
def test_no_batch_of_one(items, size):
    batches = list(EpochBatches(items, size, seed=0).of(0))
    assert min(len(batch) for batch in batches) >= 2
    assert sorted(i for batch in batches for i in batch) == list(range(items))


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="torch.compile needs a C++ compiler")
def test_the_compiled_tail_trains_as_the_eager_one(data):
    """Without dropout, whose random numbers a compiled graph draws otherwise."""
    words = ("train.epochs=1", "model.dropout=0", "model.metadata_dropout=0", "model.unfrozen=4")
    training, held = np.arange(64), np.arange(100, 120)
    networks = [
        fit_fold(toy(*words, f"train.compile={way}"), data, training, fold=0, compute=CPU).network
        for way in ("false", "true")
    ]
    eager, fused = (score_rows(n, pixels_of(data), held, data.metadata[held], CPU) for n in networks)
    np.testing.assert_allclose(fused, eager, atol=2e-3)
    untrained = build_network(toy(*words), fold=0, training_mean=float(data.scores[training].mean())).eval()
    assert np.abs(score_rows(untrained, pixels_of(data), held, data.metadata[held], CPU) - eager).max() > 0.05
