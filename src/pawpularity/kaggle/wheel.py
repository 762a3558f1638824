"""The package as a wheel that holds only what a module imports. The same sources give the same bytes.

A wheel is a zip file from which Python imports; unlike a .zip, Kaggle does not unpack it.
"""

import ast
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pawpularity
from pawpularity import __version__
from pawpularity.files import atomic_file

PACKAGE = Path(pawpularity.__file__).resolve().parent
NAME = f"pawpularity-{__version__}-py3-none-any.whl"


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
        due.append(module.rpartition(".")[0])  # importing a module imports the packages around it
    return sorted(found)


def _imports(node: ast.AST) -> Iterator[str]:
    """Modules that the code below `node` imports, but not for type checking alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.ImportFrom):
            yield from (str(child.module), *(f"{child.module}.{name.name}" for name in child.names))
        elif isinstance(child, ast.Import):
            yield from (name.name for name in child.names)
        yield from _imports(child)


def write_wheel(path: Path, files: Iterable[Path]) -> None:
    """Write `files` of the package into a wheel at `path`."""
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            entry = zipfile.ZipInfo(file.relative_to(PACKAGE.parent).as_posix())  # dated 1980
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
