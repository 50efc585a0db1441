"""Whether our ordering of rows is the published one: Kendall's tau-b per table and task of ``results/paper``.

Only orderings are compared, as protocols differ. The published ordering is taken as fixed, though it has an error of
its own (five seeds): the interval says only how far our seeds leave our ordering open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pvdr_bench.errors import UsageError
from pvdr_bench.results.aggregates import scores_at
from pvdr_bench.results.collect import Results
from pvdr_bench.results.paper import PRIMARY, published
from pvdr_bench.results.series import METRICS, Final, Row, rows_of, spread_of
from pvdr_bench.results.stats import CONFIDENCE, REPETITIONS, Interval, Values, stratified_bootstrap

NEEDED = 3  # rows; an ordering of two is a coin


@dataclass(frozen=True)
class Agreement:
    """Rank agreement in one task of one published table.

    Attributes:
        corpus: the one corpus whose methods are ordered; empty: all rows of the table, method by corpus by horizon.
        common: rows that both have, ``variant:corpus`` of ours, in the published order, the best first.
        ours: their mean scores; theirs: the published numbers, in percent.
        missing: published rows that we have not run.
        tau: Kendall's tau-b in [-1, 1] with its bootstrap interval; None where there is none, and ``reason`` says why.
    """

    paper: str
    table: str
    task: str
    corpus: str
    common: tuple[str, ...]
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    missing: tuple[str, ...]
    tau: Interval | None
    reason: str


def agree(results: Results, metric: str = "success", *, tasks: Sequence[str] = (), env_steps: int | None = None,
          stand_ins: Mapping[str, str] | None = None, folder: Path | None = None, confidence: float = CONFIDENCE,
          repetitions: int = REPETITIONS, seed: int = 0) -> list[Agreement]:
    """Agreement per published table and task, of the authors' own numbers; disputed ones are left out.

    Args:
        tasks: published tasks to look at; empty: all.
        env_steps: our score at this point of the curves; None: the final evaluations.
        stand_ins: published corpus -> our corpus that stands in for it.
        folder: of the published numbers; default: the built-in ones.

    Raises:
        UsageError: mixed protocols, an unknown metric, task or corpus.
    """
    if metric not in METRICS:
        raise UsageError(f"there is no metric {metric!r}", hint=f"there is: {', '.join(METRICS)}")
    results.require_runs()
    results.require_one_protocol()
    theirs = _theirs(folder, tasks, stand_ins or {})
    rows = {f"{row.variant}:{row.corpus}": row for row in rows_of(results)}
    options: dict[str, Any] = {"confidence": confidence, "repetitions": repetitions, "seed": seed}
    found = []
    for (paper, table, task), group in theirs.groupby(["paper", "table", "task"], sort=True):
        for corpus in ["", *(sorted(group["corpus"].unique()) if group["corpus"].nunique() > 1 else [])]:
            part = group[group["corpus"].eq(corpus)] if corpus else group
            if len(part) >= NEEDED or not corpus:
                found.append(_agreement((str(paper), str(table), str(task), corpus), part, rows, results.points, metric,
                                        env_steps, options))
    return found


def _theirs(folder: Path | None, tasks: Sequence[str], stand_ins: Mapping[str, str]) -> pd.DataFrame:
    """Published success rates, at the last published point of each curve, under the names of our rows."""
    whole = published(folder, paper=None)
    whole = whole[whole["standing"].eq(PRIMARY) & whole["success"].notna() & ~whole["task"].str.startswith("all ")]
    for name, column, asked in (("published task", "task", tasks), ("published corpus", "corpus", stand_ins)):
        absent = [one for one in asked if one not in set(whole[column])]
        if absent:
            raise UsageError(f"there is no {name} {', '.join(absent)}",
                             hint=f"there is: {', '.join(sorted(whole[column].unique()))}")
    whole = whole[whole["task"].isin(tasks)] if tasks else whole
    last = whole.groupby(["paper", "table", "task", "method"])["env_steps"].transform("max")
    whole = whole[whole["env_steps"].isna() | whole["env_steps"].eq(last)].copy()
    whole["row"] = whole["variant"] + ":" + whole["corpus"].map(lambda corpus: stand_ins.get(corpus, corpus))
    return whole


def _agreement(place: tuple[str, str, str, str], theirs: pd.DataFrame, rows: Mapping[str, Row], points: pd.DataFrame,
               metric: str, env_steps: int | None, options: Mapping[str, Any]) -> Agreement:
    theirs = theirs.sort_values(["success", "row"], ascending=[False, True], kind="stable")
    scores = {name: scores_at(rows[name], points, place[2], metric, env_steps) for name in theirs["row"]
              if name in rows}
    scores = {name: final for name, final in scores.items() if final.values.size}
    common = theirs[theirs["row"].isin(list(scores))]
    names, missing = tuple(common["row"]), tuple(theirs.loc[~theirs["row"].isin(list(scores)), "row"])
    ours = [scores[name] for name in names]
    reason = _obstacle(len(theirs), missing, ours, common["success"].to_numpy())
    tau = None if reason else tau_interval(
        [final.values for final in ours], common["success"].to_numpy(), **options)
    return Agreement(*place, names, tuple(float(final.values.mean()) for final in ours),
                     tuple(map(float, common["success"])), missing, tau, reason)


def _obstacle(printed: int, missing: Sequence[str], ours: Sequence[Final], theirs: Values) -> str:
    """Why there is no rank agreement to compute; empty where there is."""
    if printed < NEEDED:
        return f"{printed} rows are published, and an ordering needs {NEEDED}"
    if len(ours) < NEEDED:
        return f"{len(ours)} rows in common, {NEEDED} are needed; not run: {', '.join(missing)}"
    budgets = sorted({final.env_steps for final in ours})
    if len(budgets) > 1:
        return f"our rows were evaluated after {spread_of(budgets)} env_steps; --env-steps {budgets[0]} compares there"
    if np.ptp(theirs) == 0.0:
        return "all published rows tie"
    if len({float(final.values.mean()) for final in ours}) == 1:
        return "all our rows tie"
    return ""


def tau_b(ours: ArrayLike, theirs: ArrayLike) -> Values:
    """Kendall's tau-b (1945), corrected for ties: (concordant - discordant) / sqrt(pairs untied here * there).

    Args:
        ours: [..., rows]. theirs: [rows], not all equal.

    Returns:
        [...], in [-1, 1]; NaN where all of ``ours`` tie.
    """
    one, two = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    first, second = np.triu_indices(two.size, 1)
    gaps = one[..., first] - one[..., second]
    signs = np.where(np.abs(gaps) <= 1e-12 * np.abs(one).max(initial=1.0), 0.0, np.sign(gaps))  # ties up to rounding
    others = np.sign(two[first] - two[second])
    untied = np.abs(signs).sum(axis=-1) * np.abs(others).sum()
    with np.errstate(invalid="ignore"):
        return np.asarray((signs * others).sum(axis=-1) / np.sqrt(untied))


def tau_interval(ours: Sequence[ArrayLike], theirs: ArrayLike, *, confidence: float = CONFIDENCE,
                 repetitions: int = REPETITIONS, seed: int = 0) -> Interval:
    """tau-b of our rows' means with a percentile bootstrap over our seeds, each row's resampled on its own.

    Args:
        ours: per row the scores of its seeds [seeds]. theirs: [rows], fixed.

    Returns:
        No bounds where a row has a single seed. A resample in which all our rows tie orders nothing and counts as 0.
    """
    fixed = np.asarray(theirs, dtype=np.float64)

    def ordered(sample: Sequence[Values]) -> Values:  # the rows are the strata: [..., 1, seeds] each -> [..., 1]
        return np.nan_to_num(tau_b(np.stack([row.mean(axis=-1) for row in sample], axis=-1), fixed), nan=0.0)

    return stratified_bootstrap(ours, statistic=ordered, confidence=confidence, repetitions=repetitions, seed=seed)
