"""The one loop with both dummies: what it hands over, logs, evaluates, refuses and leaves behind."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.diagnostics.seeds import measure as measure_seeds
from pvdr_bench.errors import (
    CatalogError,
    ChangedError,
    DataError,
    Interrupted,
    LockedError,
    SetupError,
    TrainingError,
    UsageError,
)
from pvdr_bench.launch.local import run_local
from pvdr_bench.rl.contract import Learner, LearnerContext, Transition
from pvdr_bench.runs.cleaning import why_broken
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.suites.base import EnvConfig
from pvdr_bench.suites.vector import VectorEnv
from pvdr_bench.training.again import evaluate_again, evaluated_std, told_of, with_eval_std, with_mean_policy
from pvdr_bench.training.evaluation import SEED_SPAN, Evaluator, train_seeds, waves
from pvdr_bench.training.execute import check_artefacts, execute
from pvdr_bench.training.online import Pieces
from tests import dummies
from tests.dummies import ENVS, EPISODE, REPEAT, SYNC, do_run, make_pieces, make_spec
from tests.phases import LOOP, checked_parts
from tests.processes import call, start

KINDS = ("onpolicy", "recurrent")


class Recorder(VectorEnv):
    """Records seeds, actions and steps of all instances, by whether they terminate on success."""

    seeds: dict[bool, list[int]] = {}

    def __init__(self, config: EnvConfig, n: int) -> None:
        super().__init__(config, n, workers=0)

    def reset(self, seeds: Sequence[int]) -> Any:
        self.seeds.setdefault(self.config.terminate_on_success, []).extend(seeds)
        return super().reset(seeds)


def recorded(spec: Any, results: Path, **changes: Any) -> list[Transition]:
    """Run ``spec`` and return every transition that its learner was given."""
    seen: list[Transition] = []
    pieces = dataclasses.replace(make_pieces(spec), **changes)

    def make_learner(context: LearnerContext) -> Learner:
        learner = pieces.make_learner(context)
        inner = learner.observe

        def observe(transition: Transition) -> None:
            seen.append(transition)
            inner(transition)

        learner.observe = observe  # type: ignore[method-assign]
        return learner

    assert execute(spec, results, lambda: (dataclasses.replace(pieces, make_learner=make_learner), {}), lambda: False)
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_contract_of_transitions(kind: str, tmp_path: Path) -> None:
    seen = recorded(make_spec(kind), tmp_path)
    per_episode = EPISODE // REPEAT
    assert len(seen) == 2 * SYNC // (ENVS * REPEAT)
    for t, now in enumerate(seen):
        assert now.image.dtype == torch.uint8 and now.image.shape == (ENVS, 16, 16, 3)
        assert now.reward.dtype == torch.float32 and now.action.shape == (ENVS, 2)
        assert bool(now.is_first.all()) == (t % per_episode == 0)
        assert bool(now.truncated.all()) == (t % per_episode == per_episode - 1)
        assert not now.terminated.any()
        if t % per_episode != per_episode - 1:
            assert torch.equal(now.next_image, seen[t + 1].image)
        else:  # the true last observation, not the next episode's first
            assert not torch.equal(now.next_image, seen[0].image)
            assert t + 1 == len(seen) or torch.equal(seen[t + 1].image, seen[0].image)


class Expert(dummies.OnPolicyDummy):
    """Plays the suite's expert and learns nothing."""

    def act(self, image: Any, is_first: Any, carry: Any, mode: Any, generator: Any) -> Any:
        return carry["expert"], {}, {}

    def learn(self) -> dict[str, float]:
        return {}


