"""The script of the training kernel: it trains folds of one run on Kaggle's GPUs and leaves the run as one archive.

`make kernel-train` builds the data set that it reads (order.json, the package, the configuration), and `make kernel-push
NAME=train-RUN GO=1` uploads both. A kernel is a single file, so the script looks for everything else below /kaggle/input.

/kaggle/working/run-NAME.zip    oof/NAME/ and oof/folds/ as in the repository; make kernel-fetch downloads it
/kaggle/working/run-NAME.json   report: the state of each fold, the GPUs, the time

The torch of Kaggle's image is kept, and only packages that the image lacks are installed. At the time limit unfinished folds
write a checkpoint; built with --resume, the next version of this kernel continues from there.
"""

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

STARTED = time.monotonic()
FORMAT = 2  # of order.json
ROOT = Path(os.environ.get("PAWPULARITY_KAGGLE", "/kaggle"))
STOPPED = (130, 143, -signal.SIGTERM)
KEPT = ("torch", "torchvision", "numpy")  # never replaced: Kaggle's GPUs need its build
ALTERNATIVES = {"opencv-python-headless": ("opencv-python", "opencv-contrib-python")}


class Fault(Exception):
    """A fault that the user can mend, in one line."""


def say(line: str) -> None:
    """Print `line` with the minutes since the start."""
    print(f"[{(time.monotonic() - STARTED) / 60:6.1f} min] {line}", flush=True)


def folders(top: Path, depth: int = 7):
    """`top` and the folders below it, except those of photos. Searched because Kaggle has moved its mounts before."""
    yield top
    if depth and top.is_dir():
        for child in sorted(top.iterdir()):
            if child.is_dir() and child.name not in ("train", "test"):
                yield from folders(child, depth - 1)


def the_one(found: list[Path], what: str, remedy: str) -> Path:
    """The only element of `found`."""
    if len(found) != 1:
        raise Fault(f"{len(found)} folders below {ROOT / 'input'} hold {what}, one is needed: {remedy}")
    return found[0]


def find_order() -> tuple[Path, dict]:
    """The data set of this kernel, with every file checked, and its order.json."""
    found = [folder for folder in folders(ROOT / "input") if (folder / "order.json").is_file()]
    dataset = the_one(found, "an order.json", "attach the data set")
    for line in (dataset / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        path = dataset / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise Fault(f"{name} is {'damaged' if path.is_file() else 'missing'} in the data set: push it again")
    order = json.loads((dataset / "order.json").read_text(encoding="utf-8"))
    if order["format"] != FORMAT:
        raise Fault(f"order.json has format {order['format']}, this script reads {FORMAT}: build and push both again")
    return dataset, order


def lay_out(dataset: Path, order: dict, place: Path) -> None:
    """Put package, configuration, folds and weights into `place`, as in a checkout."""
    with zipfile.ZipFile(dataset / order["package"]) as zipped:
        zipped.extractall(place / "code")
    for name, where in order["places"].items():
        (place / where).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(dataset / name, place / where)


def resume(run: str, place: Path) -> None:
    """Unpack the output of an earlier version of this kernel, if it is attached."""
    for folder in folders(ROOT / "input"):
        archive = folder / f"run-{run}.zip"
        if archive.is_file():
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(place)  # zipfile keeps members below `place`
            say(f"continues from {archive}")
        elif (folder / "oof" / run).is_dir():  # Kaggle unpacked it
            shutil.copytree(folder / "oof", place / "oof", dirs_exist_ok=True)
            say(f"continues from {folder}")


def version_numbers(version: str) -> tuple[int, ...]:
    """The first three numbers of a version, for comparing."""
    numbers = [int(part) for part in re.findall(r"\d+", version.split("+")[0])]
    return tuple([*numbers, 0, 0, 0][:3])


def installed(name: str) -> str | None:
    """The installed version of a distribution, under one of its names; None if it is missing."""
    for alias in (name, *ALTERNATIVES.get(name, ())):
        try:
            return importlib.metadata.version(alias)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def lacking(needs: list[str]) -> list[str]:
    """The requirements that pip must install. Raises Fault if one would replace a package that must stay."""
    missing = []
    for word in needs:
        name, sign, wanted = re.fullmatch(r"([\w.-]+?)(?:(>=|==)([\w.]+))?(?:[,;].*)?", word).groups()
        version = installed(name)
        if (
            version is None
            or (sign == "==" and version != wanted)
            or (sign and version_numbers(version) < version_numbers(wanted))
        ):
            if name in KEPT:
                raise Fault(
                    f"Kaggle's image has {name} {version}, {word} is needed, and must not be replaced: take the newest image"
                )
            missing.append(word)
    return missing


def install(missing: list[str], place: Path, internet: bool) -> None:
    """Install `missing` and its dependencies; every other installed package keeps its version."""
    if not missing:
        say("no package has to be installed")
        return
    if not internet:
        raise Fault(
            f"Kaggle's image lacks {', '.join(missing)}, and the internet is off: build again without --offline"
        )
    replaced = {re.split("[=>]", word)[0].lower() for word in missing}
    versions = {
        dist.metadata["Name"]: str(dist.version) for dist in importlib.metadata.distributions() if dist.metadata["Name"]
    }
    kept = [f"{name}=={version}\n" for name, version in sorted(versions.items())
            if name.lower() not in replaced and re.fullmatch(r"\d[\w.+]*", version)]  # fmt: skip
    constraints = place / "constraints.txt"
    constraints.write_text("".join(kept))
    say(f"installing {', '.join(missing)} ...")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(constraints)]
    if subprocess.run([*pip, *missing]).returncode != 0:
        raise Fault(f"{', '.join(missing)} cannot be installed (is the internet on, in the kernel's settings?)")


