"""The action-state consistency of PreLAR: latent actions that are further apart move the state further.

The other clips of a batch lend their actions: from each posterior state one step is imagined with its own latent action
and with another clip's, and the divergence of the two next states is held against that of the two actions.

Shapes: B clips, T frames, A latent action width, E embedding width, n = B * (T - 1) transitions of all processes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.dreamer.latent_action import LatentActions, gaussian_kl
from pvdr_bench.nets.conv import MLP
from pvdr_bench.nets.rssm import RSSM, State, categorical_kl
from pvdr_bench.rl.process_group import ProcessGroup
from pvdr_bench.tokenizer.shared import gather_rows


def differences(x: Tensor) -> Tensor:
    """``x_i - x_j`` [n, n] of x [n]."""
    return x[:, None] - x[None, :]


def order_loss(states: Tensor, actions: Tensor, form: str, temperature: float) -> Tensor:
    """Mean squared difference of how two quantities [n] order all pairs; 0: alike, 4: the other way round.

    ``sign``: of signs, as released: its gradient is zero. ``rank``: the actions' order is ``tanh(d / tau)`` of their
    differences d, and the states' is the sign of theirs, or the same where states have a gradient. It pays to be far
    apart, so it does not let latent actions vanish.
    """
    if form == "sign":
        return (differences(states).sign() - differences(actions).sign()).square().mean()

    def soft(x: Tensor) -> Tensor:
        return torch.tanh(differences(x) / temperature)

    wanted = soft(states) if states.requires_grad else differences(states).sign()
    return (wanted - soft(actions)).square().mean()


def agreement(states: Tensor, actions: Tensor) -> Tensor:
    """Kendall's tau (a) of two quantities [n], but for pairs of one with itself: 1 alike, -1 the other way round."""
    count = len(states)
    return (differences(states).sign() * differences(actions).sign()).sum() / max(count * (count - 1), 1)


def divergences(rssm: RSSM, post: State, prior: Tensor, latent: LatentActions, shuffle: Tensor,
                group: ProcessGroup) -> tuple[Tensor, Tensor]:
    """KL of the next states and of the actions, own against another clip's: two [n], in nats.

    Args:
        post: [B, T, ...] and prior: logits [B, T, S, C] of the RSSM's scan under the latent actions.
        shuffle: int64, a permutation of the clips of all processes; the same for every step.
    """
    assert latent.mean is not None and latent.std is not None
    mean, std, action = (gather_rows(x, group)[group.mine(shuffle)] for x in (
        latent.mean, latent.std, latent.action[:, 1:]))
    before = {name: x[:, :-1].flatten(0, 1) for name, x in post.items()}
    unused = before["stoch"].new_zeros(before["stoch"].shape[:2])  # only the logits of the step are wanted
    other = rssm.imagine(before, action.flatten(0, 1), unused)["logits"]
    states = categorical_kl(prior[:, 1:].flatten(0, 1), other)
    lent = group.mine(shuffle) != group.mine(torch.arange(len(shuffle), device=shuffle.device))
    states = states * lent.repeat_interleave(len(states) // len(lent))  # rounding must not order what did not move
    actions = gaussian_kl(latent.mean, latent.std, mean, std).flatten()
    return gather_rows(states, group), gather_rows(actions, group)


class Consistency(nn.Module):
    """The form that ``pretrain.consistency`` names; ``l2`` has a network, which predicts the next embedding."""

    def __init__(self, config: DreamerConfig, embed_dim: int) -> None:
        super().__init__()
        self.config, self.form = config.pretrain, config.pretrain.consistency
        width, units = config.model.action_width, config.model.latent_action.units
        self.transition = MLP(embed_dim + width, embed_dim, 1, units) if self.form == "l2" else None

    def forward(self, rssm: RSSM, embed: Tensor, post: State, prior: Tensor, latent: LatentActions,
                shuffle: Tensor | None, group: ProcessGroup) -> dict[str, Tensor]:
        """``consistency``, a scalar loss, and what may be told of it.

        Args:
            embed: [B, T, E]. The others: see :func:`divergences`; ``l2`` needs no shuffle.
        """
        if self.transition is not None:
            predicted = self.transition(torch.cat([embed[:, :-1], latent.action[:, 1:]], -1))
            error = (predicted.float() - embed[:, 1:].detach()).square().sum(-1)
            return {"consistency": error.mean()}
        assert shuffle is not None
        moving = self.config.consistency_moves == "both" and self.form == "rank"
        states, actions = divergences(rssm, post, prior, latent, shuffle, group)
        states = states if moving else states.detach()
        loss = order_loss(states, actions, self.form, self.config.rank_temperature)
        return {"consistency": loss, "rank_agreement": agreement(states, actions).detach(),
                "action_distance": actions.mean().detach(), "state_distance": states.mean().detach()}
