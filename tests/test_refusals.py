"""What must never pass quietly: changed artefacts, swapped weights, names in use, words that mean nothing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pawpularity import Predictor
from pawpularity.config import resolve
from pawpularity.ensemble.record import mean_blend
from pawpularity.errors import UserError
from pawpularity.evaluation.oof import read_oof
from pawpularity.runs import Run

TOY = ("--config", "sample", "photos.size=32", "train.epochs=1", "train.warmup_epochs=0", "folds.k=2")


@pytest.fixture
def two_runs(work, shelter, paw):
    """Runs a and b with both folds."""
    for run, seed in (("a", 0), ("b", 1)):
        assert paw("train", "--data", shelter, *TOY, "--run", run, f"train.seed={seed}").code == 0
    return shelter


def folds_file():
    return Path(json.loads(Path("oof/a/config.json").read_text())["folds"]["file"])


def test_a_row_taken_away_is_missed(two_runs, refused):
    file = Path("oof/a/fold0/predictions.csv")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert "is missing from fold 0" in refused("oof", "a")


def test_a_flattered_prediction_is_noticed(two_runs, refused):
    file = Path("oof/a/fold0/predictions.csv")
    table = read_oof(file)
    table.assign(prediction=table["target"]).to_csv(file, index=False, float_format="%.6f")
    assert "was changed since training wrote it" in refused("oof", "a")


def test_a_changed_folds_file_is_refused_by_every_reader(two_runs, refused):
    file = folds_file()
    table = pd.read_csv(file, dtype={"Id": str})
    table["fold"] = 1 - table["fold"]
    table.to_csv(file, index=False)
    assert "is not the folds file a was trained by" in refused("oof", "a")
    assert "was changed since it was made" in refused("train", "--data", two_runs, *TOY, "--run", "a")


def test_oof_csv_goes_when_a_fold_goes(two_runs, paw):
    shutil.rmtree("oof/a/fold1")
    assert json.loads(paw("oof", "a", "--json", "-").out)["runs"][0]["folds"] == "1/2"
    assert not Path("oof/a/oof.csv").exists()
    with pytest.raises(UserError, match="1 of 2 folds are there"):
        mean_blend([Run.open(Path("oof/a")), Run.open(Path("oof/b"))], Path("oof/mean"))


def test_a_blend_is_the_mean_and_takes_nothing_twice_nor_over_a_run(two_runs, refused):
    a, b = Run.open(Path("oof/a")), Run.open(Path("oof/b"))
    with pytest.raises(UserError, match="name each once"):
        mean_blend([a, a], Path("oof/mean"))
    with pytest.raises(UserError, match="would overwrite"):
        mean_blend([a, b], Path("oof/b"))
    mean_blend([a, b], Path("oof/mean"))
    tables = [read_oof(Path(f"oof/{run}/oof.csv"))["prediction"] for run in ("a", "b", "mean")]
    np.testing.assert_allclose(tables[2], (tables[0] + tables[1]) / 2, atol=1e-6)
    file = Path("oof/mean/oof.csv")
    file.write_text(file.read_text().replace(",1,", ",0,", 1))
    assert "was changed since the blend was made" in refused("oof", "mean")


def test_one_damaged_run_does_not_hide_the_others(two_runs, paw):
    Path("oof/b/config.json").write_text("{}")
    done = paw("oof")
    assert done.code == 0
    assert "left out b" in done.err
    assert "\na " in done.out


def test_the_tables_row_order_decides_nothing(work, shelter, paw):
    assert paw("train", "--data", shelter, *TOY, "--run", "a", "train.copies=paper", "train.augment=strong").code == 0
    table = pd.read_csv(shelter / "train.csv", dtype={"Id": str})
    table[::-1].to_csv(shelter / "train.csv", index=False)
    assert paw("train", "--data", shelter, *TOY, "--run", "b", "train.copies=paper", "train.augment=strong").code == 0
    assert Path("oof/a/oof.csv").read_bytes() == Path("oof/b/oof.csv").read_bytes()


def test_a_photos_copy_is_the_same_in_every_fold(monkeypatch):
    """Seen where it matters: in the items that two folds with shared photos really train on."""
    from pawpularity.data.photo_cache import Photos
    from pawpularity.device import choose
    from pawpularity.training import fit

    random = np.random.default_rng(0)
    data = fit.LabelledPhotos(
        Photos.of(random.integers(0, 256, (80, 32, 32, 3), dtype=np.uint8)), np.arange(80), np.zeros((80, 12), np.float32),
        random.integers(1, 20, 80).astype(float), np.arange(80),
    )  # fmt: skip
    seen: list[dict[int, set[int]]] = []

    def watched(self, rows, views, batches, epoch, *sums):
        seen.append({int(row): set(views[rows == row].tolist()) for row in np.unique(rows)})
        return 0.0

    monkeypatch.setattr(fit.Loop, "epoch", watched)
    config = resolve("scratch", ["photos.size=32", "train.epochs=1", "train.warmup_epochs=0", "train.copies=paper",
                                "train.augment=none"])  # fmt: skip
    for fold, training in enumerate((np.arange(0, 60), np.arange(20, 80))):
        fit.fit_fold(config, data, training, fold=fold, compute=choose("float32", "cpu"))
    shared = seen[0].keys() & seen[1].keys()
    assert len(shared) == 40
    assert all(seen[0][row] == seen[1][row] for row in shared)
    assert len({tuple(views) for views in seen[0].values()}) == 3, "three transforms are in use"


def test_weights_swapped_between_folds_are_noticed(work, shelter, paw, refused):
    import timm
    import torch
    from safetensors.torch import save_file

    folder = work / "weights"
    folder.mkdir()
    words = ("train", "--data", shelter, *TOY, "--run", "w", "model.unfrozen=all", f"model.weights={folder}")
    for seed, fold in ((1, 0), (2, 1)):
        torch.manual_seed(seed)
        save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), folder / "test_resnet.safetensors")
        if fold == 0:
            assert paw(*words, "--fold", 0).code == 0
        else:
            assert "its weights had hash" in refused(*words, "--fold", 1)


def test_a_start_that_finished_no_fold_binds_nobody(work, shelter, paw, refused, monkeypatch):
    import pawpularity.training.fold as train

    with monkeypatch.context() as patch:  # undo() would also leave the folder that `work` changed to
        patch.setattr(train, "fit_fold", lambda *a, **k: (_ for _ in ()).throw(UserError("stopped")))
        assert "stopped" in refused("train", "--data", shelter, *TOY, "--fold", 0, "--run", "a")
    assert paw("train", "--data", shelter, *TOY, "--fold", 0, "--run", "a", "train.lr=1e-3").code == 0


def test_a_runs_record_is_not_rewritten(two_runs, paw):
    file = Path("oof/a/config.json")
    record = json.loads(file.read_text()) | {"git_commit": "old"}
    file.write_text(json.dumps(record))
    assert paw("train", "--data", two_runs, *TOY, "--run", "a", "train.seed=0").code == 0
    assert json.loads(file.read_text())["git_commit"] == "old"
    assert "git_commit" in json.loads(Path("oof/a/fold0/metrics.json").read_text())


@pytest.mark.parametrize(
    "word",
    ["train.lr=???", "train.lr=${foo}", "model.weights=${oc.env:HOME}", "model.args={growth_rate:4}", "model.args=[1]",
     ".=3", "train.=3", "train.batch_size=1"],
)  # fmt: skip
def test_words_that_would_be_misread(word):
    with pytest.raises(UserError) as caught:
        resolve("sample", [word])
    assert "\n" not in str(caught.value)


def test_predictor_takes_one_path_and_columns_by_name(two_runs):
    predictor = Predictor.load("oof/a")
    test = pd.read_csv(two_runs / "test.csv", dtype={"Id": str})
    photos = [two_runs / "test" / f"{i}.jpg" for i in test["Id"]]
    assert predictor.predict(str(photos[0])).shape == (1,)
    np.testing.assert_array_equal(predictor.predict(photos, test), predictor.predict(photos, test[test.columns[::-1]]))
    with pytest.raises(UserError, match="no column Eyes"):
        predictor.predict(photos, test.drop(columns="Eyes"))
    with pytest.raises(UserError, match="no photos"):
        predictor.predict([])
    with pytest.raises(UserError, match="0 or 1"):
        predictor.predict(photos[:1], [[np.nan] * 12])
    assert "folds [0, 1]" in repr(predictor)


def test_json_on_standard_output_is_json_alone(two_runs, paw):
    done = paw("train", "--data", two_runs, *TOY, "--run", "a", "--fold", 0, "--json", "-")
    assert json.loads(done.out)["run"] == "a"


def test_predict_takes_the_runs_own_data(work, shelter, paw, refused):
    shutil.copytree(shelter, "mine")
    assert paw("train", "--data", "mine", *TOY, "--run", "m").code == 0
    done = paw("predict", "--run", "m")
    assert "data    mine" in done.err
    assert paw("train", "--data", shelter, *TOY, "--run", "far").code == 0
    assert "name the photos to score with DATA=" in refused("predict", "--run", "far")
    assert not Path("input").exists()
    assert "must end in .csv" in refused("predict", "--run", "m", "--out", "s.json")


def test_places_that_cannot_be_written(two_runs, refused, paw):
    assert "is a folder" in refused("oof", "a", "--json", ".")
    Path("submissions").write_text("")
    assert "submissions" in refused("predict", "--run", "a", "--data", two_runs)
    assert "100 at most" in refused("train", "--data", two_runs, *TOY, "--run", "x" * 300)
    Path("raw").mkdir()
    Path("raw/photo.jpg").write_text("")
    assert "no cache of ours" in refused("clean-cache", "--folder", "raw", "--yes")
    assert Path("raw/photo.jpg").exists()
    assert paw("clean-cache", "--yes").code == 0
    assert not Path(".cache").exists()


def test_a_folder_with_an_odd_name(work, shelter, paw):
    shutil.copytree(shelter, "my fotos é")
    assert paw("train", "--data", "my fotos é", *TOY, "--fold", 0).code == 0
    assert Path("oof/sample-my-fotos").is_dir()


def test_what_a_killed_process_left_is_swept(work, shelter, paw):
    assert paw("train", "--data", shelter, *TOY, "--fold", 0, "--run", "a").code == 0
    Path("oof/a/.fold0.abc.part").mkdir()
    Path("oof/a/.fold0.abc.part/head.safetensors").write_text("half")
    assert paw("train", "--data", shelter, *TOY, "--fold", 0, "--run", "a").code == 0
    assert not list(Path("oof/a").glob(".fold0.*.part"))


def test_another_folds_tail_is_refused(work, shelter, paw):
    """It fits, and has seen the photos it would be scored on."""
    import shutil

    from pawpularity import Predictor
    from pawpularity.errors import UserError

    assert paw("train", "--data", shelter, *TOY, "--run", "t").code == 0
    shutil.copy("oof/t/fold1/head.safetensors", "oof/t/fold0/head.safetensors")
    assert Predictor.load("oof/t", folds=[1]).networks
    with pytest.raises(UserError, match="is not what training fold 0 wrote"):
        Predictor.load("oof/t", folds=[0])


def test_a_cache_in_use_is_not_cleaned(work, shelter, paw, refused):
    from filelock import FileLock

    assert paw("train", "--data", shelter, *TOY, "--fold", 0).code == 0
    lock = next(Path(".cache/trunk").rglob(".lock"))
    with FileLock(lock):
        assert "another process is filling" in refused("clean-cache", "--yes")
    assert lock.is_file()
    assert paw("clean-cache", "--yes").code == 0
    assert not Path(".cache").exists()


def test_flip_at_prediction(work, shelter, paw):
    assert paw("train", "--data", shelter, *TOY, "--run", "f", "predict.flip=true").code == 0
    metrics = json.loads(Path("oof/f/fold0/metrics.json").read_text())
    assert metrics["rmse"] == pytest.approx(metrics["rmse_with_flip"])
    assert metrics["rmse_without_flip"] != metrics["rmse_with_flip"]
    assert paw("predict", "--run", "f", "--data", shelter, "--out", "a.csv").code == 0
    assert paw("predict", "--run", "f", "--data", shelter, "--out", "b.csv", "predict.flip=false").code == 0
    assert Path("a.csv").read_text() != Path("b.csv").read_text()


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (("predict", "--run", "a"), "taken.csv"),
        (("report",), "taken.html"),
        (("coach", "no-such.jpg", "--run", "a"), "taken.csv"),
    ],
)
def test_where_a_result_goes_is_asked_before_the_work(work, refused, words, out):
    """There is no run and no photo, but what is complained of is the place."""
    Path(out).mkdir()
    assert refused(*words, "--out", out) == f"--out {out}: is a folder where a file should be written; name a file"
