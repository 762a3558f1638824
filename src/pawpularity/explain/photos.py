"""What to explain: a trained run with its data (checked to belong together), and photos of the run or other pictures.

By default these are the photos predicted highest and lowest and those with the largest errors, all out of fold. A photo may be in
several of these lists and is explained once. Of near-duplicates each list takes the first. A photo of the run is explained by the
network of its fold, which never saw it, and with its metadata. Any other picture is explained by the mean of the trained folds,
without metadata.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pawpularity.config import Explain
from pawpularity.console import log
from pawpularity.context import Context, load_dataset
from pawpularity.data import CONTEST, data_name
from pawpularity.data.dataset import Dataset
from pawpularity.data.photo_cache import fingerprint
from pawpularity.data.photos import PhotoError, Pixels, decode, read_photo
from pawpularity.data.tables import ID, METADATA
from pawpularity.errors import UserError, listed
from pawpularity.evaluation.oof import run_folds
from pawpularity.evaluation.predictions import Predictions, open_predictions
from pawpularity.explain.methods import require_methods
from pawpularity.runs import Run, versions
from pawpularity.sample import SAMPLE

if TYPE_CHECKING:
    from pawpularity.explain.scored import FoldsMean, PhotoScore
    from pawpularity.predictor import Predictor

HIGHEST, LOWEST, OVER, UNDER = "highest", "lowest", "over", "under"
KINDS = {
    HIGHEST: "highest predictions",
    LOWEST: "lowest predictions",
    OVER: "largest over-estimates",
    UNDER: "largest under-estimates",
}


@dataclass(frozen=True, eq=False)
class RunData:
    """A trained run, its out-of-fold rows and its data."""

    run: Run
    source: Predictions
    dataset: Dataset
    settings: Explain

    @classmethod
    def open(cls, context: Context, masks: str | None = None) -> "RunData":
        """The run that `context` names, with the context's `explain` settings (`masks` replaces `explain.masks`).

        Raises UserError for other settings, which the run has fixed, and for a run that cannot be explained.
        """
        settings = context.words[6:]  # the words after --config, --data and --run
        if other := [word for word in settings if not word.startswith(("explain.", "cache."))]:
            raise UserError(f'explain: uses the settings the run was trained with; remove "{other[0]}"')
        config = context.config
        if masks is not None:
            config = config.with_values({"explain.masks": int(masks) if masks.isdigit() else masks})
        require_methods(config.explain.methods)
        run = Run.open(context.run)
        run.require_networks()
        log(f"run     {run.folder}")
        source = open_predictions(run.name, partly=True)
        if not source.complete:
            log(f"{trained_words(run)}: only their {len(source.target)} photos are explained")
        if run.leaky:
            log(f"{run.name} is leaky by design (train.split=leaky): its networks saw copies of the photos they score")
        trained_on, data = run.record["data"], context.data
        if trained_on["name"] != data_name(data) and data in (CONTEST, SAMPLE):
            if not trained_on.get("folder"):
                raise UserError(f"{run.name}: was trained on {trained_on['name']}; name that folder with DATA=DIR")
            data = Path(trained_on["folder"])
            log(f"data    {data}, which {run.name} was trained on")
        dataset = load_dataset(data, config)
        dataset.require_photos()
        if dataset.hash != trained_on["hash"]:
            raise UserError(
                f"{data}: is not the data {run.name} was trained on ({trained_on['name']}, hash {trained_on['hash']}); name that "
                "folder with DATA=DIR, or train again"
            )
        return cls(run, source, dataset, config.explain)

    @property
    def folder(self) -> Path:
        """The folder of the run's explanations."""
        return self.run.folder / "explain"

    @cached_property
    def table(self) -> pd.DataFrame:
        """The out-of-fold rows by Id, sorted: fold, target, prediction, constant (mean target of the fold's training rows), group
        (near-duplicates share a number), and the metadata columns."""
        groups = np.arange(len(self.source.target)) if self.source.groups is None else self.source.groups
        found = self.source.table.set_index(ID).assign(constant=self.source.constant, group=groups)
        return found.join(self.dataset.train.set_index(ID)[list(METADATA)])

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows of `table` by Id."""
        rows: Any = self.table.to_dict("index")
        return dict(rows)

    @cached_property
    def paths(self) -> dict[str, Path]:
        """Every photo's file by its Id, photos of untrained folds included."""
        return dict(zip(self.dataset.train[ID], self.dataset.paths, strict=True))

    def fingerprint(self, what: str, predictor: "Predictor", photos: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that decides the results about `photos` (hashes by name)."""
        networks = {fold: self.run.metrics(fold) for fold in sorted(predictor.networks)}
        return {
            "what": what, "run": self.run.name, "data": self.dataset.hash, "settings": self.settings.model_dump(),
            "networks": {str(k): [m.get("head_hash"), m["predictions_hash"]] for k, m in networks.items()},
            "frozen": self.run.record["weights"]["frozen_hash"], "device": str(predictor.compute), "versions": versions(),
            "photos": dict(photos),
        }  # fmt: skip

    def require_absent_metadata(self) -> None:
        """Raise UserError where the run cannot score a photo without metadata."""
        model = self.run.config.model
        if model.metadata == "use" and model.metadata_dropout == 0:
            raise UserError(
                f"{self.run.folder}: was trained with metadata always present, and these pictures have none; use a run with "
                "model.metadata_dropout > 0, or photos of the run by their Id"
            )


def trained_words(run: Run) -> str:
    """`only fold 0 of 5 is trained`."""
    folds = run.trained_folds()
    which = f"fold {folds[0]}" if len(folds) == 1 else f"folds {listed(folds)}"
    return f"only {which} of {run.k} {'is' if len(folds) == 1 else 'are'} trained"


@dataclass(frozen=True, eq=False)
class Photo:
    """One photo to explain."""

    name: str  # its Id, or a name made from its file name; its results are named after it
    path: Path
    row: Mapping[str, Any] | None = None  # of `RunData.rows`; None: not a photo of the run
    kinds: tuple[str, ...] = ()  # the lists of KINDS it is in

    @property
    def fold(self) -> int | None:
        """The fold whose network never saw it; None for a picture that is not a photo of the run."""
        return None if self.row is None else int(self.row["fold"])

    def score(self, predictor: "Predictor") -> "PhotoScore | FoldsMean":
        """The function of the photo that its maps explain."""
        from pawpularity.explain.scored import FoldsMean, PhotoScore

        if self.row is not None:
            metadata = np.array([self.row[name] for name in METADATA], dtype=np.float32)
            return PhotoScore(predictor.networks[int(self.row["fold"])], predictor.compute, metadata)
        return FoldsMean(tuple(PhotoScore(network, predictor.compute) for network in predictor.networks.values()))

    def pixels(self, predictor: "Predictor") -> Pixels:
        """(size, size, 3). Raises PhotoError if the file is not a readable photo."""
        return decode(self.path, predictor.config.photos.size, predictor.config.photos.fit)


def photo_of(data: RunData, name: str, kinds: Sequence[str] = ()) -> Photo:
    """The photo of the run with the Id `name`."""
    return Photo(name, data.paths[name], data.rows[name], tuple(kinds))


def extremes(table: pd.DataFrame, n: int) -> dict[str, list[str]]:
    """Ids of the `n` highest and lowest predictions and the `n` largest over- and under-estimates, with the kinds of each.

    In the order of KINDS, each list from its most extreme photo on; ties are in the order of Ids. The lists of errors may be
    shorter than `n`: only predictions above the target are over-estimates.
    """
    error = table["prediction"] - table["target"]
    lists = {
        HIGHEST: table["prediction"],
        LOWEST: -table["prediction"],
        OVER: error[error > 0],
        UNDER: -error[error < 0],
    }
    found: dict[str, list[str]] = {}
    for kind, values in lists.items():
        ranked = table.loc[values.sort_values(ascending=False, kind="stable").index]
        for name in ranked.drop_duplicates("group").index[:n]:
            found.setdefault(str(name), []).append(kind)
    return found


def named_photos(data: RunData, words: Sequence[str]) -> tuple[list[Photo], list[str]]:
    """The photos that `words` (files, or Ids of the run) name, and an error message for each word that names none.

    A file with the same content as a photo of the run is treated as that photo: most folds were trained on it.
    """
    prints = dict(zip(data.dataset.fingerprints, data.dataset.train[ID], strict=True))
    photos: dict[str, Photo] = {}
    faults: list[str] = []
    for word in words:
        path, known = Path(word), word if word in data.paths else None
        if known is None and not path.exists():
            faults.append(f"{word}: is neither a photo file nor an Id of {data.run.name}")
            continue
        try:
            content = "" if known else photo_hash(path)
        except PhotoError as error:
            faults.append(f"{word}: {error.reason}")
            continue
        known = known or prints.get(content)
        if known is None:
            data.require_absent_metadata()
            stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.")[:80] or "photo"
            photos[f"{stem}-{content[:6]}"] = Photo(f"{stem}-{content[:6]}", path)
        elif known not in data.rows:
            frame = run_folds(data.run).frame
            fold = int(frame.loc[frame[ID] == known, "fold"].iloc[0])
            faults.append(f"{word}: fold {fold} is not trained yet, all others saw it; run: {data.run.remedy(fold)}")
        else:
            photos[known] = photo_of(data, known)
            if known != word:
                log(
                    f"{word} is {known} of {data.dataset.name}; fold {photos[known].fold}, which never saw it, explains it"
                )
    return list(photos.values()), faults


def photo_hash(path: Path) -> str:
    """The hash of a photo file's bytes. Raises PhotoError where it cannot be read."""
    return fingerprint(read_photo(path))
