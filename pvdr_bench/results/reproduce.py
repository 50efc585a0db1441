"""An experiment's figure and table in the publication's layout, from the runs that there are.

Half done, it draws what there is and says what is missing. Rows that were made, or will be, with unlike budgets are
shown up to the largest number of env_steps at which all of them are evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.catalog.experiment import Experiment, PaperTable
from pvdr_bench.catalog.resolve import split_variant
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.errors import BenchError, UsageError
from pvdr_bench.results import paper_table
from pvdr_bench.results.collect import Results
from pvdr_bench.results.figures import Plot, plot_bars, plot_curves, plot_sweep, save
from pvdr_bench.results.figures.sweep import is_numeric, leaves
from pvdr_bench.results.looks import MARKS, Look
from pvdr_bench.results.ordering import highest_row, sensitivity, table_ordering
from pvdr_bench.results.paper import figure_called, figure_has, figure_otherwise
from pvdr_bench.results.problems import REFERENCES
from pvdr_bench.results.series import rows_of
from pvdr_bench.results.tables import build_table, to_csv
from pvdr_bench.runs.files import atomic_write

AFTER = "after "  # a source begins so where the rows are ours, and no publication prints them
_SPOILT = ("broken", "twice", "incomplete")  # kinds of problems that no line on what is missing tells of
_RAMP = ("#2d1160", "#51127c", "#7a1d81", "#a3307e", "#cb4149", "#e8602d", "#f3903f", "#e8b54a")  # dark to light


@dataclass(frozen=True)
class Drawn:
    """What was made of an experiment.

    Attributes:
        files: pictures, tables and captions. ordering: the sentence on the publication's ordering, if there is any.
        remarks: what else has to be known, budgets among it.
        problem: why nothing, or not all, was drawn; empty: all was.
    """

    experiment: str
    files: tuple[Path, ...] = ()
    ordering: str = ""
    remarks: tuple[str, ...] = ()
    problem: str = ""


def draw(experiment: Experiment, specs: Sequence[RunSpec], results: Results, folder: Path,
         missing: Sequence[str] = (), variants: Mapping[str, Sequence[str]] | None = None) -> Drawn:
    """Draw an experiment into ``folder/NAME.*``.

    Args:
        specs: its runs, done or not. results: the folder that they are in. missing: lines on those that are not done.
        variants: what a method that the experiment names is called once keys of it were changed; others keep theirs.
    """
    name = experiment.name
    if experiment.figure is None and experiment.table is None:
        return Drawn(name, problem="its file names neither figure nor table, so nothing is drawn")
    mine = {str(spec.path("")) for spec in specs}
    there = mine & set(results.runs["path"])
    evaluated = set(results.points["path"]) if len(results.points) else set()
    if not there & evaluated:
        return Drawn(name, problem="no run of it has an evaluation yet, so there is nothing to draw")
    chosen = results.select(path=sorted(there))
    chosen.problems = [one for one in results.problems if one.run in mine]  # rows of other experiments are theirs
    spoilt = [f"{one.run}: {one.kind}, {one.detail}." for one in chosen.problems if one.kind in _SPOILT]
    try:
        found, remark = at_common_budget(chosen, specs)
        drawing = _Drawing(experiment, tuple(specs), found, folder, tuple(missing),
                           tuple(filter(None, (remark, *spoilt))), variants or {})
        return drawing.draw()
    except BenchError as error:
        return Drawn(name, problem=str(error))


def at_common_budget(results: Results, specs: Sequence[RunSpec]) -> tuple[Results, str]:
    """The results as they are, or cut where budgets differ: at the last evaluation that all rows that learn will have.

    The budget of a run that is there is the one that it was made with, which another experiment or command may have
    asked for; of one that is not, the one that is asked for now.

    Returns:
        A sentence on the cut for the caption; empty without one.

    Raises:
        UsageError: there is no such evaluation.
    """
    made = dict(zip(results.runs["path"], results.runs["budget"], strict=True))
    learned = [(spec, int(made.get(str(spec.path("")), spec.protocol.env_steps))) for spec in specs
               if spec.algorithm not in REFERENCES]
    budgets = {steps for _, steps in learned}
    if len(budgets) < 2:
        return results, ""
    every, least = math.lcm(*(spec.protocol.eval_every for spec, _ in learned)), min(budgets)
    common = least // every * every
    names = {steps: ", ".join(dict.fromkeys(spec.variant for spec, budget in learned if budget == steps))
             for steps in sorted(budgets)}
    told = "; ".join(f"{steps:,} env_steps: {text}" for steps, text in names.items())
    if not common:
        raise UsageError(f"the budgets differ ({told}), and the smallest ends before the first common evaluation",
                         hint=f"give all one budget: -o protocol.env_steps={max(budgets)}")
    return _cut(results, common), (f"The budgets differ ({told}), so all rows are shown up to {common:,} env_steps, "
                                   "where all are evaluated.")


def _cut(results: Results, env_steps: int) -> Results:
    """The rows that learn cut at ``env_steps``, which none need have reached; floor and ceiling as they are."""
    still = results.points["algorithm"].isin(REFERENCES)
    cut = replace(results, points=results.points[~still]).cut_at(env_steps, reached=False)
    floor = results.points[still]
    return replace(cut, points=pd.concat([cut.points, floor]).reset_index(drop=True)) if len(floor) else cut


@dataclass(frozen=True)
class _Drawing:
    """What an experiment is drawn from."""

    experiment: Experiment
    specs: tuple[RunSpec, ...]
    results: Results
    folder: Path
    missing: tuple[str, ...]
    remarks: tuple[str, ...]
    variants: Mapping[str, Sequence[str]]

    def _as_run(self, *names: str) -> list[str]:
        """The variants that rows are of, by the names that the experiment has for them."""
        return [variant for name in names for variant in self.variants.get(name, (name,))]

    def _theirs(self, highest: str, variant: str) -> str:
        """What the publication has above its rows, where ``variant``, which stands for it here, is a row of ours."""
        if self.experiment.source.startswith(AFTER):
            return origin(highest)
        return "" if variant == highest else load_catalog().method(split_variant(highest)[0]).title

    @property
    def tasks(self) -> list[str]:
        """Tasks with an evaluation, in the grid's order."""
        there = set(self.results.points["task"])
        return [task for task in dict.fromkeys(spec.task.name for spec in self.specs) if task in there]

    def draw(self) -> Drawn:
        """All of it."""
        experiment, files, ordering, problem = self.experiment, list[Path](), "", ""
        if experiment.highest is not None:
            ordering = " ".join(highest_row(self.results, variant, self.tasks, experiment.source,
                                            theirs=self._theirs(experiment.highest, variant),
                                            has=figure_has(experiment.source))
                                for variant in self._as_run(experiment.highest))
        if experiment.figure is not None:
            found, key = self.results, experiment.figure.key
            if key is not None:
                found = with_values(found, self.specs, key)
                ordering = " ".join(filter(None, (
                    sensitivity(found, key, values_of(self.specs, key), self.tasks), figure_called(experiment.source))))
            looks = None if key is None else looks_by_value(self.specs, key)
            files += self._save(plot_curves(found, tasks=self.tasks, levels=self._as_run(*experiment.figure.levels),
                                            looks=looks), "", ordering)
            if key is not None:
                try:
                    files += self._save(plot_sweep(self.results, key, tasks=self.tasks), "-final", ordering)
                except BenchError as error:  # a single value until now: its curves are there all the same
                    problem = str(error)
        if experiment.table is not None:
            ordering = table_ordering(self.results, experiment.table.published, self.tasks,
                                      experiment.table.stand_ins)
            files += self._table(experiment.table, ordering)
        return Drawn(experiment.name, tuple(files), ordering, self.remarks, problem)

    def _table(self, table: PaperTable, ordering: str) -> list[Path]:
        """The table as Markdown, LaTeX and CSV, and bars of the same numbers."""
        rows = [(row.variant, row.corpus) for row in rows_of(self.results)]
        numbers = paper_table.published_rows(table.published, self.specs, table.stand_ins, rows)
        built = build_table(self.results, reported=numbers, overall=False)
        laid = paper_table.lay_out(built, numbers, self.specs, table.columns, table.stand_ins,
                                   (*self.remarks, ordering), self.missing)
        stem = self.folder / self.experiment.name
        files = self._save(plot_bars(self.results, reported=numbers if len(numbers) else None, tasks=self.tasks), "",
                           ordering)
        for suffix, text in (("md", paper_table.to_markdown(laid)), ("tex", paper_table.to_latex(laid)),
                             ("csv", to_csv(built))):
            atomic_write(stem.with_name(f"{stem.name}.{suffix}"), text.encode())
            files.append(stem.with_name(f"{stem.name}.{suffix}"))
        return files

    def _save(self, plot: Plot, suffix: str, ordering: str) -> list[Path]:
        """A picture in its formats, with what has to be said of it in its caption."""
        source = self.experiment.source.removeprefix(AFTER)
        head = f"{self.experiment.title} (after {source})." if source else ""
        missing = f"Missing: {'; '.join(self.missing)}." if self.missing else ""
        otherwise = "" if self.experiment.table is not None else figure_otherwise(self.experiment.source)
        caption = " ".join(filter(None, (head, plot.caption, otherwise, *self.remarks, ordering, missing)))
        return list(save(replace(plot, caption=caption), self.folder / f"{self.experiment.name}{suffix}").values())


