"""Every hyperparameter of the PPO baseline with its meaning and source. Imports no torch.

Defaults are the published ones (arXiv 2411.03169, Table 3), or, where the paper is silent, the reading named in
``source``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from pvdr_bench.rl.config import AlgorithmConfig, check_divides, key


class PPOConfig(AlgorithmConfig):
    """PPO from scratch on frozen frame tokens, with the networks of PVDR's action module and critic."""

    # the update
    clip: float = key(0.2, "epsilon, range of the probability ratio", "paper Table 3 (Set 2; 0.6 Set 1, 0.5 Set 3)",
                      gt=0)
    value_clip: float = key(10.0, "range by which a value may move away from the old one", "paper Table 3, reading 24",
                            gt=0)
    value_coef: float = key(0.5, "weight of the value loss", "paper Table 3, reading 24", ge=0)
    value_scale: float = key(1.0, "unit of the returns that the critic predicts", "paper: 1; departure if more", gt=0)
    entropy_coef: float = key(2e-4, "weight of the policy's entropy",
                              "paper Table 3 (Set 2; 1e-2 Set 1, 5e-3 Set 3)", ge=0)
    gamma: float = key(0.99, "discount per decision", "paper Table 3", ge=0, le=1)
    gae_lambda: float = key(0.92, "lambda of the generalised advantage estimate", "paper Table 3", ge=0, le=1)
    max_grad_norm: float = key(1.0, "clip of the gradient norm of actor and of critic; 0: none", "paper Table 3", ge=0)
    minibatch: int = key(100, "decisions in a minibatch", "paper Table 3", ge=1)
    epochs: int = key(4, "passes over a rollout", "paper silent (reading 23)", ge=1)
    rollout_decisions: int = key(1000, "decisions of all environments in a rollout, rounded up to whole ones of each",
                                 "paper silent: 4 episodes of 250 decisions (reading 28)", ge=1)
    actor_lr: float = key(3e-4, "Adam's learning rate of the actor", "paper Table 3", gt=0)
    critic_lr: float = key(1e-3, "Adam's learning rate of the critic", "paper Table 3", gt=0)
    adam_eps: float = key(1e-5, "Adam's epsilon", "paper silent: CleanRL ppo_continuous_action.py", gt=0)
    # the policy
    log_std_init: float = key(-0.5, "initial log standard deviation of actions", "paper silent (reading 19)")
    mean_policy_in_eval: bool = key(False, "evaluate the mean action in place of a sampled one",
                                    "benchmark: sampled; a frozen task under a mean policy is one episode repeated")
    eval_std: float | None = key(None, "standard deviation of actions in evaluation; 0: their mean; null: the policy's",
                                 "benchmark: the policy's, as for mean_policy_in_eval", ge=0, added=True)
    # the networks
    context_frames: int = key(2, "m, frames of the state x_t; the first frame of an episode is repeated",
                              "paper Table 2, reading 30", ge=1)
    d_model: int = key(512, "attention dimension", "paper Table 2", ge=8)
    ff: int = key(512, "feed-forward dimension", "paper Table 2", ge=8)
    heads: int = key(4, "attention heads", "paper Table 2", ge=1)
    depth: int = key(3, "pairs of spatial and temporal blocks", "paper Table 2", ge=1)
    window: int = key(4, "side of the temporal attention's local window", "paper Table 2", ge=1)
    embedding: Literal["learned", "codes"] = key(
        "learned", "token embedding: a learned table, or the tokenizer's frozen code vectors",
        "paper Table 2; departure: codes, which tell at once which codes are alike")
    token_dim: int = key(1024, "width of the learned token embedding", "paper Table 2", ge=1)
    readout: Literal["mean_pool", "flatten"] = key(
        "mean_pool", "what the last layer reads: the mean of all tokens, or some channels of each",
        "paper silent (reading 20); flatten keeps where things are")
    readout_channels: int = key(16, "channels of each token with readout flatten", "departure", ge=1)
    dtype: Literal["float32", "bfloat16"] = key("float32", "autocast precision of the networks", "hardware")

    @model_validator(mode="after")
    def _fits(self) -> PPOConfig:
        if self.d_model % self.heads:
            raise ValueError(f"d_model {self.d_model} is not a multiple of heads {self.heads}")
        if self.mean_policy_in_eval and self.eval_std is not None:
            raise ValueError("eval_std has no meaning with mean_policy_in_eval, which is eval_std 0")
        return self

    def check_grid(self, grid: int) -> None:
        """Refuse a token grid of a side that the networks cannot work on.

        Raises:
            CatalogError: the window does not divide it.
        """
        check_divides("window", self.window, grid)
