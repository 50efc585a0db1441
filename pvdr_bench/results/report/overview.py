"""The report in words: what was compared, what the main table says, and what to be careful about."""

from __future__ import annotations

from dataclasses import dataclass

from pvdr_bench.results.collect import Results
from pvdr_bench.results.figures import FEW_SEEDS
from pvdr_bench.results.series import METRICS, Row, spread_of
from pvdr_bench.results.tables import ALL, Cell, Table
from pvdr_bench.words import counted


@dataclass(frozen=True)
class Warned:
    """Something to know before reading a number: a short name, and the sentence."""

    title: str
    text: str


def number(value: float, metric: str) -> str:
    """As in ``table``: percent with one digit, returns with two."""
    return f"{value:.2f}" if metric == "return" else f"{100 * value:.1f}"


def span(cell: Cell, metric: str) -> str:
    """The interval as in ``table``."""
    if cell.interval.low is None or cell.interval.high is None:
        return "no interval"
    return f"[{number(cell.interval.low, metric)}, {number(cell.interval.high, metric)}]"


def listed(words: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def summary(table: Table) -> list[str]:
    """A few sentences per column of the main table, all tasks together first.

    Nothing is called better that the intervals do not separate.
    """
    return [_of_column(table, column) for column in sorted(table.columns, key=lambda column: column != ALL)]


def _of_column(table: Table, column: str) -> str:
    where = "Over all tasks" if column == ALL else f"On {column}"
    shown = [(row, cell) for row in table.rows if (cell := table.cells[row, column]) is not None]
    learned = sorted(((row, cell) for row, cell in shown if not row.reference),
                     key=lambda pair: (-pair[1].interval.value, pair[0].label))
    if not learned:
        return f"{where}, no learned method has a final evaluation yet."
    unit = "" if table.metric == "return" else "\u00a0%"
    parts = [f"{row.label} {number(cell.interval.value, table.metric)}{unit} {_seeds(cell, column, table.metric)}"
             for row, cell in learned]
    text = f"{where}, the final {METRICS[table.metric]} is {listed(parts)}. {_verdict(learned)}"
    floors = [f"{row.label} {number(cell.interval.value, table.metric)}{unit}" for row, cell in shown if row.reference]
    return f"{text} Policies that do not learn: {listed(floors)}." if floors else text


def _seeds(cell: Cell, column: str, metric: str) -> str:
    n = counted(cell.interval.n, "run" if column == ALL else "seed")
    return f"({span(cell, metric)}, {n})"


def _verdict(learned: list[tuple[Row, Cell]]) -> str:
    """What may be concluded about an order."""
    if len(learned) < 2:
        return "There is nothing to compare it with."
    winner = next((row for row, cell in learned if cell.bold), None)
    if winner is not None:
        return f"The interval of {winner.label} lies wholly above those of the others."
    reasons = []
    if any(not cell.interval.known for _, cell in learned):
        reasons.append("one seed alone has no interval")
    if len({cell.after for _, cell in learned}) > 1:
        reasons.append("the budgets differ")
    if len({row.protocol_hash for row, _ in learned}) > 1:
        reasons.append("the protocols differ")
    return f"This does not say which is better: {listed(reasons or ['the best intervals overlap'])}."


def warnings(results: Results, table: Table) -> list[Warned]:
    """What a careful reader asks first: few seeds, failed and missing runs, unequal budgets, changed code."""
    return [warned for warned in (_few_seeds(table), _not_included(results), _budgets(table), _pretraining(results),
                                  _protocols(results), _flat_intervals(table)) if warned is not None]


def _few_seeds(table: Table) -> Warned | None:
    few = {row.label: cell.interval.n for row in table.rows if not row.reference for column in table.columns
           if column != ALL and (cell := table.cells[row, column]) is not None and cell.interval.n < FEW_SEEDS}
    if not few:
        return None
    rows = [f"{label} ({n})" for label, n in few.items()]
    return Warned("Few seeds", f"{listed(rows)}: under {FEW_SEEDS} finished seeds an interval is wide, and with one "
                               "there is none. A claim needs more of them.")


_KINDS = {"failed": ("failed run", ""), "broken": ("broken run", ""), "missing": ("row", " with missing seeds"),
          "running": ("run", " not finished"), "stopped": ("run", " not finished"),
          "short": ("run", " short of the budget"),
          "incomplete": ("evaluation", " with fewer episodes than the protocol asks for"),
          "mixed": ("row", " of mixed recipes"), "twice": ("run", " that is there twice")}


def _not_included(results: Results) -> Warned | None:
    counts: dict[tuple[str, str], int] = {}
    for problem in results.problems:
        kind = _KINDS.get(problem.kind, ("run", f" ({problem.kind})"))
        counts[kind] = counts.get(kind, 0) + 1
    if not counts:
        return None
    found = [f"{n} {noun}{'s' if n > 1 else ''}{rest}" for (noun, rest), n in sorted(counts.items())]
    return Warned("Not, or not wholly, included", f"{listed(found)}; each is named below the main table.")


def _budgets(table: Table) -> Warned | None:
    budgets = sorted({cell.env_steps for (row, column), cell in table.cells.items()
                      if cell is not None and column != ALL and not row.reference})
    if len(budgets) < 2:
        return None
    return Warned("Budgets differ", f"Learned rows were evaluated after {spread_of(budgets)} env_steps. "
                                    "Compare them in the curves, at the same x.")


def _pretraining(results: Results) -> Warned | None:
    runs = results.runs[results.runs["pretrain_seed"] >= 0]
    if runs.empty or runs.groupby(["variant", "corpus", "scale"])["pretrain_seed"].nunique().max() > 1:
        return None
    return Warned("One pre-trained model", "All seeds of a pre-trained row share one model: its interval says nothing "
                                           "about another pre-training.")


def _protocols(results: Results) -> Warned | None:
    if len(results.protocols) < 2:
        return None
    return Warned("Several protocols", f"{len(results.protocols)} protocols stand side by side. Their numbers mean "
                                       "different things.")


def _flat_intervals(table: Table) -> Warned | None:
    flat = sorted({row.label for (row, _), cell in table.cells.items()
                   if cell is not None and not row.reference and cell.interval.known
                   and cell.interval.low == cell.interval.high})
    if not flat:
        return None
    return Warned("Zero width", f"{listed(flat)}: all seeds gave the same number. That is not certainty.")
