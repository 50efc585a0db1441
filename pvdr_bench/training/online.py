"""The one online loop: act, step, reward, observe, learn; evaluate on a grid; publish at sync points.

Shapes: N environments, H = W image size, A action dimensions. Steps are env_steps unless called decisions.
At a sync point all episodes end as truncated, all environments reset and the learner's carry is fresh, so a
checkpoint needs no simulator state: a killed run goes on from it and gives the bytes of a run never killed.
``train.jsonl`` and ``episodes.jsonl`` hold no wall time; that is in ``timing.jsonl``: a line at the beginning of every
evaluation, and one at the end of every phase, with seconds, calls and FLOP by part.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.errors import Interrupted, TrainingError
from pvdr_bench.rl.contract import Carry, Learner, LearnerContext, Transition
from pvdr_bench.rl.facts import GoalFacts, TaskFacts
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from pvdr_bench.rl.stopwatch import Stopwatch
from pvdr_bench.rl.truth import Diagnostics
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.schema import Phase, Point
from pvdr_bench.suites.base import EnvConfig, Image
from pvdr_bench.tokenizer.interface import FrameTokenizer
from pvdr_bench.training.checks import check_protocol
from pvdr_bench.training.evaluation import (
    Evaluator,
    VectorEnvLike,
    choose,
    images_to_tensor,
    stable_seed,
    train_seeds,
)
from pvdr_bench.training.incidents import Incidents
from pvdr_bench.training.reward import GoalReward, reward_facts
from pvdr_bench.training.train_log import TrainLog

Stop = Callable[[], bool]


@dataclass(frozen=True)
class Pieces:
    """What the loop is given: factories of environments and learner, and what earlier stages made."""

    make_envs: Callable[[EnvConfig, int], VectorEnvLike]
    make_learner: Callable[[LearnerContext], Learner]
    config: Any
    device: torch.device
    tokenizer: FrameTokenizer | None = None
    artefacts: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    artefact_config: dict[str, Any] = field(default_factory=dict)
    needs_expert: bool = False
    on_policy: bool = True


def task_facts(spec: RunSpec, envs: VectorEnvLike, first: Image) -> TaskFacts:
    """What a run's learner may know of its task.

    Args:
        first: first images [N, H, W, 3] of the environments' episodes.
    """
    protocol = spec.protocol
    goal = GoalFacts(image=np.array(envs.goal_image()), start=first[0].copy()) if protocol.has_goal_image else None
    return TaskFacts(
        observation=envs.observation_space, action=envs.action_space, num_envs=protocol.num_envs,
        budget_decisions=protocol.env_steps // protocol.action_repeat, goal=goal, reward=reward_facts(protocol))


def learner_context(spec: RunSpec, pieces: Pieces, task: TaskFacts, replay: EpisodeReplay | None = None,
                    stopwatch: Stopwatch | None = None) -> LearnerContext:
    """What a run's learner is built from."""
    return LearnerContext(config=pieces.config, task=task, seed=spec.seed, device=pieces.device, replay=replay,
                          artefacts=pieces.artefacts, artefact_config=pieces.artefact_config,
                          stopwatch=stopwatch or Stopwatch())


def run_online(spec: RunSpec, run_dir: RunDir, pieces: Pieces, stop: Stop = lambda: False) -> bool:
    """Train until the budget is used, then evaluate and mark the run done. The caller holds the run's lock.

    Returns:
        True when done, False when ``stop`` said so first; the same call continues from the last checkpoint.

    Raises:
        TrainingError: a metric or an action is not finite, or an environment's worker died.
    """
    check_protocol(spec)
    with ExitStack() as stack:
        loop = OnlineLoop(spec, run_dir, pieces, stop, stack)
        try:
            return loop.run()
        except Interrupted:
            return False


