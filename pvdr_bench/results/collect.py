"""From run directories to one tidy frame: a row per run and evaluation point.

A row's numbers are means over the point's evaluation episodes; the seed is the unit of evidence. Runs that are still
being written, torn, failed or missing never stop the collection: they are listed in :attr:`Results.problems`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pvdr_bench.catalog.protocol import Protocol, digest
from pvdr_bench.errors import BenchError, DataError, UsageError
from pvdr_bench.runs.directory import COMMITTED, RunDir, difference
from pvdr_bench.runs.files import atomic_write, content_hash

COLUMNS: dict[str, str] = {
    "method": "name of the method's YAML",
    "variant": "method with its command-line overrides",
    "title": "name in figures and tables",
    "algorithm": "the learner's code",
    "algorithm_version": "raised when the algorithm's results change",
    "task": "name of the task's YAML",
    "corpus": "videos of pre-training, or none",
    "scale": "paper, gpu, cpu or smoke",
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
    "status": "of the run: done, running, stopped or failed",
    "budget": "env_steps asked for",
    "path": "run directory below the results folder",
}
RUN_COLUMNS = tuple(name for name in COLUMNS if name in (
    "method", "variant", "title", "algorithm", "algorithm_version", "task", "corpus", "scale", "protocol",
    "protocol_hash", "recipe_hash", "seed", "pretrain_seed", "status", "budget", "path"))
ROW = ("variant", "corpus", "scale", "protocol_hash")  # one row of a table, one line of a figure
REFERENCES = ("random", "scripted")  # algorithms that do not learn: floor and ceiling
_SORT = ["task", "variant", "corpus", "scale", "protocol_hash", "seed", "env_steps", "point"]
_NEVER_IN_RECIPE = ("seed", "pretrain_seed")


@dataclass(frozen=True)
class Problem:
    """A run that is not, or not wholly, in the results.

    ``kind``: missing, failed, running, stopped, short, incomplete, mixed, twice or broken.
    """

    run: str
    kind: str
    detail: str


@dataclass
class Results:
    """All that a results folder holds.

    Attributes:
        points: a row per run and evaluation point, with the columns of :data:`COLUMNS`.
        runs: a row per run, with those of :data:`RUN_COLUMNS`.
        protocols: protocol hash -> its meaning, as the run directories say.
    """

    root: Path
    points: pd.DataFrame
    runs: pd.DataFrame
    problems: list[Problem]
    protocols: dict[str, dict[str, Any]]

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
        kept = set(runs["path"])
        everything = set(self.runs["path"])
        problems = [p for p in self.problems
                    if p.run in kept or (p.run not in everything and self._concerns(p, chosen))]
        hashes = set(runs["protocol_hash"])
        return Results(self.root, points.reset_index(drop=True), runs.reset_index(drop=True), problems,
                       {key: value for key, value in self.protocols.items() if key in hashes})

    @staticmethod
    def _concerns(problem: Problem, chosen: dict[str, Sequence[str | int] | None]) -> bool:
        """Whether a run that could not be read may belong to the selection, judged by its path."""
        parts = problem.run.split("/")
        place = {"variant": 0, "task": 1, "corpus": 2}
        return all(not values or column not in place or len(parts) != 5 or parts[place[column]] in values
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

    def require_one_protocol(self, *, allow_mixed: bool = False) -> None:
        """Refuse to put numbers of different meaning side by side.

        Raises:
            UsageError: there are several protocol hashes, or seeds of one row made with different recipes.
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
            raise UsageError("runs of different protocols never mix:\n" + "\n".join(f"    {line}" for line in lines),
                             where=str(self.root), hint="choose one with --scale or --protocol, or give --allow-mixed "
                             "to see them side by side, each in rows of its own")
        mixed = [problem for problem in self.problems if problem.kind == "mixed"]
        if mixed:
            raise UsageError("; ".join(f"{p.run}: {p.detail}" for p in mixed), where=str(self.root),
                             hint="seeds of one row must share one recipe: run the old ones anew, "
                                  "or give --allow-mixed")


def _protocol_title(key: str, protocol: dict[str, Any]) -> str:
    return f"{key}: protocol {protocol.get('name', '?')}, scale {protocol.get('scale', '?')}"


