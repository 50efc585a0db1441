"""What `reproduce` draws, of fabricated runs: layout, what is missing, unlike budgets, and the ordering's sentence."""

from __future__ import annotations

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
from pvdr_bench.results.reproduce import Drawn, at_common_budget, draw
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
    assert "Dashed: the mean of the final evaluations of PVDR (metaworld), whose curve is not drawn." in caption
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
    every = specs[0].protocol.eval_every
    short = [spec.model_copy(update={"protocol": spec.protocol.model_copy(update={"env_steps": every // 2})})
             if spec.method == "ppo" else spec for spec in specs]
    apart = [spec.model_copy(update={"protocol": spec.protocol.model_copy(update={"eval_every": 96})})
             if spec.method == "ppo" else spec for spec in specs]  # and 160: both are at 480 for the first time
    for unlike in (short, apart):
        with pytest.raises(UsageError, match="the smallest ends before the first common evaluation"):
            at_common_budget(results, unlike)


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
