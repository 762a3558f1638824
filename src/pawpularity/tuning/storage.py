"""Where a study is kept: a journal file below `oof/studies/NAME/`, or a PostgreSQL database that many machines share.

Whoever starts a trial holds the store's lock from counting the trials until the trial has begun, so that no two workers
start the last one. The lock of a journal is a file's, that of PostgreSQL an advisory one; both go with their process.
"""

import json
import os
import re
import socket
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from pawpularity.console import log
from pawpularity.errors import UserError
from pawpularity.files import text_hash
from pawpularity.runs import OOF, check_name

STUDIES = OOF / "studies"
VARIABLE = "PAWPULARITY_STORAGE"
MOST_RETRIES = 3  # a trial that killed its process four times would kill the fifth
_CONNECT_S = 30
_NOT_OURS = "{}: is not what was written there; move it away to start the study anew"
HOST, PROCESS, PID = "host", "process", "pid"

optuna.logging.set_verbosity(optuna.logging.ERROR)  # of a trial that was stopped it would show a traceback
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def study_folder(name: str) -> Path:
    """`oof/studies/NAME`."""
    return STUDIES / check_name(name)


class Store:
    """A study's storage, its lock, and how trials of dead processes are found."""

    def __init__(self, folder: Path, url: str | None, *, heartbeat: int = 60, create: bool = True) -> None:
        """Open (with `create`: or make) the storage. Raises UserError for an address that is wrong or does not answer."""
        self.folder, self._held = folder, False
        self._url = url
        self.shown = str(folder / "study.journal")
        self._lock: FileLock | _AdvisoryLock
        self.storage: BaseStorage
        if url is None:
            journal = folder / "study.journal"
            if not create and not journal.is_file():
                there = ", ".join(sorted(path.parent.name for path in STUDIES.glob("*/study.journal"))) or "none yet"
                raise UserError(
                    f"{journal}: there is no such study; studies there: {there} (--storage URL for a database)"
                )
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / ".lock")
            lock = _JournalLock(folder / ".journal.lock")
            lock.acquire()
            try:
                _mend(journal)
            finally:
                lock.release()
            try:
                self.storage = JournalStorage(_Journal(journal, lock))
            except (KeyError, TypeError, ValueError, AssertionError):  # lines of JSON, and none of Optuna's
                raise UserError(_NOT_OURS.format(journal)) from None
            return
        self._open_database(url, heartbeat)

    @property
    def one_worker(self) -> bool:
        """SQLite: its locks fail under several writers."""
        return self._url is not None and _parts(self._url).drivername.startswith("sqlite")

    @property
    def by_heartbeat(self) -> bool:
        """Whether Optuna itself finds the dead: their heart stands still."""
        return isinstance(self.storage, RDBStorage)

    def _open_database(self, text: str, heartbeat: int) -> None:
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        url = _parts(text)
        self.shown = url.set(drivername=url.drivername.partition("+")[0]).render_as_string(hide_password=True)
        whole = url.render_as_string(hide_password=False)
        arguments: dict[str, Any] = {}
        if self.one_worker:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / ".lock")
            alone = FileLock(self.folder / ".sqlite.lock", timeout=0)
            try:
                alone.acquire()
            except Timeout:
                raise UserError(f"{self.shown}: another process works on it, and SQLite takes one; leave STORAGE out, "
                                "or name a PostgreSQL database") from None  # fmt: skip
            self._alone = alone
        else:
            arguments = {"connect_args": {"timeout": _CONNECT_S}, "pool_pre_ping": True}
            key = int(text_hash("pawpularity", str(url.database)), 16) % 2**62
            self._lock = _AdvisoryLock(create_engine(whole, poolclass=NullPool, **arguments), key)
        with self.reachable(), self.locked():  # two that make the tables at the same time would fail
            self.storage = RDBStorage(
                whole, engine_kwargs=arguments, heartbeat_interval=heartbeat,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=MOST_RETRIES),
            )  # fmt: skip

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """Turn a database's errors inside the block into one line without the password."""
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            reason = _reason(error, self._url)
            cure = "check the address, and that the database runs"
            if "disk is full" in reason or "No space left" in reason:  # SQLite's words, PostgreSQL's
                cure = "free space on its disk, and give the same command again"
            raise UserError(f"{self.shown}: {reason}; {cure}") from None

    def acquire(self) -> None:
        """Take the lock, waiting for it; taken by this process already, nothing."""
        if not self._held:
            self._lock.acquire()
            self._held = True

    def release(self) -> None:
        """Give the lock back; not held, nothing."""
        if self._held:
            self._held = False
            self._lock.release()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock for the block."""
        self.acquire()
        try:
            yield
        finally:
            self.release()


class _Journal(JournalFileBackend):
    """Optuna's journal, in which a full disk leaves no half line: the next one would be added to it, and neither be readable."""

    def __init__(self, path: Path, lock: "_JournalLock") -> None:
        super().__init__(str(path), lock_obj=lock)  # type: ignore[arg-type]
        self.path, self.lock = path, lock

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """As Optuna's. Raises OSError naming the file."""
        self.lock.acquire()
        try:
            size = self.path.stat().st_size
            try:
                super().append_logs(logs)
            except OSError as error:
                os.truncate(self.path, size)
                raise OSError(error.errno, error.strerror, str(self.path)) from error
        finally:
            self.lock.release()


