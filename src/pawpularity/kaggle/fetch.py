"""`pawpularity kernel-fetch`: add the folds in run-NAME.zip, which a training kernel left, to oof/NAME/ if it is the same run."""

import re
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from pawpularity.console import log, next_step, say
from pawpularity.context import FOLDS
from pawpularity.errors import UserError
from pawpularity.evaluation.leaderboard import run_row, table_text
from pawpularity.evaluation.oof import fold_line, read_fold, read_run, run_folds
from pawpularity.files import file_hash
from pawpularity.kaggle.api import Kaggle
from pawpularity.kaggle.download import unpack
from pawpularity.kaggle.watch import SHOWN, Pushed, pushed_kernel
from pawpularity.runs import OOF, Run, claimed


def kernel_fetch(*, name: str, user: str | None, go: bool, zip: str | None) -> None:
    """Download the run of the training kernel `name`, or take the archive `zip`. Without `go` print what would be downloaded."""
    if zip:
        say(add_folds(Path(zip)))
        next_step("make oof", RUN=Path(zip).stem.removeprefix("run-"))
        return
    if name == "inference":
        raise UserError("kernel-fetch: fetches a trained run; name a training kernel: NAME=train-RUN")
    built, record = pushed_kernel(name, user)
    if not go:
        say(f"download the run that {built.id} version {record['kernel_version']} trained, and add its folds to oof/")
        log(SHOWN)
        next_step(f"make kernel-fetch{built.make_word} GO=1")
        return
    pushed = Pushed(Kaggle.sign_in(), built, record["kernel_version"])
    pushed.require_complete()
    with tempfile.TemporaryDirectory() as scratch:
        archive = pushed.fetch(f"run-{name.removeprefix('train-')}.zip", Path(scratch))
        if archive is None:
            raise UserError(f"{pushed}: left no archive of its run; look at {built.url}")
        say(add_folds(archive))
    next_step("make oof", RUN=name.removeprefix("train-"))


def add_folds(archive: Path) -> str:
    """Add the trained folds in `archive` to oof/RUN/ and return the table of the run. Folds that are here, or in training, stay.

    Raises UserError for an archive that is not a training kernel's, is damaged, or differs from oof/RUN/ in settings, data, folds
    or weights.
    """
    found = re.fullmatch(r"run-([A-Za-z0-9][A-Za-z0-9._-]*)\.zip", archive.name)
    if found is None:
        raise UserError(f"{archive}: must be called run-NAME.zip, as the training kernel leaves it")
    if not archive.is_file():
        raise UserError(f"{archive}: is missing; download it from the kernel's page, and give its path")
    OOF.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetched.", suffix=".part", dir=OOF) as scratch:
        unpack(archive, Path(scratch), "the run")
        fetched = Run.open(Path(scratch) / "oof" / found[1])
        _keep_folds_file(Path(scratch), fetched)
        # Both runs now have the same folds file; predictions of other photos are refused here.
        folds = run_folds(fetched)
        trained = fetched.trained_folds()
        if not trained:
            raise UserError(f"{archive}: holds no trained fold; its log on Kaggle says why")
        for fold in trained:
            read_fold(fetched, fold, folds)
        with claimed(OOF / found[1], fetched.record) as here:
            if fetched.frozen_file.is_file() and not here.frozen_file.is_file():
                fetched.frozen_file.rename(here.frozen_file)
            for fold in trained:
                try:
                    with here.lock(fold):
                        if fold in here.trained_folds():
                            log(f"fold {fold} is trained here already: that one is kept")
                            continue
                        shutil.rmtree(here.fold(fold), ignore_errors=True)  # left by a stopped training
                        fetched.fold(fold).rename(here.fold(fold))
                except Timeout:
                    log(f"fold {fold} is being trained here: that one is kept")
    with FileLock(here.folder / ".oof.lock"):
        read_run(here, partly=True)
    return "\n".join([*(fold_line(here, fold) for fold in here.trained_folds()), table_text([run_row(here)])])


def _keep_folds_file(place: Path, fetched: Run) -> None:
    """Keep the folds file that the run was trained with. Raises UserError if another file of that name is here."""
    name = Path(fetched.record["folds"]["file"]).name
    source, target = place / "oof" / "folds" / name, FOLDS / name
    if not source.is_file():
        raise UserError(f"{fetched.name}: its archive lacks the folds file {name}; train it again")
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        for file in (source.with_suffix(".json"), source):
            file.rename(target.with_name(file.name))
    elif file_hash(target) != file_hash(source):
        raise UserError(
            f"{target}: differs from the folds {fetched.name} was trained with; move it away, and fetch again"
        )
