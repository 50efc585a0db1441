"""Pieces of the page as HTML. Every text passes through :func:`text`, which escapes it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pandas as pd

from pvdr_bench.catalog.protocol import Protocol
from pvdr_bench.plain_text import visible
from pvdr_bench.results.collect import Results
from pvdr_bench.results.report.overview import Warned, listed, number, span
from pvdr_bench.results.series import METRICS, final_values, spread_of
from pvdr_bench.results.tables import ALL, Cell, Table

_NUM = ' class="num"'
_FEW = 3  # paragraphs in words that stand open
_DASH = '<span class="none">–</span>'


def text(value: object) -> str:
    """Escaped for element content and attributes; marks that turn the reading direction are written out."""
    return html.escape(visible(str(value)), quote=True)


@dataclass(frozen=True)
class Td:
    """A table cell.

    Attributes:
        html: escaped already.
        key: what its column is sorted by; None sorts last.
        head: whether it names its row.
        wide: a number with its interval, which stands on the left.
    """

    html: str
    key: float | str | None = None
    head: bool = False
    wide: bool = False

    def __str__(self) -> str:
        key = "" if self.key is None else f' data-key="{text(self.key)}"'
        numeric = _NUM if isinstance(self.key, (int, float)) and not self.wide else ""
        return f'<th scope="row"{key}>{self.html}</th>' if self.head else f"<td{key}{numeric}>{self.html}</td>"


def words(value: object, *, head: bool = False) -> Td:
    """A cell of text."""
    return Td(text(value), str(value), head)


def count(value: float | None) -> Td:
    """A cell with a whole number, thousands apart; a dash for None."""
    return Td(_DASH) if value is None else Td(f"{int(value):,}".replace(",", "\u202f"), int(value))


def sortable(caption: str, heads: Sequence[str], rows: Iterable[Sequence[Td]], *, name: str, note: str = "") -> str:
    """A table whose columns sort; it scrolls in a region of its own where it is too wide.

    Args:
        caption: what it shows, for those who hear it; not shown.
        name: id of the table.
        note: HTML under it.
    """
    rows = list(rows)
    numeric = {i for row in rows for i, cell in enumerate(row) if isinstance(cell.key, (int, float)) and not cell.wide}
    head = "".join(f'<th scope="col"{_NUM if i in numeric else ""}><button type="button" class="sort">{text(title)}'
                   "</button></th>" for i, title in enumerate(heads))
    body = "\n".join(f"<tr>{''.join(map(str, row))}</tr>" for row in rows)
    return (f'<div class="scroll" role="region" aria-label="{text(caption)}" tabindex="0"><table class="sortable" '
            f'id="{text(name)}">\n<caption class="hidden">{text(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody></table></div>\n{note}")


def folded(title: str, content: str) -> str:
    """Content behind a summary line."""
    return f"<details><summary>{text(title)}</summary>\n{content}\n</details>"


def run_link(path: str, shown: str) -> str:
    """A link to a run's page."""
    return f'<a href="#run={quote(path, safe="/")}">{text(shown)}</a>'


def lead(sentences: list[str]) -> str:
    """The first sentences at once, and where there are many the others on demand."""
    shown = sentences if len(sentences) <= _FEW else sentences[:1]
    rest = "\n".join(f"<p>{text(sentence)}</p>" for sentence in sentences[len(shown):])
    return "\n".join(f'<p class="lead">{text(sentence)}</p>' for sentence in shown) + (
        folded("Each task in words", rest) if rest else "")


