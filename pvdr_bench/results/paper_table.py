"""A table in the layout of a publication: our numbers, and under each line the published ones, set apart.

Tasks are rows; methods or corpora are columns. The published numbers are of another protocol, in italics, and in no
statistic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.plain_text import markdown_cell, one_line
from pvdr_bench.results.latex import SCRIPT, environment, escape_latex
from pvdr_bench.results.paper import measured_otherwise, published
from pvdr_bench.results.series import Row
from pvdr_bench.results.tables import Cell, Table, mark_bold
from pvdr_bench.words import counted

HERE, THERE = "here", "published"


@dataclass(frozen=True)
class PaperTable:
    """A finished table.

    Attributes:
        heads: names of the columns that name a line. columns: titles of the others.
        lines: what names a line, our cells and the published numbers, None where there is none.
        caption: of our numbers, of the published ones, and how the protocols differ.
        notes: what is missing, and what is not wholly in it.
    """

    heads: tuple[str, ...]
    columns: tuple[str, ...]
    lines: tuple[tuple[tuple[str, ...], tuple[Cell | None, ...], tuple[dict[str, Any] | None, ...]], ...]
    caption: str
    notes: tuple[str, ...]


def published_rows(table: str, specs: Sequence[RunSpec], stand_ins: Mapping[str, str],
                   order: Sequence[tuple[str, str]] = ()) -> pd.DataFrame:
    """The numbers of a published table that belong to these runs, with ``corpus_here``: ours that stands for theirs.

    Args:
        order: variant and corpus of our rows as they are drawn, so that bars of both stand in one order; numbers of
            others are at the end.
    """
    frame = published()
    frame = frame[frame["table"].eq(table) & frame["success"].notna()].copy()
    frame["corpus_here"] = frame["corpus"].map(lambda name: stand_ins.get(name, name))
    asked = {(spec.task.name, spec.variant, spec.corpus or "none") for spec in specs}
    keys = list(zip(frame["task"], frame["variant"], frame["corpus_here"], strict=True))
    place = {row: number for number, row in enumerate(order)}
    frame["place"] = [place.get((variant, corpus), len(place)) for _, variant, corpus in keys]
    frame = frame[[key in asked for key in keys]]
    return frame.sort_values("place", kind="stable").drop(columns="place").reset_index(drop=True)


def lay_out(built: Table, numbers: pd.DataFrame, specs: Sequence[RunSpec], columns: str,
            stand_ins: Mapping[str, str], extra: Sequence[str], notes: Sequence[str]) -> PaperTable:
    """Arrange a table's cells and the published numbers as the publication does.

    Args:
        columns: ``methods`` or ``corpora``. extra: sentences for the caption. notes: what is missing; the table's own
            stand behind it.
    """
    built = _bold_by_corpus(built)
    by_method = columns == "methods"
    corpora = list(dict.fromkeys(spec.corpus or "none" for spec in specs))
    named: dict[str, RunSpec] = {}
    for spec in specs:
        named.setdefault(spec.variant, spec)
    across = list(named) if by_method else corpora
    along = corpora if by_method else list(named)
    shown = len(along) > 1 or not by_method
    theirs = {(row["task"], row["variant"], row["corpus_here"]): row for row in numbers.to_dict("records")}
    rows = {(row.variant, row.corpus): row for row in built.rows}
    lines = []
    for task in dict.fromkeys(spec.task.name for spec in specs):
        for inner in along:
            keys = [(other, inner) if by_method else (inner, other) for other in across]
            ours = tuple(_cell(built, rows.get(key), task) for key in keys)
            printed = tuple(theirs.get((task, *key)) for key in keys)
            if any(ours) or any(printed):
                label = _title(named[inner]) if not by_method else inner
                lines.append(((task, label) if shown else (task,), ours, printed))
    heads = ("task", "method" if not by_method else "corpus") if shown else ("task",)
    titles = [_column(named[name], numbers) for name in across] if by_method else list(across)
    bold = ["Bold compares methods on the same corpus."] if len(corpora) > 1 else []
    return PaperTable(heads, tuple(titles), tuple(lines),
                      " ".join([built.caption, *bold, _difference(numbers, stand_ins, specs), *extra]),
                      (*notes, *built.notes))


def _bold_by_corpus(built: Table) -> Table:
    """The table with bold among the rows on each corpus, where there are several: a method is compared with methods."""
    corpora = dict.fromkeys(row.corpus for row in built.rows if row.corpus != "none")
    if len(corpora) < 2:
        return built
    cells = {place: None if cell is None else replace(cell, bold=False) for place, cell in built.cells.items()}
    for corpus in corpora:
        for column in built.columns:
            mark_bold(cells, [row for row in built.rows if row.corpus == corpus], column)
    return replace(built, cells=cells)


def _cell(built: Table, row: Row | None, task: str) -> Cell | None:
    return None if row is None else built.cells.get((row, task))


def _title(spec: RunSpec) -> str:
    return spec.title if spec.title and spec.variant == spec.method else spec.variant


def _column(spec: RunSpec, numbers: pd.DataFrame) -> str:
    """A method's title, with its horizon here and the published one where the table is about horizons."""
    mine = numbers[numbers["variant"].eq(spec.variant)]["horizon"] if len(numbers) else pd.Series(dtype=str)
    told = numbers["horizon"].nunique() > 1 and not mine.empty and bool(mine.iloc[0])
    return f"{_title(spec)}, {_horizon(spec)}there {mine.iloc[0]}" if told else _title(spec)


