"""Runs on Kaggle: trains folds of one run on its free GPUs and leaves the run behind as one archive.

`make kernel-train` builds the data set that this reads (order.json, the package, the configuration), `make kernel-push
NAME=train-RUN GO=1` sends both. Kaggle uploads this one file; everything it needs it looks for below /kaggle/input.

/kaggle/working/run-NAME.zip    oof/NAME/ and oof/folds/ as the repository has them; make kernel-fetch brings them home
/kaggle/working/run-NAME.json   what was asked, what was done, on what

Kaggle's own torch is kept. Of the other packages only those that its image lacks are installed. At the time limit a fold
keeps its state; built with --resume the next version of this kernel goes on from there.
"""

import hashlib
import importlib.metadata
import importlib.util
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
ROOT = Path(os.environ.get("PAWPULARITY_KAGGLE", "/kaggle"))
FORMAT = 1
STOPPED = (130, 143, -signal.SIGTERM)


class Fault(Exception):
    """Something that the reader of the log can mend, in one line."""


def say(line: str) -> None:
    """Print `line` with the minutes since the start."""
    print(f"[{(time.monotonic() - STARTED) / 60:6.1f} min] {line}", flush=True)


def folders(top: Path, depth: int = 5):
    """`top` and what is below it, photos left out: Kaggle has moved its mounts before, so nothing has a fixed place."""
    yield top
    if depth:
        for child in sorted(top.iterdir()):
            if child.is_dir() and child.name not in ("train", "test"):
                yield from folders(child, depth - 1)


def find_order() -> tuple[Path, dict]:
    """The data set of this kernel: the folder that holds order.json, every file of it checked."""
    found = [folder for folder in folders(ROOT / "input") if (folder / "order.json").is_file()]
    if len(found) != 1:
        raise Fault(
            f"{len(found)} folders below {ROOT / 'input'} hold an order.json, one is due: is the data set attached?"
        )
    order = json.loads((found[0] / "order.json").read_text(encoding="utf-8"))
    if order.get("format") != FORMAT:
        raise Fault(
            f"order.json has format {order.get('format')}, this script reads {FORMAT}: build and push both again"
        )
    for name, due in order["files"].items():
        path = found[0] / name
        if path.is_dir():
            continue  # an archive that Kaggle unpacked
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != due:
            raise Fault(f"{name} is {'damaged' if path.is_file() else 'missing'} in the data set: push it again")
    return found[0], order


def find_data() -> Path:
    """The contest's data: train.csv with train/ beside it."""
    found = [f for f in folders(ROOT / "input") if (f / "train.csv").is_file() and (f / "train").is_dir()]
    if len(found) != 1:
        raise Fault(
            f"{len(found)} folders below {ROOT / 'input'} hold train.csv and train/, one is due: accept the contest's rules, and "
            "attach its data alone"
        )
    return found[0]


def lay_out(bundle: Path, order: dict, place: Path) -> None:
    """The package, the configuration, folds and weights as a checkout has them, in `place`."""
    package = bundle / order["package"]
    if package.is_dir():
        shutil.copytree(package, place / "code")
    else:
        with zipfile.ZipFile(package) as zipped:
            zipped.extractall(place / "code")
    for name, where in order["places"].items():
        (place / where).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle / name, place / where)


def take_up(run: str, place: Path) -> None:
    """What an earlier version of this kernel left, if it is attached."""
    for folder in folders(ROOT / "input"):
        archive, unpacked = folder / f"run-{run}.zip", folder / "oof" / run
        if archive.is_file():
            with zipfile.ZipFile(archive) as zipped:
                names = zipped.namelist()
                if not all(re.fullmatch(r"oof/[\w.-]+(/[\w.-]+)+", name) and ".." not in name for name in names):
                    raise Fault(f"{archive} is no archive of a run")
                zipped.extractall(place)
            say(f"goes on from {archive}: {len(names)} files")
            return
        if unpacked.is_dir():
            shutil.copytree(folder / "oof", place / "oof", dirs_exist_ok=True)
            say(f"goes on from {unpacked}")
            return


