"""EfficientZero's losses of an unrolled batch (arXiv 2111.00210, Eq. 4).

Shapes: B positions, U unrolled steps, Z numbers of an action's input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pvdr_bench.algorithms.efficientzero.config import TrainConfig
from pvdr_bench.algorithms.efficientzero.networks import EfficientZeroNet
from pvdr_bench.algorithms.efficientzero.targets import Batch


@dataclass
class Losses:
    """Each loss as the mean over positions of its sum over steps; and what priorities are made of."""

    policy: Tensor
    value: Tensor
    prefix: Tensor
    consistency: Tensor
    states: list[Tensor]  # [B, C, g, g], unrolled: U + 1
    value_error: Tensor  # [B], absolute, at the positions themselves

    def total(self, config: TrainConfig) -> Tensor:
        """The weighted sum, over U."""
        return (config.policy_weight * self.policy + config.value_weight * self.value
                + config.prefix_weight * self.prefix + config.consistency_weight * self.consistency) / config.unroll


def unroll(net: EfficientZeroNet, observation: Tensor, batch: Batch, inputs: Tensor) -> Losses:
    """Losses of a batch with (augmented) observations [B, U + 1, S * c, h, w] and action inputs [B, U, Z].

    Gradients of a latent state are halved on their way to the step before (MuZero, appendix G).
    """
    steps = inputs.shape[1]
    seen, made, weight = batch.inside.float(), batch.decided.float(), batch.weight
    state, hidden = net.encoder(observation[:, 0]), net.hidden(len(observation))
    with torch.no_grad():
        later = net.encoder(observation[:, 1:].flatten(0, 1))
        likeness = net.likeness.target(later).view(len(observation), steps, -1)
    states, told = [state], []
    policy, value, consistency = weight.new_zeros(3, len(weight))
    error = torch.zeros_like(weight)
    for k in range(steps + 1):
        if k:
            state, hidden = net.advance(state, inputs[:, k - 1], hidden)
            states.append(state)
            told.append(hidden[0])
            consistency = consistency + seen[:, k] * net.likeness.loss(state, likeness[:, k - 1])
        logits, value_logits = net.predict(state)
        policy = policy - made[:, k] * (batch.policy[:, k] * logits.log_softmax(1)).sum(1)
        value = value + seen[:, k] * net.scalars.loss(value_logits, batch.value[:, k])
        if k == 0:
            error = (net.scalars.mean(value_logits.detach()) - batch.value[:, 0]).abs()
        elif state.requires_grad:
            state.register_hook(lambda gradient: 0.5 * gradient)
    prefix_logits = net.prefix(torch.cat(told)).view(steps, len(weight), -1).transpose(0, 1)  # one batch of all steps
    prefix = (seen[:, 1:] * net.scalars.loss(prefix_logits, batch.prefix)).sum(1)
    policy, value, prefix, consistency = ((weight * loss).mean() for loss in (policy, value, prefix, consistency))
    return Losses(policy, value, prefix, consistency, states, error)
