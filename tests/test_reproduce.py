"""What `reproduce` draws, of fabricated runs: layout, what is missing, unlike budgets, and the ordering's sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pvdr_bench.catalog.catalog import Catalog, load_catalog
from pvdr_bench.catalog.experiment import Experiment
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.errors import UsageError
from pvdr_bench.launch.plan import experiment_runs, plan_runs
from pvdr_bench.launch.reproduction import missing_lines
from pvdr_bench.results.collect import collect
from pvdr_bench.results.ordering import highest_row, sensitivity, table_ordering
from pvdr_bench.results.paper import figure_otherwise, published
from pvdr_bench.results.reproduce import Drawn, at_common_budget, draw, summary
from pvdr_bench.runs.directory import RunDir
from tests.results_runs import write_episodes

TABLE5 = {"pvdr": (0.9, 0.7), "apv": (0.8, 0.4), "ficc": (0.5, 0.1)}  # in the published order, metaworld and fetch-push


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def experiment(**parts: object) -> Experiment:
    return Experiment.model_validate({"name": "mine", "title": "Mine", "source": "a paper, Fig. 1", "seeds": "3",
                                      **parts})


def runs_of(catalog: Catalog, one: Experiment) -> list[RunSpec]:
    return experiment_runs(catalog, one, default_scale="smoke")


def fabricate(spec: RunSpec, root: Path, rate: float, *, until: int | None = None) -> None:
    """Evaluations at every point of the grid up to ``until`` env_steps, and at the end where that is the budget."""
    run_dir, protocol = RunDir(spec.path(root)), spec.protocol
    end = until or protocol.env_steps
    noise = np.random.default_rng(spec.seed).uniform(-0.02, 0.02)
    with run_dir.lock():
        run_dir.open(spec)
        run_dir.write_provenance()
        for step in range(protocol.eval_every, end + 1, protocol.eval_every):
            write_episodes(run_dir, spec, step, "grid", rate + noise, episodes=100)
        if end == protocol.env_steps:
            write_episodes(run_dir, spec, end, "final", rate + noise, episodes=100)
            run_dir.mark_done(env_steps=end)


def drawn(catalog: Catalog, one: Experiment, root: Path, rate: Callable[[RunSpec], float | None]) -> Drawn:
    specs = runs_of(catalog, one)
    for spec in specs:
        if (level := rate(spec)) is not None:
            fabricate(spec, root, level)
    return draw(one, specs, collect(root), root / "out", missing_lines(plan_runs(specs, root)))


def table5(**parts: object) -> Experiment:
    return experiment(
        table={"published": "Table 5", "columns": "corpora", "stand_ins": {"bair": "fetch-push"}},
        grid=[{"methods": list(TABLE5), "tasks": ["reach"], "videos": ["metaworld", "fetch-push"]}], **parts)


def level(spec: RunSpec) -> float:
    return TABLE5[spec.method][("metaworld", "fetch-push").index(str(spec.corpus))]


def test_a_table_stands_in_the_papers_layout_beside_the_published_numbers(catalog: Catalog, tmp_path: Path) -> None:
    found = drawn(catalog, table5(), tmp_path, level)
    assert not found.problem
    assert "is found again on reach (Kendall's tau-b 1.00 [1.00, 1.00], 6 rows" in found.ordering
    assert {path.suffix for path in found.files} == {".pdf", ".svg", ".png", ".txt", ".md", ".tex", ".csv"}
    lines = (tmp_path / "out" / "mine.md").read_text().splitlines()
    assert lines[0] == "| task | method |  | metaworld | fetch-push |"
    assert [line.split("|")[2:4] for line in lines[2:8]] == [
        [f" {name} ", f" {where} "] for method in TABLE5 for name, where in
        ((catalog.method(method).title, "here"), ("", "*published*"))]
    assert "| *65.4 ± 5.9* | *45.0 ± 1.3* |" in lines[3] and lines[2].count("**") == 4 and "(n = 3)" in lines[2]
    text = "\n".join(lines)
    for words in ("under another protocol (Meta-World; 128x128", "not comparable, in no statistic",
                  "fetch-push stands for bair", "Bold compares methods on the same corpus.",
                  "Protocol pvdr, scale smoke", found.ordering):
        assert words in text
    assert "All tasks" not in text and "Missing" not in text
    tex, csv = ((tmp_path / "out" / f"mine.{kind}").read_text() for kind in ("tex", "csv"))
    assert tex.count(r"\textit{published}") == 3 and r"\textit{65.4 $\pm$ 5.9}" in tex
    assert csv.count("\nmeasured,") == 6 and csv.count("\nreported,") == 6


def test_the_other_ordering_is_told_as_well(catalog: Catalog, tmp_path: Path) -> None:
    one = table5()
    for spec in runs_of(catalog, one):
        fabricate(spec, tmp_path, 1.0 - level(spec))
    found = collect(tmp_path)
    stand_ins = {"bair": "fetch-push"}
    assert "is reversed on reach" in table_ordering(found, "Table 5", ["reach"], stand_ins)
    two = found.select(variant=["pvdr", "apv"], corpus=["metaworld"])
    assert "cannot be compared on reach (2 rows in common" in table_ordering(two, "Table 5", ["reach"], stand_ins)
    told = highest_row(found.select(corpus=["metaworld"]), "pvdr", ["reach"], "Fig. 4")
    assert "above 0 of 2" in told and "clearly below APV (metaworld), FICC (metaworld)" in told
    assert "interval of the difference above zero) above none" in told and "(Fig. 4)" in told
    told = highest_row(found.select(corpus=["metaworld"]), "ficc", ["reach"], "")
    assert "above 2 of 2, clearly" in told and "below" not in told


def test_half_done_it_draws_what_there_is_and_says_what_is_missing(catalog: Catalog, tmp_path: Path) -> None:
    one = experiment(figure={"kind": "curves", "levels": ["pvdr"]}, highest="pvdr", grid=[
        {"methods": ["pvdr", "pvdr-scratch", "ppo"], "tasks": ["window-open", "reach"], "videos": ["metaworld"]}])
    specs = runs_of(catalog, one)
    assert draw(one, specs, collect(tmp_path), tmp_path / "out").problem.startswith("no run of it has an evaluation")
    for spec in specs:
        if spec.method == "ppo" and spec.seed:
            fabricate(spec, tmp_path, 0.2, until=spec.protocol.eval_every if spec.seed == 2 else None)
        elif spec.method == "pvdr" and spec.task.name == "reach":
            fabricate(spec, tmp_path, 0.8)
    missing = missing_lines(plan_runs(specs, tmp_path))
    assert missing == [
        "pvdr (metaworld): window-open: seeds 0 to 2 not begun",
        "pvdr-scratch: window-open, reach: seeds 0 to 2 not begun",
        "ppo: window-open, reach: seeds 0, 2 not begun"]  # seed 2 was evaluated, and has no checkpoint to go on from
    found = draw(one, specs, collect(tmp_path), tmp_path / "out", missing)
    caption = (tmp_path / "out" / "mine.txt").read_text()
    assert not found.problem and (tmp_path / "out" / "mine.png").stat().st_size > 10_000
    assert caption.startswith("Mine (after a paper, Fig. 1). Success rate against")
    assert ("Dashed, without marks: the mean of the final evaluations of PVDR (metaworld), whose curve is not drawn."
            in caption)
    assert f"Missing: {'; '.join(missing)}." in caption and "not compared: PPO" in caption
    svg = (tmp_path / "out" / "mine.svg").read_text()
    assert svg.index(">window-open<") < svg.index(">reach<") and ">all tasks<" not in svg
    assert ">PVDR (metaworld), n = 3, at the end<" in svg


def test_unlike_budgets_are_cut_to_the_common_one_and_that_is_said(catalog: Catalog, tmp_path: Path) -> None:
    one = experiment(figure={"kind": "curves"}, grid=[
        {"methods": ["ppo", "random"], "tasks": ["reach"], "overrides": ["protocol.env_steps=640"]},
        {"methods": ["pvdr-scratch"], "tasks": ["reach"]}])
    specs = runs_of(catalog, one)
    for spec in specs:
        fabricate(spec, tmp_path, 0.5)
    results = collect(tmp_path)
    found, remark = at_common_budget(results, specs)
    assert "320 env_steps: pvdr-scratch; 640 env_steps: ppo" in remark and "shown up to 320 env_steps" in remark
    finals = found.points[found.points["point"].eq("final")].groupby("variant")["env_steps"].unique()
    assert {name: list(steps) for name, steps in finals.items()} == {"ppo": [320], "pvdr-scratch": [320],
                                                                     "random": [640]}  # it does not learn
    same = [spec for spec in specs if spec.method != "pvdr-scratch"]
    assert at_common_budget(results, same) == (results, "")
    every, none = specs[0].protocol.eval_every, replace(results, runs=results.runs.iloc[:0])  # nothing was made yet
    short = [spec.model_copy(update={"protocol": spec.protocol.model_copy(update={"env_steps": every // 2})})
             if spec.method == "ppo" else spec for spec in specs]
    apart = [spec.model_copy(update={"protocol": spec.protocol.model_copy(update={"eval_every": 96})})
             if spec.method == "ppo" else spec for spec in specs]  # and 160: both are at 480 for the first time
    for unlike in (short, apart):
        with pytest.raises(UsageError, match="the smallest ends before the first common evaluation"):
            at_common_budget(none, unlike)


def with_budget(spec: RunSpec, env_steps: int) -> RunSpec:
    return spec.model_copy(update={"protocol": spec.protocol.model_copy(update={"env_steps": env_steps})})


def test_budgets_are_those_that_runs_were_made_with(catalog: Catalog, tmp_path: Path) -> None:
    """All are asked 320 now, and another command had PPO go on to 640."""
    one = experiment(figure={"kind": "curves"}, highest="pvdr-scratch", grid=[
        {"methods": ["ppo", "pvdr-scratch"], "tasks": ["reach"]}])
    specs = runs_of(catalog, one)
    assert {spec.protocol.env_steps for spec in specs} == {320}
    for spec in specs:
        fabricate(with_budget(spec, 640) if spec.method == "ppo" else spec, tmp_path, 0.5)
    found = draw(one, specs, collect(tmp_path), tmp_path / "out")
    told = "The budgets differ (320 env_steps: pvdr-scratch; 640 env_steps: ppo), so all rows are shown up to 320"
    assert not found.problem and found.remarks[0].startswith(told) and told in (tmp_path / "out/mine.txt").read_text()
    assert "not compared" not in found.ordering, "both have an evaluation there"
    cut, _ = at_common_budget(collect(tmp_path), specs)
    assert cut.points["env_steps"].max() == 320 and set(cut.points["variant"]) == {"ppo", "pvdr-scratch"}
    longer = [with_budget(spec, 640) for spec in specs]  # asked 640 now: pvdr-scratch was made with 320 all the same
    assert at_common_budget(collect(tmp_path), longer)[1].startswith(told)


@pytest.mark.parametrize("kind", ["figure", "table"])
def test_half_done_with_unlike_budgets_it_draws_what_there_is(catalog: Catalog, tmp_path: Path, kind: str) -> None:
    """No run that learns has come to the common budget yet."""
    shown = {"figure": {"figure": {"kind": "curves"}, "highest": "ppo"}, "table": {"table": {"published": "Table 4"}}}
    one = experiment(**shown[kind], grid=[
        {"methods": ["ppo", "random"], "tasks": ["reach"], "overrides": ["protocol.env_steps=640"]},
        {"methods": ["pvdr-scratch"], "tasks": ["reach"]}])
    specs = runs_of(catalog, one)
    for spec in specs:
        if spec.method != "pvdr-scratch":
            fabricate(spec, tmp_path, 0.5, until=None if spec.method == "random" else spec.protocol.eval_every)
    found = draw(one, specs, collect(tmp_path), tmp_path / "out", missing_lines(plan_runs(specs, tmp_path)))
    assert not found.problem and (tmp_path / "out" / "mine.png").stat().st_size > 5_000
    caption = (tmp_path / "out" / "mine.txt").read_text()
    assert "so all rows are shown up to 320 env_steps" in caption and "Missing: " in caption
    assert "pvdr-scratch" in caption
    if kind == "table":
        ours = (tmp_path / "out" / "mine.md").read_text().splitlines()[2]
        assert ours.count("| - ") == 2 and "50.0" in ours, "floor and ceiling are as they are"
    else:
        assert "cannot be said" in found.ordering


def test_drawn_is_said_where_something_was_and_every_built_in_experiment_has_something(
        catalog: Catalog, tmp_path: Path) -> None:
    for name in catalog.experiments():
        known = catalog.experiment(name)
        assert known.experiments or known.figure or known.table, name
    one = experiment(grid=[{"methods": ["ppo"], "tasks": ["reach"]}])
    found = drawn(catalog, one, tmp_path, lambda spec: 0.5)
    assert not found.files and not (tmp_path / "out").exists()
    assert summary([found], {}) == "mine: its file names neither figure nor table, so nothing is drawn"
    assert "drawn" in summary([drawn(catalog, experiment(
        figure={"kind": "curves"}, grid=[{"methods": ["ppo"], "tasks": ["window-open"]}]), tmp_path, lambda spec: 0.5)],
        {}).splitlines()[0]


def test_the_tabletop_has_the_methods_of_fig7(catalog: Catalog) -> None:
    there, here = catalog.experiment("fig7"), catalog.experiment("tabletop")
    assert set(here.grid[0].methods) == {*there.grid[0].methods, "random", "scripted"}
    assert (here.figure, here.highest) == (there.figure, there.highest)


def test_a_sweep_has_a_line_for_each_value_and_the_final_scores(catalog: Catalog, tmp_path: Path) -> None:
    values = {"pvdr": 0.4, "pvdr@lambda1=0.5": 0.9, "pvdr@lambda1=1e-5": 0.1}
    one = experiment(source="after a paper, Fig. 1", figure={"kind": "sweep", "key": "lambda1"}, grid=[
        {"methods": list(values), "tasks": ["reach"], "videos": ["metaworld"]}])
    found = drawn(catalog, one, tmp_path, lambda spec: values.get(spec.variant, 0.9 if "0.5" in spec.variant else 0.1))
    assert not found.problem and {path.name for path in found.files} >= {"mine.png", "mine-final.png", "mine-final.svg"}
    assert (tmp_path / "out" / "mine.txt").read_text().startswith("Mine (after a paper, Fig. 1).")
    svg = (tmp_path / "out" / "mine.svg").read_text()
    default = catalog.resolve("pvdr", "reach", 0, "smoke").config["pretrain"]["lambda1"]
    places = [svg.index(f">lambda1 = {value} (metaworld), n = 3<") for value in sorted([1e-5, default, 0.5])]
    assert places == sorted(places)  # the legend is in the order of the values
    assert "reach: 80 points, from lambda1 = 1e-05 (metaworld) to lambda1 = 0.5 (metaworld)" in found.ordering


@pytest.mark.parametrize(("source", "words"), [
    ("arXiv 2411.03169, Fig. 4", "Not shown: Fig. 4 as published (Luo et al.; ECCV 2024; arXiv 2411.03169), under "
     "another protocol (Meta-World; 128x128; action repeat 2; 500-step episodes;"),
    ("arXiv 2411.03169, Fig. 7", "under another protocol (RLBench; 128x128; action repeat 2; 200-step episodes;"),
    ("after arXiv 2411.03169, Fig. 5", "Not shown: Fig. 5 as published"),
    ("another paper, Fig. 4", "")])
def test_a_caption_tells_how_the_published_figure_was_measured(catalog: Catalog, tmp_path: Path, source: str,
                                                               words: str) -> None:
    one = experiment(source=source, figure={"kind": "curves"}, grid=[{"methods": ["ppo"], "tasks": ["reach"]}])
    drawn(catalog, one, tmp_path, lambda spec: 0.5)
    caption = (tmp_path / "out" / "mine.txt").read_text()
    assert words in caption and caption.count("not comparable, in no statistic.") == bool(words)


def test_every_figure_of_the_paper_has_its_protocol(catalog: Catalog) -> None:
    for name in catalog.experiments():
        one = catalog.experiment(name)
        wanted = one.figure is not None and re.search(r"2411\.03169, (Fig|Table)", one.source) is not None
        assert bool(figure_otherwise(one.source)) >= wanted, name
    tables = published().groupby("table")["protocol"].first()
    assert tables["Table 4"] in figure_otherwise("after arXiv 2411.03169, Table 4")


def test_a_sweep_of_a_single_value_until_now_has_its_curves(catalog: Catalog, tmp_path: Path) -> None:
    one = experiment(figure={"kind": "sweep", "key": "lambda1"}, grid=[
        {"methods": ["pvdr", "pvdr@lambda1=0.5"], "tasks": ["reach"], "videos": ["metaworld"]}])
    found = drawn(catalog, one, tmp_path, lambda spec: 0.4 if spec.variant == "pvdr" else None)
    assert "no method was run with two values of lambda1" in found.problem
    assert "mine.png" in {path.name for path in found.files} and "no task has two of them yet" in found.ordering


def test_a_range_is_of_the_keys_rows_at_one_number_of_env_steps(catalog: Catalog, tmp_path: Path) -> None:
    one = experiment(grid=[{"methods": ["ppo", "ppo@gamma=0.5", "pvdr-scratch"], "tasks": ["reach"]}])
    rates = {"ppo": 0.2, "ppo@gamma=0.5": 0.4, "pvdr-scratch": 0.9}
    for spec in runs_of(catalog, one):
        fabricate(spec, tmp_path, rates[spec.variant])
    found, both = collect(tmp_path), ("ppo", "ppo@gamma=0.5")
    assert "reach: 20 points, from PPO to " in sensitivity(found, "gamma", both, ["reach"])
    later = found.points["env_steps"].where(found.points["variant"].ne("ppo"), found.points["env_steps"] + 100)
    apart = replace(found, points=found.points.assign(env_steps=later))
    assert "reach: not compared, as rows end after 320 to 420 env_steps" in sensitivity(apart, "gamma", both, ["reach"])
    told = highest_row(apart, "ppo", ["reach"], "Fig. 4")
    assert told.startswith("Whether PPO is above all other rows (Fig. 4) cannot be said") and "0 of 0" not in told


def test_a_run_that_cannot_be_read_is_told(catalog: Catalog, tmp_path: Path) -> None:
    one = experiment(figure={"kind": "curves"}, grid=[{"methods": ["ppo"], "tasks": ["reach"]}])
    specs = runs_of(catalog, one)
    for spec in specs:
        fabricate(spec, tmp_path, 0.5)
    (specs[1].path(tmp_path) / "run.yaml").write_text("]")
    found = draw(one, specs, collect(tmp_path), tmp_path / "out")
    assert [remark.partition(", ")[0] for remark in found.remarks] == [f"{specs[1].path('')}: broken"]
    assert found.remarks[0] in (tmp_path / "out" / "mine.txt").read_text()
