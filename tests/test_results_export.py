"""Results for other tools: what is written is what was measured, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pvdr_bench.cli.main import app
from pvdr_bench.errors import UsageError
from pvdr_bench.results.collect import COLUMNS, collect
from pvdr_bench.results.export import export, scores_of
from tests.results_runs import make_run

TASKS = ("drawer-open", "reach")
SMALL = {"eval_episodes": 4, "eval_final_episodes": 5, "env_steps": 16000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    for task in TASKS:
        for seed in range(3):
            make_run(root, [0.3, 0.6], task=task, seed=seed, title="PPO", rng=rng, **SMALL)
            make_run(root, [0.4, 0.9], task=task, seed=seed, variant="pvdr", corpus="metaworld", title="PVDR", rng=rng,
                     **SMALL)
    make_run(root, [0.9, 0.9], task="reach", seed=3, title="PPO", **SMALL)  # not in the other task
    make_run(root, [0.9, 0.9], task="reach", variant="random", title="Random", **SMALL)
    return root


def logged(folder: Path, variant: str, task: str, corpus: str, seed: int, point: str, env_steps: int) -> float:
    """The success rate from the log itself."""
    lines = (folder / variant / task / corpus / "cpu" / f"seed-{seed}" / "episodes.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if (row["point"], row["env_steps"]) == (point, env_steps)]
    return sum(row["success_any"] for row in rows) / len(rows)


def test_rliable_scores_are_the_logs_means(folder: Path, tmp_path: Path) -> None:
    files = export(collect(folder), "rliable", tmp_path / "scores.npz")
    assert [path.name for path in files] == ["scores.npz", "scores.curves.npz", "scores.json"]
    final, curves, axes = dict(np.load(files[0])), dict(np.load(files[1])), json.loads(files[2].read_text())
    assert axes["tasks"] == list(TASKS) and axes["frames"] == [8000, 16000] and axes["metric"] == "success"
    assert axes["seeds"] == {"PPO": [0, 1, 2], "PVDR (metaworld)": [0, 1, 2]}
    for label, variant, corpus in (("PPO", "ppo", "none"), ("PVDR (metaworld)", "pvdr", "metaworld")):
        assert final[label].shape == (3, 2) and curves[label].shape == (3, 2, 2)
        for seed in range(3):
            for column, task in enumerate(TASKS):
                at_end = logged(folder, variant, task, corpus, seed, "final", 16000)
                assert final[label][seed, column] == at_end
                assert curves[label][seed, column].tolist() == [
                    logged(folder, variant, task, corpus, seed, "grid", 8000), at_end]
    assert axes["left_out"] == ["PPO: seeds 3 lack a final evaluation in some task",
                                "Random: seeds 0 lack a final evaluation in some task"]


def test_the_json_form_of_rliables_scores_is_the_same(folder: Path, tmp_path: Path) -> None:
    scores = scores_of(collect(folder))
    (file,) = export(collect(folder), "rliable", tmp_path / "scores.json")
    told = json.loads(file.read_text())
    for name, arrays in (("final", scores.final), ("curves", scores.curves)):
        assert told[name].keys() == arrays.keys()
        assert all(np.array_equal(np.array(told[name][label]), arrays[label]) for label in arrays)


def test_the_same_results_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name, kind in (("a.npz", "rliable"), ("a.csv", "csv"), ("a.json", "json")):
        first = [path.read_bytes() for path in export(collect(folder), kind, tmp_path / name)]
        assert first == [path.read_bytes() for path in export(collect(folder), kind, tmp_path / name)]


def test_csv_and_json_hold_the_whole_frame(folder: Path, tmp_path: Path) -> None:
    results = collect(folder)
    (csv,), (text,) = export(results, "csv", tmp_path / "a.csv"), export(results, "json", tmp_path / "a.json")
    pd.testing.assert_frame_equal(pd.read_csv(csv), results.points, check_dtype=False, check_exact=True)
    told = json.loads(text.read_text())
    frame = pd.DataFrame(told["points"], columns=list(told["columns"]))
    pd.testing.assert_frame_equal(frame.astype({"wall_seconds": float, "evaluation_seconds": float}), results.points,
                                  check_dtype=False, check_exact=True)
    assert told["columns"] == COLUMNS and told["protocols"] == results.protocols
    assert [problem["kind"] for problem in told["problems"]] == [problem.kind for problem in results.problems]


def test_the_command_selects_and_tells(folder: Path, tmp_path: Path) -> None:
    words = ["export", "--results", str(folder), "--task", "reach", "--method", "ppo", "--seeds", "2", "--json"]
    told = json.loads(CliRunner().invoke(app, [*words, "--format", "csv", "--out", str(tmp_path / "a.csv")]).output)
    frame = pd.read_csv(told["files"][0])
    assert set(frame["task"]) == {"reach"} and set(frame["variant"]) == {"ppo"} and set(frame["seed"]) == {0, 1}


@pytest.mark.parametrize(("words", "message"), [
    ([], "give one of"), (["--format", "csv", "--to", "wandb"], "give one of"), (["--format", "csv"], "needs a file"),
    (["--format", "xml", "--out", "a.xml"], "no format 'xml'"), (["--format", "csv", "--out", "a.npz"], "written as"),
    (["--format", "csv", "--out", "a.csv", "--online"], "only trackers"), (["--to", "mlflow"], "no tracker 'mlflow'"),
    (["--to", "tensorboard", "--online"], "this machine only"),
    (["--format", "rliable", "--out", "a.npz", "--metric", "speed"], "no metric"),
])
def test_bad_words_are_refused(folder: Path, words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["export", "--results", str(folder), *words])
    assert isinstance(result.exception, UsageError) and message in str(result.exception)


def test_no_whole_seed_and_no_evaluation_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path, [], done=False, **SMALL)
    with pytest.raises(UsageError, match="no run has an evaluation"):
        export(collect(tmp_path), "csv", tmp_path / "a.csv")
    make_run(tmp_path, [0.5, 0.5], task="drawer-open", **SMALL)
    with pytest.raises(UsageError, match="in every task"):
        export(collect(tmp_path), "rliable", tmp_path / "a.npz")
