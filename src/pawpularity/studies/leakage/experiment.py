"""The same network trained the leaky way and the honest way, both scored both ways: what the leak is worth in points.

Fold 0 of the honest folds is set aside first: nobody trains on it, its photos are scored as they are (the honest way). Of
the other photos the paper's list of items is made - photos and copies, each an item of its own - and a random tenth of
the items is validated on (the leaky way):

    leaky    trains on all other items, copies of the validation items among them; where it stops early, it watches them
    honest   trains on the items of photos none of whose copies, or near-duplicates, is validated on

Both are scored on the same items, so the mix of scores is the same. The honest network has less to train on, though (no photo
with a copy among the validation items, so fewer of the rare scores), which widens the gap; how many items either had is
printed. `split_by_items` is the paper's split without a fold set aside, for Table 1.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.data.augment import VIEWS
from pawpularity.data.folds import inner_split
from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.evaluation.compare import Comparison, compare
from pawpularity.evaluation.metrics import Metrics, evaluate, rmse
from pawpularity.files import plain
from pawpularity.predictor import score_rows
from pawpularity.schema import Config
from pawpularity.studies.leakage.replay import SEED, validated_items
from pawpularity.training.fit import Fitted, fit_items
from pawpularity.training.fold import prepare_trunk
from pawpularity.training.labelled import LabelledPhotos
from pawpularity.training.samples import Items, as_they_are, items_of, looked_at

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Items to train on and items to validate on."""

    training: Items
    validation: Items

    @property
    def leaked(self) -> NDArray[np.bool_]:
        """(validation items,) whether a copy of the same photo is trained on."""
        leaked: NDArray[np.bool_] = np.isin(self.validation.rows, self.training.rows)
        return leaked


@dataclass(frozen=True)
class Way:
    """One network scored one way."""

    trained: str
    """leaky or honest"""
    scored: str
    """leaky: validation items; honest: photos never seen"""
    items: int
    photos: int
    """trained on"""
    score: Metrics

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "trained": self.trained,
            "scored": self.scored,
            "items": self.items,
            "photos": self.photos,
        } | self.score.to_dict()


@dataclass(frozen=True, eq=False)
class Experiment:
    """The two networks' figures."""

    ways: tuple[Way, ...]
    lookup_rmse: float
    """of the validation items, by the label of a copy that the leaky network trains on; no photo is looked at"""
    leaked: int
    leaked_rmse: float
    other_rmse: float
    """of the leaky network, on validation items with and without a copy in its training"""
    differences: dict[str, Comparison]
    """honest - leaky network on the same rows, by the way of scoring"""
    table: pd.DataFrame

    def way(self, trained: str, scored: str) -> Metrics:
        """The figure of one network scored one way."""
        return next(w.score for w in self.ways if (w.trained, w.scored) == (trained, scored))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ways": [w.to_dict() for w in self.ways],
            "lookup_rmse": self.lookup_rmse,
            "validation": int((self.table["scored"] == "leaky").sum()),
            "siblings": self.leaked,
            "leaky_rmse_with_sibling": plain(self.leaked_rmse),
            "leaky_rmse_without_sibling": plain(self.other_rmse),
            "honest_minus_leaky": {name: c.to_dict() for name, c in self.differences.items()},
        }


def paper_settings(config: Config) -> Config:
    """`config` with the paper's copies and no other augmentation: its list of items is fixed."""
    rule = config.train.copies if config.train.copies != "none" else "authors"
    train = replace(config.train, copies=rule, augment="none", views=0, mixup=0.0, manifold_mixup=0.0, split="honest",
                    refit=False)  # fmt: skip
    return replace(config, train=train)


def split_by_items(config: Config, rows: LabelledPhotos, of: Rows) -> Split:
    """The paper's split of the photos `of` and their copies: listed in table order, cut at random, 90 to 10."""
    items = items_of(config, rows.scores, of)
    # Rows are sorted by Id here; the paper's list, and so its random tenth, goes by the table.
    items = items.take(np.lexsort((items.copies, rows.photo_rows[items.rows])))
    chosen = validated_items(len(items), SEED)
    return Split(items.take(~chosen), items.take(chosen))


