"""What the tests share: a toy shelter, a place to work in, and where real data is, if anywhere."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pawpularity.cli import main
from pawpularity.files import file_hash
from pawpularity.sample.draw import draw_sample

ROOT = Path(__file__).resolve().parents[1]

# What a script starts in the background is born deaf to Ctrl-C, and hands that on to every command that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder named by PAWPULARITY_REAL: pawpularity-100/, pawpularity-labels/train.csv, weights/."""
    folder = os.environ.get("PAWPULARITY_REAL")
    if not folder:
        pytest.skip("PAWPULARITY_REAL names no folder with the contest's real data")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shelter of 60 photos of 64 px, drawn once."""
    folder = tmp_path_factory.mktemp("drawn") / "toy"
    draw_sample(folder, photos=60, size=64, seed=3, test_photos=5)
    return folder


@pytest.fixture
def shelter(drawn: Path, tmp_path: Path) -> Path:
    """A copy of the toy shelter that a test may damage."""
    return Path(shutil.copytree(drawn, tmp_path / "toy"))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty checkout as the current folder: configs/ and nothing else."""
    place = tmp_path / "work"
    place.mkdir()
    (place / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(place)
    return place


QUICK_RUN = ("--config", "sample", "photos.size=32", "train.epochs=1", "train.warmup_epochs=0", "folds.k=2")


@pytest.fixture(scope="session")
def two_runs(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the toy sample in toy/ and two seeds of one recipe trained on it, a and b."""
    place = tmp_path_factory.mktemp("two_runs")
    (place / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(drawn, place / "toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for run, seed in (("a", 0), ("b", 1)):
            words = ["--run", run, f"train.seed={seed}", "predict.flip=true"]
            assert main(["train", "--data", "toy", *QUICK_RUN, *words]) == 0
    return place


@pytest.fixture
def runs(two_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that a test may damage, as the current folder."""
    copy = Path(shutil.copytree(two_runs, tmp_path / "runs", symlinks=True))
    monkeypatch.chdir(copy)
    return copy


class Outcome:
    """Exit code and what was printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def paw(capfd: pytest.CaptureFixture[str]):
    """Run the command line in this process: `paw("train", "--fold", "0")` gives code, out and err."""

    def run(*words: object) -> Outcome:
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return run


@pytest.fixture
def refused(paw):
    """Run a command that must end with 2 and one line on standard error after what was announced; returns that line."""

    def run(*words: object) -> str:
        outcome = paw(*words)
        assert outcome.code == 2, outcome.err
        lines = [line for line in outcome.err.splitlines() if line.startswith("pawpularity: ")]
        assert len(lines) == 1, outcome.err
        assert outcome.err.splitlines()[-1] == lines[0]
        assert "Traceback" not in outcome.err
        return lines[0].removeprefix("pawpularity: ")

    return run


@pytest.fixture
def unharmed():
    """A block in which nothing below the places given may change: no file made, removed, rewritten; the cache is nobody's."""

    def look(path: Path) -> str:
        if path.is_symlink():
            return f"link to {path.readlink()}"
        if path.is_file() and path.stat().st_size < 1e8:
            return f"{file_hash(path)} {path.stat().st_mtime_ns}"
        about = path.stat()
        return f"{stat.S_IFMT(about.st_mode):o}" + (f" {about.st_size}" if path.is_file() else "")

    def seen(places: tuple[Path, ...]) -> dict[Path, str]:
        found = {place: look(place) for place in places}
        for place in places:
            if place.is_dir() and not place.is_symlink():
                found |= {path: look(path) for path in place.rglob("*") if ".cache" not in path.parts}
        return found

    @contextmanager
    def watching(*places: Path) -> Iterator[None]:
        before = seen(places)
        yield
        assert seen(places) == before
        assert not list(Path().rglob("*.part")), "nothing half-written"

    return watching


TOY = ("photos.size=32", "model.backbone=test_resnet", "model.weights=none", "train.epochs=2", "train.batch_size=16",
       "train.dtype=float32")  # fmt: skip


@pytest.fixture
def make(tmp_path: Path):
    """make in an empty checkout whose command writes down the words that it would run."""
    binaries = tmp_path / "venv/bin"
    binaries.mkdir(parents=True)
    (binaries / "pawpularity").write_text(
        f"#!{sys.executable}\nimport json, os, sys\nimport typer\nfrom pathlib import Path\n"
        "from pawpularity import cli, command_line\nfrom pawpularity.errors import UserError\n"
        "try:\n    words = command_line.make_words(typer.main.get_command(cli.app), sys.argv[2], os.environ.get('MAKEFLAGS', ''))\n"
        "except UserError as error:\n    print(error, file=sys.stderr)\n    sys.exit(2)\n"
        "Path('told.json').write_text(json.dumps(words + [os.environ.get('PAWPULARITY_STORAGE', '')]))\n"
    )
    (binaries / "pawpularity").chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt", "venv/.installed"):
        (tmp_path / name).touch()
    # These tests may themselves have been started by make, with words of its own.
    ours = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL")}

    def run(*words: str) -> tuple[int, list[str], str]:
        """Exit code, the command's words (the storage's address last), standard error."""
        done = subprocess.run(
            ["make", "--no-print-directory", "-f", ROOT / "Makefile", "VENV=venv", *words],
            cwd=tmp_path, capture_output=True, text=True, env=ours, check=False,
        )  # fmt: skip
        told = tmp_path / "told.json"
        found = json.loads(told.read_text()) if told.exists() else []
        told.unlink(missing_ok=True)
        assert not (tmp_path / "pwned").exists(), done
        return done.returncode, found, done.stderr

    return run
