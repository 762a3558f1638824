"""Push a kernel and its files. Only what Kaggle confirmed is recorded, so a refused upload is repeated.

The order matters: Kaggle mounts the newest version of a data set that is ready, so a kernel that is pushed earlier would run on the
old files. A version is ours if Kaggle returns the note that we uploaded it with, or if it is the only new version after an upload
that Kaggle confirmed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pawpularity import __version__
from pawpularity.console import log
from pawpularity.errors import UserError
from pawpularity.files import size_text
from pawpularity.kaggle.api import Kaggle, Refused, Uncertain, request
from pawpularity.kaggle.built_kernel import VARIATION, BuiltKernel

READY_MINUTES, LOST_MINUTES = 60.0, 5.0
"""How long to wait for a new version: after a confirmed upload, and after one whose answer was lost."""
BROWSER = (
    "is KAGGLE_USER the token's account? if so, Kaggle may want the first version of a new name saved in the browser: make a "
    'notebook of that title on https://www.kaggle.com/code, press "Save Version", and push again'
)


@dataclass(frozen=True)
class State:
    """The newest version of the files on Kaggle."""

    version: int
    status: str = "ready"
    """`ready`, `failed`, or Kaggle's word for its work on it"""
    notes: Mapping[int, str] = field(default_factory=dict)
    """the note of each version for which Kaggle returns one"""

    @property
    def settled(self) -> bool:
        """Whether Kaggle has finished its work on it."""
        return self.status in ("ready", "failed")


class DataSet:
    """The files as a private data set."""

    what, kind = "data set", "DATASET"

    def __init__(self, kaggle: Kaggle, built: BuiltKernel) -> None:
        self.kaggle, self.built = kaggle, built
        self.id, self.title = str(built.files_about["id"]), str(built.files_about["title"])
        self.owner, _, self.slug = self.id.partition("/")

    def __str__(self) -> str:
        return f"{self.what} {self.id}"

    @property
    def url(self) -> str:
        """Its page."""
        return f"https://www.kaggle.com/{self.kind.lower()}s/{self.id}"

    def sources(self, version: int) -> dict[str, list[str]]:
        """The files as the kernel's sources."""
        return {"dataset_data_sources": [self.id]}

    def state(self) -> State | None:
        """The newest version on Kaggle; None if the data set does not exist."""
        name = {"owner_slug": self.owner, "dataset_slug": self.slug}
        status = self._find("datasets.dataset", "GetDatasetStatus", **name)
        about = status and self._find("datasets.dataset", "GetDataset", **name)
        if not about or status.status.name == "DELETED":
            return None
        notes = {one.version_number: one.version_notes or "" for one in about.versions or []}
        return State(about.current_version_number or 0, status.status.name.lower(), notes)

    def _find(self, service: str, what: str, **fields: Any) -> Any:
        """The answer; None if Kaggle finds nothing (404) or does not tell (403: missing, or another user's)."""
        try:
            return self.kaggle.ask(f"asking for {self}", service, what, **fields)
        except Refused as error:
            if error.code in (403, 404):
                return None
            raise

    def upload(self, note: str, *, first: bool) -> None:
        """Upload the files as a new version. Raises Refused, and Uncertain where the answer was lost."""
        make = self.create if first else self.add
        doing = f"uploading {self}"
        self.kaggle.upload(
            doing, self.built.dataset, self.kind, len(self.built.files), lambda files: make(doing, files, note)
        )

    def create(self, doing: str, files: list[Any], note: str) -> None:
        """Create the data set from uploaded files."""
        self.kaggle.ask(
            doing, "datasets.dataset", "CreateDataset", owner_slug=self.owner, slug=self.slug, title=self.title,
            license_name="other", is_private=True, files=files,
        )  # fmt: skip

    def add(self, doing: str, files: list[Any], note: str) -> None:
        """Make a version of uploaded files."""
        body = request("datasets.dataset", "CreateDatasetVersionRequestBody", version_notes=note, files=files)
        name = {"owner_slug": self.owner, "dataset_slug": self.slug}
        self.kaggle.ask(doing, "datasets.dataset", "CreateDatasetVersion", body=body, **name)


