"""The official `kaggle` command as a separate program: what it is asked, what it answered, and which fault that was.

Its exit status says little: a failed upload, a refused data set and a kernel pushed without its data all end with 0. So
what it prints is read. The sentences looked for were recorded from version 2.2.4, whose `api/kaggle_api_extended.py` prints
them (the functions are named beside each). Credentials stay with the command; they are read here only to be removed from what it
prints.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from pawpularity.errors import UserError

COMPETITION = "petfinder-pawpularity-score"
RULES = f"https://www.kaggle.com/competitions/{COMPETITION}/rules"
TESTED = "2.2.4"
NEEDED = (2, 2)
SETTINGS = "https://www.kaggle.com/settings"
INSTALL = 'install "kaggle>=2.2" six'
"""kaggle 2.2.4 imports six and does not ask for it."""

_OUTDATED = "Warning: Looks like you're using an outdated"  # _check_response_version
_LOGGED_OUT = (
    "authentication required to call the kaggle api",  # print_auth_help
    "could not find kaggle.json", "not authenticated", "unauthenticated",  # versions before it
)  # fmt: skip
_NO_NETWORK = (
    "max retries exceeded", "failed to resolve", "name or service not known", "name resolution", "unreachable",
    "connection refused", "connectionerror", "connection aborted", "connection reset", "timed out", "proxyerror",
    "newconnectionerror", "sslerror", "nodename nor servname",
)  # fmt: skip
_NOT_THERE = re.compile(r"\b404\b|not found|\b403\b|forbidden|permission '[\w.]+' was denied", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """What the command left behind; both texts are free of credentials."""

    code: int
    out: str
    err: str = ""

    @property
    def text(self) -> str:
        """Both together, without the advice to update."""
        return "\n".join(line for line in f"{self.out}\n{self.err}".splitlines() if not line.startswith(_OUTDATED))

    @property
    def last(self) -> str:
        """The last line that says something; a progress bar does not."""
        lines = [line.strip() for line in self.text.splitlines()]
        said = [line for line in lines if line and not re.search(r"\d%\|.*\[[\d:]+<", line)]
        return said[-1][:300] if said else "it said nothing"

    @property
    def not_there(self) -> bool:
        """Kaggle knows no such thing, or will not say: it answers 403 for what is missing and for what is somebody else's."""
        return self.code != 0 and not self.logged_out and bool(_NOT_THERE.search(self.last))

    @property
    def logged_out(self) -> bool:
        """Whether the command found no credentials, or Kaggle did not take them."""
        low = self.text.lower()
        return any(sign in low for sign in _LOGGED_OUT)

    @property
    def unreachable(self) -> bool:
        """Whether the network is to blame, so that asking again later may help."""
        low = self.text.lower()
        return self.code != 0 and any(sign in low for sign in _NO_NETWORK)


