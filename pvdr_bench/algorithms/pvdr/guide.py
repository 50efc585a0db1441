"""The guide of ``pi_form`` guided and taught: what L_act alone trains, and PPO's part beside it in the guided form.

Shapes: B decisions, N candidates, m context and l plan frames, h x w token grid, K codes of dimension q, A action
dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from pvdr_bench.algorithms.pvdr.config import OnlineConfig
from pvdr_bench.nets.distributions import DiagonalGaussian
from pvdr_bench.nets.optimizers import clip_gradients, load_optimizer_state, optimizer_state, require_finite
from pvdr_bench.rl.actor_critic import MEAN_GAIN, NetworkConfig, StateNetwork
from pvdr_bench.rl.rollout import State
from pvdr_bench.rl.views import NothingToShow

CHANNELS, HIDDEN = (64, 16), 128
TINY = 1e-12  # squared distances below it are equal


class FramesGuide(nn.Module):
    """Reads the last context frame and the last plan frame as code vectors: which action leads from one to the other.

    Args:
        code_table: the tokenizer's vectors [K, q], standardised, so that like codes are alike from the first label on.
    """

    def __init__(self, code_table: Tensor, grid: int, action_dim: int) -> None:
        super().__init__()
        first, second = CHANNELS
        self.register_buffer("code_table", code_table, persistent=False)
        self.net = nn.Sequential(
            nn.Conv2d(2 * code_table.shape[1], first, 3, padding=1), nn.GELU(),
            nn.Conv2d(first, second, 3, padding=1), nn.GELU(), nn.Flatten(),
            nn.Linear(second * grid * grid, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, action_dim))

    def forward(self, state: State) -> Tensor:
        """Actions [B, A] for ``tokens`` int [B, m, h, w] and ``plan`` int [B, l, h, w]."""
        pair = torch.stack([state["tokens"][:, -1], state["plan"][:, -1]], 1).long()
        frames = rearrange(F.embedding(pair, self.get_buffer("code_table")), "b f h w q -> b (f q) h w")
        action: Tensor = self.net(frames)
        return action


class Guide:
    """A guide with its own optimiser.

    Args:
        network: the state that L_act gives it -> actions [B, A].
        config: ``lact_lr`` and ``lact_decay`` of L_act, ``guide_action`` and ``guide_gain`` of what it says of plans.
    """

    def __init__(self, network: nn.Module, config: OnlineConfig) -> None:
        self.network, self.config = network, config
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=config.lact_lr, eps=1e-5,
                                           weight_decay=config.lact_decay)
        # what of all candidates has to be kept beside the chosen one, to ask again when L_act has learned
        kept = {"ends": torch.int16, "distances": torch.float32}
        self.kept: dict[str, torch.dtype] = kept if config.guide_action == "trend" else {}

    @torch.no_grad()
    def action(self, state: State) -> Tensor:
        """What it says of plans: actions [B, A], times ``guide_gain``.

        Args:
            state: ``tokens`` [B, m, h, w] and of the chosen plan ``extra`` (z*) and ``plan`` [B, l, h, w]; for
                ``guide_action`` trend ``ends`` [B, N, h, w] and ``distances`` [B, N] of all candidates.
        """
        if self.config.guide_action != "trend":
            return self.of_plan(state)
        return self.config.guide_gain * trend(self._of_all(state["tokens"], state["ends"]), state["distances"])

    @torch.no_grad()
    def of_plan(self, state: State) -> Tensor:
        """What it says of plans, whatever the other candidates are: actions [B, A], times ``guide_gain``.

        Raises:
            NothingToShow: ``guide_action`` trend says nothing of a plan by itself.
        """
        if self.config.guide_action == "trend":
            raise NothingToShow("with online.guide_action trend an action follows from all candidates of a decision, "
                                "and from no plan by itself")
        action: Tensor = self.config.guide_gain * self.network(state)
        return action

    def _of_all(self, context: Tensor, ends: Tensor) -> Tensor:
        """Actions [B, N, A] towards each candidate's last frame."""
        n = ends.shape[1]
        action: Tensor = self.network({"tokens": repeat(context, "b m h w -> (b n) m h w", n=n),
                                       "plan": rearrange(ends, "b n h w -> (b n) 1 h w")})
        of_all: Tensor = rearrange(action, "(b n) a -> b n a", n=n)
        return of_all

    def step(self, parts: Iterable[Tensor]) -> float:
        """One optimiser step on the sum of ``parts``; returns the gradient's norm.

        Raises:
            TrainingError: the loss is not finite.
        """
        self.optimizer.zero_grad(set_to_none=True)
        for loss in parts:
            require_finite({"l_act": loss}, "L_act of the guide")
            torch.autograd.backward(loss)
        norm = clip_gradients(self.network.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        return float(norm)

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser."""
        return {"network": dict(self.network.state_dict()), "optimizer": optimizer_state(self.optimizer)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.network.load_state_dict(state["network"])
        load_optimizer_state(self.optimizer, state["optimizer"])


def trend(action: Tensor, distance: Tensor) -> Tensor:
    """The change of action [B, A] that goes with the best distance to the goal.

    Args:
        action: [B, N, A], of the candidates. distance: [B, N], of their plans.

    The least-squares line of actions over distances, at the smallest distance, less its mean: what the candidates do
    alike, whatever the goal, is left out. 0 where all distances are equal.
    """
    away = distance - distance.mean(1, keepdim=True)
    slope = (away[..., None] * action).mean(1) / (away**2).mean(1, keepdim=True).clamp_min(TINY)
    change: Tensor = slope * away.min(1, keepdim=True).values
    return change


class GuidedActor(nn.Module):
    """PPO's part: a gate on the guide's action, 1 to begin with, and a correction, both read from the state.

    So PPO can leave a guide whose plans lead astray; what L_act learns moves neither.
    """

    def __init__(self, config: NetworkConfig, action_dim: int, log_std_init: float, code_table: Tensor | None) -> None:
        super().__init__()
        self.net = StateNetwork(config, 2 * action_dim, MEAN_GAIN, code_table)
        self.log_std = nn.Parameter(torch.full((action_dim,), float(log_std_init)))

    def forward(self, state: State) -> DiagonalGaussian:
        """The distribution over actions [B, A] of a state with ``guide`` [B, A]."""
        correction, gate = self.net(state).chunk(2, -1)
        return DiagonalGaussian(2 * gate.sigmoid() * state["guide"] + correction, self.log_std)
