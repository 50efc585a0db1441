"""Sensitivity: the final score against one key's value, from a method and its variants ``method@key=value``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pvdr_bench.catalog.resolve import split_variant
from pvdr_bench.errors import UsageError
from pvdr_bench.results.collect import Results
from pvdr_bench.results.figures.facets import BACKGROUND, BACKGROUND_LABEL, Facet, facets_of, rows_called
from pvdr_bench.results.figures.layout import Sheet, Width
from pvdr_bench.results.figures.style import (
    Plot,
    close_caption,
    line_look,
    metric_label,
    rate_axis,
    require,
    style,
    tasks_of,
)
from pvdr_bench.results.looks import Look, Name, assign
from pvdr_bench.results.series import METRICS, Row, bounds_of, budgets_of, final_interval, final_words, rows_of
from pvdr_bench.results.stats import CONFIDENCE
from pvdr_bench.runs.directory import RunDir

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DECADES = 1.2  # values further apart are drawn on a logarithmic axis


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All keys of a nested mapping, dotted, with their values."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def key_value(config: dict[str, Any], key: str) -> Any:
    """The value of ``key``, dotted or its last part alone.

    Raises:
        UsageError: no key, or several, end in ``key``.
    """
    found = {name: value for name, value in leaves(config) if name == key or name.endswith(f".{key}")}
    if len(found) != 1:
        raise UsageError(f"{len(found) or 'no'} keys of the method are called {key}", where="--key",
                         hint=f"give one of {', '.join(found)}" if found else "see: pvdr-bench describe METHOD")
    return next(iter(found.values()))


def shared_changes(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Method -> the changes ``key=value`` that every learned row of it has: they set none apart from the others."""
    found: dict[str, list[str]] = {}
    for method, changes in (split_variant(row.variant) for row in rows if not row.reference):
        found[method] = [change for change in found.get(method, changes) if change in changes]
    return found


def swept(results: Results, key: str) -> dict[Row, Any]:
    """Rows that differ from their method in ``key`` alone, and the methods themselves, with the key's value.

    Changes that all rows of a method share are as the method's own.

    Raises:
        UsageError: no method has two values of ``key``.
    """
    out: dict[Row, Any] = {}
    rows = rows_of(results)
    shared = shared_changes(rows)
    for row in rows:
        method, changes = split_variant(row.variant)
        changed = [change.partition("=")[0] for change in changes if change not in shared.get(method, ())]
        if row.reference or any(name.rpartition(".")[2] != key.rpartition(".")[2] for name in changed):
            continue
        run = RunDir(results.places[str(row.of(results.runs)["path"].iloc[0])]).read_run()
        config = run["spec"].get("config", {}) if run else {}
        if changed or any(name == key or name.endswith(f".{key}") for name, _ in leaves(config)):
            out[row] = key_value(config, key)
    groups: dict[tuple[str, str], set[str]] = {}
    for row, value in out.items():
        groups.setdefault((split_variant(row.variant)[0], row.corpus), set()).add(str(value))
    kept = {row: value for row, value in out.items() if len(groups[split_variant(row.variant)[0], row.corpus]) > 1}
    if not kept:
        raise UsageError(f"no method was run with two values of {key}", where=str(results.root),
                         hint=f"run one with -o {key}=VALUE")
    return kept


@dataclass(frozen=True)
class Line:
    """One method on one corpus, at several values of the key.

    Attributes:
        points: (value, row), by value.
    """

    label: str
    points: tuple[tuple[Any, Row], ...]


def lines_of(rows: dict[Row, Any]) -> list[Line]:
    """Rows grouped by method and corpus; values that are numbers are sorted as numbers, others as text."""
    groups: dict[tuple[str, str], list[tuple[Any, Row]]] = {}
    for row, value in rows.items():
        groups.setdefault((split_variant(row.variant)[0], row.corpus), []).append((value, row))
    sort = float if is_numeric(rows.values()) else str
    return [Line(method if corpus == "none" else f"{method} ({corpus})",
                 tuple(sorted(members, key=lambda pair: sort(pair[0]))))
            for (method, corpus), members in groups.items()]


