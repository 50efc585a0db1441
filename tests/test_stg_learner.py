"""STG online: PPO that learns from the frozen model alone, exact resume, and the one PPO below it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pvdr_bench.algorithms.ppo.learner import PPOLearner
from pvdr_bench.algorithms.stg.config import STGConfig
from pvdr_bench.algorithms.stg.learner import STGLearner
from pvdr_bench.algorithms.stg.pretrain import STGPretrainer
from pvdr_bench.algorithms.stg.reward import StateToGoReward
from pvdr_bench.errors import SetupError
from pvdr_bench.rl.contract import LearnerContext
from pvdr_bench.rl.facts import TaskFacts
from pvdr_bench.suites.spaces import BoxSpace, ImageSpace
from tests.learning import above, below, learns
from tests.stg_small import CONTEXT, CPU, config
from tests.test_ppo_learner import GRID, Dots, IdentityTokenizer, Player, assert_equal, image_of


class Walk(Dots):
    """A dot in a corridor, without an end at its goal and with nothing to pay; ``away``: how far from it each stops."""

    start = np.array([1.2, 2.0])

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.away: list[float] = []

    def images(self) -> np.ndarray:
        return seen(self.position)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        self.position[:, 0] = np.clip(self.position[:, 0] + 0.6 * np.clip(action[:, 0], -1, 1), 0, 3)
        self.age += 1
        final, ended = self.images(), self.age >= self.limit
        self.away += np.linalg.norm(self.position - self.goal, axis=1)[ended].tolist()
        self.position[ended], self.age[ended] = self.start, 0
        return np.zeros(self.n, np.float32), np.zeros(self.n, bool), ended, final


def seen(position: np.ndarray) -> np.ndarray:
    """Pictures [N, 4, 4, 3] of dots: the nearest cell in red, for the tokenizer, and light between cells in green."""
    out = np.stack([image_of(p) for p in position])
    rows, columns = (np.maximum(0, 1 - np.abs(np.arange(GRID) - position[:, i, None])) for i in range(2))
    out[..., 1] = 255 * rows[:, :, None] * columns[:, None]
    return out


def videos(count: int, rng: np.random.Generator) -> Tensor:
    """Clips of dots that go down the corridor to its goal, and wait there."""
    position, frames = np.stack([rng.uniform(0, 3, count), np.full(count, 2.0)], 1), []
    for _ in range(CONTEXT + 1):
        frames.append(seen(position))
        position = position + np.clip(Dots.goal - position, -0.6, 0.6)
    return torch.from_numpy(np.stack(frames, 1))


SEEN: dict[str, Any] = {"input_size": 4, "cnn_channels": (32,), "cnn_kernels": (2,), "cnn_strides": (1,), "width": 32,
                        "layers": 1, "dropout": 0.0, "critic_widths": (64, 64), "critic_norm_first": True,
                        "cnn_form": "minecraft"}
TASK = {"lr": 3e-3, "distance_weight": 0.5, "critic_clip": 0.0, "shuffled_weight": 0.9, "adversarial_weight": 0.02}


def clips_of(count: int, rng: np.random.Generator, backwards: bool) -> Tensor:
    return videos(count, rng).flip(1) if backwards else videos(count, rng)


def trained(own: STGConfig, seed: int, backwards: bool, steps: int = 120) -> STGPretrainer:
    learner, rng = STGPretrainer(own, seed, CPU), np.random.default_rng(seed)
    for _ in range(steps):
        learner.update(clips_of(16, rng, backwards), torch.from_numpy(rng.integers(0, 12, 16)))  # begin at any time
    return learner


def context(own: STGConfig, weights: dict[str, Tensor], num_envs: int, seed: int = 0) -> LearnerContext:
    task = TaskFacts(ImageSpace(GRID, GRID), BoxSpace(2), num_envs, budget_decisions=1000)
    return LearnerContext(own, task, seed, CPU, artefacts={"pretrain": weights})


def player(own: STGConfig, weights: dict[str, Tensor], n: int, seed: int = 0) -> Player:
    found = Player(STGLearner(context(own, weights, n, seed), IdentityTokenizer()), n, seed)
    found.env = Walk(n)
    return found


@learns(away=below(0.9), backwards=above(2.3), prediction_gain=above(0.3))
def test_ppo_learns_from_the_frozen_model_alone(seed: int) -> dict[str, float]:
    """The task pays nothing and ends nowhere: where the dot goes is what the videos show, and the other way if they are
    played backwards. It begins 1.8 away from the goal, and can be 3 away."""
    own = config(model=SEEN, reward={"task_weight": 0.0, "beta": 1.0, "unit": "running"},
                 ppo={"gamma": 0.9, "gae_lambda": 0.9, "log_std_init": -1.0}, **TASK)
    away, gain = {}, 0.0
    for name in ("away", "backwards"):
        learner = trained(own, seed, name == "backwards")
        gain = learner.validate(clips_of(32, np.random.default_rng(seed + 99), name == "backwards"))["prediction_gain"]
        one = player(own, learner.export(), 16, seed)
        for _ in range(110):
            one.decide()
        away[name] = float(np.mean(one.env.away[-32:]))
    return {**away, "prediction_gain": gain}


def test_resume_in_the_middle_of_a_rollout_is_exact() -> None:
    own = config(model=SEEN, reward={"unit": "running", "nu": 0.01}, ppo={"rollout_decisions": 40})
    weights = STGPretrainer(own, 0, CPU).export()
    through, first = player(own, weights, 4), player(own, weights, 4)
    for _ in range(36):
        through.decide()
    for _ in range(17):
        first.decide()
    restored = STGLearner(context(own, weights, 4, 1), IdentityTokenizer())
    restored.load_state_dict(first.learner.state_dict())
    first.learner = restored
    for _ in range(19):
        first.decide()
    a, b = through.learner.state_dict(), first.learner.state_dict()
    assert_equal(a, b)
    assert a["rounds"] == 3 and a["reward"]["count"] == 3 * 40 and a["reward"]["number"].tolist() == [11] * 4
    names = {"intrinsic_mean", "intrinsic_std", "embedding_std", "opinion_mean", "progress_mean"}
    assert names <= set(through.metrics[-1])


def test_the_model_is_frozen_and_no_part_of_the_policy() -> None:
    own = config(model=SEEN, ppo={"rollout_decisions": 40})
    weights = STGPretrainer(own, 0, CPU).export()
    one = player(own, weights, 4)
    for _ in range(12):
        one.decide()
    assert one.metrics and isinstance(one.learner.reward, StateToGoReward)
    frozen = one.learner.reward.model
    assert all(torch.equal(weights[name], value) for name, value in frozen.state_dict().items())
    assert not any(p.requires_grad for p in frozen.parameters()) and not frozen.training
    assert list(one.learner.policy_state()) == ["actor"]


def test_with_the_weights_of_both_at_zero_it_is_ppo() -> None:
    """One PPO: the same actions and the same weights as ``ppo``, to the bit."""
    own = config(model=SEEN, reward={"beta": 0.0, "nu": 0.0}, ppo={"rollout_decisions": 40})
    with_reward = player(own, STGPretrainer(own, 0, CPU).export(), 4)
    plain = Player(PPOLearner(replace(context(own, {}, 4), config=own.ppo), IdentityTokenizer()), 4)
    plain.env = Walk(4)
    for _ in range(25):
        a, b = with_reward.decide(), plain.decide()
        assert torch.equal(a.action, b.action)
    assert_equal(with_reward.learner.state_dict()["ppo"], plain.learner.state_dict()["ppo"])


def test_without_the_pre_trained_model_it_says_so() -> None:
    own = config(model=SEEN)
    with pytest.raises(SetupError, match="pretrain"):
        STGLearner(replace(context(own, {}, 4), artefacts={}), IdentityTokenizer())


def test_ends_at_success_are_warned_of_where_going_on_pays_more() -> None:
    ends = SimpleNamespace(name="p", success_bonus=10.0, terminate_on_success=True)
    assert "not to succeed can be worth more" in (config(reward={"beta": 0.6}).warning(ends) or "")
    assert config(reward={"beta": 0.05}).warning(ends) is None
    ends.terminate_on_success = False
    assert config(reward={"beta": 0.6}).warning(ends) is None
