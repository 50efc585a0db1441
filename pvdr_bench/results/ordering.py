"""One sentence on whether our ordering is the published one: of a table by rank, of a figure by its highest row."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pvdr_bench.catalog.resolve import split_variant
from pvdr_bench.results.agreement import Agreement, agree
from pvdr_bench.results.collect import Results
from pvdr_bench.results.differences import stratified_t
from pvdr_bench.results.series import Row, bounds_of, final_values, rows_of, spread_of
from pvdr_bench.results.stats import CONFIDENCE, Interval
from pvdr_bench.words import counted


def table_ordering(results: Results, table: str, tasks: Sequence[str], stand_ins: Mapping[str, str],
                   metric: str = "success", *, confidence: float = CONFIDENCE) -> str:
    """Whether the rows of a published table stand here as they stand there, task by task.

    It agrees where the interval of Kendall's tau-b lies above zero, is reversed where it lies below, and is open where
    it holds zero: then other seeds might have given another ordering.
    """
    found = [one for one in agree(results, metric, stand_ins=stand_ins, confidence=confidence)
             if one.table == table and one.task in tasks and not one.corpus]
    if not found:
        return f"Ordering: nothing is published in {table} for {', '.join(tasks)}."
    learned = [row for row in rows_of(results) if not row.reference]
    if all(split_variant(row.variant)[1] for row in learned) and not any(one.common for one in found):
        return f"Ordering: keys were changed in every row, so that no published row of {table} is the same setting."
    verdicts: dict[str, list[str]] = {}
    for one in found:
        verdict, detail = _verdict(one)
        verdicts.setdefault(verdict, []).append(f"{one.task} ({detail})")
    texts = [f"{verdict} on {', '.join(places)}" for verdict, places in verdicts.items()]
    return f"The ordering of the rows of {table} {'; '.join(texts)}."


def _verdict(one: Agreement) -> tuple[str, str]:
    rows = counted(len(one.common), "row")
    if one.tau is None:
        return "cannot be compared", one.reason
    shown = f"Kendall's tau-b {one.tau.value:.2f}"
    if one.tau.low is None or one.tau.high is None:
        return "has no interval, from a single seed,", f"{shown}, {rows}"
    shown += f" [{one.tau.low:.2f}, {one.tau.high:.2f}], {rows}"
    if one.missing:
        shown += f" of {len(one.common) + len(one.missing)} that are published"
    if one.tau.low > 0.0:
        return "is found again" if one.tau.value == 1.0 else "agrees in part", shown
    return ("is reversed" if one.tau.high < 0.0 else "is left open by our seeds"), shown


def highest_row(results: Results, variant: str, tasks: Sequence[str], source: str, metric: str = "success", *,
                theirs: str = "", has: str = "", confidence: float = CONFIDENCE) -> str:
    """Whether the row that a publication has above all others is above them here, by the mean over the tasks.

    Args:
        theirs: what the publication has above its rows, where the rows here are ours and none of them is printed there;
            empty: the row itself, above the others.
        has: what it says of it, where that is known and the rows are its own.
    """
    rows = [row for row in rows_of(results) if not row.reference]
    own = [row for row in rows if row.variant == variant]
    others = [row for row in rows if row.variant != variant]
    where = f" ({source})" if source else ""
    if not own or not others:
        return f"Whether {variant} is above the others{where} cannot be said: " + (
            "it has no evaluation." if not own else "no other row has an evaluation.")
    sentences = []
    for row in own:
        gaps = {other: _gap(row, other, results, tasks, metric, confidence) for other in others
                if len(own) == 1 or other.corpus in (row.corpus, "none")}
        told = (f"The publication has {theirs} above its rows{where}, and the rows here are ours;" if theirs else
                f"The publication has {has or f'{row.title} above all other rows'}{where}; here")
        sentences.append(_told(row, {other: gap for other, gap in gaps.items() if gap is not None},
                               [other for other, gap in gaps.items() if gap is None], where, confidence, told))
        if gaps and len(tasks) > 1 and None not in gaps.values():
            first = _first_on(row, list(gaps), results, tasks, metric)
            sentences.append(f"Its mean is the highest on {len(first)} of {len(tasks)} tasks"
                             + (f": {', '.join(first)}." if first else "."))
    return " ".join(sentences)


def _first_on(row: Row, others: Sequence[Row], results: Results, tasks: Sequence[str], metric: str) -> list[str]:
    """The tasks on which the mean of ``row`` is above those of all others; all have a final evaluation."""
    def mean(one: Row, task: str) -> float:
        return float(final_values(one, results.points, task, metric).values.mean())

    return [task for task in tasks if all(mean(row, task) > mean(other, task) for other in others)]


def _gap(row: Row, other: Row, results: Results, tasks: Sequence[str], metric: str,
         confidence: float) -> Interval | None:
    """How far ``row`` is above ``other``, mean over tasks with its t interval; None without a common point.

    Paired by seed where both have the same ones on every task, as `compare` does.
    """
    sides, paired = [], True
    for task in tasks:
        a, b = (final_values(one, results.points, task, metric) for one in (row, other))
        if not a.values.size or not b.values.size or a.env_steps != b.env_steps:
            return None
        sides.append((a.values, b.values))
        paired &= a.seeds == b.seeds
    bounds = None if bounds_of(metric) is None else (-1.0, 1.0)
    return stratified_t([a for a, _ in sides], [b for _, b in sides], paired=paired, confidence=confidence,
                        bounds=bounds)[0]


def _told(row: Row, gaps: Mapping[Row, Interval], missing: Sequence[Row], where: str, confidence: float,
          opening: str) -> str:
    if not gaps:
        why = ("none has a final evaluation at its env_steps in every task; not compared: "
               f"{', '.join(other.label for other in missing)}" if missing else "none is of its corpus")
        return f"Whether {row.label} is above all other rows{where} cannot be said: {why}."
    level = f"{100.0 * confidence:g} %"
    above = [other.label for other, gap in gaps.items() if gap.value > 0.0]
    clear = [other.label for other, gap in gaps.items() if gap.low is not None and gap.low > 0.0]
    below = [other.label for other, gap in gaps.items() if gap.high is not None and gap.high < 0.0]
    text = (f"{opening} the mean of {row.label} is above {len(above)} of {len(gaps)}, clearly ({level} "
            f"interval of the difference above zero) above {', '.join(clear) if clear else 'none'}")
    text += f", and clearly below {', '.join(below)}" if below else ""
    return text + (f"; not compared: {', '.join(other.label for other in missing)}." if missing else ".")


def sensitivity(results: Results, key: str, variants: Collection[str], tasks: Sequence[str],
                metric: str = "success") -> str:
    """How far apart the values of a key are: the range over rows of the final means, task by task.

    Args:
        variants: those that have the key; no other row is in the range.
    """
    rows, texts = [row for row in rows_of(results) if row.variant in variants], []
    for task in tasks:
        finals = {row.label: final for row in rows
                  if (final := final_values(row, results.points, task, metric)).values.size}
        means = {label: float(final.values.mean()) for label, final in finals.items()}
        budgets = sorted({final.env_steps for final in finals.values()})
        if len(budgets) > 1:
            texts.append(f"{task}: not compared, as rows end after {spread_of(budgets)} env_steps")
        elif len(means) > 1:
            best, worst = max(means, key=lambda name: means[name]), min(means, key=lambda name: means[name])
            texts.append(f"{task}: {100.0 * (means[best] - means[worst]):.0f} points, from {worst} to {best}")
    told = "; ".join(texts) or "no task has two of them yet"
    return f"Range of the mean final success over the values of {key}, no interval: {told}."
