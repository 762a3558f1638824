"""Connections of the coach's page that cannot be held open by half-sent requests: uvicorn itself waits for a head forever."""

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE_S = 10.0  # longest wait for a request's head
MAX_UNFINISHED = 100  # connections whose request has not arrived whole; above that the oldest is closed


class Connection(H11Protocol):
    """HTTP/1.1 with a time-out for heads, and room for new connections whatever the old ones do."""

    unfinished: ClassVar[dict["Connection", asyncio.TimerHandle]] = {}
    """Connections that wait for a request or a part of it, the oldest first, with the timers of their heads."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a head."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest, unless the request is whole."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next head."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        state = self.conn.their_state
        if state not in (h11.IDLE, h11.SEND_BODY) or self.transport.is_closing():
            self._forget()
            return
        if self not in self.unfinished:
            self.unfinished[self] = self.loop.call_later(PATIENCE_S, self._close)
        if state is h11.SEND_BODY:  # the page has its own patience with bodies
            self.unfinished[self].cancel()
        if len(self.unfinished) > MAX_UNFINISHED:
            next(iter(self.unfinished))._close()

    def _close(self) -> None:
        self._forget()
        self.transport.close()

    def _forget(self) -> None:
        if timer := self.unfinished.pop(self, None):
            timer.cancel()
