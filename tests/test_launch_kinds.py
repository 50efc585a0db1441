"""What a plan costs, each kind of run at its own rate; what is left of runs; and budgets that may not change."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.errors import ChangedError
from pvdr_bench.launch.plan import RunPlan, plan_runs
from pvdr_bench.launch.rates import Place, Rates, labels_of
from pvdr_bench.results.collect import collect
from pvdr_bench.results.publish import publish
from pvdr_bench.runs.archive import write_archive
from pvdr_bench.runs.directory import RunDir
from tests.dummies import EPISODE, SYNC
from tests.dummies import make_spec as dummy_spec
from tests.results_runs import finish, make_run, make_spec
from tests.slurm_fakes import nowhere
from tests.test_cli_run import cli
from tests.test_reproduce_command import done, folder

__all__ = ["folder", "nowhere"]


def begun(folder: Path, method: str, seed: int, env_steps: int) -> None:
    """A run on reach that was stopped at a checkpoint."""
    spec = load_catalog().resolve(method, "reach", seed, "smoke")
    run_dir = RunDir(spec.path(folder / "results"))
    with run_dir.lock():
        run_dir.open(spec)
        run_dir.save(env_steps, {"w": np.zeros(3)})


def test_a_dry_run_takes_each_kind_at_its_own_rate(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    words = ("--task", "reach", "--seeds", "3", "--scale", "smoke", "--results", str(folder / "results"), "--dry-run",
             "--device", "cpu", "--jobs", "1")
    code, out, _ = cli(capsys, "run", "--methods", "random,ppo", *words)
    assert code == 0 and "random, ppo: 6 runs, unknown" in out and "together" not in out
    done(folder, "random", "reach", 0, 32.0)  # 0.1 s an env_step; ppo was never measured
    begun(folder, "random", 1, 160)
    code, out, _ = cli(capsys, "run", "--methods", "random,ppo", *words)
    assert code == 0 and "6 runs: 4 new, 1 continue, 1 done" in out
    assert "random: 2 runs, 0.013 h, as random: 1 finished run in the results folder" in out  # 160 + 320 env_steps
    assert "ppo: 3 runs, unknown" in out and "together about 0:48 for 2 of 5 runs, without ppo" in out
    done(folder, "ppo", "reach", 0, 320.0)
    code, out, _ = cli(capsys, "run", "--methods", "random,ppo", *words)
    assert code == 0 and "together about 11:28\n" in out  # 48 s, and 2 runs of 320 s


def test_a_submission_takes_each_kind_at_its_own_rate(capsys: pytest.CaptureFixture[str], nowhere: None,
                                                      folder: Path) -> None:
    done(folder, "random", "reach", 0, 32.0)
    begun(folder, "random", 1, 160)
    words = ("submit", "--methods", "random,ppo", "--task", "reach", "--seeds", "3", "--scale", "smoke", "--profile",
             "cpu", "--results", str(folder / "results"), "--dry-run")
    facts = json.loads(cli(capsys, *words, "--json")[1])
    assert facts["skipped"] == {"done": 1} and facts["runs"] == 5
    assert facts["run_hours"] == pytest.approx((160 + 320) * 0.1 / 3600) and facts["hours_unknown"] == {"ppo": 3}
    assert [(kind["variant"], kind["runs"]) for kind in facts["kinds"]] == [("random", 2), ("ppo", 3)]
    code, out, _ = cli(capsys, *words)
    assert code == 0 and "ppo: 3 runs, unknown" in out and "together 0.0 hours of runs for 2 of 5 runs" in out


def test_a_rate_of_other_keys_is_better_than_none_and_says_so(folder: Path) -> None:
    """Of ppo under 2 episodes a point there is a run; then one under the protocol's own keys, which is taken."""
    catalog, results = load_catalog(), folder / "results"
    wanted = catalog.resolve("ppo", "reach", 0, "smoke", overrides=["protocol.eval_episodes=3"])

    def known() -> tuple[float | None, str] | None:
        found = Rates(catalog, results, Place("cpu")).of(wanted)
        return (found.per_step, found.source) if found else None

    def made(seed: int, seconds: float, *overrides: str) -> None:
        spec = catalog.resolve("ppo", "reach", seed, "smoke", overrides=overrides)
        with (run_dir := RunDir(spec.path(results))).lock():
            run_dir.open(spec)
            finish(run_dir, 320, wall_seconds=seconds)

    assert labels_of("cpu@a=1") == ["cpu@a=1", "cpu", "cpu@"] and labels_of("cpu") == ["cpu", "cpu@"]
    assert known() is None
    made(0, 32.0, "protocol.eval_episodes=2")
    assert known() == (0.1, "1 finished run in the results folder, under other keys of the protocol")
    publish(collect(results), folder / "packed")
    assert Rates(catalog, folder / "none", Place("cpu"), [folder / "packed"]).of(wanted).source == (  # type: ignore[union-attr]
        "1 finished run in packed, under other keys of the protocol")
    made(1, 64.0)
    assert known() == (0.2, "1 finished run in the results folder")
    made(2, 96.0, "protocol.eval_episodes=3")
    assert known() == (pytest.approx(0.3), "1 finished run in the results folder")


