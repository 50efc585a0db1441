"""Where the seconds go: the loop's parts and, within them, those of an algorithm."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by part. A part within another is called ``outer.inner``, and its seconds are in those of ``outer`` too.

    They are the host's: where kernels run beside it, their time is told of the part that waits for them.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._open: list[str] = []

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Time what is done within."""
        self._open.append(part)
        name, started = ".".join(self._open), time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started)
            self._open.pop()

    def add(self, part: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere."""
        self._seconds[part] = self._seconds.get(part, 0.0) + seconds

    def take(self) -> dict[str, float]:
        """Seconds by part since the last call, sorted by name."""
        taken, self._seconds = dict(sorted(self._seconds.items())), {}
        return taken
