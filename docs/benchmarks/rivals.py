"""Train what a user would pick instead on the same rows and folds, and compare: docs/benchmarks/rivals-cpu.csv.

    python3.11 -m venv rivals
    rivals/bin/pip install autogluon.multimodal==1.6.3 fastai==2.8.12 torch==2.12.1 torchvision==0.27.1
    python docs/benchmarks/rivals.py rivals/bin/python DATA [METHOD ...] > rivals-cpu.csv

The last line is for the project's own environment, in the repository's folder. DATA: a folder in Kaggle's layout, or input/sample.
METHOD: some of autogluon, fastai, lite0, photos, ridge, mean (default: all; mean needs lite0 and ridge). What has run is kept below
rivals-DATA/ and oof/, and not run again. FOLDS=N: the rivals train the first N folds only. EPOCHS=N: AutoGluon's max_epochs.

All start from one file of ImageNet weights (EfficientNet-Lite0), see 224 pixels, train on four folds and predict the fifth, on one
thread. The rivals choose on our inner split, a tenth of the training rows, never on the scored fold. The table holds the folds
that all have. `cpu_a_fold`: processor time from photo files to predictions, caches empty; ours is a fifth of all five folds'.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

NETWORK, SIZE, SEED = "tf_efficientnet_lite0", 224, 0
FOLDS, EPOCHS = (int(os.environ.get(name, usual)) for name, usual in (("FOLDS", "5"), ("EPOCHS", "20")))
RIVALS = ("autogluon", "fastai")
SEES = {"fastai": "photos alone", "photos": "photos alone"}
TRAIN = "train --config lite0 --data {data} --run {out}-{method} cache.folder={out}/{method}"
OWN = {
    "lite0": TRAIN,
    "photos": TRAIN + " model.metadata=none",
    "ridge": "heads --config lite0 --data {data} --metadata use --run {out} cache.folder={out}/ridge",
    "mean": "ensemble {out}-lite0 {ridge} --method mean --run {out}-mean",
}


def read_rows(path: Path) -> pd.DataFrame:
    """A CSV with Ids."""
    return pd.read_csv(path, dtype={"Id": str})


# In the rivals' environment.


def checked(create_model: Callable[..., Any]) -> Callable[..., Any]:
    """timm's create_model, which stops unless all that it loaded equals the weights file."""
    from huggingface_hub import hf_hub_download
    from safetensors.torch import load_file

    def create(*args: Any, pretrained: bool = False, **more: Any) -> Any:
        net = create_model(*args, pretrained=pretrained, **more)
        if pretrained:
            file = load_file(hf_hub_download(f"timm/{NETWORK}.in1k", "model.safetensors"))
            body = {name: value for name, value in net.state_dict().items() if not name.startswith("classifier")}
            assert all(bool((file[name] == value).all()) for name, value in body.items()), "other weights"
            print(f"{len(body)} tensors equal the file's", file=sys.stderr)
        return net

    return create


def autogluon(train: pd.DataFrame, inner: pd.DataFrame, scored: pd.DataFrame) -> tuple[Any, int]:
    """AutoGluon MultiModal's defaults on photo and metadata: predictions, epochs."""
    from autogluon.multimodal import MultiModalPredictor
    from autogluon.multimodal.models import timm_image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    timm_image.create_model = checked(timm_image.create_model)
    settings = {"model.names": ["ft_transformer", "timm_image", "fusion_mlp"],
                "model.timm_image.checkpoint_name": NETWORK, "optim.max_epochs": EPOCHS}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        learner = MultiModalPredictor(label="target", problem_type="regression", path=folder + "/run", verbosity=2)
        learner.fit(train, tuning_data=inner, hyperparameters=settings, column_types={"photo": "image_path"}, seed=SEED)
        curves = EventAccumulator(str(next(Path(folder).rglob("events.out*")).parent)).Reload()
        epochs = int(max(point.value for point in curves.Scalars("epoch"))) + 1
        return learner.predict(scored.drop(columns="target")).to_numpy(), epochs


