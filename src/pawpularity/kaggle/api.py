"""Kaggle through the Python client of the `kaggle` package (an optional dependency, imported late).

HTTP codes and typed fields decide what happened. The server's text is shown unchanged, and only selects a hint.

`Refused`     Kaggle refused the request: nothing was done.
`Uncertain`   no answer (5xx, 429, a cut connection): the request may or may not have been done.
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
"""kaggle 2.2.5 still imports six without requiring it."""
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
"""Advice by pattern in the server's text; it decides nothing."""
POLL_S, LONGEST_S, TIMEOUT_S = 20.0, 300.0, 300.0
ANSWER_MINUTES = 5.0
"""How long an unanswered request is repeated before the command gives up."""

Found = TypeVar("Found")


class Refused(UserError):
    """Kaggle refused. `code`: the HTTP code; 200 if a field of the answer names an error."""

    def __init__(self, doing: str, code: int, text: str, hint: str = "") -> None:
        hints = [line for pattern, line in HINTS.items() if re.search(pattern, text, re.IGNORECASE)] or [hint]
        what = f'{doing}: Kaggle refuses it ({code}): "{text.strip() or "no reason given"}"'
        super().__init__("; ".join(part for part in (what, *hints) if part))
        self.code = code


class Uncertain(UserError):
    """No answer, or an unreadable one. `retry_after`: seconds to wait, from the server."""

    def __init__(self, doing: str, why: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{doing}: no certain answer from Kaggle ({why})")
        self.retry_after = retry_after


def request(service: str, name: str, **fields: Any) -> Any:
    """An object of the client's type Api`name`, of a service such as datasets.dataset, with its fields set."""
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

    @classmethod
    def sign_in(cls) -> "Kaggle":
        """The client, signed in. Raises UserError without the package or valid credentials."""
        try:
            with redirect_stdout(sys.stderr):
                from kaggle.api.kaggle_api_extended import KaggleApi
        except ModuleNotFoundError as error:
            raise UserError(f"the kaggle package is not here ({error}); run: {sys.executable} -m {INSTALL}") from None
        kaggle = cls(KaggleApi())
        build = kaggle.api.build_kaggle_client

        def with_timeout() -> Any:
            with build() as client:  # without a timeout a silent connection would block for ever
                session = client.http_client()._session
                session.send = partial(session.send, timeout=TIMEOUT_S)
            return client

        def authenticate() -> None:
            with kaggle.asking("signing in"), redirect_stdout(io.StringIO()):  # hides its long help text
                kaggle.api.authenticate()

        kaggle.api.build_kaggle_client = with_timeout
        kaggle.wait(authenticate)
        return kaggle

    def ask(self, doing: str, service: str, what: str, *, hint: str = FORBIDDEN, **fields: Any) -> Any:
        """The typed answer to one request, sent once: `what` is asked of `service`, such as GetDataset of datasets.dataset."""
        room, _, part = service.partition(".")
        method = f"{room}.{part}_api_client.{re.sub('(?<!^)(?=[A-Z])', '_', what).lower()}"
        message = request(service, f"{what}Request", **fields)
        with self.asking(doing, hint), self.api.build_kaggle_client() as client:
            answer = attrgetter(method)(client)(message)
        if error := getattr(answer, "error", None):
            raise Refused(doing, 200, self.scrub(error), hint if "not found" in error.lower() else "")
        return answer

    @contextmanager
    def asking(self, doing: str, hint: str = FORBIDDEN) -> Iterator[None]:
        """Turn the client's errors inside the block into Refused or Uncertain. `hint`: the advice for 403 and 404."""
        import requests
        import urllib3

        try:
            with redirect_stdout(sys.stderr):  # the client prints
                yield
        except requests.HTTPError as error:
            code, text = int(error.response.status_code), self.scrub(str(error))
            with suppress(ValueError, AttributeError, TypeError):  # the code in Kaggle's JSON, if any, overrides HTTP's
                code = int(error.response.json().get("code") or code)
            if code >= 500 or code in (408, 429):
                after = error.response.headers.get("Retry-After", "")
                raise Uncertain(doing, f"{code}: {text}", float(after) if after.isdigit() else 0.0) from None
            raise Refused(doing, code, text, {401: LOGGED_OUT, 403: hint, 404: hint}.get(code, "")) from None
        except SystemExit:
            raise UserError(f"{doing}: no credentials that Kaggle takes; {LOGGED_OUT}") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError, KeyError, TypeError) as error:
            # The client raises the last three for an answer that it cannot read.
            raise Uncertain(doing, self.scrub(f"{type(error).__name__}: {error}")[:300]) from None

    def wait(
        self, ask: Callable[[], Found], minutes: float = ANSWER_MINUTES, done: Callable[[Found], bool] = lambda _: True
    ) -> Found:
        """The first answer that is `done`, or the last one after `minutes`. Raises Uncertain if the last request got no answer.

        An uncertain answer is no failure: the request is repeated, at growing intervals.
        """
        deadline, pause = time.monotonic() + 60 * minutes, POLL_S
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
            if time.monotonic() + pause > deadline:
                if missed:
                    raise missed
                return found
            if missed:
                log(f"{missed}; asking again in {duration(pause)}")
            time.sleep(pause)

    def upload(self, doing: str, folder: Path, kind: str, count: int, send: Callable[[list[Any]], Any]) -> None:
        """Upload the `count` files of `folder`, and `send` the request that makes a version of them.

        A second call resumes an interrupted upload, and does not upload files again whose request was refused: the client keeps
        track of both in the temporary folder.
        """
        from kaggle.api.kaggle_api_extended import ResumableUploadContext
        from kagglesdk.blobs.types.blob_api_service import ApiBlobType

        body = SimpleNamespace(files=[])
        with self.asking(doing), ResumableUploadContext() as context:
            try:
                self.api.upload_files(body, None, str(folder), ApiBlobType[kind], context)
            except ValueError as error:
                raise UserError(f"{doing}: {error}; no version was made, run again") from None
            if len(body.files) != count:  # kaggle 2.2.4 leaves out what failed
                raise UserError(f"{doing}: only {len(body.files)} of {count} files arrived; run again")
            try:
                send(body.files)
                return
            except Uncertain as error:
                lost = error  # Kaggle may have used the files, so leave the context without an error: it then forgets them.
        raise lost

    def scrub(self, text: str) -> str:
        """`text` without the credentials in use."""
        for secret in filter(None, (self.api.config_values.get(name) for name in ("token", "key"))):
            text = text.replace(secret, "***")
        return text
