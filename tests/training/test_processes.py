"""One fold over several processes is the fold of one process, and is stopped, resumed and refused as one."""

import json
import multiprocessing
import os
import pickle
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pawpularity.cli import main
from pawpularity.config import resolve
from pawpularity.data.photo_cache import Photos
from pawpularity.device import choose
from pawpularity.errors import UserError
from pawpularity.features.build import FeatureCache
from pawpularity.features.load import PixelInputs
from pawpularity.models.network import build_network
from pawpularity.predictor import score_rows
from pawpularity.signals import Stopped
from pawpularity.training.checkpoint import SECONDS
from pawpularity.training.fit import fit_fold
from pawpularity.training.labelled import LabelledPhotos
from pawpularity.training.launch import Launch
from pawpularity.training.processes import ALONE, Processes, joined
from pawpularity.training.samples import fold_items
from pawpularity.training.sharing import SharedKeeper
from pawpularity.training.stop import StopRequest

CPU = choose("float32", "cpu")
# Nothing random but what all processes draw alike, and no statistics of a batch: then the sums' order alone differs.
QUIET = ("photos.size=32", "train.warmup_epochs=0", "train.dtype=float32", "train.frozen_bn=true", "model.dropout=0",
         "model.metadata_dropout=0", "train.epochs=2")  # fmt: skip
EARLY = ("train.stop=early", "train.schedule=plateau", "train.patience=0", "train.stop_patience=2")
TOLERANCE = 2e-3  # score points; measured: 4e-5


def toy(*words):
    return resolve("scratch", [*QUIET, "train.batch_size=14", *words])


@pytest.fixture(scope="module")
def data():
    """120 photos whose score is their brightness."""
    return brightness()


def brightness():
    numbers = np.random.default_rng(0)
    scores = numbers.integers(5, 95, 120).astype(float)
    photos = scores[:, None, None, None] * 2.2 + numbers.normal(0, 12, (120, 32, 32, 3))
    decoded = Photos.of(np.clip(photos, 0, 255).astype(np.uint8))
    columns = numbers.integers(0, 2, (120, 12)).astype(np.float32)
    return LabelledPhotos(decoded, np.arange(120), columns, scores, np.arange(120))


