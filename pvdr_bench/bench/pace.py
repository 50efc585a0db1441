"""How fast runs go on this machine: a few decisions and updates of each kind, in a folder that is thrown away."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.launch.estimate import Key, Rate, key_of
from pvdr_bench.rl.stopwatch import Stopwatch
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.training.online import OnlineLoop, Pieces

UPDATES = 2  # times that learning is waited for; the second begins where the first ended, so both are whole
WAIT = 3.0  # times as long as asked for that a first update is waited for
IMPORT_SECONDS = 4.0  # a run's process until it builds its loop: Python's start with torch, on one core


def measure(specs: Iterable[RunSpec], pieces: Callable[[RunSpec], Pieces], seconds: float, stop: Callable[[], bool],
            say: Callable[[str], None]) -> dict[Key, Rate]:
    """A rate for each kind of run among ``specs``; what cannot be measured is left out, and its run will tell why.

    Args:
        pieces: builds what a run's loop needs; its artefacts are there.
        seconds: for all kinds together, beside their starts.
        say: told what could not be measured.
    """
    kinds = {key_of(spec): spec for spec in specs}
    rates: dict[Key, Rate] = {}
    for key, spec in kinds.items():
        if stop():
            break
        try:
            rates[key] = _measure_one(spec, pieces, seconds / len(kinds), stop)
        except Exception as error:  # a run that fails must not take its siblings with it, nor must its probe
            say(f"how fast {spec.variant} is was not measured: {type(error).__name__}: {error}")
    return rates


def _measure_one(spec: RunSpec, pieces: Callable[[RunSpec], Pieces], seconds: float, stop: Callable[[], bool]) -> Rate:
    with tempfile.TemporaryDirectory(prefix="pvdr-bench-probe-") as folder, ExitStack() as stack:
        began = time.monotonic()
        loop = Probe(spec, RunDir(Path(folder)), pieces(spec), stop, stack)
        return loop.rate(seconds, IMPORT_SECONDS + time.monotonic() - began)


class _TimeIsUp(Exception):
    """Enough updates were timed; the rest of those that are due is left out."""


class _Updates(Stopwatch):
    """Times each update. Once ``until`` is over and :data:`UPDATES` were made, it refuses the next one.

    It counts no operations: that is done in the first calls of all, and those alone are timed here.
    """

    until = math.inf

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.each: list[float] = []  # seconds

    @contextmanager
    def __call__(self, part: str, size: int = 1) -> Iterator[None]:
        """Time what is done within.

        Raises:
            _TimeIsUp: it would be an update more than there is time for.
        """
        began = time.monotonic()
        if part == "update" and len(self.each) >= UPDATES and began > self.until:
            raise _TimeIsUp
        with super().__call__(part, size):
            yield
        if part == "update":
            self.each.append(time.monotonic() - began)


class Probe(OnlineLoop):
    """A run's loop that is timed and writes nothing."""

    def make_stopwatch(self) -> Stopwatch:
        """One that can end the work."""
        self.updates = _Updates(self.pieces.device)
        return self.updates

    def rate(self, seconds: float, start: float) -> Rate:
        """Decide for ``seconds``, or until enough was learned. ``start``: seconds until the first decision."""
        due = self.learner.updates_due(self.protocol.env_steps // self.protocol.action_repeat)
        if due is not None:
            self.updates.until = time.monotonic() + seconds
        self._begin_episodes()
        self._decide()  # the first one imports and allocates
        return self._by_rounds(seconds, start) if due is None else self._by_updates(seconds, start, due)

    def _learn(self) -> dict[str, float]:
        """As a run does, as long as there is time for updates."""
        try:
            return super()._learn()
        except _TimeIsUp:
            return {}

    def _by_rounds(self, seconds: float, start: float) -> Rate:
        """Of a learner whose rounds of learning are all alike: until one was due twice."""
        first = self.env_steps
        clock = acting = 0.0
        acted = updates = 0
        whole = (0.0, 0)  # seconds and env_steps when the last update was over
        patience = seconds * (WAIT if self._learns() else 1.0)
        while clock < (seconds if updates else patience) and updates < UPDATES and not self.stop():
            before, began = self.env_steps, time.monotonic()
            metrics, at_sync = self._decide()
            took = time.monotonic() - began
            clock += took
            if metrics:
                updates, whole = updates + 1, (clock, self.env_steps - first)
            else:
                acting, acted = acting + took, acted + self.env_steps - before
            if at_sync:
                self._begin_episodes()
        steps = max(1, self.env_steps - first)
        train = whole[0] / whole[1] if updates else clock / steps
        return Rate(train, acting / acted if acted else train, start, bool(updates) or not self._learns())

    def _by_updates(self, seconds: float, start: float, due: int) -> Rate:
        """Of one that makes ``due`` single updates in a run, often hundreds at its first: for a few of them."""
        first, began, each = self.env_steps, time.monotonic(), self.updates.each
        learned = sum(each)
        while time.monotonic() < began + seconds * (1.0 if each else WAIT) and not self.stop():
            if self._decide()[1]:
                self._begin_episodes()
        acting = (time.monotonic() - began - (sum(each) - learned)) / max(1, self.env_steps - first)
        if len(each) < UPDATES:
            return Rate(acting, acting, start, not due)
        learning = sum(each[1:]) / len(each[1:]) * due / self.protocol.env_steps  # the first allocates
        return Rate(acting + learning, acting, start)

    def _learns(self) -> bool:
        """Whether there is anything to learn: a policy without weights has no update that could still come."""
        return bool(self.learner.state_dict())