def fastai(train: pd.DataFrame, inner: pd.DataFrame, scored: pd.DataFrame) -> tuple[Any, int]:
    """fastai's vision_learner and fine_tune(10) on photos alone: predictions, epochs (the first with a frozen body)."""
    import timm
    from fastai.vision import all as vision

    timm.create_model = checked(timm.create_model)
    vision.set_seed(SEED, reproducible=True)
    rows = pd.concat([train.assign(valid=False), inner.assign(valid=True)], ignore_index=True)
    data = vision.ImageDataLoaders.from_df(
        rows, path="/", fn_col="photo", label_col="target", valid_col="valid", y_block=vision.RegressionBlock(), bs=32,
        item_tfms=vision.Resize(SIZE), batch_tfms=vision.aug_transforms(), num_workers=0,
    )  # fmt: skip
    learner = vision.vision_learner(data, NETWORK, y_range=(1, 100), metrics=vision.rmse)
    with learner.no_bar():
        learner.fine_tune(10)
        return learner.get_preds(dl=data.test_dl(scored))[0].numpy().ravel(), 11


def rival(method: str, rows: Path, fold: int, out: Path) -> None:
    """Train one rival for one fold of `rows`: predictions as out.csv, seconds and epochs as out.json."""
    frame = read_rows(rows)
    inner, scored = frame[f"inner{fold}"] == 1, frame["fold"] == fold
    names = [name for name in frame if name not in ("Id", "fold", "group") and not name.startswith("inner")]
    started = time.perf_counter()
    found, epochs = globals()[method](frame[~scored & ~inner][names], frame[inner][names], frame[scored][names])
    about = {
        "seconds": time.perf_counter() - started,
        "epochs": epochs,
        "max_epochs": EPOCHS if method == "autogluon" else 11,
    }
    Path(f"{out}.json").write_text(json.dumps(about))
    frame.loc[scored, ["Id", "fold", "target"]].assign(prediction=found).to_csv(f"{out}.csv", index=False)


# In the project's environment.


def write_rows(data: Path, out: Path) -> Path:
    """Rows for the rivals: photo, metadata, target, fold, group, inner splits. The weights go where huggingface_hub looks."""
    from pawpularity.context import context
    from pawpularity.data.folds import inner_split
    from pawpularity.data.tables import ID, METADATA, TARGET
    from pawpularity.models.weights import find_weights

    chosen = context("lite0", str(data))
    photos = [str(path.resolve()) for path in chosen.dataset.paths]
    table = chosen.dataset.train.assign(photo=photos).sort_values(ID, ignore_index=True)
    rows = table[[ID, "photo", *METADATA]].assign(target=table[TARGET].astype(float))
    rows = rows.merge(chosen.folds.frame, on=ID)
    for fold in range(chosen.folds.k):
        training = rows[rows["fold"] != fold]
        inner = inner_split(training["group"], training["target"], seed=SEED * 1009 + fold)[1]
        rows[f"inner{fold}"] = rows.index.isin(training.index[inner]).astype(int)
    weights = find_weights(f"{NETWORK}.in1k", "imagenet")
    assert weights is not None
    cache = out / f"hub/models--timm--{NETWORK}.in1k"
    for name, content in (("refs/main", b"0"), ("snapshots/0/model.safetensors", weights.read_bytes())):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(content)
    rows.to_csv(out / "rows.csv", index=False)
    return out / "rows.csv"


def ridge_run(data: Path, out: Path) -> str:
    """The run that our ridge makes; the others are called OUT-METHOD."""
    from pawpularity.context import data_suffix

    return f"{out}-{NETWORK}.in1k-meta{data_suffix(data)}"


def measure(command: list[str], name: str) -> None:
    """Run a command once: name.log; wall and processor seconds, peak memory (GB) and load before as name-cost.json."""
    if Path(f"{name}-cost.json").exists():
        return
    hub = Path(name).parent.resolve() / "hub"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub)}
    started, load = time.perf_counter(), os.getloadavg()[0]
    with Path(f"{name}.log").open("w") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        _, status, used = os.wait4(child.pid, 0)
    assert status == 0, f"see {name}.log: {' '.join(command)}"
    wall, cpu = time.perf_counter() - started, used.ru_utime + used.ru_stime
    cost = {"wall": wall, "cpu": cpu, "gb": used.ru_maxrss / 1e6, "load": load}
    Path(f"{name}-cost.json").write_text(json.dumps(cost))


