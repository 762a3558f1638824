"""One command, one figure: what each command promises, at the smallest size, computed a second time from its files."""

import shlex
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.oracles import adapter

LOG = Path(__file__).resolve().parents[2] / "docs" / "log.md"


def rmse(table) -> float:
    return float(np.sqrt(np.mean((table["target"] - table["prediction"]) ** 2)))


def labels(data: Path) -> pd.DataFrame:
    return pd.read_csv(data / "train.csv", dtype={"Id": str}).set_index("Id")


def shown(data: Path, ids, size=32):
    """(pixels, metadata) of photos of the toy sample."""
    photos = np.stack([adapter.pixels(data / "train" / f"{name}.jpg", size) for name in ids])
    return photos, labels(data).loc[ids].drop(columns="Pawpularity").to_numpy(np.float32)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A sample large enough to learn from, and fold 0 of the default run with metadata and without."""
    place = adapter.checkout(tmp_path_factory.mktemp("learnt") / "checkout")
    data = adapter.draw_sample(place / "drawn", photos=300, size=64, seed=3)
    for word in ("use", "none"):
        words = ("photos.size=64", "train.dtype=float32", f"model.metadata={word}")
        adapter.done(*adapter.training(word, data, *words, config="sample", fold=0), at=place)
    return place, data


@pytest.mark.parametrize("metadata", ["use", "none"])
def test_the_default_run_learns_and_its_score_is_of_its_rows(learnt, expected, metadata):
    place, data = learnt
    table, found = adapter.predictions(place, metadata, fold=0), adapter.own_score(place, metadata)
    scores = labels(data)["Pawpularity"]
    assert (table["target"].to_numpy() == scores.loc[table["Id"]].to_numpy()).all()
    constant = scores.drop(table["Id"]).mean()
    assert found["rmse"] == pytest.approx(rmse(table), abs=1e-5)
    assert found["constant_rmse"] == pytest.approx(rmse(table.assign(prediction=constant)), abs=1e-5)
    assert found["r2"] == pytest.approx(1 - (rmse(table) / table["target"].std(ddof=0)) ** 2, abs=1e-5)
    assert found["low"] < found["rmse"] < found["high"]
    assert found["rmse"] < found["constant_rmse"] - 4
    expected(f"default run, 300 photos, fold 0, metadata {metadata}: RMSE", round(found["rmse"], 3), within=1.0)
    expected("default run, 300 photos, fold 0: constant", round(found["constant_rmse"], 6), within=1e-5)


@pytest.fixture(scope="module")
def table1(sample, tmp_path_factory):
    place = adapter.checkout(tmp_path_factory.mktemp("table1") / "checkout")
    settings = ("photos.size=32", "train.epochs=1", "train.warmup_epochs=0", "train.dtype=float32")
    return place, adapter.table1(place, sample, *settings)


def test_every_cell_of_table_1(table1, sample, work):
    """Four backbones x no copies, the paper's, the authors' x honest and leaky: n, leaked items and constants by the replay."""
    place, cells = table1
    backbones = {backbone for backbone, _, _ in cells}
    assert len(backbones) == 4
    assert len(cells) == 4 * 3 * 2
    for rule in ("none", "paper", "authors"):
        replay = adapter.leak_replay(sample / "train.csv", work, copies=rule)
        for backbone in backbones:
            honest, leaky = (cells[backbone, rule, split] for split in ("honest", "leaky"))
            assert (honest["n"], honest["with_copy_in_training"]) == (60, 0)
            assert (leaky["n"], leaky["with_copy_in_training"]) == (replay["validation"], replay["siblings"])
            assert leaky["constant_rmse"] == pytest.approx(replay["constant_rmse"])
            assert leaky["sd"] == pytest.approx(replay["sd"])
            table = adapter.predictions(place, adapter.table1_run(backbone, rule, sample))
            assert honest["rmse"] == pytest.approx(rmse(table), abs=1e-5)


def test_the_ensemble_of_the_four(table1, sample):
    place, cells = table1
    names = [adapter.table1_run(backbone, "none", sample) for backbone in sorted({one for one, _, _ in cells})]
    found = adapter.blend(names, place, "four", "mean")
    tables = [adapter.predictions(place, name) for name in names]
    mean = tables[0].assign(prediction=np.mean([table["prediction"] for table in tables], axis=0))
    assert found["mean"]["rmse"] == pytest.approx(rmse(mean), abs=1e-5)
    parts = []
    for fold in tables[0]["fold"].unique():  # the best on the other folds answers for this one
        best = min(tables, key=lambda table, fold=fold: rmse(table[table["fold"] != fold]))
        parts.append(best[best["fold"] == fold])
    assert found["best member"]["rmse"] == pytest.approx(rmse(pd.concat(parts)), abs=1e-5)


def test_flip_is_the_mean_of_both_and_predictions_are_of_the_fold_that_never_saw_them(trained, sample):
    for fold in range(3):
        table = adapter.predictions(trained, "frozen", fold)
        photos, metadata = shown(sample, table["Id"])
        plain, mirrored, both = (
            adapter.predict_pixels(trained, "frozen", seen, metadata, flip=flip, folds=[fold])
            for seen, flip in ((photos, False), (np.ascontiguousarray(photos[:, :, ::-1]), False), (photos, True))
        )
        assert both == pytest.approx((plain + mirrored) / 2, abs=1e-4)
        assert not np.allclose(plain, mirrored, atol=1e-2)
        assert table["prediction"].to_numpy() == pytest.approx(both, abs=1e-3)
        errors = [rmse(table.assign(prediction=seen)) for seen in (plain, both)]
        assert adapter.flip_scores(trained, "frozen", fold) == pytest.approx(errors, abs=1e-3)


def test_robustness(trained, sample):
    found = adapter.robustness(trained, "whole", sample, photos=6)
    assert set(found["change"]) == set(adapter.CHANGES.values())
    for (name, fold), rows in found.groupby(["Id", "fold"]):
        photos, metadata = shown(sample, [name])
        changed = {"mirrored": photos[:, :, ::-1], "darker by a tenth": np.rint(0.9 * photos).astype(np.uint8)}
        score = adapter.predict_pixels(trained, "whole", photos, metadata, folds=[fold])[0]
        move = rows.set_index("change")["move"]
        assert rows["score"].to_numpy() == pytest.approx(score, abs=1e-3)
        for change, pixels in changed.items():
            again = adapter.predict_pixels(trained, "whole", np.ascontiguousarray(pixels), metadata, folds=[fold])[0]
            assert move[change] == pytest.approx(again - score, abs=1e-3)
        assert move["attacked downwards"] < 0 < move["attacked upwards"]
        assert abs(move["random noise"]) < move["attacked upwards"]


@pytest.fixture(scope="module")
def explained(trained, sample):
    return adapter.explained(trained, "whole", sample, masks=640)


def test_explain_leaves_maps_and_shows_how_they_converge(explained):
    photos, picture = explained
    assert 1 <= len(photos) <= 4
    for maps, convergence in photos.values():
        assert {"gradient", "rise"} <= maps.keys()
        assert all(one.shape == (32, 32) and np.isfinite(one).all() and one.std() > 0 for one in maps.values())
        masks, errors = np.array(convergence, dtype=float).T
        assert masks[-1] == 640
        assert (np.diff(masks) > 0).all()
        assert (errors > 0).all()
    with Image.open(picture) as image:
        assert min(image.size) > 200


def test_difference_maps_of_groups(trained, sample):
    maps, picture = adapter.difference_map(trained, "whole", sample, n=3)
    assert maps["difference"] == pytest.approx(maps["high"] - maps["low"], abs=1e-5)
    error = np.hypot(maps["high_standard_error"], maps["low_standard_error"])
    assert maps["difference_standard_error"] == pytest.approx(error, abs=1e-5)
    assert maps["difference"].std() > 0
    with Image.open(picture) as image:
        assert min(image.size) > 200


@pytest.fixture(scope="module")
def searched(trained, sample):
    adapter.done(*adapter.searching("search", sample, 6), at=trained)
    return adapter.trials(trained, "search")


def test_the_search_varies_what_it_should(searched):
    """Unfrozen depth, head widths, dropout and learning rate are searched by default; the first trial is the config's own."""
    assert set(adapter.SEARCHED.values()) <= adapter.search_space()
    assert len(searched) == 6
    assert all(np.isfinite(trial.value) for trial in searched)
    for what in adapter.SEARCHED.values():
        assert len({str(trial.params[what]) for trial in searched}) > 1, what
    assert searched[0].params[adapter.SEARCHED["learning rate"]] == pytest.approx(1e-3)


