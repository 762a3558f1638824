"""`pawpularity app`: the photo coach as a web page, on this machine only unless --host says otherwise."""

import importlib.util
import ipaddress
import socket
import time

from pawpularity.console import duration, log, next_step
from pawpularity.context import Context
from pawpularity.errors import UserError


def app(context: Context, *, host: str = "127.0.0.1", port: int = 8501) -> None:
    """Serve the page until Ctrl-C. Raises UserError if the extra `app` is not installed or the address is not free."""
    for name in ("starlette", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"app: needs {name}, which is not installed; run: pip install 'pawpularity[app]'")
    start = time.perf_counter()
    with _listen(host, port) as listener:
        import uvicorn

        from pawpularity.coach.coach import Coach
        from pawpularity.coach.connections import Connection
        from pawpularity.coach.site import HEADERS, Site

        coach = Coach.open(context)
        address, bound = listener.getsockname()[:2]
        local = ipaddress.ip_address(address).is_loopback
        # "[" is all that the middleware reads of an IPv6 address; no host name begins with it.
        site = Site(coach, ["localhost", "127.0.0.1", "[", address] if local else ["*"])
        url = f"http://{f'[{address}]' if ':' in address else address}:{bound}/"
        log(f"page    {url} after {duration(time.perf_counter() - start)}; Ctrl-C ends it")
        if not local:
            log("        anyone who can reach this machine can use the page; there is no password")
        config = uvicorn.Config(site.application(), log_level="critical", access_log=False, server_header=False, lifespan="off",
                                http=Connection, ws="none", timeout_keep_alive=10, timeout_graceful_shutdown=1,
                                limit_concurrency=200, headers=list(HEADERS.items()))  # fmt: skip
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            log("page    closed")
            next_step("make report", RUNS=coach.run.name)
        finally:
            site.network.shutdown(wait=False, cancel_futures=True)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, opened before anything slow is imported. Raises UserError for a bad address or a port in use."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name with nothing between two dots
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: cannot listen there ({reason}); choose another") from None
