"""One chapter for each protocol: its table, its curves, its warnings; no statistic of one sees a run of another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from string import Template
from typing import Any

import pandas as pd

from pvdr_bench.results.collect import Results
from pvdr_bench.results.curve import BAND_SEEDS
from pvdr_bench.results.looks import DASHES, looks_of, reference_dash
from pvdr_bench.results.problems import Problem
from pvdr_bench.results.report import parts
from pvdr_bench.results.report.clean import Cleaner
from pvdr_bench.results.report.cost import cost_part
from pvdr_bench.results.report.curves import Clock, curve_data
from pvdr_bench.results.report.overview import Warned, listed, summary, warnings
from pvdr_bench.results.report.parts import text
from pvdr_bench.results.series import METRICS, Row
from pvdr_bench.results.stats import CONFIDENCE, REPETITIONS
from pvdr_bench.results.tables import ALL, Table, build_table
from pvdr_bench.words import counted

BANDED = 8  # lines with bands that one plot bears


@dataclass(frozen=True)
class Options:
    """What a report shows.

    Attributes:
        metric: a key of :data:`~pvdr_bench.results.series.METRICS`; the main table and the curves show it.
        statistic: ``mean`` or ``iqm``, for the column over all tasks.
        allow_mixed: rows of all protocols side by side in one chapter.
        reported: protocol hash -> published numbers to show apart.
        media_total, media_each: bytes of embedded videos and pictures, of all together and of one.
    """

    metric: str = "success"
    confidence: float = CONFIDENCE
    statistic: str = "mean"
    allow_mixed: bool = False
    reported: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    repetitions: int = REPETITIONS
    media_total: int = 40_000_000
    media_each: int = 8_000_000


@dataclass(frozen=True)
class Chapter:
    """What is shown of one protocol.

    Attributes:
        name: of the protocol, in words; empty where the report has this chapter alone.
        suffix: behind the ids of its elements.
        first: place of its first row among the rows of all chapters.
    """

    results: Results
    table: Table
    options: Options
    name: str = ""
    suffix: str = ""
    first: int = 0

    @property
    def rows(self) -> list[Row]:
        """Its rows, in the table's order."""
        return list(self.table.rows)

    @property
    def title(self) -> str:
        """``PPO and PVDR on reach``, or their number where they are many."""
        learned = [row.label for row in self.rows if not row.reference] or [row.label for row in self.rows]
        tasks = [column for column in self.table.columns if column != ALL]
        methods = listed(learned) if len(learned) <= 3 else f"{len(learned)} methods"
        return f"{methods} on {listed(tasks) if len(tasks) <= 3 else f'{len(tasks)} tasks'}"

    @property
    def runs(self) -> int:
        """How many runs it shows."""
        return len(self.results.runs)

    @property
    def warnings(self) -> list[Warned]:
        """What to be careful about."""
        return warnings(self.results, self.table)


def chapters_of(results: Results, options: Options) -> list[Chapter]:
    """A chapter for each protocol, those with most runs first; one alone with ``allow_mixed``.

    Raises:
        UsageError: there is no run, seeds of one row have several recipes, or metric, statistic or confidence make no
            sense.
    """
    hashes = list(results.runs["protocol_hash"].value_counts(sort=True).sort_index(kind="stable").sort_values(
        ascending=False, kind="stable").index.map(str))
    if options.allow_mixed or len(hashes) < 2:
        return [Chapter(results, _table(results, options), options)]
    chapters: list[Chapter] = []
    for key in hashes:
        mine = replace(results.select(protocol_hash=[key]), problems=_problems(results, key))
        protocol = results.protocols[key]
        name = f"protocol {protocol.get('name')}, scale {protocol.get('scale')}, hash {key}"
        first = sum(len(chapter.rows) for chapter in chapters)
        chapters.append(Chapter(mine, _table(mine, options), options, name, f"-{len(chapters) + 1}", first))
    return chapters


