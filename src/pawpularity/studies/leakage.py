"""Question: how much of the paper's RMSE of 9.3 comes from the leak?

Command: `make leakage [LABELS=train.csv] [COPIES=authors] [DATA=DIR] [CONFIG=NAME]`.
Result: printed (`--json` for all figures); with photos also oof/leakage/RUN/: result.json, predictions.csv, leakage.png.

The authors' code lists photos and their transformed copies, keeps no Id, and splits that list at random, 90 to 10, with
seed 42. So most validation samples have a copy of themselves, with the score to be predicted, in the training set.

The replay needs labels only. It rebuilds that list and split exactly: samples in table order, a photo's samples in the order
original, flip, blur, crop, split by `torch.randperm` as `random_split` does. It answers with the score of a copy in training, or
else with the training samples' mean.

The experiment trains the same network in two ways, leaky and honest, and scores both networks in two ways. Neither trains on fold 0
of the honest folds, whose photos are scored without copies (the honest way). The samples of the other folds are split as in the
paper, and the random tenth is scored (the leaky way). The leaky network trains on all other samples and stops early by the tenth.
The honest network trains on the photos that have no copy or near-duplicate in the tenth. So it has fewer samples, above all of the
rare scores, which widens the gap.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.config import Config, resolve
from pawpularity.console import duration, emit, log, next_step, span, table
from pawpularity.context import Context, choose_data, context, default_config, draw_if_missing
from pawpularity.data.augment import AUGMENTATIONS
from pawpularity.data.augment import copies as copies_under
from pawpularity.data.tables import ID, TARGET, read_train
from pawpularity.errors import UserError, nearest
from pawpularity.evaluation.compare import compare
from pawpularity.evaluation.metrics import evaluate, indicative, rmse
from pawpularity.evaluation.oof import write_oof
from pawpularity.files import atomic_file, plain, write_json, write_text
from pawpularity.runs import OOF, record_of

if TYPE_CHECKING:
    from pawpularity.device import Compute
    from pawpularity.training.samples import Samples, TrainingData

FOLDER = OOF / "leakage"
RULES = ("authors", "paper", "none")
SEED, SEEDS = 42, 200
FIXED = {"augment": "none", "views": 0, "mixup": 0.0, "manifold_mixup": 0.0, "split": "honest", "refit": False}
"""The `train` settings of the experiment, which fix the list of samples; --copies sets `copies`."""
WAYS = ("leaky", "honest")

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


def leakage(
    *, labels: str | None = None, copies: str = "authors", replay_only: bool = False, answers: str | None = None,
    config: str | None = None, data: str | None = None, settings: Sequence[str] = (), json: str | None = None,
) -> None:  # fmt: skip
    """`pawpularity leakage`: the replay, and with photos the experiment."""
    if labels and (data or config or settings):
        raise UserError("--labels replays the split from a table; remove --data, --config and settings")
    if copies not in RULES:
        raise UserError(f"--copies {copies}: must be one of {', '.join(RULES)}{nearest(copies, RULES)}")
    if fixed := [word for word in settings if word.startswith(tuple(f"train.{key}" for key in ("copies", *FIXED)))]:
        raise UserError(f'leakage: "{fixed[0]}" is set by the experiment (copies by --copies); remove it')
    place = Path(labels) if labels else choose_data(data)
    resolve(config or default_config(place), settings)
    draw_if_missing(place)
    frame = read_train(place)
    scores = frame[TARGET].to_numpy(dtype=float)
    if len(scores) < 20:
        raise UserError(f"{place}: has {len(scores)} rows; the split needs 20 or more")
    trains = not labels and not replay_only and (place / "train").is_dir()
    if trains and copies == "none":
        raise UserError("--copies none leaks nothing, so there is nothing to train; add --replay-only")
    value = replay(scores, copies) | {"copies": copies, "seed": SEED, "over_seeds": over_seeds(scores, copies)}
    text, more = replay_text(place, value), ""
    if answers:
        write_oof(Path(answers), answers_table(frame[ID].tolist(), scores, copies))
        log(f"wrote {answers}: answers from labels alone")
    if trains:
        value["experiment"], folder = run_experiment(context(config, data, None, settings), copies)
        text += f"\n{experiment_text(value['experiment'])}"
        more = more_text(value["experiment"])
    emit(value, text, json, more=more)
    if trains:
        log(f"wrote {folder}/")
    if answers:
        next_step("make leakcheck", OOF=answers)
    else:
        next_step("make table1" if trains else "make hypotheses", DATA=labels or data)


# --- The replay -------------------------------------------------------------------------------------------------------


def paper_list(scores: Floats, rule: str, seed: int = SEED) -> tuple[Rows, Rows, Mask]:
    """The paper's samples under `rule`, from scores (n,) in table order: (photo, copy, whether it is in validation) of each.

    Copy 0 is the photo itself; 1 to 3 are its flip, blur and crop.
    """
    from pawpularity.training.samples import random_tenth

    rows, copy_of = np.nonzero(copies_under(scores, rule, 0))
    return rows, copy_of, random_tenth(len(rows), seed)


def lookup(scores: Floats, rows: Rows, validated: Mask) -> tuple[Floats, Mask, float]:
    """Answer each validation sample with the score of a copy in training, or else with the training samples' mean.

    Returns (answers, whether the sample has a copy in training, that mean); the first two are (validated,).
    """
    known, mean = np.isin(rows[validated], rows[~validated]), float(scores[rows[~validated]].mean())
    return np.where(known, scores[rows[validated]], mean), known, mean


def replay(scores: Floats, rule: str = "authors", seed: int = SEED) -> dict[str, Any]:
    """The figures of `lookup` on the paper's split of `scores` (n,), in table order. RMSEs, means and sds in score points."""
    rows, copy_of, validated = paper_list(scores, rule, seed)
    answers, known, mean = lookup(scores, rows, validated)
    target = scores[rows[validated]]
    value, sd = rmse(target, answers), float(target.std())
    parts = {"leaked": target[known], "other": target[~known]}
    return plain({
        "photos": len(scores), "samples": len(rows), "copied_photos": len(np.unique(rows[copy_of > 0])),
        "validation": len(target), "siblings": int(known.sum()), "sibling_share": float(known.mean()),
        "training_mean": mean, "lookup_rmse": value, "constant_rmse": rmse(target, np.full(len(target), mean)), "sd": sd,
        "r2": 1 - (value / sd) ** 2 if sd > 0 else None,
        **{f"{name}_mean": float(part.mean()) if len(part) else None for name, part in parts.items()},
        **{f"{name}_sd": float(part.std()) if len(part) else None for name, part in parts.items()},
    })  # fmt: skip


