"""What the machine can do: its matrix rate, its memory bandwidth, and what a process holds; and the clock for both."""

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from pawpularity.device import Compute


@dataclass(frozen=True)
class Timing:
    """Seconds of several repeats."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """What is reported."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median: how far the machine was from idle."""
        return (max(self.seconds) - min(self.seconds)) / self.median


def side_by_side(ways: Sequence[Callable[[], None]], compute: Compute, repeats: int, warm_up: int = 1) -> list[Timing]:
    """Time each way `repeats` times in turn, so that a disturbance of the machine hits them alike."""
    seconds: list[list[float]] = [[] for _ in ways]
    for turn in range(warm_up + repeats):
        for way, own in zip(ways, seconds, strict=True):
            compute.synchronise()
            started = time.perf_counter()
            way()
            compute.synchronise()
            if turn >= warm_up:
                own.append(time.perf_counter() - started)
    return [Timing(tuple(own)) for own in seconds]


@lru_cache
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the best of three square products: what no convolution can be expected to exceed."""
    best = 0.0
    for size in (1024, 2048, 4096):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        (timing,) = side_by_side([lambda a=a, b=b: torch.mm(a, b)], _on(device), 5)  # type: ignore[misc, list-item]
        best = max(best, 2 * size**3 / min(timing.seconds))
    return best


@lru_cache
def bandwidths(device: torch.device) -> dict[int, float]:
    """Bytes/s that copies read and write, by the bytes they move: small ones stay in caches, large ones do not."""
    found = {}
    for moved in (1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28):
        a = torch.zeros(moved // 8, device=device)
        b = torch.empty_like(a)
        (timing,) = side_by_side([lambda a=a, b=b: b.copy_(a)], _on(device), 15, warm_up=3)  # type: ignore[misc]
        found[moved] = moved / min(timing.seconds)
    return found


def bandwidth(device: torch.device, moved: float) -> float:
    """Bytes/s of a copy of `moved` bytes, by the faster of the measured sizes around it: a floor must not be too high."""
    table = bandwidths(device)
    around = [size for size in table if size / 4 <= moved <= 4 * size] or [
        min(table, key=lambda size: abs(size - moved))
    ]
    return max(table[size] for size in around)


def anonymous_mb() -> float:
    """RssAnon of this process in MB: memory of its own; mapped files are the kernel's. 0 where there is no /proc."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0.0
    line = next((line for line in status.read_text().splitlines() if line.startswith("RssAnon")), "RssAnon: 0 kB")
    return int(line.split()[1]) / 1e3


class PeakMemory:
    """`with PeakMemory() as peak: ...; peak.mb`: the highest RssAnon seen inside, looked at 50 times a second."""

    def __enter__(self) -> "PeakMemory":
        self.mb = self.before = anonymous_mb()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.mb = max(self.mb, anonymous_mb())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.mb = max(self.mb, anonymous_mb())


def _on(device: torch.device) -> Compute:
    return Compute(device, torch.float32, "")
