"""Small learners of three kinds, to test the loop: on-policy, recurrent with replay, and one that searches.

``python -m tests.dummies RESULTS KIND SEED BUDGET`` does one run, for tests that kill it; ``python -m tests.dummies
worker`` stands in for ``pvdr_bench.launch.worker``.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pvdr_bench.catalog.protocol import GOAL_KEYS, Protocol
from pvdr_bench.catalog.specs import RunSpec, TaskSpec
from pvdr_bench.errors import BenchError, TrainingError
from pvdr_bench.launch import worker
from pvdr_bench.launch.worker import StopFlag
from pvdr_bench.rl.contract import Learner, LearnerContext, Mode, Transition
from pvdr_bench.suites.base import EnvConfig
from pvdr_bench.suites.vector import VectorEnv
from pvdr_bench.training.execute import execute
from pvdr_bench.training.online import Pieces
from tests.search_dummy import SearchDummy, features

WORKERS = "PVDR_BENCH_TEST_WORKERS"
IMAGE, REPEAT, EPISODE, ENVS = 16, 2, 8, 2
SYNC = 2 * ENVS * EPISODE  # 32 env_steps: 8 decisions of both environments


class OnPolicyDummy(Learner):
    """A linear Gaussian policy, updated by REINFORCE from a rollout of ``config['rollout']`` decisions in time."""

    def __init__(self, context: LearnerContext) -> None:
        self.config = context.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.policy = nn.Linear(48, context.task.action.dim)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=1e-2)
        self.rollout: list[tuple[Tensor, Tensor, Tensor]] = []
        self.updates = 0

    def initial(self, n: int) -> Any:
        return {}

    @torch.no_grad()
    def act(self, image: Tensor, is_first: Tensor, carry: Any, mode: Mode,
            generator: torch.Generator) -> tuple[Tensor, Any, dict[str, Tensor]]:
        mean = self.policy(features(image))
        action = mean + 0.5 * torch.randn(mean.shape, generator=generator)
        return action, carry, {"mean": mean}

    def observe(self, transition: Transition) -> None:
        self.rollout.append((transition.image, transition.action, transition.reward))

    def learn(self) -> dict[str, float]:
        if len(self.rollout) < self.config["rollout"]:
            return {}
        image, action, reward = (torch.cat(parts) for parts in zip(*self.rollout, strict=True))
        loss = ((action - self.policy(features(image))).square().sum(1) * (reward - reward.mean())).mean()
        if self.updates == self.config.get("nan_at"):
            loss = loss * float("nan")
        if not torch.isfinite(loss):
            raise TrainingError("the loss is nan", where=f"update {self.updates}")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.updates += 1
        self.rollout.clear()
        return {"loss": float(loss.detach()), "updates": float(self.updates)}

    def state_dict(self) -> dict[str, Any]:
        return {"policy": self.policy.state_dict(), "optimizer": self.optimizer.state_dict(), "updates": self.updates,
                "rollout": [list(step) for step in self.rollout]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = int(state["updates"])
        self.rollout = [(step[0], step[1], step[2]) for step in state["rollout"]]


class RecurrentDummy(Learner):
    """A GRU over observations that learns to predict rewards from replayed sequences, and acts on its state."""

    LENGTH, BATCH, HIDDEN = 5, 3, 8

    def __init__(self, context: LearnerContext) -> None:
        self.replay = context.replay  # None where it only acts
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.gru = nn.GRUCell(48, self.HIDDEN)
            self.heads = nn.ModuleDict({"reward": nn.Linear(self.HIDDEN, 1),
                                        "policy": nn.Linear(self.HIDDEN, context.task.action.dim)})
        self.parameters = [*self.gru.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=1e-2)
        self.generator = torch.Generator().manual_seed(context.seed)
        self.steps = 0

    def initial(self, n: int) -> Any:
        return {"h": torch.zeros(n, self.HIDDEN)}

    def _advance(self, image: Tensor, is_first: Tensor, h: Tensor) -> Tensor:
        new: Tensor = self.gru(features(image), h * (~is_first)[:, None])
        return new

    @torch.no_grad()
    def act(self, image: Tensor, is_first: Tensor, carry: Any, mode: Mode,
            generator: torch.Generator) -> tuple[Tensor, Any, dict[str, Tensor]]:
        h = self._advance(image, is_first, carry["h"])
        mean = self.heads["policy"](h)
        return mean + 0.7 * torch.randn(mean.shape, generator=generator), {"h": h}, {}

    def observe(self, transition: Transition) -> None:
        self.steps += 1

    def learn(self) -> dict[str, float]:
        if self.steps % 3 or self.steps < 9:
            return {}
        batch = self.replay.sample(self.generator, self.BATCH, self.LENGTH)
        h, losses = torch.zeros(self.BATCH, self.HIDDEN), []
        for t in range(self.LENGTH):
            h = self._advance(batch["image"][:, t], batch["is_first"][:, t], h)
            losses.append((self.heads["reward"](h)[:, 0] - batch["reward"][:, t]).square())
        loss = torch.stack(losses).mean() + self.heads["policy"](h).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": float(loss.detach()), "replayed": float(len(self.replay))}

    def state_dict(self) -> dict[str, Any]:
        return {"gru": self.gru.state_dict(), "heads": self.heads.state_dict(), "steps": self.steps,
                "optimizer": self.optimizer.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gru.load_state_dict(state["gru"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.steps = int(state["steps"])


DUMMIES: dict[str, type[Learner]] = {
    "onpolicy": OnPolicyDummy, "recurrent": RecurrentDummy, "search": SearchDummy}


def make_protocol(env_steps: int = 2 * SYNC, **changes: Any) -> Protocol:
    """A protocol of a few decisions; keys that nothing reads in it are null."""
    keys: dict[str, Any] = {
        "name": "dummy", "scale": "smoke", "suite_version": "1", "image_size": IMAGE, "renderer": "lean",
        "camera": "none", "action_repeat": REPEAT, "episode_steps": EPISODE, "frozen_instance": True,
        "instance_seed": 0, "goal_settle_steps": 0, "reward": "goal_distance", "goal_metric": "pixel_l1",
        "goal_blur": 3, "normalise_distance": True, "success_bonus": 10.0, "terminate_on_success": True,
        "success_rule": "any", "eval_every": SYNC, "eval_episodes": 3, "eval_final_episodes": 5,
        "eval_seed_base": 2**24, "train_seed_base": 0, "env_steps": env_steps, "num_envs": ENVS, "sync_every": SYNC,
    }
    keys |= changes
    idle = (keys["reward"] == "dense", not keys["frozen_instance"])
    keys |= {key: None for names, off in zip(GOAL_KEYS.values(), idle, strict=True) if off for key in names}
    return Protocol(**keys)


def make_spec(kind: str = "onpolicy", seed: int = 0, env_steps: int = 2 * SYNC, config: dict[str, Any] | None = None,
              env_id: str = "point", **changes: Any) -> RunSpec:
    """A run of a dummy learner."""
    return RunSpec(
        method=kind, variant=kind, algorithm=kind, algorithm_version=1, config={"rollout": 3, **(config or {})},
        tokenizer=None, task=TaskSpec(name="point", suite="dummy", env_id=env_id), corpus=None, scale="smoke",
        scale_label="smoke", protocol=make_protocol(env_steps, **changes), seed=seed)


def make_envs(config: EnvConfig, n: int) -> VectorEnv:
    """Environments in this process, or in as many workers as the variable says."""
    return VectorEnv(config, n, workers=int(os.environ.get(WORKERS, "0")))


def make_pieces(spec: RunSpec) -> Pieces:
    """What the loop needs to run ``spec``."""
    learner = DUMMIES.get(spec.algorithm, OnPolicyDummy)
    return Pieces(make_envs=make_envs, make_learner=learner, config=spec.config, device=torch.device("cpu"),
                  on_policy=learner is OnPolicyDummy)


def do_run(spec: RunSpec, results: Path, stop: Any = lambda: False) -> bool:
    """The run in this process."""
    return execute(spec, results, lambda: (make_pieces(spec), {}), stop)


def main(results: str, kind: str, seed: str, budget: str) -> int:
    """Do one run; returns its exit code."""
    try:
        done = do_run(make_spec(kind, int(seed), int(budget)), Path(results), StopFlag().install())
    except BenchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0 if done else 75


def perform(order: dict[str, Any], stop: StopFlag) -> bool:
    """What ``launch.worker`` does, with a dummy; a config with ``die`` ends like a process killed for its memory."""
    spec = RunSpec.model_validate(order["spec"])
    if spec.config.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    return do_run(spec, Path(order["results"]), stop)


if __name__ == "__main__":
    sys.exit(worker.main(perform) if sys.argv[1:] == ["worker"] else main(*sys.argv[1:]))
