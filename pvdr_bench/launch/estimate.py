"""How long a whole command takes: before it, from rates, and while it goes on, from what its runs have done so far.

Durations are seconds. An expected duration is that of a run that has a core to itself; several runs on fewer cores
share them (:func:`wall_time`). While runs go on, the pace (seconds on the clock per expected second) corrects it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pvdr_bench.launch.progress import facts

if TYPE_CHECKING:
    from pathlib import Path

    from pvdr_bench.catalog.specs import RunSpec
    from pvdr_bench.launch.local import Job
    from pvdr_bench.launch.plan import RunPlan

Key = tuple[str, str, str]  # variant, scale with the protocol's name, and suite: what one rate holds for
PROBE_SHARE, PROBE_SECONDS = 5e-5, (4.0, 30.0)  # seconds of measuring per env_step to do; at least and at most
SURE = 0.02  # share of a run that has to be done before its pace is believed


@dataclass(frozen=True)
class Rate:
    """Seconds per env_step of training (updates included) and of evaluation, and until a run's first step.

    ``whole`` is False where the rate was measured before an update was due: training takes longer.
    """

    train: float
    evaluate: float
    start: float = 0.0
    whole: bool = True


UNKNOWN = Rate(1.0, 1.0)  # all steps alike, in no unit: good for shares, not for seconds


def key_of(spec: RunSpec) -> Key:
    """What a run's rate is known by."""
    return spec.variant, spec.scale_label, spec.task.suite


def expected(plan: RunPlan, rate: Rate) -> float:
    """Seconds that a run still takes with a core to itself."""
    if plan.state == "done":
        return 0.0
    return rate.start + plan.env_steps * rate.train + plan.evaluation_steps * rate.evaluate


def wall_time(durations: Sequence[float], jobs: int, cores: int) -> float:
    """Seconds until all runs are done, started in this order, at most ``jobs`` at a time, sharing ``cores`` evenly."""
    waiting, clock = list(durations), 0.0
    running: list[float] = []
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(waiting.pop(0))
        slowdown = max(1.0, len(running) / cores)
        first = min(running)
        clock += first * slowdown
        running = [left - first for left in running if left > first]
    return clock


class TimeLeft:
    """The one time left of a command's runs.

    Args:
        plans: the command's runs; rates: of some or all of their kinds. jobs: at a time. cores: that they share.
    """

    def __init__(self, plans: Sequence[RunPlan], rates: Mapping[Key, Rate], jobs: int, cores: int) -> None:
        self.known = bool(plans) and all(key_of(plan.spec) in rates for plan in plans if plan.state != "done")
        self.plans = {plan.path: plan for plan in plans}
        self.rates = dict(rates) if self.known else {}
        self.jobs, self.cores = jobs, cores

    @property
    def whole(self) -> bool:
        """Whether all rates were measured with updates in them."""
        return all(rate.whole for rate in self.rates.values())

    def _rate(self, plan: RunPlan) -> Rate:
        return self.rates.get(key_of(plan.spec), UNKNOWN)

    def at_start(self) -> float | None:
        """Seconds that all of it takes; None where a rate is not known."""
        todo = [plan for plan in self.plans.values() if plan.state != "done"]
        durations = [expected(plan, self._rate(plan)) for plan in todo]
        return wall_time(durations, self.jobs, self.cores) if self.known else None

    def left(self, jobs: Sequence[Job]) -> float | None:
        """Seconds until the last run is done; None where nothing is known yet.

        The pace of a run that has made none of its updates yet says nothing of them.
        """
        told = {job.path: facts(job) for job in jobs if job.state == "running"}
        shares = {job.path: self._share(job, told.get(job.path)) for job in jobs}
        whole = {job.path: expected(self.plans[job.path], self._rate(self.plans[job.path])) for job in jobs}
        paced = [job for job in jobs if job.path not in told or told[job.path]["learned"] != 0.0]
        paces = self._paces(paced, shares, whole)
        if None not in paces and not self.known:
            return None
        crowded = max(1.0, min(self.jobs, len(jobs)) / self.cores)
        slots = [0.0] * max(1, self.jobs)
        for job in sorted(jobs, key=lambda job: job.state != "running"):
            if job.state in ("running", "waiting"):
                pace = paces.get(key_of(job.spec), paces.get(None, crowded))
                place = slots.index(min(slots))
                slots[place] += whole[job.path] * (1.0 - shares[job.path]) * pace
        return max(slots)

    def _paces(self, jobs: Sequence[Job], shares: Mapping[Path, float],
               whole: Mapping[Path, float]) -> dict[Key | None, float]:
        """Seconds on the clock per expected second, by kind of run, and under None of all kinds together."""
        clock: dict[Key | None, float] = {}
        work: dict[Key | None, float] = {}
        for job in jobs:
            if job.state not in ("running", "done") or shares[job.path] < SURE:
                continue
            for key in (key_of(job.spec), None):
                clock[key] = clock.get(key, 0.0) + job.seconds
                work[key] = work.get(key, 0.0) + shares[job.path] * whole[job.path]
        return {key: clock[key] / work[key] for key in clock if work[key] > 0}

    def _share(self, job: Job, now: Mapping[str, Any] | None) -> float:
        """The share of its work that a run of this command has done; ``now``: what a running one tells."""
        plan = self.plans[job.path]
        if now is None:
            return 1.0 if job.state == "done" else 0.0
        if now["phase"] == "starting":
            return 0.0
        return done_share(plan, self._rate(plan), now["steps"], now["phase"], now["learned"])


def done_share(plan: RunPlan, rate: Rate, env_steps: int, phase: str, learned: float | None = None) -> float:
    """How much of a plan is done at ``env_steps``: 0 to 1 of its expected duration; its start counts as done.

    Args:
        learned: the share of its updates that are made; None: as many as of its env_steps.
    """
    protocol, total = plan.spec.protocol, expected(plan, rate)
    trained = max(0, min(env_steps, protocol.env_steps) - plan.reached)
    points = env_steps // protocol.eval_every - plan.reached // protocol.eval_every
    points += (plan.reached == 0) - phase.endswith("grid")  # the first stands at 0; the one in progress is not done
    played = max(0, points) * protocol.eval_episodes * protocol.episode_steps
    acting = min(rate.evaluate, rate.train)
    updated = trained if learned is None else learned * plan.env_steps
    done = rate.start + trained * acting + updated * (rate.train - acting) + played * rate.evaluate
    return min(1.0, done / total) if total > 0 else 1.0
