"""A bar on a terminal, a plain line now and then elsewhere, and nothing where JSON is printed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import typer

from pvdr_bench.cli.output import console as make_console

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

Count = Callable[[int, int], None]  # done, in all
LINE_SECONDS = 15.0


def counting(title: str, quiet: bool, unit: str = "episodes") -> AbstractContextManager[Count | None]:
    """Show progress in a unit; ``bytes`` are shown as file sizes and rates."""
    if quiet:
        return contextlib.nullcontext(None)
    console = make_console(stderr=True)
    return _bar(title, unit, console) if console.is_terminal else _lines(title, unit)


@contextlib.contextmanager
def _bar(title: str, unit: str, console: object) -> Iterator[Count]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amounts: tuple[ProgressColumn, ...] = (MofNCompleteColumn(), TextColumn(unit))
    if unit == "bytes":
        amounts = (DownloadColumn(), TransferSpeedColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), *amounts, TimeElapsedColumn(), TextColumn("left"),
               TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:  # type: ignore[arg-type]
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextlib.contextmanager
def _lines(title: str, unit: str) -> Iterator[Count]:
    start, last = time.monotonic(), [float("-inf")]

    def report(done: int, total: int) -> None:
        now = time.monotonic()
        if now - last[0] < LINE_SECONDS and done < total:
            return
        last[0] = now
        amount = f"{done / 1e6:.1f}/{total / 1e6:.1f} MB" if unit == "bytes" else f"{done}/{total} {unit}"
        typer.echo(f"{title}: {amount}, {now - start:.0f} s", err=True)

    yield report


@contextlib.contextmanager
def stopping(report: Count | None) -> Iterator[Count]:
    """Progress that also ends the command, cleanly, where a signal asked for it."""
    from pvdr_bench.errors import Interrupted
    from pvdr_bench.launch.worker import StopFlag

    stop = StopFlag().install()

    def told(done: int, total: int) -> None:
        if report is not None:
            report(done, total)
        if stop():
            raise Interrupted("stopped", hint="the same command goes on")

    yield told
