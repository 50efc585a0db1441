"""The tree search with EfficientZero's networks: latent states, and value prefixes, of all nodes of all trees.

Shapes: N roots, S simulations, K boxes, A action dimensions, Z numbers of an action's input.
The value prefix starts again every ``unroll`` steps from the root, as it does in training.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from pvdr_bench.algorithms.efficientzero.config import EfficientZeroConfig
from pvdr_bench.algorithms.efficientzero.networks import EfficientZeroNet
from pvdr_bench.rl.search.mcts import Found, search, with_noise
from pvdr_bench.rl.search.tree import Floats, Ints, Rules

Reward = Callable[[Tensor], Tensor]
"""Rewards [n] of arriving at latent states [n, C, g, g], in place of those that the value prefix tells."""


class LatentTrees:
    """What the networks keep of N trees.

    Args:
        roots: latent states [N, C, g, g]. inputs: [N, K, Z], what the dynamics are told of each box's action.
    """

    def __init__(self, net: EfficientZeroNet, roots: Tensor, inputs: Tensor, simulations: int, restart: int,
                 reward: Reward | None = None) -> None:
        count, nodes, hidden = len(roots), simulations + 1, net.hidden(len(roots))
        self.net, self.inputs, self.restart, self.reward = net, inputs, restart, reward
        self.states = roots.new_empty(nodes, *roots.shape)
        self.states[0] = roots
        self.hidden = tuple(part.new_zeros(nodes, *part.shape) for part in hidden)
        self.prefix, self.depth = np.zeros((nodes, count)), np.zeros((nodes, count), np.int64)

    def expand(self, rows: Ints, slot: int, parents: Ints, actions: Ints) -> tuple[Floats, Floats, Floats]:
        """For :func:`pvdr_bench.rl.search.mcts.search`."""
        device = self.states.device
        row, parent, action = (torch.from_numpy(x).to(device) for x in (rows, parents, actions))
        before = (self.hidden[0][parent, row], self.hidden[1][parent, row])
        after, prefix_logits, hidden = self.net.step(self.states[parent, row], self.inputs[row, action], before)
        policy, value_logits = self.net.predict(after)
        scalars = self.net.scalars.mean(torch.stack([prefix_logits, value_logits]))
        if self.reward is not None:
            scalars = torch.cat([scalars, self.reward(after)[None]])
        numbers, logits = scalars.double().cpu().numpy(), policy.double().cpu().numpy()
        reward = numbers[0] - self.prefix[parents, rows]
        depth = self.depth[parents, rows] + 1
        starts_again = depth % self.restart == 0
        self.prefix[slot, rows] = np.where(starts_again, 0.0, numbers[0])
        self.depth[slot, rows] = depth
        keep = torch.from_numpy(~starts_again).to(device)[:, None]
        self.states[slot, row] = after
        for kept, new in zip(self.hidden, hidden, strict=True):
            kept[slot, row] = new * keep
        return (reward if self.reward is None else numbers[2]), numbers[1], logits


class LatentSearch:
    """Searches from observations with the config's rules."""

    def __init__(self, config: EfficientZeroConfig) -> None:
        own = config.search
        self.config = own
        self.rules = Rules(own.discount, own.pb_c_init, own.pb_c_base, own.value_delta_max)
        self.restart = config.train.unroll

    @torch.inference_mode()
    def run(self, net: EfficientZeroNet, observation: Tensor, inputs: Tensor, simulations: int,
            noise: np.random.Generator | None = None, reward: Reward | None = None) -> Found:
        """Search from each observation [N, S * c, h, w].

        Args:
            net: in evaluation mode. inputs: [N, K, Z]. noise: of the roots; None: none.
        """
        state = net.encoder(observation)
        policy, value_logits = net.predict(state)
        prior = softmax(policy.double().cpu().numpy(), 1)
        value = net.scalars.mean(value_logits).double().cpu().numpy()
        mask = np.ones(prior.shape, np.bool_)
        if noise is not None:
            prior = with_noise(prior, mask, noise, self.config.noise_alpha, self.config.noise_fraction)
        trees = LatentTrees(net, state, inputs, simulations, self.restart, reward)
        return search(self.rules, simulations, prior, value, trees.expand, mask)


def numpy_generator(generator: torch.Generator) -> np.random.Generator:
    """A NumPy generator whose numbers are those of the state of ``generator``, which moves on by one draw."""
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
