"""Two rows against each other: the effect and its interval first, then a named test.

Runs are paired by seed; what is computed of them stands in :mod:`pvdr_bench.results.differences`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pvdr_bench.errors import UsageError
from pvdr_bench.plain_text import one_line
from pvdr_bench.results.aggregates import (
    Aggregates,
    aggregates_of,
    check_threshold,
    probability_of_improvement,
    scores_at,
)
from pvdr_bench.results.collect import Results
from pvdr_bench.results.differences import Verdict, bootstrap_difference, holm, stratified_t
from pvdr_bench.results.series import METRICS, Final, Row, cut_short, rows_of
from pvdr_bench.results.stats import CONFIDENCE, REPETITIONS, Interval
from pvdr_bench.words import counted, did_you_mean, nearest

FEW_SEEDS, FEW_PAIRS = 5, 8  # warned of below


@dataclass(frozen=True)
class TaskDifference:
    """A minus B in one task.

    Attributes:
        a, b: the scores of each row's seeds; of paired ones the same seeds in the same order.
        difference: mean difference with its t interval.
    """

    task: str
    a: Final
    b: Final
    difference: Interval
    test: Verdict


@dataclass(frozen=True)
class Comparison:
    """Two rows compared in every task that both have.

    Attributes:
        over: mean over tasks of the differences, with the stratified t interval; the task's own where there is one.
        bootstrap: the same difference with its stratified bootstrap interval, for comparison.
        improvement: probability that a run of A scores above one of B, mean over tasks.
        alone: each row's own aggregates over these tasks, of all its seeds, also those without a partner.
        warnings: what a reader must know.
    """

    a: Row
    b: Row
    metric: str
    confidence: float
    paired: bool
    tasks: tuple[TaskDifference, ...]
    over: Interval
    over_test: Verdict
    bootstrap: Interval
    improvement: Interval
    alone: tuple[Aggregates | None, Aggregates | None]
    warnings: tuple[str, ...]


def find_row(results: Results, name: str) -> Row:
    """The row of a title (``PVDR (fetch-push)``, as tables and figures have it), ``variant`` or ``variant:corpus``.

    Raises:
        UsageError: none, or several; the message lists the candidates.
    """
    rows = rows_of(results)
    found = next((found for found in _meant(rows, " ".join(name.split())) if found), [])
    if len(found) == 1:
        return found[0]
    corpora = len({row.corpus for row in found or rows}) > 1
    places = len({(row.scale, row.protocol_hash) for row in found or rows}) > 1
    listed = sorted({f"{row.variant}:{row.corpus}" + (f" (scale {row.scale}, protocol {row.protocol_hash})" if places
                                                      else "") for row in found or rows})
    if not found:
        close = did_you_mean(nearest(name, dict.fromkeys(word for row in rows for word in (row.label, row.variant))))
        raise UsageError(f"there is no row {name!r}", where=str(results.root),
                         hint=f"{close}there is: {', '.join(listed)}")
    ways = " and ".join(way for way, wanted in (("name the corpus, variant:corpus", corpora),
                                                ("choose with --protocol HASH", places)) if wanted)
    raise UsageError(f"{name!r} may be any of: {', '.join(listed)}", where=str(results.root), hint=ways)


def _meant(rows: list[Row], name: str) -> Iterator[list[Row]]:
    """The rows of a name, the strictest reading first: variant, variant:corpus, title, variant (corpus), any case."""
    yield [row for row in rows if row.variant == name]
    variant, colon, corpus = name.rpartition(":")
    yield [row for row in rows if colon and (row.variant, row.corpus) == (variant, corpus)]
    for same in (str, str.casefold):
        yield [row for row in rows if same(one_line(row.label)) == same(name)]
        yield [row for row in rows if same(f"{row.variant} ({row.corpus})") == same(name)]
        yield [row for row in rows if same(one_line(row.title)) == same(name)]


def compare_rows(results: Results, a: str, b: str, metric: str = "success", *, env_steps: int | None = None,
                 unpaired: bool = False, threshold: float | None = 0.5, confidence: float = CONFIDENCE,
                 repetitions: int = REPETITIONS, seed: int = 0) -> Comparison:
    """Compare row ``a`` with row ``b``; positive differences mean that A is higher.

    Args:
        a, b: ``variant`` or ``variant:corpus``.
        env_steps: compare at this point of the curves; None: the final evaluations.
        unpaired: Welch's t of all seeds instead of the paired t of the seeds that both have.
        threshold: of the steps to a threshold in ``alone``.

    Raises:
        UsageError: unknown or ambiguous names, mixed protocols, different env_steps, no common task, too few pairs, or
            a threshold that no run could score.
    """
    if metric not in METRICS:
        raise UsageError(f"there is no metric {metric!r}", hint=f"there is: {', '.join(METRICS)}")
    check_threshold(threshold, metric)
    results.require_runs()
    rows = find_row(results, a), find_row(results, b)
    if rows[0] == rows[1]:
        raise UsageError(f"{a} and {b} are the same row", hint="name two rows")
    _require_one_protocol(results, rows)
    scores, absent = _common_tasks(results, rows, metric, env_steps)
    warnings = [f"{row.label} has no evaluation in {task}, so that task is left out" for row, task in absent]
    tasks: list[TaskDifference] = []
    for task, finals in scores.items():
        kept, note = (finals, None) if unpaired else _pairs(task, rows, finals)
        warnings += [note] if note else []
        tasks.append(_difference(task, *kept, paired=not unpaired, confidence=confidence, metric=metric))
    corrected = holm([item.test.p for item in tasks])
    tasks = [TaskDifference(item.task, item.a, item.b, item.difference,
                            Verdict(item.test.name, item.test.statistic, item.test.df, item.test.p, float(p)))
             for item, p in zip(tasks, corrected, strict=True)]
    sides = [item.a.values for item in tasks], [item.b.values for item in tasks]
    over, over_test = (tasks[0].difference, tasks[0].test) if len(tasks) == 1 else stratified_t(
        *sides, paired=not unpaired, confidence=confidence, bounds=_bounds(metric))
    options: dict[str, Any] = {"confidence": confidence, "repetitions": repetitions, "seed": seed}
    names = [item.task for item in tasks]
    level = None if metric == "return" else threshold
    first, second = (aggregates_of(row, results.points, names, metric, threshold=level, env_steps=env_steps, **options)
                     for row in rows)
    return Comparison(
        rows[0], rows[1], metric, confidence, not unpaired, tuple(tasks), over, over_test,
        bootstrap_difference(*sides, not unpaired, options), probability_of_improvement(*sides, **options),
        (first, second), tuple(
            warnings + _size_warnings(tasks, not unpaired) + cut_short(rows, results, env_steps or results.at)))


def _bounds(metric: str) -> tuple[float, float] | None:
    """Differences of rates lie in [-1, 1]."""
    return None if metric == "return" else (-1.0, 1.0)


def _require_one_protocol(results: Results, rows: Sequence[Row]) -> None:
    """Refuse rows of different protocols, scales or mixed recipes; other rows do not matter."""
    kept = np.zeros(len(results.runs), dtype=bool)
    for row in rows:
        kept |= results.runs.index.isin(row.of(results.runs).index)
    runs = results.runs[kept].reset_index(drop=True)
    concerned = {f"{r.variant}/{r.task}/{r.corpus}/{r.scale}" for r in runs.itertuples()}
    problems = [problem for problem in results.problems if problem.run in concerned]
    Results(results.root, results.points, runs, problems, results.protocols).require_one_protocol()
    scales = sorted({row.scale for row in rows})
    if len(scales) > 1:
        raise UsageError(f"the rows are of different scales: {', '.join(scales)}", hint="choose one with --scale")


def _common_tasks(results: Results, rows: Sequence[Row], metric: str, env_steps: int | None,
                  ) -> tuple[dict[str, tuple[Final, Final]], list[tuple[Row, str]]]:
    """Scores of both rows by task, and (row, task) where one of them has none."""
    scores: dict[str, tuple[Final, Final]] = {}
    absent: list[tuple[Row, str]] = []
    for task in sorted({str(task) for row in rows for task in row.of(results.runs)["task"]}):
        first, second = (scores_at(row, results.points, task, metric, env_steps) for row in rows)
        gone = [(row, task) for row, final in zip(rows, (first, second), strict=True) if final.values.size == 0]
        absent += gone
        if gone:
            continue
        if first.env_steps != second.env_steps:
            raise UsageError(f"in {task} {rows[0].label} was evaluated after {first.env_steps} env_steps and "
                             f"{rows[1].label} after {second.env_steps}", where=str(results.root),
                             hint=f"--env-steps {min(first.env_steps, second.env_steps)} compares the curves there")
        scores[task] = (first, second)
    if not scores:
        at = "final evaluations" if env_steps is None else f"evaluations after {env_steps} env_steps"
        raise UsageError(f"{rows[0].label} and {rows[1].label} have {at} in no common task", where=str(results.root))
    return scores, absent


def _pairs(task: str, rows: Sequence[Row], finals: tuple[Final, Final]) -> tuple[tuple[Final, Final], str | None]:
    """Both rows' scores at the seeds that both have, and a note on those that only one has."""
    shared = sorted(set(finals[0].seeds) & set(finals[1].seeds))
    if len(shared) < 2:
        raise UsageError(f"in {task} {rows[0].label} (seeds {_list(finals[0].seeds)}) and {rows[1].label} (seeds "
                         f"{_list(finals[1].seeds)}) have {len(shared)} seeds in common: pairs cannot be tested",
                         hint="run the same seeds for both, or give --unpaired for Welch's t test of all seeds")
    alone = [f"{row.label} seeds {_list(sorted(set(final.seeds) - set(shared)))}"
             for row, final in zip(rows, finals, strict=True) if set(final.seeds) - set(shared)]
    kept = [Final(final.env_steps, final.values[index], tuple(shared), tuple(final.episodes[i] for i in index))
            for final in finals for index in [[final.seeds.index(one) for one in shared]]]
    return (kept[0], kept[1]), f"{task}: without a partner, so left out: {', '.join(alone)}" if alone else None


