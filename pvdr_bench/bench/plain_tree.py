"""The plain form of the search in ``rl/search``: one root at a time, a node an object, loops over children.

``bench search`` measures the arrays against it, and tests hold their counts against it. Written apart from them, after
MuZero's pseudocode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pvdr_bench.rl.search.tree import Rules

PlainExpand = Callable[[Any, int], tuple[Any, float, float, Sequence[float]]]
"""``(state, action) -> (state, reward, value, logits)`` of one node."""


@dataclass
class Node:
    """A state with the reward on arriving at it."""

    state: Any
    reward: float
    prior: list[float]
    value_sum: float
    number: int  # in the order of expansion
    visits: int = 1
    children: dict[int, Node] = field(default_factory=dict)

    def q(self, gamma: float) -> float:
        """Of the action that leads here."""
        return self.reward + gamma * self.value_sum / self.visits


def plain_search(rules: Rules, simulations: int, state: Any, prior: Sequence[float], value: float, expand: PlainExpand,
                 allowed: Sequence[bool] | None = None) -> Node:
    """Grow one tree and return its root."""
    root = Node(state, 0.0, list(prior), value, 0)
    qs: list[float] = []  # of all nodes but the root
    for simulation in range(simulations):
        node, path, parent_q = root, [root], 0.0
        low, high = (min(qs), max(qs)) if qs else (0.0, 1.0)
        while True:
            action, parent_q = choose(rules, node, node is root, parent_q, low, high,
                                      allowed if node is root else None)
            if action not in node.children:
                break
            node = node.children[action]
            path.append(node)
        after, reward, leaf_value, logits = expand(node.state, action)
        node.children[action] = Node(after, reward, plain_softmax(logits), leaf_value, simulation + 1)
        qs.append(node.children[action].q(rules.discount))
        total = reward + rules.discount * leaf_value
        for passed in reversed(path):
            passed.visits += 1
            passed.value_sum += total
            total = passed.reward + rules.discount * total
            if passed is not root:
                qs[passed.number - 1] = passed.q(rules.discount)
    return root


def choose(rules: Rules, node: Node, is_root: bool, parent_q: float, low: float, high: float,
           allowed: Sequence[bool] | None) -> tuple[int, float]:
    """The action with the best PUCT score, and the mean Q of those not visited."""
    qs = [child.q(rules.discount) for child in node.children.values()]
    mean_q = sum(qs) / len(qs) if is_root and qs else (sum(qs) + parent_q) / (len(qs) + 1)
    spread = max(high - low, rules.value_delta_max)
    explore = math.sqrt(node.visits) * (
        rules.pb_c_init + math.log((node.visits + rules.pb_c_base + 1) / rules.pb_c_base))
    best, best_score = -1, -math.inf
    for action, prior in enumerate(node.prior):
        if allowed is not None and not allowed[action]:
            continue
        child = node.children.get(action)
        q, visits = (mean_q, 0) if child is None else (child.q(rules.discount), child.visits)
        score = min(max((q - low) / spread, 0.0), 1.0) + explore * prior / (visits + 1)
        if score > best_score:
            best, best_score = action, score
    return best, mean_q


def plain_softmax(logits: Sequence[float]) -> list[float]:
    """Probabilities of logits."""
    top = max(logits)
    shares = [math.exp(x - top) for x in logits]
    total = sum(shares)
    return [x / total for x in shares]
