"""Run a command and keep its JSON as docs/results/NAME.json, with the command, the commit and the machine.

    .venv/bin/python docs/results/record.py leakage leakage --labels train.csv

README and docs quote these files; quotes.csv says which figure stands where, and a test compares them. Words that start with a
folder of this machine are written as they were typed, so type relative paths.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pawpularity.runs import machine

HERE = Path(__file__).parent


def commit() -> str:
    """HEAD, with +changes where the code differs from it (a result that was written a moment ago does not count)."""
    head, changes = (
        subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
        for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", "../../src", "../../configs"))
    )
    return f"{head}+changes" if changes else head


def main(name: str, words: list[str]) -> int:
    """Returns the command's exit code; nothing is written unless it is 0."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        code = subprocess.run(
            [sys.executable, "-m", "pawpularity", *words, "--json", str(result)], check=False
        ).returncode
        if code == 0:
            kept = {"command": " ".join(["pawpularity", *words]), "commit": commit(), "machine": machine(),
                    "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
                    "seconds": round(time.perf_counter() - started), "result": json.loads(result.read_text())}  # fmt: skip
            (HERE / f"{name}.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
