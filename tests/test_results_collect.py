"""Collecting run directories: nothing is dropped silently, nothing torn or broken stops it, meanings never mix."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pvdr_bench.errors import UsageError
from pvdr_bench.results.collect import COLUMNS, collect, write_frame
from pvdr_bench.runs.directory import RunDir
from tests.results_runs import make_grid, make_run, make_spec, stopped, unsealed, write_episodes


def test_rows_are_means_over_the_logs_episodes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for seed in range(2):
        make_run(tmp_path, [0.3, 0.7], variant="pvdr", corpus="metaworld", seed=seed, rng=rng, pretrain_seed=seed,
                 env_steps=16000)
    results = collect(tmp_path)
    assert list(results.points.columns) == list(COLUMNS) and results.problems == []
    assert len(results.points) == 2 * 3 and results.points["complete"].all()
    for record in results.points.to_dict("records"):
        lines = [json.loads(line) for line in (tmp_path / record["path"] / "episodes.jsonl").read_text().splitlines()]
        mine = [line for line in lines if (line["env_steps"], line["point"]) == (record["env_steps"], record["point"])]
        assert record["episodes"] == len(mine)
        assert record["success"] == record["success_any"] == pytest.approx(np.mean([m["success_any"] for m in mine]))
        assert record["success_end"] == pytest.approx(np.mean([m["success_end"] for m in mine]))
        assert record["return"] == pytest.approx(np.mean([m["return"] for m in mine]))
        assert record["decisions"] * 4 == record["env_steps"] and record["pretrain_seed"] == record["seed"]
    assert set(results.points["protocol_hash"]) == {make_spec().protocol.hash()}


def test_the_protocols_rule_decides_what_success_is(tmp_path: Path) -> None:
    make_run(tmp_path, [0.8], success_rule="end")
    points = collect(tmp_path).points
    assert (points["success"] == points["success_end"]).all() and (points["success_end"] < points["success_any"]).all()


def test_runs_that_pass_a_sync_point_at_other_steps_are_put_on_the_grid(tmp_path: Path) -> None:
    for seed, more in enumerate((0, 17)):  # an episode that ends within a decision makes fewer steps
        spec = make_spec(seed=seed, env_steps=16000)
        run_dir = RunDir(spec.path(tmp_path))
        with run_dir.lock():
            run_dir.open(spec)
            for steps in (0, 8000 + more, 16000 + more):
                write_episodes(run_dir, spec, steps, "grid", 0.5)
            write_episodes(run_dir, spec, 16000 + more, "final", 0.5)
            run_dir.mark_done(env_steps=16000 + more)
    results = collect(tmp_path)
    assert results.problems == []
    assert results.points.groupby("env_steps")["seed"].nunique().to_dict() == {0: 2, 8000: 2, 16000: 2}
    assert sorted(results.points["env_steps_made"].unique()) == [0, 8000, 8017, 16000, 16017]


def test_budget_is_no_part_of_the_protocols_hash(tmp_path: Path) -> None:
    make_run(tmp_path, [0.5], seed=0, env_steps=8000)
    make_run(tmp_path, [0.5, 0.6], seed=1, env_steps=16000)
    results = collect(tmp_path)
    assert results.runs["protocol_hash"].nunique() == 1
    results.require_one_protocol()


def test_every_unfinished_run_is_listed(tmp_path: Path) -> None:
    make_run(tmp_path, [0.5] * 5, seed=0)
    make_run(tmp_path, [0.1, 0.2], seed=1, done=False)
    make_run(tmp_path, [0.1], seed=2, done=False, failed="loss is NaN\nand more")
    make_run(tmp_path, [0.5] * 4, seed=3)
    make_run(tmp_path, [0.5] * 5, seed=0, variant="pvdr", corpus="metaworld")
    folder = tmp_path / "ppo/reach/none/cpu/seed-9"
    folder.mkdir(parents=True)
    (folder / "failed.json").write_text('{"message": "no GL"}')
    results = collect(tmp_path)
    found = {problem.run: (problem.kind, problem.detail) for problem in results.problems}
    base = "ppo/reach/none/cpu/seed-"
    assert found[f"{base}1"] == ("stopped", "evaluated up to 16000 of 40000 env_steps")
    assert found[f"{base}2"] == ("failed", "loss is NaN (evaluated up to 8000 of 40000 env_steps)")
    assert found[f"{base}3"] == ("short", "32000 of 40000 env_steps")
    assert found[f"{base}9"] == ("failed", "no GL")
    assert found["pvdr/reach/metaworld/cpu"] == ("missing", "seeds 1, 2, 3")
    assert len(found) == 5 and len(results.runs) == 5


def test_a_run_that_is_being_written_is_running(tmp_path: Path) -> None:
    spec = make_spec()
    run_dir = RunDir(spec.path(tmp_path))
    with run_dir.lock():
        run_dir.open(spec)
        write_episodes(run_dir, spec, 8000, "grid", 0.5)
        write_episodes(run_dir, spec, 16000, "grid", 0.5, episodes=7)  # in the middle of an evaluation
        with (run_dir.path / "episodes.jsonl").open("a") as file:
            file.write('{"env_steps": 160')
        results = collect(tmp_path)
    assert [problem.kind for problem in results.problems] == ["running"]
    assert list(results.points["complete"]) == [True, False] and list(results.points["episodes"]) == [20, 7]


def test_a_torn_point_of_a_stopped_run_is_incomplete(tmp_path: Path) -> None:
    path = stopped(make_run(tmp_path, [0.5] * 5))
    lines = (path / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (path / "episodes.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:9])
    assert [problem.kind for problem in collect(tmp_path).problems] == ["stopped", "incomplete"]
    points = collect(tmp_path).points
    assert list(points.loc[~points["complete"].astype(bool), "episodes"]) == [99]


@pytest.mark.parametrize(("file", "content"), [
    ("run.yaml", "recipe: ["), ("run.yaml", "format: 1\nrecipe: {}\nspec: {}\n"), ("run.yaml", "- 1\n"),
    ("episodes.jsonl", "not json\n"), ("episodes.jsonl", '{"seed": 0}\n'), ("run.yaml", "format: 99\nrecipe: {}\n"),
    ("done.json", "{"),
])
def test_a_broken_run_is_listed_and_stops_nothing(tmp_path: Path, file: str, content: str) -> None:
    make_run(tmp_path, [0.5] * 5, seed=0)
    (make_run(tmp_path, [0.5] * 5, seed=1) / file).write_text(content)
    results = collect(tmp_path)
    assert [(p.run, p.kind) for p in results.problems] == [("ppo/reach/none/cpu/seed-1", "broken")]
    assert list(results.runs["seed"]) == [0]


def test_episodes_that_are_there_twice_count_once(tmp_path: Path) -> None:
    path = unsealed(make_run(tmp_path, [0.5] * 5))
    log = path / "episodes.jsonl"
    first = log.read_text().splitlines(keepends=True)[0]
    log.write_text(log.read_text() + first.replace('"success_any":true', '"success_any":false'))
    results = collect(tmp_path)
    assert [(p.kind, "twice" in p.detail) for p in results.problems] == [("broken", True)]
    assert sorted(results.points["episodes"]) == [20, 20, 20, 20, 20, 100]


def test_a_seed_counts_once_and_committed_results_are_not_ours(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [0.5] * 5)
    make_run(tmp_path / "b", [0.9] * 5)
    make_run(tmp_path / "reference", [0.1] * 5)
    results = collect(tmp_path)
    assert [(p.run, p.kind) for p in results.problems] == [("b/ppo/reach/none/cpu/seed-0", "twice")]
    assert list(results.runs["path"]) == ["a/ppo/reach/none/cpu/seed-0"] and results.points["success"].max() == 0.5
    assert list(collect(tmp_path / "reference").runs["seed"]) == [0]


def test_an_empty_folder_and_no_folder(tmp_path: Path) -> None:
    results = collect(tmp_path)
    assert results.points.empty and list(results.points.columns) == list(COLUMNS) and results.problems == []
    with pytest.raises(UsageError, match="no results folder"):
        collect(tmp_path / "absent")


def test_different_protocols_are_refused_with_their_difference(tmp_path: Path) -> None:
    make_run(tmp_path, [0.5], seed=0)
    make_run(tmp_path, [0.5], seed=0, variant="pvdr", corpus="metaworld", goal_metric="pixel_l1")
    results = collect(tmp_path)
    with pytest.raises(UsageError, match=r"goal_metric: '(code_l1_blur|pixel_l1)'"):
        results.require_one_protocol()
    results.require_one_protocol(allow_mixed=True)
    results.select(variant=["pvdr"]).require_one_protocol()


def test_seeds_of_one_row_with_different_recipes_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path, [0.5] * 5, seed=0)
    make_run(tmp_path, [0.5] * 5, seed=1, version=2)
    results = collect(tmp_path)
    assert [problem.kind for problem in results.problems] == ["mixed"]
    with pytest.raises(UsageError, match=r"algorithm_version: [12]"):
        results.require_one_protocol()


def test_select_keeps_what_is_asked_for_and_names_what_there_is(tmp_path: Path) -> None:
    make_run(tmp_path, [0.5] * 5, seed=0)
    make_run(tmp_path, [0.5] * 2, seed=0, task="drawer-open")
    (make_run(tmp_path, [0.5] * 5, seed=1, task="drawer-open") / "run.yaml").write_text("[")
    selected = collect(tmp_path).select(task=["drawer-open"], scale=None)
    assert set(selected.points["task"]) == {"drawer-open"}
    assert {problem.kind for problem in selected.problems} == {"short", "broken"}
    assert collect(tmp_path).select(task=["reach"]).problems == []
    make_run(tmp_path, [0.5] * 5, seed=1)
    make_run(tmp_path, [0.5] * 5, seed=0, variant="pvdr", corpus="metaworld")  # lacks seed 1
    assert [problem.kind for problem in collect(tmp_path).select(task=["reach"]).problems] == ["missing"]
    assert collect(tmp_path).select(task=["reach"], variant=["ppo"]).problems == []
    assert collect(tmp_path).select(task=["reach"], seed=[0]).problems == []
    make_run(tmp_path, [0.5] * 5, seed=2)
    for seeds, words in (([1], "seed 1"), ([2, 0], "seed 2"), ([2, 1], "seeds 1, 2")):
        found = collect(tmp_path).select(task=["reach"], seed=seeds).problems
        assert [(problem.kind, problem.detail) for problem in found] == [("missing", words)]
    assert {p.kind for p in collect(tmp_path).select(task=["drawer-open"], seed=[0]).problems} == {"short"}
    with pytest.raises(UsageError, match="there is: drawer-open, reach"):
        collect(tmp_path).select(task=["dial-turn"])


def test_written_frames_are_equal_and_the_bytes_repeat(tmp_path: Path) -> None:
    make_grid(tmp_path / "runs", seeds=2)
    files = write_frame(collect(tmp_path / "runs"), tmp_path / "a")
    again = write_frame(collect(tmp_path / "runs"), tmp_path / "b")
    for kind, path in files.items():
        assert path.read_bytes() == again[kind].read_bytes()
    parquet, csv = pd.read_parquet(files["parquet"]), pd.read_csv(files["csv"])
    pd.testing.assert_frame_equal(parquet, csv, check_dtype=False)
    assert len(csv) == 2 * 6 * 6


def test_reading_results_imports_no_torch(tmp_path: Path) -> None:
    make_run(tmp_path, [0.5] * 5)
    code = ("import sys; from pvdr_bench.results import collect, tables, figures, paper, series, stats;"
            "from pvdr_bench.playing import film;"
            f"r = collect.collect({str(tmp_path)!r}); tables.build_table(r); figures.plot_curves(r);"
            "import pvdr_bench.api; sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
