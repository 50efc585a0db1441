"""``bench search``: the batched tree search against a plain tree per root, with the network of a scale and without.

Both search the same roots by the same rules. With a model of tables they find the same visit counts (``equal``); with
the networks, which round otherwise for many nodes at once than for one, nearly all of them (``agreement``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from pvdr_bench.algorithms.efficientzero.config import EfficientZeroConfig
from pvdr_bench.algorithms.efficientzero.latent_tree import LatentTrees
from pvdr_bench.algorithms.efficientzero.networks import EfficientZeroNet
from pvdr_bench.bench.plain_tree import Node, plain_search
from pvdr_bench.catalog import load_catalog
from pvdr_bench.nets.folding import Folded
from pvdr_bench.progress import told
from pvdr_bench.rl.config import config_as
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


class TimedNet(EfficientZeroNet):
    """Networks that know how many seconds of processor time they took."""

    seconds = 0.0

    def step(self, *inputs: Any) -> Any:
        """The dynamics and the value prefix."""
        began = time.process_time()
        out = super().step(*inputs)
        self.seconds += time.process_time() - began
        return out

    def predict(self, state: Any) -> Any:
        """Policy and value."""
        began = time.process_time()
        out = super().predict(state)
        self.seconds += time.process_time() - began
        return out


class NetModel:
    """The networks of a scale on random latent states: for many trees at once, and for one node of one."""

    def __init__(self, config: EfficientZeroConfig, roots: int, simulations: int, actions: int,
                 action_dim: int) -> None:
        model = config.model
        inputs = {"action": action_dim, "box": actions, "code": model.code_dim}[model.dynamics_input]
        self.net = Folded(TimedNet(model, actions, inputs), without=("likeness",)).net
        self.states = torch.rand(roots, model.channels, model.grid, model.grid)
        self.inputs = torch.rand(roots, actions, inputs)
        self.simulations, self.restart = simulations, config.train.unroll

    def trees(self) -> LatentTrees:
        """All roots; new ones for each search."""
        return LatentTrees(self.net, self.states, self.inputs, self.simulations, self.restart)

    def one(self, root: int) -> tuple[Any, Any]:
        """A root's state, and what expands one node of its tree."""
        inputs = self.inputs[root]

        def expand(state: Any, action: int) -> tuple[Any, float, float, Sequence[float]]:
            latent, hidden, prefix, depth = state
            after, prefix_logits, hidden = self.net.step(latent, inputs[action:action + 1], hidden)
            policy, value_logits = self.net.predict(after)
            total, value = self.net.scalars.mean(torch.cat([prefix_logits, value_logits])).double().tolist()
            begins = (depth + 1) % self.restart == 0
            kept = (after, self.net.hidden(1) if begins else hidden, 0.0 if begins else total, depth + 1)
            return kept, total - prefix, value, policy[0].double().tolist()

        return (self.states[root:root + 1], self.net.hidden(1), 0.0, 0), expand


def measure(simulations: int = 50, roots: int = 64, actions: int = 16, repeats: int = 3, threads: int = 1,
            seed: int = 0, scale: str = "cpu") -> dict[str, Any]:
    """Search ``roots`` roots with the batched arrays and with a plain tree each, in turn.

    Args:
        scale: whose networks of method efficientzero are searched with.

    Returns:
        searches_per_second (roots a second), plain_per_second, ratio (medians of runs in turn) and outside_network, the
        share of a batched search's time that is not in the networks: with the networks of ``scale``. agreement: the
        share of visits that both spend alike. free: rates with a model that costs next to nothing, and whether both
        found the same visit counts (equal).
        Seconds are of processor time.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    rules, rng = Rules(), np.random.default_rng(seed)
    prior = rng.dirichlet(np.ones(actions), roots)
    value = rng.normal(size=roots)
    free = FreeModel(roots, simulations + 1, actions, seed)
    config = config_as(EfficientZeroConfig, load_catalog().config("efficientzero", scale).value)
    networks = NetModel(config, roots, simulations, actions, 4)

    def batched(expand: Expand) -> Found:
        return search(rules, simulations, prior, value, expand)

    def plain() -> Floats:
        trees = [plain_search(rules, simulations, i, prior[i].tolist(), float(value[i]), free.expand_one)
                 for i in range(roots)]
        return plain_visits(trees, actions)

    def plain_networks() -> Floats:
        ones = (networks.one(i) for i in range(roots))
        trees = [plain_search(rules, simulations, state, prior[i].tolist(), float(value[i]), expand)
                 for i, (state, expand) in enumerate(ones)]
        return plain_visits(trees, actions)

    def batched_networks() -> tuple[Floats, float]:
        networks.net.seconds, began = 0.0, time.process_time()
        visits = batched(networks.trees().expand).visits
        return visits, 1 - networks.net.seconds / (time.process_time() - began)

    with torch.inference_mode():
        found, seconds = in_turn({"batched": lambda: batched(free.expand).visits, "plain": plain,
                                  "networks": batched_networks, "plain_networks": plain_networks}, repeats)
    visits, outside = found["networks"]
    return {**rates(roots, seconds["networks"], seconds["plain_networks"]), "outside_network": outside,
            "agreement": agreement(visits, found["plain_networks"]),
            "free": {**rates(roots, seconds["batched"], seconds["plain"]),
                     "equal": bool((found["batched"] == found["plain"]).all())},
            "simulations": simulations, "roots": roots, "actions": actions, "threads": threads, "scale": scale}


def rates(roots: int, batched: float, plain: float) -> dict[str, float]:
    """Searches per second of both, and their ratio."""
    return {"searches_per_second": roots / batched, "plain_per_second": roots / plain, "ratio": plain / batched}


def agreement(ours: Floats, theirs: Floats) -> float:
    """Share of the visits [N, K] of two searches that are at the same actions: 1 where all are."""
    return float(np.minimum(ours, theirs).sum() / max(ours.sum(), theirs.sum(), 1.0))


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
