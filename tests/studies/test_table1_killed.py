"""Table 1 killed again and again, wherever it happens to be, and gone on with: the table of one that was never killed."""

import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from pawpularity.cli import main
from pawpularity.training.checkpoint import SECONDS, Keeper

WORDS = ("--backbones", "densenet161", "--copies", "authors", "photos.size=32", "train.epochs=2",
         "train.warmup_epochs=0", "train.dtype=float32")  # fmt: skip
TIMES = ["seconds", "machine"]


def _command(folder: str, words: list[str], log: str, pause: float) -> None:
    """The real command, with a pause after every step so that it outlasts the kills."""
    os.chdir(folder)
    due = Keeper.due
    Keeper.due = lambda self: (time.sleep(pause), due(self))[1]
    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(main(words))


def _artefacts(folder: Path) -> dict[str, bytes]:
    """Every file the design promises byte for byte: predictions, tails, tables of rows; not times, locks or caches."""
    kept = ("predictions.csv", "head.safetensors", "oof.csv")
    files = [*folder.rglob("oof/table1-*/**/*"), *folder.glob("oof/table1/leaky-*.csv")]
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(files)
        if file.name in kept or file.parent.name == "table1"
    }


@pytest.mark.slow
def test_kills_change_nothing_in_the_table(shelter, tmp_path, monkeypatch):
    monkeypatch.setenv(SECONDS, "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pawpularity.studies.table1", "pawpularity.context", "omegaconf"])
    words = ["table1", "--data", str(shelter), *WORDS]
    configs = Path(__file__).resolve().parents[2] / "configs"
    places = [tmp_path / name for name in ("whole", "killed")]
    for place in places:
        place.mkdir()
        (place / "configs").symlink_to(configs)
    whole, killed = places

    def start(place: Path, pause: float = 0.0):
        process = context.Process(target=_command, args=(str(place), words, str(place / "log"), pause))
        process.start()
        return process

    process = start(whole)
    process.join()
    assert process.exitcode == 0, (whole / "log").read_text()
    draw, kills = random.Random(5), 0
    for _ in range(6):
        process = start(killed, pause=0.2)
        process.join(draw.uniform(0.3, 3.0))
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills >= 3, "the table was finished before it could be killed three times"
    process = start(killed)
    process.join()
    assert process.exitcode == 0, (killed / "log").read_text()
    assert _artefacts(killed) == _artefacts(whole)
    assert len(_artefacts(whole)) == 5 * 2 + 1 + 1
    tables = [
        pd.read_csv(place / "oof/table1/table1-toy-part.csv").drop(columns=TIMES, errors="ignore") for place in places
    ]
    pd.testing.assert_frame_equal(*tables)
    assert not list(killed.rglob("*.part"))