class Model(DataSet):
    """The files as a version of a private Kaggle Model."""

    what, kind = "model", "MODEL"

    def sources(self, version: int) -> dict[str, list[str]]:
        """The version as the kernel's source."""
        return {"model_data_sources": [f"{self.id}/{VARIATION}/{version}"]}

    def _variation(self) -> dict[str, Any]:
        from kagglesdk.models.types.model_enums import ModelFramework

        return {"framework": ModelFramework.MODEL_FRAMEWORK_PY_TORCH, "instance_slug": VARIATION.partition("/")[2]}

    def state(self) -> State | None:
        """The newest version, which is ready at once; None if there is none."""
        name = {"owner_slug": self.owner, "model_slug": self.slug}
        found = self._find("models.model", "GetModelInstance", **name, **self._variation())
        return State(found.version_number) if found else None

    def create(self, doing: str, files: list[Any], note: str) -> None:
        """Create the model, if it is missing, and its variation from uploaded files."""
        name = {"owner_slug": self.owner, "model_slug": self.slug}
        if not self._find("models.model", "GetModel", **name):
            new: dict[str, Any] = {
                "owner_slug": self.owner,
                "slug": self.slug,
                "title": self.title,
                "is_private": True,
                "description": "",
            }
            self.kaggle.ask(f"making {self}", "models.model", "CreateModel", **new)
        body = request("models.model", "CreateModelInstanceRequestBody", files=files, **self._variation())
        self.kaggle.ask(doing, "models.model", "CreateModelInstance", body=body, **name)

    def add(self, doing: str, files: list[Any], note: str) -> None:
        """Make a version of uploaded files."""
        body = request("models.model", "CreateModelInstanceVersionRequestBody", version_notes=note, files=files)
        name = {"owner_slug": self.owner, "model_slug": self.slug, **self._variation()}
        self.kaggle.ask(doing, "models.model", "CreateModelInstanceVersion", body=body, **name)


def carrier(kaggle: Kaggle, built: BuiltKernel) -> DataSet:
    """The data set or model that carries the kernel's files."""
    return Model(kaggle, built) if built.carrier == "model" else DataSet(kaggle, built)


def plan(built: BuiltKernel) -> str:
    """The steps of a push, numbered."""
    files = "Kaggle Model" if built.carrier == "model" else "data set"
    total = sum(path.stat().st_size for path in built.files)
    lines = [
        f"ask whether the private {files} {built.files_about['id']} exists and has these files",
        f"if not: upload {len(built.files)} files, {size_text(total)}, as a new version, and wait until it is ready",
        f"push the private kernel {built.id}, which Kaggle starts at once",
    ]
    if built.inference:
        lines.append("wait for its end, fetch its submission.csv, and check it")
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))


def push(kaggle: Kaggle, built: BuiltKernel) -> dict[str, Any]:
    """Upload the files if Kaggle does not have them, and push the kernel; saves and returns the record of both."""
    place = carrier(kaggle, built)
    if kaggle.user != place.owner:
        raise UserError(
            f"the credentials are {kaggle.user}'s, the kernel was built for {place.owner}; build it with KAGGLE_USER={kaggle.user}"
        )
    # Recorded before the kernel is pushed: if that fails, the next push need not upload gigabytes again.
    record = _keep(built, place, _files_version(kaggle, built, place), "files ready")
    log(f"pushing {built.id} ...")
    record |= {"kernel_version": _save_kernel(kaggle, built, place, record["files_version"]), "status": "pushed"}
    built.keep(record)
    return record


def _keep(built: BuiltKernel, place: DataSet, version: int, status: str) -> dict[str, Any]:
    """Record that Kaggle has the built files as `version`."""
    record = {"name": built.name, "files": str(place), "files_version": version, "kernel": built.id, "kernel_version": None,
              "status": status} | built.hashes()  # fmt: skip
    built.keep(record)
    return record


