"""What went wrong with simulators in a run that went on: ``incidents.jsonl``, a line for each one started again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pvdr_bench.runs.logs import JsonlLog
from pvdr_bench.suites.base import EnvConfig
from pvdr_bench.training.evaluation import VectorEnvLike

FILE = "incidents.jsonl"


class Incidents:
    """Makes a run's environments, and writes down which of their simulators died.

    The file is made with its first line, and is never cut back: what happened has happened.
    """

    def __init__(self, run: Path, make: Callable[[EnvConfig, int], VectorEnvLike]) -> None:
        self._log, self._make = JsonlLog(run / FILE), make
        self._made: list[tuple[VectorEnvLike, int]] = []  # and how many of its incidents are written

    def make(self, config: EnvConfig, n: int) -> VectorEnvLike:
        """Environments whose simulators are watched from now on."""
        envs = self._make(config, n)
        self._made.append((envs, 0))
        return envs

    def write(self, env_steps: int, phase: str) -> None:
        """Write down what has happened since the last time.

        Args:
            env_steps: where the run is. phase: what it was doing, such as ``train``.
        """
        for place, (envs, written) in enumerate(self._made):
            happened = getattr(envs, "incidents", ())
            for incident in happened[written:]:
                self._log.append({"env_steps": env_steps, "phase": phase, **incident})
            self._made[place] = envs, len(happened)
