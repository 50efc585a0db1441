"""What tables and figures share: rows (lines), their seeds' values, and the caption that says what is shown."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pvdr_bench.algorithms.registry import learns_by_budget
from pvdr_bench.results.collect import Results
from pvdr_bench.results.problems import REFERENCES, ROW
from pvdr_bench.results.stats import (
    CONFIDENCE,
    REPETITIONS,
    Interval,
    iqm,
    mean_of_tasks,
    stratified_bootstrap,
    t_interval,
)
from pvdr_bench.rl.config import EVAL_STD, MEAN_POLICY

METRICS = {
    "success": "success rate",
    "success_any": "rate of episodes with success at any step",
    "success_end": "rate of episodes with success at the end",
    "return": "return",
}


@dataclass(frozen=True)
class Row:
    """One row of a table, one line of a figure: a variant with its corpus at one scale under one protocol."""

    variant: str
    corpus: str
    scale: str
    protocol_hash: str
    label: str
    reference: bool  # does not learn: floor or ceiling

    @property
    def title(self) -> str:
        """The label without the corpus."""
        return self.label.removesuffix(f" ({self.corpus})")

    def of(self, frame: pd.DataFrame, task: str | None = None) -> pd.DataFrame:
        """This row's part of a frame, in the frame's order."""
        key = tuple(getattr(self, column) for column in ROW)
        if task is None:
            return frame.take(_places(frame, ROW).get(key, []))
        return frame.take(_places(frame, ("task", *ROW)).get((task, *key), []))


_Places = dict[tuple[str, ...], NDArray[np.intp]]
_PLACES: dict[tuple[int, tuple[str, ...]], tuple[weakref.ref[pd.DataFrame], _Places]] = {}


def _places(frame: pd.DataFrame, columns: tuple[str, ...]) -> _Places:
    """Where each combination of values stands in a frame that nobody changes; found once while the frame lives.

    Figures of a large experiment ask thousands of times, and comparing whole columns took most of their time.
    """
    key = id(frame), columns
    known = _PLACES.get(key)
    if known is None or known[0]() is not frame:
        known = weakref.ref(frame, lambda _: _PLACES.pop(key, None)), frame.groupby(list(columns), sort=False).indices
        _PLACES[key] = known
    return known[1]


def rows_of(results: Results) -> list[Row]:
    """All rows: learned ones by name, then floor and ceiling."""
    runs = results.runs
    several_protocols = runs["protocol_hash"].nunique() > 1
    titles = runs.groupby("variant")["title"].first()
    ambiguous = set(titles[titles.duplicated(keep=False)].index)
    rows = []
    for key, group in runs.groupby(list(ROW), sort=True):
        variant, corpus, scale, protocol_hash = map(str, key)
        label = variant if variant in ambiguous else str(group["title"].iloc[0])
        if corpus != "none":
            label += f" ({corpus})"
        if several_protocols:
            label += f" [{scale}, {protocol_hash}]"
        rows.append(Row(variant, corpus, scale, protocol_hash, label, bool(group["algorithm"].isin(REFERENCES).all())))
    return sorted(rows, key=lambda row: row.reference)


@dataclass(frozen=True)
class Final:
    """The final evaluations of one row in one task."""

    env_steps: int  # where they were made; 0 if there are none
    values: NDArray[np.float64]  # [seeds]
    seeds: tuple[int, ...]
    episodes: tuple[int, ...]  # per seed


def final_values(row: Row, points: pd.DataFrame, task: str, metric: str = "success") -> Final:
    """Each seed's final evaluation, at the env_steps that most seeds have (the later of equals)."""
    mine = row.of(points, task)
    mine = mine[mine["point"].eq("final") & mine["complete"].astype(bool)]
    if mine.empty:
        return Final(0, np.empty(0), (), ())
    counts = mine["env_steps"].value_counts()
    env_steps = int(counts[counts == counts.max()].index.max())
    mine = mine[mine["env_steps"].eq(env_steps)].sort_values("seed")
    return Final(env_steps, mine[metric].to_numpy(dtype=np.float64), tuple(map(int, mine["seed"])),
                 tuple(map(int, mine["episodes"])))


