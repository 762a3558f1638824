"""What is pushed: a built data set and the kernel that reads it, checked before anything leaves this machine.

kernels/build/{dataset,kernel}/                the inference kernel (make kernel)
kernels/build/train/NAME/{dataset,kernel}/     a training kernel (make kernel-train)
kernels/pushed/NAME.json                       what Kaggle got of it, and when it is ready: kept beside the builds
"""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pawpularity.config import CONFIGS
from pawpularity.errors import UserError
from pawpularity.files import file_hash, read_json, text_hash, write_json
from pawpularity.kaggle import wheel
from pawpularity.kaggle.contents import BUNDLE, SUMS, open_bundle
from pawpularity.kaggle.kaggle_cli import COMPETITION

BUILD = Path("kernels/build")
ACCELERATOR = "NvidiaTeslaT4"
# Kaggle's default GPU, the P100, is one that the torch of Kaggle's own image cannot compute on any more.
_NO_DATA = ("dataset-metadata.json", "kernel-metadata.json")


@dataclass(frozen=True)
class Pair:
    """A built data set and its kernel."""

    name: str
    """`inference`, or `train-RUN`"""
    dataset: Path
    kernel: Path
    record_file: Path
    remedy: str
    """the command that builds it"""

    @property
    def name_word(self) -> str:
        """What a make line must add to mean this pair."""
        return "" if self.inference else f" NAME={self.name}"

    @property
    def inference(self) -> bool:
        """Whether it is the kernel that answers the contest."""
        return self.name == "inference"

    def record(self) -> dict[str, Any]:
        """What is known of it on Kaggle; {} if it was never pushed."""
        if not self.record_file.is_file():
            return {}
        found = read_json(self.record_file, "push")
        if not isinstance(found, dict):
            raise UserError(f"{self.record_file}: is not what was written there; delete it and push again")
        return found

    def keep(self, record: Mapping[str, Any]) -> None:
        """Remember it."""
        write_json(self.record_file, dict(record))

    @property
    def files(self) -> list[Path]:
        """What the data set uploads, in name order; Kaggle's command leaves the metadata out."""
        return sorted(path for path in self.dataset.iterdir() if path.name not in _NO_DATA)

    def dataset_hash(self) -> str:
        """12 hex digits over names and bytes of everything in the data set's folder."""
        return _folder_hash(self.dataset)

    def kernel_hash(self) -> str:
        """12 hex digits over the script and its metadata."""
        return _folder_hash(self.kernel)


def pair_of(name: str, build: Path = BUILD) -> Pair:
    """The built folders of `inference` or `train-RUN`. Raises UserError where they are not built."""
    train = name.removeprefix("train-") if name.startswith("train-") else None
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or (train is None and name != "inference"):
        raise UserError(f'--name "{name[:80]}": must be inference, or train-RUN for a training kernel')
    root = build if train is None else build / "train" / train
    remedy = (
        'make kernel RUNS="..." KAGGLE_USER=you'
        if train is None
        else f"make kernel-train CONFIG=... RUN={train} KAGGLE_USER=you"
    )
    pair = Pair(name, root / "dataset", root / "kernel", build.parent / "pushed" / f"{name}.json", remedy)
    for folder, file in ((pair.dataset, "dataset-metadata.json"), (pair.kernel, "kernel-metadata.json")):
        if not (folder / file).is_file():
            raise UserError(f"{folder / file}: is not built yet; run: {remedy}")
    return pair


@dataclass(frozen=True)
class Names:
    """What the pair is called on Kaggle."""

    user: str
    dataset: str
    """USER/SLUG"""
    kernel: str
    """USER/SLUG"""

    @property
    def kernel_url(self) -> str:
        """The kernel's page."""
        return f"https://www.kaggle.com/code/{self.kernel}"

    @property
    def dataset_url(self) -> str:
        """The data set's page."""
        return f"https://www.kaggle.com/datasets/{self.dataset}"


def check_user(name: str) -> str:
    """`name` if it can be a Kaggle user's. Raises UserError."""
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9_-]{0,48}[a-z0-9])?", name):
        raise UserError(
            f'KAGGLE_USER "{name[:60]}": is no Kaggle user name (small letters, digits, "-"); it stands in the address of '
            "your profile, www.kaggle.com/NAME"
        )
    return name


