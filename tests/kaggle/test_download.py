"""`data` against a stand-in for the kaggle command, put first on PATH."""

import io
import os
import stat
import sys
import zipfile

import pytest
from PIL import Image

from pawpularity.data.tables import ID, METADATA, TARGET, read_train
from pawpularity.errors import UserError
from pawpularity.kaggle import download as module
from pawpularity.kaggle.download import download
from pawpularity.kaggle.kaggle_cli import COMPETITION

SECRET = "0123456789abcdef0123456789abcdef"

# Checks its words, notes that it ran, and plays what the test laid beside it.
FAKE = """#!{python}
import os, pathlib, shutil, sys
here = pathlib.Path(__file__).parent
words = sys.argv[1:]
(here / "called").touch()
assert words[:5] == ["competitions", "download", "-c", "{competition}", "-p"], words
said = here / "says"
if said.exists():
    code, _, text = said.read_text().partition(" ")
    print(text, file=sys.stderr)
    sys.exit(int(code))
shutil.copy(here / "archive.zip", pathlib.Path(words[5]) / "{competition}.zip")
"""


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
        for name, data in (files | (extra or {})).items():
            if name not in without:
                zipped.writestr(name, data)
    return out.getvalue()


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """Folder of the stand-in; write `archive.zip` or `says` ("CODE TEXT") there. Credentials are in the environment."""
    place = tmp_path / "bin"
    place.mkdir()
    program = place / "kaggle"
    program.write_text(FAKE.format(python=sys.executable, competition=COMPETITION))
    program.chmod(0o755)
    (place / "archive.zip").write_bytes(contest())
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    # A real command beside the tests' own Python stays out.
    monkeypatch.setattr(sys, "executable", str(place / "python"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KAGGLE_CONFIG_DIR", raising=False)
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    monkeypatch.setattr(module, "NEEDED", 1000)
    return place


@pytest.fixture
def refused(kaggle, tmp_path, capfd):
    """Download must fail with one line that holds `part`, and leave nothing behind."""

    def run(part):
        with pytest.raises(UserError) as caught:
            download(tmp_path / "input" / "data")
        assert part in str(caught.value)
        assert SECRET not in str(caught.value) + "".join(capfd.readouterr())
        place = tmp_path / "input"
        assert not place.exists() or not list(place.iterdir())

    return run


def test_download(kaggle, tmp_path):
    folder = tmp_path / "input" / "data"
    folder.mkdir(parents=True)  # an empty folder is filled
    download(folder)
    assert len(read_train(folder)) == 3
    assert sorted(path.name for path in (folder / "train").iterdir()) == ["p0.jpg", "p1.jpg", "p2.jpg"]
    assert [path.name for path in (tmp_path / "input").iterdir()] == ["data"]
    (kaggle / "called").unlink()
    download(folder)
    assert not (kaggle / "called").exists(), "it is there already"
    (folder / "train" / "p1.jpg").unlink()
    with pytest.raises(UserError, match="not complete"):
        download(folder)
    assert (folder / "train" / "p0.jpg").exists()
    assert not (kaggle / "called").exists()


def test_no_credentials(kaggle, refused, monkeypatch):
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    monkeypatch.delenv("KAGGLE_USERNAME", raising=False)
    (kaggle / "says").write_text("1 OSError: Could not find kaggle.json. Make sure it's located in /home/x/.kaggle")
    refused("access_token")


@pytest.mark.parametrize(
    ("says", "part"),
    [
        ("1 403 - Forbidden - You must accept this competition's rules", "accept the contest's rules"),
        (f"1 403 Client Error: Forbidden {SECRET}", "accept the contest's rules"),
        ("1 401 - Unauthorized", "API token"),
        ("1 HTTPSConnectionPool(host='www.kaggle.com'): Max retries exceeded", "no connection"),
        ("1 OSError: [Errno 28] No space left on device", "no disk space"),
        (f"3 warming up\nsomething odd with {SECRET}\n", "something odd with ***"),
        ("0 all went well", "all went well"),  # and yet there is no archive
    ],
)
def test_failures_are_explained(kaggle, refused, says, part):
    (kaggle / "says").write_text(says)
    refused(part)


@pytest.mark.parametrize("name", ["../evil", "/evil", "train/../../evil", "a\\..\\evil", "C:evil", "link"])
def test_members_that_lead_out(kaggle, refused, tmp_path, name):
    with zipfile.ZipFile(kaggle / "archive.zip", "a") as zipped:
        member = zipfile.ZipInfo(name)
        if name == "link":
            member.external_attr = (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(member, "/etc/passwd")
    refused("leads out of the folder")
    assert not list(tmp_path.rglob("*evil*"))


def test_damaged_archives(kaggle, refused):
    good = contest()
    for bad in (good[: len(good) // 2], good.replace(b"\xff\xd8\xff", b"\x00\x00\x00", 1)):
        (kaggle / "archive.zip").write_bytes(bad)
        refused("is damaged")


@pytest.mark.parametrize(
    ("without", "part"),
    [
        (("train.csv",), "train.csv"),
        (("sample_submission.csv",), "sample_submission.csv"),
        (("train/p1.jpg",), "p1.jpg"),
        (("test/t.jpg",), "test/"),
    ],
)
def test_incomplete_archives(kaggle, refused, without, part):
    (kaggle / "archive.zip").write_bytes(contest(without=without))
    refused(part)
