"""Photos and Ids under near names, a table beside its photos, and folders with long names."""

import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pawpularity.cli import main
from pawpularity.context import context
from pawpularity.data.dataset import Dataset, load_test
from pawpularity.data.tables import METADATA, find_near, near_name, read_train
from pawpularity.errors import UserError


def renamed(folder: Path, change: Callable[[str], str]) -> None:
    """Change the names of the photos."""
    for path in list((folder / "train").iterdir()):
        path.rename(folder / "train" / change(path.name))


def new_ids(folder: Path, names: list[str]) -> None:
    """Give the first photos and their rows the Ids `names`."""
    table = pd.read_csv(folder / "train.csv", dtype=str)
    for row, name in enumerate(names):
        (folder / "train" / f"{table.loc[row, 'Id']}.jpg").rename(folder / "train" / f"{name}.jpg")
        table.loc[row, "Id"] = name
    table.to_csv(folder / "train.csv", index=False)


def in_table(folder: Path, change: Callable[[str], str]) -> None:
    """Change the Ids in the table alone."""
    table = pd.read_csv(folder / "train.csv", dtype=str)
    table.assign(Id=table["Id"].map(change)).to_csv(folder / "train.csv", index=False)


def one_deeper(folder: Path) -> None:
    shutil.move(folder / "train", folder / "away")
    (folder / "train").mkdir()
    shutil.move(folder / "away", folder / "train" / "train")


NEAR: dict[str, tuple[Callable[[Path], None], str]] = {
    "decomposed": (lambda at: (new_ids(at, ["Zoé"]), renamed(at, lambda name: unicodedata.normalize("NFD", name))),
                   "Zoe\\u0301.jpg"),
    "another ending": (lambda at: renamed(at, lambda name: name.replace(".jpg", ".JPEG")), ".JPEG"),
    "another case": (lambda at: in_table(at, str.upper), ".jpg"),
    "with an ending in the table": (lambda at: in_table(at, lambda name: f"{name}.jpg"), ".jpg"),
    "two endings": (lambda at: renamed(at, lambda name: f"{name}.jpg"), ".jpg.jpg"),
    "HEIC": (lambda at: renamed(at, lambda name: name.replace(".jpg", ".HEIC")), ".HEIC"),
    "one folder deeper": (one_deeper, "train/"),
    "zeros lost": (lambda at: (new_ids(at, ["001000"]), in_table(at, lambda name: name.lstrip("0"))), "001000.jpg"),
    "rounded": (lambda at: (new_ids(at, ["123456789012345"]),
                            in_table(at, lambda name: name.replace("123456789012345", "1.23E+14"))), "123456789012345.jpg"),
}  # fmt: skip


@pytest.mark.parametrize("how", NEAR)
def test_a_photo_under_a_near_name_is_named(shelter, work, refused, how):
    change, found = NEAR[how]
    change(shelter)
    Path("toy").symlink_to(shelter)
    line = refused("folds", "--data", "toy")
    assert "missing (found " in line
    assert found in line.partition("found")[2] or found in line.partition("found")[2].encode("unicode_escape").decode()


def test_near_names_and_no_others_are_found():
    long = "120000000000"
    among = {near_name(name): name for name in ("abc", "00012", long, "Zoé", "0123e6")}
    assert [find_near(word, among) for word in ("ABC.JPG", "12", "12.0", "1.2E+11", "Zoe\u0301.png", "abd", "1.3E+11", "1e5",
                                                   "1.23E+08", "abc.heic", "ABC.jpg.jpg", "b'abc'", "1.2E+011")] == [
        "abc", "00012", "00012", long, "Zoé", None, None, None, "0123e6", "abc", "abc", "abc", long]  # fmt: skip


def test_a_table_beside_its_photos_has_them(shelter, tmp_path):
    assert Dataset.load(shelter / "train.csv", tmp_path).hash == Dataset.load(shelter, tmp_path).hash
    for named in ("train.csv", "test.csv"):
        assert load_test(shelter / named, tmp_path).paths == load_test(shelter, tmp_path).paths
    in_table(shelter, lambda name: f"other-{name}")
    assert not Dataset.load(shelter / "train.csv", tmp_path).has_photos, "labels of other photos"


@pytest.mark.parametrize("change", [str.upper, lambda name: f"{name}.jpg"])
def test_predictions_whose_ids_are_written_otherwise_are_told_so(shelter, work, refused, change):
    table = pd.read_csv(shelter / "train.csv", dtype=str)
    columns = {"fold": np.arange(60) % 4, "target": table["Pawpularity"], "prediction": np.linspace(20, 60, 60)}
    for name, ids in (("plain", table["Id"]), ("theirs", table["Id"].map(change))):
        pd.DataFrame({"Id": ids, **columns, "prediction": columns["prediction"] + len(name)}).to_csv(
            f"{name}.csv", index=False
        )
    for words in (("compare", "plain.csv", "theirs.csv"), ("errors", "theirs.csv", "--data", shelter),
                  ("leakcheck", "theirs.csv", "--photos", shelter),
                  ("hypotheses", "--run", "theirs.csv", "--data", shelter)):  # fmt: skip
        line = refused(*words)
        assert "looks like" in line, words
        assert table["Id"][0] in line or table["Id"].min() in line


def test_photos_of_another_ending_are_named_where_leaks_are_looked_for(shelter, work, refused):
    renamed(shelter, lambda name: name.replace(".jpg", ".JPG"))
    table = pd.read_csv(shelter / "train.csv", dtype=str)
    own = pd.DataFrame({"Id": table["Id"], "fold": np.arange(60) % 4, "target": table["Pawpularity"]})
    own.assign(prediction=np.linspace(20, 60, 60)).to_csv("own.csv", index=False)
    assert '.JPG"' in refused("leakcheck", "own.csv", "--photos", shelter)


def test_a_folder_with_a_long_name(shelter, work, capfd):
    for name in ("x" * 150, "y" * 250):
        shutil.copytree(shelter, name)
        assert main(["folds", "--data", name]) == 0, capfd.readouterr().err
    runs = {context("scratch", data=name).run.name for name in ("x" * 150, "y" * 250)}
    assert len(runs) == 2
    assert all(len(run) <= 100 for run in runs)


@pytest.mark.parametrize("name", ["1.23E+14", "1.2345678901234568e+20"])
def test_ids_that_a_spreadsheet_made_equal_are_not_called_doubled(tmp_path, name):
    rows = "\n".join([name + ",0" * 12 + ",30"] * 2)
    (tmp_path / "train.csv").write_text(",".join(["Id", *METADATA, "Pawpularity"]) + "\n" + rows + "\n")
    with pytest.raises(UserError, match="spreadsheet"):
        read_train(tmp_path)


def test_runs_are_named_so_that_a_command_can_name_them_again(drawn, work):
    folder = Path("f" * 60, "g" * 60)
    folder.mkdir(parents=True)
    Path(folder, "mine.yaml").write_text("{}")
    assert len(context(str(folder / "mine.yaml"), data=str(drawn)).run.name) <= 100
    assert context(data=str(drawn), settings=["model.backbone=timm/resnet18"]).run.name == "resnet18-toy"
    with pytest.raises(UserError, match="RUN="):
        context(data=str(drawn), run="mine.CSV")
