"""Paired comparison: against scipy and by hand, what is refused, what is warned of, and what is said in words."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pvdr_bench.cli.compare import agreement, compare
from pvdr_bench.cli.selection import select
from pvdr_bench.errors import UsageError
from pvdr_bench.results.collect import Results, collect
from pvdr_bench.results.compare import compare_rows, find_row
from pvdr_bench.results.differences import holm, stratified_t
from tests.results_runs import make_grid, make_run

app = typer.Typer()
for command in (compare, agreement):
    app.command()(command)
EIGHT_A = [0.62, 0.71, 0.55, 0.9, 0.48, 0.66, 0.8, 0.59]
EIGHT_B = [0.41, 0.66, 0.5, 0.7, 0.52, 0.4, 0.61, 0.44]


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def make_pair(root: Path, a: list[float], b: list[float], *, task: str = "reach", **more: Any) -> Results:
    """Rows ppo and pvdr (metaworld) with these final rates, seeds 0, 1, ..."""
    for variant, corpus, rates in (("ppo", None, a), ("pvdr", "metaworld", b)):
        for seed, rate in enumerate(rates):
            make_run(root, [0.0, rate], final=rate, variant=variant, corpus=corpus, seed=seed, task=task,
                     title=variant.upper(), algorithm=variant, **more)
    return collect(root)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=9), st.floats(0.5, 0.99))
def test_one_task_equals_scipys_paired_t(pairs: list[tuple[float, float]], confidence: float) -> None:
    a, b = np.array(pairs).T
    if np.std(a - b) < 1e-6:
        return
    interval, test = stratified_t([a], [b], confidence=confidence, bounds=None)
    expected = scipy.stats.ttest_rel(a, b)
    bounds = expected.confidence_interval(confidence)
    assert (test.statistic, test.p, test.df) == pytest.approx((expected.statistic, expected.pvalue, expected.df))
    assert (interval.low, interval.high) == pytest.approx((bounds.low, bounds.high), abs=1e-9)
    assert test.name == "paired t" and interval.n == len(pairs)


def test_unpaired_equals_scipys_welch() -> None:
    a, b = np.array(EIGHT_A), np.array(EIGHT_B[:5])
    interval, test = stratified_t([a], [b], paired=False)
    expected = scipy.stats.ttest_ind(a, b, equal_var=False)
    bounds = expected.confidence_interval(0.95)
    assert (test.statistic, test.p, test.df) == pytest.approx((expected.statistic, expected.pvalue, expected.df))
    assert (interval.low, interval.high) == pytest.approx((bounds.low, bounds.high))
    assert test.name == "Welch t"


def test_two_tasks_equal_scipys_welch_of_one_against_the_other_mirrored() -> None:
    """The sum of two means, m1 + m2, is the difference of m1 and the mean of -d2: the same test of two strata."""
    rng = np.random.default_rng(2)
    a, b = [rng.random(6), rng.random(4)], [rng.random(6), rng.random(4)]
    interval, test = stratified_t(a, b, bounds=None)
    expected = scipy.stats.ttest_ind(a[0] - b[0], b[1] - a[1], equal_var=False)
    bounds = expected.confidence_interval(0.95)
    assert (test.statistic, test.p, test.df) == pytest.approx((expected.statistic, expected.pvalue, expected.df))
    assert (interval.low, interval.high) == pytest.approx((bounds.low / 2, bounds.high / 2))
    assert test.name == "stratified paired t"


@pytest.mark.parametrize("unit", [1.0, 1e-100, 1e-155])
def test_the_unit_of_the_scores_does_not_matter(unit: float) -> None:
    """Squares of tiny variances underflow, and a hypothesis search once found the NaN."""
    a, b = np.array([0.0, 1.0, 3.0]), np.array([1.0, 0.0, 0.5])
    interval, test = stratified_t([a * unit], [b * unit], bounds=None)
    expected = scipy.stats.ttest_rel(a, b)
    assert (test.statistic, test.p, test.df) == pytest.approx((expected.statistic, expected.pvalue, 2))
    assert interval.low == pytest.approx(unit * expected.confidence_interval(0.95).low, rel=1e-6, abs=0)


@pytest.mark.parametrize("paired", [True, False])
def test_the_stratified_t_interval_covers(paired: bool) -> None:
    """Six tasks, five seeds, one method ahead by 0.1 everywhere."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(600):
        b = [rng.beta(4, 4, 5) * 0.8 for _ in range(6)]
        a = [one + 0.1 + rng.normal(0, 0.05, 5) for one in b] if paired else [rng.beta(4, 4, 5) * 0.8 + 0.1
                                                                             for _ in range(6)]
        interval, _ = stratified_t(a, b, paired=paired)
        hits += interval.low <= 0.1 <= interval.high  # type: ignore[operator]
    assert 0.92 <= hits / 600 <= 0.98


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(p: list[float]) -> None:
    """A hypothesis falls where every intersection with others falls by Bonferroni: all subsets, by brute force."""
    expected = [max(min(len(subset) * min(p[i] for i in subset), 1.0)
                    for size in range(1, len(p) + 1) for subset in itertools.combinations(range(len(p)), size)
                    if index in subset) for index in range(len(p))]
    assert holm(p) == pytest.approx(expected)


