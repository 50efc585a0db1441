"""Which rows stand in which panel: a few together in colour, many one by one or before a grey background."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from pvdr_bench.errors import UsageError
from pvdr_bench.results.collect import Results
from pvdr_bench.results.series import Row, final_values, rows_of

MOST = 8  # lines in colour that one panel bears
BACKGROUND, BACKGROUND_LABEL = "0.82", "other rows"
L = TypeVar("L", bound=Hashable)


@dataclass(frozen=True)
class Facet(Generic[L]):
    """One panel.

    Attributes:
        task: what it shows, a task or all of them.
        own: drawn in their looks.
        behind: drawn as thin grey lines.
        single: its title names its one row, which needs no legend.
    """

    title: str
    task: str
    own: tuple[L, ...]
    behind: tuple[L, ...] = ()
    single: bool = False


def facets_of(tasks: Sequence[str], lines: Sequence[L], titles: dict[L, str], highlight: Sequence[L],
              score: Callable[[L], float], said: str) -> tuple[list[Facet[L]], list[str]]:
    """The panels, and sentences for the caption on what was chosen.

    Up to :data:`MOST` lines stand together, and so do those that are named. More get a panel each where there is one
    task; with several the highest stand before the others.

    Args:
        highlight: lines to show before the others; empty: chosen here.
        score: what the highest have most of; NaN where there is none.
        said: what ``score`` is, for the caption.
    """
    if not highlight and len(lines) <= MOST:
        return [Facet(task, task, tuple(lines)) for task in tasks], []
    if not highlight and len(tasks) == 1:
        return ([Facet(titles[line], tasks[0], (line,), tuple(other for other in lines if other != line), single=True)
                 for line in lines],
                [f"{tasks[0]}: a panel for each of {len(lines)} rows; thin grey lines: the others, means alone."])
    chosen = set(highlight)
    if not chosen:
        ranked = sorted(lines, key=lambda line: (-np.nan_to_num(score(line), nan=-np.inf), titles[line]))
        chosen = set(ranked[:MOST])
    own = tuple(line for line in lines if line in chosen)
    behind = tuple(line for line in lines if line not in chosen)
    how = "chosen by name" if highlight else f"those with the highest {said}"
    note = (f"In colour: {len(own)} of {len(lines)} rows, {how}; thin grey lines: the others, means alone "
            f"({'; '.join(titles[line] for line in behind)}).") if behind else ""
    return [Facet(task, task, own, behind) for task in tasks], [note] if note else []


def final_score(results: Results, tasks: Sequence[str], metric: str) -> Callable[[Row], float]:
    """Mean over tasks of a row's final evaluations; NaN where a task has none."""
    def score(row: Row) -> float:
        finals = [final_values(row, results.points, task, metric).values for task in tasks]
        return float(np.mean([values.mean() for values in finals])) if all(v.size for v in finals) else float("nan")

    return score


def rows_called(results: Results, names: Sequence[str]) -> list[Row]:
    """Rows by label, by ``variant`` (on every corpus) or by ``variant (corpus)``; case does not matter.

    Raises:
        UsageError: a name is no learned row's; says what there is.
    """
    rows = [row for row in rows_of(results) if not row.reference]
    found: list[Row] = []
    for name in names:
        wanted = name.strip().lower()
        mine = [row for row in rows if wanted in (row.label.lower(), row.variant.lower(),
                                                  f"{row.variant} ({row.corpus})".lower())]
        if not mine:
            known = sorted({row.variant for row in rows})
            raise UsageError(f"no learned row is called {name!r}", where="--highlight",
                             hint=f"there is: {', '.join(known) or 'none'}")
        found += [row for row in mine if row not in found]
    return found