def warning_list(found: list[Warned], suffix: str = "") -> str:
    """The warnings, or that there are none."""
    if not found:
        return '<p class="fine">No warnings: no row has few seeds, and no run is missing, failed or short.</p>'
    items = "\n".join(f"<li><strong>{text(w.title)}.</strong> {text(w.text)}</li>" for w in found)
    return f'<section class="warnings" aria-labelledby="warnings-title{suffix}">\n<h2 id="warnings-title{suffix}">' \
           f"Before you read the numbers</h2>\n<ul>\n{items}\n</ul>\n</section>"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names with their values; a value is HTML."""
    return '<dl class="facts">\n' + "\n".join(f"<div><dt>{text(name)}</dt><dd>{value}</dd></div>"
                                              for name, value in pairs if value) + "\n</dl>"


def overview_facts(results: Results, table: Table, commits: list[str]) -> str:
    """What was compared, in a list."""
    learned = [row.label for row in table.rows if not row.reference]
    floors = [row.label for row in table.rows if row.reference]
    points = results.points[results.points["complete"].astype(bool)]
    episodes = {kind: spread_of([int(n) for n in group["episodes"]]) for kind, group in points.groupby("point")}
    seeds = [int(n) for n in results.runs.groupby(["task", "variant", "corpus", "scale"])["seed"].nunique()]
    protocols = [f"{p.get('name')}, scale {p.get('scale')} ({key})" for key, p in results.protocols.items()]
    status = results.runs["status"].value_counts()
    return facts([
        ("Methods", text(listed(learned)) or "none that learns"), ("Floor and ceiling", text(listed(floors))),
        ("Tasks", text(listed(sorted(map(str, results.runs["task"].unique()))))),
        ("Seeds per row", text(spread_of(seeds))),
        ("Evaluation episodes", text(f"{episodes.get('grid', 0)} at a point, {episodes.get('final', 0)} at the end")),
        ("Protocol", text(listed(protocols))),
        ("Runs", text(listed([f"{n} {name}" for name, n in sorted(status.items())]))),
        ("Code", "commit " + ", ".join(f"<code>{text(commit[:12])}</code>" for commit in commits) if commits else ""),
    ])


def main_table(table: Table, name: str = "final", *, first: int = 0) -> str:
    """Rows are methods, columns are tasks: the numbers of ``table``.

    Args:
        first: place of the first row among all rows of the page, whose looks the script draws.
    """
    heads = ["method", *table.columns]
    rows = [[named(row.label, first + index),
             *(_cell(table.cells[row, column], table.metric) for column in table.columns)]
            for index, row in enumerate(table.rows)]
    return sortable(f"Final {METRICS[table.metric]}", heads, rows, name=name)


def named(label: str, row: int) -> Td:
    """A method's name behind its look."""
    return Td(f'<span class="look" data-look="{row}"></span>{text(label)}', label, head=True)


def _cell(cell: Cell | None, metric: str) -> Td:
    if cell is None:
        return Td(_DASH)
    value = number(cell.interval.value, metric)
    shown = f'<strong class="value">{value}</strong>' if cell.bold else f'<span class="value">{value}</span>'
    return Td(f'{shown} <span class="span">{text(span(cell, metric))}</span> '
              f'<span class="n">n = {cell.interval.n}</span>', cell.interval.value, wide=True)


def seed_table(results: Results, table: Table, name: str = "by-seed") -> str:
    """The single seeds behind the main table, each with a link to its run."""
    paths = {(str(r["task"]), str(r["variant"]), str(r["corpus"]), str(r["scale"]), str(r["protocol_hash"]),
              int(r["seed"])): str(r["path"]) for r in results.runs.to_dict("records")}
    rows = []
    for row in table.rows:
        for task in (column for column in table.columns if column != ALL):
            final = final_values(row, results.points, task, table.metric)
            for seed, value, episodes in zip(final.seeds, final.values, final.episodes, strict=True):
                path = paths[task, row.variant, row.corpus, row.scale, row.protocol_hash, seed]
                rows.append([words(row.label, head=True), words(task), Td(run_link(path, f"seed {seed}"), seed),
                             Td(number(float(value), table.metric), float(value)), count(episodes),
                             count(final.env_steps)])
    heads = ["method", "task", "seed", METRICS[table.metric] + _unit(table.metric), "episodes", "env_steps"]
    return sortable("Every seed's final evaluation", heads, rows, name=name)


