"""The recurrent state-space model with discrete latents of DreamerV2 (arXiv 2010.02193, section 2) and DreamerV3.

Shapes: B sequences, T steps, S latents of C classes each, D width of the deterministic state, E embedding, A action.
A state is a dict: ``deter`` [..., D], ``stoch`` one-hot [..., S, C], ``logits`` [..., S, C] of what it was drawn from.

The order of things is the one the reference has: the action at index t led to the observation at index t, and where
``is_first`` is true the state before and that action are zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvdr_bench.nets.block_gru import BlockGRU
from pvdr_bench.nets.layers import V2_STYLE, Style, gated

State = dict[str, Tensor]


@dataclass(frozen=True)
class RSSMForm:
    """What tells DreamerV2's RSSM (the defaults) from DreamerV3's (arXiv 2301.04104).

    Attributes:
        cell: gru: :class:`NormedGRU` behind a dense layer; block_gru: :class:`~pvdr_bench.nets.block_gru.BlockGRU`.
        prior_layers: dense layers of the prior.
        unimix: share of the uniform distribution in every categorical, prior and posterior.
    """

    cell: Literal["gru", "block_gru"] = "gru"
    blocks: int = 8
    prior_layers: int = 1
    unimix: float = 0.0
    style: Style = V2_STYLE


class NormedGRU(nn.Module):
    """DreamerV2's GRU cell: one layer-normed projection for all gates."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.gates = nn.Linear(inputs + size, 3 * size)
        self.norm = nn.LayerNorm(3 * size, eps=1e-3)  # TensorFlow's default

    def forward(self, x: Tensor, deter: Tensor) -> Tensor:
        """The next state [..., D] of input [..., I] and state [..., D]."""
        reset, candidate, update = self.norm(self.gates(torch.cat([x, deter], -1))).chunk(3, -1)
        return gated(reset, candidate, update, deter)


def mix_uniform(logits: Tensor, share: float) -> Tensor:
    """Logits [..., C] of the categorical mixed with a ``share`` of the uniform one, normalised (DreamerV3's unimix)."""
    return torch.log((1 - share) * logits.softmax(-1) + share / logits.shape[-1])


def sample_one_hot(logits: Tensor, uniform: Tensor) -> Tensor:
    """One-hot samples [..., C] by inverse CDF of uniform numbers [...], with the gradient of the probabilities.

    Straight-through (DreamerV2, Algorithm 1): ``sample + probs - stop_gradient(probs)``.
    """
    probs = logits.softmax(-1)
    index = (probs.detach().cumsum(-1) <= uniform[..., None]).sum(-1).clamp_max(logits.shape[-1] - 1)
    return F.one_hot(index, logits.shape[-1]).to(probs.dtype) + (probs - probs.detach())


def categorical_kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) in nats of S independent categoricals with logits [..., S, C]; [...]."""
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    return (p.exp() * (p - q)).sum((-2, -1))


def categorical_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of S independent categoricals with logits [..., S, C]; [...]."""
    logits = logits.log_softmax(-1)
    return -(logits.exp() * logits).sum((-2, -1))


def balanced_kl(posterior: Tensor, prior: Tensor, balance: float, free_nats: float) -> tuple[Tensor, Tensor]:
    """KL balancing (DreamerV2, Algorithm 2) of logits [..., S, C]; (loss, KL without stop-gradients), both scalars.

    ``balance * KL(sg q || p) + (1 - balance) * KL(q || sg p)``; free nats bound the mean of each term from below.
    """
    to_prior = categorical_kl(posterior.detach(), prior).mean()
    to_posterior = categorical_kl(posterior, prior.detach()).mean()
    loss = balance * to_prior.clamp_min(free_nats) + (1 - balance) * to_posterior.clamp_min(free_nats)
    return loss, to_prior.detach()


def scaled_kl(posterior: Tensor, prior: Tensor, dyn: float, rep: float, free_nats: float) -> tuple[Tensor, Tensor]:
    """DreamerV3's KL of logits [..., S, C] (arXiv 2301.04104, Eq. 5); (loss, KL without free nats), both scalars.

    ``dyn * max(free, KL(sg q || p)) + rep * max(free, KL(q || sg p))``: free nats bound every single state's KL from
    below, before the mean, so that a state below them teaches nothing.
    """
    to_prior = categorical_kl(posterior.detach(), prior)
    to_posterior = categorical_kl(posterior, prior.detach())
    loss = dyn * to_prior.clamp_min(free_nats).mean() + rep * to_posterior.clamp_min(free_nats).mean()
    return loss, to_prior.detach().mean()