@pytest.fixture(scope="module")
def forks():
    """Processes that need not wait for torch: forked from a server that has imported it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pawpularity.training.fold", "pawpularity.context", "pawpularity.evaluation.leaderboard",
                                    "pawpularity.training.sharing", "omegaconf", "pytest"])  # fmt: skip
    return context


@pytest.fixture
def ranks(forks, tmp_path):
    """`ranks(work, *args)` runs `work(*args)` in two processes as torchrun would, and gives what each returned.

    As torchrun does, it ends the other one when one fails; `codes` and `said` hold the exit codes and the standard errors.
    """

    def run(work, *args, size=2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        folder = tmp_path / "ranks"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        processes = [forks.Process(target=_rank, args=(n, size, port, str(Path.cwd()), str(folder), work, args))
                     for n in range(size)]  # fmt: skip
        for process in processes:
            process.start()
        until = time.monotonic() + 120
        while any(process.is_alive() for process in processes):
            assert time.monotonic() < until, [(folder / f"{n}.log").read_text() for n in range(size)]
            if any(process.exitcode for process in processes):
                time.sleep(0.1)
                for process in processes:
                    process.terminate()
            time.sleep(0.02)
        run.codes = [process.exitcode for process in processes]
        run.said = [(folder / f"{n}.log").read_text() for n in range(size)]
        files = [folder / f"{n}.pickle" for n in range(size)]
        return [pickle.loads(file.read_bytes()) if file.exists() else None for file in files]

    return run


def _rank(rank, size, port, where, folder, work, args):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    torch.set_num_threads(1)
    os.chdir(where)
    with (Path(folder) / f"{rank}.log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    result = work(*args)
    (Path(folder) / f"{rank}.pickle").write_bytes(pickle.dumps(result))


def _command(*words, **patches):
    sys.exit(main([str(word) for word in words]))


def fit(config, data, processes=ALONE, **more):
    training, scored = np.arange(50), np.arange(50, 120)
    items = fold_items(config, data.scores, training, scored, 1, 3)
    fitted = fit_fold(config, data, training, fold=1, compute=CPU, items=items, processes=processes, **more)
    inputs = data.pixels
    answers = processes.score_rows(fitted.network, inputs, scored, data.metadata[scored], CPU, view=0)
    state = {name: tensor.numpy().copy() for name, tensor in fitted.network.trained_state().items()}
    history = [(e.train_rmse, e.inner_rmse, e.lr) for e in fitted.history]
    return state, history, fitted.epochs, answers


RECIPES = {
    "everything trained": (),
    "early+plateau+ema+refit": (*EARLY, "train.refit=true", "train.ema=0.8", "train.lr=2e-2"),
    "mixup": ("train.mixup=0.4",),
    "manifold": ("train.manifold_mixup=0.4", "model.unfrozen=12"),
    "trunk": ("model.unfrozen=12", *EARLY),
    "mse+copies": ("train.loss=mse", "model.output=linear", "train.copies=authors", "train.augment=flip"),
    "head alone": ("model.unfrozen=0", "model.metadata=none", "train.batch_size=4"),
}


def _fit_all(folder):
    found = {}
    with joined("float32") as (processes, _):
        for name, words in RECIPES.items():
            found[name] = fit(toy(*words), kept(brightness(), Path(folder), words), processes)
    return found


def kept(data, folder, words):
    """`data` with a place for trunk states where something is frozen."""
    if "model.unfrozen=12" not in words:
        return data
    trunks = FeatureCache(folder / "features", replace(data.photos, key="k"), 32, 1.0)
    return replace(data, photos=trunks.photos, trunks=trunks)


@pytest.mark.slow
def test_the_fit_of_several_processes_is_that_of_one(data, ranks, tmp_path):
    """Three processes share batches of 12 and 13: shares of 4 and 5. Weighted alike they would move predictions by 0.3 at least."""
    found = ranks(_fit_all, str(tmp_path), size=3)
    assert ranks.codes == [0, 0, 0], ranks.said
    for name, words in RECIPES.items():
        state, history, epochs, answers = fit(toy(*words), kept(data, tmp_path, words))
        theirs, their_history, their_epochs, their_answers = found[0][name]
        assert their_epochs == epochs
        np.testing.assert_allclose(their_history, history, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(their_answers, answers, atol=TOLERANCE, err_msg=name)
        # Of the mean: Adam makes a whole step of a gradient that is nothing but rounding.
        off = np.concatenate([np.abs(theirs[key] - state[key]).ravel() for key in state])
        assert off.mean() < 1e-5, name
        assert all(pickle.dumps(one[name]) == pickle.dumps(found[0][name]) for one in found), "all hold the same bytes"


NOISY = ("train.epochs=2", "model.dropout=0.4", "model.metadata_dropout=0.3", "train.mixup=0.4", "train.ema=0.8", *EARLY,
         "train.refit=true", "train.batch_size=16")  # fmt: skip


def _whole_and_in_pieces(folder):
    """A noisy fit in one go, then in pieces of 1 to 9 steps: only the last process is asked to stop, at that step."""
    config, rows, draw, said = toy(*NOISY), brightness(), random.Random(5), []
    with joined("float32") as (processes, _):
        whole = fit(config, rows, processes)
        while True:
            request, left = StopRequest(), [draw.randint(1, 9)]

            def count(step, steps, request=request, left=left):
                left[0] -= 1
                if left[0] == 0 and processes.launch.rank == processes.size - 1:
                    request.asked = signal.SIGTERM

            keeper = SharedKeeper(
                Path(folder) / ".fold1.resume.safetensors", 1, {"settings": "toy"}, request, processes
            )
            torch.rand(len(said) + 3 + processes.launch.rank)  # whatever another process drew before
            try:
                with keeper.helped():
                    return whole, fit(config, rows, processes, on_step=count, keeper=keeper), said
            except Stopped as stopped:
                said.append((stopped.exit_code, stopped.line))


def test_all_processes_stop_after_the_step_at_which_one_was_asked_and_go_on_to_the_same_bytes(ranks, tmp_path):
    """Dropout and mixing draw at every step, so that a random state of any process that is not restored is seen; and the sum
    of three gradients depends on their order."""
    found = ranks(_whole_and_in_pieces, str(tmp_path), size=3)
    assert ranks.codes == [0, 0, 0], ranks.said
    for whole, pieces, said in found:
        assert pickle.dumps(pieces) == pickle.dumps(whole)
        assert said == found[0][2]
        assert len(said) >= 2
        assert all(code == 143 and "is kept; the same command goes on there" in line for code, line in said)
    assert pickle.dumps(found[0][0]) == pickle.dumps(found[2][0])


def _noise():
    with joined("float32") as (processes, _):
        from pawpularity.training.loop import Loop

        Loop(toy(), brightness(), build_network(toy(), fold=0), CPU, 0, None, None, processes=processes)
        return torch.rand(4).tolist()


def test_every_process_draws_noise_of_its_own_and_the_first_that_of_one_process(ranks):
    first, second = ranks(_noise)
    torch.manual_seed(0)
    assert first == torch.rand(4).tolist()
    assert not set(first) & set(second)


def _scored(view):
    taken, rows = [], brightness()
    take = PixelInputs.take
    PixelInputs.take = lambda self, at, views: (taken.extend(at.tolist()), take(self, at, views))[1]
    network = build_network(toy(), fold=0)
    at = np.random.default_rng(1).permutation(120)[:100]
    with joined("float32") as (processes, _):
        found = [processes.score_rows(network, rows.pixels, at[:n], rows.metadata[at[:n]], CPU, view=view[:n])
                 for n in (100, 64, 1)]  # fmt: skip
    return found, taken


def test_every_row_is_scored_by_one_process_to_the_last_bit(data, ranks):
    view = np.random.default_rng(2).integers(0, 2, 100)
    at = np.random.default_rng(1).permutation(120)[:100]
    (one, first), (two, second) = ranks(_scored, view)
    assert sorted(first + second) == sorted([*at, *at[:64], *at[:1]])
    assert len(second) == 36
    network = build_network(toy(), fold=0)
    for n, a, b in zip((100, 64, 1), one, two, strict=True):
        alone = score_rows(network, data.pixels, at[:n], data.metadata[at[:n]], CPU, view=view[:n])
        assert a.tobytes() == b.tobytes() == alone.tobytes()


def _faults(which):
    def fault(rank):
        raise UserError(f"process {rank} found it")

    with joined("float32") as (processes, _):
        rank = processes.launch.rank
        said = []
        for ranks in which:
            try:
                said.append(processes.agreed(lambda ranks=ranks: fault(rank) if rank in ranks else "well"))
            except UserError as error:
                said.append(str(error))
        turns = []
        processes.in_turn(lambda: (time.sleep(0.3 * (1 - rank)), turns.append(time.monotonic())))
        return said, turns[0], processes.largest(rank, 5 - rank), processes.to_first(rank), processes.from_first(rank)


def test_a_fault_of_one_is_a_fault_of_all(ranks):
    first, second = ranks(_faults, [(), (1,), (0,), (0, 1)])
    assert first[0] == ["well", "process 1 found it", "process 0 found it", "process 0 found it"]
    assert second[0] == ["well", "process 1 found it", "process 0 found it", "process 1 found it"]
    assert second[1] > first[1], "the second came after the first"
    assert first[2:] == ((1, 5), [0, 1], 0)
    assert second[2:] == ((1, 5), [], 0)


TRAIN = ("--config", "sample", *QUIET, "train.batch_size=4", "model.dropout=0.2", "folds.k=3")


def test_faults_are_said_once_and_nothing_is_left(work, shelter, ranks):
    for more, line in (
        (("train.frozen_bn=false",), "2 processes on a CPU cannot share the statistics that backbone.layer3.0.bn1 learns; add "
                                     "train.frozen_bn=true, or train in one process"),
        (("model.args={layers: 7}",), "timm cannot build"),
        (("train.no=1",), "train.no"),
    ):  # fmt: skip
        ranks(_command, "train", "--data", shelter, *TRAIN, "--fold", 1, "--run", "a", *more)
        assert ranks.codes[0] == 2, ranks.said
        assert ranks.said[0].count("pawpularity: ") == 1
        assert line in ranks.said[0].splitlines()[-1]
        assert ranks.said[1] == "", "the first speaks"
        assert not Path("oof/a").exists()
    # A batch of two leaves a third process without work. Only its own fault makes another process than the first speak.
    ranks(_command, "train", "--data", shelter, *TRAIN, "train.batch_size=2", "--fold", 1, "--run", "a", size=3)
    assert "3 processes and a batch of 2: one would have nothing to do" in ranks.said[0].splitlines()[-1]
    assert ranks.said[1:] == ["", ""]
    ranks(_failing_second, "train", "--data", shelter, *TRAIN, "--fold", 1, "--run", "a")
    assert ranks.codes[1] == 2
    assert ranks.said[1] == "pawpularity: the second machine has no data\n"
    assert ranks.said[0].splitlines()[-1].endswith("the same command goes on from there")
    assert "Traceback" not in ranks.said[0]


def _failing_second(*words):
    """A fault of the second process that the others do not wait to hear of."""
    from pawpularity.training import fold as train
    from pawpularity.training import launch

    def fault(*_):
        raise UserError("the second machine has no data")

    launch.PATIENCE = 0.1
    if os.environ["RANK"] == "1":
        train.labelled_photos = fault
    _command(*words)


def test_other_verbs_and_missing_gpus_are_refused(work, shelter, refused, monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    for verb in ("tune", "oof", "jobs", "table1", "all"):
        assert refused(verb).startswith(f"{verb}: cannot be shared by 2 processes (torchrun); only train can")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    line = refused("train", "--data", shelter, *TRAIN, "--fold", 1)
    assert line.startswith("2 processes and 1 GPU: each needs one of its own; start 1 at most")
    assert not Path("oof").exists()


def test_batchnorms_of_several_gpus_share_statistics_and_the_network_stays_the_same():
    """What can be seen without GPUs: evaluation, in which SyncBatchNorm is BatchNorm, names, and the moving average's copy."""
    from timm.utils import ModelEmaV3

    several = Processes(Launch(0, 2, 0, 2))
    gpu = replace(CPU, device=torch.device("cuda", 0))
    x = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    for name in ("small/densenet161", "small/resnet152", "small/vgg19_bn", "small/efficientnet_b7", "sample"):
        words = ["photos.size=64", "train.frozen_bn=false", *(["model.unfrozen=9"] if "/" in name else [])]
        network = build_network(resolve(name, words), fold=0)
        due, names, hashes = network(x), list(network.state_dict()), network.frozen_hash()
        several.share_statistics(network, gpu)
        learning = {type(m).__name__ for m in network.train().modules() if m.training and hasattr(m, "running_mean")}
        assert learning <= {"SyncBatchNorm", "SyncBatchNormAct"}, name
        assert learning, name
        network.eval()
        assert (list(network.state_dict()), network.frozen_hash()) == (names, hashes)
        assert torch.equal(network(x), due), name
        assert torch.equal(ModelEmaV3(network, decay=0.9).module(x), due), name
        blocks = {id(module) for block in network.split.blocks for part in block.modules for module in part.modules()}
        assert blocks <= {id(module) for module in network.backbone.modules()}, "no block kept an old BatchNorm"
    with pytest.raises(UserError, match=r"add train\.frozen_bn=true"):
        several.share_statistics(build_network(resolve("scratch", ["photos.size=32"]), fold=0), CPU)
    ALONE.share_statistics(network, CPU)
    several.share_statistics(build_network(resolve("sample", []), fold=0), CPU)