def curve_values(row: Row, points: pd.DataFrame, task: str, metric: str = "success") -> pd.DataFrame:
    """Values by env_steps (index) and seed (columns); NaN where a seed has not come so far.

    Where a grid point and a final evaluation stand at the same env_steps, the final one counts: it has more episodes.
    """
    mine = row.of(points, task)
    mine = mine[mine["complete"].astype(bool)].sort_values("point")  # "final" before "grid"
    mine = mine.drop_duplicates(["seed", "env_steps"], keep="first")
    return mine.pivot(index="env_steps", columns="seed", values=metric).sort_index()


def over_tasks(row: Row, points: pd.DataFrame, tasks: list[str], metric: str = "success", *, statistic: str = "mean",
               confidence: float = CONFIDENCE, repetitions: int = REPETITIONS, seed: int = 0) -> Interval | None:
    """Mean or IQM over all tasks with its stratified bootstrap interval; None unless the row has every task."""
    finals = [final_values(row, points, task, metric) for task in tasks]
    if any(final.values.size == 0 for final in finals):
        return None
    return stratified_bootstrap([final.values for final in finals],
                                statistic=iqm if statistic == "iqm" else mean_of_tasks,
                                confidence=confidence, repetitions=repetitions, seed=seed)


def bounds_of(metric: str) -> tuple[float, float] | None:
    """What an interval is clipped to: rates lie in [0, 1], returns anywhere."""
    return None if metric == "return" else (0.0, 1.0)


def final_interval(row: Row, points: pd.DataFrame, task: str, metric: str = "success", *,
                   confidence: float = CONFIDENCE) -> tuple[Final, Interval]:
    """A row's final evaluations in one task, and the mean over seeds with its Student t interval."""
    final = final_values(row, points, task, metric)
    return final, t_interval(final.values, confidence=confidence, bounds=bounds_of(metric))


def spread_of(numbers: list[int]) -> str:
    """``5`` or ``3 to 5``."""
    if not numbers:
        return "0"
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"


def final_words(results: Results, metric: str, unit: str = "") -> str:
    """What final evaluations are, for a caption to begin with: those at ``results.at`` where runs were cut there."""
    if results.at is None:
        return f"Final {METRICS[metric]}{unit} of the last policy"
    return f"{METRICS[metric].capitalize()}{unit} after {results.at} env_steps"


def budgets_of(rows: Iterable[Row], results: Results, tasks: Iterable[str], metric: str = "success") -> set[int]:
    """The env_steps at which final evaluations of these rows in these tasks were made."""
    finals = [final_values(row, results.points, task, metric) for row in rows for task in tasks]
    return {final.env_steps for final in finals if final.values.size}


def budget_words(budgets: Iterable[int]) -> str:
    """The sentence on where final evaluations were made, and that rows differ in it where they do."""
    found = sorted(set(budgets))
    return f"Evaluated after {spread_of(found)} env_steps" + (
        "; the budgets differ, compare with care." if len(found) > 1 else ".")