class RSSM(nn.Module):
    """Transition p(s_t | s_{t-1}, a_{t-1}) and representation q(s_t | s_{t-1}, a_{t-1}, e_t).

    Args:
        action_width: A; actions with fewer dimensions are padded with zeros, so that videos (no action at all) and
            robots share one set of weights.
        embed_dim: E.
    """

    def __init__(self, action_width: int, embed_dim: int, deter: int, hidden: int, stoch: int, classes: int,
                 form: RSSMForm = RSSMForm()) -> None:
        super().__init__()
        self.deter, self.stoch, self.classes, self.action_width = deter, stoch, classes, action_width
        self.unimix, style, latent = form.unimix, form.style, stoch * classes
        if form.cell == "gru":
            self.img_in = nn.Sequential(*style.dense(latent + action_width, [hidden]))
            self.cell: NormedGRU | BlockGRU = NormedGRU(hidden, deter)
        else:
            self.cell = BlockGRU(latent, action_width, hidden, deter, form.blocks, style)
        self.img_out = nn.Sequential(*style.dense(deter, [hidden] * form.prior_layers), nn.Linear(hidden, latent))
        self.obs_out = nn.Sequential(*style.dense(deter + embed_dim, [hidden]), nn.Linear(hidden, latent))
        style.begin(self)

    @property
    def feature_dim(self) -> int:
        """Width of :meth:`feature`."""
        return self.stoch * self.classes + self.deter

    def initial(self, n: int, device: torch.device) -> State:
        """The zero state of ``n`` sequences."""
        latent = torch.zeros(n, self.stoch, self.classes, device=device)
        return {"deter": torch.zeros(n, self.deter, device=device), "stoch": latent, "logits": latent.clone()}

    @staticmethod
    def feature(state: State) -> Tensor:
        """What heads read: stochastic part (flattened) and deterministic part, [..., S * C + D]."""
        return torch.cat([state["stoch"].flatten(-2), state["deter"]], -1)

    def _logits(self, net: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = net(x).unflatten(-1, (self.stoch, self.classes)).float()
        return mix_uniform(out, self.unimix) if self.unimix else out

    def advance(self, stoch: Tensor, deter: Tensor, action: Tensor) -> Tensor:
        """The next deterministic state [N, D]."""
        padded = F.pad(action, (0, self.action_width - action.shape[-1]))
        if isinstance(self.cell, BlockGRU):
            new: Tensor = self.cell(stoch.flatten(-2), padded, deter)
        else:
            new = self.cell(self.img_in(torch.cat([stoch.flatten(-2), padded], -1)), deter)
        return new.float()

    def imagine(self, state: State, action: Tensor, uniform: Tensor) -> State:
        """One step without an observation: action [N, A], uniform [N, S]."""
        deter = self.advance(state["stoch"], state["deter"], action)
        logits = self._logits(self.img_out, deter)
        return {"deter": deter, "stoch": sample_one_hot(logits, uniform), "logits": logits}

    def observe(self, state: State, action: Tensor, embed: Tensor, is_first: Tensor, uniform: Tensor) -> State:
        """One step with an observation: action [N, A] that led to it, embed [N, E], is_first [N], uniform [N, S]."""
        keep = (~is_first).to(embed.dtype)[:, None]
        deter = self.advance(state["stoch"] * keep[..., None], state["deter"] * keep, action * keep)
        logits = self._logits(self.obs_out, torch.cat([deter, embed], -1))
        return {"deter": deter, "stoch": sample_one_hot(logits, uniform), "logits": logits}

    def scan(self, embed: Tensor, action: Tensor, is_first: Tensor, uniform: Tensor) -> tuple[State, Tensor]:
        """Filter whole sequences from the zero state.

        Args:
            embed: [B, T, E]. action: [B, T, A], each the one that led to its observation. is_first: bool [B, T].
            uniform: [B, T, S].

        Returns:
            Posterior states with leading [B, T], and the prior's logits [B, T, S, C]. The prior's samples are never
            used here, so its logits are computed for all steps at once.
        """
        state, states = self.initial(len(embed), embed.device), []
        for t in range(embed.shape[1]):
            state = self.observe(state, action[:, t], embed[:, t], is_first[:, t], uniform[:, t])
            states.append(state)
        posterior = {name: torch.stack([one[name] for one in states], 1) for name in ("deter", "stoch", "logits")}
        return posterior, self._logits(self.img_out, posterior["deter"])