PICKLES = (".pkl", ".pickle", ".bin", ".pt", ".pth", ".ckpt", ".joblib")


def test_no_command_leaves_a_pickle(trained, explained, searched):
    files = [file for file in (trained / "oof").rglob("*") if file.is_file()]
    assert {".safetensors", ".json", ".csv", ".npz"} <= {file.suffix for file in files}
    for file in files:
        begin = file.read_bytes()[:2]
        assert file.suffix not in PICKLES, file
        assert not (begin[:1] == b"\x80" and begin[1:] <= b"\x05"), file
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                assert not [name for name in archive.namelist() if name.endswith(PICKLES)], file
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                assert all(arrays[name].dtype != object for name in arrays)


def test_the_checklist_is_backed_by_files(trained):
    code, answers, page = adapter.checklist(trained, "whole")
    assert code == 0
    assert len(answers) >= 15
    assert all(text and all(file.is_file() for file in files) for text, files in answers.values())
    assert page.read_text().count("\n") > len(answers)


def test_jobs_are_a_line_a_missing_fold(work, sample):
    lines = adapter.jobs(work, "a", sample, *adapter.TOY)
    assert len(lines) == 3
    words = shlex.split(lines[1])
    adapter.done(*words[words.index("pawpularity") + 1 :], at=work)
    assert len(adapter.predictions(work, "a", fold=1)) == 20
    assert adapter.jobs(work, "a", sample, *adapter.TOY) == [lines[0], lines[2]]


def test_a_training_kernel(work, sample):
    (work / "input").mkdir()
    (work / "input" / adapter.CONTEST).symlink_to(sample)
    metadata, script = adapter.training_kernel(work, "toy", "photos.size=32")
    assert {"id", "title", "code_file", "dataset_sources", "competition_sources"} <= metadata.keys()
    assert metadata["id"].startswith("anna/")
    assert (metadata["language"], metadata["kernel_type"]) == ("python", "script")
    assert str(metadata["enable_gpu"]).lower() == "true"
    assert adapter.CONTEST in metadata["competition_sources"]
    compile(script.read_text(), script.name, "exec")


def test_the_log_is_kept():
    assert len(LOG.read_text(encoding="utf-8").splitlines()) > 100
