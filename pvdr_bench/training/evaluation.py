"""Evaluation: fixed seeds, sampled actions, full length, batched over episodes, without touching training.

Shapes: N environments, H = W image size, A action dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvdr_bench.errors import Interrupted, TrainingError
from pvdr_bench.rl.contract import Carry, Learner, Mode
from pvdr_bench.rl.stopwatch import Stopwatch
from pvdr_bench.runs.episodes import EpisodeResult
from pvdr_bench.suites.base import Image, VectorStep
from pvdr_bench.suites.spaces import BoxSpace, ImageSpace
from pvdr_bench.training.reward import GoalReward

SEED_SPAN = 2**20  # protocols keep eval_seed_base and train_seed_base at least this far apart


class VectorEnvLike(Protocol):
    """What the loops need of ``suites.vector.VectorEnv``."""

    action_space: BoxSpace  # of one environment's actions, A = its dim

    @property
    def observation_space(self) -> ImageSpace:
        """Of one environment's images."""

    def reset(self, seeds: Sequence[int]) -> Image:
        """Start an episode in every environment, or in the first n < N alone; first images [N, H, W, 3]."""

    def step(self, actions: NDArray[np.float32]) -> VectorStep:
        """One decision with actions [N, A]."""

    def goal_image(self) -> Image:
        """Goal image [H, W, 3] of the frozen instance."""

    def expert_action(self) -> NDArray[np.float32]:
        """The scripted expert's actions [N, A] in the current states."""

    def close(self) -> None:
        """Stop the workers."""


def stable_seed(*parts: int | str) -> int:
    """A 63-bit seed for a torch generator, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def train_seeds(base: int, run_seed: int, reset: int, n: int) -> list[int]:
    """Seeds of ``n`` training episodes: in [base, base + SEED_SPAN), where evaluation has none."""
    return [base + stable_seed("train", run_seed, reset, i) % SEED_SPAN for i in range(n)]


def images_to_tensor(images: Image) -> Tensor:
    """A tensor that owns its memory (environments may reuse theirs)."""
    return torch.from_numpy(np.array(images, np.uint8))


def choose(learner: Learner, image: Tensor, is_first: Tensor, carry: Carry, mode: Mode,
           generator: torch.Generator, envs: VectorEnvLike, needs_expert: bool,
           ) -> tuple[Tensor, Carry, dict[str, Tensor]]:
    """``learner.act`` with the expert's actions in its carry where it asks for them.

    Raises:
        TrainingError: an action is not finite.
    """
    if needs_expert:
        carry = {**carry, "expert": torch.from_numpy(np.array(envs.expert_action(), np.float32))}
    action, carry, extras = learner.act(image, is_first, carry, mode, generator)
    action = action.detach().cpu().float()
    if not bool(torch.isfinite(action).all()):
        raise TrainingError("the policy's action is not finite", hint="lower the learning rates")
    return action, carry, extras


def waves(episodes: int, num_envs: int, block: int) -> Iterator[tuple[int, int]]:
    """The first episode and the size of each wave: as large as ``num_envs`` allows, up to a multiple of ``block``.

    The last wave may hold episodes beyond ``episodes``, where these are not whole waves.
    """
    first = 0
    while first < episodes:
        size = min(num_envs, block - first % block)
        yield first, size
        first += size


class Evaluator:
    """Plays evaluation episodes, in environments that are opened at the first use.

    Args:
        open_envs: makes the vector environment, or gives one that training lends and resets before it goes on. It must
            not terminate on success.
        num_envs: its size; episodes are played in waves of it, and what is left over in a smaller one.
        stop: asked at every decision; evaluation is given up where it says True.
        stopwatch: told of the parts reset, act, env and reward.
    """

    def __init__(self, open_envs: Callable[[], VectorEnvLike], num_envs: int, reward: GoalReward, seed_base: int,
                 run_seed: int, needs_expert: bool, stop: Callable[[], bool] = lambda: False,
                 stopwatch: Stopwatch | None = None) -> None:
        self._open, self.num_envs, self.reward = open_envs, num_envs, reward.fork()
        self.seed_base, self.run_seed, self.needs_expert, self.stop = seed_base, run_seed, needs_expert, stop
        self.stopwatch = stopwatch or Stopwatch()
        self._envs: VectorEnvLike | None = None

    def run(self, learner: Learner, episodes: int, env_steps: int, point: str,
            protocol_episodes: int | None = None) -> Iterator[EpisodeResult]:
        """Results of episodes 0 .. ``episodes`` - 1, wave by wave.

        Environment seeds are ``eval_seed_base + episode``; action noise differs between run seeds and points, and is
        drawn for a wave. Waves end at multiples of ``protocol_episodes`` (default: ``episodes``), so that an episode
        is the same whether more or fewer than the protocol's are asked for.
        Global random state is as it was after each wave.

        Raises:
            Interrupted: ``stop`` said so.
        """
        if self._envs is None:
            with self.stopwatch("reset"):
                self._envs = self._open()
        for first, size in waves(episodes, self.num_envs, protocol_episodes or episodes):
            generator = torch.Generator().manual_seed(
                stable_seed("eval", self.seed_base, self.run_seed, env_steps, point, first))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(generator.initial_seed())
                results = self._wave(self._envs, learner, first, size, generator)
            yield from results[:episodes - first]

    def _wave(self, envs: VectorEnvLike, learner: Learner, first: int, n: int, generator: torch.Generator,
              ) -> list[EpisodeResult]:
        seeds = [self.seed_base + first + i for i in range(n)]
        with self.stopwatch("reset"):
            image, is_first = images_to_tensor(envs.reset(seeds)), torch.ones(n, dtype=torch.bool)
        carry = learner.initial(n)
        self.reward.begin(n)
        success, at_end = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        returns, lengths, running = np.zeros(n), np.zeros(n, np.int64), np.ones(n, np.bool_)
        while running.any():
            if self.stop():
                raise Interrupted("stopped during an evaluation", hint="the same command continues")
            with self.stopwatch("act", n):
                action, carry, _ = choose(learner, image, is_first, carry, "eval", generator, envs, self.needs_expert)
            with self.stopwatch("env"):
                step = envs.step(action.clamp(-1, 1).numpy())
                self.stopwatch.within(step.seconds)
            with self.stopwatch("reward"):
                reward, _ = self.reward.reward(step)
            success |= step.success & running
            at_end = np.where(running, step.success, at_end)
            returns += reward * running
            lengths += step.env_steps * running
            ended = step.terminated | step.truncated
            running &= ~ended
            image, is_first = images_to_tensor(step.image), torch.from_numpy(ended)
        return [EpisodeResult(first + i, seeds[i], bool(success[i]), bool(at_end[i]), float(returns[i]),
                              int(lengths[i])) for i in range(n)]

    def close(self) -> None:
        """Stop the workers, if they were started."""
        if self._envs is not None:
            self._envs.close()
            self._envs = None
