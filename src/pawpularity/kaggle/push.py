"""`pawpularity kernel-push`: push a kernel and its files. Only what Kaggle confirmed is recorded, so a refused upload is repeated.

The order matters: Kaggle mounts the newest version of a data set that is ready, so a kernel that is pushed earlier would run on the
old files. A version is ours if Kaggle returns the note that we uploaded it with, or if it has the number that followed when Kaggle
confirmed our upload.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pawpularity import __version__
from pawpularity.console import log, next_step, say
from pawpularity.errors import UserError
from pawpularity.files import size_text
from pawpularity.kaggle.api import Kaggle, Refused, Uncertain, request
from pawpularity.kaggle.built_kernel import VARIATION, BuiltKernel, built_kernel, check_built
from pawpularity.kaggle.watch import SHOWN, Pushed, finish

READY_MINUTES, LOST_MINUTES = 60.0, 5.0
"""How long to wait for a new version: after a confirmed upload, and after one whose answer was lost."""
WAIT_MINUTES = 60.0
"""For the end of an inference kernel; a push does not wait for a training kernel."""
BROWSER = (
    "is KAGGLE_USER the token's account? if so, Kaggle may want the first version of a new name saved in the browser: make a "
    'notebook of that title on https://www.kaggle.com/code, press "Save Version", and push again'
)


def kernel_push(*, name: str, user: str | None, go: bool, wait: float | None) -> None:
    """Upload the files if Kaggle lacks them, push the kernel, and wait for its end, at most `wait` minutes.

    Without `go` only print the steps. Raises UserError for a kernel that was changed or built for another user.
    """
    built = built_kernel(name, user)
    check_built(built)
    if not go:
        say(plan(built))
        log(SHOWN)
        next_step(f"make kernel-push{built.make_word} GO=1")
        return
    kaggle = Kaggle.sign_in()
    place = (Model if built.about["model_sources"] else DataSet)(kaggle, built)
    owner = str(kaggle.api.config_values["username"]).lower()
    if owner != place.owner:
        raise UserError(
            f"the credentials are {owner}'s, the kernel was built for {place.owner}; build it with KAGGLE_USER={owner}"
        )
    # Recorded before the kernel is pushed: if that fails, the next push need not upload gigabytes again.
    files = _files_version(kaggle, built, place)
    _keep(built, place, files)
    log(f"pushing {built.id} ...")
    version = _save_kernel(kaggle, built, files)
    _keep(built, place, files, version)
    pushed = Pushed(kaggle, built, version)
    log(f"pushed  {pushed}: {built.url}")
    finish(pushed, wait if wait is not None else WAIT_MINUTES if built.inference else 0.0)


@dataclass(frozen=True)
class State:
    """The newest version of the files on Kaggle."""

    version: int
    status: str = "ready"
    """`ready`, `failed`, or Kaggle's word for its work on it"""
    note: str = ""

    @property
    def settled(self) -> bool:
        """Whether Kaggle has finished its work on it."""
        return self.status in ("ready", "failed")


class DataSet:
    """The files as a private data set."""

    what, kind, service = "data set", "dataset", "datasets.dataset"

    def __init__(self, kaggle: Kaggle, built: BuiltKernel) -> None:
        self.kaggle, self.built = kaggle, built
        self.id = built.files_id
        self.owner, _, self.slug = self.id.partition("/")
        self.title = self.slug.replace("-", " ")
        self.name = {"owner_slug": self.owner, f"{self.kind}_slug": self.slug}

    def __str__(self) -> str:
        return f"{self.what} {self.id}"

    @property
    def url(self) -> str:
        """Its page."""
        return f"https://www.kaggle.com/{self.kind}s/{self.id}"

    def state(self) -> State | None:
        """The newest version on Kaggle; None if the data set does not exist."""
        status = self._find("GetDatasetStatus", **self.name)
        about = status and self._find("GetDataset", **self.name)
        if not about or status.status.name == "DELETED":
            return None
        newest = about.current_version_number or 0
        note = next((one.version_notes for one in about.versions or [] if one.version_number == newest), "")
        return State(newest, status.status.name.lower(), note or "")

    def _find(self, what: str, **fields: Any) -> Any:
        """The answer; None if Kaggle finds nothing (404) or does not tell (403: missing, or another user's)."""
        try:
            return self.kaggle.ask(f"asking for {self}", self.service, what, **fields)
        except Refused as error:
            if error.code in (403, 404):
                return None
            raise

    def upload(self, note: str, *, first: bool) -> None:
        """Upload the files as a new version. Raises Refused, and Uncertain where the answer was lost."""
        make, folder = self.create if first else self.add, self.built.dataset
        files = len(self.built.files)
        self.kaggle.upload(f"uploading {self}", folder, self.kind.upper(), files, lambda files: make(files, note))

    def _send(self, what: str, **fields: Any) -> None:
        self.kaggle.ask(f"uploading {self}", self.service, what, **fields)

    def create(self, files: list[Any], note: str) -> None:
        """Create the data set from uploaded files."""
        about = {"owner_slug": self.owner, "slug": self.slug, "title": self.title}
        self._send("CreateDataset", license_name="other", is_private=True, files=files, **about)

    def add(self, files: list[Any], note: str) -> None:
        """Make a version of uploaded files."""
        body = request(self.service, "CreateDatasetVersionRequestBody", version_notes=note, files=files)
        self._send("CreateDatasetVersion", body=body, **self.name)


