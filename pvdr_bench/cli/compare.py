"""``compare`` and ``agreement``: two rows against each other, and our ordering against the published one."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvdr_bench.cli.options import Json, Names, refuse_idle
from pvdr_bench.cli.options import Results as Folder
from pvdr_bench.cli.selection import Confidence, Metric, Protocol, Scale, Seeds, Tasks, select
from pvdr_bench.words import counted

if TYPE_CHECKING:
    from pvdr_bench.results.agreement import Agreement
    from pvdr_bench.results.compare import Comparison
    from pvdr_bench.results.differences import Verdict
    from pvdr_bench.results.stats import Interval

At = Annotated[int | None, typer.Option("--env-steps", metavar="N", min=1,
                                        help="Use this point of the curves; default: the final evaluations.")]


def compare(
    context: typer.Context,
    a: Annotated[str, typer.Argument(help="Row as tables and figures have it: its title, variant, or variant:corpus.")],
    b: Annotated[str, typer.Argument(help="The row to compare it with.")],
    tasks: Tasks = None, seeds: Seeds = None, scale: Scale = None, protocol: Protocol = None,
    metric: Metric = "success", confidence: Confidence = 0.95, env_steps: At = None,
    unpaired: Annotated[bool, typer.Option(
        "--unpaired", help="Welch's t test of all seeds, instead of the paired t test of common seeds.")] = False,
    threshold: Annotated[float, typer.Option("--threshold", help="Of the steps to a threshold; not for return.")] = 0.5,
    results: Folder = None, json_: Json = False,
) -> None:
    """Say in words how A differs from B: the effect and its interval first, then the named test."""
    from pvdr_bench.results.compare import compare_rows

    if metric == "return":
        refuse_idle(context, ("threshold",), "--metric return", "compare a rate: --metric success")
    asked = select(results, tasks=tasks, seeds=seeds, scale=scale, protocol=protocol)
    found = compare_rows(asked, a, b, metric, env_steps=env_steps, unpaired=unpaired, threshold=threshold,
                         confidence=confidence)
    typer.echo(json.dumps(plain(asdict(found))) if json_ else "\n".join(words_of(found)))


def plain(value: Any) -> Any:
    """JSON types: numpy arrays as lists, NaN as null, infinity as "never"."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "never"
    return value


def words_of(found: Comparison) -> list[str]:
    """The comparison as lines to print."""
    budgets = sorted({item.a.env_steps for item in found.tasks})
    lines = [f"{found.a.label} (A) against {found.b.label} (B), {_metric(found.metric)}; scale {found.a.scale}, "
             f"protocol {found.a.protocol_hash}, after {' or '.join(map(str, budgets))} env_steps", ""]
    for item in found.tasks:
        n = f"{item.a.values.size} pairs" if found.paired else f"{item.a.values.size} and {item.b.values.size} seeds"
        lines += [f"{item.task}: A {_value(item.a.values.mean(), found.metric)}, "
                  f"B {_value(item.b.values.mean(), found.metric)}; {_effect(item.difference, found)}, {n}",
                  f"  {_verdict(item.test, len(found.tasks))}"]
    if len(found.tasks) > 1:
        lines += [f"mean of {len(found.tasks)} tasks: {_effect(found.over, found)}",
                  f"  {_verdict(found.over_test, 1)}"]
    lines += [f"  bootstrap of the same difference: {_span(found.bootstrap, found.metric, signed=True)}",
              f"  probability that a run of A is above a run of B: {_share(found.improvement)}"]
    lines += _alone(found) + [f"warning: {warning}" for warning in found.warnings]
    return lines


def _metric(metric: str) -> str:
    from pvdr_bench.results.series import METRICS

    return METRICS[metric] + ("" if metric == "return" else ", in percent")


def _value(value: float, metric: str, *, signed: bool = False) -> str:
    number = value if metric == "return" else 100.0 * value
    return f"{number:{'+' if signed else ''}.{2 if metric == 'return' else 1}f}"


def _span(interval: Interval, metric: str, *, signed: bool = False) -> str:
    if interval.low is None or interval.high is None:
        return f"{_value(interval.value, metric, signed=signed)} (no interval)"
    low, high = (_value(bound, metric, signed=signed) for bound in (interval.low, interval.high))
    return f"{_value(interval.value, metric, signed=signed)} [{low}, {high}]"


def _share(interval: Interval) -> str:
    bounds = "(no interval)" if interval.low is None else f"[{interval.low:.2f}, {interval.high:.2f}]"
    return f"{interval.value:.2f} {bounds}"


