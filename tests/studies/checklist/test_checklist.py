"""The checklist: its figures are those of the files, every answer names them, and without its file an answer is not backed."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import TOY

from pawpularity.cli import main
from pawpularity.config import resolve

WORDS = ("--config", "sample", *TOY, "train.warmup_epochs=0", "folds.k=2")


@pytest.fixture(scope="module")
def made(tmp_path_factory, drawn):
    """A place with two trained runs, their blend."""
    place = tmp_path_factory.mktemp("checklist")
    root = Path(__file__).resolve().parents[2]
    (place / "configs").symlink_to(root / "configs")
    shutil.copytree(drawn, place / "input/toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for run, seed in (("a", 0), ("b", 1)):
            assert main(["train", "--data", "input/toy", *WORDS, "--run", run, f"train.seed={seed}"]) == 0
        assert main(["ensemble", "a", "b", "--method", "mean", "--run", "both"]) == 0
    return place


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A copy that a test may damage, as the current folder."""
    shutil.copytree(made, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def told(run: str) -> dict[str, dict[str, object]]:
    runs = {one["run"]: one for one in json.loads(Path("oof/checklist.json").read_text())["runs"]}
    return {answer["question"]: answer for answer in runs[run]["answers"]}


def table_of(run: str) -> pd.DataFrame:
    return pd.read_csv(f"oof/{run}/oof.csv")


def missing(run: str) -> set[str]:
    return {question for question, answer in told(run).items() if answer["status"] == "not backed"}


def test_figures_are_those_of_the_files(place, paw):
    done = paw("checklist", "--json", "-")
    assert done.code == 0, done.err
    assert json.loads(done.out) == json.loads(Path("oof/checklist.json").read_text())
    for run in ("a", "both"):
        table = table_of(run)
        squares = (table["target"] - table["prediction"]) ** 2
        each = np.sqrt(squares.groupby(table["fold"]).mean())
        other = {k: table["target"][table["fold"] != k].mean() for k in (0, 1)}
        constant = np.sqrt(((table["target"] - table["fold"].map(other)) ** 2).mean())
        text = told(run)["result and spread"]["text"]
        assert f"RMSE {np.sqrt(squares.mean()):.4f}," in text
        assert f"{each.mean():.4f} +- {each.std(ddof=1):.4f} (sd)" in text
        assert f"constant {constant:.4f}" in text
        scores = pd.read_csv("input/toy/train.csv")["Pawpularity"]
        said = told(run)["statistics"]["text"]
        assert (
            f"{len(scores)} scored rows, mean {scores.mean():.4f}, sd {np.std(scores):.4f}, range {scores.min()} to"
            in said
        )
    metrics = [json.loads(Path(f"oof/a/fold{k}/metrics.json").read_text()) for k in (0, 1)]
    assert f"fold 1 {metrics[1]['seconds']:.1f} s" in told("a")["runtime"]["text"]
    assert f"[{metrics[0]['parameters']}] parameters, [{metrics[0]['trained_parameters']}]" in told("a")["size"]["text"]
    assert "training [1]" in told("b")["seeds"]["text"]
    assert "a 0.5000, b 0.5000" in told("both")["size"]["text"]


def test_every_answer_names_a_file_that_holds_its_key(place, paw):
    assert paw("checklist").code == 0
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


def test_the_command_it_names_gives_the_same_record(place, paw):
    """The settings that it lists are all that differ from the config's file."""
    assert paw("checklist", "--runs", "a").code == 0
    command = told("a")["commands"]["text"].split("; ")[0]
    words = re.fullmatch(r'make train RUN=a DATA=(\S+) CONFIG=(\S+) ARGS="(.*)"', command)
    assert words, command
    before = json.loads(Path("oof/a/config.json").read_text())
    shutil.move("oof/a", "gone")
    assert (
        paw("train", "--fold", "0", "--run", "a", "--data", words[1], "--config", words[2], *words[3].split()).code == 0
    )
    assert json.loads(Path("oof/a/config.json").read_text()) == before


def test_the_command_holds_a_networks_arguments_and_folders_with_blanks(place, paw):
    shutil.copytree("input/toy", "input/my toy")
    shutil.copytree("oof/a", "oof/c")
    record = json.loads(Path("oof/c/config.json").read_text())
    record["config"]["model"]["args"] = {"drop_rate": 0.2}
    record["data"]["folder"] = "input/my toy"
    Path("oof/c/config.json").write_text(json.dumps(record))
    assert paw("checklist", "--runs", "c").code == 0
    train, _, errors, _ = told("c")["commands"]["text"].split("; ")
    verb, *words = shlex.split(train)[1:]
    given = dict(word.split("=", 1) for word in words)
    data = shlex.split(given["DATA"])
    assert (verb, given["RUN"], data) == ("train", "c", ["input/my toy"])
    settings = resolve(given["CONFIG"], shlex.split(given["ARGS"])).to_dict()
    assert settings == record["config"]
    assert shlex.split(dict(word.split("=", 1) for word in shlex.split(errors)[2:])["DATA"]) == ["input/my toy"]


def test_the_command_of_a_blend_makes_the_same_blend(place, paw):
    """Of files, one of which is called as a run is; on folds dealt anew, with groups from a folds file."""
    folds = json.loads(Path("oof/a/config.json").read_text())["folds"]["file"]
    Path("path/to").mkdir(parents=True)
    table_of("a").to_csv("path/to/a.csv", index=False)
    table_of("b").assign(fold=lambda table: np.arange(len(table)) % 3).to_csv("path/to/other.csv", index=False)
    words = ("--method", "ridge", "--seed", 3, "--folds", folds, "--draws", 200)
    assert paw("ensemble", "path/to/a.csv", "path/to/other.csv", "--run", "mine", *words).code == 0
    made = {name: Path("oof/mine", name).read_bytes() for name in ("oof.csv", "weights.json")}
    paw("checklist", "--runs", "mine")
    command = told("mine")["commands"]["text"].split("; ")[0]
    assert command == (
        f'make ensemble MEMBERS="path/to/a.csv path/to/other.csv" METHOD=ridge RUN=mine ARGS="--folds {folds} --seed 3"'
    )
    shutil.rmtree("oof/mine")
    given = dict(word.split("=", 1) for word in shlex.split(command)[2:])
    assert (
        paw("ensemble", *given["MEMBERS"].split(), "--method", "ridge", "--run", "mine", *given["ARGS"].split()).code
        == 0
    )
    assert {name: Path("oof/mine", name).read_bytes() for name in made} == made


@pytest.mark.parametrize(("run", "file"), [
    ("a", "oof/a/fold1/metrics.json"), ("a", "oof/a/fold0/predictions.csv"), ("a", "input/toy/train.csv"),
    ("a", "FOLDS.csv"), ("a", "FOLDS.json"), ("both", "oof/both/weights.json"), ("both", "oof/both/oof.csv"),
])  # fmt: skip
def test_without_its_file_an_answer_is_not_backed(place, paw, refused, run, file):
    assert paw("checklist", "--runs", run).code == 0
    folds = Path(json.loads(Path("oof/a/config.json").read_text())["folds"]["file"])
    path = Path(file) if "FOLDS" not in file else folds.with_suffix(Path(file).suffix)
    due = {q for q, answer in told(run).items() if any(s.startswith(f"{path.as_posix()}: ") for s in answer["read"])}
    if path.name == "metrics.json":  # it vouches for the fold's predictions
        due |= {q for q, answer in told(run).items() if f"{path.parent}/predictions.csv" in " ".join(answer["read"])}
    assert due
    path.unlink()
    assert f"{len(due)} of " in refused("checklist", "--runs", run)
    assert missing(run) == due
    for question in due:
        assert path.as_posix() in told(run)[question]["text"]
        assert told(run)[question]["make"].startswith("make ")
        assert f"- **{question}**: *not backed*" in Path("oof/checklist.md").read_text()


def test_a_line_names_run_question_file_and_command(place, paw):
    Path("oof/both/weights.json").unlink()
    done = paw("checklist")
    assert done.code == 2
    assert ('both: size: not backed: oof/both/weights.json: oof/both/weights.json is missing; run: make ensemble MEMBERS="a b" '
            "METHOD=mean RUN=both") in done.err  # fmt: skip


def test_a_damaged_record_is_a_gap_and_the_others_are_told(place, paw):
    Path("oof/a/config.json").write_text("{")
    done = paw("checklist")
    assert done.code == 2
    assert "a: its record: not backed: run a: oof/a/config.json cannot be read" in done.err
    assert {one["run"] for one in json.loads(Path("oof/checklist.json").read_text())["runs"]} == {"b", "both"}
    assert "a: its record: not backed" in Path("oof/checklist.md").read_text()


def test_a_score_that_changed_since_backs_nothing(place, refused):
    file = Path("input/toy/train.csv")
    table = pd.read_csv(file)
    table.loc[7, "Pawpularity"] = 101 - table.loc[7, "Pawpularity"]
    table.to_csv(file, index=False)
    refused("checklist", "--runs", "b")
    assert missing("b") == {"statistics", "exclusions"}
    assert (
        f"another score, or none, of 1 rows that the run was scored on (such as {table['Id'][7]})"
        in told("b")["statistics"]["text"]
    )


def test_a_blend_of_files_knows_no_near_duplicates(place, paw, monkeypatch, tmp_path):
    for name in ("a", "b"):
        table_of(name).to_csv(tmp_path / f"{name}.csv", index=False)
    monkeypatch.chdir(tmp_path)
    assert paw("ensemble", "a.csv", "b.csv", "--method", "mean", "--run", "files").code == 0
    assert paw("checklist").code == 0
    assert "near-duplicates are not known: the members are files" in told("files")["statistics"]["text"]


def test_a_run_of_one_fold_says_so(place, paw):
    shutil.rmtree("oof/a/fold1")
    assert paw("checklist", "--runs", "a").code == 0
    assert told("a")["training and evaluation runs"]["text"].startswith("1 of 2 folds")
    assert "of one fold: no sd" in told("a")["result and spread"]["text"]


def test_a_search_is_read_from_its_study(place, paw, refused):
    """Ranges are the record's, the rest is search.json's; without it the three answers are not backed."""
    folder = Path("oof/studies/a")
    folder.mkdir(parents=True)
    refused("checklist", "--runs", "a")
    assert missing("a") == {"trials and choice", "statistical tests"}
    rows = [{"name": "selected", "difference": -0.5, "p_holm": 0.02}]
    (folder / "search.json").write_text(
        json.dumps({"counts": {"trials": 7}, "kind": "cross-fitted", "winner": "a", "against_default": rows})
    )
    assert paw("checklist", "--runs", "a").code == 0
    assert "trials 7" in told("a")["trials and choice"]["text"]
    assert told("a")["statistical tests"]["text"] == "selected -0.5000, p (Holm) 0.02"
    assert "low" in told("a")["ranges searched"]["text"]


def test_the_same_files_give_the_same_bytes(place, paw):
    files = [Path("oof/checklist.md"), Path("oof/checklist.json")]
    assert paw("checklist").code == 0
    before = [file.read_bytes() for file in files]
    assert paw("checklist").code == 0
    assert [file.read_bytes() for file in files] == before


def test_what_is_no_run_is_refused(work, refused):
    assert "holds no run yet" in refused("checklist")
    assert "config.json is missing" in refused("checklist", "--runs", "nobody")
