"""The package as a wheel that holds only what a module imports.

A wheel is a zip file from which Python imports; unlike a .zip, Kaggle does not unpack it. The same sources give the same bytes.
"""

import ast
import base64
import hashlib
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pawpularity
from pawpularity import __version__
from pawpularity.files import atomic_file

PACKAGE = Path(pawpularity.__file__).resolve().parent
NAME = f"pawpularity-{__version__}-py3-none-any.whl"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def modules_for(start: str) -> list[Path]:
    """Files of the package that the module `start` imports, anywhere in its code, and those that these import."""
    found: set[Path] = set()
    due = [start]
    while due:
        module = due.pop()
        path = PACKAGE.parent.joinpath(*module.split("."))
        file = next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)
        if file is None or file in found:
            continue
        found.add(file)
        due += _imports(ast.parse(file.read_text(encoding="utf-8")))
        if "." in module:
            due.append(module.rpartition(".")[0])  # importing a module imports the packages around it
    return sorted(found)


def _imports(node: ast.AST) -> Iterator[str]:
    """Modules of the package that the code below `node` imports, but not for type checking alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        names: list[str] = []
        if isinstance(child, ast.ImportFrom) and child.module:
            names = [child.module, *(f"{child.module}.{name.name}" for name in child.names)]
        elif isinstance(child, ast.Import):
            names = [name.name for name in child.names]
        yield from (name for name in names if name.partition(".")[0] == PACKAGE.name)
        yield from _imports(child)


def write_wheel(path: Path, files: Iterable[Path]) -> None:
    """Write `files` of the package into a wheel at `path`."""
    contents = {file.relative_to(PACKAGE.parent).as_posix(): file.read_bytes() for file in files}
    info = f"pawpularity-{__version__}.dist-info"
    contents[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: pawpularity\nVersion: {__version__}\n".encode()
    contents[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: pawpularity\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = [f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in contents.items()]
    contents[f"{info}/RECORD"] = "".join([*record, f"{info}/RECORD,,\n"]).encode()
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
