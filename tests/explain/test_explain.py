"""The command: which photos, by which network, what it leaves, what it refuses, and that stopping changes nothing."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.explain.conftest import QUICK, made

from pawpularity import predictor
from pawpularity.data.photos import decode
from pawpularity.data.tables import METADATA
from pawpularity.errors import UserError
from pawpularity.explain import explain
from pawpularity.explain.photos import HIGHEST, LOWEST, OVER, UNDER, extremes
from pawpularity.explain.rise import rise
from pawpularity.explain.scored import PhotoScore
from pawpularity.predictor import Predictor

COMMAND = ("explain", "--run", "toy", "--data", "toy")
FOLDER = Path("oof/toy/explain")


def table_of(target, prediction, groups=None):
    groups = range(len(target)) if groups is None else groups
    index = [f"{i:02d}" for i in range(len(target))]
    return pd.DataFrame({"target": target, "prediction": prediction, "group": groups}, index=index, dtype=float)


def photos_of_folds():
    """A photo of each fold."""
    oof = pd.read_csv("oof/toy/oof.csv")
    return [oof.loc[oof["fold"] == fold, "Id"].iloc[0] for fold in (0, 1)]


def test_extremes_are_those_of_pandas_and_near_duplicates_count_once():
    random = np.random.default_rng(0)
    table = table_of(random.integers(1, 101, 40), random.uniform(1, 100, 40))
    found = extremes(table, 5)
    table = table.assign(error=table["prediction"] - table["target"])
    for kind, wanted in {
        HIGHEST: table.nlargest(5, "prediction"), LOWEST: table.nsmallest(5, "prediction"),
        OVER: table.nlargest(5, "error"), UNDER: table.nsmallest(5, "error"),
    }.items():  # fmt: skip
        assert {name for name, kinds in found.items() if kind in kinds} == set(wanted.index)
    found = extremes(table_of([50, 50, 10, 50], [90, 89, 80, 50], [0, 0, 1, 2]), 2)
    assert found == {"00": [HIGHEST, OVER], "02": [HIGHEST, LOWEST, OVER], "03": [LOWEST]}


@pytest.mark.slow
def test_what_the_command_leaves(at, paw):
    done = paw(*COMMAND, "--n", "1", *QUICK, "explain.sanity_photos=2", "--json", "all.json")
    assert done.code == 0, done.err
    assert "next: make known-truth" in done.err
    table = pd.read_csv(FOLDER / "explain.csv")
    oof = pd.read_csv("oof/toy/oof.csv").set_index("Id")
    ids = list(dict.fromkeys(table["Id"]))
    assert oof["prediction"].idxmax() == ids[0]
    assert len(table) == 3 * len(ids)
    assert np.allclose(table["prediction"], oof.loc[table["Id"], "prediction"])
    # In evaluation, alone instead of in a batch: the network that made the prediction, to float32's digits.
    assert np.allclose(table["score"].clip(1, 100), table["prediction"], atol=1e-3)
    for name in ids:
        for file in (f"panels/{name}.png", f"strips/{name}.png", f"maps/{name}.npz", f"records/{name}.json"):
            assert (FOLDER / file).is_file()
    assert (FOLDER / "sanity.png").is_file()
    found = json.loads(Path("all.json").read_text())
    assert [one["method"] for one in found["sanity"]] == ["gradient", "gradcam", "rise"]
    assert found == json.loads((FOLDER / "explain.json").read_text())


def test_a_photo_is_explained_by_the_fold_that_never_saw_it_with_its_metadata(at, paw):
    names = photos_of_folds()
    words = ("--photo", *names, *QUICK[2:], "explain.methods=[rise]", "--masks")
    assert paw(*COMMAND, *words, 512).code == 0
    networks, compute = Predictor.load("oof/toy").networks, Predictor.load("oof/toy").compute
    table = pd.read_csv("toy/train.csv").set_index("Id")
    for fold, name in enumerate(names):
        columns = table.loc[name, list(METADATA)].to_numpy(dtype=np.float32)
        score = PhotoScore(networks[fold], compute, columns)
        x = score.input_of(decode(at / "toy" / "train" / f"{name}.jpg", 64, "squash"))
        found = rise(score, x, masks=512)
        with np.load(FOLDER / "photos/maps" / f"{name}.npz", allow_pickle=False) as maps:
            assert np.allclose(maps["rise"], found.map, atol=1e-5)
            assert np.allclose(maps["rise_standard_error"], found.standard_error, atol=1e-5)
        other = rise(PhotoScore(networks[1 - fold], compute, columns), x, masks=512)
        assert not np.allclose(other.map, found.map, atol=1e-3), "else the test could not fail"
    assert not (FOLDER / "photos/convergence.png").exists(), "one look is no line"
    assert paw(*COMMAND, "--photo", names[0], *words[3:], 1024).code == 0
    assert (FOLDER / "photos/convergence.png").is_file()


def test_a_stopped_command_resumes_and_another_one_starts_over(at, paw, monkeypatch):
    words = (*COMMAND, "--photo", *photos_of_folds(), *QUICK, "explain.methods=[gradient]", "--out")
    assert paw(*words, "first").code == 0
    first = made(Path("first"))
    judge, calls = explain.judge, []

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return judge(*args, **kwargs)

    monkeypatch.setattr(explain, "judge", stopping)
    assert paw(*words, "second").code == 130
    assert not Path("second/index.html").exists()
    assert paw(*words, "second").code == 0
    assert len(calls) == 3
    assert made(Path("second")) == first
    assert paw(*words, "second").code == 0
    assert len(calls) == 3, "all photos were there"
    assert paw(*words, "second", "explain.smooth=2").code == 0
    assert len(calls) == 5
    assert made(Path("second"))["explain.csv"] != first["explain.csv"]


def test_any_picture_is_explained_by_the_mean_of_the_folds_without_metadata(at, paw):
    shutil.copy(sorted((at / "toy" / "test").glob("*.jpg"))[0], at / "my cat.jpg")
    known = sorted((at / "toy" / "train").glob("*.jpg"))[0]
    shutil.copy(known, at / "renamed.jpg")
    done = paw(*COMMAND, "--photo", "my cat.jpg", "renamed.jpg", *QUICK, "explain.methods=[gradient]")
    assert done.code == 0, done.err
    assert f"renamed.jpg is {known.stem} of toy" in done.err, "a photo of the run is known by its content"
    table = pd.read_csv(FOLDER / "photos/explain.csv")
    own = table[table["Id"].str.startswith("my-cat-")].iloc[0]
    predictor = Predictor.load("oof/toy")
    assert own["score"] == pytest.approx(predictor.predict("my cat.jpg")[0], abs=1e-3)
    assert pd.isna(own["target"])
    assert table.loc[table["Id"] == known.stem, "fold"].notna().all()
    # The gradient of a mean is the mean of the gradients.
    scores = [PhotoScore(network, predictor.compute) for network in predictor.networks.values()]
    x = scores[0].input_of(decode(at / "my cat.jpg", 64, "squash")).requires_grad_(True)
    (slope,) = torch.autograd.grad(torch.stack([score.exact(x[None])[0] for score in scores]).mean(), x)
    wanted = (slope * 255.0 / predictor.networks[0].std[0]).sum(dim=0).numpy()
    with np.load(FOLDER / "photos/maps" / f"{own['Id']}.npz", allow_pickle=False) as maps:
        assert np.allclose(maps["gradient"], wanted, atol=1e-4 * np.abs(wanted).max())


def test_only_trained_folds_are_looked_at(at, paw, refused):
    seen, unseen = photos_of_folds()
    shutil.rmtree("oof/toy/fold1")
    words = (*QUICK, "explain.methods=[gradient]")
    assert paw(*COMMAND, "--n", "1", *words).code == 0
    assert set(pd.read_csv(FOLDER / "explain.csv")["fold"]) == {0}
    assert "Only fold 0 of 2 is trained" in (FOLDER / "index.html").read_text(encoding="utf-8")
    assert "run: make train FOLD=1 RUN=toy" in refused(*COMMAND, "--photo", unseen, *words)
    assert f"1 of 2 photos cannot be explained ({unseen}" in refused(*COMMAND, "--photo", seen, unseen, *words)


def test_bad_photos_and_networks_are_named_and_the_others_are_shown(at, refused, monkeypatch):
    good, other = photos_of_folds()
    Path("text.jpg").write_text("no photo")
    load = predictor.load_network

    def spoiled(run, fold, **rest):
        network = load(run, fold, **rest)
        if fold == 1:
            network.score.weight.data.zero_()
        return network

    with monkeypatch.context() as patch:
        patch.setattr(predictor, "load_network", spoiled)
        line = refused(*COMMAND, "--photo", good, other, "text.jpg", "nobody", *QUICK)
        for said in ("3 of 4 photos", f"{other}: its score is", "text.jpg", "nobody: is neither"):
            assert said in line
    assert [file.stem for file in (FOLDER / "photos/panels").iterdir()] == [good]
    before = made(FOLDER)
    assert "nobody" in refused(*COMMAND, "--photo", "nobody", *QUICK)
    assert "regular file" in refused(*COMMAND, "--photo", "/dev/null", *QUICK)
    assert made(FOLDER) == before, "a command that fails takes nothing away"


def test_a_method_that_refuses_the_network_is_named_and_the_others_go_on(at, paw, monkeypatch):
    def refusing(*args, **kwargs):
        raise UserError("Grad-CAM: this network has no places")

    monkeypatch.setattr("pawpularity.explain.gradcam.gradcam", refusing)
    for _ in range(2):  # the second time nothing is left to do
        done = paw(*COMMAND, "--photo", photos_of_folds()[0], *QUICK)
        assert done.code == 0
        assert "this network has no places" in done.err
    assert set(pd.read_csv(FOLDER / "photos/explain.csv")["method"]) == {"gradient", "rise"}
    assert "this network has no places" in (FOLDER / "photos/index.html").read_text(encoding="utf-8")


def test_wrong_words_and_folders_are_refused(at, refused):
    for words, said in (
        (("train.lr=1",), 'remove "train.lr=1"'),
        (("explain.layer=layer9",), "layer"),
        (("explain.cellls=3",), 'did you mean "explain.cells"'),
        (("--n", "0"), "must be 1 to"),
        (("--photo", "x.jpg", "--n", "3"), "remove --n"),
        (("--masks", "many"), "explain.masks"),
        (("explain.methods=[rize]",), 'did you mean "rise"'),
        (("--out", "oof/toy"), "holds config.json"),
    ):
        assert said in refused(*COMMAND, *words)
    assert "is not the data toy was trained on" in _with_a_changed_photo(at, refused)
    assert not FOLDER.exists(), "nothing is left of a refused command"
    assert re.search("holds no run", refused("explain", "--run", "none", "--data", "toy"))


def _with_a_changed_photo(at, refused):
    with next((at / "toy/train").glob("*.jpg")).open("ab") as file:
        file.write(b"more")
    return refused(*COMMAND)
