"""What the oracles share: one thread, a toy sample, runs trained on it once, and the expected figures."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from tests.oracles import adapter

EXPECTED = Path(__file__).with_name("expected.json")
RECORD = "ORACLES_RECORD"
"""Environment variable: a file to which figures are added, instead of being compared (see write.py)."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Figures are of one thread: with more, sums have another order."""
    import torch

    threads, word = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    yield
    torch.set_num_threads(threads)
    del os.environ["OMP_NUM_THREADS"]
    if word is not None:
        os.environ["OMP_NUM_THREADS"] = word


@pytest.fixture(scope="session")
def expected():
    """`expected(name, value, within=0.1)`: the figure is as it was written. `within` counts only when it is written.

    `optional`: a figure that was never written, as on other libraries, passes.
    """
    known = json.loads(EXPECTED.read_text())["figures"] if EXPECTED.is_file() else {}
    record = os.environ.get(RECORD)

    def check(name: str, value, within: float = 0.0, optional=False) -> None:
        if record:
            with Path(record).open("a") as file:
                file.write(json.dumps([name, {"value": value, "within": within}]) + "\n")
            return
        if optional and name not in known:
            return
        due = known[name]
        assert value == (pytest.approx(due["value"], abs=due["within"]) if due["within"] else due["value"]), name

    return check


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Path:
    """60 drawn photos of 64 px."""
    return adapter.draw_sample(tmp_path_factory.mktemp("sample") / "toy", photos=60, size=64, seed=3, pairs=1)


@pytest.fixture(scope="session")
def trained(sample, tmp_path_factory) -> Path:
    """A checkout with two runs on the toy sample: `whole` (all trained) and `frozen` (cached features, scored with flip)."""
    place = adapter.checkout(tmp_path_factory.mktemp("trained") / "checkout")
    adapter.done(*adapter.training("whole", sample, *adapter.TOY), at=place)
    frozen = ("model.weights=drawn", "model.unfrozen=21", "train.frozen_bn=true", "predict.flip=true")
    adapter.done(*adapter.training("frozen", sample, *adapter.TOY, *frozen), at=place)
    return place


@pytest.fixture
def work(tmp_path) -> Path:
    """An empty checkout."""
    return adapter.checkout(tmp_path / "work")


@pytest.fixture(scope="session")
def peers(real) -> dict[str, pd.DataFrame]:
    """The eight real out-of-fold files, rows by Id; the same rows and folds in all."""
    files = sorted((real / "oof-peers").glob("*.csv"))
    return {file.stem: pd.read_csv(file, dtype={"Id": str}).sort_values("Id", ignore_index=True) for file in files}


@pytest.fixture(scope="session")
def mean_of_eight(peers) -> pd.DataFrame:
    """The mean of the eight."""
    first = next(iter(peers.values()))
    return first.assign(prediction=sum(table["prediction"] for table in peers.values()) / len(peers))