def _problems(results: Results, key: str) -> list[Problem]:
    """What is missing in one protocol: of its rows, and of rows that no protocol has."""
    folder = {str(path): str(path).rpartition("/")[0] for path in results.runs["path"]}
    owners: dict[str, set[str]] = {}
    for path, owner in zip(results.runs["path"], results.runs["protocol_hash"], strict=True):
        for place in (str(path), folder[str(path)]):
            owners.setdefault(place, set()).add(str(owner))
    return [problem for problem in results.problems
            if key in (owners.get(problem.run) or owners.get(problem.run.rpartition("/")[0]) or {key})]


def _table(results: Results, options: Options, metric: str = "") -> Table:
    hashes = list(results.protocols)
    printed = options.reported.get(hashes[0], pd.DataFrame()) if len(hashes) == 1 and not metric else pd.DataFrame()
    return build_table(results, metric or options.metric, confidence=options.confidence, statistic=options.statistic,
                       repetitions=options.repetitions, allow_mixed=options.allow_mixed, reported=printed)


def row_looks(chapters: list[Chapter]) -> list[dict[str, Any]]:
    """Names and looks of all chapters' rows: the looks of ``plot``; floor and ceiling grey."""
    out: list[dict[str, Any]] = []
    for chapter in chapters:
        looks = looks_of(chapter.rows, chapter.results.names)
        for row in chapter.rows:
            if row.reference:
                out.append({"label": row.label, "reference": True, "dash": DASHES[reference_dash(row.variant)]})
            else:
                look = looks[row]
                out.append({"label": row.label, "reference": False, "color": look.color, "dash": DASHES[look.dash],
                            "mark": look.mark, "filled": look.filled})
    return out


def chapter_curves(chapter: Chapter, clocks: dict[str, Clock]) -> dict[str, Any]:
    """Its curves as JSON types, and where they are drawn."""
    curves = curve_data(chapter.results, chapter.rows, clocks, chapter.options.metric, first=chapter.first,
                        confidence=chapter.options.confidence, repetitions=chapter.options.repetitions)
    return {"suffix": chapter.suffix, "first": chapter.first, "rows": len(chapter.rows), **curves}


def chapter_html(chapter: Chapter, curves: dict[str, Any], commits: list[str], cleaner: Cleaner,
                 template: str) -> str:
    """Its four sections."""
    suffix, named = chapter.suffix, f": {chapter.name.rpartition(',')[0]}" if chapter.name else ""
    return Template(template).substitute({
        "suffix": suffix, "named": text(named), "heading": _heading(chapter),
        "summary": parts.lead(summary(chapter.table)),
        "warnings": parts.warning_list(chapter.warnings, suffix),
        "facts": parts.overview_facts(chapter.results, chapter.table, commits),
        "table": _table_section(chapter, cleaner), "cost": cost_part(chapter),
        "curve_notes": _curve_notes(chapter, curves)})


def _heading(chapter: Chapter) -> str:
    """Its title; with several chapters, its protocol and the way to its parts."""
    if not chapter.name:
        return f'<p class="kicker">pvdr-bench report</p>\n<h1 id="title">{text(chapter.title)}</h1>'
    links = " ".join(f'<a href="#{part}{chapter.suffix}">{word}</a>' for part, word in
                     (("table", "Table"), ("curves", "Curves"), ("cost", "Cost")))
    label = text(f"Parts of {chapter.name}")
    words, _, key = chapter.name.rpartition(" ")
    return (f'<p class="kicker">{text(words)} <code>{text(key)}</code></p>\n'
            f'<h2 class="chapter" id="title{chapter.suffix}">{text(chapter.title)}</h2>\n'
            f'<nav class="crumbs" aria-label="{label}">{links} <a href="#runs">Runs</a></nav>')


