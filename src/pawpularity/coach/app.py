"""The coach's page: Starlette around a `Desk`. Photos come as the bare bytes of a request, and go with its answer.

    GET  /                     the page, its style and its script: no font, script or picture from anywhere else
    POST /score /tips /crop    a photo's bytes -> JSON
    POST /map                  a photo's bytes -> lines of JSON, coarse first
    POST /order                {"scores": [...]} -> which one first, and how sure that is

A photo is never written to disk and has no name here. Requests must say that they bring bytes (application/octet-stream), which a
page of another site cannot do without asking first, and it is not answered; nor is a host name that is not this machine's.
"""

import asyncio
import base64
import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pawpularity.coach.body_reader import PATIENCE_S, Refused, body
from pawpularity.coach.coach import Coach, ranked
from pawpularity.coach.queue import Busy, Closed, Desk
from pawpularity.coach.text import ONE_PET, promise_words
from pawpularity.coach.upload import MOST_BYTES, Upload
from pawpularity.data.photos import PhotoError
from pawpularity.errors import UserError
from pawpularity.models.network import HIGHEST, LOWEST

if TYPE_CHECKING:
    from starlette.applications import Starlette

PAGE = Path(__file__).parent / "page"
MOST_SCORES = 500
CLOSED = "The coach is being closed."
_TOO_SLOW = 408
_BYTES = "application/octet-stream"
_HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; connect-src "
    "'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}
_FILES = {"coach.css": "text/css", "coach.js": "text/javascript", "icon.svg": "image/svg+xml"}

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def build_app(desk: Desk, hosts: frozenset[str] | None) -> "Starlette":
    """The page's application. `hosts`: the names it answers to; None = any. Needs the extra `app`."""
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    page = _page(desk)

    class Held(StreamingResponse):
        """Gives its place back however it ends, also where nobody listened to its first line."""

        held = ExitStack()

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            with self.held:
                await super().__call__(scope, receive, send)

    def refusal(status: int, fault: str) -> Response:
        return JSONResponse({"fault": fault}, status, {"retry-after": "2"} if status == 503 else None)

    async def answered(work: Callable[[], Awaitable[Response]]) -> Response:
        try:
            return await work()
        except Busy:
            return refusal(503, "Many photos are being looked at just now. Please try again in a moment.")
        except Closed:
            return refusal(503, CLOSED)
        except ClientDisconnect:  # the tab was closed while it sent: nobody hears the answer
            return refusal(400, "The photo did not arrive whole.")
        except Refused as refused:
            return refusal(refused.status, refused.fault)
        except PhotoError as error:
            return refusal(422, f"This file cannot be used as a photo: {error.reason}.")
        except UserError as error:
            return refusal(422, str(error))
        except Exception:
            traceback.print_exc()
            return refusal(500, "Something went wrong here; it is not your photo's fault. The terminal says more.")

    async def photo(request: Request, work: Callable[[Coach, Upload], Any]) -> Response:
        async def answer() -> Response:
            with ExitStack() as held:
                data = await body(request, desk, MOST_BYTES, held)
                held.enter_context(desk.place())
                return JSONResponse(await desk.ask(lambda coach: work(coach, Upload.of(data))))

        return await answered(answer)

    async def index(request: Request) -> Response:
        return Response(page, media_type="text/html")

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _FILES:
            return refusal(404, "There is no such page.")
        return Response((PAGE / name).read_bytes(), media_type=_FILES[name])

    async def score(request: Request) -> Response:
        return await photo(request, lambda coach, upload: coach.score(upload).to_dict())

    async def tips(request: Request) -> Response:
        def work(coach: Coach, upload: Upload) -> list[dict[str, Any]]:
            return [tip.to_dict() | {"promise": promise_words(tip)} for tip in coach.tips(upload)]

        return await photo(request, work)

    async def crop(request: Request) -> Response:
        return await photo(request, lambda coach, upload: coach.crop(upload).to_dict())

    async def heat(request: Request) -> Response:
        async def answer() -> Response:
            with ExitStack() as held:
                data = await body(request, desk, MOST_BYTES, held)
                held.enter_context(desk.place(mapping=True))
                await desk.ask(lambda coach: Upload.of(data).pixels(32, "squash"))  # a broken photo is told at once
                response = Held(_lines(desk, data), media_type="application/x-ndjson")
                response.held = held.pop_all()
                return response

        return await answered(answer)

    async def order(request: Request) -> Response:
        async def answer() -> Response:
            with ExitStack() as held:
                scores = _numbers(await body(request, desk, 100_000, held))
            return JSONResponse({"order": ranked(scores, desk.coach.known), "note": ONE_PET})

        return await answered(answer)

    posts = {"/score": score, "/tips": tips, "/crop": crop, "/map": heat, "/order": order}
    routes = [
        Route("/", index),
        Route("/{name}", file),
        *(Route(path, work, methods=["POST"]) for path, work in posts.items()),
    ]
    app = Starlette(routes=routes)
    app.add_middleware(_Guard, hosts=hosts, desk=desk)
    return app


