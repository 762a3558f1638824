"""Kaggle, by the Python client of the `kaggle` package (an extra; imported late, because importing it signs in).

HTTP codes and typed fields decide what happened. What the server says is shown as it is, and may choose a hint.

`Refused`     Kaggle said no: nothing was done.
`Uncertain`   no answer (5xx, 429, a cut connection): nobody knows whether it was done.
"""

import importlib
import io
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from pawpularity.console import duration, log
from pawpularity.errors import UserError

COMPETITION = "petfinder-pawpularity-score"
RULES = f"https://www.kaggle.com/competitions/{COMPETITION}/rules"
SUBMISSIONS = f"https://www.kaggle.com/competitions/{COMPETITION}/submissions"
SETTINGS = "https://www.kaggle.com/settings"
INSTALL = 'pip install "kaggle>=2.2.4" six'
"""kaggle 2.2.5 still imports six and does not ask for it."""
LOGGED_OUT = f"make an API token at {SETTINGS} and put it into ~/.kaggle/access_token or KAGGLE_API_TOKEN"
FORBIDDEN = f"is KAGGLE_USER the token's account, and are the contest's rules accepted ({RULES})?"
HINTS = {
    r"gpu session": "stop one under View Active Events on https://www.kaggle.com/code, or wait for its end",
    r"gpu quota": f"the week's hours are shown at {SETTINGS}",
    r"private.*(quota|storage)|(quota|storage).*private": "delete private data sets or old versions of them",
    r"phone": f"verify a phone number at {SETTINGS}",
    r"\brules\b": f"accept them at {RULES} with this account",
    r"submission allowance": "Kaggle takes a few a day, and its day begins at midnight UTC",
}
"""By patterns in the server's text. They add advice and decide nothing."""
POLL_S, LONGEST_S, TIMEOUT_S = 20.0, 300.0, 300.0
ANSWER_MINUTES = 5.0
"""How long a question is asked again that must be answered before anything else."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Clock:
    """The time, and how it passes."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


CLOCK = Clock()


class Refused(UserError):
    """Kaggle said no. `code`: of HTTP; 200 where a field of the answer names an error."""

    def __init__(self, doing: str, code: int, text: str, hint: str = "") -> None:
        hints = [line for pattern, line in HINTS.items() if re.search(pattern, text, re.IGNORECASE)] or [hint]
        what = f'{doing}: Kaggle refuses it ({code}): "{text.strip() or "no reason given"}"'
        super().__init__("; ".join(part for part in (what, *hints) if part))
        self.code = code


