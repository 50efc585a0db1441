"""N search trees as arrays: PUCT with a soft min-max and the mean Q for children without a visit, as in EfficientZero.

Shapes: N roots, M nodes of a tree, K actions. Node 0 is the root, node i the one that simulation i added. Every
operation is along the axes of one tree, so that trees never influence one another.

At a node the best visited action is compared with the likeliest of the others, which are all worth the same. Of equal
scores a visited action goes first, then the one with the smallest number.

Source: MuZero (arXiv 1911.08265, appendix B) and EfficientZero (arXiv 2111.00210, its ``ctree``). The number of visits
in PUCT's square root counts a node's own evaluation, as in DeepMind's ``mctx``: the first choice of a node then is that
of its prior, where EfficientZero's count starts at zero and all children tie. What a child without a visit is worth is
kept along the path of each tree alone; its ``ctree`` lets it leak from one tree of a batch into the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Rules:
    """How trees grow."""

    discount: float = 0.997**4  # of one decision, in [0, 1]
    pb_c_init: float = 1.25
    pb_c_base: float = 19652.0
    value_delta_max: float = 0.01  # ranges of Q in a tree smaller than this are not stretched to [0, 1]


class Forest:
    """N trees of at most M nodes.

    Args:
        prior: [N, K], probabilities at the roots. value: [N], of the roots.
        mask: bool [N, K], the roots' allowed actions; each root has one.
    """

    def __init__(self, rules: Rules, prior: Floats, value: Floats, mask: NDArray[np.bool_], nodes: int) -> None:
        count, actions = prior.shape
        self.rules, self.count, self.nodes, self.actions, self.used = rules, count, nodes, actions, 1
        self._base = np.arange(count, dtype=np.int64) * nodes  # of a tree's nodes among all
        # of each action of each node; where it was not visited: child -1, q 0, bonus -inf
        self._child = np.full((count * nodes, actions), -1, np.int64)
        self._edge_visits, self._q, self._prior = np.zeros((3, count * nodes, actions))
        self._bonus, self._untried = np.full((2, count * nodes, actions), -np.inf)  # untried: their priors; else -inf
        # of each node; low, high: of the Qs there; reward: on arriving; new: the likeliest of its untried actions
        self._low, self._high = np.full(count * nodes, np.inf), np.full(count * nodes, -np.inf)
        self._value_sum, self._reward, self._q_sum, self._new_prior, self._new_bonus = np.zeros((5, count * nodes))
        # action: the one that leads there
        self._action, self._visits, self._tried, self._new = np.zeros((4, count * nodes), np.int64)
        total = np.arange(nodes + 1.0)  # visits of a node -> what its priors are multiplied by
        self._explore = np.sqrt(total) * (rules.pb_c_init + np.log((total + rules.pb_c_base + 1) / rules.pb_c_base))
        self._walk: list[tuple[Ints, Ints]] = []  # the last one, by depth: rows, and their nodes among all
        self._enter(self._base, np.where(mask, prior, -np.inf), value)

    @property
    def root_visits(self) -> Floats:
        """Visits [N, K] of the roots' actions."""
        visits: Floats = self._edge_visits[self._base]
        return visits

    @property
    def root_q(self) -> Floats:
        """Q [N, K] of the roots' visited actions; 0 for the others."""
        q: Floats = self._q[self._base]
        return q

    @property
    def root_value(self) -> Floats:
        """Mean [N] of the roots' own value and of all returns that simulations found."""
        mean: Floats = self._value_sum[self._base] / self._visits[self._base]
        return mean

    # Growing ------------------------------------------------------------------------------------------------------

    def expand(self, parents: Ints, actions: Ints, reward: Floats, value: Floats, prior: Floats) -> None:
        """Add one node to each tree where :meth:`select` ended, and back its value up.

        Args:
            reward: [N], received on arriving there. value: [N], from there on. prior: [N, K], probabilities there.
        """
        new, parent = self._base + self.used, self._base + parents
        self._child[parent, actions] = self.used
        self._reward[new], self._action[new] = reward, actions
        self._untried[parent, actions] = -np.inf
        self._tried[parent] += 1
        self._enter(new, prior, value)
        self._look_for_new(parent)
        self.used += 1
        self._backup(new, value)

    def _enter(self, node: Ints, prior: Floats, value: Floats) -> None:
        """Nodes [n] begin with what was predicted there: prior [n, K] and value [n]."""
        self._prior[node] = self._untried[node] = prior
        self._visits[node], self._value_sum[node] = 1, value
        self._look_for_new(node)
        self._new_bonus[node] = self._explore[1] * self._new_prior[node]

    def _look_for_new(self, node: Ints) -> None:
        """Remember the likeliest untried action of nodes [n]."""
        untried = self._untried.take(node, 0)
        self._new[node] = new = untried.argmax(1)
        self._new_prior[node] = untried[np.arange(len(node)), new]

    def _backup(self, below: Ints, value: Floats) -> None:
        """Add returns to all that lies on the last walk, from the new nodes [N] (among all) up."""
        gamma, below, value = self.rules.discount, below.copy(), value.copy()
        steps = []
        for rows, index in reversed(self._walk):
            child = below.take(rows)
            gained = self._reward.take(child) + gamma * value.take(rows)
            steps.append((index, child, gained))
            value[rows], below[rows] = gained, index
        index, child, gained = (np.concatenate(parts) for parts in zip(*steps, strict=True))
        visits = self._visits.take(index) + 1  # no node is twice on a walk
        self._visits[index] = visits
        self._value_sum[index] += gained
        edge = index * self.actions + self._action.take(child)
        q = self._reward.take(child) + gamma * self._value_sum.take(child) / self._visits.take(child)
        self._q_sum[index] += q - self._q.take(edge)
        self._q.put(edge, q)
        self._edge_visits.put(edge, self._edge_visits.take(edge) + 1)
        edge_visits, explore = self._edge_visits.take(index, 0), self._explore.take(visits)
        bonus = explore[:, None] * self._prior.take(index, 0) / (edge_visits + 1)
        untried, known = edge_visits == 0, self._q.take(index, 0)
        bonus[untried] = -np.inf
        self._bonus[index] = bonus
        self._high[index] = np.where(untried, -np.inf, known).max(1)
        self._low[index] = np.where(untried, np.inf, known).min(1)
        self._new_bonus[index] = explore * self._new_prior.take(index)

    # Going down ---------------------------------------------------------------------------------------------------

    def select(self) -> tuple[Ints, Ints]:
        """Walk down from each root to an edge without a child: its node [N] and its action [N]."""
        low, scale = self._range()
        a, b = self._worth_of_new(low, scale)
        parents, actions = np.zeros((2, self.count), np.int64)
        rows, index, worth = np.arange(self.count), self._base, np.zeros(self.count)
        self._walk = []
        while len(rows):
            self._walk.append((rows, index))
            score = self._q.take(index, 0)
            score -= low
            score *= scale
            np.maximum(score, 0, out=score)
            np.minimum(score, 1, out=score)
            score += self._bonus.take(index, 0)
            best = score.argmax(1)
            worth = a.take(index) + b.take(index) * worth
            new_score = np.minimum(np.maximum(worth, 0), 1) + self._new_bonus.take(index)
            ends = new_score > score.ravel().take(np.arange(len(rows)) * self.actions + best)
            parents[rows], actions[rows] = index, np.where(ends, self._new.take(index), best)
            on = np.flatnonzero(~ends)
            child = self._child.take(index.take(on) * self.actions + best.take(on))
            rows, worth, low, scale = rows.take(on), worth.take(on), low.take(on, 0), scale.take(on, 0)
            index = self._base.take(rows) + child
        return parents - self._base, actions

    def _range(self) -> tuple[Floats, Floats]:
        """Least Q [N, 1] of each tree, and one over the soft range of its Qs [N, 1]."""
        low = self._low.reshape(self.count, -1)[:, :self.used].min(1, keepdims=True)
        high = self._high.reshape(self.count, -1)[:, :self.used].max(1, keepdims=True)
        some = low <= high
        low = np.where(some, low, 0.0)
        return low, 1 / np.maximum(np.where(some, high - low, 1.0), self.rules.value_delta_max)

    def _worth_of_new(self, low: Floats, scale: Floats) -> tuple[Floats, Floats]:
        """What untried actions of all nodes are worth on the stretched scale: a + b * (that of the parent), [N * M].

        It is (sum of the tried actions' Q + the parent's worth) / (their number + 1), and at a root that has tried
        actions their mean Q.
        """
        tried, total = self._tried.reshape(self.count, -1), self._q_sum.reshape(self.count, -1)
        b = 1 / (tried + 1)
        a = (total - tried * low) * b * scale
        a[:, 0] = (total[:, 0] / np.maximum(tried[:, 0], 1) - low[:, 0]) * scale[:, 0]
        b[:, 0] = 0
        return a.ravel(), b.ravel()
