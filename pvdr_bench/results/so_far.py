"""Results while runs go on: each row at the last evaluation that all its seeds have, and the curves up to now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pvdr_bench.results.collect import Results
from pvdr_bench.results.problems import ROW
from pvdr_bench.words import counted


@dataclass(frozen=True)
class SoFar:
    """One row (method, corpus, scale, protocol) in one task, until now."""

    title: str
    task: str
    seeds: int  # that have been evaluated
    env_steps: int  # of the last evaluation that all of those have
    budget: int
    success: float  # mean over the seeds, under the protocol's rule


def rows_so_far(results: Results) -> list[SoFar]:
    """All rows with an evaluation."""
    points = results.points[results.points["complete"].astype(bool)]
    rows = []
    for _, found in points.groupby(["task", *ROW], sort=True):
        common = int(found.groupby("path")["env_steps"].max().min())
        there = found[found["env_steps"].eq(common)].sort_values("point").drop_duplicates("path")  # final before grid
        first = there.iloc[0]
        corpus = "" if first["corpus"] == "none" else f" ({first['corpus']})"
        rows.append(SoFar(f"{first['title'] or first['variant']}{corpus}", str(first["task"]), len(there), common,
                          int(there["budget"].max()), float(there["success"].mean())))
    return rows


def table_so_far(results: Results) -> str:
    """Aligned columns: row, task, seeds, env_steps of their last common evaluation, success."""
    cells = [("row", "task", "evaluated", "success so far")]
    cells += [(row.title, row.task, f"{row.env_steps:,} of {row.budget:,} env_steps",
               f"{100 * row.success:.0f} %, {counted(row.seeds, 'seed')}") for row in rows_so_far(results)]
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
                     for row in cells)


def draw_so_far(results: Results, stem: Path) -> Path:
    """Draw the curves as ``STEM.png`` and its kin; returns the picture's path."""
    from pvdr_bench.results.figures import plot_curves, save

    return save(plot_curves(results), stem)["png"]
