"""The coach's page and its API, as a Starlette application (the extra `app`).

    GET  /                     the page, its style and its script: no font, script or picture from anywhere else
    POST /score /tips /crop    a photo's bytes -> JSON
    POST /preview              a photo's bytes -> a small JPEG, for formats that the browser cannot show
    POST /map                  a photo's bytes -> lines of JSON, coarse first
    POST /order                {"scores": [...]} -> which one first, and how sure that is

A photo is the whole body of a request. It is never written to disk and not kept after the answer. Bodies must have the content type
application/octet-stream: a page of another site cannot send that without a CORS preflight, which is not answered. Memory is
bounded: MAX_HELD bytes of photos, and PLACES requests that run or wait, MAPS of them for maps. One thread computes, first come,
first served. A map submits one batch at a time, so that a score waits for a batch and not for a whole map.
"""

import asyncio
import io
import json
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from torch import Tensor

from pawpularity.coach.coach import ONE_PET, Coach
from pawpularity.coach.saliency_stream import stream
from pawpularity.coach.upload import MAX_BYTES, Upload
from pawpularity.data.photos import PhotoError
from pawpularity.errors import UserError

PLACES, MAPS = 8, 2
MAX_HELD = PLACES * MAX_BYTES
PATIENCE_S = 10.0  # longest wait for the next bytes of a body
SLOWEST = 20_000  # bytes a second; a body that is slower on the whole is given up
PREVIEW = 640  # pixels, the longer side of a preview
BYTES = "application/octet-stream"
PAGE = Path(__file__).parent / "page"
FILES = {"coach.css": "text/css", "coach.js": "text/javascript", "icon.svg": "image/svg+xml"}
HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; connect-src "
    "'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}
"""Headers of every answer: the page may use nothing but its own files and answers."""