def origin(method: str) -> str:
    """The title of what a method goes back to by ``extends``: of pvdr-taught that of pvdr."""
    catalog, name = load_catalog(), split_variant(method)[0]
    while (parent := catalog.method(name).extends) is not None:
        name = parent
    return catalog.method(name).title


def values_of(specs: Sequence[RunSpec], key: str) -> dict[str, Any]:
    """Variant -> its value of ``key``, by value; variants without the key are left out."""
    found = {}
    for spec in specs:
        values = [value for name, value in leaves(spec.config) if name == key or name.endswith(f".{key}")]
        if len(values) == 1:
            found[spec.variant] = values[0]
    sort = float if is_numeric(found.values()) else str
    return dict(sorted(found.items(), key=lambda pair: sort(pair[1])))


def looks_by_value(specs: Sequence[RunSpec], key: str) -> dict[str, Look]:
    """Colours from dark to light with the value of ``key``, and a mark each: lines of one method that differ in it."""
    values = values_of(specs, key)
    steps = max(1, len(values) - 1)
    return {variant: Look(_RAMP[round(i * (len(_RAMP) - 1) / steps)], "solid", MARKS[i % len(MARKS)])
            for i, variant in enumerate(values)}


def with_values(results: Results, specs: Sequence[RunSpec], key: str) -> Results:
    """The same with rows called by their value of ``key``, ``lambda1 = 0.01``; methods keep their names if several."""
    several = len({split_variant(spec.variant)[0] for spec in specs}) > 1
    titles = {variant: f"{split_variant(variant)[0]}, {key} = {value}" if several else f"{key} = {value}"
              for variant, value in values_of(specs, key).items()}

    def retitled(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(title=[titles.get(variant, title) for variant, title in
                                   zip(frame["variant"], frame["title"], strict=True)])

    return replace(results, runs=retitled(results.runs), points=retitled(results.points))


def summary(drawn: Sequence[Drawn], missing: Mapping[str, Sequence[str]]) -> str:
    """What was made, for people: files, the sentence on the ordering, and what is missing."""
    lines = []
    for one in drawn:
        lines.append(f"{one.experiment}: {one.problem or one.ordering or ('drawn' if one.files else 'nothing drawn')}")
        lines += [f"  {remark}" for remark in one.remarks]
        lines += [f"  missing: {line}" for line in missing.get(one.experiment, ())]
        lines += [f"  {path}" for path in one.files if path.suffix in (".png", ".md")]
    return "\n".join(lines)
