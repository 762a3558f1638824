"""What one command explains: the run and its data, checked to belong together, and the photos that its words mean."""

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.config import Explain, resolve
from pawpularity.console import log
from pawpularity.context import choose_data, default_config, default_run
from pawpularity.data.dataset import Dataset
from pawpularity.data.photo_cache import fingerprint
from pawpularity.data.photos import PhotoError, read_photo
from pawpularity.data.tables import ID, METADATA
from pawpularity.errors import UserError
from pawpularity.evaluation.oof import run_folds
from pawpularity.evaluation.predictions import Predictions, open_predictions
from pawpularity.explain.explain import Photo
from pawpularity.explain.extremes import extremes, scored_rows
from pawpularity.explain.methods import require_methods
from pawpularity.predictor import Predictor
from pawpularity.runs import OOF, Run, check_name, versions

_NAMED = 5  # of many faults, in one line


@dataclass(frozen=True, eq=False)
class Chosen:
    """What one command works on."""

    run: Run
    source: Predictions
    dataset: Dataset
    settings: Explain
    cache: Path

    @property
    def folder(self) -> Path:
        """Where findings about the run are kept."""
        return self.run.folder / "explain"

    def metadata(self, name: str) -> NDArray[np.float32]:
        """(12,) of one photo of the run."""
        row = self.dataset.train.loc[self.dataset.train[ID] == name, list(METADATA)]
        values: NDArray[np.float32] = row.to_numpy(dtype=np.float32)[0]
        return values

    def recipe(self, what: str, predictor: Predictor, photos: Iterable[tuple[str, Path]]) -> dict[str, Any]:
        """Everything that decides what is found; photos as (name, file)."""
        folds = sorted(predictor.networks)
        return {
            "what": what, "run": self.run.name, "data": self.dataset.hash, "settings": self.settings.model_dump(),
            "networks": {str(k): [self.run.metrics(k).get("head_hash"), self.run.metrics(k)["predictions_hash"]] for k in folds},
            "trunk": self.run.record["weights"]["frozen_hash"], "device": str(predictor.compute), "versions": versions(),
            "photos": [[name, print_of(path)] for name, path in photos],
        }  # fmt: skip


def choose(options: argparse.Namespace, words: Sequence[str]) -> Chosen:
    """The run, its predictor, data and out-of-fold rows that `--run`, `--data` and the settings `words` name.

    Raises UserError for settings that are the run's own, and for a run that cannot be explained.
    """
    if other := [word for word in words if not word.startswith(("explain.", "cache."))]:
        raise UserError(f'explain: uses the run\'s own settings; remove "{other[0]}"')
    for word in words:
        key, _, value = word.partition("=")
        if key == "explain.methods" and not value.startswith("["):
            raise UserError(f'{word}: takes a list; write "{key}=[{value or "gradient,gradcam,rise"}]"')
    asked = choose_data(options.data)
    configs = options.config or default_config(asked)
    given = [] if options.masks is None else [f"explain.masks={options.masks}"]
    config = resolve(configs, [*words, *given])
    require_methods(config.explain.methods)
    run = Run.open(OOF / check_name(options.run or default_run(configs, asked)))
    run.require_networks()
    source = open_predictions(run.name, partly=True)
    own = run.record["data"]
    if not options.data and own.get("folder") is None and own["name"] != asked.resolve().name:
        raise UserError(f"{run.name} was trained on {own['name']}, not on {asked}; name its data with DATA=DIR")
    data = Path(options.data or own.get("folder") or asked)
    log(f"run     {run.folder}, trained on {own['name']}")
    if run.leaky:
        log(
            f"{run.name} is leaky by design (train.split=leaky): its networks have seen copies of the photos they score"
        )
    if not source.complete:
        log(f"{trained_words(run)}: only {len(source.target)} photos are looked at")
    log(f"data    {data}")
    dataset = Dataset.load(data, Path(config.cache.folder))
    dataset.require_photos()
    if dataset.hash != own["hash"]:
        raise UserError(f"{data}: is not the data {run.name} was trained on ({own['name']}, hash {own['hash']}; this has "
                        f"{dataset.hash}); name it with DATA=DIR, or train anew")  # fmt: skip
    return Chosen(run, source, dataset, config.explain, Path(config.cache.folder))


def trained_words(run: Run) -> str:
    """Which folds are trained, in words."""
    folds = run.trained_folds()
    which = f"fold {folds[0]}" if len(folds) == 1 else f"folds {', '.join(map(str, folds))}"
    return f"only {which} of {run.k} {'is' if len(folds) == 1 else 'are'} trained"


def extreme_photos(chosen: Chosen, n: int) -> list[Photo]:
    """The `n` highest and lowest predictions and largest over- and under-estimates, as photos to be explained."""
    paths = dict(zip(chosen.dataset.train[ID], chosen.dataset.paths, strict=True))
    return [Photo(row.id, paths[row.id], row, chosen.metadata(row.id)) for row in extremes(chosen.source, n)]


def named_photos(chosen: Chosen, words: Sequence[str]) -> tuple[list[Photo], list[str]]:
    """The photos that `words` (files, or Ids of the run) name, and a line for each that names none.

    A file that holds a photo of the run, whatever it is called, is that photo: most folds have seen it.
    """
    rows = scored_rows(chosen.source)
    paths = dict(zip(chosen.dataset.train[ID], chosen.dataset.paths, strict=True))
    prints = dict(zip(chosen.dataset.fingerprints, chosen.dataset.train[ID], strict=True))
    photos: dict[str, Photo] = {}
    faults: list[str] = []
    foreign = False
    for word in words:
        path = Path(word)
        known = word if word in paths else None
        if known is None and not path.exists():
            faults.append(f"{word}: is neither a photo file nor an Id of {chosen.run.name}")
            continue
        try:
            known = known or prints.get(print_of(path))
        except PhotoError as error:
            faults.append(f"{word}: {error.reason}")
            continue
        if known is not None and known not in rows:
            faults.append(
                f"{word}: is a photo of fold {_fold_of(chosen, known)}, which is not trained; all other folds saw it"
            )
        elif known is not None:
            if known != word:
                log(
                    f"{word} is {known} of {chosen.dataset.name}: explained by fold {rows[known].fold}, which never saw it"
                )
            photos[known] = Photo(known, paths[known], rows[known], chosen.metadata(known))
        else:
            foreign = True
            stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.")[:80] or "photo"
            name = f"{stem}-{print_of(path)[:6]}"
            photos[name] = Photo(name, path)
    model = chosen.run.config.model
    if foreign and model.metadata == "use" and model.metadata_dropout == 0:
        raise UserError(f"{chosen.run.folder}: was trained with metadata always there, and a picture has none; take a run with "
                        "model.metadata_dropout > 0, or an Id of the run")  # fmt: skip
    return list(photos.values()), faults


def _fold_of(chosen: Chosen, name: str) -> int:
    return int(run_folds(chosen.run).folds_of([name])[0])


def listed(lines: Sequence[str], separator: str = "; ") -> str:
    """The first few of `lines` in one, and how many more there are."""
    rest = len(lines) - _NAMED
    return separator.join([*lines[:_NAMED], *([f"and {rest} more"] if rest > 0 else [])])


def print_of(path: Path) -> str:
    """The hash of a photo file's bytes. Raises PhotoError where it cannot be read."""
    return fingerprint(read_photo(path))
