"""Who is served, and who is asked to come back: the bounded queue between a page's visitors and one network.

All computing is done by one thread, in the order it was asked for: a map asks batch by batch, so that scores need not wait for the
whole of it. A photo that has arrived takes one of `places`, a map one of `maps` of them too; whoever comes
then is told so, and nothing of the photo is kept. A photo still on its way takes no place, so that nobody waits for a slow line;
its bytes count. So memory is bounded by `most_bytes` of photos and one decoder.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from torch import Tensor

from pawpularity.coach.coach import Coach
from pawpularity.coach.saliency_stream import Heat, grow
from pawpularity.coach.upload import MOST_BYTES, Upload

PLACES, MAPS = 8, 2

Result = TypeVar("Result")


class Busy(Exception):
    """All places are taken."""


class Closed(Exception):
    """The program is being ended: nothing more is answered."""


class _Gone(Exception):
    """Whoever asked does not listen any more."""


class Desk:
    """One coach behind a queue. To be used from one event loop."""

    def __init__(
        self, coach: Coach, *, places: int = PLACES, maps: int = MAPS, most_bytes: int = PLACES * MOST_BYTES
    ) -> None:
        self.coach, self.places, self.maps, self.most_bytes = coach, places, maps, most_bytes
        self.taken = self.mapping = self.bytes = 0
        self.closed = False
        self._waiting: set[asyncio.Future[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._network = ThreadPoolExecutor(1, thread_name_prefix="coach")
        self._mappers = ThreadPoolExecutor(maps, thread_name_prefix="map")

    @contextmanager
    def place(self, *, mapping: bool = False) -> Iterator[None]:
        """A place for one request. Raises Busy where there is none."""
        self.take(mapping=mapping)
        try:
            yield
        finally:
            self.leave(mapping=mapping)

    def take(self, *, mapping: bool = False) -> None:
        """Take a place, to be left by `leave`. Raises Busy."""
        if self.taken >= self.places or (mapping and self.mapping >= self.maps):
            raise Busy
        self.taken += 1
        self.mapping += mapping

    def leave(self, *, mapping: bool = False) -> None:
        """Give the place back."""
        self.taken -= 1
        self.mapping -= mapping

    def hold(self, count: int) -> None:
        """Count `count` bytes that have arrived, to be given back by `let_go`. Raises Busy where they are too many."""
        if self.bytes + count > self.most_bytes:
            raise Busy
        self.bytes += count

    def let_go(self, count: int) -> None:
        """These bytes are forgotten."""
        self.bytes -= count

    async def wait(self, what: Awaitable[Result]) -> Result:
        """What `what` gives. Raises Closed as soon as the program is being ended."""
        self._loop = asyncio.get_running_loop()
        future = asyncio.ensure_future(what)
        self._waiting.add(future)
        try:
            if self.closed:
                future.cancel()
            return await future
        except asyncio.CancelledError:
            if self.closed:
                raise Closed from None
            raise
        finally:
            self._waiting.discard(future)

    async def ask(self, work: Callable[[Coach], Result]) -> Result:
        """`work` of the coach, when its turn comes. Raises Closed."""
        return await self.wait(
            asyncio.get_running_loop().run_in_executor(self._network, lambda: self._turn(lambda: work(self.coach)))
        )

    def _turn(self, work: Callable[[], Result]) -> Result:
        if self.closed:
            raise Closed
        return work()

    async def map(self, data: bytes) -> AsyncIterator[Heat]:
        """A photo's map as it grows. Raises Closed, and as `grow` and the decoder do."""
        loop, gone = asyncio.get_running_loop(), threading.Event()
        shown: asyncio.Queue[Heat | BaseException] = asyncio.Queue()

        def show(found: Any) -> None:
            with suppress(RuntimeError):  # the loop has ended, and nobody looks any more
                loop.call_soon_threadsafe(shown.put_nowait, found)

        def turn(work: Callable[[], Any]) -> Any:
            if gone.is_set() or self.closed:
                raise _Gone
            return self._network.submit(work).result()

        def work() -> None:
            try:
                score, x = turn(lambda: self.coach.mapped(Upload.of(data)))

                def in_turn(batch: Tensor) -> Tensor:
                    answer: Tensor = turn(lambda: score(batch))
                    return answer

                grow(in_turn, x, self.coach.chosen.settings, show)
            except _Gone:
                return
            except BaseException as error:
                show(error)

        done = loop.run_in_executor(self._mappers, work)
        try:
            while True:
                found = await self.wait(shown.get())
                if isinstance(found, BaseException):
                    raise found
                yield found
                if found.done:
                    break
            await done
        finally:
            gone.set()

    def end(self) -> None:
        """Let everything that waits end with Closed. To be called by a signal's handler too."""
        self.closed = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(lambda: [future.cancel() for future in self._waiting])

    def close(self) -> None:
        """Wait for nobody."""
        self.end()
        self._mappers.shutdown(wait=False, cancel_futures=True)
        self._network.shutdown(wait=False, cancel_futures=True)
