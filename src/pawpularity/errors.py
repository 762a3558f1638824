"""The error that a user can fix.

`UserError` carries one line: what is wrong, where, and what to do. The command line prints it and exits with 2. Any other
exception is a defect of ours: its traceback is printed, and the exit code is 1.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A fault in the input, the options or the machine that the user can fix. The message is one line."""

    def __init__(self, message: str) -> None:
        # Quoted parts may hold line ends: a file's name, a word of the command line, another library's message.
        super().__init__(" ".join(message.splitlines()))


class BadPhoto(Exception):
    """Bytes that cannot be used as a photo; the message is the reason, in a few words. `data.photos` adds the file's name."""


class Diverged(UserError):
    """A training whose loss or predictions are no longer finite."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean "size"?` for the valid name closest to `name`, or the list of valid names if none is close."""
    options = sorted(valid)
    close = get_close_matches(name, options, n=1, cutoff=0.5)
    return f'; did you mean "{close[0]}"?' if close else f"; valid: {', '.join(options)}"