def artefacts(fold):
    """What must be the same bytes, and what must be but for its times."""
    named = f'\\"run\\": \\"{fold.parent.name}\\"'.encode()
    files = [(fold / name).read_bytes().replace(named, b"run") for name in ("predictions.csv", "head.safetensors")]
    history = [line.rsplit(",", 1)[0] for line in (fold / "history.csv").read_text().splitlines()]
    metrics = json.loads((fold / "metrics.json").read_text())
    del metrics["seconds"], metrics["git_commit"]  # the checkout may be worked on between two commands
    return files, history, metrics


def torchrun(*words, **environment):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "--",
        "pawpularity",
    ]
    return subprocess.Popen([*command, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment)  # fmt: skip


@pytest.mark.slow
def test_torchrun_trains_stops_is_killed_and_goes_on(work, shelter, ranks, refused):
    words = ("train", "--data", shelter, *TRAIN, "train.epochs=12", "--fold", 1)
    state = Path("oof/a/.fold1.resume.safetensors")

    # Stopped: both processes are told, the first keeps the state.
    process = torchrun(*words, "--run", "a", **{SECONDS: "0"})
    wait_for_another(state, process)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=300)[1]
    ours = [line for line in said.splitlines() if line.startswith("pawpularity: ")]
    assert len(ours) == 1, said
    assert re.search(
        r"fold 1 stopped in epoch .* of 12, step .* of 10, and is kept; the same command goes on there", ours[0]
    )
    assert process.returncode == 1, "torchrun's own; our processes ended with 143"
    assert said.count("; 2 processes\n") == 1, "one process speaks"
    kept = state.read_bytes()
    line = refused(*words, "--run", "a")
    assert "by 2 processes, and goes on only with as many; start it with torchrun --nproc-per-node 2, or anew" in line
    assert state.read_bytes() == kept

    # Killed: torchrun ends the other process, which leaves what was kept.
    process = torchrun(*words, "--run", "a", **{SECONDS: "0"})
    wait_for_another(state, process)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(workers) == 2
    os.kill(int(workers[1]), signal.SIGKILL)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert "goes on where it was stopped, in epoch" in said
    assert [line for line in said.splitlines() if line.startswith("pawpularity: ")] == [
        "pawpularity: fold 1 stopped; the same command goes on with what was kept before"
    ]
    assert not Path("oof/a/fold1").exists()

    ranks(_command, *words, "--run", "a")
    assert ranks.codes == [0, 0], ranks.said
    assert "goes on where it was stopped, in epoch" in ranks.said[0]
    ranks(_command, *words, "--run", "b")
    assert ranks.codes == [0, 0], ranks.said
    assert artefacts(Path("oof/a/fold1")) == artefacts(Path("oof/b/fold1"))
    assert json.loads(Path("oof/b/fold1/metrics.json").read_text())["processes"] == 2
    assert sorted(p.name for p in Path("oof/a").iterdir()) == sorted(p.name for p in Path("oof/b").iterdir())