def _unit(metric: str) -> str:
    return "" if metric == "return" else ", %"


def table_notes(table: Table) -> str:
    """The table's caption, and what is not in it."""
    notes = "".join(f"<li>{text(note)}</li>" for note in table.notes)
    left = f'<p class="note">Not, or not wholly, included:</p><ul class="note">{notes}</ul>' if notes else ""
    return f'<p class="note">{text(table.caption)}</p>{left}'


def reported_table(reported: pd.DataFrame, name: str = "reported") -> str:
    """Published numbers, apart from ours."""
    if reported.empty:
        return ""
    rows = [[words(r["method"], head=True), words(r["task"]), words(r["corpus"]), words(r["horizon"]),
             Td(f"{r['success']:.1f} ± {r['spread']:.1f}", float(r["success"])), count(r["seeds"]),
             words(f"{r['source']}, {r['table']}")] for r in reported.to_dict("records")]
    first = reported.iloc[0]
    heads = ["method", "task", "corpus", "horizon", "success, %", "seeds", "source"]
    note = f"Under another protocol ({first['protocol']}): not comparable, in no statistic. {first['note']}"
    return "<h3>Reported by others</h3>" + sortable("Numbers as reported by others", heads, rows, name=name,
                                                    note=f'<p class="note">{text(note)}</p>')


def run_table(results: Results, pages: list[dict[str, Any]], metric: str) -> str:
    """All runs, with a link to each page."""
    finals = _finals(results, metric)
    rows = []
    for page in pages:
        wall, value = page["outcome"].get("wall_seconds"), finals.get(page["path"])
        rows.append([
            Td(run_link(page["path"], page["label"]), page["label"], head=True), words(page.get("task", "–")),
            words(page.get("scale", "–")), Td(str(page["seed"]), page["seed"]) if "seed" in page else Td(_DASH),
            Td(f'<span class="status {text(page["status"])}">{text(page["status"])}</span>', page["status"]),
            Td(number(value, metric), value) if value is not None else Td(_DASH),
            count(page["points"][-1]["env_steps"] if page["points"] else None),
            Td(f"{wall / 60:.1f}", float(wall)) if wall else Td(_DASH),
            Td(f"<code>{text(commit[:9])}</code>", commit) if (commit := _commit(page)) else Td(_DASH)])
    heads = ["run", "task", "scale", "seed", "status", f"final {METRICS[metric]}{_unit(metric)}", "env_steps",
             "minutes", "commit"]
    return ('<p><label>Show runs with <input type="search" id="filter" autocomplete="off" placeholder="reach failed">'
            '</label> <span id="filtered" role="status"></span></p>\n'
            + sortable("All runs", heads, rows, name="all-runs"))


def _commit(page: dict[str, Any]) -> str:
    return str((page["provenance"].get("git") or {}).get("commit") or "")


def _finals(results: Results, metric: str) -> dict[str, float]:
    """Each run's last whole final evaluation."""
    points = results.points
    whole = points[points["point"].eq("final") & points["complete"].astype(bool)].sort_values("env_steps")
    return {str(path): float(value) for path, value in zip(whole["path"], whole[metric], strict=True)}


def protocol_tables(results: Results) -> str:
    """Every key that changes what a number means, with its value and meaning."""
    parts = []
    for key, protocol in results.protocols.items():
        rows = [[Td(f"<code>{text(name)}</code>", name, head=True), words(value), words(_meaning(name))]
                for name, value in protocol.items()]
        title = f"Protocol {protocol.get('name')}, scale {protocol.get('scale')}, hash {key}"
        parts.append(folded(title, sortable(title, ["key", "value", "meaning"], rows, name=f"protocol-{key}")))
    return "\n".join(parts)


def _meaning(name: str) -> str:
    info = Protocol.model_fields.get(name)
    return str(info.description or "") if info else "a key of another version"
