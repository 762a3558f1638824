"""Where a study is stored: a journal file below `oof/studies/NAME/`, or a PostgreSQL database that many machines share.

A trial whose worker died is marked as failed and queued again with its settings. On PostgreSQL, Optuna's heartbeats find it. A
journal has none, so each worker on a journal holds a lock file, which is released when its process ends.
"""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from pawpularity.console import log
from pawpularity.errors import UserError, listed
from pawpularity.runs import OOF, check_name

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

STUDIES = OOF / "studies"
VARIABLE = "PAWPULARITY_STORAGE"
WORKER = "worker"
"""The trial's attribute that names who runs it."""
MOST_RETRIES = 10  # a trial that crashed its worker so often would crash the next one too
_CONNECT_S = 30
_FORM = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"

optuna.logging.set_verbosity(optuna.logging.ERROR)  # it would show a traceback for a trial that was stopped
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def study_folder(name: str) -> Path:
    """`oof/studies/NAME`."""
    return STUDIES / check_name(name)


class Store:
    """A study's storage, and one worker on it."""

    def __init__(self, folder: Path, url: str | None = None, *, heartbeat: int = 60, create: bool = True) -> None:
        """Open the storage; `create` makes a missing journal. Raises UserError for an address that is wrong or does not answer."""
        self.worker = uuid4().hex[:12]
        self.folder, self.heartbeat = folder, heartbeat
        self._seen: dict[tuple[str, int], float] = {}
        self.storage: BaseStorage
        if url is None:
            self.shown = str(folder / "study.journal")
            self.storage = _journal(folder / "study.journal", create)
        else:
            from alembic.util import CommandError

            address = _address(url)
            # *** for the password; the query may hold another one
            self.shown = address.set(drivername="postgresql", query={}).render_as_string()
            try:
                with self.reachable():
                    self.storage = _database(address, heartbeat)
            except (
                RuntimeError,
                CommandError,
            ) as error:  # the tables are of another version of Optuna, or another program
                cure = "(STORAGE_URL: postgresql+pg8000://...), or take a database of its own"
                raise UserError(f"--storage: {error} {cure}") from None
            except TypeError as error:  # the driver lacks an option behind the "?", or needs a user
                raise UserError(f"--storage: {error}; it must be {_FORM}") from None

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """Turn a storage's errors inside the block into one line without the password."""
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        # If a trial's end cannot be written, Optuna fails with an assertion or an unbound variable.
        except (SQLAlchemyError, StorageInternalError, AssertionError, UnboundLocalError) as error:
            causes: list[BaseException] = [error]
            while (before := causes[-1].__cause__ or causes[-1].__context__) is not None:
                causes.append(before)
            system = next((e for e in causes if isinstance(e, OSError) and e.strerror), None)
            if not any(isinstance(e, SQLAlchemyError | StorageInternalError) for e in causes):
                raise (system or error) from None
            reason = str(system.strerror).lower() if system else _database_message(causes[-1])
            raise UserError(f"{self.shown}: {reason}; check the address, and that the database runs") from None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While the block runs, other workers see that this one is alive."""
        mine = self._lock_of(self.worker)
        try:
            with nullcontext() if isinstance(self.storage, RDBStorage) else FileLock(mine):
                yield
        finally:
            mine.unlink(missing_ok=True)

    def revive(self, study: optuna.Study) -> None:
        """Mark the trials of dead workers as failed, and queue every failed trial again.

        Several workers may do so at the same time: of two repetitions only the first runs (`study.place_of`).
        """
        database = self.storage if isinstance(self.storage, RDBStorage) else None
        if database:
            optuna.storages.fail_stale_trials(study)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            key, now = (study.study_name, trial.number), time.monotonic()
            if database and key not in self._seen:
                # A worker that was killed before its trial's first heartbeat would never count as silent.
                database.record_heartbeat(trial._trial_id)
            seen_s = now - self._seen.setdefault(key, now)
            if not database and self._is_dead(trial.user_attrs.get(WORKER), seen_s):
                with suppress(UpdateFinishedTrialError):
                    study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        every = study.get_trials()
        for trial in every:
            if trial.state == TrialState.FAIL and not was_repeated(every, trial.number):
                again(study, trial)

    def _is_dead(self, worker: str | None, seen_s: float) -> bool:
        if worker is None:  # the trial has just started, or its worker was killed right at its start
            return seen_s > self.heartbeat
        if worker == self.worker:  # this worker runs no trial while it checks, so the trial is left over
            return True
        try:
            with FileLock(self._lock_of(worker), timeout=0):
                pass
        except Timeout:
            return False
        self._lock_of(worker).unlink(missing_ok=True)
        return True

    def _lock_of(self, worker: str) -> Path:
        return self.folder / f".worker-{worker}.lock"


def again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a failed trial again with its settings, unless it failed too often."""
    if len(RetryHeartbeatStaleTrialCallback.retry_history(trial)) < MOST_RETRIES:
        log(f"trial {trial.number}: was cut short; it is run again")
        trial = deepcopy(trial)
        trial.user_attrs = {}  # no worker runs the new one yet
        RetryHeartbeatStaleTrialCallback()(study, trial)


def was_repeated(trials: list[FrozenTrial], number: int) -> bool:
    """Whether the failed trial `number` was queued again."""
    return any(number in RetryHeartbeatStaleTrialCallback.retry_history(trial) for trial in trials)


def _journal(path: Path, create: bool) -> JournalStorage:
    if not create and not path.is_file():
        names = listed(sorted(other.parent.name for other in STUDIES.glob("*/study.journal")))
        raise UserError(f"{path}: there is no such study; studies there: {names} (--storage URL for a database)")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Optuna's other lock, a symbolic link, never ends for a relative path whose owner was killed.
        return JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))
    except (KeyError, TypeError, ValueError, AssertionError):
        raise UserError(
            f"{path}: a line is damaged, usually the last; delete it, or move the file away to search from the start"
        ) from None


def _database(address: "URL", heartbeat: int) -> RDBStorage:
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    opened = partial(
        RDBStorage,
        address.render_as_string(hide_password=False),
        engine_kwargs={"connect_args": {"timeout": _CONNECT_S}, "pool_pre_ping": True},
        heartbeat_interval=heartbeat,
        heartbeat_stale_trial_callback=again,
    )
    for _ in range(4):
        with suppress(IntegrityError, ProgrammingError):  # another worker is making the tables
            return opened()
    return opened()


def _address(text: str) -> "URL":
    """The address for SQLAlchemy. Raises UserError that does not quote it: any part may be the password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    if text.count("@") > 1:
        raise UserError("--storage: has more than one @; write an @ in the user name or password as %40")
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.get_backend_name() not in ("postgresql", "postgres") or not url.database:
        raise UserError(f"--storage: must be {_FORM}; without it a journal file in {STUDIES}/ is used")
    return url.set(drivername="postgresql+pg8000")


def _database_message(error: BaseException) -> str:
    """The first line of the database's error message."""
    detail: Any = error.args[0] if error.args else type(error).__name__
    text = str(detail.get("M", detail)) if isinstance(detail, dict) else str(detail)
    return text.strip().splitlines()[0][:200]