def _effect(interval: Interval, found: Comparison) -> str:
    """The difference, its interval, and what the interval says."""
    shown = f"A - B {_span(interval, found.metric, signed=True)}"
    if interval.low is None or interval.high is None:
        return f"{shown}: a single seed tells nothing of its spread"
    says = "holds zero: these seeds do not tell which is higher"
    if interval.low > 0.0:
        says = "lies above zero: A is higher"
    elif interval.high < 0.0:
        says = "lies below zero: B is higher"
    return f"{shown}, {100.0 * found.confidence:g} % interval ({interval.method}) {says}"


def _verdict(test: Verdict, tasks: int) -> str:
    if math.isnan(test.p):
        return f"{test.name}: nothing to test, no spread is known"
    holm = f", {test.p_holm:.2g} after Holm over {tasks} tasks" if tasks > 1 else ""
    return f"{test.name}: t = {test.statistic:.2f}, df = {test.df:.3g}, two-sided p = {test.p:.2g}{holm}"


def _alone(found: Comparison) -> list[str]:
    """Each row's own aggregates over these tasks, a line each."""
    lines = [""]
    for row, own in zip((found.a, found.b), found.alone, strict=True):
        if own is None:
            lines.append(f"{row.label}: evaluations are missing, so no aggregates")
            continue
        parts = [f"mean {_span(own.mean, found.metric)}", f"IQM {_span(own.iqm, found.metric)}"]
        if own.gap is not None:
            parts.append(f"optimality gap {_span(own.gap, found.metric)}")
        if own.area is not None:
            parts.append(f"area under the curve {_span(own.area, found.metric)}")
        if own.reached is not None and own.steps is not None and own.threshold is not None:
            parts.append(f"{_value(own.threshold, found.metric)} % reached by {_span(own.reached, found.metric)} % of "
                         f"runs, median env_steps {_steps(own.steps)}")
        lines.append(f"{row.label}, {counted(own.mean.n, 'run')}: {'; '.join(parts)} (bootstrap)")
    return lines


def _steps(interval: Interval) -> str:
    numbers = [interval.value] + [bound for bound in (interval.low, interval.high) if bound is not None]
    texts = ["never" if math.isinf(number) else f"{number:.0f}" for number in numbers]
    return texts[0] + (f" [{texts[1]}, {texts[2]}]" if len(texts) == 3 else " (no interval)")


def agreement(
    tasks: Tasks = None, seeds: Seeds = None, scale: Scale = None, protocol: Protocol = None,
    metric: Metric = "success", confidence: Confidence = 0.95, env_steps: At = None,
    stand_in: Annotated[list[str] | None, typer.Option(
        "--as", metavar="THEIRS=OURS", help="Our corpus that stands in for a published one, as bair=fetch-push; "
                                            "may be repeated.")] = None,
    results: Folder = None, json_: Json = False,
) -> None:
    """Rank agreement (Kendall's tau-b) of our ordering of rows with the published one, per table and task."""
    from pvdr_bench.errors import UsageError
    from pvdr_bench.results.agreement import agree
    from pvdr_bench.results.series import cut_short, rows_of

    pairs = [text.split("=") for text in stand_in or []]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise UsageError("a stand-in is written THEIRS=OURS", where="--as", hint="--as bair=fetch-push")
    asked = select(results, seeds=seeds, scale=scale, protocol=protocol)
    known = sorted(map(str, asked.runs["corpus"].unique()))
    if absent := [ours for _, ours in pairs if ours not in known]:
        raise UsageError(f"no run here is of the corpus {', '.join(absent)}, so it stands in for nothing",
                         where="--as", hint=f"there is: {', '.join(known) or 'nothing'}")
    found = agree(asked, metric, tasks=split(tasks), env_steps=env_steps, stand_ins=dict(pairs), confidence=confidence)
    if json_:
        typer.echo(json.dumps(plain([asdict(one) for one in found])))
        return
    typer.echo("Kendall's tau-b of our ordering with the published one: 1 the same, 0 unrelated, -1 reversed. The "
               "published ordering is fixed; the interval resamples our seeds only. Protocols differ.\n")
    for one in found:
        typer.echo(line_of(one, confidence))
    for sentence in cut_short(rows_of(asked), asked, env_steps):
        typer.echo(sentence)


def split(tasks: Names) -> tuple[str, ...]:
    """Task names; empty: all published ones."""
    from pvdr_bench.catalog.seeds import split_names

    return split_names(tasks)


def line_of(one: Agreement, confidence: float) -> str:
    """One table and task as a line."""
    head = f"{one.paper} {one.table}, {one.task}" + (f", {one.corpus}" if one.corpus else "")
    if one.tau is None:
        return f"{head}: no tau, {one.reason}"
    span = "no interval" if one.tau.low is None else (
        f"{100.0 * confidence:g} % interval [{one.tau.low:.2f}, {one.tau.high:.2f}]")
    missing = f"; not run: {', '.join(one.missing)}" if one.missing else ""
    return f"{head}: tau = {one.tau.value:.2f}, {span}, {len(one.common)} rows: {', '.join(one.common)}{missing}"