class _JournalLock:
    """The operating system's file lock, which a killed process gives back at once (Optuna's own outlives it for 30 s)."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


class _AdvisoryLock:
    """PostgreSQL's session lock: a process that dies gives it back with its connection."""

    def __init__(self, engine: Any, key: int) -> None:
        self._engine, self._key = engine, key
        self._connection: Any = None

    def acquire(self) -> None:
        from sqlalchemy import text

        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            # Asked again and again, for a call that waits would run into the connection's time limit.
            while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": self._key}):
                time.sleep(0.1)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()  # NullPool: the session ends, and its lock with it


def _mend(journal: Path) -> None:
    """Cut off a last line that a killed process left half written: what follows it could not be read."""
    if not journal.is_file():
        return
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    try:
        for line in content[:whole].splitlines():
            json.loads(line)
    except ValueError:
        raise UserError(_NOT_OURS.format(journal)) from None
    if whole < len(content):
        os.truncate(journal, whole)


def _parts(url: str) -> Any:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        raise UserError("--storage: is no address; write postgresql://USER:PASSWORD@HOST:PORT/DATABASE") from None
    if parts.drivername.startswith("sqlite"):
        return parts
    if parts.drivername.partition("+")[0] not in ("postgresql", "postgres"):
        kind = re.sub(r"[^A-Za-z0-9+]", "", parts.drivername)[:30]
        raise UserError(f"--storage {kind}://...: must be postgresql:// (or sqlite:///FILE for one worker); without it a "
                        "journal file in oof/studies/ is used")  # fmt: skip
    if not parts.database:
        raise UserError(
            "--storage postgresql://...: names no database; write postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        )
    return parts.set(drivername="postgresql+pg8000")


def _reason(error: BaseException, url: str | None) -> str:
    """What a driver complains of, in a line, without the password."""
    origin = getattr(error, "orig", None) or error.__cause__ or error
    while isinstance(origin.__cause__, OSError):  # the driver's own words leave out why
        origin = origin.__cause__
    if isinstance(origin, OSError) and origin.strerror:
        return origin.strerror.lower()
    detail = origin.args[0] if origin.args else str(origin)
    text = str(detail.get("M", detail)) if isinstance(detail, dict) else str(detail)
    text = (text.strip() or type(origin).__name__).splitlines()[0][:200]
    password = str(_parts(url).password or "") if url else ""
    return text.replace(password, "***") if password else text


def this_host() -> str:
    """A name for this machine that tells nobody its name."""
    machine = Path("/etc/machine-id")
    return text_hash(socket.gethostname(), machine.read_text() if machine.is_file() else "")


def process_mark(pid: int) -> str | None:
    """A name for the process `pid`, never used again by another one; None if there is no such process."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").is_file():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        except OSError:
            return None
        # Field 3 is the state (Z: killed, its parent has not looked yet), field 22 when it started, in ticks since boot.
        return None if fields[0] in "ZX" else text_hash(boot, str(pid), fields[19])
    try:  # no /proc: a process of the same number will do
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return text_hash(str(pid))


def signature() -> dict[str, Any]:
    """What a trial notes of who runs it."""
    return {
        PID: os.getpid(),
        PROCESS: process_mark(os.getpid()),
        HOST: this_host(),
    }  # HOST last: it says that all are there


def revive(store: Store, study: optuna.Study) -> None:
    """Fail the running trials whose process is gone, and enqueue them again with the same settings.

    In a database by Optuna's heartbeats, of every machine; and of this machine, as for a journal, by the process itself.
    Called with the lock held.
    """
    if store.by_heartbeat:
        optuna.storages.fail_stale_trials(study)
    host = this_host()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        noted = trial.user_attrs
        # A trial that notes nobody yet belongs to who holds the lock, and that is us: its process died in between.
        if HOST not in noted or (noted[HOST] == host and process_mark(int(noted[PID])) != noted[PROCESS]):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            again(study, trial)
            log(f"trial {trial.number}: its process is gone; it is run again")
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        # A full disk may have room for a trial's end and none for its repetition.
        if trial.state == TrialState.FAIL and not repeated(trials, trial.number):
            again(study, trial)


def repeated(trials: Sequence[FrozenTrial], number: int) -> bool:
    """Whether the failed trial `number` was enqueued again."""
    return any(number in trial.system_attrs.get("retry_history", ()) for trial in trials)


def again(study: optuna.Study, trial: FrozenTrial, most: int | None = MOST_RETRIES) -> None:
    """Enqueue a failed trial with the settings it had."""
    RetryHeartbeatStaleTrialCallback(max_retry=most)(study, trial)
