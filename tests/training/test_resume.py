"""A fit that was stopped, killed or pre-empted goes on as if nothing had happened: the same bytes."""

import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pawpularity.cli import main
from pawpularity.config import resolve
from pawpularity.data.photo_cache import Photos
from pawpularity.device import choose
from pawpularity.features.build import FeatureCache
from pawpularity.models.network import build_network
from pawpularity.models.weights import tensors_hash
from pawpularity.signals import Stopped
from pawpularity.training import checkpoint as resume
from pawpularity.training.checkpoint import SECONDS, Keeper, Sums
from pawpularity.training.fit import Loop, fit_fold
from pawpularity.training.labelled import LabelledPhotos
from pawpularity.training.samples import fold_items
from pawpularity.training.stop import StopRequest, stop_requests

TOY = ("--config", "sample", "photos.size=32", "train.batch_size=4", "train.warmup_epochs=0", "folds.k=3")
EARLY = ("train.stop=early", "train.schedule=plateau", "train.patience=0", "train.stop_patience=2")


@pytest.fixture(scope="module")
def data():
    """120 photos whose score is their brightness."""
    numbers = np.random.default_rng(0)
    scores = numbers.integers(5, 95, 120).astype(float)
    photos = scores[:, None, None, None] * 2.2 + numbers.normal(0, 12, (120, 32, 32, 3))
    decoded = Photos.of(np.clip(photos, 0, 255).astype(np.uint8))
    return LabelledPhotos(decoded, np.arange(120), np.zeros((120, 12), np.float32), scores, np.arange(120))


def toy(*words):
    """Dropout draws at every step, so that a random state that is not restored is seen."""
    return resolve("scratch", ["photos.size=32", "train.epochs=4", "train.batch_size=16", "train.warmup_epochs=0",
                               "model.dropout=0.4", "train.dtype=float32", *words])  # fmt: skip


def fingerprint(fitted):
    tensors = {name: tensor.numpy().tobytes() for name, tensor in fitted.network.state_dict().items()}
    lines = [(e.epoch, str(e.train_rmse), str(e.inner_rmse), e.lr) for e in fitted.history]
    return tensors, lines, fitted.epochs, fitted.notes


def fit(config, data, **more):
    training, scored = np.arange(80), np.arange(80, 120)
    items = fold_items(config, data.scores, training, scored, 1, 3)
    compute = choose(config.train.dtype, "cpu")
    return fit_fold(config, data, training, fold=1, compute=compute, items=items, **more)


def stopped_often(config, data, folder, lengths):
    """Fit in pieces of as many steps as `lengths` says, each with a new network; returns the fit and what pieces said."""
    said = []
    while True:
        request, left = StopRequest(), [next(lengths)]

        def count(step, steps, request=request, left=left):
            left[0] -= 1
            if left[0] == 0:
                request.asked = signal.SIGTERM

        keeper = Keeper(folder / ".fold1.resume.safetensors", 1, {"settings": "toy"}, request)
        torch.rand(len(said) + 3)  # whatever another process drew before
        try:
            return fit(config, data, on_step=count, keeper=keeper), said
        except Stopped as stopped:
            said.append((stopped.exit_code, stopped.line))