def over_seeds(scores: Floats, rule: str = "authors") -> dict[str, Any]:
    """Mean and sd (ddof 1) over seeds 0 to 199 of the figures that depend on the split."""
    found = pd.DataFrame([replay(scores, rule, seed) for seed in range(SEEDS)])
    names = ("sibling_share", "lookup_rmse", "constant_rmse")
    return {"seeds": SEEDS, **{name: {"mean": found[name].mean(), "sd": found[name].std()} for name in names}}


def answers_table(ids: list[str], scores: Floats, rule: str = "authors") -> pd.DataFrame:
    """The answers of `lookup` as an out-of-fold table of one fold, to try leak detectors on.

    A row per validation sample; the Id of a copy is `ID-flip`, `ID-blur` or `ID-crop`.
    """
    rows, copy_of, validated = paper_list(scores, rule)
    answers, _, _ = lookup(scores, rows, validated)
    pairs = zip(rows[validated].tolist(), copy_of[validated].tolist(), strict=True)
    names = [f"{ids[row]}-{AUGMENTATIONS[copy]}" if copy else ids[row] for row, copy in pairs]
    found = pd.DataFrame({ID: names, "fold": 0, "target": scores[rows[validated]], "prediction": answers})
    return found.sort_values(ID, ignore_index=True)


def replay_text(place: Path, v: dict[str, Any]) -> str:
    """The replay in six lines."""
    seeds = v["over_seeds"]
    share = seeds["sibling_share"]
    answers = (("lookup_rmse", "the copy's score, else the mean"), ("constant_rmse", "the training samples' mean"))
    rows = [(words, f"{v[key]:.2f}", f"{seeds[key]['mean']:.2f} +- {seeds[key]['sd']:.2f}") for key, words in answers]
    return "\n".join([
        f"The paper's split of {place}, from labels only (copies: {v['copies']}, seed {v['seed']}):",
        f"{v['samples']:,} samples of {v['photos']:,} photos; of {v['validation']:,} in validation {v['siblings']:,} "
        f"({v['sibling_share']:.1%}) have a copy in training ({share['mean']:.1%} +- {share['sd']:.1%} over {SEEDS} seeds)",
        table(("answer, from labels only", "RMSE", f"{SEEDS} seeds"), rows),
    ])  # fmt: skip


# --- The experiment ---------------------------------------------------------------------------------------------------


