"""What goes up to Kaggle: a valid submission whatever the photos are, and the scores that predict gives."""

import shutil
import subprocess
import sys
import zlib

import numpy as np
import pandas as pd
import pytest
from tests.oracles import adapter

ALONE = ("unshare", "--map-root-user", "--net")


@pytest.fixture(scope="module")
def built(trained, sample):
    """The bundle of both runs, and their blend for predict."""
    adapter.blend(["whole", "frozen"], trained, "uploaded", "mean", draws=100)
    return adapter.build_kernel(trained, ["uploaded"])


def contest(folder, sample, damage):
    """A contest folder with 16 photos to score; `damage` gives what stands in the place of the last ones."""
    table = pd.read_csv(sample / "train.csv", dtype={"Id": str})[:16]
    (folder / "test").mkdir(parents=True)
    for name in table["Id"]:
        shutil.copy(sample / "train" / f"{name}.jpg", folder / "test")
    for name, change in zip(table["Id"][::-1], damage, strict=False):
        photo = folder / "test" / f"{name}.jpg"
        data = photo.read_bytes()
        photo.unlink()
        change(photo, data)
    table.drop(columns="Pawpularity").to_csv(folder / "test.csv", index=False)
    table.assign(Pawpularity=50)[["Id", "Pawpularity"]].to_csv(folder / "sample_submission.csv", index=False)
    return table


def png_of_gigapixels() -> bytes:
    """A header that promises 60,000 x 60,000 pixels."""
    body = b"IHDR" + (60_000).to_bytes(4) * 2 + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)


BROKEN = (
    lambda photo, data: None,
    lambda photo, data: photo.write_bytes(b""),
    lambda photo, data: photo.write_bytes(data[: len(data) // 2]),
    lambda photo, data: photo.write_text("no photo"),
    lambda photo, data: photo.write_bytes(png_of_gigapixels()),
    lambda photo, data: photo.mkdir(),
    lambda photo, data: photo.symlink_to("nowhere.jpg"),
)


def valid(table, ids):
    """Every Id once, in its order, numbers from 1 to 100."""
    assert list(table.columns) == ["Id", "Pawpularity"]
    assert table["Id"].tolist() == list(ids)
    assert table["Pawpularity"].between(1, 100).all()


def by_hand(trained, sample, table):
    """The mean of both runs' scores of sound photos."""
    photos = np.stack([adapter.pixels(sample / "train" / f"{name}.jpg", 32) for name in table["Id"]])
    metadata = table.drop(columns=["Id", "Pawpularity"]).to_numpy(np.float32)
    return np.mean([adapter.predict_pixels(trained, name, photos, metadata) for name in ("whole", "frozen")], axis=0)


def test_a_valid_submission_whatever_the_photos_are(built, trained, sample, tmp_path):
    table = contest(tmp_path / "contest", sample, BROKEN)
    code, found, said = adapter.run_kernel(built, tmp_path / "contest", tmp_path / "kaggle")
    assert code == 0, said
    valid(found, table["Id"])
    sound = len(table) - len(BROKEN)
    assert found["Pawpularity"][:sound].to_numpy() == pytest.approx(by_hand(trained, sample, table[:sound]), abs=1e-4)


def test_a_valid_submission_of_broken_photos_alone(built, sample, tmp_path):
    table = contest(tmp_path / "contest", sample, [BROKEN[3]] * 16)
    code, found, said = adapter.run_kernel(built, tmp_path / "contest", tmp_path / "kaggle")
    assert code == 0, said
    valid(found, table["Id"])


@pytest.mark.slow
def test_without_a_network_the_kernel_answers_as_predict_does(built, trained, sample, tmp_path):
    if not shutil.which("unshare") or subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no network namespace")
    out = [*ALONE, sys.executable, "-c", "import socket; socket.create_connection(('192.0.2.1', 80), 5)"]
    assert "unreachable" in subprocess.run(out, capture_output=True, text=True).stderr
    table = contest(tmp_path / "contest", sample, ())
    code, found, said = adapter.run_kernel(built, tmp_path / "contest", tmp_path / "kaggle", before=ALONE)
    assert code == 0, said
    valid(found, table["Id"])
    due = adapter.submission(trained, "uploaded", tmp_path / "contest")
    assert due["Id"].tolist() == found["Id"].tolist()
    assert found["Pawpularity"].to_numpy() == pytest.approx(due["Pawpularity"].to_numpy(), abs=1e-4)
    assert due["Pawpularity"].to_numpy() == pytest.approx(by_hand(trained, sample, table), abs=1e-4)
    assert due["Pawpularity"].std() > 0.05


@pytest.mark.slow
def test_the_check_of_a_built_kernel_sees_no_difference(built, trained):
    found = adapter.check_kernel(trained, photos=12)
    assert found["difference"] <= 1e-4
    assert found["broken"] > 0
