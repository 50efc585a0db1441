"""The PPO baseline: no videos, no planning; the networks of PVDR's action module on frozen frame tokens.

Shapes: N environments, H = W image size, A action dimensions, m context frames, h x w token grid, K codebook size.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pvdr_bench.algorithms.ppo.config import PPOConfig
from pvdr_bench.errors import SetupError
from pvdr_bench.rl.actor_critic import Actor, Critic, NetworkConfig, standardised
from pvdr_bench.rl.contract import Carry, Learner, LearnerContext, Mode, Transition
from pvdr_bench.rl.ppo import PPOUpdater
from pvdr_bench.rl.rollout import RolloutBuffer, needs_bootstrap
from pvdr_bench.rl.rollout_reward import RolloutReward
from pvdr_bench.rl.token_history import push_frame, token_dtype
from pvdr_bench.tokenizer.interface import FrameTokenizer


class PPOLearner(Learner):
    """Collects ``rollout_decisions``, then updates.

    Args:
        context: the task and machine.
        tokenizer: in place of the artefact ``tokenize`` of the context.
        reward: what makes the rewards of a roll-out that is learned from; None: they are the task's.

    Raises:
        SetupError: there is no tokenizer.
        CatalogError: the networks do not fit the tokenizer's grid.
    """

    def __init__(self, context: LearnerContext, tokenizer: FrameTokenizer | None = None,
                 reward: RolloutReward | None = None) -> None:
        config: PPOConfig = context.config
        self.config, self.device, self.reward, self.stopwatch = config, context.device, reward, context.stopwatch
        self.tokenizer = tokenizer or self._load_tokenizer(context)
        config.check_grid(self.tokenizer.grid)
        self.dtype = token_dtype(self.tokenizer.codebook_size)
        self.length = math.ceil(config.rollout_decisions / context.task.num_envs)  # decisions in time of a rollout
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            actor, critic = self._networks(context)
        self.updater = PPOUpdater(actor.to(self.device), critic.to(self.device), config, context.seed, config.adam_eps,
                                  self._autocast if config.dtype == "bfloat16" else nullcontext)
        self.buffer = RolloutBuffer()
        self.rounds = 0

    @staticmethod
    def _load_tokenizer(context: LearnerContext) -> FrameTokenizer:
        from pvdr_bench.tokenizer.frozen import load_tokenizer

        if "tokenize" not in context.artefacts:
            raise SetupError("PPO needs the tokenizer's artefact (stage tokenize)", hint="run the stage tokenize first")
        return load_tokenizer(context.artefacts["tokenize"], context.artefact_config["tokenize"], context.device)

    def _networks(self, context: LearnerContext) -> tuple[Actor, Critic]:
        """Actor and critic; a goal image's code vectors are their further grid (reading 26)."""
        config, tokenizer = self.config, self.tokenizer
        network = NetworkConfig(
            grid=tokenizer.grid, codebook_size=tokenizer.codebook_size, context_frames=config.context_frames,
            extra_dim=0 if context.task.goal is None else tokenizer.code_dim, d_model=config.d_model,
            heads=config.heads, ff=config.ff, depth=config.depth, window=config.window, token_dim=config.token_dim,
            readout=config.readout, readout_channels=config.readout_channels)
        codes = torch.arange(tokenizer.codebook_size, device=self.device)
        table = standardised(tokenizer.embed(codes.view(-1, 1, 1)).flatten(0, 2))
        facts = context.task.goal
        goal = None if facts is None else table[self.encode(torch.as_tensor(facts.image)[None])[0]]
        frozen = table if config.embedding == "codes" else None
        actor = Actor(network, context.task.action.dim, config.log_std_init, frozen, goal)
        return actor, Critic(network, frozen, goal, config.value_scale)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16)

    def encode(self, image: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] -> codes int64 [N, h, w]."""
        with self.stopwatch("tokenize", len(image)):
            return self.tokenizer.encode(image.to(self.device))

    def initial(self, n: int) -> Carry:
        """The last m token grids of every environment."""
        shape = (n, self.config.context_frames, self.tokenizer.grid, self.tokenizer.grid)
        return {"tokens": torch.zeros(shape, dtype=self.dtype, device=self.device)}

    @torch.no_grad()
    def act(self, image: Tensor, is_first: Tensor, carry: Carry, mode: Mode,
            generator: torch.Generator) -> tuple[Tensor, Carry, dict[str, Tensor]]:
        """Sample actions [N, A]. Extras for learning: tokens, log_prob, value (only in mode ``train``)."""
        codes = self.encode(image).to(self.dtype)
        tokens = push_frame(carry["tokens"], codes, is_first.to(self.device))
        state = {"tokens": tokens}
        with self.updater.autocast():
            policy = self.updater.actor(state)
            value = self.updater.critic(state) if mode == "train" else None
        if value is None:
            std = 0.0 if self.config.mean_policy_in_eval else self.config.eval_std
            action = policy.sample(generator, std)
            return action, {"tokens": tokens}, {}
        action = policy.sample(generator)
        return action, {"tokens": tokens}, {"tokens": tokens, "log_prob": policy.log_prob(action), "value": value}

    @torch.no_grad()
    def observe(self, transition: Transition) -> None:
        """Store a decision; value the true next observation where an episode or the rollout is cut."""
        last = len(self.buffer) + 1 == self.length
        move = partial(torch.Tensor.to, device=self.device)
        terminated, truncated = move(transition.terminated), move(transition.truncated)
        extras = {name: move(x) for name, x in transition.extras.items()}
        bootstrap = torch.zeros_like(extras["value"])
        rows = needs_bootstrap(terminated, truncated, last)
        if rows.any():
            codes = self.encode(transition.next_image[rows.to(transition.next_image.device)]).to(self.dtype)
            following = push_frame(extras["tokens"][rows], codes, torch.zeros_like(rows[rows]))
            with self.updater.autocast():
                bootstrap[rows] = self.updater.critic({"tokens": following})
        memory = self.reward.remember(transition, last) if self.reward is not None else {}
        self.buffer.add({"tokens": extras["tokens"], **memory}, action=move(transition.action),
                        log_prob=extras["log_prob"], value=extras["value"], reward=move(transition.reward),
                        terminated=terminated, truncated=truncated, bootstrap=bootstrap)

    def learn(self) -> dict[str, float]:
        """Update once a rollout is full."""
        if len(self.buffer) < self.length:
            return {}
        rollout = self.buffer.rollout()
        self.buffer.clear()
        reward, told = rollout.reward, dict[str, float]()
        if self.reward is not None:
            with self.stopwatch("reward"):
                reward, told = self.reward.label(rollout)
        with self.stopwatch("policy"):
            metrics = self.updater.update(rollout.batch(self.config.gamma, self.config.gae_lambda, reward))
        self.rounds += 1
        log_std = self.updater.actor.get_parameter("log_std").detach()
        return metrics | told | {"reward_mean": float(rollout.reward.mean()), "rounds": float(self.rounds),
                          "action_std": float(log_std.exp().mean())}

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers, random state, counters, the partial rollout, what the reward remembers."""
        state = {"ppo": self.updater.state_dict(), "buffer": self.buffer.state_dict(), "rounds": self.rounds}
        return state if self.reward is None else {**state, "reward": self.reward.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.updater.load_state_dict(state["ppo"])
        self.buffer.load_state_dict(state["buffer"], self.device)
        self.rounds = int(state["rounds"])
        if self.reward is not None:
            self.reward.load_state_dict(state["reward"])

    def policy_state(self) -> dict[str, Any]:
        """The actor."""
        return {"actor": dict(self.updater.actor.state_dict())}

    def load_policy_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`policy_state` gave."""
        self.updater.actor.load_state_dict(state["actor"])