def _files_version(kaggle: Kaggle, built: BuiltKernel, place: DataSet) -> int:
    """The version of `place` that holds the built files, uploaded if need be."""
    files, known = built.hashes()["files_hash"], built.record()
    state = kaggle.wait(place.state)
    if state and not state.settled:
        log(f"{place}: Kaggle still works on version {state.version} ({state.status}); waiting ...")
        state = _settled(kaggle, place)
    before, failed = (state.version, state.status == "failed") if state else (0, False)
    same = (known.get("files"), known.get("files_version"), known.get("files_hash")) == (str(place), before, files)
    if state and not failed and (same or files in state.notes.get(before, "")):
        log(f"{place}: version {before} has exactly these files already")
        return before
    log(f"uploading {len(built.files)} files to {place} ...")
    try:
        place.upload(f"pawpularity {__version__}, {files}", first=state is None)
        confirmed = True
        if state is None:
            _keep(built, place, 1, "files taken")
    except Uncertain as error:
        confirmed = False
        log(f"{error}; checking whether it was done")
    log("waiting for Kaggle to make it ready ...")

    def done(state: State) -> bool:
        return _ours(state, files, before, confirmed=confirmed) or (state.status == "failed" and not failed)

    found = _settled(kaggle, place, done, READY_MINUTES if confirmed else LOST_MINUTES)
    if found.status == "failed" or not done(found):
        what = "says that it failed" if found.status == "failed" else "shows no version that is surely of these files"
        raise UserError(f"{place}: Kaggle {what} (newest is {found.version}); look at {place.url}, and push again")
    log(f"{place}: version {found.version} is ready")
    return found.version


def _settled(
    kaggle: Kaggle, place: DataSet, done: Callable[[State], bool] = lambda _: True, minutes: float = READY_MINUTES
) -> State:
    """The state once it is settled and `done`, or the state after `minutes`. Raises UserError if it is not settled then."""
    state = kaggle.wait(place.state, minutes, lambda state: state is not None and state.settled and done(state))
    if state is None or not state.settled:  # a new data set may still be unknown
        status = state.status if state else "unknown to Kaggle"
        raise UserError(f"{place}: not ready after {minutes:.0f} minutes ({status}); look at {place.url} (is the private storage "
                        "used up?), and push again")  # fmt: skip
    return state


def _ours(state: State, files: str, before: int, *, confirmed: bool) -> bool:
    """Whether the newest version is our upload after version `before`: by its note, or as the only new one if `confirmed`."""
    note = state.notes.get(state.version)
    if note and files in note:
        return state.version > before
    return confirmed and state.version == before + 1 and (before == 0 or not note)


def _save_kernel(kaggle: Kaggle, built: BuiltKernel, place: DataSet, version: int) -> int:
    """Push the kernel and return its version. Raises UserError unless Kaggle took it with all sources and under its name."""
    about, doing = built.about, f"pushing {built.id}"
    same = ("language", "kernel_type", "is_private", "enable_gpu", "enable_internet", "machine_shape")
    answer = kaggle.ask(
        doing, "kernels.kernels", "SaveKernel", hint=BROWSER, slug=built.id, new_title=about["title"],
        text=(built.kernel / about["code_file"]).read_text(encoding="utf-8"),
        competition_data_sources=about["competition_sources"], kernel_data_sources=about["kernel_sources"],
        **{key: about[key] for key in same}, **place.sources(version),
    )  # fmt: skip
    left_out = {
        "the files": [*answer.invalid_dataset_sources, *answer.invalid_model_sources],
        "the competition": answer.invalid_competition_sources,
        "its last output (build without --resume)": answer.invalid_kernel_sources,
    }
    if missing := [f"{what}: {', '.join(found)}" for what, found in left_out.items() if found]:
        raise UserError(f"{doing}: version {answer.version_number} lacks {missing[0]}, and will fail; are they there, "
                        "and the contest's rules accepted? then push again")  # fmt: skip
    where = (answer.url or answer.ref or "").lower().rstrip("/")
    if not answer.version_number or not f"/{where}".endswith(f"/{built.id}"):
        raise UserError(f"{doing}: Kaggle names version {answer.version_number} of {where}; look at {built.url}")
    return int(answer.version_number)
