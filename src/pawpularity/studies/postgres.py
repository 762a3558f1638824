"""A temporary PostgreSQL server from the system's packages, on the loopback interface, for the search benchmark and for tests."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pawpularity.errors import UserError

USER = "paw"


class NoServer(UserError):
    """PostgreSQL is not installed here, or does not start."""


def programs() -> Path:
    """The folder of `initdb` and `pg_ctl`, which Debian keeps off the PATH. Raises NoServer where there is none."""
    found = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))) or [shutil.which("initdb") or ""]
    if not found[-1]:
        raise NoServer("no PostgreSQL is installed (Debian: apt-get install postgresql)")
    return Path(found[-1]).parent


@contextmanager
def temporary_server(password: str, *settings: str) -> Iterator[str]:
    """The address of an empty database of user `paw`. Its server is stopped and removed when the block ends.

    `settings`: the server's, such as `fsync=off`. Raises NoServer where it is not installed or does not start.
    """
    place = programs()
    as_user: list[str] = []
    # Not TMPDIR: a socket's path must be short, and the server's user must be able to reach it.
    folder = Path(tempfile.mkdtemp(prefix="pawpularity-postgres-", dir="/tmp"))
    data, secret, output = folder / "data", folder / "secret", folder / "output"

    def run(program: str, *words: str) -> None:
        # Into a file: a server that inherits a pipe would keep the reader waiting for its end.
        with output.open("w") as out:
            command = [*as_user, str(place / program), "-D", str(data), *words]
            done = subprocess.run(command, stdout=out, stderr=out, cwd="/", check=False)
        if done.returncode:
            raise NoServer(f"PostgreSQL does not start here: {program}: {' '.join(output.read_text()[-300:].split())}")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    options = ["listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", *settings]
    try:
        secret.write_text(password)  # the folder is open to its owner alone
        if os.getuid() == 0:  # the server refuses to run as root
            try:
                owner = pwd.getpwnam("postgres")
            except KeyError:
                raise NoServer("PostgreSQL refuses to run as root, and there is no user postgres") from None
            as_user += ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
            for path in (folder, secret):
                shutil.chown(path, owner.pw_uid, owner.pw_gid)
        run("initdb", "-U", USER, f"--pwfile={secret}", "-A", "scram-sha-256", "--no-sync")
        run(
            "pg_ctl",
            "-l",
            str(folder / "log"),
            "-w",
            "-o",
            " ".join([f"-p {port}", *(f"-c {o}" for o in options)]),
            "start",
        )
        try:
            yield f"postgresql://{USER}:{password}@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