RECIPES = {
    "cosine": (),
    "early+plateau": (*EARLY, "train.lr=2e-2"),
    "ema": ("train.ema=0.9",),
    "mixup": ("train.mixup=0.4",),
    "manifold": ("train.manifold_mixup=0.4", "model.unfrozen=12"),
    "refit": (*EARLY, "train.refit=true", "train.ema=0.8", "train.epochs=4"),
    "mse+copies": (
        "train.loss=mse",
        "model.output=linear",
        "train.copies=authors",
        "train.augment=flip",
        "train.epochs=2",
    ),
    "frozen": ("model.unfrozen=12", "train.frozen_bn=true", *EARLY),
    "bfloat16": ("train.frozen_bn=false", "train.channels_last=false", "train.dtype=bfloat16"),
    "leaky": (
        "train.split=leaky",
        "train.augment=none",
        "train.copies=authors",
        "train.epochs=2",
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_goes_on_to_the_same_bytes(data, tmp_path, name):
    config = toy(*RECIPES[name])
    if "frozen" in name or name == "manifold":
        trunks = FeatureCache(tmp_path / "features", replace(data.photos, key="k"), 32, 1.0)
        data = replace(data, photos=trunks.photos, trunks=trunks)
    whole = fingerprint(fit(config, data))
    # Pieces of 1 to 9 steps where an epoch has 5: stops fall within epochs, on their last step, and past their end.
    draw = random.Random(5)
    fitted, said = stopped_often(config, data, tmp_path, iter(lambda: draw.randint(1, 9), None))
    assert len(said) >= 2
    assert all(code == 143 and "is kept; the same command goes on there" in line for code, line in said)
    assert fingerprint(fitted) == whole
    if "refit" in name:
        assert any("refitted" in note for note in fitted.notes)


def test_keeping_a_state_moves_nothing(data, tmp_path, monkeypatch):
    """However often a state is kept, and by whatever clock: BatchNorms in training and dropout go on as they were."""
    config = toy("train.frozen_bn=false", "train.copies=authors", "model.dropout=0.3")
    whole = fingerprint(fit(config, data))
    monkeypatch.setenv(SECONDS, "0")
    keeper = Keeper(tmp_path / ".fold1.resume.safetensors", 1, {"settings": "toy"}, StopRequest())
    assert fingerprint(fit(config, data, keeper=keeper)) == whole
    assert keeper.saves > 10


def artefacts(fold):
    """What must be the same bytes, and what must be but for its times."""
    names = ("predictions.csv", "head.safetensors")
    history = [line.rsplit(",", 1)[0] for line in (fold / "history.csv").read_text().splitlines()]
    metrics = json.loads((fold / "metrics.json").read_text())
    del metrics["seconds"]
    # The tail's header names its run, which here are called by one letter.
    named = f'\\"run\\": \\"{fold.parent.name}\\"'.encode()
    return {name: (fold / name).read_bytes().replace(named, b"run") for name in names}, history, metrics


def stop_after(monkeypatch, steps, number=signal.SIGTERM):
    """The signal comes while step number `steps` of this command is computed."""
    due, seen = Keeper.due, [0]

    def asked(self):
        seen[0] += 1
        if seen[0] == steps:
            os.kill(os.getpid(), number)
        return due(self)

    monkeypatch.setattr(Keeper, "due", asked)


@pytest.fixture
def half(work, shelter, paw, monkeypatch):
    """Fold 1 of run `a`, stopped in its second epoch (of 3, of 10 steps each), and the same fold whole as run `b`."""
    words = ("train", "--data", shelter, *TOY, "train.epochs=3", "--fold", 1)
    assert paw(*words, "--run", "b").code == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 14)
        done = paw(*words, "--run", "a")
    assert done.code == 143, done.err
    assert done.err.splitlines()[-1] == (
        "pawpularity: fold 1 stopped in epoch 2 of 3, step 4 of 10, and is kept; the same command goes on there"
    )
    assert STATE.is_file()
    assert not Path("oof/a/fold1").exists()
    return words


STATE = Path("oof/a/.fold1.resume.safetensors")


def test_a_stopped_fold_goes_on_and_leaves_what_an_unstopped_one_leaves(half, paw):
    done = paw(*half, "--run", "a")
    assert done.code == 0, done.err
    assert "goes on where it was stopped, in epoch 2, after step 4" in done.err
    assert artefacts(Path("oof/a/fold1")) == artefacts(Path("oof/b/fold1"))
    assert not STATE.exists(), "a finished fold needs no state"
    assert not list(Path("oof/a").glob(".*.part"))


def test_fresh_starts_anew(half, paw):
    done = paw(*half, "--run", "a", "--fresh")
    assert done.code == 0, done.err
    assert "goes on" not in done.err
    assert artefacts(Path("oof/a/fold1")) == artefacts(Path("oof/b/fold1"))


def _flip(path):
    raw = bytearray(path.read_bytes())
    raw[-200] ^= 1
    path.write_bytes(raw)


def _header(path):
    """Another step in the header, the tensors untouched."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["pawpularity"])
    state = json.loads(header["state"])
    header["state"] = json.dumps(state | {"steps": state["steps"] + 1})
    save_file(load_file(path), path, {"pawpularity": json.dumps(header)})


DAMAGE = {
    "flipped bit": _flip,
    "header": _header,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "empty": lambda path: path.write_bytes(b""),
    "another file": lambda path: save_file({"a": torch.zeros(2)}, path),
}


def test_a_damaged_state_is_dropped_and_said(half, paw, capfd):
    whole = STATE.read_bytes()
    network = build_network(toy(), fold=0)
    for name, damage in DAMAGE.items():
        STATE.write_bytes(whole)
        damage(STATE)
        assert Keeper(STATE, 1, {}, StopRequest()).find(network) is None
        assert "is damaged; it is dropped" in capfd.readouterr().err, name
        assert not STATE.exists()
    STATE.write_bytes(whole)
    _flip(STATE)
    done = paw(*half, "--run", "a")
    assert done.code == 0, done.err
    assert "is damaged; it is dropped" in done.err
    assert "goes on where" not in done.err
    assert artefacts(Path("oof/a/fold1")) == artefacts(Path("oof/b/fold1"))


def test_a_state_of_other_settings_data_or_fold_is_dropped(half, paw, monkeypatch, shelter):
    kept = STATE.read_bytes()
    done = paw(*half, "--run", "a", "train.lr=2e-3")
    assert done.code == 0, done.err
    assert "was made with other settings" in done.err

    other = STATE.with_name(".fold2.resume.safetensors")
    other.write_bytes(kept)
    done = paw(*half[:-1], 2, "--run", "a", "train.lr=2e-3")
    assert done.code == 0, done.err
    assert "was made with other fold (1, now 2)" in done.err

    for words, said in ((("train.seed=1",), "other seed (0, now 1)"), (("folds.seed=1",), "other folds")):
        new = Path("oof") / words[0].replace("=", "") / STATE.name
        new.parent.mkdir()
        new.write_bytes(kept)
        done = paw(*half, "--run", new.parent.name, *words)
        assert done.code == 0, done.err
        assert said in done.err

    table = (shelter / "train.csv").read_text().splitlines()
    table[1] = table[1].rsplit(",", 1)[0] + ",50"
    (shelter / "train.csv").write_text("\n".join(table) + "\n")
    Path("oof/d").mkdir()
    (Path("oof/d") / STATE.name).write_bytes(kept)
    done = paw(*half, "--run", "d")
    assert done.code == 0, done.err
    assert "was made with other data" in done.err


def test_ctrl_c_ends_with_130_and_keeps_the_fold(half, paw, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 3, signal.SIGINT)
        done = paw(*half, "--run", "a")
    assert done.code == 130
    assert "step 7 of 10, and is kept" in done.err
    assert paw(*half, "--run", "a").code == 0
    assert artefacts(Path("oof/a/fold1")) == artefacts(Path("oof/b/fold1"))


def test_a_stop_while_the_inner_split_is_scored_loses_nothing(work, shelter, paw, monkeypatch):
    from pawpularity.training import fit

    words = ("train", "--data", shelter, *TOY, "train.epochs=3", *EARLY, "--fold", 1, "--run")
    assert paw(*words, "b").code == 0
    with monkeypatch.context() as patch:

        def stopped(self, watched):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
            raise AssertionError("the signal was not obeyed at once")

        patch.setattr(fit.Loop, "_inner_rmse", stopped)
        done = paw(*words, "a")
    assert done.code == 143
    assert "epoch 1 of 3, step 9 of 9, and is kept" in done.err
    assert paw(*words, "a").code == 0
    assert artefacts(Path("oof/a/fold1")) == artefacts(Path("oof/b/fold1"))


def test_a_stop_while_the_trunk_is_built_is_said_and_the_same_command_goes_on(work, shelter, paw, monkeypatch):
    from pawpularity.features.store import FeatureFile

    words = ("train", "--data", shelter, *TOY, "train.epochs=2", "--fold", 1, "--run")
    append = FeatureFile.append
    with monkeypatch.context() as patch:
        patch.setattr(FeatureFile, "shard_rows", property(lambda self: 32))

        def stopped(self, pairs, rows):
            append(self, pairs, rows)
            os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(FeatureFile, "append", stopped)
        done = paw(*words, "a")
    assert done.code == 143, done.err
    assert done.err.splitlines()[-1].endswith("the same command goes on from there")
    views = [int(line.partition(": ")[2].split()[0]) for line in done.err.splitlines() if "up to" in line]
    again = paw(*words, "a")
    assert again.code == 0, again.err
    left = [int(line.partition(": ")[2].split()[0]) for line in again.err.splitlines() if "up to" in line]
    assert left == [views[0] - 32], "the finished shard was kept"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "the command leaves no handler behind"


def _asked(*numbers):
    with stop_requests() as request:
        for number in numbers:
            os.kill(os.getpid(), number)
            assert request.asked == numbers[0]


@pytest.mark.parametrize(("numbers", "code"), [((signal.SIGINT, signal.SIGINT), 130), ((signal.SIGTERM,) * 2, 143),
                                               ((signal.SIGTERM, signal.SIGINT), 130), ((signal.SIGINT,), 130)])  # fmt: skip
def test_a_second_ctrl_c_waits_for_nothing_and_a_late_request_is_not_forgotten(numbers, code):
    with pytest.raises(Stopped) as stopped:
        _asked(*numbers)
    assert stopped.value.exit_code == code


@pytest.mark.parametrize(
    "error", [RuntimeError("worker is killed by signal"), EOFError(), ConnectionResetError(104, "")]
)
def test_the_death_of_helping_processes_is_the_stop_that_was_asked_for_and_else_a_fault(tmp_path, error):
    def helped(asked):
        request = StopRequest()
        request.asked = asked
        with Keeper(tmp_path / "state", 2, {}, request).helped():
            raise error

    with pytest.raises(type(error)):
        helped(None)
    with pytest.raises(Stopped, match="fold 2 stopped; the same command starts it anew") as stopped:
        helped(signal.SIGTERM)
    assert stopped.value.exit_code == 143


def test_the_loss_scale_of_float16_is_kept(data, tmp_path):
    config = toy("train.dtype=float16")

    def loop():
        network = build_network(config, fold=0)
        return network, Loop(config, data, network, choose("float16", "cpu"), 0, None, None)

    network, one = loop()
    one.scaler.load_state_dict(one.scaler.state_dict() | {"scale": 32.0, "_growth_tracker": 7})
    keeper = Keeper(tmp_path / "state", 0, {}, StopRequest())
    start = tensors_hash(network.state_dict())
    keeper.belongs["weights"] = start
    keeper.save(one.parts, [], Sums.none(torch.device("cpu")), before=0, chosen=None, best={}, where="")
    network, other = loop()
    kept = keeper.find(network)
    other.parts.restore(kept.tensors, kept.numbers)
    assert other.scaler.state_dict() == one.scaler.state_dict()
    assert other.scaler.get_scale() == 32.0


def test_the_time_is_summed_over_processes_and_writing_may_take_a_fiftieth_of_it(data, tmp_path, monkeypatch):
    config, sums = toy(), Sums.none(torch.device("cpu"))
    network = build_network(config, fold=0)
    parts = Loop(config, data, network, choose("float32", "cpu"), 0, None, None).parts
    save = resume.save_tensors
    monkeypatch.setattr(resume, "save_tensors", lambda *a: (time.sleep(0.05), save(*a)))

    def keeper(every):
        monkeypatch.setenv(SECONDS, str(every))
        return Keeper(tmp_path / "state", 0, {"weights": tensors_hash(network.state_dict())}, StopRequest())

    for every, least, most in ((30, 29, 30), (0.1, 2.4, 20), (0, -1, 0)):
        one = keeper(every)
        one.started -= 100
        one.save(parts, [], replace(sums, started=time.perf_counter() - 40), before=0, chosen=None, best={}, where="")
        assert least <= one.next - time.perf_counter() <= most
    other = keeper(30)
    kept = other.find(network)
    assert other.spent == pytest.approx(100, abs=5)
    assert kept.sums(torch.device("cpu")).elapsed == pytest.approx(40, abs=5)


def test_a_full_disk_does_not_end_the_training(work, shelter, paw, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resume, "save_tensors", full)
    monkeypatch.setenv(SECONDS, "0")
    words = ("train", "--data", shelter, *TOY, "train.epochs=2", "--fold", 1, "--run")
    done = paw(*words, "a")
    assert done.code == 0, done.err
    assert done.err.count("cannot be kept") == 1, "said once, not at every step"
    stop_after(monkeypatch, 3)
    done = paw(*words, "c")
    assert done.code == 143
    assert "could not be kept" in done.err.splitlines()[-1]


def test_states_are_kept_by_the_clock(work, shelter, paw, monkeypatch):
    saves = []
    save = Keeper.save
    monkeypatch.setattr(Keeper, "save", lambda self, *a, **k: (saves.append(k["where"]), save(self, *a, **k)))
    words = ("train", "--data", shelter, *TOY, "train.epochs=2", "--fold", 1, "--run", "a")
    assert paw(*words).code == 0
    assert saves == [], "a fold of a second is done before the first half minute"
    monkeypatch.setenv(SECONDS, "0")
    assert paw(*words).code == 0
    assert len(saves) == 20


def _command(folder, words, log, pause):
    """The real command in a process of its own, with a pause after every step so that it outlasts the kills."""
    os.chdir(folder)
    due = Keeper.due
    Keeper.due = lambda self: (time.sleep(pause), due(self))[1]
    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(main([str(word) for word in words]))


@pytest.fixture(scope="module")
def processes():
    """Fresh processes that need not wait for torch: forked from a server that has imported it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pawpularity.training.fold", "pawpularity.context", "pawpularity.evaluation.leaderboard",
                                    "omegaconf"])  # fmt: skip
    return context