def test_holm_by_hand_and_with_nothing_tested() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3 x 0.01, then 2 x 0.03, then at least it
    found = holm([0.01, float("nan"), 0.03])
    assert found[[0, 2]] == pytest.approx([0.03, 0.06]) and np.isnan(found[1])
    assert holm([]).size == 0


def test_differences_equal_up_to_rounding_are_no_evidence() -> None:
    interval, test = stratified_t([[0.9, 0.5, 0.3]], [[0.8, 0.4, 0.2]])  # 0.1 each, up to 1e-17
    assert interval.low == interval.high == interval.value == pytest.approx(0.1) and np.isnan(test.p)
    alone, test = stratified_t([[0.9]], [[0.8]])
    assert not alone.known and np.isnan(test.p)


def test_comparison_of_two_rows(tmp_path: Path) -> None:
    results = make_pair(tmp_path, EIGHT_A, EIGHT_B)
    found = compare_rows(results, "ppo", "pvdr:metaworld", repetitions=2000)
    (task,) = found.tasks
    expected = scipy.stats.ttest_rel(EIGHT_A, EIGHT_B)
    assert task.difference.value == pytest.approx(np.mean(EIGHT_A) - np.mean(EIGHT_B))
    assert (task.test.p, task.test.p_holm) == pytest.approx((expected.pvalue, expected.pvalue))
    assert found.over == task.difference and found.warnings == ()
    assert found.improvement.value == pytest.approx(scipy.stats.mannwhitneyu(EIGHT_A, EIGHT_B).statistic / 64)
    assert found.bootstrap.value == pytest.approx(task.difference.value)
    back = compare_rows(results, "pvdr", "ppo", repetitions=2000)
    assert (back.over.low, back.over.high) == pytest.approx((-found.over.high, -found.over.low))  # type: ignore[operator]


def test_holm_goes_over_tasks_and_lonely_tasks_are_named(tmp_path: Path) -> None:
    make_pair(tmp_path, EIGHT_A, EIGHT_B)
    make_pair(tmp_path, EIGHT_A, EIGHT_A[::-1], task="plate-slide")
    make_run(tmp_path, [0.5], variant="ppo", task="dial-turn", env_steps=8000)
    found = compare_rows(collect(tmp_path), "ppo", "pvdr", repetitions=100)
    assert [item.task for item in found.tasks] == ["plate-slide", "reach"]
    raw = [item.test.p for item in found.tasks]
    assert [item.test.p_holm for item in found.tasks] == pytest.approx([raw[0], 2 * raw[1]])
    assert found.over_test.name == "stratified paired t" and np.isnan(found.over_test.p_holm)
    assert any("PVDR (metaworld) has no evaluation in dial-turn" in warning for warning in found.warnings)


@pytest.mark.parametrize("pairs", [2, 4, 5, 7])
def test_few_pairs_are_warned_of_with_the_smallest_p_of_a_rank_test(tmp_path: Path, pairs: int) -> None:
    found = compare_rows(make_pair(tmp_path, EIGHT_A[:pairs], [0.2] * pairs), "ppo", "pvdr", repetitions=50)
    smallest = scipy.stats.wilcoxon(np.arange(1.0, pairs + 1), method="exact").pvalue  # all differences positive
    assert any(f"can reach is {smallest:.2g}" in warning for warning in found.warnings)
    assert any("say little more" in w or "says little more" in w for w in found.warnings) == (pairs < 5)


def test_seeds_without_a_partner_are_named_and_unpaired_takes_them(tmp_path: Path) -> None:
    results = make_pair(tmp_path, EIGHT_A[:6], EIGHT_B[:4])
    found = compare_rows(results, "ppo", "pvdr", repetitions=50)
    assert found.tasks[0].a.seeds == found.tasks[0].b.seeds == (0, 1, 2, 3)
    assert any("left out: PPO seeds 4, 5" in warning for warning in found.warnings)
    welch = compare_rows(results, "ppo", "pvdr", unpaired=True, repetitions=50)
    assert (welch.over_test.name, welch.tasks[0].a.values.size, welch.tasks[0].b.values.size) == ("Welch t", 6, 4)
    assert welch.over_test.p == pytest.approx(scipy.stats.ttest_ind(EIGHT_A[:6], EIGHT_B[:4], equal_var=False).pvalue)


def test_no_common_seeds_are_refused_unless_unpaired(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path, [EIGHT_A[seed]], seed=seed, env_steps=8000)
        make_run(tmp_path, [EIGHT_B[seed]], variant="ppo@lr=1", seed=seed + 3, env_steps=8000)
    results = collect(tmp_path)
    with pytest.raises(UsageError, match="0 seeds in common.*\n.*--unpaired"):
        compare_rows(results, "ppo", "ppo@lr=1")
    assert compare_rows(results, "ppo", "ppo@lr=1", unpaired=True, repetitions=50).tasks[0].a.seeds == (0, 1, 2)


