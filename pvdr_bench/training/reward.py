"""The protocol's reward: minus the distance to the goal under its one goal metric, plus the success bonus; or the
suite's own dense reward, which needs no goal image.

Shapes: N environments, H = W image size in pixels, h = w token grid, n_q code embedding width.
Every method is trained and judged with this reward; it never sees the simulator's ground truth.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvdr_bench.catalog.protocol import Protocol
from pvdr_bench.errors import CatalogError, TrainingError
from pvdr_bench.nets.blur import of_metric
from pvdr_bench.rl.facts import GoalFacts, RewardFacts
from pvdr_bench.rl.stopwatch import Stopwatch
from pvdr_bench.suites.base import Image, VectorStep
from pvdr_bench.tokenizer.interface import FrameTokenizer


def reward_facts(protocol: Protocol) -> RewardFacts:
    """What a learner may know of a protocol's rewards."""
    bonus = protocol.success_bonus if protocol.reward == "goal_distance" else None
    return RewardFacts(success_bonus=bonus or 0.0, ends_on_success=protocol.terminate_on_success,
                       normalised=bool(protocol.normalise_distance))


class GoalReward:
    """Rewards of one task instance.

    Args:
        protocol: reward, goal_metric, goal_blur, normalise_distance and success_bonus are read.
        goal: images of the instance; None for the dense reward.
        tokenizer: needed by the code metrics only.
        stopwatch: told of the part tokenize.

    Raises:
        CatalogError: the metric needs a tokenizer or a goal image, and there is none.
        TrainingError: the metric cannot tell the start from the goal, so that normalising would divide by zero.
    """

    def __init__(self, protocol: Protocol, goal: GoalFacts | None, tokenizer: FrameTokenizer | None,
                 device: torch.device, stopwatch: Stopwatch | None = None) -> None:
        self.stopwatch = stopwatch or Stopwatch()
        self.protocol, self.tokenizer, self.device = protocol, tokenizer, device
        self.metric, self.blur = protocol.goal_metric or "", protocol.goal_blur or 1
        self.bonus = protocol.success_bonus or 0.0
        self.dense = protocol.reward == "dense"
        self.succeeded: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self.scale = 1.0
        if self.dense:
            return
        if self.metric.startswith("code") and tokenizer is None:
            raise CatalogError(f"goal_metric {self.metric} needs a tokenizer",
                               hint="use pixel_l1, or a method and scale with a tokenizer")
        if goal is None:
            raise CatalogError("reward goal_distance needs one goal image, so a frozen instance",
                               where="protocol.frozen_instance", hint="frozen_instance: true, or reward: dense")
        self.goal = self._features(goal.image[None])
        if protocol.normalise_distance:
            start = float(self.distance(goal.start[None])[0])
            if start <= 0:
                raise TrainingError(f"{self.metric} sees no difference between the start and the goal image",
                                    hint="use a larger image_size or goal_metric=pixel_l1")
            self.scale = start

    @torch.no_grad()
    def _features(self, images: Image) -> Tensor:
        """What is compared: pixels in [0, 1] or code embeddings, blurred if asked; [N, h, w, C]."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        if self.metric.startswith("code"):
            assert self.tokenizer is not None
            with self.stopwatch("tokenize", len(pixels)):
                codes = self.tokenizer.encode(pixels)
            features = self.tokenizer.embed(codes).float()
        else:
            features = pixels.float() / 255
        return of_metric(features, self.metric, self.blur)

    def distance(self, images: Image) -> NDArray[np.float32]:
        """Mean absolute difference to the goal for images uint8 [N, H, W, 3] (in units of the start's); [N]."""
        gap = (self._features(images) - self.goal).abs().mean(dim=(1, 2, 3)) / self.scale
        distances: NDArray[np.float32] = gap.cpu().numpy().astype(np.float32)
        return distances

    def begin(self, n: int) -> None:
        """Start an episode in each of ``n`` environments."""
        self.succeeded = np.zeros(n, np.bool_)

    def reward(self, step: VectorStep) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Rewards [N] of a decision and the goal distances [N] behind them (None for the dense reward).

        The bonus is paid once per episode, at its first success.
        """
        first = step.success & ~self.succeeded
        self.succeeded = (self.succeeded | step.success) & ~(step.terminated | step.truncated)
        if self.dense:
            return step.dense_reward.astype(np.float32), None
        distances = self.distance(step.final_image)
        rewards: NDArray[np.float32] = (first * self.bonus - distances).astype(np.float32)
        return rewards, distances

    def fork(self) -> GoalReward:
        """The same reward with its own episode state, for evaluation."""
        other = copy.copy(self)
        other.begin(0)
        return other
