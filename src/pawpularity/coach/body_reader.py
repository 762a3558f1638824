"""A request's body on its way: counted while it is held, and given up where nothing comes any more.

A body that is being sent takes no place at the desk (`desk.py`): a slow or dead line keeps nobody else waiting.
"""

import asyncio
from contextlib import ExitStack, aclosing
from typing import Any

from pawpularity.coach.queue import Desk

PATIENCE_S = 10.0
"""Without a byte."""
LONGEST_S = 120.0
"""For all of it: 20 MB at 1.4 Mbit/s."""


class Refused(Exception):
    """A request that gets no answer but a reason."""

    def __init__(self, status: int, fault: str) -> None:
        super().__init__(fault)
        self.status, self.fault = status, fault


async def body(request: Any, desk: Desk, most: int, held: ExitStack) -> bytes:
    """A request's bytes, `most` at most; they count at the desk until `held` is closed.

    Raises Refused for more, and for those that take too long; Busy where too many are held; Closed; and ClientDisconnect.
    """
    fault = (
        f"This file is too large: {most / 1e6:.0f} MB at most."
        if most >= 1_000_000
        else f"Too much: {most} bytes at most."
    )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > most:
        raise Refused(413, fault)
    data, count = bytearray(), 0
    held.callback(lambda: desk.let_go(count))

    async def arrive() -> None:
        nonlocal count
        async with (
            aclosing(request.stream()) as chunks,
            asyncio.timeout(LONGEST_S),
            asyncio.timeout(PATIENCE_S) as patience,
        ):
            async for chunk in chunks:
                patience.reschedule(asyncio.get_running_loop().time() + PATIENCE_S)
                if count + len(chunk) > most:
                    raise Refused(413, fault)
                desk.hold(len(chunk))
                count += len(chunk)
                data.extend(chunk)

    try:
        await desk.wait(arrive())
    except TimeoutError:
        raise Refused(408, "The photo took too long to arrive.") from None
    whole = bytes(data)
    data.clear()  # held but once
    return whole
