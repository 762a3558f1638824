"""Our own files, damaged: what is legal is read right, the rest is refused in one line and nothing changes on disk."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import ROOT, TOY

from pawpularity.cli import main
from pawpularity.config import resolve
from pawpularity.errors import UserError
from pawpularity.kaggle.contents import open_bundle, sha256

SETTINGS = ("--config", "scratch", *TOY, "train.epochs=1", "train.warmup_epochs=0", "folds.k=2", "photos.size=32")
Harm = Callable[[Path], object]


@pytest.fixture(scope="module")
def made(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the runs a and b, trained on `input/toy`, their blend, and a bundle of a."""
    place = tmp_path_factory.mktemp("made")
    (place / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(drawn, place / "input" / "toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["train", "--data", "input/toy", *SETTINGS, "--run", "a"]) == 0
        assert main(["train", "--data", "input/toy", *SETTINGS, "--run", "b", "train.seed=1"]) == 0
        assert main(["ensemble", "a", "b", "--run", "blend"]) == 0
        (place / "kernels").symlink_to(ROOT / "kernels")
        assert main(["kernel", "--runs", "a", "--user", "someone", "--into", "build"]) == 0
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `made` as the current folder."""
    copy = Path(shutil.copytree(made, tmp_path / "place", symlinks=True))
    monkeypatch.chdir(copy)
    return copy


def text(value: str) -> Harm:
    """Put this text in the file's place."""
    return lambda file: file.write_text(value)


def raw(value: bytes) -> Harm:
    """Put these bytes in the file's place."""
    return lambda file: file.write_bytes(value)


def folder(file: Path) -> None:
    """Put a folder in the file's place."""
    file.unlink()
    file.mkdir()


def half(file: Path) -> None:
    """Cut the file in the middle."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def put(*keys: str, to: object) -> Harm:
    """Give a key of a JSON file another value."""

    def harm(file: Path) -> None:
        whole = json.loads(file.read_text())
        at = whole
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = to
        file.write_text(json.dumps(whole))

    return harm


DEEP, LONG = "[" * 100_000, '{"a": ' + "9" * 5000 + "}"
RECORD, METRICS, WEIGHTS = "oof/a/config.json", "oof/a/fold0/metrics.json", "oof/blend/weights.json"
OOF, PREDICT = ("oof", "a"), ("predict", "--run", "a", "--data", "input/toy", "--out", "s.csv")
BLENDED = ("predict", "--run", "blend", "--data", "input/toy", "--out", "s.csv")
OF_RUNS: list[tuple[str, str, Harm, tuple[str, ...], str]] = [
    ("record empty", RECORD, text(""), OOF, "config.json"),
    ("record a list", RECORD, text("[]"), OOF, "is not a run's record"),
    ("record nested", RECORD, text(DEEP), OOF, "cannot be read"),
    ("record long number", RECORD, text(LONG), OOF, "cannot be read"),
    ("record no text", RECORD, raw(b"\xff\xfe\0"), OOF, "cannot be read"),
    ("record k a word", RECORD, put("folds", "k", to="two"), OOF, "is not a run's record"),
    ("record k negative", RECORD, put("folds", "k", to=-1), OOF, "config.json"),
    ("record k huge", RECORD, put("folds", "k", to=10**12), OOF, "config.json"),
    ("record k true", RECORD, put("folds", "k", to=True), OOF, "config.json"),
    ("record config a word", RECORD, put("config", to="x"), OOF, "is not a run's record"),
    ("record unknown key", RECORD, put("config", "train", "lrr", to=1), PREDICT, "unknown key train.lrr"),
    ("record bad value", RECORD, put("config", "train", "lr", to="x"), PREDICT, "train.lr"),
    ("record size a list", RECORD, put("config", "photos", "size", to=[1]), PREDICT, "photos.size"),
    ("record placeholder", RECORD, put("config", "model", "backbone", to="${oc.env:HOME}"), PREDICT, "is a placeholder"),
    ("record null key", RECORD, put("config", "model", to=None), PREDICT, "config.json"),
    ("record weights a word", RECORD, put("weights", to="x"), PREDICT, "config.json"),
    ("record folds outside", RECORD, put("folds", "file", to="../../x.csv"), OOF, "x.csv"),
    ("record kind unknown", RECORD, put("kind", to="dog"), OOF, "config.json"),
    ("record kind a list", RECORD, put("kind", to=[]), OOF, "config.json"),
    ("metrics empty", METRICS, text(""), OOF, "metrics.json"),
    ("metrics a list", METRICS, text("[1]"), OOF, "metrics.json: is not what was written"),
    ("metrics nested", METRICS, text(DEEP), OOF, "cannot be read"),
    ("metrics a word", METRICS, put("rmse", to="x"), OOF, "metrics.json: is not what was written"),
    ("predictions empty", "oof/a/fold0/predictions.csv", raw(b""), OOF, "predictions.csv"),
    ("predictions binary", "oof/a/fold0/predictions.csv", raw(b"\xff\0\xfe"), OOF, "predictions.csv"),
    ("tail empty", "oof/a/fold0/head.safetensors", raw(b""), PREDICT, "is not a whole safetensors file"),
    ("tail cut", "oof/a/fold0/head.safetensors", half, PREDICT, "is not a whole safetensors file"),
    ("tail header of 2**60", "oof/a/fold0/head.safetensors", raw(struct.pack("<Q", 2**60) + b"{}"), PREDICT,
     "is not a whole safetensors file"),
    ("weights empty", WEIGHTS, text(""), BLENDED, "weights.json"),
    ("weights a list", WEIGHTS, text("[]"), BLENDED, "was changed since the blend"),
    ("weights other", WEIGHTS, put("intercept", to=50), BLENDED, "was changed since the blend"),
    ("weights a folder", WEIGHTS, folder, BLENDED, "weights.json"),
    ("members a list", "oof/blend/config.json", put("members", to=[]), ("oof", "blend"), "is not a run's record"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "harm", "words", "said"), [row[1:] for row in OF_RUNS], ids=[row[0] for row in OF_RUNS]
)
def test_a_damaged_run_is_refused(place, refused, unharmed, file, harm, words, said):
    harm(place / file)
    with unharmed(place):
        assert said in refused(*words)


@pytest.mark.parametrize("harm", [text(""), text("[]"), text(DEEP), text('{"k": 5}'), folder], ids=range(5))
def test_the_folds_note_is_never_a_traceback(place, paw, harm):
    """The .json beside a folds file vouches for it: without a sound one, training says so or goes on, and keeps the folds."""
    file = next((place / "oof/folds").glob("*.json"))
    csv = file.with_suffix(".csv").read_bytes()
    harm(file)
    done = paw("train", "--data", "input/toy", *SETTINGS, "--run", "a")
    assert done.code in (0, 2), done.err
    assert "Traceback" not in done.err
    assert file.with_suffix(".csv").read_bytes() == csv


STARTS: dict[str, Harm] = {
    "empty": raw(b""), "cut": half, "header of 2**60": raw(struct.pack("<Q", 2**60) + b"{}"),
    "a list": raw(struct.pack("<Q", 2) + b"[]"), "no tensors": raw(struct.pack("<Q", 2) + b"{}"), "text": text("weights"),
    "nested": raw(struct.pack("<Q", 100_000) + DEEP.encode()),
}  # fmt: skip


@pytest.mark.parametrize("how", STARTS)
def test_damaged_weights_to_start_from(place, refused, unharmed, how):
    shutil.copy(ROOT / "src/pawpularity/model/pretrained/test_resnet.drawn.safetensors", "w.safetensors")
    STARTS[how](Path("w.safetensors"))
    with unharmed(place):
        said = refused("train", "--data", "input/toy", *SETTINGS, "--run", "c", "model.weights=w.safetensors")
    assert "w.safetensors: " in said


CONFIGS: list[tuple[str, bytes, str]] = [
    ("tabs", b"train:\n\tlr: 1\n", "is not readable YAML"),
    ("duplicate keys", b"train: {lr: 1.0e-3}\ntrain: {lr: 1.0e-2}\n", "is not readable YAML"),
    ("a list", b"- 1\n", "must hold keys and values"),
    ("a word", b"hello\n", "unknown key hello"),
    ("a number", b"3\n", "c.yaml"),
    ("wrong type", b"train: {epochs: [1]}\n", "train.epochs"),
    ("section a word", b"train: 3\n", "c.yaml: value: Merge error"),
    ("number for a key", b"1: 2\n", "c.yaml"),
    ("null for a key", b"null: 2\n", "c.yaml"),
    ("list for a key", b"[1]: 2\n", "c.yaml"),
    ("two documents", b"train: {lr: 1.0e-3}\n---\ntrain: {lr: 1.0e-2}\n", "is not readable YAML"),
    ("itself", b"train: &t {args: *t}\n", "c.yaml"),
    ("python", b"train: !!python/object/apply:os.system [touch sprung]\n", "is not readable YAML"),
    ("environment", b"model: {weights: '${oc.env:HOME}'}\n", "is a placeholder"),
    ("cycle", b"model: {weights: '${model.weights}'}\n", "is a placeholder"),
    ("broken placeholder", b"model: {weights: '${'}\n", "c.yaml"),
    ("not UTF-8", b"train: {lr: \xff}\n", "is not readable YAML"),
    ("nested", b"train: " + b"[" * 20_000, "is not readable YAML"),
    ("base cycle", b"base: c.yaml\n", "leads back to itself"),
    ("base absent", b"base: ../../nowhere\n", "no such configuration"),
    ("base a list", b"base: [scratch]\n", "no such configuration"),
    ("base a placeholder", b"base: ${x}\n", "c.yaml"),
    ("base too long", b"base: " + b"x" * 5000 + b"\n", "x"),
]


@pytest.mark.parametrize(("content", "said"), [row[1:] for row in CONFIGS], ids=[row[0] for row in CONFIGS])
def test_a_bad_config_is_refused(work, refused, unharmed, content, said):
    Path("c.yaml").write_bytes(content)
    with unharmed(Path("c.yaml")):
        assert said in refused("train", "--config", "c.yaml", "--data", "nowhere")
    assert sorted(path.name for path in work.iterdir()) == ["c.yaml", "configs"]


def test_a_config_with_anchors_windows_line_ends_and_a_mark_is_read(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_bytes("\ufefftrain: &t\r\n  lr: &x 0.002\r\n".encode())
    assert resolve(str(file)).train.lr == 0.002
    with pytest.raises(UserError, match="no such file"):
        resolve(str(tmp_path / "absent.yaml"))


BUNDLES: list[tuple[str, Harm, str]] = [
    ("sums lead out", lambda d: (d / "SHA256SUMS").open("a").write("0" * 64 + "  ../x\n"), "does not list the files"),
    ("sums no text", lambda d: (d / "SHA256SUMS").write_bytes(b"\xff"), "cannot be read"),
    ("a file leads out", lambda d: put("files", "../x", to={"sha256": "0"})(d / "bundle.json"), "not the bundle's own"),
    (
        "an absolute file",
        lambda d: put("files", "/etc/passwd", to={"sha256": "0"})(d / "bundle.json"),
        "not the bundle's own",
    ),
    (
        "a tail leads out",
        lambda d: put("runs", "a", "folds", "0", "tail", to="../x")(d / "bundle.json"),
        "not the bundle's own",
    ),
    ("a record leads out", lambda d: put("runs", "a", "record", to="../x")(d / "bundle.json"), "not the bundle's own"),
    (
        "a trunk leads out",
        lambda d: put("runs", "a", "trunk", to={"../x": []})(d / "bundle.json"),
        "not the bundle's own",
    ),
    ("a run a word", lambda d: put("runs", "a", to="x")(d / "bundle.json"), "not the bundle's own"),
    ("folds a list", lambda d: put("runs", "a", "folds", to=[])(d / "bundle.json"), "not the bundle's own"),
    ("a file without hash", lambda d: put("files", "weights.json", to=3)(d / "bundle.json"), "not the bundle's own"),
    ("nested", lambda d: (d / "bundle.json").write_text(DEEP), "cannot be read"),
]


@pytest.mark.parametrize(("harm", "said"), [row[1:] for row in BUNDLES], ids=[row[0] for row in BUNDLES])
def test_a_bundle_tampered_with_is_refused(place, unharmed, harm, said):
    """Also where the sums were written anew to fit."""
    dataset = place / "build" / "dataset"
    harm(dataset)
    for _ in range(2):
        with unharmed(place), pytest.raises(UserError, match=said) as caught:
            open_bundle(dataset)
        assert len(str(caught.value).splitlines()) == 1
        if "sums" in said or "list" in said or "read" in said:
            return
        lines = [
            line for line in (dataset / "SHA256SUMS").read_text().splitlines() if not line.endswith("  bundle.json")
        ]
        lines.append(f"{sha256(dataset / 'bundle.json')}  bundle.json")
        (dataset / "SHA256SUMS").write_text("\n".join(lines) + "\n")