def honest_items(items: Items, validation: Items, groups: Rows) -> Items:
    """Those of `items` whose photo has neither a copy nor a near-duplicate (`groups`, by row) in `validation`."""
    return items.take(~np.isin(groups[items.rows], groups[validation.rows]))


def run_experiment(config: Config, rows: LabelledPhotos, ids: list[str], held: Rows, compute: Compute) -> Experiment:
    """Train both networks and score them both ways. `held`: the rows set aside, scored the honest way.

    Raises UserError where too few photos are left.
    """
    config = paper_settings(config)
    others = np.setdiff1d(np.arange(len(ids)), held)
    others = others[~np.isin(rows.groups[others], rows.groups[held])]
    split = split_by_items(config, rows, others)
    honest = honest_items(split.training, split.validation, rows.groups)
    if len(honest) < 8 or not len(split.validation):
        raise UserError(
            f"{len(ids)} photos: too few are left to train on once a fold and a tenth of the items are set aside"
        )
    prepare_trunk(config, rows, items_of(config, rows.scores, others), np.arange(len(ids)), compute)
    seen = {"leaky": split.validation, "honest": as_they_are(held)}
    answers: dict[tuple[str, str], Floats] = {}
    ways: list[Way] = []
    for trained, items in (("leaky", split.training), ("honest", honest)):
        fitting, watched = items, split.validation
        if trained == "honest" and config.train.stop != "none":
            fitting, watched = _inner(config, rows, items)
        fitted = fit_items(config, rows, fitting, watched, compute=compute)
        # Of items, as the paper's was; of photos for the honest way.
        means = {"leaky": fitted.training_mean, "honest": float(rows.scores[np.unique(items.rows)].mean())}
        for scored, what in seen.items():
            answers[trained, scored] = predict_items(fitted, rows, what, compute)
            found = evaluate(rows.scores[what.rows], answers[trained, scored], means[scored], rows.groups[what.rows])
            ways.append(Way(trained, scored, len(fitting), len(np.unique(fitting.rows)), found))
    at, leaked = split.validation.rows, split.leaked
    target = rows.scores[at]
    mean = float(rows.scores[split.training.rows].mean())
    parts = [rmse(target[m], answers["leaky", "leaky"][m]) if m.any() else float("nan") for m in (leaked, ~leaked)]
    return Experiment(
        ways=tuple(ways),
        lookup_rmse=rmse(target, np.where(leaked, target, mean)),
        leaked=int(leaked.sum()),
        leaked_rmse=parts[0],
        other_rmse=parts[1],
        differences={
            scored: compare(rows.scores[what.rows], answers["leaky", scored], [("honest", answers["honest", scored])],
                            rows.groups[what.rows])[0]
            for scored, what in seen.items()
        },
        table=pd.concat(
            [
                pd.DataFrame({
                    "Id": np.array(ids)[what.rows], "copy": np.array(VIEWS)[what.copies], "scored": scored,
                    "copy_trained_on": leaked if scored == "leaky" else False, "target": rows.scores[what.rows],
                    "leaky": answers["leaky", scored], "honest": answers["honest", scored],
                })
                for scored, what in seen.items()
            ],
            ignore_index=True,
        ),
    )  # fmt: skip


def predict_items(fitted: Fitted, rows: LabelledPhotos, items: Items, compute: Compute) -> Floats:
    """Score points of `items`, each seen as the copy it is, (items,)."""
    inputs = rows.inputs(fitted.network, compute, *looked_at(items))
    return score_rows(fitted.network, inputs, items.rows, rows.metadata[items.rows], compute, view=items.copies)


def _inner(config: Config, rows: LabelledPhotos, items: Items) -> tuple[Items, Items]:
    """What the honest network is fitted on and what it watches: an inner tenth of its own photos, as they are."""
    own = np.unique(items.rows)
    _, inner = inner_split(rows.groups[own], rows.scores[own], share=config.train.inner_share, seed=config.train.seed)
    return items.take(~np.isin(items.rows, own[inner])), as_they_are(own[inner])
