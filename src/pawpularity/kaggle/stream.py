"""Photos to scores in one pass, a chunk at a time: decoded in the background, through every trunk once, blended at once.

Memory does not grow with the number of photos: two chunks are decoded ahead, and a chunk holds 16 MB of pixels or a batch.
A photo that cannot be used gets the mean prediction, and its Id is said; a backbone that fails is left out, and that is said.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pawpularity.console import log
from pawpularity.data.photos import PhotoError, decode, prefetch, thread_count
from pawpularity.kaggle.blend import Blend
from pawpularity.kaggle.plan import Cost, Plan, Use, mean_cost
from pawpularity.predictor import SCORED_AT_ONCE

Item = TypeVar("Item")
Result = TypeVar("Result")
Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Shape = tuple[int, str]
"""(size, fit)"""

BATCH = SCORED_AT_ONCE
"""As `make predict` has it: another size may pick other convolution kernels, and differ in the last digits."""
CHUNK_BYTES = 16e6
EVERY_S = 60.0
PATIENCE_S = 30.0
"""For one photo: the largest that is taken needs 3 s; one made to take hours must not take the others' time."""
STUCK = "its decoding does not end"
"""What is wrong with a photo that was given up."""
NAMED = 20
"""Bad photos named one by one; the rest are counted."""


class Answers(Protocol):
    """What a family makes of a chunk; see `families.Answer`."""

    scores: dict[str, Floats]
    trunk_s: float
    tail_s: float


class Asked(Protocol):
    """Runs that share a trunk; see `families.Family`."""

    name: str
    size: int
    fit: str

    def answer(self, pixels: Pixels, columns: NDArray[np.float32] | None, uses: Mapping[str, Use]) -> Answers:
        """Scores of a chunk."""
        ...


@dataclass
class Outcome:
    """What became of the photos."""

    scores: Floats
    """(n,)"""
    faults: dict[str, str] = field(default_factory=dict)
    """Id -> what was wrong with the photo"""
    stuck: int = 0
    """photos whose decoding was given up, and goes on in threads that nobody waits for"""
    not_asked: int = 0
    """photos that there was no time for"""
    first_photo: float | None = None
    """clock when the first photo was asked for"""
    processor_s: float = 0.0
    """that all threads computed from the first photo on"""
    seconds: dict[str, float] = field(default_factory=dict)
    """waiting for decoded photos; decoding, of all threads; and per family trunk and tails"""


@dataclass(frozen=True)
class Chunk:
    """Some photos, decoded."""

    start: int
    stop: int
    pixels: Mapping[Shape, Pixels]
    """per shape (n, size, size, 3); black where a photo cannot be used"""
    faults: Mapping[int, str]
    decode_s: float
    stuck: int = 0
    """photos whose decoding was given up; their threads go on, as a thread cannot be ended"""


def bounds(rows: int, shapes: Sequence[Shape]) -> list[tuple[int, int]]:
    """Chunks of whole batches, the first of one batch: it warms up, and tells early whether the time will do."""
    each = sum(3 * size * size for size, _ in shapes)
    step = BATCH * max(1, int(CHUNK_BYTES / (BATCH * each)))
    edges = [0, *range(BATCH, rows, step)]
    return list(zip(edges, [*edges[1:], rows], strict=True)) if rows else []


def decoded(
    paths: Sequence[Path],
    shapes: Sequence[Shape],
    threads: int | None = None,
    *,
    deadline: float = float("inf"),
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Chunk]:
    """The photos as chunks, in order, decoded by threads; of those that are not there by `deadline` nothing is waited for."""

    def attempt(path: Path) -> tuple[list[Pixels] | str, float]:
        started = time.perf_counter()
        try:
            return [decode(path, size, fit) for size, fit in shapes], time.perf_counter() - started
        except PhotoError as error:
            return error.reason, time.perf_counter() - started
        except Exception as error:  # whatever a photo may do, it must not cost the others their scores
            return f"{type(error).__name__}: {error}", time.perf_counter() - started

    made = _patiently(attempt, paths, threads or thread_count(), lambda: min(PATIENCE_S, max(0.0, deadline - clock())))
    for start, stop in bounds(len(paths), shapes):
        pixels = {shape: np.zeros((stop - start, shape[0], shape[0], 3), dtype=np.uint8) for shape in shapes}
        faults: dict[int, str] = {}
        spent, stuck = 0.0, 0
        for row in range(start, stop):
            answer = next(made)
            stuck += answer is None
            found, seconds = answer or (STUCK, 0.0)
            spent += seconds
            if isinstance(found, str):
                faults[row] = found
                continue
            for shape, image in zip(shapes, found, strict=True):
                pixels[shape][row - start] = image
        yield Chunk(start, stop, pixels, faults, spent, stuck)


