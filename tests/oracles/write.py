"""`python -m tests.oracles.write`: write expected.json from the code as it is; the commit is that of the last change to it."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.oracles.conftest import EXPECTED, RECORD

CODE = ("src", "configs", "kernels")


def git(*words: str) -> str:
    return subprocess.run(["git", *words, "--", *CODE], check=True, capture_output=True, text=True).stdout.strip()


def main() -> int:
    if changed := git("status", "--porcelain"):
        print(f"not committed, so that no commit could be named:\n{changed}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as place:
        record = Path(place, "figures.jsonl")
        words = [sys.executable, "-m", "pytest", str(EXPECTED.parent), "-q", "-p", "no:xdist", "-m", "not slow"]
        code = subprocess.run(words, env=os.environ | {RECORD: str(record)}, check=False).returncode
        if code:
            return code
        figures = dict(map(json.loads, record.read_text().splitlines()))
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(figures[name])}" for name in sorted(figures))
    EXPECTED.write_text(f'{{\n "commit": "{git("log", "-1", "--format=%h")}",\n "figures": {{\n{lines}\n }}\n}}\n')
    return 0


if __name__ == "__main__":
    sys.exit(main())