def graphics_cards() -> list[str]:
    """One line per GPU; [] without any."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    listed = subprocess.run([program, "-L"], capture_output=True, text=True)
    return [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]


class Trainer:
    """One process per GPU, a fold at a time, until all are trained or the time is up."""

    def __init__(self, order: dict, place: Path, data: Path) -> None:
        self.order, self.place, self.run = order, place, order["run"]
        self.command = [sys.executable, "-m", "pawpularity"]
        self.options = ["--config", order["config"], "--data", str(data)]
        self.cards = graphics_cards()
        self.states = dict.fromkeys(order["folds"], "not begun")
        self.stopping = False
        threads = max(1, (os.cpu_count() or 1) // max(1, len(self.cards)))
        self.environment = os.environ | {"PYTHONPATH": str(place / "code"), "OMP_NUM_THREADS": str(threads)}
        if not order["internet"]:
            self.environment["HF_HUB_OFFLINE"] = "1"

    def stop(self, *_) -> None:
        """Handle SIGTERM: end at the next check."""
        self.stopping = True

    def train(self, deadline: float) -> None:
        """Train the missing folds, one a GPU at a time, until all are trained, one failed, or `deadline` (monotonic seconds)."""
        slots = list(range(max(1, len(self.cards))))
        # Made once here, because processes that start together would each search for near-duplicates.
        folds = [*self.command, "folds", *self.options]
        if len(slots) > 1 and subprocess.run(folds, cwd=self.place, env=self.environment).returncode != 0:
            raise Fault("the folds cannot be made; the line above says why")
        waiting, running = list(self.order["folds"]), {}
        while waiting or running:
            over = self.stopping or time.monotonic() >= deadline
            if over or "failed" in self.states.values():
                waiting = []
            while waiting and slots:
                fold, slot = waiting.pop(0), slots.pop(0)
                running[fold] = (self.start(fold, slot), slot)
            if over:
                self.end([process for process, _ in running.values()])
            for fold, (process, slot) in list(running.items()):
                code = process.poll()
                if code is not None:
                    del running[fold]
                    slots.append(slot)
                    stopped = code in STOPPED or (over and code == -signal.SIGKILL)  # killed by `end`
                    self.states[fold] = "trained" if code == 0 else "stopped" if stopped else "failed"
                    say(f"fold {fold}: {self.states[fold]}")
                    self.pack()
            time.sleep(0.2)

    def start(self, fold: int, slot: int) -> subprocess.Popen:
        """The process that trains `fold` on the GPU numbered `slot` (on the CPU where there is none)."""
        command = [*self.command, "train", *self.options, "--run", self.run, "--fold", str(fold), "--skip-taken"]
        gpu = {"CUDA_VISIBLE_DEVICES": str(slot)} if self.cards else {}
        say(f"fold {fold}: starts{f' on GPU {slot}' if self.cards else ''}")
        self.states[fold] = "running"
        return subprocess.Popen(command, cwd=self.place, env=self.environment | gpu)

    def end(self, processes: list[subprocess.Popen]) -> None:
        """Stop every process with a checkpoint; kill one that has not ended after five minutes."""
        if processes:
            say("stopping: unfinished folds write a checkpoint")
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(300)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def pack(self) -> None:
        """Write the archive, whole or not at all, and the report."""
        working, oof = ROOT / "working", self.place / "oof"
        part = working / f".run-{self.run}.zip.part"
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as zipped:  # weights do not compress
            for top in (oof / self.run, oof / "folds"):
                for path in sorted(top.rglob("*")):
                    if path.is_file() and path.suffix not in (".lock", ".part"):
                        zipped.write(path, path.relative_to(self.place).as_posix())
        part.replace(working / f"run-{self.run}.zip")
        minutes = round((time.monotonic() - STARTED) / 60, 1)
        report = {"run": self.run, "folds": self.states, "gpus": self.cards, "minutes": minutes}
        (working / f"run-{self.run}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Train the run in order.json, and pack it up; returns the exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036 - an image may be older than the package
        raise Fault(
            f"this image has Python {sys.version.split()[0]}, and 3.11 is needed: choose the latest environment"
        )
    dataset, order = find_order()
    found = [
        folder for folder in folders(ROOT / "input") if (folder / "train.csv").is_file() and (folder / "train").is_dir()
    ]
    data = the_one(found, "train.csv and train/", "accept the contest's rules, and attach its data alone")
    say(f"run {order['run']}, fold {', '.join(map(str, order['folds']))}, at most {order['hours']:g} h; data {data}")
    scratch = ROOT / "temp"
    place = Path(tempfile.mkdtemp(prefix="pawpularity-", dir=scratch if scratch.is_dir() else None))
    lay_out(dataset, order, place)
    resume(order["run"], place)
    install(lacking(order["needs"]), place, order["internet"])
    trainer = Trainer(order, place, data)
    say("; ".join(trainer.cards) or "no GPU: training on the CPU, which takes days for the large backbones")
    signal.signal(signal.SIGTERM, trainer.stop)
    budget = order["hours"] * 3600
    trainer.train(STARTED + budget - min(600.0, 0.05 * budget))  # packing needs minutes of its own
    trainer.pack()
    if "trained" in trainer.states.values():
        subprocess.run([*trainer.command, "oof"], cwd=place, env=trainer.environment)
    for fold, state in trainer.states.items():
        if state != "trained":
            say(f"fold {fold} is NOT trained: {state}")
    shutil.rmtree(place, ignore_errors=True)
    say(f"left {ROOT / 'working' / ('run-' + order['run'] + '.zip')}")
    # Kaggle keeps the output only of a version that exits with 0, so fail only if there is nothing to keep.
    return 1 if "failed" in trainer.states.values() and "trained" not in trainer.states.values() else 0


if __name__ == "__main__":
    try:
        code = main()
    except Fault as fault:
        say(f"STOPPED: {fault}")
        code = 2
    if code:
        sys.exit(code)
