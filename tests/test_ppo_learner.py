"""PPO on frame tokens: the context, what it stores, exact resume, and that it learns a small pixel task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from pvdr_bench.algorithms.floor import RandomConfig, ScriptedConfig
from pvdr_bench.algorithms.ppo.config import PPOConfig
from pvdr_bench.algorithms.ppo.learner import PPOLearner
from pvdr_bench.algorithms.random_policy import RandomLearner
from pvdr_bench.algorithms.scripted import ScriptedLearner
from pvdr_bench.errors import CatalogError, SetupError
from pvdr_bench.rl.actor_critic import Actor, Critic, NetworkConfig, standardised
from pvdr_bench.rl.contract import LearnerContext, Mode, Transition
from pvdr_bench.rl.facts import GoalFacts, TaskFacts
from pvdr_bench.rl.token_history import push_frame, token_dtype
from pvdr_bench.suites.spaces import BoxSpace, ImageSpace
from tests.learning import above, below, learns

GRID = 4


class IdentityTokenizer:
    """Codes of a 4 x 4 image are its red channel: 0 background, 1 the dot."""

    grid, codebook_size, code_dim = GRID, 2, 2

    def __init__(self) -> None:
        self.images = 0

    def encode(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        self.images += images.shape[:-3].numel()
        return images[..., 0].long()

    def embed(self, codes: Tensor) -> Tensor:
        return F.one_hot(codes.long(), 2).float()

    def decode(self, codes: Tensor) -> Tensor:
        """Images whose every channel is the code."""
        return codes[..., None].expand(*codes.shape, 3).to(torch.uint8)


def image_of(position: np.ndarray) -> np.ndarray:
    """A dot at a position in [0, 3]^2."""
    out = np.zeros((GRID, GRID, 3), np.uint8)
    row, column = np.round(position).astype(int)
    out[row, column] = 1
    return out


class Dots:
    """A dot moves by the clipped action; -distance to the goal per step, a bonus and the end at the goal."""

    start, goal, limit = np.array([0.0, 0.0]), np.array([3.0, 2.0]), 12

    def __init__(self, n: int) -> None:
        self.n = n
        self.position, self.age = np.tile(self.start, (n, 1)), np.zeros(n, int)

    def images(self) -> np.ndarray:
        return np.stack([image_of(p) for p in self.position])

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(reward, success, truncated, final images); ended episodes start again."""
        self.position = np.clip(self.position + 0.6 * np.clip(action, -1, 1), 0, 3)
        self.age += 1
        distance = np.linalg.norm(self.position - self.goal, axis=1)
        success = distance < 0.6
        truncated = (self.age >= self.limit) & ~success
        final = self.images()
        ended = success | truncated
        self.position[ended], self.age[ended] = self.start, 0
        reward = -distance / np.linalg.norm(self.start - self.goal) + 10 * success
        return reward.astype(np.float32), success, truncated, final


def config(**changes: Any) -> PPOConfig:
    small = {"window": 2, "d_model": 16, "ff": 32, "heads": 2, "depth": 1, "token_dim": 8, "rollout_decisions": 192,
             "readout": "flatten", "readout_channels": 8, "minibatch": 64, "entropy_coef": 1e-3, "actor_lr": 1e-3}
    return PPOConfig.model_validate(small | changes)


def context(cfg: Any, num_envs: int, seed: int = 0) -> LearnerContext:
    task = TaskFacts(ImageSpace(GRID, GRID), BoxSpace(2), num_envs, budget_decisions=1000,
                     goal=GoalFacts(image=image_of(Dots.goal), start=image_of(Dots.start)))
    return LearnerContext(cfg, task, seed, torch.device("cpu"))


class Player:
    """A minimal loop: N environments, one learner."""

    def __init__(self, learner: PPOLearner, n: int, seed: int = 0) -> None:
        self.learner, self.env, self.n = learner, Dots(n), n
        self.carry, self.first = learner.initial(n), torch.ones(n, dtype=torch.bool)
        self.generator = torch.Generator().manual_seed(seed)
        self.successes: list[bool] = []
        self.metrics: list[dict[str, float]] = []

    def decide(self) -> Transition:
        image = torch.from_numpy(self.env.images())
        action, self.carry, extras = self.learner.act(image, self.first, self.carry, "train", self.generator)
        reward, success, truncated, final = self.env.step(action.numpy())
        ended = success | truncated
        transition = Transition(image, self.first, action, torch.from_numpy(reward), torch.from_numpy(success),
                                torch.from_numpy(truncated), torch.from_numpy(final), extras)
        self.learner.observe(transition)
        metrics = self.learner.learn()
        if metrics:
            self.metrics.append(metrics)
        self.first = torch.from_numpy(ended)
        self.successes += success[ended].tolist()
        return transition