class Uncertain(UserError):
    """No answer, or one that says nothing. `retry_after`: seconds that the server asks for."""

    def __init__(self, doing: str, why: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{doing}: no certain answer from Kaggle ({why})")
        self.retry_after = retry_after


def request(service: str, name: str, **fields: Any) -> Any:
    """The client's type Api`name` of a service such as datasets.dataset, with its fields set."""
    room, _, part = service.partition(".")
    made = getattr(importlib.import_module(f"kagglesdk.{room}.types.{part}_api_service"), f"Api{name}")()
    for field, value in fields.items():
        setattr(made, field, value)
    return made


@dataclass(frozen=True)
class Kaggle:
    """The client, signed in."""

    api: Any
    """kaggle.api.kaggle_api_extended.KaggleApi"""
    clock: Clock

    @classmethod
    def sign_in(cls) -> "Kaggle":
        """Raises UserError without the package or credentials that Kaggle takes."""
        try:
            with redirect_stdout(sys.stderr):
                from kaggle.api.kaggle_api_extended import KaggleApi
        except ModuleNotFoundError as error:
            raise UserError(f"the kaggle package is not here ({error}); run: {sys.executable} -m {INSTALL}") from None
        kaggle = cls(KaggleApi(), CLOCK)
        kaggle.api.build_kaggle_client = kaggle.client

        def authenticate() -> None:
            with kaggle.asking("signing in"), redirect_stdout(io.StringIO()):  # its help is long
                kaggle.api.authenticate()

        kaggle.wait(authenticate)
        return kaggle

    @property
    def user(self) -> str:
        """Whose credentials are in use."""
        return str(self.api.config_values.get("username", "")).lower()

    def client(self) -> Any:
        """A client of kagglesdk. KAGGLE_API_ENVIRONMENT=TEST: of localhost:7777, which KaggleApi's own cannot reach."""
        from kagglesdk.kaggle_client import KaggleClient

        values = self.api.config_values
        client = KaggleClient(
            username=values.get("username"), password=values.get("key"), api_token=values.get("token")
        )
        with client:  # it would wait for ever where a connection is silent
            session = client.http_client()._session
            session.send = partial(session.send, timeout=TIMEOUT_S)
        return client

    def ask(self, doing: str, service: str, what: str, *, hint: str = FORBIDDEN, **fields: Any) -> Any:
        """The typed answer to one request, sent once: `what` is asked of `service`, such as GetDataset of datasets.dataset."""
        room, _, part = service.partition(".")
        method = f"{room}.{part}_api_client.{re.sub('(?<!^)(?=[A-Z])', '_', what).lower()}"
        asked = request(service, f"{what}Request", **fields)
        with self.asking(doing, hint), self.client() as client:
            answer = attrgetter(method)(client)(asked)
        if error := getattr(answer, "error", None):
            raise Refused(doing, 200, self.scrub(error), hint if "not found" in error.lower() else "")
        return answer

    @contextmanager
    def asking(self, doing: str, hint: str = FORBIDDEN) -> Iterator[None]:
        """Raise what goes wrong inside as Refused or Uncertain. `hint`: the advice for 403 and 404."""
        import requests
        import urllib3

        try:
            with redirect_stdout(sys.stderr):  # the client prints
                yield
        except requests.HTTPError as error:
            code, text, retry_after = _answer(error)
            if code >= 500 or code in (408, 429):
                raise Uncertain(doing, self.scrub(f"{code}: {text}"), retry_after) from None
            advice = {401: LOGGED_OUT, 403: hint, 404: hint}.get(code, "")
            raise Refused(doing, code, self.scrub(text), advice) from None
        except SystemExit:
            raise UserError(f"{doing}: no credentials that Kaggle takes; {LOGGED_OUT}") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError, KeyError, TypeError) as error:
            # The last three are the client's, of an answer that is not Kaggle's.
            raise Uncertain(doing, self.scrub(f"{type(error).__name__}: {error}")[:300]) from None

    def wait(
        self, ask: Callable[[], Found], minutes: float = ANSWER_MINUTES, done: Callable[[Found], bool] = lambda _: True
    ) -> Found:
        """The first answer that is `done`, or the last one after `minutes`. Raises Uncertain where that was none.

        No answer is no failure: it is asked again, less and less often.
        """
        deadline, pause = self.clock.now() + 60 * minutes, POLL_S
        while True:
            missed = None
            try:
                found = ask()
                if done(found):
                    return found
                pause = POLL_S
            except Uncertain as error:
                missed = error
                pause = max(min(2 * pause, LONGEST_S), error.retry_after)
            if self.clock.now() + pause > deadline:
                if missed:
                    raise missed
                return found
            if missed:
                log(f"{missed}; asking again in {duration(pause)}")
            self.clock.sleep(pause)

    def upload(self, doing: str, folder: Path, kind: str, count: int, send: Callable[[list[Any]], Any]) -> None:
        """Upload the `count` files of `folder`, and `send` the request that makes something of them.

        An upload that is cut off goes on where it was, and files that a refused request named are not uploaded again: the client
        remembers both in the temporary folder.
        """
        from kaggle.api.kaggle_api_extended import ResumableUploadContext
        from kagglesdk.blobs.types.blob_api_service import ApiBlobType

        body = SimpleNamespace(files=[])
        with self.asking(doing), ResumableUploadContext() as context:
            try:
                self.api.upload_files(body, None, str(folder), ApiBlobType[kind], context)
            except ValueError as error:
                raise UserError(f"{doing}: {error}; nothing was made of the rest, run again") from None
            if len(body.files) != count:  # kaggle 2.2.4 leaves out what failed
                raise UserError(f"{doing}: only {len(body.files)} of {count} files arrived; run again")
            try:
                send(body.files)
                return
            except Uncertain as error:
                lost = error  # The files may be used up: leaving the context well forgets them.
        raise lost

    def download(self, doing: str, response: Any, path: Path) -> None:
        """Stream a response of the client, or of requests, into a file; compared with its announced size."""
        with self.asking(doing):
            response.raise_for_status()
            self.api.download_file(response, str(path), None, quiet=False, resume=False)

    def scrub(self, text: str) -> str:
        """`text` without the credentials in use, and without whatever looks like one."""
        secrets = {self.api.config_values.get(name) for name in ("token", "key", "api_token")}
        for secret in sorted((s for s in secrets if s and len(s) >= 6), key=len, reverse=True):
            text = text.replace(secret, "***")
        return re.sub(r"KGAT_\w+|(?i:(?<=bearer )\S+)|(?i:(?<=signature=)[^&\s]+)", "***", text)


def _answer(error: Any) -> tuple[int, str, float]:
    """Code, text and Retry-After of an HTTPError. Kaggle's JSON has a code of its own, behind whatever status."""
    response = error.response
    code, after = int(response.status_code), str(response.headers.get("Retry-After", ""))
    with suppress(ValueError, AttributeError, TypeError):
        code = int(response.json().get("code") or code)
    return code, str(error), float(after) if after.isdigit() else 0.0
