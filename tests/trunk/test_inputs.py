"""Processes that prepare batches: what is fed, and what is said of one that is killed."""

import multiprocessing
import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from pawpularity.competition.photo_cache import Photos
from pawpularity.trunk.inputs import HELPERS, PixelInputs

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="finds the processes in /proc")


def dead(pid: int) -> bool:
    """Ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def begun(feed):
    """The feed's first batch was taken; its processes, of which others may run beside it here."""
    before = set(multiprocessing.active_children())
    next(feed)
    return [process.pid for process in multiprocessing.active_children() if process not in before]


def kill(victim: int) -> None:
    """SIGKILL, and its SIGCHLD has come."""
    os.kill(victim, signal.SIGKILL)
    end = time.monotonic() + 60
    while not dead(victim):
        assert time.monotonic() < end
        time.sleep(0.005)
    time.sleep(0.05)


@pytest.fixture
def inputs():
    pixels = np.arange(24, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    return PixelInputs(Photos.of(pixels), np.arange(24)[::-1].copy())


ROWS = np.arange(24)
BATCHES = [(np.arange(start, start + 4), np.zeros(4, np.int64)) for start in range(0, 24, 4)]


def test_processes_feed_what_one_process_takes(inputs):
    fed = list(inputs.feed(ROWS, BATCHES, 2, False))
    for (x, positions), (rows, views) in zip(fed, BATCHES, strict=True):
        assert torch.equal(x, inputs.take(rows, views))
        assert positions is rows


def test_a_death_is_told_where_a_batch_is_awaited_and_nowhere_else(inputs):
    feed = inputs.feed(ROWS, BATCHES * 20, 2, False)
    helpers = begun(feed)
    assert len(helpers) == 2
    kill(helpers[1])  # PyTorch's own handler would raise here
    assert "is killed by signal: Killed" in str(HELPERS.died)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid \d+\) is killed by signal: Killed"):
        next(feed)
    with pytest.raises(RuntimeError, match="is killed by signal: Killed"):
        next(inputs.feed(ROWS, BATCHES, 2, False))  # as long as it is the same processes


def test_new_processes_know_nothing_of_a_death_before(inputs):
    feed = inputs.feed(ROWS, BATCHES, 2, False)
    kill(begun(feed)[0])
    assert HELPERS.died is not None
    again = PixelInputs(inputs.photos, inputs.photo_rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(again.feed(ROWS, BATCHES, 2, False))) == len(BATCHES)
    assert HELPERS.died is None
