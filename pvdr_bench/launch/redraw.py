"""Curve and table drawn anew, while runs go on, whenever one of them was evaluated."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pvdr_bench.errors import BenchError
from pvdr_bench.launch.local import Job, Watcher
from pvdr_bench.launch.progress import facts
from pvdr_bench.runs.directory import RunDir

if TYPE_CHECKING:
    from pvdr_bench.results.collect import Results

REST = 5.0  # times as long as drawing took, until it is drawn again: it is a sixth of one core at most


class Redraw(Watcher):
    """Draws RESULTS/figures/success.png and shows the table, if it has changed; what it cannot draw, it says once.

    Args:
        results: folder of the runs. show: is given each new table as text.
    """

    def __init__(self, results: Path, show: Callable[[str], None]) -> None:
        self.results, self.show = results, show
        self._drawn: dict[Path, int] = {}
        self._rest_until = -float("inf")
        self._told: str | None = None

    def update(self, jobs: Sequence[Job]) -> None:
        """Draw if there is a new evaluation, and the last drawing was not just now or all runs are over."""
        new, goes_on = self._drawn | evaluated(jobs), any(job.state in ("running", "waiting") for job in jobs)
        if new == self._drawn or (goes_on and time.monotonic() < self._rest_until):
            return
        self._drawn, began = new, time.monotonic()
        try:
            text = self.draw(jobs)
        except Exception as error:  # hours of runs are more important than their picture
            said = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
            text = f"not drawn: {said}"
        if text != self._told:
            self.show(text)
        self._told = text
        self._rest_until = time.monotonic() + REST * (time.monotonic() - began)

    def draw(self, jobs: Sequence[Job]) -> str:
        """Draw the jobs' rows; returns the table, and where the figure is.

        Raises:
            BenchError: there is nothing to draw yet, or it cannot be written.
        """
        from pvdr_bench.results.so_far import draw_so_far, table_so_far

        found = self._found(jobs)
        picture = draw_so_far(found, self.results / "figures" / "success")
        return f"{table_so_far(found)}\ncurve: {picture}"

    def final_table(self, jobs: Sequence[Job]) -> str:
        """The table of the jobs' final evaluations, as ``table`` prints it.

        Raises:
            BenchError: there is no run to show.
        """
        from pvdr_bench.results.tables import build_table, to_markdown

        return to_markdown(build_table(self._found(jobs)))

    def _found(self, jobs: Sequence[Job]) -> Results:
        """The jobs' runs in the results folder; other runs there are other commands'."""
        from pvdr_bench.results.collect import collect

        found = collect(self.results)
        known = set(found.runs["path"])
        return found.select(path=[name for job in jobs if (name := str(job.spec.path(""))) in known])


def evaluated(jobs: Sequence[Job]) -> dict[Path, int]:
    """Bytes of evaluation episodes by run; a run that is being evaluated now counts once it is through."""
    found = {}
    for job in jobs:
        run = RunDir(job.path)
        if run.episodes.path.exists() and not facts(job)["phase"].startswith("evaluate"):
            found[job.path] = run.episodes.path.stat().st_size
    return found
