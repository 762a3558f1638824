"""The package as a wheel: a zip file from which Python imports, and which Kaggle, unlike a .zip, does not unpack."""

import zipfile
from pathlib import Path

import pawpularity
from pawpularity import __version__
from pawpularity.files import atomic_file

PACKAGE = Path(pawpularity.__file__).resolve().parent
NAME = f"pawpularity-{__version__}-py3-none-any.whl"


def write_wheel(path: Path, *, pretrained: bool = False) -> None:
    """Write the package's modules, and with `pretrained` its tensors, into a wheel. The same sources give the same bytes."""
    files = sorted(
        file for file in PACKAGE.rglob("*") if file.suffix == ".py" or (pretrained and file.parent.name == "pretrained")
    )
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in filter(Path.is_file, files):
            entry = zipfile.ZipInfo(file.relative_to(PACKAGE.parent).as_posix())  # dated 1980
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