def test_successes_end_training_episodes_and_sync_points_cut_them(tmp_path: Path) -> None:
    # The expert needs 0.6 / 0.02 = 30 of 80 steps, so episodes do not end together with the sync points' grid.
    spec = make_spec(env_steps=320, episode_steps=80, sync_every=160, eval_every=160, eval_episodes=1,
                     eval_final_episodes=1)
    seen = recorded(spec, tmp_path, make_learner=Expert, needs_expert=True)
    assert any(t.terminated.any() for t in seen)
    assert not any((t.terminated & t.truncated).any() for t in seen)
    cut = [t for t, now in enumerate(seen) if now.truncated.any()]
    assert len(cut) == 2 and cut[-1] == len(seen) - 1  # at both sync points, and nowhere else
    assert bool(seen[cut[0] + 1].is_first.all())
    assert torch.equal(seen[cut[0] + 1].image, seen[0].image)
    assert not torch.equal(seen[cut[0]].next_image, seen[0].image)
    run_dir = RunDir(spec.path(tmp_path))
    rows = run_dir.read_train()
    assert [row["env_steps"] // 160 for row in rows] == [1, 2]
    assert rows[-1]["train_success"] == 1.0
    assert all(row["success_any"] and row["length"] == 80 for row in run_dir.read_episodes())  # to the full length


def test_the_bonus_is_paid_once(tmp_path: Path) -> None:
    spec = make_spec(env_steps=160, episode_steps=80, sync_every=160, eval_every=160, eval_episodes=1,
                     eval_final_episodes=1)
    returns = {}
    for bonus in (0.0, 10.0):
        run_spec = spec.model_copy(update={"protocol": spec.protocol.model_copy(update={"success_bonus": bonus})})
        recorded(run_spec, tmp_path / str(bonus), make_learner=Expert, needs_expert=True)
        returns[bonus] = [row["return"] for row in RunDir(run_spec.path(tmp_path / str(bonus))).read_episodes()]
    assert np.allclose(np.array(returns[10.0]) - np.array(returns[0.0]), 10.0)


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_a_done_run(kind: str, tmp_path: Path) -> None:
    spec = make_spec(kind)
    assert do_run(spec, tmp_path)
    run_dir = RunDir(spec.path(tmp_path))
    assert run_dir.status() == "done" and run_dir.is_done(2 * SYNC)
    episodes = run_dir.read_episodes()
    points = [(row["env_steps"], row["point"], row["episode"]) for row in episodes]
    assert points == ([(0, "grid", i) for i in range(3)] + [(SYNC, "grid", i) for i in range(3)]
                      + [(2 * SYNC, "grid", i) for i in range(3)] + [(2 * SYNC, "final", i) for i in range(5)])
    rows = run_dir.read_train()
    assert rows and all("loss" in row or row["env_steps"] % SYNC == 0 for row in rows)
    assert all(-1 <= row["distance_truth_spearman"] <= 1 for row in rows if "distance_truth_spearman" in row)
    assert not any("second" in key or "time" in key or "rate" in key for row in rows + episodes for key in row)
    timing = run_dir.read_timing()
    assert [(row["env_steps"], row["point"]) for row in timing] == sorted({(s, p) for s, p, _ in points},
                                                                          key=lambda x: (x[0], x[1] == "final"))
    for earlier, later in pairwise(timing):  # training and evaluation are told apart, and both take time
        assert 0 < later["evaluation_seconds"] - earlier["evaluation_seconds"] < (
            later["wall_seconds"] - earlier["wall_seconds"])
    assert timing[0]["evaluation_seconds"] == 0 and {row["device"] for row in timing} == {"cpu"}
    assert do_run(spec, tmp_path)  # skipped
    assert run_dir.read_episodes() == episodes


@pytest.mark.parametrize("kind", KINDS)
def test_every_phase_tells_where_its_seconds_went_also_in_a_run_that_was_stopped(tmp_path: Path, kind: str) -> None:
    spec = make_spec(kind, env_steps=3 * SYNC)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert do_run(spec, whole)
    asked = iter(range(10**6))
    assert not do_run(spec, stopped, lambda: next(asked) > 60)  # in the second chunk of training
    assert do_run(spec, stopped)
    phases = [(SYNC * k, phase) for k in range(4) for phase in ("train", "grid") if k or phase == "grid"]
    for results in (whole, stopped):
        run_dir = RunDir(spec.path(results))
        rows = run_dir.read_phases()
        assert [(row["env_steps"], row["phase"]) for row in rows] == [*phases, (3 * SYNC, "final")]
        assert len(run_dir.read_timing()) + len(rows) == len(run_dir.timing.path.read_text().splitlines())
        train, evaluation, cost = checked_parts(run_dir, spec.protocol.action_repeat)
        assert train == LOOP | {"observe", "learn"} and evaluation == LOOP
        assert cost.hours is not None and cost.device == "cpu"
        starts = ["start" in row["seconds"] for row in rows]
        assert starts[0] and sum(starts) == 1 + (results == stopped)
        dropped = [row.get("dropped_seconds", 0.0) for row in rows]
        again = starts.index(True, 1) if results == stopped else len(rows)
        assert not any(dropped[:again]) and all(0 < seconds < 60 for seconds in dropped[again:])


def test_evaluation_seeds_are_disjoint_and_fixed(tmp_path: Path) -> None:
    Recorder.seeds = {}
    spec = make_spec()
    assert execute(spec, tmp_path, lambda: (dataclasses.replace(make_pieces(spec), make_envs=Recorder), {}),
                   lambda: False)
    train, evaluation = set(Recorder.seeds[True]), set(Recorder.seeds[False])
    base = spec.protocol.eval_seed_base
    assert evaluation == set(range(base, base + 5))  # five episodes: two waves of two, and one alone
    assert train and all(seed < spec.protocol.train_seed_base + SEED_SPAN for seed in train)
    assert not train & evaluation
    assert train_seeds(0, 0, 0, 4) != train_seeds(0, 1, 0, 4)


@pytest.mark.parametrize("own", [True, False])
def test_evaluation_does_not_disturb_training(tmp_path: Path, own: bool) -> None:
    """Neither in environments of its own nor in those that training lends."""
    logs = []
    for i, episodes in enumerate((1, 7)):
        spec = make_spec("recurrent", eval_episodes=episodes, terminate_on_success=own)
        assert do_run(spec, tmp_path / str(i))
        logs.append(RunDir(spec.path(tmp_path / str(i))).train.path.read_bytes())
    assert logs[0] == logs[1]


@pytest.mark.parametrize("ends", [True, False])
def test_training_lends_its_environments_to_evaluation_where_they_are_the_same(ends: bool, tmp_path: Path) -> None:
    made: list[EnvConfig] = []

    def make_envs(config: EnvConfig, n: int) -> VectorEnv:
        made.append(config)
        return VectorEnv(config, n, workers=0)

    spec = make_spec(terminate_on_success=ends)
    assert execute(spec, tmp_path / "run", lambda: (dataclasses.replace(make_pieces(spec), make_envs=make_envs), {}),
                   lambda: False)
    assert [config.terminate_on_success for config in made] == ([True, False] if ends else [False])
    if ends:
        return

    class Own(Evaluator):  # the same with environments of its own
        def __init__(self, open_envs: Any, *rest: Any) -> None:
            super().__init__(lambda: VectorEnv(made[0], ENVS, workers=0), *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pvdr_bench.training.online.Evaluator", Own)
        assert do_run(spec, tmp_path / "own")
    lent, own = (RunDir(spec.path(tmp_path / name)) for name in ("run", "own"))
    for name in ("train", "episodes"):
        assert getattr(lent, name).path.read_bytes() == getattr(own, name).path.read_bytes()


def test_an_evaluation_plays_the_episodes_that_are_asked_for_and_no_others(tmp_path: Path) -> None:
    assert list(waves(5, 2, 5)) == [(0, 2), (2, 2), (4, 1)]
    assert list(waves(20, 8, 20)) == [(0, 8), (8, 8), (16, 4)]
    assert list(waves(7, 2, 5)) == [(0, 2), (2, 2), (4, 1), (5, 2)]
    assert list(waves(3, 2, 5)) == [(0, 2), (2, 2)]  # whole waves of the protocol's
    spec = make_spec()
    assert do_run(spec, tmp_path)
    run_dir = RunDir(spec.path(tmp_path))
    found = {count: evaluate_again(run_dir, spec, lambda: (make_pieces(spec), {}), count)[1] for count in (3, 5, 7)}
    assert [len(results) for results in found.values()] == [3, 5, 7]
    assert found[3] == found[5][:3] and found[5] == found[7][:5]
    with pytest.raises(Interrupted, match="nothing of it is kept: the same command begins anew"):
        evaluate_again(run_dir, spec, lambda: (make_pieces(spec), {}), 3, lambda: True)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluating_again_gives_the_final_episodes(kind: str, tmp_path: Path) -> None:
    spec = make_spec(kind)
    assert do_run(spec, tmp_path)
    run_dir = RunDir(spec.path(tmp_path))
    final = [row for row in run_dir.read_episodes() if row["point"] == "final"]
    steps, results = evaluate_again(run_dir, spec, lambda: (make_pieces(spec), {}))
    assert steps == 2 * SYNC
    assert final == [result.row(seed=spec.seed, env_steps=steps, decisions=steps // spec.protocol.action_repeat,
                                point="final") for result in results]


def test_the_mean_policy_is_one_key_of_the_config() -> None:
    catalog = load_catalog()
    ppo, dreamer, pvdr = (catalog.resolve(method, "reach", 0, "smoke") for method in ("ppo", "dreamerv2", "pvdr"))
    for spec in (ppo, dreamer, pvdr):
        changed = with_mean_policy(spec)
        assert evaluated_std(spec) is None and evaluated_std(changed) == 0
        assert with_mean_policy(changed) == changed
    assert with_mean_policy(ppo).config == {**ppo.config, "mean_policy_in_eval": True}
    behaviour = {**dreamer.config["behaviour"], "mean_policy_in_eval": True}
    assert with_mean_policy(dreamer).config == {**dreamer.config, "behaviour": behaviour}
    assert with_mean_policy(pvdr).config == {**pvdr.config, "online": {**pvdr.config["online"], "eval_std": 0.0}}
    with pytest.raises(UsageError, match="random has no mean policy"):
        with_mean_policy(catalog.resolve("random", "reach", 0, "smoke"))


def test_the_spread_of_evaluation_is_one_key_of_the_config() -> None:
    catalog = load_catalog()
    ppo, pvdr = (catalog.resolve(method, "reach", 0, "smoke") for method in ("ppo", "pvdr-guided"))
    assert with_eval_std(ppo, 0.22).config == {**ppo.config, "eval_std": 0.22}
    assert with_eval_std(with_mean_policy(ppo), 0.22) == with_eval_std(ppo, 0.22), "the later choice holds"
    assert with_mean_policy(with_eval_std(ppo, 0.22)) == with_mean_policy(ppo)
    assert with_eval_std(pvdr, 0.61).config["online"] == {**pvdr.config["online"], "eval_std": 0.61}
    assert evaluated_std(with_eval_std(pvdr, 0.61)) == 0.61
    for method in ("dreamerv2", "efficientzero", "random"):
        with pytest.raises(UsageError, match=f"spread of {method}'s actions in evaluation cannot be set"):
            with_eval_std(catalog.resolve(method, "reach", 0, "smoke"), 0.22)


def test_every_shipped_method_is_evaluated_as_captions_say() -> None:
    """With sampled actions of its own spread: a recipe with another would need a name that tells (results.series)."""
    catalog = load_catalog()
    for method in catalog.runnable():
        assert evaluated_std(catalog.resolve(method, "reach", 0, "smoke")) is None, method


@pytest.mark.parametrize("std", [math.inf, math.nan, -0.5])
def test_a_spread_that_is_none_is_refused(std: float) -> None:
    with pytest.raises(UsageError, match="0 or more and finite"):
        with_eval_std(load_catalog().resolve("ppo", "reach", 0, "smoke"), std)


def test_what_evaluate_tells_of_two_protocols_is_not_told_together(tmp_path: Path) -> None:
    """Of the real thing: a file of each seed, and another protocol's by its scale."""
    played = make_spec()
    assert do_run(played, tmp_path / "runs")
    steps, results = evaluate_again(RunDir(played.path(tmp_path / "runs")), played, lambda: (make_pieces(played), {}))

    def told(seed: int, *overrides: str) -> str:
        spec = load_catalog().resolve("ppo", "reach", seed, "smoke", overrides=overrides)
        path = tmp_path / f"{seed}.json"
        path.write_text(json.dumps(told_of(f"seed-{seed}", spec, steps, results)))
        return str(path)

    mine = told(0), told(1)
    together = measure_seeds(mine)
    assert together["seeds"] == [0, 1] and together["eval_std"] == "the policy's"
    of_seeds = [json.loads(Path(name).read_text()) for name in mine]
    assert together["success_any"]["by_seed"] == [one["success_any"] for one in of_seeds]
    assert all(one["episodes"] == len(one["rows"]) for one in of_seeds)
    for key in ("method", "task", "corpus", "scale", "env_steps", "episodes"):
        assert together[key] == of_seeds[0][key]
    assert (together["method"], together["task"], together["scale"]) == ("ppo", "reach", "smoke")
    with pytest.raises(UsageError, match="scale"):
        measure_seeds((mine[0], told(2, "protocol.success_bonus=5.0")))


def test_nan_in_a_loss_fails_the_run(tmp_path: Path) -> None:
    spec = make_spec(config={"nan_at": 2})
    with pytest.raises(TrainingError, match="nan"):
        do_run(spec, tmp_path)
    run_dir = RunDir(spec.path(tmp_path))
    failed = run_dir.failed()
    assert failed is not None and failed["exit_code"] == 8
    assert "OnPolicyDummy" in failed["traceback"] or "in learn" in failed["traceback"]
    assert run_dir.status() == "failed" and run_dir.holder() is None
    assert do_run(make_spec(), tmp_path / "other")


@pytest.mark.parametrize("name", ["loss", "action"])
def test_what_is_not_finite_is_caught_by_the_loop(name: str, tmp_path: Path) -> None:
    class Broken(dummies.OnPolicyDummy):
        def learn(self) -> dict[str, float]:
            return {"loss": float("inf")} if name == "loss" else {}

        def act(self, *arguments: Any) -> Any:
            action, carry, extras = super().act(*arguments)
            return (action * float("nan") if name == "action" else action), carry, extras

    spec = make_spec()
    pieces = dataclasses.replace(make_pieces(spec), make_learner=Broken)
    with pytest.raises(TrainingError, match=name):
        execute(spec, tmp_path, lambda: (pieces, {}), lambda: False)


def test_refusals_come_before_work(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="multiple of sync_every") as caught:
        do_run(make_spec(env_steps=SYNC + 1), tmp_path)
    assert str(SYNC) in str(caught.value.hint) and not list(tmp_path.iterdir())
    with pytest.raises(CatalogError, match="frozen"):
        do_run(make_spec(frozen_instance=False), tmp_path)
    assert do_run(make_spec(), tmp_path)
    with pytest.raises(ChangedError, match=r"success_bonus: 10.0 \(there\) -> 5.0"):
        do_run(make_spec(success_bonus=5.0), tmp_path)


def test_a_done_run_that_cannot_be_extended_stays_done(tmp_path: Path) -> None:
    spec, longer = make_spec(), make_spec(env_steps=3 * SYNC)
    assert do_run(spec, tmp_path)
    run_dir = RunDir(spec.path(tmp_path))
    logs = [log.path.read_bytes() for log in (run_dir.train, run_dir.episodes, run_dir.timing)]

    def no_videos() -> Any:
        raise SetupError("the videos are missing")

    def no_envs(config: EnvConfig, n: int) -> VectorEnv:
        raise TrainingError("there is no GL")

    pieces = dataclasses.replace(make_pieces(longer), make_envs=no_envs)
    for make, told in ((no_videos, "videos are missing"), (lambda: (pieces, {}), "no GL")):
        with pytest.raises((SetupError, TrainingError), match=told):
            execute(longer, tmp_path, make, lambda: False)
        assert run_dir.standing().state == "done" and run_dir.standing().sealed
        assert run_dir.failed() is None and why_broken(run_dir) is None
    assert [log.path.read_bytes() for log in (run_dir.train, run_dir.episodes, run_dir.timing)] == logs
    assert [job.state for job in run_local([spec], tmp_path, 1, "cpu", lambda: False)] == ["skipped"]
    assert do_run(longer, tmp_path) and run_dir.is_done(3 * SYNC)


def test_a_done_run_without_checkpoints_is_not_erased(tmp_path: Path) -> None:
    spec, longer = make_spec(), make_spec(env_steps=3 * SYNC)
    path = spec.path(tmp_path)
    assert do_run(spec, tmp_path)
    shutil.rmtree(path / "checkpoints")

    def refused(spec: RunSpec) -> None:
        before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
        with pytest.raises(DataError, match="done and has no checkpoint"):
            do_run(spec, tmp_path)
        assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before

    refused(longer)
    assert do_run(spec, tmp_path)  # skipped
    (path / "failed.json").write_text('{"message": "there is no GL"}')  # as earlier versions left it
    refused(spec)


def test_random_goals_with_the_dense_reward(tmp_path: Path) -> None:
    spec = make_spec(frozen_instance=False, reward="dense")
    seen = recorded(spec, tmp_path)
    firsts = [t.image[t.is_first] for t in seen if t.is_first.any()]
    assert not torch.equal(firsts[0], firsts[1])
    assert all((t.reward < 0).all() for t in seen)


def test_artefact_made_anew_is_refused(tmp_path: Path) -> None:
    spec = make_spec()
    assert do_run(spec, tmp_path)
    run_dir = RunDir(spec.path(tmp_path))
    check_artefacts(run_dir, {})
    reference = {"stage": "tokenize", "name": "t-1", "hash": "0123", "weights_sha256": "aaaa"}
    (run_dir.path / "artefacts.json").write_text(json.dumps({"tokenize": reference}))
    check_artefacts(run_dir, {"tokenize": reference})
    with pytest.raises(ChangedError, match="tokenize artefact was made anew"):
        check_artefacts(run_dir, {"tokenize": {**reference, "weights_sha256": "bbbb"}})


def test_two_processes_on_one_run(tmp_path: Path) -> None:
    process = start(dummies.main, str(tmp_path), "onpolicy", "0", str(5000 * SYNC))
    run_dir = RunDir(make_spec().path(tmp_path))
    while not run_dir.checkpoints.steps():
        assert process.is_alive()
        time.sleep(0.01)
    assert run_dir.status() == "running"
    with pytest.raises(LockedError, match=str(process.pid)):
        do_run(make_spec(env_steps=6000 * SYNC), tmp_path)
    assert call(dummies.main, str(tmp_path), "onpolicy", "0", str(6000 * SYNC)) == 6
    assert run_dir.failed() is None
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert run_dir.status() == "stopped"  # the lock is stale now
    reached = run_dir.checkpoints.steps()[-1]
    assert do_run(make_spec(env_steps=reached + SYNC), tmp_path)


def test_no_worker_or_shared_memory_is_left_after_kill_9(tmp_path: Path) -> None:
    before = set(Path("/dev/shm").iterdir()) if Path("/dev/shm").is_dir() else set()
    process = start(dummies.main, str(tmp_path), "onpolicy", "0", str(5000 * SYNC), **{dummies.WORKERS: "2"})
    run_dir = RunDir(make_spec().path(tmp_path))
    while not run_dir.checkpoints.steps():
        assert process.is_alive()
        time.sleep(0.02)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 4  # two for training, two for evaluation
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    after = set(Path("/dev/shm").iterdir()) if Path("/dev/shm").is_dir() else set()
    assert after <= before


def test_a_dead_worker_fails_the_run_clearly(tmp_path: Path) -> None:
    spec, made = make_spec(env_steps=5000 * SYNC), []

    def make_envs(config: EnvConfig, n: int) -> VectorEnv:
        envs = VectorEnv(config, n, workers=1)
        made.append(envs)
        return envs

    def stop() -> bool:
        if RunDir(spec.path(tmp_path)).checkpoints.steps():
            os.kill(made[0].worker_pids[0], signal.SIGKILL)
        return False

    pieces: Pieces = dataclasses.replace(make_pieces(spec), make_envs=make_envs)
    with pytest.raises(TrainingError, match="worker 0 .* died"):
        execute(spec, tmp_path, lambda: (pieces, {}), stop)
    failed = RunDir(spec.path(tmp_path)).failed()
    assert failed is not None and failed["exit_code"] == 8
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
                   for envs in made for pid in envs.worker_pids)


def test_workers_do_not_change_results(tmp_path: Path) -> None:
    logs = []
    for workers in (0, 2):
        spec = make_spec()
        pieces = dataclasses.replace(make_pieces(spec), make_envs=lambda c, n, w=workers: VectorEnv(c, n, workers=w))
        assert execute(spec, tmp_path / str(workers), lambda p=pieces: (p, {}), lambda: False)
        run_dir = RunDir(spec.path(tmp_path / str(workers)))
        logs.append((run_dir.train.path.read_bytes(), run_dir.episodes.path.read_bytes()))
    assert logs[0] == logs[1]
    assert np.isfinite([row["loss"] for row in run_dir.read_train() if "loss" in row]).all()