def test_different_env_steps_and_protocols_are_refused(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path, [0.1, 0.2 + seed / 10], seed=seed)
        make_run(tmp_path, [0.3, 0.4, 0.5 + seed / 10], variant="pvdr", corpus="metaworld", seed=seed)
        make_run(tmp_path, [0.1, 0.2], variant="random", seed=seed, goal_blur=5)
    results = collect(tmp_path)
    with pytest.raises(UsageError, match="after 16000 env_steps and .* after 24000.*\n.*--env-steps 16000"):
        compare_rows(results, "ppo", "pvdr")
    found = compare_rows(results, "ppo", "pvdr", env_steps=16000, repetitions=50)
    assert found.over.value == pytest.approx(0.3 - 0.4) and found.alone[1].env_steps == (16000,)  # type: ignore[union-attr]
    assert any("episodes per seed differ: 20, 100" in warning for warning in found.warnings)
    with pytest.raises(UsageError, match="never mix(.*\n)*.*goal_blur"):
        compare_rows(results, "ppo", "random")
    with pytest.raises(UsageError, match="in no common task"):
        compare_rows(results, "ppo", "pvdr", env_steps=123)


def test_mixed_recipes_of_the_compared_rows_are_refused_and_others_do_not_matter(tmp_path: Path) -> None:
    results = make_pair(tmp_path, EIGHT_A[:5], EIGHT_B[:5])
    for seed in range(2):
        make_run(tmp_path, [0.1, 0.2], variant="pvdr-scratch", seed=seed, config={"lr": seed}, algorithm="pvdr")
    results = collect(tmp_path)
    assert compare_rows(results, "ppo", "pvdr", repetitions=50).paired
    with pytest.raises(UsageError, match="2 recipes"):
        compare_rows(results, "ppo", "pvdr-scratch")


def test_names_are_variants_and_ambiguous_ones_list_their_candidates(tmp_path: Path) -> None:
    make_grid(tmp_path, seeds=2)
    results = collect(tmp_path)
    assert find_row(results, "ppo") == find_row(results, "ppo:none")
    assert find_row(results, "pvdr:fetch-push").corpus == "fetch-push"
    with pytest.raises(UsageError, match="may be any of: pvdr:fetch-push, pvdr:metaworld\n.*variant:corpus$"):
        find_row(results, "pvdr")
    with pytest.raises(UsageError, match="no row 'pvdr:bair'\n.*there is: .*ppo:none"):
        find_row(results, "pvdr:bair")
    with pytest.raises(UsageError, match="same row"):
        compare_rows(results, "ppo", "ppo:none")
    with pytest.raises(UsageError, match="no metric"):
        compare_rows(results, "ppo", "random", "speed")
    make_run(tmp_path, [0.1] * 5, goal_blur=5, scale="gpu")
    with pytest.raises(UsageError, match=r"ppo:none \(scale cpu.*ppo:none \(scale gpu.*\n.*--protocol HASH$"):
        find_row(collect(tmp_path), "ppo")
    found = collect(tmp_path)
    for key in found.protocols:  # as the advice says
        assert find_row(select(tmp_path, protocol=[key[:6]]), "ppo").protocol_hash == key


def test_the_command_says_effect_interval_and_test(tmp_path: Path) -> None:
    make_pair(tmp_path, EIGHT_A, EIGHT_B)
    words = run("compare", "ppo", "pvdr", "--results", str(tmp_path), "--task", "reach")
    expected = scipy.stats.ttest_rel(EIGHT_A, EIGHT_B)
    low, high = (100 * bound for bound in expected.confidence_interval(0.95))
    effect = f"A - B {100 * np.mean(np.subtract(EIGHT_A, EIGHT_B)):+.1f} [{low:+.1f}, {high:+.1f}], 95 % interval"
    assert words.index(f"{effect} (paired t) lies above zero: A is higher") < words.index(
        f"paired t: t = {expected.statistic:.2f}, df = 7, two-sided p = {expected.pvalue:.2g}")
    assert "significant" not in words and "warning" not in words and "optimality gap" in words
    assert re.search(r"; 50\.0 % reached by \d+\.\d \[.*?\] % of runs, median env_steps", words)
    told = json.loads(run("compare", "pvdr", "ppo", "--results", str(tmp_path), "--json", "--threshold", "0.95"))
    assert told["a"]["variant"] == "pvdr"
    assert told["over"]["value"] == pytest.approx(np.mean(EIGHT_B) - np.mean(EIGHT_A))
    assert told["alone"][0]["steps"]["value"] == "never" and told["over_test"]["p"] == pytest.approx(expected.pvalue)
    assert told["tasks"][0]["a"]["seeds"] == list(range(8)) and told["warnings"] == []
    returns = run("compare", "ppo", "pvdr", "--results", str(tmp_path), "--metric", "return", "--seeds", "2")
    assert "nothing to test" in returns and "optimality gap" not in returns and "warning: 2 seeds" in returns
    assert "reached by" not in returns