def contents(chapters: list[Chapter], title: str) -> str:
    """The opening of a report of several chapters: what they are, and in what their protocols differ."""
    if len(chapters) == 1:
        return ""
    protocols = [next(iter(chapter.results.protocols.values())) for chapter in chapters]
    keys = list(dict.fromkeys(key for protocol in protocols for key in protocol if key not in ("name", "scale")))
    differing = [key for key in keys if len({repr(protocol.get(key)) for protocol in protocols}) > 1]
    items = "".join(f'<li><a href="#overview{c.suffix}">{text(c.title)}</a>: {text(c.name)}; '
                    f'{counted(c.runs, "run")}</li>' for c in chapters)
    why = (f"{len(chapters)} protocols, a chapter for each. Their numbers mean different things, and no statistic has "
           f"runs of two of them. They differ in {listed(differing)}.")
    return (f'<section id="overview" class="page" aria-labelledby="title">\n<p class="kicker">pvdr-bench report</p>\n'
            f'<h1 id="title">{text(title)}</h1>\n<p class="lead">{text(why)}</p>\n<ul class="contents">{items}</ul>\n'
            "</section>")


def navigation(chapters: list[Chapter]) -> str:
    """The links of the header, but for runs and method."""
    if len(chapters) == 1:
        return "\n".join(f'<a href="#{part}">{word}</a>' for part, word in
                         (("overview", "Overview"), ("table", "Table"), ("curves", "Curves"), ("cost", "Cost")))
    links = "\n".join(f'<a href="#overview{c.suffix}">{text(c.name.partition(" ")[2].rpartition(",")[0])}</a>'
                      for c in chapters)
    return f'<a href="#overview">Overview</a>\n{links}'


def _table_section(chapter: Chapter, cleaner: Cleaner) -> str:
    """The main table with what belongs to it: caption, single seeds, other measures, reported numbers."""
    table, options, suffix = chapter.table, chapter.options, chapter.suffix
    others = []
    for metric in METRICS:
        if metric not in (options.metric, "success"):
            other = _table(chapter.results, options, metric)
            shown = parts.main_table(other, f"final-{metric}{suffix}", first=chapter.first)
            others.append(f"<h3>{text(METRICS[metric].capitalize())}</h3>{shown}")
    return "\n".join([
        parts.main_table(table, f"final{suffix}", first=chapter.first), cleaner.text(parts.table_notes(table)),
        parts.folded("The single seeds behind these numbers",
                     parts.seed_table(chapter.results, table, f"by-seed{suffix}")),
        parts.folded("Other measures of the same episodes", "\n".join(others)),
        parts.reported_table(table.reported, f"reported{suffix}")])


def _curve_notes(chapter: Chapter, curves: dict[str, Any]) -> str:
    """What a line and a band are, and of which protocol."""
    options = chapter.options
    level = f"{100 * options.confidence:g} %"
    clipped = ", clipped to [0, 1]" if options.metric != "return" else ""
    sentences = [f"Lines are means over seeds, bands {level} Student t intervals over seeds{clipped} (none for "
                 f"fewer than {BAND_SEEDS} seeds: tables have theirs); nothing is smoothed. A line is thin and pale "
                 "where not all its seeds have come so far. Thin lines are single seeds: hiding one hides its line and "
                 "changes no mean."]
    if sum(not row.reference for row in chapter.rows) > BANDED:
        sentences.append(f"With more than {BANDED} methods shown a band appears where its method is pointed at.")
    if len(curves["panels"]) > 1:
        sentences.append(f"All tasks: mean of the tasks' means, with a {level} stratified bootstrap band (whole runs "
                         "resampled within tasks), as far as every seed of every task has come.")
    if any(panel["flats"] for panel in curves["panels"]):
        sentences.append("Grey lines are policies that do not learn.")
    if chapter.name:
        sentences.append(f"All of this is {chapter.name}.")
    return "\n".join(f'<p class="note">{text(sentence)}</p>' for sentence in [" ".join(sentences), *curves["absent"]])