def wait_for_another(state, process):
    """Until a state is kept that was not there before."""
    before = state.stat().st_mtime_ns if state.exists() else 0
    while not state.exists() or state.stat().st_mtime_ns == before:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def test_the_folds_of_two_processes_are_those_of_one(work, shelter, ranks, paw):
    """The real command, all folds in turn, without dropout: states of the trunk, scoring with mirror images, the OOF table."""
    words = ("train", "--data", shelter, *TRAIN, "model.dropout=0", "predict.flip=true", "train.batch_size=9", "--run")
    ranks(_command, *words, "two")
    assert ranks.codes == [0, 0], ranks.said
    assert ranks.said[1] == ""
    assert "trunk   .cache/trunk" in ranks.said[0]
    assert "another process" not in ranks.said[0]
    assert paw(*words, "one").code == 0
    one, two = (pd.read_csv(f"oof/{run}/oof.csv") for run in ("one", "two"))
    assert len(two) == 60
    assert (one[["Id", "fold", "target"]] == two[["Id", "fold", "target"]]).all().all()
    assert (one["prediction"] - two["prediction"]).abs().max() < TOLERANCE
    for fold in range(3):
        tails = [load_file(f"oof/{run}/fold{fold}/head.safetensors") for run in ("one", "two")]
        assert tails[0].keys() == tails[1].keys()
        off = torch.cat([(tails[0][key] - tails[1][key]).abs().ravel() for key in tails[0]])
        assert off.mean() < 1e-5
    records = [json.loads(Path(f"oof/{run}/config.json").read_text()) for run in ("one", "two")]
    assert records[0] == records[1], "the record of a run does not know how many processes trained it"
    # The same fold again, where another process holds its lock: both refuse, the first says so.
    from filelock import FileLock

    with FileLock("oof/two/.fold1.lock"):
        ranks(_command, *words, "two", "--fold", 1)
    assert ranks.codes[0] == 2
    assert ranks.said[0].splitlines()[-1].endswith("another process is training this fold; wait for it")
    assert ranks.said[1] == ""


@pytest.mark.slow
def test_the_command_starts_its_processes_and_ends_with_one_line(work, shelter):
    words = ["train", "--data", str(shelter), "--config", "scratch", *QUIET, "--fold", "0", "--processes"]

    def command(*more):
        environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        done = subprocess.run(
            [sys.executable, "-m", "pawpularity", *words, *more], capture_output=True, text=True, env=environment
        )
        return (
            done.returncode,
            [line for line in done.stderr.splitlines() if line.startswith("pawpularity: ")],
            done.stderr,
        )

    code, ours, said = command("2")
    assert (code, ours) == (0, []), said
    metrics = json.loads(Path("oof/scratch-toy/fold0/metrics.json").read_text())
    assert metrics["processes"] == 2
    code, ours, said = command("2", "train.frozen_bn=false")
    assert (code, len(ours)) == (2, 1), said
    assert "Traceback" not in said
    assert "terminate called" not in said
    code, ours, said = command("5000")
    assert code == 2
    assert re.fullmatch(
        r"pawpularity: --processes 5000: this machine has \d+ cores and no GPU; take \d+ at most", ours[0]
    )
    assert command("0")[0] == 2