def collect(root: Path | str) -> Results:
    """Read every run below ``root``, but not in its folders :data:`COMMITTED` (give those as ``root`` to see them).

    Raises:
        UsageError: ``root`` is not a folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise UsageError("there is no results folder", where=str(root),
                         hint="give it with --results, or run something first")
    runs, points, problems = [], [], []
    protocols: dict[str, dict[str, Any]] = {}
    recipes: dict[str, dict[str, Any]] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for path in _run_folders(root):
        name = path.relative_to(root).as_posix()
        run_dir = RunDir(path)
        try:
            facts, protocol, recipe, sync_every = _facts(run_dir, name)
            rows, found = _points(run_dir, facts, protocol, sync_every)
        except DataError as error:
            problems.append(Problem(name, "broken", str(error).splitlines()[0]))
            continue
        if facts is None:
            problems.append(Problem(name, "failed" if (path / "failed.json").exists() else "broken", _failure(run_dir)))
            continue
        identity = tuple(facts[key] for key in ("task", *ROW, "seed"))
        if identity in seen:
            problems.append(Problem(name, "twice", f"the same run as {seen[identity]}, which counts"))
            continue
        seen[identity] = name
        runs.append(facts)
        points += rows
        problems += found
        protocols[facts["protocol_hash"]] = protocol
        recipes[facts["recipe_hash"]] = recipe
    run_frame = _frame(runs, RUN_COLUMNS, ["task", "variant", "corpus", "scale", "protocol_hash", "seed"])
    problems += _missing(run_frame) + _mixed(run_frame, recipes)
    return Results(root, _frame(points, tuple(COLUMNS), _SORT), run_frame, problems, dict(sorted(protocols.items())))


def _run_folders(root: Path) -> Iterator[Path]:
    """Folders with ``run.yaml`` or ``failed.json``, by path; nothing below them is looked at."""
    for folder, names, files in os.walk(root):
        if Path(folder) == root:
            names[:] = [name for name in names if name not in COMMITTED]
        if "run.yaml" in files or "failed.json" in files:
            names.clear()
            yield Path(folder)
        else:
            names[:] = sorted(name for name in names if not name.startswith("."))


def _frame(rows: list[dict[str, Any]], columns: tuple[str, ...], order: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(columns))
    return frame.sort_values(order, kind="stable").reset_index(drop=True) if rows else frame


def _need(mapping: dict[str, Any], key: str, where: str) -> Any:
    try:
        return mapping[key]
    except (KeyError, TypeError) as error:
        raise DataError(f"the key `{key}` is missing", where=where) from error


def _facts(run_dir: RunDir, name: str) -> tuple[dict[str, Any] | None, dict[str, Any], dict[str, Any], int]:
    """What ``run.yaml`` says: facts (None where there is none), the protocol's meaning, recipe, and sync_every."""
    run = run_dir.read_run()
    if run is None:
        return None, {}, {}, 1
    where = str(run_dir.path / "run.yaml")
    spec, recipe = _need(run, "spec", where), dict(_need(run, "recipe", where))
    protocol, task = _need(spec, "protocol", where), _need(spec, "task", where)
    for key in _NEVER_IN_RECIPE:
        recipe.pop(key, None)
    corpus = spec.get("corpus")
    return {
        "method": _need(spec, "method", where), "variant": _need(spec, "variant", where),
        "title": _title(spec), "algorithm": _need(spec, "algorithm", where),
        "algorithm_version": int(_need(spec, "algorithm_version", where)),
        "task": task["name"] if isinstance(task, dict) else str(task),
        "corpus": corpus["name"] if isinstance(corpus, dict) else str(corpus or "none"),
        "scale": _need(spec, "scale", where), "protocol": _need(protocol, "name", where),
        "protocol_hash": digest(_meaning(protocol)), "recipe_hash": content_hash(recipe),
        "seed": int(_need(spec, "seed", where)), "pretrain_seed": int(spec.get("pretrain_seed", 0) if corpus else -1),
        "status": run_dir.status(), "budget": int(_need(protocol, "env_steps", where)), "path": name,
    }, _meaning(protocol), recipe, int(_need(protocol, "sync_every", where))


def _title(spec: dict[str, Any]) -> str:
    """The method's title, or the variant's name where ``-o`` changed something that the title does not say."""
    return str(spec.get("title") or spec["variant"]) if spec["variant"] == spec["method"] else str(spec["variant"])


def _meaning(protocol: dict[str, Any]) -> dict[str, Any]:
    """The recorded keys that change what a number means; keys of an older schema count too, so nothing is re-read."""
    means = Protocol.keys("means")
    return {key: value for key, value in protocol.items() if key not in means}


