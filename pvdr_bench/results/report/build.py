"""The page as a whole: what is read, what is computed, and one file of HTML."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from string import Template
from typing import Any

import pandas as pd

from pvdr_bench.results.collect import Results
from pvdr_bench.results.curve import BAND_SEEDS
from pvdr_bench.results.report import parts
from pvdr_bench.results.report.clean import Cleaner
from pvdr_bench.results.report.curves import PALETTE, curve_data
from pvdr_bench.results.report.media import Medium, embed, megabytes
from pvdr_bench.results.report.overview import Warned, listed, summary, warnings
from pvdr_bench.results.report.parts import text
from pvdr_bench.results.report.runs import (
    PLOTTED_RUNS,
    Source,
    cleaner_for,
    clocks_of,
    paths_of,
    points_limit,
    read_source,
    run_pages,
)
from pvdr_bench.results.series import METRICS, Row
from pvdr_bench.results.stats import CONFIDENCE, REPETITIONS
from pvdr_bench.results.tables import ALL, Table, build_table

SCRIPTS = ("dom.js", "charts.js", "runs.js", "app.js")  # one after the other, in one script element


@dataclass(frozen=True)
class Options:
    """What a report shows.

    Attributes:
        metric: a key of :data:`~pvdr_bench.results.series.METRICS`; the main table and the curves show it.
        statistic: ``mean`` or ``iqm``, for the column over all tasks.
        reported: published numbers to show apart.
        media_total, media_each: bytes of embedded videos and pictures, of all together and of one.
    """

    metric: str = "success"
    confidence: float = CONFIDENCE
    statistic: str = "mean"
    allow_mixed: bool = False
    reported: pd.DataFrame = field(default_factory=pd.DataFrame)
    repetitions: int = REPETITIONS
    media_total: int = 40_000_000
    media_each: int = 8_000_000


@dataclass(frozen=True)
class Report:
    """A finished report, and what is to be said about it.

    Attributes:
        left_out: files of ``videos/`` that were not embedded.
    """

    html: str
    title: str
    runs: int
    warnings: tuple[Warned, ...]
    media: tuple[Medium, ...]

    @property
    def left_out(self) -> tuple[Medium, ...]:
        """Files that were left out."""
        return tuple(medium for medium in self.media if medium.data is None)


def build_report(results: Results, options: Options | None = None) -> Report:
    """Read the runs' files and make the page.

    Raises:
        UsageError: there is no run, protocols are mixed, or metric, statistic or confidence make no sense.
    """
    options = options or Options()
    table = _table(results, options)
    sources = [read_source(results, path) for path in paths_of(results)]
    cleaner = cleaner_for(results, sources)
    rows = list(table.rows)
    curves = curve_data(results, rows, clocks_of(results, sources), options.metric, confidence=options.confidence,
                        repetitions=options.repetitions)
    pages = run_pages(results, rows, sources)
    media = embed({source.path: results.places[source.path] for source in sources}, total=options.media_total,
                  each=options.media_each)
    warned = warnings(results, table)
    title = _title(table)
    data = {"curves": curves, "rows": _row_looks(rows), "media": _media_of(media), "confidence": options.confidence,
            "metric": options.metric, **pages}
    html = _page({
        "title": text(title), "version": text(_version()), "data": _json(cleaner.value(data)),
        "media": "\n".join(f'<script type="text/plain" id="medium-{i}">{medium.data}</script>'
                           for i, medium in enumerate(media) if medium.data is not None),
        "summary": parts.lead(summary(table)),
        "warnings": parts.warning_list(warned),
        "facts": parts.overview_facts(results, table, _commits(sources)),
        "table": _table_section(results, table, options, cleaner),
        "curve_notes": _curve_notes(results, options, curves),
        "runs": parts.run_table(results, pages["runs"], options.metric),
        "method": _method(results, sources, media, table),
    })
    return Report(html, title, len(sources), tuple(warned), tuple(media))


def _table(results: Results, options: Options) -> Table:
    return build_table(results, options.metric, confidence=options.confidence, statistic=options.statistic,
                       repetitions=options.repetitions, allow_mixed=options.allow_mixed, reported=options.reported)


def _title(table: Table) -> str:
    """``PPO and PVDR on reach``, or their number where they are many."""
    learned = [row.label for row in table.rows if not row.reference] or [row.label for row in table.rows]
    tasks = [column for column in table.columns if column != ALL]
    methods = listed(learned) if len(learned) <= 3 else f"{len(learned)} methods"
    return f"{methods} on {listed(tasks) if len(tasks) <= 3 else f'{len(tasks)} tasks'}"


def _row_looks(rows: list[Row]) -> list[dict[str, Any]]:
    """Names, colours and marks: learned rows as in ``plot``, floor and ceiling grey."""
    looks: list[dict[str, Any]] = []
    learned = 0
    for row in rows:
        look = {"label": row.label, "reference": row.reference, "mark": learned % 10, "color": PALETTE[learned % 10]}
        looks.append(look if not row.reference else {"label": row.label, "reference": True})
        learned += not row.reference
    return looks


def _media_of(media: list[Medium]) -> list[dict[str, Any]]:
    return [{"run": m.run, "name": m.name, "type": m.type, "size": megabytes(m.size), "why": m.why} for m in media]


def _commits(sources: list[Source]) -> list[str]:
    found = {str((source.provenance.get("git") or {}).get("commit") or "") for source in sources}
    return sorted(found - {""})


def _table_section(results: Results, table: Table, options: Options, cleaner: Cleaner) -> str:
    """The main table with what belongs to it: caption, single seeds, other measures, reported numbers."""
    others = []
    for metric in METRICS:
        if metric not in (options.metric, "success"):
            other = build_table(results, metric, confidence=options.confidence, statistic=options.statistic,
                                repetitions=options.repetitions, allow_mixed=options.allow_mixed)
            others.append(f"<h3>{text(METRICS[metric].capitalize())}</h3>{parts.main_table(other, f'final-{metric}')}")
    return "\n".join([
        parts.main_table(table), cleaner.text(parts.table_notes(table)),
        parts.folded("The single seeds behind these numbers", parts.seed_table(results, table)),
        parts.folded("Other measures of the same episodes", "\n".join(others)),
        parts.reported_table(table.reported)])


def _curve_notes(results: Results, options: Options, curves: dict[str, Any]) -> str:
    """What a line and a band are."""
    level = f"{100 * options.confidence:g} %"
    clipped = ", clipped to [0, 1]" if options.metric != "return" else ""
    sentences = [f"Lines are means over seeds, bands {level} Student t intervals over seeds{clipped} (none for "
                 f"fewer than {BAND_SEEDS} seeds: tables have theirs); nothing is smoothed. A line is dashed where not "
                 "all its seeds have come so far. Thin lines are single seeds: hiding one hides its line and changes "
                 "no mean."]
    if len(curves["panels"]) > 1:
        sentences.append(f"All tasks: mean of the tasks' means, with a {level} stratified bootstrap band (whole runs "
                         "resampled within tasks), as far as every seed of every task has come.")
    if any(panel["flats"] for panel in curves["panels"]):
        sentences.append("Grey lines are policies that do not learn.")
    return "\n".join(f'<p class="note">{text(sentence)}</p>' for sentence in [" ".join(sentences), *curves["absent"]])


def _method(results: Results, sources: list[Source], media: list[Medium], table: Table) -> str:
    """How numbers are made, what each protocol means, and what this file leaves out."""
    interval = ("A seed's number is the mean over its evaluation episodes; episodes are never pooled over seeds. One "
                "task: mean over seeds with a Student t interval. Several tasks: every task weighs the same, and the "
                "interval is a stratified bootstrap over whole runs with a fixed seed.")
    steps = ("env_steps are simulator steps, on every axis. A final number is the evaluation of the last policy on "
             "fixed episodes that no training seed meets; it is not the best of the curve.")
    again = ("With the results folder, the same numbers come from pvdr-bench's commands table, plot and aggregate, and "
             "each run's page has the command that made it.")
    paragraphs = "\n".join(f"<p>{text(sentence)}</p>" for sentence in (interval, steps, again))
    return (f"{paragraphs}\n<h3>What the numbers mean</h3>\n{parts.protocol_tables(results)}\n"
            f"<h3>What this file leaves out</h3>\n{_limits(sources, media)}")


def _limits(sources: list[Source], media: list[Medium]) -> str:
    """Every cap, and what fell to it."""
    items = [f"Small plots show at most {points_limit(sources)} real points: the lowest and the highest of equal "
             "stretches, so that no peak is lost.",
             "Hosts, user names and local paths are taken out of all texts; checkpoints are not part of a report."]
    if len(sources) > PLOTTED_RUNS:
        items.append(f"Only the first {PLOTTED_RUNS} of {len(sources)} runs have small plots.")
    out = [medium for medium in media if medium.data is None]
    kept = len(media) - len(out)
    if media:
        items.append(f"Videos and pictures: {kept} of {len(media)} are in this file"
                     + (f"; left out: {'; '.join(f'{m.run}/videos/{m.name} ({m.why})' for m in out[:20])}"
                        f"{f' and {len(out) - 20} more' if len(out) > 20 else ''}." if out else "."))
    else:
        items.append("No run directory holds videos; pvdr-bench video makes them.")
    return "<ul>" + "".join(f"<li>{text(item)}</li>" for item in items) + "</ul>"


def _json(data: Any) -> str:
    """JSON that cannot end its script element, and without NaN tokens (null stands for them)."""
    found = json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str)
    return found.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e") \
                .replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return data


def _version() -> str:
    try:
        return version("pvdr-bench")
    except PackageNotFoundError:
        return "(not installed)"


@cache
def _asset(name: str) -> str:
    return (files("pvdr_bench.results.report") / name).read_text(encoding="utf-8")


def _page(fields: dict[str, str]) -> str:
    """Fill the template. The page allows its own style and script by their hashes, and nothing else."""
    style, script = _asset("style.css"), "\n".join(_asset(name) for name in SCRIPTS)
    return Template(_asset("template.html")).substitute(
        fields, style=style, script=script, style_hash=_digest(style), script_hash=_digest(script))


def _digest(content: str) -> str:
    """The hash of a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")