class Site:
    """The web page of one coach. `hosts`: the host names it answers to; * = any."""

    def __init__(self, coach: Coach, hosts: list[str]) -> None:
        self.coach, self.hosts, self.held = coach, hosts, 0
        self.places, self.maps = asyncio.Semaphore(PLACES), asyncio.Semaphore(MAPS)
        self.network = ThreadPoolExecutor(1, thread_name_prefix="network")

    def application(self) -> Starlette:
        """The application, for one event loop."""
        photo_routes: dict[str, Callable[[Upload], Any]] = {
            "/score": lambda upload: asdict(self.coach.score(upload)),
            "/tips": lambda upload: [asdict(tip) for tip in self.coach.tips(upload)],
            "/crop": lambda upload: (crop := self.coach.crop(upload)) and asdict(crop),
        }
        routes = [Route(path, self._photo(work), methods=["POST"]) for path, work in photo_routes.items()]
        routes += [
            Route(
                "/preview",
                self._photo(_preview, lambda found: Response(found, media_type="image/jpeg")),
                methods=["POST"],
            )
        ]
        routes += [Route("/map", self._map, methods=["POST"]), Route("/order", self._order, methods=["POST"])]
        routes += [Route("/", self._index), Route("/{name}", _file)]
        faults: dict[Any, Any] = {
            HTTPException: lambda _, error: _fault(error.status_code, error.detail, error.headers),
            PhotoError: lambda _, error: _fault(422, f"This file cannot be used as a photo: {error.reason}."),
            UserError: lambda _, error: _fault(422, str(error)),
            TimeoutError: lambda *_: _fault(408, "The photo took too long to arrive."),
            ClientDisconnect: lambda *_: _fault(400, "The photo did not arrive whole."),
            Exception: _defect,
        }
        # Against DNS rebinding: another site's name that is made to point here gets no answer.
        middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=self.hosts, www_redirect=False)]
        return Starlette(routes=routes, middleware=middleware, exception_handlers=faults)

    async def _index(self, _: Request) -> Response:
        page = Environment(loader=FileSystemLoader(PAGE), autoescape=True).get_template("index.html.j2")
        return HTMLResponse(page.render(about=self.coach.about, most=MAX_BYTES, one_pet=ONE_PET))

    def _photo(
        self, work: Callable[[Upload], Any], respond: Callable[[Any], Response] = JSONResponse
    ) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            async with self._body(request) as data, _place(self.places):
                return respond(await self._in_turn(lambda: work(Upload.of(data))))

        return answer

    async def _order(self, request: Request) -> Response:
        async with self._body(request) as data:
            try:
                scores = [float(value) for value in json.loads(data)["scores"]]
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                scores = []
        if not scores or not all(1 <= value <= 100 for value in scores):
            raise HTTPException(422, 'Send {"scores": [...]}: numbers from 1 to 100.')
        return JSONResponse({"order": self.coach.rank(scores), "note": ONE_PET})

    async def _map(self, request: Request) -> Response:
        lines = self._map_lines(request)
        first = await anext(lines)  # an error before the first line gets a status code, not a broken stream

        async def every_line() -> AsyncIterator[bytes]:
            yield first
            async for line in lines:
                yield line

        return StreamingResponse(every_line(), media_type="application/x-ndjson")

    async def _map_lines(self, request: Request) -> AsyncIterator[bytes]:
        """The growing map as lines of JSON. Closing the iterator stops the computation."""
        loop, gone = asyncio.get_running_loop(), threading.Event()
        frames: asyncio.Queue[dict[str, Any] | Exception] = asyncio.Queue()
        async with self._body(request) as data, _place(self.maps), _place(self.places):
            score, x = await self._in_turn(lambda: self.coach.saliency_input(Upload.of(data)))

            def scored(batch: Tensor) -> Tensor:
                if gone.is_set():
                    raise ConnectionAbortedError
                answer: Tensor = self.network.submit(score, batch).result()
                return answer

            def show(found: dict[str, Any] | Exception) -> None:
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(frames.put_nowait, found)

            def work() -> None:
                try:
                    stream(scored, x, self.coach.settings, show)
                except Exception as error:
                    show(error)

            loop.run_in_executor(None, work)
            try:
                done = False
                while not done:
                    found = await frames.get()
                    if isinstance(found, Exception):
                        raise found
                    yield json.dumps(found).encode() + b"\n"
                    done = found["done"]
            finally:
                gone.set()

    async def _in_turn(self, work: Callable[[], Any]) -> Any:
        """Run `work` in the one thread that computes."""
        return await asyncio.get_running_loop().run_in_executor(self.network, work)

    @asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        """A request's bytes. Inside the block they count as held.

        A body that is still arriving takes no place, so that slow or dead connections block nobody. The rest of a refused body is
        read and dropped: a client that is still sending when the connection closes would not see the reason.
        """
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != BYTES:
            raise HTTPException(415, f"Send bytes, with content-type {BYTES}.")
        data, held, refusal, loop = bytearray(), 0, None, asyncio.get_running_loop()
        start, received = loop.time(), 0
        try:
            async with asyncio.timeout(PATIENCE_S) as patience:
                async for chunk in request.stream():
                    received += len(chunk)
                    patience.reschedule(min(loop.time(), start + received / SLOWEST) + PATIENCE_S)
                    if held + len(chunk) > MAX_BYTES:
                        refusal = HTTPException(413, f"This is too large: {MAX_BYTES / 1e6:g} MB at most.")
                    elif self.held + len(chunk) > MAX_HELD:
                        refusal = refusal or _busy()
                    if refusal is None:
                        data += chunk
                        held += len(chunk)
                        self.held += len(chunk)
            if refusal is not None:
                raise refusal
            whole = bytes(data)
            data.clear()
            yield whole
        finally:
            self.held -= held


@asynccontextmanager
async def _place(places: asyncio.Semaphore) -> AsyncIterator[None]:
    """Take one of `places`; 503 if none is free."""
    if places.locked():
        raise _busy()
    async with places:
        yield


def _busy() -> HTTPException:
    words = "The coach is busy with other photos. Please try again in a moment."
    return HTTPException(503, words, {"retry-after": "2"})


def _preview(upload: Upload) -> bytes:
    """The upright photo as a JPEG."""
    shrink = PREVIEW / max(upload.width, upload.height)
    shape = [max(1, round(side * shrink)) for side in (upload.width, upload.height)]
    file = io.BytesIO()
    Image.fromarray(upload.pixels(PREVIEW, "squash")).resize((shape[0], shape[1])).save(file, "JPEG", quality=90)
    return file.getvalue()


async def _file(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in FILES:
        raise HTTPException(404, "There is no such page.")
    return Response((PAGE / name).read_bytes(), media_type=FILES[name])


def _fault(status: int, words: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"fault": words}, status, headers)


def _defect(_: Request, error: Exception) -> Response:
    traceback.print_exception(error)
    return _fault(500, "Something went wrong here; it is not your photo's fault. The terminal says more.")