def _points(run_dir: RunDir, facts: dict[str, Any] | None, protocol: dict[str, Any],
            sync_every: int) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Rows of a run, and what is to be said about it."""
    if facts is None:
        return [], []
    episodes = run_dir.read_episodes()
    problems = _status_problems(run_dir, facts, episodes)
    if not episodes:
        return [], problems
    frame = pd.DataFrame(episodes)
    columns = ["env_steps", "decisions", "point", "eval_seed", "success_any", "success_end", "return", "length"]
    absent = [name for name in columns if name not in frame]
    if absent:
        raise DataError(f"rows lack {', '.join(absent)}", where=str(run_dir.episodes.path))
    twice = frame.duplicated(["env_steps", "point", "eval_seed"], keep="last")
    if twice.any():
        problems.append(Problem(facts["path"], "broken", f"{int(twice.sum())} evaluation episodes are there twice; "
                                "the later ones count"))
        frame = frame[~twice]
    rows = []
    wanted = {"grid": protocol.get("eval_episodes", 1), "final": protocol.get("eval_final_episodes", 1)}
    rule = "success_end" if protocol.get("success_rule") == "end" else "success_any"
    for (env_steps, point), group in frame.groupby(["env_steps", "point"], sort=True):
        means = group[["success_any", "success_end", "return", "length"]].astype(float).mean()
        complete = len(group) >= wanted.get(str(point), 1)
        if not complete and facts["status"] != "running":
            problems.append(Problem(facts["path"], "incomplete", f"{len(group)} of {wanted[str(point)]} episodes of "
                                    f"the {point} point at {env_steps} env_steps; left out"))
        # An episode may end in the middle of a decision's repeated steps, so runs pass a sync point at slightly
        # different env_steps; to be comparable they are put at the sync point itself.
        rows.append({**facts, "env_steps": int(env_steps) // sync_every * sync_every, "env_steps_made": int(env_steps),
                     "decisions": int(group["decisions"].iloc[0]), "point": point,
                     "episodes": len(group), "complete": complete, "success": means[rule],
                     **{str(key): float(value) for key, value in means.items()}})
    return rows, problems


def _status_problems(run_dir: RunDir, facts: dict[str, Any], episodes: list[dict[str, Any]]) -> list[Problem]:
    reached = max((int(row.get("env_steps", 0)) for row in episodes), default=0)
    path, budget, status = facts["path"], facts["budget"], facts["status"]
    so_far = f"evaluated up to {reached} of {budget} env_steps"
    if status == "failed":
        return [Problem(path, "failed", f"{_failure(run_dir)} ({so_far})")]
    if status != "done":
        return [Problem(path, "stopped" if status == "stopped" else "running", so_far)]
    made = int((run_dir.done() or {}).get("env_steps", reached))
    if made < budget:
        return [Problem(path, "short", f"{made} of {budget} env_steps")]
    return []


def _failure(run_dir: RunDir) -> str:
    """The first line of a failed run's message."""
    try:
        failed = run_dir.failed()
    except BenchError as error:
        return f"failed.json cannot be read: {error.message}"
    if failed is None:
        return "there is no run.yaml"
    return str(failed.get("message") or failed.get("error") or "no message").splitlines()[0]


def _missing(runs: pd.DataFrame) -> list[Problem]:
    """Seeds that a learned row lacks and another one of the same task, scale and protocol has."""
    problems = []
    learned = runs[~runs["algorithm"].isin(REFERENCES)]
    for _, group in learned.groupby(["task", "scale", "protocol_hash"], sort=True):
        expected = set(group["seed"])
        for (variant, corpus, task, scale), row in group.groupby(["variant", "corpus", "task", "scale"], sort=True):
            absent = sorted(expected - set(row["seed"]))
            if absent:
                problems.append(Problem(f"{variant}/{task}/{corpus}/{scale}", "missing",
                                        f"seed{'s' if len(absent) > 1 else ''} {', '.join(map(str, absent))}"))
    return problems


def _mixed(runs: pd.DataFrame, recipes: dict[str, dict[str, Any]]) -> list[Problem]:
    """Rows whose seeds were made with different recipes."""
    problems = []
    for (task, variant, corpus, scale, _), row in runs.groupby(["task", *ROW], sort=True):
        hashes = sorted(row["recipe_hash"].unique())
        if len(hashes) > 1:
            changed = difference(recipes[hashes[0]], recipes[hashes[1]])
            what = "; ".join(changed).replace("(there)", "(some)").replace("(asked for)", "(others)")
            problems.append(Problem(f"{variant}/{task}/{corpus}/{scale}", "mixed",
                                    f"its seeds were made with {len(hashes)} recipes: {what}"))
    return problems


def write_frame(results: Results, folder: Path) -> dict[str, Path]:
    """Write ``points.parquet``, ``points.csv`` and ``runs.csv`` to ``folder``; the same results give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"parquet": folder / "points.parquet", "csv": folder / "points.csv", "runs": folder / "runs.csv"}
    atomic_write(files["csv"], results.points.to_csv(index=False, lineterminator="\n").encode())
    atomic_write(files["runs"], results.runs.to_csv(index=False, lineterminator="\n").encode())
    atomic_write(files["parquet"], results.points.to_parquet(index=False, engine="pyarrow"))
    return files
