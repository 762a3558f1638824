"""A PostgreSQL server for a test: on the loopback interface, its data in a folder of its own."""

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest


def program(name: str) -> str:
    """Where it is: on the PATH, or where Debian keeps it."""
    found = shutil.which(name) or next(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), None)
    return found or pytest.skip(f"{name} is not installed")


@contextmanager
def server(password="s3cr3t-word"):
    """The address of an empty database; skips with a reason where none can be started."""
    as_user = []
    if os.getuid() == 0:  # it refuses to run as root
        if subprocess.run(["id", "postgres"], capture_output=True).returncode:
            pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    initdb, pg_ctl = program("initdb"), program("pg_ctl")
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # a socket's path must be short, and the server's user must reach it
    (folder / "secret").write_text(password)
    if as_user:
        shutil.chown(folder, "postgres", "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data, settings = folder / "data", f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {folder}"

    def run(*words):
        subprocess.run(
            [*as_user, *map(str, words)], check=True, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    try:
        run(initdb, "-D", data, "-U", "paw", "--pwfile", folder / "secret", "-A", "scram-sha-256", "--no-sync")
        run(pg_ctl, "-D", data, "-w", "-l", folder / "log", "-o", settings, "start")
        try:
            yield f"postgresql://paw:{password}@127.0.0.1:{port}/postgres"
        finally:
            run(pg_ctl, "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
