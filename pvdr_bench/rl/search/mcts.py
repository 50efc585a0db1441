"""A search from many roots at once, with whatever model says what an action leads to.

Shapes: N roots, K actions, S simulations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from pvdr_bench.rl.search.tree import Floats, Forest, Ints, Rules

Expand = Callable[[Ints, int, Ints, Ints], tuple[Floats, Floats, Floats]]
"""What actions lead to: ``(rows, slot, parents, actions) -> (reward, value, logits)``, each [n], logits [n, K].

``rows`` [n] are the roots that are searched, of those the search was given; ``slot`` is the number of the new node in
every tree, whose latent state the model keeps, as it kept those of ``parents`` [n] (0: the root)."""


@dataclass(frozen=True)
class Found:
    """What a search found. Roots without an allowed action have zeros, as nothing follows them."""

    visits: Floats  # [N, K], S in sum
    value: Floats  # [N], mean return from the root on
    q: Floats  # [N, K], of visited actions; else 0

    @property
    def policy(self) -> Floats:
        """Shares of visits [N, K]: the improved policy."""
        total: Floats = self.visits.sum(1, keepdims=True)
        return self.visits / np.maximum(total, 1)


def search(rules: Rules, simulations: int, prior: Floats, value: Floats, expand: Expand,
           mask: NDArray[np.bool_] | None = None) -> Found:
    """Search ``simulations`` times from each root.

    Args:
        prior: [N, K], the policy's probabilities at the roots, with or without noise. value: [N], of the roots.
        mask: bool [N, K], allowed actions; a root without any (a terminal one) is not searched. None: all.
    """
    mask = np.ones(prior.shape, np.bool_) if mask is None else mask
    rows = np.flatnonzero(mask.any(1))
    found = Found(np.zeros(prior.shape), np.zeros(len(prior)), np.zeros(prior.shape))
    if not len(rows):
        return found
    forest = Forest(rules, prior[rows].astype(np.float64), value[rows].astype(np.float64), mask[rows], simulations + 1)
    for slot in range(1, simulations + 1):
        parents, chosen = forest.select()
        reward, leaf_value, logits = expand(rows, slot, parents, chosen)
        forest.expand(parents, chosen, reward.astype(np.float64), leaf_value.astype(np.float64),
                      softmax(logits.astype(np.float64), 1))
    found.visits[rows], found.value[rows], found.q[rows] = forest.root_visits, forest.root_value, forest.root_q
    return found


def with_noise(prior: Floats, mask: NDArray[np.bool_], rng: np.random.Generator, alpha: float, fraction: float,
               ) -> Floats:
    """Priors [N, K] with Dirichlet noise of ``alpha`` over the allowed actions: (1 - f) prior + f noise."""
    draws = np.where(mask, rng.standard_gamma(alpha, prior.shape) + 1e-30, 0.0)  # tiny alphas round all draws to zero
    total = draws.sum(1, keepdims=True)
    return (1 - fraction) * prior + fraction * draws / np.where(total > 0, total, 1.0)


def sample_visits(visits: Floats, temperature: float, rng: np.random.Generator) -> Ints:
    """Actions [N] with probability in proportion to ``visits ** (1 / temperature)``; 0: the most visited, the first of
    equals. A row without visits gives action 0."""
    if temperature == 0:
        most: Ints = visits.argmax(1)
        return most
    with np.errstate(divide="ignore"):
        logits = np.log(np.maximum(visits, 0)) / temperature
    logits[visits.sum(1) == 0] = np.where(np.arange(visits.shape[1]) == 0, 0.0, -np.inf)
    total = softmax(logits, 1).cumsum(1)
    drawn: Ints = (rng.random((len(visits), 1)) * total[:, -1:] >= total).sum(1)
    return drawn