def is_numeric(values: Iterable[Any]) -> bool:
    """Whether all values can stand on a numeric axis."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def plot_sweep(results: Results, key: str, metric: str = "success", *, confidence: float = CONFIDENCE,
               allow_mixed: bool = False, width: Width = "auto", highlight: Sequence[str] = (),
               tasks: Sequence[str] = ()) -> Plot:
    """Draw one panel per task: final score against the value of ``key``, a line per method and corpus.

    Args:
        highlight: rows whose lines are drawn before the others, which turn grey.
        tasks: the panels in their order; empty: all by name.

    Raises:
        UsageError: protocols are mixed, no method was run with two values of ``key``, or a name in ``highlight`` is no
            row's.
    """
    require(results, metric, allow_mixed)
    rows, tasks = swept(results, key), list(tasks) or tasks_of(results)
    lines = lines_of(rows)
    order = None if is_numeric(rows.values()) else sorted(set(map(str, rows.values())))
    looks = _looks(lines, results)
    called = set(rows_called(results, highlight))
    facets, notes = facets_of(tasks, lines, {line: line.label for line in lines},
                              [line for line in lines if called & {row for _, row in line.points}],
                              lambda line: _best(line, results, tasks, metric), f"best mean final {METRICS[metric]}")
    with style():
        sheet = Sheet([facet.title for facet in facets], width, free=metric == "return" and len(tasks) > 1)
        for index, (facet, ax) in enumerate(zip(facets, sheet.panels, strict=True)):
            _panel(ax, facet, order, results, metric, confidence, looks)
            _scale(ax, rows.values(), order)
            if metric != "return":
                rate_axis(ax, steps=4 if sheet.size.height < 1.4 else 5)
            ax.grid(visible=True, zorder=0)
            sheet.name_axes(index, key, metric_label(metric))
        sheet.finish()
    budgets = budgets_of(rows, results, tasks, metric)
    return Plot(sheet.figure, _caption(results, key, metric, confidence, lines, notes, budgets))


def _looks(lines: Sequence[Line], results: Results) -> dict[Line, Look]:
    """A line has the look of its method on its corpus, also where the method itself was not run."""
    names: dict[Line, Name] = {line: (split_variant(line.points[0][1].variant)[0], line.points[0][1].corpus)
                               for line in lines}
    known = assign({*results.names, *names.values()})
    return {line: known[name] for line, name in names.items()}


def _best(line: Line, results: Results, tasks: list[str], metric: str) -> float:
    """The best value's mean over tasks; NaN where no value has all tasks."""
    finals = [[final_interval(row, results.points, task, metric)[1] for task in tasks] for _, row in line.points]
    return max((float(np.mean([i.value for i in found])) for found in finals if all(i.n for i in found)),
               default=float("nan"))


def _panel(ax: Axes, facet: Facet[Line], order: list[str] | None, results: Results, metric: str, confidence: float,
           looks: dict[Line, Look]) -> None:
    """Means joined by a line, each with its interval; lines behind are grey and have none."""
    for line in (*facet.behind, *facet.own):
        points = [(value if order is None else order.index(str(value)),
                   final_interval(row, results.points, facet.task, metric, confidence=confidence)[1])
                  for value, row in line.points]
        points = [(x, interval) for x, interval in points if interval.n]
        xs, ys = [x for x, _ in points], [interval.value for _, interval in points]
        if line in facet.behind:
            ax.plot(xs, ys, color=BACKGROUND, linewidth=0.7, zorder=1.2, label=BACKGROUND_LABEL)
            continue
        ax.plot(xs, ys, **line_look(looks[line]), label=None if facet.single else line.label, zorder=4, clip_on=False)
        for x, interval in points:
            if interval.low is not None and interval.high is not None:
                ax.vlines(x, interval.low, interval.high, color=looks[line].color, linewidth=1.0, zorder=3)


def _scale(ax: Axes, values: Iterable[Any], order: list[str] | None) -> None:
    """Logarithmic where values lie far apart; names where they are no numbers."""
    if order is not None:
        ax.set_xticks(range(len(order)), order)
        return
    low, high = min(values), max(values)
    if low > 0 and np.log10(high / low) > _DECADES:
        ax.set_xscale("log")


def _caption(results: Results, key: str, metric: str, confidence: float, lines: list[Line],
             notes: list[str], budgets: set[int]) -> str:
    clipped = "" if bounds_of(metric) is None else ", clipped to [0, 1]"
    shared = shared_changes([row for line in lines for _, row in line.points])
    alike = dict.fromkeys(change for changes in shared.values() for change in changes)
    but = f", but for {', '.join(alike)}, which all rows have" if alike else ""
    values = "; ".join(f"{line.label}: {', '.join(str(value) for value, _ in line.points)}" for line in lines)
    return close_caption([f"{final_words(results, metric)}, against {key} ({values}); all other keys as in the "
                          f"method{but}. Points: mean over seeds; lines: {100 * confidence:g} % Student t interval "
                          f"over seeds{clipped}.",
                          *notes],
                         results, budgets=budgets, references=False)
