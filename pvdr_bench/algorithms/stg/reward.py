"""STG's reward of a roll-out, from the frozen pre-trained model.

Shapes: T decisions in time, N environments, d embedding width, L context, S stretches of episodes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pvdr_bench.algorithms.stg.config import RewardConfig
from pvdr_bench.algorithms.stg.networks import STGModel
from pvdr_bench.errors import SetupError
from pvdr_bench.rl.rollout import Rollout, State
from pvdr_bench.rl.rollout_reward import RolloutReward, next_steps, segments
from pvdr_bench.rl.transition import Transition

EMBEDDING, FINAL, NUMBER = "stg_embedding", "stg_final", "stg_number"
LEAST_UNIT = 1e-6  # below it the critic's differences are rounding, and no reward


class RunningStd:
    """Standard deviation of all values so far (Welford, by batches)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        """Take values of any shape."""
        found = values.double().flatten()
        mean, total = float(found.mean()), self.count + len(found)
        gap = mean - self.mean
        self.squares += float((found - mean).square().sum()) + gap**2 * self.count * len(found) / total
        self.mean += gap * len(found) / total
        self.count = total

    @property
    def std(self) -> float:
        """Of the population; 0 before any value."""
        return float((self.squares / self.count) ** 0.5) if self.count else 0.0


class StateToGoReward(RolloutReward):
    """task_weight * r + beta * (D(e, e') - D(e, eh)) / unit + nu * symexp(TDR(e, eh)).

    While the unit is below :data:`LEAST_UNIT`, as a running one of values that are all alike, the critic's part is 0.

    The transformer looks back within a stretch of one episode, of at most L decisions; its global position is the
    number of the stretch's first decision in the episode. The frame that an episode ended on is the true one, not the
    next episode's first.

    Args:
        model: the pre-trained model; it is frozen here.
        num_envs: N.

    Raises:
        SetupError: ``unit`` is corpus and the model's critic told no transitions of its videos apart.
    """

    def __init__(self, model: STGModel, config: RewardConfig, num_envs: int, device: torch.device) -> None:
        self.model, self.config, self.device = model.to(device).eval().requires_grad_(False), config, device
        if config.unit == "corpus" and not float(model.critic_std) >= LEAST_UNIT:
            raise SetupError(f"the pre-trained critic tells no transitions apart: the unit of its reward is "
                             f"{float(model.critic_std):.3g}", where="key reward.unit corpus",
                             hint="its pre-training collapsed: look at critic_std and auc in the stage's train.jsonl, "
                             "and train longer, with other pretrain keys or on other videos")
        self.number = torch.zeros(num_envs, dtype=torch.long, device=device)
        self.running = RunningStd()

    @torch.no_grad()
    def remember(self, transition: Transition, last: bool) -> State:
        """Embeddings [N, d] of the frame and, where no decision follows, of the one after; the decision's number."""
        first = transition.is_first.to(self.device)
        self.number = torch.where(first, 0, self.number + 1)
        embedding = self.model.encoder(transition.image.to(self.device))
        rows = transition.terminated | transition.truncated | last
        final = torch.zeros_like(embedding)
        if rows.any():
            final[rows.to(self.device)] = self.model.encoder(transition.next_image[rows].to(self.device))
        return {EMBEDDING: embedding, FINAL: final, NUMBER: self.number}

    def predicted(self, embedding: Tensor, number: Tensor, ended: Tensor) -> Tensor:
        """Predictions [T, N, d] of the embeddings after embeddings [T, N, d]."""
        segment, position = segments(ended, self.model.config.context)
        count, longest = int(segment.max()) + 1, int(position.max()) + 1
        stretches = embedding.new_zeros(count, longest, embedding.shape[-1])
        stretches[segment, position] = embedding  # what is behind a stretch's end is not looked at: causal attention
        start = torch.zeros(count, dtype=torch.long, device=self.device)
        start[segment[position == 0]] = number[position == 0]
        return embedding + self.model.steps(stretches, start)[segment, position]

    @torch.no_grad()
    def label(self, rollout: Rollout) -> tuple[Tensor, dict[str, float]]:
        """Rewards [T, N], and the parts of them."""
        config, embedding = self.config, rollout.state[EMBEDDING]
        ended = rollout.terminated | rollout.truncated
        after = next_steps(embedding, rollout.state[FINAL], ended)
        predicted = self.predicted(embedding, rollout.state[NUMBER], ended)
        opinion, progress = self.model.reward_terms(embedding, after, predicted)
        self.running.add(opinion)
        intrinsic = config.beta * self.told(opinion) + config.nu * progress
        metrics = {"intrinsic_mean": intrinsic.mean(), "intrinsic_std": intrinsic.std(correction=0),
                   "opinion_mean": opinion.mean(), "opinion_std": opinion.std(correction=0),
                   "progress_mean": progress.mean(), "stg_step": (after - embedding).square().mean(),
                   "stg_error": (after - predicted).square().mean(),
                   "embedding_std": embedding.flatten(0, 1).std(0, correction=0).mean()}
        return config.task_weight * rollout.reward + intrinsic, {
            **{name: float(x) for name, x in metrics.items()}, "intrinsic_unit": self._unit()}

    def told(self, opinion: Tensor) -> Tensor:
        """The critic's differences [...] in the unit of its reward, as it is now."""
        unit = self._unit()
        return opinion / unit if unit >= LEAST_UNIT else torch.zeros_like(opinion)

    def _unit(self) -> float:
        if self.config.unit == "none":
            return 1.0
        return float(self.model.critic_std) if self.config.unit == "corpus" else self.running.std

    def state_dict(self) -> dict[str, Any]:
        """Where in their episodes the environments are, and the running unit."""
        return {"number": self.number, "count": self.running.count, "mean": self.running.mean,
                "squares": self.running.squares}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.number = state["number"].to(self.device)
        self.running.count, self.running.mean = int(state["count"]), float(state["mean"])
        self.running.squares = float(state["squares"])