def run_experiment(work: Context, rule: str) -> tuple[dict[str, Any], Path]:
    """Train both networks, score them both ways, write oof/leakage/RUN/; returns the figures and that folder."""
    from pawpularity.device import choose as choose_device
    from pawpularity.training.samples import TrainingData

    config = work.config.with_values({f"train.{key}": value for key, value in {"copies": rule, **FIXED}.items()})
    data, compute = TrainingData.load(work.dataset, work.folds, config), choose_device(config.train.dtype)
    ids = np.array(sorted(work.dataset.train[ID]))
    held = np.flatnonzero(work.folds.folds_of(ids) == 0)
    log(f"trains two networks ({config.model.backbone}, {config.train.epochs} epochs at most) on {compute}; {len(held)} photos of "
        "fold 0 are set aside")  # fmt: skip
    started = time.perf_counter()
    value, rows = both_ways(config, data, held, compute)
    seconds = round(time.perf_counter() - started, 1)
    folds = {"hash": work.folds.hash, "held": 0, "photos": len(held)}
    record = record_of(config, data={"name": work.dataset.name, "hash": work.dataset.hash}, folds=folds, weights={})
    value |= record | {"kind": "leakage", "seconds": seconds}
    rows.insert(0, ID, ids[rows.pop("row")])
    rows = rows.sort_values(["scored", ID, "copy"], kind="stable")
    folder = FOLDER / work.run.name
    write_text(folder / "predictions.csv", rows.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    draw_experiment(folder / "leakage.png", value, rows)
    write_json(folder / "result.json", value)
    return value, folder


def both_ways(
    config: Config, data: "TrainingData", held: Rows, compute: "Compute"
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The experiment's figures, and a row per scored sample. `held`: the rows set aside, scored the honest way.

    Raises UserError if too few photos are left to train on.
    """
    from pawpularity.training.fit import fit_samples, predict_samples, progress_hooks
    from pawpularity.training.samples import originals, paper_split

    training, validation = paper_split(config, data, np.flatnonzero(~np.isin(data.groups, data.groups[held])))
    honest = honest_samples(training, validation, data.groups)
    if len(honest) < 8 or not len(validation):
        raise UserError(f"{len(data.scores)} photos: too few to train on without a fold and a tenth of the samples")
    scored = {"leaky": validation, "honest": originals(held)}
    rows = pd.concat([pd.DataFrame({"row": what.rows, "copy": np.array(AUGMENTATIONS)[what.copies], "scored": way})
                      for way, what in scored.items()], ignore_index=True)  # fmt: skip
    rows["copy_trained_on"] = (rows["scored"] == "leaky") & rows["row"].isin(training.rows)
    rows["target"] = data.scores[rows["row"]]
    ways: list[dict[str, Any]] = []
    for trained, samples in {"leaky": training, "honest": honest}.items():
        inner = trained == "honest" and config.train.stop != "none"
        fitting, watched = _inner(config, data, samples) if inner else (samples, validation)
        with progress_hooks(config, f"{trained} training") as hooks:
            fitted = fit_samples(config, data, fitting, watched, compute=compute, hooks=hooks)
        rows[trained] = np.concatenate([predict_samples(fitted, data, what, compute) for what in scored.values()])
        # The constant of the leaky way is the mean of samples, as in the paper; that of the honest way the mean of photos.
        constants = {"leaky": fitted.training_mean, "honest": float(data.scores[np.unique(samples.rows)].mean())}
        about = {"trained": trained, "samples": len(fitting), "photos": len(np.unique(fitting.rows))}
        for way, own in rows.groupby("scored", sort=False):
            target, answers = own[["target", trained]].to_numpy(dtype=np.float64).T
            result = evaluate(target, answers, constants[str(way)], data.groups[own["row"]])
            ways.append({**about, "scored": way, **result.to_dict()})
    leaky = rows[rows["scored"] == "leaky"]
    known = np.where(leaky["copy_trained_on"], leaky["target"], data.scores[training.rows].mean())
    with_copy, without = leaky[leaky["copy_trained_on"]], leaky[~leaky["copy_trained_on"]]
    return plain({
        "ways": ways,
        "lookup_rmse": rmse(leaky["target"], known),
        "validation": len(leaky),
        "siblings": len(with_copy),
        "leaky_rmse_with_sibling": rmse(with_copy["target"], with_copy["leaky"]) if len(with_copy) else None,
        "leaky_rmse_without_sibling": rmse(without["target"], without["leaky"]) if len(without) else None,
        "honest_minus_leaky": {way: _paired(own, data.groups) for way, own in rows.groupby("scored", sort=False)},
    }), rows  # fmt: skip


def _paired(rows: pd.DataFrame, groups: Rows) -> dict[str, Any]:
    target, leaky, honest = rows[["target", *WAYS]].to_numpy(dtype=np.float64).T
    return compare(target, leaky, [("honest", honest)], groups[rows["row"]])[0].to_dict()


def honest_samples(training: "Samples", validation: "Samples", groups: Rows) -> "Samples":
    """The samples of `training` whose photo has no copy and no near-duplicate (`groups`, by row) in `validation`."""
    return training.take(~np.isin(groups[training.rows], groups[validation.rows]))


def _inner(config: Config, data: "TrainingData", samples: "Samples") -> tuple["Samples", "Samples"]:
    """The honest network's samples for fitting and for early stopping: an inner share of its photos, without copies."""
    from pawpularity.data.folds import inner_split
    from pawpularity.training.samples import originals

    photos, train = np.unique(samples.rows), config.train
    _, inner = inner_split(data.groups[photos], data.scores[photos], share=train.inner_share, seed=train.seed)
    return samples.take(~np.isin(samples.rows, photos[inner])), originals(photos[inner])


def experiment_text(value: dict[str, Any]) -> str:
    """The experiment as a table: both networks, scored both ways."""
    scored = {"leaky": "tenth with copies", "honest": "unseen photos"}
    ways = sorted(value["ways"], key=lambda way: list(scored).index(way["scored"]))
    rows: list[tuple[object, ...]] = [
        (scored[w["scored"]], f"trained {w['trained']}", w["n"],
         f"{w['rmse']:.2f} [{w['low']:.2f}, {w['high']:.2f}]{indicative(w)}", f"{w['constant_rmse']:.2f}") for w in ways
    ]  # fmt: skip
    for at, way in ((2, "leaky"), (5, "honest")):
        c = value["honest_minus_leaky"][way]
        difference = span(c["difference"], c["low"], c["high"])
        rows.insert(at, ("", "honest - leaky", "", difference, f"p {c['p']:.3f}"))
    rows.insert(0, (scored["leaky"], "labels only", "", f"{value['lookup_rmse']:.2f}", ""))
    return table(("scored on", "network", "n", "RMSE, 95 %", "constant"), rows, left=(0, 1))


def more_text(value: dict[str, Any]) -> str:
    """What the copies are worth, and what was trained."""
    parts = {word: value[f"leaky_rmse_{word}_sibling"] for word in ("with", "without")}
    figures = " and ".join(f"{rmse:.2f} {word}" for word, rmse in parts.items() if rmse is not None)
    samples = ", ".join(f"{w['trained']} {w['samples']:,}" for w in value["ways"] if w["scored"] == "honest")
    return (f"On the tenth the leaky network's RMSE is {figures} a copy in training ({value['siblings']} of "
            f"{value['validation']} samples have one).\n"
            f"{value['config']['model']['backbone']}, {duration(value['seconds'])}; samples trained on: {samples}.")  # fmt: skip


def draw_experiment(path: Path, value: dict[str, Any], predictions: pd.DataFrame) -> None:
    """Write a PNG of predictions against true scores: rows by training, columns by scoring. Same figures, same bytes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 8.6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    titles = {"leaky": "(photos and copies)", "honest": "(photos never seen)"}
    for w in value["ways"]:
        ax = axes[WAYS.index(w["trained"]), WAYS.index(w["scored"])]
        rows = predictions[predictions["scored"] == w["scored"]]
        # Half a point of jitter: equal points would hide one another.
        x = rows["target"] + np.random.default_rng(0).uniform(-0.5, 0.5, len(rows))
        known = rows["copy_trained_on"].astype(bool) & (w["trained"] == "leaky")
        for mask, colour, label in (
            (~known, "#2f6690", "no copy in training"), (known, "#c8553d", "a copy in training"),
        ):  # fmt: skip
            ax.scatter(x[mask], rows[w["trained"]][mask], s=9, alpha=0.5, c=colour, linewidths=0, label=label)
        ax.plot([0, 100], [0, 100], color="#333333", linewidth=0.8)
        ax.set(xlim=(0, 102), ylim=(0, 102))
        figures = (
            f"RMSE {w['rmse']:.2f} [{w['low']:.2f}, {w['high']:.2f}]{indicative(w)}   constant {w['constant_rmse']:.2f}"
        )
        way = f"trained the {w['trained']} way, scored the {w['scored']} way {titles[w['scored']]}"
        ax.set_title(f"{way}\n{figures}", fontsize=8.5)
    axes[0, 0].legend(fontsize=8, loc="upper left", frameon=False)
    figure.supxlabel("true score")
    figure.supylabel("prediction")
    figure.suptitle(f"{value['data']['name']}: the same network, the same photos, two ways to split")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