@learns(early=below(0.4), late=above(0.8), explained_variance=above(0.15), approx_kl=below(0.5))
def test_it_learns_to_move_the_dot_to_the_goal(seed: int) -> dict[str, float]:
    """The critic over half of the rounds: where all dots go the same way one round has little variance to explain."""
    player = Player(PPOLearner(context(config(), 16, seed), IdentityTokenizer()), 16, seed)
    for _ in range(400):
        player.decide()
    assert player.metrics[-1]["rounds"] == 33 and all(m["grad_norm_actor"] > 0 for m in player.metrics)
    return {"early": np.mean(player.successes[:60]), "late": np.mean(player.successes[-60:]),
            "explained_variance": np.mean([m["explained_variance"] for m in player.metrics[-16:]]),
            "approx_kl": max(m["approx_kl"] for m in player.metrics)}


def test_context_repeats_the_first_frame_and_shifts() -> None:
    history = torch.arange(2 * 3).view(2, 3, 1, 1).expand(2, 3, 2, 2)
    new = torch.full((2, 2, 2), 9)
    out = push_frame(history, new, torch.tensor([True, False]))
    assert out[:, :, 0, 0].tolist() == [[9, 9, 9], [4, 5, 9]]


def test_rollouts_hold_small_tokens_and_bootstrap_only_where_time_cut() -> None:
    learner = PPOLearner(context(config(rollout_decisions=60), 4), IdentityTokenizer())
    player = Player(learner, 4)
    for _ in range(14):  # time limit 12, rollout 15: episodes end before the rollout does
        player.decide()
    stored = learner.buffer.state_dict()
    assert stored["state.tokens"].dtype == torch.uint8 and stored["state.tokens"].shape == (14, 4, 2, GRID, GRID)
    cut = stored["truncated"] & ~stored["terminated"]
    assert cut.any() and torch.equal(stored["bootstrap"] != 0, cut)
    assert not any("image" in name for name in stored)


def test_bootstrap_is_the_critic_on_the_true_final_frame() -> None:
    learner = PPOLearner(context(config(rollout_decisions=600), 3), IdentityTokenizer())
    player = Player(learner, 3)
    for _ in range(12):
        last = player.decide()
    assert last.truncated.any()
    rows = last.truncated
    frames = torch.stack([last.image[rows], last.next_image[rows]], 1)[..., 0]
    with torch.no_grad():
        expected = learner.updater.critic({"tokens": frames})
    assert torch.allclose(learner.buffer.rollout().bootstrap[-1][rows], expected)
    assert not torch.equal(last.next_image[rows], torch.from_numpy(player.env.images())[rows])  # reset has happened


def test_resume_in_the_middle_of_a_rollout_is_exact() -> None:
    def build(seed: int) -> PPOLearner:
        return PPOLearner(context(config(rollout_decisions=40), 4, seed), IdentityTokenizer())

    through, first = Player(build(0), 4), Player(build(0), 4)
    for _ in range(36):
        through.decide()
    for _ in range(17):  # one update and a partial rollout
        first.decide()
    restored = build(1)  # another seed: everything has to come from the state
    restored.load_state_dict(first.learner.state_dict())
    first.learner = restored
    for _ in range(19):
        first.decide()
    a, b = through.learner.state_dict(), first.learner.state_dict()
    assert_equal(a, b)
    assert a["rounds"] == 3 and len(through.learner.buffer) == 6