def test_nothing_is_left_but_the_end_of_a_run_whose_budget_was_lowered_below_its_checkpoint() -> None:
    lowered = RunPlan(dummy_spec(env_steps=2 * SYNC), Path("none"), "continue", 5 * SYNC)
    assert lowered.env_steps == 0 and lowered.evaluation_steps == 5 * EPISODE  # the final evaluation


def test_another_budget_is_refused_where_schedules_follow_it(tmp_path: Path) -> None:
    def states(method: str, seed: int, env_steps: int) -> str:
        return plan_runs([make_spec(method, seed=seed, env_steps=env_steps)], tmp_path)[0].state

    for method in ("efficientzero", "ppo"):
        make_run(tmp_path, [0.5] * 2, variant=method, seed=0, env_steps=16000)
        with (run_dir := RunDir(make_spec(method, seed=0).path(tmp_path))).lock():
            run_dir.checkpoints.save(16000, {"w": np.zeros(3)})
        for seed, steps in ((1, 8000), (2, None)):
            run_dir = RunDir(make_run(tmp_path, [], variant=method, seed=seed, env_steps=16000, done=False))
            if steps is not None:
                with run_dir.lock():
                    run_dir.save(steps, {"w": np.zeros(3)})
    assert [states("ppo", seed, 32000) for seed in range(3)] == ["extend", "continue", "new"]
    assert [states("efficientzero", seed, 16000) for seed in range(3)] == ["done", "continue", "new"]
    assert states("efficientzero", 0, 8000) == "done" and states("efficientzero", 2, 32000) == "new"  # nothing learned
    for seed, steps in ((0, 32000), (1, 32000), (1, 8000)):
        path = make_spec("efficientzero", seed=seed).path(tmp_path) / "run.yaml"
        before = path.read_bytes()
        with pytest.raises(ChangedError, match=f"budget of 16,000 env_steps, and {steps:,} are asked for") as caught:
            states("efficientzero", seed, steps)
        assert "-o protocol.env_steps=16000" in str(caught.value.hint) and path.read_bytes() == before
    run, packed = make_spec("efficientzero", seed=0).path(tmp_path), tmp_path / "packed"
    write_archive(packed / "runs.zip", {path.relative_to(tmp_path).as_posix(): path for path in run.iterdir()
                                        if path.is_file() and path.name != "lock"})
    with pytest.raises(ChangedError, match=r"runs\.zip: efficientzero/reach/.*budget of 16,000 env_steps"):
        plan_runs([make_spec("efficientzero", seed=0, env_steps=32000)], packed)


def test_run_and_submit_refuse_it_before_anything_is_written(capsys: pytest.CaptureFixture[str], nowhere: None,
                                                             folder: Path) -> None:
    done(folder, "efficientzero", "reach", 0, 1.0)
    words = ("--method", "efficientzero", "--task", "reach", "--scale", "smoke", "-o", "protocol.env_steps=640",
             "--results", str(folder / "results"))
    for command in (("run", *words, "--device", "cpu"), ("submit", *words, "--profile", "cpu", "--dry-run")):
        code, _, err = cli(capsys, *command)
        assert code == ChangedError.exit_code and "-o protocol.env_steps=320" in err and "--results folder" in err
