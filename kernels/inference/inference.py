"""The script of the inference kernel: it finds the bundle and starts the code in it.

`make kernel` builds the bundle, `make kernel-check` runs this script without Kaggle, `make kernel-push` uploads both.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

STARTED = time.monotonic()
FORMAT = 3  # the bundle format that this script reads
ROOT = Path(os.environ.get("PAWPULARITY_KAGGLE", "/kaggle"))

# Set before the imports that read them: there is no network, and threads that wait should sleep.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def refuse(line: str) -> NoReturn:
    """Print one line and exit with 2."""
    print(f"pawpularity: {line}", file=sys.stderr)
    sys.exit(2)


def find_bundle(inputs: Path, depth: int = 7) -> list[Path]:
    """Folders below `inputs` that hold a bundle: Kaggle mounts data sets and models in more than one way."""
    if (inputs / "bundle.json").is_file():
        return [inputs]
    below = sorted(path for path in inputs.glob("*") if path.is_dir() and path.name not in ("train", "test"))
    return [bundle for path in below for bundle in find_bundle(path, depth - 1)] if depth else []


def start(bundle: Path) -> int:
    """Check the bundle's code, and run it."""
    try:
        about = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            refuse(f"{bundle} has format {about['format']}, this script reads {FORMAT}; build and push both again")
        code = bundle / about["code"]
        sums = (bundle / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        if f"{hashlib.sha256(code.read_bytes()).hexdigest()}  {code.name}" not in sums:
            refuse(f"{code} is not the file that was built; build the bundle again, and push it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        refuse(f"{bundle} is not a whole bundle ({error!r}); build it again, and push it")
    sys.path.insert(0, str(code))
    from pawpularity.kaggle.inference import main

    return main(bundle, ROOT, STARTED)


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - an image may be older than the package
        refuse(f"this image has Python {sys.version.split()[0]}, and 3.11 is needed; choose the latest environment")
    found = find_bundle(ROOT / "input")
    if len(found) != 1:
        refuse(
            f"{ROOT / 'input'} must hold one bundle, not {len(found)} ({', '.join(map(str, found))}); see the kernel's Input"
        )
    sys.exit(start(found[0]))
