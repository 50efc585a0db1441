"""What is wrong with the runs of a results folder: nothing is dropped silently, and nothing counts silently."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pvdr_bench.algorithms.registry import learns_by_budget
from pvdr_bench.results.reading import Content
from pvdr_bench.runs.difference import difference
from pvdr_bench.runs.schema import FailedFile
from pvdr_bench.runs.standing import Standing

ROW = ("variant", "corpus", "scale", "protocol_hash")  # one row of a table, one line of a figure
REFERENCES = ("random", "scripted")  # algorithms that do not learn: floor and ceiling


@dataclass(frozen=True)
class Problem:
    """A run that is not, or not wholly, in the results.

    Attributes:
        run: its path below the results folder, or of what is missing or mixed a row's: variant/task/corpus/scale.
        kind: missing, failed, running, stopped, short, incomplete, mixed, twice or broken.
        seeds: those that are missing.
    """

    run: str
    kind: str
    detail: str
    seeds: tuple[int, ...] = ()

    def of_seeds(self, seeds: Collection[int]) -> Problem | None:
        """What is left of it where only these seeds are looked at."""
        if self.kind == "missing":
            left = [seed for seed in self.seeds if seed in seeds]
            return _missing(self.run, left) if left else None
        last = self.run.rsplit("/", 1)[-1]
        return self if not last.startswith("seed-") or last in {f"seed-{seed}" for seed in seeds} else None


@dataclass(frozen=True)
class Run:
    """A run that counts: its row of :attr:`Results.runs`, what its files say, and how many episodes points need."""

    row: dict[str, Any]
    content: Content

    @property
    def wanted(self) -> dict[str, int]:
        """Episodes that the protocol asks for, by kind of point."""
        protocol = self.content.protocol
        return {"grid": protocol.get("eval_episodes", 1), "final": protocol.get("eval_final_episodes", 1)}

    @property
    def complete(self) -> np.ndarray[Any, Any]:
        """Whether each point has the episodes that the protocol asks for [points]."""
        points = self.content.points
        wanted = self.wanted
        return points["episodes"] >= np.array([wanted.get(point, 1) for point in points["point"]], np.int64)


def incomplete(run: Run) -> list[Problem]:
    """Points with fewer episodes than the protocol asks for; a run that is being written may have one."""
    if run.row["status"] == "running":
        return []
    points, wanted = run.content.points, run.wanted
    return [Problem(run.row["path"], "incomplete",
                    f"{points['episodes'][i]} of {wanted[points['point'][i]]} episodes of the {points['point'][i]} "
                    f"point at {points['env_steps_made'][i]} env_steps; left out")
            for i in np.flatnonzero(~run.complete)]


def run_problems(run: Run, standing: Standing) -> list[Problem]:
    """What is to be said about a run that counts, but for its single points."""
    name, content = run.row["path"], run.content
    budget, reached = content.facts["budget"], content.reached
    so_far = f"evaluated up to {reached} of {budget} env_steps"
    found = []
    if standing.state == "failed":
        found.append(Problem(name, "failed", f"{_failure(standing.failed)} ({so_far})"))
    elif standing.done is None:
        found.append(Problem(name, "running" if standing.state == "running" else "stopped", so_far))
    elif standing.done["env_steps"] < budget:
        found.append(Problem(name, "short", f"{standing.done['env_steps']} of {budget} env_steps"))
    if content.twice:
        found.append(Problem(name, "broken", f"{content.twice} evaluation episodes are there twice; "
                             "the later ones count"))
    return found


def why_left_out(name: str, standing: Standing) -> Problem:
    """Why a run does not count: it is broken, or it failed before it had a ``run.yaml``."""
    if standing.state == "broken":
        return Problem(name, "broken", standing.why)
    if standing.failed is not None:
        return Problem(name, "failed", _failure(standing.failed))
    return Problem(name, "broken", "there is no run.yaml")


def _failure(failed: FailedFile | None) -> str:
    """The first line of a failed run's message."""
    text = (failed or {}).get("message") or (failed or {}).get("error") or "no message"
    return next(iter(str(text).splitlines()), "no message")


def missing(runs: pd.DataFrame) -> list[Problem]:
    """Seeds that a learned row lacks and another one of the same task, scale and protocol has."""
    problems = []
    learned = runs[~runs["algorithm"].isin(REFERENCES)]
    for _, group in learned.groupby(["task", "scale", "protocol_hash"], sort=True):
        expected = set(group["seed"])
        for (variant, corpus, task, scale), row in group.groupby(["variant", "corpus", "task", "scale"], sort=True):
            absent = sorted(expected - set(row["seed"]))
            if absent:
                problems.append(_missing(f"{variant}/{task}/{corpus}/{scale}", absent))
    return problems


def _missing(row: str, seeds: Sequence[int]) -> Problem:
    return Problem(row, "missing", f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}", tuple(seeds))


def mixed(runs: pd.DataFrame, recipes: dict[str, dict[str, Any]]) -> list[Problem]:
    """Rows whose seeds were made with different recipes; or budgets, where schedules follow them."""
    problems = []
    for (task, variant, corpus, scale, _), row in runs.groupby(["task", *ROW], sort=True):
        budgets = sorted(map(int, row["budget"].unique()))
        hashes = sorted(row["recipe_hash"].unique())
        if len(hashes) > 1:
            changed = difference(recipes[hashes[0]], recipes[hashes[1]])
            what = "; ".join(changed).replace("(there)", "(some)").replace("(asked for)", "(others)")
            problems.append(Problem(f"{variant}/{task}/{corpus}/{scale}", "mixed",
                                    f"its seeds were made with {len(hashes)} recipes: {what}"))
        if len(budgets) > 1 and learns_by_budget(algorithm := str(row["algorithm"].iloc[0])):
            problems.append(Problem(f"{variant}/{task}/{corpus}/{scale}", "mixed",
                                    f"its seeds were made with budgets of {', '.join(map(str, budgets))} env_steps, "
                                    f"which the schedules of {algorithm} follow"))
    return problems


