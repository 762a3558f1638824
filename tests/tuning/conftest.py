"""A real PostgreSQL on the loopback interface, from the system's packages, for the tests of shared studies."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.oracles.postgres import server

PASSWORD = "s3cr3t-word"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of an empty database, with its password."""
    with server(PASSWORD) as address:
        yield address


@pytest.fixture
def own_configs(work: Path) -> Path:
    """`work` with configs/ of its own: a search writes configs/tuned/."""
    (work / "configs").unlink()
    shutil.copytree(ROOT / "configs", work / "configs")
    return work
