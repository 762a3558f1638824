"""`pawpularity ensemble`: blend runs and CSVs, score every method cross-fitted, keep one blend as a run."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pawpularity.console import emit, log, make_line, next_step, span, table
from pawpularity.ensemble.blend import cross_fit, figures, open_members, partition_of
from pawpularity.ensemble.methods import NAMES, default_method
from pawpularity.ensemble.record import check_free, write_blend
from pawpularity.errors import UserError, listed, nearest
from pawpularity.evaluation.bootstrap import DRAWS
from pawpularity.evaluation.compare import compare
from pawpularity.evaluation.metrics import INDICATIVE_BELOW
from pawpularity.evaluation.oof import constant_predictions
from pawpularity.evaluation.predictions import search_note
from pawpularity.files import read_json
from pawpularity.runs import OOF, Run, check_name, run_names

DECLARED = (
    "Taken as declared: no member saw the rows it scores, nor chose its epoch on them. "
    "`pawpularity leakcheck` looks for signs."
)


def ensemble(
    members: Sequence[str] = (),
    *,
    method: str | None = None,
    run: str = "ensemble",
    folds: Path | None = None,
    scale: float | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    json: str | None = None,
) -> None:
    """Blend `members` (runs below oof/ or CSVs; default: all finished runs) and keep the blend by `method` as `run`.

    `folds`: a folds file whose near-duplicates are kept together. `scale`: multiplies predictions that lie in 0..1.
    `seed`: of the resamples, and of the folds where they must be dealt. `draws`: bootstrap resamples.
    """
    if method not in (None, *NAMES):
        raise UserError(f"--method {method}: is not known{nearest(str(method), NAMES)}")
    folder = OOF / check_name(run)
    check_free(folder)
    if len(members) == 1:
        raise UserError(
            f"ensemble: a blend needs two members or more, {members[0]} alone is none; run: {_cure(members)}"
        )
    if not members:
        members = finished_runs()
        log(f"members {listed(members, ' ')}: all finished runs below {OOF}/")
    sources = open_members(members, scale, folds)
    if note := search_note(sources):
        log(note)
    partition = partition_of(sources, seed)
    kept = method or default_method(len(partition.fold))
    blends = {name: cross_fit(name, sources, partition) for name in NAMES}
    rows = figures(sources[0].target, list(blends.values()), partition.groups, draws=draws, seed=seed)
    settings = {"seed": seed, "scale": scale, "folds": None if folds is None else folds.as_posix()}
    write_blend(folder, sources, partition, blends[kept], {k: v for k, v in settings.items() if v is not None})
    result = read_json(folder / "weights.json", f"blend {run}")
    independent = len(set(partition.groups.tolist()))
    result |= {"run": run, "declared": DECLARED, "indicative": independent < INDICATIVE_BELOW, "methods": rows,
               "constant_rmse": result["rmse"]["constant"], "method_asked": method is not None}  # fmt: skip
    constant = constant_predictions(sources[0].table.assign(fold=partition.fold))
    (gain,) = compare(
        sources[0].target, constant, [(kept, blends[kept].prediction)], partition.groups, draws=draws, seed=seed
    )
    result["to_constant"] = gain.to_dict() | {"better": gain.high < 0}
    emit(result, _text(result), json, more=_more(result))
    log(f"wrote {folder}/: weights.json, and the cross-fitted predictions of {kept} in oof.csv")
    used = zip(sources, blends[kept].weights.members, strict=True)
    without_networks = [s.name for s, weight in used if s.run is None or (not s.run.has_networks and weight)]
    if without_networks:
        log(f"make predict cannot score photos with it: no networks are saved for {listed(without_networks)}")
    next_step(f"make {'oof' if without_networks else 'predict'}", RUN=run)


def finished_runs() -> list[str]:
    """All finished runs below oof/ except blends, leaky runs, trials of a search and cells of Table 1.

    Raises UserError unless exactly one data set has two or more.
    """
    found: dict[str, list[str]] = {}
    for name in run_names():
        with suppress(UserError):  # `make oof` reports a damaged run
            run = Run.open(OOF / name)
            # Cells of Table 1 and trials of a search are variants of one another, made to be compared.
            variant = name.startswith("table1-") or run.searched.startswith("trial")
            if run.has_folds and not run.leaky and not variant and len(run.trained_folds()) == run.k:
                found.setdefault(run.record["data"]["hash"], []).append(name)
    sets = [names for names in found.values() if len(names) > 1]
    if len(sets) == 1:
        return sets[0]
    finished = [names for names in found.values() if names]
    if len(sets) > 1:
        cure = " or ".join(make_line("make ensemble", MEMBERS=names) for names in sets[:3])
    else:
        cure = _cure(finished[0] if finished else [])
    known = listed((listed(names, " ") for names in finished), "; ") or "none"
    raise UserError(f"ensemble: needs two or more finished runs of one data set (finished: {known}); run: {cure}")


def _cure(names: Sequence[str]) -> str:
    """The command that trains a second member: the first one's config with another seed."""
    if names and (OOF / names[0] / "config.json").is_file():
        return f"{Run.open(OOF / names[0]).train_line(f'{names[0]}-seed1')} train.seed=1"
    return "make train"


