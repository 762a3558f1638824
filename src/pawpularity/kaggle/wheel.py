"""The project's code as a wheel that holds no more than a module needs: what Kaggle imports is what is tested here.

A wheel is a zip file from which Python imports as it is; unlike a .zip, Kaggle leaves it whole. The same sources give the
same bytes.
"""

import ast
import base64
import hashlib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pawpularity
from pawpularity import __version__
from pawpularity.files import atomic_file

PACKAGE = Path(pawpularity.__file__).resolve().parent
NAME = f"pawpularity-{__version__}-py3-none-any.whl"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


def modules_for(*starts: str) -> list[Path]:
    """Files of the package that the modules named `starts` import, in whatever place, and those that these import."""
    found: set[Path] = set()
    due = list(starts)
    while due:
        file = _file(due.pop())
        if file is None or file in found:
            continue
        found.add(file)
        # Importing a module imports the packages around it.
        package = file.parent
        while package != PACKAGE.parent:
            due.append(".".join(package.relative_to(PACKAGE.parent).parts))
            package = package.parent
        due += _imports(file)
    return sorted(found)


def _file(module: str) -> Path | None:
    path = PACKAGE.parent.joinpath(*module.split("."))
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return file
    return None


def _imports(file: Path) -> Iterable[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE.name:
            yield str(node.module)
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.partition(".")[0] == PACKAGE.name)


def write_wheel(path: Path, files: Iterable[Path]) -> None:
    """Write `files` of the package into a wheel at `path`."""
    contents = {file.relative_to(PACKAGE.parent).as_posix(): file.read_bytes() for file in files}
    info = f"pawpularity-{__version__}.dist-info"
    about = "Metadata-Version: 2.1\nName: pawpularity\nSummary: the part of pawpularity that predicts\n"
    contents[f"{info}/METADATA"] = f"{about}Version: {__version__}\n".encode()
    contents[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: pawpularity\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in contents.items()]
    contents[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
