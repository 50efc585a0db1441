"""A page for every run: recipe, provenance, evaluations, losses and collapse metrics, and how it failed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from pvdr_bench.errors import DataError
from pvdr_bench.results.collect import Results
from pvdr_bench.results.report.clean import Cleaner, cleaner_of
from pvdr_bench.results.report.curves import Clock
from pvdr_bench.results.report.downsample import min_max
from pvdr_bench.results.report.media import inspected
from pvdr_bench.results.series import Row
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.files import content_hash
from pvdr_bench.runs.provenance import shareable

POINTS = 240  # at most, of one small plot
_FEWEST = 24  # that a small plot is thinned to when there are hundreds of runs
_ALL_POINTS = 600_000  # of all small plots together; reached by hundreds of runs
PLOTTED_RUNS = 1000  # runs with small plots; later ones keep the rest of their page
_EVALUATED = ("env_steps", "decisions", "point", "episodes", "complete", "success_any", "success_end", "return",
              "length")
_NO_METRIC = ("env_steps", "decisions")
# First match gives the group; the words are those of the algorithms' metrics.
GROUPS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("Goal, plans and collapse", re.compile(r"plan_|rank_|diversity|distance|spearman|perplexity|usage|collapse|z_")),
    ("Losses", re.compile(r"loss|l_act|finetune_|kl|error|rec\b|nll")),
    ("Progress", re.compile(r"train_|reward|return|success|value_mean|episodes|rounds|clips|updates")),
    ("Optimisation", re.compile("")),
)


@dataclass
class Shared:
    """What many runs have in common, held once: content hash -> recipe, installed packages."""

    recipes: dict[str, Any] = field(default_factory=dict)
    packages: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """What is read of a run before anything is shown.

    Attributes:
        notes: files that cannot be read, each with the reason.
    """

    path: str
    run: dict[str, Any]
    provenance: dict[str, Any]
    done: dict[str, Any]
    heartbeat: dict[str, Any]
    failed: dict[str, Any] | None
    artefacts: dict[str, Any]
    train: list[dict[str, Any]]
    timing: list[dict[str, Any]]
    notes: tuple[str, ...]


def paths_of(results: Results) -> list[str]:
    """All run directories to show: those with numbers, then those that could not be read or never began."""
    known = list(map(str, results.runs["path"]))
    extra = sorted({problem.run for problem in results.problems} - set(known))
    return known + [name for name in extra if name in results.places]


def read_source(results: Results, path: str) -> Source:
    """Read a run directory; a broken file becomes a note."""
    run, notes = RunDir(results.places[path]), list[str]()

    def tried(name: str, read: Any) -> Any:
        try:
            return read()
        except DataError as error:
            notes.append(f"{name} cannot be read: {str(error).splitlines()[0]}")
            return None

    return Source(
        path, tried("run.yaml", run.read_run) or {}, tried("provenance.json", run.read_provenance) or {},
        tried("done.json", run.done) or {}, tried("heartbeat.json", run.read_heartbeat) or {},
        tried("failed.json", run.failed),
        tried("artefacts.json", run.read_artefacts) or {},
        tried("train.jsonl", run.read_train) or [], tried("timing.jsonl", run.read_timing) or [], tuple(notes))


def cleaner_for(results: Results, sources: Sequence[Source]) -> Cleaner:
    """A cleaner that knows the hosts and folders of all these runs."""
    return cleaner_of(results.root, [source.provenance for source in sources])


def clocks_of(results: Results, sources: Sequence[Source]) -> dict[str, Clock]:
    """When each run reached each of its points, as far as it records that."""
    points = {str(path): group for path, group in results.points.groupby("path")}
    none = results.points.iloc[:0]
    return {source.path: _clock(source, points.get(source.path, none)) for source in sources}


def _clock(source: Source, points: pd.DataFrame) -> Clock:
    made = {int(grid): int(steps) for grid, steps in zip(points["env_steps"], points["env_steps_made"], strict=True)}
    timed = {int(row["env_steps"]): (float(row["wall_seconds"]) - float(row["evaluation_seconds"])) / 3600.0
             for row in source.timing}
    exact = {grid: timed[steps] for grid, steps in made.items() if steps in timed}
    whole = next(((float(record["wall_seconds"]) / 3600.0, int(record["env_steps"]))
                  for record in (source.done, source.heartbeat)
                  if record.get("wall_seconds") and record.get("env_steps")), None)
    share = {grid: whole[0] * steps / whole[1] for grid, steps in made.items()} if whole else None
    gpu = bool(source.timing) and all(row.get("device") == "cuda" for row in source.timing)
    return Clock(exact if made and len(exact) == len(made) else None, share or None, gpu)


def run_pages(results: Results, rows: list[Row], sources: Sequence[Source]) -> dict[str, Any]:
    """All pages, as JSON types: ``runs``, and the ``recipes`` and ``packages`` that they refer to by hash.

    Texts are as the run directories have them: clean them (:mod:`pvdr_bench.results.report.clean`) before others see
    them.
    """
    shared, limit = Shared(), points_limit(sources)
    facts = {str(record["path"]): record for record in results.runs.to_dict("records")}
    rates = {str(path): group for path, group in results.points.groupby("path")}
    pages = []
    for number, source in enumerate(sources):
        record = facts.get(source.path)
        page = _head(source, record, rows) | _made(source, shared)
        page["points"] = _evaluations(rates.get(source.path))
        page["metrics"] = metrics_of(source.train, limit) if number < PLOTTED_RUNS else []
        if number >= PLOTTED_RUNS and source.train:
            page["notes"].append(f"No plots of train.jsonl: only the first {PLOTTED_RUNS} runs have them.")
        pictures, unread = inspected(results.places[source.path])
        page["inspected"] = {name: {"title": entry["title"], "numbers": _readable(entry["numbers"])}
                             for name, entry in pictures.items()}
        page["notes"] += [unread] if unread else []
        page["problems"] = [f"{problem.kind}: {problem.detail}" for problem in results.problems
                            if problem.run == source.path]
        pages.append(page)
    return {"runs": pages, "recipes": shared.recipes, "packages": shared.packages}


def points_limit(sources: Sequence[Source]) -> int:
    """Points that one small plot may have, so that all of them together stay bounded."""
    plots = sum(len({name for row in source.train for name in row}) for source in sources[:PLOTTED_RUNS])
    return max(_FEWEST, min(POINTS, _ALL_POINTS // max(1, plots)))


def _head(source: Source, record: dict[Any, Any] | None, rows: list[Row]) -> dict[str, Any]:
    """Which run it is. A run that could not be read is named by its path alone."""
    if record is None:
        status = "failed" if source.failed else "broken"
        return {"path": source.path, "label": source.path, "status": status, "notes": list(source.notes)}
    row = next(i for i, row in enumerate(rows) if all(
        record[key] == getattr(row, key) for key in ("variant", "corpus", "scale", "protocol_hash")))
    kept = ("task", "corpus", "scale", "status", "variant", "algorithm", "protocol_hash", "recipe_hash", "path")
    numbers = ("seed", "pretrain_seed", "budget", "algorithm_version")
    return {"row": row, "label": rows[row].label, **{key: str(record[key]) for key in kept},
            **{key: int(record[key]) for key in numbers}, "notes": list(source.notes)}


def _made(source: Source, shared: Shared) -> dict[str, Any]:
    """What it was made with, and how it ended."""
    recipe = {key: value for key, value in (source.run.get("recipe") or {}).items()
              if key not in ("seed", "pretrain_seed")}
    provenance = source.provenance
    kept = shareable(provenance)
    packages = kept.pop("packages", None)
    resumes = [shareable(changed) for changed in kept.pop("resumes", [])]
    for changed in resumes:
        changed.pop("packages", None)  # the first start's are shown; a change of versions shows in the rest
    failed = source.failed and {key: source.failed.get(key) for key in ("error", "message", "traceback", "exit_code")}
    return {
        "recipe": _share(shared.recipes, recipe), "tuning": str(_spec(source).get("tuning") or ""),
        "packages": _share(shared.packages, packages), "provenance": kept,
        "resumes": resumes, "artefacts": source.artefacts,
        "outcome": {key: value for key, value in source.done.items() if key != "time"},
        "failure": failed,
    }


def _spec(source: Source) -> dict[str, Any]:
    found = source.run.get("spec")
    return found if isinstance(found, dict) else {}


def _share(store: dict[str, Any], content: dict[str, Any] | None) -> str | None:
    """Put a mapping into ``store`` once; returns its key, or None where there is nothing."""
    if not content:
        return None
    key = content_hash(content)
    store.setdefault(key, content)
    return key


def _evaluations(points: pd.DataFrame | None) -> list[dict[str, Any]]:
    """A row per evaluation point: on the grid, and at the end of the budget the final one after it."""
    if points is None:
        return []
    kept = points.rename(columns={"env_steps": "grid_steps"}).rename(columns={"env_steps_made": "env_steps"})
    kept = kept[list(_EVALUATED)].sort_values(["env_steps", "point"], ascending=[True, False], kind="stable")
    return [{key: _plain(value) for key, value in record.items()} for record in kept.to_dict("records")]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def metrics_of(rows: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Every number of ``train.jsonl`` as a small plot, by group.

    Returns:
        Per metric: name, group, x (env_steps) and y of at most ``limit`` real points (see
        :func:`~pvdr_bench.results.report.downsample.min_max`), and of all finite values count, first, last, lowest and
        highest; ``bad`` counts the values that are not finite.
    """
    columns: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name in _NO_METRIC or isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            xs, ys = columns.setdefault(name, ([], []))
            xs.append(int(row.get("env_steps", 0)))
            ys.append(float(value))
    order = {name: index for index, (name, _) in enumerate(GROUPS)}
    plots = [_plot(name, xs, ys, limit) for name, (xs, ys) in columns.items()]
    return sorted(plots, key=lambda plot: order[plot["group"]])


def _plot(name: str, xs: list[int], ys: list[float], limit: int) -> dict[str, Any]:
    y = np.array(ys, dtype=np.float64)
    finite = np.isfinite(y)
    x, y = np.array(xs, dtype=np.int64)[finite], y[finite]
    group = next(title for title, pattern in GROUPS if pattern.search(name))
    kept = min_max(y, limit)
    facts: dict[str, float] = {"count": int(y.size), "bad": int((~finite).sum())}
    if y.size:
        facts |= {"first": _short(y[0]), "last": _short(y[-1]), "low": _short(y.min()), "high": _short(y.max())}
    return {"name": name, "group": group, "x": [int(v) for v in x[kept]], "y": [_short(v) for v in y[kept]], **facts}


def _readable(value: Any) -> Any:
    """Measurements with five digits."""
    if isinstance(value, dict):
        return {key: _readable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_readable(inner) for inner in value]
    return _short(value) if isinstance(value, float) and math.isfinite(value) else value


def _short(value: float) -> float:
    """Five digits: a plot of that width shows no more."""
    number = float(f"{value:.5g}")
    return int(number) if number == math.floor(number) and abs(number) < 1e9 else number
