"""Returns of imagined and of replayed states, and the scale that DreamerV3 divides them by.

Shapes: H steps, N states, B sequences of T steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.dreamer.config import BehaviourConfig


def lambda_returns(reward: Tensor, value: Tensor, discount: Tensor, bootstrap: Tensor,
                   lambda_: float | Tensor) -> Tensor:
    """TD(lambda) returns [H]: ``V_t = r_t + g_t ((1 - lambda) v_{t+1} + lambda V_{t+1})``, with V_H = v_H = bootstrap.

    Args:
        reward, value, discount: [H, ...], of states 0 .. H - 1. bootstrap: [...], value of state H.
        lambda_: one for all, or [H, ...].
    """
    following = torch.cat([value[1:], bootstrap[None]])
    inputs = reward + discount * following * (1 - lambda_)
    last, returns = bootstrap, []
    for t in reversed(range(len(reward))):
        last = inputs[t] + discount[t] * (lambda_[t] if isinstance(lambda_, Tensor) else lambda_) * last
        returns.append(last)
    return torch.stack(returns[::-1])


def replay_returns(reward: Tensor, is_last: Tensor, is_terminal: Tensor, bootstrap: Tensor, gamma: float,
                   lambda_: float) -> Tensor:
    """Returns [B, T - 1] of replayed states but the last, from rewards received on arriving at the next one.

    ``R_t = r_{t+1} + g_{t+1} ((1 - l_{t+1}) V_{t+1} + l_{t+1} R_{t+1})``: g is 0 at a terminal state and l is 0 at an
    episode's last one, so that nothing of the next episode is in them.

    Args:
        reward, is_last, is_terminal: [B, T]. bootstrap: V [B, T], the returns imagined from these states.
    """
    go_on = lambda_ * (~is_last[:, 1:]).to(reward.dtype).T
    live = gamma * (~is_terminal[:, 1:]).to(reward.dtype).T
    value = bootstrap.T
    return lambda_returns(reward[:, 1:].T, value[:-1], live, value[-1], go_on).T


class ReturnScale(nn.Module):
    """Running percentiles of imagined returns; their distance, if it is large, is the unit of advantages.

    DreamerV3, Eq. 7: ``S = EMA(Per(R, 95) - Per(R, 5))``, and returns are divided by max(1, S). The averages are
    buffers and belong to a checkpoint; they begin at zero and are not debiased, as in the code.
    """

    bounds: Tensor

    def __init__(self, config: BehaviourConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("bounds", torch.zeros(2))

    @torch.no_grad()
    def moved(self, returns: Tensor) -> Tensor:
        """The averages [2], low and high, with a batch of returns taken in; nothing is stored."""
        own = self.config
        levels = torch.tensor([own.return_low, own.return_high], device=returns.device) / 100
        found = torch.quantile(returns.float().flatten(), levels)
        return (1 - own.return_rate) * self.bounds + own.return_rate * found

    def scale(self, bounds: Tensor) -> Tensor:
        """What averages [2] divide returns by, a scalar."""
        return (bounds[1] - bounds[0]).clamp_min(self.config.return_floor)
