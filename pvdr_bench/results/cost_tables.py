"""Tables of what runs cost: where their time went (``time``), and hours and FLOP beside success (``cost``).

Runs spend unlike amounts at equal env_steps: the comparison is of equal experience, not of equal compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from pvdr_bench.errors import UsageError
from pvdr_bench.results.collect import Results
from pvdr_bench.results.series import (
    METRICS,
    Row,
    budget_words,
    budgets_of,
    caption_facts,
    final_interval,
    final_values,
    left_out,
    over_tasks,
    rows_of,
)
from pvdr_bench.results.stats import CONFIDENCE, REPETITIONS, Interval, t_interval
from pvdr_bench.results.tables import Cell, Table
from pvdr_bench.runs.contents import RunContents
from pvdr_bench.runs.cost import KINDS, RunCost, device_hours, read_cost
from pvdr_bench.words import counted

UNKNOWN = "—"  # a run does not tell: nothing is guessed
GIGA, TERA = 1e9, 1e12
Value = Callable[[RunCost], float | None]
_FLOP: dict[str, Value] = {
    "GFLOP per decision, acting": lambda cost: _scaled(cost.acting, GIGA),
    "GFLOP per decision, learning": lambda cost: _scaled(cost.learning, GIGA),
    "GFLOP per update": lambda cost: _scaled(cost.update, GIGA),
    "TFLOP in all": lambda cost: _scaled(cost.flop, TERA),
}


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def build_time_table(results: Results, *, confidence: float = CONFIDENCE, allow_mixed: bool = False) -> Table:
    """Decisions per second, hours, and the share of wall time in each of :data:`~pvdr_bench.runs.cost.KINDS`.

    Raises:
        UsageError: protocols are mixed, or there is no run.
        DataError: a run's file is broken.
    """
    costs = costs_of(results, allow_mixed)
    values: dict[str, Value] = {"decisions per second": lambda cost: cost.decisions_per_second,
                                **_hours(costs), **{kind: _share(kind) for kind in KINDS}}
    units = ("digits",) * (len(values) - len(KINDS)) + ("percent",) * len(KINDS)
    kinds = "; ".join(f"{kind}: {text}" for kind, text in KINDS.items())
    caption = ("Decisions per second of training, in all environments together, and percent of the wall time of whole "
               f"runs, which add up to 100 ({kinds}). {_caption(results, costs, confidence)}")
    return _table("time", results, costs, values, units, confidence, caption)


def _share(kind: str) -> Value:
    return lambda cost: cost.shares.get(kind)


def build_cost_table(results: Results, metric: str = "success", *, confidence: float = CONFIDENCE,
                     repetitions: int = REPETITIONS, allow_mixed: bool = False) -> Table:
    """Final success (of all tasks where there are several) beside hours and FLOP.

    Args:
        metric: a key of :data:`~pvdr_bench.results.series.METRICS`.

    Raises:
        UsageError: protocols are mixed, there is no run, or the metric is unknown.
        DataError: a run's file is broken.
    """
    if metric not in METRICS:
        raise UsageError(f"there is no metric {metric!r}", hint=f"there is: {', '.join(METRICS)}")
    costs = costs_of(results, allow_mixed)
    values = {**_hours(costs), "artefact hours": lambda cost: cost.artefact_hours, **_FLOP,
              "artefact TFLOP": lambda cost: _scaled(cost.artefact_flop, TERA)}
    given = "methods were not given the same env_steps, and" if len(_budgets(results)) > 1 else (
        "methods were given the same env_steps,")
    caption = (f"What a run took beside what it came to, at the end of its budget: {given} not the same compute. "
               f"{METRICS[metric].capitalize()}: as in the table of final evaluations. Artefact hours and TFLOP: "
               "training the models that a run stands on (pre-trained, tokenizers), each counted whole, though runs "
               "share them, validations not in the FLOP. FLOP are those of matrix products, convolutions and "
               "attention, per decision of training and of the whole run, evaluations included; an update is all that "
               "one round learns. "
               f"{_caption(results, costs, confidence)}")
    table = _table("cost", results, costs, values, ("digits",) * len(values), confidence, caption)
    tasks, name = sorted(map(str, results.runs["task"].unique())), METRICS[metric]
    for row in table.rows:
        table.cells[row, name] = _success(row, results, tasks, metric, confidence, repetitions)
    unit = "number" if metric == "return" else "percent"
    return Table("cost", (name, *table.columns), (unit, *table.units), (name, *table.columns), table.rows, table.cells,
                 table.caption, table.notes, table.reported, UNKNOWN)


def _success(row: Row, results: Results, tasks: list[str], metric: str, confidence: float,
             repetitions: int) -> Cell | None:
    finals = [final_values(row, results.points, task, metric) for task in tasks]
    interval: Interval | None
    if len(tasks) > 1:
        interval = over_tasks(row, results.points, tasks, metric, confidence=confidence, repetitions=repetitions)
    else:
        interval = final_interval(row, results.points, tasks[0], metric, confidence=confidence)[1]
        interval = interval if finals[0].values.size else None
    return None if interval is None else Cell(interval, tuple(final.env_steps for final in finals),
                                              tuple(n for final in finals for n in final.episodes))


def costs_of(results: Results, allow_mixed: bool = False) -> dict[Row, list[RunCost]]:
    """The cost of every run of every row that has a final evaluation, up to that.

    Raises:
        UsageError: protocols are mixed, or there is no run.
        DataError: a run's file is broken.
    """
    results.require_runs()
    results.require_one_protocol(allow_mixed=allow_mixed)
    found: dict[Row, list[RunCost]] = {}
    for row in rows_of(results):
        final = row.of(results.points)
        final = final[final["point"].eq("final") & final["complete"].astype(bool)].drop_duplicates("path", keep="last")
        repeat = int(results.protocols[row.protocol_hash].get("action_repeat", 1))
        found[row] = [read_cost(RunContents(results.places[str(path)]), repeat, int(steps))
                      for path, steps in zip(final["path"], final["env_steps_made"], strict=True)]
    return found


def _hours(costs: Mapping[Row, list[RunCost]]) -> dict[str, Value]:
    """A column for each kind of device that runs were made on."""
    devices = {cost.device for row in costs.values() for cost in row if cost.hours is not None}
    return {device_hours(device): _hours_on(device) for device in sorted(devices, key=lambda name: name or "unknown")}


def _hours_on(device: str | None) -> Value:
    return lambda cost: cost.hours if cost.device == device else None


def _table(metric: str, results: Results, costs: Mapping[Row, list[RunCost]], values: Mapping[str, Value],
           units: tuple[str, ...], confidence: float, caption: str) -> Table:
    """A column per value, its mean over runs; nothing where a single run of the row does not tell."""
    cells: dict[tuple[Row, str], Cell | None] = {}
    for row, runs in costs.items():
        for (column, value), unit in zip(values.items(), units, strict=True):
            numbers = [number for run in runs if (number := value(run)) is not None]
            bounds = (0.0, 1.0 if unit == "percent" else math.inf)  # neither time nor work is less than none
            cells[row, column] = Cell(t_interval(np.array(numbers), confidence=confidence, bounds=bounds), (), ()) \
                if runs and len(numbers) == len(runs) else None
    columns = tuple(values)
    return Table(metric, columns, units, columns, tuple(costs), cells, caption, tuple(left_out(results)),
                 pd.DataFrame(), UNKNOWN)


def _caption(results: Results, costs: Mapping[Row, list[RunCost]], confidence: float) -> str:
    tasks = ", ".join(sorted(map(str, results.runs["task"].unique())))
    runs = counted(sum(len(runs) for runs in costs.values()), "run")
    return (f"Means over a row's runs, {runs} of {tasks} in all, with a final evaluation [{100 * confidence:g} % "
            "Student t interval over runs, clipped at 0, and percentages at 100]. Hours are wall time on whatever "
            "stood there, other work beside it included; what runs stand on and share is not in them. "
            f"{UNKNOWN}: not recorded by these runs. {budget_words(_budgets(results))} "
            + " ".join(caption_facts(results)))


def _budgets(results: Results) -> set[int]:
    return budgets_of(rows_of(results), results, sorted(map(str, results.runs["task"].unique())))
