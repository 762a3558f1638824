"""The download against a stand-in for the kaggle command, put first on PATH."""

import io
import os
import stat
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

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
with open(here / "calls", "a") as file:
    file.write(" ".join(words[:-1]) + "\\n")
assert words[:5] == ["competitions", "download", "-c", "{competition}", "-p"], words
said = here / "says"
if said.exists():
    code, _, text = said.read_text().partition(" ")
    print(text, file=sys.stderr)
    sys.exit(int(code))
shutil.copy(here / "archive.zip", pathlib.Path(words[5]) / "{competition}.zip")
"""


def contest(photos: int = 3, *, extra: dict[str, bytes] | None = None, without: tuple[str, ...] = ()) -> bytes:
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
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the stand-in; write `archive.zip` or `says` ("CODE TEXT") there. Credentials are in the environment."""
    place = tmp_path / "bin"
    place.mkdir()
    program = place / "kaggle"
    program.write_text(FAKE.format(python=sys.executable, competition=COMPETITION))
    program.chmod(0o755)
    (place / "archive.zip").write_bytes(contest())
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(
        sys, "executable", str(place / "python")
    )  # a real command beside the tests' own Python stays out
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KAGGLE_CONFIG_DIR", raising=False)
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    monkeypatch.setattr(module, "NEEDED", 1000)
    return place


@pytest.fixture
def refused(kaggle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Download must fail with one line that holds the parts, and leave nothing behind."""

    def run(*parts: str) -> str:
        with pytest.raises(UserError) as caught:
            download(tmp_path / "input" / "data")
        message = str(caught.value)
        for part in parts:
            assert part in message, message
        assert "\n" not in message
        assert SECRET not in message + "".join(capfd.readouterr())
        place = tmp_path / "input"
        assert not place.exists() or not list(place.iterdir())
        return message

    return run


def calls(kaggle: Path) -> int:
    file = kaggle / "calls"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_download(kaggle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "input" / "data"
    download(folder)
    assert len(read_train(folder)) == 3
    assert sorted(path.name for path in (folder / "train").iterdir()) == ["p0.jpg", "p1.jpg", "p2.jpg"]
    assert [path.name for path in (tmp_path / "input").iterdir()] == ["data"]
    assert stat.S_IMODE(folder.stat().st_mode) & 0o500 == 0o500
    assert "3 training photos" in capfd.readouterr().err
    download(folder)
    assert calls(kaggle) == 1
    assert "already" in capfd.readouterr().err


def test_an_empty_folder_is_filled(kaggle: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    download(tmp_path / "data")
    assert len(read_train(tmp_path / "data")) == 3


def test_an_incomplete_folder_is_left_alone(kaggle: Path, tmp_path: Path) -> None:
    download(tmp_path / "data")
    (tmp_path / "data" / "train" / "p1.jpg").unlink()
    with pytest.raises(UserError, match=r"not complete.*train/p1\.jpg: missing.*move it away"):
        download(tmp_path / "data")
    assert (tmp_path / "data" / "train" / "p0.jpg").exists()
    assert calls(kaggle) == 1
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="not complete"):
        download(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_not_installed(
    kaggle: Path, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    refused("kaggle command is not installed", "pip install")


def test_found_beside_python(kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(kaggle / "python"))
    download(tmp_path / "data")
    assert calls(kaggle) == 1


def test_no_credentials(kaggle: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    monkeypatch.delenv("KAGGLE_USERNAME", raising=False)
    (kaggle / "says").write_text("1 OSError: Could not find kaggle.json. Make sure it's located in /home/x/.kaggle")
    refused("no Kaggle credentials", "access_token")


@pytest.mark.parametrize("file", ["access_token", "kaggle.json"])
def test_credentials_in_files_count(
    kaggle: Path, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    (tmp_path / "home" / ".kaggle").mkdir(parents=True)
    (tmp_path / "home" / ".kaggle" / file).write_text(SECRET)
    (kaggle / "says").write_text(f"1 403 Client Error: Forbidden for url ... {SECRET}")
    refused("accept the contest's rules")


@pytest.mark.parametrize(
    ("says", "parts"),
    [
        ("1 403 - Forbidden - You must accept this competition's rules", ("accept the contest's rules",)),
        ("1 403 Client Error: Forbidden", ("Kaggle refuses (403", "accept the contest's rules")),
        ("1 ModuleNotFoundError: No module named 'six'", ("lacks six", "pip install")),
        ("1 401 - Unauthorized", ("401", "new API token")),
        ("1 HTTPSConnectionPool(host='www.kaggle.com'): Max retries exceeded", ("no connection",)),
        ("1 OSError: [Errno 28] No space left on device", ("no disk space",)),
        (f"3 warming up\nsomething odd with {SECRET}\n", ("status 3", "something odd with ***")),
        ("3 ", ("status 3", "it said nothing")),
        ("0 all went well", ("status 0", "all went well")),  # and yet there is no archive
    ],
)
def test_failures_are_explained(kaggle: Path, refused: Callable[..., str], says: str, parts: tuple[str, ...]) -> None:
    (kaggle / "says").write_text(says)
    refused(*parts)


@pytest.mark.parametrize("name", ["../evil", "/evil", "train/../../evil", "a\\..\\evil", "C:evil"])
def test_members_that_lead_out(kaggle: Path, refused: Callable[..., str], tmp_path: Path, name: str) -> None:
    (kaggle / "archive.zip").write_bytes(contest(extra={name: b"x"}))
    refused("leads out of the folder")
    assert not list(tmp_path.rglob("*evil*"))


def test_links_are_refused(kaggle: Path, refused: Callable[..., str]) -> None:
    with zipfile.ZipFile(kaggle / "archive.zip", "a") as zipped:
        link = zipfile.ZipInfo("train/link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(link, "/etc/passwd")
    refused("train/link.jpg", "leads out of the folder")


def test_damaged_archives(kaggle: Path, refused: Callable[..., str]) -> None:
    good = contest()
    (kaggle / "archive.zip").write_bytes(good[: len(good) // 2])
    refused("is damaged")
    (kaggle / "archive.zip").write_bytes(good.replace(b"\xff\xd8\xff", b"\x00\x00\x00", 1))
    refused("is damaged", "CRC")


@pytest.mark.parametrize(
    ("without", "says"),
    [
        (("train.csv",), "train.csv"),
        (("sample_submission.csv",), "sample_submission.csv"),
        (("train/p1.jpg",), "train/p1.jpg: missing"),
        (("test/t.jpg",), "test/ is missing"),
        (("train/p0.jpg", "train/p1.jpg", "train/p2.jpg"), "train/ is missing"),
    ],
)
def test_incomplete_archives(kaggle: Path, refused: Callable[..., str], without: tuple[str, ...], says: str) -> None:
    (kaggle / "archive.zip").write_bytes(contest(without=without))
    refused(says)


def test_disk_space(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEEDED", 10**18)
    refused("no disk space")