@dataclass(frozen=True)
class Kaggle:
    """The program."""

    program: str

    @classmethod
    def find(cls, *, to_push: bool = True) -> "Kaggle":
        """The command beside our own Python, else on PATH. Raises UserError where there is none, or, `to_push` kernels, one
        that cannot start or is too old for it.
        """
        program = _program()
        if program is None:
            raise UserError(f"the kaggle command is not installed; run: {sys.executable} -m pip {INSTALL}")
        found = cls(program)
        if to_push:
            found.require_version()
        return found

    def require_version(self) -> None:
        """Raise UserError unless the command starts and is new enough to push and to submit kernels."""
        answer = self.ask("--version", timeout_s=60)
        number = re.search(r"Kaggle (?:CLI|API) (\d+)\.(\d+)(\S*)", answer.out)
        if number is None:
            raise UserError(f"{self.program} --version says: {answer.last}; is it Kaggle's own command? pip {INSTALL}")
        if (int(number[1]), int(number[2])) < NEEDED:
            version = f"{number[1]}.{number[2]}{number[3]}"
            raise UserError(f"{self.program}: kaggle {version} is too old to push kernels reliably; run: "
                            f"{_python_of(self.program)} -m pip {INSTALL} --upgrade (tested with {TESTED})")  # fmt: skip

    def ask(
        self,
        *words: str,
        timeout_s: float | None = 300.0,
        show: Callable[[str], Any] | None = None,
        meanwhile: Callable[[], Any] | None = None,
    ) -> Answer:
        """Run `kaggle WORDS` to its end.

        `show` gets each line of its output as it comes; `meanwhile` is called now and then (not together with `show`). A command
        that outlasts `timeout_s` is ended, and its answer says so. Raises UserError where it cannot be run, or not start.
        """
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        lines: list[str] = []
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    [self.program, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE if show else out,
                    stderr=errors,
                    env=environment,
                )
            except OSError as error:
                raise UserError(f"{self.program}: cannot be run ({error.strerror}); install kaggle again") from None
            try:
                if show and process.stdout is not None:
                    for raw in process.stdout:
                        lines.append(self.scrub(raw.decode("utf-8", errors="replace").rstrip("\r\n")))
                        show(lines[-1])
                code = _wait(process, timeout_s, meanwhile)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
                return Answer(code or 1, "", f"no answer within {timeout_s:.0f} s: timed out")
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            said = "\n".join(lines) if show else self._read(out)
            answer = Answer(code, said, self._read(errors))
        if code != 0 and (module := re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", answer.err)):
            raise UserError(
                f"{self.program} cannot start: its Python lacks {module[1]}; run: {_python_of(self.program)} -m pip {INSTALL}"
            )
        return answer

    def _read(self, file: BinaryIO) -> str:
        file.seek(0)
        return self.scrub(file.read().decode("utf-8", errors="replace"))

    def scrub(self, text: str) -> str:
        """`text` without credentials: those of this machine, and whatever looks like one."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = re.sub(r"KGAT_\w+|eyJ[\w-]+\.[\w.-]+", "***", text)  # API tokens; signed web tokens
        text = re.sub(r"(?i)\b(bearer|authorization: *basic)\s+[^\s\"'\\]+", r"\1 ***", text)
        # A legacy key is 32 hex digits. Slugs have dashes, so that no name of a kernel is taken for one.
        return re.sub(r"\b(?=\w*\d)[A-Za-z0-9_]{32,}", "***", text)

    @cached_property
    def _secrets(self) -> tuple[str, ...]:
        found: set[str] = set()
        for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY"):
            found.add(os.environ.get(name, ""))
        for path in _credential_files():
            try:
                text = path.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError):
                continue
            found.update(_values(text))
        # A short value (a user's name, "true") is no secret, and taking it out would garble everything.
        return tuple(sorted((secret for secret in found if len(secret) >= 16), key=len, reverse=True))


REFUSED = f"is KAGGLE_USER the account of the token, and are the contest's rules accepted ({RULES})?"


def explain(answer: Answer, doing: str, refused: str = REFUSED) -> str:
    """One line: why `doing` failed, as far as the answer tells, and what to do. `refused`: the advice for a 403."""
    low = answer.text.lower()

    def says(*signs: str) -> bool:
        return any(sign in low for sign in signs)

    if answer.logged_out and has_credentials():
        return f"{doing}: Kaggle does not accept the credentials found here; make a new API token at {SETTINGS}"
    if answer.logged_out or not (has_credentials() or answer.unreachable):
        return (f"{doing}: no Kaggle credentials; make an API token at {SETTINGS} and put it into ~/.kaggle/access_token "
                "or KAGGLE_API_TOKEN (an older kaggle.json in ~/.kaggle works too)")  # fmt: skip
    if answer.unreachable:
        return f"{doing}: no connection to api.kaggle.com; check the network (or its proxy) and run again"
    if says("accept this competition's rules", "accept the rules", "accept the competition"):
        return f"{doing}: accept the contest's rules at {RULES} with this account, then run again"
    if says("phone verif", "verify your phone", "phone number"):
        return f"{doing}: Kaggle wants a verified phone number for this; verify it at {SETTINGS}, then run again"
    if says("401", "unauthorized"):
        return f"{doing}: Kaggle does not accept the credentials (401); make a new API token at {SETTINGS}"
    if says("quota"):
        return f"{doing}: {answer.last}; the week's GPU hours are shown at {SETTINGS}, and by: kaggle quota"
    if says("submission allowance"):
        return (
            f"{doing}: {answer.last.rstrip('.')}; Kaggle takes a few a day and counts days in UTC: try again tomorrow"
        )
    if says("429", "too many requests"):
        return f"{doing}: Kaggle asks for fewer questions (429); wait some minutes and run again"
    if says("403", "forbidden", "was denied"):
        return f"{doing}: Kaggle refuses ({answer.last}); {refused}"
    return f"{doing}: kaggle ended with status {answer.code} and said: {answer.last}"


def has_credentials() -> bool:
    """Whether something that looks like credentials is here; whether Kaggle accepts it only Kaggle knows."""
    if os.environ.get("KAGGLE_API_TOKEN") or (os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY")):
        return True
    return any(path.is_file() for path in _credential_files())


def shell_line(words: Sequence[str]) -> str:
    """`kaggle WORDS` as a line for a POSIX shell, with the program that would be run, where there is one."""
    program = _program()
    if program is None:
        return shlex.join(["kaggle", *words])
    here = Path(program)
    return shlex.join([str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here), *words])


def _program() -> str | None:
    """The command beside our own Python, where `make setup` and INSTALL put it, else the one on PATH."""
    # Beside it even where the virtual environment was not activated. PATH first would find another version, which the
    # advice to install into our own environment could never replace.
    return shutil.which("kaggle", path=str(Path(sys.executable).parent)) or shutil.which("kaggle")


def _wait(process: "subprocess.Popen[bytes]", timeout_s: float | None, meanwhile: Callable[[], Any] | None) -> int:
    """Exit status. Raises TimeoutExpired."""
    if meanwhile is None:
        return process.wait(timeout_s)
    started = time.monotonic()
    while True:
        try:
            return process.wait(0.5)
        except subprocess.TimeoutExpired:
            if timeout_s is not None and time.monotonic() - started > timeout_s:
                raise
            meanwhile()


def _credential_files() -> list[Path]:
    folders = [Path.home() / ".kaggle", Path.home() / ".config" / "kaggle"]
    if os.environ.get("KAGGLE_CONFIG_DIR"):
        folders.append(Path(os.environ["KAGGLE_CONFIG_DIR"]))
    names = ("access_token", "access_token.txt", "kaggle.json", "credentials.json")
    files = [folder / name for folder in folders for name in names]
    # KAGGLE_API_TOKEN may be the name of a file that holds the token (kagglesdk/kaggle_env.py).
    token = os.environ.get("KAGGLE_API_TOKEN", "")
    return [*files, Path(token)] if 0 < len(token) < 4096 and "\0" not in token else files


def _values(text: str) -> Iterable[str]:
    """The whole text, and every string in it where it is JSON."""
    yield text
    try:
        value = json.loads(text)
    except ValueError:
        return
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, str):
            yield item


def _python_of(program: str) -> str:
    """The Python beside the command, whose pip is the right one."""
    beside = Path(program).parent / "python"
    return str(beside) if beside.is_file() else sys.executable
