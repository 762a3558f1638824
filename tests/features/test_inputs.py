"""Processes that prepare batches: what is fed, and what is said of one that is killed."""

import multiprocessing
import os
import signal
import time
import warnings

import numpy as np
import pytest
import torch

from pawpularity.data.photo_cache import Photos
from pawpularity.features.load import HELPERS, PixelInputs

pytestmark = pytest.mark.skipif(not hasattr(os, "waitid"), reason="waits for a death that PyTorch is to reap")


def begun(feed):
    """The feed's first batch was taken; its processes, of which others may run beside it here."""
    before = set(multiprocessing.active_children())
    next(feed)
    return [process.pid for process in multiprocessing.active_children() if process not in before]


def kill(victim: int) -> str:
    """SIGKILL; what its SIGCHLD said, which comes when the last of the process's threads has ended."""
    os.kill(victim, signal.SIGKILL)
    os.waitid(os.P_PID, victim, os.WEXITED | os.WNOWAIT)
    end = time.monotonic() + 300
    while HELPERS.died is None:  # another thread may have taken the signal; this one is told of it
        assert time.monotonic() < end, "nothing was heard of the death"
        time.sleep(0.005)
    return str(HELPERS.died)


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
    assert "is killed by signal: Killed" in kill(helpers[1])  # PyTorch's own handler would raise here
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid \d+\) is killed by signal: Killed"):
        next(feed)
    with pytest.raises(RuntimeError, match="is killed by signal: Killed"):
        next(inputs.feed(ROWS, BATCHES, 2, False))  # as long as it is the same processes


def test_new_processes_know_nothing_of_a_death_before(inputs):
    feed = inputs.feed(ROWS, BATCHES, 2, False)
    kill(begun(feed)[0])
    again = PixelInputs(inputs.photos, inputs.photo_rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(again.feed(ROWS, BATCHES, 2, False))) == len(BATCHES)
    assert HELPERS.died is None
