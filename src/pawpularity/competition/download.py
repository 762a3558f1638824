"""The contest's data, fetched with Kaggle's own command: `download(folder)`.

The `kaggle` command is optional and is run as a separate program, so its credentials stay with it: they are never read
for their content nor printed. The archive is unpacked beside its place, checked (tables, one photo a row) and moved
there as a whole, so a folder that exists is a folder that is complete.
"""

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from pawpularity.competition.dataset import Dataset, load_test
from pawpularity.competition.table import read_sample_submission
from pawpularity.errors import UserError
from pawpularity.verb import say

COMPETITION = "petfinder-pawpularity-score"
RULES = f"https://www.kaggle.com/competitions/{COMPETITION}/rules"
NEEDED = 2_200_000_000  # bytes: the archive (1.04 GB) and as much again unpacked
_TOKENS = "https://www.kaggle.com/settings"


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
        say(f"{folder}: the data is there already ({rows} training photos)")
        return
    program = _kaggle()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent) as name:
            part = Path(name)
            _require_space(part, NEEDED)
            _run_kaggle(program, part)
            unpacked = part / "unpacked"
            _unpack(_archive(part), unpacked)
            rows = _check(unpacked)
            if folder.exists():  # known to be empty; where it is not any more, this fails and nothing is lost
                folder.rmdir()
            unpacked.rename(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); free space or mend permissions"
        ) from None
    say(f"{folder}: {rows} training photos")


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


def _kaggle() -> str:
    # A virtual environment's programs are beside its Python, even where it was not activated.
    beside = Path(sys.executable).parent / "kaggle"
    program = shutil.which("kaggle") or (str(beside) if os.access(beside, os.X_OK) else None)
    if program is None:
        raise UserError(f'the kaggle command is not installed; run: {sys.executable} -m pip install "kaggle>=1.7"')
    return program


def _run_kaggle(program: str, into: Path) -> None:
    """Run the download with a bar of our own: the program's output may hold account names, so it is not passed on."""
    command = [program, "competitions", "download", "-c", COMPETITION, "-p", str(into)]
    with (
        tempfile.TemporaryFile() as output,
        tqdm(desc="downloading", unit="B", unit_scale=True, file=sys.stderr, disable=not sys.stderr.isatty()) as bar,
    ):
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        except OSError as error:
            raise UserError(f"{program}: cannot be run ({error.strerror}); install kaggle again") from None
        try:
            while True:
                try:
                    code = process.wait(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    bar.update(_size(into) - bar.n)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        output.seek(0)
        text = output.read().decode("utf-8", errors="replace")
    if code != 0 or not any(into.glob("*.zip")):
        raise UserError(_explain(text, code))


def _explain(text: str, code: int) -> str:
    """What the kaggle command's failure means and what to do, without quoting secrets."""
    low = text.lower()

    def says(*signs: str) -> bool:
        return any(sign in low for sign in signs)

    if says("no space left"):
        return "no disk space for the contest's data (it needs 2.2 GB); free some"
    if not _has_credentials() or says("could not find kaggle.json", "not authenticated", "unauthenticated"):
        return (
            f"no Kaggle credentials; make an API token at {_TOKENS} and put it into ~/.kaggle/access_token or "
            "KAGGLE_API_TOKEN (an older kaggle.json in ~/.kaggle works too)"
        )
    if says("403", "forbidden", "accept this competition's rules", "accept the rules"):
        return f"Kaggle refuses the download (403); accept the contest's rules at {RULES} with this account, then run again"
    if says("401", "unauthorized"):
        return f"Kaggle does not accept the credentials (401); make a new API token at {_TOKENS}"
    if says(
        "max retries exceeded", "failed to resolve", "name or service not known", "name resolution", "unreachable",
        "connection refused", "connectionerror", "connection aborted", "connection reset", "timed out", "proxyerror",
        "newconnectionerror", "sslerror", "nodename nor servname",
    ):  # fmt: skip
        return "no connection to www.kaggle.com; check the network (or its proxy) and run again"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = _without_secrets(lines[-1])[:160] if lines else "it said nothing"
    return f"kaggle competitions download failed with status {code} ({last}); run it by hand to see more"


def _has_credentials() -> bool:
    if os.environ.get("KAGGLE_API_TOKEN") or (os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY")):
        return True
    folders = [Path.home() / ".kaggle", Path.home() / ".config" / "kaggle"]
    if os.environ.get("KAGGLE_CONFIG_DIR"):
        folders.append(Path(os.environ["KAGGLE_CONFIG_DIR"]))
    return any((f / name).is_file() for f in folders for name in ("access_token", "kaggle.json", "credentials.json"))


def _without_secrets(line: str) -> str:
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY"):
        if os.environ.get(name):
            line = line.replace(os.environ[name], "***")
    # Keys are 32 hex digits, tokens longer; no path or message of the command has such a word.
    return re.sub(r"[A-Za-z0-9_\-]{32,}", "***", line)


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
                name = PurePosixPath(member.filename)
                link = stat.S_ISLNK(member.external_attr >> 16)
                if (
                    name.is_absolute()
                    or ".." in name.parts
                    or "\\" in member.filename
                    or ":" in member.filename
                    or link
                ):
                    raise UserError(
                        f'{archive.name}: member "{ascii(member.filename)[1:-1]}" leads out of the folder; '
                        "nothing was unpacked, this is not the contest's archive"
                    )
            _require_space(archive.parent, sum(member.file_size for member in members))
            into.mkdir()
            with tqdm(
                members, desc="unpacking", unit="file", file=sys.stderr, disable=not sys.stderr.isatty()
            ) as shown:
                for member in shown:
                    zipped.extract(member, into)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(f"{archive.name}: is damaged ({error}); run again") from None


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"no disk space: the contest's data needs {needed / 1e9:.1f} GB in {folder.parent}, {free / 1e9:.1f} GB are free"
        )


def _size(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size
        except OSError:  # a temporary file may go while it is being looked at
            continue
    return total
