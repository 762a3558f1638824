"""`pawpularity ensemble`: blend runs and CSVs, score every method cross-fitted, keep one blend as a run."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pawpularity.console import emit, log, make_word, next_step, table
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
    emit(result, _text(result), json)
    log(f"wrote {folder}/: weights.json for new photos, oof.csv with the cross-fitted predictions of {kept}")
    used = zip(sources, blends[kept].weights.members, strict=True)
    without_networks = [s.name for s, weight in used if s.run is None or (s.run.kind != "run" and weight)]
    if without_networks:
        log(f"make predict cannot score photos with it: no networks are saved for {listed(without_networks)}")
    next_step(f"make {'oof' if without_networks else 'predict'} {make_word('RUN', run)}")


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
    finished = listed((listed(names, " ") for names in found.values()), "; ")
    raise UserError(
        f"ensemble: needs two or more finished runs of one data set; name those to blend, or CSVs (finished: {finished})"
    )


def _text(result: dict[str, Any]) -> str:
    partition, method = result["partition"], result["method"]
    methods = [
        [f"{'*' if row['method'] == method else ' '} {row['method']}",
         f"{row['rmse']:.4f}", f"[{row['low']:.3f}, {row['high']:.3f}]",
         f"{row['difference']:+.4f}", f"[{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]",
         f"{row['same_rows_rmse']:.4f}"]
        for row in result["methods"]
    ]  # fmt: skip
    methods[0][3:5] = ["-", ""]
    members = [[one["name"], f"{one['rmse']:.3f}", f"{one['weight']:.3f}"] for one in result["members"]]
    few = "; intervals indicative (fewer than 50 rows or groups)" if result["indicative"] else ""
    why = "chosen with METHOD" if result["method_asked"] else f"the default for {result['n']} rows"
    return "\n".join([
        result["declared"],
        f"Weights are fitted without a row's fold and its near-duplicates: {partition['k']} folds, {partition['why']}.",
        _duplicates(partition),
        f"n = {result['n']}; constant (the other folds' mean) {result['constant_rmse']:.3f}{few}",
        *_no_gain(result),
        "",
        table(["  method", "RMSE", "95 %", "to best member", "95 % paired", "same rows (optimistic)"], methods),
        "",
        table(["member", "RMSE", f"weight in {method}"], members),
        f"weights fitted on all rows; intercept {result['intercept']:.3f}",
        "",
        f"* {method}: {why}. Choosing the best of {len(methods)} methods by this table would flatter it.",
        "best: the member with the lowest RMSE on the other folds. same rows: weights fitted and scored on the same rows.",
    ])  # fmt: skip


def _no_gain(result: dict[str, Any]) -> list[str]:
    """A line for a blend that is no better than the constant, whatever it gains over its members."""
    c = result["to_constant"]
    span = f"paired difference {c['difference']:+.3f} [{c['low']:+.3f}, {c['high']:+.3f}]"
    return [] if c["better"] else [f"NO BETTER THAN THE CONSTANT: {c['name']} {c['rmse']:.3f}, {span}."]


def _duplicates(partition: dict[str, Any]) -> str:
    if not partition["groups_known"]:
        return "Near-duplicates are not known; every row is its own group (--folds FILE names them)."
    text, spanning = f"Near-duplicates: {partition['groups']} group(s), kept together", partition["groups_spanning"]
    return (
        f"{text}; {spanning} span(s) folds: left out of the fits, but members may have seen them."
        if spanning
        else f"{text}."
    )
