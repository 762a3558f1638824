"""The checklist: its figures are those of the files, every answer names them, and without its file an answer is not backed."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import ROOT, TOY

from pawpularity.cli import main
from pawpularity.config import resolve


@pytest.fixture(scope="module")
def made(tmp_path_factory, drawn):
    """A place with two trained runs, their blend."""
    place = tmp_path_factory.mktemp("checklist")
    (place / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(drawn, place / "input/toy")
    words = ("--data", "input/toy", "--config", "sample", *TOY, "train.warmup_epochs=0", "folds.k=2")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for run, seed in (("a", 0), ("b", 1)):
            assert main(["train", *words, "--run", run, f"train.seed={seed}"]) == 0
        assert main(["ensemble", "a", "b", "--method", "mean", "--run", "both"]) == 0
    return place


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A copy that a test may damage, as the current folder."""
    shutil.copytree(made, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def told(run: str) -> dict[str, dict]:
    runs = {one["run"]: one for one in json.loads(Path("oof/checklist.json").read_text())["runs"]}
    return {answer["question"]: answer for answer in runs[run]["answers"]}


def missing(run: str) -> set[str]:
    return {question for question, answer in told(run).items() if answer["status"] == "not backed"}


def test_figures_are_those_of_the_files_and_every_answer_names_its_own(place, paw):
    done = paw("checklist", "--json", "-")
    assert done.code == 0, done.err
    assert json.loads(done.out) == json.loads(Path("oof/checklist.json").read_text())
    for run in ("a", "both"):
        table = pd.read_csv(f"oof/{run}/oof.csv")
        squares = (table["target"] - table["prediction"]) ** 2
        each = np.sqrt(squares.groupby(table["fold"]).mean())
        other = {k: table["target"][table["fold"] != k].mean() for k in (0, 1)}
        constant = np.sqrt(((table["target"] - table["fold"].map(other)) ** 2).mean())
        text = told(run)["result and spread"]["text"]
        for due in (f"RMSE {np.sqrt(squares.mean()):.4f},", f"{each.mean():.4f} +- {each.std(ddof=1):.4f} (sd)",
                    f"constant {constant:.4f}"):  # fmt: skip
            assert due in text
        scores = pd.read_csv("input/toy/train.csv")["Pawpularity"]
        assert f"60 scored rows, mean {scores.mean():.4f}, sd {np.std(scores):.4f}" in told(run)["statistics"]["text"]
    metrics = [json.loads(Path(f"oof/a/fold{k}/metrics.json").read_text()) for k in (0, 1)]
    assert f"1 {metrics[1]['seconds']:.6g}" in told("a")["runtime"]["text"]
    assert f"{metrics[0]['parameters']} parameters" in told("a")["size"]["text"]
    assert "training 1," in told("b")["seeds"]["text"]
    for run in ("a", "b", "both"):
        for answer in told(run).values():
            assert answer["read"], answer
            for source in answer["read"]:
                file, key = source.split(": ")
                if file.endswith(".json"):
                    value = json.loads(Path(file).read_text())
                    for part in key.split("."):
                        value = value[part]
                else:
                    assert set(key.split(",")) <= set(Path(file).read_text().splitlines()[0].split(","))
    before = [Path(f"oof/checklist.{kind}").read_bytes() for kind in ("md", "json")]
    assert paw("checklist").code == 0
    assert [Path(f"oof/checklist.{kind}").read_bytes() for kind in ("md", "json")] == before


def test_the_commands_it_names_give_the_same_records(place, paw):
    """The settings that it lists are all that differ from the config's file; a folder with a blank; a network's arguments."""
    shutil.copytree("oof/a", "oof/c")
    record = json.loads(Path("oof/c/config.json").read_text())
    record["config"]["model"]["args"], record["data"]["folder"] = {"drop_rate": 0.2}, "input/my toy"
    Path("oof/c/config.json").write_text(json.dumps(record))
    for path in Path("oof/c").glob("fold*/metrics.json"):  # else the folds were trained with other settings
        metrics = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in metrics.items() if key != "settings"}))
    assert paw("checklist", "--runs", "a", "c", "both").code == 0
    words = shlex.split(told("c")["commands"]["text"].split("; ")[0])[1:]
    given = dict(word.split("=", 1) for word in words[1:])
    assert (words[0], given["RUN"], shlex.split(given["DATA"])) == ("train", "c", ["input/my toy"])
    assert resolve(given["CONFIG"], shlex.split(given["ARGS"])).to_dict() == record["config"]
    assert told("both")["commands"]["text"].startswith('make ensemble MEMBERS="a b" METHOD=mean RUN=both')
    words = re.fullmatch(
        r'make train RUN=a DATA=(\S+) CONFIG=(\S+) ARGS="(.*)"', told("a")["commands"]["text"].split("; ")[0]
    )
    before = json.loads(Path("oof/a/config.json").read_text())
    shutil.move("oof/a", "gone")
    again = ("--run", "a", "--data", words[1], "--config", words[2], *words[3].split())
    assert paw("train", "--fold", "0", *again).code == 0
    assert json.loads(Path("oof/a/config.json").read_text()) == before