@pytest.mark.slow
def test_twenty_kills_change_nothing(work, shelter, processes, monkeypatch):
    monkeypatch.setenv(SECONDS, "0")
    words = ["train", "--data", shelter, *TOY, "train.epochs=30", *EARLY, "train.stop_patience=30", "train.ema=0.9",
             "train.refit=true", "--fold", 1, "--run"]  # fmt: skip

    def start(run, pause=0.0):
        process = processes.Process(target=_command, args=(str(work), [*words, run], f"{run}.log", pause))
        process.start()
        return process

    def last_kept():
        return STATE.stat().st_mtime_ns if STATE.exists() else 0

    whole = start("b")
    whole.join()
    assert whole.exitcode == 0, Path("b.log").read_text()
    draw, kills = random.Random(11), 0
    while kills < 20:
        before = last_kept()
        process = start("a", pause=0.01)
        # Three in four while it trains, the others wherever it is.
        if kills % 4:
            while last_kept() == before and process.is_alive():
                time.sleep(0.01)
        process.join(draw.uniform(0.0, 0.25))
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills == 20, "the fold was finished before the last kill"
    log = Path("a.log").read_text()
    last = start("a")
    last.join()
    assert last.exitcode == 0, Path("a.log").read_text()
    assert log.count("goes on where it was stopped") >= 10
    assert "damaged" not in log
    assert artefacts(Path("oof/a/fold1")) == artefacts(Path("oof/b/fold1"))
    assert sorted(p.name for p in Path("oof/a").iterdir() if p.name.endswith((".part", ".resume.safetensors"))) == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_of_the_real_command(work, shelter, workers):
    """With workers the whole group is told, as schedulers do: the processes that prepare batches die first."""
    config = ("scratch", f"train.workers={workers}") if workers else ("sample",)
    words = [sys.executable, "-m", "pawpularity", "train", "--data", str(shelter), *TOY[2:], "--config", *config,
             "train.epochs=400", "--fold", "0", "--run", "a"]  # fmt: skip
    state = work / "oof/a/.fold0.resume.safetensors"
    process = subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, env=os.environ | {SECONDS: "0"}, start_new_session=True
    )
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.05)
    (os.killpg if workers else os.kill)(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 143, said
    ours = [line for line in said.splitlines() if line.startswith("pawpularity: ")]
    assert len(ours) == 1, said
    there = re.fullmatch(
        "pawpularity: fold 0 stopped in epoch .*, and is kept; the same command goes on there", ours[0]
    )
    if workers:  # torch may say on its way out that they died; what counts is our line and the state
        assert there or ours[0] == "pawpularity: fold 0 stopped; the same command goes on with what was kept before"
    else:
        assert there
        assert said.splitlines()[-1] == ours[0]
        assert "Traceback" not in said
    with safe_open(state, "pt") as file:
        assert "pawpularity" in file.metadata(), "a whole state was left"
