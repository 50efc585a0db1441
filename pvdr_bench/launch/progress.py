"""Progress as a command shows it: of several runs, by their heartbeats, and of what :mod:`pvdr_bench.progress` tells.

A live table and bars on a terminal, plain lines elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from pvdr_bench.errors import DataError
from pvdr_bench.launch.columns import table_of
from pvdr_bench.launch.local import Job, Watcher
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.words import counted

if TYPE_CHECKING:
    from pvdr_bench.launch.estimate import TimeLeft

LINE_SECONDS = 15.0  # between two plain lines about the same run


def duration(seconds: float | None) -> str:
    """``1:02:03``, ``2:03``, or a dash."""
    if seconds is None or seconds != seconds or seconds == float("inf"):
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def facts(job: Job) -> dict[str, Any]:
    """What the run's heartbeat says, for people: phase, steps, rate and success; and the share of its updates made."""
    try:
        beat = RunDir(job.path).read_heartbeat() or {}
    except DataError:  # progress is not worth a run
        beat = {}
    if job.process is not None and beat.get("pid") != job.process.pid:
        beat = {}  # an earlier start's
    budget = job.spec.protocol.env_steps
    steps, rate, success = beat.get("env_steps", 0), beat.get("rate") or 0.0, beat.get("success")
    phase = str(beat.get("phase", "starting")) if job.state == "running" else job.state
    return {"phase": phase, "steps": steps, "budget": budget, "rate": rate,
            "learned": beat.get("learned"), "success": "-" if success is None else f"{100 * success:.0f} %"}


def summary(jobs: Sequence[Job], time_left: TimeLeft | None) -> str:
    """How far all runs together are: ``2 of 6 runs done, time left for all: 1:23``."""
    done = sum(job.state in ("done", "skipped") for job in jobs)
    left = None if time_left is None else time_left.left(jobs)
    return f"{done} of {counted(len(jobs), 'run')} done, time left for all: {duration(left)}"


class LiveTable(Watcher):
    """A table that is drawn anew in place, with one time left for all runs, and below it what was shown last."""

    def __init__(self, console: Console, time_left: TimeLeft | None = None) -> None:
        self.time_left, self._shown = time_left, ""
        self._live = Live(console=console, refresh_per_second=2, transient=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, jobs: Sequence[Job]) -> None:
        """Draw all jobs."""
        rows = []
        for job in jobs:
            now = facts(job)
            rows.append({"run": job.label, "phase": now["phase"], "env_steps": f"{now['steps']:,} / {now['budget']:,}",
                         "steps/s": f"{now['rate']:.0f}", "success": now["success"]})
        styles = {"failed": "red", "done": "green", "skipped": "dim", "waiting": "dim"}
        table = table_of(rows, [styles.get(job.state, "") for job in jobs], self._live.console.width,
                         ("run", "env_steps", "success"), ("run",))
        text = "\n".join(part for part in (summary(jobs, self.time_left), self._shown) if part)
        self._live.update(Group(table, Text(text)))

    def show(self, text: str) -> None:
        """Keep a text below the table, in place of the last one."""
        self._shown = text


class PlainLines(Watcher):
    """A line where a run's phase or evaluated success changed, and now and then while it trains."""

    def __init__(self, console: Console, time_left: TimeLeft | None = None,
                 every_seconds: float = LINE_SECONDS) -> None:
        self.console, self.time_left, self.every = console, time_left, every_seconds
        self._seen: dict[str, tuple[Any, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def update(self, jobs: Sequence[Job]) -> None:
        """Print what is new."""
        for job in jobs:
            if job.state == "waiting":
                continue
            now, clock = facts(job), time.monotonic()
            what = (job.state, now["success"])
            before, when = self._seen.get(str(job.path), (None, -float("inf")))
            if what == before and (job.state != "running" or clock - when < self.every):
                continue
            self._seen[str(job.path)] = (what, clock)
            self.console.print(f"{job.label}: {now['phase']}  {now['steps']:,}/{now['budget']:,} env_steps  "
                               f"{now['rate']:.0f}/s  success {now['success']}  ({summary(jobs, self.time_left)})",
                               highlight=False, soft_wrap=True)

    def show(self, text: str) -> None:
        """Print a text."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)


def watcher_for(console: Console, time_left: TimeLeft | None = None) -> LiveTable | PlainLines:
    """The kind that fits the console."""
    return LiveTable(console, time_left) if console.is_terminal else PlainLines(console, time_left)


class StageProgress:
    """Bars for long work; elsewhere than on a terminal a line at the start, and now and then.

    Args:
        doing: what a line begins with.
    """

    def __init__(self, console: Console, doing: str = "making", every_seconds: float = LINE_SECONDS) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal)
        self.console, self.doing, self.every = console, doing, every_seconds
        self._rows: dict[str, TaskID] = {}
        self._began: dict[str, tuple[float, int]] = {}  # clock and step of the first report
        self._spoke = -float("inf")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def report(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` steps of a stage are made."""
        clock, first = time.monotonic(), what not in self._rows
        if first:
            self._rows[what] = self._bars.add_task(what, total=total)
            self._began[what] = (clock, done)
        self._bars.update(self._rows[what], completed=done, total=total)
        if self.console.is_terminal or not (first or clock - self._spoke >= self.every):
            return
        self._spoke = clock
        began, start = self._began[what]
        rate = (done - start) / (clock - began) if clock > began else 0.0
        left = (total - done) / rate if rate > 0 else None
        self.console.print(f"{self.doing}: {what}  {done:,}/{total:,}  left {duration(left)}", highlight=False,
                           soft_wrap=True)