def costs(method: str, out: Path, folds: list[int]) -> dict[str, object]:
    """What a fold cost, on average."""
    parts = {"mean": ("lite0", "ridge", "mean")}.get(method, (method,))
    names = [f"{method}-fold{fold}" for fold in folds] if method in RIVALS else list(parts)
    found = pd.DataFrame([json.loads((out / f"{name}-cost.json").read_text()) for name in names])
    of = len(folds) if method in RIVALS else 5
    note = SEES.get(method, "photos and metadata")
    if method in RIVALS:
        fits = pd.DataFrame([json.loads((out / f"{name}.json").read_text()) for name in names])
        note += f"; epochs {', '.join(map(str, fits['epochs']))} of at most {fits['max_epochs'].max()}"
        note += f"; {found['cpu'].sum() / fits['epochs'].sum():.0f} CPU s an epoch"
        note += " (default: 20 epochs)" if method == "autogluon" else ""
    return {"wall_a_fold": round(found["wall"].sum() / of, 1), "cpu_a_fold": round(found["cpu"].sum() / of, 1),
            "peak_gb": round(found["gb"].max(), 1), "load": round(found["load"].mean(), 1), "note": note}  # fmt: skip


def results(data: Path, out: Path) -> Iterator[dict[str, object]]:
    """A row for each method that has run, on the folds that all have, by the project's own evaluation."""
    from pawpularity.evaluation.compare import compare
    from pawpularity.evaluation.metrics import evaluate
    from pawpularity.runs import machine

    runs = {one: f"oof/{ridge_run(data, out) if one == 'ridge' else f'{out}-{one}'}/oof.csv" for one in OWN}
    files = {one: sorted(Path().glob(runs.get(one, f"{out}/{one}-fold*.csv"))) for one in (*RIVALS, *OWN)}
    read = {one: pd.concat(map(read_rows, paths)) for one, paths in files.items() if paths}
    folds = sorted(set.intersection(*(set(frame["fold"]) for frame in read.values())))
    rows = read_rows(out / "rows.csv")
    constant = rows["fold"].map({fold: rows.loc[rows["fold"] != fold, "target"].mean() for fold in folds})
    rows = rows.assign(constant=constant)[rows["fold"].isin(folds)]
    target, group = rows["target"].to_numpy(), rows["group"].to_numpy()
    found = {one: rows[["Id"]].merge(frame, on="Id")["prediction"].to_numpy() for one, frame in read.items()}
    about = machine()
    for method, values in found.items():
        score = evaluate(target, values, rows["constant"].to_numpy(), group)
        row: dict[str, object] = {"data": data.name, "method": method, "folds": len(folds), "n": score.n}
        row |= {key: f"{getattr(score, key):.2f}" for key in ("rmse", "low", "high", "constant_rmse")}
        for other in RIVALS:
            row[f"minus_{other}"] = ""
            if other in found and other != method:
                one = compare(target, found[other], [(method, values)], group)[0]
                row[f"minus_{other}"] = f"{one.difference:+.2f} [{one.low:+.2f}, {one.high:+.2f}]"
        yield row | costs(method, out, folds) | {"machine": f"{about['processor']}, {about['cores']} cores"}


def main(python: str, folder: str, *chosen: str) -> None:
    """Run what has not run, and print the table."""
    data = Path(folder)
    out = Path(f"rivals-{data.name}")
    out.mkdir(exist_ok=True)
    rows = out / "rows.csv"
    if not rows.exists():
        write_rows(data, out)
    words = {"data": data, "out": out, "ridge": ridge_run(data, out)}
    for method in chosen or (*RIVALS, *OWN):
        for fold in range(FOLDS if method in RIVALS else 0):
            name = f"{out}/{method}-fold{fold}"
            measure([python, __file__, method, str(rows), str(fold), name], name)
        if method in OWN:
            command = [word.format(method=method, **words) for word in OWN[method].split()]
            measure([sys.executable, "-m", "pawpularity", *command], f"{out}/{method}")
    table = list(results(data, out))
    writer = csv.DictWriter(sys.stdout, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)


if __name__ == "__main__":
    if sys.argv[1] in RIVALS:
        rival(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    else:
        main(*sys.argv[1:])
