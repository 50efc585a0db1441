"""From run directories to one tidy frame: a row per run and evaluation point.

A row's numbers are means over the point's evaluation episodes; the seed is the unit of evidence. Runs that are still
being written, torn, failed or missing never stop the collection: they are listed in :attr:`Results.problems`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pvdr_bench.errors import DataError, UsageError
from pvdr_bench.results.cache import ContentCache, content_signature
from pvdr_bench.results.problems import ROW, Problem, Run, incomplete, missing, mixed, run_problems, why_left_out
from pvdr_bench.results.reading import POINT_TYPES, Content, read_content
from pvdr_bench.results.sheets import to_csv
from pvdr_bench.runs.difference import difference
from pvdr_bench.runs.files import atomic_write
from pvdr_bench.runs.folders import run_folders
from pvdr_bench.runs.known import KnownRuns
from pvdr_bench.runs.paths import existing_results
from pvdr_bench.runs.standing import judge

COLUMNS: dict[str, str] = {
    "method": "name of the method's YAML",
    "variant": "method with its command-line overrides",
    "title": "name in figures and tables",
    "algorithm": "the learner's code",
    "algorithm_version": "raised when the algorithm's results change",
    "task": "name of the task's YAML",
    "corpus": "videos of pre-training, or none",
    "scale": "paper, gpu, cpu, quick or smoke",
    "protocol": "name of the evaluation protocol",
    "protocol_hash": "hash of all that changes what a number means; rows of different hashes never mix",
    "recipe_hash": "hash of all that determines a run's results, its seed left out",
    "seed": "training seed",
    "pretrain_seed": "seed of the pre-trained model; -1 where there is none",
    "env_steps": "simulator steps trained for, as the grid has them",
    "env_steps_made": "the same, exactly: the grid's plus less than one decision of all environments",
    "decisions": "decisions trained for",
    "point": "grid (during training) or final (after it, with more episodes)",
    "episodes": "evaluation episodes behind this row",
    "complete": "whether these are as many as the protocol asks for",
    "success": "success rate under the protocol's rule",
    "success_any": "rate of episodes with success at any step",
    "success_end": "rate of episodes with success at the last step",
    "return": "mean return",
    "length": "mean length in env_steps",
    "wall_seconds": "seconds the run had worked before this evaluation; missing where not recorded",
    "evaluation_seconds": "those among them that earlier evaluations took",
    "device": "cpu or cuda; unknown where not recorded",
    "status": "of the run: done, running, stopped or failed",
    "budget": "env_steps asked for",
    "path": "run directory below the results folder",
}
RUN_COLUMNS = tuple(name for name in COLUMNS if name in (
    "method", "variant", "title", "algorithm", "algorithm_version", "task", "corpus", "scale", "protocol",
    "protocol_hash", "recipe_hash", "seed", "pretrain_seed", "status", "budget", "path"))
_RUN_SORT = ["task", "variant", "corpus", "scale", "protocol_hash", "seed"]
_SORT = [*_RUN_SORT, "env_steps", "point"]


@dataclass
class Results:
    """All that a results folder holds.

    Attributes:
        points: a row per run and evaluation point, with the columns of :data:`COLUMNS`.
        runs: a row per run, with those of :data:`RUN_COLUMNS`.
        protocols: protocol hash -> its meaning, as the run directories say.
        places: folder of each run by its name (the column ``path``); also of those that could not be read.
        read: run folders that were read; the others' content was known from an earlier time. Says nothing of results.
        at: env_steps that everything was cut at, see :meth:`cut_at`; None: as the runs are.
        notes: task -> what every caption says of it; tasks without such a note are missing.
        whole: variant and corpus of all runs of the folder where these are a selection: a row's look follows from it.
    """

    root: Path
    points: pd.DataFrame
    runs: pd.DataFrame
    problems: list[Problem]
    protocols: dict[str, dict[str, Any]]
    places: dict[str, Path] = field(default_factory=dict, compare=False)
    read: int = field(default=0, compare=False)
    at: int | None = None
    whole: frozenset[tuple[str, str]] = field(default=frozenset(), compare=False)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[tuple[str, str]]:
        """Variant and corpus of all runs of the folder, also of those that were not chosen."""
        return self.whole or frozenset((str(variant), str(corpus)) for variant, corpus in
                                       zip(self.runs["variant"], self.runs["corpus"], strict=True))

    def select(self, **chosen: Sequence[str | int] | None) -> Results:
        """Keep rows whose column is in the given list; None and an empty list keep all.

        Raises:
            UsageError: nothing is left; names what there is.
        """
        points, runs = self.points, self.runs
        for column, values in chosen.items():
            if not values:
                continue
            available = list(map(str, sorted(runs[column].unique())))
            absent = [str(value) for value in values if str(value) not in available]
            if absent:
                raise UsageError(f"no run with {column} {', '.join(absent)}", where=str(self.root),
                                 hint=f"there is: {', '.join(available) or 'nothing'}")
            points, runs = points[points[column].isin(values)], runs[runs[column].isin(values)]
        kept, everything = set(runs["path"]), set(self.runs["path"])
        problems = [p for p in self.problems
                    if p.run in kept or (p.run not in everything and self._concerns(p, chosen))]
        if seeds := [int(seed) for seed in chosen.get("seed") or ()]:
            problems = [left for p in problems if (left := p.of_seeds(seeds)) is not None]
        hashes = set(runs["protocol_hash"])
        return replace(self, points=points.reset_index(drop=True), runs=runs.reset_index(drop=True), problems=problems,
                       protocols={key: value for key, value in self.protocols.items() if key in hashes},
                       whole=self.names)

    def cut_at(self, env_steps: int, *, reached: bool = True) -> Results:
        """All runs as if their budget had been ``env_steps``: rows of different budgets, compared at one.

        The evaluation there counts as the final one (the real one if the budget was just this, else the grid's, which
        has fewer episodes); what came later is gone. Runs that were not evaluated there have no final evaluation.
        Where schedules follow the budget it is not the same: captions say so (:func:`.series.cut_short`).

        Raises:
            UsageError: ``reached`` is asked for, and no run was evaluated there; names where they were.
        """
        points = self.points[self.points["env_steps"] <= env_steps]
        there = points[points["env_steps"].eq(env_steps) & points["complete"].astype(bool)]
        if there.empty and reached:
            known = ", ".join(str(n) for n in sorted(set(self.points["env_steps"])))
            raise UsageError(f"no run was evaluated after {env_steps} env_steps", where=str(self.root),
                             hint=f"there is: {known or 'nothing'}")
        there = there.sort_values(["path", "point"]).drop_duplicates("path")  # "final" before "grid"
        earlier = points[points["point"].eq("grid") & points["env_steps"].lt(env_steps)]
        cut = pd.concat([earlier, there.assign(point="final")]).sort_index().reset_index(drop=True)
        return replace(self, points=cut, at=env_steps)

    @staticmethod
    def _concerns(problem: Problem, chosen: dict[str, Sequence[str | int] | None]) -> bool:
        """Whether what is missing or could not be read may belong to the selection, judged by its path.

        The path is a run's, or a row's (variant/task/corpus/scale).
        """
        parts = problem.run.split("/")
        place = {"variant": 0, "task": 1, "corpus": 2}
        return all(not values or column not in place or len(parts) < 4 or parts[place[column]] in values
                   for column, values in chosen.items())

    def require_runs(self) -> None:
        """Refuse to show nothing.

        Raises:
            UsageError: there is no run that can be read; says what is wrong with those that cannot.
        """
        if self.runs.empty:
            broken = "".join(f"\n    {p.run}: {p.kind}, {p.detail}" for p in self.problems[:5])
            raise UsageError(f"there is no run to show{broken}", where=str(self.root),
                             hint="run something first, or give --results")

    def require_one_protocol(self, *, allow_mixed: bool | None = None) -> None:
        """Refuse to put numbers of different meaning side by side.

        Args:
            allow_mixed: show them all the same; None: the reader has no way to, and is not told of one.

        Raises:
            UsageError: there are several protocol hashes, or seeds of one row made with different recipes or budgets.
        """
        if allow_mixed:
            return
        hashes = sorted(self.runs["protocol_hash"].unique())
        if len(hashes) > 1:
            first = self.protocols[hashes[0]]
            lines = [_protocol_title(key, self.protocols[key]) for key in hashes]
            for key in hashes[1:]:
                changed = difference(first, self.protocols[key])
                lines += [f"{line}".replace("(there)", hashes[0]).replace("(asked for)", key) for line in changed]
            side_by_side = "" if allow_mixed is None else (
                ", or give --allow-mixed to see them side by side, each in rows of its own")
            raise UsageError("runs of different protocols never mix:\n" + "\n".join(f"    {line}" for line in lines),
                             where=str(self.root), hint=f"choose one by its hash: --protocol {hashes[0]}{side_by_side}")
        mixed = [problem for problem in self.problems if problem.kind == "mixed"]
        if mixed:
            raise UsageError("; ".join(f"{p.run}: {p.detail}" for p in mixed), where=str(self.root),
                             hint="seeds of one row must share one recipe, and the budget where it is told: run the "
                                  "old ones anew" + ("" if allow_mixed is None else ", or give --allow-mixed"))


def _protocol_title(key: str, protocol: dict[str, Any]) -> str:
    return f"{key}: protocol {protocol.get('name', '?')}, scale {protocol.get('scale', '?')}"


def collect(root: Path | str, *, cached: bool = True) -> Results:
    """Read every run below ``root``, but not in its folders ``reference`` and ``paper`` (give those as ``root``).

    Args:
        cached: use and write :mod:`~pvdr_bench.results.cache` below ``root``. The results are the same without it.

    Raises:
        UsageError: ``root`` is not a folder.
    """
    root = existing_results(root)
    cache, known = (ContentCache(root), KnownRuns(root)) if cached else (None, None)
    runs: list[Run] = []
    problems: list[Problem] = []
    seen: dict[tuple[Any, ...], str] = {}
    places: dict[str, Path] = {}
    read = 0

    def refused(name: str, reason: str) -> None:
        problems.append(Problem(name, "broken", f"the folder cannot be read: {reason}"))

    for name, path in run_folders(root, refused):
        read += 1
        places[name] = path
        try:
            standing = judge(path, known)  # before the logs: what ends meanwhile is still running here
            content, known_content = (None, False) if standing.state == "broken" else _content(path, name, cache)
            read -= known_content
        except DataError as error:
            problems.append(Problem(name, "broken", str(error).splitlines()[0]))
            continue
        if content is None:
            problems.append(why_left_out(name, standing))
            continue
        run = Run({**content.facts, "status": standing.state, "path": name}, content)
        identity = tuple(run.row[key] for key in ("task", *ROW, "seed"))
        if identity in seen:
            problems.append(Problem(name, "twice", f"the same run as {seen[identity]}, which counts"))
            continue
        seen[identity] = name
        runs.append(run)
        problems += run_problems(run, standing) + incomplete(run)
    if cache is not None and known is not None:
        cache.store()
        known.store(whole=True)
    frame = _frame([run.row for run in runs], RUN_COLUMNS, _RUN_SORT)
    recipes = {run.row["recipe_hash"]: run.content.recipe for run in runs}
    protocols = {run.row["protocol_hash"]: run.content.protocol for run in runs}
    problems += missing(frame) + mixed(frame, recipes)
    notes = {run.row["task"]: run.row["note"] for run in runs if run.row["note"]}
    return Results(root, _points(runs), frame, problems, dict(sorted(protocols.items())), places, read, notes=notes)


def _content(path: Path, name: str, cache: ContentCache | None) -> tuple[Content | None, bool]:
    """What a run's files say, and whether that was known already."""
    if cache is None:
        return read_content(path), False
    before = content_signature(path)
    known = cache.get(name, before)
    if known is not None:
        return known, True
    cache.begin()
    content = read_content(path)
    if content is not None:
        cache.put(name, before, content_signature(path), content)
    return content, False