def _patiently(
    function: Callable[[Item], Result], items: Sequence[Item], threads: int, patience: Callable[[], float]
) -> Iterator[Result | None]:
    """`map` over threads, in order, a few at a time; None for what takes longer than `patience()` seconds, said when it is due.

    Threads cannot be ended: behind one that hangs, the waiting ones begin anew in other threads.
    """
    todo = deque(items)
    pending: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="photos")
    try:
        while todo or pending:
            while todo and len(pending) < 4 * threads:
                pending.append((item := todo.popleft(), pool.submit(function, item)))
            _, future = pending.popleft()
            try:
                result: Result | None = future.result(timeout=patience())
            except TimeoutError:
                result = None
                pool.shutdown(wait=False, cancel_futures=True)
                pool = ThreadPoolExecutor(threads, thread_name_prefix="photos")
                pending = deque(
                    (item, kept if kept.done() and not kept.cancelled() else pool.submit(function, item))
                    for item, kept in pending
                )
            yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def stream(
    ids: Sequence[str],
    columns: NDArray[np.float32] | None,
    chunks: Iterator[Chunk],
    families: Sequence[Asked],
    blend: Blend,
    plan: Plan,
    *,
    deadline: float,
    clock: Callable[[], float] = time.monotonic,
    tell: Callable[[str], None] = log,
    keep: Callable[[Floats], None] = lambda scores: None,
) -> Outcome:
    """Scores of every Id, in 1..100, before `clock` reads `deadline` as far as `plan` can help it.

    `keep` is given all scores, those to come as the mean, once a minute and when something ends the run.
    """
    rows = len(ids)
    outcome = Outcome(np.full(rows, blend.mean), seconds={"wait": 0.0, "decode": 0.0})
    began = said = clock()
    computed_before = time.process_time()
    costs: list[Cost] = []
    waiting = prefetch(chunks, 2)
    try:
        outcome.first_photo = began
        while True:
            started = clock()
            chunk = next(waiting, None)
            if chunk is None:
                break
            wait = clock() - started
            for row, reason in chunk.faults.items():
                outcome.faults[ids[row]] = reason
                if len(outcome.faults) <= NAMED:
                    tell(f"photo {ids[row]}: {reason}; it gets the mean prediction, {blend.mean:.2f}")
            cost, computed = _ask(chunk, columns, families, blend, plan, outcome, tell)
            if not plan.active:
                outcome.not_asked = rows - chunk.start
                tell(f"no network is left; {outcome.not_asked} photos get the mean prediction, {blend.mean:.2f}")
                break
            size = chunk.stop - chunk.start
            now = clock()
            costs.append(replace(cost, other=max(0.0, now - started - computed) / size))
            outcome.seconds["wait"] += wait
            outcome.seconds["decode"] += chunk.decode_s
            outcome.stuck += chunk.stuck
            left = rows - chunk.stop
            if left and (len(costs) > 1 or _urgent(now - started, size, left, deadline - now)):
                before = len(plan.said)
                fitting = plan.fit(_recent(costs), deadline - now, left)
                if plan.said[before:]:
                    tell(
                        f"time: {_duration(deadline - now)} left for {left} photos; left out: {', '.join(plan.said[before:])}"
                    )
                if fitting == 0:
                    outcome.not_asked = left
                    tell(f"time: no photo more fits; {left} get the mean prediction, {blend.mean:.2f}")
                    break
            if left and now - said >= EVERY_S:
                said = now
                keep(outcome.scores)
                rate = chunk.stop / (now - began)
                tell(f"{chunk.stop} of {rows} photos, {rate:.1f}/s; done in {_duration(left * plan.seconds(_recent(costs)))}, "
                     f"{_duration(deadline - now)} allowed")  # fmt: skip
    except BaseException:
        keep(outcome.scores)
        raise
    finally:
        waiting.close()  # type: ignore[attr-defined]
    outcome.processor_s = time.process_time() - computed_before
    if len(outcome.faults) > NAMED:
        tell(f"{len(outcome.faults)} of {rows} photos cannot be used in all; each gets the mean prediction")
    return outcome


def _ask(
    chunk: Chunk,
    columns: NDArray[np.float32] | None,
    families: Sequence[Asked],
    blend: Blend,
    plan: Plan,
    outcome: Outcome,
    tell: Callable[[str], None],
) -> tuple[Cost, float]:
    """Score a chunk into `outcome`; what a photo cost but for all the rest, and the seconds that were computed."""
    scores: dict[str, Floats] = {}
    trunks: dict[str, float] = {}
    tails: dict[str, float] = {}
    computed, photos = 0.0, chunk.stop - chunk.start
    given = None if columns is None else columns[chunk.start : chunk.stop]
    active = plan.active
    for family in families:
        uses = {name: use for name, use in active.items() if use.family == family.name}
        if not uses:
            continue
        try:
            answer = family.answer(chunk.pixels[family.size, family.fit], given, uses)
        except Exception as error:  # a submission without one backbone is worth more than none
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            tell(f"{family.name} failed and is left out from here on ({reason})")
            for name, use in uses.items():
                use.dropped = True
                plan.said.append(f"{name} (failed)")
            continue
        scores |= answer.scores
        trunks[family.name] = answer.trunk_s / photos
        tails |= dict.fromkeys(uses, answer.tail_s / photos)
        spent = {
            "trunk": answer.trunk_s * max(_views(use) for use in uses.values()),
            "tails": answer.tail_s * sum(_views(use) * use.folds for use in uses.values()),
        }
        for part, seconds in spent.items():
            key = f"{part} {family.name}"
            outcome.seconds[key] = outcome.seconds.get(key, 0.0) + seconds
            computed += seconds
    blended = blend(scores, photos)
    for row in chunk.faults:
        blended[row - chunk.start] = blend.mean
    outcome.scores[chunk.start : chunk.stop] = np.clip(blended, 1.0, 100.0)
    return Cost(trunks, tails, 0.0), computed


def _views(use: Use) -> int:
    return 2 if use.flip else 1


def _recent(costs: Sequence[Cost]) -> Cost:
    """The last few measurements; the first one warmed up."""
    return mean_cost(costs[1:][-4:] or costs)


def _urgent(seconds: float, photos: int, left: int, left_s: float) -> bool:
    """Whether the first chunk, which is slow, already makes the end doubtful."""
    return seconds / photos * left > 0.5 * left_s


def _duration(seconds: float) -> str:
    seconds = max(0.0, seconds)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
