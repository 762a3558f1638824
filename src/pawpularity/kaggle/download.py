"""`pawpularity data`: download the contest's data.

The archive is unpacked into a temporary folder, checked (tables, one photo a row) and moved into place as a whole, so a folder
that exists is complete.
"""

import tempfile
import zipfile
import zlib
from pathlib import Path

from pawpularity.console import log, next_step, track
from pawpularity.data import CONTEST
from pawpularity.data.dataset import Dataset, load_test
from pawpularity.data.tables import read_sample_submission
from pawpularity.errors import UserError
from pawpularity.files import require_space
from pawpularity.kaggle.api import COMPETITION, RULES, Kaggle

NEEDED = 2_200_000_000
"""Bytes: the archive (1.04 GB) and the same again unpacked."""
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
"""What zipfile raises for a changed archive: a wrong checksum, a cut stream, an unknown method, a flag that says encrypted
(RuntimeError), an offset before the start (ValueError)."""


def data(*, into: str | None) -> None:
    """Download the contest's data into the folder `into` (default: input/petfinder-pawpularity-score), unless it is there already.

    Raises UserError if the kaggle package, credentials, accepted rules, the network or disk space are missing, if the archive is
    not the contest's, and if the folder exists but is not complete (it is left unchanged).
    """
    folder = Path(into) if into else CONTEST
    if folder.is_dir() and any(folder.iterdir()):
        try:
            rows = _check(folder)
        except UserError as error:
            raise UserError(f"{folder}: exists but is not complete ({error}); move it away and run again") from None
        log(f"{folder}: already complete ({rows} training photos)")
    else:
        rows = _download(folder)
        log(f"{folder}: {rows} training photos")
    next_step("make all", DATA=into)


def _download(folder: Path) -> int:
    """Download and check the data; returns the number of training photos."""
    kaggle = Kaggle.sign_in()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent) as name:
        part = Path(name)
        require_space(part, NEEDED, "the contest's data")
        kaggle.wait(lambda: _fetch(kaggle, part))
        unpack(part / f"{COMPETITION}.zip", part / "unpacked", "the contest's data")
        rows = _check(part / "unpacked")
        (part / "unpacked").rename(folder)
    return rows


def _fetch(kaggle: Kaggle, into: Path) -> None:
    """Download the archive; the client shows its progress."""
    # Every account may download once it has accepted the rules.
    hint = f"accept the contest's rules at {RULES} with this account, then run again"
    with kaggle.asking("downloading the contest's data", hint):
        kaggle.api.competition_download_files(COMPETITION, str(into), force=True, quiet=False)


def _check(folder: Path) -> int:
    """Number of training photos of a complete data folder. Raises UserError if anything is missing from it."""
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch)
        dataset = Dataset.load(folder, cache)
        test = load_test(folder, cache)
    for part, found in (("train", dataset.has_photos), ("test", test.has_photos)):
        if not found:
            raise UserError(f"the folder {part}/ is missing")
    read_sample_submission(folder)
    return len(dataset.train)


def unpack(archive: Path, into: Path, what: str) -> None:
    """Unpack a zip file; zipfile keeps every member below `into`. Raises UserError if it is damaged, and without disk space."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = zipped.infolist()
            require_space(archive.parent, sum(member.file_size for member in members), what)
            for member in track(members, "unpacking", unit="files"):
                zipped.extract(member, into)
    except DAMAGED as error:
        raise UserError(f"{archive.name}: is damaged ({error}); fetch it again") from None
