"""`pawpularity data`: download the contest's data with the kaggle command (see `kaggle_cli`).

The archive is unpacked beside its place, checked (tables, one photo a row) and moved there as a whole, so a folder that
exists is complete.
"""

import stat
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path, PurePosixPath

from pawpularity.console import Progress, log, next_step, track
from pawpularity.data import CONTEST
from pawpularity.data.dataset import Dataset, load_test
from pawpularity.data.tables import read_sample_submission
from pawpularity.errors import UserError
from pawpularity.files import DAMAGED_ZIP, require_space
from pawpularity.kaggle.kaggle_cli import COMPETITION, RULES, Answer, Kaggle, explain

NEEDED = 2_200_000_000
"""Bytes: the archive (1.04 GB) and as much again unpacked."""
DOING = "downloading the contest's data"


def data(*, into: str | None) -> None:
    """Download the contest's data into the folder `into` (default: input/petfinder-pawpularity-score)."""
    download(Path(into) if into else CONTEST)
    next_step("make all, or make train FOLD=0 CONFIG=densenet161")


def download(folder: Path) -> None:
    """Fetch the contest's data into `folder`, or say that it is there already.

    Raises UserError, in one line, where the kaggle command, credentials, accepted rules, the network or disk space are
    missing, where the archive is not the contest's, and where `folder` exists but is not complete (it is left alone).
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        try:
            rows = _check(folder)
        except UserError as error:
            raise UserError(f"{folder}: is there but not complete ({error}); move it away and run again") from None
        log(f"{folder}: the data is there already ({rows} training photos)")
        return
    kaggle = Kaggle.find(to_push=False)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent) as name:
            part = Path(name)
            require_space(part, NEEDED, "the contest's data")
            _fetch(kaggle, part)
            unpacked = part / "unpacked"
            _unpack(_archive(part), unpacked)
            rows = _check(unpacked)
            if folder.exists():  # it is empty
                folder.rmdir()
            unpacked.rename(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); free space or mend permissions"
        ) from None
    log(f"{folder}: {rows} training photos")


def _check(folder: Path) -> int:
    """Number of training photos of a complete data folder. Raises UserError for what is missing from it."""
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch)
        dataset = Dataset.load(folder, cache)
        test = load_test(folder, cache)
    for part, found in (("train", dataset.has_photos), ("test", test.has_photos)):
        if not found:
            raise UserError(f"the folder {part}/ is missing")
    read_sample_submission(folder)
    return len(dataset.train)


def _fetch(kaggle: Kaggle, into: Path) -> None:
    """Download the archive. The command's own output may hold account names, so it is not shown."""
    words = ["competitions", "download", "-c", COMPETITION, "-p", str(into)]
    with Progress(None, "downloading", "MB") as progress:
        answer = kaggle.ask(*words, timeout_s=None, meanwhile=lambda: progress.add(_megabytes(into) - progress.done))
    if answer.code != 0 or not any(into.glob("*.zip")):
        raise UserError(_explain(answer))


def _explain(answer: Answer) -> str:
    """What the failure means for a download, and what to do."""
    if "no space left" in answer.text.lower():
        return "no disk space for the contest's data (it needs 2.2 GB); free some"
    # Whoever has an account may download, once the rules are accepted.
    return explain(answer, DOING, f"accept the contest's rules at {RULES} with this account, then run again")


def _archive(folder: Path) -> Path:
    archives = sorted(folder.glob("*.zip"))
    if len(archives) != 1:
        raise UserError(f"kaggle left {len(archives)} archives, one was due; run again")
    return archives[0]


def _unpack(archive: Path, into: Path) -> None:
    """Unpack a zip whose members all stay below `into`. Raises UserError for any other, and for a damaged one."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = zipped.infolist()
            for member in members:
                name = member.filename
                leads_out = (
                    PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or {"\\", ":"} & set(name)
                )
                if leads_out or stat.S_ISLNK(member.external_attr >> 16):
                    raise UserError(
                        f'{archive.name}: member "{ascii(member.filename)[1:-1]}" leads out of the folder; '
                        "nothing was unpacked, this is not the contest's archive"
                    )
            require_space(archive.parent, sum(member.file_size for member in members), "the contest's data")
            into.mkdir()
            for member in track(members, "unpacking", unit="file"):
                zipped.extract(member, into)
    except DAMAGED_ZIP as error:
        raise UserError(f"{archive.name}: is damaged ({error}); run again") from None


def _megabytes(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):  # a temporary file may go while it is looked at
            total += file.stat().st_size
    return total // 1_000_000
