"""Telling how far long work is, without knowing who listens: a command listens, a library call tells nobody.

What listens and draws is :mod:`pvdr_bench.launch.progress`.

    >>> for task in told(tasks, "render"):   # in the work
    >>> with listening(bars.report):         # in the command
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Report = Callable[[str, int, int], None]  # what, done, in all
T = TypeVar("T")
_listener: ContextVar[Report | None] = ContextVar("listener", default=None)


@contextmanager
def listening(report: Report) -> Iterator[None]:
    """Give ``report`` what is told inside."""
    token = _listener.set(report)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(what: str, done: int, total: int) -> None:
    """``done`` of ``total`` parts are done."""
    if (report := _listener.get()) is not None:
        report(what, done, total)


def told(parts: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The same parts, telling before the first and after each; ``total`` where they have no length."""
    count = total if total is not None else len(parts) if isinstance(parts, Sized) else 0
    tell(what, 0, count)
    for done, part in enumerate(parts, 1):
        yield part
        tell(what, done, max(count, done))
