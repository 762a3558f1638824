"""Nothing that is read can run code, no word becomes a shell's, and no secret is told."""

import ast
import os
import pickle
from pathlib import Path

import pytest
from tests.conftest import ROOT, TOY

from pawpularity.errors import UserError
from pawpularity.models.weights import read_tensors

SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {"torch.load", "torch.save", "os.system", "os.popen", "eval", "exec", "yaml.unsafe_load", "yaml.full_load",
                "accelerator.save_state", "accelerator.load_state"}  # fmt: skip


def faults(text):
    """Imports and calls that could run foreign code, each with its line."""
    for node in ast.walk(ast.parse(text)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from (f"{node.lineno}: {name}" for name in names if name.split(".")[0] in UNSAFE_MODULES)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            shell = words.get("shell", "False") != "False" or words.get("allow_pickle", "False") != "False"
            loads = called == "yaml.load" and "_Loader" not in ast.unparse(node)
            tensors_alone = called == "torch.load" and words.get("weights_only") == "True"
            if (
                (called in UNSAFE_CALLS and not tensors_alone)
                or called.endswith(("read_pickle", "to_pickle"))
                or shell
                or loads
            ):
                yield f"{node.lineno}: {called}"


@pytest.mark.parametrize("text", ["import pickle", "from joblib import load", "torch.load('x')", "np.load('x', allow_pickle=True)",
                                  "pd.read_pickle('x')", "yaml.load('x')", "subprocess.run('ls', shell=True)"])  # fmt: skip
def test_the_search_finds(text):
    assert list(faults(text))


def test_nothing_reads_a_pickle_or_starts_a_shell():
    found = [f"{path.relative_to(ROOT)}:{fault}" for path in SOURCES for fault in faults(path.read_text())]
    assert not found


class Trap:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_no_reader_of_weights_loads_a_pickle(tmp_path, work, drawn, refused):
    marker = tmp_path / "sprung"
    raw = pickle.dumps(Trap(marker))
    Path("w.safetensors").write_bytes(raw)
    with pytest.raises(UserError, match=r"w\.safetensors"):
        read_tensors(Path("w.safetensors"))
    assert "w.safetensors" in refused(
        "train", "--data", drawn, *TOY, "train.warmup_epochs=0", "model.weights=w.safetensors"
    )
    assert not marker.exists()
    pickle.loads(raw)
    assert marker.is_dir(), "the trap works"


def test_no_secret_is_told(work, drawn, paw, monkeypatch):
    """A password in the storage's address and Kaggle's key: in no output and no file, also where the connection fails."""
    monkeypatch.setenv("PAWPULARITY_STORAGE", "postgresql://me:S3cretWord@127.0.0.1:1/none")
    monkeypatch.setenv("KAGGLE_KEY", "K3yWord")
    tuned = paw("tune", "--config", "sample", "--data", drawn, "--run", "t", "--trials", 1)
    trained = paw(
        "train", "--data", drawn, "--config", "sample", *TOY, "train.epochs=1", "train.warmup_epochs=0", "--fold", 0
    )
    assert (tuned.code, trained.code) == (2, 0), tuned.err + trained.err
    files = [path for path in work.rglob("*") if path.is_file() and "configs" not in path.parts]
    for secret in ("S3cretWord", "K3yWord"):
        assert secret not in tuned.out + tuned.err + trained.out + trained.err
        assert not [path for path in files if secret.encode() in path.read_bytes()]
