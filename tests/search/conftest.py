"""A real PostgreSQL on the loopback interface, from the system's packages, for the tests of shared studies."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import ROOT

PASSWORD = "s3cr3t-word"


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of an empty database, with its password."""
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL is installed (Debian: postgresql)")
    as_user: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="pawpularity-postgres-", dir="/tmp"))
    if os.getuid() == 0:  # the server refuses to run as root
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            shutil.rmtree(folder)
            pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres")
        as_user = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
        shutil.chown(folder, owner.pw_uid, owner.pw_gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    word = folder / "word"
    word.write_text(PASSWORD)
    word.chmod(0o644)

    def run(program: str, *words: str) -> None:
        # Its output goes to a file: a server that inherits a pipe would keep the reader waiting for its end.
        with (folder / "out").open("w+") as out:
            done = subprocess.run([*as_user, str(programs / program), *words], stdout=out, stderr=out, cwd="/")
            if done.returncode:
                out.seek(0)
                pytest.skip(f"PostgreSQL does not start here: {program}: {out.read()[-300:]}")

    data, log = str(folder / "data"), str(folder / "log")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    try:
        run("initdb", "-D", data, "-U", "paw", f"--pwfile={word}", "-A", "scram-sha-256", "--no-sync")
        run("pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start")
        try:
            yield f"postgresql://paw:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def own_configs(work: Path) -> Path:
    """`work` with configs/ of its own: a search writes configs/tuned/."""
    (work / "configs").unlink()
    shutil.copytree(ROOT / "configs", work / "configs")
    return work