def caption_facts(results: Results) -> list[str]:
    """Sentences on seeds, pre-training seeds, episodes and protocol, true of everything shown."""
    runs, points = results.runs, results.points
    seeds = [int(n) for n in runs.groupby(["task", *ROW])["seed"].nunique()]
    sentences = [f"Training seeds per row: {spread_of(seeds)}."]
    pretrained = runs[runs["pretrain_seed"] >= 0]
    if not pretrained.empty:
        counts = [int(n) for n in pretrained.groupby(["task", *ROW])["pretrain_seed"].nunique()]
        shared = "; all seeds of a row share one pre-trained model, and its interval is conditional on it"
        sentences.append(f"Pre-training seeds: {spread_of(counts)}{shared if max(counts) == 1 else ''}.")
    whole = points[points["complete"].astype(bool)]
    episodes = {point: spread_of([int(n) for n in group["episodes"]]) for point, group in whole.groupby("point")}
    if episodes:
        parts = [f"{episodes[key]} {text}" for key, text in (("grid", "at a point of the curve"),
                                                             ("final", "at the end" if results.at is None else
                                                              "at the point shown")) if key in episodes]
        sentences.append(f"Evaluation episodes per seed: {', '.join(parts)}; sampled actions{_but(runs)}, full length.")
    for key, protocol in results.protocols.items():
        rule = "at its end" if protocol.get("success_rule") == "end" else "at any step of an episode"
        instances = "one frozen instance" if protocol.get("frozen_instance") else "random instances"
        metric = f" ({protocol['goal_metric']})" if protocol.get("goal_metric") else ""
        ends = ", training episodes end at success" if protocol.get("terminate_on_success") else ""
        sentences.append(f"Protocol {protocol.get('name')}, scale {protocol.get('scale')}, hash {key}: success {rule}, "
                         f"{protocol.get('image_size')} pixels, {protocol.get('renderer')} renderer, "
                         f"action repeat {protocol.get('action_repeat')}, {protocol.get('episode_steps')} env_steps an "
                         f"episode, {instances}, reward {protocol.get('reward')}{metric}{ends}.")
    return sentences + cut_short(rows_of(results), results, results.at) + _notes(results)


def _but(runs: pd.DataFrame) -> str:
    """Which rows' evaluation plays other actions, as far as their names say so."""
    told = [key for key in (EVAL_STD, MEAN_POLICY) if runs["variant"].str.contains(key, regex=False).any()]
    return f" (but where {' or '.join(told)} says otherwise)" if told else ""


def cut_short(rows: Iterable[Row], results: Results, env_steps: int | None) -> list[str]:
    """What is said of rows shown at ``env_steps`` of a larger budget that their schedules follow; nothing uncut."""
    if env_steps is None:
        return []
    longer = results.runs[results.runs["budget"] > env_steps]
    found = []
    for row in rows:
        mine = row.of(longer)
        if len(mine) and learns_by_budget(str(mine["algorithm"].iloc[0])):
            found.append(f"{row.label} of {spread_of(list(map(int, mine['budget'])))}")
    return [f"Cut at {env_steps} env_steps on the way to a larger budget that schedules follow, so not what runs of "
            f"this budget come to: {', '.join(found)}."] if found else []


def _notes(results: Results) -> list[str]:
    """What has to be said of the tasks shown, each sentence with the tasks it is about; said of all, it names none."""
    shown = sorted(map(str, results.runs["task"].unique()))
    about: dict[str, list[str]] = {}
    for task in shown:
        if note := results.notes.get(task):
            about.setdefault(note, []).append(task)
    return [note if tasks == shown else f"{', '.join(tasks)}: {note}" for note, tasks in about.items()]


def excluded(rows: Iterable[Row], results: Results, tasks: list[str]) -> Iterable[str]:
    """Seeds that are done, but at other env_steps than their row shows; where all was cut, those that lack it there."""
    for row in rows:
        for task in tasks:
            final = final_values(row, results.points, task)
            if results.at is None:
                mine = row.of(results.points, task)
                mine = mine[mine["point"].eq("final") & mine["complete"].astype(bool)]
            else:  # the cut took the final evaluations of the shorter ones away
                mine = row.of(results.runs, task)
            others = sorted(set(map(int, mine["seed"])) - set(final.seeds))
            if others:
                where = final.env_steps or results.at
                yield (f"{row.label}, {task}: no final evaluation at {where} env_steps, so left out: "
                       f"seeds {', '.join(map(str, others))}")


def left_out(results: Results) -> list[str]:
    """One line per run that is not, or not wholly, in what is shown."""
    return [f"{problem.run}: {problem.kind}, {problem.detail}" for problem in results.problems]
