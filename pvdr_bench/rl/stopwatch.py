"""Where the time goes, and the arithmetic: the loop's parts and, within them, those of an algorithm."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from pvdr_bench.rl.flop import FlopTally


@dataclass(frozen=True)
class Spent:
    """What went into each part, by its name.

    Attributes:
        seconds: those of parts within it included.
        calls: how often it began.
        flop: floating-point operations, those of parts within it **not** included; None where they are not counted.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    flop: dict[str, float] | None = None


class Stopwatch:
    """Seconds, calls and operations by part. A part within another is called ``outer.inner``.

    Args:
        device: where the work is done. A part waits for a GPU at its end, so that its seconds are its own.
        count_flop: see :class:`~pvdr_bench.rl.flop.FlopTally`.
    """

    def __init__(self, device: torch.device | None = None, count_flop: bool = False) -> None:
        self._seconds: dict[str, float] = {}
        self._calls: dict[str, int] = {}
        self._open: list[str] = []
        self._cuda = device if device is not None and device.type == "cuda" else None
        self._tally = FlopTally() if count_flop else None

    @contextmanager
    def __call__(self, part: str, size: int = 1) -> Iterator[None]:
        """Time what is done within.

        Args:
            size: of this call, where calls differ: rows of a batch. Operations are taken to grow in proportion to it.
        """
        self._open.append(part)
        name, started = ".".join(self._open), time.perf_counter()
        self._calls[name] = self._calls.get(name, 0) + 1
        tally = self._tally
        if tally is not None:
            tally.enter(name, size)
        try:
            yield
        finally:
            if self._cuda is not None:
                torch.cuda.synchronize(self._cuda)
            if tally is not None:
                tally.leave()
            self.add(name, time.perf_counter() - started)
            self._open.pop()

    def add(self, part: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere."""
        self._seconds[part] = self._seconds.get(part, 0.0) + seconds

    def within(self, seconds: dict[str, float]) -> None:
        """The same, of parts within the one that is open now."""
        for part, value in seconds.items():
            self.add(".".join([*self._open, part]), value)

    def set_kind(self, kind: str) -> None:
        """Of the calls that follow: those of one name are taken to be alike within a kind, not across them."""
        if self._tally is not None:
            self._tally.kind = kind

    def count_no_flop(self) -> None:
        """Do not count operations: for learners whose networks are compiled, which counting would undo."""
        self._tally = None

    def take(self) -> Spent:
        """What went into each part since the last call, sorted by name."""
        flop = None if self._tally is None else self._tally.take()
        spent = Spent(dict(sorted(self._seconds.items())), dict(sorted(self._calls.items())), flop)
        self._seconds, self._calls = {}, {}
        return spent