def _list(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) or "none"


def _difference(task: str, a: Final, b: Final, *, paired: bool, confidence: float, metric: str) -> TaskDifference:
    interval, test = stratified_t([a.values], [b.values], paired=paired, confidence=confidence, bounds=_bounds(metric))
    return TaskDifference(task, a, b, interval, test)


def _size_warnings(tasks: Sequence[TaskDifference], paired: bool) -> list[str]:
    """What few seeds, few pairs and unequal episodes mean."""
    fewest = min(min(item.a.values.size, item.b.values.size) for item in tasks)
    warnings = []
    if fewest < FEW_SEEDS:
        warnings.append(f"{counted(fewest, 'seed')}: below {FEW_SEEDS} an interval says little more than that "
                        "seeds are few")
    if paired and fewest < FEW_PAIRS:
        smallest = 2.0 ** (1 - fewest)
        family = f", and {min(smallest * len(tasks), 1.0):.2g} after Holm over {len(tasks)} tasks" * (len(tasks) > 1)
        warnings.append(f"{fewest} pairs: below {FEW_PAIRS} the test rests on differences that are normal, and no rank "
                        f"test can stand in for it: the smallest p that an exact two-sided signed-rank test can reach "
                        f"is {smallest:.2g}{family}")
    episodes = sorted({n for item in tasks for final in (item.a, item.b) for n in final.episodes})
    if len(episodes) > 1:
        warnings.append(f"evaluation episodes per seed differ: {', '.join(map(str, episodes))}")
    flat = [item.task for item in tasks if item.difference.known and np.isnan(item.test.p)]
    if flat:
        warnings.append(f"the differences do not vary in {', '.join(flat)}: an interval of zero width is not "
                        "certainty, and there is nothing to test")
    return warnings
