"""Tests of learning: a test that trains something says what it measures and the bounds that must hold.

It is written as a function of a seed, which trains and tells what came of it::

    @learns(early=below(0.3), late=above(0.6))
    def test_it_moves_the_dot(seed: int) -> dict[str, float]:
        ...
        return {"early": ..., "late": ...}

pytest calls it with seed 0 and holds each quantity against its bound. What one seed on one processor shows is no
margin, so ``python -m tests.margins`` calls the same function with other seeds and on other instruction sets, and
``tests/test_margins.py`` (``make test-long``) asks for room. Every random number must come from the seed.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path

Measure = Callable[[int], dict[str, float]]
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Bound:
    """What a quantity must stay above or below."""

    value: float
    above: bool

    def room(self, x: float) -> float:
        """How far ``x`` is on the right side; negative on the wrong one. NaN is on the wrong one."""
        room = x - self.value if self.above else self.value - x
        return room if room == room else -float("inf")

    def __str__(self) -> str:
        return f"{'>' if self.above else '<'} {self.value:g}"


def above(value: float) -> Bound:
    return Bound(value, above=True)


def below(value: float) -> Bound:
    return Bound(value, above=False)


@dataclass(frozen=True)
class Learning:
    """A test of learning: its node id, what measures with a seed, and a bound per quantity."""

    name: str
    function: Measure
    bounds: dict[str, Bound]

    def measure(self, seed: int) -> dict[str, float]:
        """Train with ``seed``; a number for each bound.

        Raises:
            AssertionError: An assertion of the test itself failed, or it measures other things than it bounds.
        """
        found = {name: float(value) for name, value in self.function(seed).items()}
        assert found.keys() == self.bounds.keys(), f"measures {sorted(found)}, has bounds for {sorted(self.bounds)}"
        return found

    def check(self, seed: int = 0) -> None:
        """Measure once and hold every quantity against its bound.

        Raises:
            AssertionError: One is on the wrong side.
        """
        found = self.measure(seed)
        missed = [f"{name} is {found[name]:.4g}, wanted {bound}" for name, bound in self.bounds.items()
                  if bound.room(found[name]) <= 0]
        assert not missed, f"{'; '.join(missed)} (all: {found})"


def learns(**bounds: Bound) -> Callable[[Measure], Callable[[], None]]:
    """Make a test of a function that measures; ``bounds`` by the names of what it returns."""

    def decorate(function: Measure) -> Callable[[], None]:
        name = f"tests/{function.__module__.rpartition('.')[2]}.py::{function.__name__}"
        learning = Learning(name, function, bounds)

        @functools.wraps(function)
        def test() -> None:
            learning.check()

        test.__signature__ = inspect.Signature()  # type: ignore[attr-defined]  # pytest: the seed is no fixture
        test.learning = learning  # type: ignore[attr-defined]
        return test

    return decorate


def all_learning(files: Container[str] | None = None) -> dict[str, Learning]:
    """Every test of learning by its node id, of ``files`` alone where only those are to be imported."""
    modules = [path.stem for path in sorted(HERE.glob("test_*.py"))
               if (files is None or path.name in files) and "\n@learns(" in path.read_text()]
    found = [getattr(value, "learning", None) for module in modules
             for value in vars(importlib.import_module(f"tests.{module}")).values()]
    return {one.name: one for one in found if isinstance(one, Learning)}
