"""The error that a user can fix.

`UserError` carries one line: what is wrong, where, and what to do. The command line prints it and exits with 2. Any other
exception is a defect of ours: its traceback is printed, and the exit code is 1.
"""

from collections.abc import Iterable
from difflib import get_close_matches

_LONGEST = 2000  # characters of a message; of a longer one the middle is left out: the remedy stands at the end


def printable(text: str, keep: str = "") -> str:
    """`text` with escapes (`\\x1b`, `\\xe9`) for what a terminal would obey or cannot show; characters in `keep` stay.

    File names come from elsewhere. They may hold commands for the terminal, or bytes that are not UTF-8.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


class UserError(Exception):
    """A fault in the input, the options or the machine that the user can fix. The message is one line."""

    def __init__(self, message: str) -> None:
        # Quoted parts may hold line ends: a file's name, a word of the command line, another library's message.
        line = printable(" ".join(message.splitlines()))
        super().__init__(line if len(line) <= _LONGEST else f"{line[: _LONGEST - 500]} ... {line[-450:]}")


class BadPhoto(Exception):
    """Bytes that cannot be used as a photo; the message is the reason, in a few words. `data.photos` adds the file's name."""


class Diverged(UserError):
    """A training whose loss or predictions are no longer finite."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean "size"?` for the valid name closest to `name`, or the list of valid names if none is close."""
    options = sorted(valid)
    close = get_close_matches(name, options, n=1, cutoff=0.5)
    return f'; did you mean "{close[0]}"?' if close else f"; valid: {listed(options, most=30)}"


def listed(items: Iterable[object], separator: str = ", ", *, most: int = 10) -> str:
    """The first `most` items as text, and how many more there are; `none` for no item. A line must not grow with the input."""
    words = [str(item) for item in items]
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return separator.join(words[:most]) + more if words else "none"
