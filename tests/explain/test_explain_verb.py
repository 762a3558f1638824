"""The command: which photos, by which network, what it leaves, what it refuses, and that stopping changes nothing."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tests.explain.conftest import QUICK, made

from pawpularity.data.photos import decode
from pawpularity.data.tables import METADATA
from pawpularity.evaluation.predictions import Predictions, open_predictions
from pawpularity.explain import explain
from pawpularity.explain.extremes import HIGHEST, LOWEST, OVER, UNDER, extremes
from pawpularity.explain.rise import rise
from pawpularity.explain.scored import PhotoScore
from pawpularity.predictor import Predictor
from pawpularity.runs import Run


def source_of(scores, predictions, groups=None):
    table = pd.DataFrame(
        {"Id": [f"{i:02d}" for i in range(len(scores))], "fold": 0, "target": scores, "prediction": predictions}
    )
    held = None if groups is None else np.array(groups)
    return Predictions(
        "x", table.astype({"target": float, "prediction": float}), held, np.full(len(scores), 40.0), None, Path()
    )


def test_extremes_are_those_of_pandas():
    random = np.random.default_rng(0)
    source = source_of(random.integers(1, 101, 40), random.uniform(1, 100, 40))
    found = extremes(source, 5)
    table = source.table.assign(error=source.prediction - source.target)
    for kind, wanted in {
        HIGHEST: table.nlargest(5, "prediction"), LOWEST: table.nsmallest(5, "prediction"),
        OVER: table.nlargest(5, "error"), UNDER: table.nsmallest(5, "error"),
    }.items():  # fmt: skip
        assert {row.id for row in found if kind in row.kinds} == set(wanted["Id"])
    assert len({row.id for row in found}) == len(found), "each photo once"
    assert all(row.error == pytest.approx(row.prediction - row.target) for row in found)


def test_near_duplicates_count_once_in_a_list_and_only_errors_are_errors():
    source = source_of([50, 50, 10, 50], [90, 89, 80, 50.0], groups=[0, 0, 1, 2])
    found = {row.id: row.kinds for row in extremes(source, 2)}
    assert found == {"00": (HIGHEST, OVER), "02": (HIGHEST, LOWEST, OVER), "03": (LOWEST,)}
    assert extremes(source_of([5, 5], [5, 5.0]), 3)[0].kinds == (HIGHEST, LOWEST), "nothing is over- or under-estimated"


@pytest.mark.slow
def test_what_the_command_leaves(at, paw):
    done = paw("explain", "--run", "toy", "--n", "1", *QUICK[:-2], "explain.sanity_photos=2", "explain.smooth=0")
    assert done.code == 0, done.err
    assert "ms a forward pass" in done.err
    folder = at / "oof" / "toy" / "explain"
    table = pd.read_csv(folder / "explain.csv")
    source = open_predictions("toy")
    wanted = extremes(source, 1)
    assert list(dict.fromkeys(table["Id"])) == [row.id for row in wanted]
    assert len(table) == 3 * len(wanted)
    oof = pd.read_csv("oof/toy/oof.csv").set_index("Id")
    assert np.allclose(table["prediction"], oof.loc[table["Id"], "prediction"])
    assert (table["fold"].to_numpy() == oof.loc[table["Id"], "fold"].to_numpy()).all()
    # In evaluation, alone instead of in a batch: the network that made the prediction, to float32's digits.
    assert np.allclose(table["score"].clip(1, 100), table["prediction"], atol=1e-3)
    for row in wanted:
        for made_of in (f"panels/{row.id}.png", f"strips/{row.id}.png", f"maps/{row.id}.npz"):
            assert (folder / made_of).is_file()
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "Does a map depend on what the network learnt?" in text
    assert "RISE and what is known of these drawn photos" in text
    found = json.loads((folder / "explain.json").read_text())
    assert [one["method"] for one in found["sanity"]] == ["gradient", "gradcam", "rise"]
    assert set(found["known_truth"]) == {"gradient", "gradcam", "rise"}
    assert not (folder / ".part").exists()


def test_a_photo_is_explained_by_the_fold_that_never_saw_it_with_its_metadata(at, paw):
    oof = pd.read_csv("oof/toy/oof.csv")
    names = [oof.loc[oof["fold"] == fold, "Id"].iloc[0] for fold in (0, 1)]
    done = paw("explain", "--run", "toy", "--photo", *names, *QUICK, "explain.methods=[rise]")
    assert done.code == 0, done.err
    predictor = Predictor.load("oof/toy")
    table = pd.read_csv("toy/train.csv").set_index("Id")
    for fold, name in enumerate(names):
        columns = table.loc[name, list(METADATA)].to_numpy(dtype=np.float32)
        score = PhotoScore(predictor.networks[fold], predictor.compute, columns)
        x = score.input_of(decode(at / "toy" / "train" / f"{name}.jpg", 64, "squash"))
        found = rise(score, x, masks=512)
        with np.load(at / "oof/toy/explain/photos/maps" / f"{name}.npz", allow_pickle=False) as maps:
            assert np.allclose(maps["rise"], found.map, atol=1e-5)
            assert np.allclose(maps["rise_standard_error"], found.standard_error, atol=1e-5)
        other = rise(PhotoScore(predictor.networks[1 - fold], predictor.compute, columns), x, masks=512)
        assert not np.allclose(other.map, found.map, atol=1e-3), "else the test could not fail"


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes_and_a_stopped_one_goes_on(at, paw, monkeypatch):
    names = [file.stem for file in sorted((at / "toy" / "train").glob("*.jpg"))[:2]]
    words = ("explain", "--run", "toy", "--photo", *names, *QUICK)
    assert paw(*words).code == 0
    folder, count = at / "oof" / "toy" / "explain" / "photos", 2
    first = made(folder)
    assert paw(*words, "--out", "elsewhere").code == 0
    assert made(at / "elsewhere") == first
    # Stopped at the second photo: what was shown stays, and the same command takes the first one up.
    judge, calls = explain.judge, []

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return judge(*args, **kwargs)

    monkeypatch.setattr(explain, "judge", stopping)
    assert paw(*words).code == 130
    assert (folder / ".part" / "records").is_dir()
    assert {k: v for k, v in made(folder).items() if not k.startswith(".part")} == first
    done = paw(*words)
    assert done.code == 0
    assert "going on" in done.err
    assert len(calls) == 2 + count - 1
    assert made(folder) == first
    # Stopped again; a command with another setting mixes nothing in.
    calls.clear()
    assert paw(*words).code == 130
    done = paw(*words, "explain.seed=1")
    assert done.code == 0
    assert "starts anew" in done.err
    assert len(calls) == 2 + count
    assert made(folder)["explain.csv"] != first["explain.csv"]


def test_only_trained_folds_are_looked_at(at, paw, refused):
    shutil.rmtree("oof/toy/fold1")
    done = paw("explain", "--run", "toy", "--n", "1", *QUICK, "explain.methods=[gradient]")
    assert done.code == 0, done.err
    assert "only fold 0 of 2 is trained" in done.err
    table = pd.read_csv("oof/toy/explain/explain.csv")
    assert set(table["fold"]) == {0}
    assert "Only fold 0 of 2 is trained" in Path("oof/toy/explain/index.html").read_text(encoding="utf-8")
    folds = pd.read_csv(next(Path("oof/folds").glob("toy-*.csv")))
    stranger = folds.loc[folds["fold"] == 1, "Id"].iloc[0]
    assert "all other folds saw it" in refused(
        "explain", "--run", "toy", "--photo", stranger, *QUICK, "explain.methods=[gradient]"
    )
    shutil.rmtree("oof/toy/fold0")
    assert "make train RUN=toy" in refused("explain", "--run", "toy", *QUICK, "explain.methods=[gradient]")


def test_any_picture_is_explained_by_the_mean_of_the_folds_without_metadata(at, paw):
    shutil.copy(sorted((at / "toy" / "test").glob("*.jpg"))[0], at / "my cat.jpg")
    known = sorted((at / "toy" / "train").glob("*.jpg"))[0]
    shutil.copy(known, at / "renamed.jpg")
    done = paw("explain", "--run", "toy", "--photo", "my cat.jpg", "renamed.jpg", *QUICK)
    assert done.code == 0, done.err
    assert "mean of folds 0, 1, without metadata" in done.err
    assert f"renamed.jpg is {known.stem} of toy" in done.err, (
        "a photo of the run is known by its content: folds have seen it"
    )
    folder = at / "oof" / "toy" / "explain" / "photos"
    table = pd.read_csv(folder / "explain.csv")
    name = next(name for name in table["Id"] if name.startswith("my-cat-"))
    own = table[table["Id"] == name]
    predictor = Predictor.load("oof/toy")
    assert own["score"].iloc[0] == pytest.approx(predictor.predict("my cat.jpg")[0], abs=1e-3)
    assert own["target"].isna().all()
    assert table.loc[table["Id"] == known.stem, "fold"].notna().all()
    # The gradient of a mean is the mean of the gradients.
    x = PhotoScore(predictor.networks[0], predictor.compute).input_of(decode(at / "my cat.jpg", 64, "squash"))
    x = x.requires_grad_(True)
    total = torch.stack(
        [PhotoScore(n, predictor.compute).exact(x[None])[0] for n in predictor.networks.values()]
    ).mean()
    (slope,) = torch.autograd.grad(total, x)
    wanted = (slope * 255.0 / predictor.networks[0].std[0]).sum(dim=0).numpy()
    with np.load(folder / "maps" / f"{name}.npz", allow_pickle=False) as maps:
        assert np.allclose(maps["gradient"], wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_bad_photo_is_named_and_the_others_are_shown(at, paw, refused):
    Image.new("RGB", (200, 20), "red").save("thin.png")
    Path("broken.jpg").write_bytes((at / "toy" / "test").glob("*.jpg").__next__().read_bytes()[:300])
    Path("text.jpg").write_text("no photo")
    good = sorted((at / "toy" / "train").glob("*.jpg"))[0].stem
    line = refused("explain", "--run", "toy", "--photo", "thin.png", good, "broken.jpg", "text.jpg", "nobody", *QUICK)
    for said in (
        "4 of 5 photos",
        "thin.png: is 200 x 20 px; 32",
        "broken.jpg: truncated",
        "text.jpg: not a",
        "nobody: is neither",
    ):
        assert said in line
    folder = at / "oof" / "toy" / "explain" / "photos"
    assert [file.stem for file in (folder / "panels").iterdir()] == [good]
    before = made(folder)
    assert "nobody" in refused("explain", "--run", "toy", "--photo", "nobody", *QUICK)
    assert "thin.png" in refused("explain", "--run", "toy", "--photo", "thin.png", *QUICK)
    assert {k: v for k, v in made(folder).items() if not k.startswith(".part")} == before, (
        "a command that fails takes nothing away"
    )
    # One photo of the run itself that went bad after training is told by its data's hash.
    (at / "toy" / "train" / f"{good}.jpg").write_bytes(b"\xff\xd8\xff")
    assert "is not the data toy was trained on" in refused("explain", "--run", "toy", *QUICK)


def test_wrong_words_are_refused(at, refused):
    for words, said in (
        (("train.lr=1",), 'remove "train.lr=1"'),
        (("explain.cellls=3",), 'did you mean "explain.cells"'),
        (("--n", "0"), "must be 1 to"),
        (("--photo", "x.jpg", "--n", "3"), "leave --n away"),
        (("--masks", "many"), "a count of masks, or auto"),
        (("explain.methods=[rize]",), "one of gradient, gradcam, rise"),
        (("--run", "none"), "holds no run"),
        (("--data", "nowhere"), "nowhere"),
        (("--group", "eyebrows"), "is no group"),
    ):
        assert said in refused("explain", *(("--run", "toy") if "--run" not in words else ()), *words)
    assert Run.open(Path("oof/toy")).folder.joinpath("explain").exists() is False, (
        "nothing is left of a refused command"
    )


def test_a_folder_of_somebody_else_is_left_alone(at, refused):
    precious = Path("mine/maps/precious.txt")
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")
    words = ("explain", "--run", "toy", "--data", "toy", "--n", 1, *QUICK)
    assert "holds maps" in refused(*words, "--out", "mine")
    assert precious.read_text() == "mine"
    assert "holds config.json" in refused(*words, "--out", "oof/toy")


def test_words_may_follow_a_group_and_pipes_are_no_photos(at, refused):
    os.mkfifo("pipe")
    assert "regular file" in refused("explain", "--run", "toy", "--data", "toy", "--photo", "pipe")
    assert "names no group" in refused("explain", "--run", "toy", "--data", "toy", "--group", ",")
    assert "explain.group_photo" in refused(
        "explain", "--data", "toy", "--run", "toy", "--group", "eyes", "explain.group_photo=2"
    )


def test_a_method_that_refuses_the_network_is_named_and_the_others_go_on(at, paw, monkeypatch):
    from pawpularity.errors import UserError

    def refusing(*args, **kwargs):
        raise UserError("Grad-CAM: this network has no places")

    monkeypatch.setattr("pawpularity.explain.gradcam.gradcam", refusing)
    done = paw("explain", "--run", "toy", "--n", "1", *QUICK)
    assert done.code == 0, done.err
    assert set(pd.read_csv("oof/toy/explain/explain.csv")["method"]) == {"gradient", "rise"}
    assert "this network has no places" in Path("oof/toy/explain/index.html").read_text(encoding="utf-8")


def test_how_the_error_fell_is_drawn_where_it_was_looked_at_more_than_once(at, paw):
    name = pd.read_csv("oof/toy/oof.csv")["Id"][0]
    words = ("explain", "--run", "toy", "--photo", name, "explain.methods=[rise]", "explain.road=false")
    for masks, drawn in (("1024", True), ("512", False)):
        assert paw(*words, "--masks", masks).code == 0
        folder = Path("oof/toy/explain/photos")
        assert (folder / "convergence.png").is_file() == drawn
        assert ("convergence.png" in (folder / "index.html").read_text(encoding="utf-8")) == drawn
    looks = json.loads((folder / "explain.json").read_text())["photos"][0]["methods"]["rise"]["facts"]["history"]
    assert [masks for masks, _ in looks] == [512]
