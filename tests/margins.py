"""How much room the tests of learning have: ``python -m tests.margins``.

Every test that ``tests.learning.learns`` marks is trained anew for a number of seeds under each instruction set, which
stands for a processor: torch rounds otherwise on each, and learning makes much of little. The spread is the standard
deviation of all these outcomes. A quantity has room if its median is ROOM spreads on the right side of its bound and
its worst outcome is one spread there. The command exits with 1 where one has not, and ``make test-long`` fails.

    python -m tests.margins                                 # five seeds, all instruction sets; see `--help`
    python -m tests.margins --test dreamer --seeds 3 --isa native,avx2 --json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from tests.learning import HERE, Bound, Learning, all_learning

ISAS = {"native": {}, "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
        "default": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}}
SEEDS, ROOM, WORST = 5, 3.0, 1.0


@dataclass(frozen=True)
class Outcome:
    """One training: what it measured, or why it did not."""

    test: str
    isa: str
    seed: int
    values: dict[str, float]
    error: str | None
    seconds: float  # of processor time


@dataclass(frozen=True)
class Margin:
    """The room of one quantity of one test; median and worst in spreads, negative on the wrong side."""

    test: str
    quantity: str
    bound: str
    ranges: dict[str, tuple[float, float, float]]  # instruction set -> worst, median, best
    spread: float
    median_room: float
    worst_room: float
    verdict: str


def measure_here(tests: Iterable[Learning], seeds: Iterable[int], isa: str) -> Iterator[Outcome]:
    """Train in this process, whatever its instruction set; ``isa`` is only noted."""
    for test in tests:
        for seed in seeds:
            started, values, error = time.process_time(), {}, None
            try:
                values = test.measure(seed)
            except Exception as problem:  # whatever a test raises is what it found
                error = f"{type(problem).__name__}: {problem}".splitlines()[0]
            yield Outcome(test.name, isa, seed, values, error, time.process_time() - started)


def measure(names: Sequence[str], seeds: int, isas: Iterable[str]) -> Iterator[Outcome]:
    """Train each test of ``names`` with ``seeds`` seeds under each instruction set, in a process of its own.

    Raises:
        RuntimeError: Such a process ended early.
    """
    for isa in isas:
        command = [sys.executable, "-m", "tests.margins", "--worker", isa, "--seeds", str(seeds), "--tests", *names]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **ISAS[isa]}
        with subprocess.Popen(command, env=environment, cwd=HERE.parent, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                yield Outcome(**json.loads(line))
        if process.returncode:
            raise RuntimeError(f"measuring under {isa} ended with exit code {process.returncode}")


def in_spreads(room: float, spread: float) -> float:
    """``room`` in units of ``spread``; without any spread it is without end on its side."""
    return room / spread if spread else float("inf") * (1 if room > 0 else -1)


def margin(test: str, quantity: str, bound: Bound, values: dict[str, list[float]]) -> Margin:
    """The room of the outcomes ``values`` (instruction set -> one per seed)."""
    pooled = [x for per_isa in values.values() for x in per_isa]
    spread = statistics.pstdev(pooled) if all(map(math.isfinite, pooled)) else math.nan
    ranges = {isa: (min(found, key=bound.room), statistics.median(found), max(found, key=bound.room))
              for isa, found in values.items()}
    worst = min(bound.room(x) for x in pooled)
    median_room, worst_room = in_spreads(bound.room(statistics.median(pooled)), spread), in_spreads(worst, spread)
    verdict = "fails" if worst <= 0 else "thin" if median_room < ROOM or worst_room < WORST else "holds"
    return Margin(test, quantity, str(bound), ranges, spread, median_room, worst_room, verdict)


def margins(tests: Iterable[Learning], outcomes: Sequence[Outcome]) -> list[Margin]:
    """The room of every quantity of the tests; a training that raised counts as NaN, which fails."""
    found = []
    for test in tests:
        own = [one for one in outcomes if one.test == test.name]
        for quantity, bound in test.bounds.items():
            values: dict[str, list[float]] = {}
            for one in own:
                values.setdefault(one.isa, []).append(one.values.get(quantity, float("nan")))
            found.append(margin(test.name, quantity, bound, values))
    return found


def table(found: Sequence[Margin]) -> str:
    """Markdown."""
    isas = list(found[0].ranges)
    head = ["test", "quantity", "bound", *(f"{isa}: worst / median / best" for isa in isas), "spread",
            "median, worst in spreads", "verdict"]
    rows = [[one.test.removeprefix("tests/").replace(".py::test_", ": "), one.quantity, one.bound,
             *(" / ".join(f"{x:.3g}" for x in one.ranges[isa]) for isa in isas), f"{one.spread:.2g}",
             f"{one.median_room:.1f}, {one.worst_room:.1f}", one.verdict] for one in found]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.margins", description="The room that tests of learning have.")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many, from 0 on")
    parser.add_argument("--isa", default=",".join(ISAS), help="instruction sets, of " + ", ".join(ISAS))
    parser.add_argument("--test", default="", help="only those with this in their name")
    parser.add_argument("--json", action="store_true", help="margins and outcomes as JSON")
    parser.add_argument("--worker", metavar="ISA", help=argparse.SUPPRESS)
    parser.add_argument("--tests", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.isas = options.isa.split(",")
    if wrong := [isa for isa in options.isas if isa not in ISAS]:
        parser.error(f"no instruction set {', '.join(wrong)}; there are {', '.join(ISAS)}")
    options.tests = options.tests or [name for name in all_learning() if options.test in name]
    if not options.tests or options.seeds < 1:
        parser.error(f"nothing to measure: no test of learning has {options.test!r} in its name, or no seeds")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and tell; 1 where a test has no room."""
    options = parse(arguments)
    known = all_learning({name.partition("::")[0].removeprefix("tests/") for name in options.tests})
    tests = [known[name] for name in options.tests]
    if options.worker:
        for one in measure_here(tests, range(options.seeds), options.worker):
            print(json.dumps(asdict(one)), flush=True)
        return 0
    outcomes: list[Outcome] = []
    for one in measure(options.tests, options.seeds, options.isas):
        outcomes.append(one)
        told = one.error or ", ".join(f"{name} {value:.4g}" for name, value in one.values.items())
        print(f"{one.isa}, seed {one.seed}, {one.seconds:.1f} s: {one.test}: {told}", file=sys.stderr, flush=True)
    found = margins(tests, outcomes)
    if options.json:
        print(json.dumps({"margins": [asdict(one) for one in found], "outcomes": [asdict(one) for one in outcomes]}))
    else:
        print(table(found))
        print(f"\n{len(outcomes)} trainings, {sum(one.seconds for one in outcomes):.0f} s in all")
    return int(any(one.verdict != "holds" for one in found))


if __name__ == "__main__":
    sys.exit(main())
