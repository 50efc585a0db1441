"""The page as a whole: what is read, what is computed, and one file of HTML."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from string import Template
from typing import Any

from pvdr_bench.results.collect import Results
from pvdr_bench.results.report import parts
from pvdr_bench.results.report.chapters import (
    BANDED,
    Chapter,
    Options,
    chapter_curves,
    chapter_html,
    chapters_of,
    contents,
    navigation,
    row_looks,
)
from pvdr_bench.results.report.corpora import videos_part
from pvdr_bench.results.report.media import Medium, embed, megabytes
from pvdr_bench.results.report.models import models_part
from pvdr_bench.results.report.overview import Warned
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

SCRIPTS = ("dom.js", "controls.js", "charts.js", "runs.js", "app.js")  # one after the other, in one script element


@dataclass(frozen=True)
class Report:
    """A finished report, and what is to be said about it.

    Attributes:
        left_out: files of ``videos/`` and ``inspect/`` that were not embedded.
    """

    html: str
    title: str
    runs: int
    chapters: tuple[Chapter, ...]
    media: tuple[Medium, ...]

    @property
    def warnings(self) -> tuple[Warned, ...]:
        """Those of all chapters."""
        return tuple(warned for chapter in self.chapters for warned in chapter.warnings)

    @property
    def left_out(self) -> tuple[Medium, ...]:
        """Files that were left out."""
        return tuple(medium for medium in self.media if medium.data is None)


def build_report(results: Results, options: Options | None = None) -> Report:
    """Read the runs' files and make the page: a chapter for each protocol, then all runs.

    Raises:
        UsageError: there is no run, or metric, statistic or confidence make no sense.
    """
    options = options or Options()
    results.require_runs()
    chapters = chapters_of(results, options)
    sources = [read_source(results, path) for path in paths_of(results)]
    cleaner, clocks = cleaner_for(results, sources), clocks_of(results, sources)
    curves = [chapter_curves(chapter, clocks) for chapter in chapters]
    pages = run_pages(results, [row for chapter in chapters for row in chapter.rows], sources)
    media = embed({source.path: results.places[source.path] for source in sources}, total=options.media_total,
                  each=options.media_each)
    title = _title(chapters)
    data = {"chapters": curves, "rows": row_looks(chapters), "media": _media_of(media), "banded": BANDED,
            "confidence": options.confidence, "metric": options.metric, "rate": options.metric != "return", **pages}
    sections = [chapter_html(chapter, drawn, _commits(sources, chapter), cleaner, _asset("chapter.html"))
                for chapter, drawn in zip(chapters, curves, strict=True)]
    html = _page({
        "title": text(title), "version": text(_version()), "data": _json(cleaner.value(data)),
        "media": "\n".join(f'<script type="text/plain" id="medium-{i}">{medium.data}</script>'
                           for i, medium in enumerate(media) if medium.data is not None),
        "navigation": navigation(chapters), "chapters": "\n".join([contents(chapters, title), *sections]),
        "runs": parts.run_table(results, pages["runs"], options.metric),
        "method": _method(results, sources, media, options),
    })
    return Report(html, title, len(sources), tuple(chapters), tuple(media))


def _title(chapters: list[Chapter]) -> str:
    """The chapter's, or what several have in common."""
    titles = list(dict.fromkeys(chapter.title for chapter in chapters))
    if len(chapters) == 1:
        return titles[0]
    return f"{titles[0] if len(titles) == 1 else 'Results'} under {len(chapters)} protocols"


def _media_of(media: list[Medium]) -> list[dict[str, Any]]:
    return [{"run": m.run, "name": m.name, "type": m.type, "size": megabytes(m.size), "why": m.why,
             "caption": m.caption} for m in media]


def _commits(sources: list[Source], chapter: Chapter) -> list[str]:
    """The code behind a chapter's runs."""
    mine = set(map(str, chapter.results.runs["path"]))
    found = {str((source.provenance.get("git") or {}).get("commit") or "") for source in sources if source.path in mine}
    return sorted(found - {""})


def _method(results: Results, sources: list[Source], media: list[Medium], options: Options) -> str:
    """How numbers are made, what each protocol means, and what this file leaves out."""
    interval = ("A seed's number is the mean over its evaluation episodes; episodes are never pooled over seeds. One "
                "task: mean over seeds with a Student t interval. Several tasks: every task weighs the same, and the "
                "interval is a stratified bootstrap over whole runs with a fixed seed.")
    steps = ("env_steps are simulator steps, on every axis. A final number is the evaluation of the last policy on "
             "fixed episodes that no training seed meets; it is not the best of the curve.")
    again = ("With the results folder, the same numbers come from pvdr-bench's commands table, plot and aggregate, and "
             "each run's page has the command that made it.")
    left = options.media_total - sum(medium.size for medium in media if medium.data is not None)
    models = models_part(results.root, left=left, total=options.media_total, each=options.media_each)
    paragraphs = "\n".join(f"<p>{text(sentence)}</p>" for sentence in (interval, steps, again))
    return (f"{paragraphs}\n<h3>What the numbers mean</h3>\n{parts.protocol_tables(results)}\n"
            f"{videos_part(results)}\n{models}\n"
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
                     + (f"; left out: {'; '.join(f'{m.path} ({m.why})' for m in out[:20])}"
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