@pytest.mark.parametrize(
    ("run", "file"),
    [
        ("a", "oof/a/fold1/metrics.json"),
        ("a", "oof/a/fold0/predictions.csv"),
        ("a", "FOLDS.csv"),
        ("both", "oof/both/weights.json"),
        ("both", "oof/both/oof.csv"),
    ],
)
def test_without_its_file_an_answer_is_not_backed(place, paw, refused, run, file):
    assert paw("checklist", "--runs", run).code == 0
    folds = Path(json.loads(Path("oof/a/config.json").read_text())["folds"]["file"])
    path = Path(file) if "FOLDS" not in file else folds.with_suffix(Path(file).suffix)
    due = {q for q, answer in told(run).items() if any(s.startswith(f"{path.as_posix()}: ") for s in answer["read"])}
    assert due
    path.unlink()
    assert f"{len(due)} of " in refused("checklist", "--runs", run)
    assert missing(run) == due
    for question in due:
        assert path.as_posix() in told(run)[question]["text"]
        assert told(run)[question]["make"].startswith("make ")
        assert f"- **{question}**: *not backed*" in Path("oof/checklist.md").read_text()


def test_gaps_are_told_beside_answers(place, paw):
    """A run of one fold; a search without its results; a blend of files."""
    shutil.rmtree("oof/a/fold1")
    Path("oof/studies/b").mkdir(parents=True)
    for name in ("a", "b"):
        table = pd.read_csv("oof/both/oof.csv")
        table.assign(prediction=table["prediction"] + len(name) * (name == "b")).to_csv(f"{name}.csv", index=False)
    assert paw("ensemble", "a.csv", "b.csv", "--method", "mean", "--run", "files").code == 0
    done = paw("checklist")
    assert done.code == 2
    assert "b: statistical tests: not backed" in done.out
    assert "of one fold: no sd" in told("a")["result and spread"]["text"]
    assert missing("b") == {"trials and choice", "statistical tests"}
    assert "not known" in told("files")["statistics"]["text"]
    rows = [{"name": "selected", "difference": -0.5, "p_holm": 0.02}]
    found = {"counts": {"trials": 7}, "kind": "cross-fitted", "winner": "b", "against_default": rows}
    Path("oof/studies/b/search.json").write_text(json.dumps(found))
    assert paw("checklist", "--runs", "b").code == 0
    assert "trials 7" in told("b")["trials and choice"]["text"]
    assert told("b")["statistical tests"]["text"] == "selected -0.5000, p (Holm) 0.02"
    assert "low" in told("b")["ranges searched"]["text"]


def test_what_is_no_run_is_refused(work, refused):
    assert "no run" in refused("checklist")
    assert "nobody" in refused("checklist", "--runs", "nobody")
