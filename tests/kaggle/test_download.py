"""`data` against a server in Kaggle's place."""

import io
import zipfile

import pytest
from PIL import Image
from tests.kaggle.conftest import KEY

from pawpularity.data.tables import ID, METADATA, TARGET, read_train
from pawpularity.errors import UserError
from pawpularity.kaggle import download as module
from pawpularity.kaggle.download import data


def contest(photos=3, *, extra=None, without=()):
    jpeg = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(jpeg, "JPEG")
    names = [f"p{i}" for i in range(photos)]
    header = ",".join([ID, *METADATA])
    files = {f"train/{name}.jpg": jpeg.getvalue() for name in names} | {"test/t.jpg": jpeg.getvalue()}
    files["train.csv"] = "\n".join([f"{header},{TARGET}", *(f"{n}{',0' * 12},50" for n in names)]).encode()
    files["test.csv"] = f"{header}\nt{',0' * 12}\n".encode()
    files["sample_submission.csv"] = f"{ID},{TARGET}\nt,1\n".encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as zipped:
        for name, content in (files | (extra or {})).items():
            if name not in without:
                zipped.writestr(name, content)
    return out.getvalue()


@pytest.fixture
def kaggle(kaggle, monkeypatch):
    kaggle.archive = contest()
    monkeypatch.setattr(module, "NEEDED", 1000)
    return kaggle


@pytest.fixture
def refused(kaggle, tmp_path, capfd):
    """Download must fail with one line that holds `part`, and leave nothing behind."""

    def run(part):
        with pytest.raises(UserError) as caught:
            data(into=str(tmp_path / "input" / "data"))
        assert part in str(caught.value)
        assert KEY not in str(caught.value) + "".join(capfd.readouterr())
        place = tmp_path / "input"
        assert not place.exists() or not list(place.iterdir())

    return run


def test_download(kaggle, tmp_path, paw):
    folder = tmp_path / "input" / "data"
    folder.mkdir(parents=True)  # an empty folder is filled
    outcome = paw("data", "--into", folder)
    assert outcome.code == 0, outcome.err
    assert len(read_train(folder)) == 3
    assert sorted(path.name for path in (folder / "train").iterdir()) == ["p0.jpg", "p1.jpg", "p2.jpg"]
    assert [path.name for path in (tmp_path / "input").iterdir()] == ["data"]
    asked = kaggle.asked.total()
    data(into=str(folder))
    assert kaggle.asked.total() == asked, "it is there already"
    (folder / "train" / "p1.jpg").unlink()
    with pytest.raises(UserError, match="not complete"):
        data(into=str(folder))
    assert (folder / "train" / "p0.jpg").exists()
    assert kaggle.asked.total() == asked


@pytest.mark.parametrize(
    ("code", "text", "part"),
    [
        (403, "You must accept this competition's rules", "/rules"),
        (403, f"Forbidden {KEY}", "/rules"),
        (403, "", "/rules"),
        (401, "Unauthenticated", "token"),
        (404, "something odd", "something odd"),
    ],
)
def test_refusals_are_explained(kaggle, refused, code, text, part):
    from tests.kaggle.fake_kaggle import Fault

    kaggle.faults["DownloadDataFiles"] = [Fault(code, text)]
    refused(part)


def test_no_connection_is_asked_again_and_then_said(kaggle, refused, clock):
    kaggle.faults["DownloadDataFiles"] = ["cut"] * 99
    refused("no certain answer")
    assert len(clock.waited) >= 2


def test_damaged_archives(kaggle, refused):
    good = kaggle.archive
    for bad in (good[: len(good) // 2], good.replace(b"\xff\xd8\xff", b"\x00\x00\x00", 1)):
        kaggle.archive = bad
        refused("is damaged")


@pytest.mark.parametrize(
    ("without", "part"),
    [
        ("train.csv", "train.csv"),
        ("sample_submission.csv", "sample_submission.csv"),
        ("train/p1.jpg", "p1.jpg"),
        ("test/t.jpg", "test/"),
    ],
)
def test_incomplete_archives(kaggle, refused, without, part):
    kaggle.archive = contest(without=[without])
    refused(part)