def assert_equal(a: Any, b: Any) -> None:
    """Nested dicts with equal leaves; a state holds nothing but what a checkpoint can store."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys() and all(isinstance(name, str) for name in a)
        for name in a:
            assert_equal(a[name], b[name])
    elif isinstance(a, Tensor):
        assert torch.equal(a, b)
    else:
        assert isinstance(a, (int, float, str, bool)) and a == b


def test_evaluation_stores_nothing_and_draws_only_from_its_generator() -> None:
    learner = PPOLearner(context(config(), 4), IdentityTokenizer())
    image, first = torch.from_numpy(Dots(6).images()), torch.ones(6, dtype=torch.bool)
    before = learner.state_dict()["ppo"]["generator"].clone()
    a, b = (learner.act(image, first, learner.initial(6), "eval", torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a[0], b[0]) and a[2] == {} and a[0].shape == (6, 2)
    assert torch.equal(before, learner.state_dict()["ppo"]["generator"])
    assert not torch.equal(a[0][0], a[0][1])  # sampled, not the mean
    mean = PPOLearner(context(config(mean_policy_in_eval=True), 4), IdentityTokenizer())
    out = mean.act(image, first, mean.initial(6), "eval", torch.Generator().manual_seed(1))[0]
    assert torch.equal(out[0], out[1])


@pytest.mark.parametrize("std", [0.0, 0.125])
def test_evaluation_may_have_a_spread_of_its_own(std: float) -> None:
    """eval_std times the noise that evaluation draws anyway, around the mean; training is as it was."""
    narrow = PPOLearner(context(config(eval_std=std), 4), IdentityTokenizer())
    plain, mean = (PPOLearner(context(config(mean_policy_in_eval=mean), 4), IdentityTokenizer())
                   for mean in (False, True))
    image, first = torch.from_numpy(Dots(6).images()), torch.ones(6, dtype=torch.bool)

    def act(learner: PPOLearner, mode: Mode) -> torch.Tensor:
        return learner.act(image, first, learner.initial(6), mode, torch.Generator().manual_seed(1))[0]

    noise = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(act(narrow, "eval"), act(mean, "eval") + std * noise, rtol=0, atol=1e-6)
    assert torch.equal(act(narrow, "train"), act(plain, "train"))
    with pytest.raises(ValidationError, match="eval_std has no meaning with mean_policy_in_eval"):
        config(eval_std=std, mean_policy_in_eval=True)


@pytest.mark.parametrize("readout", ["mean_pool", "flatten"])
@pytest.mark.parametrize("coarse", [False, True])
def test_networks_read_every_part_of_a_state(readout: Any, coarse: bool) -> None:
    """Outputs depend on each context grid and on the further grid, also where that is coarser than the tokens."""
    torch.manual_seed(0)
    cfg = NetworkConfig(grid=4, codebook_size=5, context_frames=2, extra_dim=3, d_model=8, heads=2, ff=8, depth=1,
                        window=2, token_dim=6, readout=readout)
    actor, critic = Actor(cfg, 2, -0.5), Critic(cfg)
    side = 2 if coarse else 4
    state = {"tokens": torch.randint(0, 5, (7, 2, 4, 4), dtype=torch.uint8), "extra": torch.randn(7, side, side, 3)}
    assert critic(state).shape == (7,) and actor(state).mean.shape == (7, 2)
    assert float(actor(state).mean.detach().abs().max()) < 0.2  # small initial means
    for frame in range(2):
        changed = state["tokens"].clone()
        changed[:, frame] = (changed[:, frame] + 1) % 5
        assert not torch.allclose(critic(state | {"tokens": changed}), critic(state))
    assert not torch.allclose(critic(state | {"extra": state["extra"] + 1}), critic(state))
    torch.autograd.backward(critic(state).sum() + actor(state).mean.sum())
    assert all(p.grad is not None for p in critic.parameters())


def test_frozen_codes_and_goal_are_no_weights() -> None:
    table = standardised(torch.randn(5, 3) * 40 + 7)
    assert torch.allclose(table.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(table.std(0, correction=0), torch.ones(3))
    learner = PPOLearner(context(config(embedding="codes"), 2), IdentityTokenizer())
    names = learner.updater.actor.state_dict().keys()
    assert not any("constant_extra" in name or "code_table" in name or "embed" in name for name in names)
    learner.act(torch.from_numpy(Dots(2).images()), torch.ones(2, dtype=torch.bool), learner.initial(2), "train",
                torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("size", "expected"), [(256, torch.uint8), (257, torch.int16), (2**16, torch.int32)])
def test_token_dtype_holds_every_code(size: int, expected: torch.dtype) -> None:
    assert token_dtype(size) == expected and torch.iinfo(expected).max >= size - 1


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="heads"):
        config(d_model=16, heads=3)
    with pytest.raises(ValidationError, match="extra"):
        config(clip_range=0.1)
    with pytest.raises(CatalogError, match="window: 3 does not divide"):
        PPOLearner(context(config(window=3), 2), IdentityTokenizer())
    with pytest.raises(SetupError, match="tokenizer"):
        PPOLearner(context(config(), 2))


@pytest.mark.parametrize("schema", [PPOConfig, RandomConfig, ScriptedConfig])
def test_every_key_has_description_and_source(schema: Any) -> None:
    for name, field in schema.model_fields.items():
        assert field.description and field.json_schema_extra["source"], name


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
def test_random_policy(distribution: Any) -> None:
    cfg = RandomConfig(distribution=distribution)
    learner = RandomLearner(context(cfg, 4))
    image, first = torch.zeros(5000, GRID, GRID, 3, dtype=torch.uint8), torch.ones(5000, dtype=torch.bool)
    action, _, extras = learner.act(image, first, learner.initial(5000), "eval", torch.Generator().manual_seed(0))
    assert action.shape == (5000, 2) and extras == {} and abs(float(action.mean())) < 0.03
    expected = 3**-0.5 if distribution == "uniform" else cfg.std
    assert float(action.std()) == pytest.approx(expected, rel=0.03)
    assert distribution == "gaussian" or float(action.abs().max()) <= 1
    assert learner.learn() == {} and learner.state_dict() == {}


def test_scripted_policy_plays_the_experts_actions() -> None:
    learner = ScriptedLearner(context(ScriptedConfig(), 4))
    image, first = torch.zeros(3, GRID, GRID, 3, dtype=torch.uint8), torch.ones(3, dtype=torch.bool)
    expert = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(learner.act(image, first, {"expert": expert}, "eval", generator)[0], expert)
    noisy = ScriptedLearner(context(ScriptedConfig(noise=0.5), 4))
    assert not torch.equal(noisy.act(image, first, {"expert": expert}, "eval", generator)[0], expert)
    for broken in ({}, {"expert": expert[:2]}):
        with pytest.raises(SetupError, match="expert"):
            learner.act(image, first, broken, "eval", generator)
