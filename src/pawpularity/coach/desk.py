"""Who is served, and who is asked to come back: the bounded queue between a page's visitors and one network.

All computing is done by one thread, in the order it was asked for: a map asks batch by batch, so that scores need not wait for the
whole of it. At most `places` requests are read, waiting or answered at a time, and `maps` of them are maps; whoever comes
then is told so, and nothing of the photo is kept. So memory is bounded by `places` photos and one decoder.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor

from pawpularity.coach.coach import Coach
from pawpularity.coach.heat import Heat, grow
from pawpularity.coach.upload import Upload

PLACES, MAPS = 8, 2

Result = TypeVar("Result")


class Busy(Exception):
    """All places are taken."""


class _Gone(Exception):
    """Whoever asked does not listen any more."""


class Desk:
    """One coach behind a queue. To be used from one event loop."""

    def __init__(self, coach: Coach, *, places: int = PLACES, maps: int = MAPS) -> None:
        self.coach, self.places, self.maps = coach, places, maps
        self.taken = self.mapping = 0
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

    async def ask(self, work: Callable[[Coach], Result]) -> Result:
        """`work` of the coach, when its turn comes."""
        return await asyncio.get_running_loop().run_in_executor(self._network, lambda: work(self.coach))

    async def map(self, data: bytes) -> AsyncIterator[Heat]:
        """A photo's map as it grows. Raises as `grow` and the decoder do."""
        loop, gone = asyncio.get_running_loop(), threading.Event()
        shown: asyncio.Queue[Heat | BaseException] = asyncio.Queue()

        def show(found: Any) -> None:
            loop.call_soon_threadsafe(shown.put_nowait, found)

        def turn(work: Callable[[], Any]) -> Any:
            if gone.is_set():
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
                found = await shown.get()
                if isinstance(found, BaseException):
                    raise found
                yield found
                if found.done:
                    break
            await done
        finally:
            gone.set()

    def close(self) -> None:
        """Wait for nobody."""
        self._mappers.shutdown(wait=False, cancel_futures=True)
        self._network.shutdown(wait=False, cancel_futures=True)
