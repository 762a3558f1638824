"""Nothing that is read can run code, nobody's words become a shell's, and no path leads out of its folder."""

import ast
import os
import pickle
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import ROOT, TOY

from pawpularity.errors import UserError
from pawpularity.models.weights import _load_plainly, read_tensors
from pawpularity.runs import check_name

SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
# Modules whose loading runs what the file says.
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {"torch.load", "torch.save", "os.system", "os.popen", "eval", "exec", "pd.read_pickle", "pandas.read_pickle",
                "yaml.unsafe_load", "yaml.full_load", "subprocess.getoutput", "subprocess.getstatusoutput"}  # fmt: skip
SUBPROCESS = {f"subprocess.{name}" for name in ("run", "Popen", "call", "check_call", "check_output")}


def faults(text: str) -> Iterator[str]:
    """What of a module could run foreign code: the name of each import or call, with its line."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            yield from (
                f"{node.lineno}: {node.module}.{alias.name}"
                for alias in node.names
                if f"{node.module}.{alias.name}" in UNSAFE_CALLS | SUBPROCESS
            )
        yield from (f"{node.lineno}: import {name}" for name in names if name.split(".")[0] in UNSAFE_MODULES)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            words = {word.arg: word.value for word in node.keywords}
            said = {name: ast.unparse(value) for name, value in words.items()}
            if called in UNSAFE_CALLS or called.endswith((".read_pickle", ".to_pickle")):
                yield f"{node.lineno}: {called}"
            if said.get("shell", "False") != "False" or said.get("allow_pickle", "False") != "False":
                yield f"{node.lineno}: {called} with a shell or a pickle"
            if called == "yaml.load" and "Safe" not in ast.unparse(node):
                yield f"{node.lineno}: yaml.load without a safe loader"
            if called in SUBPROCESS and (
                not node.args or isinstance(node.args[0], ast.Constant | ast.JoinedStr | ast.BinOp)
            ):
                yield f"{node.lineno}: {called} of something else than a list"


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from joblib import load", "import torch\ntorch.load('x')", "np.load('x', allow_pickle=True)",
     "from torch import load", "pd.read_pickle('x')", "yaml.load('x')", "eval('1')", "import subprocess\nsubprocess.run('ls')",
     "subprocess.run(['ls'], shell=True)", "os.system('ls')", "from subprocess import run"],
)  # fmt: skip
def test_the_search_finds(text: str) -> None:
    assert list(faults(text))


def test_nothing_reads_a_pickle_or_starts_a_shell() -> None:
    """No exception is made: not one file of src/ or kernels/ needs any of these."""
    assert len(SOURCES) > 100
    found = [
        f"{path.relative_to(ROOT)}:{fault}" for path in SOURCES for fault in faults(path.read_text(encoding="utf-8"))
    ]
    assert not found


class Trap:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[bytes]:
    """The bytes of a `Trap`, which nothing may have loaded by the end of the test."""
    marker = tmp_path / "sprung"
    raw = pickle.dumps(Trap(marker))
    pickle.loads(raw)
    assert marker.is_dir(), "the trap works"
    marker.rmdir()
    yield raw
    assert not marker.exists()


def test_no_reader_of_weights_loads_a_pickle(trap: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(trap)
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        read_tensors(file)
    with pytest.raises(ValueError, match="header is not whole"):
        _load_plainly(file)


def test_no_verb_loads_a_pickle(trap: bytes, work: Path, shelter: Path, paw, refused, unharmed) -> None:
    words = (
        "train",
        "--data",
        shelter,
        "--config",
        "scratch",
        *TOY,
        "train.epochs=1",
        "train.warmup_epochs=0",
        "folds.k=2",
    )
    assert paw(*words, "--run", "a").code == 0
    Path("w.safetensors").write_bytes(trap)
    with unharmed(Path("oof"), Path("w.safetensors")):
        said = refused(*words, "--run", "b", "model.weights=w.safetensors")
    assert "w.safetensors: is not a whole safetensors file" in said
    for name in ("frozen.safetensors", "fold0/head.safetensors"):
        kept = Path("oof/a") / name
        if not kept.is_file():
            continue
        whole = kept.read_bytes()
        kept.write_bytes(trap)
        with unharmed(Path("oof")):
            assert name in refused("predict", "--run", "a", "--data", shelter, "--out", "s.csv")
        assert not Path("s.csv").exists()
        kept.write_bytes(whole)
    shutil.copytree("oof/a", "oof/c")
    assert paw("predict", "--run", "c", "--data", shelter, "--out", "s.csv").code == 0


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/tmp/x", "..", ".", "", "a\nb", "a\n", "a b", "$(id)", "-x", "a;b", "a\0", "é"]
)
def test_a_runs_name_is_one_folders(name: str) -> None:
    with pytest.raises(UserError) as caught:
        check_name(name)
    assert len(str(caught.value).splitlines()) == 1


def test_jobs_quote_every_word(work: Path, shelter: Path, paw, refused) -> None:
    words = ["model.weights=a b'c", 'model.weights=$(touch x);"y"', "model.weights=a`touch x`|&"]
    data = shutil.copytree(shelter, work / "my $(touch x); 'pets'")
    for word in words:
        done = paw("jobs", "--config", "scratch", "--data", data, *TOY, "train.warmup_epochs=0", word)
        assert done.code == 0, done.err
        lines = [line for line in done.out.splitlines() if "train" in line]
        assert lines
        for line in lines:
            assert word in shlex.split(line)
            assert str(data) in shlex.split(line)
    assert "must be letters" in refused("jobs", "--config", "scratch", "--data", data, "--run", "a; rm b")
    assert not Path("x").exists()


def test_no_secret_is_told(work: Path, shelter: Path, paw, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password in the storage's address and Kaggle's key: in no output and no file, also where the connection fails."""
    monkeypatch.setenv("PAWPULARITY_STORAGE", "postgresql://me:S3cretWord@127.0.0.1:1/none")
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    monkeypatch.setenv("KAGGLE_KEY", "K3yWord")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "T0kenWord")
    tuned = paw("tune", "--config", "sample", "--data", shelter, "--run", "t", "--trials", 1)
    trained = paw(
        "train", "--data", shelter, "--config", "sample", *TOY, "train.epochs=1", "train.warmup_epochs=0", "--fold", 0
    )
    assert (tuned.code, trained.code) == (2, 0), tuned.err + trained.err
    said = tuned.out + tuned.err + trained.out + trained.err
    files = [path for path in work.rglob("*") if path.is_file() and "configs" not in path.parts]
    for secret in ("S3cretWord", "K3yWord", "T0kenWord"):
        assert secret not in said
        assert not [path for path in files if secret.encode() in path.read_bytes()]