class OnlineLoop:
    """State and steps of :func:`run_online`."""

    def __init__(self, spec: RunSpec, run_dir: RunDir, pieces: Pieces, stop: Stop, stack: ExitStack) -> None:
        self.spec, self.protocol, self.dir, self.pieces, self.stop = spec, spec.protocol, run_dir, pieces, stop
        self.n, self.env_steps, self.decisions = spec.protocol.num_envs, 0, 0
        self.wall_before, self.started, self.begin_time = 0.0, time.monotonic(), time.monotonic()
        self.evaluation_seconds, self.stopwatch = 0.0, self.make_stopwatch()
        self.dropped = 0.0  # seconds of earlier starts whose work was done again
        self.success: float | None = None  # of the last evaluation, for watchers
        self.begin_steps = self.begin_decisions = 0
        self.image: torch.Tensor
        self.is_first: torch.Tensor
        self.carry: Carry = {}
        config, protocol = spec.env_config(), spec.protocol
        self.incidents = Incidents(run_dir.path, pieces.make_envs)
        self.envs = self.incidents.make(config, self.n)
        stack.callback(self.envs.close)
        self.replay: EpisodeReplay | None = None
        if not pieces.on_policy:
            self.replay = EpisodeReplay(run_dir.path / "replay", self.n, protocol.image_size,
                                        self.envs.action_space.dim)
            stack.callback(self.replay.close)
        task = task_facts(spec, self.envs, self.envs.reset(self._seeds()))
        self.reward = GoalReward(protocol, task.goal, pieces.tokenizer, pieces.device, self.stopwatch)
        full_length = dataclasses.replace(config, terminate_on_success=False)
        # Evaluations stand at sync points, where all training episodes have ended and none has begun; so training's
        # environments can be lent for them, which saves the memory of as many more and of the processes they are in.
        self.evaluator = Evaluator(
            lambda: self.envs if config == full_length else self.incidents.make(full_length, self.n), self.n,
            self.reward, protocol.eval_seed_base, spec.seed, pieces.needs_expert, stop,
            self.stopwatch)
        stack.callback(self.evaluator.close)
        torch.manual_seed(stable_seed("global", spec.seed))
        self.generator = torch.Generator().manual_seed(stable_seed("act", spec.seed))
        self.learner = pieces.make_learner(learner_context(spec, pieces, task, self.replay, self.stopwatch))
        self.log = TrainLog(self.n)

    def make_stopwatch(self) -> Stopwatch:
        """What times the loop's parts, and those of the learner."""
        return Stopwatch(self.pieces.device, count_flop=True)

    def run(self) -> bool:
        """The loop."""
        self.stopwatch.take()  # what its making took is in the start
        self.stopwatch.add("start", time.monotonic() - self.started)
        with self.stopwatch("start"):
            continued = self._restore()
        if not continued:
            self._evaluate("grid", self.protocol.eval_episodes)
        protocol, self.begin_time = self.protocol, time.monotonic()
        self._begin_episodes()
        while self.env_steps < protocol.env_steps:
            if self.stop():
                return False
            before = self.env_steps
            metrics, at_sync = self._decide()
            if metrics or at_sync:
                self._write_row(metrics)
            if at_sync:
                self._write_seconds("train")
                if before // protocol.eval_every < self.env_steps // protocol.eval_every:
                    self._evaluate("grid", protocol.eval_episodes)
                with self.stopwatch("checkpoint"):
                    self._publish()
                self._begin_episodes()
            self._beat("train")
        facts = self._evaluate("final", protocol.eval_final_episodes)
        self.dir.mark_done(env_steps=self.env_steps, decisions=self.decisions, wall_seconds=self._wall(), **facts)
        self._beat("done", every_seconds=0)
        return True

    def _decide(self) -> tuple[dict[str, float], bool]:
        """One decision of all environments: act, step, reward, observe, learn. Also whether a sync point is reached."""
        image, first = self.image, self.is_first
        with self.stopwatch("act", self.n):
            action, self.carry, extras = choose(self.learner, image, first, self.carry, "train", self.generator,
                                                self.envs, self.pieces.needs_expert)
        with self.stopwatch("env"):
            step = self.envs.step(action.clamp(-1, 1).numpy())
            self.stopwatch.within(step.seconds)
        self.incidents.write(self.env_steps, "train")
        before, grid = self.env_steps, self.protocol.sync_every
        self.env_steps += int(step.env_steps.sum())
        self.decisions += self.n
        at_sync = before // grid < self.env_steps // grid
        with self.stopwatch("reward"):
            reward, distance = self.reward.reward(step)
        self.log.add(step, reward, distance)
        ended = step.terminated | step.truncated
        transition = Transition(
            image=image, is_first=first, action=action, reward=torch.from_numpy(reward), extras=extras,
            terminated=torch.from_numpy(step.terminated.copy()),
            truncated=torch.from_numpy(step.truncated | (at_sync & ~step.terminated)),
            next_image=images_to_tensor(step.final_image),
            diagnostics=Diagnostics(step.truth))
        with self.stopwatch("observe"):
            if self.replay is not None:
                self.replay.add(transition)
            self.learner.observe(transition)
        self.image, self.is_first = images_to_tensor(step.image), torch.from_numpy(ended)
        return self._learn(), at_sync

    def _learn(self) -> dict[str, float]:
        """Make the updates that are due now; their metrics."""
        with self.stopwatch("learn"):
            return self.learner.learn()

    def _seeds(self) -> list[int]:
        return train_seeds(self.protocol.train_seed_base, self.spec.seed, self.env_steps, self.n)

    def _begin_episodes(self) -> None:
        """Reset everything that remembers an episode."""
        with self.stopwatch("reset"):
            self.image = images_to_tensor(self.envs.reset(self._seeds()))
        self.is_first = torch.ones(self.n, dtype=torch.bool)
        self.carry = self.learner.initial(self.n)
        self.reward.begin(self.n)
        self.log.begin(self.n)

    def _write_row(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise TrainingError(f"the metric {name} is {value}", where=f"env_steps {self.env_steps}",
                                    hint="lower the learning rates, or clip gradients more")
        self.dir.append(self.dir.train, {"env_steps": self.env_steps, "decisions": self.decisions, **self.log.row(),
                                         **metrics})

    def _write_seconds(self, phase: Phase) -> None:
        """A row at the end of a phase, with what went into each part since the last one."""
        spent = self.stopwatch.take()
        seconds = {part: round(value, 4) for part, value in spent.seconds.items()}
        flop = {} if spent.flop is None else {"flop": spent.flop}
        dropped = {"dropped_seconds": self.dropped} if self.dropped else {}
        self.dir.append(self.dir.timing, {
            "env_steps": self.env_steps, "phase": phase, "wall_seconds": self._wall(),
            "evaluation_seconds": self.evaluation_seconds, "device": self.pieces.device.type,
            "seconds": seconds, "calls": spent.calls, **flop, **dropped})

    def _evaluate(self, point: Point, episodes: int) -> dict[str, Any]:
        """Play and log evaluation episodes; returns their means."""
        self._beat(f"evaluate {point}", every_seconds=0)
        self.dir.append(self.dir.timing, {
            "env_steps": self.env_steps, "point": point, "wall_seconds": self._wall(),
            "evaluation_seconds": self.evaluation_seconds, "device": self.pieces.device.type})
        results, began = [], time.monotonic()
        self.stopwatch.set_kind("evaluation")
        for result in self.evaluator.run(self.learner, episodes, self.env_steps, point):
            self.dir.append(self.dir.episodes, result.row(seed=self.spec.seed, env_steps=self.env_steps,
                                                          decisions=self.decisions, point=point))
            results.append(result)
            self._beat(f"evaluate {point}")
        self.incidents.write(self.env_steps, point)
        self.evaluation_seconds += time.monotonic() - began
        self._write_seconds(point)
        self.stopwatch.set_kind("train")
        self.success = float(np.mean([result.success_any for result in results]))
        return {"success_any": self.success, "success_end": float(np.mean([result.success_end for result in results])),
                "return": float(np.mean([result.episode_return for result in results])), "episodes": len(results)}

    def _publish(self) -> None:
        """A checkpoint that knows everything but the simulators."""
        state = {"learner": self.learner.state_dict(), "generator": self.generator.get_state(),
                 "torch": torch.get_rng_state(), "replay": self.replay.state_dict() if self.replay else None}
        extra = {"env_steps": self.env_steps, "decisions": self.decisions, "train_episodes": self.log.episodes,
                 "recent": list(self.log.recent), "success": self.success, "wall_seconds": self._wall(),
                 "evaluation_seconds": self.evaluation_seconds}
        self.dir.save(self.env_steps, state, extra)

    def _restore(self) -> bool:
        """Go on from the newest checkpoint, if there is one; whether there was. What was done is reopened by it."""
        found = self.dir.restore()  # step, state, extra
        before = self.dir.last_beat()
        if found is None:
            if self.replay is not None:
                self.replay.clear()
            self.dropped = before.get("dropped_seconds", 0.0) + before.get("wall_seconds", 0.0)
            return False
        _, state, extra = found
        self.learner.load_state_dict(state["learner"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])
        if self.replay is not None:
            self.replay.load_state_dict(state["replay"])
        self.env_steps = self.begin_steps = int(extra["env_steps"])
        self.decisions = self.begin_decisions = int(extra["decisions"])
        self.log.episodes = int(extra["train_episodes"])
        self.log.recent.extend(extra["recent"])
        self.success, self.wall_before = extra["success"], float(extra["wall_seconds"])
        self.evaluation_seconds = float(extra.get("evaluation_seconds", 0.0))
        self.dropped = before.get("dropped_seconds", 0.0) + max(0.0, before.get("wall_seconds", 0.0) - self.wall_before)
        return True

    def _wall(self) -> float:
        return self.wall_before + time.monotonic() - self.started

    def _beat(self, phase: str, every_seconds: float = 1.0) -> None:
        """Tell watchers; rate is env_steps per second of this start, evaluations included."""
        rate = (self.env_steps - self.begin_steps) / max(1e-9, time.monotonic() - self.begin_time)
        recent = float(np.mean(self.log.recent)) if self.log.recent else None
        learned = self.learner.share_learned(self.begin_decisions, self.decisions,
                                             self.protocol.env_steps // self.protocol.action_repeat)
        self.dir.heartbeat(every_seconds=every_seconds, phase=phase, env_steps=self.env_steps,
                           budget=self.protocol.env_steps, rate=rate, learned=learned, success=self.success,
                           train_success=recent, wall_seconds=self._wall(), dropped_seconds=self.dropped)