def numbers(version: str) -> tuple[int, ...]:
    """The first three numbers of a version, to be compared."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def lacking(needs: list[dict]) -> list[str]:
    """What pip must fetch. Raises Fault where Kaggle's image lacks something that must not be replaced."""
    due = []
    for need in needs:
        version = None
        if importlib.util.find_spec(need["module"]) is not None:
            names = [need["name"], *need.get("also", [])]  # OpenCV comes by several names
            for name in names:
                try:
                    version = importlib.metadata.version(name)
                    break
                except importlib.metadata.PackageNotFoundError:
                    continue
            version = version or "0"
        good = version is not None and (
            version == need["exactly"] if "exactly" in need else numbers(version) >= numbers(need["at_least"])
        )
        if good:
            continue
        wanted = f"{need['name']}{'==' + need['exactly'] if 'exactly' in need else '>=' + need['at_least']}"
        if need.get("keep"):
            raise Fault(
                f"Kaggle's image has {need['name']} {version}; {wanted} is needed and not replaced: take its newest image"
            )
        due.append(wanted)
    return due


def install(due: list[str], place: Path, internet: bool) -> None:
    """Fetch `due` and what belongs to it; every package that is here already stays as it is."""
    if not due:
        say("nothing has to be installed")
        return
    if not internet:
        raise Fault(f"Kaggle's image lacks {', '.join(due)}, and the internet is off: build again without --offline")
    replaced = {re.split("[=>]", word)[0].lower() for word in due}
    frozen = place / "frozen.txt"
    here = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions() if dist.metadata["Name"]}
    kept = {name: v for name, v in here.items() if name.lower() not in replaced and re.fullmatch(r"\d[\w.+]*", str(v))}
    frozen.write_text("".join(f"{name}=={v}\n" for name, v in sorted(kept.items())))
    say(f"installing {', '.join(due)} ...")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-c",
        str(frozen),
        *due,
    ]
    if subprocess.run(command).returncode != 0:
        raise Fault(f"{', '.join(due)} cannot be installed (is the internet on, in the kernel's settings?)")


