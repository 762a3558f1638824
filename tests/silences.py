"""How long does a command say nothing, and how much does it say at its end?

Runs commands at a terminal of its own (100 columns), and prints their longest silences, and the number of lines after the last bar
and the widest of them.

    .venv/bin/python tests/silences.py "train --fold 0" "explain --n 2"    (without words: every command that the sample can run)

A silence is a stretch without a byte of output, the bar's own redrawing counted as output. Run it in a folder where they may write.
"""

import fcntl
import os
import pty
import re
import select
import shlex
import struct
import sys
import termios
import time

LIMIT_S = 3.0
ALL = (
    "sample --into input/sample", "folds", "train", "train --config scratch --fold 0 train.epochs=3", "oof", "oof sample",
    "train --run other --config sample train.seed=1", "compare sample other", "ensemble sample other", "errors sample",
    "leakcheck oof/sample/oof.csv", "heads", "predict --run sample", "explain --run sample --n 1", "robustness --runs sample",
    "hypotheses --run sample", "coach input/sample/test --run sample", "kernel --runs sample", "kernel-check", "tune --trials 4",
    "study", "leakage", "checklist", "report", "jobs", "clean-cache --yes",
)  # fmt: skip


def listen(command: str) -> tuple[int, float, float, list[tuple[float, str]], list[str]]:
    """Exit status, seconds, the longest silence, each silence over the limit with the last words before it, and the final lines."""
    words = [sys.executable, "-m", "pawpularity", *shlex.split(command)]
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(
            1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0)
        )  # a terminal of no size has no room for a bar
        os.execv(words[0], words)
    started = heard = time.perf_counter()
    longest, silences, tail, whole = 0.0, [], "", b""
    while True:
        select.select([terminal], [], [])
        try:
            said = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            said = b""
        now = time.perf_counter()
        gap, heard = now - heard, now
        longest = max(longest, gap)
        if gap > LIMIT_S:
            silences.append((gap, tail))
        if not said:
            break
        whole += said
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode(errors="replace"))
        tail = ([tail, *(line.strip() for line in re.split(r"[\r\n]+", text) if line.strip())])[-1][-70:]
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    final = re.sub(
        r"\x1b\[[0-9;?]*[A-Za-z]", "", whole.decode(errors="replace").replace("\r\n", "\n").rpartition("\r")[2]
    )
    return status, now - started, longest, silences, final.strip("\n").splitlines()


def main() -> None:
    """Print a line for every command and one for each of its silences."""
    for command in sys.argv[1:] or ALL:
        status, seconds, longest, silences, final = listen(command)
        end = f"{len(final):3} lines of {max(map(len, final), default=0):3} columns"
        print(f"{command:60} exit {status}  {seconds:6.1f} s  longest silence {longest:5.1f} s  {end}", flush=True)
        for gap, tail in silences:
            print(f"    {gap:5.1f} s after: {tail}", flush=True)


if __name__ == "__main__":
    main()
