"""Synthetic run directories for the tests of results: written as the run loop writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pvdr_bench.catalog.protocol import Protocol
from pvdr_bench.catalog.specs import RunSpec, TaskSpec
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.seal import make_seal

PROTOCOL: dict[str, Any] = {
    "name": "pvdr", "scale": "cpu", "suite_version": "metaworld 3", "image_size": 64, "renderer": "lean",
    "camera": "front",
    "action_repeat": 4, "episode_steps": 200, "frozen_instance": True, "instance_seed": 0, "goal_settle_steps": 40,
    "reward": "goal_distance", "goal_metric": "code_l1_blur", "goal_blur": 3, "normalise_distance": True,
    "success_bonus": 10.0, "terminate_on_success": True, "success_rule": "any", "eval_every": 8000, "eval_episodes": 20,
    "eval_final_episodes": 100, "eval_seed_base": 10_000_000, "train_seed_base": 0, "env_steps": 40000, "num_envs": 8,
    "sync_every": 8000,
}


def make_spec(variant: str = "ppo", task: str = "reach", seed: int = 0, corpus: str | None = None,
              algorithm: str | None = None, config: dict[str, Any] | None = None, title: str = "", version: int = 1,
              pretrain_seed: int = 0, **protocol: Any) -> RunSpec:
    method = variant.partition("@")[0]
    return RunSpec(
        method=method, variant=variant, title=title, algorithm=algorithm or method, algorithm_version=version,
        config=config or {"lr": 3e-4}, tokenizer=None, task=TaskSpec(name=task, suite="metaworld", env_id=f"{task}-v3"),
        corpus=corpus, pretrain_seed=pretrain_seed, scale=protocol.get("scale", "cpu"),
        scale_label=protocol.get("scale", "cpu"), protocol=Protocol(**{**PROTOCOL, **protocol}), seed=seed)


def write_episodes(run_dir: RunDir, spec: RunSpec, env_steps: int, point: str, rate: float, *,
                   episodes: int | None = None, rng: np.random.Generator | None = None) -> np.ndarray:
    """Append one evaluation point; returns success at any step [episodes]."""
    protocol = spec.protocol
    count = episodes or (protocol.eval_final_episodes if point == "final" else protocol.eval_episodes)
    hits = np.arange(count) < round(rate * count) if rng is None else rng.random(count) < rate
    for index, hit in enumerate(hits):
        run_dir.episodes.append({
            "seed": spec.seed, "env_steps": env_steps, "decisions": env_steps // protocol.action_repeat,
            "point": point, "eval_seed": protocol.eval_seed_base + index, "success_any": bool(hit),
            "success_end": bool(hit and index % 2 == 0), "return": -float(index), "length": protocol.episode_steps})
    return hits


def make_run(root: Path, rates: list[float], *, final: float | None = None, done: bool = True,
             failed: str | None = None, rng: np.random.Generator | None = None, **spec_arguments: Any) -> Path:
    """A run with one grid point per rate (each ``eval_every``) and a final evaluation."""
    spec = make_spec(**spec_arguments)
    run_dir = RunDir(spec.path(root))
    every = spec.protocol.eval_every
    with run_dir.lock():
        run_dir.open(spec)
        run_dir.write_provenance()
        for index, rate in enumerate(rates, start=1):
            write_episodes(run_dir, spec, index * every, "grid", rate, rng=rng)
        if done:
            write_episodes(run_dir, spec, len(rates) * every, "final", rates[-1] if final is None else final, rng=rng)
            run_dir.mark_done(env_steps=len(rates) * every)
        if failed is not None:
            run_dir.mark_failed(RuntimeError(failed))
    return run_dir.path


def finish(run: RunDir, env_steps: int, **facts: Any) -> None:
    """Play the final evaluation that the run's protocol asks for, and mark it done."""
    found = run.read_run()
    if found is not None:
        write_episodes(run, RunSpec.model_validate(found["spec"]), env_steps, "final", 0.5)
    run.mark_done(env_steps=env_steps, **facts)
    run.episodes.close()


def stopped(path: Path) -> Path:
    """The same run as if it had been stopped just before it was done."""
    (path / "done.json").unlink()
    return path


def resealed(path: Path, **facts: Any) -> Path:
    """The same run as if what stands there now had been there when it was done."""
    done = {key: value for key, value in json.loads((path / "done.json").read_text()).items() if key != "seal"} | facts
    (path / "done.json").write_text(json.dumps({**done, "seal": make_seal(path, done)}))
    return path


def unsealed(path: Path, **facts: Any) -> Path:
    """The same run as versions before there were seals left it."""
    done = json.loads((path / "done.json").read_text())
    done.pop("seal", None)
    (path / "done.json").write_text(json.dumps({**done, **facts}))
    return path


def make_grid(root: Path, *, seeds: int = 5, tasks: tuple[str, ...] = ("reach",)) -> None:
    """A believable folder: ppo, pvdr on two corpora, floor and ceiling."""
    rng = np.random.default_rng(0)
    shapes: list[tuple[str, str | None, float, float, float]] = [
        ("ppo", None, 0.95, 14000, 0.06), ("pvdr", "metaworld", 0.8, 20000, 0.1),
        ("pvdr", "fetch-push", 0.55, 26000, 0.13), ("pvdr-scratch", "metaworld", 0.2, 30000, 0.08)]
    for task in tasks:
        for seed in range(seeds):
            for variant, corpus, top, middle, spread in shapes:
                ceiling = np.clip(top + rng.normal(0, spread), 0, 1)
                rates = [float(np.clip(ceiling / (1 + np.exp(-(x - middle) / 4000)), 0, 1))
                         for x in range(8000, 40001, 8000)]
                make_run(root, rates, variant=variant, corpus=corpus, task=task, seed=seed, rng=rng,
                         title={"ppo": "PPO", "pvdr": "PVDR", "pvdr-scratch": "PVDR scratch"}[variant],
                         algorithm="ppo" if variant == "ppo" else "pvdr")
            make_run(root, [0.06] * 5, variant="random", task=task, seed=seed, rng=rng, title="Random")
            make_run(root, [1.0] * 5, variant="scripted", task=task, seed=seed, rng=rng, title="Scripted expert")
