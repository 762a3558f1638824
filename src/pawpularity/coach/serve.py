"""`pawpularity app`: the coach's page, served by uvicorn on this machine's own address unless told otherwise."""

import argparse
import importlib.util
import ipaddress
import socket
import time
from types import FrameType

from pawpularity.console import log
from pawpularity.errors import UserError

EXTRA = ("starlette", "uvicorn")


def run_app(options: argparse.Namespace) -> None:
    """Serve until Ctrl-C. Raises UserError where the extra is missing, and for an address or port that cannot be had."""
    if missing := [name for name in EXTRA if importlib.util.find_spec(name) is None]:
        raise UserError(f"app: needs {missing[0]}, which is not installed; run: pip install 'pawpularity[app]'")
    start = time.perf_counter()
    door = open_door(options.host, options.port)
    with door:
        import uvicorn

        from pawpularity.coach.app import build_app
        from pawpularity.coach.command import open_coach
        from pawpularity.coach.queue import Desk

        desk = Desk(open_coach(options))
        desk.coach.warm()
        address, port = door.getsockname()[:2]
        own = is_loopback(address)
        app = build_app(desk, frozenset({"localhost", "127.0.0.1", "::1", address}) if own else None)
        shown = f"[{address}]" if ":" in address else address
        log(f"runs on {desk.coach.about['metadata']}")
        log(f"page    http://{shown}:{port}/ after {time.perf_counter() - start:.1f} s; Ctrl-C ends it")
        if not own:
            log("        whoever reaches this machine reaches the page; there is no password")
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, timeout_keep_alive=10,
                                timeout_graceful_shutdown=3, limit_concurrency=200, ws="none", lifespan="off")  # fmt: skip

        class Server(uvicorn.Server):
            """Ends what is being computed with the signal that ends the program: nobody waits for half a map."""

            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                desk.end()
                super().handle_exit(sig, frame)

        try:
            Server(config).run(sockets=[door])
        except KeyboardInterrupt:
            log("page    closed")
        finally:
            desk.close()


def open_door(host: str, port: int) -> socket.socket:
    """A socket of its own, not yet listening. Raises UserError for an address that is none, or a port that is taken."""
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: must be 0 to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        door = socket.socket(family, kind)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was left a minute ago is free
        door.bind(address)
        return door
    except (OSError, UnicodeError) as error:  # UnicodeError: a name with nothing between two dots
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: cannot be listened on ({reason}); take another") from None


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
