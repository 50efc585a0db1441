"""Rows of unlike budgets: who is left out where all is cut, what is bold, and whose schedules follow the budget."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pvdr_bench.algorithms.registry import algorithms, learns_by_budget
from pvdr_bench.errors import UsageError
from pvdr_bench.results.aggregate_table import build_aggregate_table
from pvdr_bench.results.collect import collect
from pvdr_bench.results.compare import compare_rows
from pvdr_bench.results.figures import plot_curves
from pvdr_bench.results.report.overview import summary
from pvdr_bench.results.reproduce import at_common_budget
from pvdr_bench.results.tables import build_table, to_frame, to_markdown
from tests.results_runs import make_run, make_spec

CUT = "on the way to a larger budget that schedules follow"


def left_out(notes: tuple[str, ...]) -> set[str]:
    return {note for note in notes if "no final evaluation at" in note}


def test_seeds_and_rows_that_do_not_come_as_far_as_the_cut_are_named(tmp_path: Path) -> None:
    for seed in range(5):
        points = 4 if seed < 3 else 2
        make_run(tmp_path, [0.5] * points, seed=seed, env_steps=8000 * points)
    for seed in range(2):
        make_run(tmp_path, [0.5] * 2, variant="pvdr", corpus="metaworld", seed=seed, env_steps=16000)
    make_run(tmp_path, [0.1], variant="random", env_steps=8000)
    cut = collect(tmp_path).cut_at(32000)
    table = build_table(cut)
    told = {"ppo, reach: no final evaluation at 32000 env_steps, so left out: seeds 3, 4",
            "pvdr (metaworld), reach: no final evaluation at 32000 env_steps, so left out: seeds 0, 1",
            "random, reach: no final evaluation at 32000 env_steps, so left out: seeds 0"}
    assert left_out(table.notes) == left_out(build_aggregate_table(cut, repetitions=50).notes) == told
    assert "(n = 3)" in to_markdown(table) and all(note in to_markdown(table) for note in told)
    assert left_out(build_table(collect(tmp_path).cut_at(8000)).notes) == set()
    assert left_out(build_table(collect(tmp_path)).notes) == {
        "ppo, reach: no final evaluation at 32000 env_steps, so left out: seeds 3, 4"}


def test_a_floor_that_is_not_cut_is_not_said_to_be_left_out(tmp_path: Path) -> None:
    make_run(tmp_path, [0.5] * 4, env_steps=32000)
    make_run(tmp_path, [0.5] * 2, variant="pvdr", env_steps=16000)
    make_run(tmp_path, [0.1], variant="random", env_steps=8000)
    specs = [make_spec(variant, env_steps=steps) for variant, steps in (("ppo", 32000), ("pvdr", 16000))]
    found, remark = at_common_budget(collect(tmp_path), specs)
    assert "up to 16,000" in remark and found.at == 16000
    assert left_out(build_table(found).notes) == set()


def make_two_tasks(root: Path, ppo: tuple[int, int], pvdr: tuple[int, int]) -> None:
    """PPO far above PVDR in both tasks, after so many points of 8000 env_steps in each."""
    for variant, rate, points in (("ppo", 0.9, ppo), ("pvdr", 0.1, pvdr)):
        for task, count in zip(("reach", "window-open"), points, strict=True):
            for seed in range(3):
                make_run(root, [rate + 0.02 * seed] * count, variant=variant, task=task, seed=seed,
                         env_steps=8000 * count)


@pytest.mark.parametrize(("pvdr", "bold"), [((2, 1), True), ((1, 2), False)])
def test_nothing_is_bold_over_tasks_whose_budgets_differ_crosswise(tmp_path: Path, pvdr: tuple[int, int],
                                                                   bold: bool) -> None:
    make_two_tasks(tmp_path, (2, 1), pvdr)
    results = collect(tmp_path)
    table = build_table(results, repetitions=100)
    frame = to_frame(table)
    over = frame[frame["task"] == "all tasks"]
    assert list(over["env_steps"]) == [0, 0] and over["bold"].any() == bold
    aggregates = to_frame(build_aggregate_table(results, repetitions=100)).set_index(["variant", "statistic"])["bold"]
    assert aggregates[("ppo", "mean")] == aggregates[("ppo", "optimality gap")] == aggregates.any() == bold
    words = next(text for text in summary(table) if text.startswith("Over all tasks"))
    assert ("the budgets differ" in words) != bold


def test_seeds_of_unlike_budgets_are_mixed_where_schedules_follow_the_budget(tmp_path: Path) -> None:
    for seed, points in enumerate((1, 1, 2)):
        make_run(tmp_path, [0.5] * points, variant="ficc", corpus="metaworld", algorithm="efficientzero", seed=seed,
                 env_steps=8000 * points)
        make_run(tmp_path, [0.5] * points, seed=seed, env_steps=8000 * points)
    results = collect(tmp_path)
    mixed = [problem for problem in results.problems if problem.kind == "mixed"]
    assert [problem.run for problem in mixed] == ["ficc/reach/metaworld/cpu"], "PPO's seeds are those of one run"
    assert mixed[0].detail == ("its seeds were made with budgets of 8000, 16000 env_steps, which the schedules of "
                               "efficientzero follow")
    cut = results.cut_at(8000)
    for refused in (build_table, plot_curves):
        with pytest.raises(UsageError, match="the schedules of efficientzero follow"):
            refused(cut)
    text = to_markdown(build_table(cut, allow_mixed=True))
    assert f"- ficc/reach/metaworld/cpu: mixed, {mixed[0].detail}" in text
    assert f"Cut at 8000 env_steps {CUT}, so not what runs of this budget come to: ficc (metaworld) of 16000." in text
    build_table(results.select(variant=["ppo"]).cut_at(8000))


def test_a_row_cut_below_a_budget_that_its_schedules_follow_says_so(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path, [0.2, 0.4 + 0.1 * seed], variant="efficientzero", seed=seed, env_steps=16000)
        make_run(tmp_path, [0.2, 0.3 + 0.1 * seed], seed=seed, env_steps=16000)
    results = collect(tmp_path)
    for build in (build_table, build_aggregate_table, plot_curves):
        assert "of 16000." in build(results.cut_at(8000)).caption and CUT in build(results.cut_at(8000)).caption
        assert CUT not in build(results.cut_at(16000)).caption and CUT not in build(results).caption
    assert CUT not in build_table(results.select(variant=["ppo"]).cut_at(8000)).caption
    at = [any(CUT in warning for warning in compare_rows(results, "efficientzero", "ppo", repetitions=50,
                                                         env_steps=steps).warnings) for steps in (8000, 16000, None)]
    assert at == [True, False, False]


def test_whatever_reads_the_budget_says_that_it_learns_by_it() -> None:
    readers = set()
    for info in algorithms().values():
        if info.learner is not None:
            spec = importlib.util.find_spec(info.learner.partition(":")[0])
            assert spec is not None and spec.origin is not None
            file = Path(spec.origin)
            files = [file] if file.parent.name == "algorithms" else sorted(file.parent.glob("*.py"))
            if any("budget_decisions" in path.read_text() for path in files):
                readers.add(info.name)
    assert readers == {name for name in algorithms() if learns_by_budget(name)} == {"efficientzero"}
    assert not learns_by_budget("of-another-installation")