def _text(result: dict[str, Any]) -> str:
    method, rows = result["method"], {row["method"]: row for row in result["methods"]}
    kept, few = rows[method], "; intervals indicative (fewer than 50 rows or groups)" if result["indicative"] else ""
    why = "chosen with METHOD" if result["method_asked"] else f"the default for {result['n']:,} rows"
    weights = listed(f"{one['name']} {one['weight']:.2f}" for one in result["members"])
    return "\n".join([
        f"{method} ({why}): RMSE {kept['rmse']:.2f} [{kept['low']:.2f}, {kept['high']:.2f}], cross-fitted; n = {result['n']:,}; "
        f"constant {result['constant_rmse']:.2f}{few}",
        *_no_gain(result),
        f"weights: {weights}; intercept {result['intercept']:.2f}",
        _methods([row for name, row in rows.items() if not name.endswith("+affine")], method),
        f"Choosing the best of the {len(rows)} methods by this table would flatter it.",
    ])  # fmt: skip


def _more(result: dict[str, Any]) -> str:
    """The other methods, and how all of them were scored."""
    partition, method, rows = result["partition"], result["method"], result["methods"]
    alone = ", ".join(f"{one['name']} {one['rmse']:.2f}" for one in result["members"])
    fitted = ", ".join(f"{row['method']} {row['same_rows_rmse']:.2f}" for row in rows)
    return "\n".join([
        _methods([row for row in rows if row["method"].endswith("+affine")], method),
        "",
        f"members alone: {alone}",
        f"weights fitted and scored on the same rows (optimistic): {fitted}",
        "best: the member with the lowest RMSE on the other folds.",
        f"Weights are fitted without a row's fold and its near-duplicates: {partition['k']} folds, {partition['why']}.",
        _duplicates(partition),
        result["declared"],
    ])  # fmt: skip


def _methods(rows: Sequence[dict[str, Any]], kept: str) -> str:
    """A line per method; * marks the one that is kept."""
    cells = [
        [f"{'*' if row['method'] == kept else ' '} {row['method']}", f"{row['rmse']:.2f}",
         f"[{row['low']:.2f}, {row['high']:.2f}]",
         "" if row["method"] == "best" else span(row["difference"], row["difference_low"], row["difference_high"])]
        for row in rows
    ]  # fmt: skip
    return table(["  method", "RMSE", "95 %", "to best, paired 95 %"], cells)


def _no_gain(result: dict[str, Any]) -> list[str]:
    """A line for a blend that is no better than the constant, whatever it gains over its members."""
    c = result["to_constant"]
    paired = f"paired difference {span(c['difference'], c['low'], c['high'])}"
    return [] if c["better"] else [f"NO BETTER THAN THE CONSTANT: {c['name']} {c['rmse']:.2f}, {paired}."]


def _duplicates(partition: dict[str, Any]) -> str:
    if not partition["groups_known"]:
        return "Near-duplicates are not known; every row is its own group (--folds FILE names them)."
    text, spanning = f"Near-duplicates: {partition['groups']} group(s), kept together", partition["groups_spanning"]
    return (
        f"{text}; {spanning} span(s) folds: left out of the fits, but members may have seen them."
        if spanning
        else f"{text}."
    )