def _horizon(spec: RunSpec) -> str:
    """``here 2+4 over 12 decisions, ``: frames of context and of plan, and the decisions that the plan spans."""
    model = spec.config.get("model", {})
    if not {"context_frames", "future_frames", "frame_stride"} <= set(model):
        return ""
    ahead = model["future_frames"] * model["frame_stride"]
    return f"here {model['context_frames']}+{model['future_frames']} over {counted(ahead, 'decision')}, "


def _difference(numbers: pd.DataFrame, stand_ins: Mapping[str, str], specs: Sequence[RunSpec]) -> str:
    """What the published numbers are, that they were measured otherwise, and that rows with changed keys have none."""
    lost = dict.fromkeys(spec.variant for spec in specs
                         if spec.variant != spec.method and spec.variant not in set(numbers["variant"]))
    changed = f"Keys were changed in {', '.join(lost)}, so that no published row is the same setting." if lost else ""
    if numbers.empty:
        return changed or "No number is published for these rows."
    first = numbers.iloc[0]
    used = {theirs: ours for theirs, ours in stand_ins.items() if ours in {spec.corpus for spec in specs}}
    instead = "; ".join(f"{ours} stands for {theirs}" for theirs, ours in used.items())
    kind = "a spread whose kind it leaves open" if first["spread_kind"] == "not clear" else first["spread_kind"]
    told = measured_otherwise(first["table"], first["source"], first["protocol"],
                              f"mean ± {kind}, {first['seeds']} seeds")
    return (f"In italics: {told}"
            + (f" Of the corpora, {instead}." if instead else "") + (f" {changed}" if changed else ""))


def _ours(cell: Cell | None) -> tuple[str, str]:
    """Percent, and the interval with the number of seeds; "-" where there is none."""
    if cell is None:
        return "-", ""
    i = cell.interval
    span = "no interval" if i.low is None or i.high is None else f"[{100 * i.low:.1f}, {100 * i.high:.1f}]"
    return f"{100 * i.value:.1f}", f"{span} (n = {i.n})"


def _printed(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    return f"{row['success']:.1f}" + ("" if pd.isna(row["spread"]) else f" ± {row['spread']:.1f}")


def to_markdown(table: PaperTable) -> str:
    """A GitHub table: a line of ours, and one of the published numbers under it."""
    lines = ["| " + " | ".join([*table.heads, "", *map(markdown_cell, table.columns)]) + " |",
             "|" + " --- |" * (len(table.heads) + 1) + " ---: |" * len(table.columns)]
    for names, ours, theirs in table.lines:
        cells = []
        for cell in ours:
            value, span = _ours(cell)
            cells.append(f"**{value}** {span}" if cell is not None and cell.bold else f"{value} {span}".strip())
        lines.append("| " + " | ".join([*map(markdown_cell, names), HERE, *cells]) + " |")
        if any(theirs):
            printed = [f"*{text}*" if text != "-" else text for text in map(_printed, theirs)]
            lines.append("| " + " | ".join([*[""] * len(names), f"*{THERE}*", *printed]) + " |")
    lines += ["", one_line(table.caption)]
    if table.notes:
        lines += ["", "Missing, or not wholly shown:", "", *(f"- {one_line(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def to_latex(table: PaperTable) -> str:
    """The same as a booktabs table, see :func:`~pvdr_bench.results.latex.environment`; what is missing stands in
    comments."""
    left = len(table.heads) + 1
    head = " & ".join([*map(escape_latex, table.heads), "", *map(escape_latex, table.columns)])
    lines, letters = [head + r" \\", r"\midrule"], 0.0
    for names, ours, theirs in table.lines:
        cells = []
        for cell in ours:
            value, span = _ours(cell)
            value = rf"\textbf{{{value}}}" if cell is not None and cell.bold else "--" if cell is None else value
            cells.append(rf"{value} {{\scriptsize {span}}}" if span else value)
        numbers = sum(len(value) + SCRIPT * len(span) for value, span in map(_ours, ours))
        letters = max(letters, sum(map(len, (*names, HERE))) + numbers)
        lines.append(" & ".join([*map(escape_latex, names), HERE, *cells]) + r" \\")
        if any(theirs):
            printed = [text.replace(" ± ", r" $\pm$ ") for text in map(_printed, theirs)]
            lines.append(" & ".join([*[""] * len(names), rf"\textit{{{THERE}}}",
                                     *(r"--" if text == "-" else rf"\textit{{{text}}}" for text in printed)]) + r" \\")
    lines = environment("l" * left + "r" * len(table.columns), lines, table.caption,
                        max(letters, sum(map(len, (*table.heads, HERE, *table.columns)))))
    return "\n".join([*lines, *(f"% missing, or not wholly shown: {one_line(note)}" for note in table.notes)]) + "\n"
