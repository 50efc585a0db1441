"""The shipped policy is a real run of a documented command, and everything plays it by the ordinary way."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pvdr_bench.api import load_run
from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.cli.demo import POLICY, REPORT, command_of, story
from pvdr_bench.cli.main import app, main
from pvdr_bench.errors import DataError, UsageError
from pvdr_bench.playing.film import film_strip
from pvdr_bench.playing.keep import keep_policy
from pvdr_bench.results.collect import collect
from pvdr_bench.runs.checkpoints import POLICY_ONLY
from pvdr_bench.training.execute import execute
from pvdr_bench.training.stages import Stages

ROOT = Path(__file__).parents[1]


def test_the_shipped_policy_is_a_run_of_the_reference_command_and_of_its_recipe() -> None:
    run = load_run(ROOT / POLICY)
    made = run.dir.read_provenance() or {}
    assert command_of(made) == ["pvdr-bench", "run", "--method", "pvdr", "--task", "reach", "--seeds", "3,",
                                "--scale", "cpu"]
    assert len(str(made["git"]["commit"])) == 40 and not made["git"]["dirty"]
    ends = ["protocol.terminate_on_success=true"]  # the default when it was made
    asked = load_catalog().resolve("pvdr", "reach", 3, "cpu", overrides=ends)
    assert run.spec.protocol.hash() == asked.protocol.hash()
    assert run.spec.config_object() == asked.config_object()  # keys that came later have the value that it was made by
    assert {**run.spec.recipe(), "config": {}} == {**asked.recipe(), "config": {}}
    assert run.spec.protocol.env_steps == asked.protocol.env_steps
    done, final = run.dir.done() or {}, [row for row in run.dir.read_episodes() if row["point"] == "final"]
    assert len(final) == done["episodes"] == 100
    assert done["success_any"] == np.mean([row["success_any"] for row in final]) >= 0.9
    found = collect(ROOT / POLICY.parents[4], cached=False)
    assert list(found.runs["status"]) == ["done"] and not found.problems
    size = sum(path.stat().st_size for path in (ROOT / POLICY).rglob("*") if path.is_file())
    assert size < 2.5e6


def test_the_shipped_policy_plays_and_its_plans_can_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path))  # nothing but what is shipped
    with load_run(ROOT / POLICY).open() as session:
        session.learner.render_plans = True  # type: ignore[attr-defined]
        made = list(itertools.islice(session.decisions(0, torch.Generator().manual_seed(0)), 3))
    assert session.env_steps >= 80_000
    plans = np.stack([decision.extras["plan_image"][0].numpy() for decision in made])
    assert plans.shape == (3, 4, 64, 64, 3) and plans.std() > 10  # pictures, not grey
    images = np.stack([decision.image for decision in made]).astype(float)
    assert np.abs(plans[:, 0] - images).mean() < 12  # of this scene
    assert not np.array_equal(plans[0], plans[2]) and all(np.abs(decision.action).max() <= 1 for decision in made)


def test_a_policy_alone_is_played_evaluated_and_never_trained_on(tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    from pvdr_bench.training.again import evaluate_again
    from tests.test_results_api import spec_of

    spec = spec_of("random", {})
    assert execute(spec, tmp_path / "results", Stages(spec).pieces, lambda: False)
    kept = keep_policy(spec.path(tmp_path / "results"), tmp_path / "kept")
    assert kept == spec.path(tmp_path / "kept")
    found = load_run(kept)
    assert [path.name for path in (kept / "checkpoints").iterdir()] == ["step-000000000080"]
    checkpoint = found.dir.checkpoints.latest()
    assert checkpoint is not None and checkpoint.extra == {POLICY_ONLY: True} and found.status == "done"
    _, played = evaluate_again(found.dir, spec, Stages(spec).pieces)
    final = [row for row in found.dir.read_episodes() if row["point"] == "final"]
    assert [result.episode_return for result in played] == [row["return"] for row in final]
    with pytest.raises(UsageError, match="there is a run already"):
        keep_policy(spec.path(tmp_path / "results"), tmp_path / "kept")
    longer = spec.model_copy(update={"protocol": spec.protocol.model_copy(update={"env_steps": 160})})
    with pytest.raises(DataError, match="its policy alone"):
        execute(longer, tmp_path / "kept", Stages(longer).pieces, lambda: False)
    assert (kept / "done.json").exists()


def test_export_copies_a_policy_named_below_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.test_results_api import spec_of

    spec, out = spec_of("random", {}), tmp_path / "kept"
    assert execute(spec, tmp_path / "results", Stages(spec).pieces, lambda: False)
    name, where = str(spec.path("")), ["--results", str(tmp_path / "results"), "--out", str(out)]
    with pytest.raises(SystemExit) as left:
        main(["export", "--policy", name, *where])
    assert (left.value.code, capsys.readouterr().out) == (0, f"{spec.path(out)}\n")
    with pytest.raises(SystemExit) as left:
        main(["export", "--policy", name, *where, "--json"])
    assert left.value.code == 2 and "there is a run already" in capsys.readouterr().err


def test_the_story_is_told_from_the_files_numbers() -> None:
    told = {"method": "PVDR", "task": "Reach", "seed": 3, "env_steps": 80_028, "success_any": 0.97, "episodes": 100,
            "command": "pvdr-bench run", "commit": "0123456789", "decisions": 9, "action_repeat": 4, "plan_frames": 4,
            "film": "a.mp4", "strip": "a.png", "report": "r.html", "link": "file:///r.html"}
    text = "\n".join(story(told))
    assert "80,028 simulator steps" in text and "97 % of 100" in text and "9 decisions (36 simulator steps)" in text
    assert "file:///r.html" in text and "0123456" in text and "4 frames" in text
    assert "was not reached" in "\n".join(story({**told, "decisions": None}))


def test_a_strip_goes_from_the_first_picture_to_the_last() -> None:
    pictures = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 4, 3), np.uint8)
    strip = film_strip(pictures, 4)
    assert strip.shape == (8, 4, 3) and strip[::2, 0, 0].tolist() == [0, 3, 6, 9]
    assert film_strip(pictures[:2], 4).shape == (4, 4, 3)
    for moment, shown in ((4, [0, 4, 6, 9]), (6, [0, 3, 6, 9]), (8, [0, 3, 6, 8])):
        assert film_strip(pictures, 4, moment)[::2, 0, 0].tolist() == shown


@pytest.mark.long
def test_the_demo_writes_film_and_strip_and_names_the_report(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--results", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert Path(told["film"]).stat().st_size > 10_000 and Path(told["strip"]).stat().st_size > 10_000
    assert Path(told["report"]) == ROOT / REPORT and told["link"].startswith("file:///") and told["plan_frames"] == 4
