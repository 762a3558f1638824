"""Folds as separate jobs: the work list, several processes at once, and folds that somebody else has taken."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pawpularity.runs import Run
from pawpularity.training.checkpoint import SECONDS

ROOT = Path(__file__).resolve().parents[2]
TOY = ("photos.size=32", "train.batch_size=4", "train.warmup_epochs=0", "folds.k=2", "model.metadata_widths=[8,16]")


def lines(done):
    assert done.code == 0, done.err
    return [shlex.split(line) for line in done.out.splitlines()]


def options(words):
    return {word: words[at + 1] for at, word in enumerate(words) if word in ("--config", "--run", "--fold", "--data")}


def test_the_work_list_leaves_out_what_is_done(work, shelter, paw, refused):
    words = ("jobs", "--data", shelter, *TOY, "train.epochs=1")
    due = lines(paw(*words))
    assert [options(line)["--fold"] for line in due] == ["0", "1"]
    assert due[0][:4] == [sys.executable, "-m", "pawpularity", "train"]
    assert "model.metadata_widths=[8,16]" in due[0], "quoted so that a shell hands it on whole"
    # A line is a command: run as it stands, its job is done.
    assert paw(*due[0][3:]).code == 0
    assert Path("oof/sample-toy/fold0/metrics.json").is_file()
    rest = paw(*words)
    assert lines(rest) == [due[1]]
    assert "1 to do, 1 done already" in rest.err
    assert paw(*due[1][3:]).code == 0
    assert lines(paw(*words)) == []
    assert "train.lr was" in refused(*words, "train.lr=0.02")


def test_the_work_list_crosses_folds_configs_and_seeds(work, shelter, paw, refused):
    words = ("jobs", "--data", shelter, *TOY, "train.epochs=1")
    due = [options(line) for line in lines(paw(*words, "--configs", "sample scratch,small/paper", "--seeds", "0 3"))]
    assert [(one["--run"], one["--fold"]) for one in due] == [
        (run, fold)
        for run in ("sample-toy", "sample-toy-seed3", "scratch-small-paper-toy", "scratch-small-paper-toy-seed3")
        for fold in ("0", "1")
    ]  # fmt: skip
    assert {one["--config"] for one in due} == {"sample", "scratch,small/paper"}
    seeded = lines(paw(*words, "--seeds", "3", "--folds", "1", "--fresh"))
    assert len(seeded) == 1
    assert "train.seed=3" in seeded[0]
    assert "--fresh" in seeded[0]
    assert "0..1" in refused(*words, "--folds", "2")
    assert "no whole number" in refused(*words, "--seeds", "x")
    assert "two of these jobs" in refused(*words, "--configs", "sample sample")
    assert "one name for 2 runs" in refused(*words, "--seeds", "0 1", "--run", "a")
    assert "give one of them" in refused(*words, "--config", "sample", "--configs", "sample scratch")


@pytest.mark.slow
def test_a_fold_that_is_taken_is_left_and_one_whose_process_was_killed_is_not(work, shelter, paw, refused):
    words = [
        "train",
        "--data",
        str(shelter),
        "--config",
        "sample",
        *TOY,
        "train.epochs=150",
        "--run",
        "a",
        "--fold",
        "0",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "pawpularity", *words], stderr=subprocess.PIPE, env=os.environ | {SECONDS: "0"}
    )
    try:
        while not Path("oof/a/.fold0.resume.safetensors").exists():
            assert process.poll() is None
            time.sleep(0.02)
        done = paw(*words, "--skip-taken")
        assert done.code == 0, done.err
        assert "fold 0 is left to others: oof/a/fold0: another process is training this fold" in done.err
        assert done.out == ""
        assert "another process is training this fold; wait for it" in refused(*words)
        assert process.poll() is None, "the test must ask while the other still trains"
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = paw(*words, "--skip-taken")
    assert done.code == 0, done.err
    assert "goes on where it was stopped" in done.err
    before = Path("oof/a/fold0/metrics.json").stat().st_mtime_ns
    done = paw(*words, "--skip-taken")
    assert done.code == 0
    assert "fold 0 is trained already" in done.err
    assert Path("oof/a/fold0/metrics.json").stat().st_mtime_ns == before


def test_a_fold_that_was_finished_while_we_started_is_left(work, shelter, paw, monkeypatch):
    words = ("train", "--data", shelter, "--config", "sample", *TOY, "train.epochs=1", "--run", "a", "--fold", 0)
    assert paw(*words).code == 0
    before = Path("oof/a/fold0/metrics.json").stat().st_mtime_ns
    known, asked = Run.trained_folds, []

    def late(self):
        asked.append(1)
        return [] if len(asked) == 1 else known(self)

    monkeypatch.setattr(Run, "trained_folds", late)
    done = paw(*words, "--skip-taken")
    assert done.code == 0
    assert "fold 0 is left to others: oof/a/fold0: is trained already" in done.err
    assert Path("oof/a/fold0/metrics.json").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.skipif(not all(map(shutil.which, ("make", "xargs"))), reason="needs make and xargs")
def test_two_jobs_at_once_give_the_bytes_of_one_process(work, shelter):
    binaries = work / "venv/bin"
    binaries.mkdir(parents=True)
    front = binaries / "pawpularity"
    front.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pawpularity "$@"\n')
    front.chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt", "venv/.installed"):
        (work / name).touch()
    settings = shlex.join([*TOY, "train.epochs=2"])
    free = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}

    def make(*words):
        told = [
            "make",
            "--no-print-directory",
            "-f",
            str(ROOT / "Makefile"),
            f"VENV={work / 'venv'}",
            f"DATA={shelter}",
        ]
        return subprocess.run([*told, *words], capture_output=True, text=True, env=free, check=False)

    done = make("train", "JOBS=2", f"ARGS={settings}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split()[:2] == ["sample-toy", "2/2"]
    metrics = [json.loads(Path(f"oof/sample-toy/fold{fold}/metrics.json").read_text()) for fold in (0, 1)]
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert [one["torch_threads"] for one in metrics] == [share, share]
    alone = [
        sys.executable,
        "-m",
        "pawpularity",
        "train",
        "--data",
        str(shelter),
        "--run",
        "one",
        *shlex.split(settings),
    ]
    subprocess.run(alone, check=True, capture_output=True, env=free | {"OMP_NUM_THREADS": str(share)})
    files = ["oof.csv", *(f"fold{fold}/predictions.csv" for fold in (0, 1))]
    assert all((Path("oof/one") / file).read_bytes() == (Path("oof/sample-toy") / file).read_bytes() for file in files)
    assert [one["head_hash"] for one in metrics] == [
        json.loads(Path(f"oof/one/fold{fold}/metrics.json").read_text())["head_hash"] for fold in (0, 1)
    ]
    refused = make("train", "JOBS=2", f"ARGS={settings} train.lr=0.1")
    assert refused.returncode == 2
    assert "train.lr was" in refused.stderr
    assert make("train", "JOBS=2", "FOLD=1").returncode == 2
