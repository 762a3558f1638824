"""A PostgreSQL server for a while, from the system's packages: on the loopback interface, its data in a temporary folder."""

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
    """There is no PostgreSQL here, or it does not start."""


def programs() -> Path:
    """The folder of `initdb` and `pg_ctl`, which Debian keeps off the PATH. Raises NoServer where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        raise NoServer("no PostgreSQL is installed (Debian: apt-get install postgresql)")
    return found[-1].parent if found else Path(str(on_path)).parent


@contextmanager
def temporary_server(password: str, *settings: str) -> Iterator[str]:
    """The address of an empty database of user `paw`, whose server is stopped and removed when the block ends.

    `settings`: the server's, such as `fsync=off`. Raises NoServer where there is none, or it does not start.
    """
    place = programs()
    as_user: list[str] = []
    owner = None
    if os.getuid() == 0:  # the server refuses to run as root
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            raise NoServer("PostgreSQL refuses to run as root, and there is no user postgres") from None
        as_user = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
    # Not TMPDIR: a socket's path has to be short, and the server's user must be able to reach it.
    folder = Path(tempfile.mkdtemp(prefix="pawpularity-postgres-", dir="/tmp"))
    if owner is not None:
        shutil.chown(folder, owner.pw_uid, owner.pw_gid)
    word = folder / "word"
    word.write_text(password)
    word.chmod(0o644)  # the folder itself is the server's alone

    def run(program: str, *words: str) -> None:
        # Its output goes to a file: a server that inherits a pipe would keep the reader waiting for its end.
        with (folder / "out").open("w+") as out:
            done = subprocess.run([*as_user, str(place / program), *words], stdout=out, stderr=out, cwd="/")
            if done.returncode:
                out.seek(0)
                raise NoServer(f"PostgreSQL does not start here: {program}: {' '.join(out.read()[-300:].split())}")

    data, log = str(folder / "data"), str(folder / "log")
    port = _free_port()
    options = " ".join(
        [f"-p {port}", *(f"-c {one}" for one in ("listen_addresses=127.0.0.1", f"unix_socket_directories={folder}",
                                                 *settings))]
    )  # fmt: skip
    try:
        run("initdb", "-D", data, "-U", USER, f"--pwfile={word}", "-A", "scram-sha-256", "--no-sync")
        run("pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start")
        try:
            yield f"postgresql://{USER}:{password}@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