def _frame(rows: list[dict[str, Any]], columns: tuple[str, ...], order: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(columns))
    return frame.sort_values(order, kind="stable").reset_index(drop=True) if rows else frame


def _points(runs: list[Run]) -> pd.DataFrame:
    """A row per run and point: the runs' columns repeated, beside what was measured."""
    counts = [len(run.content.points["episodes"]) for run in runs]
    if not sum(counts):
        return pd.DataFrame(columns=list(COLUMNS))
    measured = {name: np.concatenate([run.content.points[name] for run in runs]) for name in POINT_TYPES}
    # An episode may end in the middle of a decision's repeated steps, so runs pass a sync point at slightly different
    # env_steps; to be comparable they are put at the sync point itself.
    grid = np.repeat([run.content.sync_every for run in runs], counts)
    at_end = np.repeat([run.content.protocol.get("success_rule") == "end" for run in runs], counts)
    measured |= {
        "env_steps": measured["env_steps_made"] // grid * grid,
        "complete": np.concatenate([run.complete for run in runs]),
        "success": np.where(at_end, measured["success_end"], measured["success_any"]),
    }
    repeated = pd.DataFrame([run.row for run in runs]).take(np.repeat(np.arange(len(runs)), counts))
    frame = repeated.reset_index(drop=True).assign(**measured)[list(COLUMNS)]
    return frame.sort_values(_SORT, kind="stable").reset_index(drop=True)


def write_frame(results: Results, folder: Path) -> dict[str, Path]:
    """Write ``points.parquet``, ``points.csv``, ``runs.csv`` and ``problems.csv`` to ``folder``.

    The same results give the same bytes.
    """
    names = {"parquet": "points.parquet", "csv": "points.csv", "runs": "runs.csv", "problems": "problems.csv"}
    files = {kind: folder / name for kind, name in names.items()}
    problems = pd.DataFrame([asdict(problem) for problem in results.problems], columns=["run", "kind", "detail"])
    for kind, frame in (("csv", results.points), ("runs", results.runs), ("problems", problems)):
        atomic_write(files[kind], to_csv(frame))
    atomic_write(files["parquet"], results.points.to_parquet(index=False, engine="pyarrow"))
    return files