def slug_of(title: str) -> str:
    """The address that Kaggle makes of a title: small letters and digits, joined by dashes."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def check_pair(pair: Pair, user: str | None) -> Names:
    """The pair's names on Kaggle, after everything was looked at that Kaggle's command passes over in silence.

    `user`: who pushes, if it was said. Raises UserError for an unknown user, names that Kaggle would change, a data set that
    the kernel does not ask for, subfolders, a bundle that was changed since it was built, and a kernel that is public, asks
    for no T4 or, for inference, leaves the internet on.
    """
    dataset, data_file = _metadata(pair, pair.dataset / "dataset-metadata.json")
    kernel, kernel_file = _metadata(pair, pair.kernel / "kernel-metadata.json")
    dataset_id, kernel_id = (_id(value, file) for value, file in ((dataset, data_file), (kernel, kernel_file)))
    owner = kernel_id.partition("/")[0]
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", owner) or dataset_id.partition("/")[0] != owner:
        raise UserError(f"{kernel_file}: KAGGLE_USER is not known yet (the id is {kernel_id}); run: {pair.remedy}")
    if user is not None and check_user(user) != owner:
        raise UserError(
            f"{kernel_file}: was built for {owner}, not for {user}; run: {pair.remedy.replace('=you', '=' + user)}"
        )
    # dataset_create_new refuses other lengths after all else was asked; kernels_push makes the kernel's name of its title.
    for value, file, least in ((dataset, data_file, 6), (kernel, kernel_file, 5)):
        slug, title = value["id"].partition("/")[2], str(value.get("title", ""))
        if not (least <= len(title) <= 50 and least <= len(slug) <= 50):
            raise UserError(
                f"{file}: title and name must have {least} to 50 letters ({title[:60]}, {slug}); run: {pair.remedy}"
            )
    made = slug_of(str(kernel["title"]))
    if made != kernel_id.partition("/")[2]:
        raise UserError(
            f'{kernel_file}: of the title "{kernel["title"]}" Kaggle makes the name {made}, not {kernel_id}; run: {pair.remedy}'
        )
    _check_kernel(pair, kernel, kernel_file, dataset_id)
    if pair.inference:
        open_bundle(pair.dataset)
    _check_uploads(pair, kernel)
    if not pair.files:
        raise UserError(f"{pair.dataset}: holds nothing to upload; run: {pair.remedy}")
    return Names(owner, dataset_id, kernel_id)


def _check_uploads(pair: Pair, kernel: Mapping[str, Any]) -> None:
    """Raise UserError for whatever was not built there: Kaggle's command would upload it, secrets and links too."""
    book = BUNDLE if pair.inference else "order.json"
    about = read_json(pair.dataset / book, "kernel") if (pair.dataset / book).is_file() else None
    listed = about.get("files") if isinstance(about, dict) else None
    if not isinstance(listed, dict):
        raise UserError(f"{pair.dataset / book}: does not list what was built; run: {pair.remedy}")
    due = {
        pair.dataset: {*listed, book, "dataset-metadata.json", *([SUMS] if pair.inference else [])},
        pair.kernel: {"kernel-metadata.json", str(kernel["code_file"])},
    }
    for folder, names in due.items():
        for path in sorted(folder.iterdir()):
            if path.is_symlink():
                raise UserError(f"{path}: is a link, and what it leads to would be uploaded; run: {pair.remedy}")
            if path.is_dir():
                raise UserError(f"{path}: is a folder, which Kaggle's command leaves out or packs; run: {pair.remedy}")
            if path.name not in names:
                raise UserError(f"{path}: was not built, and would be uploaded; move it away, or run: {pair.remedy}")


def source_of(verb: str, script: Path) -> Path:
    """The folder of `script`, here or beside the source tree. Raises UserError, for `verb`, where it is in neither."""
    for root in (Path(), wheel.PACKAGE.parents[1]):
        if (root / script).is_file():
            return (root / script).parent
    raise UserError(f"{verb}: {script} is not here; run from the repository's top folder, beside {CONFIGS}/")


def clear(place: Path) -> None:
    """Delete a folder, a file or a link (not what it leads to), if there is one."""
    if place.is_symlink() or place.is_file():
        place.unlink()
    elif place.exists():
        shutil.rmtree(place)


@contextmanager
def building(lock: Path) -> Iterator[None]:
    """Hold `lock` while building beside it. Raises UserError where somebody else is at it."""
    from filelock import FileLock, Timeout

    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout:
        raise UserError(f"{lock.parent}: another command is at work there; wait for its end, then run again") from None


def _check_kernel(pair: Pair, kernel: Mapping[str, Any], file: Path, dataset_id: str) -> None:
    again = f"run: {pair.remedy}"
    if dataset_id not in kernel.get("dataset_sources", []):
        raise UserError(f"{file}: dataset_sources lacks {dataset_id}, so that the kernel would find nothing; {again}")
    if COMPETITION not in kernel.get("competition_sources", []):
        raise UserError(f"{file}: competition_sources lacks {COMPETITION}; {again}")
    # Left out, Kaggle's command would take true for this one, whatever its documentation says (kernels_push).
    if not isinstance(kernel.get("enable_internet"), bool):
        raise UserError(f'{file}: "enable_internet" must be written out, true or false; {again}')
    if pair.inference and kernel["enable_internet"]:
        raise UserError(f'{file}: "enable_internet" must be false: the contest takes no kernel with internet; {again}')
    if kernel.get("is_private") is not True:
        raise UserError(f'{file}: "is_private" must be true; make it public on its page if you want to; {again}')
    if kernel.get("enable_gpu") is not True or kernel.get("machine_shape") != ACCELERATOR:
        raise UserError(f'{file}: must say "enable_gpu": true and "machine_shape": "{ACCELERATOR}"; {again}')
    if not (pair.kernel / str(kernel.get("code_file", ""))).is_file():
        raise UserError(f"{pair.kernel / str(kernel.get('code_file', ''))}: the kernel's script is missing; {again}")


def _metadata(pair: Pair, file: Path) -> tuple[dict[str, Any], Path]:
    value = read_json(file, "kernel")
    if not isinstance(value, dict):
        raise UserError(f"{file}: is not what was built; run: {pair.remedy}")
    return value, file


def _id(value: Mapping[str, Any], file: Path) -> str:
    found = value.get("id")
    if not isinstance(found, str) or not re.fullmatch(r"[^/\s]+/[a-z0-9-]+", found):
        raise UserError(f'{file}: "id" must be USER/SLUG (small letters, digits, dashes), not {str(found)[:80]}')
    return found


def _folder_hash(folder: Path) -> str:
    parts: list[str] = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            parts += [path.relative_to(folder).as_posix(), file_hash(path)]
    return text_hash("pushed 1", *parts)
