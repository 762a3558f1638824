"""The only file that Kaggle gets of the inference kernel: it finds the bundle, and starts what lies in it.

make kernel builds the bundle, make kernel-check runs this very file without Kaggle, make kernel-push uploads both.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

STARTED = time.monotonic()
FORMAT = 1  # of bundles that this script can start
ROOT = Path(os.environ.get("PAWPULARITY_KAGGLE", "/kaggle"))

# Set before the imports that read them: no network is there, and threads that wait shall sleep.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def refuse(line: str) -> NoReturn:
    """Say what is wrong, and end as everything here ends that somebody can mend."""
    print(f"pawpularity: {line}", file=sys.stderr)
    sys.exit(2)


def find_bundle(inputs: Path) -> Path:
    """The folder of the one bundle below `inputs`: Kaggle mounts data sets in more than one way."""
    found, due = [], [(inputs, 0)]
    while due:
        folder, depth = due.pop(0)
        if (folder / "bundle.json").is_file() and (folder / "SHA256SUMS").is_file():
            found.append(folder)
        elif depth < 5 and folder.is_dir():
            below = sorted(path for path in folder.iterdir() if path.name not in ("train", "test"))
            due += [(path, depth + 1) for path in below if path.is_dir()]
    if len(found) != 1:
        there = ", ".join(map(str, found)) or "none"
        refuse(f"{inputs} must hold one bundle, not {len(found)} ({there}); see the kernel's Input")
    return found[0]


def start(bundle: Path) -> int:
    """Check the bundle's code, and run it."""
    try:
        about = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            refuse(f"{bundle} is of format {about['format']}, this script starts {FORMAT}; push both again")
        code = bundle / about["code"]
        due = about["files"][code.name]["sha256"]
        if hashlib.sha256(code.read_bytes()).hexdigest() != due:
            refuse(f"{code} is not the file that was built; build the bundle again, and push it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        refuse(f"{bundle} is not a whole bundle ({error!r}); build it again, and push it")
    sys.path.insert(0, str(code))
    from pawpularity.kaggle.inference import main

    return main(sys.argv[1:], bundle, ROOT, STARTED)


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - an image may be older than we are
        refuse(f"this image has Python {sys.version.split()[0]}, and 3.11 is needed; choose the latest environment")
    sys.exit(start(find_bundle(ROOT / "input")))
