"""Bringing home what a training kernel left: run-NAME.zip, whose folds join oof/NAME/ if it is the same run."""

import re
import shutil
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock, Timeout

from pawpularity.console import log
from pawpularity.errors import UserError
from pawpularity.evaluation.leaderboard import fold_line, run_row, table_text
from pawpularity.evaluation.oof import assemble, read_fold, run_folds
from pawpularity.files import DAMAGED_ZIP, file_hash, require_space
from pawpularity.runs import OOF, Run

ARCHIVE = r"^run-[A-Za-z0-9][A-Za-z0-9._-]*\.zip$"
_MEMBER = r"oof/(folds|{run})/[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?"


def bring_home(archive: Path, run: str | None = None) -> str:
    """Add the trained folds in `archive` to oof/RUN/ and return the table of the run. Folds that are here, or in training, stay.

    Raises UserError for an archive that is not a training kernel's, is damaged, or holds another run than `run` or than the
    one that stands in its place (other settings, data, folds or weights).
    """
    name = re.fullmatch(r"run-([A-Za-z0-9][A-Za-z0-9._-]*)\.zip", archive.name)
    if name is None or (run is not None and name[1] != run):
        raise UserError(f"{archive}: must be called run-{run or 'NAME'}.zip, as the training kernel leaves it")
    if not archive.is_file():
        raise UserError(f"{archive}: is missing; download it from the kernel's page, and name where it lies")
    OOF.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetched.", suffix=".part", dir=OOF) as scratch:
        place = Path(scratch)
        _unpack(archive, name[1], place)
        fetched = Run.open(place / "oof" / name[1])
        _bring_folds_file(place, fetched)
        # Read through the folds file that both now share: predictions of other photos are found out here.
        folds = run_folds(fetched)
        trained = fetched.trained_folds()
        if not trained:
            raise UserError(f"{archive}: holds no trained fold; its log on Kaggle says why")
        for fold in trained:
            read_fold(fetched, fold, folds)
        home = Run.start(OOF / name[1], fetched.record)
        if fetched.frozen_file.is_file() and not home.frozen_file.is_file():
            fetched.frozen_file.rename(home.frozen_file)
        for fold in trained:
            try:
                with FileLock(home.folder / f".fold{fold}.lock", timeout=0):  # training's own
                    _join(fetched, home, fold)
            except Timeout:
                log(f"fold {fold} is being trained here: that one is kept")
    # As in training: who finds a fold missing must not remove the oof.csv that another has just completed.
    with FileLock(home.folder / ".oof.lock"):
        assemble(home)
    lines = [fold_line(home, fold) for fold in home.trained_folds()]
    return "\n".join([*lines, table_text([run_row(home)])])


def _join(fetched: Run, home: Run, fold: int) -> None:
    """Move a fold into the run here; one that is trained here stays. The fold's lock must be held."""
    if fold in home.trained_folds():
        same = file_hash(home.predictions_file(fold)) == file_hash(fetched.predictions_file(fold))
        log(f"fold {fold} is trained here already{'' if same else ', to other predictions'}: kept as it is")
        return
    if home.fold(fold).exists():  # what a stopped training left
        shutil.rmtree(home.fold(fold))
    fetched.fold(fold).rename(home.fold(fold))


def _bring_folds_file(place: Path, fetched: Run) -> None:
    """The folds file that the run was trained by. Raises UserError where another of that name is here."""
    path = Path(fetched.record["folds"]["file"])
    source, target = place / "oof" / "folds" / path.name, OOF / "folds" / path.name
    if path.parent.name != "folds" or not source.is_file():
        raise UserError(f"{fetched.name}: its archive lacks the folds file {path.name}; train it again")
    if target.is_file():
        if file_hash(target) != file_hash(source):
            raise UserError(
                f"{target}: differs from the folds {fetched.name} was trained by; move it away, and fetch again"
            )
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    for file in (source.with_suffix(".json"), source):
        file.rename(target.with_name(file.name))


def _unpack(archive: Path, run: str, into: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [member for member in zipped.infolist() if not member.is_dir()]
            allowed = re.compile(_MEMBER.format(run=re.escape(run)))
            for member in members:
                parts = member.filename.split("/")
                if not allowed.fullmatch(member.filename) or {".", ".."} & set(parts):
                    raise UserError(
                        f'{archive}: member "{ascii(member.filename)[1:-1][:80]}" is no part of a run; nothing was unpacked'
                    )
            require_space(into, sum(member.file_size for member in members), "the run", "")
            for member in members:
                zipped.extract(member, into)
    except DAMAGED_ZIP as error:
        raise UserError(f"{archive}: is damaged ({error}); fetch it again") from None
