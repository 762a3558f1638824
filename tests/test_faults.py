"""Faults of the machine - no memory, a full or a read-only disk, two commands at once, a kill: one line, or nothing changed."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from tests.conftest import ROOT, TOY

from pawpularity.cli import main

SHORT = (*TOY, "train.epochs=1", "train.warmup_epochs=0", "folds.k=2")
TRAIN = ("train", "--config", "scratch", "--data", "input/toy", "--run", "toy", "model.unfrozen=8", *SHORT)


@pytest.fixture(scope="module")
def trained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with one trained run, `toy`, of two folds."""
    place = tmp_path_factory.mktemp("faults")
    (place / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(drawn, place / "input" / "toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(list(TRAIN)) == 0
    return place


@pytest.fixture
def checkout(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `trained` as the current folder."""
    place = tmp_path / "checkout"
    shutil.copytree(trained, place, symlinks=True)
    monkeypatch.chdir(place)
    return place


CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
                   "allocate 4503599627370496 bytes. Error code 12 (Cannot allocate memory)")  # fmt: skip
GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free.")
OWN = "end other programs that use it"
WORDS = {
    "train": (*TRAIN, "--fold", "0"),
    "tune": ("tune", *TRAIN[1:], "--trials", "2"),
    "predict": ("predict", "--run", "toy"),
    "explain": ("explain", "--run", "toy", "--n", "2", "explain.methods=[rise]", "explain.masks=128"),
    "probe": ("probe", "--data", "input/toy", "--backbones", "test_resnet", "model.weights=none", "photos.size=32"),
}
SHORTAGES = [
    ("train", "training.loop.Loop.epoch", CPU, "lower train.batch_size"),
    ("train", "training.loop.Loop.epoch", MemoryError(), "lower train.batch_size"),
    ("train", "training.loop.Loop.epoch", GPU, "lower train.batch_size"),
    ("train", "trunk.build.run", CPU, "lower photos.size"),
    ("tune", "search.objective.fit_fold", CPU, "lower train.batch_size"),
    ("predict", "model.network.Network.tail", GPU, "compute on the CPU with PAWPULARITY_DEVICE=cpu"),
    ("predict", "model.network.Network.tail", CPU, OWN),
    ("explain", "explain.rise._scored", GPU, "lower explain.batch_size"),
    ("probe", "trunk.build.run", MemoryError("Unable to allocate 9 GiB for an array"), "lower photos.size"),
]


@pytest.mark.parametrize(("verb", "place", "error", "cure"), SHORTAGES)
def test_too_little_memory_is_one_line_that_says_what_to_lower(
    checkout, refused, monkeypatch, verb, place, error, cure
):
    shutil.rmtree(checkout / ".cache")

    def short(*args, **more):
        raise error.with_traceback(None)

    monkeypatch.setattr(f"pawpularity.{place}", short)
    line = refused(*WORDS[verb])
    assert line.startswith(f"{verb}: {'the GPU has ' if error is GPU else ''}not enough memory; {cure}"), line
    assert line.endswith(OWN)
    assert not list(checkout.rglob("*.part"))


def test_a_runtime_error_of_another_kind_keeps_its_traceback(checkout, paw, monkeypatch):
    def broken(*args, **more):
        raise RuntimeError("shapes (3,) and (4,) do not match")

    monkeypatch.setattr("pawpularity.training.loop.Loop.epoch", broken)
    with pytest.raises(RuntimeError, match="do not match"):
        paw(*WORDS["train"])


@contextmanager
def mounted(place: Path, *words: str) -> Iterator[None]:
    """`mount ... place`, where one is allowed to."""
    if subprocess.run(["mount", *words, place], capture_output=True, check=False).returncode:
        pytest.skip("mounting is refused here: it takes root on Linux")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def held(place: Path) -> dict[str, bytes]:
    """Every file below `place` but for locks, the cache, and what fills its disk."""
    files = [file for file in sorted(place.rglob("*")) if file.is_file() and file.suffix != ".lock"]
    return {
        f.relative_to(place).as_posix(): f.read_bytes()
        for f in files
        if f.name not in (".lock", "filler") and ".cache" not in f.parts
    }


def promised(place: Path) -> dict[str, bytes]:
    """What the same command leaves byte for byte: records and histories hold times, a bundle the commit and the code."""
    timed = (".json", ".jsonl", ".html", "history.csv", "SHA256SUMS", ".whl")
    return {name: data for name, data in held(place).items() if not name.endswith(timed)}


COMMANDS = {
    "train": (*TRAIN, "--fold", "0"),
    "sample": ("sample", "--photos", "20", "--size", "96", "--into", "input/new/drawn"),
    "predict": ("predict", "--run", "toy"),
    "folds": ("folds", "--data", "input/toy", "folds.k=3"),
    "kernel": ("kernel", "--runs", "toy", "--photos", "4"),
    "report": ("report", "--runs", "toy"),
}
# Where each writes, and where its results stand.
PLACES = [("train", "oof", "oof"), ("sample", "input/new", "input/new"), ("predict", "submissions", "submissions"),
          ("folds", "oof/folds", "oof"), ("kernel", "kernels/build", "kernels"), ("report", "oof", "oof"),
          ("train", ".cache", "oof")]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(trained: Path, tmp_path_factory: pytest.TempPathFactory):
    """What a command leaves below a folder when nothing goes wrong: `undisturbed("train", "oof")`."""

    @cache
    def left(verb: str, results: str) -> dict[str, bytes]:
        place = tmp_path_factory.mktemp(verb) / "checkout"
        shutil.copytree(trained, place, symlinks=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            assert main(list(COMMANDS[verb])) == 0
        return promised(place / results)

    return left


@pytest.mark.parametrize(("verb", "folder", "results"), PLACES)
def test_a_full_disk_is_one_line_and_costs_nothing(checkout, paw, monkeypatch, undisturbed, verb, folder, results):
    """The disk fills while the command writes: what looks at the free space beforehand is told that there is plenty."""
    whole, place, kept = undisturbed(verb, results), checkout / folder, checkout / "kept"
    if folder == ".cache":
        shutil.rmtree(place)
    place.mkdir(parents=True, exist_ok=True)
    shutil.copytree(place, kept)
    refusals = 0
    with mounted(place, "-t", "tmpfs", "-o", "size=4m", "tmpfs"):
        shutil.copytree(kept, place, dirs_exist_ok=True)
        for room in (0, 20_000, 200_000):
            (place / "filler").write_bytes(bytes(shutil.disk_usage(place).free - room))
            before = held(place)
            with monkeypatch.context() as patch:
                plenty = shutil.disk_usage("/")._replace(free=10**12)
                patch.setattr("pawpularity.files.shutil.disk_usage", lambda place, plenty=plenty: plenty)
                outcome = paw(*COMMANDS[verb])
            (place / "filler").unlink()
            if outcome.code == 0:  # it needs no more than that
                break
            refusals += 1
            line = outcome.err.splitlines()[-1]
            assert outcome.code == 2, outcome.err
            assert line.startswith("pawpularity: ")
            assert "Traceback" not in outcome.err
            assert folder in line
            assert "space" in line
            assert ("cache.folder" in line) == (folder == ".cache")
            if folder != ".cache":  # the states that are vouched for stay
                assert held(place) == before
        assert refusals
        assert not list(place.rglob("*.part"))
        assert paw(*COMMANDS[verb]).code == 0
        assert promised(checkout / results) == whole


@pytest.mark.parametrize(("verb", "folder", "results"), PLACES)
def test_a_read_only_folder_is_one_line(checkout, paw, undisturbed, verb, folder, results):
    """Bound onto itself read-only, because root may write what is merely marked so."""
    whole, place = undisturbed(verb, results), checkout / folder
    if folder == ".cache":
        shutil.rmtree(place)
    place.mkdir(parents=True, exist_ok=True)
    before = held(checkout)
    with mounted(place, "--bind", str(place)):
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
        outcome = paw(*COMMANDS[verb])
        assert outcome.code == 2, outcome.err
        line = outcome.err.splitlines()[-1]
        assert line.startswith("pawpularity: ")
        assert "Traceback" not in outcome.err
        assert folder in line
        assert "read-only file system" in line.lower()
        assert held(checkout) == before
    assert paw(*COMMANDS[verb]).code == 0
    assert promised(checkout / results) == whole


@pytest.mark.parametrize("verb", ["train", "predict", "folds"])
def test_data_may_be_read_only(checkout, paw, undisturbed, verb):
    results = next(results for name, _, results in PLACES if name == verb)
    whole = undisturbed(verb, results)
    with mounted(checkout / "input", "--bind", str(checkout / "input")):
        subprocess.run(["mount", "-o", "remount,bind,ro", checkout / "input"], check=True)
        assert paw(*COMMANDS[verb]).code == 0
    assert promised(checkout / results) == whole


def started(words: Sequence[str], code: str = "", **environment: str) -> "subprocess.Popen[str]":
    """The real command in a process of its own, after `code`."""
    run = f"import sys\nfrom pawpularity.cli import main\n{code}\nsys.exit(main(sys.argv[1:]))"
    own = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen([sys.executable, "-c", run, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                            env=own)  # fmt: skip


# Both are held until both are there: the processes go on together from the first file that they make.
TOGETHER = """
import os, time
from pathlib import Path
from pawpularity import cli
run = cli._run
def together(*asked):
    Path(os.environ["MEETING"], str(os.getpid())).touch()
    end = time.monotonic() + 300
    while len(os.listdir(os.environ["MEETING"])) < 2 and time.monotonic() < end:
        time.sleep(0.001)
    return run(*asked)
cli._run = together
"""


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["sample", "predict", "train", "folds"])
def test_two_identical_commands_at_once_leave_what_one_does(checkout, undisturbed, tmp_path, verb):
    results = next(results for name, _, results in PLACES if name == verb)
    whole = undisturbed(verb, results)
    (tmp_path / "meeting").mkdir()
    two = [started(COMMANDS[verb], TOGETHER, MEETING=str(tmp_path / "meeting")) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in two]
    codes = [process.returncode for process in two]
    assert 0 in codes, said
    for code, err in zip(codes, said, strict=True):
        assert code in (0, 2), err
        assert "Traceback" not in err
        if code == 2:
            assert [line.startswith("pawpularity: ") for line in err.splitlines()][-1], err
            assert verb in ("sample", "train"), "the others wait for one another, or do the same"
    assert promised(checkout / results) == whole
    assert not list(checkout.rglob("*.part"))


# The process kills itself at its n-th file moved into place, synced, or opened for writing, whichever comes.
KILLED = """
import io, os, signal
from pathlib import Path
left = [int(os.environ["KILL_AT"])]
def count():
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
def counted(function, due):
    def run(*args, **more):
        if due(*args, **more):
            count()
        return function(*args, **more)
    return run
def writes(path, mode="r", *args, **more):
    return isinstance(path, (str, os.PathLike)) and str(path) != os.devnull and any(c in mode for c in "wax+")
os.replace, os.rename = counted(os.replace, lambda *a, **m: True), counted(os.rename, lambda *a, **m: True)
os.fsync = counted(os.fsync, lambda *a, **m: True)
io.open = counted(io.open, writes)
import builtins
builtins.open = io.open
if os.environ["KILL_AT"] == "0":
    import atexit
    atexit.register(lambda: Path(os.environ["COUNTED"]).write_text(str(-left[0])))
"""
# Without its cache a training decodes the photos and makes the states of the trunk first.
KILLS = [("sample", "input/new"), ("folds", "oof"), ("train", "oof"), ("predict", "submissions"), ("kernel", "kernels")]


def settled(place: Path) -> list[tuple[str, bytes]]:
    """`promised`, without what lies beside its place under a passing name: it goes with the next command, or after an hour."""
    passing = r"\.part(/|$)|\.resume\.safetensors$"
    return [(name, data) for name, data in promised(place).items() if not re.search(passing, name)]


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "results"), KILLS)
def test_a_kill_wherever_it_writes_changes_nothing(
    trained, checkout, paw, undisturbed, tmp_path, monkeypatch, verb, results
):
    """Killed five times, at points drawn from all of its writes; predict decodes the photos of test.csv into the cache first."""
    whole, counting = undisturbed(verb, results), tmp_path / "counting"

    def begin(place: Path) -> None:
        shutil.copytree(trained, place, symlinks=True)
        if verb == "train":
            shutil.rmtree(place / ".cache")
        monkeypatch.chdir(place)

    begin(counting)
    assert started(COMMANDS[verb], KILLED, KILL_AT="0", COUNTED=str(tmp_path / "writes")).wait(300) == 0
    monkeypatch.chdir(tmp_path)
    writes = int((tmp_path / "writes").read_text())
    points = range(1, writes + 1) if writes <= 5 else sorted(random.Random(5).sample(range(1, writes + 1), 5))
    for point in points:
        shutil.rmtree(checkout)
        begin(checkout)
        process = started(COMMANDS[verb], KILLED, KILL_AT=str(point))
        process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, f"write {point} of {writes}"
        assert all(whole.get(name) == data for name, data in settled(checkout / results)), "whole, or not there"
        assert paw(*COMMANDS[verb]).code == 0
        assert dict(settled(checkout / results)) == whole, f"after a kill at write {point} of {writes}"
        monkeypatch.chdir(tmp_path)