def graphics_cards() -> list[str]:
    """One line per GPU; [] without any."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    listed = subprocess.run([program, "-L"], capture_output=True, text=True)
    return [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]


class Trainer:
    """One process per GPU, a fold at a time, until all are done or the time is up."""

    def __init__(self, order: dict, place: Path, data: Path) -> None:
        self.order, self.place, self.run = order, place, order["run"]
        self.words = [sys.executable, "-m", "pawpularity"]
        self.choice = ["--config", order["config"], "--data", str(data)]
        self.cards = graphics_cards()
        self.states = dict.fromkeys(order["folds"], "not begun")
        self.seconds: dict[int, float] = {}
        self.asked = False
        cores, at_once = os.cpu_count() or 1, max(1, len(self.cards))
        self.environment = os.environ | {
            "PYTHONPATH": str(place / "code"),
            "OMP_NUM_THREADS": str(max(1, cores // at_once)),
            "OMP_WAIT_POLICY": "PASSIVE",
            **({} if order["internet"] else {"HF_HUB_OFFLINE": "1"}),
        }

    def stop(self, *_) -> None:
        """Kaggle, or whoever runs this, wants an end."""
        self.asked = True

    def work(self, deadline: float) -> None:
        """Train the folds that lack, one a GPU at a time, until all are there or `deadline` (monotonic seconds).

        Raises Fault where the folds cannot be made.
        """
        slots = list(range(max(1, len(self.cards))))
        # Processes that start at once would each look for near-duplicates.
        folds = [*self.words, "folds", *self.choice]
        if len(slots) > 1 and subprocess.run(folds, cwd=self.place, env=self.environment).returncode != 0:
            raise Fault("the folds cannot be made; the line above says why")
        waiting, running = list(self.order["folds"]), {}
        while waiting or running:
            over = self.asked or time.monotonic() >= deadline
            failed = "failed" in self.states.values()
            while waiting and slots and not over and not failed:
                fold, slot = waiting.pop(0), slots.pop(0)
                running[fold] = (self.start(fold, slot), slot, time.monotonic())
            if over:
                self.end(running)
            if (over or failed) and not running:
                return
            for fold, (process, slot, since) in list(running.items()):
                if process.poll() is not None:
                    del running[fold]
                    slots.append(slot)
                    self.seconds[fold] = round(time.monotonic() - since, 1)
                    self.states[fold] = {0: "trained"}.get(
                        process.returncode, "stopped" if process.returncode in STOPPED else "failed"
                    )
                    say(f"fold {fold}: {self.states[fold]}")
                    self.pack()
            time.sleep(0.2)

    def start(self, fold: int, slot: int) -> subprocess.Popen:
        """The process that trains `fold` on the GPU numbered `slot` (on the CPU where there is none)."""
        command = [*self.words, "train", *self.choice, "--run", self.run, "--fold", str(fold), "--skip-taken"]
        card = {"CUDA_VISIBLE_DEVICES": str(slot)} if self.cards else {}
        say(f"fold {fold}: starts{f' on GPU {slot}' if self.cards else ''}")
        self.states[fold] = "running"
        return subprocess.Popen(command, cwd=self.place, env=self.environment | card)

    def end(self, running: dict) -> None:
        """Ask every process to keep its state and end; one that does not within five minutes is killed."""
        if running:
            say("the time is up: folds that are being trained keep their state")
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            try:
                process.wait(300)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def pack(self) -> None:
        """Write the archive and the report, whole or not at all."""
        working = ROOT / "working"
        report = {
            "run": self.run,
            "folds": {str(fold): state for fold, state in self.states.items()},
            "seconds": {str(fold): seconds for fold, seconds in self.seconds.items()},
            "gpus": self.cards,
            "minutes": round((time.monotonic() - STARTED) / 60, 1),
        }
        part = working / f".run-{self.run}.zip.part"
        oof = self.place / "oof"
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as zipped:  # weights do not get smaller
            for top in (oof / self.run, oof / "folds"):
                for path in sorted(top.rglob("*")):
                    if path.is_file() and path.suffix not in (".lock", ".part"):
                        zipped.write(path, path.relative_to(self.place).as_posix())
        part.replace(working / f"run-{self.run}.zip")
        (working / f"run-{self.run}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Train what the order in the bundle says, and pack it up; returns the exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036 - an image may be older than we are
        raise Fault(
            f"this image has Python {sys.version.split()[0]}, and 3.11 is needed: choose the latest environment"
        )
    bundle, order = find_order()
    data = find_data()
    say(f"run {order['run']}, fold {', '.join(map(str, order['folds']))}, at most {order['hours']:g} h; data {data}")
    scratch = ROOT / "temp"
    place = Path(tempfile.mkdtemp(prefix="pawpularity-", dir=scratch if scratch.is_dir() else None))
    lay_out(bundle, order, place)
    take_up(order["run"], place)
    install(lacking(order["needs"]), place, order["internet"])
    trainer = Trainer(order, place, data)
    say("; ".join(trainer.cards) or "no GPU: training on the CPU, which takes days for the large backbones")
    signal.signal(signal.SIGTERM, trainer.stop)
    # Packing needs minutes of its own.
    budget = order["hours"] * 3600
    trainer.work(STARTED + budget - min(600.0, 0.05 * budget))
    trainer.pack()
    if "trained" in trainer.states.values():
        subprocess.run([*trainer.words, "oof"], cwd=place, env=trainer.environment)
    left = {fold: state for fold, state in trainer.states.items() if state != "trained"}
    for fold, state in left.items():
        say(f"fold {fold} is NOT trained: {state}")
    shutil.rmtree(place, ignore_errors=True)
    say(f"left {ROOT / 'working' / ('run-' + order['run'] + '.zip')}")
    # Kaggle keeps the output of a version that ends well; one that failed before anything was trained may say so.
    return 1 if "failed" in left.values() and "trained" not in trainer.states.values() else 0


if __name__ == "__main__":
    try:
        code = main()
    except Fault as fault:
        say(f"STOPPED: {fault}")
        code = 2
    if code:
        sys.exit(code)