class Model(DataSet):
    """The files as a version of a private Kaggle Model."""

    what, kind, service = "model", "model", "models.model"

    def _variation(self) -> dict[str, Any]:
        from kagglesdk.models.types.model_enums import ModelFramework

        return {"framework": ModelFramework.MODEL_FRAMEWORK_PY_TORCH, "instance_slug": VARIATION.partition("/")[2]}

    def state(self) -> State | None:
        """The newest version, which is ready at once; None if there is none."""
        found = self._find("GetModelInstance", **self.name, **self._variation())
        return State(found.version_number) if found else None

    def create(self, files: list[Any], note: str) -> None:
        """Create the model, if it is missing, and its variation from uploaded files."""
        if not self._find("GetModel", **self.name):
            about = {"owner_slug": self.owner, "slug": self.slug, "title": self.title, "description": ""}
            self._send("CreateModel", is_private=True, **about)
        body = request(self.service, "CreateModelInstanceRequestBody", files=files, **self._variation())
        self._send("CreateModelInstance", body=body, **self.name)

    def add(self, files: list[Any], note: str) -> None:
        """Make a version of uploaded files."""
        body = request(self.service, "CreateModelInstanceVersionRequestBody", version_notes=note, files=files)
        self._send("CreateModelInstanceVersion", body=body, **self.name, **self._variation())


def plan(built: BuiltKernel) -> str:
    """The steps of a push, numbered."""
    what, size = "data set", size_text(sum(path.stat().st_size for path in built.files))
    if built.about["model_sources"]:
        what = "Kaggle Model"
    steps = [
        f"upload {len(built.files)} files, {size}, to the private {what} {built.files_id}, unless it has them",
        "wait until they are ready",
        f"push the private kernel {built.id}, which Kaggle starts at once",
    ]
    if built.inference:
        steps.append("wait for its end, fetch its submission.csv, and check it")
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, start=1))


def _keep(built: BuiltKernel, place: DataSet, version: int, kernel: int | None = None) -> None:
    """Record that Kaggle has the built files as `version`, and the kernel as version `kernel`."""
    record = {"files": str(place), "files_version": version, "kernel": built.id, "kernel_version": kernel}
    built.keep(record | built.hashes())


def _files_version(kaggle: Kaggle, built: BuiltKernel, place: DataSet) -> int:
    """The version of `place` that holds the built files, uploaded if need be."""
    files = built.hashes()["files_hash"]

    def ours(state: State) -> bool:
        known = built.record()
        recorded = known.get("files"), known.get("files_version"), known.get("files_hash")
        return files in state.note or recorded == (str(place), state.version, files)

    state = kaggle.wait(place.state)
    if state and not state.settled:
        log(f"{place}: Kaggle still works on version {state.version} ({state.status}); waiting ...")
        state = _settled(kaggle, place)
    failed = state is not None and state.status == "failed"
    if state and not failed and ours(state):
        log(f"{place}: version {state.version} has exactly these files already")
        return state.version
    log(f"uploading {len(built.files)} files to {place} ...")
    minutes = READY_MINUTES
    try:
        place.upload(f"pawpularity {__version__}, {files}", first=state is None)
        _keep(built, place, state.version + 1 if state else 1)
    except Uncertain as error:
        minutes = LOST_MINUTES
        log(f"{error}; checking whether it was done")
    log("waiting for Kaggle to make it ready ...")

    def done(state: State) -> bool:
        return ours(state) or (state.status == "failed" and not failed)

    found = _settled(kaggle, place, done, minutes)
    if found.status == "failed" or not ours(found):
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


def _save_kernel(kaggle: Kaggle, built: BuiltKernel, version: int) -> int:
    """Push the kernel and return its version. Raises UserError unless Kaggle took it with all sources and under its name.

    `version`: that of the files; a kernel names one version of a model.
    """
    about, doing = built.about, f"pushing {built.id}"
    same = ("language", "kernel_type", "is_private", "enable_gpu", "enable_internet", "machine_shape")
    answer = kaggle.ask(
        doing, "kernels.kernels", "SaveKernel", hint=BROWSER, slug=built.id, new_title=about["title"],
        text=(built.kernel / about["code_file"]).read_text(encoding="utf-8"),
        dataset_data_sources=about["dataset_sources"], competition_data_sources=about["competition_sources"],
        kernel_data_sources=about["kernel_sources"],
        model_data_sources=[f"{source}/{version}" for source in about["model_sources"]],
        **{key: about[key] for key in same},
    )  # fmt: skip
    missing = [*answer.invalid_dataset_sources, *answer.invalid_model_sources, *answer.invalid_competition_sources,
               *answer.invalid_kernel_sources]  # fmt: skip
    if missing:
        raise UserError(f"{doing}: version {answer.version_number} lacks {', '.join(missing)}, and will fail; are they there, "
                        "and the contest's rules accepted? then push again")  # fmt: skip
    where = (answer.url or answer.ref or "").lower().rstrip("/")
    if not answer.version_number or not f"/{where}".endswith(f"/{built.id}"):
        raise UserError(f"{doing}: Kaggle names version {answer.version_number} of {where}; look at {built.url}")
    return int(answer.version_number)
