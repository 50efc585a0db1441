"""``bench search``: the batched tree search against a plain tree per root, with the network of a scale and without.

Both search the same roots by the same rules, and find the same visit counts (``equal``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from pvdr_bench.bench.plain_tree import Node, plain_search
from pvdr_bench.progress import told
from pvdr_bench.rl.search.mcts import Expand, Found, search
from pvdr_bench.rl.search.tree import Floats, Ints, Rules


class FreeModel:
    """Rewards, values and logits read from tables by a hash of state and action: a model that costs next to nothing."""

    def __init__(self, roots: int, nodes: int, actions: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.size = 4096
        self.reward, self.value = rng.normal(size=self.size), rng.normal(size=self.size)
        self.logits, self.actions = rng.normal(size=(self.size, actions)), actions
        self.states = np.zeros((roots, nodes), np.int64)
        self.states[:, 0] = np.arange(roots)
        self.plain_logits: list[list[float]] = self.logits.tolist()

    def expand(self, rows: Ints, slot: int, parents: Ints, actions: Ints) -> tuple[Floats, Floats, Floats]:
        """For :func:`pvdr_bench.rl.search.mcts.search`."""
        state = (31 * self.states[rows, parents] + 7 * actions + 1) % self.size
        self.states[rows, slot] = state
        return self.reward[state], self.value[state], self.logits[state]

    def expand_one(self, state: int, action: int) -> tuple[int, float, float, Sequence[float]]:
        """For :func:`pvdr_bench.bench.plain_tree.plain_search`."""
        after = (31 * state + 7 * action + 1) % self.size
        return after, float(self.reward[after]), float(self.value[after]), self.plain_logits[after]


def measure(simulations: int = 50, roots: int = 64, actions: int = 16, repeats: int = 3, threads: int = 1,
            seed: int = 0) -> dict[str, Any]:
    """Search ``roots`` roots with the batched arrays and with a plain tree each, in turn.

    Returns:
        free: with a model that costs next to nothing. searches_per_second (roots a second), plain_per_second, ratio
        (medians of runs in turn), equal: whether both found the same visit counts.
    """
    torch.set_num_threads(threads)
    rules, rng = Rules(), np.random.default_rng(seed)
    prior = rng.dirichlet(np.ones(actions), roots)
    value = rng.normal(size=roots)
    free = FreeModel(roots, simulations + 1, actions, seed)

    def batched(expand: Expand) -> Found:
        return search(rules, simulations, prior, value, expand)

    def plain() -> Floats:
        trees = [plain_search(rules, simulations, i, prior[i].tolist(), float(value[i]), free.expand_one)
                 for i in range(roots)]
        return plain_visits(trees, actions)

    found, seconds = in_turn({"batched": lambda: batched(free.expand).visits, "plain": plain}, repeats)
    return {"free": {"searches_per_second": roots / seconds["batched"], "plain_per_second": roots / seconds["plain"],
                     "ratio": seconds["plain"] / seconds["batched"],
                     "equal": bool((found["batched"] == found["plain"]).all())},
            "simulations": simulations, "roots": roots, "actions": actions, "threads": threads}


def plain_visits(trees: Sequence[Node], actions: int) -> Floats:
    """Visits [N, K] of the roots of plain trees."""
    out = np.zeros((len(trees), actions))
    for i, root in enumerate(trees):
        for action, child in root.children.items():
            out[i, action] = child.visits
    return out


def in_turn(ways: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, Any], dict[str, float]]:
    """What each way gives, and the median of its seconds; the ways are taken in turn, once before to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Any] = {}
    for attempt in told(range(repeats + 1), "repeats"):
        for name, way in ways.items():
            began = time.process_time()
            found[name] = way()
            if attempt:
                seconds[name].append(time.process_time() - began)
    return found, {name: float(np.median(times)) for name, times in seconds.items()}