class _Guard:
    """Refuses names and methods that are not ours, and says to browsers what the page may do: nothing but itself."""

    def __init__(self, app: Any, hosts: frozenset[str] | None, desk: Desk) -> None:
        self.app, self.hosts, self.desk = app, hosts, desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)  # type: ignore[no-any-return]
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}

        arrived = scope["method"] in ("GET", "HEAD")

        async def received() -> dict[str, Any]:
            nonlocal arrived
            message = await receive()
            arrived = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def sent(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                if not arrived and message["status"] != _TOO_SLOW:
                    with suppress(Closed):
                        await self.desk.wait(_thrown_away(received, lambda: arrived))
                own = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = message | {"headers": [*message.get("headers", []), *own]}
            await send(message)

        if self.hosts is not None and not _is_host(headers.get("host", ""), self.hosts):
            return await _say(sent, 421, "This page answers on this machine alone.")
        if scope["method"] == "POST" and headers.get("content-type", "").split(";")[0].strip().lower() != _BYTES:
            return await _say(sent, 415, f"Send bytes, with content-type {_BYTES}.")
        await self.app(scope, received, sent)
        return None


async def _thrown_away(received: Receive, all_of_it: Callable[[], bool]) -> None:
    """Let the rest of a refused photo come, and forget it: who is still sending when the door shuts never hears why."""
    with suppress(TimeoutError):
        async with asyncio.timeout(3 * PATIENCE_S), asyncio.timeout(PATIENCE_S) as patience:
            while not all_of_it():
                await received()
                patience.reschedule(asyncio.get_running_loop().time() + PATIENCE_S)


def _is_host(given: str, hosts: frozenset[str]) -> bool:
    try:
        return (urlsplit(f"//{given}").hostname or "") in hosts
    except ValueError:
        return False


async def _say(send: Send, status: int, fault: str) -> None:
    body = json.dumps({"fault": fault}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lines(desk: Desk, data: bytes) -> AsyncIterator[bytes]:
    """The map as it grows, a line of JSON each; a fault is the last line."""
    try:
        async for heat in desk.map(data):
            picture = "data:image/png;base64," + base64.b64encode(heat.png).decode()
            line = {"picture": picture, "scale": heat.scale, "masks": heat.masks, "relative_error": heat.relative_error,
                    "verdict": heat.verdict, "done": heat.done}  # fmt: skip
            yield json.dumps(line).encode() + b"\n"
    except Closed:
        yield json.dumps({"fault": CLOSED}).encode() + b"\n"
    except UserError as error:
        yield json.dumps({"fault": str(error)}).encode() + b"\n"
    except Exception:
        traceback.print_exc()
        yield json.dumps({"fault": "The map could not be finished. The terminal says more."}).encode() + b"\n"


def _numbers(data: bytes) -> list[float]:
    """The scores of {"scores": [...]}: numbers from 1 to 100, as scores are. Raises Refused for anything else."""
    try:
        given = json.loads(data)["scores"]
    except (ValueError, TypeError, KeyError, RecursionError):
        given = None
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_SCORES or not all(map(_is_score, given)):
        raise Refused(422, f'Send {{"scores": [...]}}: 1 to {MOST_SCORES} numbers from 1 to 100.')
    return [float(value) for value in given]


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and LOWEST <= value <= HIGHEST


def _page(desk: Desk) -> str:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(PAGE), autoescape=True)
    about = desk.coach.about
    return environment.get_template("index.html.j2").render(about=about, most=MOST_BYTES, one_pet=ONE_PET)
